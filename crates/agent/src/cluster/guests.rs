//! Connections of those who show no certificate: browsers of people, machines that want to join, and anybody else who reaches the port.
//! They are few, of each place and in all, and end when nothing is said on them: nobody from outside uses up the agent's descriptors,
//! which it needs to start, to watch and to end services.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Of one place: eight pages of a browser, and less than there are handshakes at once, so that one place alone keeps no other from its own.
pub(super) const OF_ONE_MAX: usize = 48;
/// Of all: a quarter of the descriptors that a process has if nobody raised the bound.
const OF_ALL_MAX: usize = 256;
/// Nothing was read or written for so long. Streams of the dashboard say something each few seconds.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(90);

/// How many there are, of each place.
#[derive(Debug, Clone, Default)]
pub(super) struct Guests(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

impl Guests {
    /// One more, for as long as what is given back lives; `None` if there are too many.
    pub(super) fn let_in(&self, from: IpAddr) -> Option<Guest> {
        let place = place(from);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_all: usize = counts.values().sum();
        let of_one = counts.get(&place).copied().unwrap_or(0);
        if of_all >= OF_ALL_MAX || of_one >= OF_ONE_MAX {
            return None;
        }
        counts.insert(place, of_one + 1);
        drop(counts);
        Some(Guest {
            place,
            guests: self.clone(),
        })
    }
}

/// Who has one address of IPv6 has a whole network of them.
fn place(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }
}

/// A connection that counts until it ends.
#[derive(Debug)]
pub(super) struct Guest {
    place: IpAddr,
    guests: Guests,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut counts = self.guests.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.place) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.place);
            }
        }
    }
}

/// A stream that breaks when nothing is said on it for too long.
#[derive(Debug)]
pub(crate) struct Patient<S, H = ()> {
    stream: S,
    /// Let go of when it ends.
    _held: H,
    /// Absent for those who may be silent.
    until: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl<S> Patient<S> {
    /// With a bound on silence, or without.
    pub(super) fn new(stream: S, patience: Option<Duration>) -> Self {
        Self::holding(stream, patience, ())
    }
}

impl<S, H> Patient<S, H> {
    /// The same, with something that is held for as long as it lives.
    pub(crate) fn holding(stream: S, patience: Option<Duration>, held: H) -> Self {
        Self {
            stream,
            _held: held,
            until: patience.map(|patience| (patience, Box::pin(tokio::time::sleep(patience)))),
        }
    }

    fn said(&mut self) {
        if let Some((patience, until)) = &mut self.until {
            until.as_mut().reset(Instant::now() + *patience);
        }
    }

    /// Wakes up the one who waits when it has been silent for too long.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        match &mut self.until {
            Some((patience, until)) => until.as_mut().poll(context).map(|()| {
                let text = format!("nothing was said for {} s", patience.as_secs());
                io::Error::new(io::ErrorKind::TimedOut, text)
            }),
            None => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin, H: Unpin> AsyncRead for Patient<S, H> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Pending => self.wait(context).map(Err),
            ready => {
                self.said();
                ready
            }
        }
    }
}

impl<S: AsyncWrite + Unpin, H: Unpin> AsyncWrite for Patient<S, H> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            // Somebody who asks and does not read the answer is as silent as one who does not ask.
            Poll::Pending => self.wait(context).map(Err),
            ready => {
                self.said();
                ready
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Pending => self.wait(context).map(Err),
            ready => ready,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_shutdown(context) {
            Poll::Pending => self.wait(context).map(Err),
            ready => ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_place_has_so_many_and_no_more_until_one_of_them_ends() {
        let guests = Guests::default();
        let mut inside: Vec<Guest> = (0..OF_ONE_MAX)
            .map(|_| guests.let_in(at("10.0.0.1")).unwrap())
            .collect();
        assert!(guests.let_in(at("10.0.0.1")).is_none());
        assert!(
            guests.let_in(at("::ffff:10.0.0.1")).is_none(),
            "the same, written otherwise"
        );
        assert!(guests.let_in(at("10.0.0.2")).is_some());
        inside.pop();
        assert!(guests.let_in(at("10.0.0.1")).is_some());
        drop(inside);
        assert!(
            guests.0.lock().unwrap().is_empty(),
            "nothing is remembered of who has left"
        );
    }

    #[test]
    fn a_network_of_addresses_is_one_place_and_many_places_are_bounded_too() {
        let guests = Guests::default();
        let from_one: Vec<_> = (0..200u128)
            .filter_map(|number| guests.let_in(Ipv6Addr::from_bits((0x2001_0db8 << 96) + number).into()))
            .collect();
        assert_eq!(from_one.len(), OF_ONE_MAX);
        let from_many: Vec<_> = (0..1_000u32)
            .filter_map(|number| guests.let_in(std::net::Ipv4Addr::from_bits((10 << 24) + number).into()))
            .collect();
        assert_eq!(from_one.len() + from_many.len(), OF_ALL_MAX);
    }

    /// Long enough for a busy machine between two words, short enough to wait for.
    const PATIENCE: Duration = Duration::from_secs(2);

    #[tokio::test]
    async fn who_says_nothing_is_sent_away_and_who_says_something_now_and_then_is_not() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut ours = Patient::new(ours, Some(PATIENCE));
        let mut byte = [0];
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE * 3 / 2 {
            tokio::time::sleep(PATIENCE / 10).await;
            theirs.write_all(b"x").await.unwrap();
            ours.read_exact(&mut byte).await.unwrap();
        }
        let begun = Instant::now();
        let error = ours.read_exact(&mut byte).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(
            begun.elapsed() >= PATIENCE - Duration::from_millis(10),
            "{:?}",
            begun.elapsed()
        );
    }

    #[tokio::test]
    async fn who_reads_no_answer_is_sent_away_too() {
        let (ours, _theirs) = tokio::io::duplex(4);
        let mut ours = Patient::new(ours, Some(PATIENCE / 10));
        let error = ours.write_all(b"more than it takes").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn who_showed_a_certificate_may_be_silent() {
        let (ours, _theirs) = tokio::io::duplex(64);
        let mut ours = Patient::new(ours, None);
        let silent = tokio::time::timeout(PATIENCE / 10, ours.read_u8()).await;
        assert!(silent.is_err(), "it was waited for");
    }
}
