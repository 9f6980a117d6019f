//! What agents write to the store: the keys and values of the real one, as values of ours.

use super::store;
use decisions::{GivenUp, Report, SlotKnown};
use model::{InstanceId, Millis, NodeName, Revision, ServiceName, SlotId};

/// A machine of the simulated cluster, by number; nodes are named so that numbers and names have one order.
pub(crate) type NodeIx = u16;

/// Keys, in the order in which agents list them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Member(NodeIx),
    Session(NodeIx),
    /// A session is open, as it was when it was opened.
    There(NodeIx),
    Number(ServiceName),
    /// Written whenever an instance of it comes, shall go or goes.
    Counted(ServiceName),
    /// What the file of this number declares of it is given up.
    GivenUp(u64, ServiceName),
    /// Automatic actions are paused.
    Paused,
    Drained(NodeIx),
    /// The operator wants its instances where they would be put today.
    Rebalance(ServiceName),
    /// Nobody shall hold it.
    Park(SlotId),
    Instance(InstanceId),
    Slot(SlotId),
    Live(InstanceId),
    Controller,
    /// Everybody watches all sessions.
    Whole,
    Ask(NodeIx, u64),
    Bind(InstanceId),
    /// An instance of that number was, and is no more: a late request does not bring it back.
    Gone(InstanceId),
    Grave(NodeIx, Revision),
}

/// Where a watch that leaves renewals out has a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Before the sessions, in the order of the real keys.
    First,
    /// After them.
    Second,
    /// A session itself.
    Renewals,
}

impl Key {
    pub(crate) fn part(&self) -> Part {
        match self {
            Key::Session(_) => Part::Renewals,
            Key::There(_) | Key::Slot(_) | Key::GivenUp(..) | Key::Drained(_) | Key::Rebalance(_) | Key::Whole => {
                Part::Second
            }
            _ => Part::First,
        }
    }
}

/// Values.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Member,
    Session(Session),
    Number(u32),
    Counted,
    GivenUp(Box<GivenUp>),
    Paused,
    Drained,
    Rebalance,
    Park,
    Instance { node: NodeIx, retiring: bool },
    Slot(SlotKnown),
    Live(Box<Report>),
    Controller { node: NodeIx, session: Revision },
    Whole,
    Ask(Ask),
    Bind,
    Gone,
    Grave,
}

/// What a node writes about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) boot: u32,
    pub(crate) agent: u64,
    pub(crate) lease: Millis,
    pub(crate) seq: u64,
    /// Of an agent that tells that it is there.
    pub(crate) tells: bool,
}

/// What one agent asks of another.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    Renew {
        instance: InstanceId,
    },
    Prove {
        instance: InstanceId,
        number: u64,
    },
    Left {
        instance: InstanceId,
        by: NodeName,
    },
    Move {
        slot: SlotId,
        to: Option<InstanceId>,
        drain: bool,
    },
}

pub(crate) type Entry = store::Entry<Key, Value>;
pub(crate) type Txn = store::Txn<Key, Value>;
pub(crate) type Compare = store::Compare<Key>;
pub(crate) type Op = store::Op<Key, Value>;
pub(crate) type Change = store::Change<Key, Value>;
pub(crate) type Changes = store::Changes<Key, Value>;
pub(crate) type Outcome = store::Outcome<Key, Value>;

pub(crate) fn put(key: Key, value: Value) -> Op {
    store::Op::Put(key, std::rc::Rc::new(value))
}
