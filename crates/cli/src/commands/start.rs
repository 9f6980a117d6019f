//! Starting a cluster that does not run: guard, agent, file. What fails is taken back.

use super::daemons::{self, Guard};
use super::files::File;
use super::{Error as CommandError, Session, act, check};
use crate::args;
use crate::client::{self, Client};
use crate::place::{Life, is_gone, life};
use crate::render::clean;
use api::Outcome;
use api::layout::Layout;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// An agent opens its store, adopts what runs, and answers; a thousand instances need a second.
const AGENT_START_MAX: Duration = Duration::from_secs(20);
/// How often it is looked whether it answers.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// An agent that cannot start says why and is started again; one that met a passing trouble answers by then.
const AGENT_RETRY_MAX: Duration = Duration::from_millis(1_500);
/// Services may take their stop timeouts, one after the other.
const DOWN_MAX: Duration = Duration::from_secs(60);
/// Of a log, more is not read.
const LOG_BYTES_READ: u64 = 1 << 20;
/// How much of a log is shown when a daemon did not start.
const LOG_LINES_SHOWN: usize = 10;

/// Why a cluster did not come up.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("failed to make the folder `{}`", path.display())]
    MakeFolder { path: PathBuf, source: io::Error },

    #[error("failed to start the guard of cluster `{cluster}`")]
    Guard { cluster: String, source: io::Error },

    #[error("the agent of cluster `{cluster}` did not start{}", tail(log))]
    AgentEnded {
        cluster: String,
        log: String,
        folder: PathBuf,
        ours: bool,
    },

    #[error("the agent of cluster `{cluster}` did not answer within {}s{}", AGENT_START_MAX.as_secs(), tail(log))]
    AgentSilent {
        cluster: String,
        log: String,
        folder: PathBuf,
        ours: bool,
    },
}

impl Error {
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Error::MakeFolder { .. } => {
                Some("run this as a user who may write there, or choose another folder with `--state-dir`".into())
            }
            Error::Guard { .. } => None,
            Error::AgentEnded { folder, ours, .. } | Error::AgentSilent { folder, ours, .. } => Some(match ours {
                true => format!("nothing was left running; the logs are in {}", folder.display()),
                false => format!(
                    "it was started earlier, and its guard goes on trying; the logs are in {}",
                    folder.display()
                ),
            }),
        }
    }
}

fn tail(log: &str) -> String {
    if log.is_empty() {
        String::new()
    } else {
        format!("; its log ends with\n{log}")
    }
}

/// Starts a cluster that does not run, and gives it the file. If that fails, nothing is left running.
pub(super) async fn start(
    session: &Session,
    args: &args::Up,
    file: &File,
    layout: &Layout,
    client: &Client,
) -> Result<(), CommandError> {
    check::must_run_here(session, file, &args.file).await?;
    // Services may run as other users: those pass through here to their data, and see nothing on the way.
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(layout.run());
    made.map_err(|source| Error::MakeFolder {
        path: layout.run(),
        source,
    })?;
    session.output.say(&format!(
        "starting cluster `{}` in {}",
        client.cluster(),
        layout.root().display()
    ));
    let logs = Logs::from_here(layout);
    let nodes = args.nodes.unwrap_or(1);
    let dashboard = args.dashboard.unwrap_or_default();
    let guard = Guard::start(session, client.cluster(), nodes, args.api, dashboard).map_err(|source| Error::Guard {
        cluster: client.cluster().to_owned(),
        source,
    })?;
    let begun = async {
        await_agent(layout, client, &logs, Some(&guard)).await?;
        act::done(
            client
                .post::<_, Outcome>(
                    "/v1/apply",
                    &api::ApplyRequest {
                        first: true,
                        ..file.request(None)
                    },
                )
                .await?
                .value,
        )
    };
    if let Err(error) = begun.await {
        session.output.say("stopping what was started");
        undo(layout, client).await;
        return Err(error);
    }
    Ok(())
}

/// Takes back a start that failed.
async fn undo(layout: &Layout, client: &Client) {
    if life(layout) == Life::Running && client.post::<_, Outcome>("/v1/down", &()).await.is_ok() {
        let deadline = Instant::now() + DOWN_MAX;
        while !is_gone(layout) && Instant::now() < deadline {
            sleep(LOOK_EVERY).await;
        }
    }
    daemons::end(layout).await;
}

/// Waits until the agent answers, as long as there is one on its way.
pub(super) async fn await_agent(
    layout: &Layout,
    client: &Client,
    logs: &Logs,
    guard: Option<&Guard>,
) -> Result<(), CommandError> {
    let deadline = Instant::now() + AGENT_START_MAX;
    let mut failed_since: Option<Instant> = None;
    loop {
        let state = life(layout);
        // Somebody else's: asking gives the error that says so. An agent may answer the door and still fail to start.
        if matches!(state, Life::Running | Life::Closed) {
            match client.status().await {
                // "The agent is ending" is an answer, too.
                Err(error) if error.may_heal() || matches!(error, client::Error::Refused { .. }) => {}
                answer => return Ok(answer.map(|_| ())?),
            }
        }
        if failed_since.is_none() && logs.agent_gave_a_reason() {
            failed_since = Some(Instant::now());
        }
        let ended = match guard {
            Some(guard) => guard.has_ended(),
            None => state == Life::Stopped,
        };
        let (cluster, folder, ours) = (client.cluster().to_owned(), layout.run(), guard.is_some());
        if ended || failed_since.is_some_and(|since| since.elapsed() >= AGENT_RETRY_MAX) {
            return Err(Error::AgentEnded {
                cluster,
                log: logs.tail(),
                folder,
                ours,
            }
            .into());
        }
        if Instant::now() >= deadline {
            return Err(Error::AgentSilent {
                cluster,
                log: logs.tail(),
                folder,
                ours,
            }
            .into());
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The logs of our own daemons, from a moment on.
pub(super) struct Logs {
    agent: (PathBuf, u64),
    guard: (PathBuf, u64),
}

impl Logs {
    pub(super) fn from_here(layout: &Layout) -> Self {
        let end = |process: &str| {
            let path = layout.own_log(process);
            let length = path.metadata().map_or(0, |metadata| metadata.len());
            (path, length)
        };
        Self {
            agent: end("agent"),
            guard: end("guard"),
        }
    }

    /// Whether the agent said why it cannot work. What it logs has a time in front.
    fn agent_gave_a_reason(&self) -> bool {
        since(&self.agent).lines().any(|line| line.starts_with("error: "))
    }

    /// The last lines of the agent's, or of the guard's if it never came to an agent.
    fn tail(&self) -> String {
        let text = [&self.agent, &self.guard]
            .map(since)
            .into_iter()
            .find(|text| !text.trim().is_empty())
            .unwrap_or_default();
        let lines: Vec<String> = text.lines().map(|line| format!("    {}", clean(line))).collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

fn since((path, start): &(PathBuf, u64)) -> String {
    let read = || {
        let mut file = std::fs::File::open(path)?;
        file.seek(SeekFrom::Start(*start))?;
        let mut text = Vec::new();
        file.take(LOG_BYTES_READ).read_to_end(&mut text)?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&text).into_owned())
    };
    read().unwrap_or_default()
}
