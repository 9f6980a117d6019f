//! Clients reach the address wherever it is.

use crate::ear::{Ear, Form};
use crate::lan::{Host, Lan, eventually};
use crate::{UNASKED, acquire_on, both};
use drivers::address::{Held, Options};
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PORT: u16 = 7_000;
const MOVES: usize = 20;
/// Answers of a holder before the address moves on.
const AT_LEAST: usize = 20;

#[test]
fn an_ipv4_address_moves_twenty_times_with_an_outage_of_milliseconds() {
    moves(both()[0]);
}

#[test]
fn an_ipv6_address_moves_twenty_times_with_an_outage_of_milliseconds() {
    moves(both()[1]);
}

/// A client connects every millisecond while the address goes to and fro.
fn moves(ip: IpAddr) {
    let lan = Lan::new();
    let (hosts, client) = ([lan.host(1), lan.host(2)], lan.host(9));
    hosts.iter().zip([1, 2]).for_each(|(host, name)| serve(host, name));
    let answers = connect_all_the_time(&client, ip);
    let mut held = (acquire_on(&hosts[0], ip, Options::default()).unwrap().0, 1);
    let (mut outages, mut handovers) = (Vec::new(), Vec::new());
    for turn in 1..=MOVES {
        let mut last = wait_for(&answers, held.1);
        let (from, to) = (&hosts[(turn - 1) % 2], &hosts[turn % 2]);
        let name = u8::try_from(turn % 2 + 1).unwrap();
        let start = Instant::now();
        release(from, held.0);
        held = (acquire_on(to, ip, UNASKED).unwrap().0, name);
        let moved = Instant::now();
        handovers.push(moved - start);
        assert!(!from.has(ip), "released, and still there");
        let first = loop {
            let answer = answers.recv_timeout(Duration::from_secs(5)).expect("no answer in 5 s");
            if answer.by == name {
                break answer.at;
            }
            last = last.max(answer.at);
        };
        outages.push(first.saturating_duration_since(last));
        for answer in answers.iter().take(AT_LEAST) {
            // What was asked before the move may be read later.
            let is_of_the_new_time = answer.asked > moved;
            assert!(
                !is_of_the_new_time || answer.by == name,
                "the old holder answered after the move"
            );
        }
    }
    report(&format!("{ip}: outage as clients see it"), &mut outages);
    report(&format!("{ip}: release and acquire"), &mut handovers);
    // Far more than it takes: the machine may be busy. A lost announcement would cost 100 ms.
    assert!(outages[MOVES / 2] < Duration::from_millis(90), "{outages:?}");
}

/// The old holder is cut off without releasing, and the first announcement of the new one is lost.
#[test]
fn neighbours_that_missed_the_first_announcement_are_corrected_by_the_next() {
    for ip in both() {
        let lan = Lan::new();
        let (old, new, client) = (lan.host(1), lan.host(2), lan.host(9));
        serve(&old, 1);
        serve(&new, 2);
        let _held = acquire_on(&old, ip, Options::default()).unwrap();
        assert_eq!(client.run(answer(ip)), Some(1));
        assert_eq!(client.neighbour(ip), Some(old.mac()));
        // The client cannot ask by itself either, so that nothing but an announcement tells it.
        client.nft(match ip {
            IpAddr::V4(_) => "table arp deaf { chain in { type filter hook input priority 0; drop; }; chain out { type filter hook output priority 0; drop; }; }",
            IpAddr::V6(_) => "table ip6 deaf { chain in { type filter hook input priority 0; icmpv6 type nd-neighbor-advert drop; }; chain out { type filter hook output priority 0; icmpv6 type nd-neighbor-solicit drop; }; }",
        });
        old.ip("link set eth0 down");
        let start = Instant::now();
        let _new_held = acquire_on(&new, ip, UNASKED).unwrap();
        assert_eq!(
            client.neighbour(ip),
            Some(old.mac()),
            "the first announcement was to be lost"
        );
        let table = if ip.is_ipv4() { "arp deaf" } else { "ip6 deaf" };
        client.nft(&format!("flush chain {table} in"));
        eventually("the neighbour knows the new holder", || {
            client.neighbour(ip) == Some(new.mac())
        });
        let corrected = start.elapsed();
        println!(
            "{ip}: corrected {} ms after the takeover, the first announcement lost",
            corrected.as_millis()
        );
        assert!(corrected < Duration::from_secs(3), "{corrected:?}");
        client.nft(&format!("delete table {table}"));
        assert_eq!(client.run(answer(ip)), Some(2));
    }
}

