//! Which resource is full first, before any is: use regressed on rate.
//!
//! Use grows with the rate in a straight line (the utilisation law), `U = b + D·X`, so what is left of the straight line is known
//! long before its end: `X* = (0.9·limit − b) / D`.

/// Of its limit, what a resource is taken to bear before its queue gets long.
const FULL_AT: f64 = 0.9;
/// Below this share of explained variance, use does not follow the rate, and a prediction would be made up.
const EXPLAINED_MIN: f64 = 0.8;
/// Points from which a line and its error can be had.
const POINTS_MIN: usize = 6;

/// When a resource is full.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Capacity {
    /// The rate at which it is full, a second.
    pub rate: f64,
    /// Standard error of that.
    pub error: f64,
    /// What a request costs: seconds of the resource, the service demand.
    pub demand: f64,
    /// What it uses without requests.
    pub idle: f64,
    /// Share of the variance that the rate explains.
    pub explained: f64,
    /// The highest rate that was seen: beyond it the line is a guess that queues keep being short.
    pub seen: f64,
}

impl Capacity {
    /// How many times the rate may grow from `rate`.
    pub fn times(&self, rate: f64) -> f64 {
        self.rate / rate
    }
}

/// Why nothing is predicted.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Not enough is known.
    #[error("{0} points are too few for a line: {POINTS_MIN} are needed")]
    TooFew(usize),
    /// The rate hardly changed.
    #[error("the rate was always about the same, so what a request costs cannot be told from what nobody asked for")]
    SameRate,
    /// Use does not grow with the rate.
    #[error("its use does not grow with the rate")]
    NoDemand,
    /// Something else moves it.
    #[error("the rate explains only {:.0} % of its use, {:.0} % are needed", .0 * 100.0, EXPLAINED_MIN * 100.0)]
    Unexplained(f64),
}

/// Fits use to rate, pairs of (requests a second, use in the unit of `limit`), and says at which rate 90 % of the limit is reached.
pub fn saturation(points: &[(f64, f64)], limit: f64) -> Result<Capacity, Refusal> {
    let points: Vec<_> = points
        .iter()
        .copied()
        .filter(|(x, u)| x.is_finite() && u.is_finite() && *x >= 0.0 && *u >= 0.0)
        .collect();
    if points.len() < POINTS_MIN {
        return Err(Refusal::TooFew(points.len()));
    }
    let n = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / n;
    let mean_u = points.iter().map(|(_, u)| u).sum::<f64>() / n;
    let sxx: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let suu: f64 = points.iter().map(|(_, u)| (u - mean_u).powi(2)).sum();
    let sxu: f64 = points.iter().map(|(x, u)| (x - mean_x) * (u - mean_u)).sum();
    if sxx <= (0.02 * mean_x).powi(2) * n {
        return Err(Refusal::SameRate);
    }
    let mut demand = sxu / sxx;
    let mut idle = mean_u - demand * mean_x;
    let through_zero = idle < 0.0;
    if through_zero {
        let xx: f64 = points.iter().map(|(x, _)| x * x).sum();
        let xu: f64 = points.iter().map(|(x, u)| x * u).sum();
        idle = 0.0;
        demand = xu / xx;
    }
    if demand <= 0.0 {
        return Err(Refusal::NoDemand);
    }
    let left: f64 = points.iter().map(|(x, u)| (u - idle - demand * x).powi(2)).sum();
    let explained = if suu > 0.0 { 1.0 - left / suu } else { 1.0 };
    if explained < EXPLAINED_MIN {
        return Err(Refusal::Unexplained(explained.max(0.0)));
    }
    let room = FULL_AT * limit - idle;
    if room <= 0.0 {
        return Err(Refusal::NoDemand);
    }
    let rate = room / demand;
    // Errors of slope and height carried through the quotient (delta method).
    let freedom = n - if through_zero { 1.0 } else { 2.0 };
    let variance = left / freedom;
    let error = if through_zero {
        let xx: f64 = points.iter().map(|(x, _)| x * x).sum();
        rate * (variance / xx).sqrt() / demand
    } else {
        (variance / n + variance * (rate - mean_x).powi(2) / sxx).sqrt() / demand
    };
    Ok(Capacity {
        rate,
        error,
        demand,
        idle,
        explained,
        seen: points.iter().map(|(x, _)| *x).fold(0.0, f64::max),
    })
}

