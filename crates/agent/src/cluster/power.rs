//! Power fencing: carries out what [`decisions::power`] decides, and looks after the devices.
//!
//! ```text
//!   look_at_power ── Fencer ──► Begin ──► task: intent ─ off … status ─ confirmed ─ T4f ─ power back ──► Later::Power
//!                     ▲                                                                                     │
//!                     └────────────────────── records of the store, graves ◄────────────────────────────────┘
//! ```
//! A task ends with our session: what it started is killed then, and the kernel's alarm ends it should this agent hang.

use super::session::Renewed;
use super::{Clustered, Later, clock as marks, controls};
use crate::agent::Agent;
use crate::clock;
use crate::executor::chain;
use crate::input::{Input, done, refused};
use crate::journal::Inputs;
use api::record::{self, DeviceCheck};
use api::{Outcome, Severity};
use decisions::power::{Begin, Call, Fencer, GiveBack, Holdup, Job, Next, Situation, Step};
use decisions::{ClusterEvent, Event, lease};
use model::{
    AfterFence, FenceBy, FenceDevice, FenceRecord, FenceState, Mark, Millis, NodeName, Revision, Timestamp,
    attempt_bound,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use store::fence::{self, Intent};
use store::session::{self, Cause, Ending, Grave, Ground};
use store::{Compare, Entry, Op, Store, Txn};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

/// How often every device is asked whether it would answer.
const CHECK_EVERY: Duration = Duration::from_secs(300);
/// And one that did not answer.
const CHECK_SOON: Duration = Duration::from_secs(60);
/// The first time, after this agent became the controller or the file changed.
const CHECK_FIRST: Duration = Duration::from_secs(5);
/// A write of ours is tried again for this long before its outcome counts as unknown.
const WRITE_FOR: Duration = Duration::from_secs(10);
/// Records older than this are no news.
const NEWS_FOR_MS: i64 = 60_000;

/// What an agent knows of power fencing.
pub(crate) struct Power {
    pub(crate) fencer: Fencer,
    /// Tasks of ours, by whose power they are at.
    tasks: BTreeMap<NodeName, AbortHandle>,
    /// Operators who wait for what comes of it.
    waiting: BTreeMap<NodeName, oneshot::Sender<Result<Outcome, Outcome>>>,
    /// Ends of sessions that were looked up.
    asked: BTreeSet<(NodeName, Revision)>,
    /// And found, or found not to be there.
    found: BTreeSet<(NodeName, Revision)>,
    /// Whether what ran here may still be in the page cache.
    cache: Cache,
    /// How often it was written back.
    flushes: u64,
    /// What the checks of devices said last.
    pub(crate) checks: BTreeMap<NodeName, DeviceCheck>,
    /// When each is due, as far as that is for us to do.
    check_at: BTreeMap<NodeName, Timestamp>,
    /// When to look again.
    look_at: Option<Mark>,
    /// Since when each node with an agent that knows nothing of it is seen.
    of_before: BTreeMap<NodeName, Timestamp>,
    /// Since when each lost node is not known to be off.
    pub(crate) unproven: BTreeMap<NodeName, (Revision, Timestamp)>,
}

/// What exclusive instances wrote before they ended: on a shared disk it must not come after what the next one writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Cache {
    /// Some may be in the page cache.
    #[default]
    Dirty,
    /// It is being written back, for the so manieth time.
    WrittenBack(u64),
    /// Nothing is.
    Clean,
}

/// What comes of it.
#[derive(Debug)]
pub(crate) enum PowerNews {
    /// Everything is on the disks that was in the page cache when this began.
    Clean(u64),
    /// An attempt at a node's power is over, but for `more`: it gets its power back.
    Over {
        node: NodeName,
        result: Result<String, String>,
        more: bool,
    },
    /// A node whose power was taken away has it again, or not.
    Back { node: NodeName, result: Result<(), String> },
    /// How a session ended, as its grave says; nothing if there is none.
    Grave {
        node: NodeName,
        session: Revision,
        cause: Option<Cause>,
    },
    /// That could not be looked up.
    NoAnswer { node: NodeName, session: Revision },
    /// A device was asked.
    Checked { node: NodeName, trouble: Option<String> },
}

impl Power {
    pub(crate) fn new(me: NodeName) -> Self {
        Self {
            fencer: Fencer::new(me),
            tasks: BTreeMap::new(),
            waiting: BTreeMap::new(),
            asked: BTreeSet::new(),
            found: BTreeSet::new(),
            cache: Cache::default(),
            flushes: 0,
            checks: BTreeMap::new(),
            check_at: BTreeMap::new(),
            look_at: None,
            of_before: BTreeMap::new(),
            unproven: BTreeMap::new(),
        }
    }

    /// Our session is gone: whatever we are at is somebody else's from now on.
    pub(crate) fn session_lost(&mut self) {
        for (node, task) in std::mem::take(&mut self.tasks) {
            task.abort();
            self.fencer.ended(&node);
            if let Some(waiting) = self.waiting.remove(&node) {
                let text = format!("this node lost its session while it was at the power of node {node}");
                let _ = waiting.send(Err(refused(text, Some("ask the agent of another node".into()))));
            }
        }
    }

