//! Requests and failures of each service with an objective: of this node's proxy, and on the node that tells of alerts of all nodes together.
//!
//! What this node counted is kept on disk by the minute, so that a window of three days outlives the agent.

use api::layout::Layout;
use model::{Cluster, NodeName};
use monitor::flow::Passed;
use monitor::memory::Moment;
use monitor::objective::{Counts, Ledger};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;

/// Windows look back three days; the file is made anew with those when it is this large.
const FILE_BYTES_MAX: u64 = 16 << 20;
const DAYS_3: u64 = 3 * 86_400;

/// What one node counted, for the one that tells of alerts: `GET /v1/counts`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct CountsOfNode {
    /// Its clock, in seconds since its boot.
    pub(crate) now: u64,
    /// By service: seconds after the one that was asked for, and if none was, minutes before the last hour.
    pub(crate) services: BTreeMap<String, CountsOfService>,
    /// What only that node knows.
    #[serde(default)]
    pub(crate) news: News,
}

/// What only one node knows and alerts are judged by, with ages in seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct News {
    pub(crate) failovers: Vec<(api::Failover, u64)>,
    pub(crate) flapping: Vec<(String, u64)>,
    /// Why each of them ended last, or was ended.
    pub(crate) flapped: BTreeMap<String, String>,
    pub(crate) failed: Vec<(String, u64)>,
    pub(crate) problems: Vec<api::Problem>,
    /// The free share of its disk.
    pub(crate) disk_free: Option<f64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct CountsOfService {
    pub(crate) seconds: Vec<(u64, Counts)>,
    pub(crate) minutes: Vec<(u64, Counts)>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Ledgers {
    own: BTreeMap<String, Ledger>,
    /// All nodes together, while this node tells of alerts.
    all: Option<All>,
    file: Option<PathBuf>,
    /// The minutes before this one, in seconds since boot, are on disk.
    written: u64,
}

#[derive(Default)]
struct All {
    services: BTreeMap<String, Ledger>,
    /// The last second that was heard, of its own clock, by node.
    heard: BTreeMap<NodeName, u64>,
}

/// A minute of all services as a line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    /// In seconds since 1970.
    minute: i64,
    services: BTreeMap<String, Counts>,
}

impl Ledgers {
    /// What an earlier agent of this node counted is read; a file that cannot be read costs the memory of a restart.
    pub(super) fn open(layout: &Layout, now: Moment) -> Self {
        let path = layout.root().join("objectives.jsonl");
        let mut ledgers = Self {
            written: now.second() / 60 * 60,
            ..Self::default()
        };
        if let Ok(file) = std::fs::File::open(&path) {
            let lines = BufReader::new(file).split(b'\n').map_while(Result::ok);
            for line in lines.filter_map(|line| serde_json::from_slice::<Line>(&line).ok()) {
                let age = u64::try_from(now.wall_ms / 1_000 - line.minute).unwrap_or(0);
                // After a boot the clock began anew: what is older than that is placed where it would be.
                let Some(second) = (now.second() + OFFSET).checked_sub(age) else {
                    continue;
                };
                for (service, counts) in line.services {
                    ledgers.own.entry(service).or_default().note_minute(second, counts);
                }
            }
        }
        ledgers.file = Some(path);
        ledgers
    }

    /// Notes what passed this node's proxy.
    pub(super) fn note(&mut self, service: &str, passed: &Passed, declared: &Cluster) {
        let name = model::ServiceName::new(service).ok();
        let declared = name.and_then(|name| declared.services.get(&name));
        let Some(objective) = declared.and_then(|service| service.objective.as_ref()) else {
            self.own.remove(service);
            return;
        };
        let slow = objective
            .latency
            .map_or(0, |latency| passed.latency.at_least(latency.0.saturating_mul(1_000)));
        let counts = Counts {
            all: passed.requests,
            failed: passed.errors,
            slow,
        };
        let second = passed.second + OFFSET;
        self.own.entry(service.to_owned()).or_default().note(second, counts);
        if let Some(all) = &mut self.all {
            all.services.entry(service.to_owned()).or_default().note(second, counts);
        }
    }

