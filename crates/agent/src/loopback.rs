//! Connections of programs and browsers on this machine, to the dashboard and to the API that may be read: few, together, and ended when nothing
//! is said on them. Whoever has an account here uses up no descriptors that the agent needs to start, to watch and to end services.
//! The owner's socket is another one, and has no such bound.

use crate::cluster::guests::Patient;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Of dashboard and API together: an eighth of the descriptors that a process has if nobody raised the bound, and sixteen pages of a browser.
const CONNECTIONS_MAX: usize = 128;
/// Nothing was read or written for so long. Streams say something each few seconds; no answer takes longer.
const IDLE_MAX: Duration = Duration::from_secs(600);
/// How often it is told that there are too many.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What is left of the bound, for all who listen.
#[derive(Debug, Clone)]
pub(crate) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CONNECTIONS_MAX)))
    }
}

/// Takes as many connections as there is room for; those beyond are closed at once.
#[derive(Debug)]
pub(crate) struct Bounded {
    listener: TcpListener,
    room: Room,
    told: Option<Instant>,
}

/// A connection, and its part of the room until it ends.
pub(crate) type Connection = Patient<TcpStream, OwnedSemaphorePermit>;

impl Bounded {
    pub(crate) fn new(listener: TcpListener, room: Room) -> Self {
        Self {
            listener,
            room,
            told: None,
        }
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // Errors of it are told, and tried again, by axum.
            let (stream, from) = axum::serve::Listener::accept(&mut self.listener).await;
            if let Ok(permit) = Arc::clone(&self.room.0).try_acquire_owned() {
                return (Patient::holding(stream, Some(IDLE_MAX), permit), from);
            }
            if self.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
                tracing::warn!(
                    most = CONNECTIONS_MAX,
                    "too many connections on this machine: more are closed at once"
                );
                self.told = Some(Instant::now());
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::serve::Listener;
    use tokio::io::AsyncReadExt;

    async fn listener(room: &Room) -> (Bounded, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Bounded::new(listener, room.clone()), address)
    }

    #[tokio::test]
    async fn dashboard_and_api_have_one_bound_and_who_ends_makes_room() {
        let room = Room::default();
        let (mut dashboard, first) = listener(&room).await;
        let (mut api, second) = listener(&room).await;
        let mut inside = Vec::new();
        for number in 0..CONNECTIONS_MAX {
            let (listener, address) = match number % 2 {
                0 => (&mut dashboard, first),
                _ => (&mut api, second),
            };
            let theirs = TcpStream::connect(address).await.unwrap();
            inside.push((listener.accept().await, theirs));
        }
        for (listener, address) in [(&mut dashboard, first), (&mut api, second)] {
            let mut beyond = TcpStream::connect(address).await.unwrap();
            let mut byte = [0];
            // It is closed by the one who accepts, who goes on to wait for another.
            tokio::select! {
                _ = listener.accept() => panic!("there was no room"),
                end = beyond.read(&mut byte) => assert!(matches!(end, Ok(0) | Err(_)), "{end:?}"),
            }
        }
        inside.pop();
        let _theirs = TcpStream::connect(first).await.unwrap();
        dashboard.accept().await;
    }
}
