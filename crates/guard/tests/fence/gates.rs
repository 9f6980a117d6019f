//! Gates and floating addresses, in a network namespace of each test's own.

use crate::bench::{kill, until};
use crate::world::{Fenced, Group, SESSION, armament, timing};
use guard::fence::protocol::{Armament, Floating, Reply, What};
use guard::fence::words::Policy;
use guard::fence::{kill_now, mark};
use guard::gates::{Gates, Member};
use model::{Mark, Millis};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

const PORT: u16 = 4711;
/// The kernel counts in ticks of up to 10 ms, and looks no more often than a test asks.
const KERNEL_LATE: Duration = Duration::from_millis(150);

/// Runs in a network namespace with nothing but loopback; what is started from here lives there too.
fn in_a_network(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        #[expect(unsafe_code, reason = "leaving a network has no safe wrapper")]
        // SAFETY: only this thread changes its network; no descriptor is affected.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("a network of our own: this test needs root");
        run("ip", &["link", "set", "lo", "up"]);
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(program: &str, words: &[&str]) -> String {
    let package = if program == "ip" { "iproute2" } else { "nftables" };
    let output = Command::new(program).args(words).output();
    let output = output.unwrap_or_else(|error| {
        panic!("failed to run {program}: {error}; as root: apt-get install --no-install-recommends {package}")
    });
    assert!(
        output.status.success(),
        "{program} {words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Two ends of an established connection.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn new(address: IpAddr) -> (Self, TcpListener) {
        let listener = TcpListener::bind((address, PORT)).unwrap();
        let client = TcpStream::connect((address, PORT)).unwrap();
        let (server, _) = listener.accept().unwrap();
        for end in [&client, &server] {
            end.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            end.set_nodelay(true).unwrap();
        }
        (Self { client, server }, listener)
    }

    /// Whether a byte gets there and one comes back.
    fn talks(&mut self) -> bool {
        self.server_hears() && self.client_hears()
    }

    fn server_hears(&mut self) -> bool {
        let _ = self.client.write(b"?");
        hears(&mut self.server)
    }

    fn client_hears(&mut self) -> bool {
        let _ = self.server.write(b"!");
        hears(&mut self.client)
    }
}

fn hears(end: &mut TcpStream) -> bool {
    match end.read(&mut [0; 256]) {
        Ok(length) => length > 0,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
        Err(error) => panic!("{error}"),
    }
}

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How long after `since` the pair stopped talking.
fn silent_after(pair: &mut Pair, since: Mark) -> Duration {
    let mut last = Duration::ZERO;
    while mark().held_for(since) < last + Duration::from_millis(400) {
        if pair.server_hears() {
            last = mark().held_for(since);
        }
    }
    last
}

#[test]
fn established_connections_stop_at_the_hard_deadline_though_the_guard_is_stopped() {
    in_a_network(|| {
        let fenced = Fenced::new(&[]);
        let mut group = Group::new();
        group.run("sleep 600 & wait");
        let (mut pair, _listener) = Pair::new(HERE);
        assert!(pair.talks(), "nothing is gated yet");
        let (mut agent, test) = fenced.agent_with(timing(700, 1_000));
        assert_eq!(test.gates_unavailable, None);
        agent.arm(Armament {
            ports: vec![PORT],
            ..armament(0, 1, &group)
        });
        assert!(pair.talks(), "armed means open");
        // Refreshed past the first timeout.
        let mut sent = agent.renew();
        for _ in 0..8 {
            std::thread::sleep(Duration::from_millis(200));
            sent = agent.renew();
            assert!(pair.talks(), "closed although it is renewed");
        }
        std::thread::sleep(Duration::from_millis(100));
        crate::world::stop(fenced.guard.id());
        let last = silent_after(&mut pair, sent);
        println!("last byte {last:?} after the renewal was sent, hard deadline 1s");
        assert!(last > Duration::from_millis(800), "{last:?}");
        assert!(last < Duration::from_millis(1_000) + KERNEL_LATE, "{last:?}");
        assert!(group.events().populated, "it was the gate, not the kill");
        assert!(!pair.client_hears(), "the other direction");
        let new = TcpStream::connect_timeout(&SocketAddr::from((HERE, PORT)), Duration::from_millis(300));
        assert!(new.is_err(), "a new connection");
        kill("CONT", fenced.guard.id());
        assert_eq!(agent.event(), What::Fired);
    });
}

#[test]
fn a_frozen_slot_is_gated_at_once_and_opened_when_it_thaws() {
    in_a_network(|| {
        let fenced = Fenced::new(&[]);
        let mut group = Group::new();
        group.run("sleep 600 & wait");
        let (mut agent, _) = fenced.agent_with(timing(400, 20_000));
        let (mut pair, _listener) = Pair::new(HERE);
        let udp = UdpSocket::bind((HERE, PORT)).unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let other = UdpSocket::bind((HERE, 0)).unwrap();
        let datagram_arrives = || {
            let _ = other.send_to(b"?", (HERE, PORT));
            udp.recv(&mut [0; 8]).is_ok()
        };
        agent.arm(Armament {
            ports: vec![PORT],
            policy: Policy::Freeze,
            ..armament(0, 1, &group)
        });
        assert!(pair.talks() && datagram_arrives());
        assert_eq!(agent.event(), What::Frozen);
        std::thread::sleep(Duration::from_millis(50));
        assert!(!pair.talks() && !datagram_arrives(), "frozen, but not gated");
        let new = TcpStream::connect_timeout(&SocketAddr::from((HERE, PORT)), Duration::from_millis(100));
        assert!(new.is_err());
        agent.renew();
        assert_eq!(agent.event(), What::Thawed { address_removed: false });
        // Renewed all the while: what was dropped is sent again by TCP in its own time.
        until("the gate is open", || {
            agent.renew();
            datagram_arrives()
        });
    });
}

#[test]
fn a_guard_that_starts_again_leaves_gates_as_they_are() {
    in_a_network(|| {
        let mut fenced = Fenced::new(&[]);
        let mut group = Group::new();
        group.run("sleep 600 & wait");
        let (mut pair, _listener) = Pair::new(HERE);
        let (mut agent, _) = fenced.agent_with(timing(900, 1_000));
        agent.arm(Armament {
            ports: vec![PORT],
            ..armament(0, 1, &group)
        });
        let sent = agent.renew();
        assert!(pair.talks());
        fenced.restart();
        assert!(pair.talks(), "the new guard closed what was open");
        let rules = run("nft", &["list", "ruleset"]);
        assert_eq!(rules.matches("chain in").count(), 1, "{rules}");
        let last = silent_after(&mut pair, sent);
        assert!(last < Duration::from_millis(1_000) + KERNEL_LATE, "{last:?}");
        assert!(group.events().populated, "nothing was armed anew");
        let (mut agent, _) = fenced.agent_with(timing(2_000, 3_000));
        agent.arm(Armament {
            ports: vec![PORT],
            ..armament(0, 1, &group)
        });
        let again = UdpSocket::bind((HERE, PORT)).unwrap();
        again.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        UdpSocket::bind((HERE, 0)).unwrap().send_to(b"?", (HERE, PORT)).unwrap();
        assert!(again.recv(&mut [0; 8]).is_ok(), "armed anew means open");
    });
}

#[test]
fn gates_that_somebody_flushed_are_made_anew_with_the_next_renewal() {
    in_a_network(|| {
        let fenced = Fenced::new(&[]);
        let (mut group, mut other) = (Group::new(), Group::new());
        group.run("sleep 600 & wait");
        other.run("sleep 600 & wait");
        let (mut agent, _) = fenced.agent_with(timing(5_000, 6_000));
        let (mut pair, _listener) = Pair::new(HERE);
        for (number, port, group) in [(0, PORT, &group), (1, PORT + 1, &other)] {
            agent.arm(Armament {
                ports: vec![port],
                ..armament(number, 1, group)
            });
        }
        run("nft", &["flush", "ruleset"]);
        agent.renew();
        let rules = || run("nft", &["list", "ruleset"]);
        // Both ports, both protocols, gated and open.
        until("all is gated and open again", || {
            let rules = rules();
            [PORT, PORT + 1]
                .iter()
                .all(|port| rules.matches(&port.to_string()).count() == 4)
        });
        assert!(pair.talks());
    });
}

#[test]
fn a_slot_that_is_given_up_is_nobodys_gate() {
    in_a_network(|| {
        let fenced = Fenced::new(&[]);
        let mut group = Group::new();
        group.run("sleep 600 & wait");
        let (mut agent, _) = fenced.agent_with(timing(5_000, 6_000));
        let (mut pair, _listener) = Pair::new(HERE);
        agent.arm(Armament {
            ports: vec![PORT],
            ..armament(0, 1, &group)
        });
        agent.client.disarm(crate::world::slot(0)).unwrap();
        assert!(matches!(agent.next(), guard::fence::protocol::Reply::Done { .. }));
        until("nothing is gated", || {
            !run("nft", &["list", "ruleset"]).contains(&PORT.to_string())
        });
        assert!(pair.talks());
    });
}

#[test]
fn a_port_that_another_slot_took_is_neither_shut_nor_lifted_for_the_one_before() {
    in_a_network(|| {
        let fenced = Fenced::new(&[]);
        let (mut group, mut next) = (Group::new(), Group::new());
        group.run("sleep 600 & wait");
        next.run("sleep 600 & wait");
        let (mut agent, _) = fenced.agent_with(timing(1_500, 2_500));
        let (mut pair, _listener) = Pair::new(HERE);
        agent.arm(Armament {
            ports: vec![PORT],
            frozen_max: Millis(60_000),
            ..armament(0, 1, &group)
        });
        // Ended under an earlier session and by an earlier agent: nobody gives its slot up.
        kill_now([group.path.as_path()]).unwrap();
        until("it is ended", || !group.events().populated);
        agent.open(SESSION + 1);
        // The same instance is there again, and is another slot's.
        agent.arm(Armament {
            ports: vec![PORT],
            frozen_max: Millis(60_000),
            ..armament(1, 1, &next)
        });
        loop {
            agent.client.renewed(SESSION + 1, mark()).unwrap();
            match agent.within(Duration::from_millis(200)) {
                None => assert!(pair.talks(), "it is renewed"),
                Some(Reply::Event { slot, what, .. }) => {
                    assert_eq!((slot, what), (crate::world::slot(0), What::Frozen));
                    break;
                }
                Some(other) => panic!("{other:?}"),
            }
        }
        std::thread::sleep(Duration::from_millis(100));
        assert!(pair.talks(), "the gate of another slot was shut");
        agent.client.disarm(crate::world::slot(0)).unwrap();
        while !matches!(agent.next(), Reply::Done { .. }) {}
        agent.client.renewed(SESSION + 1, mark()).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let rules = run("nft", &["list", "ruleset"]);
        assert_eq!(rules.matches(&PORT.to_string()).count(), 4, "gated and open: {rules}");
        assert_eq!(agent.frozen(), crate::world::slot(1));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!pair.talks(), "frozen, but not gated");
    });
}

