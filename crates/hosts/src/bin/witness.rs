//! Judges the rings of a folder: who was active when, and whether two ever were at once.

use clap::Parser;
use hosts::witness::{Limits, judge, read_all};
use std::path::PathBuf;
use std::process::ExitCode;

/// Status 0: never two at once, and epochs rose. Status 1: it was otherwise, or stamps were lost. Status 2: nothing to judge.
#[derive(Debug, Parser)]
#[command(name = "witness")]
struct Cli {
    /// The folder of rings
    folder: PathBuf,
    /// Only what was stamped from here on, nanoseconds on CLOCK_BOOTTIME
    #[arg(long, default_value_t = 0)]
    since_ns: u64,
    /// Between stamps further apart than so many milliseconds nobody acted
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    still_ms: u64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let traces = match read_all(&cli.folder) {
        Ok(traces) => traces,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let traces: Vec<_> = traces.into_iter().map(|trace| trace.since(cli.since_ns)).collect();
    let limits = Limits {
        still_ns: cli.still_ms * 1_000_000,
        ..Limits::default()
    };
    let verdict = judge(&traces, limits);
    println!("{verdict}");
    if verdict.spans.is_empty() {
        eprintln!("error: nobody stamped");
        return ExitCode::from(2);
    }
    if verdict.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
