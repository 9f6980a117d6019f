//! Runs a short command to its end: a hook, or a check by command.
//!
//! The command is a process group of its own, with an environment that holds only the basics
//! and what it was given. Both its outputs go
//! into one pipe, of which the end is kept. It is done when its first process is: what that one left behind may hold the
//! pipe open for as long as it likes. At the deadline the whole group is killed.
//!
//! It may lie on the path of a failover, so the start is the fast one (`posix_spawn`) unless a user must be switched to:
//! the program is looked up here, since std takes the slow way for a bare name and a `PATH` of its own.

use crate::account::{Account, UnknownUser};
use crate::{environment, program};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::unix::pipe;

/// A killed process normally is gone within a millisecond; one that hangs in the kernel is left to a task of its own after this.
const GONE_AFTER_KILL: Duration = Duration::from_millis(500);
/// What the first process wrote before it ended is in the pipe, and that is how much a pipe holds.
const PIPE_BYTES: usize = 64 * 1024;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Command<'a> {
    pub(crate) argv: &'a [String],
    pub(crate) env: &'a BTreeMap<String, String>,
    pub(crate) dir: Option<&'a Path>,
    pub(crate) user: Option<&'a str>,
    /// What it reads from its standard input; nothing if not given.
    pub(crate) input: Option<Input<'a>>,
    /// How much of the output is kept.
    pub(crate) keep_bytes: usize,
    /// Whether what the first process leaves behind in its group is killed when it ends.
    pub(crate) kill_leftovers: bool,
}

/// What a command is told in secret, and by when the kernel ends its first process, even should this agent hang by then.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    /// At most [`PIPE_BYTES`].
    pub(crate) bytes: &'a [u8],
    /// Whole seconds.
    pub(crate) alarm: u32,
    /// It is not begun any more later than this.
    pub(crate) begins_by: Option<model::Timestamp>,
}

impl std::fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Done<T> {
    pub(crate) end: End<T>,
    pub(crate) output: Tail,
    pub(crate) took: Duration,
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum End<T> {
    Exited(ExitStatus),
    /// It was killed, because the deadline came with this.
    Killed(T),
}

/// Why nothing is known of how it went.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("lost sight of it: {0}")]
    Lost(#[source] io::Error),
}

/// Why it did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Program(#[from] program::Error),
    #[error(transparent)]
    User(#[from] UnknownUser),
    #[error("the working directory `{dir}` {problem}")]
    Dir { dir: String, problem: &'static str },
    #[error("{0}")]
    Os(#[from] io::Error),
}

impl StartError {
    /// Whether it says something about this agent (out of processes, descriptors, memory) rather than about the command.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, StartError::Os(error) if is_shortage(error))
    }
}

/// Whether the kernel had no room for what we asked: processes, descriptors, memory, ports.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortage = [
        Errno::AGAIN,
        Errno::NOMEM,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::ADDRNOTAVAIL,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| shortage.iter().any(|errno| errno.raw_os_error() == code))
}

/// Runs `command` until it ends or `deadline` comes.
pub(crate) async fn run<T>(command: Command<'_>, deadline: impl Future<Output = T>) -> Result<Done<T>, Error> {
    let begun = Instant::now();
    let (mut running, mut pipe) = start(command)?;
    let mut output = Tail::new(command.keep_bytes);
    let mut buffer = [0; 4096];
    let mut open = true;
    tokio::pin!(deadline);
    let end = loop {
        tokio::select! {
            // In this order: an end that was there in time counts even if we come late, and a flood of output
            // must not keep us from the deadline.
            biased;
            ended = running.ended() => {
                ended.map_err(Error::Lost)?;
                break None;
            }
            reached = &mut deadline => break Some(reached).filter(|_| !running.has_ended()),
            count = pipe.read(&mut buffer), if open => match count {
                Ok(count) if count > 0 => output.push(&buffer[..count]),
                _ => open = false,
            },
        }
    };
    let end = match end {
        Some(reached) => {
            running.kill_group();
            if tokio::time::timeout(GONE_AFTER_KILL, running.ended()).await.is_ok() {
                running.reap().map_err(Error::Lost)?;
            }
            End::Killed(reached)
        }
        None => {
            if command.kill_leftovers {
                running.kill_group();
            }
            End::Exited(running.reap().map_err(Error::Lost)?)
        }
    };
    if open {
        drain(&pipe, &mut output);
    }
    Ok(Done {
        end,
        output,
        took: begun.elapsed(),
    })
}

