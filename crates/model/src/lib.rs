//! The vocabulary: names, roles, epochs, the declared service.
//!
//! Every other crate speaks these words. Nothing here does I/O, reads a clock or is random.

mod declared;
mod floating;
pub mod hardware;
mod ids;
pub mod latency;
mod mark;
mod objective;
mod power;
mod site;
pub mod template;
mod time;
pub mod timing;

pub use declared::{
    Addressing, Check, CheckKind, Cluster, Hook, HookKind, Limits, Logs, Protocol, Reserve, Restart, Service, Spread,
    StandbyMode, Stop, StopSignal,
};
pub use floating::FloatingAddress;
pub use ids::{Epoch, InstanceId, InvalidName, NodeName, Revision, RunId, ServiceName, SlotId, name_problem};
pub use mark::Mark;
pub use objective::{Alerts, Objective, Share};
pub use power::{AfterFence, FenceBy, FenceDevice, FenceRecord, FenceState, Secret, attempt_bound};
pub use site::{Place, Rate, RateKind, Reliability, Site, Switch};
pub use time::{Millis, Timestamp, WallTime};
pub use timing::{Profile, Timing};

use serde::{Deserialize, Serialize};

/// What an instance is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Holds a slot: clients' requests reach it.
    Active,
    /// Waits, rehearsed, to take a slot.
    Standby,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Role::Active => "active",
            Role::Standby => "standby",
        })
    }
}

/// What the checks of an instance say, after hysteresis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Started, not yet passed a check; failures within the start time do not count.
    Starting,
    /// Passes its checks. A service without a check is healthy while its process lives.
    Healthy,
    /// Failed `fail_after` checks in a row.
    Unhealthy,
    /// Its process does not run.
    Down,
}

impl std::fmt::Display for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Health::Starting => "starting",
            Health::Healthy => "healthy",
            Health::Unhealthy => "unhealthy",
            Health::Down => "down",
        })
    }
}

/// How a service stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// All actives and standbys are there and fit.
    Redundant,
    /// Some are missing, but at least `need` actives serve.
    Degraded,
    /// Fewer actives serve than `need`.
    Down,
}

impl std::fmt::Display for ServiceState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ServiceState::Redundant => "redundant",
            ServiceState::Degraded => "degraded",
            ServiceState::Down => "down",
        })
    }
}
