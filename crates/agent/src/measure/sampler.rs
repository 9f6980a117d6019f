//! The thread that measures once a second.

use super::alerting::disk_free;
use super::eye::{Eye, Sights, Subject, Subjects};
use super::windows::{Second, Windows};
use super::{Look, Measures, Report, Seen, Watched};
use crate::clock;
use crate::input::{Input, Request};
use crate::journal::Inputs;
use api::Measure;
use api::layout::Layout;
use model::{InstanceId, Protocol, ServiceName};
use monitor::flow::Passed;
use monitor::memory::About;
use monitor::merge::percentiles;
use monitor::read::{NodeReader, Reader, Usage};
use rustix::time::{ClockId, clock_gettime};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::sync::oneshot;

/// Late in the second: the proxy's reports of it, which come in its middle, are there.
const WITHIN_SECOND_US: u64 = 800_000;
/// Which processes an instance has, and what they have open, is asked this often, for each instance in its turn.
const MEMBERS_EVERY: u64 = 5;
/// So many instances have their files kept open, up to seven each; the others' are opened each time.
const KEPT_OPEN: usize = 128;
/// What is too old is looked for this often.
const FORGET_EVERY: u64 = 60;
/// With fewer requests inside on average, the threads of a service are idle as a rule.
const IDLE_BELOW: f64 = 0.2;

pub(super) struct Sampler {
    inputs: Inputs,
    measures: Measures,
    reports: mpsc::Receiver<Report>,
    changes: tokio::sync::mpsc::UnboundedSender<monitor::alert::Change>,
    /// Events up to this one are known; `u64::MAX` before the first look, which is told of none.
    last_event: u64,
    /// The last second of which the proxy reported, by service.
    reported: BTreeMap<String, u64>,
    node: NodeReader,
    readers: BTreeMap<InstanceId, Watching>,
    buffer: Vec<u8>,
    eye: Eye,
    /// Instances that had hardly anything to do in the last second.
    idle: BTreeSet<String>,
    cores: f64,
}

struct Watching {
    /// A restarted instance has another process.
    pid: u32,
    reader: Reader,
    last: Option<Usage>,
    /// In which of the turns its members are asked.
    turn: u64,
    pids: Vec<u32>,
    /// The inode of its cgroup's folder, by which the kernel names it.
    cgroup: Option<u64>,
}