#[test]
fn a_floating_address_is_gated_and_taken_away() {
    in_a_network(|| {
        let floating = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1));
        run("ip", &["address", "add", "10.99.0.1/32", "dev", "lo"]);
        let fenced = Fenced::new(&[]);
        let mut group = Group::new();
        group.run("sleep 600 & wait");
        let (mut pair, _listener) = Pair::new(floating);
        let (mut agent, _) = fenced.agent_with(timing(300, 900));
        agent.arm(Armament {
            addresses: vec![floating],
            floating: Some(Floating {
                address: floating,
                prefix: 32,
                interface: 1,
            }),
            frozen_max: Millis(60_000),
            ..armament(0, 1, &group)
        });
        assert!(pair.talks());
        assert_eq!(agent.event(), What::Frozen);
        std::thread::sleep(Duration::from_millis(50));
        assert!(!pair.talks(), "frozen, but its address is not gated");
        assert!(run("ip", &["address"]).contains("10.99.0.1"));
        until("the address is gone", || !run("ip", &["address"]).contains("10.99.0.1"));
        assert!(group.events().populated);
    });
}

#[test]
fn a_floating_address_is_exchanged_while_its_slot_is_held_and_both_are_taken_away() {
    in_a_network(|| {
        let [old, new] = [1, 2].map(|last| IpAddr::V4(Ipv4Addr::new(10, 99, 0, last)));
        let floating = |address| {
            Some(Floating {
                address,
                prefix: 32,
                interface: 1,
            })
        };
        for ip in [old, new] {
            run("ip", &["address", "add", &format!("{ip}/32"), "dev", "lo"]);
        }
        let fenced = Fenced::new(&[]);
        let mut group = Group::new();
        group.run("sleep 600 & wait");
        let (mut pair, listener) = Pair::new(new);
        let (mut agent, _) = fenced.agent_with(timing(700, 900));
        let alone = Armament {
            addresses: vec![old],
            floating: floating(old),
            frozen_max: Millis(60_000),
            ..armament(0, 1, &group)
        };
        let both = Armament {
            addresses: vec![old, new],
            exchanged: floating(new),
            ..alone.clone()
        };
        agent.arm(alone.clone());
        agent.arm(both.clone());
        assert!(pair.talks());
        agent
            .client
            .arm(Armament {
                ports: vec![PORT],
                ..both
            })
            .unwrap();
        assert!(agent.refused().contains("another cgroup, port or policy"));
        assert_eq!(agent.event(), What::Frozen);
        std::thread::sleep(Duration::from_millis(50));
        assert!(!pair.talks(), "frozen, but the new address is not gated");
        until("both addresses are gone", || {
            !run("ip", &["address"]).contains("10.99.0.")
        });
        agent.renew();
        assert_eq!(agent.event(), What::Thawed { address_removed: true });
        // What is not its own any more is nobody's gate.
        agent.arm(alone);
        assert_eq!(agent.event(), What::Frozen);
        run("ip", &["address", "add", &format!("{new}/32"), "dev", "lo"]);
        drop((pair, listener));
        assert!(Pair::new(new).0.talks());
        std::thread::sleep(Duration::from_millis(400));
        assert!(run("ip", &["address"]).contains(&new.to_string()));
    });
}

