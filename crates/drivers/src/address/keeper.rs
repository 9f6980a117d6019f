//! The task that keeps an address: announces it, puts it back, defends it, and lets go when the lease ends.

use super::choose::Place;
use super::decide::{LinkState, Sight, Step, decide};
use super::error::RefreshError;
use super::frame::{Heard, MacBytes};
use super::netlink::{self, Monitor, Snapshot};
use super::wire::Wire;
use super::{Event, Mac, addition, lease, remove};
use model::Mark;
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

/// When the address is announced, from the moment it is there: the first may be lost, and with it each that follows soon.
const ANNOUNCEMENTS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(10),
];
/// And then so often: a switch forgets in five minutes, a host in less.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(60);
/// From this announcement on the neighbours are asked too whether anyone else has it: a stranger who says nothing by himself, and was not asked
/// before it was added or answered late. Not before, when what an old holder said may still be under way.
const ASKED_FROM: usize = 2;
/// RFC 5227, DEFEND_INTERVAL.
const DEFEND_EVERY: Duration = Duration::from_secs(10);
/// A second look without a cause, should the kernel's news have been lost.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Timers stand still while the machine is suspended, so the clocks are read so often.
const CLOCKS_EVERY: Duration = Duration::from_secs(1);
/// After so many removals within [`CALM`], someone fights us for the address: then we go slower.
const PUT_BACKS_MAX: u32 = 10;
const CALM: Duration = Duration::from_secs(1);
/// After a failure, or in a fight.
const RETRY_AFTER: Duration = Duration::from_millis(100);

pub(crate) enum Command {
    Refresh(Option<Mark>, oneshot::Sender<Result<(), RefreshError>>),
    /// Ends the task; the answer comes when it does nothing more.
    Stop(oneshot::Sender<()>),
}

pub(crate) struct Keeper {
    ip: IpAddr,
    place: Place,
    until: Option<Mark>,
    /// When the kernel takes the address away unless the lease is renewed.
    kernel_end: Option<Mark>,
    /// Ethernet addresses of this host: what they say is no conflict.
    ours: Vec<MacBytes>,
    wire: Option<Wire>,
    events: mpsc::Sender<Event>,
    index: watch::Sender<u32>,
    sight: Sight,
    /// How many announcements of the present row are done, when it began.
    announced: (usize, Instant),
    defended: Option<Instant>,
    put_backs: (u32, Instant),
    /// When to look again.
    look_at: Instant,
    has_ended: bool,
}

impl Keeper {
    pub(crate) fn new(
        ip: IpAddr,
        place: Place,
        (until, since): (Option<Mark>, Mark),
        ours: Vec<MacBytes>,
        wire: Option<Wire>,
        events: mpsc::Sender<Event>,
        index: watch::Sender<u32>,
    ) -> Self {
        let now = Instant::now();
        let sight = Sight {
            link: LinkState::Up,
            identity: (place.link.index, place.link.mac),
            is_there: true,
        };
        Self {
            ip,
            place,
            until,
            kernel_end: lease::kernel_end(until, since),
            ours,
            wire,
            events,
            index,
            sight,
            announced: (0, now),
            defended: None,
            put_backs: (0, now),
            look_at: now + LOOK_EVERY,
            has_ended: false,
        }
    }

