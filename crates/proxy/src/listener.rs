//! Listening sockets: made by the agent, handed to the proxy, checked by the proxy.

use rustix::net::sockopt;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Connections that may wait in the kernel. With the usual 128, 200 clients that come at once make it drop a SYN, and
/// that client waits a whole second.
const BACKLOG: i32 = 4096;

/// A client whose machine is gone without a word is noticed after this and three unanswered questions.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);

/// Why an address could not be listened at.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else listens there.
    #[error("{address} is in use by another program: stop that one (`ss -ltnp` names it) or declare another `listen`")]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// A port below 1024 without the right to it, as a rule.
    #[error("no permission to listen at {address}: ports below 1024 need root or CAP_NET_BIND_SERVICE")]
    NoPermission {
        /// The address.
        address: SocketAddr,
    },
    /// This machine has no such address.
    #[error("{address} is not an address of this machine: declare one that is, or 0.0.0.0 for all")]
    NotOurs {
        /// The address.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("failed to listen at {address}")]
    Other {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Listens at an address: SO_REUSEADDR, a backlog of 4096, close-on-exec, not blocking, and for the connections it
/// accepts TCP_NODELAY and keep-alive (Linux hands those down).
///
/// With `floats` the address need not be one of this machine yet (IP_FREEBIND): clients come as soon as it is, and only then.
pub fn bind(address: SocketAddr, floats: bool) -> Result<TcpListener, BindError> {
    listen(address, floats).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address },
        io::ErrorKind::PermissionDenied => BindError::NoPermission { address },
        io::ErrorKind::AddrNotAvailable => BindError::NotOurs { address },
        _ => BindError::Other { address, source },
    })
}

fn listen(address: SocketAddr, floats: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]:80` and `0.0.0.0:80` are two addresses; which of them is meant is in the file.
        socket.set_only_v6(true)?;
    }
    if floats && address.is_ipv4() {
        sockopt::set_ip_freebind(&socket, true)?;
    } else if floats {
        sockopt::set_ipv6_freebind(&socket, true)?;
    }
    prepare(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn prepare(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_AFTER)
            .with_interval(Duration::from_secs(10))
            .with_retries(3),
    )
}

/// Why a descriptor cannot be served from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptError {
    #[error("the descriptor is not a listening TCP socket")]
    NotListening,
    #[error("the socket listens at {at}, not at {wanted}")]
    Elsewhere { at: SocketAddr, wanted: SocketAddr },
    #[error("failed to look at the socket")]
    Look { source: io::Error },
}

/// Checks that a descriptor from outside is what it should be: a TCP socket that listens at `wanted`.
pub(crate) fn adopt(fd: OwnedFd, wanted: SocketAddr) -> Result<TcpListener, AdoptError> {
    let is_tcp = matches!(sockopt::socket_type(&fd), Ok(rustix::net::SocketType::STREAM))
        && matches!(
            sockopt::socket_domain(&fd),
            Ok(rustix::net::AddressFamily::INET | rustix::net::AddressFamily::INET6)
        );
    if !is_tcp || !matches!(sockopt::socket_acceptconn(&fd), Ok(true)) {
        return Err(AdoptError::NotListening);
    }
    let listener = TcpListener::from(fd);
    let at = listener.local_addr().map_err(|source| AdoptError::Look { source })?;
    if at != wanted {
        return Err(AdoptError::Elsewhere { at, wanted });
    }
    prepare(&SockRef::from(&listener)).map_err(|source| AdoptError::Look { source })?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    #[test]
    fn an_address_in_use_is_told_apart() {
        let first = bind(any(), false).unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address, false).unwrap_err();
        assert!(matches!(error, BindError::InUse { address: at } if at == address));
        assert!(error.to_string().contains("in use by another program"));
    }

    #[test]
    fn an_address_of_another_machine_is_told_apart() {
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 8080));
        assert!(matches!(bind(elsewhere, false), Err(BindError::NotOurs { .. })));
    }

    #[test]
    fn an_address_that_floats_need_not_be_here_yet() {
        for elsewhere in ["192.0.2.1:0", "[2001:db8::1]:0"] {
            let elsewhere: SocketAddr = elsewhere.parse().unwrap();
            let listener = bind(elsewhere, true).unwrap();
            assert_eq!(listener.local_addr().unwrap().ip(), elsewhere.ip());
        }
    }

    #[test]
    fn an_address_can_be_listened_at_again_right_after() {
        let first = bind(any(), false).unwrap();
        let address = first.local_addr().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        drop(first.accept());
        drop((first, client));
        bind(address, false).unwrap();
    }

    #[test]
    fn only_a_listening_tcp_socket_at_the_right_address_is_adopted() {
        let file = OwnedFd::from(tempfile::tempfile().unwrap());
        assert!(matches!(adopt(file, any()), Err(AdoptError::NotListening)));
        let udp = std::net::UdpSocket::bind(any()).unwrap();
        assert!(matches!(adopt(udp.into(), any()), Err(AdoptError::NotListening)));
        let listener = bind(any(), false).unwrap();
        let at = listener.local_addr().unwrap();
        let copy = OwnedFd::from(listener.try_clone().unwrap());
        assert!(matches!(adopt(copy, any()), Err(AdoptError::Elsewhere { .. })));
        adopt(listener.into(), at).unwrap();
    }
}
