//! What the core wants done.

use crate::{Condemn, Reason};
use model::{Epoch, HookKind, InstanceId, Millis, NodeName, Revision, Role, RunId, ServiceName, SlotId, Timestamp};
use std::sync::Arc;

/// Something for the agent to do, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What.
    pub action: Action,
    /// Why.
    pub because: Reason,
}

impl Decision {
    pub(crate) fn note(note: Note, because: Reason) -> Self {
        Self {
            action: Action::Note(note),
            because,
        }
    }

    pub(crate) fn answer(request: u64, answer: Result<Takeover, Refusal>) -> Self {
        Self {
            action: Action::Answer { request, answer },
            because: Reason::SwitchoverAsked,
        }
    }
}

/// What is to be done. Each is answered by the event named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A new instance exists: keep its record before it is started. No answer.
    Create {
        /// Which.
        instance: InstanceId,
        /// Where.
        node: NodeName,
    },
    /// An instance is no more: forget its record. Its data stay. No answer.
    Forget {
        /// Which.
        instance: InstanceId,
        /// It is of another node: not while the store says that it holds a slot, for what we know may be old, and it may have the only copy
        /// of the data.
        theirs: bool,
        /// And not if one of these slots was written since: it may have served meanwhile, and have the only copy of the data without holding
        /// any. `Revision(0)` of one that was never written.
        judged_by: Vec<(SlotId, Revision)>,
    },
    /// Start a process. `Started` or `StartFailed`.
    Start {
        /// Which.
        instance: InstanceId,
        /// Which start.
        run: RunId,
        /// Where.
        node: NodeName,
        /// As what.
        role: Role,
        /// Its epoch if it is started as an active.
        epoch: Option<Epoch>,
        /// From this declaration, which worked, and not from the one in force, of which nobody knows yet whether it does.
        earlier: Option<Arc<model::Service>>,
    },
    /// Look a cold standby over. `Prepared`.
    Prepare {
        /// Which.
        instance: InstanceId,
        /// Where.
        node: NodeName,
    },
    /// End the whole tree of a process: politely first, or by SIGKILL at once. `Gone`, always.
    Stop {
        /// Which.
        instance: InstanceId,
        /// Which start.
        run: RunId,
        /// Whether it may finish what it does.
        polite: bool,
    },
    /// Run a hook. `HookDone`.
    RunHook {
        /// For which instance.
        instance: InstanceId,
        /// Which start.
        run: RunId,
        /// Which hook.
        hook: HookKind,
        /// Promote: the new epoch; demote: the old one; follow: that of the active.
        epoch: Epoch,
        /// Follow: whom.
        active: Option<InstanceId>,
        /// The hook of this declaration, from which its process runs and which worked; else that of the one in force.
        earlier: Option<Arc<model::Service>>,
    },
    /// Check an instance now. `Probed`.
    ProbeNow {
        /// Which.
        instance: InstanceId,
        /// Whether by its `standby_check`.
        standby: bool,
    },
    /// Another node shall check an instance anew by its `standby_check`, and report the answer by this number. No answer else.
    AskProof {
        /// Which.
        instance: InstanceId,
        /// Where.
        node: NodeName,
        /// Tells it from earlier questions.
        number: u64,
    },
    /// Before an exclusive active acts: have the guard end it should our session run out, and put its floating address on its node.
    /// `Armed`.
    Arm {
        /// Which.
        instance: InstanceId,
        /// Which start: the present one, or the next of one that is about to be started.
        run: RunId,
        /// For which slot.
        slot: SlotId,
        /// At which epoch.
        epoch: Epoch,
        /// Somebody held the slot until now, and is known to be fenced or demoted: whoever else still answers for its floating address
        /// can only be a late echo of that.
        takes_over: bool,
        /// Its slot is moved in order: nothing is lost by keeping clients back for a moment.
        moves: bool,
    },
    /// An active that stands still goes on: its slot belongs to our present session. `Armed`.
    Rebind {
        /// Which.
        instance: InstanceId,
        /// For which slot.
        slot: SlotId,
        /// At which epoch: as before.
        epoch: Epoch,
    },
    /// An instance on another node shall go away: note it with its record. No answer.
    Retire {
        /// Which.
        instance: InstanceId,
        /// Where.
        node: NodeName,
    },
    /// Tell an active's node that no client goes to it from here any more: it is about to hand its slot over. Not answered.
    TellLeft {
        /// Whom clients left.
        instance: InstanceId,
        /// Where it runs.
        node: NodeName,
    },
    /// Another node shall start an instance again, from the present declaration. No answer.
    AskRenew {
        /// Which.
        instance: InstanceId,
        /// Where.
        node: NodeName,
    },
    /// Another node shall let a slot move on. No answer.
    AskMove {
        /// Which.
        slot: SlotId,
        /// The node that holds it.
        node: NodeName,
        /// To whom; the first in line if not given.
        to: Option<InstanceId>,
        /// Whether because its node is being emptied; else because of a rollout.
        drain: bool,
    },
    /// The holder of a floating address is about to hand its slot over: part with its clients, whose connections would not move with the
    /// address. First they are served still and asked to come back on new connections; with `shut` new connections are kept back
    /// too, for whoever has the address next. `Parted`.
    Part {
        /// Who has the address.
        instance: InstanceId,
        /// Whether new connections are kept back.
        shut: bool,
    },
    /// The slot was handed over, or is not after all: whoever comes to this node is served as ever. No answer.
    Rejoin {
        /// Who had the address.
        instance: InstanceId,
    },
    /// Write a slot, if its revision is still as expected. `Committed`.
    Write(SlotWrite),
    /// Send clients there. `Routed`, `Drained`, `FirstAnswer`.
    Route {
        /// Whose clients.
        service: ServiceName,
        /// Rises.
        revision: u64,
        /// The actives.
        targets: Vec<RouteTarget>,
        /// Who is one no more, and how long its connections may go on.
        leaving: Vec<(InstanceId, Millis)>,
    },
    /// The clients' address of a service goes away. No answer.
    Unroute {
        /// Whose.
        service: ServiceName,
    },
    /// Tell people. No answer.
    Note(Note),
    /// A takeover is complete: tell people. No answer.
    Report(Takeover),
    /// Answer to a request of the operator.
    Answer {
        /// Which request.
        request: u64,
        /// What came of it.
        answer: Result<Takeover, Refusal>,
    },
    /// After `Shutdown`: nothing runs any more.
    AllStopped,
    /// What the file in force declares of a service does not work: keep that under its revision, if it is in force and this is the
    /// controller still, and nobody did. `GivenUp` when it is kept.
    GiveUp {
        /// Which service.
        service: ServiceName,
        /// Why, and after how many tries.
        given_up: crate::GivenUp,
    },
    /// What was given up is to be tried again: keep that no more, if it is kept as it was told. `GivenUp` with nothing when that is done.
    TryAgain {
        /// Which service.
        service: ServiceName,
    },
    /// The instances of a service are where they would be put today: the operator's wish is fulfilled. No answer.
    Rebalanced {
        /// Which service.
        service: ServiceName,
    },
}