    pub(crate) fn wakeup(&self) -> Option<Timestamp> {
        let look = self.look_at.map(|at| Timestamp(at.boot_ns / 1_000 + 1));
        look.into_iter().chain(self.check_at.values().copied()).min()
    }
}

impl Agent {
    /// Looks whether somebody's power has to be taken away. Harmless at any time.
    pub(crate) fn look_at_power(&mut self, now: Timestamp) {
        let unproven = self.core.unproven_nodes();
        let Some(cluster) = &mut self.clustered else { return };
        let of_before: BTreeSet<NodeName> = of_before(cluster).cloned().collect();
        let power = &mut cluster.power;
        power.of_before.retain(|node, _| of_before.contains(node));
        for node in of_before {
            power.of_before.entry(node).or_insert(now);
        }
        power.unproven.retain(|node, _| unproven.contains_key(node));
        for looked_up in [&mut power.asked, &mut power.found] {
            looked_up.retain(|(node, session)| unproven.get(node) == Some(session));
        }
        for (node, session) in &unproven {
            let known = power.unproven.entry(node.clone()).or_insert((*session, now));
            known.0 = *session;
        }
        let lookups: Vec<(NodeName, Revision)> = unproven
            .iter()
            .filter(|(node, session)| cluster.sessions.get(*node).map(|open| open.id) != Some(**session))
            .map(|(node, session)| (node.clone(), *session))
            .filter(|lookup| power.asked.insert(lookup.clone()))
            .collect();
        for (node, session) in lookups {
            look_up(Arc::clone(&self.store), self.inputs.clone(), node, session);
        }
        self.check_devices(now);
        let Some(cluster) = &mut self.clustered else { return };
        let idle = unproven.is_empty() && cluster.power.fencer.next_wakeup(marks::mark()).is_none();
        if idle || cluster.paused || self.core.is_paused() {
            cluster.power.look_at = None;
            return;
        }
        // One that left in order, or has just booted again, is not fenced before its grave was read.
        let mut known = unproven;
        let has = |node: &NodeName, session| cluster.sessions.get(node).map(|open| open.id) == Some(session);
        known.retain(|node, session| has(node, *session) || cluster.power.found.contains(&(node.clone(), *session)));
        let facts = Facts::of(cluster, &self.cluster, known);
        let steps = cluster.power.fencer.look(&facts.situation(cluster));
        cluster.power.look_at = cluster.power.fencer.next_wakeup(facts.now);
        for step in steps {
            match step {
                Step::Begin(begin) => {
                    let services: Vec<String> = self
                        .core
                        .fenced_by_power_at(&begin.node)
                        .iter()
                        .map(ToString::to_string)
                        .collect();
                    let because = format!(
                        "node {} is lost, and may still write what {} shares",
                        begin.node,
                        services.join(", ")
                    );
                    self.fence(begin, because);
                }
                Step::GiveBack { node, record, revision } => self.give_back(node, record, revision),
                Step::GiveUp { node, record, revision } => self.let_go_of(node, record, revision),
            }
        }
    }

    /// Whether all that ended here has ended for shared disks too. `empty` says that nothing exclusive runs; what is in the page cache then is
    /// written back first, where a service shares storage, before this node opens a session: another could take its slot from then on.
    pub(crate) fn is_written_back(&mut self, empty: bool) -> bool {
        let shares = self
            .cluster
            .services
            .values()
            .any(|service| service.fence == FenceBy::Power);
        let Some(cluster) = &mut self.clustered else {
            return empty;
        };
        let cache = &mut cluster.power.cache;
        match (empty, *cache) {
            (false, _) => *cache = Cache::Dirty,
            (true, Cache::Dirty) if shares => {
                cluster.power.flushes += 1;
                let (inputs, time) = (self.inputs.clone(), cluster.power.flushes);
                *cache = Cache::WrittenBack(time);
                tokio::spawn(async move {
                    written_back().await;
                    let _ = inputs.send(Input::Later(Later::Power(PowerNews::Clean(time))));
                });
            }
            (true, _) => {}
        }
        empty && (!shares || *cache == Cache::Clean)
    }

