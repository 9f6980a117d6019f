//! The universal scalability law: how throughput grows with concurrency, and where it turns.
//!
//! `X(n) = γ·n / (1 + σ(n − 1) + κ·n(n − 1))`: γ is what one does alone, σ the part that waits for its turn, κ what each pair
//! costs. It describes what was measured; beyond the measured range it promises nothing.

use crate::solve::solve3;

/// Fewer points than this fit anything.
const POINTS_MIN: usize = 6;

/// A fitted law.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usl {
    /// Throughput of one.
    pub gamma: f64,
    /// Contention, 0 or more: a share of the work that is done one at a time.
    pub sigma: f64,
    /// Coherence, 0 or more: what every two cost each other.
    pub kappa: f64,
}

impl Usl {
    /// Throughput at a concurrency.
    pub fn throughput(&self, n: f64) -> f64 {
        self.gamma * n / (1.0 + self.sigma * (n - 1.0) + self.kappa * n * (n - 1.0))
    }

    /// The concurrency beyond which throughput falls; `None` if it only levels off.
    pub fn turning_point(&self) -> Option<f64> {
        (self.kappa > 0.0 && self.sigma < 1.0).then(|| ((1.0 - self.sigma) / self.kappa).sqrt())
    }
}

/// Fits the law to points of concurrency and throughput, each more than 0; `None` if there are fewer than 6, or no law fits.
///
/// `n / X(n)` is linear in `1/γ`, `σ/γ` and `κ/γ`: that start is refined by Gauss and Newton on the throughput itself, so that the
/// squares are those of the measured figure. No coefficient goes below 0; one that would is left out and the others are fitted again.
pub fn fit(points: &[(f64, f64)]) -> Option<Usl> {
    let points: Vec<_> = points
        .iter()
        .copied()
        .filter(|(n, x)| n.is_finite() && x.is_finite() && *n > 0.0 && *x > 0.0)
        .collect();
    if points.len() < POINTS_MIN {
        return None;
    }
    // The full law, then without the one or the other term: the best of those whose coefficients are all allowed.
    [[true, true], [true, false], [false, true], [false, false]]
        .into_iter()
        .filter_map(|free| fit_terms(&points, free))
        .filter(|law| law.gamma > 0.0 && law.sigma >= 0.0 && law.kappa >= 0.0)
        .min_by(|a, b| squares(a, &points).total_cmp(&squares(b, &points)))
}

fn fit_terms(points: &[(f64, f64)], free: [bool; 2]) -> Option<Usl> {
    let mut law = start(points, free)?;
    for _ in 0..STEPS_MAX {
        let before = squares(&law, points);
        let Some(step) = step(&law, points, free) else { break };
        // A step that goes too far is halved.
        let better = (0..STEPS_MAX).find_map(|halvings| {
            let part = 0.5_f64.powi(halvings);
            let next = Usl {
                gamma: law.gamma + part * step[0],
                sigma: law.sigma + part * step[1],
                kappa: law.kappa + part * step[2],
            };
            (squares(&next, points) < before).then_some(next)
        });
        match better {
            Some(next) => law = next,
            None => break,
        }
        if before - squares(&law, points) <= before * 1e-14 {
            break;
        }
    }
    Some(law)
}

const STEPS_MAX: i32 = 60;

/// Least squares of the linear form.
fn start(points: &[(f64, f64)], free: [bool; 2]) -> Option<Usl> {
    let row = |n: f64| {
        [
            1.0,
            if free[0] { n - 1.0 } else { 0.0 },
            if free[1] { n * (n - 1.0) } else { 0.0 },
        ]
    };
    let mut normal = Normal::default();
    for (n, x) in points {
        normal.add(row(*n), n / x);
    }
    let [inverse, sigma, kappa] = normal.solve(free)?;
    (inverse > 0.0).then(|| Usl {
        gamma: 1.0 / inverse,
        sigma: sigma / inverse,
        kappa: kappa / inverse,
    })
}

/// The step of Gauss and Newton.
fn step(law: &Usl, points: &[(f64, f64)], free: [bool; 2]) -> Option<[f64; 3]> {
    let mut normal = Normal::default();
    for (n, x) in points {
        let below = 1.0 + law.sigma * (n - 1.0) + law.kappa * n * (n - 1.0);
        let by_below = -law.gamma * n / (below * below);
        normal.add(
            [
                n / below,
                if free[0] { by_below * (n - 1.0) } else { 0.0 },
                if free[1] { by_below * n * (n - 1.0) } else { 0.0 },
            ],
            x - law.throughput(*n),
        );
    }
    normal.solve(free)
}

