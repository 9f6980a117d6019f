//! The one loop of the agent: everything that happens comes in here, is decided by the core, and is carried out.

mod fronting;
mod operator;
mod views;

use self::operator::rebalance_key;
use crate::apply;
use crate::clock;
use crate::cluster::Clustered;
use crate::executor::{Executor, chain};
use crate::fronts::Fronts;
use crate::input::{Input, Request, done, refused};
use crate::journal::{Inputs, Journal};
use crate::keeper;
use crate::measure::Measures;
use crate::proxy_link::ProxyLink;
use crate::show;
use api::layout::Layout;
use api::proxy::ToProxy;
use api::record::{self, Applied};
use api::{Outcome, Severity};
use decisions::{Action, Commit, Core, Decision, Event, Reason, Takeover};
use model::{Cluster, Millis, NodeName, Revision, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio::sync::{mpsc, oneshot, watch};

/// Who asked for everything to be stopped is told after this long what is left.
const DOWN_TIMEOUT: Duration = Duration::from_secs(120);

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
    /// Who wanted it down is being written.
    pub(crate) farewell: Option<tokio::task::JoinHandle<Result<(), String>>>,
    /// Routes that the core wants and the proxy has not been told of because there is none.
    pub(crate) proxy_is_up: bool,
    pub(crate) ending: Option<i32>,
    /// On one machine: tells the guard that this loop goes round.
    pub(crate) pulse: Option<keeper::Pulse>,
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
            self.readdress();
            self.note_worked();
            self.tell_others(clock::now());
            if let Some(code) = self.ending {
                self.take_leave().await;
                return code;
            }
            let pulse = self.pulse.as_mut().map(|pulse| pulse.go_on(clock::now()));
            let wakeup = [self.core.next_wakeup(), self.down_by, self.cluster_wakeup(), pulse];
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

    /// Whoever acts has the floating address that the file declares now.
    fn readdress(&mut self) {
        for (instance, epoch) in self.core.acting() {
            self.executor.readdress(&instance, epoch);
        }
    }

    fn tick(&mut self) {
        let now = clock::now();
        if self.clustered.is_some() {
            self.beat(now);
            self.look_at_sessions(now);
            self.look_at_power(now);
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
                if let Event::Committed { attempt, result, .. } = &event {
                    self.journal.answered(*attempt, matches!(result, Commit::Done(_)));
                }
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
            Input::ProxyDown(end) => {
                self.proxy_is_up = false;
                let (kind, text, because) = end.in_words();
                self.journal
                    .tell(Severity::Warning, kind, text.to_owned(), because.to_owned());
            }
            Input::Session(news) => {
                self.hear_session(news, now);
                // A write of ours that succeeded may be the evidence that was missing.
                self.look_at_sessions(now);
            }
            Input::Seen(seen) => {
                self.hear_store(seen, now);
                self.look_at_sessions(now);
                self.look_at_power(now);
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
            Input::Readdressed(readdressed) => {
                if self.executor.readdressed(&readdressed) {
                    let because = "the file declares it".to_owned();
                    self.journal
                        .tell(Severity::Info, "address-changed", readdressed.to_string(), because);
                }
            }
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
                let mut explanation = show::explain(&name, if_dies.as_deref(), &self.known(&view));
                if let (Some(explanation), Some(told)) = (&mut explanation, self.silence_in_words()) {
                    let frozen = self.clustered.as_ref().is_some_and(|cluster| cluster.frozen.is_some());
                    show::explain_unheard(explanation, &told, frozen);
                }
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
                if let Some(refused) = self.not_begun() {
                    let _ = answer.send(refused);
                    return;
                }
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
                self.drain(&node, back, answer, now);
            }
            Request::Rebalance { service, answer } => {
                self.rebalance(&service, answer, now);
            }
            Request::Park { request, parks, answer } => self.park(&request, parks, answer, now),
            Request::Force { request, answer } => self.force(&request, answer, now),
            Request::Fence { request, answer } => self.fence_by_hand(&request, answer),
            Request::Pause {
                request,
                pauses,
                answer,
            } => self.pause(&request, pauses, answer, now),
            Request::Note { by, what, about, text } => drop(self.note_deed(&by, what, &about, text)),
            Request::KeepDeed { by, deed, answer } => {
                let written = self.note_deed(&by, &deed.what, &deed.about, deed.text);
                tokio::spawn(async move {
                    let _ = answer.send(match written.await {
                        Ok(Ok(())) => Ok(done("it is kept")),
                        Ok(Err(error)) => Err(refused(format!("it could not be written: {error}"), None)),
                        Err(error) => Err(refused(error.to_string(), None)),
                    });
                });
            }
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
            Request::Down { by, answer } => {
                self.down.push(answer);
                if self.down_by.is_none() {
                    self.down_by = Some(now + DOWN_TIMEOUT);
                    self.note_down(&by);
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

    /// What the services that are declared listen on, for a check of a new file.
    pub(crate) fn our_addresses(&self) -> BTreeSet<std::net::SocketAddr> {
        self.fronts.addresses()
    }

    pub(crate) fn folder_of(path: &str) -> Option<PathBuf> {
        let path = PathBuf::from(path);
        path.is_absolute().then(|| path.parent().map(PathBuf::from)).flatten()
    }
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
