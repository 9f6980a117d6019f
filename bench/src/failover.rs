//! `failover`: redundancy managers on hosts of their own, one client, one list of faults, one witness.
//!
//! Each contender has a rig of two or three hosts. The tries alternate between contenders, so that a slow minute of the machine is everybody's.

mod contender;
mod keepalived;
mod pacemaker;
mod understudy;

use crate::{Context, say};
use anyhow::{Context as _, Result, ensure};
use bench::report::Page;
use contender::{Active, Break, Contender, wait_for, who_answers};
use hosts::client::{Client, Plan};
use hosts::outage::{Outage, Rule, Summary, outage};
use hosts::witness::{self, Limits, judge};
use hosts::{Rig, Spec, now_ns};
use keepalived::Keepalived;
use pacemaker::Pacemaker;
use std::path::Path;
use std::time::Duration;
use understudy::Understudy;

/// Who takes part.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Settings {
    /// Only this contender; again for more [default: all]
    #[arg(long = "only", value_enum)]
    only: Vec<Who>,
    /// Only this fault; again for more [default: all]
    #[arg(long = "fault", value_enum)]
    faults: Vec<Break>,
    /// Hosts of each contender
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=3))]
    hosts: u8,
    /// The client keeps its connections
    #[arg(long)]
    kept: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Who {
    /// Understudy, timing `lan`
    Understudy,
    /// Understudy, timing `fast`
    UnderstudyFast,
    /// keepalived, adverts each second
    Keepalived,
    /// keepalived, adverts each 0.1 s
    KeepalivedFast,
    /// Pacemaker, as it comes
    Pacemaker,
    /// Pacemaker, token 500 ms, monitor each second
    PacemakerFast,
}

impl Who {
    const ALL: [Who; 6] = [
        Who::Understudy,
        Who::UnderstudyFast,
        Who::Keepalived,
        Who::KeepalivedFast,
        Who::Pacemaker,
        Who::PacemakerFast,
    ];

    fn contender(self, context: &Context) -> Result<Box<dyn Contender>> {
        Ok(match self {
            Who::Understudy => Box::new(Understudy::new(context.program.clone(), "lan")?),
            Who::UnderstudyFast => Box::new(Understudy::new(context.program.clone(), "fast")?),
            Who::Keepalived => Box::new(Keepalived::new("1", 900)?),
            Who::KeepalivedFast => Box::new(Keepalived::new("0.1", 300)?),
            Who::Pacemaker => Box::new(Pacemaker::new(None, 10)?),
            Who::PacemakerFast => Box::new(Pacemaker::new(Some(500), 1)?),
        })
    }
}

/// The slowest of them needs half a minute to come up.
const UP_WITHIN: Duration = Duration::from_secs(120);
/// For a service to be back while the fault lasts.
const BACK_WITHIN: Duration = Duration::from_secs(45);
/// Good requests in a row after which a service is back to stay: two seconds.
const GOOD_IN_A_ROW: u64 = 400;
/// Before each fault.
const CALM: Duration = Duration::from_secs(1);
/// How long a manager is frozen.
const FROZEN: Duration = Duration::from_secs(10);

/// A contender on its hosts.
struct Stage {
    contender: Box<dyn Contender>,
    rig: Rig,
    plan: Plan,
}

/// What a try came to.
struct Try {
    outage: Outage,
    /// Two actives at once, by the witness.
    dual: Duration,
}

pub(crate) fn run(context: &Context, settings: &Settings) -> Result<Page> {
    let runs = context.runs(10);
    let who = if settings.only.is_empty() {
        Who::ALL.to_vec()
    } else {
        settings.only.clone()
    };
    let faults = if settings.faults.is_empty() {
        Break::ALL.to_vec()
    } else {
        settings.faults.clone()
    };
    let words = format!("{runs} tries of each kind, {} hosts of each contender", settings.hosts);
    let mut page = Page::new(
        "failover",
        "Redundancy managers and the same faults",
        &words,
        &context.program,
        Path::new("/var/tmp"),
    )?;
    let connections = if settings.kept {
        "kept connections"
    } else {
        "a new connection"
    };
    page.paragraph(&format!(
        "Hosts are namespaces on one bridge (`crates/hosts`); the client is on it too and asks for `/` each 5 ms on {connections}, with 200 ms from the \
         planned time to the whole answer. Outage: from the first request that failed, by planned time, to the first of 100 good ones in a row. Two actives: by \
         stamps that the service itself leaves each millisecond while it may act. Tries in which the client's own lateness was above 20 ms (p99) are dropped; the witness's \
         column has all.",
    ));
    let mut stages = Vec::new();
    for who in who {
        stages.push(set_up(who, context, settings)?);
    }
    for stage in &stages {
        page.paragraph(&format!(
            "**{}**: {}",
            stage.contender.name(),
            stage.contender.settings()
        ));
    }
    let mut rows = Vec::new();
    for broken in faults {
        let mut tries: Vec<Vec<Try>> = stages.iter().map(|_| Vec::new()).collect();
        for number in 1..=runs {
            for (stage, tries) in stages.iter().zip(&mut tries) {
                let label = format!("{}, {}, {number} of {runs}", broken.name(), short(stage));
                let one =
                    attempt(stage, broken).with_context(|| format!("{label} ({})", stage.contender.settings()))?;
                let length = one
                    .outage
                    .length
                    .map_or("never back".into(), |length| format!("{} ms", length.as_millis()));
                say(&format!(
                    "{label}: {length}, {} failed, two actives {} ms, client late {:.1?}",
                    one.outage.failed,
                    one.dual.as_millis(),
                    one.outage.late_p99
                ));
                tries.push(one);
            }
        }
        rows.extend(
            stages
                .iter()
                .zip(&tries)
                .map(|(stage, tries)| row(broken, stage, tries)),
        );
    }
    let head = [
        "fault",
        "contender",
        "outage ms: min / **p50** / p95 / max",
        "failed requests, p50",
        "two actives, s, p50 / max",
        "never back",
        "answers at an older epoch",
        "tries (dropped)",
    ];
    page.table(&head, &rows);
    for stage in stages {
        stage.contender.teardown(&stage.rig)?;
    }
    Ok(page)
}

