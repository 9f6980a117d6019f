//! The guard, as the session thread sees it: what is armed, what becomes of it, and that it is there at all.
//!
//! A thread of its own listens to the guard. The moment that ends, everything armed is frozen from here, and stays so until
//! another guard has armed it anew. Should guard and agent both stand still, the kernel ends what runs past the hard deadline.

use super::clock::mark;
use api::layout::Layout;
use decisions::lease::{GUARD_ACTS, GuardAction, GuardEvent, GuardWatch, Hangs};
use guard::client::{Client, Receiver};
use guard::fence::protocol::{Armament, Floating, Reply, What};
use guard::fence::words::{Policy, State};
use guard::fence::{KernelDeadline, Pins, freeze_now, kill_now};
use model::{Epoch, InstanceId, Mark, Millis, Revision, SlotId, Timing};
use rustix::process::Pid;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A frozen active waits for the store this long before it is killed.
const FROZEN_MAX: Duration = guard::fence::words::FROZEN_MAX;
/// A guard that died is started anew within milliseconds: looked for this often.
const GUARD_LOOK: Duration = Duration::from_millis(10);

/// What lets traffic of an instance through, and closes by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Its port.
    Port(u16),
    /// Its floating address, taken away with it.
    Address(Floating),
}

/// What the guard says.
#[derive(Debug)]
pub(crate) enum Fenced {
    /// It stands ready: with what.
    Ready(String),
    /// It is not there, or cannot fence: why.
    NotReady(String),
    /// It ended an instance.
    Fired(InstanceId),
    /// A floating address was taken away while its instance was frozen, and has to be put back.
    AddressLost(InstanceId),
}

enum Heard {
    /// What an earlier agent had the kernel watch, with its cgroup. Said before anything else.
    Deadlines(Vec<(PathBuf, KernelDeadline)>),
    /// The deadline of an active ends with this agent, or there is none: why.
    Unkept(String),
    Up(Client, Box<Reply>),
    Said(Box<Reply>),
    Down(String),
}

struct Armed {
    instance: InstanceId,
    armament: Armament,
    /// What counts again if the guard refuses the other addresses that are waited for.
    before: Option<Armament>,
    /// Another guard was asked to arm it anew, and has not answered.
    anew: bool,
    waiting: Option<oneshot::Sender<Result<(), String>>>,
    /// When the kernel ends it by itself, where it can.
    deadline: Option<KernelDeadline>,
    /// It is being ended, with the session that it was armed in: no other guard may arm it again.
    over: bool,
    /// Whoever waits does so for it to be bound to the present session, and not for it to be armed.
    rebinds: bool,
}

impl Armed {
    /// The guard does not have the other addresses. False if it was not asked for any.
    fn keeps_what_was(&mut self) -> bool {
        let Some(before) = self.before.take() else {
            return false;
        };
        self.armament = before;
        true
    }
}

/// Whether the kernel can end what runs past its hard deadline, or why not.
type Kernel = Result<Kept, String>;

/// Where its deadlines are kept when this process ends, or why nowhere.
#[derive(Debug, Clone)]
struct Kept(Result<Pins, String>);

/// The guard.
pub(crate) struct Fence {
    timing: Timing,
    heard: mpsc::UnboundedReceiver<Heard>,
    kernel: Arc<OnceLock<Kernel>>,
    /// What it did not do for one that was armed since.
    unkept: Option<String>,
    /// Why the guard has no gates.
    no_gates: Option<String>,
    /// For threads that set deadlines.
    tell: mpsc::UnboundedSender<Heard>,
    client: Option<Client>,
    told: VecDeque<Fenced>,
    armed: BTreeMap<SlotId, Armed>,
    /// By cgroup, what an earlier agent had the kernel watch and this one has not armed yet. Its deadline moves on with the session.
    earlier: BTreeMap<PathBuf, KernelDeadline>,
    /// What an earlier agent armed and this one did not: its gates stay shut until nothing of it runs.
    inherited: BTreeSet<SlotId>,
    /// Nothing exclusive of this node runs.
    empty: bool,
    /// The session that the guard knows, and the newest renewal.
    session: Option<(Revision, Mark)>,
    ready: bool,
    why_not: String,
    /// Its process.
    guard: Option<Pid>,
    /// Whether it does its duty.
    watch: GuardWatch,
    /// What it froze, and neither thawed nor ended since.
    frozen: BTreeSet<SlotId>,
    /// Of these, what waits for its slot to be bound to the next session: no guard may let it go on before that.
    kept: BTreeSet<SlotId>,
}

