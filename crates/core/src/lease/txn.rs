//! The transitions of the protocol as data: what each transaction compares, and what it writes.
//!
//! A store turns a [`Step`] into one write transaction: all [`Compare`]s hold, or none of the [`Write`]s happens. The exhaustive
//! model runs the same lists against a store of its own, so a comparison that is missing here is missing there.
//! Nodes, slots and instances are whatever names them: text in a store, small numbers in the model.

use model::Revision;

/// A record in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key<N, S, I> {
    /// The session of a node.
    Session(N),
    /// A slot.
    Slot(S),
    /// An instance, as its node announced it.
    Instance(I),
    /// The fencing of this session of a node.
    Fence(N, Revision),
    /// That nobody shall hold a slot.
    Park(S),
}

/// What must hold for a transaction to do anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compare<N, S, I> {
    /// The record is not there.
    Absent(Key<N, S, I>),
    /// It was created by this revision.
    Created(Key<N, S, I>, Revision),
    /// It was not: it is gone, or another.
    NotCreated(Key<N, S, I>, Revision),
    /// It was last written by this revision.
    Modified(Key<N, S, I>, Revision),
}

/// What a transaction does. Epochs are told relative to the record that was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Write<N, S, I> {
    /// Creates or renews the session of a node.
    PutSession(N),
    /// Deletes a session and leaves a grave.
    EndSession(N, Revision),
    /// The slot is free, with the epoch it had.
    Release(S),
    /// The slot has a new holder, at the next epoch.
    Hold(S, Member<N, I>),
    /// The slot has the same holder, at the next epoch.
    NextEpoch(S),
    /// The slot has the same holder and epoch, under another session.
    Rebind(S, Revision),
    /// The line of the slot changes, and nothing else.
    EditLine(S),
    /// Nobody shall hold the slot.
    Park(S),
    /// It may be held again.
    Unpark(S),
    /// The instance is announced as a free standby of this session of its node.
    Announce(N, I, Revision),
    /// The instance is bound to a slot.
    Bind(I, S),
}

/// An instance that is to hold a slot, as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Member<N, I> {
    /// Its node.
    pub node: N,
    /// The session of that node.
    pub session: Revision,
    /// The instance.
    pub instance: I,
    /// The revision of its record: free, and ready.
    pub seen: Revision,
}

/// A slot, as it was read by a node that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Holding<N, S> {
    /// The slot.
    pub slot: S,
    /// The revision of its record.
    pub seen: Revision,
    /// The node that holds it.
    pub node: N,
    /// The session of that node.
    pub session: Revision,
}

/// On what ground a session is ended by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ground {
    /// T4e: silent for W.
    Expired {
        /// The revision that was seen for all of W.
        modified: Revision,
    },
    /// T4r: its own node has booted again.
    Rebooted {
        /// The revision that was seen for 3R.
        modified: Revision,
    },
    /// T4f: its node is confirmed to be off.
    Fenced {
        /// The revision of the confirmation.
        confirmed: Revision,
    },
}

/// From whom a slot is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum From<N> {
    /// T6a: nobody.
    Released,
    /// T6b: a node whose session has ended.
    Gone {
        /// The node.
        node: N,
        /// The session under which it held the slot.
        session: Revision,
    },
    /// T6c: a node that is silent for W; its session ends with it.
    Expired {
        /// The node.
        node: N,
        /// The session under which it holds the slot.
        session: Revision,
        /// The revision that was seen for all of W.
        modified: Revision,
    },
}

