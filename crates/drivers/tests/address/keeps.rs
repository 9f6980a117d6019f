//! A held address stays, whatever others do to it.

use crate::ear::Ear;
use crate::lan::{Lan, eventually};
use crate::{UNASKED, acquire_on, both, next};
use drivers::address::{Event, Mac, Options, RefreshError};
use model::Mark;
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn removed_by_hand_it_is_put_back_within_milliseconds_and_announced() {
    for ip in both() {
        let lan = Lan::new();
        let (host, client) = (lan.host(1), lan.host(9));
        let (held, mut events) = acquire_on(&host, ip, UNASKED).unwrap();
        let mut ear = Ear::on(&client, ip);
        let mut took = Vec::new();
        // More often would be a fight, in which it goes slower.
        for _ in 0..5 {
            // Past the announcements of the row before.
            std::thread::sleep(Duration::from_millis(150));
            ear.drain();
            host.ip(&format!("addr del {ip}/{} dev eth0", held.prefix()));
            let start = Instant::now();
            let (got, rest) = next(&host, events, 2);
            took.push(start.elapsed());
            events = rest;
            assert_eq!(got, [Event::Removed, Event::PutBack]);
            assert!(host.has(ip));
            assert_eq!(ear.hear_one().mac, [2, 0, 0, 0, 0, 1]);
        }
        took.sort();
        println!(
            "{ip}: put back at most {:.2}, typically {:.2} ms after `ip addr del` had ended",
            took[4].as_secs_f64() * 1e3,
            took[2].as_secs_f64() * 1e3
        );
        assert!(took[2] < Duration::from_millis(50), "{took:?}");
    }
}

