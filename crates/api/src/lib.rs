//! What others see: the JSON of the API, the records of the store, the protocol of the proxy.
//!
//! A field may be added at any time; a field is never renamed or given another meaning within one `VERSION`.

mod alerts;
pub mod analysis;
mod history;
pub mod layout;
mod limits;
mod live;
pub mod node;
pub mod proxy;
pub mod record;
mod status;

pub use alerts::{Alert, Alerts, ReceiverStatus, Silence, SilenceRequest};
pub use history::{History, Latencies, Measure, Part, Sample, Samples, Series, Silent, Subject};
pub use limits::{Bottleneck, Saturation, SlowService, Suspect, WindowPage};
pub use live::{Beat, DashboardLink, Delta, Effect, Peer, Preview, ServiceDelta, SignIn, Snapshot, Viewer};
pub use status::{
    Answer, ApplyRequest, Change, ChangeKind, Deed, DeedRequest, DrillRequest, Event, EventPage, Explanation, Failover,
    FailoverStep, FenceRequest, Floating, ForceRequest, GivenUpVersion, HistoryEntry, InstanceStatus, LogLine,
    NodeState, NodeStatus, Outage, Outcome, ParkRequest, Parked, Pause, PauseRequest, Plan, Problem, RollbackRequest,
    Rollout, ServiceStatus, Severity, SlotStatus, Status, Step, SwitchoverRequest, Traffic,
};

/// Version of the JSON; goes up when a program that reads the earlier one could go wrong.
pub const VERSION: u32 = 1;

/// A header by which a client says who asks; for requests whose body has no place for that.
pub const BY: &str = "understudy-by";
