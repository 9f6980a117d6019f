//! `alerts`, `silence`, `unsilence`

use super::act::post;
use super::{Done, Error, Session};
use crate::args;
use crate::client::segment;
use crate::names::{Kind, find};
use crate::render;
use crate::who;
use api::{Alerts, SilenceRequest};

/// `alerts`
pub(super) async fn show(session: &Session, args: &args::Alerts) -> Result<Done, Error> {
    let client = session.client().await?;
    let answer = client.get::<Alerts>("/v1/alerts").await?;
    // What an alert is about may be none of these: a receiver, the cluster.
    if let Some(about) = &args.about
        && !answer.value.alerts.iter().any(|alert| alert.about == *about)
    {
        find(
            &client.status().await?,
            about,
            &[Kind::Service, Kind::Instance, Kind::Node],
        )?;
    }
    if args.json {
        session.json(&answer.raw);
    } else {
        let page = render::alerts::page(&answer.value, args.about.as_deref(), &session.output.view);
        session.output.answer(&page);
    }
    Ok(Done::Yes)
}

/// `silence`
pub(super) async fn silence(session: &Session, args: &args::Silence) -> Result<Done, Error> {
    let client = session.client().await?;
    let request = SilenceRequest {
        code: args.code.clone(),
        about: args.about.clone(),
        for_ms: u64::try_from(args.span.as_millis()).unwrap_or(u64::MAX),
        by: who::caller(),
        because: args.because.clone(),
    };
    post(session, &client, "/v1/silences", &request, args.json).await
}

/// `unsilence`
pub(super) async fn unsilence(session: &Session, args: &args::Unsilence) -> Result<Done, Error> {
    let client = session.client().await?;
    let path = format!("/v1/silences/{}/end", segment(&args.id));
    post(session, &client, &path, &(), args.json).await
}
