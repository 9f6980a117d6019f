//! The verdict: who, why, and what helps.

use crate::baseline::Baseline;
use crate::blame::{Sign, blame, signs};
use crate::grey::sick;
use crate::kind::{CALL_SLOW, Kind, POOL_FULL, call_time, kind, milliseconds};
use crate::observe::Window;
use std::collections::BTreeMap;
use std::fmt;

/// With less than this share one culprit is not the whole story, and the next is named too.
const CLEAR: f64 = 0.5;
/// A tier with less than this is not scaled: it is a victim.
pub const SCALE_FROM: f64 = 0.2;

/// What limits the system now.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The culprit; two, the larger first, if neither has half.
    pub suspects: Vec<Suspect>,
    /// Requests in the system that need not be there.
    pub excess: f64,
    /// What shows that something is wrong.
    pub signs: Vec<Sign>,
    /// The share of each service, those with none left out.
    pub shares: BTreeMap<String, f64>,
}

/// A service that holds the others up.
#[derive(Debug, Clone, PartialEq)]
pub struct Suspect {
    /// Its name.
    pub service: String,
    /// Its part of the excess, 0 to 1.
    pub share: f64,
    /// What it has too little of.
    pub kind: Kind,
    /// How many of its requests are worked on at once, going by their unloaded time: about 1 is one at a time, a whole number that is
    /// known from its settings is that pool.
    pub parallelism: f64,
    /// The one instance that is slow while the others are not.
    pub sick: Option<String>,
    /// What shows it, sentences.
    pub evidence: Vec<String>,
    /// What helps.
    pub advice: Advice,
}

/// What helps.
#[derive(Debug, Clone, PartialEq)]
pub enum Advice {
    /// More instances.
    AddInstances,
    /// Take one instance out.
    Eject(String),
    /// A faster disk, or fewer writes; more instances on the same disk change nothing.
    Disk,
    /// More memory for each instance.
    Memory,
    /// A larger pool.
    Enlarge {
        /// To whom its connections go.
        callee: String,
        /// How many are needed for what comes now.
        to: f64,
    },
    /// Nothing here can be scaled.
    Outside,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Advice::AddInstances => f.write_str("more instances of it, or less work per request"),
            Advice::Eject(instance) => write!(
                f,
                "take {instance} out: the others are well, and more of them would not heal it"
            ),
            Advice::Disk => {
                f.write_str("a faster disk, or fewer writes; another instance on the same disk changes nothing")
            }
            Advice::Memory => f.write_str("more memory for each instance"),
            Advice::Enlarge { callee, to } => write!(
                f,
                "a pool of at least {to:.0} connections to {callee}; first make sure that {callee} can take what then comes"
            ),
            Advice::Outside => f.write_str(
                "nothing here can be scaled for it: answer from a cache, ask it less, or turn requests away early",
            ),
        }
    }
}

impl fmt::Display for Suspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.sick, &self.kind) {
            (Some(sick), _) => write!(f, "{} of {} is slow", sick, self.service),
            (None, Kind::External) => write!(f, "{} is slow, and it is {}", self.service, self.kind),
            (None, kind) => write!(f, "{} is held up by {kind}", self.service),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, suspect) in self.suspects.iter().enumerate() {
            let and = if index > 0 { "; " } else { "" };
            write!(
                f,
                "{and}{suspect} ({:.0} % of the {:.0} requests that wait)",
                suspect.share * 100.0,
                self.excess
            )?;
        }
        Ok(())
    }
}

/// Judges windows in their order, a minute of them as a rule. `None` while nothing is wrong: it is silent unless answers fall behind,
/// a queue grows, more requests wait than work, or the objective is broken, which the caller says.
pub fn diagnose(windows: &[Window], baseline: &Baseline, objective_broken: bool) -> Option<Verdict> {
    let whole = Window::merge(windows)?;
    let signs = signs(windows, &whole, baseline, objective_broken);
    if signs.is_empty() {
        return None;
    }
    let mut blame = blame(&whole, baseline);
    let passed_on = pass_on(&whole, baseline, &mut blame);
    let excess: f64 = blame.values().sum();
    let shares: BTreeMap<String, f64> = blame
        .into_iter()
        .map(|(name, blame)| (name, blame / excess))
        .filter(|(_, share)| *share > 0.0)
        .collect();
    let mut ranked: Vec<_> = shares.iter().collect();
    ranked.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let count = if *ranked.first()?.1 < CLEAR { 2 } else { 1 };
    let suspects = ranked
        .into_iter()
        .take(count)
        .map(|(name, share)| {
            let mut suspect = suspect(name, *share, &whole, baseline);
            suspect.evidence.extend(
                passed_on
                    .iter()
                    .filter(|(_, to, _)| to == name)
                    .map(|(_, _, why)| why.clone()),
            );
            suspect
        })
        .collect();
    Some(Verdict {
        suspects,
        excess,
        signs,
        shares,
    })
}

