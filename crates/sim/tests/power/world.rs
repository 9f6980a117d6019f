//! Time, trouble, and what must never be.

use super::device::{Effect, MODES, Mode};
use super::fencing::Flight;
use super::node::Node;
use super::view::{View, finish};
use model::{AfterFence, FenceState, NodeName, Profile, Revision, Timing};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use store::{Memory, Store, fence, session};

const TICK_MS: u64 = 100;
const STORM_MS: u64 = 150_000;
const HEAL_MS: u64 = 200_000;
/// The product counts whom it fenced for half a minute; what one of two sees later than the other is taken off.
const TOGETHER_MS: u64 = 25_000;

/// A rule that is left out on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    NotReadBack,
    NotBound,
    OpensWhilePowering,
    NoProof,
    DoesNotWait,
    NotSettled,
    NotWrittenBack,
    SessionNotLookedAt,
    RenewalNotCompared,
    BrakeBlind,
}

/// What becomes of a fencer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Crashes,
    Hangs,
    IsCutOff,
    LosesPower,
}

pub(crate) const FATES: [Fate; 4] = [Fate::Crashes, Fate::Hangs, Fate::IsCutOff, Fate::LosesPower];

/// What happened.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) wrong: Vec<String>,
    pub(crate) takes: usize,
    pub(crate) begun: usize,
    pub(crate) offs: usize,
    pub(crate) failed: usize,
    pub(crate) inherited: usize,
    pub(crate) resumed: usize,
    pub(crate) withdrawn: usize,
    pub(crate) acted: bool,
    /// How many steps there were at anybody's power.
    pub(crate) steps: usize,
}

impl Outcome {
    pub(crate) fn add(&mut self, other: &Outcome) {
        self.takes += other.takes;
        self.begun += other.begun;
        self.offs += other.offs;
        self.failed += other.failed;
        self.inherited += other.inherited;
        self.resumed += other.resumed;
        self.withdrawn += other.withdrawn;
    }
}

pub(crate) struct World {
    pub(crate) rng: fastrand::Rng,
    pub(crate) broken: Option<Broken>,
    pub(crate) now_ms: u64,
    pub(crate) timing: Timing,
    pub(crate) store: Memory,
    pub(crate) nodes: Vec<Node>,
    pub(crate) names: Vec<NodeName>,
    pub(crate) slots: usize,
    pub(crate) views: Vec<Rc<View>>,
    pub(crate) effects: Vec<Effect>,
    pub(crate) flights: Vec<Flight>,
    /// Intents of operators.
    pub(crate) by_hand: BTreeSet<Revision>,
    /// When each node renewed its session last, or opened it.
    pub(crate) renewed: BTreeMap<usize, u64>,
    pub(crate) outcome: Outcome,
    /// When nodes were seen to be off, of late.
    off_at: BTreeMap<usize, u64>,
    /// What becomes of the fencer at which step.
    script: Option<(usize, Fate)>,
}

