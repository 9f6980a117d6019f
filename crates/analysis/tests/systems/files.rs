//! From the operator's file to the report.

use analysis::{Options, planned};
use api::analysis::Report;

fn analyzed(text: &str) -> Report {
    let parsed = spec::parse(text, "shop.toml").unwrap_or_else(|errors| panic!("{errors}"));
    planned(&parsed.cluster, &Options::default())
}

fn codes(report: &Report) -> Vec<&str> {
    report.findings.iter().map(|finding| finding.code.as_str()).collect()
}

const SHOP: &str = r#"
[service.db]
command = ["db", "{port}"]
exclusive = true
on_promote = ["promote"]
objective = { distance = 2 }
[service.web]
command = ["web", "{port}"]
active = 2
need = 1
needs = ["db", "payments"]
uses = ["mail"]
objective = { availability = "99.99%" }
[external.payments]
[external.mail]
"#;

fn three_racks(zones: [&str; 3]) -> String {
    let nodes: Vec<String> = ["a", "b", "c"]
        .iter()
        .zip(zones)
        .map(|(node, zone)| format!("[node.{node}]\nzone = \"{zone}\"\n"))
        .collect();
    format!("{}{SHOP}", nodes.concat())
}

#[test]
fn a_file_without_nodes_is_one_machine() {
    let report = analyzed(SHOP);
    assert!(codes(&report).contains(&"one-machine"), "{:?}", report.findings);
    let machine = report.spofs.iter().find(|spof| spof.thing == "this machine").unwrap();
    assert_eq!(machine.takes, ["db", "web"]);
    assert!(report.services.iter().all(|service| service.distance == Some(1)));
}

#[test]
fn three_racks_leave_only_what_is_external() {
    let report = analyzed(&three_racks(["dc1/r1", "dc2/r1", "dc3/r1"]));
    let spofs: Vec<&str> = report.spofs.iter().map(|spof| spof.thing.as_str()).collect();
    assert_eq!(spofs, ["external payments"]);
    assert_eq!(report.spofs[0].takes, ["web"]);
    let fix = report.spofs[0].fix.as_ref().unwrap();
    assert_eq!(fix.actions, ["a second payments for web, of which either is enough"]);
    let db = &report.services[0];
    assert_eq!((db.name.as_str(), db.distance), ("db", Some(2)));
    let web = &report.services[1];
    assert_eq!(web.impaired_by, ["mail"]);
    // payments alone, down 30 minutes in 30 days, is more than 0.01 %.
    assert_eq!(web.availability.meets_target, Some(false));
    assert!(codes(&report).contains(&"availability-below-target"));
    assert!(web.availability.assumed && web.availability.unavailability_best < web.availability.unavailability);
    assert!(
        report.assumed.iter().any(|line| line == "external: mttf 30d, mttr 30m"),
        "{:?}",
        report.assumed
    );
}

#[test]
fn a_common_zone_is_named_at_the_widest_level() {
    let report = analyzed(&three_racks(["dc1/r1", "dc1/r1", "dc1/r1"]));
    let widest = &report.spofs[0];
    assert_eq!((widest.thing.as_str(), widest.within.as_deref()), ("zone dc1", None));
    let rack = report.spofs.iter().find(|spof| spof.thing == "zone dc1/r1").unwrap();
    assert_eq!(rack.within.as_deref(), Some("zone dc1"));
    assert!(widest.behind.contains(&"node a".to_owned()));
    assert_eq!(report.services[0].distance, Some(1));
    assert!(codes(&report).contains(&"distance-below-target"));
}

#[test]
fn a_power_feed_across_the_racks_is_found() {
    let mut text = three_racks(["r1", "r2", "r3"]).replace("zone = \"r3\"", "zone = \"r3\"\nfeeds = [\"ups-1\"]");
    text = text
        .replace("zone = \"r1\"", "zone = \"r1\"\nfeeds = [\"ups-1\"]")
        .replace("zone = \"r2\"", "zone = \"r2\"\nfeeds = [\"ups-1\"]");
    let report = analyzed(&format!("{text}\n[feed.ups-1]\n"));
    let feed = report
        .spofs
        .iter()
        .find(|spof| spof.thing == "power feed ups-1")
        .unwrap();
    assert_eq!(feed.takes, ["db", "web"]);
    let fix = feed.fix.as_ref().unwrap();
    assert!(
        fix.actions
            .iter()
            .all(|action| action.starts_with("a second power feed")),
        "{fix:?}"
    );
}

#[test]
fn half_of_the_votes_in_one_zone_is_told() {
    let report = analyzed(&three_racks(["r1", "r1", "r2"]));
    assert!(codes(&report).contains(&"quorum-in-one-zone"), "{:?}", codes(&report));
}

/// By names alone `b` would be next, in the rack of `a`.
#[test]
fn instances_are_placed_by_the_zones_of_the_file() {
    let report = analyzed(&three_racks(["dc1/r1", "dc1/r1", "dc2/r1"]));
    let racks: Vec<&str> = report.spofs.iter().map(|spof| spof.thing.as_str()).collect();
    // The store has two of its three votes in dc1: that is the only reason for which it can take anything down.
    let db = &report.services[0];
    let placed: Vec<&str> = report
        .zones
        .iter()
        .flat_map(|zone| &zone.nodes)
        .filter(|node| node.instances.iter().any(|instance| instance.service == "db"))
        .map(|node| node.name.as_str())
        .collect();
    assert_eq!(placed, ["a", "c"], "{racks:?} {db:?}");
}

/// What `spread = "zone"` forbids is not reckoned with either.
#[test]
fn what_finds_no_zone_is_not_placed() {
    let strict =
        three_racks(["r1", "r1", "r2"]).replace("active = 2\n", "active = 2\nstandby = 1\nspread = \"zone\"\n");
    let web = &analyzed(&strict).services[1];
    assert_eq!((web.name.as_str(), web.instances), ("web", 2));
}

#[test]
fn the_json_can_be_read_again() {
    let report = analyzed(&three_racks(["r1", "r2", "r3"]));
    let text = serde_json::to_string(&report).unwrap();
    assert!(!text.contains("null,null"), "{text}");
    let again: Report = serde_json::from_str(&text).unwrap();
    assert_eq!(again.spofs, report.spofs);
    assert_eq!(again.services.len(), report.services.len());
}

/// The example of the documentation: two racks, of which one takes everything down.
const DOCUMENTED: &str = include_str!("../../../../examples/racks.toml");

#[test]
fn the_picture_of_the_documentation_is_what_the_example_gives() {
    let report = analyzed(DOCUMENTED);
    let picture = analysis::report::svg(&report);
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/analysis.svg");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &picture).unwrap();
    }
    roxmltree::Document::parse(&picture).unwrap();
    assert!(picture.contains("zone dc1/rack1 ! takes db"), "{picture}");
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        checked_in == picture,
        "docs/analysis.svg is not what the example gives: UPDATE_DOCS=1 cargo nextest run -p understudy-analysis"
    );
}