    /// Begins an attempt.
    fn fence(&mut self, begin: Begin, because: String) {
        let Some(cluster) = &mut self.clustered else { return };
        let Some(under) = cluster.session else {
            cluster.power.fencer.ended(&begin.node);
            return;
        };
        let place = self.cluster.site.nodes.get(&begin.node);
        let node = begin.node.clone();
        let record = FenceRecord {
            session: begin.session,
            state: FenceState::Powering,
            by: cluster.me.clone(),
            under,
            bound: begin.bound,
            tries: begin.tries,
            proven: begin.proven,
            because,
            at: clock::wall_now(),
        };
        let open = cluster.sessions.get(&node).is_some_and(|open| open.id == begin.session);
        let attempt = Attempt {
            store: Arc::clone(&self.store),
            devices: place.map(|place| place.fence.clone()).unwrap_or_default(),
            after: place.map(|place| place.after_fence).unwrap_or_default(),
            renewals: cluster.link.renewals.clone(),
            lease: cluster.timing.soft_deadline.duration(),
            intent: Intent {
                node: node.clone(),
                record,
                expect: begin.expect,
                modified: begin.modified,
                open,
                gone: begin.gone,
            },
        };
        let inputs = self.inputs.clone();
        let task = tokio::spawn(async move {
            let node = attempt.intent.node.clone();
            let off = attempt.run().await;
            let (result, back) = match off {
                Ok((told, off)) => (Ok(told), Some(off)),
                Err(why) => (Err(why), None),
            };
            let over = PowerNews::Over {
                node: node.clone(),
                result,
                more: back.is_some(),
            };
            let _ = inputs.send(Input::Later(Later::Power(over)));
            if let Some(off) = back {
                let result = give_back(attempt.store.as_ref(), &node, attempt.told_on(), off).await;
                let _ = inputs.send(Input::Later(Later::Power(PowerNews::Back { node, result })));
            }
        });
        cluster.power.tasks.insert(node, task.abort_handle());
    }

    /// Goes on with giving a node its power back, whose fencer is gone.
    fn give_back(&mut self, node: NodeName, record: FenceRecord, from: Revision) {
        let Some(cluster) = &mut self.clustered else { return };
        let Some(under) = cluster.session else {
            cluster.power.fencer.ended(&node);
            return;
        };
        let place = self.cluster.site.nodes.get(&node);
        let place = place.filter(|place| place.after_fence == AfterFence::On);
        let devices = place.map(|place| place.fence.clone()).unwrap_or_default();
        let record = FenceRecord {
            by: cluster.me.clone(),
            under,
            at: clock::wall_now(),
            ..record
        };
        let (store, inputs, of) = (Arc::clone(&self.store), self.inputs.clone(), node.clone());
        let task = tokio::spawn(async move {
            let sent = marks::mark();
            let result = match fence::resume(store.as_ref(), &of, from, &record).await {
                Ok(Some(revision)) => {
                    let off = Off { record, revision, sent };
                    give_back(store.as_ref(), &of, &devices, off).await
                }
                // Somebody else does.
                Ok(None) => Ok(()),
                Err(error) => {
                    tracing::debug!(node = %of, error = %chain(&error), "its power is given back later");
                    Ok(())
                }
            };
            let _ = inputs.send(Input::Later(Later::Power(PowerNews::Back { node: of, result })));
        });
        cluster.power.tasks.insert(node, task.abort_handle());
    }

    /// Notes that an attempt of this node has failed, which another agent of it did not end.
    fn let_go_of(&mut self, node: NodeName, record: FenceRecord, from: Revision) {
        let failed = FenceRecord {
            state: FenceState::Failed("the agent that did it was started anew meanwhile".into()),
            at: clock::wall_now(),
            ..record
        };
        let (store, inputs) = (Arc::clone(&self.store), self.inputs.clone());
        tokio::spawn(async move {
            let result = note(store.as_ref(), &node, from, &failed).await;
            let over = PowerNews::Over {
                node,
                result: result.map(|_| String::new()),
                more: false,
            };
            let _ = inputs.send(Input::Later(Later::Power(over)));
        });
    }

    /// What a task of ours, or a look at the store, brought.
    pub(crate) fn hear_power(&mut self, news: PowerNews, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        match news {
            PowerNews::Over { node, result, more } => {
                if !more {
                    cluster.power.tasks.remove(&node);
                    cluster.power.fencer.ended(&node);
                }
                if let Err(why) = &result {
                    tracing::warn!(%node, why, "the power of a node was not taken away");
                }
                if let Some(waiting) = cluster.power.waiting.remove(&node) {
                    let hint = || Some("`understudy fence --test NODE` asks its devices".into());
                    let _ = waiting.send(result.map(done).map_err(|why| refused(why, hint())));
                }
            }
            PowerNews::Back { node, result } => {
                cluster.power.tasks.remove(&node);
                cluster.power.fencer.ended(&node);
                if let Err(why) = result {
                    let text = format!("node {node} was fenced, and does not get its power back: give it back by hand");
                    self.journal.tell(Severity::Error, "stays-off", text, why);
                }
            }
            PowerNews::Clean(time) => {
                if cluster.power.cache == Cache::WrittenBack(time) {
                    cluster.power.cache = Cache::Clean;
                }
            }
            PowerNews::NoAnswer { node, session } => {
                cluster.power.asked.remove(&(node, session));
            }
            PowerNews::Grave { node, session, cause } => {
                cluster.power.found.insert((node.clone(), session));
                let proves = matches!(
                    cause,
                    Some(Cause::Closed | Cause::Rebooted | Cause::Fenced | Cause::Stated)
                );
                if proves {
                    self.core
                        .handle(Event::Cluster(ClusterEvent::Proven { node, session }), now);
                }
            }
            PowerNews::Checked { node, trouble } => self.device_checked(node, trouble, now),
        }
    }