fn set_up(who: Who, context: &Context, settings: &Settings) -> Result<Stage> {
    let contender = who.contender(context)?;
    say(&format!("{}: {}", contender.name(), contender.settings()));
    let rig = Rig::create(&Spec::new(
        ["a", "b", "c"].into_iter().take(usize::from(settings.hosts)),
    ))?;
    let plan = Plan::new(contender.setup(&rig)?);
    let plan = if settings.kept { plan.kept() } else { plan };
    let stage = Stage { contender, rig, plan };
    settled(&stage)?;
    Ok(stage)
}

/// The same one has answered for a second.
fn settled(stage: &Stage) -> Result<Active> {
    let (mut last, mut times) = (None, 0);
    wait_for("the service to settle", UP_WITHIN, || {
        let active = who_answers(&stage.rig, stage.plan.target)?;
        times = if active.is_some() && active == last {
            times + 1
        } else {
            0
        };
        last = active;
        Ok(last.clone().filter(|_| times >= 20))
    })
    .with_context(|| stage.contender.name())
}

fn attempt(stage: &Stage, broken: Break) -> Result<Try> {
    let active = settled(stage)?;
    let begun = now_ns();
    let client = Client::start(stage.rig.client(), stage.plan)?;
    std::thread::sleep(CALM);
    ensure!(
        client.good_in_a_row() > 0,
        "the service did not answer before the fault"
    );
    let since = now_ns();
    stage.contender.fault(&stage.rig, broken, &active)?;
    if broken == Break::ManagerFrozen {
        std::thread::sleep(FROZEN);
        stage.contender.heal(&stage.rig, broken, &active)?;
    }
    // One that never comes back is a result too.
    let back = || Ok((client.good_in_a_row() >= GOOD_IN_A_ROW).then_some(()));
    std::thread::sleep(CALM);
    wait_for("the service to be back", BACK_WITHIN, back).ok();
    let attempts = client.stop()?;
    let traces = witness::read_all(&stage.rig.shared())?;
    let traces: Vec<_> = traces.into_iter().map(|trace| trace.since(begun)).collect();
    let verdict = judge(&traces, Limits::default());
    if broken != Break::ManagerFrozen {
        stage.contender.heal(&stage.rig, broken, &active)?;
    }
    Ok(Try {
        outage: outage(&attempts, since, Rule::default()),
        dual: Duration::from_nanos(verdict.dual_ns()),
    })
}

fn row(broken: Break, stage: &Stage, tries: &[Try]) -> Vec<String> {
    let rule = Rule::default();
    let outages: Vec<Outage> = tries.iter().map(|one| one.outage).collect();
    let summary = Summary::of(&outages, rule);
    let ms = |quantile: f64| {
        summary
            .length(quantile)
            .map_or("–".into(), |length| format!("{:.0}", length.as_secs_f64() * 1e3))
    };
    // The witness does not care how late the client was.
    let mut dual: Vec<Duration> = tries.iter().map(|one| one.dual).collect();
    dual.sort_unstable();
    let seconds = |place: usize| {
        dual.get(place)
            .map_or("–".into(), |dual| format!("{:.2}", dual.as_secs_f64()))
    };
    let backwards: usize = outages.iter().map(|outage| outage.backwards).sum();
    vec![
        broken.name().to_owned(),
        short(stage),
        format!("{} / **{}** / {} / {}", ms(0.0), ms(0.5), ms(0.95), ms(1.0)),
        summary.failed(0.5).map_or("–".into(), |failed| failed.to_string()),
        format!(
            "{} / {}",
            seconds(dual.len().saturating_sub(1) / 2),
            seconds(dual.len().saturating_sub(1))
        ),
        summary.never_back.to_string(),
        backwards.to_string(),
        format!("{} ({})", tries.len(), summary.dropped),
    ]
}

/// Name and the settings that tell it from others.
fn short(stage: &Stage) -> String {
    let settings = stage.contender.settings();
    let settings: Vec<&str> = settings.split(", ").take(2).collect();
    format!("{} ({})", stage.contender.name(), settings.join(", "))
}
