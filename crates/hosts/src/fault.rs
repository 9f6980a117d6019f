//! What can be done to hosts, as a closed list. Each begins and heals.

use crate::cuts::{Rule, partition};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fmt;

/// Ten years: what is further away is no clock that was set wrong.
const STEP_MAX_S: u64 = 10 * 366 * 24 * 3_600;

/// Something that breaks. Ends are hosts by name, or `client` where only frames are concerned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The cable goes dead, and in the same moment all that runs on the host. Heals by booting it, under another boot id.
    PowerLoss {
        /// Which host.
        host: String,
    },
    /// The link has no carrier, and the host can see that.
    LinkDown {
        /// Which end.
        end: String,
    },
    /// No frame goes in or out, though the link is up: a dead switch behind a live one.
    PathCut {
        /// Which end.
        end: String,
    },
    /// No frame goes from one to the other; the other way they do.
    OneWayCut {
        /// The sender that is not heard.
        from: String,
        /// The receiver that hears nothing.
        to: String,
    },
    /// Ends in different parts do not reach each other. Who is in no part reaches all: a partial partition.
    Partition {
        /// At least two parts without common members.
        parts: Vec<BTreeSet<String>>,
    },
    /// Frames are lost at random, in and out.
    Loss {
        /// Which end.
        end: String,
        /// Of a thousand, 1 to 1,000.
        permille: u16,
    },
    /// SIGSTOP to one process, SIGCONT to heal.
    Stop {
        /// Which host.
        host: String,
        /// As the host numbers it.
        pid: u32,
    },
    /// SIGKILL to one process. Nothing heals it but whoever starts it again.
    Kill {
        /// Which host.
        host: String,
        /// As the host numbers it.
        pid: u32,
    },
    /// No process of the host runs, as if its virtual machine were paused; its kernel goes on: it answers pings, and
    /// its time goes on too.
    Pause {
        /// Which host.
        host: String,
    },
    /// Processes that only use up processors. All hosts share those of the machine.
    CpuHogs {
        /// Which host.
        host: String,
        /// How many, 1 to 64.
        count: u8,
    },
    /// Its disk is full but for some bytes. Needs a disk of its own.
    DiskFull {
        /// Which host.
        host: String,
        /// So many bytes stay free.
        free_bytes: u64,
    },
    /// Writes to its disk do not come back. Needs a disk of its own.
    DiskStall {
        /// Which host.
        host: String,
    },
    /// Its wall clock is stepped, and back to heal; also while it is switched off, and over a power loss. Several add up. Needs a wall clock of
    /// its own, and is seen by programs that are started with it.
    ClockStep {
        /// Which host.
        host: String,
        /// Forward; back if negative. Not 0, at most ten years.
        seconds: i64,
    },
}

impl Fault {
    /// A power loss.
    pub fn power_loss(host: impl Into<String>) -> Self {
        Fault::PowerLoss { host: host.into() }
    }

    /// A partition into these parts.
    pub fn partition<'a, P: IntoIterator<Item = &'a str>>(parts: impl IntoIterator<Item = P>) -> Self {
        let part = |part: P| part.into_iter().map(str::to_owned).collect();
        Fault::Partition {
            parts: parts.into_iter().map(part).collect(),
        }
    }

    /// All ends that it names.
    pub(crate) fn ends(&self) -> Vec<&str> {
        match self {
            Fault::PowerLoss { host }
            | Fault::Stop { host, .. }
            | Fault::Kill { host, .. }
            | Fault::Pause { host }
            | Fault::CpuHogs { host, .. }
            | Fault::DiskFull { host, .. }
            | Fault::DiskStall { host }
            | Fault::ClockStep { host, .. } => vec![host],
            Fault::LinkDown { end } | Fault::PathCut { end } | Fault::Loss { end, .. } => vec![end],
            Fault::OneWayCut { from, to } => vec![from, to],
            Fault::Partition { parts } => parts.iter().flatten().map(String::as_str).collect(),
        }
    }

