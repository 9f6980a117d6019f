//! When a node's certificates are renewed, and by whom.
//!
//! After two thirds of the lifetime the node makes new requests and has them signed by any member, over the connection that
//! its present certificate authenticates; a member does it itself. Then it writes the files and calls
//! [`crate::Tls::replace_own`]; the next handshake shows the new certificate. One that is not valid yet is made anew too: it was signed by a clock
//! that was ahead, and nobody whose clock is right believes it. Another process that uses the same folder polls a [`Reloader`].

use crate::authority::BACKDATED;
use crate::bundle::{NODE_FILE, REVOKED_FILE, STORE_CLIENT_FILE, STORE_KEY_FILE, TRUST_FILE};
use crate::{ConfigError, Folder, Peer, Tls};
use model::WallTime;
use std::time::Duration;

/// When a certificate is to be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Before this nobody believes it.
    pub begins: WallTime,
    /// When to begin: after two thirds of the lifetime, up to a twentieth earlier, so that nodes that joined together do
    /// not renew together.
    pub due: WallTime,
    /// When it ends.
    pub ends: WallTime,
    /// How long to wait after an attempt that failed: a sixtieth of the lifetime, one second to one hour. That is twenty
    /// attempts for the shortest lifetime and 720 for the usual one.
    pub retry: Duration,
}

/// How a certificate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is not valid yet: it was signed by a clock that was ahead, or ours is behind. Renew now, and again after [`Plan::retry`]. A member
    /// signs for itself; other nodes are believed by no member whose clock is right.
    Early {
        /// How long until it is valid.
        left: Duration,
    },
    /// Nothing to do until then.
    Fresh {
        /// When to renew.
        due: WallTime,
    },
    /// Renew now, and again after [`Plan::retry`].
    Due {
        /// What is left.
        left: Duration,
        /// Whether less than a sixth of the lifetime is left, so that an operator should know.
        late: bool,
    },
    /// It ended: nobody believes it. A member signs for itself; other nodes have to join again.
    Ended {
        /// For how long it has been.
        since: Duration,
    },
}

impl Plan {
    /// For a certificate.
    pub fn of(peer: &Peer) -> Self {
        let issued = peer.not_before.0.saturating_add(BACKDATED.as_millis() as i64);
        let life = peer.not_after.0.saturating_sub(issued).max(0);
        // The issue is random, so its last digits spread nodes evenly.
        let spread = i64::from(peer.issue.serial(0)[14]);
        let early = life / 20 / 256 * spread;
        Self {
            begins: peer.not_before,
            due: WallTime(issued.saturating_add(life / 3 * 2).saturating_sub(early)),
            ends: peer.not_after,
            retry: Duration::from_millis(life.unsigned_abs() / 60)
                .clamp(Duration::from_secs(1), Duration::from_secs(3_600)),
        }
    }

    /// How the certificate stands at a time of this node's clock.
    pub fn standing(&self, now: WallTime) -> Standing {
        let span = |from: WallTime, to: WallTime| {
            Duration::from_millis(u64::try_from(to.0.saturating_sub(from.0)).unwrap_or(0))
        };
        if now.0 > self.ends.0 {
            return Standing::Ended {
                since: span(self.ends, now),
            };
        }
        if now.0 < self.begins.0 {
            return Standing::Early {
                left: span(now, self.begins),
            };
        }
        if now.0 < self.due.0 {
            return Standing::Fresh { due: self.due };
        }
        let left = span(now, self.ends);
        Standing::Due {
            left,
            late: left < span(self.due, self.ends) / 2,
        }
    }
}

/// Takes over what another process (or an operator) wrote to the folder.
#[derive(Debug)]
pub struct Reloader {
    folder: Folder,
    tls: Tls,
    seen: [u8; 32],
}

impl Reloader {
    /// Watches a folder for `tls`, which was loaded from it.
    pub fn new(folder: Folder, tls: Tls) -> Result<Self, ConfigError> {
        let seen = state(&folder)?;
        Ok(Self { folder, tls, seen })
    }

    /// Looks whether the files changed and takes them over; says whether they did. Five small files are read: call it every few
    /// seconds, or when told. After an error the old certificates stay in use and the next call tries again.
    pub fn poll(&mut self) -> Result<bool, ConfigError> {
        let now = state(&self.folder)?;
        if now == self.seen {
            return Ok(false);
        }
        let fresh = Tls::load(&self.folder)?;
        self.tls.take_over(&fresh)?;
        self.seen = now;
        Ok(true)
    }
}

fn state(folder: &Folder) -> Result<[u8; 32], ConfigError> {
    let mut all = zeroize::Zeroizing::new(Vec::new());
    for name in [NODE_FILE, STORE_KEY_FILE] {
        all.extend_from_slice(&crate::random::sha256(folder.read_secret(name)?.reveal().as_bytes()));
    }
    for name in [STORE_CLIENT_FILE, TRUST_FILE, REVOKED_FILE] {
        all.extend_from_slice(&crate::random::sha256(folder.read_public(name)?.as_bytes()));
    }
    Ok(crate::random::sha256(&all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClusterId, IssueId, Kind, Who};
    use model::NodeName;

    const DAY: i64 = 86_400_000;

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
        let plan = Plan::of(&peer(90 * DAY));
        assert!((55 * DAY..=60 * DAY).contains(&(plan.due.0 - ISSUED)), "{plan:?}");
        assert_eq!(plan.retry, Duration::from_secs(3_600));
        let at = |day: i64| plan.standing(WallTime(ISSUED + day * DAY));
        assert_eq!(at(50), Standing::Fresh { due: plan.due });
        assert!(matches!(at(61), Standing::Due { late: false, .. }));
        assert!(matches!(at(80), Standing::Due { late: true, left } if left == Duration::from_secs(10 * 86_400)));
        assert_eq!(
            at(92),
            Standing::Ended {
                since: Duration::from_secs(2 * 86_400)
            }
        );
    }

    #[test]
    fn one_that_was_signed_by_a_clock_that_was_ahead_is_made_anew_and_not_waited_for() {
        let plan = Plan::of(&peer(90 * DAY));
        let begins = ISSUED - 3_600_000;
        assert_eq!(plan.standing(WallTime(begins)), Standing::Fresh { due: plan.due });
        let before = plan.standing(WallTime(begins - 400 * DAY));
        assert_eq!(
            before,
            Standing::Early {
                left: Duration::from_secs(400 * 86_400)
            }
        );
    }

    #[test]
    fn the_shortest_life_leaves_time_for_several_attempts() {
        let plan = Plan::of(&peer(60_000));
        assert!((37_000..=40_000).contains(&(plan.due.0 - ISSUED)), "{plan:?}");
        assert!(plan.retry * 15 < Duration::from_millis((plan.ends.0 - plan.due.0).unsigned_abs()));
    }

    #[test]
    fn nodes_that_joined_together_do_not_renew_together() {
        let dues: std::collections::BTreeSet<i64> = (0..20).map(|_| Plan::of(&peer(90 * DAY)).due.0).collect();
        assert!(dues.len() > 10, "{dues:?}");
    }

    const ISSUED: i64 = 1_800_000_000_000;

    fn peer(life_ms: i64) -> Peer {
        let name = NodeName::new("a").expect("name");
        Peer {
            who: Who {
                cluster: ClusterId::random().expect("random"),
                kind: Kind::StoreClient(name),
            },
            issue: IssueId::random().expect("random"),
            not_before: WallTime(ISSUED - 3_600_000),
            not_after: WallTime(ISSUED + life_ms),
        }
    }
}
