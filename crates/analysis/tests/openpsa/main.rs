//! The Open-PSA format: what is read, what is refused and where, and the same answers as SCRAM's on the same files.

mod reading;
mod scram;
