//! What a tree of failures alone does not say: the catalogue of findings.

use crate::system::{Logic, Service, System};
use api::Severity;
use api::analysis::{Finding, Report};
use model::Role;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn checks(system: &System, logic: &Logic, report: &Report) -> Vec<Finding> {
    let mut found = Found(Vec::new());
    found.targets(report);
    found.one_machine(system);
    found.quorum(system);
    for (name, service) in &system.services {
        found.no_spare(name, service);
        found.standbys_beside(system, name, service);
        found.after_largest_loss(system, name, service);
        found.cold_needs(system, name, service);
        found.impaired(system, logic, name, service);
    }
    found.never_starts(system);
    found.takeovers_dominate(report);
    let mut found = found.0;
    found.sort_by(|a, b| {
        (std::cmp::Reverse(a.severity), &a.code, &a.about).cmp(&(std::cmp::Reverse(b.severity), &b.code, &b.about))
    });
    found
}

struct Found(Vec<Finding>);

impl Found {
    fn add(&mut self, code: &str, title: &str, severity: Severity, about: &str, text: String, hint: &str) {
        self.0.push(Finding {
            code: code.into(),
            title: title.into(),
            severity,
            about: about.into(),
            text,
            hint: hint.into(),
        });
    }

    fn targets(&mut self, report: &Report) {
        for service in &report.services {
            let name = &service.name;
            if let (Some(distance), Some(target)) = (service.distance, service.distance_target)
                && distance < target
            {
                let severity = if distance == 0 {
                    Severity::Error
                } else {
                    Severity::Warning
                };
                let text = match distance {
                    0 => format!("{name} is down, and was to bear {} failures", target - 1),
                    1 => format!("one failure more takes {name} down, and it was to take at least {target}"),
                    n => format!("{n} failures more take {name} down, and it was to take at least {target}"),
                };
                let hint = "the single points of failure say what to change";
                self.add(
                    "distance-below-target",
                    "nearer to an outage than allowed",
                    severity,
                    name,
                    text,
                    hint,
                );
            }
            let availability = &service.availability;
            if let (Some(target), Some(false)) = (availability.target, availability.meets_target) {
                let text = format!(
                    "{name} is to be expected up {}% of the time, and {}% were asked for",
                    percent(availability.unavailability),
                    percent(target)
                );
                let hint = "the advice says what would buy it";
                self.add(
                    "availability-below-target",
                    "less available than asked for",
                    Severity::Warning,
                    name,
                    text,
                    hint,
                );
            }
        }
    }

    fn one_machine(&mut self, system: &System) {
        let running: Vec<_> = system.nodes.values().filter(|node| node.runs_services).collect();
        if running.iter().all(|node| node.machine.is_some()) && !running.is_empty() && !system.services.is_empty() {
            let text = "everything runs on this one machine, however many nodes it pretends to be: its loss takes all services down".to_owned();
            let hint = "`understudy cluster init` here and `cluster join` on others make a cluster of several machines";
            self.add(
                "one-machine",
                "all on one machine",
                Severity::Warning,
                "this machine",
                text,
                hint,
            );
        }
    }

    fn quorum(&mut self, system: &System) {
        let voters = system.voters.len();
        if voters == 0 {
            return;
        }
        if voters.is_multiple_of(2) {
            let bears = voters.div_ceil(2) - 1;
            let text = format!(
                "{voters} members vote in the store: it bears the loss of {bears}, as {} would",
                voters - 1
            );
            let hint =
                "an odd number bears as much with fewer; `understudy cluster token --role witness` lets a small one in";
            self.add(
                "even-voters",
                "an even number of votes",
                Severity::Info,
                "store",
                text,
                hint,
            );
        }
        let mut by_zone: BTreeMap<String, BTreeSet<&String>> = BTreeMap::new();
        for node in &system.voters {
            for zone in system.zones_of(node) {
                by_zone.entry(zone).or_default().insert(node);
            }
        }
        let zones: BTreeSet<Vec<String>> = system.nodes.values().map(|node| node.zone.clone()).collect();
        let narrowest = by_zone
            .iter()
            .filter(|(_, nodes)| nodes.len() * 2 >= voters)
            .max_by_key(|(zone, _)| zone.len());
        if let Some((zone, nodes)) = narrowest
            && zones.len() > 1
        {
            let names: Vec<&str> = nodes.iter().map(|node| node.as_str()).collect();
            let text = format!(
                "{} of {voters} votes are in zone {zone} ({}): its loss stops every exclusive service and every failover",
                nodes.len(),
                names.join(", ")
            );
            let hint = "spread the votes, so that each zone has fewer than half of them";
            self.add(
                "quorum-in-one-zone",
                "half of the votes in one zone",
                Severity::Warning,
                zone,
                text,
                hint,
            );
        }
    }

