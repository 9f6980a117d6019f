//! What will happen when, in virtual time: ordered by time, then by the order in which it was planned.

use super::proxy::Order;
use decisions::{Event, SlotWrite};
use model::{Epoch, HookKind, InstanceId, NodeName, RunId, Service, ServiceName, Timestamp};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// What is due.
#[derive(Debug, Clone)]
pub(crate) enum Due {
    /// The next fault of the schedule.
    Inject(usize),
    /// A main process ends.
    Ends {
        instance: InstanceId,
        run: RunId,
        how: &'static str,
    },
    /// Nothing of a process is left, because it was stopped.
    TreeEnds {
        instance: InstanceId,
        run: RunId,
        life: u32,
    },
    /// A hook ends.
    HookEnds(HookRun),
    /// A message reaches the proxy.
    Order(Order),
    /// The last connection to an instance is closed.
    Drains {
        service: ServiceName,
        instance: InstanceId,
    },
    /// A client gets its first answer from a new active.
    Answers {
        service: ServiceName,
        instance: InstanceId,
        epoch: Epoch,
    },
    ProxyReturns,
    AgentReturns,
    AgentContinues,
    NodeReturns(NodeName),
    Resumes,
    /// Something that the agent itself does.
    Agent {
        life: u32,
        task: Task,
    },
}

/// What the agent does in the background. It dies and is stopped with it.
#[derive(Debug, Clone)]
pub(crate) enum Task {
    /// The core is told.
    Tell(Box<Event>),
    /// The time that the core asked for.
    Wake,
    /// A check begins.
    Probe {
        instance: InstanceId,
        run: RunId,
        standby: bool,
        prober: Prober,
    },
    /// A check is over that was not answered.
    ProbeTimeout {
        instance: InstanceId,
        run: RunId,
        standby: bool,
        prober: Prober,
    },
    /// A process is started.
    Spawn(Spawn),
    /// A cold standby is looked over.
    Prepare(InstanceId),
    /// A slot is written.
    Commit(Box<SlotWrite>),
    /// The core is told whether a version is written to be given up.
    TellGivenUp(ServiceName),
    /// Who did not stop politely is killed.
    Escalate { instance: InstanceId, run: RunId },
}

/// What is started, as it was declared when that was decided.
#[derive(Debug, Clone)]
pub(crate) struct Spawn {
    pub(crate) instance: InstanceId,
    pub(crate) run: RunId,
    pub(crate) from: Option<Arc<Service>>,
    /// As the active of a slot, at this epoch.
    pub(crate) active_at: Option<Epoch>,
}

/// Which prober probes, or that it is an extra probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prober {
    Regular(u32),
    Extra,
}

/// A hook that runs.
#[derive(Debug, Clone)]
pub(crate) struct HookRun {
    pub(crate) instance: InstanceId,
    pub(crate) run: RunId,
    pub(crate) hook: HookKind,
    pub(crate) epoch: Epoch,
    pub(crate) active: Option<InstanceId>,
    /// Whose child it is.
    pub(crate) life: u32,
    pub(crate) error: Option<&'static str>,
    /// The slot for which it promotes.
    pub(crate) slot: u32,
    /// Whether it does what it is there for, error or not.
    pub(crate) takes_effect: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    planned: u64,
}

#[derive(Debug)]
struct Entry {
    at: Timestamp,
    order: u64,
    due: Due,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl Queue {
    pub(crate) fn plan(&mut self, at: Timestamp, due: Due) {
        self.planned += 1;
        let order = self.planned;
        self.heap.push(Reverse(Entry { at, order, due }));
    }

    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    pub(crate) fn pop(&mut self) -> Option<(Timestamp, Due)> {
        self.heap.pop().map(|Reverse(entry)| (entry.at, entry.due))
    }

    /// Takes out everything for which `taken` is true, in order.
    pub(crate) fn take(&mut self, taken: impl Fn(&Due) -> bool) -> Vec<Due> {
        let mut entries: Vec<Entry> = std::mem::take(&mut self.heap)
            .into_iter()
            .map(|Reverse(entry)| entry)
            .collect();
        entries.sort_unstable();
        let mut out = Vec::new();
        for entry in entries {
            if taken(&entry.due) {
                out.push(entry.due);
            } else {
                self.heap.push(Reverse(entry));
            }
        }
        out
    }
}
