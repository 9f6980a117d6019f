//! `explain`

use super::{Done, Error, Session};
use crate::args;
use crate::client::segment;
use crate::names::{Kind, find};
use crate::render;
use api::Explanation;

pub(super) async fn run(session: &Session, args: &args::Explain) -> Result<Done, Error> {
    let client = session.client().await?;
    let kinds = [Kind::Service, Kind::Slot, Kind::Instance, Kind::Node];
    find(&client.status().await?, &args.name, &kinds)?;
    let mut path = format!("/v1/explain/{}", segment(&args.name));
    if let Some(node) = &args.if_dies {
        find(&client.status().await?, node, &[Kind::Node])?;
        path.push_str(&format!("?if_dies={}", segment(node)));
    }
    let answer = client.get::<Explanation>(&path).await?;
    if args.json {
        session.json(&answer.raw);
    } else {
        session
            .output
            .answer(&render::explain::page(&answer.value, &session.output.view));
    }
    Ok(Done::Yes)
}
