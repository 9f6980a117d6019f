//! Leases: when a node may act on its own session, and when another may end it.
//!
//! [`Holder`] looks after the node's own session, [`Observer`] after those of the others, [`GuardWatch`] after the guard. They are told the
//! time as a [`Mark`](model::Mark) and hold no lock, clock or socket, so the agent and the simulator, and of the first two the exhaustive
//! model, run the same rules. The letters R, T, A, G, D, W and H are those of `docs/takeover-protocol.md`, which also says why they are
//! enough.
//!
//! ```text
//!             Open                 Opened            RenewalFenced
//!   absent ──────────▶ opening ────────────▶ open ──────────────────▶ emptying ──▶ absent …
//!     ▲                   │ OpenTaken, lost    │ A without an acknowledged renewal
//!     └───────────────────┘                    ▼
//!                                    frozen: probe first, then renew ──▶ open
//! ```

mod force;
mod guard_watch;
mod holder;
mod observer;
mod outline;
pub mod txn;

pub use force::{Forcing, NotForced, is_loss_stated, is_stated, may_force, statement, statement_of_loss};
pub use guard_watch::{GUARD_ACTS, GUARD_SILENT, GuardAction, GuardEvent, GuardWatch, Hangs};
pub use holder::{Covered, Holder, HolderAction, HolderEvent, HolderOptions, Lost, Still};
pub use observer::{Condemn, Observer, Wait, Why};
