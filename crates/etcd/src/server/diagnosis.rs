//! Why etcd ended, from what it wrote last.

use super::process::Exit;
use serde::Deserialize;
use std::fmt;

/// What made etcd end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The cluster has removed this member: its data are worthless.
    Removed,
    /// Its log or its database cannot be read.
    Damaged,
    /// The list of members that it was given is not the cluster's.
    Membership,
    /// None of the other members could be asked, which one that joins must.
    NoPeers,
    /// Somebody listens on one of its ports.
    PortTaken,
    /// The machine does not have the address.
    NoAddress,
    /// The disk is full.
    DiskFull,
    /// A certificate or key cannot be used.
    Certificates,
    /// It may not do something.
    Denied,
    /// Memory ran out, or somebody killed it.
    Killed,
    /// None of these.
    Other,
}

/// Why etcd ended, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// The kind of it.
    pub cause: Cause,
    /// How it ended; `None` if it could not even be started.
    pub exit: Option<Exit>,
    /// Its own last word, or the kernel's.
    pub said: Option<String>,
}

/// By what its messages are known: those of 3.4 to 3.6. The first that matches counts.
const KNOWN: [(&str, Cause); 27] = [
    ("permanently removed from the cluster", Cause::Removed),
    ("data-dir used by this member must be removed", Cause::Removed),
    ("member has been removed", Cause::Removed),
    ("address already in use", Cause::PortTaken),
    ("cannot assign requested address", Cause::NoAddress),
    ("no space left on device", Cause::DiskFull),
    ("disk quota exceeded", Cause::DiskFull),
    // Before damage: what keeps etcd from its files for a while says nothing of what is in them.
    ("permission denied", Cause::Denied),
    ("too many open files", Cause::Other),
    ("cannot allocate memory", Cause::Other),
    ("already locked", Cause::Other),
    ("input/output error", Cause::Other),
    ("crc mismatch", Cause::Damaged),
    ("invalid database", Cause::Damaged),
    ("failed to recover v3 backend", Cause::Damaged),
    ("failed to open database", Cause::Damaged),
    ("failed to open WAL", Cause::Damaged),
    ("failed to read WAL", Cause::Damaged),
    ("snapshot file not found", Cause::Damaged),
    // Its data are older than what it had told the others: its disk, or its machine, was put back from a copy.
    ("Was the raft log corrupted, truncated, or lost", Cause::Damaged),
    ("member count is unequal", Cause::Membership),
    ("unmatched member while checking PeerURLs", Cause::Membership),
    ("has already been bootstrapped", Cause::Membership),
    ("couldn't find local name", Cause::Membership),
    ("could not retrieve cluster information", Cause::NoPeers),
    ("failed to find any PEM data", Cause::Certificates),
    ("tls: ", Cause::Certificates),
];

impl Diagnosis {
    /// Judges by the exit and the log's last lines, oldest first, of this run alone.
    pub fn of(exit: Exit, lines: &[String]) -> Self {
        let said = lines.iter().filter_map(|line| Line::read(line));
        let grave: Vec<Line> = said.filter(|line| line.gravity > 0).collect();
        let known = grave.iter().rev().find_map(|line| {
            let cause = KNOWN.iter().find(|(part, _)| line.text.contains(part))?.1;
            Some((cause, line.text.clone()))
        });
        let gravest = grave
            .iter()
            .max_by_key(|line| line.gravity)
            .map(|line| line.text.clone());
        let killed = exit == Exit::Signal(libc::SIGKILL);
        let (cause, said) = match known {
            _ if killed => (Cause::Killed, None),
            Some((cause, text)) => (cause, Some(text)),
            None => (Cause::Other, gravest),
        };
        Self {
            cause,
            exit: Some(exit),
            said,
        }
    }

    /// Whether starting it again cannot help.
    pub fn is_final(&self) -> bool {
        matches!(self.cause, Cause::Removed | Cause::Damaged | Cause::Membership)
    }

