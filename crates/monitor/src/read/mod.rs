//! Reads what instances and the node use: cgroup v2 where there is one, `/proc` else.
//!
//! Files are kept open and read anew from their beginning: that costs a third of opening them each time.

pub mod instance;
mod kept;
pub mod node;
mod text;

pub use instance::{Reader, Usage};
pub use node::NodeReader;
