//! One host of a rig: boot it, run things on it, take its power away.

use crate::boot::Plan;
use crate::cgroup;
use crate::disk::Disk;
use crate::entry;
use crate::error::{Error, io};
use crate::net::{self, Namespace};
use crate::wall::WallClock;
use crate::wire::{self, Answer, Command, Ended, Output, Request};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

/// A host of a [`Rig`](crate::Rig).
#[derive(Debug)]
pub struct Host {
    name: String,
    address: Ipv4Addr,
    /// Its files on the machine: plan, socket, output of its init, mount point of its root.
    folder: PathBuf,
    pub(crate) disk: Disk,
    shared: PathBuf,
    pub(crate) cgroup: PathBuf,
    netns: Namespace,
    switch: Namespace,
    clock_offset_s: Option<i64>,
    pub(crate) wall_clock: Option<WallClock>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    outer: Child,
    init: u32,
    boot_id: String,
    /// Closed when the rig ends, however it does; the init ends with it.
    _lifeline: Option<ChildStdin>,
}

/// How a host is to be made.
#[derive(Debug)]
pub(crate) struct Making<'a> {
    pub(crate) name: &'a str,
    pub(crate) address: Ipv4Addr,
    pub(crate) folder: PathBuf,
    pub(crate) disk_bytes: Option<u64>,
    pub(crate) shared: &'a Path,
    pub(crate) cgroup: PathBuf,
    pub(crate) netns: Namespace,
    pub(crate) switch: &'a Namespace,
    pub(crate) clock_offset_s: Option<i64>,
    pub(crate) wall_clock: Option<WallClock>,
    /// The text of `/etc/hosts`.
    pub(crate) hosts: &'a str,
}

/// A busy machine takes seconds for what an idle one does in milliseconds.
const BOOT_WITHIN: Duration = Duration::from_secs(20);
/// What the init itself needs, beyond what it waits for.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// For programs that end by themselves, as all that a test waits for do.
const RUN_WITHIN: Duration = Duration::from_secs(60);

impl Host {
    pub(crate) fn make(making: Making<'_>) -> Result<Self, Error> {
        let root = making.folder.join("root");
        fs::create_dir_all(&root).map_err(io("make", &root))?;
        cgroup::make(&making.cgroup)?;
        let disk = Disk::make(making.folder.join("disk"), making.disk_bytes)?;
        let etc = disk.upper().join("etc");
        let texts = [
            ("hostname", format!("{}\n", making.name)),
            ("hosts", making.hosts.to_owned()),
            ("machine-id", format!("{:032x}\n", fastrand::u128(..))),
        ];
        for (file, text) in texts {
            let file = etc.join(file);
            fs::write(&file, text).map_err(io("write", &file))?;
        }
        Ok(Self {
            name: making.name.to_owned(),
            address: making.address,
            folder: making.folder,
            disk,
            shared: making.shared.to_owned(),
            cgroup: making.cgroup,
            netns: making.netns,
            switch: making.switch.clone(),
            clock_offset_s: making.clock_offset_s,
            wall_clock: making.wall_clock,
            running: Mutex::new(None),
        })
    }

    /// Its name, which is its host name too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address in the rig's network.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its network namespace; a new one after each boot.
    pub fn namespace(&self) -> &Namespace {
        &self.netns
    }

    /// What it wrote, from its root on, as the machine sees it: `/var/log/db.log` of the host is `var/log/db.log` in here.
    /// Only for reading while it runs.
    pub fn files(&self) -> PathBuf {
        self.disk.upper()
    }

    /// Its cgroup, which the host sees as the root of all cgroups.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Whether it runs.
    pub fn is_on(&self) -> bool {
        self.lock().is_some()
    }

    /// Its process 1, as the machine numbers it.
    pub fn init_pid(&self) -> Option<u32> {
        self.lock().as_ref().map(|running| running.init)
    }

    /// What `/proc/sys/kernel/random/boot_id` says on it.
    pub fn boot_id(&self) -> Option<String> {
        self.lock().as_ref().map(|running| running.boot_id.clone())
    }

    /// The environment of a program that is to go by the host's own wall clock; empty if it has none. What the program starts inherits it.
    pub fn wall_clock_env(&self) -> BTreeMap<String, String> {
        self.wall_clock
            .as_ref()
            .map(|clock| clock.env().clone())
            .unwrap_or_default()
    }