fn start(command: Command<'_>) -> Result<(Running, pipe::Receiver), StartError> {
    let name = command.argv.first().map_or("", String::as_str);
    let account = command.user.map(Account::find).transpose()?;
    let base = environment::base(account.as_ref());
    let path = command
        .env
        .get("PATH")
        .or_else(|| base.get("PATH"))
        .map_or("", String::as_str);
    let mut child = std::process::Command::new(program::locate(name, command.dir, path)?);
    let (reader, writer) = io::pipe()?;
    child.arg0(name).args(&command.argv[1..]).env_clear();
    child.envs(&base).envs(command.env);
    child
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    if let Some(input) = command.input {
        child.stdin(told(input.bytes)?);
        alarm(&mut child, input.alarm, input.begins_by);
    }
    if let Some(dir) = command.dir {
        child.current_dir(dir);
    }
    if let Some(account) = account.filter(|account| !account.is_us()) {
        account.switch(&mut child);
    }
    let pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    let started = child.spawn().map_err(|error| match command.dir {
        Some(dir) if !dir.is_dir() => StartError::Dir {
            dir: dir.display().to_string(),
            problem: if dir.exists() {
                "is not a folder"
            } else {
                "does not exist"
            },
        },
        _ => StartError::Os(error),
    })?;
    Ok((Running::new(started)?, pipe))
}

/// A pipe with all of it in already, so that nobody has to wait for who reads it.
fn told(bytes: &[u8]) -> io::Result<Stdio> {
    if bytes.len() > PIPE_BYTES {
        return Err(io::Error::other("it is told more than a pipe holds"));
    }
    let (reader, mut writer) = io::pipe()?;
    io::Write::write_all(&mut writer, bytes)?;
    Ok(reader.into())
}

/// The kernel's alarm clock goes on over `exec`, and ends who does not expect it. The clock is looked at when it is set: whatever held this agent up
/// until here, or holds the child up from here on, it ends by the latest begin and the alarm.
fn alarm(child: &mut std::process::Command, seconds: u32, begins_by: Option<model::Timestamp>) {
    let set = move || {
        // SAFETY: a plain system call without any memory.
        #[expect(unsafe_code, reason = "the kernel's alarm has no safe wrapper here")]
        unsafe {
            libc::alarm(seconds);
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let now_us = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1_000);
        match begins_by {
            Some(by) if u64::try_from(now_us).is_ok_and(|now_us| now_us > by.0) => {
                Err(io::Error::from_raw_os_error(libc::ETIMEDOUT))
            }
            _ => Ok(()),
        }
    };
    #[expect(
        unsafe_code,
        reason = "the closure makes two system calls and neither allocates nor locks"
    )]
    // SAFETY: between fork and exec only async-signal-safe things are allowed, and `alarm` and `clock_gettime` are.
    unsafe {
        child.pre_exec(set);
    }
}

/// A started command. Dropped before it was reaped (the one who waited has lost interest), its group is killed.
#[derive(Debug)]
struct Running {
    child: Child,
    /// `None` only while it is being taken apart.
    pidfd: Option<AsyncFd<OwnedFd>>,
    reaped: bool,
}

impl Running {
    fn new(child: Child) -> io::Result<Self> {
        let mut running = Self {
            child,
            pidfd: None,
            reaped: false,
        };
        // Not reaped yet, so the number still is this process.
        let pidfd = rustix::process::pidfd_open(running.group(), PidfdFlags::NONBLOCK)?;
        #[expect(
            unsafe_code,
            reason = "tokio asks for the promise that the descriptor stays the same"
        )]
        // SAFETY: an `OwnedFd` is the same descriptor for as long as it lives.
        let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        running.pidfd = Some(registered?);
        Ok(running)
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    async fn ended(&self) -> io::Result<()> {
        match &self.pidfd {
            Some(pidfd) => pidfd.readable().await.map(|mut ready| ready.retain_ready()),
            None => Ok(()),
        }
    }

    /// Looks without waiting, and without reaping.
    fn has_ended(&self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(rustix::process::waitid(WaitId::Pid(self.group()), look), Ok(Some(_)))
    }

    /// Kills all of the group. Only before reaping: until then the kernel gives the number to nobody else.
    fn kill_group(&self) {
        debug_assert!(!self.reaped, "the number of the group may be another's by now");
        if let Err(error) = rustix::process::kill_process_group(self.group(), Signal::KILL) {
            tracing::warn!(pid = self.child.id(), %error, "failed to kill the process group of a command");
        }
    }

    /// Takes the status of a process that has ended.
    fn reap(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait()?;
        self.reaped = true;
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        self.kill_group();
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        let Some(pidfd) = self.pidfd.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if pidfd.readable().await.is_ok() {
                    // Nobody is left to tell how it ended; what counts is that no zombie stays.
                    let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
                }
            });
        }
    }
}