    fn no_spare(&mut self, name: &str, service: &Service) {
        let all: u32 = service.instances.iter().map(|instance| instance.weight).sum();
        if all == service.need && all > 0 {
            let text = format!("{name} needs {} of {all} instances: none may fail", service.need);
            let hint = "add a `standby`, or declare a lower `need`";
            self.add("no-spare", "no instance to spare", Severity::Warning, name, text, hint);
        }
        if all < service.need {
            let text = format!("{name} needs {} instances and {all} found a node", service.need);
            let hint = "add nodes, or let instances share one: `spread = \"prefer\"`";
            self.add("too-few-placed", "too few instances", Severity::Error, name, text, hint);
        }
    }

    /// A standby that goes with its active is none.
    fn standbys_beside(&mut self, system: &System, name: &str, service: &Service) {
        let of = |role: Role| service.instances.iter().filter(move |instance| instance.role == role);
        let standbys: Vec<_> = of(Role::Standby).collect();
        if standbys.is_empty() || system.nodes.len() < 2 {
            return;
        }
        for active in of(Role::Active) {
            if standbys.iter().all(|standby| standby.node == active.node) {
                let text = format!(
                    "every standby of {name} is on node {} beside its active {}",
                    active.node, active.id
                );
                let hint = "`spread = \"node\"` keeps them apart";
                self.add(
                    "standby-beside-active",
                    "standby on its active's node",
                    Severity::Warning,
                    name,
                    text,
                    hint,
                );
                return;
            }
            let zone = |node: &str| system.nodes.get(node).map(|node| node.zone.clone()).unwrap_or_default();
            let own = zone(&active.node);
            let other_zone = system.nodes.values().any(|node| node.runs_services && node.zone != own);
            if !own.is_empty() && other_zone && standbys.iter().all(|standby| zone(&standby.node) == own) {
                let text = format!(
                    "every standby of {name} is in zone {} with its active {}",
                    own.join("/"),
                    active.id
                );
                let hint = "place one in another zone";
                self.add(
                    "standby-in-active-zone",
                    "standby in its active's zone",
                    Severity::Warning,
                    name,
                    text,
                    hint,
                );
                return;
            }
            let feeds = |node: &str| {
                system
                    .nodes
                    .get(node)
                    .map(|node| node.feeds.clone())
                    .unwrap_or_default()
            };
            let own = feeds(&active.node);
            if own.len() == 1 && standbys.iter().all(|standby| feeds(&standby.node) == own) {
                let feed = own.first().cloned().unwrap_or_default();
                let text = format!(
                    "every standby of {name} hangs on power feed {feed} alone, as its active {} does",
                    active.id
                );
                let hint = "a second feed for one of the nodes, or a standby on another";
                self.add(
                    "standby-on-active-feed",
                    "standby on its active's power feed",
                    Severity::Warning,
                    name,
                    text,
                    hint,
                );
                return;
            }
        }
    }

    /// What is left after the largest domain is lost is enough to be up, and not enough to be whole.
    fn after_largest_loss(&mut self, system: &System, name: &str, service: &Service) {
        let mut by_zone: BTreeMap<String, u32> = BTreeMap::new();
        for instance in &service.instances {
            for zone in system.zones_of(&instance.node) {
                *by_zone.entry(zone).or_default() += instance.weight;
            }
        }
        let all: u32 = service.instances.iter().map(|instance| instance.weight).sum();
        let largest = by_zone
            .into_iter()
            .filter(|(_, there)| *there < all)
            .max_by_key(|(_, there)| *there);
        if let Some((zone, there)) = largest {
            let left = all - there;
            if left >= service.need && left < service.active {
                let text = format!(
                    "after the loss of zone {zone}, {left} instances of {name} are left of {} that serve now",
                    service.active
                );
                let hint = "if all of them are needed at peak load, add a standby in another zone";
                self.add(
                    "capacity-after-zone-loss",
                    "less capacity after a zone is lost",
                    Severity::Info,
                    name,
                    text,
                    hint,
                );
            }
        }
    }

