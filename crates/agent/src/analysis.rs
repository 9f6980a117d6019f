//! `GET /v1/analysis`: what takes which service down. The main loop hands out what it knows; all reckoning is done elsewhere.

use crate::agent::Agent;
use crate::cluster::Clustered;
use analysis::history::History;
use analysis::{Budget, Observed, Options};
use api::analysis::{Finding, Report};
use model::hardware::Hardware;
use model::{Cluster, Timing};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// An answer younger than this is given again: many may ask, and it takes a core while it is made.
const FRESH: Duration = Duration::from_secs(1);

/// What is looked at: copies, so that the main loop goes on.
pub(crate) struct Seen {
    status: Arc<api::Status>,
    cluster: Arc<Cluster>,
    timing: Option<Timing>,
    voters: BTreeSet<String>,
    witnesses: BTreeSet<String>,
    machines: BTreeMap<String, String>,
    /// Where each node is reached.
    hosts: BTreeMap<String, IpAddr>,
    hardware: BTreeMap<String, Hardware>,
    history: Arc<History>,
}

/// The last answers, by the order of their cut sets.
pub(crate) type Answers = Arc<Mutex<BTreeMap<u32, (Instant, Report)>>>;

impl Seen {
    pub(crate) fn of(agent: &Agent, status: Arc<api::Status>) -> Self {
        let members = agent.clustered.as_ref().map(|cluster| &cluster.members);
        let named = |is: fn(&api::record::Member) -> bool| -> BTreeSet<String> {
            let members = members.into_iter().flatten();
            members
                .filter(|(_, member)| is(member))
                .map(|(node, _)| node.to_string())
                .collect()
        };
        let hardware = match &agent.clustered {
            Some(cluster) => {
                // What a node told that was removed since counts no more.
                let told = cluster.hardware.iter();
                let told = told.filter(|(node, _)| cluster.members.contains_key(*node));
                told.map(|(node, seen)| (node.to_string(), seen.clone())).collect()
            }
            None => {
                let nodes = status.nodes.iter();
                nodes.map(|node| (node.name.clone(), agent.hardware.clone())).collect()
            }
        };
        let hosts = members.into_iter().flatten();
        let hosts = hosts.map(|(node, member)| (node.to_string(), member.host)).collect();
        Self {
            hosts,
            hardware,
            history: Arc::clone(&agent.history),
            status,
            cluster: Arc::clone(&agent.cluster),
            timing: agent.clustered.as_ref().map(|cluster| cluster.timing),
            voters: named(|member| member.votes),
            witnesses: named(|member| !member.runs_services),
            machines: agent.clustered.as_ref().map(machines).unwrap_or_default(),
        }
    }

    pub(crate) fn observed(&self) -> Observed<'_> {
        Observed {
            status: &self.status,
            cluster: &self.cluster,
            timing: self.timing.as_ref(),
            voters: self.voters.clone(),
            witnesses: self.witnesses.clone(),
            machines: self.machines.clone(),
            hardware: self.hardware.clone(),
            history: Some(&self.history),
        }
    }

    /// The whole report. Takes up to about a second of a core: not for the main loop.
    pub(crate) fn report(&self, order: u32) -> Report {
        let mut report = analysis::live(&self.observed(), &options(order));
        // What its checks said of the devices that slots of a lost node wait for.
        let weak = self
            .status
            .problems
            .iter()
            .filter(|problem| problem.code == "fence-device");
        report.findings.extend(weak.map(|problem| Finding {
            code: problem.code.clone(),
            title: "a fence device does not answer".into(),
            severity: problem.severity,
            about: problem.about.clone(),
            text: problem.text.clone(),
            hint: problem.hint.clone(),
        }));
        report
    }

    /// The fault trees, for other tools.
    pub(crate) fn open_psa(&self) -> String {
        analysis::openpsa::write(&analysis::system::logic(&analysis::observed(&self.observed())))
    }

    /// What a file makes worse.
    pub(crate) fn risks(&self, new: &Cluster) -> Vec<String> {
        let mut told = analysis::risks_of_change(&self.observed(), new, &options(2));
        if self.cluster.site != new.site {
            told.push("what is told of machines and rates changes; nothing is started or stopped for it".into());
        }
        told.extend(behind_their_node(new, &self.hosts));
        told
    }
}

