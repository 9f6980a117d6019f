//! Runs fence agents: the programs of ClusterLabs and Debian that drive BMCs, power outlets and hypervisors, and whatever speaks as they do.
//!
//! An agent reads lines of `key=value` from its standard input, does what `action` says, and ends: with 0 if that is done, or if the
//! power is on; with 2 if it is off (`status` alone); with anything else if it failed. Secrets are among those lines and nowhere else: not in
//! arguments, not in the environment, and what an agent writes is shown without them.

use crate::command::{self, Command, Done, End, Input};
use crate::environment;
use model::{FenceDevice, Secret, Timestamp};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

/// How much of what an agent says is kept: its end.
const OUTPUT_BYTES: usize = 4096;
/// How agents say that the power is off.
const OFF_CODE: i32 = 2;
/// Where Debian puts them.
const SBIN: &str = "/usr/sbin";

/// What a device is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Off,
    On,
    Status,
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Action::Off => "off",
            Action::On => "on",
            Action::Status => "status",
        }
    }
}

/// Why a device did not do, or say, what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A secret was not found.
    #[error("the secret `{name}` is not to be had: {problem}")]
    Secret {
        /// The parameter.
        name: String,
        /// What is wrong.
        problem: SecretProblem,
    },
    /// The agent did not start.
    #[error("failed to start `{agent}`: {problem}")]
    Start {
        /// The program.
        agent: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It says that it failed.
    #[error("{agent} failed to do `{action}` (exit code {code}){}", said(last_line))]
    Failed {
        /// The program, and where its device is.
        agent: String,
        /// `off`, `on` or `status`.
        action: &'static str,
        /// Its exit code.
        code: i32,
        /// The last line that it wrote.
        last_line: Option<String>,
    },
    /// A signal ended it.
    #[error("{agent} was killed by signal {signal} while it did `{action}`{}", said(last_line))]
    Killed {
        /// The program, and where its device is.
        agent: String,
        /// `off`, `on` or `status`.
        action: &'static str,
        /// Which.
        signal: i32,
        /// The last line that it wrote.
        last_line: Option<String>,
    },
    /// It did not end in time, and was killed.
    #[error("{agent} had not done `{action}` after {timeout}, and was killed{}", said(last_line))]
    TimedOut {
        /// The program, and where its device is.
        agent: String,
        /// `off`, `on` or `status`.
        action: &'static str,
        /// How long it was given.
        timeout: model::Millis,
        /// The last line that it wrote.
        last_line: Option<String>,
    },
    /// The kernel did not tell how it ended.
    #[error("lost sight of `{agent}`")]
    Lost {
        /// The program.
        agent: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What is wrong with a secret; never what it says.
#[derive(Debug, thiserror::Error)]
pub enum SecretProblem {
    /// Its file cannot be read.
    #[error("`{}` cannot be read: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Anybody may read its file.
    #[error("`{}` may be read by everybody: `chmod o= {}`", path.display(), path.display())]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// There is no such variable.
    #[error("the agent has no variable `{variable}` in its environment")]
    NoVariable {
        /// Its name.
        variable: String,
    },
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Error::Secret { .. } => "each node that may fence needs it; only its owner and group may read the file",
            Error::Start { .. } => "install it on each node: Debian has them in `fence-agents`",
            Error::Failed { .. } | Error::Killed { .. } | Error::TimedOut { .. } | Error::Lost { .. } => {
                "`understudy fence --test NODE` asks the device again; try its parameters with the fence agent by hand"
            }
        }
    }
}

/// Takes the power away. Says nothing of whether it is away: ask [`is_off`]. Not begun later than `begins_by`, even should this agent be held up
/// right before.
pub async fn off(device: &FenceDevice, begins_by: Timestamp) -> Result<(), Error> {
    call(device, Action::Off, Some(begins_by)).await.map(drop)
}

/// Gives the power back; not begun later than that.
pub async fn on(device: &FenceDevice, begins_by: Timestamp) -> Result<(), Error> {
    call(device, Action::On, Some(begins_by)).await.map(drop)
}