impl Fence {
    /// Looks for the guard, and again whenever it is gone.
    pub(crate) fn start(layout: &Layout, timing: &Timing) -> Result<Self, String> {
        let (tell, heard) = mpsc::unbounded_channel();
        let (path, owner) = (layout.guard_socket(), layout.root().to_owned());
        let kernel = Arc::new(OnceLock::new());
        let (kernel_too, tell_too) = (kernel.clone(), tell.clone());
        std::thread::Builder::new()
            .name("guard-link".into())
            .spawn(move || {
                // Before anything else is heard, for it is asked when the guard says that it stands ready.
                let (kernel, earlier) = look_at_kernel(&owner);
                let _ = kernel_too.set(kernel);
                if tell.send(Heard::Deadlines(earlier)).is_err() {
                    return;
                }
                listen(&path, &tell);
            })
            .map_err(|error| format!("cannot listen to the guard: {error}"))?;
        Ok(Self {
            timing: *timing,
            heard,
            kernel,
            unkept: None,
            no_gates: None,
            tell: tell_too,
            client: None,
            told: VecDeque::new(),
            armed: BTreeMap::new(),
            earlier: BTreeMap::new(),
            inherited: BTreeSet::new(),
            empty: false,
            session: None,
            ready: false,
            why_not: "the guard has not said yet whether it can fence".into(),
            guard: None,
            watch: GuardWatch::new(timing),
            frozen: BTreeSet::new(),
            kept: BTreeSet::new(),
        })
    }

    /// What it says next. May be dropped half-way.
    pub(crate) async fn next(&mut self) -> Fenced {
        loop {
            if let Some(told) = self.told.pop_front() {
                return told;
            }
            let Some(due) = self.watch.next_wakeup() else {
                match self.heard.recv().await {
                    Some(heard) => self.hear(heard),
                    None => std::future::pending().await,
                }
                continue;
            };
            tokio::select! {
                // What it said before the time was up counts, also if we are late to hear it.
                biased;
                heard = self.heard.recv() => match heard {
                    Some(heard) => self.hear(heard),
                    None => std::future::pending().await,
                },
                () = tokio::time::sleep(until(due)) => self.decide(GuardEvent::Tick),
            }
        }
    }

    /// The soft deadline has passed: everything armed must stand still, and the guard say so. One that hangs does neither.
    pub(crate) fn expect_still(&mut self) {
        self.decide(GuardEvent::MustStandStill);
    }

    /// A renewal was acknowledged: what stood still may go on, and the guard lets it. What we froze in its place only goes on when a guard
    /// that is awake has armed it anew.
    pub(crate) fn may_go_on(&mut self) {
        self.decide(GuardEvent::MayGoOn);
    }

    /// Carries out what the watch of the guard decided.
    fn decide(&mut self, event: GuardEvent) {
        self.watch.handle(event, mark());
        while let Some(action) = self.watch.poll() {
            match action {
                GuardAction::Freeze => {
                    tracing::error!("the guard has not acted at the soft deadline; freezing in its place");
                    self.freeze_all();
                }
                GuardAction::Replace(why) => self.replace_guard(why),
            }
        }
    }

    fn replace_guard(&mut self, why: Hangs) {
        if let Some(guard) = self.guard.take() {
            tracing::error!(guard = guard.as_raw_nonzero(), %why, "the guard hangs; ending it");
            let _ = rustix::process::kill_process(guard, rustix::process::Signal::KILL);
        }
        self.lose(why.to_string());
    }

