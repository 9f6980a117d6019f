//! The binary `understudy`: what can be typed, speaking with the agent, and text for people.
//!
//! ```text
//!   args ── commands ── client (HTTP over the Unix socket) ── agent
//!              │   └─── feed   (the status as it changes)
//!              ├── place, names (which cluster, which service: did you mean …?)
//!              └── render      (API types to text, pure) ── output, terminal
//! ```
//!
//! Deliberately absent: decisions. What the agent does not offer over its API, this program cannot do either.

mod args;
mod client;
mod commands;
mod feed;
mod names;
mod output;
mod parse;
mod place;
mod render;
mod terminal;
mod who;

use clap::builder::{OsStr, Resettable};
use clap::{CommandFactory, FromArgMatches};
use std::ffi::OsString;

fn main() {
    let typed: Vec<OsString> = std::env::args_os().collect();
    let command = args::Cli::command().color(help_color(&typed));
    let parsed = command
        .try_get_matches_from(&typed)
        .and_then(|matches| args::Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => std::process::exit(commands::run(cli)),
        // 2 for wrong usage, 0 for --help and --version.
        Err(error) => as_typed(error, typed).exit(),
    }
}

/// The same error without what comes from the environment: its usage would show that as if it had to be typed.
fn as_typed(error: clap::Error, typed: Vec<OsString>) -> clap::Error {
    let command = args::Cli::command().color(help_color(&typed));
    let command = command.mut_args(|arg| arg.env(Resettable::<OsStr>::Reset));
    match command.try_get_matches_from(typed) {
        Err(same) if error.use_stderr() && same.kind() == error.kind() => same,
        _ => error,
    }
}

/// `--color` as typed: help and usage errors are printed before the options are understood.
fn help_color(typed: &[OsString]) -> clap::ColorChoice {
    let words: Vec<_> = typed.iter().map(|word| word.to_string_lossy()).collect();
    let choice = words
        .iter()
        .enumerate()
        .find_map(|(index, word)| match word.strip_prefix("--color") {
            Some("") => words.get(index + 1).map(ToString::to_string),
            Some(value) => value.strip_prefix('=').map(ToOwned::to_owned),
            None => None,
        });
    match choice.as_deref() {
        Some("always") => clap::ColorChoice::Always,
        Some("never") => clap::ColorChoice::Never,
        _ => clap::ColorChoice::Auto,
    }
}
