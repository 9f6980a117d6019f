//! `node-loss`: what a client sees when a host with the active is lost in each of the ways that hosts are lost, and when it is moved away in order.

use crate::{Context, say};
use anyhow::{Context as _, Result, bail};
use api::{EventPage, Failover, Step};
use bench::chaos::{self, Round};
use bench::cluster::{Cluster, Process, Settings as Hosts, TOKEN_PORT};
use bench::report::Page;
use bench::trouble::Trouble;
use hosts::client::{Client, Plan};
use hosts::outage::{Outage, Rule, Summary, outage};
use model::Profile;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// All is redundant again within this, or the run has failed.
const BACK_WITHIN: Duration = Duration::from_secs(90);
/// A write of the store on a machine like this.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);
/// A client that was there before and stays for so long after.
const CALM: Duration = Duration::from_millis(700);

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Settings {
    /// Only these timings [default: fast and lan]
    #[arg(long, value_parser = ["fast", "lan", "stock"])]
    profile: Vec<String>,
    /// Only these faults, by their names
    #[arg(long)]
    fault: Vec<String>,
    /// Where logs go of tries that took far longer than they should
    #[arg(long, default_value = "/var/tmp/understudy-node-loss")]
    keep: PathBuf,
}

/// What befalls the active's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Power,
    Link,
    Path,
    AgentStopped,
    AgentKilled,
    StoreLeader,
    Everything,
    Active,
    Switchover,
    Drain,
}

impl Loss {
    const ALL: [Loss; 10] = [
        Loss::Power,
        Loss::Link,
        Loss::Path,
        Loss::AgentStopped,
        Loss::AgentKilled,
        Loss::StoreLeader,
        Loss::Everything,
        Loss::Active,
        Loss::Switchover,
        Loss::Drain,
    ];

    fn name(self) -> &'static str {
        match self {
            Loss::Power => "host power loss",
            Loss::Link => "link down",
            Loss::Path => "path cut, carrier up",
            Loss::AgentStopped => "agent SIGSTOP",
            Loss::AgentKilled => "agent kill -9",
            Loss::StoreLeader => "store leader kill -9",
            Loss::Everything => "all at once",
            Loss::Active => "active kill -9",
            Loss::Switchover => "switchover, planned",
            Loss::Drain => "drain, planned",
        }
    }

    /// Whether the slot can only be taken when the lease has run out.
    fn waits_for_the_lease(self) -> bool {
        matches!(
            self,
            Loss::Power | Loss::Link | Loss::Path | Loss::AgentStopped | Loss::Everything
        )
    }

    fn troubles(self, active: &str, leader: &str) -> Vec<Trouble> {
        let host = active.to_owned();
        let process = |process| (host.clone(), process);
        let stop = |(host, process)| Trouble::Stop { host, process };
        let kill = |(host, process)| Trouble::Kill { host, process };
        match self {
            Loss::Power => vec![Trouble::PowerLoss { host }],
            Loss::Link => vec![Trouble::LinkDown { host }],
            Loss::Path => vec![Trouble::PathCut { host }],
            Loss::AgentStopped => vec![stop(process(Process::Agent))],
            Loss::AgentKilled => vec![kill(process(Process::Agent))],
            Loss::StoreLeader => vec![kill((leader.to_owned(), Process::Etcd))],
            Loss::Everything => vec![
                stop(process(Process::Agent)),
                kill(process(Process::Etcd)),
                Trouble::PathCut { host: host.clone() },
                Trouble::PowerLoss { host: host.clone() },
            ],
            Loss::Active => vec![kill(process(Process::Token))],
            Loss::Switchover | Loss::Drain => Vec::new(),
        }
    }
}

/// One try.
struct Try {
    outage: Outage,
    /// Whether the store's leader was on the active's host.
    with_leader: bool,
    /// From mending to redundant, if something was broken.
    back_after: Option<Duration>,
    steps: Option<Failover>,
}