#[test]
fn an_address_is_announced_at_once_then_after_a_tenth_of_a_second_and_after_a_second() {
    for ip in both() {
        let lan = Lan::new();
        let (host, client) = (lan.host(1), lan.host(9));
        let mut ear = Ear::on(&client, ip);
        let start = Instant::now();
        let _held = acquire_on(&host, ip, UNASKED).unwrap();
        let heard = ear.hear_until(start + Duration::from_millis(1_700));
        let forms = match ip {
            IpAddr::V4(_) => vec![Form::Request, Form::Reply],
            IpAddr::V6(_) => vec![Form::Advertisement { overrides: true }],
        };
        let expected = forms.repeat(3);
        assert_eq!(
            heard.iter().map(|one| one.form).collect::<Vec<_>>(),
            expected,
            "{heard:?}"
        );
        assert!(heard.iter().all(|one| one.mac == [2, 0, 0, 0, 0, 1]), "{heard:?}");
        let [first, second, third] = [0, 1, 2].map(|row| heard[row * forms.len()].at);
        assert!(second - first >= Duration::from_millis(80), "{heard:?}");
        assert!(third - first >= Duration::from_millis(900), "{heard:?}");
    }
}

/// Answers each connection with a number, whatever address it comes to.
fn serve(host: &Host, name: u8) {
    let (ready, is_ready) = mpsc::channel();
    host.spawn(async move {
        let listener = TcpListener::bind(("::", PORT)).await.unwrap();
        ready.send(()).unwrap();
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(&[name]).await;
        }
    });
    is_ready.recv().unwrap();
}

async fn answer(ip: IpAddr) -> Option<u8> {
    let ask = async {
        let mut stream = TcpStream::connect(SocketAddr::new(ip, PORT)).await.ok()?;
        stream.read_u8().await.ok()
    };
    tokio::time::timeout(Duration::from_millis(800), ask).await.ok()?
}

/// A connection that was answered: begun when, answered when, and by whom.
struct Answer {
    asked: Instant,
    at: Instant,
    by: u8,
}

/// A connection begun every millisecond.
fn connect_all_the_time(client: &Host, ip: IpAddr) -> mpsc::Receiver<Answer> {
    let (answers, received) = mpsc::channel();
    client.spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        loop {
            tick.tick().await;
            let answers = answers.clone();
            tokio::spawn(async move {
                let asked = Instant::now();
                if let Some(by) = answer(ip).await {
                    let at = Instant::now();
                    let _ = answers.send(Answer { asked, at, by });
                }
            });
        }
    });
    received
}

/// Waits for answers by a holder, and for all others that came meanwhile. When the last of them came.
fn wait_for(answers: &mpsc::Receiver<Answer>, name: u8) -> Instant {
    let mut by_it = 0;
    let mut last = Instant::now();
    while by_it < AT_LEAST {
        let answer = answers.recv_timeout(Duration::from_secs(5)).expect("no answer in 5 s");
        by_it += usize::from(answer.by == name);
        last = answer.at;
    }
    answers.try_iter().last().map_or(last, |answer| answer.at)
}

fn release(host: &Host, held: Held) {
    host.run(async move { held.release().await }).unwrap();
}

fn report(what: &str, spans: &mut [Duration]) {
    spans.sort();
    let ms = |span: Duration| span.as_secs_f64() * 1e3;
    let (min, max) = (ms(spans[0]), ms(spans[spans.len() - 1]));
    let median = ms(spans[spans.len() / 2]);
    println!(
        "{what}: min {min:.1}, median {median:.1}, max {max:.1} ms over {} moves",
        spans.len()
    );
}
