//! Random faults on a real cluster, one round after the other, and what a witness from outside says of them.
//!
//! ```text
//!   seed ── draw ──► troubles ── begin, hold, mend ──► redundant again within a bound? ──► judge the stamps ──► next round
//! ```
//! What is drawn depends on the seed alone; on whom it falls, on who is active then.

mod draw;
mod stamps;

pub use draw::{Drawn, Means, Who, draw};

use crate::cluster::{Cluster, TOKEN_PORT};
use crate::trouble::{Begun, Trouble, heal_all};
use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use hosts::client::{Client, Plan};
use hosts::outage::{Outage, Rule, outage};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Stamps of this long before a round are judged with it: what began then can overlap with it.
const BEFORE: Duration = Duration::from_secs(2);
/// A client at each 20 ms sees what is answered; it is not there to measure.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// So many good answers in a row before anything is broken: on a busy machine a client takes its time to begin.
const GOOD_BEFORE: u64 = 20;
const READY_WITHIN: Duration = Duration::from_secs(20);

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many troubles, over all rounds.
    pub faults: u32,
    /// Where chance begins.
    pub seed: u64,
    /// After mending, all must be redundant within this.
    pub back_within: Duration,
    /// A trouble lasts at most this long.
    pub hold_max: Duration,
    /// What the hosts have that can be harmed.
    pub means: Means,
    /// Where logs are kept if it fails.
    pub keep: PathBuf,
}

/// What one round came to.
#[derive(Debug, Clone)]
pub struct Round {
    /// What went wrong.
    pub troubles: Vec<Trouble>,
    /// For how long.
    pub held: Duration,
    /// From the end of mending until all was redundant.
    pub back_after: Duration,
    /// The epoch of the exclusive slot before and after.
    pub epochs: (u64, u64),
    /// What a client saw.
    pub outage: Outage,
}

/// What all came to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// In their order.
    pub rounds: Vec<Round>,
}

impl Outcome {
    /// Troubles, over all rounds.
    pub fn faults(&self) -> usize {
        self.rounds.iter().map(|round| round.troubles.len()).sum()
    }

    /// Until it was redundant again after mending: the middle one and the longest.
    pub fn back(&self) -> (Duration, Duration) {
        let mut spans: Vec<Duration> = self.rounds.iter().map(|round| round.back_after).collect();
        spans.sort_unstable();
        let middle = spans.get(spans.len() / 2).copied().unwrap_or_default();
        (middle, spans.last().copied().unwrap_or_default())
    }
}

/// Does it. `say` hears of each round. A failure names the seed, and where the logs are kept.
pub fn run(cluster: &Cluster, options: &Options, say: &dyn Fn(&str)) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut rng = Rng::with_seed(options.seed);
    let mut epoch = cluster.active()?.epoch;
    while outcome.faults() < options.faults as usize {
        let number = outcome.rounds.len() + 1;
        // Each round has chance of its own, so that how long one took changes no other.
        let mut chance = rng.fork();
        let round = round(cluster, options, &mut chance, &mut epoch, number, say);
        match round {
            Ok(round) => outcome.rounds.push(round),
            Err(error) => return Err(kept(cluster, options, error, number)),
        }
    }
    let right = cluster.wait_clocks_right(options.back_within);
    right.map_err(|error| kept(cluster, options, error, outcome.rounds.len()))?;
    Ok(outcome)
}

/// A failure, with how to have it again and where its logs are.
fn kept(cluster: &Cluster, options: &Options, error: anyhow::Error, round: usize) -> anyhow::Error {
    let logs = match cluster.keep_logs(&options.keep) {
        Ok(()) => options.keep.display().to_string(),
        Err(error) => format!("{error:#}"),
    };
    error.context(format!("seed {}, round {round}; logs: {logs}", options.seed))
}

