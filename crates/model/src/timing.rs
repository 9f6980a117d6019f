//! How long things may take when several machines act as one: the timing of sessions, and the inequalities that make it safe.
//!
//! The letters are those of `docs/takeover-protocol.md`, which says why each rule is needed.

use crate::Millis;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Part by which the rate of a running machine's clock may differ from real time, with CLOCK_MONOTONIC_RAW at hand.
pub const CLOCK_DRIFT: f64 = 0.001;
/// Shortest lease that is offered: below it, schedulers and disks decide rather than failures.
pub const LEASE_MIN: Millis = Millis(700);
/// What a rank of the failover order waits beyond two commits of the one before it (rule 6).
const STAGGER_REST: Millis = Millis(50);
/// No store on a disk commits sooner.
const COMMIT_LEAST: Duration = Duration::from_millis(5);

/// The timing of one node's session and of those who watch it. All in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// R: from one renewal to the next.
    pub renew: Millis,
    /// T: a request without an answer for this long has failed.
    pub request_timeout: Millis,
    /// A: without an acknowledged renewal for this long, exclusive actives are gated and frozen.
    pub soft_deadline: Millis,
    /// G: and after this long killed.
    pub hard_deadline: Millis,
    /// K: the kill is done within this.
    pub kill_budget: Millis,
    /// J: the guard is at most this late.
    pub guard_jitter: Millis,
    /// D: all effects of an active have ended by then.
    pub lease: Millis,
    /// E: an election of the store's leader takes about this long.
    pub election: Millis,
    /// g: longest gap from the send of one acknowledged renewal to the answer of the next, over an election.
    pub gap: Millis,
    /// δ: each rank of the failover order waits this long for the one before it.
    pub rank_stagger: Millis,
    /// etcd's heartbeat interval.
    pub store_heartbeat: Millis,
    /// etcd's election timeout.
    pub store_election_timeout: Millis,
}

/// A named timing, for a kind of network and disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// A local network and a disk of its own for the store: node loss within about 0.75 s.
    Fast,
    /// A local network: about 3 s.
    Lan,
    /// An etcd with its own defaults: about 5 s.
    Stock,
    /// Between sites: about half a minute.
    Wan,
}

/// An inequality of the protocol that a timing breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsafe {
    /// Number of the inequality.
    pub rule: u8,
    /// With its figures.
    pub what: String,
}

impl std::fmt::Display for Unsafe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the timing breaks rule {}: {}", self.rule, self.what)
    }
}

impl std::error::Error for Unsafe {}

impl Profile {
    /// From the quickest to the slowest.
    pub const ALL: [Profile; 4] = [Profile::Fast, Profile::Lan, Profile::Stock, Profile::Wan];

    /// Its timing.
    pub const fn timing(self) -> Timing {
        match self {
            Profile::Fast => Timing {
                renew: Millis(80),
                request_timeout: Millis(100),
                soft_deadline: Millis(540),
                hard_deadline: Millis(600),
                kill_budget: Millis(100),
                guard_jitter: Millis(40),
                lease: Millis(700),
                election: Millis(300),
                gap: Millis(330),
                rank_stagger: Millis(60),
                store_heartbeat: Millis(20),
                store_election_timeout: Millis(150),
            },
            Profile::Lan => Timing {
                renew: Millis(200),
                request_timeout: Millis(250),
                soft_deadline: Millis(2_200),
                hard_deadline: Millis(2_700),
                kill_budget: Millis(200),
                guard_jitter: Millis(50),
                lease: Millis(3_000),
                election: Millis(1_000),
                gap: Millis(1_250),
                rank_stagger: Millis(80),
                store_heartbeat: Millis(50),
                store_election_timeout: Millis(500),
            },
            Profile::Stock => Timing {
                renew: Millis(250),
                request_timeout: Millis(300),
                soft_deadline: Millis(4_000),
                hard_deadline: Millis(4_700),
                kill_budget: Millis(200),
                guard_jitter: Millis(50),
                lease: Millis(5_000),
                election: Millis(2_000),
                gap: Millis(2_730),
                rank_stagger: Millis(100),
                store_heartbeat: Millis(100),
                store_election_timeout: Millis(1_000),
            },
            Profile::Wan => Timing {
                renew: Millis(1_000),
                request_timeout: Millis(1_500),
                soft_deadline: Millis(22_000),
                hard_deadline: Millis(28_000),
                kill_budget: Millis(500),
                guard_jitter: Millis(50),
                lease: Millis(30_000),
                election: Millis(6_000),
                gap: Millis(8_000),
                rank_stagger: Millis(700),
                store_heartbeat: Millis(300),
                store_election_timeout: Millis(3_000),
            },
        }
    }

    /// Its name, as written.
    pub const fn name(self) -> &'static str {
        match self {
            Profile::Fast => "fast",
            Profile::Lan => "lan",
            Profile::Stock => "stock",
            Profile::Wan => "wan",
        }
    }
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// W of a lease D: how long an observer waits since it first saw a renewal until nothing of its sender can act, unless it renewed since.
pub fn observer_wait(lease: Millis) -> Duration {
    let drift = (1.0 + CLOCK_DRIFT) / (1.0 - CLOCK_DRIFT);
    lease.duration().mul_f64(drift) + Duration::from_millis(5)
}

impl Timing {
    /// W: see [`observer_wait`].
    pub fn observer_wait(&self) -> Duration {
        observer_wait(self.lease)
    }

    /// H: whoever condemns another had answers of the store to its own writes for this long without a break.
    pub const fn hold_off(&self) -> Duration {
        Duration::from_millis(3 * self.renew.0)
    }

