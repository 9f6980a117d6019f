//! `GET /v1/analysis` and `understudy analyze --json`: what takes which service down, and how often that is to be expected.

use crate::Severity;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// Version of this JSON.
    pub version: u32,
    /// Name of the cluster.
    pub cluster: String,
    /// `running`: the cluster as it is now; `declared`: a file, placed as it would be.
    pub of: String,
    /// When the running cluster was looked at; absent for a file.
    pub at: Option<String>,
    /// Cut sets of at most so many things are listed.
    pub order: u32,
    /// The services, by name.
    pub services: Vec<ServiceReport>,
    /// Where everything is: zones with their nodes, nodes without a zone first.
    pub zones: Vec<ZonePicture>,
    /// Each single thing that takes a service down, the widest first.
    pub spofs: Vec<Spof>,
    /// What else is amiss, worst first.
    pub findings: Vec<Finding>,
    /// What would help most, best first: changes, alone and together, each reckoned with the changed system.
    pub advice: Vec<Advice>,
    /// Rates that nobody gave: "node: mttf 180d, mttr 4h".
    pub assumed: Vec<String>,
    /// Rates that were measured, from how many failures: they count before what was given.
    #[serde(default)]
    pub measured: Vec<String>,
    /// What nodes and instances have in common though nobody declared it: their agents see it.
    #[serde(default)]
    pub observed: Vec<ObservedThing>,
}

/// Something that several need, found by looking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ObservedThing {
    /// `disk`, `file-server` or `machine`.
    pub kind: String,
    /// Its name: `disk naa.5000c500a1b2c3d4`, `file server nas1`, `host hv7`.
    pub thing: String,
    /// What fails with it: nodes, store members, instances.
    pub below: Vec<String>,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceReport {
    /// Its name.
    pub name: String,
    /// How many instances must work.
    pub need: u32,
    /// How many there are.
    pub instances: u32,
    /// How many more failures take it down, given what has failed now: 0 is down, 1 one failure away; absent if it is more than `listed_to`.
    pub distance: Option<u32>,
    /// What was asked for.
    pub distance_target: Option<u32>,
    /// What of each kind may fail now without taking it down, each alone: `process`, `node`, `zone`, `feed`, `switch`, `external`, `voter`, `machine`, …
    pub survives: Vec<Survives>,
    /// Minimal cut sets: things whose joint failure takes it down, smallest first. Given what has failed now.
    pub cut_sets: Vec<CutSet>,
    /// All minimal cut sets of at most so many things are in `cut_sets`.
    pub listed_to: u32,
    /// How many minimal cut sets of 1, 2, … things there are; absent if they could not all be counted.
    pub by_order: Option<Vec<u64>>,
    /// Services and external things without which it works, though not as well.
    pub impaired_by: Vec<String>,
    /// How often it is to be expected to be down.
    pub availability: Availability,
    /// What matters most to that, most first.
    pub importance: Vec<Importance>,
}

/// Whether anything of a kind may fail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Survives {
    /// The kind.
    pub kind: String,
    /// Whether it survives the loss of any one of them.
    pub any: bool,
    /// Those it does not survive.
    pub not: Vec<String>,
}

/// Things that together take a service down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CutSet {
    /// Their names: `node a`, `zone dc1/rack1`.
    pub things: Vec<String>,
    /// That all have failed at a moment.
    pub probability: f64,
}

/// A prediction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Availability {
    /// Share of the time in which too much has failed at once.
    pub unavailability_static: f64,
    /// Share of the time in which a standby takes over, or somebody does what should have been automatic.
    pub unavailability_failover: f64,
    /// Both.
    pub unavailability: f64,
    /// −log₁₀ of it.
    pub nines: f64,
    /// Minutes in a year of 365.25 days.
    pub minutes_per_year: f64,
    /// The same with every assumed rate three times better …
    pub unavailability_best: f64,
    /// … and three times worse.
    pub unavailability_worst: f64,
    /// Whether it rests on rates that nobody gave.
    pub assumed: bool,
    /// Whether `unavailability_static` is exact; else it is an upper bound.
    pub exact: bool,
    /// What the static share is at least and at most, where it is not exact.
    pub bounds: Option<[f64; 2]>,
    /// What is allowed.
    pub target: Option<f64>,
    /// Whether that is kept.
    pub meets_target: Option<bool>,
    /// Share of requests that are lost to takeovers if nobody repeats them, whether or not enough of the others serve.
    pub requests_lost: f64,
}

