//! Whether this node was removed or left behind while it could not hear of it, and whether those that it left behind go on beside it.
//! Apart from the main loop, and for people alone: nothing is decided, begun or ended by it.

use super::papers::Troubles;
use super::reach::Ways;
use super::upkeep::Trouble;
use crate::clock;
use membership::Told;
use model::NodeName;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How soon it is noticed that something is not well with the store.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// While there is something to ask: a handshake with each voter, or with each that was left behind.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// Goes on for as long as the agent lives. `store` is what is wrong with the members of the store.
pub(crate) async fn run(ways: Arc<Ways>, store: Trouble, told: Troubles) {
    let mut since = BTreeMap::new();
    let mut asked: Option<Instant> = None;
    let mut doubted = false;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let doubt = store.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let news = doubt && !doubted;
        doubted = doubt;
        if !news && asked.is_some_and(|asked| asked.elapsed() < ASK_EVERY) {
            continue;
        }
        asked = Some(Instant::now());
        let problems = look(&ways, doubt, &mut since).await;
        *told.lock().unwrap_or_else(PoisonError::into_inner) = problems;
    }
}

async fn look(ways: &Ways, doubt: bool, since: &mut BTreeMap<NodeName, String>) -> Vec<api::Problem> {
    let place = ways.place();
    let around = match membership::look_around(&place, Some(ways.store.as_ref()), doubt).await {
        Ok(around) => around,
        Err(error) => {
            tracing::warn!(error = %crate::executor::chain(&error), "the others cannot be asked how this node stands");
            return Vec::new();
        }
    };
    if !around.joined.is_empty() {
        tracing::info!(
            joined = around.joined.join(" "),
            "nodes that were left behind have joined anew"
        );
        ways.forget_left_behind(&around.joined).await;
    }
    since.retain(|node, _| around.others.iter().any(|other| other.node == *node));
    let others = around.others.iter().map(|other| {
        let since = since.entry(other.node.clone());
        let since = since.or_insert_with(|| {
            tracing::error!(node = %other.node, generation = other.generation, decides = other.decides, "a node that was left behind goes on beside this one");
            clock::shown(clock::now())
        });
        api::Problem {
            code: "two-clusters".into(),
            severity: api::Severity::Error,
            about: other.node.to_string(),
            text: other.text(),
            hint: other.hint(&place),
            since: since.clone(),
        }
    });
    let mut problems: Vec<api::Problem> = others.collect();
    problems.extend(around.out.map(|told| out(&place, &told)));
    problems
}

/// That this node is none of the cluster's nodes any more.
pub(crate) fn out(place: &membership::Place, told: &Told) -> api::Problem {
    let node = &place.node.node;
    api::Problem {
        code: if told.out.left_behind { "left-behind" } else { "removed" }.into(),
        severity: api::Severity::Error,
        about: node.to_string(),
        text: told.text(node),
        hint: told.hint(place),
        since: clock::shown_wall(told.out.at),
    }
}
