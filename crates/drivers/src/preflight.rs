//! Finds what would keep a service from running, before anything is started and without starting it.
//!
//! [`check`] looks at everything and is for `plan`, `apply` and `up`; [`cold_ready`] is the part that tells whether a cold
//! standby could take over now, cheap enough to be asked again and again. What is looked at can change a moment later, so
//! passing is no promise: the start itself reports the same problems.

mod file;
mod listen;
mod rights;

use crate::account::Account;
use crate::{environment, program};
use file::Who;
use model::{CheckKind, HookKind, Service};
use rustix::process::{Resource, getrlimit};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

/// Below this much free space a program that writes at all is not worth starting.
const FREE_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// Part of the capabilities of a process: may set limits above the hard ones.
const CAP_SYS_RESOURCE: u32 = 24;

/// Something that would keep a service from running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The key of the service it is about: "command", "limits.open_files".
    pub key: &'static str,
    /// What is wrong, as a sentence without a full stop.
    pub problem: String,
    /// What to do about it.
    pub help: String,
}

/// What a service is checked against.
#[derive(Clone, Copy)]
pub struct PreflightEnv<'a> {
    /// The folder of the operator's file, from which relative paths are taken.
    pub base: Option<&'a Path>,
    /// The data folder of an instance, or the folder that those are made in. It need not exist yet.
    pub data: &'a Path,
    /// Addresses that we listen on already, and whose being in use is no finding.
    pub skip_listen: &'a BTreeSet<SocketAddr>,
    /// Fills in the placeholders of a word, or says which cannot be.
    pub expand: &'a dyn Fn(&str) -> Result<String, String>,
}

impl std::fmt::Debug for PreflightEnv<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let PreflightEnv {
            base,
            data,
            skip_listen,
            expand: _,
        } = self;
        f.debug_struct("PreflightEnv")
            .field("base", base)
            .field("data", data)
            .field("skip_listen", skip_listen)
            .finish_non_exhaustive()
    }
}

/// Everything that would keep `service` from running here, in the order of its keys in the file.
pub fn check(service: &Service, env: PreflightEnv<'_>) -> Vec<Finding> {
    let (who, mut findings) = match user(service) {
        Ok(who) => (who, Vec::new()),
        // The rest is looked at as if no user were asked for.
        Err(finding) => (Who::Us, vec![finding]),
    };
    findings.extend(command("command", &service.command, &who, service, env).err());
    for (kind, hook) in hooks(service) {
        findings.extend(command(kind, hook, &who, service, env).err());
    }
    for (key, check) in [("check", &service.check), ("standby_check", &service.standby_check)] {
        if let Some(CheckKind::Exec { command: argv }) = check.as_ref().map(|check| &check.kind) {
            findings.extend(command(key, argv, &who, service, env).err());
        }
    }
    findings.extend(dir(service, &who, env).err());
    findings.extend(data(env.data).and_then(|()| room(env.data)).err());
    if let Some(address) = service.listen.filter(|address| !env.skip_listen.contains(address)) {
        findings.extend(listen::check(address, service.listens_on_floating()).err());
    }
    if service.address.is_some() {
        findings.extend(rights::check().err());
    }
    findings.extend(limits(service));
    findings
}

/// Whether a cold standby of `service` could be started and promoted now. A full disk keeps nobody from trying: who does not write may be well
/// without room, and nobody at all serves better.
pub fn cold_ready(service: &Service, env: PreflightEnv<'_>) -> Result<(), Finding> {
    let who = user(service)?;
    command("command", &service.command, &who, service, env)?;
    if let Some(hook) = &service.on_promote {
        command("on_promote", &hook.command, &who, service, env)?;
    }
    dir(service, &who, env)?;
    data(env.data)
}

