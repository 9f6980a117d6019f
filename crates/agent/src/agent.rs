//! The one loop of the agent: everything that happens comes in here, is decided by the core, and is carried out.

use crate::apply;
use crate::clock;
use crate::cluster::Clustered;
use crate::executor::{Executor, chain};
use crate::fronts::Fronts;
use crate::input::{Input, LogSource, Request, done, refused};
use crate::journal::{Inputs, Journal};
use crate::keeper;
use crate::measure::{ClusterLook, Glance, Look, Measures};
use crate::proxy_link::ProxyLink;
use crate::show;
use api::layout::Layout;
use api::proxy::{FromProxy, ToProxy};
use api::record::{self, Applied};
use api::{Outcome, Severity};
use decisions::{Action, Core, Decision, Event, Reason, Takeover};
use model::{Cluster, InstanceId, Millis, NodeName, Revision, ServiceName, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::{Op, Store, Txn};
use tokio::sync::{mpsc, oneshot, watch};

/// Who asked for everything to be stopped is told after this long what is left.
const DOWN_TIMEOUT: Duration = Duration::from_secs(120);

/// The dashboard calls nothing old before this, whatever the timing: a busy machine is late now and then.
const STALE_AFTER_MS_MIN: u64 = 2_500;
/// So many events are told to the one who measures each second; there are never so many.
const EVENTS_A_LOOK: usize = 1_000;

/// An agent at work.
pub(crate) struct Agent {
    pub(crate) name: String,
    /// Held for as long as we are in charge.
    pub(crate) lock: std::fs::File,
    pub(crate) layout: Layout,
    pub(crate) core: Core,
    pub(crate) executor: Executor,
    pub(crate) journal: Journal,
    pub(crate) fronts: Fronts,
    pub(crate) link: ProxyLink,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) inputs: Inputs,
    pub(crate) cluster: Arc<Cluster>,
    /// The file in force, and the store's revision of it.
    pub(crate) applied: Option<Applied>,
    pub(crate) applied_at: Revision,
    /// A file is being written: one at a time.
    pub(crate) applying: bool,
    /// Whether it is written that the file in force works.
    pub(crate) worked: crate::revisions::Worked,
    /// Versions that are given up.
    pub(crate) given_up: crate::given_up::Versions,
    pub(crate) changed: watch::Sender<u64>,
    pub(crate) settled: watch::Sender<bool>,
    pub(crate) keeper: keeper::Keeper,
    pub(crate) switchovers: BTreeMap<u64, oneshot::Sender<Result<Takeover, String>>>,
    pub(crate) next_request: u64,
    pub(crate) down: Vec<oneshot::Sender<Outcome>>,
    pub(crate) down_by: Option<Timestamp>,
    /// Routes that the core wants and the proxy has not been told of because there is none.
    pub(crate) proxy_is_up: bool,
    pub(crate) ending: Option<i32>,
    /// What an agent that is one of several has beside that.
    pub(crate) clustered: Option<Clustered>,
    pub(crate) measures: Measures,
    /// How near services are to an outage, as it was reckoned last.
    pub(crate) outlook: Arc<crate::outlook::Outlook>,
    /// What lies below this node.
    pub(crate) hardware: model::hardware::Hardware,
    /// What the journal says of failures.
    pub(crate) history: Arc<analysis::history::History>,
}