impl Sampler {
    pub(super) fn new(
        layout: &Layout,
        inputs: Inputs,
        measures: Measures,
        reports: mpsc::Receiver<Report>,
        changes: tokio::sync::mpsc::UnboundedSender<monitor::alert::Change>,
    ) -> Self {
        Self {
            changes,
            last_event: u64::MAX,
            inputs,
            measures,
            reports,
            reported: BTreeMap::new(),
            node: NodeReader::new(layout.root()),
            readers: BTreeMap::new(),
            buffer: Vec::new(),
            eye: Eye::open(),
            idle: BTreeSet::new(),
            cores: std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64),
        }
    }

    /// Goes on until the agent ends.
    pub(super) fn run(mut self, runtime: &tokio::runtime::Handle) {
        loop {
            let now = clock::now().0;
            let next = (now + 1_000_000 - WITHIN_SECOND_US) / 1_000_000 * 1_000_000 + WITHIN_SECOND_US;
            std::thread::sleep(Duration::from_micros(next.saturating_sub(now).max(1_000)));
            let Some(look) = self.look() else { return };
            self.last_event = look.last_event;
            self.measures.glances.send_replace(Some(look.glance.clone()));
            let second = clock::now().0 / 1_000_000;
            self.round(&look, second, runtime);
            let mut state = self.measures.state();
            state.own_cpu_us = own_cpu_us();
            state.rounds += 1;
        }
    }

    fn look(&self) -> Option<Look> {
        let (answer, look) = oneshot::channel();
        self.inputs
            .send(Input::Request(Request::Look {
                after: self.last_event,
                answer,
            }))
            .ok()?;
        look.blocking_recv().ok()
    }

    fn round(&mut self, look: &Look, second: u64, runtime: &tokio::runtime::Handle) {
        let instances = self.instances(&look.watched, second, runtime);
        let node = self.node.read(clock::now().0, &mut self.buffer);
        let reports: Vec<Report> = self.reports.try_iter().collect();
        let mut state = self.measures.state();
        for (about, values) in &instances {
            state.memory.note(about, second, values);
        }
        let me = look.me.clone();
        state.memory.note(&of_node(&me), second, &node);
        if look.cluster.is_none() {
            for (node, values) in pretended(&instances, &me) {
                state.memory.note(&of_node(&node), second, &values);
            }
        }
        let declared = &look.declared.services;
        state
            .flow
            .retain(|service| declared.keys().any(|name| name.as_str() == service));
        let sights = self.eye.exchange(self.subjects(look));
        self.idle = self.judge(&mut state.windows, look, second, &instances, &reports, sights);
        let mut reported = BTreeSet::new();
        let of_service = |service: &str| About {
            service: Some(service.to_owned()),
            instance: None,
            node: Some(me.clone()),
        };
        for report in reports {
            let service = report.service.to_string();
            if let Some(passed) = state.flow.take(&service, report.totals, &report.measured) {
                state.alerting.ledgers.note(&service, &passed, &look.declared);
                for second in seconds_of(&passed, self.reported.get(&service).copied()) {
                    state.memory.note(&of_service(&service), second, &values(&passed));
                    self.reported.insert(service.clone(), second);
                }
                let second = self.reported.get(&service).copied().unwrap_or(passed.second);
                state.memory.note_latencies(&service, second, &passed.latency);
                reported.insert(service);
            }
        }
        let served = declared.iter().filter(|(_, service)| service.listen.is_some());
        for (service, _) in served.filter(|(service, _)| look.proxy_is_up && !reported.contains(service.as_str())) {
            // The proxy tells only of services that have traffic.
            let quiet = values(&Passed::default());
            state.memory.note(&of_service(service.as_str()), second, &quiet);
            state
                .memory
                .note_latencies(service.as_str(), second, &Default::default());
        }
        if second.is_multiple_of(FORGET_EVERY) {
            state.memory.forget(second);
        }
        state.usages = self
            .readers
            .iter()
            .filter_map(|(id, watching)| Some((id.clone(), watching.last?)))
            .collect();
        let now = super::moment();
        state.alerting.hear(&look.events, second);
        let free = disk_free(&state, &me);
        for change in state.alerting.judge(look, free, now) {
            // The teller lives as long as we do.
            let _ = self.changes.send(change);
        }
        state.alerting.ledgers.keep(now);
        let seen = Seen {
            applied_ms: look.applied_ms,
            me: look.me.clone(),
            proxy_is_up: look.proxy_is_up,
            status: Arc::clone(&look.status),
            declared: Arc::clone(&look.declared),
            cluster: look.cluster.clone(),
        };
        state.look = Some((seen, clock::now().0));
    }

    /// Whom the eye is to look at.
    fn subjects(&self, look: &Look) -> Subjects {
        let instances = self.readers.iter().map(|(id, watching)| Subject {
            instance: id.to_string(),
            service: id.service().to_string(),
            pids: watching.pids.clone(),
            cgroup: watching.cgroup,
            is_idle: self.idle.contains(&id.to_string()),
        });
        let fronts = look.declared.services.values().filter_map(|service| service.listen);
        let backs = look.status.services.iter().flat_map(|service| &service.instances);
        let backs = backs.filter_map(|instance| instance.address.as_ref()?.parse().ok());
        Subjects {
            instances: instances.collect(),
            ours: fronts.chain(backs).collect(),
        }
    }

    /// Hands the second to those who look for bottlenecks; the instances that had hardly anything to do in it.
    fn judge(
        &self,
        windows: &mut Windows,
        look: &Look,
        second: u64,
        instances: &[(About, Vec<(Measure, f64)>)],
        reports: &[Report],
        sights: Sights,
    ) -> BTreeSet<String> {
        let callers: BTreeMap<u64, String> = self
            .readers
            .iter()
            .filter_map(|(id, watching)| Some((watching.cgroup?, id.service().to_string())))
            .collect();
        let is_http = |name: &ServiceName| {
            let service = look.declared.services.get(name);
            service.is_some_and(|service| service.protocol == Protocol::Http)
        };
        windows.take(Second {
            second,
            reports: reports
                .iter()
                .map(|report| (report.service.to_string(), is_http(&report.service), &*report.measured))
                .collect(),
            instances: instances
                .iter()
                .filter_map(|(about, values)| {
                    Some((about.service.as_deref()?, about.instance.as_deref()?, values.as_slice()))
                })
                .collect(),
            callers: &callers,
            sights,
            cores: self.cores,
        });
        let newest = windows.since(second.saturating_sub(1)).last();
        newest
            .into_iter()
            .flat_map(|(_, window)| window.services.values())
            .filter(|service| service.in_flight < IDLE_BELOW)
            .flat_map(|service| service.instances.keys().cloned())
            .collect()
    }

    fn instances(
        &mut self,
        watched: &[Watched],
        second: u64,
        runtime: &tokio::runtime::Handle,
    ) -> Vec<(About, Vec<(Measure, f64)>)> {
        self.readers.retain(|id, watching| {
            let runs = |one: &Watched| one.instance == *id && one.process.pid() == watching.pid;
            watched.iter().any(runs)
        });
        let mut all = Vec::with_capacity(watched.len());
        for one in watched {
            let keep = self.readers.len() < KEPT_OPEN;
            let turn = self.readers.len() as u64 % MEMBERS_EVERY;
            let mut fresh = false;
            let watching = self.readers.entry(one.instance.clone()).or_insert_with(|| {
                fresh = true;
                Watching {
                    pid: one.process.pid(),
                    reader: Reader::new(one.process.cgroup().as_deref(), keep),
                    last: None,
                    turn,
                    pids: vec![one.process.pid()],
                    cgroup: one.process.cgroup().and_then(|folder| inode(&folder)),
                }
            });
            if (fresh || second % MEMBERS_EVERY == watching.turn)
                && let Ok(pids) = runtime.block_on(one.process.recent_pids())
            {
                watching.reader.members(&pids);
                watching.pids = pids;
            }
            let usage = watching.reader.read(clock::now().0, &mut self.buffer);
            if let Some(last) = watching.last.replace(usage) {
                let about = About {
                    service: Some(one.instance.service().to_string()),
                    instance: Some(one.instance.to_string()),
                    node: Some(one.node.to_string()),
                };
                all.push((about, usage.since(&last)));
            }
        }
        all
    }
}

