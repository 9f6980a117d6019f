//! An agent for tests of the guard: registers, arms one slot, renews and sends heartbeats until it is stopped.
//!
//! `renewer SOCKET CGROUP SOFT_MS HARD_MS`: notes its process id in `starts` of the folder of the socket. A slot that is armed
//! already is adopted.

#![expect(
    clippy::unwrap_used,
    reason = "it ends when anything is wrong, and its guard starts it again"
)]

use guard::client::Client;
use guard::fence::mark;
use guard::fence::protocol::{Armament, Reply};
use guard::fence::words::Policy;
use model::{Epoch, Millis, Profile, ServiceName, SlotId, Timing};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

const SESSION: u64 = 7;
const PATIENCE: Option<Duration> = Some(Duration::from_secs(5));

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, cgroup, soft, hard] = arguments.as_slice() else {
        eprintln!("usage: renewer SOCKET CGROUP SOFT_MS HARD_MS");
        std::process::exit(2);
    };
    let socket = Path::new(socket);
    let (client, mut receiver) = Client::connect(socket, mark().boot_ns).unwrap();
    let adopted = match receiver.receive(PATIENCE).unwrap() {
        Some(Reply::Registered { slots, .. }) => !slots.is_empty(),
        other => panic!("{other:?}"),
    };
    let timing = Timing {
        soft_deadline: Millis(soft.parse().unwrap()),
        hard_deadline: Millis(hard.parse().unwrap()),
        kill_budget: Millis(2_000),
        ..Profile::Lan.timing()
    };
    client.timing(timing).unwrap();
    if adopted {
        client.renewed(SESSION, mark()).unwrap();
    } else {
        client.session(SESSION, mark()).unwrap();
        client.arm(armament(cgroup)).unwrap();
    }
    note(socket, if adopted { "adopted" } else { "armed" });
    note(socket, "starts");
    loop {
        client.renewed(SESSION, mark()).unwrap();
        client.heartbeat().unwrap();
        // Whatever it says has to be taken from its socket.
        while receiver.receive(Some(Duration::ZERO)).unwrap().is_some() {}
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn armament(cgroup: &str) -> Armament {
    Armament {
        slot: SlotId {
            service: ServiceName::new("db").unwrap(),
            slot: 0,
        },
        epoch: Epoch(1),
        policy: Policy::Freeze,
        frozen_max: Millis(60_000),
        cgroup: cgroup.into(),
        ports: Vec::new(),
        addresses: Vec::new(),
        floating: None,
        exchanged: None,
    }
}

fn note(socket: &Path, name: &str) {
    let path = socket.with_file_name(name);
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    file.write_all(format!("{}\n", std::process::id()).as_bytes()).unwrap();
}
