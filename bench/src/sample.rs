//! Medians and spreads of a few dozen values.

/// Values of one kind, from repeated tries.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    sorted: Vec<f64>,
}

impl FromIterator<f64> for Sample {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self { sorted }
    }
}

impl Sample {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// The middle one, of an even number the mean of the two in the middle. NaN without values.
    pub fn median(&self) -> f64 {
        let count = self.sorted.len();
        match count {
            0 => f64::NAN,
            _ if count % 2 == 1 => self.sorted[count / 2],
            _ => (self.sorted[count / 2 - 1] + self.sorted[count / 2]) / 2.0,
        }
    }

    /// The smallest value that `quantile` of all (0 to 1) do not exceed. NaN without values.
    pub fn quantile(&self, quantile: f64) -> f64 {
        let rank = (quantile * self.sorted.len() as f64).ceil() as usize;
        let index = rank.clamp(1, self.sorted.len().max(1)) - 1;
        self.sorted.get(index).copied().unwrap_or(f64::NAN)
    }

    /// The smallest.
    pub fn min(&self) -> f64 {
        self.quantile(0.0)
    }

    /// The largest.
    pub fn max(&self) -> f64 {
        self.quantile(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles_are_those_of_the_sorted_values() {
        let sample: Sample = [4.0, 1.0, 3.0, 2.0].into_iter().collect();
        assert_eq!(sample.median(), 2.5);
        assert_eq!((sample.min(), sample.max()), (1.0, 4.0));
        assert_eq!(sample.quantile(0.5), 2.0);
        assert_eq!(sample.quantile(0.75), 3.0);
        assert_eq!(sample.quantile(0.99), 4.0);
    }

    #[test]
    fn nothing_gives_no_number_rather_than_a_wrong_one() {
        let sample = Sample::default();
        assert!(sample.is_empty() && sample.median().is_nan() && sample.max().is_nan());
    }
}
