//! `db-failover`: where the time of a failover goes, beside the least that it could be on this machine in the same run.

use crate::{Context, files, say};
use anyhow::{Context as _, Result, ensure};
use api::{Failover, Step};
use bench::load::Plan;
use bench::report::{Page, sync_once};
use bench::rig::{self, Rig, redundant_without};
use bench::{process, sample::Sample};
use rustix::process::Signal;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CLUSTER: &str = "bench-db-failover";
/// Enough that somebody asks within a few milliseconds of a promotion, whose answer is then the first.
const RATE: f64 = 200.0;
/// Load without a fault, before each kill.
const CALM: Duration = Duration::from_millis(200);
const AGAIN_WITHIN: Duration = Duration::from_secs(60);

pub(crate) fn run(context: &Context) -> Result<Page> {
    let kills = context.runs(100);
    let address = rig::free_address()?;
    let rig = Rig::up(&context.program, CLUSTER, &files::db(CLUSTER, address))?;
    let settings = format!("{kills} kills, {RATE} reads a second over new connections");
    let mut page = Page::new(
        "db-failover",
        "The active database is killed",
        &settings,
        &context.program,
        rig.folder(),
    )?;
    let mut floor = Floor::start(&context.program, rig.folder())?;
    let (mut fsync_ms, mut hook_ms, mut again_ms) = (Vec::new(), Vec::new(), Vec::new());

    let ready = |status: &api::Status| redundant_without(status, "db", &[]);
    let (mut status, _) = rig.wait_for("db to be redundant", AGAIN_WITHIN, ready)?;
    let before = rig.failovers("db")?.len();
    let mut plan = Plan::get(address, "/counter", RATE);
    plan.duration = Duration::from_secs(3_600);
    let load = context.start(plan)?;
    for number in 0..kills {
        say(&format!("kill {} of {kills}", number + 1));
        std::thread::sleep(CALM);
        let (_, pid) = rig::holder(&status, "db", 0)?;
        let begun = Instant::now();
        process::signal(pid, Signal::KILL)?;
        let again = |status: &api::Status| redundant_without(status, "db", &[pid]);
        status = rig.wait_for("db to be redundant again", AGAIN_WITHIN, again)?.0;
        again_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        let (fsync, hook) = floor.measure()?;
        fsync_ms.push(fsync);
        hook_ms.push(hook);
    }
    let report = context.finish(load);
    say(&report.to_string());
    let failovers: Vec<Failover> = rig
        .failovers("db")?
        .into_iter()
        .skip(before)
        .filter(|one| !one.planned)
        .collect();
    ensure!(
        !failovers.is_empty(),
        "`events` shows no failover of db after {kills} kills"
    );

    page.paragraph(
        "One active, one standby that copies every write. `kill -9` of the active; the next one when `status` says redundant \
         again. Times are those of `events`, from the first evidence of the death.",
    );
    steps_table(&mut page, &failovers);
    let total: Sample = failovers
        .iter()
        .map(|failover| failover.total_us as f64 / 1e3)
        .collect();
    let floors: Sample = fsync_ms
        .iter()
        .zip(&hook_ms)
        .map(|(fsync, hook)| fsync + hook)
        .collect();
    page.paragraph("Beside the floor, measured after each kill in the same run: one append and fdatasync on the store's disk, and the promote hook run alone, process start included, against a db of its own.");
    let line = |what: &str, sample: &Sample| {
        let numbers = [sample.median(), sample.quantile(0.99), sample.max()];
        [
            vec![what.to_owned()],
            numbers.map(|number| format!("{number:.2}")).to_vec(),
        ]
        .concat()
    };
    page.table(
        &["ms", "p50", "p99", "max"],
        &[
            line("failover, detected to first good answer", &total),
            line("floor: fdatasync", &fsync_ms.into_iter().collect()),
            line("floor: promote hook alone", &hook_ms.into_iter().collect()),
            line("floor: both", &floors),
            line("redundant again", &again_ms.into_iter().collect()),
        ],
    );
    page.paragraph(&format!(
        "**{:.2} × the floor** in the median; {} failovers in `events` of {kills} kills.",
        total.median() / floors.median(),
        failovers.len(),
    ));
    page.paragraph(&format!(
        "The clients: {} reads, {} failed{}; latency p50 {:.2}, p99 {:.2}, max {:.1} ms; client late by {:.2} ms (p99).",
        report.planned,
        report.failed(),
        crate::web_kill::kinds(&report),
        report.latency_ms(0.5),
        report.latency_ms(0.99),
        report.latency_us.max() as f64 / 1e3,
        report.lateness_p99_ms(),
    ));
    floor.stop();
    rig.down()?;
    Ok(page)
}

