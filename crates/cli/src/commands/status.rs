//! `status [--watch] [SERVICE]`

use super::view::{self, CtrlC, End};
use super::{Done, Error, Session};
use crate::args;
use crate::client::{Answer, Client};
use crate::feed::{self, News};
use crate::names::{Kind, find};
use crate::render;
use api::Status;
use std::io::IsTerminal;

pub(super) async fn run(session: &Session, args: &args::StatusArgs) -> Result<Done, Error> {
    let client = session.client().await?;
    let answer = client.get::<Status>("/v1/status").await?;
    let service = args.service.as_deref();
    if let Some(name) = service {
        find(&answer.value, name, &[Kind::Service])?;
    }
    if !args.watch {
        print(session, &answer, service, args.json);
        return Ok(Done::Yes);
    }
    if args.json || !std::io::stdout().is_terminal() {
        return lines(session, &client, service, args.json).await;
    }
    match view::show(session, &client, service, CtrlC::Quits).await? {
        End::Quit | End::Detach | End::Stop | End::Gone => Ok(Done::Yes),
    }
}

fn print(session: &Session, answer: &Answer<Status>, service: Option<&str>, json: bool) {
    let status = &answer.value;
    let found = service.and_then(|name| status.services.iter().find(|service| service.name == name));
    let view = &session.output.view;
    match (json, found) {
        (true, None) => session.json(&answer.raw),
        (true, Some(_)) => session.output.verbatim_line(&super::to_json(&only(status, service))),
        (false, None) => session.output.answer(&render::status::page(status, view)),
        (false, Some(service)) => session
            .output
            .answer(&render::status::one_service(status, service, view)),
    }
}

/// Each change, for a program or a file, until the reader or Ctrl-C ends it.
async fn lines(session: &Session, client: &Client, service: Option<&str>, json: bool) -> Result<Done, Error> {
    let mut news = feed::follow(client.clone());
    let mut before: Option<Status> = None;
    let mut in_trouble = false;
    while let Some(news) = news.recv().await {
        match news {
            News::Status(answer, _) => {
                if std::mem::take(&mut in_trouble) {
                    session.output.say("the agent answers again");
                }
                // The feed also asks when nothing changed; then only the time differs.
                let same = before.as_ref().is_some_and(|before| {
                    Status {
                        at: answer.value.at.clone(),
                        ..before.clone()
                    } == answer.value
                });
                if same {
                    continue;
                }
                if json {
                    let line = match service {
                        None => answer.raw.clone(),
                        Some(_) => serde_json::to_string(&only(&answer.value, service)).unwrap_or_default(),
                    };
                    session.output.verbatim_line(line.trim());
                } else {
                    print(session, &answer, service, false);
                    session.output.answer("\n");
                }
                before = Some(answer.value);
            }
            News::Trouble(trouble) => {
                if !std::mem::replace(&mut in_trouble, true) {
                    session.output.say(&format!("waiting for the agent: {trouble}"));
                }
            }
            News::Failed(error) => return Err(error.into()),
        }
    }
    Ok(Done::Yes)
}

/// The status with one service, if one is asked for.
fn only(status: &Status, service: Option<&str>) -> Status {
    let mut status = status.clone();
    if let Some(name) = service {
        status.services.retain(|service| service.name == name);
    }
    status
}