/// One transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step<N, S, I> {
    /// T1: a node opens its session.
    Open {
        /// The node.
        node: N,
    },
    /// T2: and renews it.
    Renew {
        /// The node.
        node: N,
        /// Its session.
        session: Revision,
    },
    /// T3: and closes it.
    Close {
        /// The node.
        node: N,
        /// Its session.
        session: Revision,
    },
    /// T4e, T4r, T4f: a session is ended by others.
    Condemn {
        /// The node.
        node: N,
        /// Its session.
        session: Revision,
        /// Why it may be.
        ground: Ground,
    },
    /// An instance is announced as a free standby. It compares its own record too: else it would forget a take that
    /// committed without an answer, and could take a second slot.
    Announce {
        /// The node.
        node: N,
        /// Its session.
        session: Revision,
        /// The instance.
        instance: I,
        /// The revision of its record, 0 if there is none.
        seen: Revision,
    },
    /// T5: the holder gives the slot up.
    Release(Holding<N, S>),
    /// T6a, T6b, T6c: a standby takes it.
    Take {
        /// The slot.
        slot: S,
        /// The revision of its record.
        seen: Revision,
        /// Who takes it.
        taker: Member<N, I>,
        /// From whom.
        from: From<N>,
    },
    /// T7: the holder hands it over.
    Handover(Holding<N, S>, Member<N, I>),
    /// T8: the holder changes the line.
    EditLine(Holding<N, S>),
    /// T9: the holder starts its instance anew.
    Restart(Holding<N, S>),
    /// T10: a frozen holder goes on under its node's new session.
    Rebind(Holding<N, S>),
    /// T11: the operator wants nobody to hold a slot. Whoever holds it gives it up (T5).
    Park {
        /// The slot.
        slot: S,
    },
    /// T11, taken back.
    Unpark {
        /// The slot.
        slot: S,
    },
    /// T12: the operator states that the node of a slot's holder is off: its session is ended before it has run out. The slot is then taken as
    /// any other whose holder's session is gone (T6b).
    Force {
        /// The slot that was shown to the operator.
        slot: S,
        /// The revision of its record.
        seen: Revision,
        /// The node that is said to be off.
        node: N,
        /// The session under which it holds the slot.
        session: Revision,
        /// Its last renewal that was seen.
        modified: Revision,
    },
}

/// The transitions, by their numbers in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transition {
    /// Open a session.
    T1,
    /// Renew it.
    T2,
    /// Close it.
    T3,
    /// Condemn an expired one.
    T4e,
    /// Condemn one's own of before a reboot.
    T4r,
    /// Condemn that of a fenced node.
    T4f,
    /// Release a slot.
    T5,
    /// Take a released slot.
    T6a,
    /// Take the slot of a session that has ended.
    T6b,
    /// Take the slot of a session that has expired, and end it.
    T6c,
    /// Hand a slot over.
    T7,
    /// Edit its line.
    T8,
    /// Start its instance anew.
    T9,
    /// Bind it to the next session.
    T10,
    /// Park it, or let it be held again.
    T11,
    /// End a session at the operator's word.
    T12,
    /// Announce a standby.
    Announce,
}

impl<N: Copy, S: Copy, I: Copy> Step<N, S, I> {
    /// Which it is.
    pub fn transition(&self) -> Transition {
        match self {
            Step::Open { .. } => Transition::T1,
            Step::Renew { .. } => Transition::T2,
            Step::Close { .. } => Transition::T3,
            Step::Condemn { ground, .. } => match ground {
                Ground::Expired { .. } => Transition::T4e,
                Ground::Rebooted { .. } => Transition::T4r,
                Ground::Fenced { .. } => Transition::T4f,
            },
            Step::Announce { .. } => Transition::Announce,
            Step::Release(_) => Transition::T5,
            Step::Take { from, .. } => match from {
                From::Released => Transition::T6a,
                From::Gone { .. } => Transition::T6b,
                From::Expired { .. } => Transition::T6c,
            },
            Step::Handover(..) => Transition::T7,
            Step::EditLine(_) => Transition::T8,
            Step::Restart(_) => Transition::T9,
            Step::Rebind(_) => Transition::T10,
            Step::Park { .. } | Step::Unpark { .. } => Transition::T11,
            Step::Force { .. } => Transition::T12,
        }
    }

