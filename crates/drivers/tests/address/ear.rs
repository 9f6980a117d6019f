//! Hears the ARP packets, or neighbour advertisements, that reach a host.

use crate::lan::Host;
use socket2::{Protocol, Socket, Type};
use std::io::{ErrorKind, Read};
use std::net::IpAddr;
use std::time::{Duration, Instant};

pub(crate) struct Ear {
    socket: Socket,
    ip: IpAddr,
}

/// An announcement of the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) at: Instant,
    pub(crate) mac: [u8; 6],
    /// ARP: request or reply; neighbour discovery: advertisement.
    pub(crate) form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Request,
    Reply,
    Advertisement { overrides: bool },
}

impl Ear {
    pub(crate) fn on(host: &Host, ip: IpAddr) -> Self {
        let ethertype: u16 = if ip.is_ipv4() { 0x0806 } else { 0x86dd };
        let socket = host.on_thread(|| {
            let protocol = Protocol::from(i32::from(ethertype.to_be()));
            Socket::new(17.into(), Type::RAW, Some(protocol)).unwrap()
        });
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        Self { socket, ip }
    }

    /// What is announced until a moment; from the past on, too.
    pub(crate) fn hear_until(&mut self, until: Instant) -> Vec<Announcement> {
        let mut heard = Vec::new();
        while Instant::now() < until {
            heard.extend(self.next());
        }
        heard
    }

    /// Waits for an announcement.
    pub(crate) fn hear_one(&mut self) -> Announcement {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(heard) = self.next() {
                return heard;
            }
            assert!(Instant::now() < until, "nothing announces {} in ten seconds", self.ip);
        }
    }

    /// Forgets what has been said so far.
    pub(crate) fn drain(&mut self) {
        while self.frame().is_some() {}
    }

    fn next(&mut self) -> Option<Announcement> {
        let frame = self.frame()?;
        let (mac, form) = match self.ip {
            IpAddr::V4(ip) => {
                let is_gratuitous = frame[28..32] == ip.octets() && frame[38..42] == ip.octets();
                let form = match frame[21] {
                    1 => Form::Request,
                    _ => Form::Reply,
                };
                (frame[22..28].try_into().unwrap(), is_gratuitous.then_some(form)?)
            }
            IpAddr::V6(ip) => {
                let is_ours = frame.len() >= 86 && frame[20] == 58 && frame[54] == 136 && frame[62..78] == ip.octets();
                // To all nodes, so not the answer to a question.
                let is_unsolicited = frame[38..54] == *b"\xff\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\x01";
                let overrides = frame[58] & 0x20 != 0;
                let form = Form::Advertisement { overrides };
                (is_ours && is_unsolicited).then(|| (frame[80..86].try_into().unwrap(), form))?
            }
        };
        let at = Instant::now();
        Some(Announcement { at, mac, form })
    }

    fn frame(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 2_000];
        match (&self.socket).read(&mut buffer) {
            // The shortest that all fields we read are in; ARP is shorter, and padded here.
            Ok(_) => Some(buffer),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) => panic!("{error}"),
        }
    }
}
