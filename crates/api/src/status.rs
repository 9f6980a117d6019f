//! The JSON of the API. Times are RFC 3339 in UTC; spans carry their unit in the name.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How everything stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of this JSON.
    pub version: u32,
    /// Name of the cluster.
    pub cluster: String,
    /// When this was true.
    pub at: String,
    /// Revision of the applied file.
    pub revision: u64,
    /// The services, by name.
    pub services: Vec<ServiceStatus>,
    /// The nodes, by name.
    pub nodes: Vec<NodeStatus>,
    /// What needs somebody's attention, worst first.
    pub problems: Vec<Problem>,
    /// Whether automatic actions are paused, and since when.
    pub paused: Option<String>,
    /// Who paused them, and why; absent when nothing is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// When it was last made sure that the distances to outage are as they are; absent while only instances are counted.
    #[serde(default)]
    pub distances_at: Option<String>,
}

/// Why nothing is done automatically, on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pause {
    /// Since when.
    pub since: String,
    /// Who wants it so.
    pub by: String,
    /// Why; empty if that was not said.
    pub why: String,
}

/// How a service stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// `redundant`, `degraded` or `down`; `unknown` while the store does not answer the node that says it.
    pub state: String,
    /// Since when.
    pub since: String,
    /// Why.
    pub because: String,
    /// Declared number of actives.
    pub active: u32,
    /// Declared number of standbys.
    pub standby: u32,
    /// Actives that must serve now: as declared, but fewer while it grows and some of the new slots were never held.
    pub need: u32,
    /// Whether old actives are fenced before a new one acts.
    pub exclusive: bool,
    /// How many more failures, at least, take it down, given what has failed now; 0 is down. Counted is what `analyze` counts: instances,
    /// nodes, zones, power, switches, members of the store, proxies, externals, and what nodes share.
    pub distance_to_outage: u32,
    /// By what; absent from agents of before.
    #[serde(default)]
    pub outage: Option<Outage>,
    /// What protects it: "process death: an event, milliseconds".
    pub protection: String,
    /// Where clients come to.
    pub listen: Option<String>,
    /// The address that moves with the active; absent for a service without one.
    #[serde(default)]
    pub floating: Option<Floating>,
    /// Its places for actives.
    pub slots: Vec<SlotStatus>,
    /// Its instances.
    pub instances: Vec<InstanceStatus>,
    /// Some of its processes run from an earlier declaration.
    #[serde(default)]
    pub rolling: bool,
    /// How it goes with their replacement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// The service that it needs, that is not up, and that its instances wait for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// Instances that it wants and for which no node is left, with why, or who are where the file no longer lets them be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unplaced: Option<String>,
    /// Who takes over, best first.
    pub failover_order: Vec<String>,
    /// What the proxy counted; absent for a service without `listen`.
    pub traffic: Option<Traffic>,
}

/// How it goes with the replacement of processes that run from an earlier declaration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rollout {
    /// `under-way`; `stuck`: nothing moved for half a minute, and it goes on when it can; `given-up`: what ran before serves on, until
    /// another file is applied or somebody asks for another try.
    pub state: String,
    /// Since when; absent on a node that does not roll it out itself.
    pub since: Option<String>,
    /// What it waits for, or why it was given up; empty while it is under way.
    pub because: String,
    /// The way out; empty while it is under way.
    pub hint: String,
    /// Of one that was given up: who tried it last; its output may say more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Likewise: how often it was tried, by starts in a row or by slots that were taken and not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tries: Option<u32>,
    /// Likewise: the node of the controller that gave it up, several machines only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What takes a service down soonest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Outage {
    /// Failures of what are counted in `distance_to_outage`: the widest things, where several would do it. Empty if it is down, if only
    /// instances were counted yet, or if it takes more failures than are counted.
    pub by: Vec<String>,
    /// How many more failures of instances alone take it down; known at once.
    pub instances: u32,
}

/// An address that moves with the active.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Floating {
    /// The address with the prefix of its network, as declared.
    pub address: String,
    /// The node that has it; absent while none has.
    pub node: Option<String>,
    /// On which of its interfaces.
    pub interface: Option<String>,
}

/// A place for an active.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SlotStatus {
    /// Counted from 0.
    pub slot: u32,
    /// `serving`, `promoting`, `claiming`, `releasing`, `vacant` or `parked`. While the store does not answer: `unknown` of what other nodes
    /// hold, `frozen` of an exclusive active here that stands still.
    pub state: String,
    /// Who holds it.
    pub instance: Option<String>,
    /// On which node.
    pub node: Option<String>,
    /// Fencing token of the holder, or of the last one.
    pub epoch: u64,
    /// Since when.
    pub since: String,
    /// Why.
    pub because: String,
    /// The operator wants nobody to hold it; there as soon as that is wished for, while its holder still gives it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked: Option<Parked>,
}

/// Why nobody holds a slot, on purpose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Parked {
    /// Since when.
    pub since: String,
    /// Who wants it so.
    pub by: String,
    /// Why; empty if that was not said.
    pub why: String,
}