impl World {
    /// Three to nine nodes, all of it by chance.
    pub(crate) fn new(seed: u64, broken: Option<Broken>) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let count = rng.usize(3..=6) + 3 * usize::from(rng.u32(0..3) == 0);
        let slots = rng.usize(1..=count - 1);
        Self::of(count, slots, rng, broken)
    }

    fn of(count: usize, slots: usize, mut rng: fastrand::Rng, broken: Option<Broken>) -> Self {
        let timing = Profile::Lan.timing();
        let mut nodes = Vec::new();
        for ix in 0..count {
            let after = if rng.u32(0..4) == 0 {
                AfterFence::StayOff
            } else {
                AfterFence::On
            };
            let mut node = Node::new(ix, rng.usize(1..=2), after, timing);
            node.fast = rng.i64(-1_000..=1_000);
            nodes.push(node);
        }
        Self {
            rng,
            broken,
            now_ms: 0,
            timing,
            store: Memory::with_history(16),
            names: nodes.iter().map(|node| node.name.clone()).collect(),
            nodes,
            slots,
            views: vec![Rc::default()],
            effects: Vec::new(),
            flights: Vec::new(),
            by_hand: BTreeSet::new(),
            renewed: BTreeMap::new(),
            outcome: Outcome::default(),
            off_at: BTreeMap::new(),
            script: None,
        }
    }

    /// A storm, then everything is mended: somebody must act in the end.
    pub(crate) fn play(mut self) -> Outcome {
        while self.now_ms < STORM_MS && self.outcome.wrong.is_empty() {
            self.trouble();
            self.tick();
        }
        self.heals()
    }

    /// The holder of the only slot hangs, its device is as it is; at that step the fencer meets its fate, and is well again a minute later.
    pub(crate) fn play_step(seed: u64, device: Mode, step: usize, fate: Fate, broken: Option<Broken>) -> Outcome {
        let (mut world, holder) = Self::calm(seed, broken);
        world.nodes[holder].hung = true;
        world.nodes[holder].device = device;
        world.script = Some((step, fate));
        world.passes(60_000);
        world.heals()
    }

    /// The holder of the only slot loses its power by itself, and its device says that it has switched off before it does.
    pub(crate) fn play_dark(seed: u64, broken: Option<Broken>) -> Outcome {
        let (mut world, holder) = Self::calm(seed, broken);
        world.nodes[holder].device = Mode::Late;
        world.lose_power(holder);
        world.passes(60_000);
        world.heals()
    }

    /// The holder of the only slot hangs, and goes on when an intent to fence it is on its way.
    pub(crate) fn play_goes_on(seed: u64, broken: Option<Broken>) -> Outcome {
        let (mut world, holder) = Self::calm(seed, broken);
        world.nodes[holder].hung = true;
        while world.flights.is_empty() && world.now_ms < 60_000 {
            world.tick();
        }
        world.nodes[holder].hung = false;
        world.passes(60_000);
        world.heals()
    }

    /// Three nodes, of which one holds the only slot.
    fn calm(seed: u64, broken: Option<Broken>) -> (Self, usize) {
        let mut world = Self::of(3, 1, fastrand::Rng::with_seed(seed), broken);
        world.passes(6_000);
        let holder = world.nodes.iter().position(|node| !node.acts.is_empty());
        (world, holder.expect("somebody acts"))
    }

    fn passes(&mut self, for_ms: u64) {
        let until = self.now_ms + for_ms;
        while self.now_ms < until && self.outcome.wrong.is_empty() {
            self.tick();
        }
    }

    /// More than a third of the nodes lose their connection to the rest at once, and a while later each other's power, were there no brake.
    pub(crate) fn play_rack(seed: u64, broken: Option<Broken>) -> Outcome {
        let mut world = Self::of(6, 5, fastrand::Rng::with_seed(seed), broken);
        world.passes(8_000);
        for ix in 0..3 {
            match world.rng.bool() {
                true => world.nodes[ix].hung = true,
                false => world.lose_power(ix),
            }
            // Not in the same instant: some are condemned before the last is silent.
            let later_ms = world.rng.u64(0..6_000);
            world.passes(later_ms);
        }
        world.passes(60_000);
        world.heals()
    }

    fn heals(mut self) -> Outcome {
        self.script = None;
        for ix in 0..self.nodes.len() {
            let node = &mut self.nodes[ix];
            (node.hung, node.cut, node.device, node.lag) = (false, None, Mode::Good, 0);
            self.give_power(ix);
        }
        let until = self.now_ms + HEAL_MS;
        while self.now_ms < until && self.outcome.wrong.is_empty() {
            // Those that stay off are looked after.
            if self.now_ms.is_multiple_of(10_000) {
                if self.is_missing().is_none() {
                    break;
                }
                for ix in 0..self.nodes.len() {
                    if !self.nodes[ix].on() && !self.is_fenced(ix) {
                        self.give_power(ix);
                    }
                }
            }
            self.tick();
        }
        if let Some(what) = self.is_missing().filter(|_| self.outcome.wrong.is_empty()) {
            self.wrong(&format!("{what}, with everything mended"));
        }
        self.outcome
    }

    /// What is not as it is to be in the end.
    fn is_missing(&self) -> Option<String> {
        let acts = |slot: usize| self.nodes.iter().any(|node| node.on() && node.acts.contains(&slot));
        if let Some(slot) = (0..self.slots).find(|slot| !acts(*slot)) {
            return Some(format!("nobody acts for slot {slot}"));
        }
        let away = |ix: &usize| self.nodes[*ix].session.is_none() || self.is_fenced(*ix);
        let away = (0..self.nodes.len()).find(away);
        away.map(|ix| format!("node {} is not back", self.names[ix]))
    }

    fn tick(&mut self) {
        self.now_ms += TICK_MS;
        self.happen();
        self.arrive();
        let before = self.views.last().unwrap();
        let view = View::read(&self.store, before);
        self.views.push(Rc::new(view));
        for ix in 0..self.nodes.len() {
            self.live(ix);
        }
        let withdrawn = |view: &View, node: &NodeName| {
            let record = view.fences.get(node);
            record.is_some_and(|(record, _)| record.state == FenceState::Withdrawn)
        };
        let [.., before, newest] = &self.views[..] else { return };
        let came_back = self
            .names
            .iter()
            .filter(|node| withdrawn(newest, node) && !withdrawn(before, node));
        self.outcome.withdrawn += came_back.count();
        for slot in 0..self.slots {
            let writing = self.nodes.iter().filter(|node| node.writes(slot, self.now_ms)).count();
            if writing > 1 {
                self.wrong("two write");
            }
        }
    }

    pub(crate) fn wrong(&mut self, what: &str) {
        self.outcome.wrong.push(format!("{what} at {} ms", self.now_ms));
    }

    /// A slot was taken: nobody else may write.
    pub(crate) fn taken(&mut self, by: usize, slot: usize) {
        let others = |(ix, node): (usize, &Node)| ix != by && node.writes(slot, self.now_ms);
        if self.nodes.iter().enumerate().any(others) {
            self.wrong("two write");
        }
    }

    /// An intent was written by itself: who is meant has not renewed for as long as a lease runs.
    pub(crate) fn check_silent(&mut self, node: &NodeName) {
        let open = finish(session::get(&self.store, node)).unwrap().is_some();
        let renewed = self.renewed.get(&self.index(node)).copied().unwrap_or_default();
        if open && self.now_ms - renewed < self.timing.lease.0 {
            self.wrong("a node that renews is fenced");
        }
    }

    /// A device is told "off": by one that reaches the store, and whose intent stands.
    pub(crate) fn check_fencer(&mut self, ix: usize, of: usize, begun: Revision) {
        let long = |since: u64| self.now_ms - since > self.timing.soft_deadline.0 + self.timing.renew.0 + 2 * TICK_MS;
        if self.nodes[ix].cut.is_some_and(long) {
            self.wrong("somebody without the majority fences");
        }
        let stands = finish(self.store.get(&fence::key(&self.names[of]))).unwrap();
        if stands.is_none_or(|entry| entry.modified != begun) {
            self.wrong("somebody whose intent was taken back fences");
        }
    }

    /// A node was seen to be off whom no operator meant: never more than a third at once.
    pub(crate) fn check_brake(&mut self, of: usize) {
        let now_ms = self.now_ms;
        self.off_at.retain(|_, at| now_ms - *at < TOGETHER_MS);
        self.off_at.insert(of, now_ms);
        if self.off_at.len() > 1.max(self.nodes.len() / 3) {
            self.wrong("a storm of fencing");
        }
    }

    /// One step of a fencer. Whether it meets its fate instead.
    pub(crate) fn step(&mut self, ix: usize) -> bool {
        self.outcome.steps += 1;
        match self.script {
            Some((step, fate)) if step + 1 == self.outcome.steps => {
                self.meets(ix, fate);
                true
            }
            _ => false,
        }
    }

    fn meets(&mut self, ix: usize, fate: Fate) {
        match fate {
            Fate::Crashes => self.nodes[ix].crash(self.now_ms, self.timing),
            Fate::Hangs => self.nodes[ix].hung = true,
            Fate::IsCutOff => self.nodes[ix].cut = Some(self.now_ms),
            Fate::LosesPower => self.lose_power(ix),
        }
    }

    fn trouble(&mut self) {
        if self.rng.u32(0..60) != 0 {
            return;
        }
        let count = self.nodes.len();
        let ix = self.rng.usize(0..count);
        let active = (0..count).find(|ix| !self.nodes[*ix].acts.is_empty()).unwrap_or(ix);
        let fencing = (0..count).find(|ix| self.is_fencing(*ix)).unwrap_or(ix);
        let fenced = (0..count).find(|ix| self.is_fenced(*ix)).unwrap_or(ix);
        match self.rng.u32(0..20) {
            0..=3 => self.nodes[active].hung = true,
            4 => self.meets(fencing, Fate::Hangs),
            5 => self.meets(fencing, Fate::LosesPower),
            6 => self.meets(fencing, Fate::Crashes),
            7 => self.meets(fencing, Fate::IsCutOff),
            8 => self.lose_power(ix),
            9 => self.lose_power(fenced),
            10 => self.nodes[active].cut = Some(self.now_ms),
            11 => self.nodes[ix].device = MODES[self.rng.usize(0..MODES.len())],
            12 => {
                let mode = MODES[self.rng.usize(0..MODES.len())];
                self.nodes.iter_mut().for_each(|node| node.device = mode);
            }
            13 => self.nodes[ix].cut = None,
            14 => self.nodes.iter_mut().for_each(|node| node.cut = None),
            15 => self.nodes.iter_mut().for_each(|node| node.hung = false),
            16 => self.nodes[fenced].hung = false,
            17 => self.nodes[ix].lag = self.rng.usize(0..10),
            18 => self.by_hand(fencing, ix),
            _ => {
                if let Some(off) = (0..count).find(|ix| !self.nodes[*ix].on()) {
                    self.give_power(off);
                }
            }
        }
    }

    fn lose_power(&mut self, ix: usize) {
        self.nodes[ix].outlets.fill(false);
        self.nodes[ix].dies();
    }

    fn give_power(&mut self, ix: usize) {
        for outlet in 0..self.nodes[ix].outlets.len() {
            self.outlet_on(ix, outlet);
        }
    }

    pub(crate) fn index(&self, name: &NodeName) -> usize {
        self.names.iter().position(|known| known == name).unwrap()
    }
}
