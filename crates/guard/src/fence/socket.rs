//! The guard's socket: packets, from our own user and from root only.

use super::protocol::{PACKET_BYTES_MAX, Reply, Request};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, recv,
    send, socket_with, sockopt,
};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// The agent, one that is being replaced, and those who look.
pub(super) const CONNECTIONS_MAX: usize = 8;

/// Listens at `path`; what lies there is of a guard that is gone, because we hold the guard's lock. Whoever sees the socket
/// can connect: it gets its name when it listens already. Returned with device and inode of its name.
pub(super) fn listen_at(path: &Path) -> io::Result<(OwnedFd, Option<(u64, u64)>)> {
    let unready = path.with_extension("new");
    match std::fs::remove_file(&unready) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(&unready)?)?;
    std::fs::set_permissions(&unready, std::fs::Permissions::from_mode(0o600))?;
    listen(&socket, CONNECTIONS_MAX as i32)?;
    let file = which(&unready);
    std::fs::rename(&unready, path)?;
    Ok((socket, file))
}

/// Device and inode.
pub(crate) fn which(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// An agent, or somebody who wants to be one.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: OwnedFd,
    /// Its process.
    pub(super) pid: u32,
    /// As it registered.
    pub(super) incarnation: Option<u64>,
    /// Read, but to be done after what is due.
    pub(super) deferred: Option<Request>,
}

/// What came by a connection.
#[derive(Debug)]
pub(super) enum Received {
    Request(Request),
    /// Not in our words.
    Nonsense(String),
    Nothing,
    End,
}

/// The next who connects; `None` if nobody waits. Strangers are shut out without a word.
pub(super) fn accept(listener: &OwnedFd) -> Option<Connection> {
    loop {
        let socket = match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => socket,
            Err(Errno::INTR | Errno::CONNABORTED) => continue,
            Err(_) => return None,
        };
        let Ok(peer) = sockopt::socket_peercred(&socket) else {
            continue;
        };
        if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
            continue;
        }
        return Some(Connection {
            socket,
            pid: peer.pid.as_raw_nonzero().get().unsigned_abs(),
            incarnation: None,
            deferred: None,
        });
    }
}

impl Connection {
    /// Reads one packet, without waiting.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Received {
        receive(&self.socket, buffer)
    }

    /// False if it does not read: then it has to connect anew, and learns how things stand.
    pub(super) fn tell(&self, reply: &Reply) -> bool {
        let Ok(text) = serde_json::to_vec(reply) else {
            return false;
        };
        send(&self.socket, &text, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok()
    }
}

fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Received {
    loop {
        return match recv(&socket, &mut *buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok((0, _)) => Received::End,
            Ok((_, length)) if length > buffer.len() => {
                Received::Nonsense(format!("longer than {PACKET_BYTES_MAX} bytes"))
            }
            Ok((length, _)) => match serde_json::from_slice(&buffer[..length]) {
                Ok(request) => Received::Request(request),
                Err(error) => Received::Nonsense(error.to_string()),
            },
            Err(Errno::AGAIN) => Received::Nothing,
            Err(Errno::INTR) => continue,
            Err(_) => Received::End,
        };
    }
}