    pub(crate) async fn run(mut self, mut monitor: Monitor, mut commands: mpsc::Receiver<Command>) {
        loop {
            // First of all: after a stall of the machine a lease may have ended, and then nothing may be announced or defended any more.
            self.look_at_clocks().await;
            let announce_at = self.next_announcement();
            let lease_at = self.lease_at();
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(Command::Refresh(until, answer)) => {
                        let _ = answer.send(self.refresh(until).await);
                    }
                    Some(Command::Stop(answer)) => {
                        let _ = answer.send(());
                        return;
                    }
                    None => return,
                },
                () = sleep_until(lease_at), if self.until.is_some() && !self.has_ended => {}
                news = monitor.concerns(self.ip, &self.place.link.name, self.place.link.index), if !self.has_ended => match news {
                    Ok(false) => {}
                    Ok(true) => self.look().await,
                    Err(error) => {
                        tracing::warn!(ip = %self.ip, %error, "failed to hear of changes of addresses; looking from time to time");
                        self.look_at = Instant::now() + RETRY_AFTER;
                        tokio::time::sleep(RETRY_AFTER).await;
                    }
                },
                heard = hear(self.wire.as_ref(), &self.ours), if self.wire.is_some() && !self.has_ended => match heard {
                    Ok(Some(heard)) => self.conflict(heard),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(ip = %self.ip, %error, "failed to hear of conflicts; opening the socket anew");
                        self.reopen();
                        tokio::time::sleep(RETRY_AFTER).await;
                    }
                },
                () = sleep_until(announce_at), if !self.has_ended => self.announce(),
                () = sleep_until(self.look_at), if !self.has_ended => self.look().await,
            }
        }
    }

    /// Sends the announcement that is due, and the question.
    pub(crate) fn announce(&mut self) {
        let asks = self.announced.0 >= ASKED_FROM;
        self.announced.0 += 1;
        let Some(wire) = self.wire.as_ref().filter(|_| self.sight.link == LinkState::Up) else {
            return;
        };
        let said = wire.announce().and_then(|()| if asks { wire.ask() } else { Ok(()) });
        if let Err(error) = said {
            tracing::debug!(ip = %self.ip, %error, "failed to announce; it is repeated");
        }
    }

    fn next_announcement(&self) -> Instant {
        let (done, since) = self.announced;
        match ANNOUNCEMENTS.get(done) {
            Some(after) => since + *after,
            None => {
                let more = u32::try_from(done - ANNOUNCEMENTS.len() + 1).unwrap_or(u32::MAX);
                since + ANNOUNCEMENTS[ANNOUNCEMENTS.len() - 1] + ANNOUNCE_EVERY.saturating_mul(more)
            }
        }
    }

    async fn refresh(&mut self, until: Option<Mark>) -> Result<(), RefreshError> {
        let ended = RefreshError::LeaseEnded { ip: self.ip };
        self.look_at_clocks().await;
        if self.has_ended {
            return Err(ended);
        }
        if self.sight.link == LinkState::Gone {
            return Err(RefreshError::InterfaceGone {
                ip: self.ip,
                interface: self.place.link.name.clone(),
            });
        }
        let now = lease::now();
        let addition = addition(self.ip, &self.place, until, now).ok_or(ended)?;
        // On a link that is down IPv6 has no addresses; it gets this one, with the new lease, when the link comes up.
        if self.can_have_it() {
            netlink::add(&addition).await?;
        }
        self.until = until;
        self.kernel_end = lease::kernel_end(until, now);
        Ok(())
    }

    fn can_have_it(&self) -> bool {
        self.ip.is_ipv4() || self.sight.link == LinkState::Up
    }

    fn lease_at(&self) -> Instant {
        let left = self
            .until
            .map_or(CLOCKS_EVERY, |until| lease::left(until, lease::now()));
        Instant::now() + left.min(CLOCKS_EVERY)
    }

    /// Lets go of the address when the lease has ended.
    async fn look_at_clocks(&mut self) {
        let is_over = |until| lease::left(until, lease::now()).is_zero();
        if !self.has_ended && self.until.is_some_and(is_over) {
            self.end().await;
        }
    }

    /// The lease has ended, and stays so: whoever holds nothing any more must take anew.
    async fn end(&mut self) {
        self.has_ended = true;
        if let Err(error) = remove::release(self.ip).await {
            tracing::error!(ip = %self.ip, %error, "the lease ended, and the address could not be removed");
        }
        self.tell(Event::LeaseEnded);
    }

    /// Looks at interface and address, and does what is to be done.
    async fn look(&mut self) {
        self.look_at = Instant::now() + LOOK_EVERY;
        let snapshot = match netlink::snapshot().await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                tracing::warn!(ip = %self.ip, %error, "failed to look at addresses");
                self.look_at = Instant::now() + RETRY_AFTER;
                return;
            }
        };
        let now = self.see(&snapshot);
        let is_kernels_end = |end| lease::is_kernels_end(end, lease::now());
        if !now.is_there && self.sight.is_there && self.kernel_end.is_some_and(is_kernels_end) {
            return self.end().await;
        }
        let before = std::mem::replace(&mut self.sight, now);
        for step in decide(before, now, self.ip.is_ipv6()) {
            match step {
                Step::Tell(event) => self.tell(event),
                Step::Reopen => self.reopen(),
                Step::PutBack => self.put_back().await,
                Step::Announce => {
                    self.announced = (0, Instant::now());
                    self.announce();
                }
            }
        }
    }

    fn see(&mut self, snapshot: &Snapshot) -> Sight {
        let Some(link) = snapshot.link_named(&self.place.link.name) else {
            return Sight {
                link: LinkState::Gone,
                is_there: false,
                ..self.sight
            };
        };
        self.ours = snapshot.macs();
        if *link != self.place.link {
            self.place.link = link.clone();
            self.index.send_replace(link.index);
        }
        let is_it = |entry: &super::message::Entry| entry.index == link.index && entry.prefix == self.place.prefix;
        Sight {
            link: if link.is_up { LinkState::Up } else { LinkState::Down },
            identity: (link.index, link.mac),
            is_there: snapshot.with_ip(self.ip).any(is_it),
        }
    }

    async fn put_back(&mut self) {
        let now = Instant::now();
        let (count, since) = self.put_backs;
        self.put_backs = if now - since > CALM {
            (1, now)
        } else {
            (count + 1, since)
        };
        if self.put_backs.0 > PUT_BACKS_MAX {
            self.look_at = now + RETRY_AFTER;
            return;
        }
        // None: the end of the lease is dealt with by the timer, which is due.
        let marked = lease::now();
        let Some(addition) = addition(self.ip, &self.place, self.until, marked) else {
            return;
        };
        match netlink::add(&addition).await {
            Ok(()) => {
                self.kernel_end = lease::kernel_end(self.until, marked);
                self.sight.is_there = true;
                self.tell(Event::PutBack);
            }
            Err(error) => {
                self.look_at = Instant::now() + RETRY_AFTER;
                let problem = format!("{error}: {}", error.source);
                self.tell(Event::NotPutBack { problem });
            }
        }
    }

    fn reopen(&mut self) {
        let link = &self.place.link;
        self.wire = link.mac.and_then(|mac| match Wire::open(link.index, self.ip, mac) {
            Ok(wire) => Some(wire),
            Err(error) => {
                tracing::warn!(ip = %self.ip, interface = link.name, %error, "failed to open a socket for announcements");
                None
            }
        });
    }

    fn conflict(&mut self, heard: Heard) {
        let now = Instant::now();
        // A question whether the address is free is answered by the kernel.
        let is_silenced = self.defended.is_some_and(|at| now - at < DEFEND_EVERY);
        if !heard.has_it || is_silenced {
            return;
        }
        self.defended = Some(now);
        let defended = self.wire.as_ref().is_some_and(|wire| wire.announce().is_ok());
        self.tell(Event::Conflict {
            mac: Mac(heard.mac),
            defended,
        });
    }

    fn tell(&self, event: Event) {
        tracing::info!(ip = %self.ip, interface = self.place.link.name, %event, "floating address");
        // Nobody may be listening, or not take what is told: that must not keep us from keeping the address.
        let _ = self.events.try_send(event);
    }
}

async fn hear(wire: Option<&Wire>, but: &[MacBytes]) -> io::Result<Option<Heard>> {
    match wire {
        Some(wire) => wire.hear(but).await,
        None => std::future::pending().await,
    }
}