/// Takes what lies in the pipe, without waiting for more.
fn drain(pipe: &pipe::Receiver, output: &mut Tail) {
    let mut buffer = [0; 4096];
    let mut taken = 0;
    while taken < PIPE_BYTES {
        match rustix::io::read(pipe, &mut buffer) {
            Ok(count) if count > 0 => {
                output.push(&buffer[..count]);
                taken += count;
            }
            _ => return,
        }
    }
}

/// The end of some output.
#[derive(Debug)]
pub(crate) struct Tail {
    bytes: VecDeque<u8>,
    keep_bytes: usize,
    dropped: bool,
}

impl Tail {
    fn new(keep_bytes: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            keep_bytes,
            dropped: false,
        }
    }

    fn push(&mut self, more: &[u8]) {
        let more = match more.len().checked_sub(self.keep_bytes) {
            Some(excess) => {
                self.dropped |= excess > 0 || !self.bytes.is_empty();
                self.bytes.clear();
                &more[excess..]
            }
            None => more,
        };
        let excess = (self.bytes.len() + more.len()).saturating_sub(self.keep_bytes);
        self.dropped |= excess > 0;
        self.bytes.drain(..excess);
        self.bytes.extend(more);
    }

    /// As text that can be shown: bytes that are none are replaced, and control characters are written out.
    pub(crate) fn text(&self) -> String {
        let (front, back) = self.bytes.as_slices();
        let bytes = [front, back].concat();
        // The cut may have gone through a character.
        let rest_of_character = bytes.iter().take(3).take_while(|byte| *byte & 0xc0 == 0x80).count();
        let begin = if self.dropped { rest_of_character } else { 0 };
        let mut text = String::with_capacity(bytes.len());
        for character in String::from_utf8_lossy(&bytes[begin..]).chars() {
            match character {
                '\n' | '\t' => text.push(character),
                '\r' => {}
                _ if character.is_control() => text.extend(character.escape_default()),
                _ => text.push(character),
            }
        }
        text
    }

    /// The last line with something in it.
    pub(crate) fn last_line(&self) -> Option<String> {
        self.text()
            .lines()
            .rev()
            .map(str::trim)
            .find(|line| !line.is_empty())
            .map(str::to_owned)
    }
}

/// How a process ended: "exit code 1", "killed by SIGTERM".
pub(crate) fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by {}", signal_name(signal)),
        (None, None) => status.to_string(),
    }
}

/// The name of a signal: "SIGKILL".
pub(crate) fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 15] = [
        "SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL", "SIGUSR1",
        "SIGSEGV", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM",
    ];
    let name = usize::try_from(signal - 1).ok().and_then(|index| NAMES.get(index));
    name.map_or_else(|| format!("signal {signal}"), |name| (*name).to_owned())
}

/// A command as one would type it.
pub(crate) fn shown(argv: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,+@%".contains(c);
    let word = |word: &String| match word.as_str() {
        text if !text.is_empty() && text.chars().all(plain) => text.to_owned(),
        text => format!("'{}'", text.replace('\'', r"'\''")),
    };
    argv.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_keeps_the_end_and_shows_it_as_text() {
        let mut tail = Tail::new(8);
        tail.push(b"abc");
        assert_eq!(tail.text(), "abc");
        tail.push(b"defghij");
        assert_eq!(tail.text(), "cdefghij");
        tail.push("0123456é89\n".as_bytes());
        assert_eq!(tail.text(), "456é89\n");
        tail.push("é1234567".as_bytes());
        assert_eq!(tail.text(), "1234567", "half a character is left out");
        let mut tail = Tail::new(64);
        tail.push(b"\xff\x00\x1b[31mred\r\n\n  \n");
        assert_eq!(tail.text(), "\u{fffd}\\u{0}\\u{1b}[31mred\n\n  \n");
        assert_eq!(tail.last_line().as_deref(), Some("\u{fffd}\\u{0}\\u{1b}[31mred"));
    }

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let argv = ["sh", "-c", "echo it's", ""].map(str::to_owned);
        assert_eq!(shown(&argv), r"sh -c 'echo it'\''s' ''");
    }
}
