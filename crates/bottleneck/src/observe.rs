//! What was measured.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// All that was seen in a span of time, a second as a rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// How long it is.
    pub span: Duration,
    /// The services, by name. What is called but not ours is one too: `managed` is false, and it is known only by the calls to it.
    pub services: BTreeMap<String, Service>,
}

/// A service in a window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Whether we run it.
    pub managed: bool,
    /// Requests that came, a second.
    pub arrivals: f64,
    /// Requests that were answered, a second, errors among them.
    pub completions: f64,
    /// Answers that were errors, a second.
    pub errors: f64,
    /// Requests inside, its mean over the window: summed over time, not looked at now and then.
    pub in_flight: f64,
    /// Its calls to other services, by the name of the callee.
    pub calls: BTreeMap<String, Call>,
    /// Its instances, by name.
    pub instances: BTreeMap<String, Instance>,
}

/// The calls from one service to another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// How many are answered a second; `None` where only sockets were seen.
    pub rate: Option<f64>,
    /// How many are under way, its mean.
    pub in_flight: f64,
    /// The most that were under way at once.
    pub in_flight_max: f64,
}

/// An instance in a window. What could not be read is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Requests that it answered, a second.
    pub completions: f64,
    /// Requests inside, mean.
    pub in_flight: f64,
    /// Processor time that it used, cores.
    pub cpu: f64,
    /// What it may use, cores.
    pub cpu_limit: f64,
    /// Share of the scheduler's periods in which its limit held it back.
    pub throttled: f64,
    /// Share of the time in which its busiest thread ran. The busiest is the one that rests least: it runs, waits for a processor, or
    /// waits for a disk.
    pub thread_cpu_max: f64,
    /// Share of the time in which that thread could have run and got no processor.
    #[serde(default)]
    pub thread_cpu_wait: f64,
    /// Share of the time in which that thread waited for a disk.
    #[serde(default)]
    pub thread_io: f64,
    /// Share of the time in which at least one of its tasks waited for a processor.
    pub cpu_some: f64,
    /// Threads that could have run and got no processor, mean; `None` if that is not known.
    #[serde(default)]
    pub cpu_waiting: Option<f64>,
    /// Share of the time in which at least one of its tasks waited for a disk.
    pub io_some: f64,
    /// Share of the time in which at least one of its tasks waited for memory.
    pub memory_some: f64,
    /// Pages that it had to read again, a second.
    pub refaults: f64,
    /// Threads, mean.
    pub threads: f64,
    /// Of them waiting for a lock or a signal (futex), mean.
    pub futex: f64,
    /// Of those the ones that wait together with others, at places where fewer wait when the service is idle, mean; `None` if it is not
    /// known where they wait.
    pub futex_gathered: Option<f64>,
}

impl Window {
    /// Several windows as one: means over their time, maxima of maxima. `None` of nothing, or of no time.
    pub fn merge<'a>(windows: impl IntoIterator<Item = &'a Window>) -> Option<Window> {
        let windows: Vec<_> = windows.into_iter().filter(|window| !window.span.is_zero()).collect();
        let span: Duration = windows.iter().map(|window| window.span).sum();
        if span.is_zero() {
            return None;
        }
        let mut whole = Window {
            span,
            ..Window::default()
        };
        for window in windows {
            let weight = window.span.as_secs_f64() / span.as_secs_f64();
            for (name, service) in &window.services {
                whole.services.entry(name.clone()).or_default().take_in(service, weight);
            }
        }
        Some(whole)
    }

    /// Adds what another node saw in the same time.
    pub fn join(&mut self, other: &Window) {
        for (name, service) in &other.services {
            let mine = self.services.entry(name.clone()).or_default();
            mine.take_in(service, 1.0);
        }
    }

    /// Everybody who is called, and by whom. What is not ours is known by this alone.
    pub(crate) fn callers_of<'a>(&'a self, callee: &'a str) -> impl Iterator<Item = (&'a str, &'a Service, &'a Call)> {
        self.services
            .iter()
            .filter_map(move |(name, service)| Some((name.as_str(), service, service.calls.get(callee)?)))
    }

    /// All names, those that are only called included.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        let called = self.services.values().flat_map(|service| service.calls.keys());
        self.services.keys().chain(called).map(String::as_str).collect()
    }

    /// Requests in a service that are not in one that it calls. Of what is not ours: all calls to it.
    pub(crate) fn own(&self, name: &str) -> f64 {
        match self.services.get(name) {
            Some(service) if service.managed => {
                let elsewhere: f64 = service.calls.values().map(|call| call.in_flight).sum();
                (service.in_flight - elsewhere).max(0.0)
            }
            _ => self.callers_of(name).map(|(_, _, call)| call.in_flight).sum(),
        }
    }

    /// Requests that a service answers a second. Where calls are not counted, those of the callers: how often one calls is in the
    /// unloaded time then.
    pub(crate) fn rate(&self, name: &str) -> f64 {
        match self.services.get(name) {
            Some(service) if service.managed => service.completions,
            _ => self
                .callers_of(name)
                .map(|(_, service, call)| call.rate.unwrap_or(service.completions))
                .sum(),
        }
    }
}

