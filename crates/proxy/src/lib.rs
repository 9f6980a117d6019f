//! The data path: a process of its own.
