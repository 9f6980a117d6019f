//! What benchmarks and end-to-end tests share.
//!
//! - [`load`]: an open-loop load client that does not hide a pause
//! - [`rig`]: the product under test, driven through its command line
//! - [`process`]: what processes cost, and signals to them
//! - [`sample`]: medians and spreads
//! - [`report`]: the written result

pub mod load;
pub mod process;
pub mod report;
pub mod rig;
pub mod sample;
