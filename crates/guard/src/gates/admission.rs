//! Keeping new connections to an address back for a while, and leaving those that there are alone.
//!
//! Unlike the other gates it is no fence: it is shut before an address moves in order, so that nobody begins with a node what only the next
//! one can go on with. Its elements time out by themselves, so whoever shut it and died keeps nobody out for long.

use super::nft::{Error, made, put_element};
use super::table::{self, Family, V4, V6};
use crate::netlink::{ACK, CREATE, Socket};
use rustix::io::Errno;
use rustix::net::netlink;
use std::net::IpAddr;
use std::time::Duration;

/// Raised when the rules change, as that of the other gates.
const LAYOUT: u32 = 1;
/// Sets of addresses whose new connections are kept back.
const KEPT_V4: &str = "kept_v4";
const KEPT_V6: &str = "kept_v6";

/// The gate before new TCP connections to addresses of one cluster on this machine.
#[derive(Debug)]
pub struct Admission {
    socket: Socket,
    table: String,
}

impl Admission {
    /// Finds the table in this network namespace, or makes it.
    ///
    /// # Errors
    /// There is no nf_tables here, or no right to it.
    pub fn open(cluster: &str) -> Result<Self, Error> {
        let mut socket = Socket::open(Some(netlink::NETFILTER)).map_err(Error::Socket)?;
        let table = name(cluster);
        made(socket.transact(&table::create_admission(&table, [KEPT_V4, KEPT_V6])))
            .map_err(|refused| Error::Table(refused.errno))?;
        Ok(Self { socket, table })
    }

    /// Removes the table, and with it whatever is kept back. None there is fine.
    ///
    /// # Errors
    /// There is no nf_tables here, or no right to it.
    pub fn remove(cluster: &str) -> Result<(), Error> {
        let mut socket = Socket::open(Some(netlink::NETFILTER)).map_err(Error::Socket)?;
        let mut batch = table::begin();
        table::message(&mut batch, table::DELETE_TABLE, ACK, Family::Inet);
        batch.put_text(1, &name(cluster));
        match socket.transact(&table::end(batch)) {
            Err(refused) if refused.errno != Errno::NOENT => Err(Error::Table(refused.errno)),
            _ => Ok(()),
        }
    }

    /// Drops what would begin a connection to this address, for so long from now on. Called again before, the time is counted anew.
    ///
    /// # Errors
    /// The kernel refuses: what was kept back before is so for as long as was said then.
    pub fn keep_back(&mut self, address: IpAddr, timeout: Duration) -> Result<(), Error> {
        // Older kernels do not move the timeout of an element that is there: it is taken out and put in, as one.
        match self.change(address, true, Some(timeout)) {
            Err(Error::Element {
                errno: Errno::NOENT, ..
            }) => self.change(address, false, Some(timeout)),
            other => other,
        }
    }

    /// Lets new connections to this address in.
    ///
    /// # Errors
    /// The kernel refuses: then they are let in when the time is over.
    pub fn admit(&mut self, address: IpAddr) -> Result<(), Error> {
        match self.change(address, true, None) {
            Err(Error::Element {
                errno: Errno::NOENT, ..
            }) => Ok(()),
            other => other,
        }
    }

    fn change(&mut self, address: IpAddr, takes_out: bool, puts_in: Option<Duration>) -> Result<(), Error> {
        let (set, family, key) = match address {
            IpAddr::V4(address) => (KEPT_V4, V4.family, address.octets().to_vec()),
            IpAddr::V6(address) => (KEPT_V6, V6.family, address.octets().to_vec()),
        };
        let mut batch = table::begin();
        if takes_out {
            put_element(
                &mut batch,
                table::DELETE_ELEMENT,
                0,
                &self.table,
                family,
                set,
                &key,
                None,
            );
        }
        if puts_in.is_some() {
            put_element(
                &mut batch,
                table::NEW_ELEMENT,
                CREATE,
                &self.table,
                family,
                set,
                &key,
                puts_in,
            );
        }
        let what = if puts_in.is_some() { "shut" } else { "open" };
        let failed = |refused: crate::netlink::Refused| Error::Element {
            what,
            errno: refused.errno,
        };
        self.socket.transact(&table::end(batch)).map_err(failed)
    }
}

fn name(cluster: &str) -> String {
    format!("understudy_{cluster}_admission_{LAYOUT}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    use std::io::{ErrorKind, Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};

    const SHORT: Duration = Duration::from_millis(300);

    /// In a network of our own, whose loopback is up.
    fn in_a_network(test: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| {
            #[expect(unsafe_code, reason = "leaving a network has no safe wrapper")]
            // SAFETY: only this thread changes its network; no descriptor is affected.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("a network of our own: this test needs root");
            let up = std::process::Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status();
            assert!(up.expect("iproute2").success());
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn is_kept_back(at: SocketAddr) -> bool {
        match TcpStream::connect_timeout(&at, SHORT) {
            Ok(_) => false,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
                true
            }
        }
    }

    #[test]
    fn new_connections_wait_those_there_are_go_on_and_the_time_ends_by_itself() {
        in_a_network(|| {
            for ip in ["127.0.0.5", "::1"] {
                let ip: IpAddr = ip.parse().unwrap();
                let listener = TcpListener::bind((ip, 0)).unwrap();
                let at = listener.local_addr().unwrap();
                let other = TcpListener::bind("127.0.0.6:0").unwrap().local_addr().unwrap();
                let mut client = TcpStream::connect(at).unwrap();
                let mut served = listener.accept().unwrap().0;
                let mut admission = Admission::open("unit").unwrap();
                admission.keep_back(ip, Duration::from_secs(60)).unwrap();
                assert!(is_kept_back(at));
                let refused = TcpStream::connect_timeout(&other, SHORT).unwrap_err();
                assert_eq!(
                    refused.kind(),
                    ErrorKind::ConnectionRefused,
                    "another address is not concerned"
                );
                client.write_all(b"?").unwrap();
                served.read_exact(&mut [0]).unwrap();
                drop(served);
                assert_eq!(client.read(&mut [0]).unwrap(), 0, "it ends in order");
                // Counted anew, by another who found the table.
                let mut second = Admission::open("unit").unwrap();
                second.keep_back(ip, Duration::from_millis(100)).unwrap();
                std::thread::sleep(SHORT);
                assert!(!is_kept_back(at), "the time is over");
                admission.admit(ip).unwrap();
                admission.keep_back(ip, Duration::from_secs(60)).unwrap();
                admission.admit(ip).unwrap();
                assert!(!is_kept_back(at), "let in again");
                admission.keep_back(ip, Duration::from_secs(60)).unwrap();
                Admission::remove("unit").unwrap();
                assert!(!is_kept_back(at), "without the table");
            }
            Admission::remove("unit").unwrap();
        });
    }
}
