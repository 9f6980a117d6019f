//! What the core is told.

use crate::{Begun, ClusterEvent, GivenUp, Parked, Paused, Reason};
use model::{Cluster, Epoch, HookKind, InstanceId, NodeName, Revision, RunId, ServiceName, SlotId, Timestamp};

/// Something that happened. Events about a process carry its run, so that late news of an earlier one is ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The time asked for by `next_wakeup` has come.
    Tick,
    /// The agent came (back) up: what the store and the machine say. Before it only `NodeLost`, `NodeDrained`, `Paused`, `Parked` and `GivenUp`,
    /// for what was so when the last agent died: nothing must be started where nothing may run. Hooks of an earlier agent have ended.
    Recovered(Recovered),
    /// This file is in force from now on.
    Applied(Cluster),
    /// Automatic actions stop: since when, who wants it and why; nothing: they go on.
    Paused(Option<Paused>),
    /// The operator wants nobody to hold a slot (or somebody again).
    Parked {
        /// Which.
        slot: SlotId,
        /// Since when, who and why; nothing: it is not parked any more.
        parked: Option<Parked>,
    },
    /// What the file in force declares of a service is given up, as the store says, or not any more.
    GivenUp {
        /// Which service.
        service: ServiceName,
        /// Why, if it is.
        given_up: Option<GivenUp>,
    },
    /// Everything worked as the file in force declares it, as another agent found out and wrote down.
    Works,
    /// Stop everything, in reverse start order.
    Shutdown,
    /// A node is lost with all that ran on it; `Gone` follows for each of its instances.
    NodeLost {
        /// Which.
        node: NodeName,
        /// How we know.
        because: Reason,
    },
    /// The operator wants nothing to run on a node.
    NodeDrained {
        /// Which.
        node: NodeName,
    },
    /// A node may run instances again.
    NodeBack {
        /// Which.
        node: NodeName,
        /// Why.
        because: Reason,
    },
    /// A start succeeded: the process runs.
    Started {
        /// Which.
        instance: InstanceId,
        /// Which start.
        run: RunId,
    },
    /// A start failed; nothing runs.
    StartFailed {
        /// Which.
        instance: InstanceId,
        /// Which start.
        run: RunId,
        /// What went wrong.
        error: String,
    },
    /// A cold standby was looked over.
    Prepared {
        /// Which.
        instance: InstanceId,
        /// Whether it could be started.
        result: Result<(), String>,
    },
    /// The main process ended; others of its tree may still run.
    Exited {
        /// Which.
        instance: InstanceId,
        /// Which start.
        run: RunId,
        /// "exit code 1", "killed by SIGKILL".
        how: String,
    },
    /// Nothing of the instance runs any more.
    Gone {
        /// Which.
        instance: InstanceId,
        /// Which start.
        run: RunId,
    },
    /// A check came back.
    Probed {
        /// Which.
        instance: InstanceId,
        /// Which start.
        run: RunId,
        /// Whether it was the `standby_check`.
        standby: bool,
        /// When it began.
        began: Timestamp,
        /// What it said.
        outcome: ProbeOutcome,
    },
    /// A hook ended.
    HookDone {
        /// Which.
        instance: InstanceId,
        /// Which start.
        run: RunId,
        /// Which hook.
        hook: HookKind,
        /// For which epoch it ran.
        epoch: Epoch,
        /// How it went.
        outcome: HookOutcome,
    },
    /// A write of a slot was answered.
    Committed {
        /// Which slot.
        slot: SlotId,
        /// Which attempt.
        attempt: u64,
        /// What became of it.
        result: Commit,
    },
    /// The proxy follows a route.
    Routed {
        /// Whose.
        service: ServiceName,
        /// Which.
        revision: u64,
        /// Since when.
        at: Timestamp,
    },
    /// The proxy lost what it knew (it was started anew): routes must be sent again.
    ProxyReset {
        /// Whose route.
        service: ServiceName,
        /// The revision that it follows nevertheless, from an earlier agent; 0 if none. The next one is above it.
        revision: u64,
    },
    /// Nothing is connected to an instance any more that is no target.
    Drained {
        /// Which.
        instance: InstanceId,
    },
    /// Clients of a floating address were parted from its node: with `shut` none is connected any more, else none of those that were
    /// connected when it began.
    Parted {
        /// Who has the address.
        instance: InstanceId,
        /// As in the action.
        shut: bool,
    },
    /// A new active answered a client.
    FirstAnswer {
        /// Which.
        instance: InstanceId,
        /// At which epoch.
        epoch: Epoch,
        /// When.
        at: Timestamp,
    },
    /// The proxy could not reach a target: evidence, checked at once.
    Suspected {
        /// Which.
        instance: InstanceId,
    },
    /// The operator wants another instance to hold a slot. Answered by `Action::Answer`.
    Switchover {
        /// Number of the request.
        request: u64,
        /// Which service.
        service: ServiceName,
        /// Which slot; the first if not given.
        slot: Option<u32>,
        /// Who; the first in the failover order if not given.
        to: Option<InstanceId>,
    },
    /// The operator wants the instances of a service where they would be put today; or not any more.
    Rebalance {
        /// Which service.
        service: ServiceName,
        /// Whether it is wished for.
        asked: bool,
    },
    /// The guard will end an instance should our session run out; or it cannot, and then the instance may not act.
    Armed {
        /// Which.
        instance: InstanceId,
        /// At which epoch.
        epoch: Epoch,
        /// Why not.
        result: Result<(), String>,
    },
    /// What the other nodes do.
    Cluster(ClusterEvent),
    /// The operator wants an instance that was given up to be tried again now.
    Retry {
        /// Which.
        instance: InstanceId,
    },
}

