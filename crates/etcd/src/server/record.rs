//! The note about a running etcd, and how its process is known: by number, start time and boot.

use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Version of the record; another one is not understood, and what it names is looked for by the lock instead.
const FORMAT: u32 = 1;

/// What is known of a running etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    pub(super) identity: Identity,
    /// Its data.
    pub(super) data_dir: PathBuf,
    /// With what it was started.
    pub(super) arguments: Vec<String>,
    /// Seconds since 1970, for people.
    pub(super) started: u64,
}

/// Which process it is: no other ever has all three.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) pid: u32,
    /// Clock ticks from boot to its start.
    pub(super) start_ticks: u64,
    pub(super) boot_id: String,
}

impl Identity {
    /// Who has this number now; `None` if nobody who lives.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, start_ticks) = parse_stat(&stat)?;
        (!matches!(state, 'Z' | 'X')).then_some(Self {
            pid,
            start_ticks,
            boot_id: boot_id()?,
        })
    }

    /// Whether it still runs.
    pub(super) fn lives(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }
}

fn boot_id() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

/// State and start time.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    // The second field is the name in parentheses, which may itself contain both spaces and parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Field 22 of proc_pid_stat(5); the state was field 3.
    let start = fields.nth(22 - 4)?.parse().ok()?;
    Some((state, start))
}

impl Record {
    pub(super) fn new(identity: Identity, data_dir: &Path, arguments: Vec<String>) -> Self {
        Self {
            format: FORMAT,
            identity,
            data_dir: data_dir.into(),
            arguments,
            started: super::seconds_since_1970(),
        }
    }

    /// Reads it; `None` if there is none that is whole and of this format. The lock tells whether etcd runs nevertheless.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let bytes = fs::read(path).ok()?;
        let record: Self = serde_json::from_slice(&bytes)
            .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "damaged record of etcd's process"))
            .ok()?;
        (record.format == FORMAT).then_some(record)
    }

    /// Replaces it by rename: it is whole or the old one. Not synced, because after a crash of the machine it is worthless.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let new = super::config::beside(path, "new");
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&new, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&new, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_and_nobody_else() {
        let us = Identity::of(std::process::id()).unwrap();
        assert!(us.lives());
        let earlier = Identity {
            start_ticks: us.start_ticks - 1,
            ..us.clone()
        };
        assert!(!earlier.lives(), "the number is another's now");
        let last_boot = Identity {
            boot_id: "another".into(),
            ..us
        };
        assert!(!last_boot.lives());
    }

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let fields: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        assert_eq!(
            parse_stat(&format!("7 (a) (b) S {}", fields.join(" "))),
            Some(('S', 22))
        );
        assert_eq!(parse_stat("7 (a"), None);
    }

    #[test]
    fn a_record_is_read_back_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/etcd.json");
        let us = Identity::of(std::process::id()).unwrap();
        let record = Record::new(us, Path::new("/d"), vec!["--name=a".into()]);
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path), Some(record.clone()));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert_eq!(Record::read(&path), None);
        fs::write(&path, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
        assert_eq!(Record::read(&path), None);
    }
}
