//! The thread that moves gates and addresses. It waits for locks of the kernel that others hold (a large rule set being
//! loaded), which the fence itself must never do; so the fence leaves what it wants in a [`Gate`] and goes on.

use super::clock::mark;
use super::protocol::{Floating, SelfTest};
use super::realtime;
use super::selftest::{self, Question};
use super::words::Key;
use crate::gates::{Gates, Member, address};
use crate::netlink::Socket;
use model::Mark;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::OwnedFd;
use rustix::io::{read, write};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// A refresh that took longer is done once more: the time it gave was computed before.
const REFRESH_MAX: Duration = Duration::from_millis(10);
const REFRESHES_MAX: u32 = 3;
/// A table that cannot be used is not made anew more often: this thread is in real time, and must not keep a processor to itself.
const REBUILD_EVERY: Duration = Duration::from_secs(1);

/// What the fence wants of a slot's gate. Written by the fence, read by the worker; the newest counts.
#[derive(Debug)]
pub(super) struct Gate {
    open: AtomicBool,
    // A mix of two renewals is no worse than the older of them.
    boot_ns: AtomicU64,
    raw_ns: AtomicU64,
    hard_ns: AtomicU64,
    address_away: AtomicBool,
    wake: Arc<OwnedFd>,
}

impl Gate {
    pub(super) fn open(&self, renewed: Mark, hard: Duration) {
        self.hard_ns
            .store(u64::try_from(hard.as_nanos()).unwrap_or(u64::MAX), SeqCst);
        self.boot_ns.store(renewed.boot_ns, SeqCst);
        self.raw_ns.store(renewed.raw_ns, SeqCst);
        self.address_away.store(false, SeqCst);
        self.open.store(true, SeqCst);
    }

    pub(super) fn close(&self) {
        self.open.store(false, SeqCst);
    }

    pub(super) fn remove_address(&self) {
        self.address_away.store(true, SeqCst);
    }

    /// Lets the worker look. Never blocks: the counter is far from full.
    pub(super) fn wake(&self) {
        let _ = write(&*self.wake, &1_u64.to_ne_bytes());
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            open: self.open.load(SeqCst),
            renewed: Mark {
                boot_ns: self.boot_ns.load(SeqCst),
                raw_ns: self.raw_ns.load(SeqCst),
            },
            hard: Duration::from_nanos(self.hard_ns.load(SeqCst)),
            address_away: self.address_away.load(SeqCst),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    open: bool,
    renewed: Mark,
    hard: Duration,
    address_away: bool,
}

/// For the worker to do, when nothing is urgent.
#[derive(Debug)]
pub(super) enum Order {
    /// Gate these, and let them through as the gate says; answered by [`Report::Gated`].
    Take {
        key: Key,
        gate: Arc<Gate>,
        members: Vec<Member>,
        floating: Vec<Floating>,
    },
    /// They are gated no longer.
    Forget(Key),
    /// Nothing is gated: what an earlier guard left goes away.
    Clear,
    /// Answered by [`Report::Tested`].
    Test(Question),
}

/// What came of an order.
#[derive(Debug)]
pub(super) enum Report {
    Gated(Key, Result<(), String>),
    Tested(SelfTest),
    /// For the log.
    Trouble(String),
}

/// The fence's end.
#[derive(Debug)]
pub(super) struct Worker {
    orders: Sender<Order>,
    wake: Arc<OwnedFd>,
    /// What came back; look when [`Worker::reported`] is readable.
    pub(super) reports: Receiver<Report>,
    pub(super) reported: Arc<OwnedFd>,
}

impl Worker {
    pub(super) fn start(cluster: String) -> io::Result<Self> {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Arc::new);
        let (wake, reported) = (event()?, event()?);
        let (orders, received) = channel();
        let (sender, reports) = channel();
        let (wake_too, reported_too) = (wake.clone(), reported.clone());
        std::thread::Builder::new()
            .name("gates".into())
            .stack_size(256 * 1024)
            .spawn(move || {
                let _ = realtime::become_realtime(realtime::GATES_PRIORITY);
                let gates = Gates::open(&cluster).map_err(|error| error.to_string());
                let hand = Hand {
                    cluster,
                    rebuilt: None,
                    gates,
                    addresses: None,
                    slots: BTreeMap::new(),
                    orders: received,
                    wake: wake_too,
                    reports: sender,
                    reported: reported_too,
                };
                hand.work();
            })?;
        Ok(Self {
            orders,
            wake,
            reports,
            reported,
        })
    }