fn steps_table(page: &mut Page, failovers: &[Failover]) {
    const STEPS: [(Step, &str); 5] = [
        (Step::ConfirmedDead, "nothing of the old active runs"),
        (Step::Claimed, "the store has the new holder on disk"),
        (Step::Promoted, "the promote hook is through"),
        (Step::Routed, "the proxy sends clients to it"),
        (Step::FirstAnswer, "first good answer"),
    ];
    let samples =
        STEPS.map(|(step, _)| -> Sample { failovers.iter().filter_map(|one| own_time_ms(one, step)).collect() });
    let sum: f64 = samples
        .iter()
        .map(Sample::median)
        .filter(|median| median.is_finite())
        .sum();
    let rows: Vec<Vec<String>> = STEPS
        .iter()
        .zip(&samples)
        .map(|((_, what), sample)| {
            vec![
                (*what).to_owned(),
                format!("{:.2}", sample.median()),
                format!("{:.2}", sample.quantile(0.99)),
                format!("{:.2}", sample.max()),
                format!("{:.0} %", 100.0 * sample.median() / sum),
                sample.len().to_string(),
            ]
        })
        .collect();
    page.table(
        &[
            "step, ms since the step before",
            "p50",
            "p99",
            "max",
            "share of the median",
            "seen",
        ],
        &rows,
    );
}

/// Since the step before, whichever that was.
fn own_time_ms(failover: &Failover, step: Step) -> Option<f64> {
    let index = failover.steps.iter().position(|one| one.step == step)?;
    let before = index.checked_sub(1).map_or(0, |before| failover.steps[before].at_us);
    Some(failover.steps[index].at_us.saturating_sub(before) as f64 / 1e3)
}

/// The least that a failover consists of.
struct Floor {
    program: std::path::PathBuf,
    file: File,
    db: Child,
    address: SocketAddr,
    epoch: u64,
}

impl Floor {
    fn start(program: &Path, folder: &Path) -> Result<Self> {
        let address = rig::free_address()?;
        let db = Command::new(program)
            .args(["sample", "db", "--port", &address.port().to_string(), "--data"])
            .arg(folder.join("floor"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start a db of its own")?;
        let floor = Self {
            program: program.to_owned(),
            file: tempfile::tempfile_in(folder)?,
            db,
            address,
            epoch: 0,
        };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            ensure!(
                begun.elapsed() < Duration::from_secs(10),
                "a db of its own did not listen on {address}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(floor)
    }

    /// Milliseconds of an fdatasync, and of the hook.
    fn measure(&mut self) -> Result<(f64, f64)> {
        let fsync = sync_once(&mut self.file)? / 1e3;
        self.epoch += 1;
        let (port, epoch) = (self.address.port().to_string(), self.epoch.to_string());
        let begun = Instant::now();
        let output = Command::new(&self.program)
            .args(["sample", "promote", "--port", &port, "--epoch", &epoch])
            .output()
            .context("failed to run the promote hook")?;
        let hook = begun.elapsed().as_secs_f64() * 1e3;
        ensure!(
            output.status.success(),
            "the promote hook failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok((fsync, hook))
    }

    fn stop(&mut self) {
        self.db.kill().ok();
        self.db.wait().ok();
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::FailoverStep;

    #[test]
    fn a_step_takes_what_passed_since_the_one_before_it_that_was_seen() {
        let step = |step, at_us| FailoverStep { step, at_us };
        let failover = Failover {
            service: "db".into(),
            slot: 0,
            from: None,
            to: "db-2".into(),
            epoch: 2,
            planned: false,
            total_us: 9_000,
            steps: vec![
                step(Step::Detected, 0),
                step(Step::Claimed, 4_000),
                step(Step::Promoted, 9_000),
            ],
        };
        assert_eq!(own_time_ms(&failover, Step::Detected), Some(0.0));
        assert_eq!(own_time_ms(&failover, Step::ConfirmedDead), None);
        assert_eq!(own_time_ms(&failover, Step::Claimed), Some(4.0));
        assert_eq!(own_time_ms(&failover, Step::Promoted), Some(5.0));
    }
}
