//! What the store keeps, as JSON, and under which keys.

use model::{
    Cluster, Epoch, FloatingAddress, Health, InstanceId, Millis, NodeName, Revision, RunId, ServiceName, SlotId,
    WallTime,
};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

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
    /// The process of the holder, if it had served before: let through again, it may be told what nobody else knows. Several machines only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_before: Option<RunId>,
    /// How the takeover that gave it to its holder began, several machines only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<Begun>,
}

/// How a takeover began: every node tells of it as the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// How long before its record was written it was first seen to be needed.
    pub ago_ms: Millis,
    /// Whether an operator or a rollout wanted it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub planned: bool,
    /// Who served before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<InstanceId>,
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
    /// Its port, kept over restarts while it stays free; 0 for none. Several machines: see [`Live`].
    pub port: u16,
    /// Its node shall take it away, several machines only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retiring: bool,
}

/// `member/<node>`: a machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its place: a path of failure domains such as `dc1/rack3`.
    pub zone: String,
    /// Where its instances and its agent are reached.
    pub host: IpAddr,
    /// Port of its agent's API, with mutual TLS.
    pub agent_port: u16,
    /// Whether it runs services; a witness only votes in the store.
    pub runs_services: bool,
    /// Whether it votes in the store.
    pub votes: bool,
    /// Another one for each machine: a second one of the same name is refused by it.
    pub machine: String,
    /// When it joined, for people.
    pub joined: WallTime,
    /// Its processors, in percent of one; 0 if not known.
    #[serde(default)]
    pub cpu_percent: u32,
    /// Its memory in bytes; 0 if not known.
    #[serde(default)]
    pub memory_bytes: u64,
}

/// `live/<id>`: what its node says of an instance. Void when that session is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// On which node.
    pub node: NodeName,
    /// Under which of its sessions.
    pub session: Revision,
    /// Its start.
    pub run: RunId,
    /// `waiting`, `prepared`, `starting`, `running`, `stopping` or `failed`.
    pub phase: String,
    /// Its health.
    pub health: Health,
    /// It may act as an active.
    pub acts: bool,
    /// At which epoch it was promoted.
    pub promoted: Option<Epoch>,
    /// This process served a slot once, also if it was demoted since.
    #[serde(default)]
    pub served: bool,
    /// It follows the active of that epoch.
    pub followed: Option<Epoch>,
    /// What its `standby_check` says; an empty text: it passes.
    pub stands_by: Option<String>,
    /// What it said when it was asked anew: by which number, and the answer, as in `stands_by`.
    #[serde(default)]
    pub proved: Option<(u64, String)>,
    /// Why its node cannot let it act, if that is so.
    pub unfenced: Option<String>,
    /// A hook runs.
    pub busy: bool,
    /// It is about to hand its slot over.
    #[serde(default)]
    pub leaving: bool,
    /// It runs from the file in force.
    pub current: bool,
    /// Its check was changed while it ran, and has not passed since.
    #[serde(default)]
    pub check_untried: bool,
    /// How often it died of late.
    pub deaths: u32,
    /// How often it was started again.
    pub restarts: u32,
    /// Since when all this is so, for people.
    pub since: WallTime,
    /// Why.
    pub because: String,
    /// What its last failed check said.
    pub last_failure: Option<String>,
    /// How the last of its processes ended that did so unasked, or why its node ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<String>,
    /// It took a slot and did not come to serve, and nobody else has since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_promoted: Option<NotPromoted>,
    /// Where it listens.
    pub address: Option<SocketAddr>,
    /// Its main process.
    pub pid: Option<u32>,
    /// The interface of its node that has the floating address for it.
    #[serde(default)]
    pub floating_on: Option<String>,
    /// Which one that is: it is being exchanged where the file declares another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floating: Option<FloatingAddress>,
    /// Why its node cannot have or keep the address for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_trouble: Option<AddressTrouble>,
}

/// A promotion that failed, as the node of its instance saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotPromoted {
    /// Of which slot.
    pub slot: u32,
    /// At which epoch.
    pub epoch: Epoch,
    /// What kept it from serving.
    pub what: String,
}

/// Why a floating address is not where it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressTrouble {
    /// For people.
    pub text: String,
    /// The way out.
    pub hint: String,
    /// Since when.
    pub since: WallTime,
}

/// `controller`: which agent places and replaces instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// Its node.
    pub node: NodeName,
    /// Under which session.
    pub session: Revision,
}

