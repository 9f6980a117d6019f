//! `analyze`: a file, a fault tree, and the running cluster's answer as it is shown.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Fake, Ran, Reply, run_in, sample};
use serde_json::Value;
use std::path::Path;

fn example() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/racks.toml");
    path.to_str().unwrap().to_owned()
}

fn json(ran: &Ran) -> Value {
    serde_json::from_str(ran.ok()).unwrap()
}

/// a, b with c, b with d; 1e-3, 1e-2, 2e-2, 3e-2.
const TREE: &str = "<opsa-mef><define-fault-tree name=\"t\"><define-gate name=\"top\"><or><event name=\"a\"/>\
    <and><event name=\"b\"/><or><event name=\"c\"/><event name=\"d\"/></or></and></or></define-gate></define-fault-tree><model-data>\
    <define-basic-event name=\"a\"><float value=\"1e-3\"/></define-basic-event><define-basic-event name=\"b\"><float value=\"1e-2\"/></define-basic-event>\
    <define-basic-event name=\"c\"><float value=\"2e-2\"/></define-basic-event><define-basic-event name=\"d\"><float value=\"3e-2\"/></define-basic-event>\
    </model-data></opsa-mef>";

#[test]
fn a_file_is_analyzed_as_it_would_be_placed() {
    let folder = tempfile::tempdir().unwrap();
    let ran = run_in(folder.path(), &["analyze", &example()]);
    for part in [
        "zone dc1/rack1 ! takes db",
        "node c",
        "(power ups-1; network sw-1 or sw-2)",
        "1 failure",
        "fix: ",
        "warning distance-below-target",
        "assumed, because nobody gave it",
    ] {
        assert!(ran.ok().contains(part), "{part} is missing in\n{}", ran.stdout);
    }
    let report = json(&run_in(
        folder.path(),
        &["analyze", &example(), "--json", "--order", "2"],
    ));
    assert_eq!(report["of"], "declared");
    let db = &report["services"][0];
    assert_eq!((&db["name"], &db["distance"]), (&"db".into(), &1.into()));
    assert!(
        db["cut_sets"]
            .as_array()
            .unwrap()
            .iter()
            .any(|set| set["things"][0] == "zone dc1/rack1")
    );
    let picture = run_in(folder.path(), &["analyze", &example(), "--export", "svg"]);
    assert!(picture.ok().starts_with("<svg"));
}

#[test]
fn what_is_exported_is_solved_to_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let ran = run_in(folder.path(), &["analyze", &example(), "--export", "open-psa"]);
    let path = folder.path().join("own.xml");
    std::fs::write(&path, ran.ok()).unwrap();
    let solved = json(&run_in(
        folder.path(),
        &[
            "analyze",
            "--open-psa",
            path.to_str().unwrap(),
            "--json",
            "--top",
            "tree_db.top",
        ],
    ));
    let report = json(&run_in(folder.path(), &["analyze", &example(), "--json"]));
    let declared = report["services"][0]["availability"]["unavailability_static"]
        .as_f64()
        .unwrap();
    assert!((solved["probability"].as_f64().unwrap() / declared - 1.0).abs() < 1e-9);
    assert_eq!(solved["by_order"], report["services"][0]["by_order"]);
}

#[test]
fn a_fault_tree_is_solved_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree.xml");
    std::fs::write(&path, TREE).unwrap();
    let path = path.to_str().unwrap();
    let solved = json(&run_in(folder.path(), &["analyze", "--open-psa", path, "--json"]));
    assert_eq!(solved["minimal_cut_sets"], 3);
    assert_eq!(solved["by_order"], serde_json::json!([1, 2]));
    assert_eq!(solved["cut_sets"], serde_json::json!([["a"], ["b", "c"], ["b", "d"]]));
    assert_eq!(solved["exact"], true);
    assert!((solved["probability"].as_f64().unwrap() - 1.493506e-3).abs() < 1e-12);
    let first = json(&run_in(
        folder.path(),
        &["analyze", "--open-psa", path, "--json", "--order", "1"],
    ));
    assert_eq!(
        (&first["minimal_cut_sets"], &first["cut_sets"]),
        (&3.into(), &serde_json::json!([["a"]]))
    );
    let words = run_in(folder.path(), &["analyze", "--open-psa", path]);
    assert!(
        words.ok().contains("minimal cut sets  3: 1 of 1, 2 of 2"),
        "{}",
        words.stdout
    );
}

#[test]
fn a_damaged_fault_tree_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree.xml");
    for (text, place) in [
        (&TREE[..200], "tree.xml:1:"),
        (&TREE.replace("name=\"d\"/>", "name=\"e\"/>"), "there is no event `e`"),
    ] {
        std::fs::write(&path, text).unwrap();
        let ran = run_in(
            folder.path(),
            &["analyze", "--open-psa", path.to_str().unwrap(), "--json"],
        );
        assert!(ran.failed().contains(place), "{}", ran.stderr);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    }
    let ran = run_in(folder.path(), &["analyze", "--open-psa", "none.xml"]);
    assert!(ran.failed().contains("none.xml"), "{}", ran.stderr);
}

#[test]
fn the_running_cluster_answers_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    let report = json(&run_in(folder.path(), &["analyze", &example(), "--json"]));
    let fake = Fake::shop();
    fake.on("GET /v1/analysis", Reply::Json(200, report.to_string()));
    fake.on("GET /v1/analysis?order=1", Reply::Json(200, report.to_string()));
    assert!(fake.run(&["analyze"]).ok().contains("zone dc1/rack1 ! takes db"));
    let again: Value = serde_json::from_str(fake.run(&["analyze", "--json", "--order", "1"]).ok()).unwrap();
    assert_eq!(again["spofs"], report["spofs"]);
    assert_eq!(sample::status()["cluster"], "shop");
}
