//! `web-kill`: 200 requests a second through the proxy while actives are killed, then frozen, one after the other.

use crate::{Context, files, say};
use anyhow::Result;
use bench::load::{Plan, Report};
use bench::report::{Page, spread};
use bench::rig::{self, Rig};
use bench::sample::Sample;
use bench::{process, rig::redundant_without};
use rustix::process::Signal;
use std::time::{Duration, Instant};

const CLUSTER: &str = "bench-web-kill";
const RATE: f64 = 200.0;
const KEPT: usize = 20;
/// For a killed instance to be back and healthy, far above what it should take.
const AGAIN_WITHIN: Duration = Duration::from_secs(60);
/// Longer than any run: the load ends when the last try has.
const LOAD_FOR: Duration = Duration::from_secs(3_600);

/// Load without a fault, before each try.
const CALM: Duration = Duration::from_millis(500);
/// What a kill or a freeze may have to do with.
const NEAR: Duration = Duration::from_secs(1);

struct Variant {
    name: &'static str,
    signal: Signal,
    tries: u32,
    kept: bool,
}

struct Outcome {
    report: Report,
    again_ms: Sample,
    takeover_ms: Sample,
    repeated: u64,
    /// Of the failed requests, those that were not planned near a signal.
    failed_elsewhere: usize,
}

pub(crate) fn run(context: &Context) -> Result<Page> {
    let kills = context.runs(50);
    let freezes = kills.div_ceil(5);
    let variants = [
        Variant {
            name: "kill -9, new connections",
            signal: Signal::KILL,
            tries: kills,
            kept: false,
        },
        Variant {
            name: "kill -9, kept connections",
            signal: Signal::KILL,
            tries: kills,
            kept: true,
        },
        Variant {
            name: "SIGSTOP, new connections",
            signal: Signal::STOP,
            tries: freezes,
            kept: false,
        },
        Variant {
            name: "SIGSTOP, kept connections",
            signal: Signal::STOP,
            tries: freezes,
            kept: true,
        },
    ];
    let address = rig::free_address()?;
    let rig = Rig::up(&context.program, CLUSTER, &files::web(CLUSTER, address))?;
    let settings = format!(
        "{RATE} requests a second, {kills} kills and {freezes} freezes of each kind, {KEPT} connections where they are kept"
    );
    let mut page = Page::new(
        "web-kill",
        "An active web server is killed under load",
        &settings,
        &context.program,
        rig.folder(),
    )?;
    page.paragraph(
        "Two active, one standby, probed every 200 ms with 200 ms for the answer, failed after two misses in a row. GET /, through \
         the proxy, at planned times whatever became of earlier requests; latency counts from the planned time. The next \
         try begins half a second after `status` says redundant again.",
    );
    let mut rows = Vec::new();
    for variant in variants {
        say(&format!("{}: {} tries", variant.name, variant.tries));
        let outcome = measure(context, &rig, &variant, Plan::get(address, "/", RATE))?;
        say(&outcome.report.to_string());
        rows.push(row(&variant, &outcome));
    }
    let head = [
        "what",
        "tries",
        "requests",
        "failed",
        "of these not within 1 s of a try",
        "repeated by the proxy",
        "latency p50 / p99 / max ms",
        "takeover ms",
        "redundant again ms",
        "client late p99 ms",
    ];
    page.table(&head, &rows);
    page.paragraph(
        "Takeover: from the first evidence to the first good answer of the new active, by `events`. Redundant again: from \
         the signal to a `status` with all instances healthy, looked at every 50 ms.",
    );
    rig.down()?;
    Ok(page)
}

fn measure(context: &Context, rig: &Rig, variant: &Variant, mut plan: Plan) -> Result<Outcome> {
    plan.duration = LOAD_FOR;
    if variant.kept {
        plan = plan.kept(KEPT);
    }
    let (mut status, _) = rig.wait_for("web to be redundant", AGAIN_WITHIN, |status| {
        redundant_without(status, "web", &[])
    })?;
    let repeated_before = retried(&status);
    let takeovers_before = rig.failovers("web")?.len();
    let load = context.start(plan)?;
    let (mut again_ms, mut signalled) = (Vec::new(), Vec::new());
    for number in 0..variant.tries {
        std::thread::sleep(CALM);
        let (_, pid) = rig::holder(&status, "web", number % 2)?;
        let at = Instant::now();
        process::signal(pid, variant.signal)?;
        let without = |status: &api::Status| redundant_without(status, "web", &[pid]);
        status = rig.wait_for("web to be redundant again", AGAIN_WITHIN, without)?.0;
        again_ms.push(at.elapsed().as_secs_f64() * 1e3);
        signalled.push(at);
    }
    let report = context.finish(load);
    let takeovers = rig.failovers("web")?;
    let takeovers = takeovers.iter().skip(takeovers_before.min(takeovers.len()));
    let near = |planned: Instant| {
        signalled
            .iter()
            .any(|at| at.max(&planned).duration_since(*at.min(&planned)) <= NEAR)
    };
    let elsewhere = report
        .failures
        .iter()
        .filter(|failure| !near(report.began + failure.planned))
        .count();
    Ok(Outcome {
        again_ms: again_ms.into_iter().collect(),
        takeover_ms: takeovers.map(|failover| failover.total_us as f64 / 1e3).collect(),
        repeated: retried(&rig.status()?).saturating_sub(repeated_before),
        failed_elsewhere: elsewhere,
        report,
    })
}

fn retried(status: &api::Status) -> u64 {
    let web = rig::service(status, "web").ok().and_then(|web| web.traffic.clone());
    web.map_or(0, |traffic| traffic.retried)
}

fn row(variant: &Variant, outcome: &Outcome) -> Vec<String> {
    let report = &outcome.report;
    vec![
        variant.name.to_owned(),
        variant.tries.to_string(),
        report.planned.to_string(),
        format!("**{}**{}", report.failed(), kinds(report)),
        outcome.failed_elsewhere.to_string(),
        outcome.repeated.to_string(),
        format!(
            "{:.2} / {:.2} / {:.1}",
            report.latency_ms(0.5),
            report.latency_ms(0.99),
            report.latency_us.max() as f64 / 1e3
        ),
        spread(&outcome.takeover_ms, 1),
        spread(&outcome.again_ms, 0),
        format!("{:.2}", report.lateness_p99_ms()),
    ]
}

/// " (2 × timeout, 1 × status 503)", nothing if nothing failed.
pub(crate) fn kinds(report: &Report) -> String {
    let kinds: Vec<String> = report
        .failures_by_kind
        .iter()
        .map(|(kind, count)| format!("{count} × {kind}"))
        .collect();
    if kinds.is_empty() {
        String::new()
    } else {
        format!(" ({})", kinds.join(", "))
    }
}