/// A compare-and-swap of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotWrite {
    /// Which.
    pub slot: SlotId,
    /// Number of this attempt, kept in the record.
    pub attempt: u64,
    /// The record must have this revision; 0: must not exist.
    pub expect: Revision,
    /// Held, or released.
    pub held: bool,
    /// By whom.
    pub holder: InstanceId,
    /// In a cluster, if somebody is to act: the holder's own record must be the one that came to be at this revision. Who was forgotten
    /// meanwhile is started by nobody any more, and would hold the slot for good.
    pub placed: Option<Revision>,
    /// Where.
    pub node: NodeName,
    /// Its epoch.
    pub epoch: Epoch,
    /// Whether the holder was promoted at this epoch: clients may have been told something by it.
    pub served: bool,
    /// Who served last before, and at which epoch.
    pub data: Option<(InstanceId, Epoch)>,
    /// The process of the holder, if it had served before: let through again, it may be told what nobody else knows.
    pub served_before: Option<RunId>,
    /// Who held it until now, if somebody did.
    pub previous: Option<InstanceId>,
    /// Somebody is to act at a new epoch: not while the slot is parked.
    pub claims: bool,
    /// Number of the session of the new holder's node; none on one machine.
    pub session: Option<Revision>,
    /// These nodes must have these sessions (0: none).
    pub sessions: Vec<(NodeName, Revision)>,
    /// Ends this session with it.
    pub condemn: Option<Condemn>,
    /// How the takeover that this is part of began.
    pub begun: Option<Begun>,
}

/// How a takeover began, as its record says it to the other nodes: all tell of the same takeover.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Begun {
    /// How long before the record was written it was first seen to be needed.
    pub ago: Millis,
    /// Whether an operator or a rollout wanted it.
    pub planned: bool,
    /// Who served before.
    pub from: Option<InstanceId>,
}

/// An active to send clients to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTarget {
    /// Its slot.
    pub slot: u32,
    /// Who.
    pub instance: InstanceId,
    /// Which start of it: another process may have another address.
    pub run: RunId,
    /// Its epoch.
    pub epoch: Epoch,
}

