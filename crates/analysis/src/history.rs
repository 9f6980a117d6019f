//! Failures that were seen, from the events of a running cluster: how many, in how long, and how long each lasted.
//!
//! ```text
//! sound ──died, unhealthy; node-lost──► failed ──healthy; node-back──► sound
//! ```
//! What an operator did is no failure: drills, drains, stops.

use crate::learn;
use api::Event;
use model::{Millis, Rate};
use std::collections::BTreeMap;

/// Fewer failures say too little: of five, the true rate is between a third and two and a third times what was seen, nineteen times of twenty.
pub const ENOUGH: u32 = 5;
/// Nor is a new cluster's first hour, in which things are tried, like those that follow.
const HOURS_MIN: f64 = 1.0;
/// What dies so soon after a drill of it is the drill's, in milliseconds.
const OF_A_DRILL_MS: i64 = 5_000;
const HOUR_MS: f64 = 3_600_000.0;

/// Failures of one thing, or of all instances of a service together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Incidents {
    /// How many.
    pub failures: u32,
    /// Of how many the end was seen.
    pub repaired: u32,
    /// How long those lasted together, in hours.
    pub down_hours: f64,
}

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// How long it was looked, in hours.
    pub hours: f64,
    /// The node whose instances were looked at; `None`: all.
    pub node: Option<String>,
    /// By service.
    pub processes: BTreeMap<String, Incidents>,
    /// By node.
    pub nodes: BTreeMap<String, Incidents>,
}

/// A rate that was seen, and how surely.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// How often, and for how long.
    pub rate: Rate,
    /// From so many failures …
    pub failures: u32,
    /// … in so many hours of all of them together.
    pub hours: f64,
}

impl History {
    /// Of events with their moments in milliseconds since 1970, oldest first; `node` is the one whose instances this agent tells of, if not of all.
    pub fn of<'a>(events: impl IntoIterator<Item = (i64, &'a Event)>, node: Option<&str>, now_ms: i64) -> Self {
        let mut reader = Reader::default();
        let mut first = None;
        for (at, event) in events {
            first.get_or_insert(at);
            reader.hear(at, event, node);
        }
        Self {
            hours: first.map_or(0.0, |first| (now_ms - first).max(0) as f64 / HOUR_MS),
            node: node.map(str::to_owned),
            processes: reader.processes,
            nodes: reader.nodes,
        }
    }

    /// The rate of each of so many processes of a service; `None` if too little was seen.
    pub fn process(&self, service: &str, instances: usize) -> Option<Measured> {
        let enough = self.hours >= HOURS_MIN;
        measured(
            self.processes.get(service).filter(|_| enough)?,
            self.hours * instances as f64,
        )
    }

    /// The rate of a node.
    pub fn node(&self, node: &str) -> Option<Measured> {
        let enough = self.hours >= HOURS_MIN;
        measured(self.nodes.get(node).filter(|_| enough)?, self.hours)
    }
}

fn measured(incidents: &Incidents, hours: f64) -> Option<Measured> {
    let sound = hours - incidents.down_hours;
    if incidents.failures < ENOUGH || sound <= 0.0 {
        return None;
    }
    let rate = learn::rate(incidents.failures, sound, 0.0).rate;
    let millis = |hours: f64| Millis((hours * HOUR_MS).round().max(1.0) as u64);
    let repair = (incidents.repaired >= ENOUGH).then(|| millis(incidents.down_hours / f64::from(incidents.repaired)));
    Some(Measured {
        rate: Rate {
            mttf: Some(millis(1.0 / rate)),
            mttr: repair,
        },
        failures: incidents.failures,
        hours,
    })
}

#[derive(Default)]
struct Reader {
    processes: BTreeMap<String, Incidents>,
    nodes: BTreeMap<String, Incidents>,
    /// Since when a thing has failed, by its name; a name of a node is no name of an instance.
    failed: BTreeMap<String, i64>,
    /// When what was drilled.
    drilled: Option<(i64, String)>,
}

impl Reader {
    fn hear(&mut self, at: i64, event: &Event, node: Option<&str>) {
        match (event.kind.as_str(), &event.instance, &event.node) {
            ("drill", _, _) => self.drilled = Some((at, event.text.clone())),
            ("instance-died" | "instance-unhealthy", Some(id), place) => {
                let elsewhere = node.is_some_and(|node| place.as_deref() != Some(node));
                if elsewhere || self.is_of_a_drill(at, id) || is_by_hand(&event.because) || is_its_nodes(&event.because)
                {
                    return;
                }
                let Some(service) = service_of(id) else { return };
                let first = self.begin(id.clone(), at);
                self.processes.entry(service).or_default().failures += u32::from(first);
            }
            ("instance-healthy", Some(id), _) => {
                if let (Some(since), Some(service)) = (self.failed.remove(id), service_of(id)) {
                    end(self.processes.entry(service).or_default(), since, at);
                }
            }
            ("node-lost", _, Some(lost)) if !is_by_hand(&event.because) => {
                let first = self.begin(format!("node {lost}"), at);
                self.nodes.entry(lost.clone()).or_default().failures += u32::from(first);
            }
            ("node-back", _, Some(back)) => {
                if let Some(since) = self.failed.remove(&format!("node {back}")) {
                    end(self.nodes.entry(back.clone()).or_default(), since, at);
                }
            }
            _ => {}
        }
    }

