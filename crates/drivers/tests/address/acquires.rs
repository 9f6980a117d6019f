//! Where an address is put, and when it is refused.

use crate::lan::Lan;
use crate::{UNASKED, acquire_on, address, both};
use drivers::address::{AcquireError, Options, acquire};
use model::FloatingAddress;
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::net::IpAddr;
use std::time::{Duration, Instant};

#[test]
fn an_address_that_a_stranger_has_is_refused_with_the_strangers_ethernet_address() {
    for ip in both() {
        let lan = Lan::new();
        let (host, stranger) = (lan.host(1), lan.host(2));
        stranger.ip(&format!(
            "addr add {ip}/24 dev eth0 {}",
            if ip.is_ipv6() { "nodad" } else { "" }
        ));
        let error = acquire_on(&host, ip, Options::default()).unwrap_err();
        assert!(matches!(error, AcquireError::InUse { .. }), "{error}");
        assert!(error.to_string().contains(&stranger.mac()), "{error}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("take over without asking"), "{hint}");
        assert!(!host.has(ip), "refused, but added");

        // The way out that the hint names.
        acquire_on(&host, ip, UNASKED).unwrap();
        assert!(host.has(ip));
    }
}

#[test]
fn an_address_that_nobody_has_is_there_after_the_time_for_asking() {
    for ip in both() {
        let lan = Lan::new();
        let host = lan.host(1);
        let start = Instant::now();
        let (held, _events) = acquire_on(&host, ip, Options::default()).unwrap();
        let took = start.elapsed();
        println!(
            "{ip}: acquired in {:.1} ms, 50 of them asking",
            took.as_secs_f64() * 1e3
        );
        assert!(took >= Duration::from_millis(50), "{took:?}");
        assert!(host.has(ip));
        let alone = if ip.is_ipv4() { 32 } else { 128 };
        assert_eq!((held.interface(), held.prefix(), held.ip()), ("eth0", alone, ip));
        // Usable at once: IPv6 is not `tentative` for a second.
        let shown = host.ip(&format!("-o addr show dev eth0 to {ip}"));
        assert!(shown.contains("eth0") && !shown.contains("tentative"), "{shown}");
    }
}

#[test]
fn two_that_ask_at_once_do_not_both_get_it() {
    for ip in both() {
        let lan = Lan::new();
        let hosts = [lan.host(1), lan.host(2)];
        let tasks = hosts
            .each_ref()
            .map(|host| host.spawn(async move { acquire(&address(ip), Options::default()).await }));
        let [one, other] = tasks;
        let results = [hosts[0].run(one).unwrap(), hosts[1].run(other).unwrap()];
        let taken = results.iter().filter(|result| result.is_ok()).count();
        assert!(taken <= 1, "both have it");
    }
}

#[test]
fn an_address_of_the_hosts_own_configuration_is_refused() {
    for ip in both() {
        let lan = Lan::new();
        let host = lan.host(1);
        host.ip(&format!("addr add {ip}/24 dev eth0"));
        let error = acquire_on(&host, ip, UNASKED).unwrap_err();
        assert!(matches!(error, AcquireError::SetByOthers { .. }), "{error}");
        let hint = error.hint().unwrap();
        assert!(hint.contains(&format!("ip address delete {ip}/24 dev eth0")), "{hint}");
        assert!(host.has(ip), "what is not ours is left alone");
    }
}

#[test]
fn the_interface_is_the_one_given_else_that_of_the_network_else_that_of_the_default_route() {
    let lan = Lan::new();
    let host = lan.host(1);
    host.ip("link add name other type veth peer name far");
    host.ip("link set other up");
    host.ip("link set far up");
    let of = |ip: &str, interface: Option<&str>| {
        let address = FloatingAddress {
            ip: ip.parse().unwrap(),
            prefix: 24,
            interface: interface.map(str::to_owned),
        };
        host.run(async move { acquire(&address, UNASKED).await })
            .map(|(held, _)| (held.interface().to_owned(), held.prefix()))
    };
    assert_eq!(of("10.77.0.100", None).unwrap(), ("eth0".to_owned(), 32));
    assert_eq!(of("10.77.0.101", Some("other")).unwrap(), ("other".to_owned(), 24));
    assert_eq!(of("127.0.0.50", None).unwrap(), ("lo".to_owned(), 32));
    let error = of("10.78.0.100", None).unwrap_err();
    assert!(matches!(error, AcquireError::NoInterface { .. }), "{error}");
    assert!(error.to_string().contains("eth0 (10.77.0.1/24"), "{error}");
    host.ip("route add default via 10.77.0.9");
    assert_eq!(of("10.78.0.100", None).unwrap(), ("eth0".to_owned(), 24));
    let error = of("10.77.0.102", Some("eth7")).unwrap_err();
    assert!(
        error.to_string().contains("no interface `eth7`") && error.to_string().contains("eth0"),
        "{error}"
    );
    host.ip("link set far down");
    let error = of("10.77.0.103", Some("other")).unwrap_err();
    assert!(matches!(error, AcquireError::LinkDown { .. }), "{error}");
}

#[test]
fn one_who_may_not_is_told_which_capability_is_missing() {
    let lan = Lan::new();
    let host = lan.host(1);
    for (lacking, ip) in [
        (CapabilitySet::NET_ADMIN, both()[0]),
        (CapabilitySet::NET_RAW, both()[0]),
        (CapabilitySet::NET_ADMIN, both()[1]),
    ] {
        let error = host.on_thread(|| {
            let all = rustix::thread::capabilities(None).unwrap();
            let fewer = CapabilitySets {
                effective: all.effective - lacking,
                permitted: all.permitted - lacking,
                inheritable: CapabilitySet::empty(),
            };
            rustix::thread::set_capabilities(None, fewer).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(acquire(&address(ip), UNASKED)).unwrap_err()
        });
        let hint = error.hint().unwrap_or_else(|| panic!("no hint: {error:?}"));
        assert!(hint.contains("CAP_NET_ADMIN") && hint.contains("CAP_NET_RAW"), "{hint}");
        assert!(!host.has(ip));
    }
}

#[test]
fn an_address_that_no_host_can_have_is_refused() {
    let lan = Lan::new();
    let host = lan.host(1);
    let ip: IpAddr = "10.77.0.255".parse().unwrap();
    let error = acquire_on(&host, ip, UNASKED).unwrap_err();
    assert_eq!(
        error.to_string(),
        "10.77.0.255/24 is the broadcast address of its network, which no host can have"
    );
}
