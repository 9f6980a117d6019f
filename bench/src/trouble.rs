//! What is done to a cluster on several hosts: faults in the words of its parts, begun and mended.

use crate::cluster::{Cluster, Process};
use anyhow::{Context, Result, bail};
use hosts::Fault;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// So much stays free on a full disk.
const FREE_BYTES: u64 = 0;

/// One thing that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// SIGKILL to a process. Whoever keeps it starts it again.
    Kill {
        /// Where.
        host: String,
        /// Which.
        process: Process,
    },
    /// SIGSTOP to a process; SIGCONT mends it.
    Stop {
        /// Where.
        host: String,
        /// Which.
        process: Process,
    },
    /// The host is off; mended, it boots, and its service manager starts us.
    PowerLoss {
        /// Which.
        host: String,
    },
    /// No carrier.
    LinkDown {
        /// Whose.
        host: String,
    },
    /// Nothing in or out, though the carrier is up.
    PathCut {
        /// Whose.
        host: String,
    },
    /// Nothing goes from one host to another; the other way it does.
    OneWay {
        /// Who is not heard.
        from: String,
        /// Who does not hear.
        to: String,
    },
    /// Two hosts do not reach each other; both reach the third.
    Apart {
        /// The one.
        one: String,
        /// The other.
        other: String,
    },
    /// Frames are lost at random, in and out.
    Loss {
        /// Whose.
        host: String,
        /// Of a thousand.
        permille: u16,
    },
    /// Nothing on the host runs for a while.
    Pause {
        /// Which.
        host: String,
    },
    /// Its disk is full.
    DiskFull {
        /// Whose.
        host: String,
    },
    /// Its disk answers no write.
    DiskStall {
        /// Whose.
        host: String,
    },
    /// Its wall clock is stepped, for agent, guard, proxy and commands there; mended, it is stepped back. Needs hosts with wall clocks of their own.
    ClockStep {
        /// Whose.
        host: String,
        /// Forward; back if negative.
        seconds: i64,
    },
    /// Processes that use up the processors.
    Hogs {
        /// Where.
        host: String,
        /// How many.
        count: u8,
    },
}

/// A trouble that has begun, with what it takes to mend it.
#[derive(Debug)]
pub struct Begun {
    trouble: Trouble,
    faults: Vec<Fault>,
}

impl Trouble {
    /// Begins it. A process that is not there at the moment cannot be harmed: then nothing is.
    pub fn begin(&self, cluster: &Cluster) -> Result<Begun> {
        let faults = self.faults(cluster)?;
        let mut begun = Begun {
            trouble: self.clone(),
            faults: Vec::new(),
        };
        for fault in faults {
            match (cluster.rig().begin(&fault), &fault) {
                (Ok(()), _) => begun.faults.push(fault),
                // It ended between the look and the signal.
                (Err(_), Fault::Kill { .. } | Fault::Stop { .. }) => {}
                (Err(error), _) => return Err(error).with_context(|| self.to_string()),
            }
        }
        Ok(begun)
    }

    fn faults(&self, cluster: &Cluster) -> Result<Vec<Fault>> {
        let of_process = |host: &String, process: Process, make: fn(String, u32) -> Fault| -> Result<Vec<Fault>> {
            if !cluster.host(host)?.is_on() {
                return Ok(Vec::new());
            }
            let pids = cluster.pids(host, process)?;
            Ok(pids.into_iter().map(|pid| make(host.clone(), pid)).collect())
        };
        Ok(match self {
            Trouble::Kill { host, process } => of_process(host, *process, |host, pid| Fault::Kill { host, pid })?,
            Trouble::Stop { host, process } => of_process(host, *process, |host, pid| Fault::Stop { host, pid })?,
            Trouble::PowerLoss { host } => vec![Fault::PowerLoss { host: host.clone() }],
            Trouble::LinkDown { host } => vec![Fault::LinkDown { end: host.clone() }],
            Trouble::PathCut { host } => vec![Fault::PathCut { end: host.clone() }],
            Trouble::OneWay { from, to } => vec![Fault::OneWayCut {
                from: from.clone(),
                to: to.clone(),
            }],
            Trouble::Apart { one, other } => vec![Fault::Partition {
                parts: vec![BTreeSet::from([one.clone()]), BTreeSet::from([other.clone()])],
            }],
            Trouble::Loss { host, permille } => vec![Fault::Loss {
                end: host.clone(),
                permille: *permille,
            }],
            Trouble::Pause { host } => vec![Fault::Pause { host: host.clone() }],
            Trouble::DiskFull { host } => vec![Fault::DiskFull {
                host: host.clone(),
                free_bytes: FREE_BYTES,
            }],
            Trouble::DiskStall { host } => vec![Fault::DiskStall { host: host.clone() }],
            Trouble::ClockStep { host, seconds } => vec![Fault::ClockStep {
                host: host.clone(),
                seconds: *seconds,
            }],
            Trouble::Hogs { host, count } => vec![Fault::CpuHogs {
                host: host.clone(),
                count: *count,
            }],
        })
    }

    /// Whether the host then does nothing that is asked of it, such as to harm one of its processes: it is begun last.
    pub fn stops_the_host(&self) -> bool {
        matches!(
            self,
            Trouble::PowerLoss { .. } | Trouble::Pause { .. } | Trouble::DiskStall { .. }
        )
    }