/// Whether the device says that the power is off.
pub async fn is_off(device: &FenceDevice) -> Result<bool, Error> {
    Ok(call(device, Action::Status, None).await? == OFF_CODE)
}

/// Runs the agent to its end; when the future is dropped, it and what it started are killed.
async fn call(device: &FenceDevice, action: Action, begins_by: Option<Timestamp>) -> Result<i32, Error> {
    let (input, secrets) = told(device, action)?;
    let mut env = environment::base(None);
    if let Some(path) = env.get_mut("PATH")
        && !path.split(':').any(|folder| folder == SBIN)
    {
        *path = format!("{path}:{SBIN}");
    }
    let argv = [device.agent.clone()];
    let seconds = device.timeout.0.div_ceil(1_000);
    let to_run = Command {
        argv: &argv,
        env: &env,
        dir: None,
        user: None,
        input: Some(Input {
            bytes: input.as_bytes(),
            alarm: u32::try_from(seconds).unwrap_or(u32::MAX),
            begins_by,
        }),
        keep_bytes: OUTPUT_BYTES,
        kill_leftovers: true,
    };
    let done = command::run(to_run, tokio::time::sleep(device.timeout.duration())).await;
    match done {
        Ok(done) => judge(device, action, &done, &secrets),
        Err(command::Error::Start(problem)) => Err(Error::Start {
            agent: device.agent.clone(),
            problem: problem.to_string(),
        }),
        Err(command::Error::Lost(source)) => Err(Error::Lost {
            agent: device.agent.clone(),
            source,
        }),
    }
}

fn judge(device: &FenceDevice, action: Action, done: &Done<()>, secrets: &[String]) -> Result<i32, Error> {
    let last_line = done.output.last_line().map(|line| without(line, secrets));
    let (agent, action_word) = (device.shown(), action.word());
    let End::Exited(status) = done.end else {
        return Err(Error::TimedOut {
            agent,
            action: action_word,
            timeout: device.timeout,
            last_line,
        });
    };
    match status.code() {
        Some(0) => Ok(0),
        Some(OFF_CODE) if action == Action::Status => Ok(OFF_CODE),
        Some(code) => Err(Error::Failed {
            agent,
            action: action_word,
            code,
            last_line,
        }),
        // The kernel's own alarm, should we have been too late ourselves.
        None if status.signal() == Some(libc::SIGALRM) => Err(Error::TimedOut {
            agent,
            action: action_word,
            timeout: device.timeout,
            last_line,
        }),
        None => Err(Error::Killed {
            agent,
            action: action_word,
            signal: status.signal().unwrap_or_default(),
            last_line,
        }),
    }
}

/// The lines for an agent, and what of them must not be shown.
fn told(device: &FenceDevice, action: Action) -> Result<(String, Vec<String>), Error> {
    let mut lines = format!("action={}\n", action.word());
    for (name, value) in &device.parameters {
        lines.push_str(&format!("{name}={value}\n"));
    }
    let mut secrets = Vec::new();
    for (name, secret) in &device.secrets {
        let found = find(secret).map_err(|problem| Error::Secret {
            name: name.clone(),
            problem,
        })?;
        lines.push_str(&format!("{name}={found}\n"));
        secrets.push(found);
    }
    Ok((lines, secrets))
}

fn find(secret: &Secret) -> Result<String, SecretProblem> {
    let text = match secret {
        Secret::Env(variable) => std::env::var(variable).map_err(|_| SecretProblem::NoVariable {
            variable: variable.clone(),
        })?,
        Secret::File(path) => read(Path::new(path))?,
    };
    match text.lines().next().filter(|line| !line.is_empty()) {
        Some(line) => Ok(line.to_owned()),
        None => Err(SecretProblem::Empty),
    }
}

