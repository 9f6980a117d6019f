//! Keeps any program as the guard keeps the agent.
//!
//! `guard FOLDER [--watch PID] -- PROGRAM [ARGUMENT...]`: locks and logs lie in the folder.

use std::ffi::OsString;
use std::path::PathBuf;

fn main() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    match config() {
        Some(config) => std::process::exit(guard::run(&config)),
        None => {
            eprintln!("usage: guard FOLDER [--watch PID] -- PROGRAM [ARGUMENT...]");
            std::process::exit(2);
        }
    }
}

fn config() -> Option<guard::Config> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = PathBuf::from(arguments.next()?);
    let mut next = arguments.next()?;
    let mut watch = None;
    if next == "--watch" {
        watch = Some(arguments.next()?.to_str()?.parse().ok()?);
        next = arguments.next()?;
    }
    let agent: Vec<OsString> = arguments.collect();
    (next == "--" && !agent.is_empty()).then(|| guard::Config {
        lock: folder.join("guard.lock"),
        agent_lock: folder.join("agent.lock"),
        agent_log: folder.join("agent.log"),
        agent,
        watch,
    })
}
