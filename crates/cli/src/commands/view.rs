//! The live view: `status --watch`, and what `up` shows once all is well.

use super::{Error, Session};
use crate::client::Client;
use crate::feed::{self, News};
use crate::output::Output;
use crate::place::{Life, life};
use crate::render::{
    View,
    watch::{Frame, frame},
};
use crate::terminal::{Screen, keys};
use api::Status;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How long a second Ctrl-C is waited for.
pub(super) const SECOND_CTRL_C: Duration = Duration::from_secs(5);
/// A cluster that did not run for so long was stopped: a killed agent is back sooner.
pub(super) const GONE: Duration = Duration::from_secs(2);

/// What Ctrl-C does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CtrlC {
    /// Ends the view.
    Quits,
    /// Asks first; a second one stops the cluster.
    Stops,
}

/// How the view ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The operator had enough.
    Quit,
    /// The operator wants out; everything keeps running.
    Detach,
    /// The operator wants everything stopped.
    Stop,
    /// Somebody stopped the cluster.
    Gone,
}

/// Shows how things stand until it ends, in the alternate screen.
pub(super) async fn show(
    session: &Session,
    client: &Client,
    service: Option<&str>,
    ctrl_c: CtrlC,
) -> Result<End, Error> {
    let trouble = |source| Error::Runtime {
        doing: "watch for signals",
        source,
    };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(trouble)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(trouble)?;
    let mut resized = signal(SignalKind::window_change()).map_err(trouble)?;
    let layout = session.place.layout(client.cluster());
    let screen = Screen::enter().map_err(|source| Error::Runtime {
        doing: "draw on the terminal",
        source,
    })?;
    let mut keys = keys();
    let mut news = feed::follow(client.clone());
    // The age of the data is shown in seconds.
    let mut tick = interval(Duration::from_millis(500));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);

    let mut page = Page {
        ctrl_c,
        service,
        heard: None,
        trouble: None,
        asked: None,
        gone: None,
    };
    loop {
        tokio::select! {
            Some(news) = news.recv() => match news {
                News::Status(answer, at) => {
                    page.heard = Some((answer.value, at));
                    page.trouble = None;
                    page.gone = None;
                }
                News::Trouble(trouble) => {
                    page.trouble = Some(trouble);
                    page.gone = (life(&layout) == Life::Stopped).then(|| page.gone.unwrap_or_else(Instant::now));
                }
                News::Failed(error) => return Err(error.into()),
            },
            Some(key) = keys.recv() => if matches!(key, b'q' | b'Q') { return Ok(End::Quit) },
            _ = interrupt.recv() => match (ctrl_c, page.asked) {
                (CtrlC::Quits, _) => return Ok(End::Quit),
                (CtrlC::Stops, Some(_)) => return Ok(End::Stop),
                (CtrlC::Stops, None) => page.asked = Some(Instant::now()),
            },
            _ = terminate.recv() => return Ok(End::Detach),
            _ = resized.recv() => {}
            _ = tick.tick() => {}
        }
        if page.asked.is_some_and(|asked| asked.elapsed() >= SECOND_CTRL_C) {
            return Ok(End::Detach);
        }
        if ctrl_c == CtrlC::Stops && page.gone.is_some_and(|gone| gone.elapsed() >= GONE) {
            return Ok(End::Gone);
        }
        page.draw(&screen, &session.output)?;
    }
}

/// What the view knows.
struct Page<'a> {
    ctrl_c: CtrlC,
    service: Option<&'a str>,
    heard: Option<(Status, Instant)>,
    trouble: Option<String>,
    asked: Option<Instant>,
    gone: Option<Instant>,
}

impl Page<'_> {
    fn draw(&self, screen: &Screen, output: &Output) -> Result<(), Error> {
        let (width, rows) = Screen::size();
        let view = View {
            width,
            ..output.view.clone()
        };
        let lines = match &self.heard {
            None => vec![self.trouble.clone().unwrap_or_else(|| "waiting for the agent".into())],
            Some((status, at)) => {
                let value = Frame {
                    status,
                    service: self.service,
                    age: at.elapsed(),
                    trouble: self.trouble.as_deref(),
                    footer: &self.footer(),
                };
                frame(&value, rows, &view)
            }
        };
        screen.draw(&lines).map_err(|source| Error::Runtime {
            doing: "draw on the terminal",
            source,
        })
    }

    fn footer(&self) -> String {
        match (self.ctrl_c, self.asked) {
            (CtrlC::Quits, _) => "q quits".into(),
            (CtrlC::Stops, None) => "q leaves this view, services keep running; Ctrl-C twice stops them all".into(),
            (CtrlC::Stops, Some(asked)) => format!(
                "services keep running; press Ctrl-C again within {} s to stop them all",
                SECOND_CTRL_C.saturating_sub(asked.elapsed()).as_secs_f32().ceil()
            ),
        }
    }
}
