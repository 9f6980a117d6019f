//! Where a curve bends: Kneedle (Satopää, Albrecht, Irwin, Raghavan: "Finding a 'Kneedle' in a Haystack").

/// Which way the curve bends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bend {
    /// It rises and levels off: throughput over concurrency.
    LevelsOff,
    /// It rises ever faster: latency over rate.
    Steepens,
}

/// The `x` of the first knee of points sorted by `x`, with sensitivity 1; `None` if there is none, or fewer than 4 points.
pub fn knee(points: &[(f64, f64)], bend: Bend) -> Option<f64> {
    match bend {
        Bend::LevelsOff => of_levelling(points),
        Bend::Steepens => {
            // Seen from the far corner it levels off.
            let turned: Vec<_> = points.iter().rev().map(|(x, y)| (-x, -y)).collect();
            let turned = of_levelling(&turned)?;
            Some(-turned)
        }
    }
}

fn of_levelling(points: &[(f64, f64)]) -> Option<f64> {
    const SENSITIVITY: f64 = 1.0;
    if points.len() < 4 || points.iter().any(|(x, y)| !x.is_finite() || !y.is_finite()) {
        return None;
    }
    let (first, last) = (points.first()?, points.last()?);
    let low = points.iter().map(|(_, y)| *y).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|(_, y)| *y).fold(f64::NEG_INFINITY, f64::max);
    let (width, height) = (last.0 - first.0, high - low);
    if width <= 0.0 || height <= 0.0 {
        return None;
    }
    let difference: Vec<f64> = points
        .iter()
        .map(|(x, y)| (y - low) / height - (x - first.0) / width)
        .collect();
    let step = 1.0 / (points.len() - 1) as f64;
    for at in 1..difference.len() - 1 {
        let here = difference[at];
        if !(difference[at - 1] <= here && here > difference[at + 1]) {
            continue;
        }
        let threshold = here - SENSITIVITY * step;
        for next in &difference[at + 1..] {
            if *next < threshold {
                return Some(points[at].0);
            }
            // A higher one before that: this was a bump on the way.
            if *next > here {
                break;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_example_bends_where_published() {
        let points: Vec<_> = (0..10)
            .map(|i| f64::from(i) / 9.0)
            .map(|x| (x, -1.0 / (x + 0.1) + 5.0))
            .collect();
        let knee = knee(&points, Bend::LevelsOff).unwrap();
        assert!((knee - 0.2222).abs() < 1e-4, "{knee}");
    }

    #[test]
    fn latency_bends_before_the_queue_has_no_bound() {
        let points: Vec<_> = (1..=19)
            .map(|i| f64::from(i) * 5.0)
            .map(|rate| (rate, 1.0 / (1.0 - rate / 100.0)))
            .collect();
        let knee = knee(&points, Bend::Steepens).unwrap();
        assert!((70.0..=90.0).contains(&knee), "{knee}");
    }

    #[test]
    fn a_line_has_no_knee() {
        let line: Vec<_> = (0..10).map(|i| (f64::from(i), 2.0 * f64::from(i))).collect();
        assert_eq!(knee(&line, Bend::LevelsOff), None);
        assert_eq!(
            knee(&[(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (3.0, 1.0)], Bend::LevelsOff),
            None
        );
        assert_eq!(knee(&[(0.0, 0.0), (1.0, 1.0)], Bend::LevelsOff), None);
    }
}
