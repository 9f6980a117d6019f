//! Tests a service under load, and says what it can take and what limits it.
//!
//! ```text
//!   search ── the next rate ──► test ──► generator ── requests at planned times ──► the service
//!     ▲                          │ ▲
//!     └── Step ──────────────────┘ └── Surroundings: what the agent measures, and whether anything suffers
//!                                │
//!                              Outcome ──► words, html
//! ```
//!
//! [`search`] and [`harm`] are pure. [`generator`] sends: it keeps to planned times whatever the answers do, and counts latency from them,
//! so that a stall is seen by all requests that it would have met.
//!
//! Deliberately absent: how the agent is reached. Whoever runs a test brings its [`test::Surroundings`].

pub mod generator;
pub mod harm;
pub mod html;
pub mod objective;
pub mod outcome;
pub mod search;
pub mod test;
pub mod words;

mod predictions;
