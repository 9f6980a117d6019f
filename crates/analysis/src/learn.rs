//! What a history of failures says of rates, and how surely.

/// How often something fails, by what was seen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Learnt {
    /// Failures per hour, the best guess.
    pub rate: f64,
    /// With 95 % certainty not more often than this.
    pub rate_max: f64,
}

/// Of `failures` in so many hours of sound time. `prior_hours` is how many hours of experience the assumption it starts from is worth: 0 for none.
pub fn rate(failures: u32, hours: f64, prior_hours: f64) -> Learnt {
    let rate = (f64::from(failures) + 0.5) / (hours + prior_hours);
    // Half of χ² with 2(n + 1) degrees of freedom at 95 %: of no failure at all, 3 in these hours.
    let at_most = gamma_quantile(f64::from(failures) + 1.0, 0.95);
    Learnt {
        rate,
        rate_max: at_most / hours,
    }
}

/// Availability over a history of `failures`, so many hours up and so many down, with its 95 % interval: (low, middle, high).
pub fn availability(failures: u32, up_hours: f64, down_hours: f64) -> (f64, f64, f64) {
    let ratio = down_hours / up_hours;
    let of = |factor: f64| 1.0 / (1.0 + ratio * factor);
    if failures == 0 {
        return (0.0, of(1.0), 1.0);
    }
    let degrees = 2.0 * f64::from(failures);
    (of(f_quantile(degrees, 0.975)), of(1.0), of(f_quantile(degrees, 0.025)))
}

/// The point of F(d, d) below which is the share `p`: by halving, on the incomplete beta function.
fn f_quantile(degrees: f64, p: f64) -> f64 {
    let half = degrees / 2.0;
    let x = halve(|x| incomplete_beta(half, half, x) < p, 0.0, 1.0);
    x / (1.0 - x)
}

/// The point of the gamma distribution with this shape and scale 1.
fn gamma_quantile(shape: f64, p: f64) -> f64 {
    // A whole shape: below x is 1 − e^(−x) Σ x^i/i!.
    let below = |x: f64| {
        let (mut term, mut sum) = (1.0, 1.0);
        for i in 1..shape as u32 {
            term *= x / f64::from(i);
            sum += term;
        }
        1.0 - (-x).exp() * sum
    };
    halve(|x| below(x) < p, 0.0, shape + 10.0 * shape.sqrt() + 10.0)
}

/// The edge of `is_below` between two points, to the last bit that matters.
fn halve(is_below: impl Fn(f64) -> bool, mut low: f64, mut high: f64) -> f64 {
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if is_below(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

/// The regularised incomplete beta function of whole parameters: at least `a` of `a + b − 1` tries succeed.
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    let tries = (a + b - 1.0).round();
    let mut sum = 0.0;
    // In logarithms: of thousands of failures the terms are too small for a double.
    let mut ln_choose = 0.0;
    let mut j = 0.0;
    while j <= tries {
        if j >= a {
            sum += (ln_choose + j * x.ln() + (tries - j) * (-x).ln_1p()).exp();
        }
        ln_choose += ((tries - j) / (j + 1.0)).ln();
        j += 1.0;
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::{availability, rate};

    #[test]
    fn availability_of_a_history_has_its_interval() {
        let (low, middle, _) = availability(1, 999.0, 1.0);
        assert!(
            (low - 0.9624).abs() < 5e-5 && (middle - 0.999).abs() < 1e-9,
            "{low} {middle}"
        );
        let (low, middle, high) = availability(10, 9_990.0, 10.0);
        assert!(
            (low - 0.9975).abs() < 5e-5 && (high - 0.9996).abs() < 5e-5,
            "{low} {middle} {high}"
        );
    }

    #[test]
    fn no_failure_at_all_says_something_too() {
        let learnt = rate(0, 1_000.0, 0.0);
        assert!((learnt.rate - 0.5e-3).abs() < 1e-12);
        // The rule of three: ln 20 is 2.9957.
        assert!((learnt.rate_max - 2.9957e-3).abs() < 1e-6, "{learnt:?}");
        assert!(rate(5, 1_000.0, 0.0).rate_max > rate(1, 1_000.0, 0.0).rate_max);
    }
}
