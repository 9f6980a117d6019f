//! Who has more requests inside than need be, and whether there is anything to say at all.

use crate::baseline::Baseline;
use crate::observe::Window;
use std::collections::BTreeMap;
use std::fmt;

/// Answers fall behind when fewer than this share of what came is answered …
const KEEPS_UP: f64 = 0.97;
/// … and this many are left over, more than chance leaves.
const LEFT_OVER_MIN: f64 = 10.0;
/// A queue grows when each third of the time has so much more in it than the one before …
const GROWS_BY: f64 = 1.15;
/// … and at its end this many times what is usual.
const GROWN_TO: f64 = 2.0;
/// Fewer requests than this inside too many are nobody's queue: with less, one slow request would be a bottleneck.
const EXCESS_MIN: f64 = 2.0;

/// What shows that something is wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sign {
    /// Fewer requests are answered than come.
    FallsBehind {
        /// Requests a second that come.
        arrivals: f64,
        /// Requests a second that are answered.
        completions: f64,
    },
    /// More and more requests are inside.
    Grows {
        /// In the first third of the time.
        from: f64,
        /// In the last.
        to: f64,
    },
    /// More requests wait than work.
    WaitsMoreThanWorks {
        /// Requests that wait.
        waiting: f64,
        /// Requests that work.
        working: f64,
    },
    /// The service's objective is not met.
    ObjectiveBroken,
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sign::FallsBehind { arrivals, completions } => write!(
                f,
                "{completions:.0} requests a second are answered of {arrivals:.0} that come"
            ),
            Sign::Grows { from, to } => write!(f, "the requests inside grew from {from:.0} to {to:.0}"),
            Sign::WaitsMoreThanWorks { waiting, working } => {
                write!(f, "{waiting:.1} requests wait while {working:.1} are worked on")
            }
            Sign::ObjectiveBroken => f.write_str("the objective is not met"),
        }
    }
}

/// The requests in each service that need not be there.
pub(crate) fn blame(window: &Window, baseline: &Baseline) -> BTreeMap<String, f64> {
    window
        .names()
        .into_iter()
        .map(|name| {
            let usual = baseline.of(name).map(|usual| usual.own_time);
            // Of what was never seen at work nothing is known, so nothing is held against it.
            let blame = usual.map_or(0.0, |time| (window.own(name) - window.rate(name) * time).max(0.0));
            (name.to_owned(), blame)
        })
        .collect()
}

/// What shows that something is wrong; empty when all is well.
pub(crate) fn signs(windows: &[Window], whole: &Window, baseline: &Baseline, objective_broken: bool) -> Vec<Sign> {
    let excess: f64 = blame(whole, baseline).values().sum();
    let working = |window: &Window| -> f64 {
        let names = window.names();
        names
            .into_iter()
            .filter_map(|name| Some(window.rate(name) * baseline.of(name)?.own_time))
            .sum()
    };
    let mut signs = Vec::new();
    if excess < EXCESS_MIN {
        return signs;
    }
    let worst = whole
        .services
        .values()
        .filter(|service| service.managed && service.completions < KEEPS_UP * service.arrivals)
        .filter(|service| (service.arrivals - service.completions) * whole.span.as_secs_f64() >= LEFT_OVER_MIN)
        .max_by(|a, b| (a.arrivals - a.completions).total_cmp(&(b.arrivals - b.completions)));
    if let Some(service) = worst {
        signs.push(Sign::FallsBehind {
            arrivals: service.arrivals,
            completions: service.completions,
        });
    }
    let size = windows.len() / 3;
    if size > 0 {
        let inside = |windows: &[Window]| -> Option<f64> {
            let window = Window::merge(windows)?;
            Some(window.names().into_iter().map(|name| window.own(name)).sum())
        };
        let (first, second, third) = (
            &windows[..size],
            &windows[size..2 * size],
            &windows[windows.len() - size..],
        );
        if let (Some(from), Some(middle), Some(to)) = (inside(first), inside(second), inside(third))
            && middle > GROWS_BY * from
            && to > GROWS_BY * middle
            && to > GROWN_TO * working(whole)
        {
            signs.push(Sign::Grows { from, to });
        }
    }
    let working = working(whole);
    if excess > working {
        signs.push(Sign::WaitsMoreThanWorks {
            waiting: excess,
            working,
        });
    }
    if objective_broken {
        signs.push(Sign::ObjectiveBroken);
    }
    signs
}
