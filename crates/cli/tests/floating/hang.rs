//! An active that hangs, and whose check says so.

use crate::world::{PORT, World, wait_until};
use hosts::client::{Attempt, Client, Outcome, Plan};
use std::net::SocketAddr;
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(20);
/// What a client bears here: whoever waits for longer waits for ever.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Asks for an answer, as a client does; that of a standby is one too.
const CHECK: &str = "import socket; s = socket.create_connection(('127.0.0.1', 7100), 1); s.settimeout(1); \
                     s.send(b'GET / HTTP/1.0\\\\r\\\\n\\\\r\\\\n'); assert s.recv(9)";

#[test]
fn no_client_of_an_active_that_hangs_is_left_waiting_once_another_has_its_address() {
    let world = World::three();
    let ip = world.ip();
    world.apply_file(&format!(
        r#"
        name = "shop"
        [service.db]
        command = ["/bin/sh", "-c", "rm -f epoch; exec /usr/bin/python3 /srv/service.py {PORT} {{instance}}"]
        port = false
        check = {{ exec = ["/usr/bin/python3", "-c", "{CHECK}"], every = "1s", timeout = "2s" }}
        active = 1
        standby = 1
        exclusive = true
        address = "{ip}/24"
        on_promote = ["/bin/sh", "-c", "echo {{epoch}} > epoch"]
        on_demote = ["/bin/rm", "-f", "epoch"]
        "#
    ));
    let plan = Plan {
        timeout: TIMEOUT,
        ..Plan::new(SocketAddr::from((ip, PORT)))
    };
    for _ in 0..2 {
        wait_until("a standby", WAIT, || world.db("a")["state"] == "redundant");
        let client = Client::start(world.rig.client(), plan).unwrap();
        wait_until("answers", WAIT, || client.good_in_a_row() > 100);
        let node = world.active("a");
        world.host(&node).shell("pkill -STOP -f '[s]ervice.py'").unwrap();
        world.moved("a", &node);
        let moved = hosts::now_ns();
        wait_until("answers", WAIT, || client.good_in_a_row() > 100);
        let attempts = client.stop().unwrap();
        let broken = attempts.iter().filter(|attempt| !attempt.is_good()).count();
        let last = attempts
            .iter()
            .filter(|attempt| attempt.planned_ns < moved)
            .map(Attempt::ended_ns)
            .max();
        eprintln!(
            "{broken} broken; who came before it moved waited for {} ms more at most",
            last.unwrap_or_default().saturating_sub(moved) / 1_000_000
        );
        let left: Vec<&Attempt> = attempts
            .iter()
            .filter(|attempt| attempt.outcome == Outcome::TimedOut)
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
