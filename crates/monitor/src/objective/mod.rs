//! Objectives: how many requests may fail or be slow, and how fast that budget burns.
//!
//! A budget is what an objective leaves over: with 99.9 % over 30 days, one request of a thousand. A *burn rate* of 1 uses it up in exactly 30 days. An
//! alert wants two windows to exceed its rate: the long one says that it matters, the short one that it is still so.

mod burn;
mod ledger;

pub use burn::{Budget, Burn, RULES, Rule, Urgency, judge};
pub use ledger::{Counts, Ledger};
