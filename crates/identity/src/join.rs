//! Whether a join token may be used: a pure decision about a record and a request.

use crate::random::{same, sha256_hex};
use crate::{ClusterId, JoinToken, NodeRole};
use data_encoding::HEXLOWER;
use model::{NodeName, WallTime};
use serde::{Deserialize, Serialize};

/// What the store keeps of a join token; sealed with [`crate::Purpose::Join`]. No secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRecord {
    /// The name of the token.
    pub id: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// SHA-256 of the secret, in hexadecimal. The secret has 256 random bits, so no salt is needed.
    pub secret_sha256: String,
    /// When it was made.
    pub created: WallTime,
    /// Until when it is valid.
    pub expires: WallTime,
    /// What the node will be.
    pub role: NodeRole,
    /// The only node that may use it, if it was made for one.
    pub node: Option<NodeName>,
    /// How often it can still be used; 1 when it is made.
    pub uses_left: u32,
    /// Who used it last.
    pub used: Option<Used>,
}

/// Who used a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// The node that joined with it.
    pub by: NodeName,
    /// When.
    pub at: WallTime,
    /// SHA-256 of its certificate requests: the same node with the same keys may ask once more if the answer was lost.
    pub requests_sha256: String,
}

/// What a joiner presents.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'a> {
    /// Its token.
    pub token: &'a JoinToken,
    /// The name it wants.
    pub node: &'a NodeName,
    /// The role it expects; `None` takes what the token gives.
    pub role: Option<NodeRole>,
    /// Its certificate requests, one after the other.
    pub requests: &'a str,
}

/// A token that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redeemed {
    /// What the node will be.
    pub role: NodeRole,
    /// The record to write, by compare-and-swap on the revision that was read, *before* anything is signed: two joiners
    /// at two members must not both be let in. `None` if the same request was granted already and the answer is given again.
    pub write: Option<JoinRecord>,
}

/// Why a token was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefused {
    /// It is of another cluster.
    #[error("this join token is for cluster {token}, this is cluster {here}; ask one of the addresses in the token")]
    OtherCluster {
        /// Short id in the token.
        token: String,
        /// Short id of this cluster.
        here: String,
    },
    /// There is no such token.
    #[error(
        "no join token {id} is known here: it was revoked, or it expired long ago; make a new one with `understudy cluster token`"
    )]
    Unknown {
        /// The token.
        id: String,
    },
    /// There is one with that name, but the secret is another.
    #[error("join token {id} has another secret than the one that was made; copy the whole line, or make a new one")]
    WrongSecret {
        /// The token.
        id: String,
    },
    /// It is too old.
    #[error("join token {id} expired {} ago{}; make a new one with `understudy cluster token`", people(*by_ms), if *skew { " (or the clock of this member is ahead: check that clocks are synchronised)" } else { " by this member's clock" })]
    Expired {
        /// The token.
        id: String,
        /// For how long it has been, milliseconds.
        by_ms: u64,
        /// Whether the clocks are the likelier reason.
        skew: bool,
    },
    /// It was made later than this member's clock reads now.
    #[error("join token {id} was made {} in the future of this member's clock: synchronise the clocks of the nodes", people(*by_ms))]
    FromTheFuture {
        /// The token.
        id: String,
        /// How far, milliseconds.
        by_ms: u64,
    },
    /// Somebody used it.
    #[error("join token {id} was used {} ago by node `{by}`; if that was not you, run `understudy cluster remove {by}` and look into it; else make a new token", people(*ago_ms))]
    UsedAlready {
        /// The token.
        id: String,
        /// The node that joined with it.
        by: NodeName,
        /// How long ago, milliseconds.
        ago_ms: u64,
        /// When.
        at: WallTime,
    },
    /// It has no uses left although nobody is known to have used it.
    #[error("join token {id} was withdrawn; make a new one with `understudy cluster token`")]
    Withdrawn {
        /// The token.
        id: String,
    },
    /// It gives another role.
    #[error("join token {id} is for a {token}, the node wants to be a {wanted}; make a token for that role")]
    OtherRole {
        /// The token.
        id: String,
        /// The role that the token gives.
        token: NodeRole,
        /// The role that was asked for.
        wanted: NodeRole,
    },
    /// It was made for another node.
    #[error("join token {id} was made for node `{token}`, this is node `{presented}`")]
    OtherNode {
        /// The token.
        id: String,
        /// Whom it was made for.
        token: NodeName,
        /// Who came.
        presented: NodeName,
    },
}

/// How far the clocks of two members may differ before a token from the future is refused: as much as certificates are
/// backdated.
const SKEW_MS: i64 = 3_600_000;
/// A token that expired longer ago than this is rather a clock that is wrong; old records are removed within it.
const LONG_AGO_MS: u64 = 2 * 86_400_000;