fn round(
    cluster: &Cluster,
    options: &Options,
    chance: &mut Rng,
    epoch: &mut u64,
    number: usize,
    say: &dyn Fn(&str),
) -> Result<Round> {
    let hosts = in_order(cluster)?;
    let drawn = draw(chance, options.means);
    let mut troubles: Vec<Trouble> = drawn.iter().map(|drawn| drawn.at(&hosts)).collect();
    troubles.sort();
    troubles.dedup();
    let hold = options.hold_max.mul_f64(chance.f64().max(0.05));
    say(&format!(
        "{number}: {}, for {hold:.1?}; {} is active",
        in_words(&troubles),
        hosts[0]
    ));
    let mut plan = Plan::new(cluster.target(&hosts[2], TOKEN_PORT)?);
    plan.every = ASK_EVERY;
    let round = play(cluster, troubles, hold, options.back_within, plan)?;
    ensure!(
        round.epochs.0 >= *epoch && round.epochs.1 >= round.epochs.0,
        "the epoch went back: {epoch}, {:?}",
        round.epochs
    );
    *epoch = round.epochs.1;
    say(&format!(
        "   redundant again {:.1?} after mending; epoch {} to {}; {} requests at {} failed",
        round.back_after, round.epochs.0, round.epochs.1, round.outage.failed, hosts[2]
    ));
    Ok(round)
}

/// One round: breaks, holds, mends, waits until all is redundant, judges. A client asks all the while.
pub fn play(
    cluster: &Cluster,
    troubles: Vec<Trouble>,
    hold: Duration,
    back_within: Duration,
    plan: Plan,
) -> Result<Round> {
    let before = cluster.active()?;
    let client = Client::start(cluster.rig().client(), plan)?;
    let ready = Instant::now();
    while client.good_in_a_row() < GOOD_BEFORE {
        ensure!(
            ready.elapsed() < READY_WITHIN,
            "the service does not answer before anything is broken"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let began_ns = hosts::now_ns();
    let mut begun: Vec<Begun> = Vec::new();
    let mut result = Ok(());
    let (last, first): (Vec<&Trouble>, Vec<&Trouble>) = troubles.iter().partition(|trouble| trouble.stops_the_host());
    for trouble in first.into_iter().chain(last) {
        match trouble.begin(cluster) {
            Ok(one) => begun.push(one),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    std::thread::sleep(hold);
    heal_all(begun, cluster)?;
    result?;
    let mended = Instant::now();
    let back = cluster.wait_redundant(back_within);
    let back_after = mended.elapsed();
    let attempts = client.stop()?;
    let since_ns = began_ns.saturating_sub(u64::try_from(BEFORE.as_nanos()).unwrap_or(u64::MAX));
    let verdict = stamps::judge_since(&cluster.rings(), since_ns)?;
    ensure!(verdict.is_clean(), "the witness says:\n{verdict}");
    let rule = Rule {
        good_in_a_row: 10,
        ..Rule::default()
    };
    let outage = outage(&attempts, began_ns, rule);
    ensure!(
        outage.backwards == 0,
        "{} answers came at an epoch below one that had been answered before they were asked for",
        outage.backwards
    );
    back.with_context(|| format!("after {}", in_words(&troubles)))?;
    let after = cluster.active()?;
    Ok(Round {
        troubles,
        held: hold,
        back_after,
        epochs: (before.epoch, after.epoch),
        outage,
    })
}

fn in_words(troubles: &[Trouble]) -> String {
    let words: Vec<String> = troubles.iter().map(ToString::to_string).collect();
    words.join(" + ")
}

/// The active's host first, then the others, the store's leader before the other.
fn in_order(cluster: &Cluster) -> Result<Vec<String>> {
    let active = cluster.active()?.host;
    let leader = cluster.store_leader().unwrap_or_default();
    let mut hosts: Vec<String> = cluster.names().to_vec();
    hosts.sort_by_key(|host| (*host != active, *host != leader, host.clone()));
    Ok(hosts)
}
