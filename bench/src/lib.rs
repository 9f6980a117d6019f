//! What benchmarks and end-to-end tests share.
//!
//! - [`browser`]: a real Chromium
//! - [`chaos`]: random faults, and what a witness says of them
//! - [`cluster`]: the product on several hosts
//! - [`load`]: an open-loop load client that does not hide a pause
//! - [`rig`]: the product under test, driven through its command line
//! - [`process`]: what processes cost, and signals to them
//! - [`sample`]: medians and spreads
//! - [`trouble`]: what is done to it
//! - [`report`]: the written result

pub mod browser;
pub mod chaos;
pub mod cluster;
pub mod load;
pub mod process;
pub mod report;
pub mod rig;
pub mod sample;
pub mod trouble;
