//! Fence devices: what they do with what they are told, and when.

use super::world::{Broken, World};
use model::{FenceDevice, Millis, Revision};
use std::collections::{BTreeMap, BTreeSet};

/// How long a call may take.
pub(crate) const TIMEOUT_MS: u64 = 3_000;
/// What was told has happened this long after its call ended: a bit less than the product waits.
const SETTLES_MS: u64 = 4_800;

/// How the devices of a node are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Good,
    /// Takes most of what it is given.
    Slow,
    /// Says that it is done before it is.
    Late,
    Dead,
    /// Does it, if late, and says that it did not.
    Gloomy,
    /// Says that it is done, and does nothing.
    Stuck,
}

pub(crate) const MODES: [Mode; 6] = [
    Mode::Good,
    Mode::Slow,
    Mode::Late,
    Mode::Dead,
    Mode::Gloomy,
    Mode::Stuck,
];

/// An outlet is switched at a time to come.
#[derive(Debug)]
pub(crate) struct Effect {
    at_ms: u64,
    node: usize,
    outlet: usize,
    on: bool,
    /// The intent behind it, and the session that was meant.
    begun: Revision,
    meant: Revision,
}

/// As the file would declare them.
pub(crate) fn devices(count: usize) -> Vec<FenceDevice> {
    let device = FenceDevice {
        agent: "fence_made_up".into(),
        parameters: BTreeMap::new(),
        secrets: BTreeMap::new(),
        timeout: Millis(TIMEOUT_MS),
        feeds: BTreeSet::new(),
    };
    vec![device; count]
}

impl World {
    /// A device is told to take the power away: how long that takes, and what it says.
    pub(crate) fn tell_off(
        &mut self,
        of: usize,
        outlet: usize,
        begun: Revision,
        meant: Revision,
    ) -> (u64, Result<(), String>) {
        let others = |effect: &Effect| effect.node == of && effect.begun != begun;
        if self.effects.iter().any(others) {
            self.wrong("two at the power of one node");
        }
        let quick = self.rng.u64(100..1_500);
        let no_answer = || Err("no answer".to_owned());
        let (effect_ms, took_ms, result) = match self.nodes[of].device {
            Mode::Good => (Some(quick / 2), quick, Ok(())),
            Mode::Slow => (Some(quick + 1_000), quick + 1_400, Ok(())),
            Mode::Late => (Some(quick + self.rng.u64(500..SETTLES_MS)), quick, Ok(())),
            Mode::Dead => (None, TIMEOUT_MS, no_answer()),
            Mode::Gloomy => (
                Some(self.rng.u64(100..TIMEOUT_MS + SETTLES_MS)),
                TIMEOUT_MS,
                no_answer(),
            ),
            Mode::Stuck => (None, quick, Ok(())),
        };
        if let Some(after_ms) = effect_ms {
            self.effects.push(Effect {
                at_ms: self.now_ms + after_ms,
                node: of,
                outlet,
                on: false,
                begun,
                meant,
            });
        }
        (took_ms, result)
    }

    /// Told to give it back.
    pub(crate) fn tell_on(&mut self, of: usize, outlet: usize, begun: Revision) -> (u64, Result<(), String>) {
        if self.nodes[of].device == Mode::Dead {
            return (TIMEOUT_MS, Err("no answer".into()));
        }
        let took_ms = self.rng.u64(100..1_500);
        self.effects.push(Effect {
            at_ms: self.now_ms + took_ms / 2,
            node: of,
            outlet,
            on: true,
            begun,
            meant: Revision(0),
        });
        (took_ms, Ok(()))
    }

    /// Asked whether it is off: how long that takes, and what it says, which is true.
    pub(crate) fn ask(&mut self, of: usize, outlet: usize) -> (u64, Result<bool, String>) {
        match self.nodes[of].device {
            Mode::Dead => (TIMEOUT_MS, Err("no answer".into())),
            _ => (self.rng.u64(50..400), Ok(!self.nodes[of].outlets[outlet])),
        }
    }

    /// What devices were told comes about.
    pub(crate) fn happen(&mut self) {
        let now_ms = self.now_ms;
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.effects)
            .into_iter()
            .partition(|effect| effect.at_ms <= now_ms);
        self.effects = later;
        for effect in due {
            if effect.on {
                self.outlet_on(effect.node, effect.outlet);
                continue;
            }
            let node = &mut self.nodes[effect.node];
            let session = node.session.as_ref().map(|session| session.id);
            let later = node.on() && session.is_some_and(|session| session > effect.meant);
            let was_on = node.on();
            node.outlets[effect.outlet] = false;
            if was_on && !node.on() {
                node.dies();
            }
            if later {
                self.wrong("a later incarnation is hit");
            }
        }
    }

    /// A supply has current: a node that was off boots.
    pub(crate) fn outlet_on(&mut self, ix: usize, outlet: usize) {
        let boots_ms = self.now_ms + 3_000;
        let timing = self.timing;
        let node = &mut self.nodes[ix];
        let was_on = node.on();
        node.outlets[outlet] = true;
        if !was_on {
            node.boots(boots_ms, timing);
        }
    }

    pub(crate) fn is_broken(&self, rule: Broken) -> bool {
        self.broken == Some(rule)
    }
}
