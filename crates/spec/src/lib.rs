//! The operator's file: TOML to [`model::Cluster`], with errors that point.
//!
//! ```text
//! text ── toml ──► document ── walk (by keys) ──► tables ── build ──► services ── judge ──► Parsed | Errors
//!                                    │
//!                                    └── schema, reference: made from the same keys
//! ```
//! [`parse`] tells all that is wrong at once. Nothing here touches the disk: whoever calls reads the file.

#[cfg(test)]
mod agreement;
mod build;
mod diagnostic;
mod diff;
mod fence;
mod judge;
mod keys;
mod kind;
mod mend;
mod parse;
mod placeholders;
mod reference;
mod schema;
mod site;
mod source;
mod syntax;
mod text;
mod tree;
mod units;
mod walk;

pub use diagnostic::{Diagnostic, Errors, Related, Severity};
pub use diff::{Difference, ServiceDiff, diff};
pub use parse::{FILE_BYTES_MAX, Parsed, parse, parse_bytes};
pub use reference::reference;
pub use schema::json_schema;