    /// The record of a node's fencing, as the store has it now.
    pub(crate) fn fence_seen(&mut self, node: NodeName, entry: &Entry, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        let record = match fence::read(entry) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(%node, %error, "how far its fencing is cannot be read");
                return;
            }
        };
        let known = cluster.power.fencer.record(&node).map(|(_, revision)| revision);
        cluster
            .power
            .fencer
            .hear(node.clone(), record.clone(), entry.modified, marks::mark());
        let fresh = known.is_none_or(|known| known < entry.modified);
        if fresh && clock::wall_now().0 - record.at.0 < NEWS_FOR_MS {
            let (severity, kind, text) = in_words(&node, &record);
            self.journal.tell(severity, kind, text, record.because.clone());
        }
        let session = record.proven;
        if session > Revision(0) {
            self.core
                .handle(Event::Cluster(ClusterEvent::Proven { node, session }), now);
        }
    }

    /// A session has ended, and how.
    pub(crate) fn grave_seen(&mut self, key: &str, entry: &Entry, now: Timestamp) {
        let named = key.split_once('/').and_then(|(node, session)| {
            let session: u64 = session.parse().ok()?;
            Some((NodeName::new(node).ok()?, Revision(session)))
        });
        let Some((node, session)) = named else { return };
        let cause = serde_json::from_slice::<Grave>(&entry.value)
            .ok()
            .map(|grave| grave.cause);
        self.hear_power(PowerNews::Grave { node, session, cause }, now);
    }

    /// `understudy fence NODE`: its power is taken away at an operator's wish, or its devices are asked whether they would.
    pub(crate) fn fence_by_hand(
        &mut self,
        request: &api::FenceRequest,
        answer: oneshot::Sender<Result<Outcome, Outcome>>,
    ) {
        let place = self
            .cluster
            .site
            .nodes
            .iter()
            .find(|(name, _)| name.as_str() == request.node);
        let Some((node, place)) = place.filter(|(_, place)| !place.fence.is_empty()) else {
            let text = format!(
                "no device is declared that takes the power of node `{}` away",
                request.node
            );
            let hint = format!("`[node.{}.fence]` in the file declares one", request.node);
            let _ = answer.send(Err(refused(text, Some(hint))));
            return;
        };
        let node = node.clone();
        if request.test {
            let devices = place.fence.clone();
            tokio::spawn(async move {
                let _ = answer.send(test(&node, &devices).await);
            });
            return;
        }
        match self.may_fence_by_hand(&node) {
            Err(why) => drop(answer.send(Err(why))),
            Ok(begin) => {
                let text = format!("took the power of node {node} away");
                let at = clock::wall_now();
                let deed = self.deed(at, &request.by, "fence", node.as_str(), text);
                if let Ok(value) = serde_json::to_vec(&deed) {
                    let key = record::deed_key(at, &deed.through);
                    self.write_down(
                        "who takes the power of a node away",
                        Txn::new().then(Op::put(key, value)),
                    );
                }
                if let Some(cluster) = &mut self.clustered {
                    cluster.power.waiting.insert(node.clone(), answer);
                }
                self.fence(begin, format!("{} asked for it", request.by));
            }
        }
    }

    fn may_fence_by_hand(&mut self, node: &NodeName) -> Result<Begin, Outcome> {
        let unproven = self.core.unproven_nodes();
        let only_here = |text: &str| refused(text, Some("`understudy status` shows what is".into()));
        let Some(cluster) = &mut self.clustered else {
            return Err(only_here("one machine takes nobody's power away"));
        };
        if *node == cluster.me {
            return Err(refused(
                format!("node {node} is the one that is asked: nobody would be left to see that it is off"),
                Some("ask the agent of another node".into()),
            ));
        }
        if cluster.session.is_none() || cluster.answering.lost().is_some() {
            return Err(only_here(
                "this node has no session, or the store does not answer: whoever fences must have the majority",
            ));
        }
        let facts = Facts::of(cluster, &self.cluster, unproven);
        let snapshot = facts.situation(cluster);
        let begin = cluster.power.fencer.by_hand(node, &snapshot).map_err(|why| {
            refused(
                words(node, &why),
                Some("`understudy status` shows how far it is".into()),
            )
        })?;
        if begin.session == Revision(0) {
            cluster.power.fencer.ended(node);
            let text = format!("node {node} has no session and holds nothing: there is nothing to fence");
            return Err(only_here(&text));
        }
        Ok(begin)
    }

    /// Asks every device whether it would answer, if that is due and for us to do.
    fn check_devices(&mut self, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        if controls(cluster).is_none() {
            cluster.power.check_at.clear();
            return;
        }
        let declared = self.cluster.site.nodes.iter();
        let declared: BTreeMap<_, _> = declared.filter(|(_, place)| !place.fence.is_empty()).collect();
        cluster.power.check_at.retain(|node, _| declared.contains_key(node));
        let mut due = Vec::new();
        for (node, place) in declared {
            let at = cluster.power.check_at.entry(node.clone()).or_insert(now + CHECK_FIRST);
            if now >= *at {
                // Until the answer is there, which comes within the devices' own bounds.
                *at = now + CHECK_EVERY;
                due.push((node.clone(), place.fence.clone()));
            }
        }
        for (node, devices) in due {
            let (inputs, lives) = (self.inputs.clone(), cluster.sessions.contains_key(&node));
            let lives = lives && !cluster.expired.contains(&node);
            tokio::spawn(async move {
                let mut trouble = None;
                for device in &devices {
                    let answer = drivers::power::is_off(device).await;
                    trouble = trouble.or(trouble_of(device, answer.map_err(|error| chain(&error)), lives));
                }
                let _ = inputs.send(Input::Later(Later::Power(PowerNews::Checked { node, trouble })));
            });
        }
    }

    fn device_checked(&mut self, node: NodeName, trouble: Option<String>, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        if trouble.is_some()
            && let Some(at) = cluster.power.check_at.get_mut(&node)
        {
            *at = now + CHECK_SOON;
        }
        let known = cluster.power.checks.get(&node);
        if known.map(|known| &known.trouble) == Some(&trouble) {
            return;
        }
        let check = DeviceCheck {
            by: cluster.me.clone(),
            since: clock::wall_now(),
            trouble,
        };
        if let Ok(value) = serde_json::to_vec(&check) {
            let key = format!("{}{node}", record::DEVICE_CHECKS);
            self.write_down("what a fence device says", Txn::new().then(Op::put(key, value)));
        }
    }

    /// What a check of a device said, here or elsewhere.
    pub(crate) fn device_check_seen(&mut self, node: NodeName, entry: &Entry) {
        let Some(cluster) = &mut self.clustered else { return };
        let Ok(check) = serde_json::from_slice::<DeviceCheck>(&entry.value) else {
            return;
        };
        let before = cluster.power.checks.insert(node.clone(), check.clone());
        let fails = |check: &DeviceCheck| check.trouble.is_some();
        if clock::wall_now().0 - check.since.0 >= NEWS_FOR_MS || before.as_ref().is_some_and(fails) == fails(&check) {
            return;
        }
        match check.trouble {
            Some(trouble) => {
                let text = format!("the power of node {node} could not be taken away now");
                self.journal.tell(Severity::Warning, "fence-device", text, trouble);
            }
            None => {
                let text = format!("the fence devices of node {node} answer");
                let because = format!("node {} asked them", check.by);
                self.journal.tell(Severity::Info, "fence-device", text, because);
            }
        }
    }

    /// What is wrong with power fencing, in plain words.
    pub(crate) fn power_problems(&self) -> Vec<api::Problem> {
        let Some(cluster) = &self.clustered else {
            return Vec::new();
        };
        let unproven = cluster.power.unproven.iter();
        let unproven: BTreeMap<NodeName, Revision> = unproven.map(|(node, (id, _))| (node.clone(), *id)).collect();
        let facts = Facts::of(cluster, &self.cluster, unproven);
        let situation = facts.situation(cluster);
        let mut problems = Vec::new();
        for (node, (_, since)) in &cluster.power.unproven {
            let services = self.core.fenced_by_power_at(node);
            let services: Vec<&str> = services.iter().map(model::ServiceName::as_str).collect();
            let holdup = match cluster.paused || self.core.is_paused() {
                true => "automatic actions are paused".to_owned(),
                false => words(node, &cluster.power.fencer.holdup(node, &situation)),
            };
            problems.push(api::Problem {
                code: "not-known-off".into(),
                severity: Severity::Error,
                about: node.to_string(),
                text: format!("node {node} is lost, and nobody takes what it holds of {}: {holdup}", services.join(", ")),
                hint: format!(
                    "if you see that it is off: `understudy force SERVICE --node-is-off {node}`; to try now: `understudy fence {node}`"
                ),
                since: clock::shown(*since),
            });
        }
        let shares: Vec<String> = self
            .cluster
            .services
            .iter()
            .filter(|(_, service)| service.fence == FenceBy::Power)
            .map(|(name, _)| name.to_string())
            .collect();
        for (node, since) in cluster.power.of_before.iter().filter(|_| !shares.is_empty()) {
            problems.push(api::Problem {
                code: "fence-unknown".into(),
                severity: Severity::Error,
                about: node.to_string(),
                text: format!(
                    "the agent of node {node} is of a version that knows nothing of power fencing: it may take the slots of {} from a lost node that still writes",
                    shares.join(", ")
                ),
                hint: format!("install this version on node {node}"),
                since: clock::shown(*since),
            });
        }
        for (node, check) in &cluster.power.checks {
            let declared = self
                .cluster
                .site
                .nodes
                .get(node)
                .is_some_and(|place| !place.fence.is_empty());
            if let Some(trouble) = check.trouble.as_ref().filter(|_| declared) {
                problems.push(api::Problem {
                    code: "fence-device".into(),
                    severity: Severity::Warning,
                    about: node.to_string(),
                    text: format!(
                        "the power of node {node} could not be taken away now: {trouble}. Should it be lost, nobody takes what it holds of services \
                         with `fence = \"power\"`"
                    ),
                    hint: format!("`understudy fence --test {node}` asks its devices again"),
                    since: clock::shown_wall(check.since),
                });
            }
        }
        problems
    }
}

