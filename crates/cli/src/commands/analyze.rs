//! `analyze`: what takes which service down. The reckoning is in the crate `analysis`.

use super::{Done, Error, Session, files, to_json};
use crate::args;
use crate::render;
use analysis::Options;
use api::analysis::Report;

/// `analyze`: the running cluster.
pub(super) async fn running(session: &Session, args: &args::Analyze) -> Result<Done, Error> {
    let client = session.client().await?;
    let order = args.order.map(|order| format!("?order={order}")).unwrap_or_default();
    let answer = client.get::<Report>(&format!("/v1/analysis{order}")).await?;
    if args.json {
        session.json(&answer.raw);
    } else {
        print(session, &answer.value);
    }
    Ok(Done::Yes)
}

/// `analyze FILE`: as it would be placed.
pub(super) fn of_file(session: &Session, args: &args::Analyze) -> Result<Done, Error> {
    let Some(path) = &args.file else { return Ok(Done::No) };
    let file = files::read(session, path)?;
    let mut options = Options::default();
    if let Some(order) = args.order {
        options.limits.order = order as usize;
    }
    let report = analysis::planned(file.cluster(), &options);
    if args.json {
        session.output.answer_line(&to_json(&report));
    } else {
        print(session, &report);
    }
    Ok(Done::Yes)
}

fn print(session: &Session, report: &Report) {
    session
        .output
        .answer(&render::analysis::page(report, &session.output.view));
}
