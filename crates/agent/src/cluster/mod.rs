//! An agent that is one of several: its session, what the store says of the others, what they are told of us.
//!
//! ```text
//!   store ── mirror ──► Seen ──┐                        ┌──► session thread ──► guard
//!   session thread ──► News ───┤ main loop: core ───────┼──► publish ──► store
//!   operators ──► Request ─────┘                        └──► slots, asks ──► store
//! ```
//! One machine has none of this: there the store is the agent's own, and no session can run out.

pub(crate) mod asks;
pub(crate) mod clock;
pub(crate) mod clocks;
mod commits;
mod deeds;
pub(crate) mod door;
pub(crate) mod fence;
mod force;
pub(crate) mod guests;
mod hear;
pub(crate) mod leave;
pub(crate) mod mirror;
mod own_etcd;
pub(crate) mod papers;
pub(crate) mod power;
pub(crate) mod publish;
pub(crate) mod reach;
pub(crate) mod renewals;
pub(crate) mod session;
pub(crate) mod silence;
pub(crate) mod standing;
pub(crate) mod start;
mod tell;
pub(crate) mod upkeep;
mod waiting;

use api::record::{self, Live, Member};
use decisions::lease::{Observer, Still};
use decisions::{Presence, Scoped};
use model::{InstanceId, Mark, NodeName, Revision, ServiceName, SlotId, Timestamp, Timing};
use publish::Publish;
use session::SessionLink;
use std::collections::{BTreeMap, BTreeSet};
use store::Entry;
use store::session::Session;
use tokio::sync::{mpsc, oneshot};

/// What an agent of a cluster has beside what every agent has.
pub(crate) struct Clustered {
    pub(crate) node: api::node::Node,
    pub(crate) me: NodeName,
    pub(crate) boot: String,
    pub(crate) timing: Timing,
    pub(crate) link: SessionLink,
    pub(crate) observer: Observer,
    /// Whose renewals are told: what watches are opened by, and of which controller, and whether with agents alone that tell who is there, that was judged.
    pub(crate) scoped: Scoped,
    pub(crate) scopes: tokio::sync::watch::Sender<Scoped>,
    pub(crate) scoped_for: (Option<NodeName>, bool),
    /// Whether all that have a session say so, and when the controller, if it is us, wrote last that they do not.
    pub(crate) presence: Presence,
    pub(crate) presence_written: Option<Timestamp>,
    /// Renewals of sessions that are not said to be there yet: the watch that says so is another one.
    pub(crate) early: BTreeMap<NodeName, Entry>,
    /// When the main loop wanted to look at the sessions next.
    pub(crate) look_at: Option<Mark>,
    pub(crate) publisher: mpsc::UnboundedSender<Publish>,
    pub(crate) session: Option<Revision>,
    /// Since when it has none; since the agent came up, if it never had one.
    pub(crate) session_lost: Timestamp,
    /// Sessions of all nodes, as they were seen last.
    pub(crate) sessions: BTreeMap<NodeName, Session>,
    /// When each other node was last seen to renew its session.
    pub(crate) heard: BTreeMap<NodeName, Timestamp>,
    /// Those of others that have run out, as the core knows.
    pub(crate) expired: BTreeSet<NodeName>,
    pub(crate) members: BTreeMap<NodeName, Member>,
    /// What lies below each node, as it told.
    pub(crate) hardware: BTreeMap<NodeName, model::hardware::Hardware>,
    /// Nodes that the operator wants empty.
    pub(crate) drained: BTreeSet<NodeName>,
    /// Services that the operator wants rebalanced.
    pub(crate) rebalancing: BTreeSet<ServiceName>,
    /// What operators did by force, and which of it this node told.
    pub(crate) deeds: deeds::Deeds,
    /// Automatic actions are paused.
    pub(crate) paused: bool,
    /// What others say of their instances.
    pub(crate) lives: BTreeMap<InstanceId, Live>,
    /// Which instances there are, and since when.
    pub(crate) assigned: BTreeMap<InstanceId, (record::Instance, Revision)>,
    pub(crate) slots: BTreeMap<SlotId, Entry>,
    /// When an instance of each service came, or went, last.
    pub(crate) counted: BTreeMap<ServiceName, Revision>,
    /// What we told of our instances.
    pub(crate) published: BTreeMap<InstanceId, Live>,
    pub(crate) controller: Option<(record::Controller, Revision)>,
    /// By a record as old as this we are not the controller, whatever it says: what an earlier agent asked for in its name, or we did before we
    /// were it no more, may still be carried out under it, and is not known to us.
    pub(crate) elected_before: Revision,
    /// When we try to become the controller.
    pub(crate) elect_at: Option<Timestamp>,
    /// Whether the guard can fence, or why not.
    pub(crate) fencing: Result<String, String>,
    /// Since when that is so.
    pub(crate) fencing_since: Timestamp,
    /// Whether the wall clocks of the nodes agree.
    pub(crate) clocks: clocks::Clocks,
    /// Everything exclusive of ours stands still, and since when.
    pub(crate) frozen: Option<(Still, Timestamp)>,
    /// When they went on last.
    pub(crate) thawed_at: Option<Timestamp>,
    /// Whether the store answers.
    pub(crate) answering: silence::Answering,
    /// How long its writes take.
    pub(crate) commits: commits::Commits,
    /// The node has a session that is not ours.
    pub(crate) taken: Option<Session>,
    pub(crate) told_fast: Option<bool>,
    pub(crate) told_empty: Option<bool>,
    /// When the guard is told next that the main loop goes round.
    pub(crate) beat_at: Timestamp,
    /// What the upkeep of the store has to know.
    pub(crate) upkeep: tokio::sync::watch::Sender<upkeep::Wanted>,
    /// Numbers of asks that others will answer.
    pub(crate) awaited: BTreeMap<String, oneshot::Sender<api::Outcome>>,
    pub(crate) next_ask: u64,
    /// What is wrong with certificates.
    pub(crate) papers: papers::Troubles,
    /// Whether this node was removed or left behind, and who that it left behind goes on beside it.
    pub(crate) standing: papers::Troubles,
    /// What is wrong with the members of the store.
    pub(crate) store_trouble: upkeep::Trouble,
    /// Whether the data of this node's own member can be used.
    pub(crate) own_trouble: upkeep::Trouble,
    /// Whose power is taken away, and by which devices that goes.
    pub(crate) power: power::Power,
    /// This node goes down, and how far that is.
    pub(crate) leaving: Option<leave::Leaving>,
}

/// By what we are the controller, if we are.
pub(crate) fn controls(cluster: &Clustered) -> Option<crate::slots::Controls> {
    let (controller, elected) = cluster.controller.as_ref()?;
    let session = cluster.session.filter(|session| *session == controller.session)?;
    (controller.node == cluster.me && *elected > cluster.elected_before).then(|| crate::slots::Controls {
        me: cluster.me.clone(),
        session,
        elected: *elected,
    })
}

/// What happens to a cluster's agent beside news of store and session.
#[derive(Debug)]
pub(crate) enum Later {
    /// A write of ours succeeded or failed: the controller's record, say.
    Wrote { what: &'static str, error: Option<String> },
    /// What another node asks of us for an operator was taken, and is not withdrawn any more.
    Took { number: String, ask: Box<record::Ask> },
    /// A session that had run out may be ended now.
    Condemn(NodeName),
    /// News of somebody's power.
    Power(power::PowerNews),
    /// Our own session is closed: this node may go.
    Closed,
}
