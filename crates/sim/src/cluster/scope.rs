//! Many nodes: an agent is told renewals of some sessions only, by a watch of each, as the agent does it.
//!
//! ```text
//! all but sessions ──► two watches, of the keys before them and of those after
//! session n        ──► read once, then a watch of its own; read again when that was lost
//! ```
//! Each has its own way through the network: what one tells may come before what another told of an earlier revision. Whoever watches looks at the
//! scope when it gets to it, which is not when it changes.

use super::agent::{CALL_TIMEOUT, Purpose, RELIST, Task};
use super::hear::is_told;
use super::records::{self, Change, Changes, Compare, Entry, Key, NodeIx, Op, Outcome, Part, Txn, Value};
use super::sabotage::ClusterRule;
use super::wire::Ask as Asked;
use super::world::{Due, World};
use decisions::Scope;
use model::{Revision, Timestamp};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// As in the agent.
const TELL_AGAIN: Duration = Duration::from_secs(1);

fn sees_one_of_before(clustered: &super::agent::Clustered) -> bool {
    clustered.sessions.values().any(|session| !session.record.tells)
}

/// A watch of one session.
#[derive(Debug)]
pub(crate) struct Renewals {
    stream: u32,
    /// By which change of the scope it came to be.
    number: u64,
    /// What it begins with was read.
    open: bool,
    stalled: bool,
    last_at: Timestamp,
}

impl World {
    /// Looks whose renewals an agent needs now.
    pub(crate) fn rescope(&mut self, ix: NodeIx) {
        let (bound, of_before) = (self.whole_up_to, self.of_before == Some(ix));
        let untold = self.broken == Some(ClusterRule::NewcomersNotTold);
        let Some(agent) = self.agent(ix) else { return };
        let Some(core) = agent.core.as_mut() else { return };
        let controller = agent.clustered.controller.map(|(node, ..)| node);
        let seen = sees_one_of_before(&agent.clustered);
        let all_tell = if untold {
            !seen
        } else {
            agent.clustered.presence.all_tell(seen)
        };
        let scoped_for = (controller, all_tell && !of_before);
        if !core.may_have_other_scope() && agent.clustered.scoped_for == scoped_for {
            return;
        }
        agent.clustered.scoped_for = scoped_for;
        let whole_up_to = if scoped_for.1 { bound } else { usize::MAX };
        let name = controller.map(|node| self.node(node).name.clone());
        let Some(agent) = self.agent(ix) else { return };
        let Some(core) = agent.core.as_ref() else { return };
        let scope = core.scope(name.as_ref(), whole_up_to);
        let clustered = &mut agent.clustered;
        if !clustered.scoped.change(scope, &mut clustered.observer) {
            return;
        }
        let scope = clustered.scoped.scope().clone();
        if self.interest.is_some() && scope == Scope::Controller {
            self.apply_at(ix);
        }
        let out: Vec<NodeIx> = (0..self.nodes.len() as NodeIx)
            .filter(|of| !scope.has(&self.node(*of).name))
            .collect();
        // A task is awake within microseconds; where processors are scarce it is much later now and then, and the scope may change again meanwhile.
        let wait = match (self.broken, self.rng.u8(0..8)) {
            (Some(ClusterRule::ScopesNotNumbered), _) => Duration::from_millis(self.rng.u64(1..3_000)),
            (_, 0) => Duration::from_millis(self.rng.u64(1..400)),
            _ => Duration::from_micros(self.rng.u64(20..200)),
        };
        let Some(agent) = self.agent(ix) else { return };
        agent.clustered.early.retain(|of, _| !out.contains(of));
        if !std::mem::replace(&mut agent.scope_looked_at, true) {
            self.plan_task(ix, wait, Task::ScopeLook);
        }
    }

    /// As in the agent: a controller that sees one of before tells the others, who may not.
    pub(crate) fn tell_of_those_of_before(&mut self, ix: NodeIx) {
        if self.of_before == Some(ix) {
            return;
        }
        let now = self.now;
        let Some(agent) = self.agent(ix) else { return };
        let controls = agent.core.as_ref().is_some_and(decisions::Core::is_controller);
        let clustered = &mut agent.clustered;
        let (Some((.., elected)), Some(session)) = (clustered.controller.filter(|_| controls), clustered.session)
        else {
            return;
        };
        let Some(there) = clustered.presence.to_write(sees_one_of_before(clustered)) else {
            clustered.presence_written = None;
            return;
        };
        let written = clustered.presence_written;
        if written.is_some_and(|at| now.since(at) < TELL_AGAIN) {
            return;
        }
        clustered.presence_written = Some(now);
        let txn = Txn::new()
            .when(Compare::Modified(Key::Controller, elected))
            .when(Compare::Created(Key::Session(ix), session));
        let txn = txn.then(match there {
            true => records::put(Key::Whole, Value::Whole),
            false => Op::Delete(Key::Whole),
        });
        self.write_loose(ix, txn);
    }