    /// Has an instance ended should the session run out. The answer comes when it is armed, or cannot be.
    pub(crate) fn arm(
        &mut self,
        instance: &InstanceId,
        slot: &SlotId,
        epoch: Epoch,
        cgroup: &Path,
        gates: &[Gate],
        answer: oneshot::Sender<Result<(), String>>,
    ) {
        if !self.ready {
            let _ = answer.send(Err(self.why_not.clone()));
            return;
        }
        let armament = Armament {
            slot: slot.clone(),
            epoch,
            policy: Policy::Freeze,
            frozen_max: Millis(u64::try_from(FROZEN_MAX.as_millis()).unwrap_or(u64::MAX)),
            cgroup: cgroup.into(),
            ports: gates
                .iter()
                .filter_map(|gate| match gate {
                    Gate::Port(port) => Some(*port),
                    Gate::Address(_) => None,
                })
                .collect(),
            addresses: Vec::new(),
            floating: None,
            exchanged: None,
        };
        let floating = gates.iter().filter_map(|gate| match gate {
            Gate::Address(floating) => Some(*floating),
            Gate::Port(_) => None,
        });
        let armament = with_addresses(armament, floating);
        self.empty = false;
        self.inherited.remove(slot);
        self.decide(GuardEvent::Armed(slot.clone()));
        self.frozen.remove(slot);
        self.kept.remove(slot);
        let deadline = self.take_over(cgroup).or_else(|| self.kernel_deadline(cgroup));
        self.send(|client| client.arm(armament.clone()));
        self.armed.insert(
            slot.clone(),
            Armed {
                instance: instance.clone(),
                armament,
                before: None,
                anew: false,
                waiting: Some(answer),
                deadline,
                over: false,
                rebinds: false,
            },
        );
    }

    /// What is armed at this epoch goes on with another address, and for now with that of before too if it `keeps` it. The answer comes when the
    /// guard takes both away, or does not.
    pub(crate) fn readdress(
        &mut self,
        instance: &InstanceId,
        epoch: Epoch,
        (to, keeps): (Option<Floating>, bool),
        answer: oneshot::Sender<Result<(), String>>,
    ) {
        let mut armed = self.armed.values_mut();
        let of_it = |armed: &&mut Armed| armed.instance == *instance && armed.armament.epoch == epoch && !armed.over;
        let settled = |armed: &&mut Armed| self.ready && !armed.anew && armed.waiting.is_none();
        let Some(armed) = armed.find(of_it).filter(settled) else {
            let _ = answer.send(Err("the guard does not keep it at this moment".into()));
            return;
        };
        let all = armed.armament.floating.filter(|_| keeps).into_iter().chain(to);
        let armament = with_addresses(armed.armament.clone(), all);
        armed.before = Some(std::mem::replace(&mut armed.armament, armament.clone()));
        armed.waiting = Some(answer);
        self.send(|client| client.arm(armament));
    }

    /// It does not act any more.
    pub(crate) fn disarm(&mut self, instance: &InstanceId) {
        let slots: Vec<SlotId> = self
            .armed
            .iter()
            .filter(|(_, armed)| armed.instance == *instance)
            .map(|(slot, _)| slot.clone())
            .collect();
        // An earlier agent had it armed.
        self.earlier.retain(|cgroup, _| !is_cgroup_of(cgroup, instance));
        for slot in slots {
            self.armed.remove(&slot);
            self.decide(GuardEvent::Disarmed(slot.clone()));
            self.frozen.remove(&slot);
            self.kept.remove(&slot);
            self.send(|client| client.disarm(slot.clone()));
        }
    }

    /// Whether nothing exclusive of this node runs. Then what an earlier agent armed is given up: an instance that starts anew must not find its
    /// port shut.
    pub(crate) fn empty(&mut self, empty: bool) {
        self.empty = empty;
        if !empty {
            return;
        }
        self.earlier.clear();
        // It was of one that is armed no more.
        if self.unkept.take().is_some() && self.ready {
            self.tell_ready();
        }
        if self.client.is_none() {
            return;
        }
        for slot in std::mem::take(&mut self.inherited) {
            self.send(|client| client.disarm(slot.clone()));
        }
        self.send(Client::clear);
    }

