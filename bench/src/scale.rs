//! `scale`: 10, 100 and 1,000 sleepers: what they cost at rest, and a tenth of them killed at once.

use crate::{Context, files, say};
use anyhow::{Result, ensure};
use bench::process::{self, Memory};
use bench::report::{Page, spread};
use bench::rig::{self, Rig};
use bench::sample::Sample;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const CLUSTER: &str = "bench-scale";
const SIZES: [u32; 3] = [10, 100, 1_000];
/// Starting is over, and what is left of it has settled.
const SETTLE: Duration = Duration::from_secs(3);
const REST: Duration = Duration::from_secs(20);
const AGAIN_WITHIN: Duration = Duration::from_secs(120);

struct Outcome {
    size: u32,
    up_s: f64,
    cpu_percent: f64,
    memory: Memory,
    killed: usize,
    again_ms: Sample,
    touched: usize,
}

pub(crate) fn run(context: &Context) -> Result<Page> {
    let rounds = context.runs(3);
    let settings = format!("{} s at rest, a tenth killed at once, {rounds} times", REST.as_secs());
    let folder = std::env::temp_dir();
    let mut page = Page::new(
        "scale",
        "Many instances on one machine",
        &settings,
        &context.program,
        &folder,
    )?;
    let mut outcomes = Vec::new();
    let mut failure = None;
    for size in SIZES {
        match measure(context, size, rounds) {
            Ok(outcome) => outcomes.push(outcome),
            // What the smaller ones gave is worth having, and more of them will not work either.
            Err(error) => {
                say(&format!("{error:#}"));
                failure = Some((size, error));
                break;
            }
        }
    }
    page.paragraph(
        "`understudy sample sleeper`, nine tenths active and one tenth standby, on one node. CPU and memory are those of agent, guard and \
         proxy together; PSS divides shared pages among those who share them, so it adds up. Killed: actives, all \
         signals sent before any is waited for.",
    );
    let rows: Vec<Vec<String>> = outcomes.iter().map(row).collect();
    page.table(
        &[
            "instances",
            "start of all, s",
            "CPU at rest, % of one core",
            "PSS, MiB",
            "RSS, MiB",
            "PSS per instance, KiB",
            "killed at once",
            "redundant again, ms",
            "healthy ones with another pid",
        ],
        &rows,
    );
    if let Some((size, error)) = failure {
        let first_line = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
        page.paragraph(&format!("**{size} instances: not measured.** {first_line}"));
    }
    if let [first, .., last] = outcomes.as_slice() {
        let added = f64::from(last.size - first.size);
        let grown = last.memory.pss_kib as f64 - first.memory.pss_kib as f64;
        page.paragraph(&format!(
            "From {} to {} instances our memory grows by **{:.1} KiB for each** (PSS).",
            first.size,
            last.size,
            grown / added,
        ));
    }
    Ok(page)
}

fn measure(context: &Context, size: u32, rounds: u32) -> Result<Outcome> {
    say(&format!("{size} instances"));
    let standby = size / 10;
    let rig = Rig::up(
        &context.program,
        CLUSTER,
        &files::sleepers(CLUSTER, size - standby, standby),
    )?;
    std::thread::sleep(SETTLE);
    let own = rig.own()?.pids();
    let before: Duration = own.iter().map(|pid| process::cpu_time(*pid)).sum::<Result<_>>()?;
    let begun = Instant::now();
    std::thread::sleep(REST);
    let after: Duration = own.iter().map(|pid| process::cpu_time(*pid)).sum::<Result<_>>()?;
    let cpu_percent = 100.0 * (after - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    let mut memory = Memory::default();
    for pid in own {
        memory = memory + process::memory(pid)?;
    }
    let (mut again_ms, mut touched, mut killed) = (Vec::new(), 0, 0);
    for _ in 0..rounds {
        let round = kill_a_tenth(&rig, size)?;
        again_ms.push(round.again_ms);
        touched += round.touched;
        killed = round.killed;
    }
    let outcome = Outcome {
        size,
        up_s: rig.up_took.as_secs_f64(),
        cpu_percent,
        memory,
        killed,
        again_ms: again_ms.into_iter().collect(),
        touched,
    };
    rig.down()?;
    Ok(outcome)
}

struct Round {
    again_ms: f64,
    killed: usize,
    touched: usize,
}

fn kill_a_tenth(rig: &Rig, size: u32) -> Result<Round> {
    let (status, _) = rig.wait_for("all to be redundant", AGAIN_WITHIN, |status| {
        complete(status, size, &BTreeMap::new())
    })?;
    let before = rig::pids(&status);
    let actives = rig::service(&status, "sleeper")?
        .instances
        .iter()
        .filter(|instance| instance.role == "active");
    let victims: Vec<String> = actives
        .take(size as usize / 10)
        .map(|instance| instance.id.clone())
        .collect();
    let killed: BTreeMap<String, u32> = before
        .iter()
        .filter(|(id, _)| victims.contains(id))
        .map(|(id, pid)| (id.clone(), *pid))
        .collect();
    ensure!(!killed.is_empty(), "no active among {size} instances");
    let begun = Instant::now();
    for pid in killed.values() {
        process::signal(*pid, Signal::KILL)?;
    }
    let (status, _) = rig.wait_for("the killed to be replaced", AGAIN_WITHIN, |status| {
        complete(status, size, &killed)
    })?;
    let again_ms = begun.elapsed().as_secs_f64() * 1e3;
    let after = rig::pids(&status);
    let healthy = before.iter().filter(|(id, _)| !killed.contains_key(*id));
    let touched = healthy.filter(|(id, pid)| after.get(*id) != Some(pid)).count();
    Ok(Round {
        again_ms,
        killed: killed.len(),
        touched,
    })
}

/// All there, redundant, and none of the processes that were killed.
fn complete(status: &api::Status, size: u32, killed: &BTreeMap<String, u32>) -> bool {
    let gone: Vec<u32> = killed.values().copied().collect();
    rig::redundant_without(status, "sleeper", &gone) && rig::pids(status).len() == size as usize
}

fn row(outcome: &Outcome) -> Vec<String> {
    let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
    vec![
        outcome.size.to_string(),
        format!("{:.2}", outcome.up_s),
        format!("**{:.2}**", outcome.cpu_percent),
        mib(outcome.memory.pss_kib),
        mib(outcome.memory.rss_kib),
        format!("{:.1}", outcome.memory.pss_kib as f64 / f64::from(outcome.size)),
        outcome.killed.to_string(),
        spread(&outcome.again_ms, 0),
        format!("**{}**", outcome.touched),
    ]
}