    /// Whether an agent, as it knows, is told every renewal.
    pub(crate) fn has_all(&self, ix: NodeIx) -> bool {
        let agent = self.node(ix).agent.as_deref();
        agent.is_none_or(|agent| agent.clustered.scoped.scope().has_all())
    }

    /// Whoever watches looks at the scope as it is now.
    pub(crate) fn look_at_scope(&mut self, ix: NodeIx) {
        let another = self.is_of_another_scope(ix);
        let Some(agent) = self.agent(ix) else { return };
        agent.scope_looked_at = false;
        // One that is about to be opened is looked at then.
        if agent.watch.open.is_some() && another {
            agent.close_watches();
            agent.clustered.scoped.lost(&mut agent.clustered.observer);
            self.list(ix);
        }
        self.watch_apart(ix);
    }

    /// Whether what is watched, or was listed to be, is not what is to be watched now.
    pub(crate) fn is_of_another_scope(&self, ix: NodeIx) -> bool {
        let Some(agent) = self.node(ix).agent.as_deref() else {
            return false;
        };
        let scoped = &agent.clustered.scoped;
        match self.broken {
            Some(ClusterRule::ScopesNotNumbered) => agent.in_parts == scoped.scope().has_all(),
            _ => agent.opened != scoped.opened(),
        }
    }

    /// Lists everything, to watch from there what is to be told now.
    pub(crate) fn list(&mut self, ix: NodeIx) {
        let Some(agent) = self.agent(ix) else { return };
        agent.opened = agent.clustered.scoped.opened();
        agent.in_parts = !agent.clustered.scoped.scope().has_all();
        self.call(ix, Purpose::List { first: false }, Asked::List, CALL_TIMEOUT);
    }

    /// Watches these sessions, each apart, and no others.
    fn watch_apart(&mut self, ix: NodeIx) {
        let Some(agent) = self.node(ix).agent.as_deref() else {
            return;
        };
        let apart = agent.clustered.scoped.apart().iter();
        let wanted: BTreeMap<NodeIx, u64> = apart.map(|(node, number)| (self.ix(node), *number)).collect();
        let by_what_it_is = self.broken == Some(ClusterRule::ScopesNotNumbered);
        let goes_on = |of: NodeIx, number: u64| {
            let wanted = wanted.get(&of);
            wanted.is_some_and(|wanted| by_what_it_is || *wanted == number)
        };
        let ended = agent.renewals.iter().filter(|(of, told)| !goes_on(**of, told.number));
        for of in ended.map(|(of, _)| *of).collect::<Vec<_>>() {
            self.told_apart[of as usize].remove(&ix);
            if let Some(agent) = self.agent(ix) {
                agent.renewals.remove(&of);
            }
        }
        for (of, number) in wanted {
            let Some(agent) = self.agent(ix) else { return };
            if agent.renewals.contains_key(&of) {
                continue;
            }
            agent.streams += 1;
            let stream = agent.streams;
            let fresh = Renewals {
                stream,
                number,
                open: false,
                stalled: false,
                last_at: Timestamp(0),
            };
            agent.renewals.insert(of, fresh);
            self.told_apart[of as usize].insert(ix);
            self.read_renewals(ix, of, stream);
        }
    }

    /// Whether what is told of the renewals of a node counts: it is of a watch that goes on.
    fn counts(&self, ix: NodeIx, of: NodeIx) -> bool {
        let Some(agent) = self.node(ix).agent.as_deref() else {
            return false;
        };
        let told = agent.renewals.get(&of);
        let tells = |told: &Renewals| agent.clustered.scoped.tells(&self.node(of).name, told.number);
        told.is_some_and(tells) || self.broken == Some(ClusterRule::ScopesNotNumbered)
    }

    fn renewals(&mut self, ix: NodeIx, of: NodeIx, stream: u32) -> Option<&mut Renewals> {
        let renewals = self.agent(ix)?.renewals.get_mut(&of)?;
        (renewals.stream == stream).then_some(renewals)
    }

