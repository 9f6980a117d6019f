//! A node that reaches nobody for longer than its session lives, while nobody else could take what it holds (T10).

use crate::{HEAL, Land, wait_for};
use hosts::Fault;
use std::time::{Duration, Instant};

/// W of `lan` is 3.05 s: by then its session is ended. Five seconds later the controller wants another copy.
const CUT: Duration = Duration::from_secs(5);

#[test]
fn the_only_copy_of_a_node_that_was_cut_off_goes_on_as_the_same_process() {
    let land = Land::of(&["a", "b", "c"]);
    let witness = land.rig.shared().join("witness");
    let file = format!(
        r#"
name = "shop"

[service.db]
command = ["{{understudy}}", "sample", "db", "--host", "{{host}}", "--port", "{{port}}", "--data", "{{data}}", "--witness", "{}"]
exclusive = true
active = 1
standby = 0
nodes = ["b"]
listen = "0.0.0.0:6380"
protocol = "http"
check = {{ http = "/healthz", every = "200ms", timeout = "2s", fail_after = 3 }}
on_promote = ["{{understudy}}", "sample", "promote", "--host", "{{host}}", "--port", "{{port}}", "--epoch", "{{epoch}}"]
on_demote = ["{{understudy}}", "sample", "demote", "--host", "{{host}}", "--port", "{{port}}"]
"#,
        witness.display()
    );
    land.host("a").write("/root/only.toml", &file).unwrap();
    land.ok("a", &["apply", "/root/only.toml", "--yes"]);
    let serves = |host: &str| {
        let db = land.status(host)?.services.into_iter().find(|one| one.name == "db")?;
        let slot = db.slots.into_iter().next().filter(|slot| slot.state == "serving")?;
        let pid = db.instances.iter().find_map(|one| one.pid)?;
        Some((slot.epoch, pid))
    };
    let before = wait_for("the only copy", HEAL, || serves("b"));
    wait_for("it to be known", HEAL, || serves("a"));

    let cut = Fault::PathCut { end: "b".into() };
    land.rig.begin(&cut).unwrap();
    std::thread::sleep(CUT);
    let session = land
        .report("a")
        .members
        .into_iter()
        .find(|member| member.node == "b")
        .unwrap()
        .session;
    assert_eq!(session, Some(false), "its session was not ended: this shows nothing");
    land.rig.heal(&cut).unwrap();
    let healed = Instant::now();
    let events = || land.run("b", &["events", "-n", "200"]).stdout;
    wait_for("it to go on", HEAL, || {
        events().contains("goes on under the next session").then_some(())
    });
    let after = wait_for("it to serve", HEAL, || serves("b"));
    eprintln!("on again {} ms after the network was", healed.elapsed().as_millis());
    assert_eq!(after, before, "another process, or another epoch: {}", events());
    wait_for("the others to know", HEAL, || {
        serves("a").filter(|known| *known == before)
    });
    // It is covered as ever: its process goes on past the deadlines of the next session.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(serves("b"), Some(before), "{}", events());
    land.assert_never_two_actives();
}