    /// A renewal of `session` that was sent at `mark` was acknowledged.
    pub(crate) fn renewed(&mut self, session: Revision, mark: Mark) {
        self.put_off(mark);
        if self.session.is_none_or(|(known, _)| known != session) {
            self.send(|client| client.session(session.0, mark));
        }
        self.session = Some((session, mark));
        self.send(|client| client.renewed(session.0, mark));
    }

    /// What an earlier agent had the kernel watch goes on.
    fn take_over(&mut self, cgroup: &Path) -> Option<KernelDeadline> {
        let deadline = self.earlier.remove(cgroup)?;
        if let Some((_, mark)) = self.session {
            deadline.set(self.hard_after(mark));
        }
        Some(deadline)
    }

    /// Has the kernel end what of a cgroup runs past the hard deadline. Whoever takes the slot does not wait for that.
    fn kernel_deadline(&self, cgroup: &Path) -> Option<KernelDeadline> {
        // Why there is none was said when the guard stood ready.
        let Kept(pins) = self.kernel.get()?.as_ref().ok()?;
        let unkept = |why: String| drop(self.tell.send(Heard::Unkept(why)));
        let deadline = match KernelDeadline::new() {
            Ok(deadline) => deadline,
            Err(error) => {
                unkept(error.to_string());
                return None;
            }
        };
        if let Some((_, mark)) = self.session {
            deadline.set(self.hard_after(mark));
        }
        let (tell, name) = (self.tell.clone(), cgroup.display().to_string());
        let watched = deadline.watch_soon(cgroup, pins.as_ref().ok(), move |watched| {
            let why = match watched {
                Ok(Ok(())) => return,
                Ok(Err(error)) => format!("of `{name}` it cannot be pinned: {error}"),
                Err(error) => error.to_string(),
            };
            let _ = tell.send(Heard::Unkept(why));
        });
        if let Err(error) = watched {
            unkept(error.to_string());
        }
        Some(deadline)
    }

    /// When the hard deadline of a renewal passes, on CLOCK_BOOTTIME.
    fn hard_after(&self, renewed: Mark) -> u64 {
        renewed.later(self.timing.hard_deadline.duration()).boot_ns
    }

    /// What stands still cannot act, but a signal lets it leave a processor once more, and for that it is not to be ended: the guard keeps it.
    fn stands_still(&self, slot: &SlotId) {
        if let Some(deadline) = self.armed.get(slot).and_then(|armed| armed.deadline.as_ref()) {
            deadline.lift();
        }
    }

    /// It goes on, under the deadline of the newest renewal.
    fn goes_on(&self, slot: &SlotId) {
        let deadline = self.armed.get(slot).and_then(|armed| armed.deadline.as_ref());
        if let (Some(deadline), Some((_, renewed))) = (deadline, self.session) {
            deadline.set(self.hard_after(renewed));
        }
    }

    /// To be done before the guard hears of a renewal: it lets go on what stood still, but for what waits to be bound anew.
    fn put_off(&self, renewed: Mark) {
        let at = self.hard_after(renewed);
        // What stands still is let go on by a renewal that is fresh enough, and by no other.
        let late = mark().held_for(renewed) >= self.timing.soft_deadline.duration();
        let stays = |slot: &SlotId| self.kept.contains(slot) || (late && self.frozen.contains(slot));
        let goes_on = self.armed.iter().filter(|(slot, _)| !stays(slot));
        let ours = goes_on.filter_map(|(_, armed)| armed.deadline.as_ref());
        for deadline in ours.chain(self.earlier.values()) {
            deadline.set(at);
        }
    }

    /// The agent goes round; the guard answers. One that does not for a while hangs: it is ended, and another one started.
    pub(crate) fn heartbeat(&mut self) {
        if self.client.is_some() {
            self.decide(GuardEvent::Asked);
        }
        self.send(Client::heartbeat);
    }

    /// The agent ends in order.
    pub(crate) fn leave(&mut self) {
        self.send(Client::leave);
    }

