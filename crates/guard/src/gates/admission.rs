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
const LAYOUT: u32 = 2;
/// Sets of addresses whose new connections are kept back.
const KEPT_V4: &str = "kept_v4";
const KEPT_V6: &str = "kept_v6";

/// The gate before new TCP connections to addresses of one cluster on this machine, but for those of the machine itself.
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

    /// In a network of our own with a neighbour, from which `connect` connects.
    fn beside_a_neighbour(test: impl FnOnce(&dyn Fn(SocketAddr) -> std::io::Result<TcpStream>) + Send + 'static) {
        let (ask, asked) = std::sync::mpsc::channel::<SocketAddr>();
        let (answer, answered) = std::sync::mpsc::channel();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            leave_the_network();
            tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            for at in asked {
                answer.send(TcpStream::connect_timeout(&at, SHORT)).unwrap();
            }
        });
        let neighbour = told.recv().unwrap();
        let thread = std::thread::spawn(move || {
            leave_the_network();
            for words in [
                "link set lo up".to_owned(),
                format!("link add here type veth peer name there netns {neighbour}"),
                "address add 10.9.0.1/24 dev here".into(),
                "address add fd09::1/64 dev here nodad".into(),
                "link set here up".into(),
            ] {
                ip(&words, None);
            }
            for words in [
                "address add 10.9.0.2/24 dev there",
                "address add fd09::2/64 dev there nodad",
                "link set there up",
            ] {
                ip(words, Some(neighbour));
            }
            test(&|at| {
                ask.send(at).unwrap();
                answered.recv().unwrap()
            });
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn leave_the_network() {
        #[expect(unsafe_code, reason = "leaving a network has no safe wrapper")]
        // SAFETY: only this thread changes its network; no descriptor is affected.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("a network of our own: this test needs root");
    }

    /// `ip`, here or in the network of another thread.
    fn ip(words: &str, of: Option<i32>) {
        let mut command = match of {
            Some(thread) => {
                let mut enter = std::process::Command::new("nsenter");
                enter.arg(format!("--net=/proc/{thread}/ns/net")).arg("ip");
                enter
            }
            None => std::process::Command::new("ip"),
        };
        let status = command.args(words.split(' ')).status();
        assert!(status.expect("iproute2 and util-linux").success(), "{words}");
    }

    fn is_kept_back(connected: std::io::Result<TcpStream>) -> bool {
        match connected {
            Ok(_) => false,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
                true
            }
        }
    }

    #[test]
    fn new_connections_wait_those_there_are_go_on_and_the_time_ends_by_itself() {
        beside_a_neighbour(|connect| {
            for ip in ["10.9.0.1", "fd09::1"] {
                let ip: IpAddr = ip.parse().unwrap();
                let listener = TcpListener::bind((ip, 0)).unwrap();
                let at = listener.local_addr().unwrap();
                // A neighbour of this moment may have to be found first.
                let mut client = (0..20).find_map(|_| connect(at).ok()).expect("a neighbour");
                let mut served = listener.accept().unwrap().0;
                let mut admission = Admission::open("unit").unwrap();
                admission.keep_back(ip, Duration::from_secs(60)).unwrap();
                assert!(is_kept_back(connect(at)));
                assert!(
                    TcpStream::connect_timeout(&at, SHORT).is_ok(),
                    "hooks of this machine are let through"
                );
                client.write_all(b"?").unwrap();
                served.read_exact(&mut [0]).unwrap();
                drop(served);
                assert_eq!(client.read(&mut [0]).unwrap(), 0, "it ends in order");
                // Counted anew, by another who found the table.
                let mut second = Admission::open("unit").unwrap();
                second.keep_back(ip, Duration::from_millis(100)).unwrap();
                std::thread::sleep(SHORT);
                assert!(!is_kept_back(connect(at)), "the time is over");
                admission.admit(ip).unwrap();
                admission.keep_back(ip, Duration::from_secs(60)).unwrap();
                admission.admit(ip).unwrap();
                assert!(!is_kept_back(connect(at)), "let in again");
                admission.keep_back(ip, Duration::from_secs(60)).unwrap();
                Admission::remove("unit").unwrap();
                assert!(!is_kept_back(connect(at)), "without the table");
            }
            Admission::remove("unit").unwrap();
        });
    }
}
