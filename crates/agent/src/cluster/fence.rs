//! The guard, as the session thread sees it: what is armed, what becomes of it, and that it is there at all.
//!
//! A thread of its own listens to the guard. The moment that ends, everything armed is frozen from here, and stays so until
//! another guard has armed it anew.

use api::layout::Layout;
use guard::client::{Client, Receiver};
use guard::fence::protocol::{Armament, Floating, Reply, What};
use guard::fence::words::Policy;
use guard::fence::{freeze_now, kill_now};
use model::{Epoch, InstanceId, Mark, Millis, Revision, SlotId, Timing};
use rustix::process::Pid;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// A frozen active waits for the store this long before it is killed.
const FROZEN_MAX: Duration = guard::fence::words::FROZEN_MAX;
/// A guard that died is started anew within milliseconds: looked for this often.
const GUARD_LOOK: Duration = Duration::from_millis(10);

/// A guard that answers no heartbeat for this long hangs: it has nothing to do that takes longer.
const GUARD_SILENT: Duration = Duration::from_millis(1_500);

/// The guard freezes within microseconds of the soft deadline, and says so. If it has not after this long, we freeze.
const GUARD_ACTS: Duration = Duration::from_millis(30);

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
    Up(Client, Box<Reply>),
    Said(Box<Reply>),
    Down(String),
}

struct Armed {
    instance: InstanceId,
    armament: Armament,
    waiting: Option<oneshot::Sender<Result<(), String>>>,
    /// Whoever waits does so for it to be bound to the present session, and not for it to be armed.
    rebinds: bool,
}

/// The guard.
pub(crate) struct Fence {
    timing: Timing,
    heard: mpsc::UnboundedReceiver<Heard>,
    client: Option<Client>,
    told: VecDeque<Fenced>,
    armed: BTreeMap<SlotId, Armed>,
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
    /// Since when a heartbeat is not answered.
    beat_since: Option<Instant>,
    /// What the guard said stands still or has ended.
    still: BTreeSet<SlotId>,
    /// Of these, what it froze, and neither thawed nor ended since.
    frozen: BTreeSet<SlotId>,
    /// Of these, what waits for its slot to be bound to the next session: no guard may let it go on before that.
    kept: BTreeSet<SlotId>,
    /// The soft deadline has passed and the guard has not said that everything stands still.
    overdue: Option<Overdue>,
}

/// How a guard that does not act is dealt with. Freezing what should stand still anyway does no harm; that the guard hangs is only
/// concluded when it had until the hard deadline to do its duty.
#[derive(Debug, Clone, Copy)]
enum Overdue {
    /// We freeze then.
    Freeze(Instant),
    /// We froze; then the guard is replaced.
    Replace(Instant),
}

impl Overdue {
    fn due(self) -> Instant {
        match self {
            Overdue::Freeze(at) | Overdue::Replace(at) => at,
        }
    }
}

impl Fence {
    /// Looks for the guard, and again whenever it is gone.
    pub(crate) fn start(layout: &Layout, timing: &Timing) -> Result<Self, String> {
        let (tell, heard) = mpsc::unbounded_channel();
        let path = layout.guard_socket();
        std::thread::Builder::new()
            .name("guard-link".into())
            .spawn(move || listen(&path, &tell))
            .map_err(|error| format!("cannot listen to the guard: {error}"))?;
        Ok(Self {
            timing: *timing,
            heard,
            client: None,
            told: VecDeque::new(),
            armed: BTreeMap::new(),
            inherited: BTreeSet::new(),
            empty: false,
            session: None,
            ready: false,
            why_not: "the guard has not said yet whether it can fence".into(),
            guard: None,
            beat_since: None,
            still: BTreeSet::new(),
            frozen: BTreeSet::new(),
            kept: BTreeSet::new(),
            overdue: None,
        })
    }

    /// What it says next. May be dropped half-way.
    pub(crate) async fn next(&mut self) -> Fenced {
        loop {
            if let Some(told) = self.told.pop_front() {
                return told;
            }
            let Some(overdue) = self.overdue else {
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
                () = tokio::time::sleep_until(overdue.due().into()) => self.act_for_the_guard(overdue),
            }
        }
    }

    /// The soft deadline has passed: everything armed must stand still, and the guard say so. One that hangs does neither.
    pub(crate) fn expect_still(&mut self) {
        if !self.all_still() && self.overdue.is_none() {
            self.overdue = Some(Overdue::Freeze(Instant::now() + GUARD_ACTS));
        }
    }

    /// A renewal was acknowledged: what stood still may go on, and the guard lets it. What we froze in its place only goes on when a guard
    /// that is awake has armed it anew.
    pub(crate) fn may_go_on(&mut self) {
        if let Some(Overdue::Replace(_)) = self.overdue.take() {
            self.replace_guard("the guard did not act at the soft deadline");
        }
    }