fn squares(law: &Usl, points: &[(f64, f64)]) -> f64 {
    let sum: f64 = points.iter().map(|(n, x)| (x - law.throughput(*n)).powi(2)).sum();
    if sum.is_finite() { sum } else { f64::INFINITY }
}

/// The normal equations of three unknowns.
#[derive(Default)]
struct Normal {
    matrix: [[f64; 3]; 3],
    right: [f64; 3],
}

impl Normal {
    fn add(&mut self, row: [f64; 3], value: f64) {
        for i in 0..3 {
            for j in 0..3 {
                self.matrix[i][j] += row[i] * row[j];
            }
            self.right[i] += row[i] * value;
        }
    }

    /// A term that is not free stays 0.
    fn solve(mut self, free: [bool; 2]) -> Option<[f64; 3]> {
        for (index, free) in [(1, free[0]), (2, free[1])] {
            if !free {
                self.matrix[index] = [0.0; 3];
                self.matrix[index][index] = 1.0;
                self.right[index] = 0.0;
            }
        }
        solve3(self.matrix, self.right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cisco's measurements in Schwartz, "Practical Scalability Analysis with the Universal Scalability Law".
    const CISCO: [(f64, f64); 32] = [
        (1.0, 955.16),
        (2.0, 1878.91),
        (3.0, 2688.01),
        (4.0, 3548.68),
        (5.0, 4315.54),
        (6.0, 5130.43),
        (7.0, 5931.37),
        (8.0, 6531.08),
        (9.0, 7219.80),
        (10.0, 7867.61),
        (11.0, 8278.71),
        (12.0, 8646.79),
        (13.0, 9047.84),
        (14.0, 9426.55),
        (15.0, 9645.37),
        (16.0, 9897.24),
        (17.0, 10097.60),
        (18.0, 10240.50),
        (19.0, 10532.39),
        (20.0, 10798.52),
        (21.0, 11151.43),
        (22.0, 11518.63),
        (23.0, 11806.00),
        (24.0, 12089.37),
        (25.0, 12075.41),
        (26.0, 12177.29),
        (27.0, 12211.41),
        (28.0, 12158.93),
        (29.0, 12155.27),
        (30.0, 12118.04),
        (31.0, 12140.40),
        (32.0, 12074.39),
    ];

    #[test]
    fn the_cisco_data_gives_the_published_law() {
        let law = fit(&CISCO).unwrap();
        assert!((law.sigma - 0.026_715_9).abs() < 1e-6, "{law:?}");
        assert!((law.kappa - 7.690_945e-4).abs() < 1e-8, "{law:?}");
        assert!((law.gamma - 995.648_6).abs() < 1e-2, "{law:?}");
        let turning = law.turning_point().unwrap();
        assert_eq!(turning.floor(), 35.0);
        // The paper cuts the digits off.
        assert_eq!(law.throughput(turning.floor()).floor(), 12341.0);
    }

    #[test]
    fn no_coefficient_is_negative() {
        // Grows faster than the number: nothing is shared, and no less than nothing.
        let points: Vec<_> = (1..=10)
            .map(|n| (f64::from(n), 100.0 * f64::from(n).powf(1.2)))
            .collect();
        let law = fit(&points).unwrap();
        assert_eq!((law.sigma, law.kappa), (0.0, 0.0));
        assert_eq!(law.turning_point(), None);
        let levelling: Vec<_> = (1..=12)
            .map(|n| (f64::from(n), 100.0 * f64::from(n) / (1.0 + 0.1 * f64::from(n - 1))))
            .collect();
        let law = fit(&levelling).unwrap();
        assert!((law.sigma - 0.1).abs() < 1e-6 && law.kappa < 1e-9, "{law:?}");
    }

    #[test]
    fn too_little_is_not_fitted() {
        assert_eq!(fit(&CISCO[..5]), None);
        assert_eq!(fit(&[(0.0, 1.0); 9]), None);
        assert_eq!(fit(&[(f64::NAN, 1.0); 9]), None);
    }
}