/// How much a thing matters to a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Importance {
    /// Its name.
    pub thing: String,
    /// How often it has failed, as a share of the time.
    pub unavailability: f64,
    /// P(down | failed) − P(down | sound).
    pub birnbaum: f64,
    /// Share of the service's unavailability that goes with it.
    pub criticality: f64,
    /// By what factor the service is likelier down once it has failed.
    pub achievement: f64,
    /// By what factor it would be less down if it never failed; absent if it would never be.
    pub reduction: Option<f64>,
}

/// A zone with what is in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ZonePicture {
    /// Its path; empty for nodes that are in none.
    pub path: String,
    /// Services that its loss takes down.
    pub takes: Vec<String>,
    /// Nodes that are in it and in no narrower one.
    pub nodes: Vec<NodePicture>,
}

/// A node with what is on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodePicture {
    /// Its name.
    pub name: String,
    /// Whether it has failed, or is in maintenance.
    pub failed: bool,
    /// Services that its loss takes down.
    pub takes: Vec<String>,
    /// Power feeds, of which any one is enough.
    pub feeds: Vec<String>,
    /// Switches, of which any one is enough.
    pub switches: Vec<String>,
    /// What runs there.
    pub instances: Vec<InstancePicture>,
    /// For each service its loss, or its drain, brings nearer to an outage: how near. A drain is safe if none is 0.
    pub if_lost: Vec<IfLost>,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InstancePicture {
    /// Its name.
    pub id: String,
    /// Of which service.
    pub service: String,
    /// `active` or `standby`.
    pub role: String,
    /// Whether it has failed.
    pub failed: bool,
}

/// How near a service is to an outage after a loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct IfLost {
    /// The service.
    pub service: String,
    /// Its distance then; 0 is down.
    pub distance: u32,
}

/// A single point of failure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Spof {
    /// Its kind: `node`, `zone`, `switch`, …
    pub kind: String,
    /// Its name: `node a`.
    pub thing: String,
    /// The services it takes down.
    pub takes: Vec<String>,
    /// What is behind it: the instances, nodes, switches that go with it.
    pub behind: Vec<String>,
    /// A wider one that takes at least the same services: mend that, and this may be mended too.
    pub within: Option<String>,
    /// In one sentence.
    pub text: String,
    /// Nobody declared it: agents see that several need it.
    #[serde(default)]
    pub observed: bool,
    /// The cheapest change that removes it, verified on the changed system; absent if none was found.
    pub fix: Option<Fix>,
}

/// A change, or several together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Fix {
    /// What to do, in order.
    pub actions: Vec<String>,
    /// What it costs: 1 is the move of an instance; a new machine is 10.
    pub cost: f64,
    /// What the changed system still cannot bear the loss of, of what this was to mend: empty when all of it is.
    pub leaves: Vec<String>,
}

/// Something that is amiss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// Name in the catalogue: `quorum-in-one-zone`.
    pub code: String,
    /// What is wrong, in a few words.
    pub title: String,
    /// How bad.
    pub severity: Severity,
    /// What it is about.
    pub about: String,
    /// What is wrong, in whole sentences.
    pub text: String,
    /// What to do.
    pub hint: String,
}

/// What a change would buy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Advice {
    /// For which service.
    pub service: String,
    /// What to do, all of it.
    pub actions: Vec<String>,
    /// What it costs: 1 is the move of an instance; a new machine is 10.
    pub cost: f64,
    /// Unavailability of the service now …
    pub before: f64,
    /// … and with the change.
    pub after: f64,
    /// How many nines it buys: log₁₀(before / after).
    pub nines: f64,
    /// Its single points of failure that are left.
    pub spofs_left: Vec<String>,
}
