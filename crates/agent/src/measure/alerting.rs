//! What is wrong, judged once a second from what was measured.

use super::ledgers::{Ledgers, News};
use super::{Look, State};
use api::{Event, Failover, Measure};
use model::latency::Histogram;
use monitor::alert::judge::{FAILED_TOLD_S, FLAPPING_TOLD_S, Kind, SLOW_FAILOVER_TOLD_S};
use monitor::alert::{Book, Change, Facts, judge};
use monitor::memory::{About, Moment};
use monitor::objective::{Budget, Burn, judge as judge_budget};
use std::collections::{BTreeMap, VecDeque};

/// Failovers, flapping and failed promotions are remembered at most so many each.
const REMEMBERED_MAX: usize = 256;

/// What is remembered to judge by.
#[derive(Default)]
pub(crate) struct Alerting {
    pub(crate) book: Book,
    pub(crate) ledgers: Ledgers,
    pub(crate) burns: BTreeMap<(String, Kind), Burn>,
    /// Nodes that were asked in vain, and for how long in seconds.
    pub(crate) unheard: Vec<(String, u64)>,
    /// What other nodes told, while this one tells of alerts.
    pub(crate) others: BTreeMap<String, News>,
    failovers: VecDeque<(Failover, u64)>,
    flapping: VecDeque<(String, u64)>,
    /// Why each of them ended last, or was ended.
    flapped: BTreeMap<String, String>,
    failed: VecDeque<(String, u64)>,
    /// Since this agent began, by service.
    pub(crate) takeovers: BTreeMap<String, Takeovers>,
    /// Events by severity since this agent began.
    pub(crate) events: BTreeMap<&'static str, u64>,
}

/// How slots of a service changed hands.
#[derive(Default)]
pub(crate) struct Takeovers {
    pub(crate) unplanned: u64,
    pub(crate) planned: u64,
    pub(crate) failed: u64,
    /// How long the unplanned ones took.
    pub(crate) took: Histogram,
    pub(crate) took_us: u64,
}

impl Alerting {
    /// Takes in what happened.
    pub(super) fn hear(&mut self, events: &[Event], second: u64) {
        for event in events {
            *self
                .events
                .entry(monitor::alert::payload::severity(event.severity))
                .or_default() += 1;
            let service = event.service.clone().unwrap_or_default();
            match (event.kind.as_str(), &event.failover) {
                ("failover", Some(failover)) => {
                    let takeovers = self.takeovers.entry(service).or_default();
                    takeovers.unplanned += 1;
                    takeovers.took.record(failover.total_us);
                    takeovers.took_us += failover.total_us;
                    remember(&mut self.failovers, failover.clone(), second);
                }
                ("switchover", _) => self.takeovers.entry(service).or_default().planned += 1,
                ("promotions-fail", _) => {
                    self.takeovers.entry(service.clone()).or_default().failed += 1;
                    remember(&mut self.failed, service, second);
                }
                ("flapping", _) => {
                    let instance = event.instance.clone().unwrap_or_default();
                    self.flapped.insert(instance.clone(), event.because.clone());
                    remember(&mut self.flapping, instance, second);
                }
                _ => {}
            }
        }
    }

    /// What only this node knows.
    pub(crate) fn news(&self, problems: &[api::Problem], disk_free: Option<f64>, second: u64) -> News {
        let aged = |entries: &VecDeque<(String, u64)>| -> Vec<(String, u64)> {
            entries
                .iter()
                .map(|(name, at)| (name.clone(), second.saturating_sub(*at)))
                .collect()
        };
        News {
            failovers: self
                .failovers
                .iter()
                .map(|(failover, at)| (failover.clone(), second.saturating_sub(*at)))
                .collect(),
            flapping: aged(&self.flapping),
            flapped: self.flapped.clone(),
            failed: aged(&self.failed),
            problems: problems.to_vec(),
            disk_free,
        }
    }

