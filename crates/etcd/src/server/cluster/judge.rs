//! Pure decisions about members: who may be removed, and who should lead.

use super::view::View;
use std::collections::BTreeSet;
use std::fmt;

/// Why a member should not be removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such member.
    #[error("there is no member `{name}`; there are: {}", known.join(", "))]
    Unknown {
        /// The name.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The cluster would end with it.
    #[error("`{name}` is the last member with a vote: without it nothing is left of the cluster")]
    Last {
        /// The name.
        name: String,
    },
    /// Nothing can be decided now, so nobody can be removed either.
    #[error("only {healthy} of {voters} members are well, {needed} are needed to decide anything")]
    NoQuorum {
        /// Voters that are well.
        healthy: usize,
        /// Voters there are.
        voters: usize,
        /// How many must be well.
        needed: usize,
    },
    /// Too few of those that remain are well.
    #[error(
        "without `{name}` only {healthy} of {voters} members would be well, {needed} are needed: nothing could be decided any more"
    )]
    LosesQuorum {
        /// The name.
        name: String,
        /// Voters that would be well.
        healthy: usize,
        /// Voters there would be.
        voters: usize,
        /// How many would have to be well.
        needed: usize,
    },
    /// It is well, and was to be replaced as a dead one.
    #[error("`{name}` is well and answers: it does not have to be replaced")]
    Lives {
        /// The name.
        name: String,
    },
}

impl Refusal {
    /// What can be done about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Refusal::Unknown { .. } => "`cluster status` lists the members",
            Refusal::Last { .. } => "to end the cluster, stop the node and delete its data",
            Refusal::NoQuorum { .. } => {
                "bring the other members back; if they are lost for good, recover with a new cluster of the one that is left"
            }
            Refusal::LosesQuorum { .. } => "bring the other members back or replace them first",
            Refusal::Lives { .. } => "remove it instead, if it is to go",
        }
    }

    /// Whether the operator may insist, by typing the member's name.
    pub fn can_be_forced(&self) -> bool {
        matches!(self, Refusal::LosesQuorum { .. } | Refusal::Lives { .. })
    }
}

/// Whether a member can go without harm.
pub fn judge_removal(view: &View, name: &str) -> Result<(), Refusal> {
    let name_owned = || name.to_owned();
    let Some(leaving) = view.find(name) else {
        return Err(Refusal::Unknown {
            name: name_owned(),
            known: view.names(),
        });
    };
    let (healthy, voters) = (view.healthy_voters(), view.voters().count());
    if leaving.votes() && voters == 1 {
        return Err(Refusal::Last { name: name_owned() });
    }
    if !view.has_quorum() {
        return Err(Refusal::NoQuorum {
            healthy,
            voters,
            needed: view.quorum(),
        });
    }
    if !leaving.votes() {
        return Ok(());
    }
    let healthy = healthy - usize::from(leaving.healthy());
    let voters = voters - 1;
    let needed = voters / 2 + 1;
    if healthy < needed {
        return Err(Refusal::LosesQuorum {
            name: name_owned(),
            healthy,
            voters,
            needed,
        });
    }
    Ok(())
}

/// Who should lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// It is well as it is.
    Stay,
    /// To this member.
    Move {
        /// Its id.
        to: u64,
        /// Its name.
        name: String,
    },
    /// It would be better elsewhere, but nobody there can lead.
    Nowhere {
        /// Who leads now.
        leader: String,
    },
    /// Nobody leads: an election comes first.
    NoLeader,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Stay => f.write_str("the leader can stay where it is"),
            Choice::Move { name, .. } => write!(f, "`{name}` should lead"),
            Choice::Nowhere { leader } => write!(f, "`{leader}` leads because no other member that may is well"),
            Choice::NoLeader => f.write_str("no member leads"),
        }
    }
}

/// Chooses a leader outside of `avoid`, the nodes that hold exclusive slots: then their loss costs no election. Of several,
/// the one least behind, then the first by name. A leader that may stay does stay.
pub fn choose_leader(view: &View, avoid: &BTreeSet<String>) -> Choice {
    let Some(leader) = view.leader() else {
        return Choice::NoLeader;
    };
    if !avoid.contains(leader.name()) {
        return Choice::Stay;
    }
    let may = view
        .voters()
        .filter(|seen| !avoid.contains(seen.name()) && view.up_to_date(seen));
    match may.min_by_key(|seen| (view.behind(seen), seen.name())) {
        Some(seen) => Choice::Move {
            to: seen.member.id,
            name: seen.name().to_owned(),
        },
        None => Choice::Nowhere {
            leader: leader.name().to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::made_up::view;
    use super::*;

    #[test]
    fn a_member_goes_only_if_the_others_can_still_decide() {
        let table = [
            ("a* b c", "b", None),
            ("a* b c", "a", None),
            ("a* b c!", "c", None),
            ("a* b! c", "a", Some("LosesQuorum")),
            ("a* b c!", "b", Some("LosesQuorum")),
            ("a* b!", "b", Some("NoQuorum")),
            ("a b! c!", "b", Some("NoQuorum")),
            ("a*", "a", Some("Last")),
            ("a* b?", "a", Some("Last")),
            ("a* b?", "b", None),
            ("a* b", "b", None),
            ("a* b c", "d", Some("Unknown")),
        ];
        for (members, name, refusal) in table {
            let found = judge_removal(&view(members), name)
                .err()
                .map(|refusal| format!("{refusal:?}"));
            let kind = found.as_deref().and_then(|debug| debug.split(' ').next());
            assert_eq!(kind, refusal, "{name} of {members}");
        }
        let refusal = judge_removal(&view("a* b c!"), "b").unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "without `b` only 1 of 2 members would be well, 2 are needed: nothing could be decided any more"
        );
        assert!(refusal.can_be_forced());
        assert!(!judge_removal(&view("a*"), "a").unwrap_err().can_be_forced());
    }

    #[test]
    fn the_leader_leaves_nodes_that_hold_slots_if_somebody_else_is_fit() {
        let choose =
            |view: &View, avoid: &[&str]| choose_leader(view, &avoid.iter().map(ToString::to_string).collect());
        let to = |id, name: &str| Choice::Move {
            to: id,
            name: name.into(),
        };
        assert_eq!(choose(&view("a* b c"), &[]), Choice::Stay);
        assert_eq!(choose(&view("a b* c"), &["a"]), Choice::Stay);
        assert_eq!(choose(&view("a* b c"), &["a"]), to(2, "b"));
        assert_eq!(choose(&view("a* b c"), &["a", "b"]), to(3, "c"));
        assert_eq!(
            choose(&view("a* b! c?"), &["a"]),
            Choice::Nowhere { leader: "a".into() }
        );
        assert_eq!(choose(&view("a b c"), &["a"]), Choice::NoLeader);
        let lagging = view("a* b c").change("b", |status| status.raft_applied -= 10);
        assert_eq!(choose(&lagging, &["a"]), to(3, "c"), "the least behind");
    }
}
