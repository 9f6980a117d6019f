//! `calm`: nothing breaks, but both cores and the disk are busy: nobody may be taken for dead.

use crate::{Context, say};
use anyhow::{Context as _, Result};
use api::{EventPage, Severity};
use bench::cluster::{Active, Cluster, Settings as Hosts, TOKEN_PORT};
use bench::report::Page;
use bench::trouble::{Trouble, heal_all};
use hosts::client::{Attempt, Client, Plan};
use hosts::witness::Verdict;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two looks at the cluster.
const SLICE: Duration = Duration::from_secs(60);
/// A machine this busy answers late.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);
/// After the load everything is redundant within this, or the run has failed.
const BACK_WITHIN: Duration = Duration::from_secs(90);
/// More than any slice brings.
const EVENTS_MAX: &str = "500";

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Settings {
    /// The timing: fast, lan, stock [default: what `cluster init` finds to fit]
    #[arg(long, value_parser = ["fast", "lan", "stock"])]
    profile: Option<String>,
    /// For how many minutes
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=1_440))]
    minutes: u64,
    /// How many processes use up the processors, on each of the three hosts; 0 if something else does
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=16))]
    hogs: u8,
}

/// What the witness reads of each minute goes back into the one before by this, so that nothing lies between them.
const BEFORE: Duration = Duration::from_secs(2);

/// What a minute brought.
struct Slice {
    attempts: Vec<Attempt>,
    /// A ring holds less than five minutes: each minute is judged when it is over.
    verdict: Verdict,
    active: Active,
    load: String,
}

pub(crate) fn run(context: &Context, settings: &Settings) -> Result<Page> {
    let mut page = Page::new(
        "calm",
        "Load without a fault",
        &format!(
            "{} minutes, {} busy processes on each of three hosts",
            settings.minutes, settings.hogs
        ),
        &context.program,
        Path::new("/var/tmp"),
    )?;
    let mut hosts = Hosts::beside(context.program.clone())?;
    hosts.profile.clone_from(&settings.profile);
    let cluster = Cluster::up(&hosts)?;
    let before = cluster.active()?;
    let seen = newest_event(&cluster)?;
    let mut busy = Vec::new();
    for host in cluster.names().iter().filter(|_| settings.hogs > 0) {
        let (host, count) = (host.clone(), settings.hogs);
        busy.push(Trouble::Hogs { host, count }.begin(&cluster)?);
    }
    let began = Instant::now();
    let mut slices = Vec::new();
    for minute in 1..=settings.minutes {
        let slice = one(&cluster, &before)?;
        let failed = slice.attempts.iter().filter(|attempt| !attempt.is_good()).count();
        say(&format!(
            "minute {minute} of {}: {} requests, {failed} failed, {} at epoch {}, load {}",
            settings.minutes,
            slice.attempts.len(),
            slice.active.instance,
            slice.active.epoch,
            slice.load
        ));
        slices.push(slice);
    }
    let lasted = began.elapsed();
    heal_all(busy, &cluster)?;
    cluster.wait_redundant(BACK_WITHIN)?;
    let kinds = kinds_since(&cluster, &seen)?;
    write(&mut page, settings, &slices, &before, &kinds, lasted);
    page.paragraph(&witnessed(&slices));
    Ok(page)
}

/// A minute of requests at a host that is not the active's.
fn one(cluster: &Cluster, before: &Active) -> Result<Slice> {
    let asked = cluster.names().iter().find(|name| **name != before.host);
    let asked = asked.context("there are fewer than two hosts")?;
    let before_ns = u64::try_from(BEFORE.as_nanos()).unwrap_or(u64::MAX);
    let since_ns = hosts::now_ns().saturating_sub(before_ns);
    let client = Client::start(cluster.rig().client(), Plan::new(cluster.target(asked, TOKEN_PORT)?))?;
    std::thread::sleep(SLICE);
    let attempts = client.stop()?;
    let load = fs::read_to_string("/proc/loadavg").context("failed to read /proc/loadavg")?;
    Ok(Slice {
        attempts,
        verdict: cluster.verdict_since(since_ns)?,
        active: cluster.active()?,
        load: load.split(' ').next().unwrap_or_default().to_owned(),
    })
}

