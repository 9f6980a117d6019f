//! The Open-PSA format: what is read, what is refused and where, and the same answers as SCRAM's on the same files.

#![expect(clippy::unwrap_used, reason = "a test that cannot do its part has failed")]

mod reading;
mod scram;
