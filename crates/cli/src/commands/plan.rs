//! `plan`, `apply`, `history`, `rollback`: what would change, changing it, and undoing it.

use super::files::{self, File};
use super::{Done, Error, Session, act, blocked};
use crate::args;
use crate::client::{Answer, Client, segment};
use crate::feed::{self, News};
use crate::render::{self, change};
use crate::who;
use api::{HistoryEntry, Plan, RollbackRequest};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Of an output's last lines, the last with something in it is shown, and of that so much.
const LAST_LINES: u32 = 5;
const SAID_CHARS_MAX: usize = 160;

/// `plan`
pub(super) async fn show(session: &Session, args: &args::PlanArgs) -> Result<Done, Error> {
    let file = files::read(session, &args.file)?;
    let client = session.client_of(&file.cluster_of(session)?);
    let answer = make(&client, &file).await?;
    if args.json {
        session.json(&answer.raw);
    } else {
        session
            .output
            .answer(&change::plan(&answer.value, &session.output.view));
    }
    Ok(Done::Yes)
}

/// `apply`
pub(super) async fn apply(session: &Session, args: &args::Apply) -> Result<Done, Error> {
    let file = files::read(session, &args.file)?;
    let client = session.client_of(&file.cluster_of(session)?);
    let done = carry_out(session, &client, &file, args.yes, args.json).await?;
    match args.wait {
        Some(limit) if done == Done::Yes => until_it_runs(session, client, limit).await,
        _ => Ok(done),
    }
}

/// Waits until every service is redundant and runs as the file says; tells what it waits for.
async fn until_it_runs(session: &Session, client: Client, limit: Duration) -> Result<Done, Error> {
    let deadline = Instant::now() + limit;
    let mut news = feed::follow(client.clone());
    let mut waits_for: Vec<String> = Vec::new();
    let mut told = BTreeSet::new();
    loop {
        let status = match timeout_at(deadline, news.recv()).await {
            Ok(Some(News::Status(answer, _))) => answer.value,
            Ok(Some(News::Trouble(_))) => continue,
            Ok(Some(News::Failed(error))) => return Err(error.into()),
            Ok(None) | Err(_) => {
                session.output.say(&format!(
                    "not everything runs as the file says after {}:",
                    render::span(limit)
                ));
                for line in &waits_for {
                    session.output.say(&format!("  {line}"));
                }
                return Ok(Done::No);
            }
        };
        let stopped = blocked::blocked(&status);
        // What does not come by itself is said at once, also while something else may still come.
        for (service, line) in &stopped {
            if told.insert(line.clone()) {
                session.output.say(&format!("not waiting: {line}"));
                let Some(tried) = blocked::tried_in_vain(&status, service) else {
                    continue;
                };
                // What it says now is said by what worked.
                if blocked::runs(&status, &tried) {
                    let again = format!(
                        "    it runs what worked before; `understudy logs {tried}` shows what the new version said"
                    );
                    session.output.say(&again);
                } else if let Some(said) = last_words(&client, &tried).await {
                    session.output.say(&said);
                }
            }
        }
        if blocked::all_blocked(&status, &stopped) {
            session.output.say("not everything will run as the file says by itself");
            return Ok(Done::No);
        }
        let behind = status.services.iter().filter(|service| blocked::is_behind(service));
        let now: Vec<String> = behind.map(|service| blocked::waits_for(&status, service)).collect();
        if now.is_empty() {
            session.output.say("everything runs as the file says and is redundant");
            return Ok(Done::Yes);
        }
        waits_for = now;
    }
}

/// The last thing that an instance said, if this user may read its log and it is at hand. Only who may is shown it: it may be confidential.
async fn last_words(client: &Client, instance: &str) -> Option<String> {
    let path = format!("/v1/logs/{}?lines={LAST_LINES}", segment(instance));
    let lines = client.get::<Vec<api::LogLine>>(&path).await.ok()?.value;
    let last = lines
        .iter()
        .rev()
        .map(|line| line.line.trim())
        .find(|line| !line.is_empty())?;
    let mut said: String = last.chars().take(SAID_CHARS_MAX).collect();
    if said.len() < last.len() {
        said.push('…');
    }
    Some(format!("    the last line of its output: {}", render::clean(&said)))
}