    /// All of which must hold.
    pub fn compares(&self) -> Vec<Compare<N, S, I>> {
        let live = |node, session| Compare::Created(Key::Session(node), session);
        let unchanged = |slot, seen| Compare::Modified(Key::Slot(slot), seen);
        let free = |member: &Member<N, I>| {
            [
                live(member.node, member.session),
                Compare::Modified(Key::Instance(member.instance), member.seen),
            ]
        };
        let wanted = |slot| Compare::Absent(Key::Park(slot));
        let holds = |holding: &Holding<N, S>| {
            [
                unchanged(holding.slot, holding.seen),
                live(holding.node, holding.session),
            ]
        };
        match *self {
            Step::Open { node } => vec![Compare::Absent(Key::Session(node))],
            Step::Renew { node, session } | Step::Close { node, session } => vec![live(node, session)],
            Step::Condemn { node, session, ground } => match ground {
                Ground::Expired { modified } => vec![Compare::Modified(Key::Session(node), modified)],
                Ground::Rebooted { modified } => {
                    vec![live(node, session), Compare::Modified(Key::Session(node), modified)]
                }
                Ground::Fenced { confirmed } => vec![
                    live(node, session),
                    Compare::Modified(Key::Fence(node, session), confirmed),
                ],
            },
            Step::Announce {
                node,
                session,
                instance,
                seen,
            } => vec![live(node, session), Compare::Modified(Key::Instance(instance), seen)],
            // One that only goes on is not kept from it: it gives the slot up in order.
            Step::Release(holding) | Step::EditLine(holding) | Step::Rebind(holding) => holds(&holding).to_vec(),
            Step::Restart(holding) => {
                let mut all = holds(&holding).to_vec();
                all.push(wanted(holding.slot));
                all
            }
            Step::Take {
                slot,
                seen,
                taker,
                from,
            } => {
                let mut all = vec![unchanged(slot, seen), wanted(slot)];
                all.extend(free(&taker));
                match from {
                    From::Released => {}
                    From::Gone { node, session } => all.push(Compare::NotCreated(Key::Session(node), session)),
                    From::Expired { node, modified, .. } => {
                        all.push(Compare::Modified(Key::Session(node), modified));
                    }
                }
                all
            }
            Step::Handover(holding, member) => {
                let mut all = holds(&holding).to_vec();
                all.push(wanted(holding.slot));
                all.extend(free(&member));
                all
            }
            Step::Park { slot } => vec![wanted(slot)],
            Step::Unpark { .. } => Vec::new(),
            Step::Force {
                slot,
                seen,
                node,
                session,
                modified,
            } => vec![
                unchanged(slot, seen),
                live(node, session),
                Compare::Modified(Key::Session(node), modified),
            ],
        }
    }

    /// All of which happen at once.
    pub fn writes(&self) -> Vec<Write<N, S, I>> {
        match *self {
            Step::Open { node } | Step::Renew { node, .. } => vec![Write::PutSession(node)],
            Step::Close { node, session } | Step::Condemn { node, session, .. } => {
                vec![Write::EndSession(node, session)]
            }
            Step::Announce {
                node,
                session,
                instance,
                ..
            } => vec![Write::Announce(node, instance, session)],
            Step::Release(holding) => vec![Write::Release(holding.slot)],
            Step::Take { slot, taker, from, .. } => {
                let mut all = vec![Write::Hold(slot, taker), Write::Bind(taker.instance, slot)];
                if let From::Expired { node, session, .. } = from {
                    all.push(Write::EndSession(node, session));
                }
                all
            }
            Step::Handover(holding, member) => {
                vec![
                    Write::Hold(holding.slot, member),
                    Write::Bind(member.instance, holding.slot),
                ]
            }
            Step::EditLine(holding) => vec![Write::EditLine(holding.slot)],
            Step::Restart(holding) => vec![Write::NextEpoch(holding.slot)],
            Step::Rebind(holding) => vec![Write::Rebind(holding.slot, holding.session)],
            Step::Park { slot } => vec![Write::Park(slot)],
            Step::Unpark { slot } => vec![Write::Unpark(slot)],
            Step::Force { node, session, .. } => vec![Write::EndSession(node, session)],
        }
    }
}
