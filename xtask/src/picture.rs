//! The picture of a failover in the README, from a real one: `cargo xtask picture`.
//!
//! Runs the shop in a folder of its own, kills its active database several times while a client asks for the counter, and
//! draws the try with the median duration, by what `events` and `status` say of it.

mod draw;
mod peers;
mod rig;

use anyhow::{Context, Result, ensure};
use rig::Shop;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a picture is made with.
#[derive(Debug, clap::Args)]
pub(crate) struct Settings {
    /// The program to run [default: a release build of this workspace]
    #[arg(long, value_name = "PATH")]
    understudy: Option<PathBuf>,
    /// How many times the active is killed; the median is drawn
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// Draws Understudy beside other managers instead, from what `cargo xtask bench failover` wrote
    #[arg(long)]
    peers: bool,
}

/// Where the picture lies, from the root.
const PICTURE: &str = "docs/failover.svg";
/// The client asks alone for so long before and after each failover.
const AROUND: Duration = Duration::from_millis(500);

/// Makes the picture anew.
pub(crate) fn make(root: &Path, settings: &Settings) -> Result<()> {
    if settings.peers {
        return peers::make(root);
    }
    let program = match &settings.understudy {
        Some(path) => path
            .canonicalize()
            .with_context(|| format!("there is no program at {}", path.display()))?,
        None => {
            crate::cargo(root, &["build", "--release"])?;
            root.join("target/release/understudy")
        }
    };
    let shop = Shop::up(&program, root)?;
    let mut tries = Vec::new();
    for number in 1..=settings.runs {
        let one = one(&shop)?;
        eprintln!("{number} of {}: {} µs", settings.runs, one.failover.total_us);
        tries.push(one);
    }
    let machine = machine(&program)?;
    drop(shop);
    tries.sort_by_key(|one| one.failover.total_us);
    let totals: Vec<u64> = tries.iter().map(|one| one.failover.total_us).collect();
    let median = &tries[tries.len() / 2];
    let path = root.join(PICTURE);
    std::fs::write(&path, draw::svg(median, &totals, &machine))
        .with_context(|| format!("failed to write {}", path.display()))?;
    eprintln!("written to {}", path.display());
    Ok(())
}

/// A failover, and how things stood before and after it.
#[derive(Debug)]
struct Try {
    failover: Failover,
    before: Service,
    after: Service,
    asked: Asked,
}

/// What a client noticed.
#[derive(Debug, Default, Clone, Copy)]
struct Asked {
    answered: u32,
    failed: u32,
    slowest: Duration,
}

/// Of `events --json`: how a slot changed hands.
#[derive(Debug, Clone, Deserialize)]
struct Failover {
    slot: u32,
    from: Option<String>,
    to: String,
    epoch: u64,
    total_us: u64,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Deserialize)]
struct Step {
    step: String,
    at_us: u64,
}

/// Of `status --json`: a service.
#[derive(Debug, Clone, Deserialize)]
struct Service {
    name: String,
    state: String,
    slots: Vec<Slot>,
    instances: Vec<Instance>,
}

#[derive(Debug, Clone, Deserialize)]
struct Slot {
    instance: Option<String>,
    epoch: u64,
}

#[derive(Debug, Clone, Deserialize)]
struct Instance {
    id: String,
    role: String,
    health: String,
    pid: Option<u32>,
}

impl Service {
    fn holder(&self) -> Result<(&Instance, u64)> {
        let slot = self
            .slots
            .first()
            .with_context(|| format!("{} has no slot", self.name))?;
        let holder = self
            .instances
            .iter()
            .find(|instance| Some(&instance.id) == slot.instance.as_ref());
        Ok((
            holder.with_context(|| format!("nobody holds the slot of {}", self.name))?,
            slot.epoch,
        ))
    }
}

fn one(shop: &Shop) -> Result<Try> {
    let before = shop.redundant(&[])?;
    let (_, epoch) = before.holder()?;
    let pid = before.holder()?.0.pid.context("the active has no process")?;
    let client = shop.ask();
    std::thread::sleep(AROUND);
    shop.kill(pid)?;
    let after = shop.redundant(&[pid])?;
    std::thread::sleep(AROUND);
    let asked = client.finish();
    let mut failover = shop.last_failover()?;
    // A first answer may come before the last worker of the proxy has the route.
    failover.steps.sort_by_key(|step| step.at_us);
    ensure!(
        failover.epoch > epoch,
        "the failover of process {pid} is not among the events"
    );
    Ok(Try {
        failover,
        before,
        after,
        asked,
    })
}

/// On what it ran, in one line.
fn machine(program: &Path) -> Result<String> {
    let version = rig::first_line(program, &["--version"])?;
    let kernel = rig::first_line(Path::new("uname"), &["-sr"])?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // Cargo's folder of a profile has its name.
    let folder = program.parent().and_then(Path::file_name).unwrap_or_default();
    let build = ["release", "debug", "dist"]
        .into_iter()
        .find(|profile| folder == *profile);
    let build = build.unwrap_or("unknown");
    Ok(format!("{version}, {build} build; {kernel}, {cores} cores"))
}
