//! `GET /v1/stream`: everything once, then what changes; and `GET /v1/preview`: what an action would do.

use crate::{Event, InstanceStatus, NodeStatus, Problem, ServiceStatus, Severity, Status, Traffic};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The first message of the stream, named `snapshot`: everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// Version of this JSON.
    pub version: u32,
    /// Number of this message. The next one has the next number; who misses one connects again.
    pub seq: u64,
    /// The node that tells.
    pub node: String,
    /// What is older than this many milliseconds may be wrong by now.
    pub stale_after_ms: u64,
    /// How everything stands.
    pub status: Status,
    /// The latest events, oldest first.
    pub events: Vec<Event>,
    /// How long ago each node was heard of last, milliseconds.
    pub ages: BTreeMap<String, u64>,
    /// Where other nodes have their dashboard.
    pub peers: Vec<Peer>,
}

/// A node with a dashboard of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// Its name.
    pub node: String,
    /// `https://HOST:PORT`, without a path.
    pub url: String,
}

/// A message of the stream named `change`: what is different now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Delta {
    /// Number of this message.
    pub seq: u64,
    /// When this was true.
    pub at: String,
    /// Revision of the applied file.
    pub revision: u64,
    /// Whether automatic actions are paused, and since when.
    pub paused: Option<String>,
    /// Who paused them, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<crate::Pause>,
    /// Services that are new or different.
    pub services: Vec<ServiceDelta>,
    /// Services that are no more.
    pub gone: Vec<String>,
    /// All nodes, if one is different.
    pub nodes: Option<Vec<NodeStatus>>,
    /// All problems, if one is different.
    pub problems: Option<Vec<Problem>>,
    /// What happened since the message before, oldest first.
    pub events: Vec<Event>,
}

/// What is different of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceDelta {
    /// All of it but its instances and its traffic.
    pub service: ServiceStatus,
    /// Instances that are new or different.
    pub instances: Vec<InstanceStatus>,
    /// Instances that are no more.
    pub gone: Vec<String>,
}

/// A message of the stream named `beat`, one a second: all that was told is true at this moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Beat {
    /// Number of this message.
    pub seq: u64,
    /// When this was true.
    pub at: String,
    /// How long ago each node was heard of last, milliseconds.
    pub ages: BTreeMap<String, u64>,
    /// When it was last made sure that the distances to outage are as they are.
    #[serde(default)]
    pub distances_at: Option<String>,
    /// What this node's proxy counted, by service.
    pub traffic: BTreeMap<String, Traffic>,
}

/// Who looks at the dashboard, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Viewer {
    /// The cluster.
    pub cluster: String,
    /// The node that answers.
    pub node: String,
    /// Whether anything is shown: false before a sign-in off the machine.
    pub may_look: bool,
    /// Whether actions are taken.
    pub may_act: bool,
}

/// `POST /ui/sign-in`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignIn {
    /// The pass that `understudy dashboard` printed.
    pub pass: String,
}

/// `POST /v1/dashboard`: where the dashboard is, and with what to sign in there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DashboardLink {
    /// On this machine: `http://127.0.0.1:7400`; absent if it is switched off.
    pub local: Option<String>,
    /// From other machines, with TLS; absent on a single machine.
    pub remote: Option<String>,
    /// The certificates of the cluster's authority, in PEM, for a browser to trust; absent on a single machine.
    pub authority: Option<String>,
    /// To be put behind `/ui/sign-in#`, once, within `valid_s`.
    pub pass: String,
    /// For how many seconds.
    pub valid_s: u64,
}

/// What an action would do, before it is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Preview {
    /// Version of this JSON.
    pub version: u32,
    /// "Drain node b".
    pub title: String,
    /// Why it cannot be done; absent if it can.
    pub refused: Option<String>,
    /// How bad the worst of it is: `error` if a service goes down by it.
    pub severity: Severity,
    /// What follows, in order: who moves where, what clients notice.
    pub lines: Vec<String>,
    /// What it does to each service that it touches.
    pub effects: Vec<Effect>,
    /// How to take it back; absent if it cannot.
    pub undo: Option<String>,
}

/// What an action does to a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Effect {
    /// The service.
    pub service: String,
    /// Its state now.
    pub state: String,
    /// Its state right after, before anything was started anew.
    pub state_after: String,
    /// How many more failures take it down, now.
    pub distance: u32,
    /// And right after.
    pub distance_after: u32,
    /// Actives that are lost or move.
    pub actives: Vec<String>,
    /// Standbys that are lost or move.
    pub standbys: Vec<String>,
    /// Who takes over, in the order of the slots.
    pub heirs: Vec<String>,
}
