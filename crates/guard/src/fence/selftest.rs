//! Whether this machine lets the guard keep its promise: tried, not assumed.

use super::cgroup::{Cgroup, mount_point};
use super::clock::mark;
use super::protocol::SelfTest;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Processes that are killed for the test.
const VICTIMS: usize = 4;
const LOOK_EVERY: Duration = Duration::from_micros(100);
/// Added to the budget before giving up.
const PATIENCE: Duration = Duration::from_secs(1);

/// What has to hold.
#[derive(Debug, Clone)]
pub(super) struct Question {
    /// K: a kill must be done within this.
    pub(super) kill_budget: Duration,
    /// Where a cgroup may be made; None: within our own.
    pub(super) cgroup: Option<PathBuf>,
    /// What else is missing, found by the fence itself.
    pub(super) lacks: Vec<String>,
}

/// Tries it. Takes milliseconds; starts processes.
pub(super) fn run(question: &Question, gates_unavailable: Option<String>) -> SelfTest {
    let mut why_not = question.lacks.clone();
    let killed = try_kill(question);
    match &killed {
        Ok(took) if *took > question.kill_budget => why_not.push(format!(
            "killing {VICTIMS} processes took {}ms, the budget is {}ms; the machine is overloaded, or the profile too fast for it",
            took.as_millis(),
            question.kill_budget.as_millis()
        )),
        Ok(_) => {}
        Err(why) => why_not.push(why.clone()),
    }
    SelfTest {
        ok: why_not.is_empty(),
        why_not,
        gates_unavailable,
        kill_us: killed.ok().and_then(|took| u64::try_from(took.as_micros()).ok()),
    }
}

fn try_kill(question: &Question) -> Result<Duration, String> {
    let base = match &question.cgroup {
        Some(base) => base.clone(),
        None => own().map_err(|error| error.to_string())?,
    };
    let folder = base.join(format!("understudy-selftest-{}", std::process::id()));
    fs::create_dir(&folder).map_err(|error| {
        format!(
            "not allowed to make a cgroup in `{}`: {error}; run as root, or in a cgroup that is delegated to this user",
            base.display()
        )
    })?;
    let mut victims = Vec::new();
    let result = kill_some(&folder, &mut victims, question.kill_budget + PATIENCE);
    for mut victim in victims {
        // The keeper may have reaped it.
        let _ = victim.kill();
        let _ = victim.wait();
    }
    let _ = fs::remove_dir(&folder);
    result
}

fn kill_some(folder: &Path, victims: &mut Vec<Child>, patience: Duration) -> Result<Duration, String> {
    let cgroup = Cgroup::open(folder).map_err(|error| error.to_string())?;
    for _ in 0..VICTIMS {
        let nothing = || Stdio::null();
        let mut sleep = Command::new("sleep");
        sleep.arg("60").stdin(nothing()).stdout(nothing()).stderr(nothing());
        let victim = sleep
            .spawn()
            .map_err(|error| format!("failed to start `sleep`: {error}"))?;
        let id = victim.id().to_string();
        victims.push(victim);
        fs::write(folder.join("cgroup.procs"), id)
            .map_err(|error| format!("not allowed to move a process into `{}`: {error}", folder.display()))?;
    }
    let begun = mark();
    cgroup
        .kill()
        .map_err(|errno| format!("cannot kill cgroup `{}`: {errno}", folder.display()))?;
    loop {
        let events = cgroup
            .events()
            .map_err(|errno| format!("cannot read events of `{}`: {errno}", folder.display()))?;
        let took = mark().held_for(begun);
        if !events.populated {
            return Ok(took);
        }
        if took > patience {
            return Err(format!(
                "killed processes were still there after {}ms",
                took.as_millis()
            ));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The cgroup of this process.
pub(super) fn own() -> Result<PathBuf, super::cgroup::Error> {
    let mount = mount_point()?;
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let relative = own
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap_or_default();
    Ok(mount.join(relative))
}
