//! T12: an operator states that a node is off, so that its slots are free before its session has run out.
//!
//! The one transition that rests on the word of a person. Everything that the cluster itself can know against it is held against it
//! here, and once more by the transaction, which compares the last renewal that was seen and the slot as it was shown.

use model::{InstanceId, Millis, NodeName, Revision, Timing};
use std::fmt;
use std::time::Duration;

/// How a slot and its holder's node stand when an operator wants it forced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forcing {
    /// The node whose agent is asked; none on one machine, where there is no session.
    pub me: Option<NodeName>,
    /// The node that is stated to be off.
    pub node: NodeName,
    /// Who holds the slot, and where; nothing if it is vacant or parked.
    pub holder: Option<(InstanceId, NodeName)>,
    /// The session under which it is held, and that of the node now.
    pub sessions: (Revision, Option<Revision>),
    /// How long no renewal of the node's session was seen, at least; nothing if it was never seen.
    pub silent: Option<Duration>,
    /// The session has ended, but whether its node still writes is not known, and the service shares storage: nobody takes the slot.
    pub unproven: bool,
    /// Whether the store answers.
    pub store_answers: bool,
}

/// Why a slot is not forced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotForced {
    /// One machine.
    #[error(
        "on one machine nothing is taken by force: its agent runs, so it is on, and ends an old holder for certain"
    )]
    OneMachine,
    /// The machine that answers says of itself that it is off.
    #[error("node {node} is the one that is asked, so it is on")]
    Itself {
        /// Which.
        node: NodeName,
    },
    /// Nobody holds it.
    #[error("nobody holds the slot: there is nobody to take it from")]
    NotHeld,
    /// Somebody else does.
    #[error("{holder} on node {on} holds the slot, not node {node}")]
    HeldElsewhere {
        /// Who.
        holder: InstanceId,
        /// Where.
        on: NodeName,
        /// As stated.
        node: NodeName,
    },
    /// Nothing keeps the others from taking it.
    #[error("the session of node {node} has ended already: whoever is first in line takes the slot by itself")]
    Ended {
        /// Which.
        node: NodeName,
    },
    /// It renews its session.
    #[error("node {node} is alive: it renewed its session less than {within} ago")]
    Alive {
        /// Which.
        node: NodeName,
        /// 3R.
        within: Millis,
    },
    /// It is not among those whose renewals are told here.
    #[error(
        "whether node {node} is silent is not known here: its renewals are told to nodes that may succeed it, and to the controller"
    )]
    Unseen {
        /// Which.
        node: NodeName,
    },
    /// Nothing can be written.
    #[error("the store does not answer, so nobody can take anything, by force or not")]
    NoStore,
    /// Other words than are asked for.
    #[error("the statement must read `{wanted}`")]
    OtherWords {
        /// The words.
        wanted: String,
    },
}

impl NotForced {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::OneMachine => {
                "`understudy explain SERVICE` says what its slot waits for; `understudy drill instance NAME` kills an instance"
            }
            Self::Itself { .. } => "ask the agent of another node",
            Self::NotHeld | Self::Ended { .. } => "`understudy explain SERVICE` says what it waits for",
            Self::HeldElsewhere { .. } => "`understudy status` shows who holds what, and where",
            Self::Alive { .. } => {
                "move what lives with `understudy switchover` or `understudy drain`; or take its power away, and ask again"
            }
            Self::Unseen { .. } => "ask the agent of a node with a standby of that service",
            Self::NoStore => "`understudy cluster status` says which members are missing, and what to do",
            Self::OtherWords { .. } => "go and look at the machine first: if it is not off, two may act at once",
        }
    }
}

/// What the operator has to state, word for word.
pub fn statement(node: &NodeName) -> String {
    format!("host {node} is off")
}

/// The same where what only that node had is given up.
pub fn statement_of_loss(node: &NodeName) -> String {
    format!("host {node} is off and its data are lost")
}

