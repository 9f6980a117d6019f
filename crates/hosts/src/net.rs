//! Network namespaces on one bridge, by the programs of iproute2 and nftables.
//!
//! ```text
//!   usN-switch   br0 ──┬── a ─────── eth0   usN-a        10.x.y.11
//!                      ├── b ─────── eth0   usN-b        10.x.y.12
//!                      └── client ── eth0   usN-client   10.x.y.2
//! ```
//! The bridge has a namespace of its own: nothing of a rig is seen from the machine, and rules that cut hosts off lie where
//! no host can touch them and survive its power loss.

use crate::error::Error;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

/// Rigs that fit into the addresses and names there are.
pub(crate) const RIGS_MAX: u32 = 2_000;
/// Hosts have .11 to .90; .100 and above float.
pub(crate) const HOSTS_MAX: usize = 80;

/// The addresses of a rig.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subnet(pub(crate) u32);

impl Subnet {
    pub(crate) fn address(self, last: u8) -> Ipv4Addr {
        let number = self.0;
        Ipv4Addr::new(10, 80 + (number / 250) as u8, (number % 250) as u8, last)
    }
}

/// A network namespace by name, as `ip netns` lists it.
#[derive(Debug, Clone)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn new(rig: u32, name: &str) -> Self {
        Self {
            name: format!("us{rig}-{name}"),
        }
    }

    /// Its name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What `setns` takes.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Moves the calling thread into it, for good: its sockets, and those of threads that it starts, are in there.
    pub fn enter(&self) -> io::Result<()> {
        let file = File::open(self.path())?;
        Ok(move_into_link_name_space(
            file.as_fd(),
            Some(LinkNameSpaceType::Network),
        )?)
    }

    /// Runs something on a thread in there, and waits for it. A panic goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| self.enter().map(|()| work()));
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub(crate) fn exists(&self) -> bool {
        self.path().exists()
    }

    pub(crate) fn make(&self) -> Result<(), Error> {
        ip(&["netns", "add", &self.name], None).map(drop)
    }

    pub(crate) fn remove(&self) -> Result<(), Error> {
        match self.exists() {
            true => ip(&["netns", "del", &self.name], None).map(drop),
            false => Ok(()),
        }
    }

    /// Carries out lines of `ip -batch`.
    pub(crate) fn ip(&self, lines: &str) -> Result<(), Error> {
        ip(&["-n", &self.name, "-batch", "-"], Some(lines)).map(drop)
    }

    /// Takes over a file of nftables.
    pub(crate) fn nft(&self, rules: &str) -> Result<(), Error> {
        let words = ["netns", "exec", &self.name, "nft", "-f", "-"];
        let done = ip(&words, Some(rules));
        // `ip` is there and says so of `nft`.
        match done {
            Err(Error::Refused { said, .. }) if said.contains("exec of \"nft\" failed") => Err(Error::Program {
                program: "nft",
                package: "nftables",
                source: io::ErrorKind::NotFound.into(),
            }),
            other => other.map(drop),
        }
    }
}

/// The bridge of a new rig.
pub(crate) fn make_bridge(switch: &Namespace) -> Result<(), Error> {
    switch.make()?;
    // A bridge that snoops multicast drops VRRP until somebody asks for it.
    switch.ip("link add br0 type bridge mcast_snooping 0 stp_state 0\nlink set br0 up\n")
}

/// A cable from the bridge into a namespace that is made for it.
pub(crate) fn connect(switch: &Namespace, to: &Namespace, port: &str, address: Ipv4Addr) -> Result<(), Error> {
    to.make()?;
    let [_, high, low, last] = address.octets();
    let name = to.name();
    switch.ip(&format!(
        "link add name {port} type veth peer name eth0 address 02:75:73:{high:02x}:{low:02x}:{last:02x} netns {name}\n\
         link set dev {port} master br0 up\n"
    ))?;
    to.ip(&format!(
        "link set lo up\nlink set eth0 up\naddress add {address}/24 dev eth0\n"
    ))
}

/// Takes the cable and the namespace at its end away. The port goes first: it is gone when the call returns, whereas a
/// namespace is taken apart in the background.
pub(crate) fn disconnect(switch: &Namespace, from: &Namespace, port: &str) -> Result<(), Error> {
    if switch.exists() && has_link(switch, port) {
        switch.ip(&format!("link del dev {port}\n"))?;
    }
    from.remove()
}

pub(crate) fn has_link(namespace: &Namespace, link: &str) -> bool {
    ip(&["-n", namespace.name(), "link", "show", "dev", link], None).is_ok()
}

/// Runs `ip`, and returns what it prints.
pub(crate) fn ip(words: &[&str], stdin: Option<&str>) -> Result<String, Error> {
    run("ip", "iproute2", words, stdin)
}

/// Runs a program of the distribution to its end.
pub(crate) fn run(
    program: &'static str,
    package: &'static str,
    words: &[&str],
    stdin: Option<&str>,
) -> Result<String, Error> {
    let missing = |source| Error::Program {
        program,
        package,
        source,
    };
    let mut child = Command::new(program)
        .args(words)
        .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    if let (Some(mut pipe), Some(text)) = (child.stdin.take(), stdin) {
        // Who does not read it all has something to say, below.
        pipe.write_all(text.as_bytes()).ok();
    }
    let output = child.wait_with_output().map_err(missing)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stderr, output.stdout].concat();
    Err(Error::Refused {
        what: format!("{program} {}", words.join(" ")),
        said: String::from_utf8_lossy(&said).trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rig_has_addresses_of_its_own() {
        let networks: std::collections::BTreeSet<_> = (1..=RIGS_MAX).map(|rig| Subnet(rig).address(0)).collect();
        assert_eq!(networks.len(), RIGS_MAX as usize);
        assert!(networks.iter().all(Ipv4Addr::is_private));
    }
}
