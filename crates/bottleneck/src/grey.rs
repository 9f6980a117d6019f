//! One slow copy among good ones: a grey failure. It is taken out, not helped by more copies.

use crate::observe::Service;
use crate::solve::median;

/// A copy this many times slower than the others is sick …
const SLOWER: f64 = 3.0;
/// … if it alone holds this share of what is too much.
const SHARE: f64 = 0.6;
/// Answers a second below which a time is chance, unless requests pile up.
const IN_FLIGHT_MIN: f64 = 1.0;

/// The sick instance of a service, and what shows it.
pub(crate) fn sick(service: &Service, usual_time: f64) -> Option<(String, String)> {
    if service.instances.len() < 2 {
        return None;
    }
    // A copy that answers nothing takes as long as it was watched.
    let time = |instance: &crate::Instance| match instance.completions {
        rate if rate > 0.0 => instance.in_flight / rate,
        _ if instance.in_flight > 0.0 => f64::INFINITY,
        _ => 0.0,
    };
    let excess = |instance: &crate::Instance| (instance.in_flight - instance.completions * usual_time).max(0.0);
    let (name, worst) = service
        .instances
        .iter()
        .max_by(|(_, a), (_, b)| excess(a).total_cmp(&excess(b)))?;
    let all: f64 = service.instances.values().map(excess).sum();
    let mut others: Vec<f64> = service
        .instances
        .iter()
        .filter(|(other, _)| *other != name)
        .map(|(_, instance)| time(instance))
        .filter(|time| *time > 0.0)
        .collect();
    let others = median(&mut others)?;
    if worst.in_flight < IN_FLIGHT_MIN || excess(worst) < SHARE * all || time(worst) < SLOWER * others {
        return None;
    }
    let took = match time(worst) {
        time if time.is_finite() => format!("a request takes {} in {name}", crate::kind::milliseconds(time)),
        _ => format!("{name} answers nothing"),
    };
    Some((
        name.clone(),
        format!("{took}, {} in the others", crate::kind::milliseconds(others)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Instance;

    fn service(times: &[(f64, f64)]) -> Service {
        let instance = |(completions, in_flight): &(f64, f64)| Instance {
            completions: *completions,
            in_flight: *in_flight,
            ..Instance::default()
        };
        let instances = times
            .iter()
            .enumerate()
            .map(|(i, it)| (format!("web-{}", i + 1), instance(it)));
        Service {
            managed: true,
            instances: instances.collect(),
            ..Service::default()
        }
    }

    #[test]
    fn one_slow_copy_is_named() {
        let (name, why) = sick(&service(&[(100.0, 1.0), (20.0, 8.0), (100.0, 1.1)]), 0.01).unwrap();
        assert_eq!(name, "web-2");
        assert_eq!(why, "a request takes 400 ms in web-2, 10.5 ms in the others");
        let (name, why) = sick(&service(&[(100.0, 1.0), (0.0, 8.0)]), 0.01).unwrap();
        assert_eq!(
            (name.as_str(), why.as_str()),
            ("web-2", "web-2 answers nothing, 10.0 ms in the others")
        );
    }

    #[test]
    fn copies_that_are_all_slow_are_not_sick() {
        assert_eq!(sick(&service(&[(100.0, 50.0), (90.0, 60.0)]), 0.01), None);
        assert_eq!(sick(&service(&[(100.0, 50.0)]), 0.01), None);
        assert_eq!(sick(&service(&[(10.0, 0.1), (0.0, 0.0)]), 0.01), None);
    }
}
