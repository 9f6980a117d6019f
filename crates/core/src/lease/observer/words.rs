//! What keeps an observer waiting, in words.

use super::Why;
use std::fmt;

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NoSession => f.write_str("it has no session"),
            Why::Fresh { silent, wait } => write!(
                f,
                "its last renewal was seen {}ms ago, and may cover it for {}ms",
                silent.as_millis(),
                wait.as_millis()
            ),
            Why::NoWrites => f.write_str("this node's own writes to the store do not succeed"),
            Why::HoldOff { writing, hold_off } => write!(
                f,
                "this node's own writes succeed again for {}ms only, the others get {}ms to renew",
                writing.as_millis(),
                hold_off.as_millis()
            ),
            Why::Resyncing => f.write_str("the sessions are being read again after the watch was lost"),
            Why::TooMany { silent, of } => write!(
                f,
                "{silent} of {of} sessions fell silent at once, more than a third: an operator must say that those nodes are dead"
            ),
        }
    }
}