fn read(path: &Path) -> Result<String, SecretProblem> {
    let unreadable = |error: io::Error| SecretProblem::Unreadable {
        path: path.into(),
        why: error.to_string(),
    };
    let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(SecretProblem::Open { path: path.into() });
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

/// Some agents repeat what they were told, when asked to say much.
fn without(line: String, secrets: &[String]) -> String {
    secrets
        .iter()
        .fold(line, |line, secret| line.replace(secret.as_str(), "(secret)"))
}

fn said(last_line: &Option<String>) -> String {
    last_line.as_ref().map_or_else(String::new, |line| format!(": {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Millis;
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs::Permissions;

    const LATER: Timestamp = Timestamp(u64::MAX);

    /// An agent of our own: `script` finds what it was told in `$told`.
    fn device(dir: &Path, script: &str) -> FenceDevice {
        let path = dir.join("agent");
        std::fs::write(&path, format!("#!/bin/sh\ntold=$(cat)\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let secret = dir.join("secret");
        std::fs::write(&secret, "hunter2\nnot this\n").unwrap();
        std::fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        FenceDevice {
            agent: path.display().to_string(),
            parameters: BTreeMap::from([("ip".into(), "10.0.9.1".into())]),
            secrets: BTreeMap::from([("password".into(), Secret::File(secret.display().to_string()))]),
            timeout: Millis(5_000),
            feeds: BTreeSet::new(),
        }
    }

    #[tokio::test]
    async fn an_agent_is_told_by_its_standard_input_alone() {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("note");
        let device = device(
            dir.path(),
            &format!("{{ echo \"$told\"; echo \"args=$#\"; env; }} > {}", note.display()),
        );
        off(&device, LATER).await.unwrap();
        let noted = std::fs::read_to_string(note).unwrap();
        assert!(
            noted.starts_with("action=off\nip=10.0.9.1\npassword=hunter2\nargs=0\n"),
            "{noted}"
        );
        assert_eq!(noted.matches("hunter2").count(), 1, "{noted}");
        assert!(!noted.contains("not this"));
    }

    #[tokio::test]
    async fn what_an_agent_says_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_off(&device(dir.path(), "exit 2")).await.unwrap());
        assert!(!is_off(&device(dir.path(), "exit 0")).await.unwrap());
        // 2 is an answer to a question, and none to an order.
        for (script, told) in [
            ("exit 2", "failed to do `off` (exit code 2)"),
            (
                "echo no route to hunter2 >&2; exit 1",
                "(exit code 1): no route to (secret)",
            ),
            ("kill -KILL $$", "killed by signal 9"),
        ] {
            let error = off(&device(dir.path(), script), LATER).await.unwrap_err().to_string();
            assert!(error.contains(told) && !error.contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn one_that_hangs_is_ended_with_all_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let late = dir.path().join("late");
        let mut device = device(dir.path(), &format!("(sleep 2; touch {}) & wait", late.display()));
        device.timeout = Millis(300);
        let error = off(&device, LATER).await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
        assert!(!late.exists(), "what it began goes on");
    }

    #[tokio::test]
    async fn a_secret_that_is_not_to_be_had_is_told_without_what_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let mut device = device(dir.path(), "exit 0");
        let Some(Secret::File(path)) = device.secrets.get("password").cloned() else {
            panic!("a file");
        };
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(
            off(&device, LATER)
                .await
                .unwrap_err()
                .to_string()
                .contains("may be read by everybody")
        );
        std::fs::remove_file(&path).unwrap();
        assert!(
            off(&device, LATER)
                .await
                .unwrap_err()
                .to_string()
                .contains("cannot be read")
        );
        device
            .secrets
            .insert("password".into(), Secret::Env("SURELY_NOT_THERE".into()));
        assert!(
            off(&device, LATER)
                .await
                .unwrap_err()
                .to_string()
                .contains("no variable `SURELY_NOT_THERE`")
        );
    }

    #[tokio::test]
    async fn what_is_late_is_not_begun() {
        let dir = tempfile::tempdir().unwrap();
        let began = dir.path().join("began");
        let device = device(dir.path(), &format!("touch {}", began.display()));
        let error = off(&device, Timestamp(1)).await.unwrap_err().to_string();
        assert!(error.contains("failed to start"), "{error}");
        assert!(!began.exists());
        off(&device, LATER).await.unwrap();
        assert!(began.exists());
    }
}