    /// Judges. What began or ended comes back.
    pub(super) fn judge(&mut self, look: &Look, disk_free: Option<f64>, now: Moment) -> Vec<Change> {
        let second = now.second();
        let mut burns = BTreeMap::new();
        for (name, service) in &look.declared.services {
            let Some(objective) = &service.objective else { continue };
            let Some(ledger) = self.ledgers.of(name.as_str()) else {
                continue;
            };
            let availability = objective
                .availability
                .map(|share| (Kind::Availability, Budget::Availability(share.rest())));
            let latency = objective
                .latency
                .map(|_| (Kind::Latency, Budget::Latency(objective.latency_share.rest())));
            for (kind, budget) in availability.into_iter().chain(latency) {
                let key = (name.to_string(), kind);
                let fires = self.burns.get(&key).and_then(|burn| burn.broken);
                burns.insert(key, judge_budget(ledger, budget, Ledgers::second(now), fires));
            }
        }
        self.burns = burns;
        forget(&mut self.failovers, second, SLOW_FAILOVER_TOLD_S);
        forget(&mut self.flapping, second, FLAPPING_TOLD_S);
        let flapping = &self.flapping;
        self.flapped
            .retain(|instance, _| flapping.iter().any(|(flapping, _)| flapping == instance));
        forget(&mut self.failed, second, FAILED_TOLD_S);
        let mut status = (*look.status).clone();
        let mut all = self.news(&[], disk_free, second);
        let mut disks: Vec<(String, f64)> = disk_free.map(|free| (look.me.clone(), free)).into_iter().collect();
        for (node, news) in &self.others {
            all.failovers.extend(news.failovers.iter().cloned());
            all.flapping.extend(news.flapping.iter().cloned());
            all.flapped.extend(news.flapped.clone());
            all.failed.extend(news.failed.iter().cloned());
            status.problems.extend(news.problems.iter().cloned());
            disks.extend(news.disk_free.map(|free| (node.clone(), free)));
        }
        // Of what is not declared any more nobody can do anything, nor silence it.
        let declared = |service: &str| look.declared.services.keys().any(|name| name.as_str() == service);
        all.failovers.retain(|(failover, _)| declared(&failover.service));
        all.failed.retain(|(service, _)| declared(service));
        all.flapping
            .retain(|(instance, _)| instance.rsplit_once('-').is_some_and(|(service, _)| declared(service)));
        let wrong = judge(&Facts {
            status: &status,
            declared: &look.declared,
            store_lost: look
                .cluster
                .as_ref()
                .is_some_and(|cluster| cluster.store_lost_since.is_some()),
            burns: &self.burns,
            failovers: &all.failovers,
            flapping: &all.flapping,
            flapped: &all.flapped,
            failed: &all.failed,
            unheard: &self.unheard,
            disks: &disks,
        });
        let unknown = status.services.iter().filter(|service| service.state == "unknown");
        self.book
            .hold(&unknown.map(|service| service.name.as_str()).collect(), now.wall_ms);
        self.book.update(wrong, now.wall_ms)
    }
}

/// The free share of this node's disk.
pub(super) fn disk_free(state: &State, me: &str) -> Option<f64> {
    let about = About {
        node: Some(me.to_owned()),
        ..About::default()
    };
    let value = |measure| state.memory.value(&about, measure).map(|(_, value)| value);
    let (free, all) = value(Measure::DiskFreeBytes).zip(value(Measure::DiskBytes))?;
    (all > 0.0).then(|| free / all)
}

fn remember<T>(entries: &mut VecDeque<(T, u64)>, one: T, second: u64) {
    if entries.len() == REMEMBERED_MAX {
        entries.pop_front();
    }
    entries.push_back((one, second));
}

fn forget<T>(entries: &mut VecDeque<(T, u64)>, second: u64, after: u64) {
    entries.retain(|(_, at)| second.saturating_sub(*at) < after);
}
