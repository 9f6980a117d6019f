//! On one machine, without a cluster.

use crate::world::{PORT, understudy, wait_until};
use hosts::{Command, Rig, Spec};
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
    understudy(a, &["up", "/srv/shop.toml"]).unwrap();
    let there = || {
        a.shell("ip -oneline address show dev eth0")
            .unwrap()
            .contains(&format!("{ip}/32"))
    };
    assert!(there());
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
    wait_until("a standby", WAIT, || {
        understudy(a, &["switchover", "db", "--yes"]).is_ok()
    });
    assert!(there());
    understudy(a, &["down", "--yes"]).unwrap();
    assert!(!there());
}
