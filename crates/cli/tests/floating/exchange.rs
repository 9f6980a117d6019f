//! The file declares another floating address than before, one more, or none.

use crate::watch::Watch;
use crate::world::{PORT, PROGRAM, World, understudy, wait_until};
use hosts::client::{Client, Plan};
use hosts::{Command, Fault, Rig, Spec};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(20);

/// A service that clients are connected to itself, with this address or none.
fn file(address: Option<Ipv4Addr>) -> String {
    let address = address.map(|ip| format!("address = \"{ip}/24\"\n")).unwrap_or_default();
    format!(
        "name = \"shop\"\n[service.db]\ncommand = [\"/usr/bin/python3\", \"/srv/service.py\", \"{PORT}\", \"{{instance}}\"]\nport = false\n\
         active = 1\nstandby = 1\nexclusive = true\n{address}\
         on_promote = [\"/bin/sh\", \"-c\", \"echo {{epoch}} > epoch\"]\non_demote = [\"/bin/rm\", \"-f\", \"epoch\"]\n"
    )
}

fn apply(world: &World, address: Option<Ipv4Addr>, wait: &str) -> hosts::Output {
    let a = world.host("a");
    a.write("/srv/shop.toml", &file(address)).unwrap();
    let wait = format!("--wait={wait}");
    a.run(Command::new([PROGRAM, "apply", "/srv/shop.toml", "--yes", &wait]))
        .unwrap()
}

fn apply_well(world: &World, address: Option<Ipv4Addr>) {
    let applied = apply(world, address, "30s");
    let status = understudy(world.host("a"), &["status"]);
    assert!(
        applied.ended.is_success(),
        "{}{}{status:?}",
        applied.stdout,
        applied.stderr
    );
}

fn pid(world: &World) -> serde_json::Value {
    let db = world.db("a");
    let active = db["slots"][0]["instance"].clone();
    let mut instances = db["instances"].as_array().unwrap().iter();
    instances.find(|one| one["id"] == active).unwrap()["pid"].clone()
}

#[test]
fn another_address_is_taken_and_the_one_before_given_up_without_a_restart_or_a_move() {
    let world = World::three();
    let [first, second] = [0, 1].map(|number| world.rig.floating_address(number));
    apply_well(&world, None);
    let (node, served_by) = (world.active("a"), pid(&world));
    // Where there was none.
    apply_well(&world, Some(first));
    assert_eq!(world.db("a")["floating"]["node"], *node);
    let at = |ip: Ipv4Addr| Client::start(world.rig.client(), Plan::new(SocketAddr::from((ip, PORT)))).unwrap();
    let (old, new) = (at(first), at(second));
    wait_until("answers", WAIT, || old.good_in_a_row() > 50);
    let watch = Watch::start(world.rig.hosts(), second);
    apply_well(&world, Some(second));
    wait_until("answers at the new one", WAIT, || new.good_in_a_row() > 50);
    let has = |name: &str, ip: Ipv4Addr| {
        world
            .host(name)
            .shell("ip -oneline address")
            .unwrap()
            .contains(&format!(" {ip}/"))
    };
    assert!(
        ["a", "b", "c"].iter().all(|name| !has(name, first)),
        "the old one is still there"
    );
    assert_eq!((world.active("a"), pid(&world)), (node.clone(), served_by.clone()));
    wait_until("it to be told", WAIT, || {
        understudy(world.host(&node), &["events"])
            .unwrap()
            .contains("in place of")
    });
    // What takes it away with the session knows the new one: an agent that stands still keeps it from nobody.
    wait_until("a standby", WAIT, || world.db("a")["state"] == "redundant");
    world.rig.begin(&Fault::power_loss(&*node)).unwrap();
    let asked = world.other(&node);
    world.moved(&asked, &node);
    wait_until("answers elsewhere", WAIT, || new.good_in_a_row() > 50);
    watch.stop();
    drop((old, new));
}

