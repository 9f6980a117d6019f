//! The network between nodes and store, and how the store takes requests in.

use super::agent::{Purpose, Task};
use super::invariants::Moment;
use super::records::{Change, Changes, Entry, Key, NodeIx, Outcome, Txn, Value};
use super::sabotage::ClusterRule;
use super::world::{Due, World};
use model::{Revision, Timestamp};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// What is lost is sent again by TCP after about this long.
const RESEND_US: u64 = 200_000;
/// As in the agent of a controller of many nodes.
const GATHERED: Duration = Duration::from_millis(20);
/// A request in a store without a leader is dropped after this long.
const PROPOSAL_KEPT: Duration = Duration::from_secs(7);

/// Asked of the store.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    Txn(Rc<Txn>),
    List,
}

/// Answered by it.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Txn(Outcome),
    List(Rc<Vec<Entry>>, Revision),
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) node: NodeIx,
    pub(crate) life: u32,
    pub(crate) call: u64,
    pub(crate) ask: Ask,
    sent: Timestamp,
}

/// Links and what is wrong with them.
#[derive(Debug)]
pub(crate) struct Net {
    /// Usual latency of a message in microseconds.
    pub(crate) latency_us: u64,
    /// Nodes whose requests do not reach the store, and those that its answers do not reach. Counted, for cuts may overlap.
    pub(crate) to_store: Vec<u32>,
    pub(crate) from_store: Vec<u32>,
    /// Pairs of nodes that do not reach each other.
    pub(crate) between: BTreeSet<(NodeIx, NodeIx)>,
    /// Of a thousand messages so many are lost at each node.
    pub(crate) loss: Vec<u32>,
    /// Of a hundred answers so many are lost for good after the commit.
    pub(crate) answers_lost: u32,
    /// Of a hundred requests so many arrive once more, later.
    pub(crate) doubled: u32,
}

impl Net {
    pub(crate) fn new(nodes: usize, latency_us: u64) -> Self {
        Self {
            latency_us,
            to_store: vec![0; nodes],
            from_store: vec![0; nodes],
            between: BTreeSet::new(),
            loss: vec![0; nodes],
            answers_lost: 0,
            doubled: 0,
        }
    }

    pub(crate) fn joins(&self, one: NodeIx, other: NodeIx) -> bool {
        one == other || !self.between.contains(&(one.min(other), one.max(other)))
    }
}

impl World {
    /// How long a message of a node takes.
    pub(crate) fn travel(&mut self, node: NodeIx) -> Duration {
        let mut us = self.rng.u64(self.net.latency_us / 2..=self.net.latency_us * 2);
        if self.rng.u32(0..200) == 0 {
            us *= 20;
        }
        let loss = self.net.loss[node as usize];
        let mut again = RESEND_US;
        while loss > 0 && self.rng.u32(0..1_000) < loss && again < 5_000_000 {
            us += again;
            again *= 2;
        }
        Duration::from_micros(us)
    }

    /// Asks the store something; the answer, or that there is none within `timeout`, comes back as a task.
    pub(crate) fn call(&mut self, node: NodeIx, purpose: Purpose, ask: Ask, timeout: Duration) {
        let timeout = self.node(node).clocks.really(timeout);
        let Some(agent) = self.node_mut(node).agent.as_mut() else {
            return;
        };
        agent.next_call += 1;
        let (call, life) = (agent.next_call, agent.life);
        agent.calls.insert(call, purpose);
        self.plan(
            timeout,
            Due::Agent {
                node,
                life,
                task: Task::NoAnswer(call),
            },
        );
        let sent = self.now;
        let request = Request {
            node,
            life,
            call,
            ask,
            sent,
        };
        if self.net.to_store[node as usize] > 0 {
            return;
        }
        if self.net.doubled > 0 && self.rng.u32(0..100) < self.net.doubled {
            let later = Duration::from_micros(self.rng.u64(1_000..3_000_000));
            self.plan(later, Due::Arrive(request.clone()));
        }
        let travel = self.travel(node);
        self.plan(travel, Due::Arrive(request));
    }

    pub(crate) fn arrive(&mut self, request: Request) {
        if self.now < self.server.away_until {
            self.server.waiting.push(request);
            return;
        }
        self.serve(request);
    }

    /// The store has a leader again: some of what waited is carried out late, some is lost.
    pub(crate) fn store_returns(&mut self) {
        for request in std::mem::take(&mut self.server.waiting) {
            if self.now.since(request.sent) <= PROPOSAL_KEPT && self.rng.bool() {
                self.serve(request);
            }
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "what was told is handed over")]
    fn serve(&mut self, request: Request) {
        let reply = match &request.ask {
            Ask::Txn(txn) => {
                let mut txn = Rc::clone(txn);
                if self.broken == Some(ClusterRule::RenewPlainPut)
                    && let [super::store::Op::Put(Key::Session(_), _)] = &txn.then[..]
                    && txn.otherwise.len() == 1
                    && txn.compares.iter().all(
                        |compare| matches!(compare, super::store::Compare::Created(Key::Session(_), is) if is.0 > 0),
                    )
                {
                    txn = Rc::new(Txn {
                        compares: Vec::new(),
                        ..Txn::clone(&txn)
                    });
                }
                let (outcome, changes) = self.server.model.txn(&txn);
                self.tally.txns += 1;
                if let Some(changes) = changes {
                    self.tally.writes += 1;
                    self.tally.renewals += u64::from(is_renewal(&changes));
                    self.committed(&changes);
                }
                Reply::Txn(outcome)
            }
            Ask::List => {
                let entries = self.server.model.entries().cloned();
                let read = |entry: &Entry| !matches!(entry.key, Key::Bind(_) | Key::Gone(_) | Key::Grave(..));
                let entries = entries.filter(read).collect();
                Reply::List(Rc::new(entries), self.server.model.revision())
            }
        };
        let node = request.node;
        let lost = self.net.answers_lost > 0 && self.rng.u32(0..100) < self.net.answers_lost;
        if lost || self.net.from_store[node as usize] > 0 {
            return;
        }
        let travel = self.travel(node);
        let (life, call) = (request.life, request.call);
        self.plan(
            travel,
            Due::Agent {
                node,
                life,
                task: Task::Answer(call, reply),
            },
        );
    }