    /// The session is lost. Says whether all that is armed stands still for certain, and so may wait for the next one: frozen by the guard, and
    /// past the hard deadline, at which it ends whatever the kernel has not confirmed to be frozen.
    pub(crate) fn keep(&mut self) -> bool {
        let hard = self.timing.hard_deadline.duration();
        let settled = |(_, renewed): (Revision, Mark)| mark().held_for(renewed) >= hard + GUARD_ACTS;
        let frozen =
            |(slot, armed): (&SlotId, &Armed)| self.frozen.contains(slot) && armed.waiting.is_none() && !armed.over;
        let all = !self.armed.is_empty() && self.armed.iter().all(frozen);
        let guarded = self.ready && self.client.is_some() && self.watch.next_wakeup().is_none();
        if !(all && guarded && self.session.is_some_and(settled)) {
            return false;
        }
        self.kept = self.armed.keys().cloned().collect();
        true
    }

    /// The slot of what was kept is bound to the present session: the guard lets it go on. The answer comes when it has, or does not.
    pub(crate) fn rebind(&mut self, slot: &SlotId, epoch: Epoch, answer: oneshot::Sender<Result<(), String>>) {
        let known = self
            .armed
            .get_mut(slot)
            .filter(|armed| armed.armament.epoch == epoch && !armed.over);
        let Some(armed) = known.filter(|_| self.ready && self.kept.remove(slot)) else {
            let _ = answer.send(Err("it does not wait for its slot any more".into()));
            return;
        };
        armed.waiting = Some(answer);
        armed.rebinds = true;
        self.goes_on(slot);
        self.send(|client| client.rebind(slot.clone(), epoch));
    }

    /// Ends everything armed at once: the session is lost.
    pub(crate) fn kill_all(&mut self) {
        self.armed.values_mut().for_each(|armed| armed.over = true);
        self.kept.clear();
        for cgroup in self.cgroups() {
            if let Err(error) = kill_now([cgroup.as_path()]) {
                tracing::error!(cgroup = %cgroup.display(), %error, "cannot end an exclusive active; the guard will");
            }
        }
    }

    /// Stops everything armed at once: there is no guard.
    pub(crate) fn freeze_all(&mut self) {
        for armed in self.armed.values() {
            let cgroup = armed.armament.cgroup.as_path();
            match (freeze_now([cgroup]), &armed.deadline) {
                (Ok(()), Some(deadline)) => deadline.lift(),
                (Ok(()), None) => {}
                (Err(error), _) => {
                    tracing::error!(cgroup = %cgroup.display(), %error, "cannot freeze an exclusive active");
                }
            }
        }
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        self.armed.values().map(|armed| armed.armament.cgroup.clone()).collect()
    }

    fn send(&mut self, message: impl FnOnce(&Client) -> Result<(), guard::client::Error>) {
        let Some(client) = &self.client else { return };
        if let Err(error) = message(client) {
            // That it is gone is also heard; one that hangs is only noticed here.
            tracing::error!(%error, "the guard is not told");
            if matches!(error, guard::client::Error::DoesNotRead) && self.ready {
                self.lose("the guard hangs".into());
            }
        }
    }

