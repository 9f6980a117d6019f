//! What one more instance buys, and what is left after a failover, as ranges: what was not measured is not promised.

use crate::kind::Kind;
use std::collections::BTreeMap;

/// A service as a limit of the whole, in requests a second at the entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// Its name.
    pub service: String,
    /// Instances that serve.
    pub active: u32,
    /// Instances that wait.
    pub standby: u32,
    /// What it takes for sure: the highest load at which it was seen not to be the limit, or its measured limit.
    pub at_least: f64,
    /// What it takes at most; `None` if that is not known.
    pub at_most: Option<f64>,
    /// What it has too little of at its limit, if it is the one that was reached.
    pub kind: Option<Kind>,
    /// Its serving instances and its standbys in each domain whose loss is to be survived: `rack1 → (2, 1)`.
    pub domains: BTreeMap<String, (u32, u32)>,
}

/// A range of requests a second at the entry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// At least.
    pub low: f64,
    /// At most; `None` if that is not known.
    pub high: Option<f64>,
}

/// What one more instance of the limiting service buys.
#[derive(Debug, Clone, PartialEq)]
pub enum OneMore {
    /// The largest load would be this.
    Buys {
        /// Of which service.
        service: String,
        /// The load then.
        load: Range,
        /// Who limits then, if that is known.
        next: Option<String>,
    },
    /// Nothing, and why.
    Nothing {
        /// Of which service.
        service: String,
        /// A sentence.
        because: &'static str,
    },
}

/// Share of the machine's processors that must be idle for another instance on it to have something to work with.
const SPARE_MIN: f64 = 0.1;

/// What one more instance of the service that limits now buys. `spare` is the share of processors that are idle at the limit on the
/// machine where it would run. `None` if nobody is known to limit.
pub fn one_more(limits: &[Limit], spare: f64) -> Option<OneMore> {
    let now = limits
        .iter()
        .filter(|limit| limit.kind.is_some())
        .min_by(|a, b| a.at_least.total_cmp(&b.at_least))?;
    let service = now.service.clone();
    let nothing = |because| OneMore::Nothing {
        service: service.clone(),
        because,
    };
    match now.kind.as_ref()? {
        Kind::External => return Some(nothing("it is not run here")),
        Kind::Io => {
            return Some(nothing(
                "it would wait for the same disk; on a machine with a disk of its own it would help",
            ));
        }
        Kind::Cpu if spare < SPARE_MIN => {
            return Some(nothing(
                "the processors of this machine are all in use; on another machine it would help",
            ));
        }
        Kind::Cpu | Kind::Pool { .. } | Kind::Memory | Kind::Lock | Kind::Internal => {}
    }
    let active = f64::from(now.active.max(1));
    let own = (active + 1.0) / active;
    // Processors that are idle are all there is for the newcomer.
    let own_low = match now.kind {
        Some(Kind::Cpu) => own.min(1.0 / (1.0 - spare).max(0.01)),
        _ => own,
    };
    let others = limits.iter().filter(|limit| limit.service != now.service);
    let floor = others.clone().map(|limit| limit.at_least).fold(f64::INFINITY, f64::min);
    let ceiling = others
        .clone()
        .filter_map(|limit| Some((limit.at_most?, limit.service.clone())))
        .min_by(|(a, _), (b, _)| a.total_cmp(b));
    // Where it was never seen to have enough, nobody knows how much more it takes.
    let high = now.at_most.map(|most| most * own);
    let next = ceiling.filter(|(ceiling, _)| high.is_none_or(|high| *ceiling < high));
    let load = Range {
        // What the others were seen to take is what was asked of them, so at least today's load.
        low: (now.at_least * own_low).min(floor).max(now.at_least),
        high: next.as_ref().map(|(ceiling, _)| *ceiling).or(high),
    };
    Some(OneMore::Buys {
        service,
        load,
        next: next.map(|(_, name)| name),
    })
}

/// What is left of the capacity after a loss.
#[derive(Debug, Clone, PartialEq)]
pub struct AfterLoss {
    /// Of which service.
    pub service: String,
    /// What is lost: "one instance", "rack1".
    pub lost: String,
    /// Load that is met until standbys serve.
    pub meanwhile: Range,
    /// Load that is met from then on.
    pub after: Range,
}

/// What is left after the loss of one instance of each service, and of the domain that takes the most of it.
pub fn after_losses(limits: &[Limit]) -> Vec<AfterLoss> {
    let mut all = Vec::new();
    for limit in limits.iter().filter(|limit| limit.active > 0) {
        all.push(after(limits, limit, "one instance".into(), 1, 0));
        let worst = limit
            .domains
            .iter()
            // That a domain takes everything is worst even if another takes as many actives.
            .max_by_key(|(_, (active, standby))| (*active, *standby))
            .filter(|(_, (active, standby))| *active + *standby > 1);
        if let Some((domain, (active, standby))) = worst {
            all.push(after(limits, limit, domain.clone(), *active, *standby));
        }
    }
    all
}

