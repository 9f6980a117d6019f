//! Many seeds at once.

use crate::fault::FaultKind;
use crate::run::{Options, Report, run};
use crate::shrink::shrink;
use crate::{FAULTS, Violation};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Simulation {
    /// Which runs.
    pub seeds: Range<u64>,
    /// How each is made.
    pub options: Options,
    /// How many at the same time; 0 for as many as there are processors.
    pub threads: usize,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Runs that were carried out.
    pub runs: u64,
    /// How often each kind of fault happened.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Things that happened.
    pub steps: u64,
    /// Decisions of the cores.
    pub decisions: u64,
    /// Unplanned takeovers that were completed.
    pub failovers: u64,
    /// Planned ones.
    pub switchovers: u64,
    /// The longest failover in virtual time, and the seed that shows it.
    pub worst_failover: Option<(Duration, u64)>,
    /// Virtual time that passed in all runs.
    pub lasted: Duration,
    /// The failure with the lowest seed.
    pub failure: Option<Failure>,
}

/// A run in which a promise was broken.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Of the run.
    pub seed: u64,
    /// What was broken.
    pub violation: Violation,
    /// The last lines, of the smaller run if one was found.
    pub transcript: Vec<String>,
    /// Faults of the smallest schedule that still breaks it, by number.
    pub only: Vec<usize>,
    /// How each was drawn.
    faults: usize,
}

impl Failure {
    /// The command that replays it.
    pub fn command(&self) -> String {
        let mut command = format!("understudy simulate --seed {}", self.seed);
        if self.faults != FAULTS {
            command.push_str(&format!(" --faults {}", self.faults));
        }
        command
    }

    /// The command that replays the smallest schedule that still breaks it.
    pub fn smaller_command(&self) -> String {
        if self.only.is_empty() {
            return format!("understudy simulate --seed {} --faults 0", self.seed);
        }
        let numbers: Vec<String> = self.only.iter().map(ToString::to_string).collect();
        format!("{} --only {}", self.command(), numbers.join(","))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.violation)?;
        for line in &self.transcript {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "replay it with:    {}", self.command())?;
        write!(f, "or with less of it: {}", self.smaller_command())
    }
}

impl Outcome {
    /// Faults that happened; what operators did is not counted.
    pub fn faults_total(&self) -> u64 {
        let faults = self.faults.iter().filter(|(kind, _)| !kind.is_operator());
        faults.map(|(_, count)| count).sum()
    }

    fn add(&mut self, report: Report) {
        self.runs += 1;
        for (kind, count) in report.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.steps += report.steps;
        self.decisions += report.decisions;
        self.failovers += report.failovers;
        self.switchovers += report.switchovers;
        self.lasted += report.lasted;
        if self
            .worst_failover
            .is_none_or(|(worst, _)| report.worst_failover > worst)
        {
            self.worst_failover = Some((report.worst_failover, report.seed));
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} faults in {} runs, {} s of virtual time, {} decisions",
            self.faults_total(),
            self.runs,
            self.lasted.as_secs(),
            self.decisions
        )?;
        for (kind, count) in &self.faults {
            writeln!(f, "  {kind:<40} {count:>8}")?;
        }
        write!(f, "{} failovers, {} switchovers", self.failovers, self.switchovers)?;
        if let Some((worst, seed)) = self.worst_failover {
            write!(f, ", the longest failover {} ms (seed {seed})", worst.as_millis())?;
        }
        Ok(())
    }
}

/// Carries the runs out, until one fails. `progress` is told how many are done.
pub fn simulate(simulation: &Simulation, progress: &(dyn Fn(u64) + Sync)) -> Outcome {
    let threads = match simulation.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let next = AtomicU64::new(simulation.seeds.start);
    let lowest_failing = AtomicU64::new(u64::MAX);
    let failed: Mutex<Option<Report>> = Mutex::new(None);
    let outcome = Mutex::new(Outcome::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut ours = Outcome::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    // Seeds below a failing one are still carried out, so that the lowest is told.
                    if seed >= simulation.seeds.end || seed > lowest_failing.load(Ordering::Relaxed) {
                        break;
                    }
                    let report = run(seed, &simulation.options);
                    if report.violation.is_some() {
                        lowest_failing.fetch_min(seed, Ordering::Relaxed);
                        if let Ok(mut failed) = failed.lock()
                            && failed.as_ref().is_none_or(|other| other.seed > seed)
                        {
                            *failed = Some(report.clone());
                        }
                    }
                    ours.add(report);
                    progress(seed - simulation.seeds.start + 1);
                }
                if let Ok(mut outcome) = outcome.lock() {
                    outcome.merge(ours);
                }
            });
        }
    });
    let mut outcome = outcome.into_inner().unwrap_or_default();
    if let Ok(Some(report)) = failed.into_inner() {
        let (only, smaller) = shrink(&report, &simulation.options);
        outcome.failure = smaller.violation.map(|violation| Failure {
            seed: report.seed,
            violation,
            transcript: smaller.transcript,
            only,
            faults: simulation.options.faults,
        });
    }
    outcome
}

impl Outcome {
    fn merge(&mut self, other: Outcome) {
        self.runs += other.runs;
        for (kind, count) in other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.steps += other.steps;
        self.decisions += other.decisions;
        self.failovers += other.failovers;
        self.switchovers += other.switchovers;
        self.lasted += other.lasted;
        let longer = |(worst, _): &(Duration, u64)| self.worst_failover.is_none_or(|(ours, _)| *worst > ours);
        if let Some(worst) = other.worst_failover.filter(longer) {
            self.worst_failover = Some(worst);
        }
    }
}