    fn lose(&mut self, why: String) {
        self.client = None;
        self.ready = false;
        self.watch.handle(GuardEvent::Gone, mark());
        self.frozen.clear();
        // The next guard would let it go on as soon as it is armed.
        for slot in std::mem::take(&mut self.kept) {
            let Some(armed) = self.armed.remove(&slot) else {
                continue;
            };
            if let Err(error) = kill_now([armed.armament.cgroup.as_path()]) {
                tracing::error!(%slot, %error, "cannot end what stood still for want of a session");
            }
            self.watch.handle(GuardEvent::Disarmed(slot), mark());
        }
        self.freeze_all();
        // Who is told that it is not armed must not be armed by the next guard: its slot may be another's by then.
        let refused: Vec<SlotId> = self
            .armed
            .iter_mut()
            .filter_map(|(slot, armed)| {
                let waiting = armed.waiting.take()?;
                let _ = waiting.send(Err(why.clone()));
                // What waited for other addresses alone was armed before.
                (!armed.keeps_what_was()).then(|| slot.clone())
            })
            .collect();
        for slot in refused {
            self.armed.remove(&slot);
            self.watch.handle(GuardEvent::Disarmed(slot), mark());
        }
        self.why_not = why.clone();
        self.told.push_back(Fenced::NotReady(why));
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            // Nothing is armed before this is heard.
            Heard::Deadlines(earlier) => {
                self.earlier = earlier.into_iter().collect();
                if let Some((_, renewed)) = self.session {
                    self.put_off(renewed);
                }
            }
            Heard::Unkept(why) => {
                tracing::warn!(why, "the kernel's deadline is not what it is elsewhere");
                self.unkept = Some(why);
                if self.ready {
                    self.tell_ready();
                }
            }
            Heard::Down(why) => {
                if self.client.is_some() || self.ready {
                    self.lose(why);
                }
            }
            Heard::Up(client, registered) => {
                self.client = Some(client);
                let timing = self.timing;
                self.send(|client| client.timing(timing));
                self.watch.handle(GuardEvent::Gone, mark());
                let (known, slots) = match *registered {
                    Reply::Registered { session, guard, slots } => {
                        self.guard = i32::try_from(guard).ok().and_then(Pid::from_raw);
                        (session.map(|(session, renewed)| (Revision(session), renewed)), slots)
                    }
                    _ => (None, Vec::new()),
                };
                let ours = |slot: &SlotId| self.armed.contains_key(slot);
                let slots = slots.into_iter().map(|report| report.slot);
                self.inherited = slots.filter(|slot| !ours(slot)).collect();
                self.empty(self.empty);
                match self.session {
                    // Another guard than the one that was told of it.
                    Some((session, mark)) if known.map(|(session, _)| session) != Some(session) => {
                        self.send(|client| client.session(session.0, mark));
                        self.send(|client| client.renewed(session.0, mark));
                    }
                    Some(_) => {}
                    // Another agent than the one that told it: the first renewal of ours need not say it again. The guard's deadlines run from
                    // the renewal that it knows, so ours do.
                    None => self.session = known,
                }
                // It lets go on what was frozen in its place, if that may.
                if let Some((_, renewed)) = self.session
                    && mark().held_for(renewed) < self.timing.soft_deadline.duration()
                {
                    self.put_off(renewed);
                }
                let armed = self.armed.values_mut().filter(|armed| !armed.over);
                let again = |armed: &mut Armed| {
                    armed.anew = true;
                    armed.armament.clone()
                };
                let armaments: Vec<Armament> = armed.map(again).collect();
                for armament in armaments {
                    self.send(|client| client.arm(armament));
                }
            }
            Heard::Said(reply) => self.said(*reply),
        }
    }

    fn tell_ready(&mut self) {
        let kernel = self.kernel.get().map(Result::as_ref);
        let no_deadline = kernel.and_then(|kernel| kernel.err().cloned());
        let not_kept = kernel.and_then(|kernel| kernel.ok()?.0.as_ref().err().cloned());
        let words = in_words(
            self.no_gates.clone(),
            no_deadline,
            not_kept.or_else(|| self.unkept.clone()),
        );
        self.told.push_back(Fenced::Ready(words));
    }

    fn said(&mut self, reply: Reply) {
        match reply {
            Reply::SelfTest(test) if test.ok => {
                self.ready = true;
                self.no_gates = test.gates_unavailable;
                self.tell_ready();
            }
            Reply::SelfTest(test) => {
                self.ready = false;
                self.why_not = test.why_not.join("; ");
                self.told.push_back(Fenced::NotReady(self.why_not.clone()));
            }
            Reply::Armed { slot, epoch, state } => {
                if state == State::Frozen {
                    self.stands_still(&slot);
                }
                if let Some(armed) = self.armed.get_mut(&slot).filter(|armed| armed.armament.epoch == epoch) {
                    armed.anew = false;
                    armed.before = None;
                    if let Some(waiting) = armed.waiting.take() {
                        let _ = waiting.send(Ok(()));
                    }
                }
            }
            Reply::Refused { slot: Some(slot), why } => {
                if let Some(armed) = self.armed.get_mut(&slot)
                    && armed.keeps_what_was()
                {
                    if let Some(waiting) = armed.waiting.take() {
                        let _ = waiting.send(Err(why));
                    }
                } else if let Some(mut armed) = self.armed.remove(&slot) {
                    self.decide(GuardEvent::Disarmed(slot.clone()));
                    match armed.waiting.take() {
                        Some(waiting) => drop(waiting.send(Err(why))),
                        // Armed before, and not any more: it must not go on.
                        None => {
                            tracing::error!(%slot, why, "the guard refuses to arm anew");
                            let _ = kill_now([armed.armament.cgroup.as_path()]);
                        }
                    }
                }
            }
            Reply::Refused { slot: None, why } => tracing::warn!(why, "the guard refuses"),
            Reply::Event { slot, what, .. } => {
                tracing::warn!(%slot, ?what, "the guard acts");
                match what {
                    What::Frozen => {
                        self.stands_still(&slot);
                        for (cgroup, deadline) in &self.earlier {
                            deadline.lift_if_frozen(cgroup);
                        }
                        self.frozen.insert(slot.clone());
                        self.decide(GuardEvent::Still(slot.clone()));
                    }
                    What::Fired | What::Gone => {
                        self.frozen.remove(&slot);
                        self.kept.remove(&slot);
                        self.decide(GuardEvent::Still(slot.clone()));
                    }
                    What::Thawed { .. } | What::Resumed => {
                        self.goes_on(&slot);
                        self.frozen.remove(&slot);
                        self.kept.remove(&slot);
                        self.decide(GuardEvent::GoesOn(slot.clone()));
                    }
                    What::Quiesce | What::Failed { .. } => {}
                }
                let Some(instance) = self.armed.get(&slot).map(|armed| armed.instance.clone()) else {
                    return;
                };
                match what {
                    What::Fired => {
                        self.told.push_back(Fenced::Fired(instance));
                        // It is there as before, for what comes next.
                        self.told.push_back(Fenced::Ready("as before".into()));
                    }
                    What::Thawed { address_removed: true } => self.told.push_back(Fenced::AddressLost(instance)),
                    What::Quiesce
                    | What::Resumed
                    | What::Frozen
                    | What::Thawed { .. }
                    | What::Gone
                    | What::Failed { .. } => {}
                }
            }
            Reply::Alive => self.decide(GuardEvent::Answered),
            // To have disarmed it before it was armed anew is answered so too, and says nothing of what is waited for then.
            Reply::Done { slot: Some(slot) } => {
                let binds = |armed: &&mut Armed| armed.rebinds;
                if let Some(armed) = self.armed.get_mut(&slot).filter(binds) {
                    armed.rebinds = false;
                    if let Some(waiting) = armed.waiting.take() {
                        let _ = waiting.send(Ok(()));
                    }
                }
            }
            Reply::Registered { .. } | Reply::Done { slot: None } => {}
        }
    }
}

