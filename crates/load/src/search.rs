//! Which rate comes next: first upwards in large steps, then between the last that was met and the first that was not.

/// What came of a step, as far as the search goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Requests a second that were asked for.
    pub rate: f64,
    /// Answers a second that came.
    pub goodput: f64,
    /// Whether the objective was met, with no more than 1 % failed and no queue left behind.
    pub met: bool,
}

/// How the search goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Next {
    /// With this rate.
    Try(f64),
    /// Not at all.
    Found(Found),
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Found {
    /// The largest load is between these two.
    Between {
        /// The highest rate that was met.
        met: f64,
        /// The lowest that was not.
        unmet: f64,
    },
    /// Not even the first was met.
    NotEven(f64),
    /// All were met, up to the highest that was allowed.
    Beyond(f64),
    /// Three steps on end brought less than 2 % more answers each: the service can do no more, whatever is asked of it.
    Levelled(f64),
}

/// The search so far.
#[derive(Debug, Clone)]
pub struct Search {
    first: f64,
    /// No rate above this is tried.
    most: f64,
    /// Once the two are within this factor, it is over.
    precision: f64,
    steps: Vec<Step>,
}

/// So much more each time while all goes well.
const GROWTH: f64 = 1.6;
/// Bisecting goes on so often at most: noise can make it useless.
const BISECTIONS_MAX: usize = 7;
/// What counts as more answers.
const MORE: f64 = 1.02;
const LEVEL_STEPS: usize = 3;

impl Search {
    /// From a rate that the service surely bears up to `most`, to within a share of the answer, 0.04 as a rule.
    pub fn new(first: f64, most: f64, precision: f64) -> Self {
        Self {
            first: first.min(most),
            most,
            precision: 1.0 + precision,
            steps: Vec::new(),
        }
    }

    /// Takes in what came of a step.
    pub fn note(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// What to do next.
    pub fn next(&self) -> Next {
        let unmet = self
            .steps
            .iter()
            .filter(|step| !step.met)
            .map(|step| step.rate)
            .min_by(f64::total_cmp);
        // One that was met above one that was not is luck.
        let met = self
            .steps
            .iter()
            .filter(|step| step.met && unmet.is_none_or(|unmet| step.rate < unmet))
            .map(|step| step.rate)
            .max_by(f64::total_cmp);
        match (met, unmet) {
            (None, None) => Next::Try(self.first),
            (None, Some(unmet)) if self.steps.len() >= BISECTIONS_MAX || unmet <= self.first / 8.0 => {
                Next::Found(Found::NotEven(unmet))
            }
            (None, Some(unmet)) => Next::Try(unmet / 2.0),
            (Some(met), None) if met >= self.most => Next::Found(Found::Beyond(met)),
            (Some(met), None) if self.has_levelled() => Next::Found(Found::Levelled(met)),
            (Some(met), None) => Next::Try((met * GROWTH).min(self.most)),
            (Some(met), Some(unmet)) => {
                let bisections = self.steps.iter().skip_while(|step| step.met).count();
                if unmet / met <= self.precision || bisections > BISECTIONS_MAX {
                    Next::Found(Found::Between { met, unmet })
                } else {
                    // Where its capacity showed itself, the answer is near it.
                    let seen = self
                        .steps
                        .iter()
                        .filter(|step| !step.met)
                        .map(|step| step.goodput)
                        .fold(0.0, f64::max);
                    let guess = 0.97 * seen;
                    let middle = (met * unmet).sqrt();
                    let is_first = bisections == 1;
                    Next::Try(if is_first && guess > met * 1.05 && guess < unmet / 1.05 {
                        guess
                    } else {
                        middle
                    })
                }
            }
        }
    }

    fn has_levelled(&self) -> bool {
        let Some(last) = self.steps.len().checked_sub(LEVEL_STEPS + 1) else {
            return false;
        };
        self.steps[last..]
            .windows(2)
            .all(|pair| pair[1].rate > pair[0].rate && pair[1].goodput < MORE * pair[0].goodput)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a service of which only the truth is known.
    fn search(first: f64, most: f64, meets: impl Fn(f64) -> bool, goodput: impl Fn(f64) -> f64) -> (Found, Vec<f64>) {
        let mut search = Search::new(first, most, 0.04);
        let mut tried = Vec::new();
        loop {
            match search.next() {
                Next::Try(rate) => {
                    tried.push(rate);
                    assert!(tried.len() < 60, "{tried:?}");
                    search.note(Step {
                        rate,
                        goodput: goodput(rate),
                        met: meets(rate),
                    });
                }
                Next::Found(found) => return (found, tried),
            }
        }
    }

    #[test]
    fn the_largest_load_is_found_within_a_few_percent() {
        for truth in [3.0, 41.0, 200.0, 4_711.0, 60_000.0] {
            let (found, tried) = search(2.0, 100_000.0, |rate| rate <= 0.9 * truth, |rate| rate.min(truth));
            let Found::Between { met, unmet } = found else {
                panic!("{found:?}")
            };
            assert!(
                met <= 0.9 * truth && unmet > 0.9 * truth && unmet / met <= 1.041,
                "{truth}: {met} {unmet}"
            );
            assert!(tried.len() <= 32, "{truth}: {} steps", tried.len());
        }
    }

    #[test]
    fn what_bears_nothing_and_what_bears_all_is_said() {
        let (found, tried) = search(10.0, 1_000.0, |_| false, |_| 0.0);
        assert!(matches!(found, Found::NotEven(rate) if rate < 2.0), "{found:?}");
        assert!(tried.len() < 8);
        let (found, _) = search(10.0, 1_000.0, |_| true, |rate| rate);
        assert_eq!(found, Found::Beyond(1_000.0));
        let (found, _) = search(10.0, 1e5, |_| true, |rate| rate.min(50.0));
        assert!(matches!(found, Found::Levelled(_)), "{found:?}");
    }

    #[test]
    fn it_ends_with_answers_of_chance_too() {
        for seed in 0..200 {
            let random = std::cell::RefCell::new(fastrand::Rng::with_seed(seed));
            search(1.0, 10_000.0, |_| random.borrow_mut().bool(), |rate| rate);
        }
    }
}