/// Nodes whose agents are of a version that knows nothing of power fencing.
fn of_before(cluster: &Clustered) -> impl Iterator<Item = &NodeName> {
    let of_before = |session: &session::Session| session.record.protocol < super::session::FENCES_BY_POWER;
    let sessions = cluster.sessions.iter().filter(move |(_, session)| of_before(session));
    sessions.map(|(node, _)| node)
}

/// Why a file with services that share storage cannot be put in force yet.
pub(crate) fn not_everybody_fences(cluster: &Clustered, file: &model::Cluster) -> Option<Outcome> {
    let mut services = file
        .services
        .iter()
        .filter(|(_, service)| service.fence == FenceBy::Power);
    let (service, _) = services.next()?;
    let nodes: Vec<&str> = of_before(cluster).map(NodeName::as_str).collect();
    (!nodes.is_empty()).then(|| {
        refused(
            format!(
                "service `{service}` has `fence = \"power\"`, and the agents of {} are of a version that knows nothing of it: they would take its slots from a lost node that still writes",
                nodes.join(", ")
            ),
            Some("install this version on each node first; nothing was changed".into()),
        )
    })
}

/// What the fencer looks at, gathered.
struct Facts {
    now: Mark,
    sessions: BTreeMap<NodeName, Revision>,
    unproven: BTreeMap<NodeName, Revision>,
    leaves: BTreeMap<NodeName, lease::Condemn>,
    bounds: BTreeMap<NodeName, Millis>,
    needed: BTreeSet<NodeName>,
    rank: u32,
}

