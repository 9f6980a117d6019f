//! Alerts: what is wrong, since when, what it means, and what to do; who was told of it.
//!
//! ```text
//!  facts ── judge ──► what is wrong now ── book ──► firing, resolved ── plan ──► who is to be told now
//!                     (catalogue)           ▲                            ▲
//!                                   delay, silences              what was sent (kept in the store)
//! ```

mod book;
mod catalogue;
pub mod judge;
pub mod payload;
mod plan;
#[cfg(test)]
mod testing;

pub use book::{Book, Change, Firing, Kept, Silence};
pub use catalogue::{CATALOGUE, Code, Entry};
pub use judge::{Facts, Stopped, Wrong, judge};
pub use plan::{Due, Receiver, Sent, plan};

/// A short name of an alert that any node makes alike, so that whoever hears of it twice knows that it is one.
pub fn fingerprint(code: &str, about: &str) -> String {
    // FNV-1a, 64 bits: it is a name, not a secret.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in code.bytes().chain([0]).chain(about.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}
