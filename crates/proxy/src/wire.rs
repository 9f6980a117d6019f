//! Lines of JSON with descriptors beside them, over a unix stream socket: the same code on both ends.
//!
//! A descriptor belongs to the line that contains the first byte it was sent with. The kernel never reads past such a
//! byte's packet in one go, so on the receiving side it belongs to the line of the last byte read along with it.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// A line of 4 MiB is a route of some 30,000 targets; more is not from us.
const LINE_BYTES_MAX: usize = 4 << 20;

/// What may wait for a peer that does not read, before the connection is given up.
const OUTGOING_BYTES_MAX: usize = 16 << 20;

/// The kernel takes 253 descriptors at a time.
const FDS_PER_PACKET: usize = 250;

/// Descriptors that may come with one line.
const FDS_PER_LINE_MAX: usize = 10_000;

/// Why nothing more can be said or heard, except after [`Error::NotUnderstood`], which spoils only its line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer is gone.
    #[error("the other side closed the connection")]
    Closed,
    /// The system said no.
    #[error("the connection failed")]
    Io {
        /// What it said.
        source: io::Error,
    },
    /// The peer sends what cannot be ours.
    #[error("a line is longer than 4 MiB")]
    LineTooLong,
    /// A line that is not one of the messages; the next one can be received.
    #[error("a line was not understood: {start:?}")]
    NotUnderstood {
        /// Its first characters.
        start: String,
        /// Why.
        source: serde_json::Error,
    },
    /// Descriptors were sent and did not arrive: this process may not open more files, or too many were sent.
    #[error("sockets that came with a line were lost: raise the limit of open files (`ulimit -n`)")]
    SocketsLost,
    /// The peer does not read.
    #[error("the other side has not read for too long")]
    NotRead,
}

/// One end of the connection.
pub(crate) struct Wire {
    stream: UnixStream,
    incoming: Vec<u8>,
    /// Up to where `incoming` is known to contain no end of line.
    searched: usize,
    /// Descriptors received, each with the index in `incoming` of a byte of its line.
    fds: VecDeque<(usize, OwnedFd)>,
    outgoing: VecDeque<Packet>,
    outgoing_bytes: usize,
}

struct Packet {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

impl Wire {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            incoming: Vec::new(),
            searched: 0,
            fds: VecDeque::new(),
            outgoing: VecDeque::new(),
            outgoing_bytes: 0,
        }
    }

    /// Puts a message in the queue; [`Self::flush`] or [`Self::receive`] send it.
    pub(crate) fn queue<M: Serialize>(&mut self, message: &M, fds: Vec<OwnedFd>) -> Result<(), Error> {
        let mut line = serde_json::to_vec(message).map_err(|source| Error::Io { source: source.into() })?;
        line.push(b'\n');
        if self.outgoing_bytes + line.len() > OUTGOING_BYTES_MAX {
            return Err(Error::NotRead);
        }
        self.outgoing_bytes += line.len();
        // More descriptors than fit one packet go with further bytes of the same line.
        let mut fds = fds.into_iter();
        loop {
            let with: Vec<OwnedFd> = fds.by_ref().take(FDS_PER_PACKET).collect();
            let rest = if fds.len() > 0 && line.len() > 1 {
                line.split_off(1)
            } else {
                Vec::new()
            };
            self.outgoing.push_back(Packet {
                bytes: line,
                sent: 0,
                fds: with,
            });
            if rest.is_empty() {
                return Ok(());
            }
            line = rest;
        }
    }

    /// Sends what is queued. Dropping the future loses nothing: the rest stays queued.
    pub(crate) async fn flush(&mut self) -> Result<(), Error> {
        while !self.outgoing.is_empty() {
            self.stream.writable().await.map_err(broken)?;
            self.send_queued()?;
        }
        Ok(())
    }

    /// The next message and its descriptors; sends what is queued meanwhile. Dropping the future loses nothing.
    pub(crate) async fn receive<M: DeserializeOwned>(&mut self) -> Result<(M, Vec<OwnedFd>), Error> {
        loop {
            if let Some((line, fds)) = self.take_line() {
                let message = serde_json::from_slice(&line).map_err(|source| Error::NotUnderstood {
                    start: String::from_utf8_lossy(&line).chars().take(80).collect(),
                    source,
                })?;
                return Ok((message, fds));
            }
            if self.incoming.len() > LINE_BYTES_MAX {
                return Err(Error::LineTooLong);
            }
            let interest = if self.outgoing.is_empty() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            let ready = self.stream.ready(interest).await.map_err(broken)?;
            if ready.is_writable() {
                self.send_queued()?;
            }
            if ready.is_readable() || ready.is_read_closed() {
                self.read_some()?;
            }
        }
    }

    fn send_queued(&mut self) -> Result<(), Error> {
        while let Some(packet) = self.outgoing.front_mut() {
            let sent = self.stream.try_io(Interest::WRITABLE, || {
                let borrowed: Vec<_> = packet.fds.iter().map(AsFd::as_fd).collect();
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_PACKET))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !borrowed.is_empty() {
                    control.push(SendAncillaryMessage::ScmRights(&borrowed));
                }
                let rest = [IoSlice::new(&packet.bytes[packet.sent..])];
                Ok(sendmsg(&self.stream, &rest, &mut control, SendFlags::NOSIGNAL)?)
            });
            match sent {
                Ok(n) => {
                    packet.sent += n;
                    // They went along with the first byte.
                    packet.fds.clear();
                    self.outgoing_bytes = self.outgoing_bytes.saturating_sub(n);
                    if packet.sent == packet.bytes.len() {
                        self.outgoing.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(error)),
            }
        }
        Ok(())
    }

    fn read_some(&mut self) -> Result<(), Error> {
        let mut chunk = [0_u8; 16 * 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = self.stream.try_io(Interest::READABLE, || {
            let mut into = [IoSliceMut::new(&mut chunk)];
            Ok(recvmsg(&self.stream, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?)
        });
        let received = match received {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(broken(error)),
        };
        self.incoming.extend_from_slice(&chunk[..received.bytes]);
        let last = self.incoming.len().saturating_sub(1);
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                self.fds.extend(rights.map(|fd| (last, fd)));
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) || self.fds.len() > FDS_PER_LINE_MAX {
            return Err(Error::SocketsLost);
        }
        if received.bytes == 0 {
            return Err(Error::Closed);
        }
        Ok(())
    }

    fn take_line(&mut self) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        let Some(found) = self.incoming[self.searched..].iter().position(|b| *b == b'\n') else {
            self.searched = self.incoming.len();
            return None;
        };
        let end = self.searched + found;
        let rest = self.incoming.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.incoming, rest);
        line.pop();
        self.searched = 0;
        let mut fds = Vec::new();
        while let Some((_, fd)) = self.fds.pop_front_if(|(at, _)| *at <= end) {
            fds.push(fd);
        }
        for (at, _) in &mut self.fds {
            *at -= end + 1;
        }
        Some((line, fds))
    }
}

