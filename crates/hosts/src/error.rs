//! What can go wrong with a rig, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why something could not be done to a rig or one of its hosts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces, bridges and mounts are root's.
    #[error("hosts can only be made by root\nhint: run it with `sudo`, or in a virtual machine of your own")]
    NotRoot,

    /// A program that is needed is not there.
    #[error("failed to run `{program}`\nhint: `apt-get install --no-install-recommends {package}`")]
    Program {
        /// Which.
        program: &'static str,
        /// Debian's package of it.
        package: &'static str,
        /// What the system said.
        source: io::Error,
    },

    /// A program said no.
    #[error("failed to {what}: {said}")]
    Refused {
        /// What it was to do.
        what: String,
        /// In its words.
        said: String,
    },

    /// A call to the system failed.
    #[error("failed to {what} `{}`", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// The machine has no cgroup v2 tree.
    #[error("no cgroup2 file system is mounted\nhint: `mount -t cgroup2 none /sys/fs/cgroup/unified`")]
    NoCgroup2,

    /// All numbers of rigs are taken.
    #[error(
        "{taken} rigs exist already, more do not fit\nhint: `cargo xtask hosts --sweep` removes those whose owner is gone"
    )]
    Full {
        /// How many.
        taken: u32,
    },

    /// A name that does not do for a host.
    #[error(
        "`{name}` cannot be the name of a host: 1 to 12 of a-z, 0-9 and `-`, a letter first, each once, not `client` and not `switch`"
    )]
    Name {
        /// As given.
        name: String,
    },

    /// More hosts than a subnet of this kind has places for, or none.
    #[error("{hosts} hosts cannot be made; 1 to {max} can")]
    Count {
        /// As given.
        hosts: usize,
        /// The bound.
        max: usize,
    },

    /// No such host in this rig.
    #[error("the rig has no host `{name}`")]
    Unknown {
        /// As given.
        name: String,
    },

    /// The host has no power.
    #[error("host `{host}` is switched off\nhint: `boot` it, or heal its power loss")]
    Off {
        /// Which.
        host: String,
    },

    /// It runs already.
    #[error("host `{host}` runs already")]
    On {
        /// Which.
        host: String,
    },

    /// The host's init did not come up.
    #[error("host `{host}` did not boot: {said}")]
    Boot {
        /// Which.
        host: String,
        /// The last words of its init.
        said: String,
    },

    /// The init did not answer; it does not while the host is frozen.
    #[error("the init of host `{host}` did not answer within {} s\nhint: is the host frozen, or its disk?", waited.as_secs())]
    Silent {
        /// Which.
        host: String,
        /// How long.
        waited: Duration,
    },

    /// The init could not do as asked.
    #[error("host `{host}`: {said}")]
    Init {
        /// Which.
        host: String,
        /// In its words.
        said: String,
    },

    /// A program in a host ended with a status that is not 0.
    #[error("`{command}` on host `{host}` ended with {status}: {said}")]
    Failed {
        /// Which host.
        host: String,
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// Its stderr, or its stdout.
        said: String,
    },

    /// This fault needs a disk of the host's own.
    #[error("host `{host}` has no disk of its own to fill or stall\nhint: `Spec::disk_bytes`")]
    NoDisk {
        /// Which.
        host: String,
    },

    /// What gives hosts a wall clock of their own is not installed.
    #[error("there is no `{}`\nhint: `apt-get install --no-install-recommends faketime`", library.display())]
    NoFaketime {
        /// Where it was looked for.
        library: PathBuf,
    },

    /// This fault needs a wall clock of the host's own.
    #[error("host `{host}` has no wall clock of its own to step\nhint: `Spec::own_wall_clocks`")]
    NoClock {
        /// Which.
        host: String,
    },

    /// A fault that is no fault.
    #[error("not a fault: {why}")]
    Fault {
        /// What is wrong with it.
        why: String,
    },
}

/// Makes an [`Error::Io`] of what the system said.
pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { what, path, source }
}