/// `ask/<node>/<number>`: something that only that node can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Ask {
    /// Start an instance again, from the file in force. Not answered.
    Renew {
        /// Which.
        instance: InstanceId,
    },
    /// Check an instance anew by its `standby_check`. Answered in what is told of it.
    Prove {
        /// Which.
        instance: InstanceId,
        /// By this number.
        number: u64,
    },
    /// No client of that node goes to an active any more that is about to hand its slot over. Not answered.
    Left {
        /// Which active.
        instance: InstanceId,
        /// From where.
        by: NodeName,
    },
    /// Let a slot move on. Not answered.
    Move {
        /// Of which service.
        service: ServiceName,
        /// Which.
        slot: u32,
        /// To whom; the first in line if not given.
        to: Option<InstanceId>,
        /// Whether because the node is being emptied.
        drain: bool,
    },
    /// What an operator asked of another node. Answered under `answer/<node>/<number>`.
    Switchover {
        /// As it came.
        request: crate::SwitchoverRequest,
        /// The node that waits for the answer.
        from: NodeName,
    },
    /// Likewise.
    Drill {
        /// As it came.
        request: crate::DrillRequest,
        /// The node that waits for the answer.
        from: NodeName,
    },
    /// Likewise.
    Retry {
        /// Which instance.
        instance: String,
        /// The node that waits for the answer.
        from: NodeName,
    },
}

/// `wish/park/<service>/<n>`: nobody shall hold that slot. Each claim of it compares that this is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// When it was parked.
    pub since: WallTime,
    /// By whom: the user name of the caller.
    pub by: String,
    /// Why; empty if that was not said.
    pub why: String,
}

/// `wish/paused`: why nothing is done automatically, on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Since when.
    pub since: WallTime,
    /// Who wants it so: the user name of the caller.
    pub by: String,
    /// Why; empty if that was not said.
    #[serde(default)]
    pub why: String,
}

/// `audit/<time>-<node>`: something that an operator did by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deed {
    /// When.
    pub at: WallTime,
    /// Who: the user name of the caller.
    pub by: String,
    /// Through the agent of which node.
    pub through: String,
    /// `switchover`, `drain`, `undrain`, `rebalance`, `retry`, `drill`, `park`, `unpark`, `force`, `fence`, `pause`, `resume`, `down`,
    /// `remove`, `recover` or `restore`.
    pub what: String,
    /// To what: a slot, or the cluster.
    pub about: String,
    /// In words, with what was stated.
    pub text: String,
}

/// `spec/given-up/<n>/<service>`: what the applied file of that number declares of a service does not work, and is not tried any more while
/// that file is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    /// Since when.
    pub since: WallTime,
    /// Why.
    pub why: String,
    /// How often it was tried: starts in a row that never became healthy, or slots that were taken and not kept.
    pub tries: u32,
    /// The node of the controller that gave it up, several machines only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<NodeName>,
    /// Who tried it last.
    pub instance: InstanceId,
    /// How far that came.
    pub trial: Trial,
}

/// What was tried in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trial {
    /// A process of it never became healthy.
    Start,
    /// One became healthy, took a slot, and did not keep it.
    Slot,
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
    /// Under [`WORKED`] it is kept whether it worked; programs of before kept nothing there.
    #[serde(default)]
    pub judged: bool,
}

/// The key of [`Meta`].
pub const META: &str = "meta";
/// `fence-check/<node>`: what the devices that take a node's power away said last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCheck {
    /// Which node asked.
    pub by: NodeName,
    /// Since when they say so.
    pub since: WallTime,
    /// What is wrong; nothing if all of them answered.
    pub trouble: Option<String>,
}

/// The key of the [`Applied`] in force.
pub const CURRENT: &str = "spec/current";
/// Prefix of the [`Applied`] of each revision.
pub const HISTORY: &str = "spec/history/";
/// Prefix of when a revision worked first: every service ran as its file says and passed its checks. A number of milliseconds since 1970.
pub const WORKED: &str = "spec/worked/";
/// Prefix of [`GivenUp`], by revision and service. Programs of before look at none of them, and try again.
pub const GIVEN_UP: &str = "spec/given-up/";
/// Prefix of [`Slot`]s.
pub const SLOTS: &str = "slot/";
/// Prefix of [`Instance`]s.
pub const INSTANCES: &str = "inst/";
/// Prefix of the highest instance number ever used by a service, a decimal number.
pub const NUMBERS: &str = "number/";