#[test]
fn a_node_that_is_cut_off_has_neither_address_and_none_stays_when_none_is_declared() {
    let world = World::three();
    let [first, second] = [0, 1].map(|number| world.rig.floating_address(number));
    apply_well(&world, Some(first));
    apply_well(&world, Some(second));
    let node = world.active("a");
    let has_any = |name: &str| {
        let there = world.host(name).shell("ip -oneline address").unwrap();
        [first, second].iter().any(|ip| there.contains(&format!(" {ip}/")))
    };
    assert!(has_any(&node));
    // The agent stands still: the guard takes it away, by the message that it was given.
    world
        .host(&node)
        .shell("pkill -STOP -f '[u]nderstudy .*agent'")
        .unwrap();
    wait_until("it to be gone there", WAIT, || !has_any(&node));
    world
        .host(&node)
        .shell("pkill -CONT -f '[u]nderstudy .*agent'")
        .unwrap();
    wait_until("a redundant service", WAIT * 2, || {
        world.db("a")["state"] == "redundant"
    });
    let served_by = pid(&world);
    apply_well(&world, None);
    wait_until("no address", WAIT, || !["a", "b", "c"].into_iter().any(has_any));
    assert_eq!(pid(&world), served_by);
}

#[test]
fn one_that_a_stranger_has_is_not_taken_the_one_before_stays_and_every_node_says_so() {
    let world = World::three();
    let [first, second] = [0, 1].map(|number| world.rig.floating_address(number));
    understudy(world.host("a"), &["drain", "c"]).unwrap();
    apply_well(&world, Some(first));
    let c = world.host("c");
    c.shell(&format!("ip address add {second}/24 dev eth0")).unwrap();
    let applied = apply(&world, Some(second), "6s");
    assert!(!applied.ended.is_success(), "called well");
    assert!(applied.stderr.contains("is in use"), "{}", applied.stderr);
    let node = world.active("a");
    for name in ["a", "b", "c"] {
        let told = understudy(world.host(name), &["status"]).unwrap_or_else(|error| error.to_string());
        assert!(told.contains("is in use"), "{name}: {told}");
    }
    let there = world.host(&node).shell("ip -oneline address").unwrap();
    assert!(
        there.contains(&format!(" {first}/")) && !there.contains(&format!(" {second}/")),
        "{there}"
    );
    c.shell(&format!("ip address delete {second}/24 dev eth0")).unwrap();
    wait_until("it to be taken", WAIT, || world.db("a")["floating"]["node"] == *node);
    let told = || understudy(world.host("b"), &["status"]).unwrap_or_else(|error| error.to_string());
    wait_until("the trouble to be over", WAIT, || !told().contains("is in use"));
}

#[test]
fn one_machine_exchanges_it_too_and_an_agent_that_dies_meanwhile_leaves_none_behind() {
    let rig = Rig::create(&Spec::new(["a"])).unwrap();
    let a = rig.host("a").unwrap();
    a.write("/srv/service.py", crate::world::SERVICE).unwrap();
    let addresses = [0, 1, 2].map(|number| rig.floating_address(number));
    let has = || {
        let there = a.shell("ip -oneline address").unwrap();
        addresses.map(|ip| there.contains(&format!(" {ip}/")))
    };
    let put = |address| a.write("/srv/shop.toml", &file(address)).unwrap();
    put(None);
    // Its two instances listen on one port: only the active is started.
    understudy(a, &["up", "--detach", "/srv/shop.toml"]).ok();
    let apply = || understudy(a, &["apply", "/srv/shop.toml", "--yes"]).unwrap();
    for (address, wanted) in [
        (Some(addresses[0]), [true, false, false]),
        (Some(addresses[1]), [false, true, false]),
    ] {
        put(address);
        apply();
        wait_until("the address", WAIT, || has() == wanted);
    }
    put(Some(addresses[2]));
    apply();
    a.shell("pkill -9 -f '[u]nderstudy .*agent' || true").unwrap();
    wait_until("the third alone", WAIT, || has() == [false, false, true]);
    put(None);
    apply();
    wait_until("none", WAIT, || has() == [false; 3]);
}
