//! A folder with a fake agent, and guards that keep it. What runs in the end is killed.

use std::fs::{self, File, OpenOptions};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Far longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) struct Bench {
    folder: tempfile::TempDir,
}

/// A guard that ends with its test.
pub(crate) struct Guard {
    child: Option<Child>,
    pid: u32,
}

pub(crate) struct Stat {
    state: char,
    parent: u32,
    pub(crate) session: u32,
}

impl Bench {
    pub(crate) fn new(script: &str) -> Self {
        let bench = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        bench.replace(script);
        bench
    }

    /// Puts another agent in the place of the one that is there, as an upgrade does.
    pub(crate) fn replace(&self, script: &str) {
        let new = self.path("new");
        fs::write(
            &new,
            format!("#!/bin/sh\ncd {}\n{script}\n", self.folder.path().display()),
        )
        .unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, self.path("agent")).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn guard(&self, options: &[&str]) -> Guard {
        let log = self.log_file();
        let child = Command::new(example("guard"))
            .arg(self.folder.path())
            .args(options)
            .arg("--")
            .arg(self.path("agent"))
            .stderr(log)
            .spawn()
            .unwrap();
        Guard {
            pid: child.id(),
            child: Some(child),
        }
    }

    pub(crate) fn detached_guard(&self) -> Guard {
        let arguments = [
            example("guard"),
            self.folder.path().into(),
            "--".into(),
            self.path("agent"),
        ];
        let pid = guard::spawn_detached(&arguments.map(PathBuf::into_os_string), &self.log_file()).unwrap();
        Guard { child: None, pid }
    }

    /// A process that holds the agent's lock as the agent does, and is none of the guard's children.
    pub(crate) fn running_agent(&self) -> (Child, File) {
        let agent = Command::new("sleep").arg("600").spawn().unwrap();
        let mut lock = guard::lock(&self.path("agent.lock")).unwrap();
        guard::write_lock(&mut lock, &agent.id().to_string()).unwrap();
        (agent, lock)
    }

    fn log_file(&self) -> File {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("guard.log"))
            .unwrap()
    }

    pub(crate) fn guard_log(&self) -> String {
        fs::read_to_string(self.path("guard.log")).unwrap_or_default()
    }

    /// Process ids of the agents started so far, `count` or more.
    pub(crate) fn starts(&self, count: usize) -> Vec<u32> {
        self.numbers("starts", count)
    }

    /// Waits until a file has `count` lines with a number each.
    pub(crate) fn numbers(&self, name: &str, count: usize) -> Vec<u32> {
        let read = || -> Vec<u32> {
            let text = fs::read_to_string(self.path(name)).unwrap_or_default();
            // The last line may be half written.
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            whole.lines().map(|line| line.trim().parse().unwrap()).collect()
        };
        until(&format!("`{name}` has {count} lines"), || read().len() >= count);
        read()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for name in ["starts", "upgraded", "services"] {
            let text = fs::read_to_string(self.path(name)).unwrap_or_default();
            for pid in text.lines().filter_map(|line| line.trim().parse().ok()) {
                // Only what still is ours: the number may be somebody else's by now.
                if command_of(pid).is_some_and(|command| command.starts_with("sleep\x00600")) {
                    kill("KILL", pid);
                }
            }
        }
    }
}

impl Guard {
    pub(crate) fn id(&self) -> u32 {
        self.pid
    }

    pub(crate) fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        match &mut self.child {
            Some(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            // Nobody has waited for it, so the number is still its own.
            None => kill("KILL", self.pid),
        }
    }
}

impl Deref for Guard {
    type Target = Child;
    fn deref(&self) -> &Child {
        self.child.as_ref().unwrap()
    }
}

impl DerefMut for Guard {
    fn deref_mut(&mut self) -> &mut Child {
        self.child.as_mut().unwrap()
    }
}

pub(crate) fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn kill(signal: &str, pid: u32) {
    let _ = Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .status();
}

pub(crate) fn alive(pid: u32) -> bool {
    stat_of(pid).is_some_and(|stat| stat.state != 'Z')
}

pub(crate) fn parent_of(pid: u32) -> Option<u32> {
    stat_of(pid).map(|stat| stat.parent)
}

/// What the kernel says of a process, a dead one that nobody reaped included.
pub(crate) fn stat_of(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let _group = fields.next()?;
    Some(Stat {
        state,
        parent,
        session: fields.next()?.parse().ok()?,
    })
}

fn command_of(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()
}

/// An example beside this test's own program.
pub(crate) fn example(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own
        .ancestors()
        .nth(2)
        .map(Path::to_path_buf)
        .unwrap()
        .join("examples")
        .join(name);
    assert!(
        path.exists(),
        "`{}` is missing: cargo build --examples makes it",
        path.display()
    );
    path
}

/// Whether this machine lets us; root in a container may not.
pub(crate) fn may_spare_from_oom() -> bool {
    let mut child = Command::new("sleep").arg("600").spawn().unwrap();
    let allowed = fs::write(format!("/proc/{}/oom_score_adj", child.id()), "-900").is_ok();
    child.kill().unwrap();
    child.wait().unwrap();
    allowed
}
