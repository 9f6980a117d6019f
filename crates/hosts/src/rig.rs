//! A rig: hosts and a client on one bridge, and the faults that are in force.

use crate::cgroup;
use crate::cuts;
use crate::error::{Error, io};
use crate::fault::Fault;
use crate::host::{Host, Making};
use crate::net::{self, HOSTS_MAX, Namespace};
use crate::place::{CLIENT, Place, SWITCH, sweep};
use crate::wall::WallClock;
use crate::wire::Command;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is to be made.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    hosts: Vec<String>,
    disk_bytes: Option<u64>,
    clock_offsets_s: BTreeMap<String, i64>,
    own_wall_clocks: bool,
}

impl Spec {
    /// Hosts by name: 1 to 12 of a-z, 0-9 and `-`, a letter first.
    pub fn new<N: Into<String>>(hosts: impl IntoIterator<Item = N>) -> Self {
        Self {
            hosts: hosts.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// Gives each host a disk of its own of this size, at least 8 MiB, that can be filled and stalled.
    #[must_use]
    pub fn disk_bytes(mut self, bytes: u64) -> Self {
        self.disk_bytes = Some(bytes);
        self
    }

    /// Gives each host a wall clock of its own, which can be stepped. It is for programs that are started with
    /// [`Host::wall_clock_env`]; asking for the time costs them microseconds.
    #[must_use]
    pub fn own_wall_clocks(mut self) -> Self {
        self.own_wall_clocks = true;
        self
    }

    /// Moves CLOCK_MONOTONIC and CLOCK_BOOTTIME of a host by so many seconds, from its first boot on. Stamps of a witness on such a host cannot be compared with those of others.
    #[must_use]
    pub fn clock_offset_s(mut self, host: impl Into<String>, seconds: i64) -> Self {
        self.clock_offsets_s.insert(host.into(), seconds);
        self
    }

    fn check(&self) -> Result<(), Error> {
        if !(1..=HOSTS_MAX).contains(&self.hosts.len()) {
            return Err(Error::Count {
                hosts: self.hosts.len(),
                max: HOSTS_MAX,
            });
        }
        let offset = self.clock_offsets_s.keys();
        for (number, name) in self.hosts.iter().enumerate() {
            if !is_name(name) || self.hosts[..number].contains(name) {
                return Err(Error::Name { name: name.clone() });
            }
        }
        match offset.into_iter().find(|name| !self.hosts.contains(name)) {
            Some(name) => Err(Error::Unknown { name: name.clone() }),
            None => Ok(()),
        }
    }
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let bytes = name.as_bytes();
    let taken = [CLIENT, SWITCH, "lo", "br0"].contains(&name);
    (1..=12).contains(&bytes.len()) && bytes[0].is_ascii_lowercase() && bytes.iter().all(|byte| plain(*byte)) && !taken
}

/// Hosts on one bridge, and a client. All of it is gone when this is dropped.
#[derive(Debug)]
pub struct Rig {
    place: Place,
    hosts: BTreeMap<String, Host>,
    client: Namespace,
    faults: Mutex<BTreeMap<Fault, Traces>>,
    /// Locked as long as the owner lives.
    _owned: File,
}

/// What a fault left behind that its healing needs.
#[derive(Debug, Default)]
struct Traces {
    hogs: Vec<u32>,
}

impl Rig {
    /// Makes and boots all hosts. Removes first what rigs left whose owner is gone.
    pub fn create(spec: &Spec) -> Result<Self, Error> {
        spec.check()?;
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        // What cannot be removed is in nobody's way: a new rig has a number of its own.
        if let Err(error) = sweep() {
            eprintln!("an earlier rig was not removed whole: {error}");
        }
        let (place, owned) = Place::claim()?;
        // From here on a failure drops the rig, which removes what is there.
        let mut rig = Self {
            client: place.namespace(CLIENT),
            place,
            hosts: BTreeMap::new(),
            faults: Mutex::default(),
            _owned: owned,
        };
        rig.build(spec)?;
        Ok(rig)
    }

    fn build(&mut self, spec: &Spec) -> Result<(), Error> {
        let place = &self.place;
        let shared = place.shared();
        fs::create_dir_all(&shared).map_err(io("make", &shared))?;
        let cgroup = place.cgroup().ok_or(Error::NoCgroup2)?;
        cgroup::make(&cgroup)?;
        let switch = place.switch();
        net::make_bridge(&switch)?;
        net::connect(&switch, &self.client, CLIENT, place.subnet().address(2))?;
        let address = |number: usize| place.subnet().address(11 + number as u8);
        let names = spec.hosts.iter().enumerate();
        let lines = names.map(|(number, name)| format!("{} {name}\n", address(number)));
        let hosts = format!("127.0.0.1 localhost\n{}", lines.collect::<String>());
        for (number, name) in spec.hosts.iter().enumerate() {
            let wall_clock = match spec.own_wall_clocks {
                true => Some(WallClock::make(&shared.join("clocks"), name)?),
                false => None,
            };
            let host = Host::make(Making {
                name,
                address: address(number),
                folder: place.folder().join("hosts").join(name),
                disk_bytes: spec.disk_bytes,
                shared: &shared,
                cgroup: cgroup.join(name),
                netns: place.namespace(name),
                switch: &switch,
                clock_offset_s: spec.clock_offsets_s.get(name).copied(),
                wall_clock,
                hosts: &hosts,
            })?;
            host.boot()?;
            self.hosts.insert(name.clone(), host);
        }
        Ok(())
    }

    /// The number that tells it from other rigs of the machine.
    pub fn number(&self) -> u32 {
        self.place.number
    }

    /// A host by name.
    pub fn host(&self, name: &str) -> Result<&Host, Error> {
        self.hosts
            .get(name)
            .ok_or_else(|| Error::Unknown { name: name.to_owned() })
    }

    /// All hosts by name.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    /// Where clients are: on the bridge, and on no host. In faults its name is `client`.
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// An address that belongs to no host: 0 to 150.
    pub fn floating_address(&self, number: u8) -> Ipv4Addr {
        self.place.subnet().address(100 + number.min(150))
    }

    /// A folder in memory that the machine and all hosts see under this path.
    pub fn shared(&self) -> PathBuf {
        self.place.shared()
    }

    /// Breaks something, and returns when it is broken.
    pub fn begin(&self, fault: &Fault) -> Result<(), Error> {
        self.judge(fault)?;
        let mut faults = self.lock();
        if faults.contains_key(fault) {
            return Err(Error::Fault {
                why: format!("{fault}: that is so already"),
            });
        }
        let mut traces = Traces::default();
        match fault {
            Fault::PowerLoss { host } => self.host(host)?.power_off()?,
            Fault::LinkDown { end } => self.place.switch().ip(&format!("link set dev {end} down\n"))?,
            Fault::PathCut { .. } | Fault::OneWayCut { .. } | Fault::Partition { .. } | Fault::Loss { .. } => {
                self.cut(faults.keys().chain([fault]))?;
            }
            Fault::Stop { host, .. } | Fault::Kill { host, .. } => {
                if let Some((pid, signal, _)) = fault.signals() {
                    self.host(host)?.signal(pid, signal)?;
                }
            }
            Fault::Pause { host } => cgroup::freeze(&self.running(host)?.cgroup, true)?,
            Fault::CpuHogs { host, count } => {
                let host = self.host(host)?;
                for _ in 0..*count {
                    traces
                        .hogs
                        .push(host.start_daemon(Command::shell("while :; do :; done"), "hogs")?);
                }
            }
            Fault::DiskFull { host, free_bytes } => self.with_disk(host)?.disk.fill(*free_bytes)?,
            Fault::DiskStall { host } => self.with_disk(host)?.disk.stall()?,
            Fault::ClockStep { host, .. } => self.set_clock(host, faults.keys().chain([fault]))?,
        }
        faults.insert(fault.clone(), traces);
        Ok(())
    }

    /// Mends what `begin` broke, and returns when it is mended.
    pub fn heal(&self, fault: &Fault) -> Result<(), Error> {
        let mut faults = self.lock();
        let Some(traces) = faults.remove(fault) else {
            return Err(Error::Fault {
                why: format!("{fault}: that is not so"),
            });
        };
        match fault {
            Fault::PowerLoss { host } => {
                self.host(host)?.boot()?;
                let same = |other: &Fault| matches!(other, Fault::LinkDown { end } if end == host);
                if faults.keys().any(same) {
                    self.place.switch().ip(&format!("link set dev {host} down\n"))?;
                }
                // What befell its processes, and its pause, ended with its power.
                faults.retain(|other, _| !lost_with_power(other, host));
                Ok(())
            }
            Fault::LinkDown { end } => self.link_up(end),
            Fault::PathCut { .. } | Fault::OneWayCut { .. } | Fault::Partition { .. } | Fault::Loss { .. } => {
                self.cut(faults.keys())
            }
            Fault::Stop { host, .. } | Fault::Kill { host, .. } => match fault.signals() {
                Some((pid, _, Some(signal))) => self.signal_if_there(host, pid, signal),
                _ => Ok(()),
            },
            Fault::Pause { host } => cgroup::freeze(&self.host(host)?.cgroup, false),
            Fault::CpuHogs { host, .. } => traces
                .hogs
                .iter()
                .try_for_each(|pid| self.signal_if_there(host, *pid, Signal::KILL)),
            Fault::DiskFull { host, .. } => self.host(host)?.disk.free(),
            Fault::DiskStall { host } => {
                // A power loss ended the stall.
                self.host(host)?.disk.go_on().ok();
                Ok(())
            }
            Fault::ClockStep { host, .. } => self.set_clock(host, faults.keys()),
        }
    }

    /// Mends all that is broken.
    pub fn heal_all(&self) -> Result<(), Error> {
        let faults = self.faults();
        // Power first: what else was wrong with a host may have gone with it.
        let (power, other): (Vec<_>, Vec<_>) = faults
            .iter()
            .partition(|fault| matches!(fault, Fault::PowerLoss { .. }));
        for fault in power.into_iter().chain(other) {
            if self.lock().contains_key(fault) {
                self.heal(fault)?;
            }
        }
        Ok(())
    }

    /// What is broken at present.
    pub fn faults(&self) -> Vec<Fault> {
        self.lock().keys().cloned().collect()
    }

    fn judge(&self, fault: &Fault) -> Result<(), Error> {
        if let Some(why) = fault.flaw() {
            return Err(Error::Fault { why });
        }
        let of_the_network = fault.is_of_the_network();
        let known = |end: &str| self.hosts.contains_key(end) || (of_the_network && end == CLIENT);
        match fault.ends().into_iter().find(|end| !known(end)) {
            Some(name) => Err(Error::Unknown { name: name.to_owned() }),
            None => Ok(()),
        }
    }

    fn cut<'a>(&self, faults: impl Iterator<Item = &'a Fault>) -> Result<(), Error> {
        let rules: Vec<cuts::Rule> = faults.flat_map(Fault::rules).collect();
        self.place.switch().nft(&cuts::script(&rules))
    }

    fn link_up(&self, end: &str) -> Result<(), Error> {
        // A host without power has no link; it gets one when it boots.
        match self.hosts.get(end).is_some_and(|host| !host.is_on()) {
            true => Ok(()),
            false => self.place.switch().ip(&format!("link set dev {end} up\n")),
        }
    }

    fn signal_if_there(&self, host: &str, pid: u32, signal: Signal) -> Result<(), Error> {
        match self.host(host)?.signal(pid, signal) {
            // It ended meanwhile, or all of the host did.
            Err(Error::Init { .. } | Error::Off { .. }) => Ok(()),
            other => other,
        }
    }

    fn set_clock<'a>(&self, name: &str, faults: impl Iterator<Item = &'a Fault>) -> Result<(), Error> {
        let steps = faults.filter_map(|fault| match fault {
            Fault::ClockStep { host, seconds } if host == name => Some(seconds),
            _ => None,
        });
        let clock = self.host(name)?.wall_clock.as_ref();
        let clock = clock.ok_or_else(|| Error::NoClock { host: name.to_owned() })?;
        clock.set(steps.sum())
    }

