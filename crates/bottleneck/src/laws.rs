//! The laws that hold for any system of queues, and the formulas of the simplest ones.

/// Little: how many are inside on average, from how many come a second and how long each stays (seconds).
pub fn little(per_second: f64, stay: f64) -> f64 {
    per_second * stay
}

/// The forced flow law: what a service gets when the entry gets `entry` requests a second, each of which visits it `visits` times.
pub fn forced_flow(entry: f64, visits: f64) -> f64 {
    entry * visits
}

/// One service of a system, for [`capacity_at_entry`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Station {
    /// Instances that serve.
    pub instances: f64,
    /// What one can do, requests a second.
    pub each: f64,
    /// Visits by one request at the entry, more than 0.
    pub visits: f64,
}

/// What the entry can take: the least that any service allows. `None` without services that are visited.
pub fn capacity_at_entry(stations: &[Station]) -> Option<f64> {
    stations
        .iter()
        .filter(|station| station.visits > 0.0)
        .map(|station| station.instances * station.each / station.visits)
        .min_by(f64::total_cmp)
}

/// Erlang's B: the share of calls that find all of `servers` busy and go away, at an offered load of `load` (requests a second × seconds each).
pub fn erlang_b(servers: u32, load: f64) -> f64 {
    (1..=servers).fold(1.0, |blocked, k| load * blocked / (f64::from(k) + load * blocked))
}

/// Erlang's C: the share of requests that have to wait, when they do wait. 1 at and above full load.
pub fn erlang_c(servers: u32, load: f64) -> f64 {
    let c = f64::from(servers);
    if load >= c {
        return 1.0;
    }
    let blocked = erlang_b(servers, load);
    c * blocked / (c - load * (1.0 - blocked))
}

/// How much longer a request takes than when it is alone, with `servers` (M/M/c) used to `utilisation`. `None` at and above 1, where
/// the queue has no bound.
pub fn stretch(servers: u32, utilisation: f64) -> Option<f64> {
    if servers == 0 || !(0.0..1.0).contains(&utilisation) {
        return None;
    }
    let c = f64::from(servers);
    let load = c * utilisation;
    Some(1.0 + erlang_c(servers, load) / (c - load))
}

/// The highest utilisation at which a request takes at most `stretch_max` times as long as alone (M/M/c). It rises with the number of
/// servers: many may be busier than few.
pub fn target_utilisation(servers: u32, stretch_max: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..50 {
        let middle = f64::midpoint(low, high);
        match stretch(servers, middle) {
            Some(stretch) if stretch <= stretch_max => low = middle,
            _ => high = middle,
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_of_c_servers_at_80_percent_takes_as_long_as_the_tables_say() {
        for (servers, expected) in [
            (1, 5.000_000),
            (2, 2.777_778),
            (4, 1.745_541),
            (8, 1.286_028),
            (16, 1.095_276),
            (32, 1.025_097),
        ] {
            let stretch = stretch(servers, 0.8).unwrap();
            assert!((stretch - expected).abs() < 1e-6, "{servers}: {stretch}");
        }
        assert_eq!(stretch(4, 1.0), None);
        assert_eq!(stretch(0, 0.5), None);
    }

    #[test]
    fn erlang_c_is_that_of_the_tables() {
        assert!((erlang_c(10, 8.0) - 0.409_180).abs() < 1e-6);
        // One server: the share of time it is busy.
        assert!((erlang_c(1, 0.3) - 0.3).abs() < 1e-12);
        assert!((erlang_c(2, 2.0) - 1.0).abs() < 1e-12);
        // Textbook value: 5 lines, 3 erlang.
        assert!((erlang_b(5, 3.0) - 0.110_054).abs() < 1e-6);
    }

    #[test]
    fn more_servers_may_be_busier() {
        let one = target_utilisation(1, 2.0);
        let many = target_utilisation(16, 2.0);
        assert!((one - 0.5).abs() < 1e-9, "{one}");
        assert!(many > 0.9, "{many}");
    }

    #[test]
    fn the_entry_can_take_what_the_narrowest_service_allows() {
        let stations = [
            Station {
                instances: 2.0,
                each: 300.0,
                visits: 1.0,
            },
            Station {
                instances: 1.0,
                each: 900.0,
                visits: 2.0,
            },
            Station {
                instances: 1.0,
                each: 1.0,
                visits: 0.0,
            },
        ];
        assert_eq!(capacity_at_entry(&stations), Some(450.0));
        assert_eq!(capacity_at_entry(&[]), None);
        assert_eq!(forced_flow(450.0, 2.0), 900.0);
        assert_eq!(little(200.0, 0.05), 10.0);
    }
}
