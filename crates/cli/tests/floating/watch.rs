//! Looks all the time which hosts have an address, so that two that have it at once are seen.

use hosts::{Host, now_ns};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// From the first look that found it to the last one in a row, nanoseconds on CLOCK_BOOTTIME.
pub(crate) type Span = (u64, u64);

/// A thread in each host.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    threads: Vec<(String, JoinHandle<Vec<Span>>)>,
}

impl Watch {
    pub(crate) fn start<'a>(hosts: impl Iterator<Item = &'a Host>, ip: Ipv4Addr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = hosts.map(|host| {
            let (stop, namespace) = (Arc::clone(&stop), host.namespace().clone());
            let thread = std::thread::spawn(move || {
                namespace.enter().unwrap();
                look(ip, &stop)
            });
            (host.name().to_owned(), thread)
        });
        Self {
            threads: threads.collect(),
            stop,
        }
    }

    /// When each host had it. Fails if two had it at once.
    pub(crate) fn stop(self) -> Vec<(String, Span)> {
        self.stop.store(true, Ordering::Relaxed);
        let spans = self.threads.into_iter().flat_map(|(host, thread)| {
            let spans = thread.join().unwrap();
            spans.into_iter().map(move |span| (host.clone(), span))
        });
        let mut spans: Vec<(String, Span)> = spans.collect();
        spans.sort_by_key(|(_, span)| *span);
        for pair in spans.windows(2) {
            let [(one, (_, until)), (other, (from, _))] = pair else {
                continue;
            };
            assert!(
                until < from || one == other,
                "{one} and {other} have it at once: {spans:?}"
            );
        }
        spans
    }
}

/// An address of ours can be bound, another cannot.
fn look(ip: Ipv4Addr, stop: &AtomicBool) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut had = false;
    while !stop.load(Ordering::Relaxed) {
        let before = now_ns();
        let has = UdpSocket::bind((ip, 0)).is_ok();
        let after = now_ns();
        match spans.last_mut() {
            Some(span) if has && had => span.1 = before,
            _ if has => spans.push((after, after)),
            _ => {}
        }
        had = has;
        std::thread::sleep(Duration::from_micros(200));
    }
    spans
}
