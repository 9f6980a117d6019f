//! What an agent of a cluster knows of the others: who has a session, whose has run out, what each says of its instances.
//!
//! One machine has none of this: there every node is ours, nothing expires, and we are the controller.
//!
//! ```text
//! a slot is   ours     its holder runs here, under our session: we end it, hand it over, promote it
//!             open     released, or its holder's session is gone or has run out: the first in line claims it
//!             theirs   held elsewhere: we send clients there and wait
//! ```

use crate::view::InstancePhase;
use crate::{Place, Reason, SlotKnown};
use model::{Epoch, Health, InstanceId, NodeName, Revision, RunId, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// An instance on a lost node is replaced elsewhere after this long: a machine that only restarts is back by then, with its data.
pub(crate) const LOST_GRACE: Duration = Duration::from_secs(5);

/// What was to be written about an instance, and is not seen in the store after this long, is written again.
pub(crate) const WRITE_AGAIN: Duration = Duration::from_secs(5);

/// What the store and the session clocks say. Only a core made by [`Core::clustered`](crate::Core::clustered) hears it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterEvent {
    /// Our own session: open under this number, or lost. Once lost, nothing exclusive of ours may act.
    OwnSession(Option<Revision>),
    /// Our own session is lost, and all that is exclusive of ours stands still, frozen and gated by the guard: who served may go on under the
    /// next session, if nobody took its slot.
    OwnSessionKept,
    /// Whether our exclusive actives stand still until the store answers: that they do not answer checks meanwhile says nothing of them.
    Still(bool),
    /// Another node's session: open under this number, or gone.
    Session {
        /// Whose.
        node: NodeName,
        /// Which.
        session: Option<Revision>,
    },
    /// When the last renewal of a session was seen: told before it is told that it has run out, or is gone. What standbys of its holders
    /// failed since then says nothing of them: they had nobody to follow any more.
    Silent {
        /// Whose.
        node: NodeName,
        /// Which.
        session: Revision,
        /// Since when.
        since: Timestamp,
    },
    /// No renewal of a session was seen for the whole wait, and our own writes succeed: whoever claims may condemn it.
    Expired {
        /// Whose.
        node: NodeName,
        /// Which.
        session: Revision,
        /// Its last renewal.
        modified: Revision,
    },
    /// A session of a node, and all before it, has no effect any more, whatever becomes of the node: its power was off, or it said so itself.
    Proven {
        /// Whose.
        node: NodeName,
        /// The latest.
        session: Revision,
    },
    /// A session of a node has ended, and how: told before it is told that it is gone. For people: nothing is decided by it.
    Ended {
        /// Whose.
        node: NodeName,
        /// Which.
        session: Revision,
        /// Its node gave it back: an operator took it down.
        in_order: bool,
    },
    /// It was renewed after all.
    Renewed {
        /// Whose.
        node: NodeName,
    },
    /// Whether we are the controller.
    Controller(bool),
    /// A machine belongs to the cluster (no more).
    Member {
        /// Which.
        node: NodeName,
        /// Whether it runs services: a witness does not.
        runs_services: bool,
        /// Whether it is one.
        member: bool,
        /// Where it stands, and what it has to give.
        place: Place,
    },
    /// A slot as the store has it now.
    Slot(SlotKnown),
    /// An instance shall exist.
    Assigned {
        /// Which.
        instance: InstanceId,
        /// Where.
        node: NodeName,
        /// It shall go away.
        retiring: bool,
        /// The revision at which its record came to be.
        placed: Revision,
    },
    /// An instance is no more.
    Unassigned {
        /// Which.
        instance: InstanceId,
    },
    /// What its node says of an instance.
    Reported(Report),
    /// From that node no client goes to an active of ours any more.
    Left {
        /// Which active.
        instance: InstanceId,
        /// From where.
        by: NodeName,
    },
    /// The controller wants an instance of ours started again, from the present declaration.
    RenewAsked {
        /// Which.
        instance: InstanceId,
    },
    /// Another node wants to hand a slot to an instance of ours: does its standby check pass now?
    ProofAsked {
        /// Which.
        instance: InstanceId,
        /// The number that the report is to carry.
        number: u64,
    },
    /// The controller wants a slot of ours to move on.
    MoveAsked {
        /// Which service.
        service: model::ServiceName,
        /// Which slot.
        slot: u32,
        /// To whom; the first in line if not given.
        to: Option<InstanceId>,
        /// Whether because its node is being emptied; else because of a rollout.
        drain: bool,
    },
}

impl ClusterEvent {
    /// Something is to be done, as opposed to news of what is.
    pub(crate) fn is_asked(&self) -> bool {
        matches!(
            self,
            Self::Left { .. } | Self::RenewAsked { .. } | Self::ProofAsked { .. } | Self::MoveAsked { .. }
        )
    }
}

