//! Makes, grows, shrinks and saves a cluster: its identity, its store, its nodes.
//!
//! ```text
//!  init                      another machine: join TOKEN                     a member's agent
//!  ──────                    ───────────────────────────                     ────────────────
//!  measure, profile          measure, keys ── POST /v1/join (pinned TLS) ──► admit: redeem, sign
//!  authority, certificates   ◄──────────────── certificates, settings ──────┘
//!  first member of etcd      learner of etcd ── caught up ── votes
//!  meta, member record       member record
//!  node.json                 node.json
//! ```
//! Each step may be cut off: what is there is found again, or refused with the way out; `node.json` comes last, and without it
//! a machine is no node.

mod admit;
mod call;
mod check;
mod error;
mod init;
mod join;
mod place;
mod records;
mod remove;
mod renew;
mod report;
mod rotate;
mod save;
mod standing;
mod token;

pub use admit::{Admitted, admit};
pub use error::Error;
pub use init::{Init, init};
pub use join::{Join, join};
pub use place::{Place, connect, etcd_options, server_config};
pub use records::{Access, REVOKED, Settings, TRUST, issued_key, members, token_key};
pub use remove::remove;
pub use renew::{forget_old_keys, issued_by, lacks_keys_of, note_own, renew, renew_alone, renew_for};
pub use report::{Ending, MemberReport, Report, report};
pub use rotate::{abort_rotation, advance, leave_turn, note_progress, progress_of, rotate, take_turn};
pub use save::{Saved, backup, recover_quorum, restore, stop_etcd};
pub use standing::{Around, Ask, Other, Out, Standing, Told, look_around, standing};
pub use token::mint;

/// Port of an agent's API, unless told otherwise; etcd's are the next two.
pub const AGENT_PORT: u16 = 7460;
/// Before every key of the store, so that others may use the same etcd.
pub const PREFIX: &str = "understudy/";
/// What was done so far, for people who wait.
pub type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);