fn broken(source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Error::Closed,
        _ => Error::Io { source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use tokio::io::AsyncWriteExt;

    fn pair() -> (Wire, Wire) {
        let (a, b) = UnixStream::pair().unwrap();
        (Wire::new(a), Wire::new(b))
    }

    fn file() -> (OwnedFd, u64) {
        let file = tempfile::tempfile().unwrap();
        let inode = file.metadata().unwrap().ino();
        (file.into(), inode)
    }

    fn inodes(fds: Vec<OwnedFd>) -> Vec<u64> {
        fds.into_iter()
            .map(|fd| std::fs::File::from(fd).metadata().unwrap().ino())
            .collect()
    }

    #[tokio::test]
    async fn descriptors_stay_with_their_lines() {
        let (mut here, mut there) = pair();
        let (first, first_inode) = file();
        let (second, second_inode) = file();
        here.queue(&"none", vec![]).unwrap();
        here.queue(&"one", vec![first]).unwrap();
        here.queue(&"x".repeat(300_000), vec![second]).unwrap();
        here.queue(&"last", vec![]).unwrap();
        let receive = async {
            for (length, fds) in [
                (4, vec![]),
                (3, vec![first_inode]),
                (300_000, vec![second_inode]),
                (4, vec![]),
            ] {
                let (text, got) = there.receive::<String>().await.unwrap();
                assert_eq!((text.len(), inodes(got)), (length, fds));
            }
        };
        let (sent, ()) = tokio::join!(here.flush(), receive);
        sent.unwrap();
    }

    #[tokio::test]
    async fn more_descriptors_than_one_packet_takes_keep_their_order() {
        let (mut here, mut there) = pair();
        let (fds, sent): (Vec<_>, Vec<_>) = (0..600).map(|_| file()).unzip();
        here.queue(&"many fronts", fds).unwrap();
        let (flushed, got) = tokio::join!(here.flush(), there.receive::<String>());
        flushed.unwrap();
        assert_eq!(inodes(got.unwrap().1), sent);
    }

    #[tokio::test]
    async fn a_receive_that_was_given_up_loses_nothing() {
        let (mut stream, other) = UnixStream::pair().unwrap();
        let mut there = Wire::new(other);
        for byte in b"\"in pieces\"\n" {
            tokio::select! {
                biased;
                _ = there.receive::<String>() => panic!("not yet complete"),
                () = tokio::task::yield_now() => {}
            }
            stream.write_all(&[*byte]).await.unwrap();
        }
        assert_eq!(there.receive::<String>().await.unwrap().0, "in pieces");
    }

    #[tokio::test]
    async fn garbage_spoils_only_its_line() {
        let (mut stream, other) = UnixStream::pair().unwrap();
        let mut there = Wire::new(other);
        stream.write_all(b"\xff\x00 nonsense\n\"sense\"\n").await.unwrap();
        assert!(matches!(
            there.receive::<String>().await,
            Err(Error::NotUnderstood { .. })
        ));
        assert_eq!(there.receive::<String>().await.unwrap().0, "sense");
        drop(stream);
        assert!(matches!(there.receive::<String>().await, Err(Error::Closed)));
    }

    #[tokio::test]
    async fn a_line_without_end_is_refused() {
        let (mut stream, other) = UnixStream::pair().unwrap();
        let mut there = Wire::new(other);
        let endless = tokio::spawn(async move { while stream.write_all(&[b'x'; 65536]).await.is_ok() {} });
        assert!(matches!(there.receive::<String>().await, Err(Error::LineTooLong)));
        drop(there);
        endless.await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_given_up() {
        let (mut here, _there) = pair();
        let big = "x".repeat(1 << 20);
        let refused = (0..20).find_map(|_| here.queue(&big, vec![]).err());
        assert!(matches!(refused, Some(Error::NotRead)));
    }
}