pub(crate) fn run(context: &Context, settings: &Settings) -> Result<Page> {
    let runs = context.runs(30);
    let profiles = match settings.profile.is_empty() {
        true => vec!["fast".to_owned(), "lan".to_owned()],
        false => settings.profile.clone(),
    };
    let names = Loss::ALL.map(Loss::name);
    if let Some(unknown) = settings.fault.iter().find(|fault| !names.contains(&fault.as_str())) {
        bail!(
            "`{unknown}` is no fault of this benchmark; they are called: {}",
            names.join("; ")
        );
    }
    let losses: Vec<Loss> = Loss::ALL
        .into_iter()
        .filter(|loss| settings.fault.is_empty() || settings.fault.iter().any(|name| name == loss.name()))
        .collect();
    let mut page = Page::new(
        "node-loss",
        "The loss of a host, as a client sees it",
        &format!("{runs} tries of each kind, three hosts with a member of etcd on each"),
        &context.program,
        Path::new("/var/tmp"),
    )?;
    page.paragraph(
        "Hosts are namespaces on one bridge (`crates/hosts`), each with agent, guard, proxy and etcd, all on one machine. The client is on the bridge too and asks a \
         host that is not broken for `/` each 5 ms on a new connection, with 200 ms from the planned time to the whole answer; that host's proxy knows the active. \
         Outage: from the first request that failed, by planned time, to the first of ten good ones in a row after the last that failed. The active has a host of \
         its own broken; kinds are taken in turn. Tries in which the client's own lateness was above 20 ms (p99) are dropped. An independent witness judged each try: \
         never two actives at once. W is the time after which a lease that was not renewed can be taken: no takeover of a lost host can be safe before it.",
    );
    let mut rows = Vec::new();
    let mut steps = Vec::new();
    for profile in &profiles {
        let mut hosts = Hosts::beside(context.program.clone())?;
        hosts.profile = Some(profile.clone());
        let cluster = Cluster::up(&hosts)?;
        let timing = timing_of(profile)?;
        let wait = timing.observer_wait();
        let mut tries: Vec<Vec<Try>> = losses.iter().map(|_| Vec::new()).collect();
        for number in 1..=runs {
            for (loss, tries) in losses.iter().zip(&mut tries) {
                let label = format!("{profile}, {}, {number} of {runs}", loss.name());
                let one = attempt(&cluster, *loss, wait).with_context(|| label.clone())?;
                let length = one
                    .outage
                    .length
                    .map_or("never back".into(), |length| format!("{} ms", length.as_millis()));
                say(&format!(
                    "{label}: out {length}, {} of {} failed, client late {:.1?}{}",
                    one.outage.failed,
                    one.outage.sent,
                    one.outage.late_p99,
                    if one.with_leader {
                        ", with the store's leader"
                    } else {
                        ""
                    }
                ));
                // Longer than anything should take: what explains it is gone with the hosts.
                if one.outage.length.is_none_or(|length| length > wait * 2) {
                    let kept = settings.keep.join(label.replace([' ', ','], "-"));
                    cluster.keep_logs(&kept)?;
                    say(&format!("logs of all hosts: {}", kept.display()));
                }
                tries.push(one);
            }
        }
        for (loss, tries) in losses.iter().zip(&tries) {
            rows.push(row(profile, *loss, wait, tries));
            steps.extend(step_row(profile, *loss, tries));
        }
    }
    let head = [
        "timing",
        "fault",
        "outage ms: **p50** / p95 / max",
        "p95 / W",
        "failed requests: p50 / max",
        "redundant again after mending, s: p50 / max",
        "never back",
        "tries that count (dropped)",
        "with the store's leader",
    ];
    page.table(&head, &rows);
    page.paragraph(
        "Where the time goes, in milliseconds from the moment that the new holder's agent knew (median over all tries that it told of; for a lost host that is when the \
         lease had run out). `routed` is when the proxies send clients to it.",
    );
    page.table(
        &[
            "timing",
            "fault",
            "dead for certain",
            "claimed",
            "promoted",
            "routed",
            "first answer",
            "told",
        ],
        &steps,
    );
    Ok(page)
}

fn timing_of(profile: &str) -> Result<model::Timing> {
    let known = Profile::ALL.into_iter().find(|known| known.name() == profile);
    Ok(known.context("no such profile")?.timing())
}

fn attempt(cluster: &Cluster, loss: Loss, wait: Duration) -> Result<Try> {
    cluster.wait_redundant(BACK_WITHIN)?;
    let active = cluster.active()?;
    let leader = cluster.store_leader()?;
    // Neither the active's host nor, where another is left, the leader's.
    let mut others: Vec<&String> = cluster.names().iter().filter(|name| **name != active.host).collect();
    others.sort_by_key(|name| **name == leader);
    let Some(asked) = others.first() else {
        bail!("there are fewer than two hosts");
    };
    let plan = Plan::new(cluster.target(asked, TOKEN_PORT)?);
    let troubles = loss.troubles(&active.host, &leader);
    let (outage, back_after) = if troubles.is_empty() {
        (planned(cluster, loss, &active.host, asked, plan)?, None)
    } else {
        let hold = if loss.waits_for_the_lease() {
            wait * 2 + CALM
        } else {
            CALM * 2
        };
        let Round { outage, back_after, .. } = chaos::play(cluster, troubles, hold, BACK_WITHIN, plan)?;
        (outage, Some(back_after))
    };
    let epoch = cluster.active()?.epoch;
    Ok(Try {
        outage,
        with_leader: leader == active.host,
        back_after,
        steps: steps_of(cluster, epoch)
            .ok()
            .flatten()
            .filter(|told| told.epoch > active.epoch),
    })
}

