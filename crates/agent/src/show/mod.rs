//! What is known, in the words of the API.

mod explain;
mod plan;
mod status;

pub(crate) use explain::explain;
pub(crate) use plan::plan;
pub(crate) use status::status;