impl Facts {
    fn of(cluster: &Clustered, declared: &model::Cluster, unproven: BTreeMap<NodeName, Revision>) -> Self {
        let now = marks::mark();
        let leaves = unproven.keys().filter_map(|node| {
            let leave = cluster.observer.may_condemn(node, now).ok()?;
            Some((node.clone(), leave))
        });
        let with_devices = declared.site.nodes.iter().filter(|(_, place)| !place.fence.is_empty());
        let living = cluster
            .sessions
            .keys()
            .filter(|node| !cluster.expired.contains(*node) && !unproven.contains_key(*node));
        let rank = living.take_while(|node| **node != cluster.me).count();
        Self {
            now,
            sessions: cluster
                .sessions
                .iter()
                .map(|(node, session)| (node.clone(), session.id))
                .collect(),
            leaves: leaves.collect(),
            needed: unproven
                .keys()
                .filter(|node| is_needed(cluster, node))
                .cloned()
                .collect(),
            bounds: with_devices
                .map(|(node, place)| (node.clone(), attempt_bound(&place.fence)))
                .collect(),
            rank: u32::try_from(rank).unwrap_or(u32::MAX),
            unproven,
        }
    }

    fn situation(&self, cluster: &Clustered) -> Situation<'_> {
        Situation {
            now: self.now,
            session: cluster.session,
            sessions: &self.sessions,
            unproven: &self.unproven,
            leaves: &self.leaves,
            bounds: &self.bounds,
            needed: &self.needed,
            rank: self.rank,
            stagger: cluster.timing.rank_stagger.duration(),
        }
    }
}

/// Whether the store would have no majority of members on living nodes without this one.
fn is_needed(cluster: &Clustered, node: &NodeName) -> bool {
    let voters: Vec<&NodeName> = cluster
        .members
        .iter()
        .filter(|(_, member)| member.votes)
        .map(|(voter, _)| voter)
        .collect();
    let lives = |voter: &&&NodeName| {
        **voter != node && cluster.sessions.contains_key(**voter) && !cluster.expired.contains(**voter)
    };
    voters.contains(&node) && voters.iter().filter(lives).count() < voters.len() / 2 + 1
}

/// One attempt at a node's power, carried out.
struct Attempt {
    store: Arc<dyn Store>,
    devices: Vec<FenceDevice>,
    after: AfterFence,
    /// Our session, and when it was renewed last.
    renewals: watch::Receiver<Renewed>,
    /// How long after that we count on it.
    lease: Duration,
    intent: Intent,
}

impl Attempt {
    /// From the intent to the end of the node's session. Returns what to tell, and what was noted.
    async fn run(&self) -> Result<(String, Off), String> {
        let node = &self.intent.node;
        let sent = marks::mark();
        let begun = fence::begin(self.store.as_ref(), &self.intent).await;
        let begun =
            begun.map_err(|error| format!("whether node {node} may be fenced is not known: {}", chain(&error)))?;
        let Some(begun) = begun else {
            return Err(format!(
                "node {node} has renewed its session or is back, or somebody else was first: nothing was done"
            ));
        };
        if let Err(why) = self.take(sent).await {
            let failed = FenceRecord {
                state: FenceState::Failed(why.clone()),
                at: clock::wall_now(),
                ..self.intent.record.clone()
            };
            if let Err(error) = note(self.store.as_ref(), node, begun, &failed).await {
                tracing::warn!(%node, error, "that its power was not taken away could not be noted");
            }
            return Err(why);
        }
        let record = &self.intent.record;
        let record = FenceRecord {
            proven: record.proven.max(record.session),
            at: clock::wall_now(),
            state: FenceState::Off,
            ..record.clone()
        };
        let sent = marks::mark();
        let revision = note(self.store.as_ref(), node, begun, &record).await?;
        self.end_session(revision).await;
        let told = format!("node {node} is off: every device of it says so");
        Ok((told, Off { record, revision, sent }))
    }