fn after(limits: &[Limit], of: &Limit, lost: String, active: u32, standby: u32) -> AfterLoss {
    let left = of.active.saturating_sub(active);
    let standby = of.standby.saturating_sub(standby);
    let then = (left + standby).min(of.active);
    let others = || limits.iter().filter(|limit| limit.service != of.service);
    let range = |count: u32| {
        let share = f64::from(count) / f64::from(of.active);
        let floor = others().map(|limit| limit.at_least).fold(f64::INFINITY, f64::min);
        let ceiling = others().filter_map(|limit| limit.at_most).min_by(f64::total_cmp);
        let high = match (of.at_most.map(|most| most * share), ceiling) {
            (Some(own), Some(other)) => Some(own.min(other)),
            (own, other) => own.or(if count == 0 { Some(0.0) } else { other }),
        };
        Range {
            low: (of.at_least * share).min(floor),
            high,
        }
    };
    AfterLoss {
        service: of.service.clone(),
        lost,
        meanwhile: range(left),
        after: range(then),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(service: &str, active: u32, at_least: f64, at_most: Option<f64>, kind: Option<Kind>) -> Limit {
        Limit {
            service: service.into(),
            active,
            standby: 1,
            at_least,
            at_most,
            kind,
            domains: BTreeMap::new(),
        }
    }

    #[test]
    fn one_more_of_the_limit_helps_up_to_the_next() {
        let limits = [
            limit("web", 2, 400.0, Some(420.0), Some(Kind::Lock)),
            limit("db", 1, 400.0, Some(500.0), None),
        ];
        let bought = one_more(&limits, 0.5).unwrap();
        let load = Range {
            low: 400.0,
            high: Some(500.0),
        };
        assert_eq!(
            bought,
            OneMore::Buys {
                service: "web".into(),
                load,
                next: Some("db".into())
            }
        );
        // Of the other nothing is known but that it took what came.
        let limits = [
            limit("web", 2, 400.0, Some(420.0), Some(Kind::Lock)),
            limit("db", 1, 400.0, None, None),
        ];
        let Some(OneMore::Buys { load, next, .. }) = one_more(&limits, 0.5) else {
            panic!()
        };
        assert_eq!((load.low, load.high, next), (400.0, Some(630.0), None));
        let alone = [limit("web", 1, 400.0, Some(400.0), Some(Kind::Lock))];
        let Some(OneMore::Buys { load, .. }) = one_more(&alone, 0.5) else {
            panic!()
        };
        assert_eq!((load.low, load.high), (800.0, Some(800.0)));
    }

    #[test]
    fn what_does_not_help_is_said() {
        for (kind, spare) in [(Kind::External, 1.0), (Kind::Io, 1.0), (Kind::Cpu, 0.0)] {
            let limits = [limit("web", 1, 100.0, None, Some(kind))];
            assert!(matches!(one_more(&limits, spare), Some(OneMore::Nothing { .. })));
        }
        assert_eq!(one_more(&[limit("web", 1, 100.0, None, None)], 1.0), None);
    }

    #[test]
    fn half_idle_processors_carry_one_more_only_so_far() {
        let limits = [limit("web", 1, 100.0, Some(100.0), Some(Kind::Cpu))];
        let Some(OneMore::Buys { load, .. }) = one_more(&limits, 0.2) else {
            panic!()
        };
        assert_eq!((load.low, load.high), (125.0, Some(200.0)));
    }

    #[test]
    fn of_a_limit_that_was_never_reached_no_largest_load_is_foreseen() {
        let limits = [limit("web", 1, 100.0, None, Some(Kind::Lock))];
        let Some(OneMore::Buys { load, .. }) = one_more(&limits, 1.0) else {
            panic!()
        };
        assert_eq!((load.low, load.high), (200.0, None));
    }

    #[test]
    fn a_standby_brings_back_what_one_loss_took() {
        let mut web = limit("web", 2, 400.0, Some(400.0), Some(Kind::Cpu));
        web.domains = [("rack1".to_owned(), (2, 0)), ("rack2".to_owned(), (0, 1))].into();
        let losses = after_losses(&[web]);
        assert_eq!(losses.len(), 2);
        assert_eq!((losses[0].meanwhile.low, losses[0].after.low), (200.0, 400.0));
        assert_eq!(
            (losses[1].lost.as_str(), losses[1].meanwhile.low, losses[1].after.low),
            ("rack1", 0.0, 200.0)
        );
    }
}
