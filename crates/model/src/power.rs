//! Power fencing: by which devices a node's power is taken away, and what the store keeps of it.

use crate::{Millis, NodeName, Revision, WallTime};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What keeps the old holder of a slot from acting, or from writing, when its node is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FenceBy {
    /// The lease of its node, kept by that node's own guard.
    #[default]
    Lease,
    /// Besides, its node is known to write no more: its power was seen to be off, or it said so itself. For storage that several nodes share.
    Power,
}

/// What becomes of a node that was fenced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AfterFence {
    /// It gets its power back as soon as it is noted that it was off.
    #[default]
    On,
    /// It stays off until somebody has looked at it.
    StayOff,
}

/// A device that can take a node's power away, driven by a fence agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceDevice {
    /// The program: a name such as `fence_ipmilan`, or an absolute path.
    pub agent: String,
    /// What it is told, beside the action.
    pub parameters: BTreeMap<String, String>,
    /// The same, but where each value is found: none of these is ever kept or shown.
    pub secrets: BTreeMap<String, Secret>,
    /// How long one call may take, 1 s to 10 min.
    pub timeout: Millis,
    /// Power feeds of the device itself, of which any one is enough.
    pub feeds: BTreeSet<String>,
}

/// Where a secret is found, on whichever node fences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Secret {
    /// The first line of this file.
    File(String),
    /// This variable of the agent's environment.
    Env(String),
}

/// `fence/NODE` in the store: how far the fencing of a node is. One record per node, so that whoever opens a session for it compares it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceRecord {
    /// σ: the session that is to be ended by it. No other one is ever meant.
    pub session: Revision,
    /// How far it is.
    pub state: FenceState,
    /// The node that does it.
    pub by: NodeName,
    /// The session of that node: if it is another by now, nobody does it.
    pub under: Revision,
    /// How long the attempt may take: what its fencer has not begun by then, he does not begin any more.
    pub bound: Millis,
    /// Attempts so far, this one included.
    pub tries: u32,
    /// The latest session of the node that is known to be of no effect any more; 0 if none is. Never decreases.
    pub proven: Revision,
    /// Why it is fenced, in words.
    pub because: String,
    /// When this was written, for people.
    pub at: WallTime,
}

/// How far the fencing of a node is.
///
/// ```text
///   (absent, done, withdrawn) ── intent ──► powering ── off, read back ──► off ── settled, given back ──► done
///                                           ▲      │
///                                 next try  │      ▼                 the node opens a session
///                                           └── failed ─────────────────────► withdrawn
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FenceState {
    /// Its power is being taken away: it may not open a session meanwhile.
    Powering,
    /// That did not succeed: why. It is tried again.
    Failed(String),
    /// All its devices said that it is off. It gets its power back in a moment, if that is declared, and may not open a session before.
    Off,
    /// Nothing is left to be done.
    Done,
    /// It opened another session, so nothing of the one that was meant is left.
    Withdrawn,
}

/// How long an attempt with these devices takes at most: each is told once, and read a few times; then what was told has a moment to happen.
pub fn attempt_bound(devices: &[FenceDevice]) -> Millis {
    let each = devices.iter().map(|device| 2 * device.timeout.0 + 10_000);
    Millis(each.sum::<u64>() + 10_000)
}

impl FenceRecord {
    /// Whether a session is known to have no effect any more.
    pub fn proves(&self, session: Revision) -> bool {
        session <= self.proven
    }

    /// Whether somebody may be at its power right now, to take it away or to give it back.
    pub fn is_under_way(&self) -> bool {
        matches!(self.state, FenceState::Powering | FenceState::Off)
    }
}

impl FenceDevice {
    /// Program and address, for people: never a secret.
    pub fn shown(&self) -> String {
        let address = ["ip", "ipaddr", "plug", "port"]
            .iter()
            .filter_map(|name| self.parameters.get(*name));
        let address: Vec<&str> = address.map(String::as_str).collect();
        match address.as_slice() {
            [] => self.agent.clone(),
            address => format!("{} at {}", self.agent, address.join(" ")),
        }
    }
}
