//! The agent's end: telling the guard of renewals from a thread that must never wait.
//!
//! [`Client::connect`] gives two halves: [`Client`] sends and never blocks; [`Receiver`] waits for what the guard says, and
//! learns at once when the guard dies. Then the agent freezes its exclusive actives by itself ([`crate::fence::freeze_now`]),
//! starts another guard, and arms anew.

use crate::fence::protocol::{Armament, PACKET_BYTES_MAX, Reply, Request};
use model::{Epoch, Mark, SlotId, Timing};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send, socket_with,
};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why the guard was not told, or said nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("failed to connect to the guard at `{}`: {source}; is it running?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is gone.
    #[error("the guard is gone; freeze what is exclusive and start another")]
    Gone,
    /// It is there but hangs: as good as gone.
    #[error("the guard does not read; it hangs")]
    DoesNotRead,
    /// The kernel refuses.
    #[error("failed to speak to the guard: {0}")]
    Io(Errno),
    /// It is of another version.
    #[error("the guard says what is not understood: {0}; restart it so that guard and agent are the same program")]
    NotUnderstood(serde_json::Error),
}

/// Sends. Cheap to clone; no call waits.
#[derive(Debug, Clone)]
pub struct Client {
    socket: Arc<OwnedFd>,
}

/// Receives; for one thread.
#[derive(Debug)]
pub struct Receiver {
    socket: Arc<OwnedFd>,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects and registers as the agent; the guard answers with [`Reply::Registered`], which tells what is armed.
    /// `incarnation` must be larger than that of every earlier agent of this boot.
    pub fn connect(path: &Path, incarnation: u64) -> Result<(Self, Receiver), Error> {
        let failed = |source: Errno| Error::Connect {
            path: path.into(),
            source: source.into(),
        };
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(failed)?;
        connect(&socket, &SocketAddrUnix::new(path).map_err(failed)?).map_err(failed)?;
        let socket = Arc::new(socket);
        let client = Self { socket: socket.clone() };
        client.send(&Request::Register { incarnation })?;
        let receiver = Receiver {
            socket,
            buffer: vec![0; PACKET_BYTES_MAX],
        };
        Ok((client, receiver))
    }

    /// What spans the next renewal gives.
    pub fn timing(&self, timing: Timing) -> Result<(), Error> {
        self.send(&Request::Timing(timing))
    }

    /// A session was opened by a request sent at `mark`.
    pub fn session(&self, session: u64, mark: Mark) -> Result<(), Error> {
        self.send(&Request::Session { session, mark })
    }

    /// A slot is held. It may act once [`Reply::Armed`] has come.
    pub fn arm(&self, armament: Armament) -> Result<(), Error> {
        self.send(&Request::Arm(armament))
    }

    /// A frozen slot belongs to the present session.
    pub fn rebind(&self, slot: SlotId, epoch: Epoch) -> Result<(), Error> {
        self.send(&Request::Rebind { slot, epoch })
    }

    /// A slot is held no longer.
    pub fn disarm(&self, slot: SlotId) -> Result<(), Error> {
        self.send(&Request::Disarm { slot })
    }

    /// Nothing exclusive runs here: what an earlier guard left shut is opened.
    pub fn clear(&self) -> Result<(), Error> {
        self.send(&Request::Clear)
    }

    /// A renewal was acknowledged that was *sent* at `mark` ([`crate::fence::mark`], taken before sending).
    pub fn renewed(&self, session: u64, mark: Mark) -> Result<(), Error> {
        self.send(&Request::Renewed { session, mark })
    }

    /// The main loop goes round. The guard answers with [`Reply::Alive`]; one that does not within some tens of milliseconds
    /// hangs, and is to be treated as one that is gone.
    pub fn heartbeat(&self) -> Result<(), Error> {
        self.send(&Request::Heartbeat)
    }

    /// The agent ends in order.
    pub fn leave(&self) -> Result<(), Error> {
        self.send(&Request::Leave)
    }

    fn send(&self, request: &Request) -> Result<(), Error> {
        let text = serde_json::to_vec(request).map_err(Error::NotUnderstood)?;
        loop {
            return match send(&self.socket, &text, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => Ok(()),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Err(Error::DoesNotRead),
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Err(Error::Gone),
                Err(errno) => Err(Error::Io(errno)),
            };
        }
    }
}

impl Receiver {
    /// Waits for what the guard says, for `patience` at most (`None`: for ever). `Ok(None)`: it said nothing.
    /// [`Error::Gone`] comes the moment the guard ends.
    pub fn receive(&mut self, patience: Option<Duration>) -> Result<Option<Reply>, Error> {
        let deadline = patience.map(|patience| Instant::now() + patience);
        loop {
            match recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(Errno::CONNRESET | Errno::PIPE) => return Err(Error::Gone),
                Ok((length, _)) => {
                    return serde_json::from_slice(&self.buffer[..length])
                        .map(Some)
                        .map_err(Error::NotUnderstood);
                }
                Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(Error::Io(errno)),
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            // A span that does not fit is as good as for ever.
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut [PollFd::new(&*self.socket, PollFlags::IN)], timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::Io(errno)),
            }
        }
    }
}
