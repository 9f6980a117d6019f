//! Messages to the kernel over netlink: built, sent as one, and answered.

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with, sockopt,
};
use std::os::fd::OwnedFd;

/// Attribute that contains attributes.
const NESTED: u16 = 0x8000;
const HEADER_BYTES: usize = 16;
const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;
pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACK: u16 = 0x4;
pub(crate) const EXCLUSIVE: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const DUMP: u16 = 0x300;
/// Acknowledgements quote at most the header of what they answer; a transaction has less than a hundred messages.
const RECEIVE_BYTES: usize = 32 * 1024;
/// The kernel answers before `send` returns, so there is nothing to wait for beyond what lies ready.
const ANSWERS_MAX: usize = 4_096;

/// One or more messages, to be sent as one.
#[derive(Debug, Default, Clone)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    messages: u32,
    message_at: usize,
}

impl Batch {
    /// Begins a message; what follows belongs to it.
    pub(crate) fn begin(&mut self, kind: u16, flags: u16, family_header: &[u8]) {
        self.message_at = self.bytes.len();
        self.messages += 1;
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        // The number within the batch tells which one was refused.
        self.bytes.extend(self.messages.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(family_header);
        self.end();
    }

    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        let length = 4 + value.len();
        self.bytes.extend((length as u16).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.end();
    }

    /// A text with its final zero.
    pub(crate) fn put_text(&mut self, kind: u16, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes);
    }

    pub(crate) fn put_be32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// An attribute whose content `fill` writes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend((kind | NESTED).to_ne_bytes());
        fill(self);
        let length = (self.bytes.len() - at) as u16;
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self.end();
    }

    fn end(&mut self) {
        let length = (self.bytes.len() - self.message_at) as u32;
        self.bytes[self.message_at..self.message_at + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// A message that the kernel refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message {message} of the transaction was refused: {errno}")]
pub(crate) struct Refused {
    /// Its number within the batch, from 1; 0 if it was none in particular.
    pub(crate) message: u32,
    /// Why.
    pub(crate) errno: Errno,
}

#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Socket {
    /// `None` is the protocol of links, addresses and routes.
    pub(crate) fn open(protocol: Option<Protocol>) -> Result<Self, Errno> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        // Answers to one batch; a smaller buffer than asked for will do.
        let _ = sockopt::set_socket_recv_buffer_size(&fd, 1 << 20);
        Ok(Self {
            fd,
            buffer: vec![0; RECEIVE_BYTES],
        })
    }

    /// Sends all messages and returns the first refusal. The kernel has carried them out when this returns.
    pub(crate) fn transact(&mut self, batch: &Batch) -> Result<(), Refused> {
        self.exchange(batch, |_, _| {})
    }

    /// As [`Socket::transact`], and hands out the messages that come back, without their headers.
    pub(crate) fn exchange(&mut self, batch: &Batch, mut each: impl FnMut(u16, &[u8])) -> Result<(), Refused> {
        let whole = |errno| Refused { message: 0, errno };
        send(&self.fd, &batch.bytes, SendFlags::empty()).map_err(whole)?;
        let mut result = Ok(());
        for _ in 0..ANSWERS_MAX {
            let length = match recv(&self.fd, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(whole(errno)),
            };
            for (kind, message, body) in messages(&self.buffer[..length]) {
                match kind {
                    TYPE_ERROR => {
                        let code = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                        if code != 0 && result.is_ok() {
                            let errno = Errno::from_raw_os_error(-code);
                            result = Err(Refused { message, errno });
                        }
                    }
                    TYPE_DONE => {}
                    kind => each(kind, body),
                }
            }
        }
        result
    }
}

/// Type, number and body of each message in a packet.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        if length < HEADER_BYTES || length > bytes.len() {
            return None;
        }
        let (message, _) = bytes.split_at(length);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        let number = u32::from_ne_bytes([message[8], message[9], message[10], message[11]]);
        Some((kind, number, &message[HEADER_BYTES..]))
    })
}

/// Type and value of each attribute in a body or in another attribute.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(*bytes.first_chunk()?) as usize;
        if length < 4 || length > bytes.len() {
            return None;
        }
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]) & !NESTED;
        let value = &bytes[4..length];
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let mut batch = Batch::default();
        batch.begin(7, REQUEST, &[1, 2, 3, 4]);
        batch.put_text(1, "ab");
        batch.nest(2, |inner| inner.put_be32(3, 5));
        let (kind, number, body) = messages(&batch.bytes).next().expect("a message");
        assert_eq!((kind, number), (7, 1));
        let found: Vec<_> = attributes(&body[4..]).collect();
        assert_eq!(found[0], (1, &b"ab\0"[..]));
        let inner: Vec<_> = attributes(found[1].1).collect();
        assert_eq!(inner, [(3, &5_u32.to_be_bytes()[..])]);
    }

    #[test]
    fn what_is_cut_short_ends_the_reading() {
        assert_eq!(messages(&[255, 0, 0, 0, 1]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 1]).count(), 0);
        assert_eq!(attributes(&[2, 0, 1, 0]).count(), 0);
    }
}
