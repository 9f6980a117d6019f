//! `store-away`: all members of the store stand still for minutes. What is healthy must neither stop nor move beyond its policy, and nothing
//! may be lost.

use crate::{Context, say};
use anyhow::{Context as _, Result, ensure};
use api::SlotStatus;
use bench::cluster::{Active, Cluster, Process, Settings as Hosts, TOKEN_PORT, WEB_PORT};
use bench::report::Page;
use bench::trouble::{Begun, Trouble, heal_all};
use hosts::client::{Attempt, Client, Plan};
use hosts::outage::{Outage, Rule, outage};
use hosts::{Command, Host};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two looks.
const SLICE: Duration = Duration::from_secs(30);
const COMMAND_WITHIN: Duration = Duration::from_secs(60);
/// After the store's return all is redundant within this, or the run has failed.
const BACK_WITHIN: Duration = Duration::from_secs(90);
/// Keys that are written before, each acknowledged.
const KEYS: usize = 200;

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Settings {
    /// The timing: fast, lan, stock [default: what `cluster init` finds to fit]
    #[arg(long, value_parser = ["fast", "lan", "stock"])]
    profile: Option<String>,
    /// For how many minutes
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
    minutes: u64,
}

/// Main processes by instance.
type Pids = BTreeMap<String, u32>;

pub(crate) fn run(context: &Context, settings: &Settings) -> Result<Page> {
    let mut page = Page::new(
        "store-away",
        "The store is away",
        &format!("{} minutes, all three members stand still (SIGSTOP)", settings.minutes),
        &context.program,
        Path::new("/var/tmp"),
    )?;
    let mut hosts = Hosts::beside(context.program.clone())?;
    hosts.profile.clone_from(&settings.profile);
    let cluster = Cluster::up(&hosts)?;
    let before = cluster.active()?;
    let asked = cluster.names().iter().find(|name| **name != before.host);
    let asked = asked.context("there are fewer than two hosts")?.clone();
    let values = State::of(&cluster, &before.host)?;
    values.write_all()?;
    let pids = pids(&cluster, &asked)?;
    let token = Client::start(cluster.rig().client(), Plan::new(cluster.target(&asked, TOKEN_PORT)?))?;
    let web = Client::start(cluster.rig().client(), Plan::new(cluster.target(&asked, WEB_PORT)?))?;
    std::thread::sleep(Duration::from_secs(2));

    let since = hosts::now_ns();
    let stopped = stop_the_store(&cluster)?;
    let told = watch(&cluster, settings, &asked)?;
    let until = hosts::now_ns();
    heal_all(stopped, &cluster)?;
    let back = cluster.wait_redundant(BACK_WITHIN)?;
    std::thread::sleep(Duration::from_secs(2));
    let (token, web) = (token.stop()?, web.stop()?);

    // An exclusive active stands still while nobody can say that it is the only one: what counts is how soon it serves when the store is back.
    let resumed = outage(&token, until, Rule::default());
    let while_away = outage(&token, since, Rule::default());
    let when = failed_when(&web, since);
    let web = outage(&web, since, Rule::default());
    let after = cluster.active()?;
    let lost = values.missing()?;
    let others = self::pids(&cluster, &asked)?;
    let verdict = cluster.verdict()?;
    page.paragraph(
        "Three hosts out of namespaces of one machine. Two clients on the bridge ask a host that is not the active's 200 times a second each, with 200 ms from the \
         planned time to the whole answer: one the exclusive service `token`, one `web`, which is not exclusive.",
    );
    page.table(
        &["", "before", "after"],
        &[
            row("holder of the exclusive slot", &said(&before), &said(&after)),
            row("processes of instances", &listed(&pids), &listed(&others)),
            row(
                "values in the applications' state",
                &KEYS.to_string(),
                &format!("{}, {lost} lost or changed", KEYS - lost),
            ),
        ],
    );
    page.table(
        &[
            "service",
            "requests",
            "failed",
            "without an answer, s",
            "serves again after the store's return, ms",
        ],
        &[
            figures("token (exclusive, policy `freeze`)", &while_away, Some(&resumed)),
            figures("web", &web, None),
        ],
    );
    page.paragraph(&when);
    page.paragraph(&format!(
        "All redundant again {:.1} s after the store's return. What the asked host said meanwhile: {}.",
        back.as_secs_f64(),
        told.join("; ")
    ));
    page.paragraph(&format!("The witness from outside: {verdict}."));
    Ok(page)
}

fn row(name: &str, before: &str, after: &str) -> Vec<String> {
    [name, before, after].map(str::to_owned).into()
}

fn figures(name: &str, outage: &Outage, resumed: Option<&Outage>) -> Vec<String> {
    let length = |outage: &Outage| outage.length;
    vec![
        name.to_owned(),
        outage.sent.to_string(),
        outage.failed.to_string(),
        length(outage).map_or("for ever".into(), |length| format!("{:.1}", length.as_secs_f64())),
        resumed.map_or("–".into(), |resumed| {
            length(resumed).map_or("never".into(), |length| length.as_millis().to_string())
        }),
    ]
}