    /// From the loss of a node to the claim of its slot by the first in line, at worst, for a commit that takes `commit`; the promotion comes
    /// on top. Others wait from the commit of its last renewal, which may have been sent just before. With the store's leader on the lost node
    /// its election comes into it.
    pub fn node_loss_worst(&self, commit: Duration, with_leader: bool) -> Duration {
        let silence = commit + self.observer_wait();
        let until = match with_leader {
            true => silence.max(self.after_election()),
            false => silence,
        };
        until + commit
    }

    /// E + H: from the loss of the store's leader until others may condemn who fell silent.
    pub fn after_election(&self) -> Duration {
        self.election.duration() + self.hold_off()
    }

    /// How much later than the first in line somebody with `rank` others before it may claim: k δ.
    pub fn turn_of(&self, rank: u32) -> Duration {
        self.rank_stagger.duration() * rank
    }

    /// c: a commit of the store may take this long for rule 6 to hold, δ ≥ 2c + 50 ms. While it takes longer, who is second in line may claim
    /// together with the first; the store lets one of them in.
    pub const fn commit_max(&self) -> Duration {
        Duration::from_millis(self.rank_stagger.0.saturating_sub(STAGGER_REST.0) / 2)
    }

    /// Refuses a timing that is not safe (2, 4), that would fail without a fault (1, 3), or whose order of failover is none (6). Rule 5 is
    /// [`hold_off`](Self::hold_off); rule 7 is of hardware watchdogs, which nothing here relies on.
    pub fn check(&self) -> Result<(), Unsafe> {
        let broken = |rule, what: String| Err(Unsafe { rule, what });
        let (renew, timeout) = (self.renew, self.request_timeout);
        let (soft, hard, kill) = (self.soft_deadline, self.hard_deadline, self.kill_budget);
        if renew.0 == 0 || timeout.0 == 0 {
            return broken(1, "renewal and request timeout must be more than 0".into());
        }
        if soft.0 < 2 * renew.0 + 2 * timeout.0 {
            return broken(
                1,
                format!("soft deadline {soft} is less than two renewals of {renew} and two timeouts of {timeout}"),
            );
        }
        if self.lease < LEASE_MIN {
            return broken(2, format!("lease {} is less than {LEASE_MIN}", self.lease));
        }
        if 10 * soft.0 < 13 * self.gap.0 {
            return broken(
                3,
                format!(
                    "soft deadline {soft} is less than 1.3 times the gap of {} over an election of the store",
                    self.gap
                ),
            );
        }
        if soft.0 + self.guard_jitter.0 > hard.0 {
            return broken(
                4,
                format!(
                    "soft deadline {soft} and the guard's jitter {} go past the hard deadline {hard}",
                    self.guard_jitter
                ),
            );
        }
        if kill.0 < 100 || hard.0 + kill.0 > self.lease.0 {
            return broken(
                4,
                format!(
                    "hard deadline {hard} and a kill of {kill} (at least 100ms) go past the lease {}",
                    self.lease
                ),
            );
        }
        if self.commit_max() < COMMIT_LEAST {
            return broken(
                6,
                format!(
                    "a stagger of {} leaves {:?} for a commit of the store, and {STAGGER_REST} on top of two: less than {COMMIT_LEAST:?} is too little",
                    self.rank_stagger,
                    self.commit_max()
                ),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_keeps_the_inequalities() {
        for profile in Profile::ALL {
            assert_eq!(profile.timing().check(), Ok(()), "{profile}");
        }
    }

    #[test]
    fn waits_are_those_of_the_protocol() {
        let wait = |profile: Profile| profile.timing().observer_wait().as_millis();
        assert_eq!(wait(Profile::Fast), 706);
        assert_eq!(wait(Profile::Lan), 3_011);
        assert_eq!(Profile::Fast.timing().hold_off(), Duration::from_millis(240));
    }

    #[test]
    fn the_worst_of_a_takeover_is_two_commits_and_the_longer_of_silence_and_election() {
        let fast = Profile::Fast.timing();
        let ms = Duration::from_millis;
        let worst = |timing: &Timing, commit: u64| timing.node_loss_worst(ms(commit), true).as_millis();
        assert_eq!(worst(&fast, 0), 706);
        assert_eq!(worst(&fast, 20), 20 + 706 + 20);
        let slow = Timing {
            election: Millis(1_000),
            ..fast
        };
        assert_eq!(worst(&slow, 20), 1_000 + 240 + 20);
        assert_eq!(slow.node_loss_worst(ms(20), false).as_millis(), 20 + 706 + 20);
        assert_eq!((fast.turn_of(0), fast.turn_of(3)), (ms(0), ms(180)));
    }

    #[test]
    fn each_broken_rule_is_named() {
        let fast = Profile::Fast.timing();
        let rule = |timing: Timing| timing.check().expect_err("unsafe").rule;
        assert_eq!(
            rule(Timing {
                renew: Millis(300),
                ..fast
            }),
            1
        );
        assert_eq!(
            rule(Timing {
                lease: Millis(600),
                ..fast
            }),
            2
        );
        assert_eq!(
            rule(Timing {
                gap: Millis(500),
                ..fast
            }),
            3
        );
        assert_eq!(
            rule(Timing {
                hard_deadline: Millis(560),
                ..fast
            }),
            4
        );
        assert_eq!(
            rule(Timing {
                hard_deadline: Millis(650),
                ..fast
            }),
            4
        );
        assert_eq!(
            rule(Timing {
                rank_stagger: Millis(59),
                ..fast
            }),
            6
        );
    }

    #[test]
    fn the_stagger_of_each_profile_is_good_for_commits_of_so_long() {
        let commit = |profile: Profile| profile.timing().commit_max().as_millis();
        assert_eq!(Profile::ALL.map(commit), [5, 15, 25, 325]);
    }
}