/// The number by which the kernel names a cgroup.
fn inode(folder: &std::path::Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(std::fs::metadata(folder).ok()?.ino())
}

/// The seconds that a report is of: as a rule one. One that is late is of those that it covers; one that comes early is of the next, for nothing may be lost.
fn seconds_of(passed: &Passed, last: Option<u64>) -> std::ops::RangeInclusive<u64> {
    let covers = (passed.span_us + 500_000) / 1_000_000;
    let begins = (passed.second + 1).saturating_sub(covers.max(1));
    match last.filter(|last| *last >= begins) {
        Some(last) if last >= passed.second => last + 1..=last + 1,
        Some(last) => last + 1..=passed.second,
        None => begins..=passed.second,
    }
}

fn of_node(node: &str) -> About {
    About {
        node: Some(node.to_owned()),
        ..About::default()
    }
}

/// Pretended nodes use what their instances use; the machine's own figures are those of the first.
fn pretended(instances: &[(About, Vec<(Measure, f64)>)], me: &str) -> BTreeMap<String, Vec<(Measure, f64)>> {
    let mut nodes: BTreeMap<String, BTreeMap<Measure, f64>> = BTreeMap::new();
    for (about, values) in instances {
        let Some(node) = about.node.clone().filter(|node| node != me) else {
            continue;
        };
        let sums = nodes.entry(node).or_default();
        for (measure, value) in values {
            if matches!(
                measure,
                Measure::CpuCores | Measure::MemoryBytes | Measure::IoBytesPerSecond
            ) {
                *sums.entry(*measure).or_default() += value;
            }
        }
    }
    nodes
        .into_iter()
        .map(|(node, values)| (node, values.into_iter().collect()))
        .collect()
}

fn values(passed: &Passed) -> Vec<(Measure, f64)> {
    let mut values = vec![
        (Measure::RequestsPerSecond, passed.per_second(passed.requests)),
        (Measure::ErrorsPerSecond, passed.per_second(passed.errors)),
        (Measure::Inflight, passed.inflight),
        (Measure::Held, passed.held as f64),
        (Measure::BytesInPerSecond, passed.per_second(passed.bytes_in)),
        (Measure::BytesOutPerSecond, passed.per_second(passed.bytes_out)),
        (Measure::Connections, passed.connections as f64),
    ];
    values.extend(percentiles(&passed.latency));
    values
}

/// What this thread has used of a processor.
fn own_cpu_us() -> u64 {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(used.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(used.tv_nsec).unwrap_or(0) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(second: u64, span_us: u64, last: Option<u64>) -> Vec<u64> {
        let passed = Passed {
            second,
            span_us,
            ..Passed::default()
        };
        seconds_of(&passed, last).collect()
    }

    #[test]
    fn each_report_has_its_second_and_none_is_lost() {
        assert_eq!(seconds(10, 1_000_000, Some(9)), [10]);
        assert_eq!(seconds(10, 1_000_000, None), [10]);
        // The one before was late, and this one comes in the same second.
        assert_eq!(seconds(10, 400_000, Some(10)), [11]);
        assert_eq!(seconds(11, 1_000_000, Some(11)), [12]);
        // The proxy was held up for three seconds.
        assert_eq!(seconds(13, 3_000_000, Some(10)), [11, 12, 13]);
        // After a quiet time the report is of the last second alone.
        assert_eq!(seconds(90, 1_000_000, Some(10)), [90]);
    }
}