/// Decides whether a joiner is let in. `record` is the opened record of the token's id, if there is one; the caller
/// read it from the store just now.
pub fn redeem(
    cluster: ClusterId,
    record: Option<&JoinRecord>,
    presented: &Presented<'_>,
    now: WallTime,
) -> Result<Redeemed, JoinRefused> {
    let token = presented.token;
    let id = token.id();
    if token.cluster_short() != cluster.short() {
        return Err(JoinRefused::OtherCluster {
            token: token.cluster_short(),
            here: cluster.short(),
        });
    }
    let Some(record) = record.filter(|record| record.id == id && record.cluster == cluster) else {
        return Err(JoinRefused::Unknown { id });
    };
    let expected = HEXLOWER.decode(record.secret_sha256.as_bytes()).unwrap_or_default();
    // The secret comes first: without it nothing else is told about the token.
    if !same(&expected, &token.secret_sha256()) {
        return Err(JoinRefused::WrongSecret { id });
    }
    if now.0 > record.expires.0 {
        let by_ms = now.0.abs_diff(record.expires.0);
        return Err(JoinRefused::Expired {
            id,
            by_ms,
            skew: by_ms > LONG_AGO_MS,
        });
    }
    if record.created.0 > now.0.saturating_add(SKEW_MS) {
        return Err(JoinRefused::FromTheFuture {
            id,
            by_ms: record.created.0.abs_diff(now.0),
        });
    }
    if let Some(wanted) = presented.role.filter(|role| *role != record.role) {
        return Err(JoinRefused::OtherRole {
            id,
            token: record.role,
            wanted,
        });
    }
    if let Some(node) = record.node.as_ref().filter(|node| *node != presented.node) {
        return Err(JoinRefused::OtherNode {
            id,
            token: node.clone(),
            presented: presented.node.clone(),
        });
    }
    let requests_sha256 = sha256_hex(presented.requests.as_bytes());
    if record.uses_left > 0 {
        let mut record = record.clone();
        record.uses_left -= 1;
        record.used = Some(Used {
            by: presented.node.clone(),
            at: now,
            requests_sha256,
        });
        return Ok(Redeemed {
            role: record.role,
            write: Some(record),
        });
    }
    match &record.used {
        Some(used) if used.by == *presented.node && used.requests_sha256 == requests_sha256 => Ok(Redeemed {
            role: record.role,
            write: None,
        }),
        Some(used) => Err(JoinRefused::UsedAlready {
            id,
            by: used.by.clone(),
            ago_ms: u64::try_from(now.0.saturating_sub(used.at.0)).unwrap_or(0),
            at: used.at,
        }),
        None => Err(JoinRefused::Withdrawn { id }),
    }
}

