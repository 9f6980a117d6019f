//! What others and the session thread are told of us; who is the controller.

use super::clocks;
use super::publish::Publish;
use super::session::{Order, TELLS_WHO_IS_THERE};
use super::silence;
use crate::agent::Agent;
use crate::clock;
use crate::executor::chain;
use crate::input::Input;
use api::Severity;
use api::record::{self, Live};
use decisions::{ClusterEvent, Event, InstancePhase, Report, Scope, WHOLE_UP_TO};
use model::{InstanceId, Millis, NodeName, Revision, Timestamp, WallTime};
use std::sync::Arc;
use std::time::Duration;
use store::{Compare, Op, Txn};

/// Whoever could be controller waits this long for each node before it.
const ELECTION_STAGGER: Duration = Duration::from_millis(100);

/// What was written and is not seen yet is written again after this.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// The guard replaces an agent that says nothing for five seconds.
const BEAT_EVERY: Duration = Duration::from_millis(500);

/// What is missing where a guard cannot fence, and how that is put right.
const CANNOT_FENCE: &str = "the guard needs root, cgroup v2 (`stat -fc %T /sys/fs/cgroup` says `cgroup2fs`; else boot with \
                            `systemd.unified_cgroup_hierarchy=1`, and in a container give it a cgroup to write to) and Linux 5.14 or later: end this \
                            node with `understudy down` and start it as root with `understudy cluster start`; `run/guard.log` says more";

impl Agent {
    /// Tells others of our instances, and the session thread what depends on it, if that changed.
    pub(crate) fn tell_others(&mut self, now: Timestamp) {
        if self.clustered.is_none() {
            return;
        }
        for service in self.executor.addresses.news() {
            self.core.tell_of(&service);
        }
        let (instances, _) = self.core.take_touched();
        let troubles = self.executor.addresses.trouble();
        for id in instances {
            let Some(report) = self.core.report_of(&id, now) else {
                continue;
            };
            let live = Live {
                address_trouble: troubles.get(&id).cloned(),
                ..self.live_of(&id, report, now)
            };
            let Some(cluster) = &mut self.clustered else { return };
            if cluster
                .published
                .get(&id)
                .is_some_and(|told| says_the_same(told, &live))
            {
                continue;
            }
            cluster.published.insert(id.clone(), live.clone());
            let _ = cluster.publisher.send(Publish::Live(id, Box::new(live)));
        }
        self.tell_of_those_of_before(now);
        self.rescope();
        let wanted = super::upkeep::Wanted {
            controller: self.core.is_controller(),
            avoid: self.core.exclusive_nodes().iter().map(ToString::to_string).collect(),
        };
        let silent = |cluster: &super::Clustered| cluster.observer.is_anyone_silent(super::clock::mark());
        let fast = self.core.holds_slots() || self.clustered.as_ref().is_some_and(silent);
        let empty = self.is_written_back(self.core.acting_exclusive().is_empty());
        let Some(cluster) = &mut self.clustered else { return };
        cluster.upkeep.send_if_modified(|before| {
            let changed = *before != wanted;
            *before = wanted;
            changed
        });
        if cluster.told_fast != Some(fast) {
            cluster.told_fast = Some(fast);
            cluster.link.order(Order::Fast(fast));
        }
        if cluster.told_empty != Some(empty) {
            cluster.told_empty = Some(empty);
            cluster.link.order(Order::Empty(empty));
        }
    }

    /// Looks whose renewals we need now, and has them watched.
    pub(crate) fn rescope(&mut self) {
        let Some(cluster) = &mut self.clustered else { return };
        let controller = cluster
            .controller
            .as_ref()
            .map(|(controller, _)| controller.node.clone());
        let of_before = |session: &store::session::Session| session.record.protocol < TELLS_WHO_IS_THERE;
        let all_tell = cluster.presence.all_tell(cluster.sessions.values().any(of_before));
        let scoped_for = (controller, all_tell);
        if !self.core.may_have_other_scope() && cluster.scoped_for == scoped_for {
            return;
        }
        let whole_up_to = match all_tell {
            true => cluster.node.whole_up_to.unwrap_or(WHOLE_UP_TO),
            false => usize::MAX,
        };
        let scope = self.core.scope(scoped_for.0.as_ref(), whole_up_to);
        cluster.scoped_for = scoped_for;
        let had_all = cluster.scoped.scope().has_all();
        if !cluster.scoped.change(scope, &mut cluster.observer) {
            return;
        }
        let scope = cluster.scoped.scope();
        match (scope, scope.has_all() == had_all) {
            (Scope::Of(nodes), false) => {
                tracing::info!(
                    ?nodes,
                    "there are many nodes: renewals are heard of those alone that this one may succeed"
                );
            }
            (_, false) => tracing::info!("every renewal is heard"),
            (_, true) => tracing::debug!(?scope, "other renewals are heard"),
        }
        cluster.early.retain(|node, _| scope.has(node));
        cluster.scopes.send_replace(cluster.scoped.clone());
    }

