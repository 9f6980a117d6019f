//! `up`: from a file to services that are redundant, on this machine, in one go.
//!
//! ```text
//!   file read and checked ─► runs already? ─yes─► plan, ask, apply ─┐
//!                               │ no                                ▼
//!                               └► guard ─► agent ─► apply ─► all redundant? ─► live view
//! ```

use super::events::follow_from_now;
use super::files::{self, File};
use super::view::{self, CtrlC, End, SECOND_CTRL_C};
use super::daemons::{self, Guard};
use super::{Done, Error as CommandError, Session, act, check, down, plan};
use crate::args;
use crate::client::Client;
use crate::feed::{self, News};
use crate::place::{Life, life};
use crate::render::{clean, plural, span};
use api::layout::Layout;
use api::{Outcome, ServiceStatus, Status};
use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};

/// An agent opens its store, adopts what runs, and answers; a thousand instances need a second.
const AGENT_START_MAX: Duration = Duration::from_secs(20);
/// How often it is looked whether it answers.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Without anything new for so long, it is said what is being waited for.
const SAY_WAITING_EVERY: Duration = Duration::from_secs(5);
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
    AgentEnded { cluster: String, log: String, folder: PathBuf },

    #[error("the agent of cluster `{cluster}` did not answer within {}s{}", AGENT_START_MAX.as_secs(), tail(log))]
    AgentSilent { cluster: String, log: String, folder: PathBuf },
}

impl Error {
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Error::MakeFolder { .. } => Some("run this as a user who may write there, or choose another folder with `--state-dir`".into()),
            Error::Guard { .. } => None,
            Error::AgentEnded { folder, .. } | Error::AgentSilent { folder, .. } => {
                Some(format!("nothing was left running; the logs are in {}", folder.display()))
            }
        }
    }
}

fn tail(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!("; its log ends with\n{log}") }
}

/// `up`
pub(super) async fn run(session: &Session, args: &args::Up) -> Result<Done, CommandError> {
    let file = files::read(session, &args.file)?;
    let cluster = file.cluster_of(session)?;
    let layout = session.place.layout(&cluster);
    let client = session.client_of(&cluster);
    let mut signals = Signals::new()?;
    match life(&layout) {
        Life::Stopped => {
            let starting = start(session, args, &file, &layout, &client);
            // Whoever ends this program meanwhile wants nothing left behind.
            let interrupted = tokio::select! {
                started = starting => { started?; false }
                () = signals.any() => true,
            };
            if interrupted {
                session.output.say("interrupted: stopping what was started");
                return stop(session, &client).await.map(|_| Done::No);
            }
        }
        Life::Running | Life::Starting | Life::Closed => {
            await_agent(&layout, &client, &Logs::from_here(&layout), None).await?;
            session.output.say(&format!("cluster `{cluster}` already runs; this changes it to what the file says"));
            let status = client.status().await?;
            let nodes = status.nodes.len();
            if args.api.is_some() || args.nodes.is_some_and(|wanted| wanted as usize != nodes) {
                session.output.say(&format!(
                    "note: `--nodes` and `--api` are taken at the start only; it runs with {}, `{} down` first to change that",
                    plural(nodes as u64, "node"),
                    session.place.program
                ));
            }
            if plan::carry_out(session, &client, &file, args.yes, false).await? == Done::No {
                return Ok(Done::No);
            }
        }
    }
    match until_redundant(session, &client, &mut signals, args.timeout).await? {
        Progress::Redundant(status) => {
            session.output.answer(&welcome(session, &status));
            if args.detach {
                return Ok(Done::Yes);
            }
        }
        Progress::TimedOut(status) => {
            session.output.say(&not_redundant(session, &status, args.timeout));
            if args.detach {
                return Ok(Done::No);
            }
        }
        Progress::Ended(end) => return finish(session, &client, end).await,
    }
    let end = stay(session, &client, &mut signals).await?;
    finish(session, &client, end).await
}

