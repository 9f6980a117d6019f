//! Looks after the store itself: who its members are now, that it stays small, and that it is not led from a node whose loss would
//! then cost an election on top.

use super::reach::Reach;
use api::layout::Layout;
use api::node::Node;
use etcd::server::cluster::{Cluster, Memory, Policy, Step};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
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
pub(crate) async fn run(
    mut node: Node,
    layout: Layout,
    store: Arc<Reach>,
    renewals: Arc<Reach>,
    mut wanted: watch::Receiver<Wanted>,
) {
    let Ok(options) = membership::etcd_options(&node, &layout) else {
        return;
    };
    let mut cluster = match Cluster::new(options) {
        Ok(cluster) => cluster,
        Err(error) => {
            tracing::error!(error = %crate::executor::chain(&error), "the members of the store cannot be looked after");
            return;
        }
    };
    let (policy, mut memory) = (Policy::default(), Memory::default());
    loop {
        let changed = tokio::time::timeout(LOOK_EVERY, wanted.changed()).await;
        match changed {
            Ok(Err(_)) => return,
            Ok(Ok(())) => tokio::time::sleep(LOOK_SOON).await,
            Err(_) => {}
        }
        let now = wanted.borrow_and_update().clone();
        match cluster.look().await {
            Ok(view) => {
                let urls: BTreeSet<String> = view
                    .members
                    .iter()
                    .filter(|seen| seen.votes())
                    .flat_map(|seen| seen.member.client_urls.clone())
                    .collect();
                follow(&mut node, &layout, &urls, &store, &renewals).await;
            }
            Err(error) => {
                tracing::debug!(error = %crate::executor::chain(&error), "the members of the store do not answer");
                continue;
            }
        }
        if !now.controller || node.store.member.is_none() {
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

/// Members came or went: from now on all of them are asked, our own first.
async fn follow(node: &mut Node, layout: &Layout, urls: &BTreeSet<String>, store: &Reach, renewals: &Reach) {
    let known: BTreeSet<String> = node.store.endpoints.iter().cloned().collect();
    if urls.is_empty() || *urls == known || node.store.member.is_none() && node.store.endpoints.is_empty() {
        return;
    }
    let own = node
        .store
        .member
        .as_ref()
        .map(|member| format!("https://{}", member.client));
    let mut endpoints: Vec<String> = urls.iter().cloned().collect();
    endpoints.sort_by_key(|url| (own.as_ref() != Some(url), url.clone()));
    let before = std::mem::replace(&mut node.store.endpoints, endpoints);
    let connected = async {
        let options = membership::etcd_options(node, layout).map_err(|error| crate::executor::chain(&error))?;
        let fresh = etcd::Etcd::connect(options)
            .await
            .map_err(|error| crate::executor::chain(&error))?;
        let renewing = fresh.renewal_handle().map_err(|error| crate::executor::chain(&error))?;
        Ok::<_, String>((fresh, renewing))
    };
    match connected.await {
        Ok((fresh, renewing)) => {
            tracing::info!(
                endpoints = node.store.endpoints.join(" "),
                "the store has other members now"
            );
            store.switch(Arc::new(fresh) as Arc<dyn Store>);
            renewals.switch(Arc::new(renewing) as Arc<dyn Store>);
            if let Err(error) = node.write(&layout.node()) {
                tracing::warn!(error = %crate::executor::chain(&error), "the members of the store cannot be noted");
            }
        }
        Err(error) => {
            tracing::debug!(error, "the new members do not answer yet");
            node.store.endpoints = before;
        }
    }
}