    /// The command that enters it.
    pub fn enter_with(&self) -> Option<String> {
        let pid = self.init_pid()?;
        // The folder is the host's, so it is changed to in there. Who stays in a cgroup of the machine could make none on the host: a guard that
        // is started by hand could not fence.
        let spaces = "--mount --uts --ipc --net --pid --cgroup";
        let procs = self.cgroup.join("cgroup.procs");
        let enter = format!("exec nsenter --target {pid} {spaces} sh -c \"cd; exec bash\"");
        Some(format!("sh -c 'echo $$ > {} && {enter}'", procs.display()))
    }

    /// Switches it on: a new boot id, an empty `/run`, no address but its own; its disk as it was.
    pub fn boot(&self) -> Result<(), Error> {
        let mut running = self.lock();
        if running.is_some() {
            return Err(Error::On {
                host: self.name.clone(),
            });
        }
        if !self.netns.exists() {
            net::connect(&self.switch, &self.netns, &self.name, self.address)?;
        }
        let socket = self.folder.join("init.sock");
        fs::remove_file(&socket).ok();
        let plan = Plan {
            host: self.name.clone(),
            netns: self.netns.path(),
            cgroup: self.cgroup.clone(),
            disk: self.disk.folder.clone(),
            root: self.folder.join("root"),
            socket,
            shared: self.shared.clone(),
            boot_id: random_id(),
            clock_offset_s: self.clock_offset_s,
            output: self.folder.join("init.log"),
        };
        let path = self.folder.join("plan.json");
        let text = serde_json::to_vec_pretty(&plan).map_err(|error| io("write", &path)(error.into()))?;
        fs::write(&path, text).map_err(io("write", &path))?;
        fs::remove_file(&plan.output).ok();
        *running = Some(self.start(&plan, &path)?);
        Ok(())
    }

    /// Takes its power away: first nothing goes through its cable, then nothing runs.
    pub fn power_off(&self) -> Result<(), Error> {
        let mut running = self.lock();
        let Some(mut off) = running.take() else {
            return Err(Error::Off {
                host: self.name.clone(),
            });
        };
        self.switch.ip(&format!("link set dev {} down\n", self.name))?;
        kill(off.init);
        // Who waits for a stalled disk cannot die; none of its code runs any more.
        if self.disk.is_own() {
            self.disk.go_on().ok();
        }
        off.outer.wait().map_err(io("wait for the end of", &self.folder))?;
        net::disconnect(&self.switch, &self.netns, &self.name)?;
        cgroup::kill(&self.cgroup)?;
        // What a service manager made below it does not survive a power loss.
        cgroup::remove(&self.cgroup)?;
        cgroup::make(&self.cgroup)
    }

    /// Runs a program to its end, for at most a minute, and returns what it printed.
    pub fn run(&self, command: Command) -> Result<Output, Error> {
        self.run_within(command, RUN_WITHIN)
    }

