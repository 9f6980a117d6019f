//! What developers run: `cargo xtask test | check | fix | sim | bench | chaos | hosts | picture`.

mod docs;
mod hosts;
mod packages;
mod picture;

use anyhow::{Context, Result, bail};
use clap::{CommandFactory, Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "What developers of Understudy run")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run every test; installs the programs they need and says so
    Test {
        /// Do not install anything: a missing program is an error that names the command
        #[arg(long)]
        no_install: bool,
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Format, lints, generated documents: only reads, changes nothing
    Check,
    /// Put right what `check` finds and can be put right by a program
    Fix,
    /// Replay the simulation of a seed, or run many
    Sim {
        /// Arguments of `understudy simulate`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a benchmark and write its table to `bench/results/`
    Bench {
        /// Its name and options; `list` names them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        arguments: Vec<String>,
    },
    /// Make hosts out of this machine, say how to enter and how to break them, remove them at Ctrl-C
    Hosts(hosts::Settings),
    /// Break three hosts at random and judge by a witness: `--faults N --seed S --profile P`
    Chaos {
        /// Options of `understudy-bench chaos`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Make `docs/failover.svg` anew, from a failover that is carried out for it
    Picture(picture::Settings),
}

fn main() -> Result<()> {
    let root = root()?;
    match Arguments::parse().task {
        Task::Test { no_install, filter } => test(&root, no_install, filter.as_deref()),
        Task::Check => check(&root),
        Task::Fix => fix(&root),
        Task::Sim { arguments } => {
            let mut words = vec!["run", "--release", "--quiet", "--", "simulate"];
            words.extend(arguments.iter().map(String::as_str));
            cargo(&root, &words)
        }
        Task::Bench { arguments } => {
            if arguments.first().is_some_and(|name| name == "failover") {
                packages::need(packages::FOR_HOSTS, false)?;
                packages::need(packages::FOR_FAILOVER, false)?;
                // Its service is a program of its own, beside the benchmark.
                cargo(&root, &["build", "--release", "--package", "understudy-hosts"])?;
            }
            let programs = match arguments.first().map(String::as_str) {
                Some("node-loss" | "calm" | "hosts" | "store-away") => packages::FOR_HOSTS,
                _ => packages::FOR_BENCHES,
            };
            bench(&root, programs, &arguments)
        }
        Task::Chaos { arguments } => {
            let arguments = [vec!["chaos".to_owned()], arguments].concat();
            bench(&root, packages::FOR_HOSTS, &arguments)
        }
        Task::Hosts(settings) => hosts::run(&root, &settings),
        Task::Picture(settings) => picture::make(&root, &settings),
    }
}

fn bench(root: &Path, programs: &[packages::Program], arguments: &[String]) -> Result<()> {
    packages::need(programs, false)?;
    cargo(root, &["build", "--release"])?;
    let mut words = vec!["run", "--release", "--quiet", "--package", "understudy-bench", "--"];
    words.extend(arguments.iter().map(String::as_str));
    cargo(root, &words)
}

/// The words that `cargo xtask` takes.
fn tasks() -> Vec<String> {
    Arguments::command()
        .get_subcommands()
        .map(|task| task.get_name().to_owned())
        .collect()
}

fn test(root: &Path, no_install: bool, filter: Option<&str>) -> Result<()> {
    packages::need(packages::FOR_TESTS, no_install)?;
    // A process per test, and in parallel, where nextest is there; it changes no result.
    let has_nextest = Command::new("cargo")
        .args(["nextest", "--version"])
        .output()
        .is_ok_and(|out| out.status.success());
    let mut words = if has_nextest {
        vec!["nextest", "run", "--workspace", "--no-fail-fast"]
    } else {
        vec!["test", "--workspace"]
    };
    words.extend(filter);
    if !has_nextest {
        // Some tests watch all children of their process.
        words.extend(["--", "--test-threads=1"]);
    }
    cargo(root, &words)?;
    if has_nextest && filter.is_none() {
        cargo(root, &["test", "--doc", "--workspace", "--quiet"])?;
        break_hosts(root)?;
    }
    Ok(())
}

/// What it takes to make hosts out of namespaces with a disk and a packet filter of their own.
const HOSTS_NEED: &str = "nft add table inet understudy && mount -t tmpfs none /mnt && losetup --find";

/// Three hosts and forty real faults, after all else: they want both processors for themselves.
fn break_hosts(root: &Path) -> Result<()> {
    let possible = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "sh", "-c", HOSTS_NEED])
        .output()
        .is_ok_and(|output| output.status.success());
    if !possible {
        println!(
            "no forty faults on three hosts: this user, or this machine, may make none (as root: `{HOSTS_NEED}` in a namespace)"
        );
        return Ok(());
    }
    let words = ["nextest", "run", "--workspace", "--ignore-default-filter"];
    let only = ["-E", "package(understudy-cli) & binary(chaos)"];
    cargo(root, &[words.as_slice(), only.as_slice()].concat())
}

fn check(root: &Path) -> Result<()> {
    docs::check(root, &tasks())?;
    cargo(root, &["fmt", "--all", "--check"])?;
    cargo(
        root,
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ],
    )
}

fn fix(root: &Path) -> Result<()> {
    cargo(
        root,
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--fix",
            "--allow-dirty",
            "--allow-staged",
            "--quiet",
        ],
    )?;
    cargo(root, &["fmt", "--all"])?;
    // The tests of generated documents write them when asked to.
    let of_file = ["--package", "understudy-spec", "--lib", "checked_in"];
    let of_command_line = ["--package", "understudy-cli", "--test", "docs"];
    for words in [of_file, of_command_line] {
        let mut command = Command::new("cargo");
        let status = command
            .args(["test", "--quiet"])
            .args(words)
            .env("UPDATE_DOCS", "1")
            .current_dir(root)
            .status()?;
        if !status.success() {
            bail!("the documents could not be generated");
        }
    }
    Ok(())
}

fn cargo(root: &Path, words: &[&str]) -> Result<()> {
    eprintln!("$ cargo {}", words.join(" "));
    let status = Command::new("cargo")
        .args(words)
        .current_dir(root)
        .status()
        .context("failed to run cargo")?;
    if !status.success() {
        bail!("`cargo {}` failed ({status})", words.join(" "));
    }
    Ok(())
}

fn root() -> Result<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().context("xtask lies in the workspace")?.to_owned())
}