/// Prefix of instances that are no more: no late write brings one back, for its number is never given again. The last thousand of a
/// service are kept.
pub const GONE: &str = "gone/";

/// Key of a pause of all automatic actions: [`Paused`], or "1" from before who wanted it was kept; absent when nothing is paused.
pub const PAUSED: &str = "wish/paused";
/// Prefix of nodes that are not online: `drained` or `lost`; absent when a node is online.
pub const NODES: &str = "wish/node/";

/// Prefix of a note for each service, "1", that is written whenever one of its instances comes, shall go or goes: what was decided by their
/// number compares when that was last.
pub const COUNTS: &str = "count/";

/// Prefix of services that the operator wants rebalanced: "1"; absent when that is done.
pub const REBALANCE: &str = "wish/rebalance/";

/// Prefix of slots that nobody shall hold: [`Parked`]; absent for all others.
pub const PARKS: &str = "wish/park/";
/// Prefix of what lies below each node, by its name: [`model::hardware::Hardware`].
pub const HARDWARE: &str = "hardware/";
/// Prefix of [`DeviceCheck`]s, by node.
pub const DEVICE_CHECKS: &str = "fence-check/";
/// Prefix of [`Deed`]s; sorts by time.
pub const DEEDS: &str = "audit/";

/// Prefix of [`Member`]s.
pub const MEMBERS: &str = "member/";
/// Prefix of [`Live`]s.
pub const LIVES: &str = "live/";
/// Prefix of the slot that an instance holds: an instance holds one at most.
pub const BINDS: &str = "bind/";
/// The key of the [`Controller`].
pub const CONTROLLER: &str = "controller";
/// An agent of a version that does not tell that it is there (`there/NODE`) has a session: everybody watches all sessions while this is there.
/// Written and taken back by the controller.
pub const WHOLE: &str = "whole";
/// Prefix of [`Ask`]s, by node.
pub const ASKS: &str = "ask/";
/// Prefix of answers to [`Ask`]s, by the node that asked: an [`Outcome`](crate::Outcome).
pub const ANSWERS: &str = "answer/";
/// Prefix of what is kept of alerts; only who tells of them looks at it.
pub const ALERTS: &str = "alerts/";
/// What receivers of alerts were told.
pub const ALERTS_SENT: &str = "alerts/sent";
/// Prefix of operators' silences, by number.
pub const SILENCES: &str = "alerts/silence/";
/// Prefix of what applications keep; agents do not look at it.
pub const APPLICATIONS: &str = "app/";

/// The key of a slot.
pub fn slot_key(slot: &SlotId) -> String {
    format!("{SLOTS}{}/{}", slot.service, slot.slot)
}

/// The key under which it is written that nobody shall hold a slot.
pub fn park_key(slot: &SlotId) -> String {
    format!("{PARKS}{}/{}", slot.service, slot.slot)
}

/// The slot that such a key is about, if it is one.
pub fn park_of_key(key: &str) -> Option<SlotId> {
    slot_below(key, PARKS)
}

/// The key of what an operator did through the agent of a node; sorts by time.
pub fn deed_key(at: WallTime, through: &str) -> String {
    format!("{DEEDS}{:015}-{through}", at.0.max(0))
}

/// The slot of a key, if it is one.
pub fn slot_of_key(key: &str) -> Option<SlotId> {
    slot_below(key, SLOTS)
}

fn slot_below(key: &str, prefix: &str) -> Option<SlotId> {
    let (service, slot) = key.strip_prefix(prefix)?.split_once('/')?;
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

/// The key of when a revision worked first; sorts by revision.
pub fn worked_key(revision: u64) -> String {
    format!("{WORKED}{revision:010}")
}

/// The key under which it is written that what a revision declares of a service is given up; sorts by revision.
pub fn given_up_key(revision: u64, service: &ServiceName) -> String {
    format!("{GIVEN_UP}{revision:010}/{service}")
}

/// The revision and the service that such a key is about, if it is one.
pub fn given_up_of_key(key: &str) -> Option<(u64, ServiceName)> {
    let (revision, service) = key.strip_prefix(GIVEN_UP)?.split_once('/')?;
    Some((revision.parse().ok()?, ServiceName::new(service).ok()?))
}

/// The revision that such a key is about, if it is one.
pub fn worked_of_key(key: &str) -> Option<u64> {
    key.strip_prefix(WORKED)?.parse().ok()
}
