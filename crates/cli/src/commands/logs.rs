//! `logs`

use super::{Done, Error, Session, to_json};
use crate::args;
use crate::client::{self, Client, segment};
use crate::names::{Kind, find};
use crate::render::{Tone, clean_log};
use api::{LogLine, Status};
use std::io::IsTerminal;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// Lines that wait to be printed; a program that writes faster waits for the reader, not in our memory.
const PENDING_MAX: usize = 1_024;
/// Between two attempts to reach an agent that restarts.
const RECONNECT: Duration = Duration::from_millis(250);
/// After this long without an agent the cluster counts as stopped.
const AGENT_AWAY_MAX: Duration = Duration::from_secs(30);

pub(super) async fn run(session: &Session, args: &args::Logs) -> Result<Done, Error> {
    let client = session.client().await?;
    let status = client.status().await?;
    let instances = instances(&status, &args.name)?;
    let widest = instances.iter().map(String::len).max().unwrap_or(0);
    let printer = Printer {
        session,
        json: args.json,
        terminal: std::io::stdout().is_terminal(),
        label: (instances.len() > 1).then_some(widest),
    };
    if args.follow {
        return follow(&client, instances, args.lines, &printer).await;
    }
    let mut all = Vec::new();
    let mut raw = String::new();
    let mut refusals = Refusals::of(instances.len());
    for instance in &instances {
        let path = format!("/v1/logs/{}?lines={}", segment(instance), args.lines);
        let answer = match client.get::<Vec<LogLine>>(&path).await {
            Err(error @ client::Error::Refused { .. }) => {
                refusals.one_more(session, error)?;
                continue;
            }
            answer => answer?,
        };
        raw = answer.raw;
        all.extend(answer.value);
    }
    match (args.json, instances.len()) {
        (true, 1) => session.json(&raw),
        (true, _) => session.output.verbatim_line(&to_json(&all)),
        (false, _) => all.iter().for_each(|line| printer.print(line)),
    }
    Ok(Done::Yes)
}

/// The instances that a name stands for: itself, or all of a service. One that is gone may still have left a log.
fn instances(status: &Status, name: &str) -> Result<Vec<String>, Error> {
    if let Some(service) = status.services.iter().find(|service| service.name == name) {
        return Ok(service.instances.iter().map(|instance| instance.id.clone()).collect());
    }
    let gone = name.parse::<model::InstanceId>().is_ok_and(|id| {
        status
            .services
            .iter()
            .any(|service| service.name == id.service().as_str())
    });
    if !gone {
        find(status, name, &[Kind::Service, Kind::Instance])?;
    }
    Ok(vec![name.to_owned()])
}

/// Of a service each node has the logs of its own: those that are elsewhere are told, and it is an error if all are.
struct Refusals {
    left: usize,
}

impl Refusals {
    fn of(instances: usize) -> Self {
        Self { left: instances }
    }

    fn one_more(&mut self, session: &Session, error: client::Error) -> Result<(), Error> {
        self.left -= 1;
        if self.left == 0 {
            return Err(error.into());
        }
        session.output.say(&error.to_string());
        Ok(())
    }
}

async fn follow(client: &Client, instances: Vec<String>, lines: u32, printer: &Printer<'_>) -> Result<Done, Error> {
    let (sender, mut receiver) = mpsc::channel(PENDING_MAX);
    let mut refusals = Refusals::of(instances.len());
    for instance in instances {
        tokio::spawn(follow_one(client.clone(), instance, lines, sender.clone()));
    }
    drop(sender);
    while let Some(line) = receiver.recv().await {
        match line {
            Ok(line) => printer.print(&line),
            Err(error @ client::Error::Refused { .. }) => refusals.one_more(printer.session, error)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Done::Yes)
}

/// One instance's lines, through restarts of the agent.
async fn follow_one(
    client: Client,
    instance: String,
    mut lines: u32,
    sender: mpsc::Sender<Result<LogLine, client::Error>>,
) {
    let mut away_since: Option<Instant> = None;
    loop {
        let path = format!("/v1/logs/{}/stream?lines={lines}", segment(&instance));
        let error = match client.stream::<LogLine>(&path).await {
            Ok(mut stream) => {
                away_since = None;
                // What was shown is not shown again after the agent came back.
                lines = 0;
                loop {
                    match stream.next().await {
                        Ok(Some(answer)) => {
                            if sender.send(Ok(answer.value)).await.is_err() {
                                return;
                            }
                        }
                        Ok(None) => break None,
                        Err(error) => break Some(error),
                    }
                }
            }
            Err(error) => Some(error),
        };
        let away = *away_since.get_or_insert_with(Instant::now);
        match error {
            Some(error) if !error.may_heal() || away.elapsed() > AGENT_AWAY_MAX => {
                let _ = sender.send(Err(error)).await;
                return;
            }
            // The log of an instance that is gone has an end; any other stream ended with its agent.
            None if client.status().await.is_ok_and(|status| !exists(&status, &instance)) => return,
            _ => {}
        }
        sleep(RECONNECT).await;
    }
}

fn exists(status: &Status, instance: &str) -> bool {
    status
        .services
        .iter()
        .flat_map(|service| &service.instances)
        .any(|known| known.id == instance)
}

struct Printer<'a> {
    session: &'a Session,
    json: bool,
    terminal: bool,
    /// Width of the instance's name before each line, where there are several.
    label: Option<usize>,
}

impl Printer<'_> {
    fn print(&self, line: &LogLine) {
        let output = &self.session.output;
        if self.json {
            let line = serde_json::to_string(line).unwrap_or_default();
            output.verbatim_line(&line);
            return;
        }
        let text = if self.terminal {
            clean_log(&line.line)
        } else {
            line.line.clone()
        };
        match self.label {
            None => output.verbatim_line(&text),
            Some(width) => {
                let name = output.view.paint(Tone::Quiet, &format!("{:width$} |", line.instance));
                output.verbatim_line(&format!("{name} {text}"));
            }
        }
    }
}