#[test]
fn gates_close_by_themselves_and_each_refresh_counts_from_its_own_moment() {
    in_a_network(|| {
        let cluster = crate::world::unique("g");
        let mut gates = Gates::open(&cluster).unwrap();
        let v6 = Member::Address("::1".parse().unwrap());
        let members = [Member::Port(PORT), v6];
        let (mut pair, _listener) = Pair::new(HERE);
        gates.gate(&members).unwrap();
        assert!(!pair.talks(), "gated");
        gates.let_through(&members, Duration::from_millis(300)).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        gates.let_through(&members, Duration::from_millis(300)).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let six = || {
            UdpSocket::bind("[::1]:0").and_then(|socket| {
                socket.set_read_timeout(Some(Duration::from_millis(50)))?;
                let _ = socket.send_to(b"?", socket.local_addr()?);
                socket.recv(&mut [0; 8])
            })
        };
        assert!(six().is_ok(), "400 ms after a timeout of 300 that was refreshed");
        std::thread::sleep(Duration::from_millis(300));
        assert!(six().is_err());
        // One that has timed out is opened like any other, and closing twice is fine.
        gates.let_through(&members, Duration::from_secs(5)).unwrap();
        assert!(six().is_ok());
        gates.close(&members).unwrap();
        gates.close(&members).unwrap();
        assert!(six().is_err());
        gates.forget(&members).unwrap();
        assert!(six().is_ok());
        Gates::remove(&cluster).unwrap();
        Gates::remove(&cluster).unwrap();
        assert!(!run("nft", &["list", "tables"]).contains(&cluster));
    });
}