    /// Whether it was sound before: of one failure more may be told, and it lasts from the first word on.
    fn begin(&mut self, name: String, at: i64) -> bool {
        let sound = !self.failed.contains_key(&name);
        self.failed.entry(name).or_insert(at);
        sound
    }

    fn is_of_a_drill(&self, at: i64, instance: &str) -> bool {
        let names = |text: &str| text.split(' ').any(|word| word == instance);
        self.drilled
            .as_ref()
            .is_some_and(|(drilled, text)| at - drilled <= OF_A_DRILL_MS && names(text))
    }
}

fn end(incidents: &mut Incidents, since: i64, at: i64) {
    incidents.repaired += 1;
    incidents.down_hours += (at - since).max(0) as f64 / HOUR_MS;
}

fn is_by_hand(because: &str) -> bool {
    because.starts_with("the operator")
}

/// "node a is lost": it did not die by itself.
fn is_its_nodes(because: &str) -> bool {
    because.starts_with("node ")
}

fn service_of(instance: &str) -> Option<String> {
    instance.rsplit_once('-').map(|(service, _)| service.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{History, Incidents};
    use api::{Event, Severity};

    fn event(kind: &str, who: &str, because: &str) -> Event {
        let is_node = kind.starts_with("node");
        Event {
            seq: 0,
            at: String::new(),
            severity: Severity::Info,
            kind: kind.into(),
            service: None,
            instance: (!is_node).then(|| who.to_owned()),
            node: Some(if is_node { who } else { "a" }.into()),
            text: format!("killed {who} (process 1)"),
            because: because.into(),
            failover: None,
        }
    }

    fn history(events: &[(i64, Event)], node: Option<&str>) -> History {
        History::of(events.iter().map(|(at, event)| (at * 1_000, event)), node, 3_600_000)
    }

    #[test]
    fn deaths_and_hangs_count_until_it_is_healthy_and_what_was_done_by_hand_does_not() {
        let events = [
            (0, event("instance-start", "db-1", "")),
            (10, event("instance-died", "db-1", "it ended with status 1")),
            // Of one failure more may be told, and what hangs is killed before it is started again.
            (11, event("instance-unhealthy", "db-1", "it failed 3 checks in a row")),
            (12, event("instance-stop", "db-1", "it failed 3 checks in a row")),
            (46, event("instance-healthy", "db-1", "")),
            (100, event("drill", "db-1", "the operator drills its loss")),
            (101, event("instance-died", "db-1", "it was ended by signal 9")),
            (102, event("instance-healthy", "db-1", "")),
            (200, event("instance-died", "web-1", "node a is lost")),
            (300, event("node-lost", "b", "node b has no session")),
            (1_200, event("node-back", "b", "")),
            (1_300, event("node-lost", "c", "the operator drills its loss")),
        ];
        let seen = history(&events, None);
        assert_eq!(seen.hours, 1.0);
        let db = Incidents {
            failures: 1,
            repaired: 1,
            down_hours: 0.01,
        };
        assert_eq!(seen.processes.get("db"), Some(&db));
        assert_eq!(seen.processes.get("web"), None);
        let b = Incidents {
            failures: 1,
            repaired: 1,
            down_hours: 0.25,
        };
        assert_eq!((seen.nodes.get("b"), seen.nodes.get("c")), (Some(&b), None));
        // Another node's instances are told of there.
        assert_eq!(history(&events, Some("b")).processes.get("db"), None);
    }

    #[test]
    fn a_rate_is_measured_once_enough_was_seen() {
        let times = |n: i64| -> Vec<(i64, Event)> {
            let one = |i: i64| {
                [
                    (i * 100, event("instance-died", "db-1", "")),
                    (i * 100 + 36, event("instance-healthy", "db-1", "")),
                ]
            };
            (0..n).flat_map(one).collect()
        };
        assert_eq!(history(&times(4), None).process("db", 2), None);
        let young = History {
            hours: 0.9,
            ..history(&times(9), None)
        };
        assert_eq!(young.process("db", 2), None);
        let seen = history(&times(9), None)
            .process("db", 2)
            .unwrap_or_else(|| panic!("nine are enough"));
        assert_eq!((seen.failures, seen.hours), (9, 2.0));
        // Nine and a half in an hour and 0.91 of sound time of two.
        let mttf = seen
            .rate
            .mttf
            .map(|span| span.0 as f64 / 3_600_000.0)
            .unwrap_or_default();
        assert!((mttf - (2.0 - 0.09) / 9.5).abs() < 1e-6, "{mttf}");
        assert_eq!(seen.rate.mttr.map(|span| span.0), Some(36_000));
    }
}