impl Event {
    /// The service that an event is about, if it is about one.
    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            Event::Tick
            | Event::Recovered(_)
            | Event::Applied(_)
            | Event::Paused(_)
            | Event::Parked { .. }
            | Event::GivenUp { .. }
            | Event::Works
            | Event::Shutdown
            | Event::NodeLost { .. }
            | Event::NodeDrained { .. }
            | Event::NodeBack { .. }
            | Event::Cluster(_) => None,
            Event::Started { instance, .. }
            | Event::StartFailed { instance, .. }
            | Event::Prepared { instance, .. }
            | Event::Exited { instance, .. }
            | Event::Gone { instance, .. }
            | Event::Probed { instance, .. }
            | Event::HookDone { instance, .. }
            | Event::Drained { instance }
            | Event::Parted { instance, .. }
            | Event::FirstAnswer { instance, .. }
            | Event::Suspected { instance }
            | Event::Armed { instance, .. }
            | Event::Retry { instance } => Some(instance.service()),
            Event::Committed { slot, .. } => Some(&slot.service),
            Event::Routed { service, .. }
            | Event::ProxyReset { service, .. }
            | Event::Switchover { service, .. }
            | Event::Rebalance { service, .. } => Some(service),
        }
    }
}

/// What a check said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// The instance works.
    Pass,
    /// It does not: why.
    Fail(String),
    /// We were too late ourselves to judge.
    Unsure,
}

impl ProbeOutcome {
    /// Whether it passed; nothing if that is not known.
    pub fn verdict(&self) -> Option<bool> {
        match self {
            ProbeOutcome::Pass => Some(true),
            ProbeOutcome::Fail(_) => Some(false),
            ProbeOutcome::Unsure => None,
        }
    }
}

/// How a hook went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookOutcome {
    /// Exit code 0.
    Done,
    /// Anything else: what.
    Failed(String),
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commit {
    /// It is on disk; the slot's revision is now this.
    Done(Revision),
    /// The slot was not as expected: this is what the store has (nothing: no such slot).
    Conflict(Option<Box<SlotKnown>>),
    /// It was not written, or nobody knows: what went wrong. The slot is read again before the next attempt.
    Failed(String),
}

/// A slot as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotKnown {
    /// Which.
    pub slot: SlotId,
    /// Whether somebody holds it.
    pub held: bool,
    /// Who holds it, or held it last.
    pub holder: InstanceId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Revision of the record.
    pub revision: Revision,
    /// The attempt that wrote it.
    pub attempt: u64,
    /// Where.
    pub node: NodeName,
    /// Under which session of that node; none on one machine.
    pub session: Option<Revision>,
    /// Whether the holder was promoted at this epoch.
    pub served: bool,
    /// Who served last before, and at which epoch, if that is written.
    pub data: Option<(InstanceId, Epoch)>,
    /// The process of the holder when it was given the slot, if it had served before.
    pub served_before: Option<RunId>,
    /// Why it is held.
    pub because: String,
    /// How the takeover that gave it to its holder began.
    pub begun: Option<Begun>,
    /// Since when it is so, for people.
    pub since: Timestamp,
}

/// What an agent finds when it comes up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The file in force.
    pub cluster: Cluster,
    /// The last file as which everything worked: the one in force, or one before it. Nothing, if that is not known.
    pub worked: Option<Box<Cluster>>,
    /// The slots, also of services that are no longer declared.
    pub slots: Vec<SlotKnown>,
    /// The instances that exist, running or not, also of services that are no longer declared: those are taken away.
    pub instances: Vec<Adopted>,
    /// Highest instance number ever used, by service.
    pub numbers: Vec<(ServiceName, u32)>,
    /// Revisions of the routes that the proxy follows.
    pub routes: Vec<(ServiceName, u64)>,
    /// What the other nodes of a cluster do.
    pub elsewhere: Vec<ClusterEvent>,
}

/// An instance found when the agent came up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// Which.
    pub instance: InstanceId,
    /// Where.
    pub node: NodeName,
    /// Its last start; of a running one the present one.
    pub run: RunId,
    /// Whether anything of it runs. If the main process is gone and others of its tree are not, `Exited` follows.
    pub running: bool,
    /// Whether it was started from what is declared now.
    pub current: bool,
    /// Epoch at which this process became active: by its promote hook, by having been started so, or without either by being sent
    /// clients; and it was not demoted since. An active of which that was not noted claims its slot anew, at a higher epoch.
    pub promoted: Option<Epoch>,
    /// Epoch at which this process may act as an active: its promote hook was begun, or it is active, and no demotion went through since.
    /// An agent that died within a hook cannot know how far that came.
    pub acts: Option<Epoch>,
    /// Whether this process was active once, also if it was demoted since: a proxy that heard of nothing since still sends clients to it.
    pub served: bool,
    /// Epoch of the active that this process follows: its follow hook went through.
    pub followed: Option<Epoch>,
    /// What its standby check said last, not long before the earlier agent died.
    pub stands_by: Option<bool>,
    /// Whether this process passed its check once, or has none: if not, it is still starting.
    pub healthy: bool,
    /// Since when it is what it is, if that was noted.
    pub since: Option<Timestamp>,
}
