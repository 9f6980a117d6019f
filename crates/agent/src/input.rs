//! Everything that can happen to an agent, on one screen.

use api::proxy::FromProxy;
use decisions::Event;
use drivers::process::{Process, StartError};
use model::{InstanceId, RunId, Timestamp};
use std::net::TcpListener;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Something that the main loop takes in.
pub(crate) enum Input {
    /// News for the decisions, and when it became news.
    Event(Event, Timestamp),
    /// A start came back.
    StartDone {
        instance: InstanceId,
        run: RunId,
        result: Result<Arc<Process>, StartFailure>,
    },
    /// A hook is through, and what is remembered of it is written.
    HookDone { event: Event, at: Timestamp },
    /// The proxy said something.
    Proxy(FromProxy),
    /// The connection to a proxy is there: what it serves, and its sockets.
    ProxyUp {
        fronts: Vec<(api::proxy::Front, TcpListener)>,
        pid: u32,
    },
    /// The proxy is gone; another one is being started.
    ProxyDown(crate::proxy_link::ProxyEnd),
    /// A file was written to the store, or could not be.
    /// It was written that a revision worked: for the first time or not; nothing, if it could not be.
    Worked { revision: u64, written: Option<bool> },
    /// A version is written to be given up, or not any more.
    GivenUp((u64, model::ServiceName), Option<store::Entry>),
    /// A file was written, or not.
    Applied(Box<crate::apply::Written>),
    /// Automatic actions are paused, or not any more: that is written.
    Paused(Option<api::record::Paused>),
    /// A slot is parked, or not any more: that is written.
    Parked(model::SlotId, Option<api::record::Parked>),
    /// A request of an operator.
    Request(Request),
    /// News of this node's session.
    Session(crate::cluster::session::News),
    /// The store says something new.
    Seen(crate::cluster::mirror::Seen),
    /// Something begun earlier is due or done.
    Later(crate::cluster::Later),
    /// What was asked of another node was answered, or was not in time.
    Answered { number: String, outcome: api::Outcome },
    /// How near services are to an outage was reckoned.
    Outlook(Arc<crate::outlook::Outlook>),
    /// What lies below this node was looked at.
    Hardware(Box<model::hardware::Hardware>),
    /// Something happened to a floating address.
    Address(Box<crate::addresses::News>),
    /// A floating address was exchanged for another, or could not be.
    Readdressed(Box<crate::executor::Readdressed>),
    /// The guard is gone.
    GuardGone,
    /// The sockets of this agent were taken away and made anew.
    SocketsGone,
    /// `node.json` was taken away or damaged, and written anew.
    NodeFileGone,
    /// Time to look whether the records of what runs are there.
    LookAtRecords,
    /// The node put away by a drill comes back.
    NodeBack(model::NodeName),
    /// Somebody ended us politely: the services go on.
    Terminate,
}

/// Why a start failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartFailure {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{0}")]
    Prepare(String),
}

