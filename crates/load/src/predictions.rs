//! From what a test measured to what it means for more instances, and for fewer.

use crate::outcome::{AfterLoss, OneMore};
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
            AfterLoss {
                text: if loss.after.low > loss.meanwhile.low {
                    format!(
                        "if {service} loses {lost}: {} until standbys serve, {} from then on",
                        left(loss.meanwhile.low, evidence.met),
                        left(loss.after.low, evidence.met)
                    )
                } else {
                    format!(
                        "if {service} loses {lost}: {} until it runs again",
                        left(loss.meanwhile.low, evidence.met)
                    )
                },
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

fn left(load: f64, of: f64) -> String {
    if load <= 0.0 {
        "nothing".into()
    } else {
        format!("{load:.0} a second ({:.0} %)", load / of.max(1e-9) * 100.0)
    }
}