fn hooks(service: &Service) -> impl Iterator<Item = (&'static str, &[String])> {
    let hooks = [
        (HookKind::Promote, &service.on_promote),
        (HookKind::Demote, &service.on_demote),
        (HookKind::Follow, &service.on_follow),
    ];
    hooks.into_iter().filter_map(|(kind, hook)| {
        let key = match kind {
            HookKind::Promote => "on_promote",
            HookKind::Demote => "on_demote",
            HookKind::Follow => "on_follow",
        };
        Some((key, hook.as_ref()?.command.as_slice()))
    })
}

fn user(service: &Service) -> Result<Who, Finding> {
    let Some(user) = &service.user else { return Ok(Who::Us) };
    let finding = |problem: String, help: &str| Finding {
        key: "user",
        problem,
        help: help.into(),
    };
    let account = Account::find(user).map_err(|unknown| {
        finding(
            unknown.to_string(),
            "create the user, for instance with `useradd --system`, or name another",
        )
    })?;
    if account.is_us() {
        return Ok(Who::Us);
    }
    if !rustix::process::geteuid().is_root() {
        let problem = format!("only root may run programs as user `{user}`");
        return Err(finding(problem, "leave `user` out, or run understudy as root"));
    }
    Ok(Who::Other(account))
}

fn command(
    key: &'static str,
    argv: &[String],
    who: &Who,
    service: &Service,
    env: PreflightEnv<'_>,
) -> Result<(), Finding> {
    let unknown = |problem| Finding {
        key,
        problem,
        help: "correct the placeholder".into(),
    };
    let expand = |word: &str| (env.expand)(word).map_err(unknown);
    let program = expand(argv.first().map_or("", String::as_str))?;
    let path = service.env.get("PATH").map(|path| expand(path)).transpose()?;
    let path = path.as_deref().unwrap_or_else(|| environment::search_path());
    let file = program::locate(&program, env.base, path).map_err(|error| not_found(key, &error))?;
    file::executable(key, &file, path, who)
}

fn not_found(key: &'static str, error: &program::Error) -> Finding {
    let help = match error {
        program::Error::Empty => "write the program first, then its arguments".into(),
        program::Error::NotInPath { program, .. } => {
            format!("install `{program}`, write its full path, or set PATH in `env`")
        }
        program::Error::Relative { .. } => "write the full path".into(),
        program::Error::Missing { path } => match path.parent().filter(|folder| !folder.exists()) {
            Some(folder) => format!(
                "its folder `{}` does not exist either: check the path",
                folder.display()
            ),
            None => "check the path, or build or install the program".into(),
        },
        program::Error::NotAFile { .. } => "name the program itself".into(),
        program::Error::NotExecutable { path } => file::why_not_executable(path),
        program::Error::Unreadable { .. } => "make its folders accessible to understudy".into(),
    };
    Finding {
        key,
        problem: error.to_string(),
        help,
    }
}

fn dir(service: &Service, who: &Who, env: PreflightEnv<'_>) -> Result<(), Finding> {
    let finding = |problem: String, help: String| Finding {
        key: "dir",
        problem,
        help,
    };
    let Some(dir) = &service.dir else { return Ok(()) };
    let dir = (env.expand)(dir).map_err(|problem| finding(problem, "correct the placeholder".into()))?;
    let path = Path::new(&dir);
    if path.starts_with(env.data) {
        // Made together with the instance.
        return Ok(());
    }
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(finding(
            format!("`{dir}` does not exist"),
            format!("create it: mkdir -p {dir}"),
        )),
        Err(error) => Err(finding(
            format!("cannot look at `{dir}`: {error}"),
            "check the path".into(),
        )),
        Ok(kind) if !kind.is_dir() => Err(finding(format!("`{dir}` is not a folder"), "name a folder".into())),
        Ok(_) => match who.shut_out_of(path) {
            None => Ok(()),
            Some(at) => Err(finding(
                format!("{who} may not enter `{}`", at.display()),
                format!("allow it: chmod a+x {}", at.display()),
            )),
        },
    }
}