/// What the witness from outside says of all minutes.
fn witnessed(slices: &[Slice]) -> String {
    let verdicts = || slices.iter().map(|slice| &slice.verdict);
    let epochs: BTreeSet<(u32, u64)> = verdicts()
        .flat_map(|verdict| verdict.spans.iter().map(|span| (span.slot, span.epoch)))
        .collect();
    // A gap at the border of two minutes is in both.
    let gaps: BTreeSet<(u64, u64)> = verdicts()
        .flat_map(|verdict| verdict.gaps.iter().map(|gap| (gap.from_ns, gap.to_ns)))
        .collect();
    let longest = gaps.iter().map(|(from, to)| to - from).max().unwrap_or(0);
    let unclean: Vec<String> = verdicts()
        .filter(|verdict| !verdict.is_clean())
        .map(ToString::to_string)
        .collect();
    let judged = match unclean.is_empty() {
        true => "never two at once, and no stamp lost".to_owned(),
        false => unclean.join("; "),
    };
    format!(
        "The witness from outside, read each minute: {} activation{} in all, {judged}; {} gaps in which nobody stamped, the longest {:.0} ms.",
        epochs.len(),
        if epochs.len() == 1 { "" } else { "s" },
        gaps.len(),
        longest as f64 / 1e6
    )
}

fn events(cluster: &Cluster, host: &str) -> Result<EventPage> {
    let words = ["events", "--json", "-n", EVENTS_MAX];
    let text = cluster.must(cluster.host(host)?, &words, COMMAND_WITHIN)?;
    Ok(serde_json::from_str(&text)?)
}

/// The number of the newest event on each host.
fn newest_event(cluster: &Cluster) -> Result<BTreeMap<String, u64>> {
    let names = cluster.names().iter();
    names
        .map(|host| {
            let newest = events(cluster, host)?.events.last().map_or(0, |event| event.seq);
            Ok((host.clone(), newest))
        })
        .collect()
}

/// What was told since, by kind: how often. What is only information is left out unless a slot changed hands.
fn kinds_since(cluster: &Cluster, seen: &BTreeMap<String, u64>) -> Result<BTreeMap<String, usize>> {
    let mut kinds = BTreeMap::new();
    for (host, newest) in seen {
        for event in events(cluster, host)?.events {
            let matters = event.severity != Severity::Info || event.failover.is_some();
            if event.seq > *newest && matters {
                *kinds.entry(event.kind).or_default() += 1;
            }
        }
    }
    Ok(kinds)
}

fn write(
    page: &mut Page,
    settings: &Settings,
    slices: &[Slice],
    before: &Active,
    kinds: &BTreeMap<String, usize>,
    lasted: Duration,
) {
    let busy = match settings.hogs {
        0 => "Other programs kept the cores busy, see the load.",
        _ => "Endless loops at usual priority keep the cores busy beyond what there is.",
    };
    page.paragraph(&format!(
        "Three hosts out of namespaces of one machine, with etcd, agent, guard and proxy each. {busy} A client on the bridge asks a host that is not the active's 200 \
         times a second on new connections, with 200 ms from the planned time to the whole answer. Nothing is broken on purpose, so each takeover is a false one.",
    ));
    let mut took: Vec<u64> = slices
        .iter()
        .flat_map(|slice| &slice.attempts)
        .map(|attempt| attempt.took_ns)
        .collect();
    took.sort_unstable();
    let ms = |per_mille: usize| {
        let place = (took.len() * per_mille / 1_000).min(took.len().saturating_sub(1));
        took.get(place)
            .map_or("–".into(), |ns| format!("{:.1}", *ns as f64 / 1e6))
    };
    let failed: usize = slices
        .iter()
        .map(|slice| slice.attempts.iter().filter(|attempt| !attempt.is_good()).count())
        .sum();
    let moved = slices
        .windows(2)
        .filter(|pair| pair[0].active != pair[1].active)
        .count()
        + usize::from(slices.first().is_some_and(|slice| slice.active != *before));
    let loads: Vec<f64> = slices.iter().filter_map(|slice| slice.load.parse().ok()).collect();
    let mean = loads.iter().sum::<f64>() / loads.len().max(1) as f64;
    page.table(
        &[
            "timing",
            "minutes",
            "load (mean)",
            "false takeovers",
            "requests",
            "failed",
            "ms: p50 / p99 / max",
        ],
        &[vec![
            settings.profile.clone().unwrap_or_else(|| "chosen by init".into()),
            format!("{:.0}", lasted.as_secs_f64() / 60.0),
            format!("{mean:.1}"),
            moved.to_string(),
            took.len().to_string(),
            failed.to_string(),
            format!("{} / {} / {}", ms(500), ms(990), ms(1_000)),
        ]],
    );
    let told = match kinds.is_empty() {
        true => "No node told of anything worse than information.".to_owned(),
        false => {
            let each = kinds.iter().map(|(kind, count)| format!("{kind} {count}"));
            format!("What the nodes told, by kind: {}.", each.collect::<Vec<_>>().join(", "))
        }
    };
    page.paragraph(&told);
}
