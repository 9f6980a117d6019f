//! Three machines, of which the one that tells of alerts is lost: another one goes on, and nothing is told twice. Needs root.

use super::world::{PROGRAM, Webhook, until};
use hosts::{Command, Output, Rig, Spec};
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

/// For what takes the loss of a machine, an election and a few rounds of a second each.
const LATE: Duration = Duration::from_secs(90);
/// Whoever begins to tell settles within 15 s; what it told twice by then it told for want of memory.
const SETTLED: Duration = Duration::from_secs(25);

struct Land {
    rig: Rig,
}

impl Land {
    fn words(&self, host: &str, words: &[&str]) -> Output {
        let command = [PROGRAM, "--state-dir", "/var/lib/understudy"].into_iter();
        let command = Command::new(command.chain(words.iter().copied()));
        self.rig.host(host).unwrap().run(command).unwrap()
    }

    fn ok(&self, host: &str, words: &[&str]) -> String {
        let output = self.words(host, words);
        assert!(output.ended.is_success(), "{host}: {words:?}: {output:?}");
        output.stdout
    }

    /// Who tells, as a node knows it; the alerts that fire.
    fn alerts(&self, host: &str) -> Option<api::Alerts> {
        serde_json::from_str(&self.words(host, &["alerts", "--json"]).stdout).ok()
    }
}

#[test]
fn an_alert_is_told_once_although_the_node_that_tells_is_lost() {
    let land = Land {
        rig: Rig::create(&Spec::new(["a", "b", "c"])).unwrap(),
    };
    let address = |host: &str| land.rig.host(host).unwrap().address().to_string();
    land.ok(
        "a",
        &["cluster", "init", "shop", "--host", &address("a"), "--profile", "lan"],
    );
    for host in ["b", "c"] {
        let token = land.ok("a", &["cluster", "token", "--role", "member"]);
        land.ok(host, &["cluster", "join", token.trim(), "--host", &address(host)]);
    }
    // The client is the second address of the network of the hosts.
    let [one, two, three, _] = land.rig.host("a").unwrap().address().octets();
    let listen = || TcpListener::bind((Ipv4Addr::new(one, two, three, 2), 0)).unwrap();
    // Each of these hosts has a kernel of its own, as far as it says: they are not taken for one machine.
    let report: api::analysis::Report = serde_json::from_str(&land.ok("a", &["analyze", "--json"])).unwrap();
    assert!(
        report.findings.iter().all(|finding| finding.code != "shared-machine"),
        "{:?}",
        report.findings
    );
    let webhook = Webhook::at(land.rig.client().run(listen).unwrap());
    let file = |healthy: bool| {
        let command = if healthy { "exec sleep 1000" } else { "exit 1" };
        format!(
            r#"
name = "shop"

[service.fails]
command = ["sh", "-c", "{command}"]
standby = 0
restart = {{ backoff = "200ms", backoff_max = "1s", replace_after = 1000 }}

[alerts]
webhook = ["{}"]
"#,
            webhook.url
        )
    };
    let apply = |host: &str, healthy: bool| {
        land.rig
            .host(host)
            .unwrap()
            .write("/root/shop.toml", &file(healthy))
            .unwrap();
        land.ok(host, &["apply", "/root/shop.toml", "--yes"]);
    };
    apply("a", false);
    let down = || webhook.told("UnderstudyServiceDown", "fails");
    until("the alert to be told", LATE, || down().first().cloned());
    let told = land.alerts("a").unwrap();
    assert!(told.sees_all, "{told:?}");
    let lost = told.judged_by.clone();
    let left = ["a", "b", "c"].into_iter().find(|host| *host != lost).unwrap();

    land.rig.host(&lost).unwrap().power_off().unwrap();
    let next = until("another one to tell", LATE, || {
        land.alerts(left)
            .filter(|told| told.sees_all && told.judged_by != lost)
            .map(|told| told.judged_by)
    });
    until("the loss of the machine to be told", LATE, || {
        webhook.told("UnderstudyNodeLost", &lost).first().cloned()
    });
    std::thread::sleep(SETTLED);
    assert_eq!(
        down(),
        ["firing"],
        "told twice after {lost} was lost and {next} went on"
    );
    assert_eq!(webhook.told("UnderstudyNodeLost", &lost), ["firing"]);

    // The end of what another one told is told by who is left.
    apply(left, true);
    until("the end to be told", LATE, || (down().len() > 1).then_some(()));
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(down(), ["firing", "resolved"]);
}
