//! `restart`: agent, guard and proxy are killed under load, each alone: what clients and services notice.

use crate::web_kill::kinds;
use crate::{Context, files, say};
use anyhow::{Context as _, Result};
use bench::load::{Plan, Report};
use bench::process;
use bench::report::{Page, spread};
use bench::rig::{self, Own, Rig, redundant_without};
use bench::sample::Sample;
use rustix::process::Signal;
use std::time::{Duration, Instant};

const CLUSTER: &str = "bench-restart";
const READS: f64 = 200.0;
const WRITES: f64 = 50.0;
/// A request that was due so long before a kill, or less, can have been under way.
const UNDER_WAY: Duration = Duration::from_millis(100);
/// Load without a fault, before each kill.
const CALM: Duration = Duration::from_millis(500);
const BACK_WITHIN: Duration = Duration::from_secs(30);
/// A look goes through all processes of the machine.
const LOOK_EVERY: Duration = Duration::from_millis(5);

type PidOf = fn(Own) -> Option<u32>;

struct Outcome {
    back_ms: Sample,
    reads: Report,
    writes: Report,
    /// Services' processes that were not the same afterwards.
    changed: usize,
    /// Failed requests that were due only after a kill: those before it were on a connection that died with the process.
    due_later: usize,
}

pub(crate) fn run(context: &Context) -> Result<Page> {
    let kills = context.runs(20);
    let (web, db) = (rig::free_address()?, rig::free_address()?);
    let rig = Rig::up(&context.program, CLUSTER, &files::web_and_db(CLUSTER, web, db))?;
    let settings =
        format!("{kills} kills of each, {READS} GETs a second to web and {WRITES} POSTs to db, on new connections");
    let mut page = Page::new(
        "restart",
        "Our own processes are killed under load",
        &settings,
        &context.program,
        rig.folder(),
    )?;
    let who: [(&str, PidOf); 3] = [
        ("agent", |own| Some(own.agent)),
        ("guard", |own| Some(own.guard)),
        ("proxy", |own| own.proxy),
    ];
    let mut rows = Vec::new();
    for (name, pid_of) in who {
        say(&format!("{name}: {kills} kills"));
        let outcome = measure(context, &rig, kills, pid_of, web, db)?;
        say(&format!("GET: {}\nPOST: {}", outcome.reads, outcome.writes));
        rows.push(row(name, kills, &outcome));
    }
    page.paragraph(
        "`kill -9` of one of them, then wait until it is back and `status` says redundant. A connection through the proxy \
         dies with it; a new one waits at the listening socket, which outlives it. POSTs are never repeated by the proxy.",
    );
    page.table(
        &[
            "killed",
            "times",
            "GETs",
            "failed",
            "POSTs",
            "failed",
            "failed though due after the kill",
            "slowest GET ms",
            "back ms",
            "services' processes that changed",
        ],
        &rows,
    );
    rig.down()?;
    Ok(page)
}

fn measure(
    context: &Context,
    rig: &Rig,
    kills: u32,
    pid_of: PidOf,
    web: std::net::SocketAddr,
    db: std::net::SocketAddr,
) -> Result<Outcome> {
    let all = |status: &api::Status| redundant_without(status, "web", &[]) && redundant_without(status, "db", &[]);
    let (status, _) = rig.wait_for("everything to be redundant", BACK_WITHIN, all)?;
    let before = rig::pids(&status);
    let for_long = |mut plan: Plan| {
        plan.duration = Duration::from_secs(3_600);
        plan
    };
    let reads = context.start(for_long(Plan::get(web, "/", READS)))?;
    let writes = context.start(for_long(Plan::post(db, "/counter", WRITES)))?;
    let (mut back_ms, mut killed_at) = (Vec::new(), Vec::new());
    for _ in 0..kills {
        std::thread::sleep(CALM);
        let victim = pid_of(rig.own()?).context("it does not run")?;
        let begun = Instant::now();
        killed_at.push(begun);
        process::signal(victim, Signal::KILL)?;
        back_ms.push(wait_until_back(rig, victim, pid_of, begun)?.as_secs_f64() * 1e3);
        rig.wait_for("everything to be redundant", BACK_WITHIN, all)?;
    }
    let (reads, writes) = (context.finish(reads), context.finish(writes));
    let after = rig::pids(&rig.status()?);
    let changed = before.iter().filter(|(id, pid)| after.get(*id) != Some(pid)).count();
    let due_later = [&reads, &writes]
        .map(|report| due_after(report, &killed_at))
        .iter()
        .sum();
    Ok(Outcome {
        back_ms: back_ms.into_iter().collect(),
        reads,
        writes,
        changed,
        due_later,
    })
}

/// Failures of requests that were due within a second after a kill, or far from any.
fn due_after(report: &Report, killed_at: &[Instant]) -> usize {
    let under_way = |planned: Instant| {
        let kill = killed_at.iter().find(|kill| **kill >= planned);
        kill.is_some_and(|kill| kill.duration_since(planned) < UNDER_WAY)
    };
    report
        .failures
        .iter()
        .filter(|failure| !under_way(report.began + failure.planned))
        .count()
}

/// Back: another process that lives.
fn wait_until_back(rig: &Rig, victim: u32, pid_of: PidOf, begun: Instant) -> Result<Duration> {
    while begun.elapsed() < BACK_WITHIN {
        let now = rig.own().ok().and_then(pid_of);
        if now.is_some_and(|pid| pid != victim && process::is_alive(pid)) {
            return Ok(begun.elapsed());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    anyhow::bail!("process {victim} was killed and nothing took its place within {BACK_WITHIN:?}")
}

fn row(name: &str, kills: u32, outcome: &Outcome) -> Vec<String> {
    let failed = |report: &Report| format!("**{}**{}", report.failed(), kinds(report));
    vec![
        name.to_owned(),
        kills.to_string(),
        outcome.reads.planned.to_string(),
        failed(&outcome.reads),
        outcome.writes.planned.to_string(),
        failed(&outcome.writes),
        format!("**{}**", outcome.due_later),
        format!("{:.1}", outcome.reads.latency_us.max() as f64 / 1e3),
        spread(&outcome.back_ms, 0),
        format!("**{}**", outcome.changed),
    ]
}