/// A move in order, under load.
fn planned(cluster: &Cluster, loss: Loss, from: &str, asked: &str, plan: Plan) -> Result<Outage> {
    let host = cluster.host(asked)?;
    let client = Client::start(cluster.rig().client(), plan)?;
    let ready = Instant::now();
    while client.good_in_a_row() < 20 && ready.elapsed() < COMMAND_WITHIN {
        std::thread::sleep(Duration::from_millis(10));
    }
    let since = hosts::now_ns();
    match loss {
        Loss::Drain => cluster.must(host, &["drain", from], COMMAND_WITHIN)?,
        _ => cluster.must(host, &["switchover", "token"], COMMAND_WITHIN)?,
    };
    std::thread::sleep(CALM);
    let attempts = client.stop()?;
    if loss == Loss::Drain {
        cluster.must(host, &["undrain", from], COMMAND_WITHIN)?;
    }
    let rule = Rule {
        good_in_a_row: 10,
        ..Rule::default()
    };
    Ok(outage(&attempts, since, rule))
}

/// What the agent that took the slot at this epoch told of it.
fn steps_of(cluster: &Cluster, epoch: u64) -> Result<Option<Failover>> {
    let active = cluster.active()?.host;
    let words = ["events", "--json", "--failovers", "--service", "token", "-n", "5"];
    let text = cluster.must(cluster.host(&active)?, &words, COMMAND_WITHIN)?;
    let page: EventPage = serde_json::from_str(&text)?;
    let told = page.events.into_iter().rev().filter_map(|event| event.failover);
    Ok(told.into_iter().find(|failover| failover.epoch == epoch))
}

fn row(profile: &str, loss: Loss, wait: Duration, tries: &[Try]) -> Vec<String> {
    let rule = Rule::default();
    let outages: Vec<Outage> = tries.iter().map(|one| one.outage).collect();
    let summary = Summary::of(&outages, rule);
    let ms = |quantile: f64| {
        let length = summary.length(quantile);
        length.map_or("–".into(), |length| format!("{:.0}", length.as_secs_f64() * 1e3))
    };
    let ratio = summary
        .length(0.95)
        .filter(|_| loss.waits_for_the_lease())
        .map_or("–".into(), |length| {
            format!("{:.2}", length.as_secs_f64() / wait.as_secs_f64())
        });
    let failed = |quantile: f64| summary.failed(quantile).map_or("–".into(), |failed| failed.to_string());
    let mut back: Vec<Duration> = tries.iter().filter_map(|one| one.back_after).collect();
    back.sort_unstable();
    let seconds = |place: usize| {
        back.get(place)
            .map_or("–".into(), |back| format!("{:.1}", back.as_secs_f64()))
    };
    vec![
        profile.to_owned(),
        loss.name().to_owned(),
        format!("**{}** / {} / {}", ms(0.5), ms(0.95), ms(1.0)),
        ratio,
        format!("{} / {}", failed(0.5), failed(1.0)),
        format!(
            "{} / {}",
            seconds(back.len() / 2),
            seconds(back.len().saturating_sub(1))
        ),
        summary.never_back.to_string(),
        format!("{} ({})", summary.lengths.len() + summary.never_back, summary.dropped),
        tries.iter().filter(|one| one.with_leader).count().to_string(),
    ]
}

fn step_row(profile: &str, loss: Loss, tries: &[Try]) -> Option<Vec<String>> {
    let told: Vec<&Failover> = tries.iter().filter_map(|one| one.steps.as_ref()).collect();
    if told.is_empty() {
        return None;
    }
    let at = |step: Step| {
        let mut times: Vec<u64> = told
            .iter()
            .filter_map(|failover| failover.steps.iter().find(|known| known.step == step))
            .map(|known| known.at_us)
            .collect();
        times.sort_unstable();
        let middle = times.get(times.len() / 2);
        middle.map_or("–".into(), |us| format!("{:.1}", *us as f64 / 1e3))
    };
    Some(vec![
        profile.to_owned(),
        loss.name().to_owned(),
        at(Step::ConfirmedDead),
        at(Step::Claimed),
        at(Step::Promoted),
        at(Step::Routed),
        at(Step::FirstAnswer),
        told.len().to_string(),
    ])
}