impl Service {
    fn take_in(&mut self, other: &Service, weight: f64) {
        self.managed |= other.managed;
        self.arrivals += weight * other.arrivals;
        self.completions += weight * other.completions;
        self.errors += weight * other.errors;
        self.in_flight += weight * other.in_flight;
        for (callee, call) in &other.calls {
            let mine = self.calls.entry(callee.clone()).or_default();
            if let Some(rate) = call.rate {
                *mine.rate.get_or_insert(0.0) += weight * rate;
            }
            mine.in_flight += weight * call.in_flight;
            mine.in_flight_max = mine.in_flight_max.max(call.in_flight_max);
        }
        for (name, instance) in &other.instances {
            self.instances
                .entry(name.clone())
                .or_default()
                .take_in(instance, weight);
        }
    }
}

impl Instance {
    fn take_in(&mut self, other: &Instance, weight: f64) {
        let pairs = [
            (&mut self.completions, other.completions),
            (&mut self.in_flight, other.in_flight),
            (&mut self.cpu, other.cpu),
            (&mut self.throttled, other.throttled),
            (&mut self.thread_cpu_max, other.thread_cpu_max),
            (&mut self.thread_cpu_wait, other.thread_cpu_wait),
            (&mut self.thread_io, other.thread_io),
            (&mut self.cpu_some, other.cpu_some),
            (&mut self.io_some, other.io_some),
            (&mut self.memory_some, other.memory_some),
            (&mut self.refaults, other.refaults),
            (&mut self.threads, other.threads),
            (&mut self.futex, other.futex),
        ];
        for (mine, other) in pairs {
            *mine += weight * other;
        }
        let pairs = [
            (&mut self.futex_gathered, other.futex_gathered),
            (&mut self.cpu_waiting, other.cpu_waiting),
        ];
        for (mine, other) in pairs {
            if let Some(other) = other {
                *mine.get_or_insert(0.0) += weight * other;
            }
        }
        self.cpu_limit = self.cpu_limit.max(other.cpu_limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(seconds: u64, in_flight: f64, called: f64) -> Window {
        let call = Call {
            rate: Some(10.0),
            in_flight: called,
            in_flight_max: called,
        };
        let web = Service {
            managed: true,
            completions: 10.0,
            in_flight,
            calls: [("bank".to_owned(), call)].into(),
            ..Service::default()
        };
        Window {
            span: Duration::from_secs(seconds),
            services: [("web".to_owned(), web)].into(),
        }
    }

    #[test]
    fn longer_windows_weigh_more() {
        let whole = Window::merge([&window(1, 8.0, 2.0), &window(3, 4.0, 1.0)]).unwrap();
        assert_eq!(whole.span, Duration::from_secs(4));
        assert_eq!(whole.services["web"].in_flight, 5.0);
        assert_eq!(
            whole.services["web"].calls["bank"],
            Call {
                rate: Some(10.0),
                in_flight: 1.25,
                in_flight_max: 2.0
            }
        );
        assert_eq!(Window::merge([]), None);
    }

    #[test]
    fn a_request_is_in_one_place() {
        let window = window(1, 8.0, 2.0);
        assert_eq!(window.own("web"), 6.0);
        assert_eq!(window.own("bank"), 2.0);
        assert_eq!(window.rate("bank"), 10.0);
        assert_eq!(window.names().into_iter().collect::<Vec<_>>(), ["bank", "web"]);
    }
}
