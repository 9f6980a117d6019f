//! `down`: stops all services in order, and Understudy with them.

use super::{Done, Error as CommandError, Session, act, cluster};
use crate::args;
use crate::client::{self, Answer, Client};
use crate::feed::{self, News};
use crate::place::{Life, is_gone, life};
use crate::render::{clean, plural};
use api::{Outcome, Status};
use membership::Place;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The services are stopped by then; what is left is the agent's, the proxy's and the guard's own end.
const LAST_STEPS_MAX: Duration = Duration::from_secs(20);
/// How often it is looked whether they are gone.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Why a cluster is not down.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the services of cluster `{cluster}` are stopped, but its agent, guard or proxy still runs after {}s", LAST_STEPS_MAX.as_secs())]
    StillThere { cluster: String, run: std::path::PathBuf },
}

impl Error {
    pub(super) fn hint(&self) -> Option<String> {
        let Error::StillThere { run, .. } = self;
        Some(format!("the logs in {} say what they wait for", run.display()))
    }
}

/// `down`
pub(super) async fn run(session: &Session, args: &args::Down) -> Result<Done, CommandError> {
    if args.etcd
        && let Ok(place) = cluster::here(session)
        && matches!(life(&place.layout), Life::Stopped)
    {
        return stop_what_is_left(session, args, &place).await;
    }
    let client = session.client().await?;
    let node = Place::open(&session.place.base, client.cluster()).ok();
    let status = match client.status().await {
        Ok(status) => Some(status),
        // It waits for its store; what runs here can be stopped all the same.
        Err(client::Error::Refused { outcome, .. }) if node.is_some() => {
            session.output.say(&outcome.text);
            None
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(place) = &node {
        session.output.say(&what_leaves(place, args.etcd));
    }
    if let Some(status) = status.filter(|_| node.is_none()) {
        session.output.say(&what_stops(&status));
    }
    if args.etcd
        && let Some(place) = &node
    {
        must_not_be_needed(place, args.force).await?;
    }
    session.consent(args.yes, "stopping all of it", "Stop all of it?")?;
    let outcome = stop(session, &client).await?;
    if outcome.value.done
        && args.etcd
        && let Some(place) = &node
    {
        membership::stop_etcd(place).await?;
        session.output.say("its member of the store is stopped, too");
    }
    act::tell(session, Ok(outcome), args.json)
}

/// The node went down before, and its member of the store votes on.
async fn stop_what_is_left(session: &Session, args: &args::Down, place: &Place) -> Result<Done, CommandError> {
    let (node, cluster) = (&place.node.node, clean(&place.node.cluster));
    session.output.say(&format!(
        "node {node} of cluster `{cluster}` is down already; this stops its member of the store, too. `understudy cluster start` brings both back"
    ));
    must_not_be_needed(place, args.force).await?;
    session.consent(args.yes, "stopping its member of the store", "Stop it?")?;
    membership::stop_etcd(place).await?;
    let value = Outcome {
        version: api::VERSION,
        done: true,
        text: format!("the member of the store on node {node} is stopped"),
        hint: None,
        failover: None,
    };
    let raw = serde_json::to_string(&value).unwrap_or_default();
    act::tell(session, Ok(Answer { raw, value }), args.json)
}

/// Stopping a member of the store must not stop all the others' decisions, unless nothing is decided anyway.
async fn must_not_be_needed(place: &Place, force: bool) -> Result<(), CommandError> {
    if force {
        return Ok(());
    }
    let report = membership::report(place).await?;
    let (answering, needed) = report.votes;
    if place.node.store.member.is_none()
        || !report.store_answers
        || report.members.len() < 2
        || answering > needed
        || answering < needed
    {
        return Ok(());
    }
    Err(CommandError::BadArgument {
        what: format!(
            "{answering} members of the store answer and {needed} are needed: without that of node {} nothing is decided any more",
            place.node.node
        ),
        hint: "leave --etcd out: its member then goes on voting; or bring the others back first; --force stops it all the same",
    })
}

/// What happens when a node of several goes down.
fn what_leaves(place: &Place, etcd: bool) -> String {
    let (node, cluster) = (&place.node.node, clean(&place.node.cluster));
    let votes = match (&place.node.store.member, etcd) {
        (None, _) => "",
        (Some(_), false) => "; its member of the store goes on voting (--etcd stops it, too)",
        (Some(_), true) => "; its member of the store is stopped, too",
    };
    format!(
        "this stops node {node} of cluster `{cluster}`: what is active here moves to other nodes first, the rest is stopped{votes}. \
         `understudy cluster start` brings it back"
    )
}

/// Stops everything, telling what still runs, and returns when nothing does.
pub(super) async fn stop(session: &Session, client: &Client) -> Result<Answer<Outcome>, CommandError> {
    let layout = session.place.layout(client.cluster());
    let answer = request(session, client).await?;
    if !answer.value.done {
        return Ok(answer);
    }
    let deadline = Instant::now() + LAST_STEPS_MAX;
    while !is_gone(&layout) {
        if Instant::now() >= deadline {
            return Err(Error::StillThere {
                cluster: client.cluster().to_owned(),
                run: layout.run(),
            }
            .into());
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(answer)
}

/// Asks the agent to stop everything; meanwhile its status says how far it is.
async fn request(session: &Session, client: &Client) -> Result<Answer<Outcome>, client::Error> {
    let mut news = feed::follow(client.clone());
    let mut said = String::new();
    let request = client.post::<_, Outcome>("/v1/down", &());
    tokio::pin!(request);
    let mut listening = true;
    loop {
        tokio::select! {
            answer = &mut request => return answer,
            news = news.recv(), if listening => match news {
                Some(News::Status(answer, _)) => {
                    let left = still_running(&answer.value);
                    if left != said {
                        session.output.say(&left);
                        said = left;
                    }
                }
                // The agent is on its way out; the answer to the request tells the rest.
                Some(News::Trouble(_)) => {}
                Some(News::Failed(_)) | None => listening = false,
            },
        }
    }
}

/// What is stopped, by name.
fn what_stops(status: &Status) -> String {
    let mut out = format!("this stops cluster `{}`:", clean(&status.cluster));
    for service in &status.services {
        let running = service
            .instances
            .iter()
            .filter(|instance| instance.pid.is_some())
            .count() as u64;
        out.push_str(&format!(
            "\n  {} ({} running",
            clean(&service.name),
            plural(running, "instance")
        ));
        if let Some(listen) = &service.listen {
            out.push_str(&format!("; clients of {} get no answer any more", clean(listen)));
        }
        out.push(')');
    }
    out
}

fn still_running(status: &Status) -> String {
    let left: Vec<String> = status
        .services
        .iter()
        .filter_map(|service| {
            let running = service
                .instances
                .iter()
                .filter(|instance| instance.pid.is_some())
                .count();
            (running > 0).then(|| format!("{} ({running})", clean(&service.name)))
        })
        .collect();
    if left.is_empty() {
        "stopped; the last steps".into()
    } else {
        format!("stopping: {}", left.join(", "))
    }
}
