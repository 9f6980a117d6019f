//! `drill`: breaks something for real, after saying who would notice.

use super::{Done, Error, Session, act};
use crate::args::DrillWhat;
use crate::names::{Kind, find};
use crate::render::drill::{Target, blast_radius, page};
use crate::render::{clean, span};
use api::DrillRequest;

pub(super) async fn run(session: &Session, what: DrillWhat) -> Result<Done, Error> {
    let (kind, noun, name, back_after, yes, json) = match what {
        DrillWhat::Node {
            name,
            back_after,
            yes,
            json,
        } => (Kind::Node, "node", name, back_after, yes, json),
        DrillWhat::Instance { name, yes, json } => (Kind::Instance, "instance", name, None, yes, json),
    };
    let client = session.client().await?;
    let status = client.status().await?;
    find(&status, &name, &[kind])?;
    if let Some(since) = &status.paused {
        let by = status
            .pause
            .as_ref()
            .map_or_else(String::new, |pause| format!(" by {}", pause.by));
        return Err(Error::BadArgument {
            what: clean(&format!(
                "automatic actions are paused since {since}{by}, so nobody would take over and nothing would be started again"
            )),
            hint: "`understudy resume` ends that",
        });
    }
    let target = if kind == Kind::Node {
        Target::Node(&name)
    } else {
        Target::Instance(&name)
    };
    let effects = blast_radius(&status, target);
    let until = match (kind, back_after) {
        (Kind::Node, Some(back_after)) => format!(" for {}", span(back_after)),
        (Kind::Node, None) => format!(" until `understudy undrain {name}`"),
        _ => String::new(),
    };
    session.output.say(
        &format!("this kills everything on {noun} `{name}`{until}, for real:")
            .replace("everything on instance", "instance"),
    );
    session.output.say(page(&effects, &session.output.talk).trim_end());
    let question = if effects.iter().any(|effect| effect.outage) {
        "This is an outage. Go on?"
    } else {
        "Go on?"
    };
    session.consent(yes, "a drill", question)?;
    let request = DrillRequest {
        what: noun.into(),
        name,
        back_after_ms: back_after.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
    };
    let done = act::post(session, &client, "/v1/drill", &request, json).await?;
    if !json {
        session
            .output
            .say("`understudy events --failovers` shows how it went, `understudy status` how things stand");
    }
    Ok(done)
}
