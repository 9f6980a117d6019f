//! One module per command, or per family of commands. Each says what it did on stdout and returns whether it was done.

mod act;
mod alerts;
mod analyze;
mod blocked;
mod check;
mod cluster;
mod clusters;
mod daemons;
mod dashboard;
mod down;
mod drill;
mod events;
mod explain;
mod files;
mod hands;
mod load;
mod logs;
mod plan;
mod progress;
mod reference;
mod simulate;
mod start;
mod status;
mod up;
mod view;

use crate::args::{Cli, Command};
use crate::client::{self, Client};
use crate::output::{Consent, Output};
use crate::place::{self, Life, Place};
use crate::{names, render};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A killed agent is back within this, also on a slow machine.
const RESTART_MAX: Duration = Duration::from_secs(3);
/// How often it is looked whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a command works with.
#[derive(Debug, Clone)]
struct Session {
    output: Output,
    place: Place,
}

/// Whether a command did what it was asked: exit code 0, or 1 with the reason already said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Yes,
    No,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Client(#[from] client::Error),

    #[error(transparent)]
    Place(#[from] place::Error),

    #[error(transparent)]
    Name(#[from] names::Unknown),

    #[error("failed to read the file `{}`", path.display())]
    ReadFile { path: PathBuf, source: io::Error },

    #[error("`{}` is {what}, and no file", path.display())]
    NoFile { path: PathBuf, what: &'static str },

    #[error("`{}` has {}", path.display(), render::plural(*errors as u64, "error"))]
    BadFile { path: PathBuf, errors: usize },

    #[error("{} would keep `{}` from running on this machine", render::plural(*obstacles as u64, "problem"), path.display())]
    NotHere { path: PathBuf, obstacles: usize },

    #[error("{what} needs a yes, and there is no terminal to ask on")]
    NobodyToAsk { what: &'static str },

    #[error("nothing was done")]
    Declined,

    #[error("failed to {doing}")]
    Runtime { doing: &'static str, source: io::Error },

    #[error("the agent of cluster `{cluster}` does not answer; its services are not affected by that")]
    AgentAway {
        cluster: String,
        log: PathBuf,
        guard: Option<u32>,
    },

    #[error(transparent)]
    Up(#[from] start::Error),

    #[error(transparent)]
    Down(#[from] down::Error),

    #[error(transparent)]
    Load(#[from] ::load::test::Refusal),

    #[error("failed to write the report `{}`", path.display())]
    WriteReport { path: PathBuf, source: io::Error },

    #[error(transparent)]
    Membership(#[from] membership::Error),

    #[error("{what}")]
    BadArgument { what: String, hint: &'static str },

    #[error("revision {revision} of cluster `{cluster}` is not in its history")]
    NoRevision {
        revision: u64,
        cluster: String,
        kept: Option<(u64, u64)>,
    },

    #[error("cluster `{cluster}` has no earlier revision to go back to")]
    NothingBefore { cluster: String },

    #[error(
        "no earlier revision of cluster `{cluster}` is known to have been healthy and says something else than what is in force"
    )]
    NothingWorked { cluster: String },

    #[error("the file is of cluster `{file}`, not `{asked}`")]
    OtherCluster { file: String, asked: String },
}

impl Error {
    fn hint(&self) -> Option<String> {
        match self {
            Error::NothingWorked { .. } => Some(
                "`understudy history` lists all of them and says which never became healthy; `understudy rollback REVISION` goes to one of your choice".into(),
            ),
            Error::Client(error) => error.hint(),
            Error::Place(error) => error.hint(),
            Error::Name(error) => error.hint(),
            Error::Up(error) => error.hint(),
            Error::Down(error) => error.hint(),
            Error::Load(error) => error.hint().map(Into::into),
            Error::Membership(error) => error.hint(),
            Error::BadArgument { hint, .. } => Some((*hint).into()),
            Error::ReadFile { path, source }
                if source.kind() == io::ErrorKind::NotFound && path.as_os_str() == "understudy.toml" =>
            {
                Some("name the file, or run this in the folder where `understudy.toml` lies".into())
            }
            Error::NoFile { what: "a folder", .. } => Some("name a file in it".into()),
            Error::NoFile { .. } => Some("name a file; what another program writes is read from `/dev/stdin`".into()),
            Error::AgentAway { log, guard, .. } => Some(match guard {
                Some(guard) => format!(
                    "its guard (process {guard}) goes on starting it; {} says why it cannot",
                    log.display()
                ),
                None => format!("it may hang; {} says what it did last", log.display()),
            }),
            Error::NobodyToAsk { .. } => Some("add --yes".into()),
            Error::NoRevision {
                kept: Some((first, last)),
                ..
            } => Some(format!("it keeps revisions {first} to {last}")),
            Error::OtherCluster { file, .. } => Some(format!(
                "leave `--cluster` out, or write `--cluster {file}`; a copy of the file with another `name` is another cluster"
            )),
            Error::ReadFile { .. }
            | Error::WriteReport { .. }
            | Error::BadFile { .. }
            | Error::NotHere { .. }
            | Error::Declined
            | Error::Runtime { .. }
            | Error::NoRevision { .. }
            | Error::NothingBefore { .. } => None,
        }
    }
}

/// Runs what was typed; the exit code.
pub(crate) fn run(cli: Cli) -> i32 {
    let place = Place::new(&cli.global);
    let session = Session {
        output: Output::new(cli.global.color, &place.options),
        place,
    };
    let output = session.output.clone();
    let done = match cli.command {
        // These are, or start, programs of their own: they make their own threads.
        Command::Agent(args) => return daemons::agent(&session, &args),
        Command::Guard(args) => return daemons::guard(&session, &args),
        Command::Proxy(args) => return daemons::proxy(&args),
        Command::Sample(args) => return daemons::sample(&args),
        Command::Completions(args) => reference::completions(&output, args.shell),
        Command::Openapi => reference::openapi(&output),
        Command::Simulate(args) => simulate::run(&session, &args),
        Command::Analyze(args) if args.file.is_some() || !args.open_psa.is_empty() => analyze::of_file(&session, &args),
        Command::MarkdownHelp => reference::markdown(&output),
        Command::Clusters(args) => clusters::run(&session, args.json),
        command => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Error::Runtime { doing: "start", source })
            .and_then(|runtime| runtime.block_on(speak(&session, command))),
    };
    match done {
        Ok(Done::Yes) => 0,
        Ok(Done::No) => 1,
        Err(error) => {
            output.error(&error, error.hint().as_deref());
            1
        }
    }
}

/// The commands that speak with an agent.
async fn speak(session: &Session, command: Command) -> Result<Done, Error> {
    match command {
        Command::Up(args) => up::run(session, &args).await,
        Command::Check(args) => check::run(session, &args).await,
        Command::Plan(args) => plan::show(session, &args).await,
        Command::Apply(args) => plan::apply(session, &args).await,
        Command::Rollback(args) => plan::rollback(session, &args).await,
        Command::History(args) => plan::history(session, &args).await,
        Command::Status(args) => status::run(session, &args).await,
        Command::Analyze(args) => analyze::running(session, &args).await,
        Command::Explain(args) => explain::run(session, &args).await,
        Command::Dashboard(args) => dashboard::run(session, &args).await,
        Command::Events(args) => events::run(session, &args).await,
        Command::Alerts(args) => alerts::show(session, &args).await,
        Command::Silence(args) => alerts::silence(session, &args).await,
        Command::Unsilence(args) => alerts::unsilence(session, &args).await,
        Command::Logs(args) => logs::run(session, &args).await,
        Command::Switchover(args) => act::switchover(session, &args).await,
        Command::Drain(args) => act::drain(session, &args).await,
        Command::Undrain(args) => act::undrain(session, &args).await,
        Command::Rebalance(args) => act::rebalance(session, &args).await,
        Command::Park(args) => hands::park(session, &args).await,
        Command::Unpark(args) => hands::unpark(session, &args).await,
        Command::Force(args) => hands::force(session, &args).await,
        Command::Fence(args) => hands::fence(session, &args).await,
        Command::Pause(args) => act::pause(session, "pause", args.because.as_deref(), args.json).await,
        Command::Resume(args) => act::pause(session, "resume", None, args.json).await,
        Command::Retry(args) => act::retry(session, &args).await,
        Command::Drill(args) => drill::run(session, args.what).await,
        Command::Load(args) => load::run(session, &args).await,
        Command::Down(args) => down::run(session, &args).await,
        Command::Cluster(command) => cluster::run(session, command).await,
        Command::Agent(_)
        | Command::Guard(_)
        | Command::Proxy(_)
        | Command::Sample(_)
        | Command::Completions(_)
        | Command::Openapi
        | Command::Simulate(_)
        | Command::MarkdownHelp
        | Command::Clusters(_) => Ok(Done::Yes),
    }
}

impl Session {
    /// Speaks with the cluster that is meant. An agent that is being restarted is waited for.
    async fn client(&self) -> Result<Client, Error> {
        let cluster = self.place.choose()?;
        let layout = self.place.layout(&cluster);
        let deadline = Instant::now() + RESTART_MAX;
        while place::life(&layout) == Life::Starting {
            if Instant::now() >= deadline {
                let guard = place::holder(&layout.guard_lock());
                return Err(Error::AgentAway {
                    cluster,
                    log: layout.own_log("agent"),
                    guard,
                });
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(self.client_of(&cluster))
    }

    fn client_of(&self, cluster: &str) -> Client {
        Client::new(cluster, &self.place.layout(cluster))
    }

    /// Asks before something that cannot be taken back.
    fn consent(&self, yes: bool, what: &'static str, question: &str) -> Result<(), Error> {
        if yes {
            return Ok(());
        }
        match self.output.ask(question) {
            Consent::Yes => Ok(()),
            Consent::No => Err(Error::Declined),
            Consent::NoTerminal => Err(Error::NobodyToAsk { what }),
        }
    }

    /// The answer as JSON.
    fn json(&self, raw: &str) {
        self.output.verbatim_line(&render::pretty_json(raw));
    }
}

/// A value of ours as JSON. Our own types have string keys and finite numbers, so that this cannot fail.
fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"))
}
