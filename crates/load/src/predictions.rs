//! From what a test measured to what it means for more instances, and for fewer.

use crate::outcome::{AfterLoss, OneMore};
use crate::test::number;
use api::{Saturation, Status};
use bottleneck::capacity::{self, Resource};
use bottleneck::predict::{self, Limit, Range};
use bottleneck::{Verdict, Window};
use std::collections::BTreeMap;

/// What was measured of the whole test.
pub(crate) struct Evidence<'a> {
    pub(crate) service: &'a str,
    pub(crate) windows: &'a [Window],
    /// The highest rate that was met, and the lowest that was not.
    pub(crate) met: f64,
    pub(crate) unmet: Option<f64>,
    pub(crate) verdict: Option<&'a Verdict>,
    /// The windows that the verdict is of.
    pub(crate) limited: &'a [Window],
    pub(crate) status: &'a Status,
}

/// Of the highest rate that was tried, how many times more is still foreseen.
const FORESIGHT: f64 = 5.0;

/// Which processors are full first, in requests at the service that was tested.
pub(crate) fn saturations(evidence: &Evidence<'_>) -> Vec<Saturation> {
    capacity::order(resources(evidence))
        .into_iter()
        // Further than that a straight line is not to be trusted.
        .filter(|(rate, resource)| *rate <= FORESIGHT * resource.capacity.seen / resource.visits)
        .map(|(rate, resource)| {
            let visits = resource.visits;
            let (service, error) = (resource.what, resource.capacity.error / visits);
            Saturation {
                text: format!(
                    "the processors are full with {service} at {rate:.0} ± {error:.0} requests a second{}",
                    if rate > 1.5 * resource.capacity.seen / visits {
                        ", if what was seen so far goes on"
                    } else {
                        ""
                    }
                ),
                service,
                resource: "cpu".into(),
                times: rate / evidence.met.max(1e-9),
                error: error / evidence.met.max(1e-9),
                explained: resource.capacity.explained,
            }
        })
        .collect()
}

fn resources(evidence: &Evidence<'_>) -> Vec<Resource<String>> {
    let Some(whole) = Window::merge(evidence.windows) else {
        return Vec::new();
    };
    let entry = whole
        .services
        .get(evidence.service)
        .map_or(0.0, |service| service.completions);
    let mut points: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for window in evidence.windows {
        for (name, service) in &window.services {
            let used: f64 = service.instances.values().map(|instance| instance.cpu).sum();
            points.entry(name).or_default().push((service.completions, used));
        }
    }
    points
        .into_iter()
        .filter_map(|(name, points)| {
            let service = whole.services.get(name)?;
            let visits = service.completions / entry;
            let limit = service
                .instances
                .values()
                .map(|instance| instance.cpu_limit)
                .fold(0.0, f64::max);
            let capacity = capacity::saturation(&points, limit).ok()?;
            (visits.is_finite() && visits > 0.01).then(|| Resource {
                what: name.to_owned(),
                visits,
                capacity,
            })
        })
        .collect()
}

/// What one more instance buys, and what is left after losses.
pub(crate) fn changes(evidence: &Evidence<'_>) -> (Option<OneMore>, Vec<AfterLoss>) {
    let limits = limits(evidence);
    let spare = spare(evidence.limited);
    let one_more = predict::one_more(&limits, spare).map(|bought| match bought {
        predict::OneMore::Nothing { service, because } => OneMore {
            text: format!("one more instance of {service} buys nothing: {because}"),
            service,
            at_least: None,
            at_most: None,
        },
        predict::OneMore::Buys { service, load, next } => {
            let then = next.map_or_else(String::new, |next| format!("; {next} is full then"));
            OneMore {
                text: format!(
                    "with one more instance of {service} the largest load is {}{then}",
                    range(load)
                ),
                service,
                at_least: Some(load.low),
                at_most: load.high,
            }
        }
    });
    let losses = predict::after_losses(&limits)
        .into_iter()
        .map(|loss| {
            let (service, lost) = (&loss.service, &loss.lost);
            let left = |range: Range| left(range, evidence.met, evidence.unmet.is_some());
            AfterLoss {
                text: if loss.after.low > loss.meanwhile.low {
                    let (meanwhile, after) = (left(loss.meanwhile), left(loss.after));
                    format!("if {service} loses {lost}: {meanwhile} until standbys serve, {after} from then on")
                } else {
                    format!(
                        "if {service} loses {lost}: {} until it runs again",
                        left(loss.meanwhile)
                    )
                },
                meanwhile_at_most: loss.meanwhile.high,
                after_at_most: loss.after.high,
                meanwhile: loss.meanwhile.low,
                after: loss.after.low,
                service: loss.service,
                lost: loss.lost,
            }
        })
        .collect();
    (one_more, losses)
}

