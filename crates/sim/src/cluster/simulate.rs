//! Many seeds of several machines at once.

use super::faults::ClusterFault;
use super::run::{ClusterMode, ClusterOptions, ClusterReport, run_cluster};
use crate::Violation;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Runs at most to make a failing one smaller: a smaller schedule is a help, not a need.
const TRIES_MAX: usize = 200;
/// Lines of the transcript that a failure shows.
const LINES: usize = 60;

/// What to simulate.
#[derive(Debug, Clone)]
pub struct ClusterSimulation {
    /// Which runs.
    pub seeds: Range<u64>,
    /// How each is made.
    pub options: ClusterOptions,
    /// How many at the same time; 0 for as many as there are processors.
    pub threads: usize,
    /// No run is begun after this long; zero: all are carried out.
    pub within: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct ClusterOutcome {
    /// Runs that were carried out.
    pub runs: u64,
    /// How often each kind of fault happened.
    pub faults: BTreeMap<ClusterFault, u64>,
    /// Things that happened.
    pub steps: u64,
    /// Decisions of the cores.
    pub decisions: u64,
    /// Unplanned takeovers that were completed.
    pub failovers: u64,
    /// Planned ones.
    pub switchovers: u64,
    /// Nodes that stood still, lost their session, and actives that guards ended.
    pub freezes: u64,
    /// See above.
    pub fenced: u64,
    /// See above.
    pub fired: u64,
    /// The longest time from the last fault until all was well, and its seed.
    pub slowest: (Duration, u64),
    /// Virtual time that passed in all runs.
    pub lasted: Duration,
    /// Real time that it took.
    pub took: Duration,
    /// The failure with the lowest seed.
    pub failure: Option<ClusterFailure>,
}

/// A run in which a promise was broken.
#[derive(Debug, Clone)]
pub struct ClusterFailure {
    /// Of the run.
    pub seed: u64,
    /// What was broken.
    pub violation: Violation,
    /// The last lines of the smallest run found.
    pub transcript: Vec<String>,
    /// Its faults, by number.
    pub only: Vec<usize>,
    /// How many were drawn.
    pub faults: usize,
    mode: ClusterMode,
    whole_up_to: usize,
}

impl ClusterFailure {
    /// The command that replays it.
    pub fn command(&self) -> String {
        let outage = if self.mode == ClusterMode::StoreOutage {
            " --store-outage"
        } else {
            ""
        };
        let told = match self.whole_up_to {
            decisions::WHOLE_UP_TO => String::new(),
            nodes => format!(" --whole-up-to {nodes}"),
        };
        format!(
            "understudy simulate --machines{outage}{told} --seed {} --faults {}",
            self.seed, self.faults
        )
    }

    /// The command that replays the smallest schedule that still breaks it.
    pub fn smaller_command(&self) -> String {
        let numbers: Vec<String> = self.only.iter().map(ToString::to_string).collect();
        format!("{} --only {}", self.command(), numbers.join(","))
    }
}

impl fmt::Display for ClusterFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.violation)?;
        for line in &self.transcript {
            writeln!(f, "{line}")?;
        }
        write!(f, "replay it with:    {}", self.command())?;
        if !self.only.is_empty() {
            write!(f, "\nor with less of it: {}", self.smaller_command())?;
        }
        Ok(())
    }
}

impl ClusterOutcome {
    /// Faults that happened.
    pub fn faults_total(&self) -> u64 {
        self.faults.values().sum()
    }

    /// Faults per second of real time.
    pub fn rate(&self) -> u64 {
        (self.faults_total() as f64 / self.took.as_secs_f64().max(0.001)) as u64
    }

    fn add(&mut self, report: &ClusterReport) {
        self.runs += 1;
        for (kind, count) in &report.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
        self.steps += report.steps;
        self.decisions += report.decisions;
        self.failovers += report.failovers;
        self.switchovers += report.switchovers;
        self.freezes += report.freezes;
        self.fenced += report.fenced;
        self.fired += report.fired;
        self.slowest = self.slowest.max((report.healed_after, report.seed));
        self.lasted += report.lasted;
    }
}

