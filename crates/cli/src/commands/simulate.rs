//! `simulate`: the decisions in virtual time.

use super::{Done, Error, Session, to_json};
use crate::args;
use sim::cluster::{ClusterMode, ClusterOptions, ClusterSimulation, run_cluster, simulate_cluster};
use sim::{Options, Simulation};
use std::io::IsTerminal;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// What `simulate --json` prints.
#[derive(serde::Serialize)]
struct Report {
    version: u32,
    runs: u64,
    faults: u64,
    failovers: u64,
    switchovers: u64,
    decisions: u64,
    virtual_seconds: u64,
    worst_failover_us: Option<u64>,
    failure: Option<FailureReport>,
}

#[derive(serde::Serialize)]
struct FailureReport {
    seed: u64,
    invariant: String,
    what: String,
    transcript: Vec<String>,
    replay: String,
    smaller: String,
}

/// `simulate`
pub(super) fn run(session: &Session, args: &args::Simulate) -> Result<Done, Error> {
    if let Some(script) = &args.script {
        return play(session, script);
    }
    let first = args.seed.unwrap_or_else(|| if args.runs > 1 { 1 } else { random() });
    if args.machines {
        return several(session, args, first);
    }
    let options = Options {
        faults: args.faults,
        only: args.only.clone(),
        events: args.events,
        ..Options::default()
    };
    there_are(args, first, || sim::drawn(first, &options))?;
    if args.events {
        let report = sim::run(first, &options);
        session.output.answer_line(&report.transcript.join("\n"));
        return Ok(verdict(
            session,
            report.violation.map(|violation| violation.to_string()),
        ));
    }
    let simulation = Simulation {
        seeds: first..first.saturating_add(args.runs),
        options,
        threads: args.threads,
    };
    let shows_progress = args.runs > 1 && std::io::stderr().is_terminal();
    let runs = args.runs;
    let outcome = sim::simulate(&simulation, &|done| {
        if shows_progress && done.is_multiple_of((runs / 100).max(1)) {
            eprint!("\r{done} of {runs} runs");
        }
    });
    if shows_progress {
        eprintln!();
    }
    if args.json {
        let report = Report {
            version: api::VERSION,
            runs: outcome.runs,
            faults: outcome.faults_total(),
            failovers: outcome.failovers,
            switchovers: outcome.switchovers,
            decisions: outcome.decisions,
            virtual_seconds: outcome.lasted.as_secs(),
            worst_failover_us: outcome
                .worst_failover
                .map(|(worst, _)| u64::try_from(worst.as_micros()).unwrap_or(u64::MAX)),
            failure: outcome.failure.as_ref().map(|failure| FailureReport {
                seed: failure.seed,
                invariant: failure.violation.invariant.to_owned(),
                what: failure.violation.to_string(),
                transcript: failure.transcript.clone(),
                replay: failure.command(),
                smaller: failure.smaller_command(),
            }),
        };
        session.output.verbatim_line(&to_json(&report));
        return Ok(if outcome.failure.is_none() { Done::Yes } else { Done::No });
    }
    session
        .output
        .answer_line(&format!("seeds {first} to {}: {outcome}", first + args.runs - 1));
    Ok(verdict(session, outcome.failure.map(|failure| failure.to_string())))
}

/// The same of several machines.
fn several(session: &Session, args: &args::Simulate, first: u64) -> Result<Done, Error> {
    let options = ClusterOptions {
        mode: if args.store_outage {
            ClusterMode::StoreOutage
        } else {
            ClusterMode::Storm
        },
        faults: args.faults,
        only: args.only.clone(),
        whole_up_to: args.whole_up_to.unwrap_or(ClusterOptions::default().whole_up_to),
        transcript: args.events,
        events: args.events,
        ..ClusterOptions::default()
    };
    there_are(args, first, || sim::cluster::cluster_drawn(first, &options))?;
    if args.events {
        let report = run_cluster(first, &options);
        session.output.answer_line(&report.transcript.join("\n"));
        return Ok(verdict(
            session,
            report.violation.map(|violation| violation.to_string()),
        ));
    }
    let simulation = ClusterSimulation {
        seeds: first..first.saturating_add(args.runs),
        options,
        threads: args.threads,
        within: std::time::Duration::ZERO,
    };
    let shows_progress = args.runs > 1 && std::io::stderr().is_terminal();
    let runs = args.runs;
    let outcome = simulate_cluster(&simulation, &|done| {
        if shows_progress && done.is_multiple_of((runs / 100).max(1)) {
            eprint!("\r{done} of {runs} runs");
        }
    });
    if shows_progress {
        eprintln!();
    }
    if args.json {
        let report = Report {
            version: api::VERSION,
            runs: outcome.runs,
            faults: outcome.faults_total(),
            failovers: outcome.failovers,
            switchovers: outcome.switchovers,
            decisions: outcome.decisions,
            virtual_seconds: outcome.lasted.as_secs(),
            worst_failover_us: None,
            failure: outcome.failure.as_ref().map(|failure| FailureReport {
                seed: failure.seed,
                invariant: failure.violation.invariant.to_owned(),
                what: failure.violation.to_string(),
                transcript: failure.transcript.clone(),
                replay: failure.command(),
                smaller: failure.smaller_command(),
            }),
        };
        session.output.verbatim_line(&to_json(&report));
        return Ok(if outcome.failure.is_none() { Done::Yes } else { Done::No });
    }
    session
        .output
        .answer_line(&format!("seeds {first} to {}: {outcome}", first + args.runs - 1));
    Ok(verdict(session, outcome.failure.map(|failure| failure.to_string())))
}

/// Refuses numbers of faults that the run does not have: it would be judged without them.
fn there_are(args: &args::Simulate, seed: u64, drawn: impl FnOnce() -> usize) -> Result<(), Error> {
    let Some(asked) = args.only.iter().flatten().max() else {
        return Ok(());
    };
    let drawn = drawn();
    if *asked < drawn {
        return Ok(());
    }
    let (what, hint) = match drawn.checked_sub(1) {
        None => (
            format!("the run of seed {seed} has no faults to choose from, so there is no number {asked}"),
            "leave `--only` out",
        ),
        Some(last) => (
            format!("the run of seed {seed} has no fault {asked}: its faults are numbered 0 to {last}"),
            "give the seed and all options of the run that the numbers are of",
        ),
    };
    Err(Error::BadArgument { what, hint })
}

/// Plays a script and prints what was decided, line by line.
fn play(session: &Session, path: &Path) -> Result<Done, Error> {
    let script = std::fs::read_to_string(path).map_err(|source| Error::ReadFile {
        path: path.to_owned(),
        source,
    })?;
    match sim::play(&script) {
        Ok(played) => {
            session.output.answer_line(&played.transcript);
            Ok(match played.violation {
                None => Done::Yes,
                Some(violation) => {
                    session.output.say(&violation.to_string());
                    Done::No
                }
            })
        }
        Err(error) => {
            session.output.say(&format!("error: {}: {error}", path.display()));
            Ok(Done::No)
        }
    }
}

fn verdict(session: &Session, broken: Option<String>) -> Done {
    match broken {
        None => {
            session.output.answer_line("no promise was broken");
            Done::Yes
        }
        Some(broken) => {
            session.output.say(&broken);
            Done::No
        }
    }
}

/// Another run each time; its seed is printed, so that it can be replayed.
fn random() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (u64::from(since.subsec_nanos()) ^ since.as_secs().rotate_left(20)) % (args::SEED_MAX + 1)
}
