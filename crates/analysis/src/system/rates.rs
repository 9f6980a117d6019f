//! How often what fails, and which of it is assumed.

use super::{System, Thing};
use crate::history::Measured;
use model::{Millis, Rate, RateKind};
use std::collections::{BTreeMap, BTreeSet};

const HOUR_MS: f64 = 3_600_000.0;

/// What is taken where nobody said more.
const DEFAULTS: [(RateKind, u64, u64); 7] = [
    (RateKind::Process, 30 * DAY_S, 10),
    (RateKind::Node, 180 * DAY_S, 4 * 3_600),
    (RateKind::Zone, 1_825 * DAY_S, 4 * 3_600),
    (RateKind::Feed, 730 * DAY_S, 2 * 3_600),
    (RateKind::Switch, 1_825 * DAY_S, 4 * 3_600),
    (RateKind::External, 30 * DAY_S, 1_800),
    (RateKind::Software, 365 * DAY_S, 3_600),
];
const DAY_S: u64 = 86_400;

/// Rates as they were given, and what to multiply assumed ones with.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates {
    /// Of single things.
    pub of: BTreeMap<Thing, Rate>,
    /// Of all things of a kind.
    pub kinds: BTreeMap<RateKind, Rate>,
    /// What was seen of single things, often enough: it counts before what was given.
    pub measured: BTreeMap<Thing, Measured>,
    /// The share of failures that are failed over by themselves.
    pub coverage: Option<f64>,
    /// How long a person takes otherwise.
    pub by_hand: Option<Millis>,
    /// Assumed rates of failure and times of repair are multiplied with this: 1, or 3 and 1/3 for the range.
    pub doubt: f64,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            of: BTreeMap::new(),
            kinds: BTreeMap::new(),
            measured: BTreeMap::new(),
            coverage: None,
            by_hand: None,
            doubt: 1.0,
        }
    }
}

/// A figure, and whether nobody gave it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Assumed {
    /// The figure.
    pub value: f64,
    /// Whether it is an assumption of ours.
    pub assumed: bool,
}

impl Rates {
    /// Failures per hour of sound time.
    pub fn failures_per_hour(&self, thing: &Thing) -> Assumed {
        let (given, default) = self.look_up(thing, |rate| rate.mttf, |(_, mttf, _)| mttf);
        match given {
            Some(mttf) => Assumed {
                value: HOUR_MS / (mttf.0.max(1) as f64),
                assumed: false,
            },
            None => Assumed {
                value: self.doubt * 3_600.0 / default as f64,
                assumed: true,
            },
        }
    }

    /// Hours from failure to repair.
    pub fn repair_hours(&self, thing: &Thing) -> Assumed {
        let (given, default) = self.look_up(thing, |rate| rate.mttr, |(_, _, mttr)| mttr);
        match given {
            Some(mttr) => Assumed {
                value: mttr.0 as f64 / HOUR_MS,
                assumed: false,
            },
            None => Assumed {
                value: default as f64 / 3_600.0,
                assumed: true,
            },
        }
    }

    /// The share of the time that a thing has failed: ρ/(1 + ρ).
    pub fn unavailability(&self, thing: &Thing) -> Assumed {
        let (failures, repair) = (self.failures_per_hour(thing), self.repair_hours(thing));
        let load = failures.value * repair.value;
        Assumed {
            value: load / (1.0 + load),
            assumed: failures.assumed || repair.assumed,
        }
    }

    /// The share of failures that are failed over by themselves. Twice-and-a-half of the doubt is enough here: it is a share.
    pub fn coverage(&self) -> Assumed {
        const ASSUMED: f64 = 0.95;
        match self.coverage {
            Some(value) => Assumed { value, assumed: false },
            None => Assumed {
                value: 1.0 - ((1.0 - ASSUMED) * self.doubt).min(1.0),
                assumed: true,
            },
        }
    }

    /// Hours that a person takes where nothing took over.
    pub fn by_hand_hours(&self) -> Assumed {
        match self.by_hand {
            Some(value) => Assumed {
                value: value.0 as f64 / HOUR_MS,
                assumed: false,
            },
            None => Assumed {
                value: 0.5,
                assumed: true,
            },
        }
    }

