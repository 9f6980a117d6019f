//! What the operator tells of the machines and of what they hang on: nothing runs by it, `analyze` reckons with it.

use crate::{AfterFence, FenceDevice, Millis, NodeName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Where nodes stand, what feeds them, and how often what fails.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// The nodes that were told of.
    #[serde(default)]
    pub nodes: BTreeMap<NodeName, Place>,
    /// Zones whose rate was told, by path.
    #[serde(default)]
    pub zones: BTreeMap<String, Rate>,
    /// Power feeds.
    #[serde(default)]
    pub feeds: BTreeMap<String, Rate>,
    /// Switches.
    #[serde(default)]
    pub switches: BTreeMap<String, Switch>,
    /// What services need and we do not run.
    #[serde(default)]
    pub externals: BTreeMap<String, Rate>,
    /// Rates of all things of a kind, where one of them has none of its own.
    #[serde(default)]
    pub rates: BTreeMap<RateKind, Rate>,
    /// Of a million failures of an active so many are found and failed over without anybody's help.
    #[serde(default)]
    pub coverage_ppm: Option<u32>,
    /// How long a person takes where that did not work.
    #[serde(default)]
    pub by_hand: Option<Millis>,
}

/// Where a node stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// A path of failure domains such as `dc1/rack3`.
    pub zone: Option<String>,
    /// Power feeds, of which any one is enough.
    pub feeds: BTreeSet<String>,
    /// Switches, of which any one is enough.
    pub switches: BTreeSet<String>,
    /// How often it fails.
    pub rate: Rate,
    /// What takes its power away: all of them, in this order.
    #[serde(default)]
    pub fence: Vec<FenceDevice>,
    /// What becomes of it then.
    #[serde(default)]
    pub after_fence: AfterFence,
}

/// A switch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// Switches that it hangs on, of which any one is enough; none if it hangs on nothing.
    pub uplinks: BTreeSet<String>,
    /// How often it fails.
    pub rate: Rate,
}

/// How often something fails, and for how long; `None` is an assumption of ours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Mean time from its repair to its next failure.
    pub mttf: Option<Millis>,
    /// Mean time from its failure to its repair.
    pub mttr: Option<Millis>,
}

/// Kinds of things that fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RateKind {
    /// The process of an instance.
    Process,
    /// A machine.
    Node,
    /// A failure domain: a rack, a room, a data centre.
    Zone,
    /// A power feed.
    Feed,
    /// A switch.
    Switch,
    /// Something that we do not run.
    External,
    /// A fault of the software that all instances of a service have at once.
    Software,
}

/// What a service depends on beyond [`needs`](crate::Service::needs), and what it has to keep.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reliability {
    /// External things without which it does not work.
    #[serde(default)]
    pub externals: BTreeSet<String>,
    /// Groups of services and externals: one of each group is enough.
    #[serde(default)]
    pub any_of: Vec<BTreeSet<String>>,
    /// Services and externals without which it works, though not as well.
    #[serde(default)]
    pub uses: BTreeSet<String>,
    /// It may be down for so many parts of a billion.
    #[serde(default)]
    pub unavailable_ppb_max: Option<u64>,
    /// At least so many failures must be needed to take it down.
    #[serde(default)]
    pub distance_min: Option<u32>,
    /// How often an instance's process fails, and how long it takes to come back.
    #[serde(default)]
    pub rate: Rate,
}
