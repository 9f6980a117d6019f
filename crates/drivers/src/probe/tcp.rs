//! Whether an instance takes connections, and not only the kernel in its place.
//!
//! ```text
//! connect ── taken ─────────────────────────────────────────────▶ passes
//!    └─ lies in the kernel's queue ── a thread of it runs, or waits for something from outside ──▶ passes: it is slow, or takes no more
//!                                  └─ none does, all the time ──▶ fails when the time is up
//! ```
//! What cannot be seen, such as a listener in another network namespace, counts as taken.

use super::attempt::{Attempt, Trouble};
use crate::process::{Process, Stir};
use crate::sockets::Sockets;
use std::time::Duration;

/// Nearly all connections are taken before the first look after this.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_EVERY_MAX: Duration = Duration::from_millis(20);

pub(super) async fn check(attempt: &Attempt, process: Option<&Process>) -> Result<(), Trouble> {
    let stream = attempt.connect().await?;
    let (Some(process), Ok(ours), Ok(sockets)) = (process, stream.local_addr(), Sockets::open()) else {
        return Ok(());
    };
    let is_queued = || sockets.is_queued(attempt.target, ours).unwrap_or(false);
    let mut before = None;
    let mut wait = LOOK_FIRST;
    while is_queued() {
        attempt.is_queued();
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LOOK_EVERY_MAX);
        if !is_queued() {
            return Ok(());
        }
        let now = process.stir().await.unwrap_or(Stir::Awake);
        // It was woken by the connection before the first look at it, if it can be woken.
        if now == Stir::Awake || before.is_some_and(|before| before != now) {
            return Ok(());
        }
        before = Some(now);
    }
    Ok(())
}
