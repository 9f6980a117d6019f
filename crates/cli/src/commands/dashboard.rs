//! `dashboard`

use super::{Done, Error, Session};
use crate::args;
use api::DashboardLink;

pub(super) async fn run(session: &Session, args: &args::Dashboard) -> Result<Done, Error> {
    let client = session.client().await?;
    let right = if args.read { "read" } else { "operate" };
    let answer = client
        .post::<_, DashboardLink>(&format!("/v1/dashboard?right={right}"), &())
        .await?;
    if args.json {
        session.json(&answer.raw);
        return Ok(Done::Yes);
    }
    let link = answer.value;
    if args.authority {
        let Some(pem) = link.authority else {
            session
                .output
                .say("a single machine has no authority: its dashboard does not leave the machine");
            return Ok(Done::No);
        };
        session.output.verbatim(&pem);
        return Ok(Done::Yes);
    }
    let places = [("here", &link.local), ("from other machines", &link.remote)];
    let width = places
        .iter()
        .filter(|(_, url)| url.is_some())
        .map(|(place, _)| place.len());
    let width = width.max().unwrap_or(0);
    let mut out = String::new();
    for (place, url) in places {
        if let Some(url) = url {
            out.push_str(&format!("{place:width$}  {url}/ui/sign-in#{}\n", link.pass));
        }
    }
    if out.is_empty() {
        session
            .output
            .say("the dashboard is off on this machine; `down`, then `up` without `--dashboard off`");
        return Ok(Done::No);
    }
    session.output.answer(&out);
    session.output.say(&format!(
        "good once, for {} minutes; whoever opens it may {right}",
        link.valid_s / 60
    ));
    if link.remote.is_some() {
        session.output.say("a browser on another machine must trust the cluster's authority: `understudy dashboard --authority` prints its certificate");
    }
    Ok(Done::Yes)
}
