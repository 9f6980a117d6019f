//! What somebody does by mistake to the files and sockets of a node while all runs: noticed, told, and healed, without a stop and without two actives.

use crate::shop::judge;
use crate::{HEAL, Land, wait_for};
use std::time::Duration;

const FOLDER: &str = "/var/lib/understudy/shop";
/// Looks are twice a second; on a busy machine they are late.
const MADE_ANEW: Duration = Duration::from_secs(10);

#[test]
fn emptied_folders_and_a_damaged_node_file_stop_nothing_and_are_made_anew() {
    let land = Land::of(&["a", "b", "c"]);
    land.open_shop("a");
    let active = land.active("a", "db").unwrap();
    let node = active.1.clone();
    let other = ["a", "b", "c"].into_iter().find(|name| *name != node).unwrap();
    let host = land.host(&node);
    let services = || host.shell("pgrep -f 'sample (db|web)' | tr '\\n' ' '").unwrap();
    let before = services();
    let events = || land.run(&node, &["events"]).stdout;
    let clients = land.clients(&node);
    wait_for("clients", HEAL, || (clients.good_in_a_row() > 20).then_some(()));
    let agent = land.agent(&node);

    host.shell(&format!("rm -rf {FOLDER}/run")).unwrap();
    // Nobody starts a second agent or guard meanwhile.
    let started = land.run(&node, &["cluster", "start"]);
    assert_eq!(land.agent(&node), agent, "{started:?}");
    wait_for("an answer", MADE_ANEW, || land.status(&node));
    wait_for("it to be told", MADE_ANEW, || {
        events().contains("/run` was made anew").then_some(())
    });
    for socket in ["api", "state", "guard", "proxy"] {
        wait_for(socket, MADE_ANEW, || {
            host.shell(&format!("test -S {FOLDER}/run/{socket}.sock"))
                .is_ok()
                .then_some(())
        });
    }

    host.shell(&format!("rm -rf {FOLDER}/running {FOLDER}/node.json"))
        .unwrap();
    wait_for("the records", MADE_ANEW, || {
        host.shell(&format!(
            "test -s {FOLDER}/node.json && test $(ls {FOLDER}/running | wc -l) = $(pgrep -fc 'sample (db|web)')"
        ))
        .is_ok()
        .then_some(())
    });
    host.shell(&format!(
        "for file in {FOLDER}/node.json {FOLDER}/running/*.json; do echo nonsense > $file; done"
    ))
    .unwrap();
    wait_for("whole files", MADE_ANEW, || {
        host.shell(&format!(
            "! grep -l nonsense {FOLDER}/node.json {FOLDER}/running/*.json"
        ))
        .is_ok()
        .then_some(())
    });
    wait_for("it to be told", MADE_ANEW, || {
        let events = events();
        (events.contains("written anew") && events.contains("node.json")).then_some(())
    });
    assert_eq!(land.agent(&node), agent);
    assert_eq!(services(), before, "a service was stopped");

    // Each of our processes can still be replaced by the next one.
    for pattern in ["shop agent", "shop guard", "understudy proxy"] {
        let pids = host
            .shell(&format!("pgrep -f -- '{pattern}' | grep -v $$ | head -n 1"))
            .unwrap();
        host.shell(&format!("kill -9 {}", pids.trim())).unwrap();
        std::thread::sleep(Duration::from_secs(1));
        land.until_redundant(&node);
    }
    assert_eq!(services(), before, "a service was stopped");
    assert_eq!(land.active(other, "db").unwrap(), active);
    let (failed, gap) = judge(&clients.stop().unwrap());
    eprintln!("{failed} requests failed, the longest silence was {gap} ms");
    land.assert_never_two_actives();
}