/// What does not exist yet is made in the nearest folder above that does.
fn nearest(data: &Path) -> Option<&Path> {
    data.ancestors().find(|folder| folder.symlink_metadata().is_ok())
}

fn about_data(problem: String, help: &str) -> Finding {
    Finding {
        key: "data",
        problem,
        help: help.into(),
    }
}

fn data(data: &Path) -> Result<(), Finding> {
    use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags, accessat, statvfs};
    let finding = about_data;
    let Some(nearest) = nearest(data) else {
        let problem = format!("the data folder `{}` lies nowhere", data.display());
        return Err(finding(problem, "name it by a full path"));
    };
    let shown = nearest.display();
    if !nearest.is_dir() {
        let problem = format!(
            "the data folder `{}` cannot be made: `{shown}` is not a folder",
            data.display()
        );
        return Err(finding(problem, "move the file away, or keep the data elsewhere"));
    }
    let disk = statvfs(nearest).map_err(|error| {
        finding(
            format!("cannot look at the disk of `{shown}`: {error}"),
            "check the mount",
        )
    })?;
    if disk.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let problem = format!("the data folder `{shown}` lies on a file system that is mounted read-only");
        return Err(finding(problem, "mount it writable, or keep the data elsewhere"));
    }
    if accessat(CWD, nearest, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_err() {
        let problem = format!("understudy may not write into the data folder `{shown}`");
        return Err(finding(
            problem,
            "give the folder to the user that runs understudy, or keep the data elsewhere",
        ));
    }
    Ok(())
}

/// Whether the disk of a data folder has room to begin with.
fn room(data: &Path) -> Result<(), Finding> {
    let Some(nearest) = nearest(data) else { return Ok(()) };
    let shown = nearest.display();
    // That it can be looked at was seen.
    let Ok(disk) = rustix::fs::statvfs(nearest) else {
        return Ok(());
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < FREE_BYTES_MIN {
        let problem = format!(
            "the disk of the data folder `{shown}` has {} KiB free, at least {} KiB are needed",
            free / 1024,
            FREE_BYTES_MIN / 1024
        );
        return Err(about_data(problem, "free some space, or keep the data elsewhere"));
    }
    // File systems without a fixed number of files say they have none at all.
    if disk.f_files > 0 && disk.f_favail == 0 {
        let problem = format!("the disk of the data folder `{shown}` has no room for another file");
        return Err(about_data(
            problem,
            "delete files (`df -i` counts them), or keep the data elsewhere",
        ));
    }
    Ok(())
}

fn limits(service: &Service) -> Vec<Finding> {
    let limits = &service.limits;
    let asked = [
        ("limits.open_files", limits.open_files, Resource::Nofile),
        ("limits.processes", limits.processes, Resource::Nproc),
        ("limits.memory_bytes", limits.memory_bytes, Resource::As),
        ("limits.core_bytes", limits.core_bytes, Resource::Core),
    ];
    let may_raise = may_raise_limits();
    let too_high = |(key, asked, resource): (&'static str, Option<u64>, Resource)| {
        let asked = asked?;
        let (most, whose) = match resource {
            // Nobody gets past this one.
            Resource::Nofile if may_raise => (open_files_max(), "the kernel's (fs.nr_open)"),
            _ if may_raise => return None,
            _ => (getrlimit(resource).maximum, "the hard limit of understudy itself"),
        };
        let most = most.filter(|most| asked > *most)?;
        Some(Finding {
            key,
            problem: format!("{asked} is more than {whose}, {most}"),
            help: format!("ask for at most {most}, or raise that limit"),
        })
    };
    asked.into_iter().filter_map(too_high).collect()
}

fn may_raise_limits() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    effective.is_some_and(|bits| bits >> CAP_SYS_RESOURCE & 1 == 1)
}

fn open_files_max() -> Option<u64> {
    std::fs::read_to_string("/proc/sys/fs/nr_open")
        .ok()?
        .trim()
        .parse()
        .ok()
}