    /// The same within another time; then it is killed, with all in its process group.
    pub fn run_within(&self, command: Command, timeout: Duration) -> Result<Output, Error> {
        let timeout_ms = milliseconds(timeout);
        match self.ask(&Request::Run { command, timeout_ms }, timeout)? {
            Answer::Ran(output) => Ok(output),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Runs a program that must succeed, and returns its stdout.
    pub fn check(&self, command: Command) -> Result<String, Error> {
        let line = command.to_string();
        let output = self.run(command)?;
        if output.ended.is_success() {
            return Ok(output.stdout);
        }
        let said = if output.stderr.trim().is_empty() {
            output.stdout
        } else {
            output.stderr
        };
        Err(Error::Failed {
            host: self.name.clone(),
            command: line,
            status: output.ended.to_string(),
            said: said.trim().to_owned(),
        })
    }

    /// A line for the shell that must succeed.
    pub fn shell(&self, line: &str) -> Result<String, Error> {
        self.check(Command::shell(line))
    }

    /// Starts a daemon, with its output appended to `/var/log/LOG.log`, and returns its process id on the host.
    pub fn start_daemon(&self, command: Command, log: &str) -> Result<u32, Error> {
        let log = format!("/var/log/{log}.log");
        match self.ask(&Request::Start { command, log }, Duration::ZERO)? {
            Answer::Started { pid } => Ok(pid),
            other => Err(self.unexpected(&other)),
        }
    }

    /// What a daemon printed so far, over all boots.
    pub fn log(&self, log: &str) -> String {
        let path = self.files().join(format!("var/log/{log}.log"));
        let text = fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits for the end of a daemon; `None` if it still runs.
    pub fn wait(&self, pid: u32, timeout: Duration) -> Result<Option<Ended>, Error> {
        let timeout_ms = milliseconds(timeout);
        match self.ask(&Request::Wait { pid, timeout_ms }, timeout)? {
            Answer::Ended(ended) => Ok(ended),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Sends a signal to a process of the host.
    pub fn signal(&self, pid: u32, signal: Signal) -> Result<(), Error> {
        let signal = signal.as_raw();
        match self.ask(&Request::Signal { pid, signal }, Duration::ZERO)? {
            Answer::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Writes a file on it, and the folders above it; also while it is switched off.
    pub fn write(&self, path: &str, text: &str) -> Result<(), Error> {
        if self.is_on() {
            let line = "mkdir -p \"$(dirname \"$0\")\" && cat > \"$0\"";
            let command = Command::new(["/bin/sh", "-c", line, path]).stdin(text);
            return self.check(command).map(drop);
        }
        let path = self.files().join(path.trim_start_matches('/'));
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io("make", folder))?;
        }
        fs::write(&path, text).map_err(io("write", &path))
    }

    fn start(&self, plan: &Plan, path: &Path) -> Result<Running, Error> {
        // Names the function in the loader's list, so that it is part of this program.
        std::hint::black_box(entry::ENTRY);
        let failed = |said: &str| Error::Boot {
            host: self.name.clone(),
            said: said.to_owned(),
        };
        let output = fs::File::create(&plan.output).map_err(io("make", &plan.output))?;
        let mut outer = std::process::Command::new("/proc/self/exe")
            .env(entry::STAGE, entry::OUTER)
            .env(entry::PLAN, path)
            // A terminal's Ctrl-C is for the rig, which then removes the host in order.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(output)
            .spawn()
            .map_err(io("start the init of", &self.folder))?;
        let lifeline = outer.stdin.take();
        let said = outer.stdout.take().map(BufReader::new);
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            // Until both have closed it: ready, or dead.
            for line in said.into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let (mut init, mut ready) = (None, false);
        while init.is_none() || !ready {
            let Ok(line) = receiver.recv_timeout(BOOT_WITHIN) else {
                drop(lifeline);
                if let Some(init) = init {
                    kill(init);
                }
                outer.kill().ok();
                outer.wait().ok();
                return Err(failed(fs::read_to_string(&plan.output).unwrap_or_default().trim()));
            };
            match line.strip_prefix("pid ").map(str::parse) {
                Some(Ok(pid)) => init = Some(pid),
                _ => ready |= line == "ready",
            }
        }
        let init = init.unwrap_or_default();
        Ok(Running {
            outer,
            init,
            boot_id: plan.boot_id.clone(),
            _lifeline: lifeline,
        })
    }

    fn ask(&self, request: &Request, wait: Duration) -> Result<Answer, Error> {
        if !self.is_on() {
            return Err(Error::Off {
                host: self.name.clone(),
            });
        }
        let waited = wait + ANSWER_WITHIN;
        let talk = || -> std::io::Result<Answer> {
            let mut stream = UnixStream::connect(self.folder.join("init.sock"))?;
            stream.set_read_timeout(Some(waited))?;
            wire::send(&mut stream, request)?;
            wire::receive(&mut stream)
        };
        match talk() {
            Ok(Answer::Refused { said }) => Err(Error::Init {
                host: self.name.clone(),
                said,
            }),
            Ok(answer) => Ok(answer),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Err(Error::Silent {
                host: self.name.clone(),
                waited,
            }),
            Err(error) => Err(io("talk to the init of", &self.folder)(error)),
        }
    }

    fn unexpected(&self, answer: &Answer) -> Error {
        Error::Init {
            host: self.name.clone(),
            said: format!("it answered another question: {answer:?}"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At the end of the rig all processes are killed at once; this only waits for our own child.
    pub(crate) fn reap(&self) {
        if let Some(mut running) = self.lock().take() {
            kill(running.init);
            running.outer.wait().ok();
        }
    }
}

fn kill(pid: u32) {
    // Gone already is as good.
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .and_then(|pid| kill_process(pid, Signal::KILL).ok());
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// As the kernel makes them: a random UUID.
fn random_id() -> String {
    let bits = fastrand::u128(..);
    let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let text = format!("{bits:032x}");
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_look_like_the_kernels_and_differ() {
        let (one, two) = (super::random_id(), super::random_id());
        assert_ne!(one, two);
        let lengths: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert!(
            one.as_bytes()[14] == b'4' && b"89ab".contains(&one.as_bytes()[19]),
            "{one}"
        );
    }
}
