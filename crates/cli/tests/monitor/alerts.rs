//! Alerts reach a webhook, a command and a real Alertmanager; once; and again when they are over.

use super::world::{Other, PROGRAM, SOON, Webhook, get_tcp, json, socket, until};
use bench::process;
use bench::rig::{self, Rig};
use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

#[test]
fn an_alert_is_told_once_to_each_and_once_when_it_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let webhook = Webhook::start();
    let (manager, nobody) = (rig::free_address().unwrap(), rig::free_address().unwrap());
    std::fs::write(
        path("alertmanager.yml"),
        "route: { receiver: none }\nreceivers: [{ name: none }]\n",
    )
    .unwrap();
    let arguments = [
        format!("--config.file={}", path("alertmanager.yml")),
        format!("--storage.path={}", path("am")),
        format!("--web.listen-address={manager}"),
        "--cluster.listen-address=".to_owned(),
    ];
    let _alertmanager = Other::start("prometheus-alertmanager", &arguments, &folder.path().join("am.log"));
    std::fs::write(path("token"), "s3cret\n").unwrap();
    let (bad, told, hook) = (path("bad"), path("told"), &webhook.url);
    let file = format!(
        r#"
name = "shop"

[service.one]
command = ["sh", "-c", "test ! -e {bad} || exit 1; exec sleep 1000"]
standby = 0
restart = {{ backoff = "50ms", backoff_max = "200ms", replace_after = 1000 }}

[alerts]
webhook = ["{hook}", "http://{nobody}/"]
alertmanager = ["http://{manager}"]
command = ["sh", "-c", "cat >> {told}"]
token_file = "{token}"
heartbeat = "10s"
"#,
        token = path("token"),
    );
    let rig = Rig::up(Path::new(PROGRAM), "shop", &file).unwrap();
    let socket = socket(&rig, "shop");
    until("a heartbeat", SOON, || {
        webhook.told("UnderstudyHeartbeat", "").first().cloned()
    });
    assert!(webhook.told("UnderstudyServiceDown", "one").is_empty());

    std::fs::write(&bad, "").unwrap();
    let (_, pid) = rig::holder(&rig.status().unwrap(), "one", 0).unwrap();
    process::signal(pid, Signal::KILL).unwrap();
    until("the webhook to be told", SOON, || {
        webhook.told("UnderstudyServiceDown", "one").first().cloned()
    });
    let got = webhook.got.lock().unwrap().last().cloned().unwrap();
    assert_eq!(
        (got.body["version"].as_str(), got.body["status"].as_str()),
        (Some("4"), Some("firing"))
    );
    assert!(got.head.contains("authorization: bearer s3cret"), "{}", got.head);
    until("the command to be told", SOON, || {
        std::fs::read_to_string(&told)
            .ok()
            .filter(|told| told.contains("UnderstudyServiceDown"))
    });
    let in_manager = || {
        let alerts = get_tcp(manager, "/api/v2/alerts")?;
        let down = |alert: &&Value| alert["labels"]["alertname"] == "UnderstudyServiceDown";
        Some(alerts.as_array()?.iter().find(down).cloned())
    };
    let alert = until("Alertmanager to be told", SOON, || in_manager()?);
    assert_eq!(
        (alert["labels"]["about"].as_str(), alert["labels"]["cluster"].as_str()),
        (Some("one"), Some("shop"))
    );
    assert!(
        alert["annotations"]["action"]
            .as_str()
            .unwrap()
            .contains("understudy explain"),
        "{alert}"
    );

    // One receiver that is not there holds nobody up, and is named.
    let alerts = json(&socket, "/v1/alerts");
    let receivers = alerts["receivers"].as_array().unwrap();
    let failing: Vec<&str> = receivers
        .iter()
        .filter(|one| one["failing"].is_string())
        .filter_map(|one| one["to"].as_str())
        .collect();
    assert_eq!(failing, [format!("http://{nobody}/")]);

    // An agent that is killed and comes back goes on from what was told.
    let before = rig.own().unwrap().agent;
    process::signal(before, Signal::KILL).unwrap();
    until("another agent that knows of the alert", SOON, || {
        let other = rig.own().ok().filter(|own| own.agent != before)?;
        process::is_alive(other.agent).then_some(())?;
        let said = rig.run(&["alerts", "--json"]).ok()?;
        let alerts: Value = serde_json::from_slice(&said.stdout).ok()?;
        alerts["alerts"]
            .as_array()?
            .iter()
            .any(|one| one["code"] == "service-down")
            .then_some(())
    });
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(
        webhook.told("UnderstudyServiceDown", "one"),
        ["firing"],
        "it was told anew"
    );

    silences(&rig, &socket);

    std::fs::remove_file(&bad).unwrap();
    until("the word that it is over", SOON, || {
        webhook.told("UnderstudyServiceDown", "one").get(1).cloned()
    });
    assert_eq!(webhook.told("UnderstudyServiceDown", "one"), ["firing", "resolved"]);
    until("Alertmanager to forget it", SOON, || {
        in_manager()?.is_none().then_some(())
    });
}

fn silences(rig: &Rig, socket: &Path) {
    let refused = rig.run(&["silence", "servise-down", "--because", "x"]).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("there are service-down"),
        "{refused:?}"
    );
    for (words, told) in [
        (["--about", "nope", "--because", "x"], "no alert can be about `nope`"),
        (["--about", "one", "--because", "  "], "a silence needs a reason"),
    ] {
        let refused = rig
            .run(&[&["silence", "service-down"][..], &words[..]].concat())
            .unwrap();
        assert_eq!(refused.status.code(), Some(1), "{words:?}");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains(told), "{words:?}: {said}");
    }
    let done = rig
        .run(&[
            "silence",
            "service-down",
            "--about",
            "a",
            "--for",
            "1m",
            "--because",
            "disks are changed",
        ])
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    let alerts = json(socket, "/v1/alerts");
    let silence = &alerts["silences"][0];
    assert_eq!(
        (silence["code"].as_str(), silence["because"].as_str()),
        (Some("service-down"), Some("disks are changed"))
    );
    assert!(
        alerts["alerts"]
            .as_array()
            .unwrap()
            .iter()
            .all(|one| one["silenced"].is_null()),
        "{alerts}"
    );
    let shown = rig.run(&["alerts"]).unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("critical service-down  one")
            && shown.contains("disks are changed")
            && shown.contains(" explain one`")
            && !shown.contains("SERVICE"),
        "{shown}"
    );
    let ended = rig.run(&["unsilence", silence["id"].as_str().unwrap()]).unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(json(socket, "/v1/alerts")["silences"].as_array().unwrap().len(), 0);
}
