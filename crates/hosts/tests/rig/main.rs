//! Hosts out of namespaces, for real: they are made, broken, mended and removed. Needs root, `iproute2`, `nftables`, `util-linux`, `e2fsprogs`,
//! `iputils-ping`, `procps`, `faketime`, `etcd-server`, `etcd-client`, `python3`.

#![expect(clippy::unwrap_used, reason = "a test that cannot do its part has failed")]

mod clocks;
mod etcd;
mod faults;
mod life;
mod proof;

use hosts::{Command, Host, Rig, Spec};
use std::process;
use std::time::{Duration, Instant};

fn rig(hosts: &[&str]) -> Rig {
    Rig::create(&Spec::new(hosts.iter().copied())).unwrap()
}

/// Pings until one is answered, for a second: a question for the neighbour's address that was lost is asked again after one.
fn reaches(from: &Host, to: &Host) -> bool {
    let ping = ["ping", "-n", "-q", "-c", "1", "-i", "0.1", "-w", "1", to.name()];
    from.run(Command::new(ping)).unwrap().ended.is_success()
}

fn client_reaches(rig: &Rig, to: &Host) -> bool {
    let address = to.address().to_string();
    let ping = || {
        let mut command = process::Command::new("ping");
        command.args(["-n", "-q", "-c", "1", "-i", "0.1", "-w", "1", &address]);
        command.output().unwrap().status.success()
    };
    rig.client().run(ping).unwrap()
}

/// Bounded: what a test waits for comes soon or not at all.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