    /// Whether `client` may be among its ends.
    pub(crate) fn is_of_the_network(&self) -> bool {
        matches!(
            self,
            Fault::LinkDown { .. }
                | Fault::PathCut { .. }
                | Fault::OneWayCut { .. }
                | Fault::Partition { .. }
                | Fault::Loss { .. }
        )
    }

    /// What is wrong with it in itself.
    pub(crate) fn flaw(&self) -> Option<String> {
        match self {
            Fault::OneWayCut { from, to } if from == to => Some(format!("`{from}` cannot be cut off from itself")),
            Fault::Loss { permille, .. } if !(1..=1_000).contains(permille) => {
                Some(format!("{permille} of a thousand frames cannot be lost"))
            }
            Fault::ClockStep { seconds, .. } if *seconds == 0 || seconds.unsigned_abs() > STEP_MAX_S => Some(format!(
                "a clock cannot be stepped by {seconds} s; by 1 s to ten years it can, either way"
            )),
            Fault::CpuHogs { count, .. } if !(1..=64).contains(count) => {
                Some(format!("{count} hogs; 1 to 64 are possible"))
            }
            Fault::Partition { parts } => {
                let members: BTreeSet<&String> = parts.iter().flatten().collect();
                let count: usize = parts.iter().map(BTreeSet::len).sum();
                if parts.len() < 2 || parts.iter().any(BTreeSet::is_empty) {
                    Some("a partition has at least two parts, none of them empty".into())
                } else if members.len() < count {
                    Some("one end is in two parts of a partition".into())
                } else {
                    None
                }
            }
            _ => None,
        }
    }

    /// What the bridge does while it lasts.
    pub(crate) fn rules(&self) -> Vec<Rule> {
        match self {
            Fault::PathCut { end } => vec![Rule::Isolate { end: end.clone() }],
            Fault::OneWayCut { from, to } => vec![Rule::Drop {
                from: from.clone(),
                to: to.clone(),
            }],
            Fault::Partition { parts } => partition(parts),
            Fault::Loss { end, permille } => vec![Rule::Lose {
                end: end.clone(),
                permille: *permille,
            }],
            _ => Vec::new(),
        }
    }

    /// What a process is sent when it begins and when it heals.
    pub(crate) fn signals(&self) -> Option<(u32, Signal, Option<Signal>)> {
        match self {
            Fault::Stop { pid, .. } => Some((*pid, Signal::STOP, Some(Signal::CONT))),
            Fault::Kill { pid, .. } => Some((*pid, Signal::KILL, None)),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::PowerLoss { host } => write!(f, "power loss of {host}"),
            Fault::LinkDown { end } => write!(f, "link of {end} down"),
            Fault::PathCut { end } => write!(f, "path of {end} cut, link up"),
            Fault::OneWayCut { from, to } => write!(f, "nothing from {from} to {to}"),
            Fault::Partition { parts } => {
                let parts: Vec<String> = parts
                    .iter()
                    .map(|part| part.iter().map(String::as_str).collect::<Vec<_>>().join(" "))
                    .collect();
                write!(f, "partition {}", parts.join(" | "))
            }
            Fault::Loss { end, permille } => write!(f, "{end} loses {permille} of 1,000 frames"),
            Fault::Stop { host, pid } => write!(f, "process {pid} of {host} stopped"),
            Fault::Kill { host, pid } => write!(f, "process {pid} of {host} killed"),
            Fault::Pause { host } => write!(f, "{host} paused"),
            Fault::CpuHogs { host, count } => write!(f, "{count} processor hogs on {host}"),
            Fault::DiskFull { host, free_bytes } => write!(f, "disk of {host} full but for {free_bytes} bytes"),
            Fault::DiskStall { host } => write!(f, "disk of {host} stalled"),
            Fault::ClockStep { host, seconds } => write!(f, "wall clock of {host} stepped by {seconds:+} s"),
        }
    }
}
