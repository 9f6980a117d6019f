//! Random faults on a real cluster, one round after the other, and what a witness from outside says of them.
//!
//! ```text
//!   seed ── draw ──► troubles ── begin, hold, mend ──► redundant again within a bound? ──► judge the stamps ──► next round
//! ```
//! What is drawn depends on the seed alone; on whom it falls, on who is active then.

mod draw;
mod stamps;

pub use draw::{Drawn, Who, draw};

use crate::cluster::{Cluster, TOKEN_PORT};
use crate::trouble::{Begun, Trouble, heal_all};
use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use hosts::client::{Attempt, Client, Plan};
use hosts::outage::{Rule, outage};
use hosts::witness::Verdict;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Stamps of this long before a round are judged with it: what began then can overlap with it.
const BEFORE: Duration = Duration::from_secs(2);
/// A client at each 20 ms sees what is answered; it is not there to measure.
const ASK_EVERY: Duration = Duration::from_millis(20);

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
    /// Whether hosts have disks that can be filled and stalled.
    pub disks: bool,
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
    /// How often the slot changed hands, or was started anew.
    pub activations: u64,
    /// How long a client was without an answer, if it ever was.
    pub outage: Option<Duration>,
    /// Requests that failed.
    pub failed: usize,
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
            Err(error) => {
                let kept = cluster.keep_logs(&options.keep);
                let kept = kept.map_or_else(|error| format!("{error:#}"), |()| options.keep.display().to_string());
                return Err(error.context(format!("seed {}, round {number}; logs: {kept}", options.seed)));
            }
        }
    }
    Ok(outcome)
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
    let drawn = draw(chance, options.disks);
    let mut troubles: Vec<Trouble> = drawn.iter().map(|drawn| drawn.at(&hosts)).collect();
    troubles.sort();
    troubles.dedup();
    let hold = options.hold_max.mul_f64(chance.f64().max(0.05));
    let names: Vec<String> = troubles.iter().map(ToString::to_string).collect();
    say(&format!(
        "{number}: {}, for {hold:.1?}; {} is active",
        names.join(" + "),
        hosts[0]
    ));
    let began_ns = hosts::now_ns();
    let asked = hosts[2].clone();
    let mut plan = Plan::new(cluster.target(&asked, TOKEN_PORT)?);
    plan.every = ASK_EVERY;
    let client = Client::start(cluster.rig().client(), plan)?;
    let mut begun: Vec<Begun> = Vec::new();
    let mut result = Ok(());
    for trouble in &troubles {
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
    let back = cluster.wait_redundant(options.back_within);
    let back_after = mended.elapsed();
    let attempts = client.stop()?;
    let verdict = stamps::judge_since(&cluster.rings(), began_ns.saturating_sub(BEFORE.as_nanos() as u64))?;
    judge(&verdict, &attempts)?;
    back.with_context(|| format!("after {}", names.join(" + ")))?;
    let active = cluster.active()?;
    ensure!(
        active.epoch >= *epoch,
        "the epoch went back from {epoch} to {}",
        active.epoch
    );
    let found = outage(
        &attempts,
        began_ns,
        Rule {
            good_in_a_row: 1,
            ..Rule::default()
        },
    );
    let round = Round {
        troubles,
        held: hold,
        back_after,
        activations: active.epoch - *epoch,
        outage: found.length,
        failed: found.failed,
    };
    *epoch = active.epoch;
    say(&format!(
        "   redundant again {:.1?} after mending; {} activations; {} of {} requests at {asked} failed",
        back_after, round.activations, found.failed, found.sent
    ));
    Ok(round)
}

/// The active's host first, then the others, the store's leader before the other.
fn in_order(cluster: &Cluster) -> Result<Vec<String>> {
    let active = cluster.active()?.host;
    let leader = cluster.store_leader().unwrap_or_default();
    let mut hosts: Vec<String> = cluster.names().to_vec();
    hosts.sort_by_key(|host| (*host != active, *host != leader, host.clone()));
    Ok(hosts)
}

fn judge(verdict: &Verdict, attempts: &[Attempt]) -> Result<()> {
    ensure!(verdict.is_clean(), "the witness says:\n{verdict}");
    let backwards = outage(attempts, 0, Rule::default()).backwards;
    ensure!(
        backwards == 0,
        "{backwards} answers came at an epoch below one that had been answered before they were asked for"
    );
    Ok(())
}
