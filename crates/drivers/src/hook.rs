//! Runs the command of a change of role: `on_promote`, `on_demote`, `on_follow`.
//!
//! A hook lies on the path of a failover, so nothing here waits longer than the hook itself needs. What it starts and leaves
//! behind in the background is left alone when it ends in time, and killed with it when it does not.

use crate::command::{self, Command, Done, End};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;

/// How much of a hook's output is kept: its end.
const OUTPUT_BYTES: usize = 4096;

/// A hook, ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookCommand {
    /// Program and arguments, placeholders filled in. The program is looked up in `PATH` unless it contains a `/`; a relative
    /// path is taken from `dir`.
    pub argv: Vec<String>,
    /// Its environment beyond that of [`crate::environment`], which it may replace: `UNDERSTUDY_EPOCH` and the like.
    pub env: BTreeMap<String, String>,
    /// Working directory; the agent's own if not given.
    pub dir: Option<PathBuf>,
    /// User to run as, name or number; the agent's own if not given.
    pub user: Option<String>,
    /// After this long its whole process group is killed, and it has failed.
    pub timeout: Duration,
}

/// A hook that ended with exit code 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookDone {
    /// From the order to start it to its end.
    pub took: Duration,
    /// The last 4 KiB of what it wrote to its standard output and error.
    pub output: String,
}

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It did not start.
    #[error("failed to start `{command}`: {problem}")]
    Start {
        /// The command as one would type it.
        command: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It ended with another exit code than 0.
    #[error("`{command}` ended with exit code {code} after {}{}", span(*took), said(last_line))]
    Failed {
        /// The command as one would type it.
        command: String,
        /// Its exit code.
        code: i32,
        /// How long it ran.
        took: Duration,
        /// The last line it wrote.
        last_line: Option<String>,
        /// The last 4 KiB it wrote.
        output: String,
    },
    /// A signal ended it, and not one of ours.
    #[error("`{command}` was killed by {signal} after {}{}", span(*took), said(last_line))]
    Killed {
        /// The command as one would type it.
        command: String,
        /// The signal's name.
        signal: String,
        /// How long it ran.
        took: Duration,
        /// The last line it wrote.
        last_line: Option<String>,
        /// The last 4 KiB it wrote.
        output: String,
    },
    /// It was still running at its deadline, and was killed.
    #[error("`{command}` had not ended after {} and was killed{}", span(*timeout), said(last_line))]
    TimedOut {
        /// The command as one would type it.
        command: String,
        /// How long it was given.
        timeout: Duration,
        /// The last line it wrote.
        last_line: Option<String>,
        /// The last 4 KiB it wrote.
        output: String,
    },
    /// The kernel did not tell how it ended.
    #[error("lost sight of `{command}`: {source}")]
    Lost {
        /// The command as one would type it.
        command: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Runs a hook to its end. When the future is dropped, its process group is killed.
pub async fn run(hook: HookCommand) -> Result<HookDone, HookError> {
    let to_run = Command {
        argv: &hook.argv,
        env: &hook.env,
        dir: hook.dir.as_deref(),
        user: hook.user.as_deref(),
        input: None,
        keep_bytes: OUTPUT_BYTES,
        kill_leftovers: false,
    };
    let done = command::run(to_run, tokio::time::sleep(hook.timeout)).await;
    let command = command::shown(&hook.argv);
    match done {
        Err(command::Error::Start(problem)) => Err(HookError::Start {
            command,
            problem: problem.to_string(),
        }),
        Err(command::Error::Lost(source)) => Err(HookError::Lost { command, source }),
        Ok(done) => judge(command, hook.timeout, &done),
    }
}

fn judge(command: String, timeout: Duration, done: &Done<()>) -> Result<HookDone, HookError> {
    let (took, output, last_line) = (done.took, done.output.text(), done.output.last_line());
    let End::Exited(status) = done.end else {
        return Err(HookError::TimedOut {
            command,
            timeout,
            last_line,
            output,
        });
    };
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(HookDone { took, output }),
        (Some(code), _) => Err(HookError::Failed {
            command,
            code,
            took,
            last_line,
            output,
        }),
        (None, signal) => {
            let signal = signal.map_or_else(|| status.to_string(), command::signal_name);
            Err(HookError::Killed {
                command,
                signal,
                took,
                last_line,
                output,
            })
        }
    }
}

fn span(span: Duration) -> String {
    // A millisecond is the least that is worth reading.
    let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    model::Millis(ms).to_string()
}

fn said(last_line: &Option<String>) -> String {
    last_line.as_ref().map_or_else(String::new, |line| format!(": {line}"))
}
