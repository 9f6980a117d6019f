//! Whether an address can be listened on, and if not, who has it.

use super::Finding;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

pub(super) fn check(address: SocketAddr, floats: bool) -> Result<(), Finding> {
    let finding = |problem: String, help: String| Finding {
        key: "listen",
        problem,
        help,
    };
    let Err(error) = try_bind(address, floats) else {
        return Ok(());
    };
    Err(match error {
        Errno::ADDRINUSE => {
            let holder = holder(address);
            let problem = format!(
                "{address} is in use by {}",
                holder.map_or("another process".into(), |by| by.shown())
            );
            finding(problem, "stop what uses it, or choose another port".into())
        }
        Errno::ACCESS => finding(
            format!(
                "understudy may not listen on port {}: ports below {} are privileged",
                address.port(),
                first_free_port()
            ),
            "choose a higher port, run understudy as root, or give it the capability CAP_NET_BIND_SERVICE".into(),
        ),
        Errno::ADDRNOTAVAIL => finding(
            format!("{} is not an address of this machine", address.ip()),
            "choose one that `ip address` lists, or 0.0.0.0 for all".into(),
        ),
        Errno::AFNOSUPPORT => finding(
            format!("this machine has no IPv6, which {address} needs"),
            "choose an IPv4 address".into(),
        ),
        error => finding(
            format!("cannot listen on {address}: {error}"),
            "choose another address".into(),
        ),
    })
}

/// Binds and lets go. Without listening, so that no client is ever accepted and dropped.
fn try_bind(address: SocketAddr, floats: bool) -> Result<(), Errno> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // As for every listener: connections that are just closing do not hold the address.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if floats && address.is_ipv4() {
        sockopt::set_ip_freebind(&socket, true)?;
    } else if floats {
        sockopt::set_ipv6_freebind(&socket, true)?;
    }
    bind(&socket, &address)
}

fn first_free_port() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

/// Who has an address.
#[derive(Debug, PartialEq, Eq)]
enum Holder {
    Process {
        pid: u32,
        name: String,
    },
    /// A process that we may not look into.
    User(u32),
}

impl Holder {
    fn shown(&self) -> String {
        match self {
            Holder::Process { pid, name } => format!("`{name}` (process {pid})"),
            Holder::User(uid) => format!("a process of user {uid}"),
        }
    }
}

fn holder(address: SocketAddr) -> Option<Holder> {
    let table = |name: &str| std::fs::read_to_string(Path::new("/proc/net").join(name)).unwrap_or_default();
    let tables = [table("tcp"), table("tcp6")];
    let mut sockets: Vec<Socket> = tables
        .iter()
        .flat_map(|table| table.lines().filter_map(Socket::parse))
        .collect();
    sockets.retain(|socket| socket.clashes_with(address));
    // One that listens tells more than a connection that happens to use the port.
    sockets.sort_by_key(|socket| !socket.listens);
    let socket = sockets.first()?;
    Some(process_with(socket.inode).unwrap_or(Holder::User(socket.uid)))
}

/// A line of `/proc/net/tcp`.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    local: SocketAddr,
    listens: bool,
    uid: u32,
    inode: u64,
}

impl Socket {
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, local, _, state, _, _, _, uid, _, inode, ..] = fields[..] else {
            return None;
        };
        let (ip, port) = local.split_once(':')?;
        // Each 32 bits are written as a number of this machine, so their bytes come back in network order this way.
        let words: Vec<[u8; 4]> = (0..ip.len() / 8)
            .map(|index| {
                u32::from_str_radix(ip.get(index * 8..index * 8 + 8)?, 16)
                    .ok()
                    .map(u32::to_ne_bytes)
            })
            .collect::<Option<_>>()?;
        let ip = match words[..] {
            [word] => IpAddr::V4(Ipv4Addr::from(word)),
            [..] => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?)),
        };
        Some(Self {
            local: SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?),
            listens: state == "0A",
            uid: uid.parse().ok()?,
            inode: inode.parse().ok()?,
        })
    }

    fn clashes_with(&self, address: SocketAddr) -> bool {
        let (ours, theirs) = (address.ip().to_canonical(), self.local.ip().to_canonical());
        let all = |ip: IpAddr, other: IpAddr| ip.is_unspecified() && (ip.is_ipv6() || other.is_ipv4());
        self.local.port() == address.port() && (ours == theirs || all(ours, theirs) || all(theirs, ours))
    }
}

fn process_with(inode: u64) -> Option<Holder> {
    let wanted = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let holds = |file: std::fs::DirEntry| std::fs::read_link(file.path()).is_ok_and(|to| to == Path::new(&wanted));
        if files.flatten().any(holds) {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(Holder::Process {
                pid,
                name: name.trim().into(),
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernels_table_is_read() {
        let v4 = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0000 100 0 0 10 0";
        let socket = Socket::parse(v4).unwrap();
        let expected = Socket {
            local: "127.0.0.1:8080".parse().unwrap(),
            listens: true,
            uid: 1000,
            inode: 4711,
        };
        assert_eq!(socket, expected);
        let v6 = "   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 42 1";
        let socket = Socket::parse(v6).unwrap();
        let expected = Socket {
            local: "[::1]:80".parse().unwrap(),
            listens: false,
            uid: 0,
            inode: 42,
        };
        assert_eq!(socket, expected);
        assert_eq!(
            Socket::parse(
                "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
            ),
            None
        );
    }

    #[test]
    fn wildcards_clash_with_all_of_their_family() {
        let clash = |theirs: &str, ours: &str| {
            let socket = Socket {
                local: theirs.parse().unwrap(),
                listens: true,
                uid: 0,
                inode: 1,
            };
            socket.clashes_with(ours.parse().unwrap())
        };
        assert!(clash("0.0.0.0:80", "127.0.0.1:80"));
        assert!(clash("127.0.0.1:80", "0.0.0.0:80"));
        assert!(clash("[::]:80", "127.0.0.1:80"), "it takes IPv4 as well");
        assert!(clash("[::ffff:127.0.0.1]:80", "127.0.0.1:80"));
        assert!(!clash("0.0.0.0:80", "[::1]:80"));
        assert!(!clash("127.0.0.1:81", "127.0.0.1:80"));
        assert!(!clash("127.0.0.2:80", "127.0.0.1:80"));
    }
}