/// When requests failed, in stretches of good ones less than a second.
fn failed_when(attempts: &[Attempt], since_ns: u64) -> String {
    let mut stretches: Vec<(f64, f64, usize)> = Vec::new();
    let failed = attempts.iter().filter(|attempt| !attempt.is_good());
    for at in failed.map(|attempt| (attempt.planned_ns as f64 - since_ns as f64) / 1e9) {
        match stretches.last_mut().filter(|last| at - last.1 < 1.0) {
            Some(last) => (last.1, last.2) = (at, last.2 + 1),
            None => stretches.push((at, at, 1)),
        }
    }
    if stretches.is_empty() {
        return "No request to `web` failed.".to_owned();
    }
    let each = stretches
        .iter()
        .map(|(from, to, count)| format!("{count} from {from:.1} s to {to:.1} s"));
    format!(
        "Requests to `web` failed, by the time since the store stood still: {}.",
        each.collect::<Vec<_>>().join(", ")
    )
}

fn said(active: &Active) -> String {
    format!("{} on {} at epoch {}", active.instance, active.host, active.epoch)
}

fn listed(pids: &Pids) -> String {
    let each = pids.iter().map(|(instance, pid)| format!("{instance} {pid}"));
    each.collect::<Vec<_>>().join(", ")
}

fn pids(cluster: &Cluster, host: &str) -> Result<Pids> {
    let status = cluster.status(host)?;
    let instances = status.services.iter().flat_map(|service| &service.instances);
    Ok(instances
        .filter_map(|instance| Some((instance.id.clone(), instance.pid?)))
        .collect())
}

fn stop_the_store(cluster: &Cluster) -> Result<Vec<Begun>> {
    let members = cluster.names().iter().map(|host| Trouble::Stop {
        host: host.clone(),
        process: Process::Etcd,
    });
    members.map(|member| member.begin(cluster)).collect()
}

/// Looks now and then until the time is over; returns what was told, each sentence once.
fn watch(cluster: &Cluster, settings: &Settings, asked: &str) -> Result<Vec<String>> {
    let began = Instant::now();
    let lasts = Duration::from_secs(settings.minutes * 60);
    let mut told: Vec<String> = Vec::new();
    while began.elapsed() < lasts {
        std::thread::sleep(SLICE.min(lasts.saturating_sub(began.elapsed())));
        let status = cluster.status(asked)?;
        let slots = status.services.iter().flat_map(|service| {
            let said = move |slot: &SlotStatus| format!("{} {}: {}", service.name, slot.state, slot.because);
            service.slots.iter().map(said)
        });
        let problems = status.problems.iter().map(|problem| problem.text.clone());
        let now: Vec<String> = slots.chain(problems).collect();
        say(&format!("{:.0} s: {}", began.elapsed().as_secs_f64(), now.join("; ")));
        for words in now {
            // The time in a sentence goes on: once is enough.
            let same = |known: &String| without_figures(known) == without_figures(&words);
            if !told.iter().any(same) {
                told.push(words);
            }
        }
    }
    Ok(told)
}

fn without_figures(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_ascii_digit()).collect()
}

/// What the exclusive service's instances keep in the store.
struct State<'a> {
    cluster: &'a Cluster,
    host: &'a Host,
    token: String,
}

impl<'a> State<'a> {
    fn of(cluster: &'a Cluster, host: &str) -> Result<Self> {
        let host = cluster.host(host)?;
        let mut state = Self {
            cluster,
            host,
            token: String::new(),
        };
        let answer = state.curl("POST", "tokens/token/bench", None)?;
        let answer: serde_json::Value = serde_json::from_str(&answer).context("no token for the state")?;
        state.token = answer["token"].as_str().context("no token for the state")?.to_owned();
        Ok(state)
    }

    fn curl(&self, method: &str, path: &str, value: Option<&str>) -> Result<String> {
        // Tokens are the operator's to give, values are for who has one: each has a socket of its own.
        let door = if path.starts_with("tokens/") { "api" } else { "state" };
        let socket = format!("/var/lib/understudy/{}/run/{door}.sock", bench::cluster::NAME);
        let url = format!("http://localhost/v1/state/{path}");
        let token = format!("Authorization: Bearer {}", self.token);
        let mut words = vec![
            "curl",
            "-sS",
            "--fail-with-body",
            "-X",
            method,
            "--unix-socket",
            &socket,
            "-H",
            &token,
            &url,
        ];
        words.extend(value.iter().flat_map(|value| ["--data-binary", *value]));
        let output = self.host.run_within(Command::new(words), COMMAND_WITHIN)?;
        ensure!(
            output.ended.is_success(),
            "curl {method} {path}: {}{}",
            output.stdout,
            output.stderr
        );
        Ok(output.stdout)
    }

    fn write_all(&self) -> Result<()> {
        (0..KEYS).try_for_each(|key| self.curl("PUT", &format!("kv/away/{key}"), Some(&value(key))).map(drop))
    }

    /// How many are not as they were acknowledged.
    fn missing(&self) -> Result<usize> {
        self.cluster.wait_redundant(BACK_WITHIN)?;
        let mut missing = 0;
        for key in 0..KEYS {
            let answer = self.curl("GET", &format!("kv/away/{key}"), None);
            missing += usize::from(answer.ok() != Some(value(key)));
        }
        Ok(missing)
    }
}

fn value(key: usize) -> String {
    format!("acknowledged before the store stood still: {key}")
}