#[test]
fn one_who_removes_it_again_and_again_is_not_fought_without_end() {
    let ip = both()[0];
    let lan = Lan::new();
    let host = lan.host(1);
    let (_held, mut events) = acquire_on(&host, ip, UNASKED).unwrap();
    let removals = host.spawn(async move {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            // Another process with the same right, without a word to the keeper.
            drivers::address::release(ip).await.ok();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    host.run(removals).unwrap();
    let mut put_backs = 0;
    while let Ok(event) = events.try_recv() {
        put_backs += usize::from(event == Event::PutBack);
    }
    assert!((5..=40).contains(&put_backs), "{put_backs} times in two seconds");
    eventually("it is there in the end", || host.has(ip));
}

#[test]
fn when_the_link_was_down_it_is_there_again_and_announced() {
    for ip in both() {
        let lan = Lan::new();
        let (host, client) = (lan.host(1), lan.host(9));
        let (_held, events) = acquire_on(&host, ip, UNASKED).unwrap();
        std::thread::sleep(Duration::from_millis(150));
        host.ip("link set eth0 down");
        let (got, events) = next(&host, events, 1);
        assert_eq!(got, [Event::LinkDown]);
        let mut ear = Ear::on(&client, ip);
        host.ip("link set eth0 up");
        // The kernel takes IPv6 addresses off a link that goes down.
        let expected: &[Event] = match ip.is_ipv4() {
            true => &[Event::LinkUp],
            false => &[Event::LinkUp, Event::PutBack],
        };
        let (got, _events) = next(&host, events, expected.len());
        assert_eq!(got, expected);
        assert!(host.has(ip));
        assert_eq!(ear.hear_one().mac, [2, 0, 0, 0, 0, 1]);
    }
}

#[test]
fn an_interface_that_is_made_anew_gets_it_again() {
    for ip in both() {
        let lan = Lan::new();
        let (host, client) = (lan.host(1), lan.host(9));
        let (held, events) = acquire_on(&host, ip, UNASKED).unwrap();
        let before = held.removal_message();
        host.ip("link del eth0");
        let (got, mut events) = next(&host, events, 1);
        assert!(matches!(got[0], Event::InterfaceGone | Event::LinkDown), "{got:?}");
        let mut ear = Ear::on(&client, ip);
        lan.plug(&host);
        loop {
            let (got, rest) = next(&host, events, 1);
            events = rest;
            if got == [Event::PutBack] {
                break;
            }
        }
        assert!(host.has(ip));
        assert_ne!(held.removal_message(), before, "it is for the new interface");
        assert_eq!(ear.hear_one().mac, [2, 0, 0, 0, 0, 1]);
        host.run(async move { held.release().await }).unwrap();
        assert!(!host.has(ip));
    }
}

#[test]
fn a_stranger_who_claims_it_is_told_of_and_answered_once() {
    for ip in both() {
        let lan = Lan::new();
        let (host, stranger, client) = (lan.host(1), lan.host(2), lan.host(9));
        let (_held, mut events) = acquire_on(&host, ip, UNASKED).unwrap();
        std::thread::sleep(Duration::from_millis(150));
        let mut ear = Ear::on(&client, ip);
        let start = Instant::now();
        // One who takes over without asking announces it at 0, 0.1 and 1 s.
        let _theirs = acquire_on(&stranger, ip, UNASKED).unwrap();
        let heard = ear.hear_until(start + Duration::from_millis(700));
        let theirs = heard.iter().filter(|one| one.mac == [2, 0, 0, 0, 0, 2]).count();
        let ours = heard.iter().filter(|one| one.mac == [2, 0, 0, 0, 0, 1]).count();
        let frames = if ip.is_ipv4() { 2 } else { 1 };
        // Theirs are two rows and their own defence; ours is the defence alone.
        assert_eq!((ours, theirs), (frames, 3 * frames), "{heard:?}");
        let conflict = Event::Conflict {
            mac: Mac([2, 0, 0, 0, 0, 2]),
            defended: true,
        };
        assert_eq!(events.try_recv(), Ok(conflict));
        assert!(events.try_recv().is_err(), "told twice");
    }
}

/// The host's network is restarted by its own tools: all addresses go, its own come back after ours.
#[test]
fn a_restart_of_the_hosts_network_leaves_both_its_address_and_ours() {
    let ip = both()[0];
    let lan = Lan::new();
    let host = lan.host(1);
    let (held, events) = acquire_on(&host, ip, UNASKED).unwrap();
    host.ip("addr flush dev eth0");
    let (got, _events) = next(&host, events, 2);
    assert_eq!(got, [Event::Removed, Event::PutBack]);
    host.ip("addr add 10.77.0.1/24 dev eth0");
    host.run(async move { held.release().await }).unwrap();
    assert!(!host.has(ip));
    assert!(
        host.has("10.77.0.1".parse().unwrap()),
        "the host's own address went with ours"
    );
}

#[test]
fn a_lease_that_is_renewed_goes_on_and_one_that_is_not_ends_by_its_end() {
    for ip in both() {
        let lan = Lan::new();
        let host = lan.host(1);
        let until = |ms| Some(now().later(Duration::from_millis(ms)));
        let options = Options {
            ask_for: None,
            until: until(1_500),
        };
        let (held, events) = acquire_on(&host, ip, options).unwrap();
        let held = Arc::new(held);
        let refresh = |until| {
            let held = held.clone();
            host.run(async move { held.refresh(until).await })
        };
        for _ in 0..8 {
            std::thread::sleep(Duration::from_millis(400));
            refresh(until(1_500)).unwrap();
            assert!(host.has(ip));
        }
        // Shorter than the kernel can count.
        let start = Instant::now();
        refresh(until(300)).unwrap();
        let (got, _events) = next(&host, events, 1);
        let after = start.elapsed();
        println!("{ip}: lease of 300 ms ended after {:.1} ms", after.as_secs_f64() * 1e3);
        assert_eq!(got, [Event::LeaseEnded]);
        assert!(
            after >= Duration::from_millis(300) && after < Duration::from_millis(600),
            "{after:?}"
        );
        assert!(!host.has(ip));
        let error = refresh(until(1_500)).unwrap_err();
        assert!(matches!(error, RefreshError::LeaseEnded { .. }), "revived: {error}");
        assert!(!host.has(ip));
    }
}

/// The kernel counts whole seconds, so that a lease of 2.9 s ends between 2 and 2.9 s after its last renewal.
#[test]
fn what_the_kernel_takes_away_at_the_end_of_a_lease_is_not_put_back() {
    for ip in both() {
        let lan = Lan::new();
        let host = lan.host(1);
        let options = Options {
            ask_for: None,
            until: Some(now().later(Duration::from_millis(2_900))),
        };
        let start = Instant::now();
        let (_held, events) = acquire_on(&host, ip, options).unwrap();
        let (got, mut events) = next(&host, events, 1);
        let after = start.elapsed();
        println!("{ip}: lease of 2900 ms ended after {} ms", after.as_millis());
        assert_eq!(got, [Event::LeaseEnded]);
        assert!(
            after > Duration::from_millis(1_900) && after < Duration::from_millis(3_200),
            "{after:?}"
        );
        std::thread::sleep(Duration::from_millis(200));
        assert!(!host.has(ip));
        assert!(events.try_recv().is_err());
    }
}

pub(crate) fn now() -> Mark {
    let ns = |clock| {
        let time = clock_gettime(clock);
        u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
    };
    Mark {
        boot_ns: ns(ClockId::Boottime),
        raw_ns: ns(ClockId::MonotonicRaw),
    }
}