fn limits(evidence: &Evidence<'_>) -> Vec<Limit> {
    let by_cpu: BTreeMap<String, f64> = capacity::order(resources(evidence))
        .into_iter()
        .map(|(rate, resource)| (resource.what, rate + 2.0 * resource.capacity.error / resource.visits))
        .collect();
    let culprit = evidence.verdict.and_then(|verdict| verdict.suspects.first());
    let touched = |name: &str| {
        evidence
            .windows
            .iter()
            .any(|window| window.services.get(name).is_some_and(|s| s.completions > 0.0))
    };
    let mut limits: Vec<Limit> = evidence
        .status
        .services
        .iter()
        .filter(|service| touched(&service.name))
        .map(|service| {
            let kind = culprit
                .filter(|suspect| suspect.service == service.name)
                .map(|suspect| suspect.kind.clone());
            let active = service
                .slots
                .iter()
                .map(|slot| u32::from(slot.state == "serving"))
                .sum();
            let standby = service
                .instances
                .iter()
                .map(|instance| u32::from(instance.role == "standby" && instance.ready))
                .sum();
            Limit {
                at_most: if kind.is_some() {
                    evidence.unmet
                } else {
                    by_cpu.get(&service.name).copied()
                },
                service: service.name.clone(),
                active,
                standby,
                at_least: evidence.met,
                kind,
                domains: domains(service, evidence.status),
            }
        })
        .collect();
    if let Some(suspect) = culprit
        && !limits.iter().any(|limit| limit.service == suspect.service)
    {
        limits.push(Limit {
            service: suspect.service.clone(),
            active: 0,
            standby: 0,
            at_least: evidence.met,
            at_most: evidence.unmet,
            kind: Some(suspect.kind.clone()),
            domains: BTreeMap::new(),
        });
    }
    limits
}

/// What each node and each part of its place has of a service: actives and standbys.
fn domains(service: &api::ServiceStatus, status: &Status) -> BTreeMap<String, (u32, u32)> {
    let mut domains: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for instance in &service.instances {
        let mut names = vec![format!("node {}", instance.node)];
        if let Some(node) = status.nodes.iter().find(|node| node.name == instance.node) {
            let mut path = String::new();
            for part in node
                .zone
                .split('/')
                .filter(|part| !part.is_empty() && *part != node.name)
            {
                path = if path.is_empty() {
                    part.to_owned()
                } else {
                    format!("{path}/{part}")
                };
                names.push(format!("zone {path}"));
            }
        }
        for name in names {
            let (active, standby) = domains.entry(name).or_default();
            match instance.role.as_str() {
                "active" => *active += 1,
                _ => *standby += u32::from(instance.ready),
            }
        }
    }
    domains
}

/// The share of processors that all services leave idle. What others on the machine use is not in it.
fn spare(windows: &[Window]) -> f64 {
    let Some(whole) = Window::merge(windows) else {
        return 0.0;
    };
    let instances = || whole.services.values().flat_map(|service| service.instances.values());
    let used: f64 = instances().map(|instance| instance.cpu).sum();
    let cores = instances().map(|instance| instance.cpu_limit).fold(0.0, f64::max);
    if cores > 0.0 {
        (1.0 - used / cores).max(0.0)
    } else {
        0.0
    }
}

fn range(range: Range) -> String {
    match range.high {
        Some(high) if high <= range.low * 1.02 => format!("about {:.0} a second", range.low),
        Some(high) => format!("{:.0} to {high:.0} a second", range.low),
        None => format!("{:.0} a second at least", range.low),
    }
}

/// What is left of `met` requests a second. Only where more was tried in vain (`is_searched`) is that the largest load, and what is left a
/// share of it; otherwise it is known of less alone.
fn left(range: Range, met: f64, is_searched: bool) -> String {
    let Range { low, high } = range;
    if low <= 0.0 && high.is_none_or(|high| high <= 0.0) {
        return "nothing".into();
    }
    if !is_searched {
        return format!(
            "at least {} a second (more than {} was not tried)",
            number(low),
            number(met)
        );
    }
    let share = low / met.max(1e-9) * 100.0;
    match high {
        Some(high) if high <= low * 1.02 => format!("about {} a second ({share:.0} %)", number(low)),
        Some(high) => format!("{} to {} a second ({share:.0} % at least)", number(low), number(high)),
        None => format!("at least {} a second ({share:.0} %)", number(low)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Range, left};

    #[test]
    fn of_a_load_that_was_not_searched_for_only_a_lower_bound_is_told() {
        let half = Range { low: 13.0, high: None };
        assert_eq!(
            left(half, 26.0, false),
            "at least 13 a second (more than 26 was not tried)"
        );
        assert_eq!(left(half, 26.0, true), "at least 13 a second (50 %)");
        let known = Range {
            low: 13.0,
            high: Some(15.0),
        };
        assert_eq!(left(known, 26.0, true), "13 to 15 a second (50 % at least)");
        let gone = Range {
            low: 0.0,
            high: Some(0.0),
        };
        assert_eq!(left(gone, 26.0, false), "nothing");
    }
}
