//! Makes, of what was measured in a second, what the search for bottlenecks judges.

use super::eye::Sights;
use api::Measure;
use api::proxy::{Calls, Measured};
use bottleneck::{Call, Instance, Service, Window};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Seconds that are kept one by one.
const SECONDS: usize = 180;
/// Then ten are one, for an hour.
const TENS: usize = 360;
const TEN: usize = 10;
/// Instances in all windows that are kept; some 300 bytes each.
const INSTANCES_MAX: usize = 60_000;

/// The last hour.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    /// Each with its second since boot.
    seconds: VecDeque<(u64, Window)>,
    tens: VecDeque<Window>,
    last: BTreeMap<String, Measured>,
    /// The last sight of threads: not every instance is looked at every second.
    threads: BTreeMap<String, super::eye::Threads>,
}

/// What was measured of all services in a second.
pub(super) struct Second<'a> {
    pub(super) second: u64,
    /// The proxy's reports.
    pub(super) reports: Vec<(String, bool, &'a Measured)>,
    /// Of each instance that runs here: service, name, and its figures.
    pub(super) instances: Vec<(&'a str, &'a str, &'a [(Measure, f64)])>,
    /// Whose cgroup is whose: the service.
    pub(super) callers: &'a BTreeMap<u64, String>,
    pub(super) sights: Sights,
    /// Processors that an instance may use.
    pub(super) cores: f64,
}

impl Windows {
    /// Takes a second in.
    pub(super) fn take(&mut self, second: Second<'_>) {
        let mut window = Window {
            span: Duration::from_secs(1),
            ..Window::default()
        };
        let mut called: Vec<(String, String, Call)> = Vec::new();
        for (name, is_http, measured) in &second.reports {
            if let Some(before) = self.last.insert(name.clone(), (*measured).clone()) {
                let Some((service, calls)) = traffic(&before, measured, *is_http) else {
                    continue;
                };
                window.services.insert(name.clone(), service);
                for (cgroup, call) in calls {
                    if let Some(caller) = second.callers.get(&cgroup) {
                        called.push((caller.clone(), name.clone(), call));
                    }
                }
            }
        }
        for (service, name, values) in &second.instances {
            let service = window.services.entry((*service).to_owned()).or_default();
            service.managed = true;
            let instance = service.instances.entry((*name).to_owned()).or_default();
            figures(instance, values, second.cores);
        }
        for (name, threads) in second.sights.threads {
            self.threads.insert(name, threads);
        }
        let lives = |name: &String| second.instances.iter().any(|(_, instance, _)| instance == name);
        self.threads.retain(|name, _| lives(name));
        for service in window.services.values_mut() {
            for (name, instance) in &mut service.instances {
                let Some(seen) = self.threads.get(name) else { continue };
                let looks = f64::from(seen.looks.max(1));
                instance.threads = seen.threads / looks;
                instance.futex = seen.futex / looks;
                instance.futex_gathered = seen.gathered.map(|gathered| gathered / looks);
                instance.thread_cpu_max = seen.busiest.ran;
                instance.thread_cpu_wait = seen.busiest.waited;
                instance.thread_io = seen.busiest.at_disk;
                instance.cpu_waiting = seen.cpu_waiting;
                // The kernel's figure is closer, and leaves waits for a journal out.
                instance.io_some = instance.io_some.max(seen.at_disk / looks);
            }
        }
        for (caller, callee, call) in called {
            let caller = window.services.entry(caller).or_default();
            let sum = caller.calls.entry(callee).or_insert(Call {
                rate: Some(0.0),
                ..Call::default()
            });
            sum.rate = sum.rate.zip(call.rate).map(|(a, b)| a + b);
            sum.in_flight += call.in_flight;
            sum.in_flight_max += call.in_flight_max;
        }
        let looks = f64::from(second.sights.looks.max(1));
        for (service, callees) in second.sights.outside {
            let Some(service) = window.services.get_mut(&service) else {
                continue;
            };
            for (callee, waiting) in callees {
                let call = Call {
                    rate: None,
                    in_flight: waiting.sum / looks,
                    in_flight_max: waiting.most,
                };
                service.calls.insert(callee.to_string(), call);
            }
        }
        self.keep(second.second, window);
    }

    fn keep(&mut self, second: u64, window: Window) {
        self.seconds.push_back((second, window));
        if self.seconds.len() >= SECONDS + TEN {
            let old: Vec<Window> = self.seconds.drain(..TEN).map(|(_, window)| window).collect();
            self.tens.extend(Window::merge(&old));
        }
        while self.tens.len() > TENS {
            self.tens.pop_front();
        }
        let count = |window: &Window| {
            window
                .services
                .values()
                .map(|service| service.instances.len())
                .sum::<usize>()
        };
        let each = self.seconds.back().map_or(0, |(_, window)| count(window)).max(1);
        while (self.seconds.len() + self.tens.len()) * each > INSTANCES_MAX && self.tens.pop_front().is_some() {}
    }

    /// The seconds after one, oldest first.
    pub(crate) fn since(&self, second: u64) -> impl Iterator<Item = &(u64, Window)> {
        self.seconds.iter().filter(move |(at, _)| *at > second)
    }

    /// What there is from before a second, for what is usual.
    pub(crate) fn before(&self, second: u64) -> Vec<Window> {
        let single = self
            .seconds
            .iter()
            .filter(|(at, _)| *at <= second)
            .map(|(_, window)| window);
        // As coarse as the older ones: a second's mean is too rough.
        let single: Vec<&Window> = single.collect();
        let recent = single.chunks(TEN).filter_map(|ten| Window::merge(ten.iter().copied()));
        self.tens.iter().cloned().chain(recent).collect()
    }
}

/// What went through a service, and who called, between two reports.
fn traffic(before: &Measured, now: &Measured, is_http: bool) -> Option<(Service, Vec<(u64, Call)>)> {
    let span_us = now.at_us.checked_sub(before.at_us).filter(|span| *span > 0)? as f64;
    if before.pid != now.pid {
        return None;
    }
    let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 * 1e6 / span_us;
    let mean = |now: u64, before: u64| now.saturating_sub(before) as f64 / span_us;
    let mut service = Service {
        managed: true,
        ..Service::default()
    };
    for works in &now.works {
        let same = |it: &&api::proxy::Works| it.instance == works.instance && it.epoch == works.epoch;
        let (requests, inflight_us) = before
            .works
            .iter()
            .find(same)
            .map_or((0, 0), |it| (it.requests, it.inflight_us));
        let instance = Instance {
            completions: rate(works.requests, requests),
            in_flight: mean(works.inflight_us, inflight_us),
            ..Instance::default()
        };
        service.instances.insert(works.instance.to_string(), instance);
    }
    if is_http {
        let refused = |measured: &Measured| measured.no_active + measured.crowded;
        let ended = |measured: &Measured| measured.status.iter().sum::<u64>() + refused(measured);
        service.completions = rate(ended(now), ended(before));
        service.errors = rate(now.status[4] + refused(now), before.status[4] + refused(before));
        service.in_flight = mean(now.inflight_us, before.inflight_us);
        let more = now.inflight as f64 - before.inflight as f64;
        service.arrivals = (service.completions + more * 1e6 / span_us).max(0.0);
    } else {
        // Of connections it is only known whose turn it is.
        service.completions = service.instances.values().map(|instance| instance.completions).sum();
        service.in_flight = service.instances.values().map(|instance| instance.in_flight).sum();
        service.arrivals = service.completions;
    }
    let calls: Vec<(u64, f64, f64, f64)> = now
        .calls
        .iter()
        .map(|calls| {
            let then = before
                .calls
                .iter()
                .find(|it| it.cgroup == calls.cgroup)
                .copied()
                .unwrap_or(Calls::default());
            let in_flight = mean(calls.inflight_us, then.inflight_us);
            (
                calls.cgroup,
                rate(calls.requests, then.requests),
                in_flight,
                f64::from(calls.inflight_max),
            )
        })
        .collect();
    // Where not all clients were asked who they are, those that were stand for all.
    let asked: f64 = calls.iter().map(|(_, rate, _, _)| rate).sum();
    let scale = if asked > 0.0 && asked < 0.9 * service.completions {
        service.completions / asked
    } else {
        1.0
    };
    let calls = calls
        .into_iter()
        .filter(|(cgroup, _, _, _)| *cgroup != 0)
        .map(|(cgroup, rate, in_flight, most)| {
            let call = Call {
                rate: Some(rate * scale),
                in_flight: in_flight * scale,
                in_flight_max: most * scale,
            };
            (cgroup, call)
        })
        .collect();
    Some((service, calls))
}

fn figures(instance: &mut Instance, values: &[(Measure, f64)], cores: f64) {
    instance.cpu_limit = cores;
    for (measure, value) in values {
        match measure {
            Measure::CpuCores => instance.cpu = *value,
            Measure::CpuThrottled => instance.throttled = *value,
            Measure::CpuStall => instance.cpu_some = *value,
            Measure::IoStall => instance.io_some = *value,
            Measure::MemoryStall => instance.memory_some = *value,
            Measure::Threads => instance.threads = *value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::eye::{Threads, Waiting};
    use super::super::times::Shares;
    use super::*;
    use api::proxy::Works;
    use model::Epoch;

    fn measured(at_us: u64, requests: u64, inflight_us: u64) -> Measured {
        let calls = Calls {
            cgroup: 7,
            requests: requests / 2,
            inflight_us: inflight_us / 2,
            inflight_max: 3,
        };
        let elsewhere = Calls { cgroup: 0, ..calls };
        let works = Works {
            instance: "db-1".parse().unwrap(),
            epoch: Epoch(1),
            requests,
            inflight_us,
        };
        Measured {
            at_us,
            pid: 1,
            status: [0, requests, 0, 0, 0],
            inflight_us,
            calls: vec![calls, elsewhere],
            works: vec![works],
            ..Measured::default()
        }
    }

    fn second<'a>(second: u64, measured: &'a Measured, callers: &'a BTreeMap<u64, String>) -> Second<'a> {
        let threads = Threads {
            looks: 2,
            threads: 8.0,
            futex: 6.0,
            gathered: Some(4.0),
            at_disk: 1.0,
            busiest: Shares {
                ran: 0.5,
                waited: 0.25,
                at_disk: 0.125,
            },
            cpu_waiting: Some(0.75),
        };
        let outside = [("10.0.0.9:443".parse().unwrap(), Waiting { sum: 6.0, most: 4.0 })].into();
        let sights = Sights {
            threads: [("web-1".to_owned(), threads)].into(),
            outside: [("web".to_owned(), outside)].into(),
            looks: 3,
        };
        Second {
            second,
            reports: vec![("db".to_owned(), true, measured)],
            instances: vec![("web", "web-1", &[(Measure::CpuCores, 0.25)])],
            callers,
            sights,
            cores: 2.0,
        }
    }

    #[test]
    fn a_second_tells_who_calls_whom() {
        let mut windows = Windows::default();
        let callers = [(7, "web".to_owned())].into();
        let (first, then) = (measured(1_000_000, 100, 0), measured(2_000_000, 300, 4_000_000));
        windows.take(second(1, &first, &callers));
        windows.take(second(2, &then, &callers));
        let (_, window) = windows.since(1).next().unwrap();
        let db = &window.services["db"];
        assert_eq!(
            (db.completions, db.in_flight, db.instances["db-1"].completions),
            (200.0, 4.0, 200.0)
        );
        let web = &window.services["web"];
        assert_eq!(
            web.calls["db"],
            Call {
                rate: Some(100.0),
                in_flight: 2.0,
                in_flight_max: 3.0
            }
        );
        assert_eq!(
            web.calls["10.0.0.9:443"],
            Call {
                rate: None,
                in_flight: 2.0,
                in_flight_max: 4.0
            }
        );
        let instance = &web.instances["web-1"];
        assert_eq!((instance.cpu, instance.cpu_limit, instance.threads), (0.25, 2.0, 4.0));
        assert_eq!(
            (instance.futex, instance.futex_gathered, instance.thread_cpu_max),
            (3.0, Some(2.0), 0.5)
        );
        assert_eq!((instance.io_some, instance.cpu_waiting), (0.5, Some(0.75)));
        assert_eq!((instance.thread_cpu_wait, instance.thread_io), (0.25, 0.125));
    }

    #[test]
    fn memory_is_bounded() {
        let mut windows = Windows::default();
        let callers = BTreeMap::new();
        for at in 0..5_000_u64 {
            let measured = measured((at + 1) * 1_000_000, at * 10, at * 1_000);
            windows.take(second(at, &measured, &callers));
        }
        assert!(windows.seconds.len() < SECONDS + TEN && windows.tens.len() == TENS);
        assert_eq!(windows.since(4_989).count(), 10);
        assert!(windows.before(4_989).len() > TENS);
    }
}
