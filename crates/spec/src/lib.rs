//! The operator's file: TOML to model, with errors that point.
