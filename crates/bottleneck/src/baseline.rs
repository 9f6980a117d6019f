//! How long everything takes when nothing waits: learned from the windows with the least load.

use crate::observe::Window;
use crate::solve::quantile;
use std::collections::BTreeMap;

/// Windows below this share of the highest rate count as little load, for times.
const LITTLE_LOAD: f64 = 0.5;
/// The unloaded time is the lowest tenth of what was seen: load adds to it, nothing takes from it.
const LOW: f64 = 0.1;

/// What is usual for all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Baseline {
    services: BTreeMap<String, Usual>,
}

/// What is usual for a service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usual {
    /// Own time of a request, seconds.
    pub own_time: f64,
    /// Time of its calls to others, seconds a request of its own that makes them (seconds a call where calls are counted).
    pub calls: BTreeMap<String, f64>,
    /// Threads that wait in futex when it idles, all instances.
    pub futex: f64,
    /// Pages read again, a second, all instances.
    pub refaults: f64,
}

impl Baseline {
    /// Learns from windows, the more the better; those in which a service did nothing tell nothing about it.
    pub fn learn(windows: &[Window]) -> Self {
        let mut services = BTreeMap::new();
        let names: std::collections::BTreeSet<&str> = windows.iter().flat_map(Window::names).collect();
        for name in names {
            let most = windows.iter().map(|window| window.rate(name)).fold(0.0, f64::max);
            let working = windows.iter().filter(|window| window.rate(name) > 0.0);
            let quiet: Vec<_> = working
                .clone()
                .filter(|window| window.rate(name) <= LITTLE_LOAD * most)
                .collect();
            // One rate throughout: all windows are as quiet as any.
            let quiet: Vec<_> = if quiet.is_empty() { working.collect() } else { quiet };
            if let Some(usual) = usual(name, &quiet) {
                services.insert(name.to_owned(), usual);
            }
        }
        Self { services }
    }

    /// What is usual for a service; `None` if it was never seen at work.
    pub fn of(&self, service: &str) -> Option<&Usual> {
        self.services.get(service)
    }

    /// Says what is usual for a service.
    pub fn set(&mut self, service: &str, usual: Usual) {
        self.services.insert(service.to_owned(), usual);
    }
}

fn usual(name: &str, windows: &[&Window]) -> Option<Usual> {
    let mut own: Vec<_> = windows
        .iter()
        .map(|window| window.own(name) / window.rate(name))
        .collect();
    let own_time = quantile(&mut own, LOW)?;
    let mut calls: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for service in windows.iter().filter_map(|window| window.services.get(name)) {
        for (callee, call) in &service.calls {
            let rate = call.rate.unwrap_or(service.completions);
            if rate > 0.0 {
                calls.entry(callee.clone()).or_default().push(call.in_flight / rate);
            }
        }
    }
    let instances = |of: fn(&crate::Instance) -> f64| {
        windows
            .iter()
            .filter_map(|window| window.services.get(name))
            .map(|service| service.instances.values().map(of).sum::<f64>())
            .collect::<Vec<_>>()
    };
    Some(Usual {
        own_time,
        calls: calls
            .into_iter()
            .filter_map(|(callee, mut times)| Some((callee, quantile(&mut times, LOW)?)))
            .collect(),
        // The most that idle threads were: what works is not idle.
        futex: quantile(&mut instances(|instance| instance.futex), 0.9).unwrap_or(0.0),
        refaults: quantile(&mut instances(|instance| instance.refaults), 0.9).unwrap_or(0.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Service;
    use std::time::Duration;

    fn at(rate: f64, in_flight: f64) -> Window {
        let service = Service {
            managed: true,
            arrivals: rate,
            completions: rate,
            in_flight,
            ..Service::default()
        };
        Window {
            span: Duration::from_secs(1),
            services: [("web".to_owned(), service)].into(),
        }
    }

    #[test]
    fn times_are_those_of_little_load() {
        let mut windows: Vec<_> = (0..20).map(|_| at(10.0, 0.1)).collect();
        windows.extend((0..20).map(|_| at(100.0, 50.0)));
        let baseline = Baseline::learn(&windows);
        assert!((baseline.of("web").unwrap().own_time - 0.01).abs() < 1e-12);
        assert_eq!(baseline.of("db"), None);
        assert_eq!(Baseline::learn(&[at(0.0, 0.0)]), Baseline::default());
    }
}