    pub(super) fn gate(&self) -> Arc<Gate> {
        Arc::new(Gate {
            open: AtomicBool::new(false),
            boot_ns: AtomicU64::new(0),
            raw_ns: AtomicU64::new(0),
            hard_ns: AtomicU64::new(0),
            address_away: AtomicBool::new(false),
            wake: self.wake.clone(),
        })
    }

    pub(super) fn order(&self, order: Order) {
        // It lives as long as the process.
        let _ = self.orders.send(order);
        let _ = write(&*self.wake, &1_u64.to_ne_bytes());
    }
}

/// Empties an event counter.
pub(super) fn drain(event: &OwnedFd) {
    let _ = read(event, &mut [0_u8; 8][..]);
}

struct Taken {
    gate: Arc<Gate>,
    /// These and the addresses are no other slot's: the last one that took them has them.
    members: Vec<Member>,
    floating: Vec<(Floating, address::Removal)>,
    done: Option<Wanted>,
}

struct Hand {
    cluster: String,
    /// When the table was made anew.
    rebuilt: Option<Mark>,
    /// Or why there are none.
    gates: Result<Gates, String>,
    addresses: Option<Socket>,
    slots: BTreeMap<Key, Taken>,
    orders: Receiver<Order>,
    wake: Arc<OwnedFd>,
    reports: Sender<Report>,
    reported: Arc<OwnedFd>,
}

impl Hand {
    fn work(mut self) {
        loop {
            // A signal ends the wait early, which does no harm.
            let _ = poll(&mut [PollFd::new(&*self.wake, PollFlags::IN)], None);
            drain(&self.wake);
            self.catch_up();
            while let Ok(order) = self.orders.try_recv() {
                self.carry_out(order);
                self.catch_up();
            }
        }
    }

    /// Makes every gate what is wanted of it.
    fn catch_up(&mut self) {
        let keys: Vec<Key> = self.slots.keys().copied().collect();
        for key in keys {
            if let Err(error) = self.settle(key) {
                self.report(Report::Trouble(error));
                self.rebuild();
                if let Err(error) = self.settle(key) {
                    self.report(Report::Trouble(error));
                }
            }
        }
    }