    /// What can be done about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self.cause {
            Cause::Removed => "let the node join again, with an empty data folder",
            Cause::Damaged => "replace this member: it gets its data from the others. Alone, restore a backup",
            Cause::Membership => {
                "these data or this list of members are of another cluster: join again, with an empty data folder"
            }
            Cause::NoPeers => {
                "check that the other members run, that this node reaches their peer ports, and that its certificate names the address it comes from"
            }
            Cause::PortTaken => {
                "see who has it with `ss -ltnp`; Debian's own service is ended by `systemctl disable --now etcd`; or choose another port"
            }
            Cause::NoAddress => "give an address that `ip addr` shows on this node",
            Cause::DiskFull => "free some space on the disk of the data",
            Cause::Certificates => {
                "make the node's certificates anew; one certificate must allow both server and client use"
            }
            Cause::Denied => "let etcd's user own the data folder, and read its certificates",
            Cause::Killed => "look into the kernel's messages (dmesg) whether memory ran out",
            Cause::Other => return None,
        })
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.cause {
            Cause::Removed => "the cluster has removed this member",
            Cause::Damaged => "its data are damaged",
            Cause::Membership => "its list of members is not the cluster's",
            Cause::NoPeers => "no other member answered",
            Cause::PortTaken => "its port is taken",
            Cause::NoAddress => "this machine does not have its address",
            Cause::DiskFull => "the disk is full",
            Cause::Certificates => "its certificates cannot be used",
            Cause::Denied => "it may not read or write its files",
            Cause::Killed => "it was killed",
            Cause::Other => "etcd ended",
        };
        f.write_str(what)?;
        match (&self.said, self.exit) {
            (Some(said), _) => write!(f, " ({said})"),
            (None, Some(exit)) if self.cause == Cause::Other => write!(f, " ({exit})"),
            _ => Ok(()),
        }
    }
}

/// A line that etcd wrote.
struct Line {
    /// 0 of no interest, up to 3 for what ended it.
    gravity: u8,
    text: String,
}

#[derive(Deserialize)]
struct Zap {
    level: String,
    msg: String,
    #[serde(default)]
    error: Option<String>,
}

impl Line {
    fn read(line: &str) -> Option<Self> {
        let Ok(Zap { level, msg, error }) = serde_json::from_str(line) else {
            // Go's own last word: "panic: …", "fatal error: …". Or a flag that it does not know.
            let last_word = [
                "panic:",
                "fatal error:",
                "error verifying flags",
                "flag provided but not defined",
            ];
            let text = line.trim().to_owned();
            return last_word
                .iter()
                .any(|start| text.starts_with(start))
                .then_some(Self { gravity: 2, text });
        };
        let gravity = match level.as_str() {
            "fatal" | "panic" => 3,
            "error" => 2,
            "warn" => 1,
            _ => 0,
        };
        // "discovery failed" is how etcd heads every failure to start.
        let text = match error {
            Some(error) if msg == "discovery failed" => error,
            Some(error) => format!("{msg}: {error}"),
            None => msg,
        };
        Some(Self { gravity, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_wrote_last_becomes_a_cause_and_a_hint() {
        let table = [
            (
                Exit::Code(1),
                r#"{"level":"fatal","ts":"t","msg":"discovery failed","error":"listen tcp 10.255.1.1:2379: bind: cannot assign requested address"}"#,
                Cause::NoAddress,
                "this machine does not have its address (listen tcp 10.255.1.1:2379: bind: cannot assign requested address)",
            ),
            (
                Exit::Code(1),
                r#"{"level":"fatal","msg":"discovery failed","error":"walpb: crc mismatch"}"#,
                Cause::Damaged,
                "its data are damaged (walpb: crc mismatch)",
            ),
            (
                Exit::Code(2),
                r#"{"level":"panic","msg":"failed to open database","error":"invalid database"}"#,
                Cause::Damaged,
                "its data are damaged (failed to open database: invalid database)",
            ),
            (
                Exit::Code(0),
                r#"{"level":"warn","msg":"data-dir used by this member must be removed"}"#,
                Cause::Removed,
                "the cluster has removed this member (data-dir used by this member must be removed)",
            ),
            (Exit::Signal(9), "", Cause::Killed, "it was killed"),
            (Exit::Signal(15), "", Cause::Other, "etcd ended (signal 15 ended it)"),
            (
                Exit::Code(2),
                "panic: something new",
                Cause::Other,
                "etcd ended (panic: something new)",
            ),
        ];
        for (exit, line, cause, text) in table {
            let ordinary = r#"{"level":"info","msg":"permission denied is what this line is not about"}"#;
            let found = Diagnosis::of(exit, &[ordinary.to_owned(), line.to_owned()]);
            assert_eq!((found.cause, found.to_string().as_str()), (cause, text));
            assert_eq!(found.hint().is_none(), cause == Cause::Other);
        }
    }
}