impl Drop for Fence {
    /// The agent ends, and what it had armed runs on until its time is over or another agent puts it off.
    fn drop(&mut self) {
        let armed = std::mem::take(&mut self.armed).into_values();
        let earlier = std::mem::take(&mut self.earlier).into_values();
        let deadlines = armed.filter_map(|armed| armed.deadline).chain(earlier);
        deadlines.for_each(KernelDeadline::leave);
    }
}

/// What stood still when this agent came up is spared by the kernel for as long as there is no [`Fence`] yet: it waits for the store.
pub(super) fn spare_frozen(layout: &Layout) {
    if let Ok(pins) = Pins::open(layout.root()) {
        pins.lift_frozen();
    }
}

/// Of a run of that instance: `db-1.4`.
fn is_cgroup_of(cgroup: &Path, instance: &InstanceId) -> bool {
    let name = cgroup.file_name().and_then(std::ffi::OsStr::to_str);
    let run = name.and_then(|name| name.strip_prefix(&*instance.to_string())?.strip_prefix('.'));
    run.is_some_and(|run| !run.is_empty() && run.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Asks the kernel what it can do, and for what it does for an earlier agent.
fn look_at_kernel(owner: &Path) -> (Kernel, Vec<(PathBuf, KernelDeadline)>) {
    let pins = Pins::open(owner);
    let probed = KernelDeadline::probe(pins.as_ref().ok());
    // What an earlier agent set has to be put off also by one that can set none.
    let found = pins.as_ref().ok().map(KernelDeadline::found).transpose();
    let found = found.inspect_err(|error| tracing::warn!(%error, "cannot look for deadlines of an earlier agent"));
    let found = found.ok().flatten().unwrap_or_default();
    for (cgroup, deadline) in &found {
        deadline.lift_if_frozen(cgroup);
    }
    let kept = match probed {
        Ok(kept) => kept.and(pins),
        Err(error) => return (Err(error.to_string()), found),
    };
    let kept = kept.map_err(|error| format!("{error}; a BPF file system at /sys/fs/bpf and Linux 5.15 are needed"));
    (Ok(Kept(kept)), found)
}

/// With what it is fenced here, and why not with the rest.
fn in_words(no_gates: Option<String>, no_deadline: Option<String>, not_kept: Option<String>) -> String {
    let means = [("kernel gates", no_gates), ("kernel deadline", no_deadline)];
    let had = means
        .iter()
        .filter(|(_, missing)| missing.is_none())
        .map(|(name, _)| *name);
    let had: Vec<&str> = had.chain(["freeze and kill"]).collect();
    let lacks = means
        .iter()
        .filter_map(|(name, missing)| Some(format!("; no {name}: {}", missing.as_ref()?)));
    let lost = not_kept.map(|why| format!("; the kernel deadline ends with the agent: {why}"));
    had.join(", ") + &lacks.collect::<String>() + &lost.unwrap_or_default()
}

/// The same with these addresses and no others: one, or two while one is exchanged for the other.
fn with_addresses(mut armament: Armament, all: impl IntoIterator<Item = Floating>) -> Armament {
    let mut all = all.into_iter();
    armament.floating = all.next();
    armament.exchanged = all.next();
    let both = armament.floating.into_iter().chain(armament.exchanged);
    // It may move from one interface to another.
    let both: BTreeSet<_> = both.map(|floating| floating.address).collect();
    armament.addresses = both.into_iter().collect();
    armament
}

/// As soon as either clock gets there.
fn until(at: Mark) -> Duration {
    let now = mark();
    let boot = at.boot_ns.saturating_sub(now.boot_ns);
    let raw = at.raw_ns.saturating_sub(now.raw_ns);
    Duration::from_nanos(boot.min(raw))
}

/// Connects to the guard, tells what it says, and begins anew when it is gone. Ends with the agent.
fn listen(path: &Path, tell: &mpsc::UnboundedSender<Heard>) {
    let mut said_missing = false;
    loop {
        match connect(path) {
            Ok((client, mut receiver, registered)) => {
                said_missing = false;
                if tell.send(Heard::Up(client, Box::new(registered))).is_err() {
                    return;
                }
                let why = loop {
                    match receiver.receive(None) {
                        Ok(Some(reply)) => {
                            if tell.send(Heard::Said(Box::new(reply))).is_err() {
                                return;
                            }
                        }
                        Ok(None) => {}
                        Err(error) => break error.to_string(),
                    }
                };
                if tell.send(Heard::Down(why)).is_err() {
                    return;
                }
            }
            Err(error) => {
                if !said_missing {
                    said_missing = true;
                    tracing::warn!(error, "no guard yet");
                }
                if tell.is_closed() {
                    return;
                }
                std::thread::sleep(GUARD_LOOK);
            }
        }
    }
}

fn connect(path: &Path) -> Result<(Client, Receiver, Reply), String> {
    // The time of its start: larger than that of every earlier agent of this boot.
    let incarnation = mark().boot_ns;
    let (client, mut receiver) = Client::connect(path, incarnation).map_err(|error| error.to_string())?;
    match receiver.receive(Some(Duration::from_secs(1))) {
        Ok(Some(registered @ Reply::Registered { .. })) => Ok((client, receiver, registered)),
        Ok(other) => Err(format!("the guard answered {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
