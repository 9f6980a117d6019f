//! `events`

use super::{Done, Error, Session};
use crate::args;
use crate::client::{self, Client, segment};
use crate::names::{Kind, find};
use crate::render::events::Journal;
use api::{Event, EventPage};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Events asked for at once: about 400 kB.
const PAGE: u32 = 1_000;
/// A bound on reading through them, far above what an agent keeps.
const PAGES_MAX: u32 = 1_000;
/// Between two attempts to reach an agent that restarts.
const RECONNECT: Duration = Duration::from_millis(250);
/// After this long without an agent the cluster counts as stopped.
const AGENT_AWAY_MAX: Duration = Duration::from_secs(30);

pub(super) async fn run(session: &Session, args: &args::Events) -> Result<Done, Error> {
    let client = session.client().await?;
    if let Some(service) = &args.service {
        find(&client.status().await?, service, &[Kind::Service])?;
    }
    let page = latest(&client, args).await?;
    if args.json && !args.follow {
        let page = EventPage {
            version: api::VERSION,
            events: page.events.into(),
            first_seq: page.first_seq,
        };
        session.output.verbatim_line(&super::to_json(&page));
        return Ok(Done::Yes);
    }
    let mut printer = Printer {
        session,
        args,
        journal: Journal::default(),
    };
    for event in &page.events {
        let raw = serde_json::to_string(event).unwrap_or_default();
        printer.print(event, &raw);
    }
    if !args.follow {
        if page.events.is_empty() {
            session.output.say("no such events are kept");
        }
        return Ok(Done::Yes);
    }
    follow(&client, &mut printer, page.newest).await
}

/// What happens from now on, for `up` where there is no terminal to draw on.
pub(super) async fn follow_from_now(session: &Session, client: &Client) -> Result<Done, Error> {
    let args = args::Events {
        follow: true,
        service: None,
        failovers: false,
        lines: 0,
        json: false,
    };
    let mut printer = Printer {
        session,
        args: &args,
        journal: Journal::default(),
    };
    let newest = latest(client, &args).await?.newest;
    follow(client, &mut printer, newest).await
}

/// New events until Ctrl-C, through restarts of the agent.
async fn follow(client: &Client, printer: &mut Printer<'_>, mut last: u64) -> Result<Done, Error> {
    let mut away_since: Option<Instant> = None;
    loop {
        let error = match client.stream::<Event>(&format!("/v1/events/stream?after={last}")).await {
            Ok(mut stream) => {
                if away_since.take().is_some() {
                    printer.session.output.say("the agent answers again");
                }
                loop {
                    match stream.next().await {
                        Ok(Some(answer)) => {
                            last = answer.value.seq;
                            printer.print(&answer.value, answer.raw.trim());
                        }
                        Ok(None) => break None,
                        Err(error) => break Some(error),
                    }
                }
            }
            Err(error) => Some(error),
        };
        let away = *away_since.get_or_insert_with(|| {
            printer.session.output.say("lost the agent, waiting for it");
            Instant::now()
        });
        if let Some(error) = error
            && (!error.may_heal() || away.elapsed() > AGENT_AWAY_MAX)
        {
            return Err(error.into());
        }
        sleep(RECONNECT).await;
        if last > 0 && began_anew(client, last).await {
            last = 0;
        }
    }
}

/// Whether events are numbered anew, since the agent could not keep the earlier ones.
async fn began_anew(client: &Client, last: u64) -> bool {
    let page = client
        .get::<EventPage>(&format!("/v1/events?after={}&limit=1", last - 1))
        .await;
    page.is_ok_and(|page| page.value.events.is_empty())
}

/// The latest events that were asked for.
struct Latest {
    /// Oldest first.
    events: VecDeque<Event>,
    first_seq: u64,
    /// The number of the newest event of all, asked for or not; 0 if there is none.
    newest: u64,
}

/// Reads through what the agent keeps. That is at most some thousand events, from memory.
async fn latest(client: &Client, args: &args::Events) -> Result<Latest, client::Error> {
    let mut latest = Latest {
        events: VecDeque::new(),
        first_seq: 1,
        newest: 0,
    };
    // To follow on, the newest of all services counts; otherwise only what is shown need be sent.
    let only = args
        .service
        .as_ref()
        .filter(|_| !args.follow)
        .map(|service| format!("&service={}", segment(service)));
    let only = only.unwrap_or_default();
    for _ in 0..PAGES_MAX {
        let path = format!("/v1/events?after={}&limit={PAGE}{only}", latest.newest);
        let page = client.get::<EventPage>(&path).await?.value;
        latest.first_seq = page.first_seq;
        match page.events.last() {
            Some(last) if last.seq > latest.newest => latest.newest = last.seq,
            _ => break,
        }
        for event in page.events.into_iter().filter(|event| is_wanted(event, args)) {
            latest.events.push_back(event);
            if latest.events.len() > args.lines as usize {
                latest.events.pop_front();
            }
        }
    }
    Ok(latest)
}

fn is_wanted(event: &Event, args: &args::Events) -> bool {
    (args.service.is_none() || event.service == args.service) && (!args.failovers || event.failover.is_some())
}

struct Printer<'a> {
    session: &'a Session,
    args: &'a args::Events,
    journal: Journal,
}

impl Printer<'_> {
    fn print(&mut self, event: &Event, raw: &str) {
        if !is_wanted(event, self.args) {
            return;
        }
        let output = &self.session.output;
        if self.args.json {
            output.verbatim_line(raw);
        } else {
            output.answer(&self.journal.event(event, &output.view));
        }
    }
}
