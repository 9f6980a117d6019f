//! What came of a test, for people and programs.

use api::{Saturation, Suspect};
use serde::{Deserialize, Serialize};

/// What came of a test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Version of this JSON.
    pub version: u32,
    /// The service.
    pub service: String,
    /// What was asked of it: "GET /".
    pub request: String,
    /// Where.
    pub address: String,
    /// The objective: "p99 < 200 ms".
    pub objective: String,
    /// Of that, the time in milliseconds.
    pub objective_ms: f64,
    /// When it began, RFC 3339 in UTC.
    pub began: String,
    /// How long it took, seconds.
    pub took_s: f64,
    /// How it ended.
    pub ended: Ended,
    /// The largest load that meets the objective; absent if none was seen to.
    pub largest: Option<Largest>,
    /// Where latency begins to rise steeply, requests a second.
    pub knee: Option<f64>,
    /// How throughput grows with concurrency, if enough was measured.
    pub scalability: Option<Scalability>,
    /// The steps in their order.
    pub steps: Vec<StepReport>,
    /// Why these figures are to be distrusted; empty if they are not.
    pub distrust: Vec<String>,
    /// What limits it. Absent when nothing was held up.
    pub bottleneck: Option<Limits>,
    /// What would be full next, by what was measured.
    pub saturation: Vec<Saturation>,
    /// What one more instance of what limits it buys.
    pub one_more: Option<OneMore>,
    /// What is left after losses.
    pub after_losses: Vec<AfterLoss>,
}

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// `found`, `measured` (one rate was asked for) or `aborted`.
    pub how: String,
    /// In a sentence.
    pub text: String,
}

/// The largest load that meets the objective.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Largest {
    /// Requests a second.
    pub load: f64,
    /// This much did not meet it; absent if the search ended before one did not.
    pub unmet: Option<f64>,
}

/// The universal scalability law, fitted to the steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scalability {
    /// Requests a second of one at a time.
    pub gamma: f64,
    /// The share that is done one at a time.
    pub sigma: f64,
    /// What each pair costs.
    pub kappa: f64,
    /// Requests at once beyond which throughput falls; absent if it only levels off.
    pub turning_point: Option<f64>,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Requests a second that were asked for.
    pub rate: f64,
    /// Requests that were due while it was measured.
    pub planned: u64,
    /// Answers a second.
    pub goodput: f64,
    /// Failed, of those that were due.
    pub failed: u64,
    /// How.
    pub failures: Vec<(String, u64)>,
    /// Half took at most, milliseconds; absent if that many failed.
    pub p50_ms: Option<f64>,
    /// 95 % took at most.
    pub p95_ms: Option<f64>,
    /// 99 % took at most.
    pub p99_ms: Option<f64>,
    /// What the objective speaks of.
    pub objective_ms: Option<f64>,
    /// The slowest answer.
    pub max_ms: f64,
    /// Whether the objective was met.
    pub met: bool,
    /// It was ended before its time.
    pub cut_short: bool,
    /// How late requests were sent, 99th percentile, milliseconds.
    pub lag_p99_ms: f64,
    /// Processor time of the generator, share of one processor.
    pub generator_cpu: f64,
    /// Requests inside each service and in none that it calls, mean.
    pub own: Vec<(String, f64)>,
    /// Processors that each service used.
    pub cpu: Vec<(String, f64)>,
}

/// A percentile of fewer requests than this is chance.
const REQUESTS_MIN: u64 = 5;

impl StepReport {
    /// Whether enough requests were due while it was measured for it to tell anything.
    pub fn tells(&self) -> bool {
        self.planned >= REQUESTS_MIN
    }
}

/// What limits the service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// At this rate it was seen.
    pub rate: f64,
    /// One sentence.
    pub summary: String,
    /// What shows that something is held up.
    pub signs: Vec<String>,
    /// Requests that wait.
    pub excess: f64,
    /// Who is to blame.
    pub suspects: Vec<Suspect>,
    /// The share of each service.
    pub shares: Vec<(String, f64)>,
}

/// What one more instance buys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OneMore {
    /// Of which service.
    pub service: String,
    /// The largest load then, at least; absent if it buys nothing.
    pub at_least: Option<f64>,
    /// At most, if known.
    pub at_most: Option<f64>,
    /// In a sentence.
    pub text: String,
}

/// What is left after a loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AfterLoss {
    /// Of which service.
    pub service: String,
    /// What is lost.
    pub lost: String,
    /// Largest load until standbys serve, at least.
    pub meanwhile: f64,
    /// At most; absent if that is not known, as where more was not tried.
    #[serde(default)]
    pub meanwhile_at_most: Option<f64>,
    /// Largest load from then on, at least.
    pub after: f64,
    /// At most, if known.
    #[serde(default)]
    pub after_at_most: Option<f64>,
    /// In a sentence.
    pub text: String,
}