/// A service whose calls to another are all under way, and slow, waits for that one: what piles up before it is the other's to blame, or
/// of whom that one waits for in turn. Says from whom to whom, and why.
fn pass_on(window: &Window, baseline: &Baseline, blame: &mut BTreeMap<String, f64>) -> Vec<(String, String, String)> {
    let mut passed = Vec::new();
    let fullest: Vec<_> = blame
        .iter()
        .filter(|(_, blame)| **blame > 0.0)
        .filter_map(|(name, _)| Some((name.clone(), full_of(name, window, baseline)?)))
        .collect();
    for (from, (callee, why)) in fullest {
        let to = where_time_goes(&from, callee, window, baseline);
        let moved = blame.insert(from.clone(), 0.0).unwrap_or(0.0);
        *blame.entry(to.clone()).or_default() += moved;
        passed.push((from, to, why));
    }
    passed
}

/// Follows the calls from a service to where the time that is too much is spent.
fn where_time_goes(from: &str, first: String, window: &Window, baseline: &Baseline) -> String {
    let mut path = vec![from.to_owned(), first];
    loop {
        let here = &path[path.len() - 1];
        let next = window
            .services
            .get(here)
            .zip(baseline.of(here))
            .and_then(|(service, usual)| {
                let own = window.own(here) / window.rate(here).max(1e-9) - usual.own_time;
                let slow = service.calls.keys().filter_map(|callee| {
                    let (time, before) = (call_time(service, callee)?, *usual.calls.get(callee)?);
                    (time >= CALL_SLOW * before && time - before > own).then_some((callee, time - before))
                });
                slow.max_by(|a, b| a.1.total_cmp(&b.1))
                    .map(|(callee, _)| callee.clone())
            });
        match next {
            // Calls in a circle end here.
            Some(next) if !path.contains(&next) => path.push(next),
            _ => return path.pop().unwrap_or_default(),
        }
    }
}

/// Whom a service waits for with all that it has.
fn full_of(name: &str, window: &Window, baseline: &Baseline) -> Option<(String, String)> {
    let service = window.services.get(name)?;
    let usual = baseline.of(name)?;
    service
        .calls
        .iter()
        .filter(|(_, call)| call.in_flight_max >= 1.0 && call.in_flight >= POOL_FULL * call.in_flight_max)
        .filter_map(|(callee, call)| {
            let (time, before) = (call_time(service, callee)?, *usual.calls.get(callee)?);
            (time >= CALL_SLOW * before).then(|| {
                let why = format!(
                    "{name} waits for it with all of its {:.0} calls, {} each, {} when there is little load",
                    call.in_flight_max,
                    milliseconds(time),
                    milliseconds(before)
                );
                (callee.clone(), time / before.max(1e-9), why)
            })
        })
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(callee, _, why)| (callee, why))
}

fn suspect(name: &str, share: f64, window: &Window, baseline: &Baseline) -> Suspect {
    let (kind, mut evidence) = kind(name, window, baseline);
    let usual = baseline.of(name);
    let own_time = usual.map_or(0.0, |usual| usual.own_time);
    let service = window.services.get(name);
    let rate = window.rate(name);
    let inside_time = usual.map_or(0.0, |usual| usual.own_time + usual.calls.values().sum::<f64>());
    let found_sick = service
        .filter(|service| service.managed)
        .and_then(|service| sick(service, inside_time));
    if rate > 0.0 && !matches!(kind, Kind::External) {
        evidence.insert(
            0,
            format!(
                "a request spends {} in it, {} when there is little load",
                milliseconds(window.own(name) / rate),
                milliseconds(own_time)
            ),
        );
    }
    let parallelism = rate * own_time;
    if matches!(kind, Kind::Internal | Kind::Lock) {
        evidence.push(if parallelism < 1.3 {
            format!("about one request is worked on at a time ({parallelism:.2})")
        } else {
            format!("about {parallelism:.1} requests are worked on at a time: compare with its pools and threads")
        });
    }
    let arrivals = service.map_or(rate, |service| service.arrivals.max(service.completions));
    let advice = match (&found_sick, &kind) {
        (Some((instance, _)), _) => Advice::Eject(instance.clone()),
        (None, Kind::External) => Advice::Outside,
        (None, Kind::Io) => Advice::Disk,
        (None, Kind::Memory) => Advice::Memory,
        (None, Kind::Pool { callee, size }) => {
            let time = service.and_then(|service| call_time(service, callee)).unwrap_or(0.0);
            Advice::Enlarge {
                callee: callee.clone(),
                to: (arrivals * time * 1.25).ceil().max(size + 1.0),
            }
        }
        (None, Kind::Cpu | Kind::Lock | Kind::Internal) => Advice::AddInstances,
    };
    let sick = found_sick.map(|(instance, why)| {
        evidence.push(why);
        instance
    });
    Suspect {
        service: name.to_owned(),
        share,
        kind,
        parallelism,
        sick,
        evidence,
        advice,
    }
}
