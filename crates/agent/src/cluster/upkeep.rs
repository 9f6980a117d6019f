//! Looks after the store itself: who its members are now, that it stays small, and that it is not led from a node whose loss would
//! then cost an election on top.

use super::reach::Ways;
use etcd::server::cluster::{Cluster, Memory, Policy, Step, View};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How often the members are looked at: a new one is known to all within this.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// And after a change of who holds what: the leader leaves a node that has just become an active's.
const LOOK_SOON: Duration = Duration::from_millis(500);

/// And while one of them is not well, so that nobody is told of it for longer than it is so.
const LOOK_OFTEN: Duration = Duration::from_secs(1);

/// What is wrong with the members, for `status`.
pub(crate) type Trouble = Arc<Mutex<Option<api::Problem>>>;

/// What the main loop knows of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// We are the controller: upkeep is ours.
    pub(crate) controller: bool,
    /// Nodes that hold exclusive slots.
    pub(crate) avoid: BTreeSet<String>,
}

/// Goes on for as long as the agent lives.
pub(crate) async fn run(ways: Arc<Ways>, mut wanted: watch::Receiver<Wanted>, trouble: Trouble) {
    let managed = ways.place().node.store.member.is_some();
    let ours = ways.place().store_is_ours();
    let mut exchanged = ways.exchanged();
    let mut cluster = None;
    let (policy, mut memory) = (Policy::default(), Memory::default());
    loop {
        let well = trouble.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        let look = if well { LOOK_EVERY } else { LOOK_OFTEN };
        let changed = tokio::time::timeout(look, wanted.changed()).await;
        match changed {
            Ok(Err(_)) => return,
            Ok(Ok(())) => tokio::time::sleep(LOOK_SOON).await,
            Err(_) => {}
        }
        let now = wanted.borrow_and_update().clone();
        if exchanged.has_changed().unwrap_or(false) {
            // It has connections of its own, with certificates that may end.
            exchanged.mark_unchanged();
            cluster = None;
        }
        let cluster = match &mut cluster {
            Some(cluster) => cluster,
            none => match begin(&ways) {
                Ok(fresh) => none.insert(fresh),
                Err(error) => {
                    tracing::error!(error, "the members of the store cannot be looked after");
                    continue;
                }
            },
        };
        match cluster.look().await {
            Ok(view) => {
                tell(&trouble, &ways, lacking(&view));
                let urls: BTreeSet<String> = view
                    .members
                    .iter()
                    .filter(|seen| seen.votes())
                    .flat_map(|seen| seen.member.client_urls.clone())
                    .collect();
                if ours {
                    follow(&ways, &urls).await;
                }
            }
            Err(error) => {
                let error = crate::executor::chain(&error);
                tracing::debug!(error, "the members of the store do not answer");
                tell(
                    &trouble,
                    &ways,
                    Some(format!("the members of the store do not say how they are: {error}")),
                );
                continue;
            }
        }
        if !now.controller || !managed {
            continue;
        }
        if let Err(error) = cluster.prefer_leader_away_from(&now.avoid).await {
            tracing::debug!(error = %crate::executor::chain(&error), "the leadership cannot be moved");
        }
        match cluster.maintain(&policy, &mut memory, crate::clock::now()).await {
            Ok(Step::Full) => tracing::error!("the store is full and cannot be made smaller"),
            Ok(_) => {}
            Err(error) => tracing::debug!(error = %crate::executor::chain(&error), "upkeep of the store failed"),
        }
    }
}

/// What keeps the store from bearing as many failures as its members could; nothing if all are well.
fn lacking(view: &View) -> Option<String> {
    let away: Vec<&str> = view
        .voters()
        .filter(|seen| !view.well(seen))
        .map(etcd::server::cluster::Seen::name)
        .collect();
    let (healthy, voters, quorum) = (view.healthy_voters(), view.voters().count(), view.quorum());
    let verb = if away.len() == 1 { "does" } else { "do" };
    let may_fail = match healthy.checked_sub(quorum) {
        None => "nothing can be decided".to_owned(),
        Some(0) => "if one more is lost, nothing can be decided".to_owned(),
        Some(more) => format!("{more} more may be lost"),
    };
    (!away.is_empty()).then(|| {
        format!(
            "{} {verb} not follow the store's leader: {healthy} of {voters} members are well, {may_fail}",
            away.join(", ")
        )
    })
}

fn tell(trouble: &Trouble, ways: &Ways, text: Option<String>) {
    let mut told = trouble.lock().unwrap_or_else(PoisonError::into_inner);
    // Since when stays, however the words change.
    let since = told.take().map(|problem| problem.since);
    *told = text.map(|text| api::Problem {
        code: "store-member".into(),
        severity: api::Severity::Warning,
        about: ways.place().node.node.to_string(),
        text,
        hint: "its own agent starts it again by itself; `understudy cluster status` asks each of them".into(),
        since: since.unwrap_or_else(|| crate::clock::shown(crate::clock::now())),
    });
}

fn begin(ways: &Ways) -> Result<Cluster, String> {
    Cluster::new(ways.options()?).map_err(|error| crate::executor::chain(&error))
}

/// Members came or went: from now on all of them are asked, our own first.
async fn follow(ways: &Ways, urls: &BTreeSet<String>) {
    let node = ways.place().node;
    let known: BTreeSet<String> = node.store.endpoints.iter().cloned().collect();
    if urls.is_empty() || *urls == known {
        return;
    }
    let own = node.store.member.map(|member| format!("https://{}", member.client));
    let mut endpoints: Vec<String> = urls.iter().cloned().collect();
    endpoints.sort_by_key(|url| (own.as_ref() != Some(url), url.clone()));
    let shown = endpoints.join(" ");
    match ways.exchange(Some(endpoints)).await {
        Ok(()) => tracing::info!(endpoints = shown, "the store has other members now"),
        Err(error) => tracing::debug!(error, "the new members do not answer yet"),
    }
}
