//! Commands that change something with one request: `switchover`, `drain`, `undrain`, `pause`, `resume`, `retry`.

use super::{Done, Error, Session};
use crate::args;
use crate::client::{self, Answer, Client, segment};
use crate::names::{self, Kind, find};
use crate::render::{events::waterfall, hanging};
use crate::who;
use api::{Outcome, PauseRequest, SwitchoverRequest};
use serde::Serialize;
use std::time::{Duration, Instant};

/// So long nobody finds another node before that is told: a look is older than what was just asked for.
const STUCK_FOR: Duration = Duration::from_secs(3);
/// Between two looks at a node that is being drained.
const EMPTY_LOOK: Duration = Duration::from_millis(200);

/// `switchover`
pub(super) async fn switchover(session: &Session, args: &args::Switchover) -> Result<Done, Error> {
    let client = session.client().await?;
    let status = client.status().await?;
    find(&status, &args.service, &[Kind::Service])?;
    if let Some(to) = &args.to {
        find(&status, to, &[Kind::Instance])?;
        names::must_be_of(&status, to, &args.service)?;
    }
    let request = SwitchoverRequest {
        service: args.service.clone(),
        slot: args.slot,
        to: args.to.clone(),
    };
    post(session, &client, "/v1/switchover", &request, args.json).await
}

/// `drain`
pub(super) async fn drain(session: &Session, args: &args::Drain) -> Result<Done, Error> {
    let client = session.client().await?;
    find(&client.status().await?, &args.node, &[Kind::Node])?;
    let path = format!("/v1/drain/{}", segment(&args.node));
    let done = post(session, &client, &path, &(), args.json).await?;
    match args.wait {
        Some(limit) if done == Done::Yes => until_empty(session, &client, &args.node, limit).await,
        _ => Ok(done),
    }
}

/// Waits until nothing runs on a node.
async fn until_empty(session: &Session, client: &Client, node: &str, limit: Duration) -> Result<Done, Error> {
    let until = Instant::now() + limit;
    let mut stuck: Option<Instant> = None;
    loop {
        let status = client.status().await?;
        let left = on_node(&status, node);
        // Whom no other node takes stays for good: whoever waits hears of it now.
        let why = unplaced(&status, &left);
        stuck = why.as_ref().map(|_| stuck.unwrap_or_else(Instant::now));
        if let Some(why) = why.filter(|_| stuck.is_some_and(|since| since.elapsed() >= STUCK_FOR)) {
            let stay = if left.len() == 1 { "stays" } else { "stay" };
            session
                .output
                .say(&format!("{} {stay} on node {node}: {why}", left.join(", ")));
            return Ok(Done::No);
        }
        if left.is_empty() {
            session.output.say(&format!("nothing runs on node {node} any more"));
            return Ok(Done::Yes);
        }
        if Instant::now() >= until {
            let span = crate::render::span(limit);
            session.output.say(&format!(
                "on node {node} there are still after {span}: {}",
                left.join(", ")
            ));
            return Ok(Done::No);
        }
        tokio::time::sleep(EMPTY_LOOK).await;
    }
}

/// Why none of these finds another node, if that is so of all of their services.
fn unplaced(status: &api::Status, left: &[String]) -> Option<String> {
    let has_left = |service: &&api::ServiceStatus| service.instances.iter().any(|one| left.contains(&one.id));
    let mut services = status.services.iter().filter(has_left).peekable();
    services.peek()?;
    let why: Option<Vec<String>> = services.map(|service| service.unplaced.clone()).collect();
    Some(why?.join("; "))
}

/// What runs on a node, or may: of what is not known now nobody says that it has ended.
fn on_node(status: &api::Status, node: &str) -> Vec<String> {
    let instances = status.services.iter().flat_map(|service| &service.instances);
    let there =
        instances.filter(|instance| instance.node == node && (instance.pid.is_some() || instance.state != "waiting"));
    there.map(|instance| instance.id.clone()).collect()
}

/// `undrain`
pub(super) async fn undrain(session: &Session, args: &args::Node) -> Result<Done, Error> {
    let client = session.client().await?;
    find(&client.status().await?, &args.node, &[Kind::Node])?;
    let path = format!("/v1/undrain/{}", segment(&args.node));
    post(session, &client, &path, &(), args.json).await
}

/// `rebalance`
pub(super) async fn rebalance(session: &Session, args: &args::Service) -> Result<Done, Error> {
    let client = session.client().await?;
    find(&client.status().await?, &args.service, &[Kind::Service])?;
    let path = format!("/v1/rebalance/{}", segment(&args.service));
    post(session, &client, &path, &(), args.json).await
}

/// `pause`, `resume`
pub(super) async fn pause(session: &Session, verb: &str, because: Option<&str>, json: bool) -> Result<Done, Error> {
    let client = session.client().await?;
    let request = PauseRequest {
        by: who::caller(),
        why: because.unwrap_or_default().into(),
    };
    post(session, &client, &format!("/v1/{verb}"), &request, json).await
}

/// `retry`
pub(super) async fn retry(session: &Session, args: &args::Retry) -> Result<Done, Error> {
    let client = session.client().await?;
    let status = client.status().await?;
    // Who tried a version in vain may have been replaced since.
    let tried = |service: &api::ServiceStatus| {
        let rollout = service.rollout.as_ref();
        rollout.is_some_and(|rollout| rollout.instance.as_ref() == Some(&args.instance))
    };
    if !status.services.iter().any(tried) {
        find(&status, &args.instance, &[Kind::Instance])?;
    }
    post(
        session,
        &client,
        &format!("/v1/retry/{}", segment(&args.instance)),
        &(),
        args.json,
    )
    .await
}

/// Sends a request whose answer is an outcome, and tells the outcome.
pub(super) async fn post(
    session: &Session,
    client: &Client,
    path: &str,
    body: &(impl Serialize + Sync),
    json: bool,
) -> Result<Done, Error> {
    tell(session, client.post(path, body).await, json)
}

/// For a step of something larger: only a refusal is worth telling.
pub(super) fn done(outcome: Outcome) -> Result<(), Error> {
    done_or_refused(outcome).map(|_| ())
}

fn done_or_refused(outcome: Outcome) -> Result<Outcome, Error> {
    if outcome.done {
        return Ok(outcome);
    }
    let raw = super::to_json(&outcome);
    Err(client::Error::Refused {
        outcome: Box::new(outcome),
        raw,
    }
    .into())
}

/// Tells what came of a request.
pub(super) fn tell(
    session: &Session,
    result: Result<Answer<Outcome>, client::Error>,
    json: bool,
) -> Result<Done, Error> {
    let (raw, outcome) = match result {
        Ok(Answer { raw, value }) => (raw, value),
        // For a program a refusal is an answer, too.
        Err(client::Error::Refused { raw, outcome, .. }) if json => (raw, *outcome),
        Err(error) => return Err(error.into()),
    };
    let done = if outcome.done { Done::Yes } else { Done::No };
    if json {
        session.json(&raw);
        return Ok(done);
    }
    let outcome = done_or_refused(outcome)?;
    let view = &session.output.view;
    for line in outcome.text.lines() {
        session.output.answer(&hanging("", line, view.width));
    }
    if let Some(failover) = &outcome.failover {
        session.output.answer(&waterfall(failover, view));
    }
    if let Some(hint) = &outcome.hint {
        session.output.say(&format!("hint: {}", crate::render::clean(hint)));
    }
    Ok(done)
}
