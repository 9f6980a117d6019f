//! Finds etcd's programs and asks for their versions.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where to look beside `PATH`, which a service's environment often cuts short.
const ALSO: [&str; 4] = ["/usr/bin", "/usr/local/bin", "/usr/sbin", "/opt/etcd"];
/// Learners and move-leader are there since then.
const OLDEST: Version = Version(3, 4, 0);
/// The first major version that is not known to be compatible.
const BEYOND: Version = Version(4, 0, 0);
/// From here on reads that claim to be linearizable are, also after a pause of the process.
const SOUND_READS: [Version; 2] = [Version(3, 5, 28), Version(3, 6, 9)];

/// A version of etcd: major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// Reads `3.4.23`, and `3.5.0-rc.1` as `3.5.0`.
    pub fn parse(text: &str) -> Option<Self> {
        let core = text.trim().trim_start_matches('v').split(['-', '+']).next()?;
        let mut parts = core.split('.').map(|part| part.parse::<u32>().ok());
        let version = Self(parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?);
        parts.next().is_none().then_some(version)
    }

    /// What is to be said of a version that works but is not the best; `None` of a good one.
    pub fn doubt(self) -> Option<String> {
        let [in_3_5, in_3_6] = SOUND_READS;
        let sound = self >= in_3_6 || (self >= in_3_5 && self < Version(3, 6, 0));
        (!sound).then(|| {
            format!(
                "etcd {self} may answer reads with old values after a pause of its process; takeovers do not rely on reads, \
                 so this is safe. {in_3_5} or {in_3_6} and later do not"
            )
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// etcd's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etcd {
    /// The file.
    pub path: PathBuf,
    /// As it says itself.
    pub version: Version,
}

/// What restores a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tool {
    /// 3.5 and later.
    Etcdutl {
        /// The file.
        path: PathBuf,
        /// Whether it has `--bump-revision` (3.6, and 3.5.10 or later), as its help says.
        bumps_revision: bool,
    },
    /// 3.4: it cannot raise revisions.
    Etcdctl {
        /// The file.
        path: PathBuf,
    },
}

/// Why a program of etcd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is in none of the usual places.
    #[error("the program `{program}` is not installed")]
    Missing {
        /// "etcd", "etcdctl".
        program: &'static str,
    },
    /// It cannot be run, or does not know its version.
    #[error("cannot tell the version of `{}`: {why}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What it said instead, or the kernel.
        why: String,
    },
    /// Too old, or not known yet.
    #[error("`{}` is etcd {found}; {OLDEST} or later of version 3 is needed", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
}

impl Error {
    /// What can be done about it.
    pub fn hint(&self) -> String {
        let package = match self {
            Error::Missing { program: "etcdctl" } => "etcd-client",
            _ => "etcd-server",
        };
        let elsewhere = "or put etcd's release archive into /usr/local/bin";
        match self {
            Error::Missing { .. } => {
                format!("install it: `apt-get install --no-install-recommends {package}`, {elsewhere}")
            }
            Error::Version { path, .. } => format!(
                "run `{} --version` by hand; install it anew: `apt-get install --reinstall {package}`",
                path.display()
            ),
            Error::Unsupported { .. } => {
                format!("install another: `apt-get install --no-install-recommends {package}`, {elsewhere}")
            }
        }
    }
}

impl Etcd {
    /// Finds the server: the file given, or else `etcd` in `PATH` and the usual folders.
    pub fn find(given: Option<&Path>) -> Result<Self, Error> {
        let path = match given {
            Some(path) => path.to_path_buf(),
            None => find("etcd").ok_or(Error::Missing { program: "etcd" })?,
        };
        let said = ask(&path, "--version")?;
        let version = said
            .lines()
            .find_map(|line| Version::parse(line.trim().strip_prefix("etcd Version:")?))
            .ok_or_else(|| Error::Version {
                path: path.clone(),
                why: said.lines().next().unwrap_or("it says nothing").to_owned(),
            })?;
        if version < OLDEST || version >= BEYOND {
            return Err(Error::Unsupported { path, found: version });
        }
        Ok(Self { path, version })
    }
}

impl Tool {
    /// Finds the best one: `etcdutl`, else an `etcdctl` that still restores.
    pub fn find() -> Result<Self, Error> {
        if let Some(path) = find("etcdutl") {
            let help = help_of(&path)?;
            return Ok(Tool::Etcdutl {
                bumps_revision: help.contains("--bump-revision"),
                path,
            });
        }
        let path = find("etcdctl").ok_or(Error::Missing { program: "etcdctl" })?;
        if help_of(&path)?.contains("--data-dir") {
            return Ok(Tool::Etcdctl { path });
        }
        // In 3.6 it moved to `etcdutl`, which is not there.
        Err(Error::Missing { program: "etcdutl" })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Tool::Etcdutl { path, .. } | Tool::Etcdctl { path } => path,
        }
    }
}

fn help_of(path: &Path) -> Result<String, Error> {
    run(path, &["snapshot", "restore", "--help"])
}

fn ask(path: &Path, argument: &str) -> Result<String, Error> {
    run(path, &[argument])
}

fn run(path: &Path, arguments: &[&str]) -> Result<String, Error> {
    let output = Command::new(path)
        .args(arguments)
        .env("ETCDCTL_API", "3")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Error::Version {
            path: path.into(),
            why: error.to_string(),
        })?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(ALSO.map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| {
            file.metadata()
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn versions_are_read_and_the_doubtful_ones_said_to_be() {
        assert_eq!(Version::parse(" 3.4.23"), Some(Version(3, 4, 23)));
        assert_eq!(Version::parse("v3.6.0-rc.1"), Some(Version(3, 6, 0)));
        assert_eq!(Version::parse("3.5"), Some(Version(3, 5, 0)));
        for text in ["", "3", "3.x.1", "3.4.5.6", "not set"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
        let doubtful = |text| Version::parse(text).unwrap().doubt().is_some();
        assert_eq!(
            ["3.4.23", "3.5.27", "3.5.28", "3.6.0", "3.6.8", "3.6.9", "3.7.0"].map(doubtful),
            [true, true, false, true, true, false, false]
        );
    }

    #[test]
    fn a_program_that_is_too_old_or_no_etcd_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let fake = |says: &str| {
            let path = dir.path().join(format!("etcd-{}", says.len()));
            fs::write(&path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            Etcd::find(Some(&path))
        };
        assert_eq!(fake("etcd Version: 3.5.16").unwrap().version, Version(3, 5, 16));
        let old = fake("etcd Version: 3.3.1").unwrap_err();
        assert!(
            matches!(
                old,
                Error::Unsupported {
                    found: Version(3, 3, 1),
                    ..
                }
            ),
            "{old}"
        );
        assert!(matches!(fake("hello"), Err(Error::Version { why, .. }) if why == "hello"));
        let missing = Etcd::find(Some(Path::new("/nonexistent/etcd"))).unwrap_err();
        assert!(missing.to_string().contains("No such file"), "{missing}");
        assert!(
            Error::Missing { program: "etcd" }
                .hint()
                .contains("apt-get install --no-install-recommends etcd-server")
        );
        assert!(Error::Missing { program: "etcdctl" }.hint().contains("etcd-client"));
    }
}
