//! Who acted as the active, and when: written by those who act, judged by somebody else.
//!
//! Whoever is active stamps (slot, epoch, time, number) into a [`Ring`] of its own, a file in memory that all hosts share, again and
//! again while it acts. A process that is stopped cannot stamp; one that is thawed too late goes on, and [`judge`] sees it. Nothing here uses
//! any code of Understudy: a mistake in the product cannot hide itself here.

mod judge;
mod ring;

pub use judge::{EpochFault, Gap, Limits, Overlap, Span, Verdict, judge};
pub use ring::{Ring, RingError, Stamp, Trace, read_all};
