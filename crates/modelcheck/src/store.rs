//! The store: records with revisions, changed by one atomic transaction at a time.

use crate::config::{Config, Mutation};
use crate::{InstanceId, NodeId, SlotId, Step};
use decisions::lease::txn::{Compare, From, Key, Transition, Write};
use model::Revision;

/// All records.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Store {
    /// The last revision.
    pub revision: Revision,
    /// By node.
    pub sessions: Vec<Option<Session>>,
    /// By slot.
    pub slots: Vec<Slot>,
    /// By instance; each node has the one of its number.
    pub instances: Vec<Instance>,
    /// By slot: since which revision nobody shall hold it.
    pub parked: Vec<Option<Revision>>,
}

/// A session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Session {
    /// σ.
    pub created: Revision,
    /// Its last renewal.
    pub modified: Revision,
    /// Which process of the agent wrote it.
    pub agent: u8,
    /// Its node's boot.
    pub boot: u8,
}

/// A slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Its last change.
    pub modified: Revision,
    /// Node and session that hold it.
    pub holder: Option<(NodeId, Revision)>,
    /// The last epoch it was held at.
    pub epoch: u8,
    /// Who wrote it, and which of its attempts.
    pub attempt: (NodeId, u8),
}

/// Who makes a transaction.
#[derive(Debug, Clone, Copy)]
pub struct By {
    /// Its process of the agent.
    pub agent: u8,
    /// Its boot.
    pub boot: u8,
    /// Its node, and which of its attempts.
    pub attempt: (NodeId, u8),
    /// The epoch of its instance when it was sent.
    pub epoch: u8,
}

/// An instance as announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Instance {
    /// Its last change.
    pub modified: Revision,
    /// The session of its node.
    pub session: Revision,
    /// The slot it holds.
    pub bound: Option<SlotId>,
}

impl Store {
    /// Whether the transaction may happen. A mutation leaves something out here.
    pub fn allows(&self, step: &Step, config: &Config) -> bool {
        if config.is(Mutation::RevisionOrGone)
            && let Step::Take {
                from: From::Expired { node, session, .. },
                ..
            } = step
            && self.created(*node) != *session
        {
            return (step.compares().iter())
                .filter(|compare| !matches!(compare, Compare::Modified(Key::Session(_), _)))
                .all(|compare| self.holds(compare));
        }
        (step.compares().iter())
            .filter(|compare| !is_left_out(compare, step, config))
            .all(|compare| self.holds(compare))
    }

    /// Makes it happen.
    pub fn apply(&mut self, step: &Step, by: By, config: &Config) {
        let attempt = by.attempt;
        self.revision.0 += 1;
        let revision = self.revision;
        for write in step.writes() {
            match write {
                Write::PutSession(node) => {
                    let session = &mut self.sessions[usize::from(node)];
                    match session {
                        Some(session) => session.modified = revision,
                        None => {
                            *session = Some(Session {
                                created: revision,
                                modified: revision,
                                agent: by.agent,
                                boot: by.boot,
                            });
                        }
                    }
                }
                Write::EndSession(..)
                    if config.is(Mutation::TakeWithoutCondemning) && step.transition() == Transition::T6c => {}
                // A store deletes by key, whichever session that is.
                Write::EndSession(node, _) => self.sessions[usize::from(node)] = None,
                Write::Release(slot) => self.change(slot, attempt, |slot| slot.holder = None),
                Write::Hold(slot, member) => self.change(slot, attempt, |slot| {
                    slot.holder = Some((member.node, member.session));
                    slot.epoch += 1;
                }),
                Write::NextEpoch(slot) => self.change(slot, attempt, |slot| slot.epoch += 1),
                // The whole record is written as its holder knows it.
                Write::Rebind(slot, session) => self.change(slot, attempt, |slot| {
                    slot.holder = Some((attempt.0, session));
                    slot.epoch = by.epoch;
                }),
                Write::EditLine(slot) => self.change(slot, attempt, |_| {}),
                Write::Park(slot) => self.parked[usize::from(slot)] = Some(revision),
                Write::Unpark(slot) => self.parked[usize::from(slot)] = None,
                Write::Announce(_, instance, session) => {
                    self.instances[usize::from(instance)] = Instance {
                        modified: revision,
                        session,
                        bound: None,
                    };
                }
                Write::Bind(instance, slot) => {
                    let instance = &mut self.instances[usize::from(instance)];
                    instance.modified = revision;
                    instance.bound = Some(slot);
                }
            }
        }
    }

    /// σ of a node's session, 0 if it has none.
    pub fn created(&self, node: NodeId) -> Revision {
        self.sessions[usize::from(node)].map_or(Revision(0), |session| session.created)
    }

    fn change(&mut self, slot: SlotId, attempt: (NodeId, u8), change: impl FnOnce(&mut Slot)) {
        let revision = self.revision;
        let slot = &mut self.slots[usize::from(slot)];
        change(slot);
        slot.modified = revision;
        slot.attempt = attempt;
    }

    fn holds(&self, compare: &Compare<NodeId, SlotId, InstanceId>) -> bool {
        match *compare {
            Compare::Absent(key) => self.revisions(key).0 == Revision(0),
            Compare::Created(key, revision) => self.revisions(key).0 == revision,
            Compare::NotCreated(key, revision) => self.revisions(key).0 != revision,
            Compare::Modified(key, revision) => self.revisions(key).1 == revision,
        }
    }

    fn revisions(&self, key: Key<NodeId, SlotId, InstanceId>) -> (Revision, Revision) {
        match key {
            Key::Session(node) => self.sessions[usize::from(node)].map_or((Revision(0), Revision(0)), |session| {
                (session.created, session.modified)
            }),
            Key::Slot(slot) => (Revision(1), self.slots[usize::from(slot)].modified),
            Key::Instance(instance) => (Revision(1), self.instances[usize::from(instance)].modified),
            Key::Fence(..) => (Revision(0), Revision(0)),
            Key::Park(slot) => self.parked[usize::from(slot)].map_or((Revision(0), Revision(0)), |at| (at, at)),
        }
    }
}

fn is_left_out(compare: &Compare<NodeId, SlotId, InstanceId>, step: &Step, config: &Config) -> bool {
    let Some(mutation) = config.mutation else { return false };
    let is_take = matches!(step.transition(), Transition::T6a | Transition::T6b | Transition::T6c);
    match (mutation, compare) {
        (Mutation::TakeWithoutRevision, Compare::Modified(Key::Session(_), _)) => is_take,
        (Mutation::OwnSessionNotCompared, Compare::Created(Key::Session(_), _)) => is_take,
        (Mutation::InstanceNotCompared, Compare::Modified(Key::Instance(_), _)) => is_take,
        (Mutation::TakeParked, Compare::Absent(Key::Park(_))) => step.transition() != Transition::T11,
        (Mutation::RenewalAsPlainPut, _) => step.transition() == Transition::T2,
        (Mutation::RebindWithoutSlot, Compare::Modified(Key::Slot(_), _)) => step.transition() == Transition::T10,
        (Mutation::AnnounceBlindly, Compare::Modified(Key::Instance(_), _)) => {
            step.transition() == Transition::Announce
        }
        _ => false,
    }
}
