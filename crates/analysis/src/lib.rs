//! Single points of failure, cut sets, predicted availability: pure. No I/O, no clock, no randomness.
//!
//! ```text
//! file ── place ──┐
//!                 ├──► system ── logic ──► tree ── solve ──► cut sets, probability ──► report
//! status ─ observe┘                          ▲                                          ▲
//!                             Open-PSA ──────┘               actions: what the system would be if … ─┘
//! ```
//! [`live`] and [`planned`] are the two doors.

pub mod actions;
pub mod availability;
mod common;
pub mod distance;
pub mod history;
pub mod learn;
mod observe;
pub mod openpsa;
mod place;
mod predict;
pub mod report;
pub mod solve;
pub mod system;
pub mod tree;

pub use observe::{Observed, differences, observed};
pub use place::{THIS_MACHINE, declared};
pub use predict::{Prediction, predict};
pub use report::{Budget, Options, report};

use api::analysis::Report;
use model::Cluster;

/// The running cluster: declared against observed, given what has failed now.
pub fn live(seen: &Observed<'_>, options: &Options) -> Report {
    let system = observed(seen);
    let mut report = report(&system, "running", options);
    report.at = Some(seen.status.at.clone());
    // As `status` shows it.
    let nearest = distance::nearest(&system);
    for service in &mut report.services {
        let found = nearest.get(&service.name);
        let of_instances = seen.status.services.iter().find(|seen| seen.name == service.name);
        let of_instances = of_instances.and_then(|seen| Some(seen.outage.as_ref()?.instances));
        if let Some(of_instances) = of_instances
            && found.is_some_and(|found| found.failures.is_some() || of_instances == 0)
        {
            service.distance = Some(distance::shown(found, of_instances).0);
        }
    }
    report.findings.extend(differences(seen));
    report
        .findings
        .sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    report
}

/// A file, placed as it would be.
pub fn planned(cluster: &Cluster, options: &Options) -> Report {
    report(&declared(cluster), "declared", options)
}

/// What a change of the file makes worse: new single points of failure, shorter distances. A line each; empty if nothing.
///
/// Both files are placed anew on the nodes that are there, so that the two are compared and not the accidents of the day.
pub fn risks_of_change(seen: &Observed<'_>, new: &Cluster, options: &Options) -> Vec<String> {
    let quick = Options {
        budget: Budget {
            evaluations: 0,
            ..options.budget
        },
        ..*options
    };
    let on = |cluster: &Cluster| {
        let base = observe::base(&Observed {
            cluster,
            ..seen.clone()
        });
        report(&place::placed(cluster, base, seen.timing), "declared", &quick)
    };
    report::risks(&on(seen.cluster), &on(new))
}
