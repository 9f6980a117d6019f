//! Between machines.

use crate::watch::Watch;
use crate::world::{PORT, World, understudy, wait_until};
use hosts::client::Attempt;
use hosts::outage::{Rule, outage};
use hosts::{Command, Fault, now_ns};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(20);

fn away(attempts: &[Attempt], since_ns: u64) -> Duration {
    let outage = outage(attempts, since_ns, Rule::default());
    eprintln!("{outage:?}");
    assert_eq!(outage.backwards, 0);
    outage.length.expect("it never came back")
}

#[test]
fn the_address_moves_when_the_host_of_the_active_is_lost_and_is_never_on_two() {
    let world = World::three();
    world.apply_direct();
    let lost = world.active("a");
    let asked = world.other(&lost);
    let client = world.client();
    let floating = &world.db(&asked)["floating"];
    assert_eq!(
        (floating["node"].as_str(), floating["interface"].as_str()),
        (Some(&*lost), Some("eth0"))
    );
    let watch = Watch::start(world.rig.hosts(), world.ip());
    let since = now_ns();
    world.rig.begin(&Fault::power_loss(&*lost)).unwrap();
    world.moved(&asked, &lost);
    wait_until("answers", WAIT, || client.good_in_a_row() > 200);
    let length = away(&client.stop().unwrap(), since);
    let taken = watch.stop();
    eprintln!("host lost: {length:?} away; {taken:?}");
    // The lease of `lan`, a claim, a promotion, and a connection that is asked for again.
    assert!(length < Duration::from_secs(6), "{length:?}");
    let node = world.active(&asked);
    wait_until("it to be told", WAIT, || world.db(&asked)["floating"]["node"] == *node);
}

#[test]
fn an_active_that_dies_takes_its_address_with_it() {
    let world = World::three();
    world.apply_direct();
    let from = world.active("a");
    let client = world.client();
    let watch = Watch::start(world.rig.hosts(), world.ip());
    let since = now_ns();
    world.host(&from).shell("pkill -9 -f '[s]ervice.py'").unwrap();
    world.moved("a", &from);
    wait_until("answers", WAIT, || client.good_in_a_row() > 200);
    let length = away(&client.stop().unwrap(), since);
    eprintln!("active killed: {length:?} away; {:?}", watch.stop());
    assert!(length < Duration::from_secs(2), "{length:?}");
}

