//! Looks after the store itself: who its members are now, that it stays small, and that it is not led from a node whose loss would
//! then cost an election on top.

use super::reach::Ways;
use etcd::server::cluster::{Cluster, Memory, Policy, Step};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often the members are looked at: a new one is known to all within this.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// And after a change of who holds what: the leader leaves a node that has just become an active's.
const LOOK_SOON: Duration = Duration::from_millis(500);

/// What the main loop knows of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// We are the controller: upkeep is ours.
    pub(crate) controller: bool,
    /// Nodes that hold exclusive slots.
    pub(crate) avoid: BTreeSet<String>,
}

/// Goes on for as long as the agent lives.
pub(crate) async fn run(ways: Arc<Ways>, mut wanted: watch::Receiver<Wanted>) {
    let managed = ways.place().node.store.member.is_some();
    let ours = ways.place().store_is_ours();
    let mut exchanged = ways.exchanged();
    let mut cluster = None;
    let (policy, mut memory) = (Policy::default(), Memory::default());
    loop {
        let changed = tokio::time::timeout(LOOK_EVERY, wanted.changed()).await;
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
                tracing::debug!(error = %crate::executor::chain(&error), "the members of the store do not answer");
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