    /// From now on this node tells, and adds up what all count; or it does not any more.
    pub(super) fn tell(&mut self, tells: bool, several: bool) {
        match (tells && several, &self.all) {
            (true, None) => {
                self.all = Some(All {
                    services: self.own.clone(),
                    heard: BTreeMap::new(),
                });
            }
            (false, Some(_)) => self.all = None,
            _ => {}
        }
    }

    /// After which second of its own another node is to be asked; 0 for all that it has.
    pub(super) fn heard_of(&self, node: &NodeName) -> u64 {
        self.all
            .as_ref()
            .and_then(|all| all.heard.get(node).copied())
            .unwrap_or(0)
    }

    /// Adds what another node counted.
    pub(super) fn hear(&mut self, node: &NodeName, counts: &CountsOfNode, now: Moment) {
        let Some(all) = &mut self.all else { return };
        let ours = |second: u64| (now.second() + OFFSET + second).checked_sub(counts.now);
        let before = all.heard.insert(node.clone(), counts.now).unwrap_or(0);
        for (service, counted) in &counts.services {
            let ledger = all.services.entry(service.clone()).or_default();
            for (second, counts) in counted.seconds.iter().filter(|(second, _)| *second > before) {
                if let Some(second) = ours(*second) {
                    ledger.note(second, *counts);
                }
            }
            for (second, counts) in counted.minutes.iter().filter(|_| before == 0) {
                if let Some(second) = ours(*second) {
                    ledger.note_minute(second, *counts);
                }
            }
        }
    }

    /// What this node counted after a second of its own clock.
    pub(crate) fn counted(&self, after: u64, now: Moment) -> CountsOfNode {
        let now = now.second() + OFFSET;
        let of = |ledger: &Ledger| CountsOfService {
            seconds: ledger.seconds_after(after),
            minutes: if after == 0 {
                ledger.minutes(now.saturating_sub(DAYS_3), now.saturating_sub(3_600))
            } else {
                Vec::new()
            },
        };
        CountsOfNode {
            // What is being counted of this very second comes the next time.
            now: now.saturating_sub(1),
            news: News::default(),
            services: self
                .own
                .iter()
                .map(|(service, ledger)| (service.clone(), of(ledger)))
                .collect(),
        }
    }

    /// The requests of a service: of all nodes if this one tells.
    pub(super) fn of(&self, service: &str) -> Option<&Ledger> {
        let services = self.all.as_ref().map_or(&self.own, |all| &all.services);
        services.get(service)
    }

    /// The present second as ledgers count them.
    pub(super) fn second(now: Moment) -> u64 {
        now.second() + OFFSET
    }

    /// Writes the minutes that are over to the file.
    pub(super) fn keep(&mut self, now: Moment) {
        let minute = now.second() / 60 * 60;
        let (from, to) = (self.written, minute);
        let Some(path) = self.file.clone().filter(|_| to > from) else {
            return;
        };
        self.written = to;
        let mut lines: BTreeMap<u64, BTreeMap<String, Counts>> = BTreeMap::new();
        let large = std::fs::metadata(&path).is_ok_and(|meta| meta.len() > FILE_BYTES_MAX);
        let from = if large { 0 } else { from + OFFSET };
        for (service, ledger) in &self.own {
            for (second, counts) in ledger.minutes(from, to + OFFSET) {
                lines.entry(second).or_default().insert(service.clone(), counts);
            }
        }
        if lines.is_empty() {
            return;
        }
        let mut text = Vec::new();
        for (second, services) in lines {
            let age = i64::try_from((now.second() + OFFSET).saturating_sub(second)).unwrap_or(i64::MAX);
            let line = Line {
                minute: now.wall_ms / 1_000 - age,
                services,
            };
            if serde_json::to_writer(&mut text, &line).is_ok() {
                text.push(b'\n');
            }
        }
        let file = if large {
            std::fs::File::create(&path)
        } else {
            std::fs::OpenOptions::new().create(true).append(true).open(&path)
        };
        if let Err(error) = file.and_then(|mut file| file.write_all(&text)) {
            tracing::warn!(%error, path = %path.display(), "counts for objectives are not kept over a restart");
        }
    }
}

/// Ledgers begin long before the boot, so that what an earlier boot counted has a place.
const OFFSET: u64 = 100 * 86_400;
