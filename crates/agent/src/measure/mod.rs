//! What this agent measures and remembers, and what it hears of others'.
//!
//! ```text
//!  main loop ── Look (once a second) ──► sampler: a thread of its own ──► Shared ◄── http: history, samples
//!  proxy's reports ── channel ──────────►        │
//!                                        peers: parts of other nodes, asked when wanted
//!                                        teller: alerts to receivers, if it is this node's turn
//! ```
//! The main loop never waits for any of this.

mod alerting;
mod deliver;
mod eye;
pub(crate) mod http;
mod ledgers;
pub(crate) mod limits;
mod metrics;
pub(crate) mod peers;
mod sampler;
pub(crate) mod slow;
mod teller;
mod times;
pub(crate) mod watch;
pub(crate) mod windows;

use crate::clock;
use crate::journal::Inputs;
use api::layout::Layout;
use api::proxy::{Measured, Totals};
use drivers::process::Process;
use model::{Cluster, InstanceId, NodeName, ServiceName};
use monitor::flow::Flow;
use monitor::memory::{Memory, Moment};
use peers::Peers;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use tokio::sync::watch as told_to_all;

/// What the main loop tells the sampler once a second.
pub(crate) struct Look {
    /// This machine's name among others; the first of the pretended nodes where there is one machine only.
    pub(crate) me: String,
    /// What runs here.
    pub(crate) watched: Vec<Watched>,
    pub(crate) proxy_is_up: bool,
    pub(crate) status: Arc<api::Status>,
    /// The same for others who look once a second.
    pub(crate) glance: Glance,
    pub(crate) declared: Arc<Cluster>,
    /// What an agent of several knows of the others; `None` on one machine.
    pub(crate) cluster: Option<ClusterLook>,
    /// When the file in force was applied, in milliseconds since 1970.
    pub(crate) applied_ms: Option<i64>,
    /// What happened since the last look, and the number of the newest of it.
    pub(crate) events: Vec<api::Event>,
    pub(crate) last_event: u64,
}

/// A look at everything that several share: a status takes the main loop a while.
#[derive(Clone)]
pub(crate) struct Glance {
    pub(crate) overview: Arc<crate::input::Overview>,
    pub(crate) seen: Arc<crate::analysis::Seen>,
}

/// An instance that runs here.
pub(crate) struct Watched {
    pub(crate) instance: InstanceId,
    pub(crate) node: NodeName,
    pub(crate) process: Arc<Process>,
}

/// What an agent knows of the others.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClusterLook {
    pub(crate) controller: Option<NodeName>,
    /// Whether this node is it, and may act on it.
    pub(crate) leads: bool,
    /// The store does not answer, since when, in microseconds since boot.
    pub(crate) store_lost_since: Option<u64>,
    /// The others, and where their agents answer.
    pub(crate) others: BTreeMap<NodeName, SocketAddr>,
}

/// A report of the proxy.
pub(crate) struct Report {
    pub(crate) service: ServiceName,
    pub(crate) totals: Totals,
    pub(crate) measured: Box<Measured>,
}

/// What the sampler knows, for whoever asks.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) memory: Memory,
    pub(crate) flow: Flow,
    /// What the search for bottlenecks judges.
    pub(crate) windows: windows::Windows,
    /// The last look at the main loop's state, and when it was, in microseconds since boot.
    pub(crate) look: Option<(Seen, u64)>,
    /// Time that measuring itself took on a processor, in microseconds, and how often it was done.
    pub(crate) own_cpu_us: u64,
    pub(crate) rounds: u64,
    pub(crate) alerting: alerting::Alerting,
    /// How near services are to an outage, and what is to be expected of them.
    pub(crate) outlook: Option<Arc<crate::outlook::Outlook>>,
    /// Totals of each instance that runs here.
    pub(crate) usages: BTreeMap<InstanceId, monitor::read::Usage>,
}

/// What is kept of a [`Look`].
#[derive(Clone)]
pub(crate) struct Seen {
    pub(crate) me: String,
    pub(crate) proxy_is_up: bool,
    pub(crate) status: Arc<api::Status>,
    pub(crate) declared: Arc<Cluster>,
    pub(crate) cluster: Option<ClusterLook>,
    pub(crate) applied_ms: Option<i64>,
}

/// The way to what was measured. Clones are the same.
#[derive(Clone)]
pub(crate) struct Measures {
    state: Arc<Mutex<State>>,
    reports: mpsc::Sender<Report>,
    pub(crate) peers: Peers,
    told: teller::Shared,
    glances: told_to_all::Sender<Option<Glance>>,
}

impl Measures {
    /// Begins to measure, once a second, for as long as the main loop answers.
    pub(crate) fn start(layout: &Layout, inputs: &Inputs, store: Arc<dyn store::Store>) -> Self {
        let (reports, incoming) = mpsc::channel();
        let measures = Self {
            state: Arc::default(),
            reports,
            peers: Peers::default(),
            told: teller::Shared::default(),
            glances: told_to_all::Sender::new(None),
        };
        measures.state().alerting.ledgers = ledgers::Ledgers::open(layout, moment());
        let (changes, changed) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(teller::Teller::new(measures.clone(), store, changed).run());
        let sampler = sampler::Sampler::new(layout, inputs.clone(), measures.clone(), incoming, changes);
        let runtime = tokio::runtime::Handle::current();
        let spawned = std::thread::Builder::new()
            .name("measure".into())
            .spawn(move || sampler.run(&runtime));
        if let Err(error) = spawned {
            tracing::error!(%error, "nothing is measured: no thread for it");
        }
        measures
    }

    /// Passes a report of the proxy on.
    pub(crate) fn report(&self, service: ServiceName, totals: Totals, measured: Box<Measured>) {
        // Without a sampler there is nobody to want it.
        let _ = self.reports.send(Report {
            service,
            totals,
            measured,
        });
    }

    /// The sampler's looks, once a second.
    pub(crate) fn glances(&self) -> told_to_all::Receiver<Option<Glance>> {
        self.glances.subscribe()
    }

    /// What the teller knows.
    pub(crate) fn told(&self) -> MutexGuard<'_, teller::Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Now, on both clocks.
pub(crate) fn moment() -> Moment {
    Moment {
        boot_ms: clock::now().0 / 1_000,
        wall_ms: clock::wall_now().0,
    }
}