/// Shows the plan of a file, asks, and applies it to exactly the revision that was shown.
pub(super) async fn carry_out(
    session: &Session,
    client: &Client,
    file: &File,
    yes: bool,
    json: bool,
) -> Result<Done, Error> {
    let plan = make(client, file).await?.value;
    // That nothing changes is what the answer says.
    if !(plan.changes.is_empty() && plan.warnings.is_empty()) {
        session.output.say(change::plan(&plan, &session.output.talk).trim_end());
    }
    if !plan.changes.is_empty() {
        session.consent(yes, "changing a running cluster", "Apply this?")?;
    }
    act::post(session, client, "/v1/apply", &file.request(Some(plan.against)), json).await
}

/// `rollback`
pub(super) async fn rollback(session: &Session, args: &args::Rollback) -> Result<Done, Error> {
    let client = session.client().await?;
    let history = client.get::<Vec<HistoryEntry>>("/v1/history").await?.value;
    let current = history.iter().map(|entry| entry.revision).max();
    let back = history.iter().find(|entry| entry.back).map(|entry| entry.revision);
    let Some(target) = args.revision.or(back) else {
        let cluster = client.cluster().to_owned();
        return Err(match history.len() {
            0 | 1 => Error::NothingBefore { cluster },
            _ => Error::NothingWorked { cluster },
        });
    };
    let entry = entry(&history, target, &client)?;
    // The plan of the earlier file says what going back changes and risks.
    let file = api::ApplyRequest {
        text: entry.text.clone(),
        // A file without a name of its own is named by its path, and this one is of this cluster.
        path: format!("{}.toml", client.cluster()),
        against: current,
        by: who::caller(),
        first: false,
    };
    let plan = client.post::<_, Plan>("/v1/plan", &file).await?.value;
    let why = match (args.revision.is_some(), entry.never_worked) {
        (true, true) => "; it NEVER became healthy when it was in force",
        (true, false) => "",
        (false, _) => ", the last that was healthy and says something else than what is in force",
    };
    session.output.say(&format!(
        "back to revision {target}, applied {} by {}{why}:",
        session.output.talk.moment(&entry.at),
        render::clean(&entry.by)
    ));
    let passed_over: Vec<String> = history
        .iter()
        .filter(|entry| args.revision.is_none() && entry.never_worked && entry.revision > target)
        .map(|entry| entry.revision.to_string())
        .collect();
    if !passed_over.is_empty() {
        session.output.say(&format!(
            "  never healthy, so passed over: revision {}",
            passed_over.join(", ")
        ));
    }
    session.output.say(change::plan(&plan, &session.output.talk).trim_end());
    session.consent(args.yes, "a rollback", "Roll back?")?;
    let request = RollbackRequest {
        to: Some(target),
        by: who::caller(),
    };
    act::post(session, &client, "/v1/rollback", &request, args.json).await
}

/// `history`
pub(super) async fn history(session: &Session, args: &args::History) -> Result<Done, Error> {
    let client = session.client().await?;
    if args.deeds {
        let answer = client.get::<Vec<api::Deed>>("/v1/deeds").await?;
        match args.json {
            true => session.json(&answer.raw),
            false => session
                .output
                .answer(&render::history::deeds(&answer.value, &session.output.view)),
        }
        return Ok(Done::Yes);
    }
    let answer = client.get::<Vec<HistoryEntry>>("/v1/history").await?;
    match (args.show, args.json) {
        (None, true) => session.json(&answer.raw),
        (None, false) => {
            let mut entries = answer.value;
            // The newest stands where the eye is: at the end, above the prompt.
            entries.sort_by_key(|entry| entry.revision);
            session
                .output
                .answer(&render::history::list(&entries, &session.output.view));
        }
        (Some(revision), true) => {
            session
                .output
                .verbatim_line(&super::to_json(entry(&answer.value, revision, &client)?));
        }
        (Some(revision), false) => session.output.verbatim(&entry(&answer.value, revision, &client)?.text),
    }
    Ok(Done::Yes)
}

async fn make(client: &Client, file: &File) -> Result<Answer<Plan>, Error> {
    Ok(client.post("/v1/plan", &file.request(None)).await?)
}

fn entry<'a>(history: &'a [HistoryEntry], revision: u64, client: &Client) -> Result<&'a HistoryEntry, Error> {
    history
        .iter()
        .find(|entry| entry.revision == revision)
        .ok_or_else(|| Error::NoRevision {
            revision,
            cluster: client.cluster().to_owned(),
            kept: history
                .iter()
                .map(|entry| entry.revision)
                .fold(None, |range, revision| {
                    Some(range.map_or((revision, revision), |(first, last): (u64, u64)| {
                        (first.min(revision), last.max(revision))
                    }))
                }),
        })
}