/// A running copy of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InstanceStatus {
    /// Its name.
    pub id: String,
    /// Where it runs.
    pub node: String,
    /// `active` or `standby`.
    pub role: String,
    /// `starting`, `healthy`, `unhealthy` or `down`.
    pub health: String,
    /// `waiting`, `starting`, `running`, `prepared` (cold standby), `stopping` or `failed`.
    pub state: String,
    /// Whether it could take over now.
    pub ready: bool,
    /// Since when it is in this state and role.
    pub since: String,
    /// Why.
    pub because: String,
    /// Its main process.
    pub pid: Option<u32>,
    /// Where it listens.
    pub address: Option<String>,
    /// How often it was started again.
    pub restarts: u32,
    /// What its last failed check said.
    pub last_failure: Option<String>,
}

/// What the proxy counted since it started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    /// Connections open now.
    pub open: u64,
    /// Requests (http) or connections (tcp) sent to an active.
    pub requests: u64,
    /// Repeated on another active.
    pub retried: u64,
    /// Had to wait for an active.
    pub held: u64,
    /// Could not be answered by any active.
    pub failed: u64,
    /// Answered by an active with a status of 500 and above.
    pub errors: u64,
}

/// Whether a node may run anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Runs instances.
    Online,
    /// Runs none by the operator's wish.
    Drained,
    /// Lost.
    Offline,
    /// Nothing is heard of it, for the store does not answer the node that was asked: how it was heard last is in the reason.
    Unknown,
}

/// How a node stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its place.
    pub zone: String,
    /// Whether it runs instances.
    pub state: NodeState,
    /// Since when.
    pub since: String,
    /// Why.
    pub because: String,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Told for the record.
    Info,
    /// Somebody should look in working hours.
    Warning,
    /// Worth waking someone.
    Error,
}

/// Something that needs attention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Name in the catalogue: `service-down`.
    pub code: String,
    /// How bad.
    pub severity: Severity,
    /// What it is about: a service, instance or node.
    pub about: String,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub hint: String,
    /// Since when.
    pub since: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Counts the events, from 1.
    pub seq: u64,
    /// When.
    pub at: String,
    /// How bad.
    pub severity: Severity,
    /// Name in the catalogue: `instance-died`, `slot-taken`, `failover`.
    pub kind: String,
    /// Of which service.
    pub service: Option<String>,
    /// Of which instance.
    pub instance: Option<String>,
    /// On which node.
    pub node: Option<String>,
    /// What happened: "promoted db-2 to active of db/0 at epoch 4".
    pub text: String,
    /// Why.
    pub because: String,
    /// The timeline of a takeover (`kind` is `failover` or `switchover`).
    pub failover: Option<Failover>,
}

/// Events after a given one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventPage {
    /// Version of this JSON.
    pub version: u32,
    /// Oldest first.
    pub events: Vec<Event>,
    /// Events before this one are no longer kept.
    pub first_seq: u64,
}

/// How a slot changed hands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Failover {
    /// Whose slot.
    pub service: String,
    /// Which slot.
    pub slot: u32,
    /// Who held it.
    pub from: Option<String>,
    /// Who holds it now.
    pub to: String,
    /// The new epoch.
    pub epoch: u64,
    /// Whether it was planned.
    pub planned: bool,
    /// From the first step to the last, microseconds.
    pub total_us: u64,
    /// What happened when, in order.
    pub steps: Vec<FailoverStep>,
}

/// One step of a takeover.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FailoverStep {
    /// Which.
    pub step: Step,
    /// Microseconds since the first step.
    pub at_us: u64,
}

/// The steps of a takeover, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The first evidence: the process's death, the last failed check; of a switchover: the request.
    Detected,
    /// Nothing of the old holder runs any more (of a switchover: it was demoted and clients are kept away).
    ConfirmedDead,
    /// The store has the new holder on disk.
    Claimed,
    /// The promote hook is through.
    Promoted,
    /// The proxy sends clients to it.
    Routed,
    /// It answered a client, or the first check after the promotion, whichever came first.
    FirstAnswer,
}

/// Why something is as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// Version of this JSON.
    pub version: u32,
    /// What was asked about.
    pub about: String,
    /// One sentence.
    pub summary: String,
    /// Facts, each with since and because.
    pub facts: Vec<String>,
    /// What happens if it, or its active, dies now.
    pub if_it_dies: Vec<String>,
    /// What one asks next: why here, why not there, why not failed over, why slow.
    #[serde(default)]
    pub answers: Vec<Answer>,
    /// The latest events about it, newest first.
    pub events: Vec<Event>,
}

/// A question, and what is known to answer it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Answer {
    /// "why here".
    pub question: String,
    /// Sentence by sentence.
    pub lines: Vec<String>,
}

