//! How near each service is to an outage, and how often it is to be expected down: reckoned beside the main loop when something changed, and
//! made sure of once a second.
//!
//! ```text
//! sampler's glance (once a second) ─┐
//!                                   ├─► the same system as before? else reckoned anew ──► Outlook ──► main loop, metrics
//! events of the journal ── Seen ────┘
//! ```

use crate::analysis::Seen;
use crate::clock;
use crate::http::Door;
use crate::input::{Input, Request};
use analysis::distance::{Expected, Nearest, expected, nearest, shown};
use analysis::solve::Limits;
use analysis::system::System;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What happens comes in bursts; each is looked at once it is over.
const BURST: Duration = Duration::from_millis(50);
/// For predictions: a service of a thousand things is bounded rather than solved for minutes.
const LIMITS: Limits = Limits {
    order: 1,
    sets: 1_000,
    nodes: 50_000,
    steps: 500_000,
};

/// What was reckoned last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outlook {
    /// When this was made sure of; absent before the first time.
    pub(crate) at: Option<String>,
    /// What takes each service down soonest, given what has failed.
    pub(crate) nearest: BTreeMap<String, Nearest>,
    /// What is to be expected of each as it is designed.
    pub(crate) expected: Arc<BTreeMap<String, Expected>>,
}

impl Outlook {
    /// Adds what is known to a status in which only instances were counted.
    pub(crate) fn tell(&self, status: &mut api::Status) {
        status.distances_at.clone_from(&self.at);
        for service in &mut status.services {
            let mut instances = service.distance_to_outage;
            if self.at.is_none() {
                // What else may take it down is not known yet: more than one failure is not promised.
                instances = instances.min(1);
            }
            let (distance, by) = shown(self.nearest.get(&service.name), instances);
            service.outage = Some(api::Outage {
                by: by.to_vec(),
                instances,
            });
            service.distance_to_outage = distance;
        }
    }
}

/// Reckons for as long as the main loop answers.
pub(crate) async fn keep(door: Door) {
    let mut glances = door.measures.glances();
    let mut news = door.news.clone();
    let mut last = Reckoned::default();
    // Nobody has to wait a second for what is known at once.
    let mut first = door.ask(Request::Seen).await.ok().map(Arc::new);
    loop {
        let seen = tokio::select! {
            biased;
            seen = std::future::ready(first.take()), if first.is_some() => seen,
            glance = glances.changed() => {
                if glance.is_err() { return }
                let glance = glances.borrow_and_update().clone();
                glance.map(|glance| glance.seen)
            }
            heard = news.changed() => {
                if heard.is_err() { return }
                tokio::time::sleep(BURST).await;
                news.mark_unchanged();
                match door.ask(Request::Seen).await {
                    Ok(seen) => Some(Arc::new(seen)),
                    Err(_) => return,
                }
            }
        };
        let Some(seen) = seen else { continue };
        let at = clock::shown_wall(clock::wall_now());
        let before = std::mem::take(&mut last);
        let Ok(reckoned) = tokio::task::spawn_blocking(move || before.again(&seen)).await else {
            tracing::error!("how near services are to an outage could not be reckoned: instances alone are counted");
            let none = Arc::new(Outlook::default());
            door.measures.state().outlook = Some(Arc::clone(&none));
            if door.inputs.send(Input::Outlook(none)).is_err() {
                return;
            }
            continue;
        };
        last = reckoned;
        let outlook = Arc::new(Outlook {
            at: Some(at),
            nearest: last.nearest.clone(),
            expected: Arc::clone(&last.expected),
        });
        door.measures.state().outlook = Some(Arc::clone(&outlook));
        if door.inputs.send(Input::Outlook(outlook)).is_err() {
            return;
        }
    }
}

/// What was reckoned, and from what.
#[derive(Default)]
struct Reckoned {
    system: System,
    nearest: BTreeMap<String, Nearest>,
    expected: Arc<BTreeMap<String, Expected>>,
}

impl Reckoned {
    /// Of the same system the same is true.
    fn again(mut self, seen: &Seen) -> Self {
        let system = analysis::observed(&seen.observed());
        if system == self.system {
            return self;
        }
        self.nearest = nearest(&system);
        self.system.failed.clear();
        let sound = System {
            failed: BTreeSet::new(),
            ..system.clone()
        };
        if sound != self.system || self.expected.is_empty() {
            self.expected = Arc::new(expected(&sound, &LIMITS));
        }
        self.system = system;
        self
    }
}