/// A resource of a service, for [`order`].
#[derive(Debug, Clone, PartialEq)]
pub struct Resource<K> {
    /// Which: "db, processor".
    pub what: K,
    /// Visits of its service by one request at the entry, more than 0.
    pub visits: f64,
    /// When it is full, in requests to its service.
    pub capacity: Capacity,
}

/// The resources by the rate at the entry that fills them, first the first, with that rate.
pub fn order<K>(resources: Vec<Resource<K>>) -> Vec<(f64, Resource<K>)> {
    let mut all: Vec<_> = resources
        .into_iter()
        .filter(|resource| resource.visits > 0.0)
        .map(|resource| (resource.capacity.rate / resource.visits, resource))
        .collect();
    all.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_followed_to_its_end() {
        let points: Vec<_> = (1..=20)
            .map(|i| f64::from(i) * 10.0)
            .map(|x| (x, 0.05 + 0.002 * x))
            .collect();
        let capacity = saturation(&points, 1.0).unwrap();
        assert!((capacity.rate - 425.0).abs() < 1e-6, "{capacity:?}");
        assert!((capacity.demand - 0.002).abs() < 1e-12);
        assert!(capacity.error < 1e-6 && capacity.explained > 0.999_999);
        assert_eq!(capacity.seen, 200.0);
        assert!((capacity.times(200.0) - 2.125).abs() < 1e-9);
    }

    #[test]
    fn the_error_is_as_large_as_it_turns_out_to_be() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut within = 0;
        for _ in 0..500 {
            let points: Vec<_> = (1..=30)
                .map(|i| f64::from(i) * 5.0)
                .map(|x| {
                    let noise: f64 = (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
                    (x, 0.1 + 0.003 * x + 0.02 * noise)
                })
                .collect();
            let capacity = saturation(&points, 1.0).unwrap();
            let truth = 0.8 / 0.003;
            within += usize::from((capacity.rate - truth).abs() < 1.96 * capacity.error);
        }
        // 95 % of 500 would be 475.
        assert!((455..=492).contains(&within), "{within} of 500");
    }

    #[test]
    fn what_does_not_follow_the_rate_is_not_predicted() {
        let mut random = fastrand::Rng::with_seed(3);
        let noise: Vec<_> = (0..50).map(|i| (f64::from(i), random.f64())).collect();
        assert!(matches!(
            saturation(&noise, 1.0),
            Err(Refusal::Unexplained(_) | Refusal::NoDemand)
        ));
        assert_eq!(saturation(&[(100.0, 0.5); 20], 1.0), Err(Refusal::SameRate));
        assert_eq!(saturation(&noise[..3], 1.0), Err(Refusal::TooFew(3)));
        let falling: Vec<_> = (1..20).map(|i| (f64::from(i), 1.0 - 0.01 * f64::from(i))).collect();
        assert_eq!(saturation(&falling, 1.0), Err(Refusal::NoDemand));
    }

    #[test]
    fn use_below_nothing_is_taken_as_nothing() {
        let points: Vec<_> = (5..=20)
            .map(|i| f64::from(i) * 10.0)
            .map(|x| (x, (0.004 * x - 0.1_f64).max(0.0)))
            .collect();
        let capacity = saturation(&points, 1.0).unwrap();
        assert_eq!(capacity.idle, 0.0);
    }

    #[test]
    fn visits_decide_the_order() {
        let capacity = |rate| Capacity {
            rate,
            error: 0.0,
            demand: 0.9 / rate,
            idle: 0.0,
            explained: 1.0,
            seen: 1.0,
        };
        let all = vec![
            Resource {
                what: "web",
                visits: 1.0,
                capacity: capacity(300.0),
            },
            Resource {
                what: "db",
                visits: 4.0,
                capacity: capacity(800.0),
            },
        ];
        let order: Vec<_> = order(all)
            .into_iter()
            .map(|(rate, resource)| (rate, resource.what))
            .collect();
        assert_eq!(order, [(200.0, "db"), (300.0, "web")]);
    }
}