/// Starts a cluster that does not run, and gives it the file. If that fails, nothing is left running.
async fn start(session: &Session, args: &args::Up, file: &File, layout: &Layout, client: &Client) -> Result<(), CommandError> {
    check::must_run_here(session, file, &args.file)?;
    // Services may run as other users: those pass through here to their data, and see nothing on the way.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(layout.run());
    made.map_err(|source| Error::MakeFolder { path: layout.run(), source })?;
    session.output.say(&format!("starting cluster `{}` in {}", client.cluster(), layout.root().display()));
    let logs = Logs::from_here(layout);
    let guard = Guard::start(session, client.cluster(), args.nodes.unwrap_or(1), args.api)
        .map_err(|source| Error::Guard { cluster: client.cluster().to_owned(), source })?;
    let begun = async {
        await_agent(layout, client, &logs, Some(&guard)).await?;
        act::done(client.post::<_, Outcome>("/v1/apply", &file.request(None)).await?.value)
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
        while life(layout) != Life::Stopped && Instant::now() < deadline {
            sleep(LOOK_EVERY).await;
        }
    }
    daemons::end(layout).await;
}

/// Waits until the agent answers, as long as there is one on its way.
async fn await_agent(layout: &Layout, client: &Client, logs: &Logs, guard: Option<&Guard>) -> Result<(), CommandError> {
    let deadline = Instant::now() + AGENT_START_MAX;
    let mut failed_since: Option<Instant> = None;
    loop {
        let state = life(layout);
        // Somebody else's: asking gives the error that says so.
        if matches!(state, Life::Running | Life::Closed) {
            return Ok(client.status().await.map(|_| ())?);
        }
        if failed_since.is_none() && logs.agent_gave_a_reason() {
            failed_since = Some(Instant::now());
        }
        let ended = match guard {
            Some(guard) => guard.has_ended(),
            None => state == Life::Stopped,
        };
        let (cluster, folder) = (client.cluster().to_owned(), layout.run());
        if ended || failed_since.is_some_and(|since| since.elapsed() >= AGENT_RETRY_MAX) {
            return Err(Error::AgentEnded { cluster, log: logs.tail(), folder }.into());
        }
        if Instant::now() >= deadline {
            return Err(Error::AgentSilent { cluster, log: logs.tail(), folder }.into());
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The logs of our own daemons, from a moment on.
struct Logs {
    agent: (PathBuf, u64),
    guard: (PathBuf, u64),
}

impl Logs {
    fn from_here(layout: &Layout) -> Self {
        let end = |process: &str| {
            let path = layout.own_log(process);
            let length = path.metadata().map_or(0, |metadata| metadata.len());
            (path, length)
        };
        Self { agent: end("agent"), guard: end("guard") }
    }

    /// Whether the agent said why it cannot work. What it logs has a time in front.
    fn agent_gave_a_reason(&self) -> bool {
        since(&self.agent).lines().any(|line| line.starts_with("error: "))
    }

    /// The last lines of the agent's, or of the guard's if it never came to an agent.
    fn tail(&self) -> String {
        let text = [&self.agent, &self.guard].map(since).into_iter().find(|text| !text.trim().is_empty()).unwrap_or_default();
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

/// How the wait for redundancy ended.
enum Progress {
    Redundant(Box<Status>),
    TimedOut(Box<Status>),
    Ended(End),
}

/// Tells each service as it becomes redundant, until all are.
async fn until_redundant(session: &Session, client: &Client, signals: &mut Signals, limit: Duration) -> Result<Progress, CommandError> {
    let begun = Instant::now();
    let layout = session.place.layout(client.cluster());
    let mut news = feed::follow(client.clone());
    let mut told = Told::default();
    let mut last: Option<Box<Status>> = None;
    let mut asked: Option<Instant> = None;
    loop {
        tokio::select! {
            news = news.recv() => match news {
                Some(News::Status(answer, _)) => {
                    told.progress(session, &answer.value, begun);
                    if answer.value.services.iter().all(|service| service.state == "redundant") {
                        return Ok(Progress::Redundant(Box::new(answer.value)));
                    }
                    last = Some(Box::new(answer.value));
                }
                Some(News::Trouble(_)) if life(&layout) == Life::Stopped => return Ok(Progress::Ended(End::Gone)),
                Some(News::Trouble(_)) => {}
                Some(News::Failed(error)) => return Err(error.into()),
                None => return Ok(Progress::Ended(End::Gone)),
            },
            () = signals.any() => {
                if !io::stdin().is_terminal() || asked.is_some() {
                    return Ok(Progress::Ended(End::Stop));
                }
                session.output.say(&second_ctrl_c(session));
                asked = Some(Instant::now());
            }
            () = sleep(Duration::from_millis(200)) => {}
        }
        if asked.is_some_and(|asked| asked.elapsed() >= SECOND_CTRL_C) {
            return Ok(Progress::Ended(End::Detach));
        }
        if let Some(status) = &last {
            told.waiting(session, status);
            if begun.elapsed() >= limit {
                return Ok(Progress::TimedOut(status.clone()));
            }
        }
    }
}

fn second_ctrl_c(session: &Session) -> String {
    format!(
        "services keep running; press Ctrl-C again within {} s to stop them all (later: `{} down`)",
        SECOND_CTRL_C.as_secs(),
        session.place.program
    )
}

/// What was said already, so that nothing is said twice.
#[derive(Default)]
struct Told {
    redundant: BTreeSet<String>,
    problems: BTreeSet<String>,
    last: Option<Instant>,
}

impl Told {
    fn progress(&mut self, session: &Session, status: &Status, begun: Instant) {
        for service in &status.services {
            if service.state == "redundant" && self.redundant.insert(service.name.clone()) {
                session.output.say(&format!("  {} is redundant after {}", clean(&service.name), span(begun.elapsed())));
                self.last = Some(Instant::now());
            }
        }
        for problem in status.problems.iter().filter(|problem| problem.severity >= api::Severity::Error) {
            if self.problems.insert(format!("{}/{}", problem.code, problem.about)) {
                session.output.say(&format!("  problem: {} (hint: {})", clean(&problem.text), clean(&problem.hint)));
                self.last = Some(Instant::now());
            }
        }
    }

    fn waiting(&mut self, session: &Session, status: &Status) {
        let last = *self.last.get_or_insert_with(Instant::now);
        if last.elapsed() < SAY_WAITING_EVERY {
            return;
        }
        self.last = Some(Instant::now());
        for service in status.services.iter().filter(|service| service.state != "redundant") {
            session.output.say(&format!("  waiting for {}: {}, {}", clean(&service.name), clean(&service.state), clean(&service.because)));
        }
    }
}

/// Stays until told to go: a live view on a terminal, what happens line by line elsewhere.
async fn stay(session: &Session, client: &Client, signals: &mut Signals) -> Result<End, CommandError> {
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        return view::show(session, client, None, CtrlC::Stops).await;
    }
    let mut asked: Option<Instant> = None;
    let layout = session.place.layout(client.cluster());
    let happenings = follow_from_now(session, client);
    tokio::pin!(happenings);
    let mut happenings_ended = false;
    let mut gone: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = &mut happenings, if !happenings_ended => happenings_ended = true,
            () = signals.any() => {
                if !io::stdin().is_terminal() || asked.is_some() {
                    return Ok(End::Stop);
                }
                session.output.say(&second_ctrl_c(session));
                asked = Some(Instant::now());
            }
            () = sleep(Duration::from_millis(250)) => {
                gone = (life(&layout) == Life::Stopped).then(|| gone.unwrap_or_else(Instant::now));
            }
        }
        if asked.is_some_and(|asked| asked.elapsed() >= SECOND_CTRL_C) {
            return Ok(End::Detach);
        }
        if gone.is_some_and(|gone| gone.elapsed() >= view::GONE) {
            return Ok(End::Gone);
        }
    }
}

async fn finish(session: &Session, client: &Client, end: End) -> Result<Done, CommandError> {
    match end {
        End::Quit | End::Detach => {
            session.output.say(&format!(
                "cluster `{0}` keeps running: `{1} status` shows it, `{1} down` stops it",
                client.cluster(),
                session.place.program
            ));
            Ok(Done::Yes)
        }
        End::Gone => {
            session.output.say(&format!("cluster `{}` was stopped", client.cluster()));
            Ok(Done::Yes)
        }
        End::Stop => stop(session, client).await,
    }
}

async fn stop(session: &Session, client: &Client) -> Result<Done, CommandError> {
    let layout = session.place.layout(client.cluster());
    if life(&layout) == Life::Stopped {
        return Ok(Done::Yes);
    }
    // An agent that does not answer cannot stop anything in order; its guard can end it.
    if life(&layout) != Life::Running {
        daemons::end(&layout).await;
        return Ok(Done::Yes);
    }
    let outcome = down::stop(session, client).await?;
    act::tell(session, Ok(outcome), false)
}

/// Where to go from here.
fn welcome(session: &Session, status: &Status) -> String {
    let program = &session.place.program;
    let mut out = format!("{} is up: {}, all redundant\n\n", clean(&status.cluster), plural(status.services.len() as u64, "service"));
    let widest = |of: fn(&ServiceStatus) -> usize| status.services.iter().map(of).max().unwrap_or(0);
    let name = widest(|service| service.name.len());
    let listen = widest(|service| service.listen.as_deref().unwrap_or("-").len());
    // More than this many names say less than their number.
    const NAMED_MAX: usize = 4;
    for service in &status.services {
        let names = |role: &str| {
            let names: Vec<&str> =
                service.instances.iter().filter(|instance| instance.role == role).map(|instance| instance.id.as_str()).collect();
            match names.len() {
                0 => String::new(),
                1..=NAMED_MAX => format!("{role} {}", names.join(", ")),
                many => format!("{many} {role}"),
            }
        };
        let roles: Vec<String> = [names("active"), names("standby")].into_iter().filter(|names| !names.is_empty()).collect();
        out.push_str(&format!("  {:name$}  {:listen$}  {}\n", service.name, service.listen.as_deref().unwrap_or("-"), roles.join("; ")));
    }
    let mut next = vec![(format!("{program} status"), "how everything stands".to_owned())];
    if let Some((service, victim)) = status.services.iter().find_map(|service| {
        let victim = service.instances.iter().find(|instance| instance.role == "active" && instance.pid.is_some())?;
        (!service.failover_order.is_empty()).then_some((service, victim))
    }) {
        let heir = service.failover_order.first().map_or("a standby", String::as_str);
        next.push((format!("kill -9 {}", victim.pid.unwrap_or_default()), format!("kill {} and see {heir} take over", victim.id)));
    }
    if let Some(node) = status.nodes.get(1) {
        next.push((format!("{program} drill node {} --for 30s", node.name), "take a node away for a while".to_owned()));
    }
    next.push((format!("{program} events --failovers"), "each takeover, step by step".to_owned()));
    next.push((format!("{program} down"), "stop it all".to_owned()));
    let command = next.iter().map(|(command, _)| command.chars().count()).max().unwrap_or(0);
    out.push('\n');
    for (typed, what) in next {
        out.push_str(&format!("  {typed:command$}  {what}\n"));
    }
    out
}

fn not_redundant(session: &Session, status: &Status, limit: Duration) -> String {
    let mut out = format!("not everything is redundant after {}:", span(limit));
    for service in status.services.iter().filter(|service| service.state != "redundant") {
        out.push_str(&format!("\n  {} is {}: {}", clean(&service.name), clean(&service.state), clean(&service.because)));
    }
    out.push_str(&format!("\nit is tried on; `{} status` shows how it goes", session.place.program));
    out
}

/// Ctrl-C, or a wish from outside to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, CommandError> {
        let trouble = |source| CommandError::Runtime { doing: "watch for signals", source };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(trouble)?,
            terminate: signal(SignalKind::terminate()).map_err(trouble)?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
