//! Process 1 of a host: reaps whoever ends, carries out what the rig asks for, ends when the rig does.
//!
//! It runs in the program that made the rig (see `entry`), so it needs no file of its own. When it dies, the kernel kills
//! all else in the host: that is a power loss.

use crate::entry;
use crate::wire::{Answer, Command, Ended, Output, Request, receive, send};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, kill_process_group, wait, waitid,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{self, Child, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Of each of stdout and stderr, so much is kept.
const OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A daemon that a command leaves behind may hold its pipe for ever; what it prints later belongs to nobody.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// Ends nobody asked for yet; far more than a test starts.
const ENDED_MAX: usize = 4_096;

/// Serves until the rig's end of stdin closes.
pub(crate) fn serve(listener: &UnixListener) -> io::Result<()> {
    let children = Arc::new(Children::default());
    let reaping = Arc::clone(&children);
    thread::Builder::new()
        .name("reaper".into())
        .spawn(move || reaping.reap())?;
    thread::Builder::new().name("lifeline".into()).spawn(end_with_the_rig)?;
    loop {
        let (stream, _) = listener.accept()?;
        let children = Arc::clone(&children);
        thread::Builder::new()
            .name("request".into())
            .spawn(move || converse(stream, &children).ok())?;
    }
}

/// The rig holds the other end of this pipe and never writes: it closes when the rig is dropped or dies.
fn end_with_the_rig() {
    io::stdin().read_to_end(&mut Vec::new()).ok();
    process::exit(0);
}

fn converse(mut stream: UnixStream, children: &Children) -> io::Result<()> {
    loop {
        let answer = match receive(&mut stream)? {
            Request::Run { command, timeout_ms } => children.run(&command, Duration::from_millis(timeout_ms)),
            Request::Start { command, log } => children.start(&command, &log),
            Request::Wait { pid, timeout_ms } => Ok(children.wait(pid, Duration::from_millis(timeout_ms))),
            Request::Signal { pid, signal } => deliver(pid, signal),
        };
        let answer = answer.unwrap_or_else(|error| Answer::Refused {
            said: error.to_string(),
        });
        send(&mut stream, &answer)?;
    }
}

fn deliver(pid: u32, signal: i32) -> io::Result<Answer> {
    let to = pid_of(pid)?;
    let signal = Signal::from_named_raw(signal)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{signal} is not a signal")))?;
    kill_process(to, signal).map_err(|error| named(&error.into(), &format!("failed to signal process {pid}")))?;
    Ok(Answer::Done)
}

#[derive(Default)]
struct Children {
    known: Mutex<Known>,
    changed: Condvar,
}

#[derive(Default)]
struct Known {
    running: BTreeSet<u32>,
    ended: BTreeMap<u32, Ended>,
}

impl Children {
    fn run(&self, command: &Command, timeout: Duration) -> io::Result<Answer> {
        let mut prepared = prepare(command)?;
        prepared.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn(prepared, command)?;
        let pid = child.id();
        let stdout = Collector::start(child.stdout.take())?;
        let stderr = Collector::start(child.stderr.take())?;
        let ended = self.wait_for(pid, timeout).unwrap_or_else(|| {
            // The whole group, or a shell would leave its children behind.
            pid_of(pid)
                .and_then(|pid| Ok(kill_process_group(pid, Signal::KILL)?))
                .ok();
            self.wait_for(pid, Duration::from_secs(5));
            Ended::TimedOut
        });
        let until = Instant::now() + LAST_WORDS;
        Ok(Answer::Ran(Output {
            pid,
            ended,
            stdout: stdout.text(until),
            stderr: stderr.text(until),
        }))
    }

    fn start(&self, command: &Command, log: &str) -> io::Result<Answer> {
        let mut prepared = prepare(command)?;
        let path = std::path::Path::new(log);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|error| named(&error, &format!("failed to make the folder of {log}")))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|error| named(&error, &format!("failed to open {log}")))?;
        prepared.stdout(file.try_clone()?).stderr(file);
        let child = self.spawn(prepared, command)?;
        Ok(Answer::Started { pid: child.id() })
    }

    fn wait(&self, pid: u32, timeout: Duration) -> Answer {
        Answer::Ended(self.wait_for(pid, timeout))
    }

    /// The reaper waits meanwhile, so a child that failed to execute is reaped by the standard library, as it expects.
    fn spawn(&self, mut prepared: process::Command, command: &Command) -> io::Result<Child> {
        let mut known = self.lock();
        let spawned = prepared.spawn();
        let mut child = spawned.map_err(|error| named(&error, &format!("failed to start `{command}`")))?;
        known.running.insert(child.id());
        self.changed.notify_all();
        drop(known);
        let stdin = child.stdin.take();
        if let (Some(mut stdin), Some(text)) = (stdin, command.stdin.clone()) {
            thread::Builder::new()
                .name("stdin".into())
                .spawn(move || stdin.write_all(text.as_bytes()).ok())?;
        }
        Ok(child)
    }

    fn wait_for(&self, pid: u32, timeout: Duration) -> Option<Ended> {
        let until = Instant::now() + timeout;
        let mut known = self.lock();
        loop {
            if let Some(ended) = known.ended.get(&pid) {
                return Some(*ended);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.changed.wait_timeout(known, left);
            known = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn reap(&self) {
        loop {
            // Only looks: which of them it takes is decided under the lock.
            let someone = waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let mut known = self.lock();
            if someone.is_err() && known.running.is_empty() {
                // No children at all. Orphans only come from children, so the next spawn is what to wait for.
                drop(self.changed.wait(known));
                continue;
            }
            while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                let pid = pid.as_raw_nonzero().get().unsigned_abs();
                if !known.running.remove(&pid) {
                    continue;
                }
                let code = status.exit_status().map(Ended::Code);
                let ended = code.or_else(|| status.terminating_signal().map(Ended::Signal));
                known.ended.insert(pid, ended.unwrap_or(Ended::Signal(0)));
                while known.ended.len() > ENDED_MAX {
                    known.ended.pop_first();
                }
            }
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each in a group of its own, so that all of it can be ended.
fn prepare(command: &Command) -> io::Result<process::Command> {
    let (program, arguments) = command
        .words
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no program was named"))?;
    let mut prepared = process::Command::new(program);
    prepared
        .args(arguments)
        // A program on the host that can make rigs too would become this init again.
        .env_remove(entry::STAGE)
        .env_remove(entry::PLAN)
        .envs(&command.env)
        .current_dir(command.dir.as_deref().unwrap_or("/"))
        .process_group(0);
    match command.stdin {
        Some(_) => prepared.stdin(Stdio::piped()),
        None => prepared.stdin(Stdio::null()),
    };
    Ok(prepared)
}

/// Reads a pipe in a thread, so that what came so far can be had at any time.
struct Collector {
    state: Arc<(Mutex<Collected>, Condvar)>,
}

#[derive(Default)]
struct Collected {
    bytes: Vec<u8>,
    whole: bool,
}

impl Collector {
    fn start(pipe: Option<impl Read + Send + 'static>) -> io::Result<Self> {
        let state = Arc::new((Mutex::new(Collected::default()), Condvar::new()));
        let filling = Arc::clone(&state);
        thread::Builder::new().name("output".into()).spawn(move || {
            let mut buffer = [0; 16 * 1024];
            let (collected, changed) = &*filling;
            let lock = || collected.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(mut pipe) = pipe {
                while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                    let mut collected = lock();
                    let room = OUTPUT_BYTES_MAX.saturating_sub(collected.bytes.len());
                    collected.bytes.extend_from_slice(&buffer[..count.min(room)]);
                }
            }
            lock().whole = true;
            changed.notify_all();
        })?;
        Ok(Self { state })
    }

    fn text(&self, until: Instant) -> String {
        let (collected, changed) = &*self.state;
        let mut collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
        while !collected.whole {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = changed.wait_timeout(collected, left);
            collected = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        String::from_utf8_lossy(&collected.bytes).into_owned()
    }
}

fn pid_of(pid: u32) -> io::Result<Pid> {
    // Process 1 is this init, and 0 and below are groups.
    let raw = i32::try_from(pid).ok().filter(|raw| *raw > 1).and_then(Pid::from_raw);
    raw.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{pid} is not the id of a process")))
}

fn named(error: &io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