    /// Makes the table anew with all that is gated: `nft flush ruleset`, which many machines run when they load their own
    /// rules, takes ours away too.
    fn rebuild(&mut self) {
        let now = mark();
        if self.gates.is_err()
            || self
                .rebuilt
                .is_some_and(|rebuilt| now.held_for(rebuilt) < REBUILD_EVERY)
        {
            return;
        }
        self.rebuilt = Some(now);
        match Gates::open(&self.cluster) {
            Ok(gates) => self.gates = Ok(gates),
            Err(error) => return self.report(Report::Trouble(error.to_string())),
        }
        let mut troubles = Vec::new();
        for taken in self.slots.values_mut() {
            taken.done = None;
            if let Ok(gates) = &mut self.gates
                && let Err(error) = gates.gate(&taken.members)
            {
                troubles.push(error.to_string());
            }
        }
        for trouble in troubles {
            self.report(Report::Trouble(trouble));
        }
        // All of them are settled in this round or the next.
        let _ = write(&*self.wake, &1_u64.to_ne_bytes());
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Take {
                key,
                gate,
                members,
                floating,
            } => {
                let removal = |floating: Floating| {
                    let Floating {
                        address,
                        prefix,
                        interface,
                    } = floating;
                    (floating, address::Removal::new(address, prefix, interface))
                };
                let floating = floating.into_iter().map(removal).collect();
                let taken = Taken {
                    gate,
                    members,
                    floating,
                    done: None,
                };
                let result = self.take(key, taken);
                self.report(Report::Gated(key, result));
            }
            Order::Forget(key) => {
                if let (Some(taken), Ok(gates)) = (self.slots.remove(&key), &mut self.gates)
                    && let Err(error) = gates.forget(&taken.members)
                {
                    self.report(Report::Trouble(error.to_string()));
                }
            }
            // Whatever we gate ourselves stays: then there is nothing of an earlier guard either.
            Order::Clear if self.slots.is_empty() && self.gates.is_ok() => {
                let cleared = Gates::remove(&self.cluster).and_then(|()| Gates::open(&self.cluster));
                self.gates = cleared.map_err(|error| error.to_string());
                if let Err(error) = &self.gates {
                    self.report(Report::Trouble(error.clone()));
                }
            }
            Order::Clear => {}
            Order::Test(question) => {
                let unavailable = self.gates.as_ref().err().cloned();
                let answer = selftest::run(&question, unavailable);
                self.report(Report::Tested(answer));
            }
        }
    }

    fn take(&mut self, key: Key, taken: Taken) -> Result<(), String> {
        if let Ok(gates) = &mut self.gates {
            if let Some(old) = self.slots.get(&key) {
                let gone: Vec<Member> = old
                    .members
                    .iter()
                    .filter(|member| !taken.members.contains(member))
                    .copied()
                    .collect();
                gates.forget(&gone).map_err(|error| error.to_string())?;
            }
            gates.gate(&taken.members).map_err(|error| error.to_string())?;
        }
        if !taken.floating.is_empty() && self.addresses.is_none() {
            let socket =
                address::socket().map_err(|errno| format!("cannot speak to the kernel about addresses: {errno}"))?;
            self.addresses = Some(socket);
        }
        // Whoever had them before leaves them alone from here on: it would shut or lift what is this one's gate.
        for (_, before) in self.slots.iter_mut().filter(|(other, _)| **other != key) {
            before.members.retain(|member| !taken.members.contains(member));
            let is_taken = |floating: &Floating| taken.floating.iter().any(|(taken, _)| taken == floating);
            before.floating.retain(|(floating, _)| !is_taken(floating));
        }
        self.slots.insert(key, taken);
        self.settle(key)
    }

    fn settle(&mut self, key: Key) -> Result<(), String> {
        let Some(taken) = self.slots.get_mut(&key) else {
            return Ok(());
        };
        let wanted = taken.gate.wanted();
        if taken.done == Some(wanted) {
            return Ok(());
        }
        let gate_of = |wanted: Wanted| (wanted.open, wanted.renewed, wanted.hard);
        let mut applied = wanted;
        let mut result = Ok(());
        if let Ok(gates) = &mut self.gates
            && !taken.members.is_empty()
            && taken.done.map(gate_of) != Some(gate_of(wanted))
        {
            for _ in 0..REFRESHES_MAX {
                let begun = mark();
                let left = applied.hard.saturating_sub(begun.held_for(applied.renewed));
                let moved = if applied.open && left >= Duration::from_millis(1) {
                    gates.let_through(&taken.members, left)
                } else {
                    gates.close(&taken.members)
                };
                result = moved.map_err(|error| error.to_string());
                if mark().held_for(begun) < REFRESH_MAX {
                    break;
                }
                applied = taken.gate.wanted();
            }
        }
        let removed_before = taken.done.is_some_and(|done| done.address_away);
        if wanted.address_away
            && !removed_before
            && let Some(socket) = &mut self.addresses
        {
            for (floating, removal) in &taken.floating {
                if let Err(errno) = removal.carry_out(socket) {
                    result = Err(format!("failed to take address {} away: {errno}", floating.address));
                }
            }
        }
        // What was not done is tried again with the next renewal or change.
        taken.done = (result.is_ok() && applied == wanted).then_some(wanted);
        result
    }

    fn report(&self, report: Report) {
        let _ = self.reports.send(report);
        let _ = write(&*self.reported, &1_u64.to_ne_bytes());
    }
}