    pub(crate) fn read_renewals(&mut self, ix: NodeIx, of: NodeIx, stream: u32) {
        if self.renewals(ix, of, stream).is_some() {
            let txn = Rc::new(Txn::new().then(Op::Get(Key::Session(of))));
            self.call(ix, Purpose::Renewals { of, stream }, Asked::Txn(txn), CALL_TIMEOUT);
        }
    }

    pub(crate) fn renewals_read(&mut self, ix: NodeIx, of: NodeIx, stream: u32, outcome: &Outcome) {
        let Some(renewals) = self.renewals(ix, of, stream) else {
            return;
        };
        renewals.open = true;
        let read = outcome.reads.iter().flatten().next().cloned();
        self.renewed(ix, of, read.as_ref());
        // What happened since.
        let now = self.server.model.get(&Key::Session(of)).cloned();
        let modified = |entry: &Option<Entry>| entry.as_ref().map(|entry| entry.modified);
        if modified(&now) != modified(&read) {
            let revision = self.server.model.revision();
            let change = now.map_or(Change::Delete(Key::Session(of)), Change::Put);
            let changes = vec![change];
            self.send_renewal(ix, of, &Rc::new(Changes { revision, changes }));
        }
    }

    /// A session as it was read or told apart. Which sessions there are is told by the watch that tells of slots, in one order with them.
    fn renewed(&mut self, ix: NodeIx, of: NodeIx, entry: Option<&Entry>) {
        if !self.counts(ix, of) {
            return;
        }
        let Some(agent) = self.agent(ix) else { return };
        let known = agent.clustered.sessions.get(&of).map(|known| known.id);
        match entry.map(|entry| (entry, &*entry.value)) {
            Some((entry, Value::Session(record))) if known == Some(entry.create) => {
                self.session_seen(ix, of, entry, *record, true);
            }
            Some((entry, _)) => drop(agent.clustered.early.insert(of, entry.clone())),
            None => drop(agent.clustered.early.remove(&of)),
        }
        self.look_at_sessions(ix);
    }

    fn send_renewal(&mut self, ix: NodeIx, of: NodeIx, told: &Rc<Changes>) {
        let travel = self.travel(ix);
        let now = self.now;
        let Some(agent) = self.agent(ix) else { return };
        let life = agent.life;
        let Some(renewals) = agent.renewals.get_mut(&of).filter(|renewals| renewals.open) else {
            return;
        };
        let at = (now + travel).max(renewals.last_at);
        renewals.last_at = at;
        let (stream, told) = (renewals.stream, Rc::clone(told));
        self.plan_at(
            at,
            Due::Renewal {
                node: ix,
                life,
                of,
                stream,
                told,
            },
        );
    }

    pub(crate) fn renewal_arrives(&mut self, ix: NodeIx, life: u32, of: NodeIx, stream: u32, told: Rc<Changes>) {
        let cut = self.net.from_store[ix as usize] > 0;
        let Some(agent) = self.agent(ix).filter(|agent| agent.life == life) else {
            return;
        };
        if agent.stopped {
            agent.deferred.push(Due::Renewal {
                node: ix,
                life,
                of,
                stream,
                told,
            });
            return;
        }
        let Some(renewals) = self.renewals(ix, of, stream) else {
            return;
        };
        if cut {
            // The connection is given up after a while; what is told until then is told again by reading.
            if !std::mem::replace(&mut renewals.stalled, true) {
                let wait = Duration::from_millis(self.rng.u64(500..4_000));
                self.plan_task(ix, wait, Task::RenewalsStall { of, stream });
            }
            return;
        }
        self.tally.watched += 1;
        self.tally.renewals_told += 1;
        for change in &told.changes {
            match change {
                Change::Put(entry) if entry.key == Key::Session(of) => self.renewed(ix, of, Some(entry)),
                Change::Delete(Key::Session(node)) if *node == of => self.renewed(ix, of, None),
                _ => {}
            }
        }
        self.settle(ix);
    }

