//! The JSON of what limits a system.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /v1/bottleneck`: which service holds the others up now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Bottleneck {
    /// Version of this JSON.
    pub version: u32,
    /// When this was true.
    pub at: String,
    /// The seconds that were judged.
    pub over_s: u64,
    /// One sentence.
    pub summary: String,
    /// What shows that something is wrong; empty when nothing is.
    pub signs: Vec<String>,
    /// Requests in all services that need not be there; absent when nothing is wrong.
    pub excess: Option<f64>,
    /// Who is to blame; two if neither has half of it, none if nothing is wrong.
    pub suspects: Vec<Suspect>,
    /// Where requests spend their time, by service.
    pub services: Vec<SlowService>,
    /// What would be full first if traffic grew as it is, first the first. Only what the last hour shows with certainty.
    pub saturation: Vec<Saturation>,
}

/// A service that holds others up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Suspect {
    /// Its name; of what is not run here, its address.
    pub service: String,
    /// Its part of the excess, 0 to 1.
    pub share: f64,
    /// `cpu`, `io`, `memory`, `lock`, `pool`, `internal` or `external`.
    pub kind: String,
    /// In a sentence.
    pub text: String,
    /// The one instance that is slow while the others are not.
    pub instance: Option<String>,
    /// How many of its requests are worked on at once.
    pub parallelism: f64,
    /// What shows it.
    pub evidence: Vec<String>,
    /// What helps.
    pub advice: String,
}

impl From<&bottleneck::Suspect> for Suspect {
    fn from(suspect: &bottleneck::Suspect) -> Self {
        Self {
            service: suspect.service.clone(),
            share: suspect.share,
            kind: suspect.kind.code().into(),
            text: suspect.to_string(),
            instance: suspect.sick.clone(),
            parallelism: suspect.parallelism,
            evidence: suspect.evidence.clone(),
            advice: suspect.advice.to_string(),
        }
    }
}

/// Where requests spend their time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SlowService {
    /// The service.
    pub service: String,
    /// Requests that it answers.
    pub requests_per_second: f64,
    /// A request's time in it and in none that it calls, milliseconds.
    pub own_ms: f64,
    /// That time when there is little load; absent if it was never seen so.
    pub usual_ms: Option<f64>,
    /// Its part of the requests that wait, 0 to 1.
    pub share: f64,
}

/// When a resource is full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Saturation {
    /// The service.
    pub service: String,
    /// `cpu`.
    pub resource: String,
    /// At so many times the requests of now.
    pub times: f64,
    /// Standard error of that.
    pub error: f64,
    /// Share of its use that the rate explains, 0.8 at least.
    pub explained: f64,
    /// In a sentence.
    pub text: String,
}

/// `GET /v1/windows`: what the search for bottlenecks judges.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WindowPage {
    /// Version of this JSON.
    pub version: u32,
    /// The second of now, since the boot of the machine.
    pub now: u64,
    /// Seconds since boot, and what was seen in them: as `bottleneck::Window` writes it.
    #[schema(value_type = Vec<Object>)]
    pub windows: Vec<(u64, serde_json::Value)>,
}
