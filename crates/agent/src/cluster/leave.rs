//! A node goes down in order: what is active moves first, the rest is stopped, the session is closed, and the agent ends.
//!
//! ```text
//!   moving ──► stopping ──► closing ──► gone
//!      │ nobody could take over, or too slow      its member of the store goes on voting
//!      └──► stopping
//! ```
//! `cluster start` brings it back: the wish that keeps instances away ends with the next agent.

use super::session::Order;
use crate::agent::{Agent, node_key};
use crate::cluster::Later;
use crate::input::Input;
use crate::recover::StartError;
use api::layout::Layout;
use api::node::Node;
use api::proxy::ToProxy;
use decisions::Event;
use drivers::process::{self, Adopted, Driver};
use model::{Millis, NodeName, Stop, StopSignal, Timestamp};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::oneshot;

/// What the wish says that keeps instances away from a node that goes down.
pub(crate) const DOWN: &str = "down";
/// Actives that have not moved by then are stopped where they are: their standbys take over as after a failure that is known at once.
const MOVED_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A session that cannot be closed runs out by itself.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);
/// Without the store it is not known how long each service wants; this is the default of the operator's file.
const STOP_TIMEOUT: Millis = Millis(10_000);

/// How far a node is with going down.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leaving {
    step: Step,
    /// When it goes on at the latest.
    by: Timestamp,
    /// When to look next.
    look: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Moving,
    Stopping,
    Closing,
}

impl Leaving {
    /// When the main loop wants to look.
    pub(crate) fn wakeup(&self) -> Timestamp {
        self.look
    }
}

impl Agent {
    /// An operator wants this node down.
    pub(crate) fn begin_leaving(&mut self, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        let me = cluster.me.clone();
        let reachable = cluster.answering.takes_writes() && cluster.session.is_some();
        cluster.leaving = Some(Leaving {
            step: Step::Moving,
            by: now + MOVED_WITHIN,
            look: now + LOOK_EVERY,
        });
        if !reachable || !self.core.holds_slots() || self.leave_others(&me, "stopped").is_err() {
            self.stop_the_rest(now);
            return;
        }
        self.wish(&node_key(&me), Some(DOWN));
        self.core.handle(Event::NodeDrained { node: me }, now);
    }

    /// Looks how far it is.
    pub(crate) fn go_on_leaving(&mut self, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        let store_lost = !cluster.answering.takes_writes();
        let Some(leaving) = &mut cluster.leaving else { return };
        leaving.look = now + LOOK_EVERY;
        let late = now >= leaving.by;
        match leaving.step {
            Step::Moving => {
                if late || store_lost || !self.core.holds_slots() {
                    self.stop_the_rest(now);
                }
            }
            // Without the store nobody can be told that slots are free; that nothing runs is all there is to do.
            Step::Stopping => {
                if store_lost && self.executor.running().next().is_none() {
                    self.close_session();
                }
            }
            Step::Closing => {}
        }
    }

    fn stop_the_rest(&mut self, now: Timestamp) {
        if let Some(leaving) = self.clustered.as_mut().and_then(|cluster| cluster.leaving.as_mut()) {
            leaving.step = Step::Stopping;
        }
        self.core.handle(Event::Shutdown, now);
    }

    /// Nothing of ours runs: the session ends (T3), so that nobody waits for it to run out.
    pub(crate) fn close_session(&mut self) {
        let Some(cluster) = &mut self.clustered else { return };
        let Some(leaving) = cluster.leaving.as_mut() else {
            return;
        };
        if std::mem::replace(&mut leaving.step, Step::Closing) == Step::Closing {
            return;
        }
        let (done, closed) = oneshot::channel();
        cluster.link.order(Order::Close(done));
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let _ = tokio::time::timeout(CLOSED_WITHIN, closed).await;
            let _ = inputs.send(Input::Later(Later::Closed));
        });
    }

    /// The name of this node, for people.
    pub(crate) fn keeper_node(&self) -> String {
        let me = self.clustered.as_ref().map(|cluster| cluster.me.to_string());
        me.unwrap_or_default()
    }
}

/// Ends what runs of this node while the store does not answer, so that it is not known what is declared.
pub(crate) async fn end_all(node: &Node, layout: &Layout) -> Result<(), StartError> {
    let driver = Driver::new(process::Config::new(&*node.cluster_id))?;
    let stop = Stop {
        signal: StopSignal::Term,
        timeout: STOP_TIMEOUT,
    };
    let mut ended = Vec::new();
    for path in crate::recover::record_files(&layout.instances()) {
        match driver.adopt(&path).await {
            Ok(Adopted::Running(process)) => {
                let stop = stop.clone();
                ended.push(tokio::spawn(async move { process.stop(&stop).await.map(drop) }));
            }
            Ok(Adopted::Gone(_)) => {}
            Err(error) => {
                tracing::warn!(error = %crate::executor::chain(&error), "an instance cannot be looked at; it is ended as a stray");
            }
        }
    }
    for one in ended {
        if let Ok(Err(error)) = one.await {
            tracing::error!(error = %crate::executor::chain(&error), "an instance cannot be ended");
        }
    }
    driver.sweep(&BTreeSet::new()).await?;
    let _ = std::fs::remove_file(layout.session());
    let socket = layout.proxy_socket();
    let proxy = proxy::client::ProxyClient::connect(&socket);
    if let Ok(Ok((mut proxy, _))) = tokio::time::timeout(Duration::from_secs(1), proxy).await {
        let told = proxy.send(&ToProxy::Shutdown { drain: Millis(0) }, None).await;
        if let Err(error) = told {
            tracing::warn!(%error, "the proxy cannot be ended");
        }
    }
    Ok(())
}

/// Whether a wish about a node is that of one that goes down by itself.
pub(crate) fn is_own_wish(how: &str, node: &NodeName, ours: Option<&Node>) -> bool {
    how == DOWN && ours.is_some_and(|ours| ours.node == *node)
}