    /// Nothing was heard of one session: what is known of it counts no more until it was read again.
    pub(crate) fn renewals_stall(&mut self, ix: NodeIx, of: NodeIx, stream: u32) {
        let name = self.node(of).name.clone();
        let counts = self.counts(ix, of);
        let Some(renewals) = self.renewals(ix, of, stream).filter(|renewals| renewals.stalled) else {
            return;
        };
        (renewals.open, renewals.stalled) = (false, false);
        let Some(agent) = self.agent(ix) else { return };
        if counts {
            agent.clustered.observer.unheard(&name);
        }
        agent.streams += 1;
        let stream = agent.streams;
        if let Some(renewals) = agent.renewals.get_mut(&of) {
            renewals.stream = stream;
        }
        self.plan_task(ix, RELIST, Task::ReadRenewals { of, stream });
    }

    /// The connection that all of them have in common is lost.
    pub(crate) fn renewals_lost(&mut self, ix: NodeIx) {
        let Some(agent) = self.agent(ix) else { return };
        let open = agent.renewals.iter_mut().filter(|(_, renewals)| renewals.open);
        let lost: Vec<(NodeIx, u32)> = open
            .map(|(of, renewals)| {
                renewals.stalled = true;
                (*of, renewals.stream)
            })
            .collect();
        for (of, stream) in lost {
            self.renewals_stall(ix, of, stream);
        }
    }

    /// Opens the watches of all but the sessions, to tell what came after `revision`.
    pub(crate) fn open_parts(&mut self, ix: NodeIx, revision: Revision) {
        let upto = self.server.model.revision();
        let Some(missed) = self.history(Revision(revision.0 + 1), upto) else {
            return self.watch_lost(ix, "the revisions are compacted");
        };
        let Some(agent) = self.agent(ix) else { return };
        for watch in [&mut agent.watch, &mut agent.second] {
            agent.streams += 1;
            watch.open = Some(agent.streams);
            watch.stalled = false;
            watch.sent.clear();
        }
        for changes in missed {
            self.send_parts(ix, &changes);
        }
    }

    /// Renewals go to those who watch that session.
    pub(crate) fn tell_renewals(&mut self, changes: &Rc<Changes>) {
        for change in &changes.changes {
            let (Change::Put(Entry { key, .. }) | Change::Delete(key)) = change;
            if let Key::Session(of) = key {
                let watch = self.told_apart[*of as usize].iter().copied();
                for ix in watch.collect::<Vec<_>>() {
                    if self.node(ix).up {
                        self.send_renewal(ix, *of, changes);
                    }
                }
            }
        }
    }

    /// What was committed goes to those who watch parts of it.
    pub(crate) fn tell_apart(&mut self, changes: &Rc<Changes>) {
        self.tell_renewals(changes);
        for ix in 0..self.nodes.len() as NodeIx {
            let node = &self.nodes[ix as usize];
            let in_parts = |agent: &super::agent::Agent| agent.in_parts;
            if node.agent.as_deref().filter(|_| node.up).is_some_and(in_parts) {
                self.send_parts(ix, changes);
            }
        }
    }

    pub(crate) fn send_parts(&mut self, ix: NodeIx, changes: &Rc<Changes>) {
        for part in [Part::First, Part::Second] {
            if !changes.changes.iter().any(|change| is_told(change, Some(part))) {
                continue;
            }
            let travel = self.travel(ix);
            let (now, mut upto) = (self.now, changes.revision);
            let many = self.interest.is_some();
            let Some(agent) = self.agent(ix) else { return };
            let life = agent.life;
            let watch = match part {
                Part::Second => &mut agent.second,
                _ => &mut agent.watch,
            };
            let Some(stream) = watch.open else { continue };
            watch.sent.push_back(Rc::clone(changes));
            if many {
                // What is on its way takes along what follows.
                if std::mem::replace(&mut watch.under_way, true) {
                    continue;
                }
                upto = Revision(u64::MAX);
            }
            let at = (now + travel).max(watch.last_at);
            watch.last_at = at;
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

    /// What a watch of a part was to tell has come.
    pub(crate) fn part_arrives(&mut self, ix: NodeIx, second: bool, upto: Revision) {
        let Some(agent) = self.agent(ix) else { return };
        let (watch, part) = match second {
            true => (&mut agent.second, Part::Second),
            false => (&mut agent.watch, Part::First),
        };
        watch.stalled = false;
        watch.under_way = false;
        let come = watch.sent.iter().take_while(|changes| changes.revision <= upto).count();
        let steps: Vec<Rc<Changes>> = watch.sent.drain(..come).collect();
        if !steps.is_empty() {
            if self.interest.is_none() {
                self.tally.watched += steps.len() as u64;
            }
            self.hear_changes(ix, &steps, Some(part));
        }
    }
}
