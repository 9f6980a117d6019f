//! What an operator does by hand: `park`, `unpark`, `force`, `fence`. Each says first what it will do.

use super::{Done, Error, Session, act};
use crate::args;
use crate::client::{Client, segment};
use crate::names::{Kind, find};
use crate::output::Said;
use crate::render::{clean, hanging};
use crate::who;
use api::{FenceRequest, ForceRequest, ParkRequest, Preview, Severity};

/// `park`
pub(super) async fn park(session: &Session, args: &args::Park) -> Result<Done, Error> {
    let client = session.client().await?;
    let (service, slot) = named(&client, &args.slot).await?;
    let preview = look(&client, "park", &service, slot, None).await?;
    if preview.refused.is_none() {
        tell(session, &preview);
        let question = match preview.severity {
            Severity::Error => "This is an outage. Go on?",
            _ => "Go on?",
        };
        session.consent(args.yes, "parking a slot", question)?;
    }
    let request = ParkRequest {
        service,
        slot,
        by: who::caller(),
        why: args.because.clone().unwrap_or_default(),
    };
    act::post(session, &client, "/v1/park", &request, args.json).await
}

/// `unpark`
pub(super) async fn unpark(session: &Session, args: &args::Unpark) -> Result<Done, Error> {
    let client = session.client().await?;
    let (service, slot) = split(&args.slot)?;
    let request = ParkRequest {
        service,
        slot,
        by: who::caller(),
        why: String::new(),
    };
    act::post(session, &client, "/v1/unpark", &request, args.json).await
}

/// `force`
pub(super) async fn force(session: &Session, args: &args::Force) -> Result<Done, Error> {
    let client = session.client().await?;
    let (service, slot) = named(&client, &args.slot).await?;
    let node = &args.node_is_off;
    let words = match &args.give_to {
        None => format!("host {node} is off"),
        Some(_) => format!("host {node} is off and its data are lost"),
    };
    let asks = match &args.give_to {
        None => {
            let status = client.status().await?;
            // One that was removed may still be waited for.
            let waited_for = |problem: &api::Problem| problem.code == "not-known-off" && problem.about == *node;
            if !status.problems.iter().any(waited_for) {
                find(&status, node, &[Kind::Node])?;
            }
            let preview = look(&client, "force", &service, slot, Some(node)).await?;
            if preview.refused.is_none() {
                tell(session, &preview);
            }
            preview.refused.is_none()
        }
        Some(heir) => {
            session.output.say(&format!(
                "{heir} will count as having the newest data of {}: what was acknowledged on node {node} and not passed on to it is lost for ever",
                args.slot
            ));
            true
        }
    };
    let mut statement = args.statement.clone().unwrap_or_default();
    if asks && args.statement.is_none() {
        let question = format!("To go on, state it: type `{words}`");
        statement = match session.output.ask_for_words(&question) {
            Said::Words(words) if words.is_empty() => return Err(Error::Declined),
            Said::Words(words) => words,
            Said::NoTerminal => {
                return Err(Error::BadArgument {
                    what: format!("nobody is here to state `{words}`"),
                    hint: "whoever knows that states it with --statement",
                });
            }
        };
    }
    let request = ForceRequest {
        service,
        slot,
        node: node.clone(),
        statement,
        give_to: args.give_to.clone(),
        by: who::caller(),
    };
    act::post(session, &client, "/v1/force", &request, args.json).await
}

/// `fence`
pub(super) async fn fence(session: &Session, args: &args::Fence) -> Result<Done, Error> {
    let client = session.client().await?;
    let node = &args.node;
    find(&client.status().await?, node, &[Kind::Node])?;
    if !args.test {
        let preview = look(&client, "fence", node, None, None).await?;
        tell(session, &preview);
        if let Some(why) = preview.refused {
            return Err(Error::BadArgument {
                what: format!("node {node} is not fenced: {why}"),
                hint: "`understudy explain NODE` says what would follow if it died",
            });
        }
        session.consent(args.yes, "taking the power of a node away", "Take its power away?")?;
    }
    let request = FenceRequest {
        node: node.clone(),
        test: args.test,
        by: who::caller(),
    };
    act::post(session, &client, "/v1/fence", &request, args.json).await
}

/// `SERVICE` or `SERVICE/SLOT`; the service is there.
async fn named(client: &Client, text: &str) -> Result<(String, Option<u32>), Error> {
    let (service, slot) = split(text)?;
    find(&client.status().await?, &service, &[Kind::Service])?;
    Ok((service, slot))
}

fn split(text: &str) -> Result<(String, Option<u32>), Error> {
    let Some((service, slot)) = text.split_once('/') else {
        return Ok((text.to_owned(), None));
    };
    let slot = slot.parse().map_err(|_| Error::BadArgument {
        what: format!("`{slot}` is no number of a slot"),
        hint: "write SERVICE/SLOT, as in `db/0`",
    })?;
    Ok((service.to_owned(), Some(slot)))
}

async fn look(
    client: &Client,
    action: &str,
    service: &str,
    slot: Option<u32>,
    node: Option<&str>,
) -> Result<Preview, Error> {
    let mut path = format!("/v1/preview?action={action}&name={}", segment(service));
    if let Some(slot) = slot {
        path.push_str(&format!("&slot={slot}"));
    }
    if let Some(node) = node {
        path.push_str(&format!("&node={}", segment(node)));
    }
    Ok(client.get::<Preview>(&path).await?.value)
}

/// What will be done.
fn tell(session: &Session, preview: &Preview) {
    let talk = &session.output.talk;
    session.output.say(&clean(&preview.title));
    for line in &preview.lines {
        session.output.say(hanging("  ", line, talk.width).trim_end());
    }
    for effect in preview
        .effects
        .iter()
        .filter(|effect| effect.state != effect.state_after)
    {
        let line = format!("{} becomes {}", effect.service, effect.state_after);
        session.output.say(hanging("  ", &line, talk.width).trim_end());
    }
    let undo = match &preview.undo {
        Some(undo) => format!("to take it back: {undo}"),
        None => "this cannot be taken back".into(),
    };
    session.output.say(hanging("  ", &undo, talk.width).trim_end());
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_slot_is_a_service_and_a_number() {
        let of = |text| split(text).ok();
        assert_eq!(of("db"), Some(("db".into(), None)));
        assert_eq!(of("db/1"), Some(("db".into(), Some(1))));
        assert_eq!(of("db/x"), None);
        assert_eq!(of("db/"), None);
    }
}
