//! A small service that proves when it was active: it stamps its epoch into a ring while it acts, and answers requests with it.
//!
//! It knows nothing of who manages it. Started with `--epoch` it is active from the start; otherwise `promote` and `demote` tell it.

use clap::{Parser, Subcommand};
use hosts::token::{self, Serve};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, Parser)]
#[command(name = "tokenserver", about = "A service that proves when it was active")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Serve HTTP until killed
    Serve {
        /// In its answers and its ring
        #[arg(long)]
        name: String,
        /// Where it listens
        #[arg(long)]
        listen: SocketAddr,
        /// The folder of rings; without it nothing is stamped
        #[arg(long)]
        rings: Option<PathBuf>,
        /// The slot that it acts for
        #[arg(long, default_value_t = 0)]
        slot: u32,
        /// Active from the start at this epoch; `now` takes the clock's nanoseconds
        #[arg(long, value_parser = token::parse_epoch)]
        epoch: Option<u64>,
        /// A socket for `promote` and `demote`
        #[arg(long)]
        control: Option<PathBuf>,
        /// Microseconds between stamps
        #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(50..=1_000_000))]
        every_us: u64,
        /// Answer with status 200 as a standby too, at epoch 0
        #[arg(long)]
        answer_standby: bool,
    },
    /// Make it active
    Promote {
        /// As given to `serve`
        #[arg(long)]
        control: PathBuf,
        /// The epoch; `now` takes the clock's nanoseconds
        #[arg(value_parser = token::parse_epoch)]
        epoch: u64,
    },
    /// Make it a standby; it has stamped for the last time when this returns
    Demote {
        /// As given to `serve`
        #[arg(long)]
        control: PathBuf,
    },
    /// Ask it once, and fail if it does not answer with status 200
    Check {
        /// Where it listens
        address: SocketAddr,
        /// Milliseconds to wait
        #[arg(long, default_value_t = 1_000)]
        timeout_ms: u64,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().what {
        What::Serve {
            name,
            listen,
            rings,
            slot,
            epoch,
            control,
            every_us,
            answer_standby,
        } => token::serve(&Serve {
            name,
            listen,
            rings,
            slot,
            epoch,
            control,
            every: Duration::from_micros(every_us),
            answer_standby,
        }),
        What::Promote { control, epoch } => token::promote(&control, epoch),
        What::Demote { control } => token::demote(&control),
        What::Check { address, timeout_ms } => {
            token::check(address, Duration::from_millis(timeout_ms)).map(|answer| println!("{answer}"))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