    /// The devices that give it its power back.
    fn told_on(&self) -> &[FenceDevice] {
        match self.after {
            AfterFence::On => &self.devices,
            AfterFence::StayOff => &[],
        }
    }

    /// Every device is told, then read back.
    async fn take(&self, sent: Mark) -> Result<(), String> {
        let mut job = Job::new(&self.devices, self.intent.record.bound, sent);
        loop {
            match job.next(marks::mark(), self.is_ours()) {
                Next::Done => return Ok(()),
                Next::Fail(why) => return Err(why),
                Next::Wait(span) => {
                    tokio::time::sleep(span).await;
                    job.waited();
                }
                Next::Call(Call::Status(device)) => {
                    let off = drivers::power::is_off(&self.devices[device]).await;
                    job.read(off.map_err(|error| chain(&error)));
                }
                Next::Call(Call::Off(device) | Call::On(device)) => {
                    let off = drivers::power::off(&self.devices[device], job.begins_by(device)).await;
                    job.off_done(off.map_err(|error| chain(&error)));
                }
            }
        }
    }

    /// Whether nobody else can be at it: our session is the one in the intent, and was renewed a moment ago.
    fn is_ours(&self) -> bool {
        let renewed = *self.renewals.borrow();
        renewed.is_some_and(|(session, sent)| {
            session == self.intent.record.under && marks::mark().held_for(sent) < self.lease
        })
    }

    /// T4f: its session is the one that is meant, and the confirmation is unchanged.
    async fn end_session(&self, confirmed: Revision) {
        let (node, store) = (&self.intent.node, self.store.as_ref());
        let open = match session::get(store, node).await {
            Ok(Some(open)) if open.id == self.intent.record.session => open,
            // Somebody ended it by now; what is proven is in the record.
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%node, error = %chain(&error), "the session of a node that is off cannot be read; it runs out by itself");
                return;
            }
        };
        let ground = Ground::Fenced {
            key: fence::key(node),
            confirmed,
        };
        let by = self.intent.record.by.to_string();
        match session::condemn(store, &open, &ground, &by).await {
            Ok(Ending::Lives(_)) => tracing::warn!(%node, "its session is as it was: somebody wrote its record"),
            Ok(ending) => tracing::info!(%node, ?ending, "ended the session of a node that is off"),
            Err(error) => {
                tracing::warn!(%node, error = %chain(&error), "the session of a node that is off could not be ended; it runs out by itself");
            }
        }
    }
}

/// That a node is off, as it was noted.
struct Off {
    record: FenceRecord,
    revision: Revision,
    /// Before it was.
    sent: Mark,
}

/// Gives a node its power back by these devices when what was told has settled, and notes that nothing is left to be done.
async fn give_back(store: &dyn Store, node: &NodeName, devices: &[FenceDevice], off: Off) -> Result<(), String> {
    let mut job = GiveBack::new(devices, off.record.bound, off.sent);
    let result = loop {
        match job.next(marks::mark()) {
            Next::Done => break Ok(()),
            Next::Fail(why) => break Err(why),
            Next::Wait(span) => {
                tokio::time::sleep(span).await;
                job.waited();
            }
            Next::Call(Call::On(device) | Call::Off(device) | Call::Status(device)) => {
                let on = drivers::power::on(&devices[device], job.begins_by(device)).await;
                job.on_done(on.map_err(|error| chain(&error)));
            }
        }
    };
    let done = FenceRecord {
        state: FenceState::Done,
        at: clock::wall_now(),
        ..off.record
    };
    note(store, node, off.revision, &done).await?;
    result
}

