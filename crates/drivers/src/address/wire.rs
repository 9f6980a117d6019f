//! A socket for ARP or neighbour discovery on one interface. Closing one costs the kernel milliseconds, so it is kept, and closed apart.

use super::frame::{self, Heard, MacBytes, offset};
use super::socket;
use crate::sys;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use socket2::SockFilter;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// Ethernet's largest payload and its header; what we listen for is far smaller.
const FRAME_BYTES_MAX: usize = 1514;
/// Heard at a time, so that a flood of frames does not keep us from all else.
const FRAMES_MAX: usize = 64;
/// Probes within the time that an answer is waited for: one that is lost is repeated.
const PROBES: u32 = 3;

#[derive(Debug)]
pub(crate) struct Wire {
    /// There until it is dropped.
    socket: Option<AsyncFd<OwnedFd>>,
    ip: IpAddr,
    mac: MacBytes,
}

impl Wire {
    /// Opens a socket that hears only what is about this address.
    pub(crate) fn open(index: u32, ip: IpAddr, mac: MacBytes) -> io::Result<Self> {
        let protocol = if ip.is_ipv6() {
            libc::ETH_P_IPV6
        } else {
            libc::ETH_P_ARP
        };
        let socket = socket::packet_socket(index, protocol, &filter(ip))?;
        let socket = sys::watch(socket, Interest::READABLE)?;
        Ok(Self {
            socket: Some(socket),
            ip,
            mac,
        })
    }

    pub(crate) fn announce(&self) -> io::Result<()> {
        let mut frames = frame::announcements(self.ip, self.mac).into_iter();
        frames.try_for_each(|frame| self.send(&frame))
    }

    /// Asks whether anyone has the address. Whoever has says so to us.
    pub(crate) fn ask(&self) -> io::Result<()> {
        self.send(&frame::probe(self.ip, self.mac))
    }

    fn socket(&self) -> io::Result<&AsyncFd<OwnedFd>> {
        self.socket.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        rustix::net::send(self.socket()?.get_ref(), frame, SendFlags::empty())?;
        Ok(())
    }

    /// Waits until something is said about the address by others than these.
    pub(crate) async fn hear(&self, but: &[MacBytes]) -> io::Result<Option<Heard>> {
        let mut ready = self.socket()?.readable().await?;
        let mut buffer = [0; FRAME_BYTES_MAX];
        for _ in 0..FRAMES_MAX {
            match rustix::net::recv(ready.get_inner(), &mut buffer, RecvFlags::empty()) {
                Ok((length, _)) => {
                    let heard = frame::read(&buffer[..length]).filter(|heard| heard.ip == self.ip);
                    if let Some(heard) = heard.filter(|heard| !but.contains(&heard.mac)) {
                        return Ok(Some(heard));
                    }
                }
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    return Ok(None);
                }
                // Told once when the interface goes down or away; the watch over links deals with that.
                Err(Errno::NETDOWN | Errno::NODEV | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Asks who has the address, for as long as given, and tells who answered first.
    pub(crate) async fn stranger(&self, but: &[MacBytes], wait: Duration) -> io::Result<Option<Heard>> {
        let start = Instant::now();
        for probe in 1..=PROBES {
            self.ask()?;
            let until = start + wait * probe / PROBES;
            while let Ok(heard) = tokio::time::timeout_at(until, self.hear(but)).await {
                if let Some(heard) = heard? {
                    return Ok(Some(heard));
                }
            }
        }
        Ok(None)
    }
}

impl Drop for Wire {
    /// Closes the socket where nobody waits for it: not on a thread that has an address to remove.
    fn drop(&mut self) {
        let socket = self.socket.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(socket));
        }
    }
}

/// Lets through what is about the address, so that the traffic of others wakes nobody.
fn filter(ip: IpAddr) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const DROP: u32 = 0;
    let step = |code, yes, no, value| SockFilter::new(code, yes, no, value);
    let take = FRAME_BYTES_MAX as u32;
    match ip {
        IpAddr::V4(ip) => vec![
            step(LOAD_WORD, 0, 0, offset::ARP_SENDER),
            step(JUMP_IF_EQUAL, 4, 0, ip.into()),
            // Questions of those who have an address of their own are no news.
            step(JUMP_IF_EQUAL, 0, 2, 0),
            step(LOAD_WORD, 0, 0, offset::ARP_TARGET),
            step(JUMP_IF_EQUAL, 1, 0, ip.into()),
            step(RETURN, 0, 0, DROP),
            step(RETURN, 0, 0, take),
        ],
        IpAddr::V6(ip) => {
            let [.., a, b, c, d] = ip.octets();
            let end = u32::from_be_bytes([a, b, c, d]);
            vec![
                step(LOAD_BYTE, 0, 0, offset::NEXT_HEADER),
                step(JUMP_IF_EQUAL, 0, 7, 58),
                step(LOAD_BYTE, 0, 0, offset::ICMP_TYPE),
                step(JUMP_IF_EQUAL, 1, 0, 135),
                step(JUMP_IF_EQUAL, 0, 4, 136),
                step(LOAD_WORD, 0, 0, offset::TARGET_END),
                step(JUMP_IF_EQUAL, 3, 0, end),
                step(LOAD_WORD, 0, 0, offset::SOURCE_END),
                step(JUMP_IF_EQUAL, 1, 0, end),
                step(RETURN, 0, 0, DROP),
                step(RETURN, 0, 0, take),
            ]
        }
    }
}