/// How a slot changed hands. Steps that did not happen are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Takeover {
    /// Which slot.
    pub slot: SlotId,
    /// Who served before.
    pub from: Option<InstanceId>,
    /// Who holds it.
    pub to: InstanceId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Whether an operator or a rollout wanted it.
    pub planned: bool,
    /// Why.
    pub because: Reason,
    /// First evidence, or the request.
    pub detected: Timestamp,
    /// The old holder cannot act any more.
    pub confirmed: Option<Timestamp>,
    /// The new holder is on disk.
    pub claimed: Option<Timestamp>,
    /// Its hook is through.
    pub promoted: Option<Timestamp>,
    /// Clients are sent to it.
    pub routed: Option<Timestamp>,
    /// It answered.
    pub answered: Option<Timestamp>,
}

impl Takeover {
    /// How it began, for a record that is written now.
    pub(crate) fn begun(&self, now: Timestamp) -> Begun {
        Begun {
            ago: Millis(u64::try_from(now.since(self.detected).as_millis()).unwrap_or(u64::MAX)),
            planned: self.planned,
            from: self.from.clone(),
        }
    }
}

/// Why a request of the operator is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No such service.
    UnknownService {
        /// As asked.
        service: ServiceName,
    },
    /// No such slot.
    UnknownSlot {
        /// How many there are.
        slots: u32,
    },
    /// No such instance.
    UnknownInstance {
        /// As asked.
        instance: InstanceId,
    },
    /// The slot is changing hands already, or vacant.
    SlotNotServing {
        /// What it does.
        state: String,
    },
    /// It already holds the slot.
    AlreadyActive {
        /// As asked.
        instance: InstanceId,
    },
    /// Nobody could take over.
    NobodyReady {
        /// Why each standby is not ready.
        why: Vec<String>,
    },
    /// It was begun and did not succeed.
    Failed {
        /// What happened.
        what: String,
    },
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::UnknownService { service } => write!(f, "there is no service `{service}`"),
            Refusal::UnknownSlot { slots } => write!(
                f,
                "there is no such slot; they are numbered 0 to {}",
                slots.saturating_sub(1)
            ),
            Refusal::UnknownInstance { instance } => write!(f, "`{instance}` is no instance of this service"),
            Refusal::SlotNotServing { state } => write!(f, "the slot is {state}"),
            Refusal::AlreadyActive { instance } => write!(f, "`{instance}` is active already"),
            Refusal::NobodyReady { why } if why.is_empty() => f.write_str("there is no standby"),
            Refusal::NobodyReady { why } => write!(f, "no standby is ready: {}", why.join("; ")),
            Refusal::Failed { what } => f.write_str(what),
        }
    }
}

/// Something worth telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What kind of thing.
    pub kind: NoteKind,
    /// About which service.
    pub service: Option<ServiceName>,
    /// About which instance.
    pub instance: Option<InstanceId>,
    /// About which node.
    pub node: Option<NodeName>,
}

impl Note {
    pub(crate) fn about_service(kind: NoteKind, service: ServiceName) -> Self {
        Self {
            kind,
            service: Some(service),
            instance: None,
            node: None,
        }
    }

    pub(crate) fn about_instance(kind: NoteKind, instance: &InstanceId, node: &NodeName) -> Self {
        Self {
            kind,
            service: Some(instance.service().clone()),
            instance: Some(instance.clone()),
            node: Some(node.clone()),
        }
    }

    pub(crate) fn about_node(kind: NoteKind, node: NodeName) -> Self {
        Self {
            kind,
            service: None,
            instance: None,
            node: Some(node),
        }
    }
}

/// The catalogue of notes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoteKind {
    /// A process ended that nobody wanted to end.
    InstanceDied,
    /// It fails its checks.
    InstanceUnhealthy,
    /// It passes its checks (again).
    InstanceHealthy,
    /// It could not be started, or did not become healthy in time.
    StartFailed,
    /// It dies again and again.
    Flapping,
    /// It was replaced by a new instance.
    Replaced,
    /// It was given up until the time named.
    GivenUp,
    /// A hook failed.
    HookFailed,
    /// Its node cannot let it act: no guard, or its floating address is not to be had.
    NotArmed,
    /// A planned change was taken back: the old holder is promoted again.
    HandedBack,
    /// The store had a newer record of a slot than we knew; the slot is written again by that.
    SlotReread,
    /// A slot could not be written, and is written again.
    StoreFails,
    /// A slot could not be written several times in a row.
    StoreFailed,
    /// Several promotions in a row failed; the next one waits.
    PromotionsFail,
    /// Only the last holder has the data, and it is not there.
    DataHeldBack,
    /// The state of a service changed: redundant, degraded, down.
    ServiceState(model::ServiceState),
    /// All of a service's processes are of the declared kind again.
    RolloutDone,
    /// A rollout waits for something.
    RolloutStuck,
    /// A rollout does not go on by itself.
    RolloutGivenUp,
    /// A service is gone.
    ServiceRemoved,
    /// A node is lost.
    NodeLost,
    /// A node is being emptied.
    NodeDrained,
    /// A node is back.
    NodeBack,
    /// There is no node for an instance.
    Unplaced,
}
