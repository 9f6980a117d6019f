//! What agent and guard say to each other over the guard's socket: one JSON text per packet (`SOCK_SEQPACKET`).
//!
//! The messages that come often, [`Request::Renewed`] and [`Request::Heartbeat`], are read without allocating.

use super::words::{Policy, State};
use model::{Epoch, Mark, Millis, SlotId, Timing};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// The longest packet, in bytes: a report of all slots fits, and it fits the send buffer that Linux gives by default.
pub const PACKET_BYTES_MAX: usize = 160 * 1024;
/// Ports and addresses of one slot.
pub const GATES_PER_SLOT_MAX: usize = 16;

/// From the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// First on every connection; answered by [`Reply::Registered`]. Registering is adopting: the answer tells what is armed.
    Register {
        /// Larger than that of every earlier agent of this boot: the time of its start on CLOCK_BOOTTIME serves.
        incarnation: u64,
    },
    /// What spans the next renewal gives. The first one lets the guard test itself and is answered by [`Reply::SelfTest`].
    /// After an acknowledged renewal that *raised* the lease, and before sending one that lowers it.
    Timing(Timing),
    /// A session was opened by a request sent at `mark`. Answered by [`Reply::Done`].
    Session {
        /// Its id.
        session: u64,
        /// When the request that opened it was sent.
        mark: Mark,
    },
    /// A slot is held. Answered by [`Reply::Armed`] or [`Reply::Refused`]; gate and processes are open when the answer comes. Said again at the
    /// same epoch it may name other addresses: those of before are kept until the answer comes. Another slot that the cgroup is armed for is
    /// given up by it, whoever armed that; one that it stands still for is not, and it is refused.
    Arm(Armament),
    /// A frozen slot was taken into the present session (T10). Answered by [`Reply::Done`].
    Rebind {
        /// Which.
        slot: SlotId,
        /// At which epoch.
        epoch: Epoch,
    },
    /// A slot is held no longer; its ports are nobody's gate any more. Answered by [`Reply::Done`].
    Disarm {
        /// Which.
        slot: SlotId,
    },
    /// Nothing exclusive runs on this node: gates that an earlier guard left shut are lifted, if this one keeps none. No answer.
    Clear,
    /// A renewal that was *sent* at `mark` was acknowledged. No answer.
    Renewed {
        /// Of which session.
        session: u64,
        /// When it was sent.
        mark: Mark,
    },
    /// The agent's main loop goes round. Silence after the first one ends the agent. Answered by [`Reply::Alive`]: a guard
    /// that is stopped rather than dead does not answer.
    Heartbeat,
    /// The agent ends in order: silence means nothing from now on. No answer.
    Leave,
}

/// What to keep of a slot, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Armament {
    /// The slot.
    pub slot: SlotId,
    /// The epoch it is held at.
    pub epoch: Epoch,
    /// What happens without renewals.
    pub policy: Policy,
    /// How long it may stay frozen; 0: killed at the hard deadline even if frozen.
    pub frozen_max: Millis,
    /// Its cgroup, as an absolute path: all its processes and nothing else.
    pub cgroup: PathBuf,
    /// TCP and UDP ports of this machine that are its own.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Addresses that are its own, floating ones.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// The floating address to take away at the hard deadline.
    #[serde(default)]
    pub floating: Option<Floating>,
    /// Another one, while it is exchanged for it: both may be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchanged: Option<Floating>,
}

impl Armament {
    /// Whether it differs from another in addresses alone: then it is changed while it lasts.
    pub(crate) fn is_readdressed(&self, other: &Self) -> bool {
        let without = |armament: &Self| Self {
            addresses: Vec::new(),
            floating: None,
            exchanged: None,
            ..armament.clone()
        };
        without(self) == without(other)
    }
}

/// An address on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floating {
    /// The address.
    pub address: IpAddr,
    /// Its prefix length, 0 to 32 or 128.
    pub prefix: u8,
    /// Index of the interface.
    pub interface: u32,
}

/// From the guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Register`].
    Registered {
        /// Process id of the guard.
        guard: u32,
        /// The session it knows, with the newest renewal.
        session: Option<(u64, Mark)>,
        /// What was ever armed.
        slots: Vec<SlotReport>,
    },
    /// To the first [`Request::Timing`].
    SelfTest(SelfTest),
    /// The deadline of the slot runs.
    Armed {
        /// Which.
        slot: SlotId,
        /// At which epoch.
        epoch: Epoch,
        /// Frozen if it was armed before and is.
        state: State,
    },
    /// To [`Request::Heartbeat`].
    Alive,
    /// Nothing was done.
    Refused {
        /// The slot it was about, if it was about one.
        slot: Option<SlotId>,
        /// Why, and what to do.
        why: String,
    },
    /// [`Request::Session`], [`Request::Rebind`] or [`Request::Disarm`] was carried out.
    Done {
        /// The slot it was about, if it was about one.
        slot: Option<SlotId>,
    },
    /// What became of a slot without being asked.
    Event {
        /// Which.
        slot: SlotId,
        /// At which epoch.
        epoch: Epoch,
        /// What.
        what: What,
        /// How long after its deadline the kernel had been told to freeze or kill it, in microseconds.
        late_us: Option<u64>,
    },
}

/// What can become of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Its gate is closed; let it finish (policy `kill`).
    Quiesce,
    /// Its gate is open again (policy `kill`).
    Resumed,
    /// It is gated and frozen.
    Frozen,
    /// It runs again.
    Thawed {
        /// Its floating address was taken away meanwhile: add it again.
        address_removed: bool,
    },
    /// It was killed for good.
    Fired,
    /// It was killed, and none of its processes is left.
    Gone,
    /// The kernel did not do what it was told; the guard tries again at each tick.
    Failed {
        /// Error number of the operating system.
        errno: i32,
    },
}

/// A slot as the guard knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotReport {
    /// The slot.
    pub slot: SlotId,
    /// Its state.
    pub state: State,
    /// The highest epoch it was armed at.
    pub epoch: Epoch,
    /// The session it is held in.
    pub session: u64,
    /// When the renewal that its deadline rests on was sent.
    pub renewed: Mark,
}

/// What the guard can promise on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfTest {
    /// Whether exclusive slots may be taken here.
    pub ok: bool,
    /// What keeps it from that, as sentences.
    pub why_not: Vec<String>,
    /// Why there are no kernel gates, if there are none: freeze and kill go on without.
    pub gates_unavailable: Option<String>,
    /// How long it took from the kill of a small cgroup to its end.
    pub kill_us: Option<u64>,
}
