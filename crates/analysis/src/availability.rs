//! How often units with standbys are to be expected to be down: closed forms and birth–death chains.
//!
//! Rates are per hour, times in hours; λ = 1/MTTF, μ = 1/MTTR, ρ = λ/μ. A standby fails at αλ: 1 if it is hot, 0 if it is cold.
//! The formulas, and the figures that the tests hold them to, are those of any textbook on repairable systems.

/// A group of equal units, of which some are active and the rest stand by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// How many are active.
    pub active: u32,
    /// How many stand by.
    pub standby: u32,
    /// How many must work.
    pub need: u32,
    /// How many are repaired at a time.
    pub crews: u32,
    /// Failures of an active per hour.
    pub failures_per_hour: f64,
    /// Hours to repair one.
    pub repair_hours: f64,
    /// How often a standby fails, as a share of how often an active does: 0 to 1.
    pub standby_rate: f64,
}

/// What is to be expected of a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// Share of the time in which fewer work than are needed.
    pub unavailability: f64,
    /// Outages per hour.
    pub outages_per_hour: f64,
    /// Mean hours of an outage.
    pub outage_hours: f64,
    /// Mean hours from all sound to the first outage.
    pub mttf_hours: f64,
}

impl Group {
    /// How fast the next one fails when `failed` have.
    fn failing(&self, failed: u32) -> f64 {
        let (n, m) = (f64::from(self.active), f64::from(self.standby));
        let failed = f64::from(failed);
        let active = n.min(n + m - failed);
        let standby = (m - failed).max(0.0);
        (active + standby * self.standby_rate) * self.failures_per_hour
    }

    fn repairing(&self, failed: u32) -> f64 {
        f64::from(failed.min(self.crews)) / self.repair_hours
    }

    /// By a birth–death chain over how many have failed.
    pub fn expected(&self) -> Expected {
        let all = self.active + self.standby;
        let mut weights = vec![1.0];
        for failed in 0..all {
            let last = weights[failed as usize];
            weights.push(last * self.failing(failed) / self.repairing(failed + 1));
        }
        let sum: f64 = weights.iter().sum();
        let is_up = |failed: u32| all - failed >= self.need;
        let down: f64 = (0..=all)
            .filter(|failed| !is_up(*failed))
            .map(|failed| weights[failed as usize])
            .sum();
        let Some(last_up) = (0..=all).rev().find(|failed| is_up(*failed)) else {
            return Expected {
                unavailability: 1.0,
                outages_per_hour: 0.0,
                outage_hours: f64::INFINITY,
                mttf_hours: 0.0,
            };
        };
        let outages_per_hour = weights[last_up as usize] / sum * self.failing(last_up);
        // First passage from j to j + 1: T_j = (1 + μ_j T_{j−1}) / Λ_j.
        let (mut step, mut mttf_hours) = (0.0, 0.0);
        for failed in 0..=last_up {
            let back = if failed == 0 {
                0.0
            } else {
                self.repairing(failed) * step
            };
            step = (1.0 + back) / self.failing(failed);
            mttf_hours += step;
        }
        let unavailability = down / sum;
        Expected {
            unavailability,
            outages_per_hour,
            outage_hours: unavailability / outages_per_hour,
            mttf_hours,
        }
    }
}

/// What happens when an active fails.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Takeover {
    /// The share of failures that are found and failed over by themselves: 0 to 1.
    pub coverage: f64,
    /// Hours from the failure to the standby serving.
    pub failover_hours: f64,
    /// Hours of somebody's work otherwise.
    pub by_hand_hours: f64,
}

impl Takeover {
    /// Mean hours without service for each failure of an active.
    pub fn hours(&self) -> f64 {
        self.coverage * self.failover_hours + (1.0 - self.coverage) * self.by_hand_hours
    }

    /// Coverage with standbys that may be dead unnoticed: each is tried every `every` hours and repaired in `repair` hours.
    pub fn with_hidden_failures(self, standby_failures_per_hour: f64, every: f64, repair: f64) -> Self {
        let dead = standby_failures_per_hour * (every / 2.0 + repair);
        Self {
            coverage: self.coverage * (1.0 - dead).clamp(0.0, 1.0),
            ..self
        }
    }
}

/// Unavailability of one active and one standby whose failover is not perfect.
pub fn pair(group: &Group, takeover: &Takeover) -> f64 {
    let load = group.failures_per_hour * group.repair_hours;
    let switching = group.failures_per_hour * takeover.hours();
    let alpha = group.standby_rate;
    let both = (1.0 + alpha) * load * load / f64::from(group.crews.clamp(1, 2));
    (switching + both) / (1.0 + switching + (1.0 + alpha) * load + both)
}

/// One unit: ρ/(1 + ρ).
pub fn single(failures_per_hour: f64, repair_hours: f64) -> f64 {
    let load = failures_per_hour * repair_hours;
    load / (1.0 + load)
}

/// Unavailability where at least `lost` of `of` units must fail, each failed with probability `q`, of which the share `beta` is common to all.
pub fn with_common_cause(q: f64, beta: f64, of: u32, lost: u32) -> f64 {
    let own = (1.0 - beta) * q;
    let mut at_least = 0.0;
    for failed in lost..=of {
        at_least += choose(of, failed) * own.powi(failed.cast_signed()) * (1.0 - own).powi((of - failed).cast_signed());
    }
    let common = beta * q;
    common + (1.0 - common) * at_least
}

fn choose(n: u32, k: u32) -> f64 {
    (0..k).map(|i| f64::from(n - i) / f64::from(i + 1)).product()
}

/// −log₁₀ of an unavailability.
pub fn nines(unavailability: f64) -> f64 {
    -unavailability.log10()
}

/// Minutes in a year of 365.25 days.
pub fn minutes_per_year(unavailability: f64) -> f64 {
    unavailability * 365.25 * 24.0 * 60.0
}