#[test]
fn a_switchover_moves_the_address_without_a_failed_request_though_there_is_no_proxy() {
    let world = World::three();
    world.apply_direct();
    let from = world.active("a");
    let client = world.client();
    let watch = Watch::start(world.rig.hosts(), world.ip());
    let since = now_ns();
    for _ in 0..4 {
        understudy(world.host("a"), &["switchover", "db"]).unwrap();
        wait_until("a standby again", WAIT, || world.db("a")["state"] == "redundant");
        wait_until("answers", WAIT, || client.good_in_a_row() > 100);
    }
    wait_until("answers", WAIT, || client.good_in_a_row() > 300);
    let attempts = client.stop().unwrap();
    let failed: Vec<&Attempt> = attempts.iter().filter(|attempt| !attempt.is_good()).collect();
    let slowest = attempts.iter().map(|attempt| attempt.took_ns / 1_000_000).max();
    let spans = watch.stop();
    let gaps: Vec<u64> = spans
        .windows(2)
        .map(|pair| (pair[1].1.0 - pair[0].1.1) / 1_000)
        .collect();
    eprintln!(
        "4 switchovers: {} failed, slowest {slowest:?} ms, on no host for {gaps:?} µs",
        failed.len()
    );
    eprintln!("{failed:?}");
    away(&attempts, since);
    assert_eq!(spans.len(), 5, "{spans:?}");
    assert_eq!(world.active("a"), from);
    // New connections are kept back while those under way end, before the service is demoted.
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn the_proxy_of_whoever_has_the_address_answers() {
    let world = World::three();
    world.apply_proxied("http");
    let lost = world.active("a");
    let asked = world.other(&lost);
    let client = world.client();
    let watch = Watch::start(world.rig.hosts(), world.ip());
    understudy(world.host("a"), &["switchover", "db"]).unwrap();
    wait_until("answers", WAIT, || client.good_in_a_row() > 100);
    wait_until("a standby again", WAIT, || world.db("a")["state"] == "redundant");
    let attempts = client.stop().unwrap();
    let failed: Vec<&Attempt> = attempts.iter().filter(|attempt| !attempt.is_good()).collect();
    let slowest = failed.iter().map(|attempt| attempt.took_ns / 1_000_000).max();
    eprintln!(
        "proxied switchover: {} of {} failed, the slowest after {slowest:?} ms",
        failed.len(),
        attempts.len()
    );
    assert!(failed.is_empty(), "{failed:?}");
    let client = world.client();
    let lost = world.active(&asked);
    let asked = world.other(&lost);
    let since = now_ns();
    world.rig.begin(&Fault::power_loss(&*lost)).unwrap();
    world.moved(&asked, &lost);
    wait_until("answers", WAIT, || client.good_in_a_row() > 200);
    let length = away(&client.stop().unwrap(), since);
    eprintln!("proxied, host lost: {length:?} away; {:?}", watch.stop());
    assert!(length < Duration::from_secs(6), "{length:?}");
}

#[test]
fn an_agent_that_comes_back_finds_the_address_and_one_of_nobody_is_swept() {
    let world = World::three();
    world.apply_direct();
    let node = world.active("a");
    let client = world.client();
    let watch = Watch::start(world.rig.hosts(), world.ip());
    let since = now_ns();
    let pid = |name: &str| {
        world
            .host(name)
            .shell("pgrep -f '[u]nderstudy .*agent' | tail -n 1")
            .unwrap()
    };
    for name in ["a", "b", "c"] {
        let agent = pid(name);
        world.host(name).shell(&format!("kill -9 {agent}")).unwrap();
        wait_until("another agent", WAIT, || pid(name) != agent);
    }
    wait_until("a redundant service", WAIT, || world.db("a")["state"] == "redundant");
    wait_until("answers", WAIT, || client.good_in_a_row() > 200);
    assert_eq!(world.active("a"), node);
    wait_until("it to be told", WAIT, || world.db("a")["floating"]["node"] == *node);
    let length = away(&client.stop().unwrap(), since);
    let spans = watch.stop();
    eprintln!("agents killed: {length:?} away; {spans:?}");
    assert_eq!((spans.len(), length), (1, Duration::ZERO));
    // On another host, as a dead agent of an active there would leave it. (Not while the real one answers ARP: nobody asks.)
    let stray = world.other(&node);
    let agent = pid(&stray);
    let ip = world.ip();
    world
        .host(&stray)
        .shell(&format!("ip address add {ip}/32 dev eth0 && kill -9 {agent}"))
        .unwrap();
    wait_until("the stray to be gone", WAIT, || {
        !world
            .host(&stray)
            .shell("ip -brief address")
            .unwrap()
            .contains(&ip.to_string())
    });
}

#[test]
fn an_address_that_a_stranger_has_is_not_taken_and_status_says_so() {
    let world = World::three();
    let (c, ip) = (world.host("c"), world.ip());
    // Somebody's own machine: the third host, which has no part in it.
    understudy(world.host("a"), &["drain", "c"]).unwrap();
    c.shell(&format!("ip address add {ip}/24 dev eth0")).unwrap();
    let file = format!(
        "name = \"shop\"\n[service.db]\ncommand = [\"/usr/bin/python3\", \"/srv/service.py\", \"{PORT}\", \"{{instance}}\"]\nport = false\n\
         active = 1\nstandby = 1\nexclusive = true\naddress = \"{ip}/24\"\non_promote = [\"/bin/true\"]\n"
    );
    let a = world.host("a");
    a.write("/srv/shop.toml", &file).unwrap();
    a.run(Command::new([
        crate::world::PROGRAM,
        "apply",
        "/srv/shop.toml",
        "--yes",
    ]))
    .unwrap();
    let told = |name: &str| understudy(world.host(name), &["status"]).unwrap_or_else(|error| error.to_string());
    wait_until("both nodes to say why", WAIT, || {
        ["a", "b"].iter().all(|name| told(name).contains("is in use"))
    });
    assert_ne!(world.db("a")["slots"][0]["state"], "serving");
    assert!(told("a").contains("find the host with"), "{}", told("a"));
    c.shell(&format!("ip address delete {ip}/24 dev eth0")).unwrap();
    wait_until("it to be taken", Duration::from_secs(40), || {
        world.db("a")["slots"][0]["state"] == "serving"
    });
    // Why the slot went from one to the other stays true; that anything is wrong with the address does not.
    let problems = || {
        let status = understudy(world.host("a"), &["status", "--json"]).unwrap();
        serde_json::from_str::<serde_json::Value>(&status).unwrap()["problems"].to_string()
    };
    wait_until("the trouble to be over", WAIT, || !problems().contains("is in use"));
    // Nobody served before: that it came up late is no failover, on no node.
    for name in ["a", "b"] {
        let events = understudy(world.host(name), &["events"]).unwrap();
        assert!(!events.contains("failover"), "{events}");
    }
}

#[test]
fn a_stranger_who_has_the_address_and_says_nothing_is_told_of_on_every_node() {
    let world = World::three();
    understudy(world.host("a"), &["drain", "c"]).unwrap();
    world.apply_direct();
    let ip = world.ip();
    // Nobody asks before a move: who had the address has given it up.
    world
        .host("c")
        .shell(&format!("ip address add {ip}/24 dev eth0"))
        .unwrap();
    understudy(world.host("a"), &["switchover", "db"]).unwrap();
    let told = |name: &str| understudy(world.host(name), &["status"]).unwrap_or_else(|error| error.to_string());
    for name in ["a", "b", "c"] {
        wait_until("it to be told", WAIT, || told(name).contains("claims the address"));
        assert!(told(name).contains("find the host with"), "{}", told(name));
    }
}