impl fmt::Display for ClusterOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} faults in {} runs of several machines, {} s of virtual time, {} decisions; {} faults/s",
            self.faults_total(),
            self.runs,
            self.lasted.as_secs(),
            self.decisions,
            self.rate()
        )?;
        for (kind, count) in &self.faults {
            writeln!(f, "  {kind:<40} {count:>8}")?;
        }
        writeln!(
            f,
            "{} failovers, {} switchovers; {} times a node stood still, {} times one lost its session, {} actives ended by guards",
            self.failovers, self.switchovers, self.freezes, self.fenced, self.fired
        )?;
        let (slowest, seed) = self.slowest;
        write!(
            f,
            "all was well again after {} ms at most (seed {seed})",
            slowest.as_millis()
        )
    }
}

/// Carries the runs out, until one fails. `progress` is told how many are done.
pub fn simulate_cluster(simulation: &ClusterSimulation, progress: &(dyn Fn(u64) + Sync)) -> ClusterOutcome {
    let began = Instant::now();
    let threads = match simulation.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let next = AtomicU64::new(simulation.seeds.start);
    let lowest_failing = AtomicU64::new(u64::MAX);
    let failed: Mutex<Option<ClusterReport>> = Mutex::new(None);
    let outcome = Mutex::new(ClusterOutcome::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    if !simulation.within.is_zero() && began.elapsed() > simulation.within {
                        break;
                    }
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    // Seeds below a failing one are still carried out, so that the lowest is told.
                    if seed >= simulation.seeds.end || seed > lowest_failing.load(Ordering::Relaxed) {
                        break;
                    }
                    let report = run_cluster(seed, &simulation.options);
                    if let Ok(mut outcome) = outcome.lock() {
                        outcome.add(&report);
                        progress(outcome.runs);
                    }
                    if report.violation.is_some() {
                        lowest_failing.fetch_min(seed, Ordering::Relaxed);
                        if let Ok(mut failed) = failed.lock()
                            && failed.as_ref().is_none_or(|other| other.seed > seed)
                        {
                            *failed = Some(report);
                        }
                    }
                }
            });
        }
    });
    let mut outcome = outcome.into_inner().unwrap_or_default();
    outcome.took = began.elapsed();
    if let Ok(Some(report)) = failed.into_inner() {
        outcome.failure = shrink(&report, &simulation.options);
    }
    outcome
}

/// Leaves out faults as long as the same promise is still broken, and tells that run.
fn shrink(failed: &ClusterReport, options: &ClusterOptions) -> Option<ClusterFailure> {
    let promise = failed.violation.as_ref()?.invariant;
    let mut kept: Vec<usize> = match options.mode {
        // And what operators did, which comes after.
        ClusterMode::Storm => {
            let all = || (0..options.faults + options.faults.div_ceil(30)).collect();
            options.only.clone().unwrap_or_else(all)
        }
        ClusterMode::StoreOutage => Vec::new(),
    };
    let run = |only: &[usize], transcript: bool| {
        let options = ClusterOptions {
            only: Some(only.to_vec()),
            transcript,
            ..options.clone()
        };
        run_cluster(failed.seed, &options)
    };
    let mut chunk = kept.len().div_ceil(2).max(1);
    let mut tries = 0;
    loop {
        let mut start = 0;
        while start < kept.len() && tries < TRIES_MAX {
            tries += 1;
            let mut fewer = kept.clone();
            fewer.drain(start..(start + chunk).min(kept.len()));
            if run(&fewer, false)
                .violation
                .is_some_and(|violation| violation.invariant == promise)
            {
                kept = fewer;
            } else {
                start += chunk;
            }
        }
        if chunk == 1 || tries >= TRIES_MAX {
            break;
        }
        chunk = chunk.div_ceil(2);
    }
    let report = run(&kept, true);
    let skip = report.transcript.len().saturating_sub(LINES);
    Some(ClusterFailure {
        seed: failed.seed,
        violation: report.violation?,
        transcript: report.transcript.into_iter().skip(skip).collect(),
        only: kept,
        faults: options.faults,
        mode: options.mode,
        whole_up_to: options.whole_up_to,
    })
}