    fn look_up(
        &self,
        thing: &Thing,
        part: impl Fn(&Rate) -> Option<Millis>,
        of_default: impl Fn((RateKind, u64, u64)) -> u64,
    ) -> (Option<Millis>, u64) {
        let kind = kind_of(thing);
        let measured = self.measured.get(thing).and_then(|measured| part(&measured.rate));
        let own = measured.or_else(|| self.of.get(thing).and_then(&part));
        let given = own.or_else(|| self.kinds.get(&kind?).and_then(&part));
        let default = match kind {
            Some(kind) => DEFAULTS
                .into_iter()
                .find(|(other, ..)| *other == kind)
                .map_or(DAY_S, &of_default),
            // The parts of Understudy itself: started again within seconds, after a crash that nobody has seen in a year.
            None => of_default((RateKind::Process, 365 * DAY_S, 5)),
        };
        (given, default)
    }

    /// A line for each rate that was measured and that one of these things has.
    pub fn measurements<'a>(&self, things: impl IntoIterator<Item = &'a Thing>) -> Vec<String> {
        let mut told = BTreeSet::new();
        for thing in things {
            let Some(measured) = self.measured.get(thing) else {
                continue;
            };
            // The instances of a service were measured together.
            let of = match thing {
                Thing::Process(id) => format!(
                    "process of {}",
                    id.rsplit_once('-').map_or(id.as_str(), |(service, _)| service)
                ),
                thing => thing.to_string(),
            };
            let seconds = |span: Option<Millis>| span.map(|span| roughly(span.0 as f64 / 1_000.0));
            let mttf = seconds(measured.rate.mttf).map(|span| format!("mttf {span}"));
            let mttr = seconds(measured.rate.mttr).map(|span| format!("mttr {span}"));
            let parts: Vec<String> = mttf.into_iter().chain(mttr).collect();
            told.insert(format!(
                "{of}: {}: measured, {} failures in {}",
                parts.join(", "),
                measured.failures,
                roughly(measured.hours * 3_600.0)
            ));
        }
        told.into_iter().collect()
    }

    /// A line for each rate that was assumed and that one of these things has.
    pub fn assumptions<'a>(&self, things: impl IntoIterator<Item = &'a Thing>) -> Vec<String> {
        let mut told = BTreeSet::new();
        for thing in things {
            let kind = match kind_of(thing) {
                Some(_) => thing.kind(),
                None => "Understudy's own processes",
            };
            let (mttf, mttr) = (self.failures_per_hour(thing), self.repair_hours(thing));
            let mut parts = Vec::new();
            if mttf.assumed {
                let seconds = self.doubt * 3_600.0 / mttf.value;
                parts.push(format!("mttf {}", span(seconds)));
            }
            if mttr.assumed {
                parts.push(format!("mttr {}", span(mttr.value * 3_600.0)));
            }
            if !parts.is_empty() {
                told.insert(format!("{kind}: {}", parts.join(", ")));
            }
        }
        told.into_iter().collect()
    }
}

fn span(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole.is_multiple_of(DAY_S) {
        true => format!("{}d", whole / DAY_S),
        false => Millis((seconds * 1_000.0).round() as u64).to_string(),
    }
}

/// With as many digits as a measurement is worth.
fn roughly(seconds: f64) -> String {
    match seconds {
        s if s >= 2.0 * 86_400.0 => format!("{:.1}d", s / 86_400.0),
        s if s >= 7_200.0 => format!("{:.1}h", s / 3_600.0),
        s if s >= 120.0 => format!("{:.1}min", s / 60.0),
        s if s >= 1.0 => format!("{s:.1}s"),
        s => format!("{:.0}ms", s * 1_000.0),
    }
}

fn kind_of(thing: &Thing) -> Option<RateKind> {
    Some(match thing {
        Thing::Process(_) => RateKind::Process,
        Thing::Node(_) | Thing::Machine(_) | Thing::Disk(_) | Thing::FileServer(_) => RateKind::Node,
        Thing::Zone(_) => RateKind::Zone,
        Thing::Feed(_) => RateKind::Feed,
        Thing::Switch(_) => RateKind::Switch,
        Thing::External(_) => RateKind::External,
        Thing::Software(_) => RateKind::Software,
        Thing::Voter(_) | Thing::Proxy(_) => return None,
    })
}

impl System {
    /// Takes over what a file tells of rates.
    pub fn rate(&mut self, thing: Thing, rate: Rate) {
        if rate != Rate::default() {
            self.rates.of.insert(thing, rate);
        }
    }
}