    /// The controller, who sees every session, tells all others if there is one that they would not see.
    fn tell_of_those_of_before(&mut self, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        let Some(controls) = super::controls(cluster).filter(|_| self.core.is_controller()) else {
            return;
        };
        let of_before = |session: &store::session::Session| session.record.protocol < TELLS_WHO_IS_THERE;
        let of_before = cluster.sessions.values().any(of_before);
        let Some(there) = cluster.presence.to_write(of_before) else {
            cluster.presence_written = None;
            return;
        };
        let written = cluster.presence_written;
        if written.is_some_and(|at| now.since(at) < TELL_AGAIN) {
            return;
        }
        cluster.presence_written = Some(now);
        let txn = controls.compared_by(Txn::new()).then(match there {
            true => Op::put(record::WHOLE, "1"),
            false => Op::delete(record::WHOLE),
        });
        self.write_down("whether everybody has to watch all sessions", txn);
    }

    /// What is wrong between this node and the others, in plain words.
    pub(crate) fn cluster_problems(&self) -> Vec<api::Problem> {
        let Some(cluster) = &self.clustered else {
            return Vec::new();
        };
        let papers = cluster.papers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut problems = papers.clone();
        drop(papers);
        let standing = cluster
            .standing
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let known: Vec<String> = problems.iter().map(|problem| problem.code.clone()).collect();
        problems.extend(
            standing
                .iter()
                .filter(|problem| !known.contains(&problem.code))
                .cloned(),
        );
        drop(standing);
        // If the store does not answer at all, that is told below, and says more.
        let trouble = cluster
            .store_trouble
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        problems.extend(trouble.clone().filter(|_| cluster.answering.lost().is_none()));
        drop(trouble);
        let own = cluster
            .own_trouble
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        problems.extend(own.clone());
        drop(own);
        let mut clock_problems = Vec::new();
        let mut add = |code: &str, text: String, hint: &str, since: Timestamp| {
            problems.push(api::Problem {
                code: code.into(),
                severity: api::Severity::Error,
                about: cluster.me.to_string(),
                text,
                hint: hint.into(),
                since: clock::shown(since),
            });
        };
        for (node, wrong) in cluster.clocks.wrong() {
            clock_problems.push(clock_problem(node, wrong));
        }
        if let Some((since, why)) = cluster.answering.lost() {
            let text = format!(
                "the store does not answer node {} ({why}): nothing is decided. What runs goes on as each service's policy says; exclusive \
                 actives stand still until it answers",
                cluster.me
            );
            let hint = "`understudy cluster status` says which members are missing, and what to do";
            add("store-lost", text, hint, *since);
        }
        if let Some((since, refusal)) = cluster.answering.refuses() {
            let text = format!(
                "the store answers node {} and refuses its renewals: {}. What runs goes on as each service's policy says; exclusive actives \
                 stand still until a renewal is acknowledged, and end if none is in time",
                cluster.me, refusal.why
            );
            add("store-refuses", text, &refusal.hint, *since);
        }
        if let Some((why, since)) = &cluster.frozen {
            let text = format!("exclusive actives of node {} stand still: {why}", cluster.me);
            add(
                "frozen",
                text,
                "they go on by themselves when the store answers in time; else another node takes over",
                *since,
            );
        }
        if cluster.session.is_none() && cluster.answering.takes_writes() {
            let text = match &cluster.taken {
                Some(taken) if taken.record.machine != cluster.node.machine => format!(
                    "another machine has the session of node {}: two machines must not have one name",
                    cluster.me
                ),
                Some(_) => format!("an earlier session of node {} has to run out first", cluster.me),
                None => format!("node {} has no session: it may hold nothing", cluster.me),
            };
            let hint = match &cluster.fencing {
                Err(_) => "it opens one when its guard can fence: see `cannot-fence`",
                Ok(_) => "it opens one by itself within seconds; `run/agent.log` says what keeps it from that",
            };
            add("no-session", text, hint, cluster.session_lost);
        }
        if let Err(why) = &cluster.fencing {
            let text = format!(
                "node {} cannot fence: {why}; it is a member and cannot take part: it opens no session, and nothing runs here",
                cluster.me
            );
            add("cannot-fence", text, CANNOT_FENCE, cluster.fencing_since);
        }
        problems.extend(self.power_problems());
        problems.extend(clock_problems);
        problems
    }