/// What a file would change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// Version of this JSON.
    pub version: u32,
    /// Revision that it was made against; `apply` refuses if another one is in force by then.
    pub against: u64,
    /// In the order in which they would be carried out.
    pub changes: Vec<Change>,
    /// What the change makes worse: new single points of failure, services that come nearer to an outage.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What becomes of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It is new.
    Add,
    /// It goes away.
    Remove,
    /// Changed without touching a running process.
    Update,
    /// Its processes are replaced one by one.
    Roll,
}

/// A change to one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// The service.
    pub service: String,
    /// What becomes of it.
    pub kind: ChangeKind,
    /// Line by line: "active: 2 -> 3".
    pub details: Vec<String>,
    /// Processes that start.
    pub starts: u32,
    /// Processes that stop.
    pub stops: u32,
    /// What clients notice, if anything.
    pub risk: Option<String>,
}

/// An applied file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HistoryEntry {
    /// Its revision.
    pub revision: u64,
    /// When.
    pub at: String,
    /// Who.
    pub by: String,
    /// `up`, `apply`, `rollback to N`.
    pub how: String,
    /// What it changed, line by line.
    pub changes: Vec<String>,
    /// The file.
    pub text: String,
    /// When every service first ran as it says and passed its checks.
    #[serde(default)]
    pub worked: Option<String>,
    /// That never was so, or is not yet. Of revisions from before that was kept neither is said.
    #[serde(default)]
    pub never_worked: bool,
    /// A rollback goes there unless told otherwise: the last that worked and says something else than the one in force.
    #[serde(default)]
    pub back: bool,
    /// What it declares and was given up. Of the last hundred of these it is kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given_up: Vec<GivenUpVersion>,
}

/// What a file declares of a service, and does not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GivenUpVersion {
    /// Of which service.
    pub service: String,
    /// Since when.
    pub since: String,
    /// Why.
    pub why: String,
    /// How often it was tried: starts in a row, or slots that were taken and not kept.
    pub tries: u32,
    /// The node of the controller that gave it up, several machines only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Outcome {
    /// Version of this JSON.
    pub version: u32,
    /// Whether it was done.
    pub done: bool,
    /// What was done, or why not.
    pub text: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The takeover that it caused.
    pub failover: Option<Failover>,
}

/// `POST /v1/switchover`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SwitchoverRequest {
    /// The service.
    pub service: String,
    /// Which slot; the first if not given.
    pub slot: Option<u32>,
    /// Who shall take over; the first in the failover order if not given.
    pub to: Option<String>,
}

/// `POST /v1/park`, `POST /v1/unpark`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ParkRequest {
    /// The service.
    pub service: String,
    /// Which slot; must be given where there are several.
    pub slot: Option<u32>,
    /// Who asks.
    pub by: String,
    /// Why: shown for as long as it is parked.
    #[serde(default)]
    pub why: String,
}

/// `POST /v1/pause`, `POST /v1/resume`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PauseRequest {
    /// Who asks.
    pub by: String,
    /// Why: shown for as long as it is paused.
    #[serde(default)]
    pub why: String,
}

/// `POST /v1/fence`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FenceRequest {
    /// The node whose power is to be taken away.
    pub node: String,
    /// Only ask its devices whether it is on or off.
    #[serde(default)]
    pub test: bool,
    /// Who wants it: the user name of the caller.
    pub by: String,
}

/// `POST /v1/force`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ForceRequest {
    /// The service.
    pub service: String,
    /// Which slot; must be given where there are several.
    pub slot: Option<u32>,
    /// The node that holds it, and is off.
    pub node: String,
    /// In words: `host NODE is off`; with `give_to`, `host NODE is off and its data are lost`.
    pub statement: String,
    /// Who is to count as having the newest data, for whoever served last is lost for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub give_to: Option<String>,
    /// Who states that.
    pub by: String,
}

/// What an operator did by hand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Deed {
    /// When.
    pub at: String,
    /// Who.
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

/// `POST /v1/deeds`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeedRequest {
    /// `remove`, `recover` or `restore`.
    pub what: String,
    /// To what: a node, or the cluster.
    pub about: String,
    /// In words, with what was stated.
    pub text: String,
}

/// `POST /v1/plan`, `POST /v1/apply`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ApplyRequest {
    /// The file.
    pub text: String,
    /// Its name, for error messages.
    pub path: String,
    /// Only if this revision is in force.
    pub against: Option<u64>,
    /// Who asks.
    pub by: String,
    /// Whether this is the `up` that starts the cluster; only the history tells the difference.
    #[serde(default)]
    pub first: bool,
}

/// `POST /v1/rollback`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RollbackRequest {
    /// To which revision; the last that worked and says something else than the one in force if not given.
    pub to: Option<u64>,
    /// Who asks.
    pub by: String,
}

/// `POST /v1/drill`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DrillRequest {
    /// `node` or `instance`.
    pub what: String,
    /// Its name.
    pub name: String,
    /// A node comes back after this many milliseconds; stays away if not given.
    pub back_after_ms: Option<u64>,
}

/// A line of an instance's output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// The instance.
    pub instance: String,
    /// The line, without its end.
    pub line: String,
}