    fn all_still(&self) -> bool {
        self.armed.keys().all(|slot| self.still.contains(slot))
    }

    fn act_for_the_guard(&mut self, overdue: Overdue) {
        if self.all_still() {
            self.overdue = None;
            return;
        }
        match overdue {
            Overdue::Freeze(at) => {
                tracing::error!("the guard has not acted at the soft deadline; freezing in its place");
                self.freeze_all();
                let soft = self.timing.soft_deadline.duration();
                let rest = self.timing.hard_deadline.duration().saturating_sub(soft);
                self.overdue = Some(Overdue::Replace(at + rest));
            }
            Overdue::Replace(_) => {
                self.overdue = None;
                self.replace_guard("the guard did not act at the soft deadline");
            }
        }
    }

    fn replace_guard(&mut self, why: &str) {
        if let Some(guard) = self.guard.take() {
            tracing::error!(guard = guard.as_raw_nonzero(), why, "the guard hangs; ending it");
            let _ = rustix::process::kill_process(guard, rustix::process::Signal::KILL);
        }
        self.beat_since = None;
        self.lose(why.into());
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
        let floating = gates.iter().find_map(|gate| match gate {
            Gate::Address(floating) => Some(*floating),
            Gate::Port(_) => None,
        });
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
            addresses: floating.iter().map(|floating| floating.address).collect(),
            floating,
        };
        self.empty = false;
        self.inherited.remove(slot);
        self.still.remove(slot);
        self.frozen.remove(slot);
        self.kept.remove(slot);
        self.send(|client| client.arm(armament.clone()));
        self.armed.insert(
            slot.clone(),
            Armed {
                instance: instance.clone(),
                armament,
                waiting: Some(answer),
                rebinds: false,
            },
        );
    }

    /// It does not act any more.
    pub(crate) fn disarm(&mut self, instance: &InstanceId) {
        let slots: Vec<SlotId> = self
            .armed
            .iter()
            .filter(|(_, armed)| armed.instance == *instance)
            .map(|(slot, _)| slot.clone())
            .collect();
        for slot in slots {
            self.armed.remove(&slot);
            self.still.remove(&slot);
            self.frozen.remove(&slot);
            self.kept.remove(&slot);
            self.send(|client| client.disarm(slot.clone()));
        }
    }

    /// Whether nothing exclusive of this node runs. Then what an earlier agent armed is given up: an instance that starts anew must not find its
    /// port shut.
    pub(crate) fn empty(&mut self, empty: bool) {
        self.empty = empty;
        if !empty || self.client.is_none() {
            return;
        }
        for slot in std::mem::take(&mut self.inherited) {
            self.send(|client| client.disarm(slot.clone()));
        }
        self.send(Client::clear);
    }

    /// A renewal of `session` that was sent at `mark` was acknowledged.
    pub(crate) fn renewed(&mut self, session: Revision, mark: Mark) {
        if self.session.is_none_or(|(known, _)| known != session) {
            self.send(|client| client.session(session.0, mark));
        }
        self.session = Some((session, mark));
        self.send(|client| client.renewed(session.0, mark));
    }

    /// The agent goes round; the guard answers. One that does not for a while hangs: it is ended, and another one started.
    pub(crate) fn heartbeat(&mut self) {
        let hangs = self.beat_since.is_some_and(|since| since.elapsed() >= GUARD_SILENT);
        if hangs && self.client.is_some() {
            self.replace_guard("the guard answers no heartbeat");
            return;
        }
        if self.client.is_some() {
            self.beat_since.get_or_insert_with(Instant::now);
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
        let settled = |(_, renewed): (Revision, Mark)| super::clock::mark().held_for(renewed) >= hard + GUARD_ACTS;
        let frozen = |(slot, armed): (&SlotId, &Armed)| self.frozen.contains(slot) && armed.waiting.is_none();
        let all = !self.armed.is_empty() && self.armed.iter().all(frozen);
        let guarded = self.ready && self.client.is_some() && self.overdue.is_none();
        if !(all && guarded && self.session.is_some_and(settled)) {
            return false;
        }
        self.kept = self.armed.keys().cloned().collect();
        true
    }

    /// The slot of what was kept is bound to the present session: the guard lets it go on. The answer comes when it has, or does not.
    pub(crate) fn rebind(&mut self, slot: &SlotId, epoch: Epoch, answer: oneshot::Sender<Result<(), String>>) {
        let known = self.armed.get_mut(slot).filter(|armed| armed.armament.epoch == epoch);
        let Some(armed) = known.filter(|_| self.ready && self.kept.remove(slot)) else {
            let _ = answer.send(Err("it does not wait for its slot any more".into()));
            return;
        };
        armed.waiting = Some(answer);
        armed.rebinds = true;
        self.send(|client| client.rebind(slot.clone(), epoch));
    }

    /// Ends everything armed at once: the session is lost.
    pub(crate) fn kill_all(&mut self) {
        self.kept.clear();
        for cgroup in self.cgroups() {
            if let Err(error) = kill_now([cgroup.as_path()]) {
                tracing::error!(cgroup = %cgroup.display(), %error, "cannot end an exclusive active; the guard will");
            }
        }
    }

    /// Stops everything armed at once: there is no guard.
    pub(crate) fn freeze_all(&mut self) {
        for cgroup in self.cgroups() {
            if let Err(error) = freeze_now([cgroup.as_path()]) {
                tracing::error!(cgroup = %cgroup.display(), %error, "cannot freeze an exclusive active");
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
        self.overdue = None;
        self.still.clear();
        self.frozen.clear();
        // The next guard would let it go on as soon as it is armed.
        for slot in std::mem::take(&mut self.kept) {
            let Some(armed) = self.armed.remove(&slot) else {
                continue;
            };
            if let Err(error) = kill_now([armed.armament.cgroup.as_path()]) {
                tracing::error!(%slot, %error, "cannot end what stood still for want of a session");
            }
        }
        self.freeze_all();
        for armed in self.armed.values_mut() {
            if let Some(waiting) = armed.waiting.take() {
                let _ = waiting.send(Err(why.clone()));
            }
        }
        self.why_not = why.clone();
        self.told.push_back(Fenced::NotReady(why));
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Down(why) => {
                if self.client.is_some() || self.ready {
                    self.lose(why);
                }
            }
            Heard::Up(client, registered) => {
                self.client = Some(client);
                let timing = self.timing;
                self.send(|client| client.timing(timing));
                self.beat_since = None;
                let (known, slots) = match *registered {
                    Reply::Registered { session, guard, slots } => {
                        self.guard = i32::try_from(guard).ok().and_then(Pid::from_raw);
                        (session.map(|(session, _)| Revision(session)), slots)
                    }
                    _ => (None, Vec::new()),
                };
                let ours = |slot: &SlotId| self.armed.contains_key(slot);
                let slots = slots.into_iter().map(|report| report.slot);
                self.inherited = slots.filter(|slot| !ours(slot)).collect();
                self.empty(self.empty);
                match self.session {
                    // Another guard than the one that was told of it.
                    Some((session, mark)) if known != Some(session) => {
                        self.send(|client| client.session(session.0, mark));
                        self.send(|client| client.renewed(session.0, mark));
                    }
                    Some(_) => {}
                    // Another agent than the one that told it: the first renewal of ours need not say it again.
                    None => self.session = known.map(|session| (session, Mark::default())),
                }
                let armaments: Vec<Armament> = self.armed.values().map(|armed| armed.armament.clone()).collect();
                for armament in armaments {
                    self.send(|client| client.arm(armament));
                }
            }
            Heard::Said(reply) => self.said(*reply),
        }
    }

    fn said(&mut self, reply: Reply) {
        match reply {
            Reply::SelfTest(test) if test.ok => {
                self.ready = true;
                let gates = match &test.gates_unavailable {
                    None => "kernel gates, freeze and kill".to_owned(),
                    Some(why) => format!("freeze and kill; no kernel gates: {why}"),
                };
                self.told.push_back(Fenced::Ready(gates));
            }
            Reply::SelfTest(test) => {
                self.ready = false;
                self.why_not = test.why_not.join("; ");
                self.told.push_back(Fenced::NotReady(self.why_not.clone()));
            }
            Reply::Armed { slot, epoch, .. } => {
                if let Some(armed) = self.armed.get_mut(&slot).filter(|armed| armed.armament.epoch == epoch)
                    && let Some(waiting) = armed.waiting.take()
                {
                    let _ = waiting.send(Ok(()));
                }
            }
            Reply::Refused { slot: Some(slot), why } => {
                if let Some(mut armed) = self.armed.remove(&slot) {
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
                    What::Frozen => drop(self.frozen.insert(slot.clone())),
                    What::Fired | What::Gone | What::Thawed { .. } | What::Resumed => {
                        self.frozen.remove(&slot);
                        self.kept.remove(&slot);
                    }
                    What::Quiesce | What::Failed { .. } => {}
                }
                match what {
                    What::Frozen | What::Fired | What::Gone => drop(self.still.insert(slot.clone())),
                    What::Thawed { .. } | What::Resumed => drop(self.still.remove(&slot)),
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
            Reply::Alive => self.beat_since = None,
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
    let incarnation = super::clock::mark().boot_ns;
    let (client, mut receiver) = Client::connect(path, incarnation).map_err(|error| error.to_string())?;
    match receiver.receive(Some(Duration::from_secs(1))) {
        Ok(Some(registered @ Reply::Registered { .. })) => Ok((client, receiver, registered)),
        Ok(other) => Err(format!("the guard answered {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}