    /// A standby that must be started needs more than one that runs.
    fn cold_needs(&mut self, system: &System, name: &str, service: &Service) {
        if !service.cold || service.instances.len() <= service.active as usize {
            return;
        }
        let singles: Vec<&str> = service
            .needs
            .iter()
            .filter(|need| {
                let inside = system.services.get(*need);
                inside.is_none_or(|inside| inside.instances.len() as u32 <= inside.need)
            })
            .map(String::as_str)
            .collect();
        if !singles.is_empty() {
            let text = format!(
                "standbys of {name} are cold and start only when they are needed; they cannot without {}, of which there is one",
                singles.join(" and ")
            );
            let hint = "let them run: `standby_mode = \"warm\"`; or double what they start with";
            self.add(
                "cold-standby-needs",
                "cold standbys start with something single",
                Severity::Warning,
                name,
                text,
                hint,
            );
        }
    }

    fn impaired(&mut self, system: &System, logic: &Logic, name: &str, service: &Service) {
        let failed: BTreeMap<u32, bool> = system
            .failed
            .iter()
            .filter_map(|thing| Some((logic.event(thing)?, true)))
            .collect();
        if failed.is_empty() {
            return;
        }
        let Some(impaired) = logic.impaired.get(name) else {
            return;
        };
        let (_, now) = logic.tree.given(*impaired, &failed);
        if now == crate::tree::Ref::True {
            let uses: Vec<&str> = service.uses.iter().map(String::as_str).collect();
            let text = format!("{name} works without something that it uses: {}", uses.join(", "));
            self.add(
                "impaired",
                "works, though not as well",
                Severity::Warning,
                name,
                text,
                "mend what it uses",
            );
        }
    }

    /// After a blackout everything starts from nothing: who waits for each other then never does.
    fn never_starts(&mut self, system: &System) {
        let mut up: BTreeSet<&String> = BTreeSet::new();
        loop {
            let ready = |service: &Service| {
                let is_up = |need: &String| !system.services.contains_key(need) || up.contains(need);
                service.needs.iter().all(is_up) && service.any_of.iter().all(|group| group.iter().any(is_up))
            };
            let more: Vec<&String> = system
                .services
                .iter()
                .filter(|(name, service)| !up.contains(name) && ready(service))
                .map(|(name, _)| name)
                .collect();
            if more.is_empty() {
                break;
            }
            up.extend(more);
        }
        let stuck: Vec<&str> = system
            .services
            .keys()
            .filter(|name| !up.contains(name))
            .map(String::as_str)
            .collect();
        if let Some(first) = stuck.first() {
            let text = format!(
                "after a total blackout {} would wait for each other: each needs another of them first",
                stuck.join(", ")
            );
            let hint = "let one of them start without the others: `uses` in the place of `needs`";
            self.add(
                "start-circle",
                "would never start after a blackout",
                Severity::Error,
                first,
                text,
                hint,
            );
        }
    }

    fn takeovers_dominate(&mut self, report: &Report) {
        for service in &report.services {
            let availability = &service.availability;
            if availability.unavailability_failover > 10.0 * availability.unavailability_static
                && availability.unavailability > 1e-5
            {
                let text = format!(
                    "of the downtime to be expected of {}, {:.0}% is takeovers: more instances buy nothing, surer and quicker ones do",
                    service.name,
                    (100.0 * availability.unavailability_failover / availability.unavailability).min(100.0)
                );
                let hint = "`understudy drill` shows whether takeovers work; quicker checks shorten them";
                self.add(
                    "takeovers-dominate",
                    "takeovers are most of the downtime",
                    Severity::Info,
                    &service.name,
                    text,
                    hint,
                );
            }
        }
    }
}

/// The share that is left, with as many digits as tell it from all.
pub(super) fn percent(unavailability: f64) -> String {
    let digits = (-unavailability.max(1e-15).log10()).ceil().clamp(2.0, 15.0) as usize;
    format!("{:.*}", digits.saturating_sub(1).max(1), 100.0 * (1.0 - unavailability))
}

#[cfg(test)]
mod tests {
    use super::percent;

    #[test]
    fn shares_have_the_digits_that_matter() {
        assert_eq!(percent(5e-4), "99.950");
        assert_eq!(percent(2e-6), "99.99980");
        assert_eq!(percent(0.3), "70.0");
    }
}
