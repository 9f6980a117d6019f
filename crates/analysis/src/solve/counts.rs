//! How many sets there are of each size: a polynomial whose n-th coefficient counts the sets of n events.

/// Counts by size, from 0; the largest representable number stands for that many or more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Counts(pub(crate) Vec<u64>);

impl Counts {
    /// The family of the empty set alone.
    pub(crate) fn one() -> Self {
        Self(vec![1])
    }

    /// The family of one set of one event.
    pub(crate) fn event() -> Self {
        Self(vec![0, 1])
    }

    pub(crate) fn plus(mut self, other: &Self) -> Self {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (count, more) in self.0.iter_mut().zip(&other.0) {
            *count = count.saturating_add(*more);
        }
        self
    }

    pub(crate) fn times(&self, other: &Self) -> Self {
        if self.0.is_empty() || other.0.is_empty() {
            return Self::default();
        }
        if other.0 == [0, 1] {
            return Self([&[0], self.0.as_slice()].concat());
        }
        let mut product = vec![0_u64; self.0.len() + other.0.len() - 1];
        for (i, a) in self.0.iter().enumerate().filter(|(_, a)| **a > 0) {
            for (j, b) in other.0.iter().enumerate() {
                product[i + j] = product[i + j].saturating_add(a.saturating_mul(*b));
            }
        }
        Self(product)
    }

    /// Of size 1, 2, … up to the largest there is.
    pub(crate) fn by_order(&self) -> Vec<u64> {
        let end = self.0.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        self.0.get(1..end).unwrap_or_default().to_vec()
    }

    /// All of them.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}
