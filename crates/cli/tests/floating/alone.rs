//! On one machine, without a cluster.

use crate::world::{SERVICE, understudy, wait_until};
use hosts::client::{Attempt, Client, Plan};
use hosts::{Command, Rig, Spec};
use std::net::SocketAddr;
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(20);

#[test]
fn one_machine_puts_it_on_and_takes_it_off() {
    let rig = Rig::create(&Spec::new(["a"])).unwrap();
    let a = rig.host("a").unwrap();
    let ip = rig.floating_address(0);
    let file = format!(
        "name = \"shop\"\n[service.db]\ncommand = [\"sleep\", \"1000\"]\nport = false\nactive = 1\nstandby = 1\nexclusive = true\n\
         address = \"{ip}/24\"\non_promote = [\"/bin/true\"]\non_demote = [\"/bin/true\"]\n"
    );
    a.write("/srv/shop.toml", &file).unwrap();
    // Without the right to it, nothing is begun.
    let bare = Command::new([
        "setpriv",
        "--bounding-set=-net_admin,-net_raw",
        crate::world::PROGRAM,
        "up",
        "/srv/shop.toml",
    ]);
    let refused = a.run(bare).unwrap();
    assert!(!refused.ended.is_success());
    assert!(
        refused.stderr.contains("it lacks CAP_NET_ADMIN and CAP_NET_RAW"),
        "{}",
        refused.stderr
    );
    understudy(a, &["up", "--detach", "/srv/shop.toml"]).unwrap();
    let there = || {
        a.shell("ip -oneline address show dev eth0")
            .unwrap()
            .contains(&format!("{ip}/32"))
    };
    wait_until("the address", WAIT, there);
    let state = || understudy(a, &["status", "--json"]).unwrap_or_default();
    wait_until("it to be told", WAIT, || {
        state().contains(&format!("\"address\": \"{ip}/24\"")) && state().contains("\"interface\": \"eth0\"")
    });
    // Something else takes it away: it comes back.
    a.shell(&format!("ip address delete {ip}/32 dev eth0")).unwrap();
    wait_until("it to be put back", WAIT, there);
    wait_until("that to be told", WAIT, || {
        understudy(a, &["events"]).unwrap().contains("put back")
    });
    wait_until("a standby", WAIT, || understudy(a, &["switchover", "db"]).is_ok());
    assert!(there());
    understudy(a, &["down", "--yes"]).unwrap();
    assert!(!there());
}

#[test]
fn a_switchover_between_two_instances_of_one_machine_lets_those_in_who_came_meanwhile() {
    let rig = Rig::create(&Spec::new(["a"])).unwrap();
    let a = rig.host("a").unwrap();
    let at = SocketAddr::from((rig.floating_address(0), 7100));
    let ip = at.ip();
    a.write("/srv/service.py", SERVICE).unwrap();
    let file = format!(
        "name = \"shop\"\n[service.db]\ncommand = [\"/usr/bin/python3\", \"/srv/service.py\", \"{{port}}\", \"{{instance}}\"]\n\
         listen = \"{at}\"\nprotocol = \"http\"\nactive = 1\nstandby = 1\nexclusive = true\naddress = \"{ip}/24\"\n\
         on_promote = [\"/bin/sh\", \"-c\", \"echo {{epoch}} > epoch\"]\non_demote = [\"/bin/rm\", \"-f\", \"epoch\"]\n"
    );
    a.write("/srv/shop.toml", &file).unwrap();
    understudy(a, &["up", "--detach", "/srv/shop.toml"]).unwrap();
    let plan = Plan {
        timeout: Duration::from_secs(3),
        ..Plan::new(at)
    };
    let client = Client::start(rig.client(), plan).unwrap();
    for _ in 0..5 {
        wait_until("answers", WAIT, || client.good_in_a_row() > 100);
        wait_until("a switchover", WAIT, || understudy(a, &["switchover", "db"]).is_ok());
    }
    let since = hosts::now_ns();
    wait_until("answers", WAIT, || client.good_in_a_row() > 300);
    let attempts = client.stop().unwrap();
    let started = attempts.iter().position(Attempt::is_good).unwrap();
    let failed: Vec<&Attempt> = attempts[started..]
        .iter()
        .filter(|attempt| !attempt.is_good())
        .collect();
    let slowest = attempts
        .iter()
        .filter(|attempt| attempt.planned_ns < since)
        .map(|attempt| attempt.took_ns / 1_000_000)
        .max();
    let log = a
        .shell("grep -c 'clients that came meanwhile are let in' /var/lib/understudy/shop/run/agent.log || true")
        .unwrap();
    eprintln!(
        "5 switchovers on one machine: {} of {} failed, the slowest {slowest:?} ms; let in {} times",
        failed.len(),
        attempts.len(),
        log.trim()
    );
    assert!(failed.is_empty(), "{failed:?}");
    assert!(log.trim().parse::<u32>().unwrap() > 0, "nobody was let in");
}

#[test]
fn an_emptied_run_folder_makes_nobody_forget_what_runs_and_an_emptied_record_folder_stops_the_agent_not_the_services() {
    let rig = Rig::create(&Spec::new(["a"])).unwrap();
    let a = rig.host("a").unwrap();
    let file = "name = \"shop\"\n[service.db]\ncommand = [\"sleep\", \"1000\"]\nport = false\nactive = 1\nstandby = 1\nexclusive = true\n\
                on_promote = [\"/bin/true\"]\n";
    a.write("/srv/shop.toml", file).unwrap();
    understudy(a, &["up", "--detach", "/srv/shop.toml"]).unwrap();
    let services = || a.shell("pgrep -x sleep | sort | tr '\\n' ' '").unwrap_or_default();
    let agent = || {
        a.shell("pgrep -f '[u]nderstudy .*agent' | tail -n 1")
            .unwrap_or_default()
    };
    let status = || -> serde_json::Value {
        let text = understudy(a, &["status", "--json"]).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    };
    wait_until("two of them", WAIT, || status()["services"][0]["state"] == "redundant");
    let (before, first) = (services(), agent());
    let since = status()["services"][0]["slots"][0]["since"].clone();
    std::thread::sleep(Duration::from_secs(2));
    a.shell(&format!("rm -rf /var/lib/understudy/shop/run && kill -9 {first}"))
        .unwrap();
    wait_until("another agent", WAIT, || {
        status()["services"][0]["state"] == "redundant"
    });
    assert_eq!(services(), before);
    let text = |value: &serde_json::Value| {
        value
            .as_str()
            .unwrap_or_default()
            .get(..19)
            .unwrap_or_default()
            .to_owned()
    };
    let after = status()["services"][0]["slots"][0]["since"].clone();
    assert_eq!(text(&after), text(&since), "since when it is so was forgotten");
    // Without any record nothing is known: then nothing is touched.
    let second = agent();
    assert_ne!(first, second);
    a.shell(&format!("rm -rf /var/lib/understudy/shop/running && kill -9 {second}"))
        .unwrap();
    wait_until("a refusal", WAIT, || {
        let log = a
            .shell("cat /var/lib/understudy/shop/run/agent.log")
            .unwrap_or_default();
        log.contains("their records in `/var/lib/understudy/shop/running` are gone")
    });
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(services(), before);
}
