//! An address that is let go is gone, also when its agent cannot see to it any more.

use crate::ear::Ear;
use crate::keeps::now;
use crate::lan::{Host, Lan, eventually};
use crate::{UNASKED, acquire_on, both, next};
use drivers::address::{Event, Leftovers, Options, RefreshError, removal_message, sweep};
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn a_released_address_is_gone_is_announced_no_more_and_can_be_released_again() {
    for ip in both() {
        let lan = Lan::new();
        let (host, client) = (lan.host(1), lan.host(9));
        let (held, mut events) = acquire_on(&host, ip, UNASKED).unwrap();
        let held = Arc::new(held);
        let mut ear = Ear::on(&client, ip);
        for _ in 0..3 {
            let held = held.clone();
            host.run(async move { held.release().await }).unwrap();
            assert!(!host.has(ip));
            ear.drain();
        }
        // It would have been announced after a second.
        let heard = ear.hear_until(Instant::now() + Duration::from_millis(1_300));
        assert_eq!(heard, [], "announced after its release");
        assert!(events.try_recv().is_err(), "a release is no removal by others");
        let error = host.run(async move { held.refresh(None).await }).unwrap_err();
        assert!(matches!(error, RefreshError::Released { .. }), "{error}");
        assert!(!host.has(ip));
    }
}

#[test]
fn the_prepared_message_removes_it_from_any_process() {
    for ip in both() {
        let lan = Lan::new();
        let mut host = lan.host(1);
        let (held, _events) = acquire_on(&host, ip, UNASKED).unwrap();
        let message = held.removal_message();
        host.kill_agent();
        assert!(host.has(ip), "an agent's death leaves the address");
        assert_eq!(send(&host, &message), 0);
        assert!(!host.has(ip));
        assert_eq!(send(&host, &message), libc::EADDRNOTAVAIL);
        let index = host.ip("-o link show eth0").split(':').next().unwrap().parse().unwrap();
        assert_eq!(message, removal_message(ip, held.prefix(), index));
    }
}

#[test]
fn without_an_agent_the_kernel_ends_the_lease() {
    for ip in both() {
        let lan = Lan::new();
        let mut host = lan.host(1);
        let options = Options {
            ask_for: None,
            until: Some(now().later(Duration::from_millis(2_700))),
        };
        let start = Instant::now();
        let (_held, _events) = acquire_on(&host, ip, options).unwrap();
        host.kill_agent();
        assert!(host.has(ip));
        eventually("the kernel takes it away", || !host.has(ip));
        let after = start.elapsed();
        println!(
            "{ip}: lease of 2700 ms without an agent: gone after {} ms",
            after.as_millis()
        );
        assert!(
            after > Duration::from_millis(1_900) && after < Duration::from_millis(3_200),
            "{after:?}"
        );
    }
}

#[test]
fn the_next_agent_takes_over_what_a_dead_one_left_without_a_gap() {
    for ip in both() {
        let lan = Lan::new();
        let mut host = lan.host(1);
        let options = Options {
            ask_for: None,
            until: Some(now().later(Duration::from_millis(1_900))),
        };
        acquire_on(&host, ip, options).unwrap();
        host.kill_agent();
        let monitor = Monitor::start(&host);
        let (_held, events) = acquire_on(&host, ip, Options::default()).unwrap();
        // Its old lease would be over.
        std::thread::sleep(Duration::from_millis(2_600));
        assert!(host.has(ip));
        assert!(!monitor.saw_removal(), "taken off in between");
        host.ip("link set eth0 down");
        assert_eq!(next(&host, events, 1).0, [Event::LinkDown], "and keeps it");
    }
}

#[test]
fn a_sweep_removes_what_is_marked_or_named_and_nothing_else() {
    let lan = Lan::new();
    let mut host = lan.host(1);
    for ip in both() {
        acquire_on(&host, ip, UNASKED).unwrap();
    }
    host.kill_agent();
    host.ip("addr add 10.77.0.150/24 dev eth0");
    host.ip("addr add 10.77.0.151/24 dev eth0");
    let swept = |leftovers: (Vec<IpAddr>, bool)| {
        let swept = host.run(async move {
            let (named, marked) = leftovers;
            sweep(Leftovers { named: &named, marked }).await.unwrap()
        });
        swept
            .into_iter()
            .map(|one| format!("{}/{} {}", one.ip, one.prefix, one.interface))
            .collect::<Vec<_>>()
    };
    let named = vec!["10.77.0.150".parse().unwrap(), "10.77.0.200".parse().unwrap()];
    assert_eq!(swept((named, false)), ["10.77.0.150/24 eth0"]);
    assert_eq!(swept((vec![], true)), ["10.77.0.100/32 eth0", "fd77::100/128 eth0"]);
    assert_eq!(swept((vec![], true)), Vec::<String>::new());
    assert!(both().iter().all(|ip| !host.has(*ip)));
    for ip in ["10.77.0.1", "10.77.0.151", "fd77::1", "127.0.0.1"] {
        assert!(host.has(ip.parse().unwrap()), "{ip} is not ours");
    }
}

/// Sends bytes as the guard would, and gives the error number of the answer.
fn send(host: &Host, message: &[u8]) -> i32 {
    host.on_thread(|| {
        let mut socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, None).unwrap();
        socket.write_all(message).unwrap();
        let mut answer = [0; 1_000];
        let length = socket.read(&mut answer).unwrap();
        assert!(length >= 20, "{length} bytes");
        -i32::from_ne_bytes(answer[16..20].try_into().unwrap())
    })
}

/// `ip monitor`, which tells of every change of an address.
struct Monitor {
    child: std::process::Child,
}

impl Monitor {
    fn start(host: &Host) -> Self {
        let child = host.on_thread(|| {
            std::process::Command::new("ip")
                .args(["-o", "monitor", "address"])
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        });
        // It says nothing when it has begun to listen.
        std::thread::sleep(Duration::from_millis(200));
        Self { child }
    }

    fn saw_removal(mut self) -> bool {
        self.child.kill().unwrap();
        let mut said = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        self.child.wait().unwrap();
        assert!(said.contains("eth0"), "nothing was heard of the address at all");
        said.contains("Deleted")
    }
}
