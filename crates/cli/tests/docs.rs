//! `docs/cli.md` and `docs/openapi.json` are what the program says of itself. `UPDATE_DOCS=1` writes them.

mod common;

use std::path::Path;

#[test]
fn the_reference_is_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let made = common::run_in(folder.path(), &["markdown-help"]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, made.ok()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == made.ok(),
        "docs/cli.md is out of date: run this test with UPDATE_DOCS=1"
    );
    for command in ["up", "apply", "switchover", "drill node", "completions"] {
        assert!(written.contains(&format!(" {command}\n")), "{command} is missing");
    }
}

#[test]
fn the_api_document_is_up_to_date_and_names_every_route() {
    let folder = tempfile::tempdir().unwrap();
    let made = common::run_in(folder.path(), &["openapi"]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, made.ok()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == made.ok(),
        "docs/openapi.json is out of date: run this test with UPDATE_DOCS=1"
    );
    let document: serde_json::Value = serde_json::from_str(&written).unwrap();
    for route in [
        "/v1/status",
        "/v1/events/stream",
        "/v1/apply",
        "/v1/switchover",
        "/v1/down",
    ] {
        assert!(document["paths"][route].is_object(), "{route} is missing");
    }
}
