//! What can be known to be wrong before anything is made, and before a token is used up.

use crate::error::Error;
use api::layout::Layout;
use api::node::Node;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;

/// Certificates and tokens bear half an hour, but a clock that is minutes off goes on drifting, and its logs mislead whoever compares them.
const CLOCK_APART_MS: u64 = 300_000;

/// Whether this machine can be reached there: the address is its own, and the ports of agent and etcd are free.
pub(crate) fn address(host: IpAddr, port: u16, runs_etcd: bool) -> Result<(), Error> {
    let unusable = match host {
        IpAddr::V4(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast(),
    };
    if unusable {
        return Err(Error::NoAddress { host });
    }
    if port == 0 || port > u16::MAX - 2 {
        return Err(Error::NoPort { port });
    }
    let users = [
        (port, "the agent"),
        (port + 1, "clients of etcd"),
        (port + 2, "members of etcd"),
    ];
    for (port, user) in users.into_iter().take(if runs_etcd { 3 } else { 1 }) {
        let at = SocketAddr::new(host, port);
        match TcpListener::bind(at) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::AddrInUse => return Err(Error::PortTaken { at, user }),
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => return Err(Error::NotOurAddress { host }),
            Err(source) => {
                return Err(Error::Io {
                    doing: "listen at",
                    path: at.to_string().into(),
                    source,
                });
            }
        }
    }
    Ok(())
}

/// Something to say about an address that works, but perhaps not for all.
pub(crate) fn note_on_address(host: IpAddr, others: &[IpAddr]) -> Option<String> {
    if !host.is_loopback() || others.iter().any(IpAddr::is_loopback) {
        return None;
    }
    Some(if others.is_empty() {
        format!(
            "note: {host} is reached from this machine alone; other machines cannot join a cluster that begins there"
        )
    } else {
        format!("note: {host} is reached from this machine alone, but the others are elsewhere: they will not find it")
    })
}

/// The nodes that this machine is already: a cluster of the same name is refused later, but then the token would be used up.
pub(crate) fn nodes_here(base: &Path) -> Vec<Node> {
    let Ok(entries) = std::fs::read_dir(base) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            Node::read(&Layout::new(base, &name).node()).ok()?
        })
        .collect()
}

/// Whether a join was cut off here: then its etcd may run, and is taken up.
pub(crate) fn cut_off_here(base: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(base) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let Ok(name) = entry.file_name().into_string() else {
            return false;
        };
        let layout = Layout::new(base, &name);
        layout.etcd().exists() && !layout.node().exists()
    })
}

/// Whether two clocks are near enough for certificates.
pub(crate) fn clocks(ours_ms: i64, theirs_ms: i64, address: &str) -> Result<(), Error> {
    let apart = ours_ms.abs_diff(theirs_ms);
    if apart <= CLOCK_APART_MS {
        return Ok(());
    }
    Err(Error::Clock {
        address: address.into(),
        ahead_ms: apart,
        direction: if ours_ms > theirs_ms { "ahead of" } else { "behind" },
    })
}

/// Whether endpoints of an etcd that is not ours can be used: each an URL, and what is said to them is not for everybody to read.
pub(crate) fn endpoints(endpoints: &[String], plain_anyway: bool) -> Result<(), Error> {
    for endpoint in endpoints {
        let (scheme, rest) = endpoint.split_once("://").unwrap_or(("", endpoint));
        let host = rest.trim_end_matches('/').rsplit_once(':').map(|(host, _)| host);
        let (true, Some(host)) = (matches!(scheme, "http" | "https"), host.filter(|host| !host.is_empty())) else {
            return Err(Error::Endpoint {
                endpoint: endpoint.clone(),
            });
        };
        let local = host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse::<IpAddr>()
                .is_ok_and(|ip| ip.is_loopback());
        if scheme == "http" && !local && !plain_anyway {
            return Err(Error::PlainEtcd {
                endpoint: endpoint.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_nobody_reaches_is_refused_with_the_way_out() {
        let refused = |host: &str, port| {
            let error = address(host.parse().expect("an address"), port, true).expect_err("refused");
            format!("{error}; {}", error.hint().unwrap_or_default())
        };
        for nobody in ["0.0.0.0", "::", "224.0.0.1", "255.255.255.255"] {
            assert!(refused(nobody, 7460).contains("no address of one machine"), "{nobody}");
        }
        // A documentation network: no machine has it.
        assert!(refused("192.0.2.77", 7460).contains("this machine does not have the address 192.0.2.77"));
        assert!(refused("127.0.0.1", 65_534).contains("65533"));
        let taken = TcpListener::bind("127.0.8.99:0").expect("a port");
        let port = taken.local_addr().expect("its address").port() - 1;
        let text = refused("127.0.8.99", port);
        assert!(text.contains("clients of etcd") && text.contains("--port"), "{text}");
    }

    #[test]
    fn loopback_is_noted_only_where_it_is_odd() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert!(note_on_address(ip("10.0.0.1"), &[]).is_none());
        assert!(note_on_address(ip("127.0.0.2"), &[ip("127.0.0.1")]).is_none());
        assert!(note_on_address(ip("127.0.0.2"), &[ip("10.0.0.1")]).is_some_and(|text| text.contains("elsewhere")));
        assert!(note_on_address(ip("127.0.0.2"), &[]).is_some_and(|text| text.contains("cannot join")));
    }

    #[test]
    fn a_clock_that_is_off_by_more_than_minutes_is_refused() {
        let hour = 3_600_000;
        assert!(clocks(10 * hour, 10 * hour + CLOCK_APART_MS as i64, "10.0.0.1:7460").is_ok());
        let behind = clocks(10 * hour, 11 * hour, "10.0.0.1:7460").expect_err("refused");
        assert!(behind.to_string().contains("behind that of 10.0.0.1:7460"), "{behind}");
        let ahead = clocks(12 * hour, 10 * hour, "10.0.0.1:7460").expect_err("refused");
        assert!(ahead.to_string().contains("2 h ahead of"), "{ahead}");
        assert!(ahead.hint().is_some_and(|hint| hint.contains("chrony")));
    }

    #[test]
    fn passwords_and_records_do_not_travel_in_the_open() {
        let one = |text: &str| endpoints(&[text.to_owned()], false).map_err(|error| error.to_string());
        assert!(one("https://10.0.0.1:2379").is_ok());
        assert!(
            one("http://127.0.0.1:2379").is_ok()
                && one("http://[::1]:2379").is_ok()
                && one("http://localhost:2379").is_ok()
        );
        assert!(one("http://10.0.0.1:2379").is_err_and(|text| text.contains("in the open")));
        assert!(endpoints(&["http://10.0.0.1:2379".to_owned()], true).is_ok());
        for nonsense in ["10.0.0.1:2379", "ftp://10.0.0.1:21", "https://", "https://10.0.0.1"] {
            assert!(
                one(nonsense).is_err_and(|text| text.contains("is no endpoint")),
                "{nonsense}"
            );
        }
    }
}