#[test]
fn nonsense_on_sockets_and_in_the_store_moves_nobody() {
    let land = Land::of(&["a", "b", "c"]);
    land.open_shop("a");
    let active = land.active("a", "db").unwrap();
    let host = land.host(&active.1);
    let nonsense = "import os, socket, sys\n\
        for path, kind in [(\"api\", socket.SOCK_STREAM), (\"state\", socket.SOCK_STREAM), (\"guard\", socket.SOCK_SEQPACKET), (\"proxy\", socket.SOCK_STREAM)]:\n\
        \x20   for text in [os.urandom(4096), b\"\\0\" * 100, b\"{\\\"arm\\\":7}\", b\"GET / HTTP/9.9\\r\\n\\r\\n\", b\"{}\\n\" * 50]:\n\
        \x20       s = socket.socket(socket.AF_UNIX, kind)\n\
        \x20       s.settimeout(2)\n\
        \x20       s.connect(sys.argv[1] + \"/run/\" + path + \".sock\")\n\
        \x20       try:\n\
        \x20           s.send(text)\n\
        \x20           s.recv(4096)\n\
        \x20       except OSError:\n\
        \x20           pass\n";
    let ours = ["agent", "guard"].map(|lock| host.shell(&format!("cat {FOLDER}/{lock}.lock")).unwrap());
    host.check(hosts::Command::new(["python3", "-c", nonsense, FOLDER]))
        .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let now = ["agent", "guard"].map(|lock| host.shell(&format!("cat {FOLDER}/{lock}.lock")).unwrap());
    assert_eq!(ours, now, "one of ours died of nonsense");
    assert_eq!(land.active("a", "db").unwrap(), active);

    // In the store: each kind of record, overwritten by somebody with the keys of the node.
    let address = land.address(&active.1);
    let pki = format!("{FOLDER}/pki");
    let etcdctl = |words: &str| {
        let line = format!(
            "ETCDCTL_API=3 etcdctl --endpoints https://{address}:7461 --cacert {pki}/store-ca.crt --cert {pki}/store-client.crt --key {pki}/store.key {words}"
        );
        host.shell(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    };
    let keys = etcdctl("get --prefix --keys-only ''");
    let keys: Vec<&str> = keys.lines().filter(|key| !key.is_empty()).collect();
    let kinds = ["slot/db/0", "live/", "inst/", "controller", "member/", "spec/current"];
    let spoilt: Vec<&str> = kinds
        .iter()
        .map(|kind| {
            let found = keys.iter().find(|key| key.contains(kind));
            *found.unwrap_or_else(|| panic!("{kind}: {keys:?}"))
        })
        .collect();
    let pid = || host.shell("pgrep -f 'sample [d]b'").unwrap();
    let before = pid();
    for (at, key) in spoilt.iter().enumerate() {
        etcdctl(&format!("get {key} --print-value-only > /root/saved-{at}"));
        etcdctl(&format!("put {key} '{{nonsense'"));
    }
    // Nobody is moved or stopped, whatever the records say.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(pid(), before, "the active was stopped");
    let log = host.shell(&format!("cat {FOLDER}/run/agent.log")).unwrap();
    assert!(log.contains("slot=db/0") && log.contains("cannot be read"), "{log}");

    // An agent that comes up meanwhile does not guess. Its guard keeps the deadlines of what acts, and tries it again.
    let guard = host.shell(&format!("cat {FOLDER}/guard.lock")).unwrap();
    host.shell(&format!("kill -9 {}", land.agent(&active.1))).unwrap();
    wait_for("a refusal", HEAL, || {
        let log = host.shell(&format!("cat {FOLDER}/run/agent.log")).unwrap();
        (log.contains("of the store cannot be understood") && log.contains("hint: ")).then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(host.shell(&format!("cat {FOLDER}/guard.lock")).unwrap(), guard);
    for (at, key) in spoilt.iter().enumerate() {
        etcdctl(&format!("put {key} -- \"$(cat /root/saved-{at})\""));
    }
    land.until_redundant(&active.1);
    let (instance, at) = land.active("a", "db").unwrap();
    eprintln!("was {active:?}, is {instance} on {at}");
    land.assert_never_two_actives();
}