    /// When there is something to do beside what the core wants.
    pub(crate) fn cluster_wakeup(&self) -> Option<Timestamp> {
        let cluster = self.clustered.as_ref()?;
        let look = cluster.look_at.map(|at| Timestamp(at.boot_ns / 1_000 + 1));
        let leaving = cluster.leaving.as_ref().map(super::leave::Leaving::wakeup);
        let power = cluster.power.wakeup();
        let others = [cluster.elect_at, Some(cluster.beat_at), leaving, power];
        look.into_iter().chain(others.into_iter().flatten()).min()
    }

    /// Tells the guard that the main loop goes round.
    pub(crate) fn beat(&mut self, now: Timestamp) {
        if let Some(cluster) = self.clustered.as_mut().filter(|cluster| now >= cluster.beat_at) {
            cluster.beat_at = now + BEAT_EVERY;
            cluster.link.order(Order::Beat);
            self.look_at_clocks(now);
            self.look_at_store(now);
        }
    }

    /// Looks whether the store is lost to this node, or is back, and tells.
    fn look_at_store(&mut self, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        let me = cluster.me.clone();
        match cluster.answering.news(now, cluster.timing.soft_deadline.duration()) {
            Some(silence::News::Lost(why)) => {
                let text = format!(
                    "the store does not answer node {me}: its majority is lost, or this node is cut off from it; nothing is decided here"
                );
                self.journal.tell(Severity::Error, "majority-lost", text, why);
            }
            Some(silence::News::Back) => {
                let text = format!("the store answers node {me} again");
                let because = "a majority of its members is there, and this node reaches it".to_owned();
                self.journal.tell(Severity::Info, "majority-back", text, because);
            }
            None => {}
        }
    }

    /// Clocks that are wrong, for those who explain a node.
    pub(crate) fn clocks_amiss(&self) -> Vec<(NodeName, String)> {
        let wrong = self.clustered.iter().flat_map(|cluster| cluster.clocks.wrong());
        wrong
            .map(|(node, wrong)| {
                let problem = clock_problem(node, wrong);
                (
                    node.clone(),
                    format!("{}, since {}; {}", problem.text, problem.since, problem.hint),
                )
            })
            .collect()
    }

    /// Looks whether the wall clocks of the nodes agree, and tells if they do not any more, or do again.
    fn look_at_clocks(&mut self, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        let me = cluster.me.clone();
        let hears_all = cluster.scoped.scope().has_all();
        for news in cluster.clocks.look(&me, clock::wall_now(), hears_all, now) {
            match news {
                clocks::News::Set(ms) => {
                    let span = Millis(ms.unsigned_abs());
                    let how = if ms > 0 { "forward" } else { "back" };
                    let text = format!("the clock of this node was set {how} by {span}");
                    let because = "by a person or by its time service; leases do not go by it".to_owned();
                    self.journal.tell(Severity::Warning, "clock-set", text, because);
                }
                clocks::News::Wrong(node, by) => {
                    let because = "renewals of sessions say what it shows".to_owned();
                    self.journal
                        .tell(Severity::Warning, "clock-wrong", by.text(&node), because);
                }
                clocks::News::Right(node) => {
                    let text = format!("nothing speaks against the clock of node {node} any more");
                    let because = "it shows what those of most nodes show, or is not heard of".to_owned();
                    self.journal.tell(Severity::Info, "clock-right", text, because);
                }
            }
        }
    }

    fn live_of(&self, id: &InstanceId, report: Report, now: Timestamp) -> Live {
        let floating = self.executor.addresses.has(id);
        let age = i64::try_from(now.since(report.since).as_millis()).unwrap_or(0);
        Live {
            node: report.node,
            session: Revision(0),
            run: report.run,
            phase: match report.phase {
                InstancePhase::Waiting => "waiting",
                InstancePhase::Prepared => "prepared",
                InstancePhase::Starting => "starting",
                InstancePhase::Running => "running",
                InstancePhase::Stopping => "stopping",
                InstancePhase::Failed => "failed",
            }
            .into(),
            health: report.health,
            acts: report.acts,
            promoted: report.promoted,
            served: report.served,
            followed: report.followed,
            stands_by: report.stands_by.map(|result| result.err().unwrap_or_default()),
            proved: report
                .proved
                .map(|(number, result)| (number, result.err().unwrap_or_default())),
            unfenced: report.unfenced,
            busy: report.busy,
            leaving: report.leaving,
            current: report.current,
            check_untried: report.check_untried,
            deaths: report.deaths,
            restarts: report.restarts,
            since: WallTime(clock::wall_now().0 - age),
            because: report.because,
            last_failure: report.last_failure,
            last_end: report.last_end,
            not_promoted: report.not_promoted.map(|failed| record::NotPromoted {
                slot: failed.slot,
                epoch: failed.epoch,
                what: failed.what,
            }),
            address: self.executor.address(id),
            pid: self.executor.pid(id),
            floating_on: floating.as_ref().map(|(_, interface)| interface.clone()),
            floating: floating.map(|(address, _)| address),
            address_trouble: None,
        }
    }