    fn running(&self, name: &str) -> Result<&Host, Error> {
        let host = self.host(name)?;
        match host.is_on() {
            true => Ok(host),
            false => Err(Error::Off { host: name.to_owned() }),
        }
    }

    fn with_disk(&self, name: &str) -> Result<&Host, Error> {
        let host = self.host(name)?;
        match host.disk.is_own() {
            true => Ok(host),
            false => Err(Error::NoDisk { host: name.to_owned() }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Fault, Traces>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lost_with_power(fault: &Fault, of: &str) -> bool {
    match fault {
        Fault::Stop { host, .. }
        | Fault::Kill { host, .. }
        | Fault::Pause { host }
        | Fault::CpuHogs { host, .. }
        | Fault::DiskStall { host } => host == of,
        _ => false,
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let removed = self.place.remove(|| self.hosts.values().for_each(Host::reap));
        if let Err(error) = removed {
            // Nobody to return it to; the next sweep tries again.
            eprintln!("rig {} was not removed whole: {error}", self.place.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_not_be_ports_or_were_given_twice_are_refused() {
        for bad in ["", "Berlin", "a b", "1a", "client", "switch", "thirteen-char", "a/b"] {
            let error = Spec::new([bad]).check().unwrap_err().to_string();
            assert!(error.contains(&format!("`{bad}`")), "{error}");
        }
        assert!(Spec::new(["a", "b", "a"]).check().is_err());
        assert!(Spec::new(["a"]).clock_offset_s("b", 1).check().is_err());
        assert!(Spec::new(Vec::<String>::new()).check().is_err());
        assert!(Spec::new(["a", "db-2"]).check().is_ok());
    }
}