/// Writes a record on the one of a revision, and does not come back before that is known.
async fn note(store: &dyn Store, node: &NodeName, from: Revision, record: &FenceRecord) -> Result<Revision, String> {
    let until = tokio::time::Instant::now() + WRITE_FOR;
    loop {
        match fence::note(store, node, from, record).await {
            Ok(Some(revision)) => return Ok(revision),
            Ok(None) => {
                return Err(format!(
                    "what is noted of the fencing of node {node} was changed by others meanwhile"
                ));
            }
            Err(error) if tokio::time::Instant::now() >= until => return Err(chain(&error)),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Waits until what is in the page cache is on the disks: for as long as those need, be it for ever.
pub(crate) async fn written_back() {
    let began = tokio::time::Instant::now();
    if tokio::task::spawn_blocking(rustix::fs::sync).await.is_err() {
        tracing::error!("what is in the page cache could not be written back");
        std::future::pending::<()>().await;
    }
    let took = began.elapsed();
    if took > Duration::from_secs(1) {
        tracing::info!(?took, "wrote back what services left in the page cache");
    }
}

/// How a session ended that is gone without our having seen it.
fn look_up(store: Arc<dyn Store>, inputs: Inputs, node: NodeName, id: Revision) {
    tokio::spawn(async move {
        let key = session::grave_key(&node, id);
        let news = match store.get(&key).await {
            Ok(entry) => {
                let grave = entry.and_then(|entry| serde_json::from_slice::<Grave>(&entry.value).ok());
                PowerNews::Grave {
                    node,
                    session: id,
                    cause: grave.map(|grave| grave.cause),
                }
            }
            Err(_) => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                PowerNews::NoAnswer { node, session: id }
            }
        };
        let _ = inputs.send(Input::Later(Later::Power(news)));
    });
}

/// What is wrong with what a device says. One that calls the supply of a node off that lives is most likely another's: its word would prove nothing.
fn trouble_of(device: &FenceDevice, is_off: Result<bool, String>, lives: bool) -> Option<String> {
    match is_off {
        Err(why) => Some(why),
        Ok(true) if lives => Some(format!(
            "{} says that the power is off, and the node lives: is it the device of another one, or is this supply without current?",
            device.shown()
        )),
        Ok(_) => None,
    }
}

/// Every device is asked whether it is on or off, and nothing is done.
async fn test(node: &NodeName, devices: &[FenceDevice]) -> Result<Outcome, Outcome> {
    let mut told = Vec::new();
    for device in devices {
        match drivers::power::is_off(device).await {
            Ok(off) => told.push(format!("{}: {}", device.shown(), if off { "off" } else { "on" })),
            Err(error) => {
                return Err(refused(chain(&error), Some(error.hint().into())));
            }
        }
    }
    Ok(done(format!("the devices of node {node} answer: {}", told.join(", "))))
}

/// Compares and writes of a statement that a node is off whose session is gone already.
pub(super) fn stated(node: &NodeName, known: Option<(&FenceRecord, Revision)>, stated: FenceRecord) -> Option<Txn> {
    let key = fence::key(node);
    let (txn, proven) = match known {
        Some((record, revision)) => (Txn::new().when(Compare::modified(&key, revision)), record.proven),
        None => (Txn::new().when(Compare::absent(&key)), Revision(0)),
    };
    let record = FenceRecord {
        proven: proven.max(stated.session),
        ..stated
    };
    let value = serde_json::to_vec(&record).ok()?;
    let session = Compare::absent(session::session_key(node));
    Some(txn.when(session).then(Op::put(key, value)))
}

fn in_words(node: &NodeName, record: &FenceRecord) -> (Severity, &'static str, String) {
    let by = &record.by;
    match &record.state {
        FenceState::Powering => (
            Severity::Warning,
            "fencing",
            format!(
                "node {by} takes the power of node {node} away (attempt {})",
                record.tries
            ),
        ),
        FenceState::Failed(why) => (
            Severity::Error,
            "fence-failed",
            format!("the power of node {node} could not be taken away: {why}"),
        ),
        FenceState::Off => (
            Severity::Warning,
            "fenced-off",
            format!("node {node} is off: every device of it says so"),
        ),
        FenceState::Done => (
            Severity::Info,
            "fenced-off",
            format!("the fencing of node {node} is over"),
        ),
        FenceState::Withdrawn => (
            Severity::Info,
            "fence-withdrawn",
            format!("node {node} is back, so nobody takes its power away"),
        ),
    }
}

fn words(node: &NodeName, holdup: &Holdup) -> String {
    match holdup {
        Holdup::NoDevice => format!("no device is declared that could take its power away (`[node.{node}.fence]`)"),
        Holdup::Needed => "without it the store may have no majority, and nobody could note that it is off".into(),
        Holdup::Braked { lost, of } => format!(
            "{lost} of {of} nodes were lost at once, more than a third: nobody's power is taken away before an operator says which node is to be fenced"
        ),
        Holdup::Failed { why, tries } => {
            format!("its power could not be taken away in {tries} attempts: {why}; it is tried again")
        }
        Holdup::Powering { by } => format!("node {by} takes its power away"),
        Holdup::Soon => "its power is taken away in a moment".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_calls_a_living_node_off_is_told_of() {
        let device = FenceDevice {
            agent: "fence_made_up".into(),
            parameters: BTreeMap::from([("ip".into(), "10.0.9.1".into())]),
            secrets: BTreeMap::new(),
            timeout: Millis(1_000),
            feeds: BTreeSet::new(),
        };
        assert_eq!(trouble_of(&device, Ok(false), true), None);
        assert_eq!(trouble_of(&device, Ok(true), false), None, "it is lost, and off");
        let told = trouble_of(&device, Ok(true), true).unwrap();
        assert!(
            told.contains("fence_made_up at 10.0.9.1 says that the power is off"),
            "{told}"
        );
        assert_eq!(trouble_of(&device, Err("no route".into()), true).unwrap(), "no route");
    }
}
