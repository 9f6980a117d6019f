//! What is said of it: to whoever reads the events, and whoever looks at the status.

use super::Facts;
use crate::agent::Agent;
use crate::clock;
use api::Severity;
use decisions::power::Holdup;
use model::{FenceBy, FenceRecord, FenceState, NodeName, Revision};
use std::collections::BTreeMap;

impl Agent {
    /// What is wrong with power fencing, in plain words.
    pub(crate) fn power_problems(&self) -> Vec<api::Problem> {
        let Some(cluster) = &self.clustered else {
            return Vec::new();
        };
        let unproven = cluster.power.unproven.iter();
        let unproven: BTreeMap<NodeName, Revision> = unproven.map(|(node, (id, _))| (node.clone(), *id)).collect();
        let facts = Facts::of(cluster, &self.cluster, unproven);
        let situation = facts.situation(cluster);
        let mut problems = Vec::new();
        for (node, (_, since)) in &cluster.power.unproven {
            let services = self.core.fenced_by_power_at(node);
            let services: Vec<&str> = services.iter().map(model::ServiceName::as_str).collect();
            let holdup = match cluster.paused || self.core.is_paused() {
                true => "automatic actions are paused".to_owned(),
                false => words(node, &cluster.power.fencer.holdup(node, &situation)),
            };
            problems.push(api::Problem {
                code: "not-known-off".into(),
                severity: Severity::Error,
                about: node.to_string(),
                text: format!("node {node} is lost, and nobody takes what it holds of {}: {holdup}", services.join(", ")),
                hint: format!(
                    "if you see that it is off: `understudy force SERVICE --node-is-off {node}`; to try now: `understudy fence {node}`"
                ),
                since: clock::shown(*since),
            });
        }
        let shares: Vec<String> = self
            .cluster
            .services
            .iter()
            .filter(|(_, service)| service.fence == FenceBy::Power)
            .map(|(name, _)| name.to_string())
            .collect();
        for (node, since) in cluster.power.of_before.iter().filter(|_| !shares.is_empty()) {
            problems.push(api::Problem {
                code: "fence-unknown".into(),
                severity: Severity::Error,
                about: node.to_string(),
                text: format!(
                    "the agent of node {node} is of a version that knows nothing of power fencing: it may take the slots of {} from a lost node that still writes",
                    shares.join(", ")
                ),
                hint: format!("install this version on node {node}"),
                since: clock::shown(*since),
            });
        }
        for (node, check) in &cluster.power.checks {
            let declared = self
                .cluster
                .site
                .nodes
                .get(node)
                .is_some_and(|place| !place.fence.is_empty());
            if let Some(trouble) = check.trouble.as_ref().filter(|_| declared) {
                problems.push(api::Problem {
                    code: "fence-device".into(),
                    severity: Severity::Warning,
                    about: node.to_string(),
                    text: format!(
                        "the power of node {node} could not be taken away now: {trouble}. Should it be lost, nobody takes what it holds of services \
                         with `fence = \"power\"`"
                    ),
                    hint: format!("`understudy fence --test {node}` asks its devices again"),
                    since: clock::shown_wall(check.since),
                });
            }
        }
        problems
    }
}

pub(super) fn in_words(node: &NodeName, record: &FenceRecord) -> (Severity, &'static str, String) {
    let by = &record.by;
    match &record.state {
        FenceState::Powering => (
            Severity::Warning,
            "fencing",
            format!(
                "node {by} takes the power of node {node} away (attempt {})",
                record.tries
            ),
        ),
        FenceState::Failed(why) => (
            Severity::Error,
            "fence-failed",
            format!("the power of node {node} could not be taken away: {why}"),
        ),
        FenceState::Off => (
            Severity::Warning,
            "fenced-off",
            format!("node {node} is off: every device of it says so"),
        ),
        FenceState::Done => (
            Severity::Info,
            "fenced-off",
            format!("the fencing of node {node} is over"),
        ),
        FenceState::Withdrawn => (
            Severity::Info,
            "fence-withdrawn",
            format!("node {node} is back, so nobody takes its power away"),
        ),
    }
}

pub(super) fn words(node: &NodeName, holdup: &Holdup) -> String {
    match holdup {
        Holdup::NoDevice => format!("no device is declared that could take its power away (`[node.{node}.fence]`)"),
        Holdup::Needed => "without it the store may have no majority, and nobody could note that it is off".into(),
        Holdup::Braked { lost, of } => format!(
            "{lost} of {of} nodes were lost at once, more than a third: nobody's power is taken away before an operator says which node is to be fenced"
        ),
        Holdup::Failed { why, tries } => {
            format!("its power could not be taken away in {tries} attempts: {why}; it is tried again")
        }
        Holdup::Powering { by } => format!("node {by} takes its power away"),
        Holdup::Soon => "its power is taken away in a moment".into(),
    }
}