    /// A revision is made: whoever judges looks at it, whoever watches hears of it.
    pub(crate) fn committed(&mut self, changes: &Rc<Changes>) {
        for change in &changes.changes {
            self.observe(&Moment::Committed(change));
            if let Change::Put(entry) = change
                && let Value::Slot(slot) = &*entry.value
            {
                let (node, slot) = (slot.node.clone(), slot.clone());
                self.say(|| {
                    let how = if slot.held { "held" } else { "released" };
                    let served = if slot.served { ", served" } else { "" };
                    format!(
                        "store  {} is {how} by {} at {node}, epoch {}{served}, revision {}, because {}",
                        slot.slot, slot.holder, slot.epoch, changes.revision, slot.because
                    )
                });
            }
            if let Change::Delete(Key::Session(node)) = change {
                let node = *node;
                self.say(|| format!("store  the session of n{node:04} ends at revision {}", changes.revision));
            }
        }
        match self.interest {
            None => self.tell_apart(changes),
            Some(_) => self.tell_many(changes),
        }
        for ix in 0..self.nodes.len() as NodeIx {
            let node = &self.nodes[ix as usize];
            let Some(agent) = node.agent.as_ref().filter(|_| node.up) else {
                continue;
            };
            let (life, Some(stream)) = (agent.life, agent.watch.open) else {
                continue;
            };
            if agent.in_parts {
                continue;
            }
            let many = self.interest.is_some();
            if many && agent.watch.under_way {
                continue;
            }
            let mut at = (self.now + self.travel(ix)).max(agent_last(self, ix));
            let mut upto = changes.revision;
            if many {
                // As the agent does it: what comes within this is taken in at once.
                at = at + GATHERED;
                upto = Revision(u64::MAX);
            }
            if let Some(agent) = self.nodes[ix as usize].agent.as_mut() {
                agent.watch.last_at = at;
                agent.watch.under_way = many;
            }
            self.plan_at(
                at,
                Due::Watch {
                    node: ix,
                    life,
                    stream,
                    upto,
                },
            );
        }
    }

    /// What a watch was to tell reaches its node, or does not.
    pub(crate) fn watch_arrives(&mut self, ix: NodeIx, life: u32, stream: u32, upto: Revision) {
        let cut = self.net.from_store[ix as usize] > 0;
        let latest = self.server.model.revision();
        let wait = Duration::from_millis(self.rng.u64(500..4_000));
        let now = self.now;
        let Some(agent) = self.node_mut(ix).agent.as_mut() else {
            return;
        };
        let second = agent.second.open == Some(stream);
        if agent.life != life || !(second || agent.watch.open == Some(stream)) {
            return;
        }
        if agent.stopped {
            agent.deferred.push(Due::Watch {
                node: ix,
                life,
                stream,
                upto,
            });
            return;
        }
        if cut {
            // TCP keeps it; the connection is given up after a while.
            let watch = if second { &mut agent.second } else { &mut agent.watch };
            if !watch.stalled {
                watch.stalled = true;
                self.plan_at(
                    now + wait,
                    Due::Agent {
                        node: ix,
                        life,
                        task: Task::WatchStalls(stream),
                    },
                );
            }
            return;
        }
        if agent.in_parts {
            return self.part_arrives(ix, second, upto);
        }
        agent.watch.stalled = false;
        agent.watch.under_way = false;
        let upto = upto.min(latest);
        let from = agent.watch.next;
        let Some(steps) = self.history(from, upto) else {
            self.watch_lost(ix, "the revisions are compacted");
            return;
        };
        if steps.is_empty() {
            return;
        }
        if let Some(agent) = self.node_mut(ix).agent.as_mut() {
            agent.watch.next = Revision(upto.0 + 1);
        }
        self.tally.watched += steps.len() as u64;
        self.tally.renewals_told += steps.iter().filter(|step| is_renewal(step)).count() as u64;
        self.hear_changes(ix, &steps, None);
    }
}

fn is_renewal(changes: &Changes) -> bool {
    matches!(
        changes.changes.as_slice(),
        [Change::Put(Entry {
            key: Key::Session(_),
            ..
        })]
    )
}

fn agent_last(world: &World, ix: NodeIx) -> Timestamp {
    world.nodes[ix as usize]
        .agent
        .as_ref()
        .map(|agent| agent.watch.last_at)
        .unwrap_or_default()
}
