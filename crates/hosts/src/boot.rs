//! The way of a host from a process of the rig to a process 1 with a world of its own.
//!
//! ```text
//! rig ── spawns ──► outer: enters the network namespace, asks for new pid and time namespaces
//!                     └── spawns ──► init: joins its cgroup, asks for new mount, ipc, uts and cgroup namespaces,
//!                                    puts its file systems in place, changes its root, serves
//! ```
//! The host's root is an overlay: it sees the machine's files, and what it writes lies in its own disk and is still there
//! after a power loss. `/run`, `/dev/shm`, `/proc` and `/sys` are new at each boot.

use crate::{cgroup, entry, init};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change, unmount,
};
use rustix::process::{chdir, pivot_root};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// All that the init must know, written by the rig.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) host: String,
    pub(crate) netns: PathBuf,
    pub(crate) cgroup: PathBuf,
    /// Holds `upper` and `work` of the overlay.
    pub(crate) disk: PathBuf,
    /// Where the overlay is mounted, in the host's mount namespace only.
    pub(crate) root: PathBuf,
    pub(crate) socket: PathBuf,
    /// A folder that all hosts and the rig see under this very path.
    pub(crate) shared: PathBuf,
    pub(crate) boot_id: String,
    /// Added to CLOCK_MONOTONIC and CLOCK_BOOTTIME, seconds.
    pub(crate) clock_offset_s: Option<i64>,
    pub(crate) output: PathBuf,
}

/// Makes the namespaces that only children enter, starts the init, and ends as it ends.
pub(crate) fn outer(plan: &Path) -> io::Result<i32> {
    let file = plan;
    let plan = read(plan)?;
    let netns = File::open(&plan.netns).map_err(said("open", &plan.netns))?;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
    let mut new = UnshareFlags::NEWPID;
    if plan.clock_offset_s.is_some() {
        new |= UnshareFlags::NEWTIME;
    }
    unshare(new)?;
    if let Some(offset) = plan.clock_offset_s {
        fs::write(
            "/proc/self/timens_offsets",
            format!("monotonic {offset} 0\nboottime {offset} 0\n"),
        )?;
    }
    let output = File::options().create(true).append(true).open(&plan.output)?;
    let mut child = Command::new("/proc/self/exe")
        .env_clear()
        .envs([
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/root"),
            ("LANG", "C.UTF-8"),
            (entry::STAGE, entry::INIT),
        ])
        .env(entry::PLAN, file)
        .stderr(output)
        .spawn()?;
    let mut stdout = io::stdout();
    writeln!(stdout, "pid {}", child.id())?;
    stdout.flush()?;
    Ok(child.wait()?.code().unwrap_or(1))
}

/// Becomes the host.
pub(crate) fn init(plan: &Path) -> io::Result<i32> {
    let plan = read(plan)?;
    let procs = plan.cgroup.join("cgroup.procs");
    fs::write(&procs, "0").map_err(said("write", &procs))?;
    unshare(UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWCGROUP)?;
    rustix::system::sethostname(plan.host.as_bytes())?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // Before the change of root: the rig looks for it in its own files.
    let listener = UnixListener::bind(&plan.socket).map_err(said("listen on", &plan.socket))?;
    let cgroup2 = cgroup::mount_point().ok_or_else(|| io::Error::other("no cgroup2 file system is mounted"))?;
    overlay(&plan)?;
    own_file_systems(&plan, &cgroup2)?;
    change_root(&plan.root)?;
    own_boot_id(&plan.boot_id)?;
    let mut stdout = io::stdout();
    writeln!(stdout, "ready")?;
    stdout.flush()?;
    // The pipe to the rig; whoever inherited it would keep the rig waiting.
    let null = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    init::serve(&listener)?;
    Ok(0)
}

fn read(plan: &Path) -> io::Result<Plan> {
    let text = fs::read(plan).map_err(said("read", plan))?;
    Ok(serde_json::from_slice(&text)?)
}

#[expect(
    unsafe_code,
    reason = "the call is unsafe for the sake of file descriptors, see below"
)]
fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: what can go wrong is that threads disagree about descriptors; FILES is never among the flags, and this
    // process has one thread.
    Ok(unsafe { unshare_unsafe(flags) }?)
}

fn overlay(plan: &Plan) -> io::Result<()> {
    let layer = |name: &str| plan.disk.join(name);
    let data = format!(
        "lowerdir=/,upperdir={},workdir={}",
        layer("upper").display(),
        layer("work").display()
    );
    let data = CString::new(data)?;
    mount("overlay", &plan.root, "overlay", MountFlags::empty(), data.as_c_str())
        .map_err(io::Error::from)
        .map_err(said("mount an overlay on", &plan.root))
}

fn own_file_systems(plan: &Plan, cgroup2: &Path) -> io::Result<()> {
    let inside = |path: &str| plan.root.join(path);
    let new = |kind: &str, at: &Path, data: Option<&std::ffi::CStr>| {
        let mounted = mount(kind, at, kind, MountFlags::empty(), data);
        mounted.map_err(io::Error::from).map_err(said("mount on", at))
    };
    new("proc", &inside("proc"), None)?;
    new("sysfs", &inside("sys"), None)?;
    let within = |path: &Path| plan.root.join(path.strip_prefix("/").unwrap_or(path));
    let cgroup_root = Path::new("/sys/fs/cgroup");
    if cgroup2 != cgroup_root && cgroup2.starts_with(cgroup_root) {
        new("tmpfs", &within(cgroup_root), Some(c"mode=755"))?;
    }
    fs::create_dir_all(within(cgroup2))?;
    new("cgroup2", &within(cgroup2), None)?;
    mount_bind_recursive("/dev", inside("dev"))?;
    new("tmpfs", &inside("dev/shm"), Some(c"mode=1777"))?;
    new("tmpfs", &inside("run"), Some(c"mode=755"))?;
    fs::create_dir_all(inside("run/lock"))?;
    let shared = within(&plan.shared);
    fs::create_dir_all(&shared)?;
    mount_bind(&plan.shared, &shared)
        .map_err(io::Error::from)
        .map_err(said("mount", &plan.shared))
}

fn change_root(root: &Path) -> io::Result<()> {
    chdir(root)?;
    // The old root comes to lie on the new one, and is taken away.
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(chdir("/")?)
}

/// Every boot of a machine has an id, and the kernel has one machine only.
fn own_boot_id(id: &str) -> io::Result<()> {
    let own = "/run/boot_id";
    fs::write(own, format!("{id}\n"))?;
    Ok(mount_bind(own, "/proc/sys/kernel/random/boot_id")?)
}

fn said<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> io::Error + 'a {
    move |error| io::Error::new(error.kind(), format!("failed to {what} {}: {error}", path.display()))
}
