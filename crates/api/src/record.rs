//! What the store keeps, as JSON, and under which keys.

use model::{Cluster, Epoch, InstanceId, Millis, NodeName, Revision, ServiceName, SlotId, WallTime};
use serde::{Deserialize, Serialize};

/// Version of the records; a store written by a newer one is refused.
pub const FORMAT: u32 = 1;

/// `meta`: whose store this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Random, 128 bits in hex: two clusters of one name are still two.
    pub cluster_id: String,
    /// Raised by `recover`; upper part of every epoch.
    pub generation: u32,
    /// [`FORMAT`].
    pub format: u32,
}

/// `slot/<service>/<n>`: who may act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Held or released.
    pub state: SlotState,
    /// Who holds it, or held it last.
    pub holder: InstanceId,
    /// Where.
    pub node: NodeName,
    /// Fencing token of the holder.
    pub epoch: Epoch,
    /// Which attempt wrote this: a writer that lost the answer finds itself.
    pub attempt: u64,
    /// When, for people.
    pub since: WallTime,
    /// Why.
    pub because: String,
    /// Under which session of that node, several machines only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Revision>,
    /// Whether the holder was promoted at this epoch, several machines only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub served: bool,
    /// Who served last before, and at which epoch, several machines only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<(InstanceId, Epoch)>,
    /// How long before this was written the takeover was first seen to be needed, several machines only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detected_ago_ms: Option<Millis>,
}

/// State of a slot in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotState {
    /// The holder may act.
    Held,
    /// Nobody may act; the last holder is known to be stopped.
    Released,
}

/// `inst/<id>`: an instance that exists, running or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// On which node.
    pub node: NodeName,
    /// Its port, kept over restarts while it stays free; 0 for none.
    pub port: u16,
}

/// `spec/current` and `spec/<n>`: an applied file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Counts the applied files, from 1.
    pub revision: u64,
    /// When, for people.
    pub at: WallTime,
    /// Who: the user name of the caller.
    pub by: String,
    /// What it was: "up", "apply", "rollback to 3".
    pub how: String,
    /// The file as written by the operator.
    pub text: String,
    /// Where it lay: relative programs are taken from its folder.
    pub path: String,
    /// The same, resolved.
    pub cluster: Cluster,
}

/// The key of [`Meta`].
pub const META: &str = "meta";
/// The key of the [`Applied`] in force.
pub const CURRENT: &str = "spec/current";
/// Prefix of the [`Applied`] of each revision.
pub const HISTORY: &str = "spec/history/";
/// Prefix of [`Slot`]s.
pub const SLOTS: &str = "slot/";
/// Prefix of [`Instance`]s.
pub const INSTANCES: &str = "inst/";
/// Prefix of the highest instance number ever used by a service, a decimal number.
pub const NUMBERS: &str = "number/";

/// Key of an automatic action's pause: its value is "1"; absent when nothing is paused.
pub const PAUSED: &str = "wish/paused";
/// Prefix of nodes that are not online: `drained` or `lost`; absent when a node is online.
pub const NODES: &str = "wish/node/";

/// The key of a slot.
pub fn slot_key(slot: &SlotId) -> String {
    format!("{SLOTS}{}/{}", slot.service, slot.slot)
}

/// The slot of a key, if it is one.
pub fn slot_of_key(key: &str) -> Option<SlotId> {
    let (service, slot) = key.strip_prefix(SLOTS)?.split_once('/')?;
    Some(SlotId {
        service: ServiceName::new(service).ok()?,
        slot: slot.parse().ok()?,
    })
}

/// The key of an instance.
pub fn instance_key(instance: &InstanceId) -> String {
    format!("{INSTANCES}{instance}")
}

/// The key of an applied file; sorts by revision.
pub fn history_key(revision: u64) -> String {
    format!("{HISTORY}{revision:010}")
}