/// Whether a holder whose slot is to be forced may be taken at the operator's word. A node that holds a slot renews every R: within 3R, one
/// that is alive and reaches the store has been seen.
pub fn may_force(forcing: &Forcing, timing: &Timing) -> Result<(), NotForced> {
    let node = forcing.node.clone();
    let Some(me) = &forcing.me else {
        return Err(NotForced::OneMachine);
    };
    if *me == node {
        return Err(NotForced::Itself { node });
    }
    let Some((holder, on)) = forcing.holder.clone() else {
        return Err(NotForced::NotHeld);
    };
    if on != node {
        return Err(NotForced::HeldElsewhere { holder, on, node });
    }
    if !forcing.store_answers {
        return Err(NotForced::NoStore);
    }
    let (held, now) = forcing.sessions;
    if now.is_none() && forcing.unproven {
        return Ok(());
    }
    if now != Some(held) {
        return Err(NotForced::Ended { node });
    }
    let within = Millis(3 * timing.renew.0);
    match forcing.silent {
        None => Err(NotForced::Unseen { node }),
        Some(silent) if silent < within.duration() => Err(NotForced::Alive { node, within }),
        Some(_) => Ok(()),
    }
}

/// Whether these are the words.
pub fn is_stated(node: &NodeName, stated: &str) -> Result<(), NotForced> {
    is_said(statement(node), stated)
}

/// Whether these are the words where what only that node had is given up.
pub fn is_loss_stated(node: &NodeName, stated: &str) -> Result<(), NotForced> {
    is_said(statement_of_loss(node), stated)
}

fn is_said(wanted: String, stated: &str) -> Result<(), NotForced> {
    if stated.split_whitespace().eq(wanted.split_whitespace()) {
        return Ok(());
    }
    Err(NotForced::OtherWords { wanted })
}

impl fmt::Display for Forcing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.silent {
            Some(silent) => write!(f, "node {} is silent for {} ms", self.node, silent.as_millis()),
            None => write!(f, "no renewal of node {} was ever seen", self.node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Profile;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    /// db-1 on c, silent for a second, seen from a.
    fn silent() -> Forcing {
        Forcing {
            me: Some(node("a")),
            node: node("c"),
            holder: Some(("db-1".parse().unwrap(), node("c"))),
            sessions: (Revision(7), Some(Revision(7))),
            silent: Some(Duration::from_secs(1)),
            unproven: false,
            store_answers: true,
        }
    }

    fn refused(forcing: &Forcing) -> String {
        may_force(forcing, &Profile::Lan.timing()).unwrap_err().to_string()
    }

    #[test]
    fn a_holder_that_is_silent_for_three_renewals_may_be_taken_at_the_operators_word() {
        assert_eq!(may_force(&silent(), &Profile::Lan.timing()), Ok(()));
        let seen = Forcing {
            silent: Some(Duration::from_millis(599)),
            ..silent()
        };
        assert!(refused(&seen).contains("alive"), "{}", refused(&seen));
        assert!(
            refused(&Forcing {
                silent: None,
                ..silent()
            })
            .contains("not known here")
        );
    }

    #[test]
    fn what_the_cluster_knows_better_is_refused() {
        let of = |change: fn(&mut Forcing)| {
            let mut forcing = silent();
            change(&mut forcing);
            refused(&forcing)
        };
        assert!(of(|forcing| forcing.me = None).contains("one machine"));
        assert!(of(|forcing| forcing.me = Some(forcing.node.clone())).contains("is the one that is asked"));
        assert!(of(|forcing| forcing.holder = None).contains("nobody holds"));
        assert!(of(|forcing| forcing.node = NodeName::new("b").unwrap()).contains("db-1 on node c holds"));
        assert!(of(|forcing| forcing.store_answers = false).contains("store does not answer"));
        assert!(of(|forcing| forcing.sessions.1 = None).contains("ended already"));
        assert!(of(|forcing| forcing.sessions.1 = Some(Revision(9))).contains("ended already"));
    }

    #[test]
    fn one_whose_session_is_gone_may_be_taken_while_nobody_knows_whether_it_writes() {
        let mut forcing = silent();
        (forcing.sessions.1, forcing.silent, forcing.unproven) = (None, None, true);
        assert_eq!(may_force(&forcing, &Profile::Lan.timing()), Ok(()));
        // It is back: whoever is first in line takes it.
        forcing.sessions.1 = Some(Revision(9));
        assert!(refused(&forcing).contains("ended already"));
    }

    #[test]
    fn the_words_must_be_the_words() {
        assert_eq!(is_stated(&node("c"), " host c  is off\n"), Ok(()));
        for other in ["", "yes", "host b is off", "host c is on", "HOST c is off"] {
            assert!(is_stated(&node("c"), other).is_err(), "{other}");
        }
    }
}