/// What a node says of one of its instances: all that others decide by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which.
    pub instance: InstanceId,
    /// Where.
    pub node: NodeName,
    /// Under which session; void once that is gone.
    pub session: Revision,
    /// Its start.
    pub run: RunId,
    /// What its process does.
    pub phase: InstancePhase,
    /// Its health.
    pub health: Health,
    /// It may act as an active.
    pub acts: bool,
    /// At which epoch it was promoted.
    pub promoted: Option<Epoch>,
    /// This process served a slot once, also if it was demoted since.
    pub served: bool,
    /// Whom it follows: the active of that epoch.
    pub followed: Option<Epoch>,
    /// What its `standby_check` says.
    pub stands_by: Option<Result<(), String>>,
    /// What it said when it was asked anew: by which number, and the answer.
    pub proved: Option<(u64, Result<(), String>)>,
    /// Why its node cannot fence it, if that is so.
    pub unfenced: Option<String>,
    /// A hook runs.
    pub busy: bool,
    /// It is about to hand its slot over: clients are to be kept away from it, and its node told when they are.
    pub leaving: bool,
    /// It runs from the present declaration.
    pub current: bool,
    /// Its check was changed while it ran, and has not passed since.
    pub check_untried: bool,
    /// How often it died of late.
    pub deaths: u32,
    /// How often it was started again.
    pub restarts: u32,
    /// Since when all this is so, on the clock of who is told.
    pub since: Timestamp,
    /// Why.
    pub because: String,
    /// What its last failed check said.
    pub last_failure: Option<String>,
    /// How the last of its processes ended that did so unasked, or why its node ended it.
    pub last_end: Option<String>,
    /// It took a slot and did not come to serve, and nobody else has since. For people: nothing is decided by it.
    pub not_promoted: Option<NotPromoted>,
}

/// A promotion that failed, as the node of its instance saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotPromoted {
    /// Of which slot.
    pub slot: u32,
    /// At which epoch.
    pub epoch: Epoch,
    /// What kept it from serving.
    pub what: String,
}

/// Ends another's session with a claim, if it was not renewed since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condemn {
    /// Whose.
    pub node: NodeName,
    /// Which.
    pub session: Revision,
    /// The last renewal seen.
    pub modified: Revision,
}

/// What is known of another node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    pub(crate) session: Option<Revision>,
    pub(crate) expired: Option<Revision>,
    /// The session of which the last renewal was seen then.
    pub(crate) silent: Option<(Revision, Timestamp)>,
    pub(crate) runs_services: bool,
    /// The latest of its sessions that ended, as far as that was told, and whether it was given back.
    pub(crate) ended: Option<(Revision, bool)>,
}

/// The cluster as one of its agents sees it.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    pub(crate) me: NodeName,
    pub(crate) session: Option<Revision>,
    /// Our exclusive actives stand still.
    pub(crate) still: bool,
    pub(crate) controller: bool,
    pub(crate) others: BTreeMap<NodeName, Peer>,
    /// The latest session of each node that is known to have no effect any more.
    pub(crate) proven: BTreeMap<NodeName, Revision>,
    /// Each rank of the failover order waits this long for the one before it.
    pub(crate) stagger: Duration,
}

/// How we stand to a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hold {
    /// We decide about it.
    Ours,
    /// Nobody holds it who could act; claiming it may have to end a session.
    Open(Option<Condemn>),
    /// Its holder's node is lost, and may still write: nobody decides about it before that is known.
    Unproven,
    /// Another node decides about it.
    Theirs,
}

impl Peers {
    /// Other nodes that live and have a proxy.
    pub(crate) fn living_others(&self) -> impl Iterator<Item = &NodeName> {
        let there = |(node, peer): &(&NodeName, &Peer)| peer.runs_services && self.lives(node);
        self.others.iter().filter(there).map(|(node, _)| node)
    }

    /// Whether a node's session is there and has not run out.
    pub(crate) fn lives(&self, node: &NodeName) -> bool {
        if *node == self.me {
            return self.session.is_some();
        }
        self.others
            .get(node)
            .is_some_and(|peer| peer.session.is_some() && peer.expired.is_none())
    }

    /// The number of a node's session; 0 if it has none, as the store compares it.
    pub(crate) fn session_of(&self, node: &NodeName) -> Revision {
        let session = if *node == self.me {
            self.session
        } else {
            self.others.get(node).and_then(|peer| peer.session)
        };
        session.unwrap_or_default()
    }

    /// When the last renewal of a session that was lost was seen, if that was told.
    pub(crate) fn silent_since(&self, node: &NodeName, session: Option<Revision>) -> Option<Timestamp> {
        let (silent, since) = self.others.get(node)?.silent?;
        (Some(silent) == session).then_some(since)
    }

    /// The same for a slot of which nothing may be taken from a lost node that may still write: one that shares storage.
    pub(crate) fn hold_proven(&self, node: &NodeName, session: Revision) -> Hold {
        let hold = self.hold(node, session);
        let open = matches!(hold, Hold::Open(_)) && *node != self.me;
        match open && self.is_unproven(node, session) {
            true => Hold::Unproven,
            false => hold,
        }
    }

    /// Whether what ran at a node under a session that is lost may still write. A node that opened another session since had ended all of it,
    /// or has it stand still.
    fn is_unproven(&self, node: &NodeName, session: Revision) -> bool {
        let proven = self.proven.get(node).is_some_and(|proven| session <= *proven);
        let now = self.session_of(node);
        let is_back = now != session && now != Revision::default();
        !proven && !is_back
    }

    /// How we stand to a slot that is held at `node` under `session`.
    pub(crate) fn hold(&self, node: &NodeName, session: Revision) -> Hold {
        if self.session_of(node) != session {
            return Hold::Open(None);
        }
        if *node == self.me {
            return Hold::Ours;
        }
        match self.others.get(node).and_then(|peer| peer.expired) {
            Some(modified) => Hold::Open(Some(Condemn {
                node: node.clone(),
                session,
                modified,
            })),
            None => Hold::Theirs,
        }
    }
}

/// Why a node is not there.
pub(crate) fn lost_because(peers: &Peers, node: &NodeName) -> Reason {
    match peers.others.get(node) {
        Some(peer) if peer.session.is_some() => Reason::SessionExpired { node: node.clone() },
        Some(peer) if peer.ended.is_some_and(|(_, in_order)| in_order) => Reason::WentDown { node: node.clone() },
        _ => Reason::SessionEnded { node: node.clone() },
    }
}