/// What an operator asks for. Each is answered.
pub(crate) enum Request {
    /// What there is to be measured, once a second.
    Look {
        /// The last event that is known.
        after: u64,
        answer: oneshot::Sender<crate::measure::Look>,
    },
    Status(oneshot::Sender<api::Status>),
    /// All that an analysis looks at.
    Seen(oneshot::Sender<crate::analysis::Seen>),
    Events {
        after: u64,
        limit: usize,
        service: Option<String>,
        answer: oneshot::Sender<api::EventPage>,
    },
    /// Everything at once, for the dashboard.
    Overview(oneshot::Sender<Overview>),
    Preview {
        intent: crate::dashboard::Intent,
        answer: oneshot::Sender<Result<api::Preview, api::Outcome>>,
    },
    Explain {
        name: String,
        if_dies: Option<String>,
        answer: oneshot::Sender<Result<api::Explanation, api::Outcome>>,
    },
    LogFile {
        instance: String,
        answer: oneshot::Sender<Result<LogSource, api::Outcome>>,
    },
    Plan {
        request: api::ApplyRequest,
        answer: oneshot::Sender<Result<api::Plan, api::Outcome>>,
    },
    Apply {
        request: api::ApplyRequest,
        how: String,
        answer: oneshot::Sender<Result<api::Outcome, api::Outcome>>,
    },
    Switchover {
        request: api::SwitchoverRequest,
        answer: oneshot::Sender<api::Outcome>,
    },
    Drill {
        request: api::DrillRequest,
        answer: oneshot::Sender<Result<api::Outcome, api::Outcome>>,
    },
    Drain {
        node: String,
        back: bool,
        answer: oneshot::Sender<Result<api::Outcome, api::Outcome>>,
    },
    Rebalance {
        service: String,
        answer: oneshot::Sender<Result<api::Outcome, api::Outcome>>,
    },
    Pause {
        request: api::PauseRequest,
        pauses: bool,
        answer: oneshot::Sender<Result<api::Outcome, api::Outcome>>,
    },
    Retry {
        instance: String,
        answer: oneshot::Sender<Result<api::Outcome, api::Outcome>>,
    },
    /// Something was done for an operator: it is kept who asked for it.
    Note {
        by: String,
        what: &'static str,
        about: String,
        text: String,
    },
    /// A program of ours did something for an operator, without the agent.
    KeepDeed {
        by: String,
        deed: api::DeedRequest,
        answer: oneshot::Sender<Result<api::Outcome, api::Outcome>>,
    },
    Park {
        request: api::ParkRequest,
        parks: bool,
        answer: oneshot::Sender<Result<api::Outcome, api::Outcome>>,
    },
    Force {
        request: api::ForceRequest,
        answer: oneshot::Sender<Result<api::Outcome, api::Outcome>>,
    },
    Fence {
        request: api::FenceRequest,
        answer: oneshot::Sender<Result<api::Outcome, api::Outcome>>,
    },
    /// Logs to be looked at: where, how large, how many to keep.
    Rotations(oneshot::Sender<Vec<(std::path::PathBuf, u64, u32)>>),
    Down {
        by: String,
        answer: oneshot::Sender<api::Outcome>,
    },
}

impl Request {
    /// Whether it changes nothing.
    pub(crate) fn only_reads(&self) -> bool {
        match self {
            Request::Look { .. }
            | Request::Status(_)
            | Request::Seen(_)
            | Request::Events { .. }
            | Request::Overview(_)
            | Request::Preview { .. }
            | Request::Explain { .. }
            | Request::LogFile { .. }
            | Request::Plan { .. } => true,
            Request::Apply { .. }
            | Request::Switchover { .. }
            | Request::Drill { .. }
            | Request::Drain { .. }
            | Request::Rebalance { .. }
            | Request::Park { .. }
            | Request::Force { .. }
            | Request::Fence { .. }
            | Request::Pause { .. }
            | Request::Retry { .. }
            | Request::Note { .. }
            | Request::KeepDeed { .. }
            | Request::Rotations(_)
            | Request::Down { .. } => false,
        }
    }
}

/// What the dashboard shows.
pub(crate) struct Overview {
    /// When it was seen.
    pub(crate) seen: Timestamp,
    pub(crate) status: Arc<api::Status>,
    pub(crate) node: String,
    /// How long ago each node was heard of, milliseconds.
    pub(crate) ages: std::collections::BTreeMap<String, u64>,
    /// What is older may be wrong by now.
    pub(crate) stale_after_ms: u64,
    /// Dashboards of other nodes.
    pub(crate) peers: Vec<api::Peer>,
}

/// Where an instance's output is.
pub(crate) struct LogSource {
    pub(crate) path: std::path::PathBuf,
    pub(crate) keep: u32,
}

/// An answer of "no".
pub(crate) fn refused(text: impl Into<String>, hint: Option<String>) -> api::Outcome {
    api::Outcome {
        version: api::VERSION,
        done: false,
        text: text.into(),
        hint,
        failover: None,
    }
}

/// An answer of "done".
pub(crate) fn done(text: impl Into<String>) -> api::Outcome {
    api::Outcome {
        version: api::VERSION,
        done: true,
        text: text.into(),
        hint: None,
        failover: None,
    }
}