    /// Whoever has a session and finds no controller with one becomes it, the first by name at once.
    pub(crate) fn consider_election(&mut self, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        let lives = |node: &NodeName, session: Revision, elected: Revision| {
            if *node == cluster.me {
                cluster.session == Some(session) && elected > cluster.elected_before
            } else {
                cluster.sessions.get(node).is_some_and(|known| known.id == session)
            }
        };
        let there = cluster
            .controller
            .as_ref()
            .is_some_and(|(controller, elected)| lives(&controller.node, controller.session, *elected));
        let ours = there
            && cluster
                .controller
                .as_ref()
                .is_some_and(|(controller, _)| controller.node == cluster.me);
        if there || cluster.session.is_none() {
            cluster.elect_at = None;
        } else if cluster.elect_at.is_none() {
            let rank = cluster.sessions.keys().take_while(|node| **node != cluster.me).count();
            let rank = u32::try_from(rank).unwrap_or(0);
            cluster.elect_at = Some(now + ELECTION_STAGGER * rank);
        }
        if self.core.is_controller() != ours {
            if !ours && let Some((_, elected)) = &cluster.controller {
                cluster.elected_before = *elected;
            }
            let event = ClusterEvent::Controller(ours);
            self.core.handle(Event::Cluster(event), now);
        }
    }

    /// Writes itself down as the controller, if nobody did.
    pub(crate) fn stand_for_election(&mut self, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        if cluster.elect_at.is_none_or(|at| now < at) {
            return;
        }
        // Tried again after this, should nothing come of it.
        cluster.elect_at = Some(now + Duration::from_secs(1));
        let Some(session) = cluster.session else { return };
        let me = cluster.me.clone();
        let mut txn = Txn::new().when(Compare::created(store::session::session_key(&me), session));
        txn = match &cluster.controller {
            None => txn.when(Compare::absent(record::CONTROLLER)),
            Some((old, revision)) => {
                let txn = txn.when(Compare::modified(record::CONTROLLER, *revision));
                let present = cluster.sessions.get(&old.node).map(|session| session.id);
                match present {
                    _ if old.node == me => txn,
                    Some(present) if present == old.session => return,
                    present => txn.when(Compare::created(
                        store::session::session_key(&old.node),
                        present.unwrap_or_default(),
                    )),
                }
            }
        };
        let controller = record::Controller { node: me, session };
        let Ok(value) = serde_json::to_vec(&controller) else {
            return;
        };
        let txn = txn.then(Op::put(record::CONTROLLER, value));
        self.write_down("the controller", txn);
    }

    /// Writes something of which nobody waits to hear.
    pub(crate) fn write_down(&self, what: &'static str, txn: Txn) {
        let (store, inputs) = (Arc::clone(&self.store), self.inputs.clone());
        tokio::spawn(async move {
            let error = store.txn(txn).await.err().map(|error| chain(&error));
            let _ = inputs.send(Input::Later(super::Later::Wrote { what, error }));
        });
    }
}

/// What a clock that is wrong means. Certificates are made as if signed an hour before: nodes that are further apart refuse what the other signs.
fn clock_problem(node: &NodeName, wrong: &clocks::Wrong) -> api::Problem {
    let borne = identity::BACKDATED;
    let shown = Millis(u64::try_from(borne.as_millis()).unwrap_or(u64::MAX));
    let (severity, then) = match wrong.by.span() {
        span if span >= borne => (
            Severity::Error,
            format!(
                "that is more than the {shown} that certificates bear: one that is signed there or elsewhere now may be refused by the other"
            ),
        ),
        span if span >= borne * 3 / 4 => (
            Severity::Error,
            format!("certificates bear {shown}: a little more, and new ones are refused"),
        ),
        _ => (Severity::Warning, format!("certificates bear {shown}")),
    };
    api::Problem {
        code: "clock-wrong".into(),
        severity,
        about: node.to_string(),
        text: format!("{}; leases and takeovers do not go by it, {then}", wrong.by.text(node)),
        hint: format!("see on node {node} whether its time service runs: `timedatectl`, `chronyc tracking`"),
        since: clock::shown(wrong.since),
    }
}

/// Whether there is no news for others: since when something is so is rounded, and no news by itself.
pub(super) fn says_the_same(told: &Live, live: &Live) -> bool {
    let timeless = |live: &Live| Live {
        since: WallTime(0),
        session: Revision(0),
        ..live.clone()
    };
    timeless(told) == timeless(live)
}