impl Agent {
    /// Goes on until the agent is to end; returns its exit code.
    pub(crate) async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Input>) -> i32 {
        loop {
            self.carry_out();
            self.note_worked();
            self.tell_others(clock::now());
            if let Some(code) = self.ending {
                return code;
            }
            let wakeup = [self.core.next_wakeup(), self.down_by, self.cluster_wakeup()];
            let wakeup = wakeup.into_iter().flatten().min();
            if wakeup.is_some_and(|at| at <= clock::now()) {
                // News in plenty must not keep time-outs from being seen.
                self.tick();
                self.carry_out();
            }
            let input = tokio::select! {
                biased;
                input = queue.recv() => input,
                () = reach(wakeup) => None,
            };
            match input {
                Some(input) => {
                    self.take(input);
                    // Whatever else is here already belongs to the same moment. What was decided is begun before the next is heard: it is
                    // written against what was known when it was decided.
                    for _ in 0..64 {
                        match queue.try_recv() {
                            Ok(input) => {
                                self.carry_out();
                                self.take(input);
                            }
                            Err(_) => break,
                        }
                    }
                }
                None => self.tick(),
            }
        }
    }

    fn tick(&mut self) {
        let now = clock::now();
        if self.clustered.is_some() {
            self.beat(now);
            self.look_at_sessions(now);
            self.consider_election(now);
            self.stand_for_election(now);
            self.go_on_leaving(now);
        }
        self.core.handle(Event::Tick, now);
        if self.down_by.is_some_and(|by| now >= by) {
            // What is left is still being ended; the answer is only that it takes longer than anyone should wait.
            self.down_by = Some(now + DOWN_TIMEOUT);
            let left: Vec<String> = self.executor.running().map(|(id, _)| id.to_string()).collect();
            let text = format!(
                "not everything is down after {} s; still there: {}",
                DOWN_TIMEOUT.as_secs(),
                left.join(", ")
            );
            let hint = "it goes on; look for processes that hang in the kernel (state D), then `understudy down` again";
            for waiting in self.down.drain(..) {
                let _ = waiting.send(refused(text.clone(), Some(hint.into())));
            }
        }
    }

    pub(crate) fn take(&mut self, input: Input) {
        let now = clock::now();
        match input {
            Input::Event(event, at) => {
                let event = self.fair(event, now);
                if let Event::Gone { instance, run } = &event {
                    self.executor.gone(instance, *run);
                }
                if let Event::Probed {
                    instance,
                    run,
                    standby: true,
                    outcome,
                    ..
                } = &event
                    && let Some(passed) = outcome.verdict()
                    && self.core.judges_standbys(instance.service())
                {
                    self.executor.standby_checked(instance, *run, passed, at);
                }
                if let Event::Probed {
                    instance,
                    run,
                    standby: false,
                    outcome: decisions::ProbeOutcome::Pass,
                    ..
                } = &event
                {
                    self.executor.passed(instance, *run);
                }
                let quiet = matches!(event, Event::Probed { .. });
                self.core.handle(event, at);
                if quiet {
                    return;
                }
            }
            Input::StartDone { instance, run, result } => {
                let event = self.executor.started(instance, run, result);
                self.core.handle(event, now);
            }
            Input::HookDone { event, at } => {
                self.executor.hook_done(&event);
                self.core.handle(event, at);
            }
            Input::Proxy(message) => self.hear_proxy(message, now),
            Input::ProxyUp { fronts, pid } => self.greet_proxy(fronts, pid, now),
            Input::ProxyDown => {
                self.proxy_is_up = false;
                let text = "the proxy died; another one is being started on the same sockets".to_owned();
                self.journal.tell(
                    Severity::Warning,
                    "proxy-died",
                    text,
                    "its connection to the agent ended".into(),
                );
            }
            Input::Session(news) => {
                self.hear_session(news, now);
                // A write of ours that succeeded may be the evidence that was missing.
                self.look_at_sessions(now);
            }
            Input::Seen(seen) => {
                self.hear_store(seen, now);
                self.look_at_sessions(now);
            }
            Input::Later(crate::cluster::Later::Closed) => {
                let text = format!("node {} of {} is down", self.keeper_node(), self.name);
                self.finish_down(&done(text));
            }
            Input::Later(later) => self.hear_later(later),
            Input::Answered { number, outcome } => {
                let waiting = self
                    .clustered
                    .as_mut()
                    .and_then(|cluster| cluster.awaited.remove(&number));
                if let Some(waiting) = waiting {
                    let _ = waiting.send(outcome);
                }
            }
            Input::Address(news) => self.journal.tell_of(*news),
            Input::GuardGone => {
                let text = "the guard died; another one is being started".to_owned();
                self.journal
                    .tell(Severity::Warning, "guard-died", text, "its process ended".into());
                self.keeper.start_guard(&self.inputs);
            }
            Input::SocketsGone => {
                let text = format!("what was in `{}` was made anew", self.layout.run().display());
                let because = "somebody removed it; what runs and who is active is not kept there".to_owned();
                self.journal.tell(Severity::Warning, "sockets-gone", text, because);
            }
            Input::NodeFileGone => {
                let text = format!("`{}` was written anew", self.layout.node().display());
                let because =
                    "somebody removed or damaged it; without it this machine would belong to no cluster".to_owned();
                self.journal.tell(Severity::Warning, "node-file-gone", text, because);
            }
            Input::LookAtRecords => {
                let written = self.executor.keep_records();
                if !written.is_empty() {
                    let text = format!("the records of {} were written anew", written.join(", "));
                    let folder = self.layout.instances();
                    let because = format!("somebody removed or damaged them in `{}`", folder.display());
                    self.journal.tell(Severity::Warning, "records-gone", text, because);
                }
                return;
            }
            Input::NodeBack(node) => {
                self.wish(&node_key(&node), None);
                self.core.handle(
                    Event::NodeBack {
                        node,
                        because: Reason::BackAsked,
                    },
                    now,
                );
            }
            Input::Paused(paused) => self.pause_seen(paused.as_ref(), now),
            Input::Hardware(seen) => {
                self.hardware_seen(*seen);
                return;
            }
            Input::Parked(slot, parked) => self.park_seen(slot, parked.as_ref(), now),
            Input::Applied(written) => apply::written(self, *written),
            Input::GivenUp(version, Some(entry)) => self.given_up_seen(version, &entry, now),
            Input::GivenUp(version, None) => self.given_up_gone(&version, now),
            Input::Worked { revision, written } => self.worked(revision, written),
            Input::Outlook(outlook) => {
                let is_news = outlook.nearest != self.outlook.nearest;
                self.outlook = outlook;
                if !is_news {
                    return;
                }
            }
            Input::Request(request) => {
                let only_reads = request.only_reads();
                self.serve(request, now);
                // Or whoever looks at each change would look for ever.
                if only_reads {
                    return;
                }
            }
            // The services go on; whoever starts the agent again finds them.
            Input::Terminate => self.ending = Some(143),
        }
        self.changed.send_modify(|count| *count += 1);
    }

    fn hear_proxy(&mut self, message: FromProxy, now: Timestamp) {
        match message {
            FromProxy::Routed {
                service,
                revision,
                at_us,
            } => {
                self.core.handle(
                    Event::Routed {
                        service,
                        revision,
                        at: Timestamp(at_us),
                    },
                    now,
                );
            }
            FromProxy::Drained { instance, .. } => self.core.handle(Event::Drained { instance }, now),
            FromProxy::FirstAnswer {
                instance, epoch, at_us, ..
            } => {
                self.core.handle(
                    Event::FirstAnswer {
                        instance,
                        epoch,
                        at: Timestamp(at_us),
                    },
                    now,
                );
            }
            FromProxy::Suspect { instance, .. } => self.core.handle(Event::Suspected { instance }, now),
            FromProxy::Traffic {
                service,
                totals,
                measured,
            } => {
                if let Some(measured) = measured {
                    self.measures.report(service.clone(), totals, measured);
                }
                self.fronts.count(service, totals);
            }
            FromProxy::Served {
                service,
                error: Some(error),
            } => {
                let text = format!("the proxy cannot serve {service}");
                self.journal.tell(Severity::Error, "not-served", text, error.clone());
                self.fronts.told(service, Some(error));
            }
            FromProxy::Served { service, error: None } => self.fronts.told(service, None),
            FromProxy::Hello { .. } | FromProxy::Pong => {}
        }
    }

    fn greet_proxy(&mut self, fronts: Vec<(api::proxy::Front, std::net::TcpListener)>, pid: u32, now: Timestamp) {
        tracing::info!(pid, fronts = fronts.len(), "connected to the proxy");
        self.proxy_is_up = true;
        let follows: BTreeMap<ServiceName, u64> = fronts
            .iter()
            .map(|(front, _)| (front.service.clone(), front.revision))
            .collect();
        self.fronts.adopt(fronts);
        self.fronts.serve(&self.cluster, &self.link);
        self.fronts.only(&self.cluster, &self.link);
        let services: Vec<ServiceName> = self.cluster.services.keys().cloned().collect();
        for service in services {
            let revision = follows.get(&service).copied().unwrap_or(0);
            self.core.handle(Event::ProxyReset { service, revision }, now);
        }
    }

    /// Whoever waits for a first look is told when there is one.
    fn settle(&self) {
        if !*self.settled.borrow() && self.outlook.at.is_some() && self.core.is_sure() {
            self.settled.send_replace(true);
        }
    }

    fn carry_out(&mut self) {
        self.settle();
        while let Some(decision) = self.core.poll_decision() {
            self.journal.note(&decision);
            let Decision { action, because } = decision;
            match action {
                // Ten times a second while an active does not answer.
                Action::ProbeNow { .. } => tracing::debug!(?action, %because, "carrying out decision"),
                _ => tracing::info!(?action, %because, "carrying out decision"),
            }
            match action {
                Action::Route {
                    service,
                    revision,
                    targets,
                    leaving,
                } => {
                    for target in &targets {
                        self.executor.serves(&target.instance, target.epoch);
                    }
                    for (instance, _) in &leaving {
                        self.executor.stands_by(instance);
                    }
                    if self.proxy_is_up {
                        Fronts::route(&self.link, &self.executor, service, revision, &targets, leaving);
                    }
                }
                Action::Unroute { service } => {
                    self.fronts.remove(&service, &self.link);
                }
                Action::Answer { request, answer } => {
                    if let Some(waiting) = self.switchovers.remove(&request) {
                        let _ = waiting.send(answer.map_err(|refusal| refusal.to_string()));
                    }
                }
                Action::Rebind { ref instance, .. } => {
                    if let Some(cluster) = &mut self.clustered {
                        // What a check saw of it while it stood still says nothing of it.
                        cluster.thawed_at = Some(clock::now());
                    }
                    let text = format!("{instance} goes on under the next session of this node");
                    self.journal
                        .tell(Severity::Warning, "rebound", text, because.to_string());
                    self.executor.carry_out(action, &because);
                }
                Action::GiveUp { service, given_up } => self.give_up(service, given_up),
                Action::TryAgain { service } => self.may_try_again(service),
                Action::Rebalanced { service } => {
                    self.wish(&rebalance_key(&service), None);
                    let text = format!("every instance of {service} is where it would be put today");
                    self.journal
                        .tell(Severity::Info, "rebalanced", text, because.to_string());
                }
                Action::AllStopped if self.clustered.is_some() => self.close_session(),
                Action::AllStopped => {
                    let text = format!("{} is down", self.name);
                    self.finish_down(&done(text));
                }
                Action::Create { instance, node } if self.clustered.is_some() => {
                    self.executor.assign(
                        instance,
                        node,
                        self.clustered.as_ref().and_then(crate::cluster::controls),
                    );
                }
                Action::Retire { instance, node } => {
                    let cluster = self.clustered.as_ref();
                    // Another agent is the controller by now, and judges it.
                    let Some(controls) = cluster.and_then(crate::cluster::controls) else {
                        continue;
                    };
                    let counted = cluster.and_then(|cluster| cluster.counted.get(instance.service()));
                    self.executor
                        .retire(instance, node, controls, counted.copied().unwrap_or_default());
                }
                Action::Create { .. } | Action::Note(_) | Action::Report(_) => {}
                Action::TellLeft { instance, node } => {
                    if let Some(by) = self.clustered.as_ref().map(|cluster| cluster.me.clone()) {
                        self.ask(&node, &record::Ask::Left { instance, by });
                    }
                }
                Action::AskRenew { instance, node } => self.ask(&node, &record::Ask::Renew { instance }),
                Action::AskProof { instance, node, number } => {
                    self.ask(&node, &record::Ask::Prove { instance, number });
                }
                Action::AskMove { slot, node, to, drain } => {
                    let ask = record::Ask::Move {
                        service: slot.service,
                        slot: slot.slot,
                        to,
                        drain,
                    };
                    self.ask(&node, &ask);
                }
                action => {
                    if let Action::Part { instance, shut: false } = &action {
                        self.fronts.part(&self.cluster, instance.service(), true, &self.link);
                    } else if let Action::Rejoin { instance } = &action {
                        self.fronts.part(&self.cluster, instance.service(), false, &self.link);
                    }
                    self.executor.carry_out(action, &because);
                }
            }
        }
    }

    pub(crate) fn finish_down(&mut self, outcome: &Outcome) {
        self.link.queue(ToProxy::Shutdown { drain: Millis(0) }, None);
        for waiting in self.down.drain(..) {
            let _ = waiting.send(outcome.clone());
        }
        self.down_by = None;
        // A guard that is not our parent reads it here that we end in order.
        if let Err(error) = guard::write_lock(&mut self.lock, guard::ENDED) {
            tracing::warn!(%error, "cannot note that the agent ends in order; its guard may start it again");
        }
        self.ending = Some(0);
    }

    fn serve(&mut self, request: Request, now: Timestamp) {
        match request {
            Request::Status(answer) => {
                let _ = answer.send(self.status(now));
            }
            Request::Look { after, answer } => {
                let _ = answer.send(self.look(after, now));
            }
            Request::Seen(answer) => {
                let _ = answer.send(crate::analysis::Seen::of(self, Arc::new(self.status(now))));
            }
            Request::Events {
                after,
                limit,
                service,
                answer,
            } => {
                let _ = answer.send(self.journal.after(after, limit, service.as_deref()));
            }
            Request::Overview(answer) => {
                let _ = answer.send(self.overview(Arc::new(self.status(now)), now));
            }
            Request::Preview { intent, answer } => {
                let view = self.core.view(now);
                let preview = self.preview(&intent, &view, now);
                let _ = answer.send(preview);
            }
            Request::Explain { name, if_dies, answer } => {
                let view = self.core.view(now);
                let explanation = show::explain(&name, if_dies.as_deref(), &self.known(&view));
                let unknown = || {
                    refused(
                        format!("there is no service, slot, instance or node `{name}`, and nothing at such an address"),
                        Some("`understudy status` lists what there is".into()),
                    )
                };
                let _ = answer.send(explanation.ok_or_else(unknown));
            }
            Request::LogFile { instance, answer } => {
                let _ = answer.send(self.log_file(&instance));
            }
            Request::Plan { request, answer } => {
                let _ = answer.send(apply::plan(self, &request));
            }
            Request::Apply { request, how, answer } => apply::begin(self, &request, how, answer),
            Request::Switchover { request, answer } => {
                if let Some((node, from)) = self.held_elsewhere(&request) {
                    self.forward(&node, &record::Ask::Switchover { request, from }, answer);
                    return;
                }
                let (told, result) = oneshot::channel();
                let way_on = self.way_on(&request, now);
                self.switchover(&request, told, now);
                tokio::spawn(async move {
                    if let Ok(result) = result.await {
                        let _ = answer.send(crate::http::switchover_outcome(&request.service, way_on, result));
                    }
                });
            }
            Request::Drill { request, answer } => {
                let elsewhere = (request.what == "instance")
                    .then(|| self.runs_elsewhere(&request.name))
                    .flatten();
                if let Some((node, from)) = elsewhere {
                    self.forward_result(&node, &record::Ask::Drill { request, from }, answer);
                    return;
                }
                let _ = answer.send(self.drill(&request, now));
            }
            Request::Drain { node, back, answer } => {
                let _ = answer.send(self.drain(&node, back, now));
            }
            Request::Rebalance { service, answer } => {
                let _ = answer.send(self.rebalance(&service, now));
            }
            Request::Park { request, parks, answer } => self.park(&request, parks, answer, now),
            Request::Force { request, answer } => self.force(&request, answer, now),
            Request::Pause {
                request,
                pauses,
                answer,
            } => self.pause(&request, pauses, answer, now),
            Request::Retry { instance, answer } => {
                if let Some((node, from)) = self.runs_elsewhere(&instance) {
                    self.forward_result(&node, &record::Ask::Retry { instance, from }, answer);
                    return;
                }
                let _ = answer.send(self.retry(&instance, now));
            }
            Request::Rotations(answer) => {
                let _ = answer.send(self.executor.rotations());
                // Comes every few seconds: the time to try again what did not go.
                let cluster = Arc::clone(&self.cluster);
                self.fronts.mend(&cluster, &self.link);
            }
            Request::Down { answer } => {
                self.down.push(answer);
                if self.down_by.is_none() {
                    self.down_by = Some(now + DOWN_TIMEOUT);
                    self.journal.tell(
                        Severity::Warning,
                        "down",
                        match self.clustered {
                            Some(_) => "this node goes down".into(),
                            None => "everything is being stopped".into(),
                        },
                        "the operator asked for it".into(),
                    );
                    if self.clustered.is_some() {
                        self.begin_leaving(now);
                    } else {
                        self.core.handle(Event::Shutdown, now);
                    }
                }
            }
        }
    }

    fn preview(
        &self,
        intent: &crate::dashboard::Intent,
        view: &decisions::View,
        now: Timestamp,
    ) -> Result<api::Preview, Outcome> {
        let mut known = self.known(view);
        if let crate::dashboard::Intent::Force { name, slot, node } = intent {
            let slot = slot.as_deref().and_then(|slot| slot.parse().ok());
            known.forcing = Some(self.forcing_named(name, slot, node, now)?);
        }
        show::preview(intent, &known)
    }

    /// What is known beside the decisions, for those who explain them.
    fn known<'a>(&'a self, view: &'a decisions::View) -> show::Known<'a> {
        let voters = self.clustered.as_ref().map(|cluster| {
            let voting = cluster.members.iter().filter(|(_, member)| member.votes);
            voting
                .map(|(node, _)| (node.clone(), *node == cluster.me || cluster.sessions.contains_key(node)))
                .collect()
        });
        let members = self.clustered.iter().flat_map(|cluster| &cluster.members);
        show::Known {
            cluster: self.name.as_str(),
            hosts: members.map(|(node, member)| (node.clone(), member.host)).collect(),
            view,
            executor: &self.executor,
            fronts: &self.fronts,
            journal: &self.journal,
            timing: self.clustered.as_ref().map(|cluster| &cluster.timing),
            voters: voters.unwrap_or_default(),
            amiss: self.clocks_amiss(),
            forcing: None,
        }
    }

    /// Everything at once, for the dashboard.
    fn overview(&self, status: Arc<api::Status>, now: Timestamp) -> crate::input::Overview {
        let Some(cluster) = &self.clustered else {
            return crate::input::Overview {
                node: status.nodes.first().map_or_else(String::new, |node| node.name.clone()),
                ages: status.nodes.iter().map(|node| (node.name.clone(), 0)).collect(),
                stale_after_ms: STALE_AFTER_MS_MIN,
                peers: Vec::new(),
                seen: now,
                status,
            };
        };
        let age = |at: &Timestamp| u64::try_from(now.since(*at).as_millis()).unwrap_or(u64::MAX);
        let mut ages: BTreeMap<String, u64> = cluster
            .heard
            .iter()
            // Of others nothing is told but that their sessions are there.
            .filter(|(node, _)| cluster.scoped.scope().has(node))
            .map(|(node, at)| (node.to_string(), age(at)))
            .collect();
        ages.insert(cluster.me.to_string(), 0);
        let others = cluster.members.iter().filter(|(node, _)| **node != cluster.me);
        let peers = others.map(|(node, member)| api::Peer {
            node: node.to_string(),
            url: format!("https://{}", std::net::SocketAddr::new(member.host, member.agent_port)),
        });
        crate::input::Overview {
            node: cluster.me.to_string(),
            ages,
            // A node that lives renews its session several times within its lease.
            stale_after_ms: cluster.timing.lease.0.max(STALE_AFTER_MS_MIN),
            peers: peers.collect(),
            seen: now,
            status,
        }
    }

    pub(crate) fn status(&self, now: Timestamp) -> api::Status {
        let mut status = self.bare_status(now);
        if let Some(cluster) = &self.clustered {
            for node in &mut status.nodes {
                let member = NodeName::new(&node.name)
                    .ok()
                    .and_then(|name| cluster.members.get(&name));
                if let Some(member) = member.filter(|member| !member.zone.is_empty()) {
                    node.zone.clone_from(&member.zone);
                }
            }
        }
        self.outlook.tell(&mut status);
        if let Some(cluster) = &self.clustered
            && let Some(since) = cluster.answering.unheard()
        {
            show::tell_unheard(
                &mut status,
                cluster.me.as_str(),
                &clock::shown(since),
                cluster.frozen.is_some(),
            );
        }
        status
    }

    fn bare_status(&self, now: Timestamp) -> api::Status {
        let revision = self.applied.as_ref().map_or(0, |applied| applied.revision);
        show::status(
            &self.name,
            revision,
            &self.core.view(now),
            &show::Beside {
                executor: &self.executor,
                fronts: &self.fronts,
                timing: self.clustered.as_ref().map(|cluster| &cluster.timing),
                journal: &self.journal,
            },
            self.own_problems(),
        )
    }

    /// What there is to be measured.
    fn look(&self, after: u64, now: Timestamp) -> Look {
        let status = Arc::new(self.status(now));
        let cluster = self.clustered.as_ref().map(|cluster| ClusterLook {
            controller: cluster.controller.as_ref().map(|(record, _)| record.node.clone()),
            leads: self.core.is_controller() && cluster.session.is_some() && cluster.answering.takes_writes(),
            store_lost_since: cluster.answering.of_no_use().map(|since| since.0),
            others: cluster
                .members
                .iter()
                .filter(|(node, _)| **node != cluster.me)
                .map(|(node, member)| (node.clone(), std::net::SocketAddr::new(member.host, member.agent_port)))
                .collect(),
        });
        Look {
            me: match &self.clustered {
                Some(cluster) => cluster.me.to_string(),
                // One machine, whatever nodes it pretends to be.
                None => status.nodes.first().map(|node| node.name.clone()).unwrap_or_default(),
            },
            watched: self.executor.watched(),
            proxy_is_up: self.proxy_is_up,
            declared: Arc::clone(&self.cluster),
            cluster,
            glance: Glance {
                overview: Arc::new(self.overview(Arc::clone(&status), now)),
                seen: Arc::new(crate::analysis::Seen::of(self, Arc::clone(&status))),
            },
            status,
            applied_ms: self.applied.as_ref().map(|applied| applied.at.0),
            events: self.journal.after(after, EVENTS_A_LOOK, None).events,
            last_event: self.journal.last(),
        }
    }

    /// What is wrong with our own parts.
    fn own_problems(&self) -> Vec<api::Problem> {
        let since = clock::shown_wall(clock::wall_now());
        let problem = |code: &str, about: &str, text: String, hint: &str| api::Problem {
            code: code.into(),
            severity: Severity::Error,
            about: about.into(),
            text,
            hint: hint.into(),
            since: since.clone(),
        };
        let mut problems = Vec::new();
        if !self.proxy_is_up && self.cluster.services.values().any(|service| service.listen.is_some()) {
            let text = "there is no proxy: clients wait at the door".to_owned();
            problems.push(problem(
                "proxy-down",
                "proxy",
                text,
                "it is started again by itself; `run/proxy.log` says why it ended",
            ));
        }
        problems.extend(self.cluster_problems());
        for (service, trouble) in self.executor.addresses.trouble() {
            if self
                .cluster
                .services
                .get(&service)
                .is_some_and(|service| service.address.is_some())
            {
                let mut problem = problem("address", service.as_str(), trouble.text, &trouble.hint);
                problem.since = clock::shown(trouble.since);
                problems.push(problem);
            }
        }
        for (service, why) in self.fronts.trouble() {
            let text = format!("clients of {service} cannot come: {why}");
            problems.push(problem(
                "not-served",
                service.as_str(),
                text,
                "free the address; it is tried again every few seconds",
            ));
        }
        problems
    }

    fn log_file(&self, instance: &str) -> Result<LogSource, Outcome> {
        let unknown = || {
            refused(
                format!("there is no instance `{instance}`"),
                Some("`understudy status` lists them".into()),
            )
        };
        let id: InstanceId = instance.parse().map_err(|_| unknown())?;
        let path = self.layout.log(&id);
        let service = self.cluster.services.get(id.service());
        if service.is_none() && !path.exists() {
            return Err(unknown());
        }
        Ok(LogSource {
            path,
            keep: service.map_or(0, |service| service.logs.keep),
        })
    }

    pub(crate) fn switchover(
        &mut self,
        request: &api::SwitchoverRequest,
        answer: oneshot::Sender<Result<Takeover, String>>,
        now: Timestamp,
    ) {
        let parsed = || -> Result<Event, String> {
            let service: ServiceName = request
                .service
                .parse()
                .map_err(|_| format!("there is no service `{}`", request.service))?;
            let to = match &request.to {
                Some(to) => Some(to.parse().map_err(|_| format!("there is no instance `{to}`"))?),
                None => None,
            };
            Ok(Event::Switchover {
                request: self.next_request,
                service,
                slot: request.slot,
                to,
            })
        };
        match parsed() {
            Ok(event) => {
                self.switchovers.insert(self.next_request, answer);
                self.next_request += 1;
                self.core.handle(event, now);
            }
            Err(problem) => {
                let _ = answer.send(Err(problem));
            }
        }
    }

    /// What must be done before a slot that nobody serves can be switched over.
    pub(crate) fn way_on(&self, request: &api::SwitchoverRequest, now: Timestamp) -> Option<String> {
        let view = self.core.view(now);
        let mut services = view.services.iter();
        let service = services.find(|service| service.name.as_str() == request.service)?;
        let wanted = request.slot.unwrap_or(0);
        let slot = service.slots.iter().find(|slot| slot.slot == wanted)?;
        show::way_on(view.paused.as_ref(), service, slot)
    }

    pub(crate) fn drill(&mut self, request: &api::DrillRequest, now: Timestamp) -> Result<Outcome, Outcome> {
        let unknown = |what: &str| {
            refused(
                format!("there is no {what} `{}`", request.name),
                Some("`understudy status` lists them".into()),
            )
        };
        if let Some(paused) = &self.core.view(now).paused {
            return Err(refused(
                format!(
                    "automatic actions are paused, so nobody would take over and nothing would be started again: {}, since {}",
                    paused.reason(),
                    clock::shown(paused.since)
                ),
                Some("`understudy resume` ends that".into()),
            ));
        }
        match request.what.as_str() {
            "instance" => {
                let id: InstanceId = request.name.parse().map_err(|_| unknown("instance"))?;
                let pid = self.executor.pid(&id).ok_or_else(|| unknown("running instance"))?;
                self.executor.kill_main(&id);
                self.journal.tell(
                    Severity::Warning,
                    "drill",
                    format!("killed {id} (process {pid})"),
                    "the operator drills its loss".into(),
                );
                Ok(done(format!(
                    "killed {id} (process {pid}); `understudy events --failovers` shows what followed"
                )))
            }
            "node" if self.clustered.is_some() => Err(refused(
                "the loss of a machine of several cannot be played by its own agent",
                Some("take its power or its network away, or `understudy drain` it; `understudy drill instance NAME` kills one instance".into()),
            )),
            "node" => {
                let node = self.known_node(&request.name).ok_or_else(|| unknown("node"))?;
                self.leave_others(&node, "lost")?;
                self.wish(&node_key(&node), Some("lost"));
                self.core.handle(
                    Event::NodeLost {
                        node: node.clone(),
                        because: Reason::DrillAsked,
                    },
                    now,
                );
                self.executor.lose_node(&node);
                let mut text = format!("node {node} is lost with all that ran on it");
                if let Some(ms) = request.back_after_ms {
                    let (inputs, node) = (self.inputs.clone(), node.clone());
                    text.push_str(&format!("; it comes back in {}", Millis(ms)));
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(ms)).await;
                        let _ = inputs.send(Input::NodeBack(node));
                    });
                } else {
                    text.push_str(&format!("; `understudy undrain {node}` brings it back"));
                }
                Ok(done(text))
            }
            other => Err(refused(
                format!("cannot drill a `{other}`"),
                Some("drill a `node` or an `instance`".into()),
            )),
        }
    }

    fn drain(&mut self, name: &str, back: bool, now: Timestamp) -> Result<Outcome, Outcome> {
        let unknown = || {
            refused(
                format!("there is no node `{name}`"),
                Some("`understudy status` lists them".into()),
            )
        };
        let node = self.known_node(name).ok_or_else(unknown)?;
        if back {
            self.wish(&node_key(&node), None);
            let view = self.core.view(now);
            let mut nodes = view.nodes.iter();
            if nodes.any(|known| known.name == node && known.state == decisions::NodeState::Online) {
                return Ok(done(format!("nothing to do: node {name} is not drained")));
            }
            self.core.handle(
                Event::NodeBack {
                    node,
                    because: Reason::BackAsked,
                },
                now,
            );
            return Ok(done(format!(
                "node {name} may run instances again; nothing moves back by itself"
            )));
        }
        self.leave_others(&node, "drained")?;
        self.wish(&node_key(&node), Some("drained"));
        self.core.handle(Event::NodeDrained { node }, now);
        Ok(done(format!(
            "node {name} is being drained: its actives move first, then its standbys"
        )))
    }

    fn rebalance(&mut self, name: &str, now: Timestamp) -> Result<Outcome, Outcome> {
        let known = model::ServiceName::new(name).ok();
        let known = known.filter(|service| self.core.service_view(service, now).is_some_and(|view| !view.removed));
        let Some(service) = known else {
            return Err(refused(
                format!("there is no service `{name}`"),
                Some("`understudy status` lists them".into()),
            ));
        };
        let parked = self.core.service_view(&service, now).map_or_else(Vec::new, |view| {
            let parked = view.slots.into_iter().filter(|slot| slot.parked.is_some());
            parked.map(|slot| format!("{name}/{}", slot.slot)).collect()
        });
        self.wish(&rebalance_key(&service), Some("1"));
        self.core.handle(Event::Rebalance { service, asked: true }, now);
        let mut text = format!(
            "those instances of {name} that would be put elsewhere today move there, one by one: standbys first, actives by a switchover"
        );
        if !parked.is_empty() {
            text.push_str(&format!("; {} has no active to move: it is parked", parked.join(", ")));
        }
        if let Some(paused) = &self.core.view(now).paused {
            text.push_str(&format!(
                "; nothing moves before `understudy resume`, for automatic actions are paused: {}, since {}",
                paused.reason(),
                clock::shown(paused.since)
            ));
        }
        Ok(done(text))
    }

    /// Keeps a wish of the operator's over the life of this agent, or forgets it.
    pub(crate) fn wish(&self, key: &str, value: Option<&str>) {
        let op = match value {
            Some(value) => Op::put(key, value),
            None => Op::delete(key),
        };
        let store = Arc::clone(&self.store);
        let key = key.to_owned();
        tokio::spawn(async move {
            if let Err(error) = store.txn(Txn::new().then(op)).await {
                tracing::error!(key, error = %chain(&error), "a wish of the operator's is lost if the agent restarts");
            }
        });
    }

    fn known_node(&self, name: &str) -> Option<NodeName> {
        self.core
            .view(clock::now())
            .nodes
            .into_iter()
            .map(|node| node.name)
            .find(|node| node.as_str() == name)
    }

    /// Nothing may take the last node away: that is `down`.
    pub(crate) fn leave_others(&self, node: &NodeName, what: &str) -> Result<(), Outcome> {
        let online = |other: &&decisions::NodeView| other.state == decisions::NodeState::Online && other.name != *node;
        let view = self.core.view(clock::now());
        if view.nodes.iter().any(|other| online(&other)) {
            return Ok(());
        }
        let hint = "`understudy up FILE --nodes 3` pretends three nodes; `understudy drill instance NAME` kills one instance; `understudy down` stops everything";
        Err(refused(
            format!("{node} is the only node that is left and cannot be {what}"),
            Some(hint.into()),
        ))
    }

    pub(crate) fn retry(&mut self, instance: &str, now: Timestamp) -> Result<Outcome, Outcome> {
        let unknown = || {
            refused(
                format!("there is no instance `{instance}`"),
                Some("`understudy status` lists them".into()),
            )
        };
        let id: InstanceId = instance.parse().map_err(|_| unknown())?;
        let view = self.core.service_view(id.service(), now).ok_or_else(unknown)?;
        let found = view.instances.iter().find(|other| other.id == id).ok_or_else(unknown)?;
        let given_up = view.rollout.as_ref().and_then(|rollout| rollout.given_up.as_ref());
        if given_up.is_some_and(|given_up| given_up.instance == id) {
            self.core.handle(Event::Retry { instance: id.clone() }, now);
            return Ok(done(format!("the new version of {} is tried again now", id.service())));
        }
        if found.phase == decisions::InstancePhase::Running {
            return Err(refused(format!("{id} runs; there is nothing to try again"), None));
        }
        self.core.handle(Event::Retry { instance: id.clone() }, now);
        Ok(done(format!("{id} is tried again now")))
    }

    /// What the services that are declared listen on, for a check of a new file.
    pub(crate) fn our_addresses(&self) -> BTreeSet<std::net::SocketAddr> {
        self.fronts.addresses()
    }

    pub(crate) fn folder_of(path: &str) -> Option<PathBuf> {
        let path = PathBuf::from(path);
        path.is_absolute().then(|| path.parent().map(PathBuf::from)).flatten()
    }
}

fn rebalance_key(service: &model::ServiceName) -> String {
    format!("{}{service}", record::REBALANCE)
}

pub(crate) fn node_key(node: &NodeName) -> String {
    format!("{}{node}", record::NODES)
}

async fn reach(at: Option<Timestamp>) {
    match at {
        Some(at) => tokio::time::sleep(at.since(clock::now())).await,
        None => std::future::pending().await,
    }
}

/// An error with its causes, as an answer of "no".
pub(crate) fn refused_by(error: &dyn std::error::Error, hint: Option<String>) -> Outcome {
    refused(chain(error), hint)
}
