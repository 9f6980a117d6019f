//! `up`: from a file to services that are redundant, on this machine, in one go.
//!
//! ```text
//!   file read and checked ─► runs already? ─yes─► plan, ask, apply ─┐
//!                               │ no                                ▼
//!                               └► guard ─► agent ─► apply ─► all redundant? ─► live view
//! ```

use super::events::follow_from_now;
use super::progress::{Progress, until_redundant};
use super::start::{Logs, await_agent, start};
use super::view::{self, CtrlC, End, SECOND_CTRL_C};
use super::{Done, Error, Session, act, daemons, down, files, plan};
use crate::args;
use crate::client::Client;
use crate::place::{Life, life};
use crate::render::plural;
use crate::render::welcome::{blocked_for_now, not_redundant, welcome};
use std::io::{self, IsTerminal};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};

/// `up`
pub(super) async fn run(session: &Session, args: &args::Up) -> Result<Done, Error> {
    let file = files::read(session, &args.file)?;
    let cluster = file.cluster_of(session)?;
    let layout = session.place.layout(&cluster);
    let client = session.client_of(&cluster);
    let mut signals = Signals::new()?;
    let life_before = life(&layout);
    let ran_before = !matches!(life_before, Life::Stopped);
    match life_before {
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
            session.output.say(&format!(
                "cluster `{cluster}` already runs; this changes it to what the file says"
            ));
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
    match until_redundant(session, &client, &mut signals, args.timeout, ran_before).await? {
        Progress::Redundant(status) => {
            // An agent of an earlier version has none; all else is as good without.
            let link = client
                .post::<_, api::DashboardLink>("/v1/dashboard?right=read", &())
                .await;
            let dashboard = link.ok().and_then(|answer| answer.value.local);
            session
                .output
                .answer(&welcome(&session.place.program, &status, dashboard.as_deref()));
            if args.detach {
                return Ok(Done::Yes);
            }
        }
        Progress::TimedOut(status) => {
            session
                .output
                .say(&not_redundant(&session.place.program, &status, args.timeout));
            if args.detach {
                return Ok(Done::No);
            }
        }
        Progress::Blocked(status) => {
            session.output.say(&blocked_for_now(&session.place.program, &status));
            if args.detach || ran_before {
                return Ok(Done::No);
            }
        }
        Progress::Ended(end) => return finish(session, &client, end).await,
    }
    let end = stay(session, &client, &mut signals).await?;
    finish(session, &client, end).await
}

pub(super) fn second_ctrl_c(session: &Session) -> String {
    format!(
        "services keep running; press Ctrl-C again within {} s to stop them all (later: `{} down`)",
        SECOND_CTRL_C.as_secs(),
        session.place.program
    )
}

/// Stays until told to go: a live view on a terminal, what happens line by line elsewhere.
async fn stay(session: &Session, client: &Client, signals: &mut Signals) -> Result<End, Error> {
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

async fn finish(session: &Session, client: &Client, end: End) -> Result<Done, Error> {
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
            session
                .output
                .say(&format!("cluster `{}` was stopped", client.cluster()));
            Ok(Done::Yes)
        }
        End::Stop => stop(session, client).await,
    }
}

async fn stop(session: &Session, client: &Client) -> Result<Done, Error> {
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

/// Ctrl-C, or a wish from outside to end.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, Error> {
        let trouble = |source| Error::Runtime {
            doing: "watch for signals",
            source,
        };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(trouble)?,
            terminate: signal(SignalKind::terminate()).map_err(trouble)?,
        })
    }

    pub(super) async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
