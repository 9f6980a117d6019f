//! The calls on sockets that no safe wrapper covers: binding to a group of netlink, and to an interface.

#![expect(
    unsafe_code,
    reason = "addresses of netlink and packet sockets have no safe type in the libraries that we use"
)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

/// Lets a netlink socket hear of the groups (`RTMGRP_…`).
pub(crate) fn bind_netlink(socket: &OwnedFd, groups: u32) -> io::Result<()> {
    // SAFETY: the struct is numbers only, for which zero is a value.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = groups;
    bind(socket, &address)
}

/// A socket for the frames of one protocol (`ETH_P_…`) on one interface that pass the filter; never blocks.
pub(crate) fn packet_socket(index: u32, protocol: i32, filter: &[socket2::SockFilter]) -> io::Result<OwnedFd> {
    // Of no protocol until it is bound, so that it hears nothing of other interfaces before.
    let socket = socket2::Socket::new(libc::AF_PACKET.into(), socket2::Type::RAW.nonblocking(), None)?;
    socket.attach_filter(filter)?;
    // SAFETY: the struct is numbers only, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = (protocol as u16).to_be();
    address.sll_ifindex = index.cast_signed();
    let socket = OwnedFd::from(socket);
    bind(&socket, &address)?;
    Ok(socket)
}

/// Binds to an address that is one of the kernel's `sockaddr_…` structs, complete and in place.
fn bind<T>(socket: &OwnedFd, address: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes at the pointer, which are those of a value that outlives the call.
    let done = unsafe { libc::bind(socket.as_raw_fd(), ptr::from_ref(address).cast(), length) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