    /// The hosts that it concerns.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Trouble::OneWay { from: one, to: other } | Trouble::Apart { one, other } => vec![one, other],
            Trouble::Kill { host, .. }
            | Trouble::Stop { host, .. }
            | Trouble::PowerLoss { host }
            | Trouble::LinkDown { host }
            | Trouble::PathCut { host }
            | Trouble::Loss { host, .. }
            | Trouble::Pause { host }
            | Trouble::DiskFull { host }
            | Trouble::DiskStall { host }
            | Trouble::ClockStep { host, .. }
            | Trouble::Hogs { host, .. } => vec![host],
        }
    }
}

impl Begun {
    /// What it is.
    pub fn trouble(&self) -> &Trouble {
        &self.trouble
    }

    /// Whether anything was harmed.
    pub fn did_something(&self) -> bool {
        !self.faults.is_empty()
    }

    /// Mends it. What ended with the power of a host needs no mending.
    pub fn heal(self, cluster: &Cluster) -> Result<()> {
        let present = cluster.rig().faults();
        for fault in self.faults.iter().filter(|fault| present.contains(fault)) {
            cluster.rig().heal(fault).with_context(|| self.trouble.to_string())?;
        }
        match &self.trouble {
            Trouble::PowerLoss { host } => cluster.start(host),
            _ => Ok(()),
        }
    }
}

/// Mends all. Power first, for what else was wrong with a host may have gone with it; then what keeps a host from doing what mends the rest.
pub fn heal_all(mut begun: Vec<Begun>, cluster: &Cluster) -> Result<()> {
    begun.sort_by_key(|begun| match begun.trouble {
        Trouble::PowerLoss { .. } => 0,
        Trouble::Pause { .. } | Trouble::DiskStall { .. } => 1,
        _ => 2,
    });
    begun.into_iter().try_for_each(|begun| begun.heal(cluster))
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Kill { host, process } => write!(f, "kill {host} {process}"),
            Trouble::Stop { host, process } => write!(f, "stop {host} {process}"),
            Trouble::PowerLoss { host } => write!(f, "power-loss {host}"),
            Trouble::LinkDown { host } => write!(f, "link-down {host}"),
            Trouble::PathCut { host } => write!(f, "path-cut {host}"),
            Trouble::OneWay { from, to } => write!(f, "one-way {from} {to}"),
            Trouble::Apart { one, other } => write!(f, "apart {one} {other}"),
            Trouble::Loss { host, permille } => write!(f, "loss {host} {permille}"),
            Trouble::Pause { host } => write!(f, "pause {host}"),
            Trouble::DiskFull { host } => write!(f, "disk-full {host}"),
            Trouble::DiskStall { host } => write!(f, "disk-stall {host}"),
            Trouble::ClockStep { host, seconds } => write!(f, "clock-step {host} {seconds:+}"),
            Trouble::Hogs { host, count } => write!(f, "hogs {host} {count}"),
        }
    }
}

impl FromStr for Trouble {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        Ok(match words.as_slice() {
            ["kill", host, process] => Trouble::Kill {
                host: (*host).into(),
                process: process.parse()?,
            },
            ["stop", host, process] => Trouble::Stop {
                host: (*host).into(),
                process: process.parse()?,
            },
            ["power-loss", host] => Trouble::PowerLoss { host: (*host).into() },
            ["link-down", host] => Trouble::LinkDown { host: (*host).into() },
            ["path-cut", host] => Trouble::PathCut { host: (*host).into() },
            ["one-way", from, to] => Trouble::OneWay {
                from: (*from).into(),
                to: (*to).into(),
            },
            ["apart", one, other] => Trouble::Apart {
                one: (*one).into(),
                other: (*other).into(),
            },
            ["loss", host, permille] => Trouble::Loss {
                host: (*host).into(),
                permille: permille.parse()?,
            },
            ["pause", host] => Trouble::Pause { host: (*host).into() },
            ["disk-full", host] => Trouble::DiskFull { host: (*host).into() },
            ["disk-stall", host] => Trouble::DiskStall { host: (*host).into() },
            ["clock-step", host, seconds] => Trouble::ClockStep {
                host: (*host).into(),
                seconds: seconds.parse()?,
            },
            ["hogs", host, count] => Trouble::Hogs {
                host: (*host).into(),
                count: count.parse()?,
            },
            _ => bail!("`{line}` is no trouble; they are called as in `kill a agent`, `power-loss a`, `one-way a b`"),
        })
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Process::Agent => "agent",
            Process::Guard => "guard",
            Process::Proxy => "proxy",
            Process::Etcd => "etcd",
            Process::Token => "token",
        })
    }
}

impl FromStr for Process {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        Process::ALL
            .into_iter()
            .find(|process| process.to_string() == word)
            .with_context(|| format!("`{word}` is no process of ours: agent, guard, proxy, etcd, token"))
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn a_trouble_is_read_as_it_is_written() {
        let lines = [
            "kill a agent",
            "stop b token",
            "power-loss c",
            "link-down a",
            "path-cut a",
            "one-way a b",
            "apart b c",
            "loss a 200",
            "pause a",
            "disk-full a",
            "disk-stall a",
            "clock-step a +3600",
            "clock-step b -2",
            "hogs a 4",
        ];
        for line in lines {
            assert_eq!(line.parse::<Trouble>().unwrap().to_string(), line);
        }
        assert!("kill a nobody".parse::<Trouble>().is_err() && "burn a".parse::<Trouble>().is_err());
    }
}