/// Fence devices that are reached at the address of the very node whose power they take away.
fn behind_their_node(file: &Cluster, hosts: &BTreeMap<String, IpAddr>) -> Vec<String> {
    let mut told = Vec::new();
    for (node, place) in &file.site.nodes {
        let Some(host) = hosts.get(node.as_str()) else { continue };
        let reached = |device: &&model::FenceDevice| {
            let addresses = ["ip", "ipaddr"].iter().filter_map(|name| device.parameters.get(*name));
            addresses
                .filter_map(|address| address.parse::<IpAddr>().ok())
                .any(|address| address == *host)
        };
        if let Some(device) = place.fence.iter().find(reached) {
            told.push(format!(
                "the fence device of node {node} ({}) is reached at the address of that node: when the node is lost, nobody can say that it is off",
                device.shown()
            ));
        }
    }
    told
}

/// Which machine each node is on, by what its agent and its address say: two at one address are one machine, and so are two that run on one
/// kernel, whatever they are called.
fn machines(cluster: &Clustered) -> BTreeMap<String, String> {
    let boots = cluster
        .sessions
        .iter()
        .filter(|(_, session)| !session.record.boot.is_empty())
        .map(|(node, session)| (node.to_string(), session.record.boot.clone()));
    let hosts = cluster.members.iter();
    let hosts = hosts.map(|(node, member)| (node.to_string(), member.host.to_string()));
    // Two kernels with one identity of the firmware are one machine, or copies of one whose identity was not renewed: that cannot be told apart
    // from here, and the worse of both is reckoned with.
    let products = cluster.hardware.iter();
    let products = products.filter_map(|(node, seen)| Some((node.to_string(), seen.product.clone()?)));
    together(&[hosts.collect(), boots.collect(), products.collect()])
}

/// Nodes that have any sign in common, near or far, are of one name: all of theirs. Without company a node has its own.
fn together(signs: &[BTreeMap<String, String>]) -> BTreeMap<String, String> {
    let mut groups: Vec<BTreeSet<&String>> = Vec::new();
    for sign in signs {
        let mut same: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
        for (node, value) in sign {
            same.entry(value).or_default().insert(node);
        }
        for mut joined in same.into_values() {
            groups.retain(|group| {
                let apart = group.is_disjoint(&joined);
                if !apart {
                    joined.extend(group);
                }
                apart
            });
            groups.push(joined);
        }
    }
    let named = groups.into_iter().flat_map(|group| {
        let names: Vec<&str> = group.iter().map(|node| node.as_str()).collect();
        let name = match names.as_slice() {
            [one] => (*one).to_owned(),
            names => format!("of {}", names.join(" and ")),
        };
        group
            .into_iter()
            .map(move |node| (node.clone(), name.clone()))
            .collect::<Vec<_>>()
    });
    named.collect()
}

/// Bounded by steps of work, not by a clock: the same cluster has the same answer.
fn options(order: u32) -> Options {
    let mut options = Options {
        budget: Budget {
            evaluations: 600,
            ..Budget::default()
        },
        ..Options::default()
    };
    options.limits.order = order as usize;
    options.limits.nodes = 200_000;
    options.limits.steps = 2_000_000;
    options.limits.sets = 20_000;
    options
}

/// An answer that is fresh enough, if there is one.
pub(crate) fn fresh(answers: &BTreeMap<u32, (Instant, Report)>, order: u32) -> Option<Report> {
    let (at, report) = answers.get(&order)?;
    (at.elapsed() < FRESH).then(|| report.clone())
}

#[cfg(test)]
mod tests {
    use super::together;
    use std::collections::BTreeMap;

    fn signs(of: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(node, sign): &(&str, &str)| ((*node).to_owned(), (*sign).to_owned());
        of.iter().map(owned).collect()
    }

    #[test]
    fn nodes_with_one_address_or_one_kernel_are_one_machine() {
        let hosts = signs(&[
            ("a", "10.0.0.1"),
            ("b", "10.0.0.2"),
            ("c", "10.0.0.2"),
            ("d", "10.0.0.4"),
        ]);
        // What has no session says nothing of its kernel: d.
        let boots = signs(&[("a", "x"), ("b", "x"), ("c", "y")]);
        let found = together(&[hosts, boots]);
        let all = "of a and b and c";
        assert_eq!(found, signs(&[("a", all), ("b", all), ("c", all), ("d", "d")]));
    }
}
