//! `load`: tests a service, and says what it takes and what limits it.

use super::{Done, Error, Session};
use crate::args;
use crate::client::Client;
use crate::names::{Kind, find};
use crate::render::hanging;
use ::load::generator::{Progress, Request, Spacing};
use ::load::outcome::Outcome;
use ::load::test::{Plan, Surroundings, Told};
use ::load::{html, words};
use api::{Status, WindowPage};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

/// Of a step, what does not count, at most.
const SETTLE_MAX: Duration = Duration::from_secs(10);

pub(super) async fn run(session: &Session, args: &args::Load) -> Result<Done, Error> {
    let client = session.client().await?;
    let status = client.status().await?;
    find(&status, &args.service, &[Kind::Service])?;
    let plan = plan(args, &client).await?;
    let mut report = args.report.as_deref().map(Page::at).transpose()?;
    let mut screen = Screen::new(session, args.objective.to_string());
    let mut agent = Agent(client);
    let test = ::load::test::run(&plan, &mut agent, |told| screen.show(&told));
    let outcome = tokio::select! {
        outcome = test => outcome?,
        _ = tokio::signal::ctrl_c() => {
            session.output.say("\nended: nothing more is sent");
            return Ok(Done::No);
        }
    };
    if let Some(report) = &mut report {
        report.write(&html::page(&outcome))?;
    }
    if args.json {
        session.output.verbatim_line(&super::to_json(&outcome));
    } else {
        session.output.answer(&text(&outcome, session.output.view.width));
    }
    Ok(if outcome.ended.how == "aborted" {
        Done::No
    } else {
        Done::Yes
    })
}

/// The report of a test. That it can be written is known before anything is sent: a test takes minutes, and harms.
struct Page<'a> {
    path: &'a Path,
    file: File,
    /// There was nothing before.
    is_new: bool,
    written: bool,
}

impl<'a> Page<'a> {
    fn at(path: &'a Path) -> Result<Self, Error> {
        let is_new = !path.exists();
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|source| Self::failed(path, source))?;
        Ok(Self {
            path,
            file,
            is_new,
            written: false,
        })
    }

    fn write(&mut self, page: &str) -> Result<(), Error> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.write_all(page.as_bytes()))
            .map_err(|source| Self::failed(self.path, source))?;
        self.written = true;
        Ok(())
    }

    fn failed(path: &Path, source: io::Error) -> Error {
        Error::WriteReport {
            path: path.to_owned(),
            source,
        }
    }
}

impl Drop for Page<'_> {
    fn drop(&mut self) {
        if self.is_new && !self.written {
            // An empty page that stays behind does no harm.
            let _ = std::fs::remove_file(self.path);
        }
    }
}

async fn plan(args: &args::Load, client: &Client) -> Result<Plan, Error> {
    let request = match (&args.send, speaks_http(&args.service, client).await) {
        (None, true) => Request::Get {
            path: args.path.clone(),
        },
        (send, _) => Request::Connect {
            send: unescaped(send.as_deref().unwrap_or("")),
        },
    };
    Ok(Plan {
        service: args.service.clone(),
        request,
        objective: args.objective,
        rate: args.rate,
        from: args.from,
        rate_max: args.rate_max,
        step: args.step,
        settle: (args.step / 3).min(SETTLE_MAX),
        spacing: if args.even { Spacing::Even } else { Spacing::Poisson },
        seed: args.seed,
    })
}

/// What the file in force says of its protocol.
async fn speaks_http(service: &str, client: &Client) -> bool {
    let Ok(history) = client.get::<Vec<api::HistoryEntry>>("/v1/history").await else {
        return true;
    };
    let Some(text) = history
        .value
        .iter()
        .max_by_key(|entry| entry.revision)
        .map(|entry| entry.text.clone())
    else {
        return true;
    };
    let Ok(checked) = spec::parse(&text, "understudy.toml") else {
        return true;
    };
    let declared = checked
        .cluster
        .services
        .iter()
        .find(|(name, _)| name.as_str() == service);
    declared.is_none_or(|(_, service)| service.protocol == model::Protocol::Http)
}

fn unescaped(text: &str) -> Vec<u8> {
    text.replace("\\\\", "\u{0}")
        .replace("\\r", "\r")
        .replace("\\n", "\n")
        .replace('\u{0}', "\\")
        .into_bytes()
}

fn text(outcome: &Outcome, width: usize) -> String {
    let mut out = String::new();
    for line in words::report(outcome) {
        match line.strip_prefix("  ") {
            Some(part) => out.push_str(&hanging("    ", part, width)),
            None => out.push_str(&hanging("- ", &line, width)),
        }
    }
    out
}

/// The agent, as a test sees it.
struct Agent(Client);

impl Surroundings for Agent {
    async fn status(&mut self) -> Result<Status, String> {
        self.0.status().await.map_err(|error| error.to_string())
    }

    async fn windows(&mut self, after: u64) -> Result<WindowPage, String> {
        let path = format!("/v1/windows?after={after}");
        Ok(self
            .0
            .get::<WindowPage>(&path)
            .await
            .map_err(|error| error.to_string())?
            .value)
    }
}

/// What is shown while it goes: a line for each step, and on a terminal one that changes.
struct Screen<'a> {
    session: &'a Session,
    objective: String,
    changing: bool,
    doing: String,
}

impl<'a> Screen<'a> {
    fn new(session: &'a Session, objective: String) -> Self {
        Self {
            session,
            objective,
            changing: std::io::stderr().is_terminal(),
            doing: String::new(),
        }
    }

    fn show(&mut self, told: &Told<'_>) {
        match told {
            Told::Begins { rate, step, number } => {
                self.doing = format!("step {number}: {rate:.0} a second for {} s", step.as_secs());
                self.change("");
            }
            Told::Goes(progress) => self.change(&going(progress)),
            Told::Ended(step) => {
                let line = words::step(step, &self.objective);
                let clear = if self.changing { "\r\u{1b}[K" } else { "" };
                self.session.output.say(&format!("{clear}{line}"));
            }
        }
    }

    fn change(&self, more: &str) {
        if self.changing {
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "\r\u{1b}[K{}{more}", self.doing);
            let _ = stderr.flush();
        }
    }
}

fn going(progress: &Progress) -> String {
    let p99 = progress
        .p99_ms
        .map_or_else(String::new, |p99| format!(", p99 {p99:.0} ms"));
    format!(
        ", {} s: {} answered{p99}, {} failed, {} under way",
        progress.elapsed.as_secs(),
        progress.succeeded,
        progress.failed,
        progress.in_flight
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_may_have_line_breaks() {
        assert_eq!(unescaped("PING\\r\\n"), b"PING\r\n");
        assert_eq!(unescaped("a\\\\nb"), b"a\\nb");
    }
}