/// A span as people say it, rounded down to one unit.
pub(crate) fn people(ms: u64) -> String {
    let seconds = ms / 1_000;
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..172_800 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, TOKEN_LIFETIME, mint_join_token};

    const NOW: WallTime = WallTime(1_800_000_000_000);
    const HOUR: i64 = 3_600_000;

    #[test]
    fn a_token_lets_one_node_in_and_tells_the_next_who_that_was() {
        let door = Door::new(None);
        let redeemed = door.knock("b", NOW).expect("let in");
        assert_eq!(redeemed.role, NodeRole::Member);
        let door = door.with(redeemed.write.expect("a record to write"));
        assert_eq!(door.record.uses_left, 0);
        let error = door.knock("c", WallTime(NOW.0 + 300_000)).expect_err("used");
        assert!(
            matches!(&error, JoinRefused::UsedAlready { by, ago_ms: 300_000, at: NOW, .. } if by.as_str() == "b"),
            "{error:?}"
        );
        assert!(error.to_string().contains("used 5 minutes ago by node `b`"), "{error}");
    }

    #[test]
    fn a_node_whose_answer_was_lost_may_ask_again_with_the_same_keys_only() {
        let door = Door::new(None);
        let door = door.with(door.knock("b", NOW).expect("let in").write.expect("record"));
        let again = door.knock("b", WallTime(NOW.0 + 1_000)).expect("the same once more");
        assert_eq!(again.write, None, "nothing to write the second time");
        let other = Presented {
            requests: "other keys",
            ..door.presented(&name("b"))
        }
        .redeem(&door, NOW);
        assert!(matches!(other, Err(JoinRefused::UsedAlready { .. })), "{other:?}");
    }

    #[test]
    fn an_expired_token_says_by_how_much_and_when_clocks_are_to_blame() {
        let door = Door::new(None);
        let at = |ms| door.knock("b", WallTime(NOW.0 + ms)).expect_err("expired").to_string();
        assert!(
            door.knock("b", WallTime(NOW.0 + HOUR)).is_ok(),
            "the last moment counts"
        );
        let text = at(HOUR + 120_000);
        assert!(text.contains("expired 2 minutes ago by this member's clock"), "{text}");
        let text = at(60 * 24 * HOUR);
        assert!(text.contains("clocks are synchronised"), "{text}");
    }

    #[test]
    fn a_token_from_the_future_blames_the_clocks() {
        let door = Door::new(None);
        let error = door.knock("b", WallTime(NOW.0 - 3 * HOUR)).expect_err("future");
        assert!(error.to_string().contains("made 3 hours in the future"), "{error}");
        assert!(
            door.knock("b", WallTime(NOW.0 - HOUR / 2)).is_ok(),
            "clocks may differ by half an hour"
        );
    }

    #[test]
    fn other_cluster_unknown_secret_role_and_name_are_told_apart() {
        let door = Door::new(Some("b"));
        let other = Door::new(None);
        let node = name("b");
        let error = redeem(door.authority.cluster_id(), None, &other.presented(&node), NOW);
        assert!(matches!(error, Err(JoinRefused::OtherCluster { .. })), "{error:?}");

        let error = redeem(door.authority.cluster_id(), None, &door.presented(&node), NOW);
        assert!(matches!(error, Err(JoinRefused::Unknown { .. })), "{error:?}");

        let mut record = door.record.clone();
        record.secret_sha256 = sha256_hex(b"another secret");
        let error = redeem(door.authority.cluster_id(), Some(&record), &door.presented(&node), NOW);
        assert!(matches!(error, Err(JoinRefused::WrongSecret { .. })), "{error:?}");
        record.secret_sha256 = "not hexadecimal".into();
        let error = redeem(door.authority.cluster_id(), Some(&record), &door.presented(&node), NOW);
        assert!(matches!(error, Err(JoinRefused::WrongSecret { .. })), "{error:?}");

        let wants = Presented {
            role: Some(NodeRole::Worker),
            ..door.presented(&node)
        };
        let error = wants.redeem(&door, NOW).expect_err("role");
        assert!(
            error
                .to_string()
                .contains("is for a member, the node wants to be a worker"),
            "{error}"
        );

        let error = door.knock("c", NOW).expect_err("name");
        assert!(
            error.to_string().contains("made for node `b`, this is node `c`"),
            "{error}"
        );
        assert!(door.knock("b", NOW).is_ok());

        record = door.record.clone();
        record.uses_left = 0;
        let error = redeem(door.authority.cluster_id(), Some(&record), &door.presented(&node), NOW);
        assert!(matches!(error, Err(JoinRefused::Withdrawn { .. })), "{error:?}");
    }

    #[test]
    fn the_record_does_not_hold_the_secret() {
        let door = Door::new(None);
        let text = door.token.text();
        let secret = text.reveal().split('.').nth(3).expect("secret");
        let record = format!(
            "{:?} {}",
            door.record,
            serde_json::to_string(&door.record).expect("json")
        );
        assert!(!record.contains(secret));
    }

    struct Door {
        authority: Authority,
        token: JoinToken,
        record: JoinRecord,
    }

    impl Door {
        fn new(node: Option<&str>) -> Self {
            let authority = Authority::create(NOW).expect("authority");
            let addresses = ["10.0.0.1:7400".to_owned()];
            let minted = mint_join_token(
                &authority,
                NodeRole::Member,
                node.map(name),
                &addresses,
                TOKEN_LIFETIME,
                NOW,
            );
            let (token, record) = minted.expect("token");
            Self {
                authority,
                token,
                record,
            }
        }

        fn with(&self, record: JoinRecord) -> Self {
            let authority = Authority::from_secret(&self.authority.to_secret(), "copy").expect("copy");
            Self {
                authority,
                token: self.token.clone(),
                record,
            }
        }

        fn presented<'a>(&'a self, node: &'a NodeName) -> Presented<'a> {
            Presented {
                token: &self.token,
                node,
                role: None,
                requests: "requests",
            }
        }

        fn knock(&self, node: &str, now: WallTime) -> Result<Redeemed, JoinRefused> {
            self.presented(&name(node)).redeem(self, now)
        }
    }

    impl Presented<'_> {
        fn redeem(&self, door: &Door, now: WallTime) -> Result<Redeemed, JoinRefused> {
            redeem(door.authority.cluster_id(), Some(&door.record), self, now)
        }
    }

    fn name(name: &str) -> NodeName {
        NodeName::new(name).expect("name")
    }
}
