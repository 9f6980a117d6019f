//! `GET /v1/analysis`: what takes which service down. The main loop hands out what it knows; all reckoning is done elsewhere.

use crate::agent::Agent;
use analysis::{Budget, Observed, Options};
use api::analysis::Report;
use model::{Cluster, Timestamp, Timing};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// An answer younger than this is given again: many may ask, and it takes a core while it is made.
const FRESH: Duration = Duration::from_secs(1);

/// What is looked at: copies, so that the main loop goes on.
pub(crate) struct Seen {
    status: api::Status,
    cluster: Arc<Cluster>,
    timing: Option<Timing>,
    voters: BTreeSet<String>,
    witnesses: BTreeSet<String>,
    machines: BTreeMap<String, String>,
}

/// The last answers, by the order of their cut sets.
pub(crate) type Answers = Arc<Mutex<BTreeMap<u32, (Instant, Report)>>>;

impl Seen {
    pub(crate) fn of(agent: &Agent, now: Timestamp) -> Self {
        let members = agent.clustered.as_ref().map(|cluster| &cluster.members);
        let named = |is: fn(&api::record::Member) -> bool| -> BTreeSet<String> {
            let members = members.into_iter().flatten();
            members
                .filter(|(_, member)| is(member))
                .map(|(node, _)| node.to_string())
                .collect()
        };
        let machines = members.into_iter().flatten();
        Self {
            status: agent.status(now),
            cluster: Arc::clone(&agent.cluster),
            timing: agent.clustered.as_ref().map(|cluster| cluster.timing),
            voters: named(|member| member.votes),
            witnesses: named(|member| !member.runs_services),
            // Two nodes at one address are one machine, whatever they are called.
            machines: machines
                .map(|(node, member)| (node.to_string(), member.host.to_string()))
                .collect(),
        }
    }

    fn observed(&self) -> Observed<'_> {
        Observed {
            status: &self.status,
            cluster: &self.cluster,
            timing: self.timing.as_ref(),
            voters: self.voters.clone(),
            witnesses: self.witnesses.clone(),
            machines: self.machines.clone(),
            disks: BTreeMap::new(),
        }
    }

    /// The whole report. Takes up to about a second of a core: not for the main loop.
    pub(crate) fn report(&self, order: u32) -> Report {
        analysis::live(&self.observed(), &options(order))
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
        told
    }
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
