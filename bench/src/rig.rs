//! The product under test, driven through its command line as an operator would.

use crate::process;
use anyhow::{Context, Result, bail, ensure};
use api::layout::Layout;
use api::{Failover, ServiceStatus, Status};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A cluster that runs in a folder of its own. Dropped, it is stopped and nothing is left of it.
#[derive(Debug)]
pub struct Rig {
    program: PathBuf,
    state: TempDir,
    cluster: String,
    layout: Layout,
    /// How long `up` took until all was redundant.
    pub up_took: Duration,
}

/// Our own processes of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// Starts, probes, promotes.
    pub agent: u32,
    /// Kills when the agent cannot, and starts the agent.
    pub guard: u32,
    /// The data path.
    pub proxy: Option<u32>,
}

impl Own {
    /// Their process ids.
    pub fn pids(self) -> Vec<u32> {
        [Some(self.agent), Some(self.guard), self.proxy]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// Between two looks at the status: a look starts a process, and more of them would be a load of their own.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// For `up`: a thousand instances take a while on a small machine.
const UP_WITHIN: Duration = Duration::from_secs(300);

impl Rig {
    /// Runs the services of `file` (its text) and waits until they are redundant. `cluster` is the file's `name`.
    pub fn up(program: &Path, cluster: &str, file: &str) -> Result<Self> {
        Self::up_with(program, cluster, file, &[])
    }

    /// The same, with more words for `up`.
    pub fn up_with(program: &Path, cluster: &str, file: &str, words: &[&str]) -> Result<Self> {
        let state = tempfile::Builder::new().prefix("understudy-bench-").tempdir()?;
        running().push(state.path().to_owned());
        let path = state.path().join("file.toml");
        std::fs::write(&path, file)?;
        let layout = Layout::new(state.path(), cluster);
        let mut rig = Self {
            program: program.to_owned(),
            state,
            cluster: cluster.to_owned(),
            layout,
            up_took: Duration::ZERO,
        };
        let timeout = format!("{}s", UP_WITHIN.as_secs());
        let begun = Instant::now();
        let path = path.to_string_lossy().into_owned();
        let up = ["up", &path, "--detach", "--yes", "--timeout", &timeout];
        rig.command(&[&up[..], words].concat())?;
        rig.up_took = begun.elapsed();
        Ok(rig)
    }

    /// Where the cluster keeps its state.
    pub fn folder(&self) -> &Path {
        self.state.path()
    }

    /// How everything stands.
    pub fn status(&self) -> Result<Status> {
        let answer = self.command(&["status", "--json"])?;
        serde_json::from_slice(&answer.stdout).context("`status --json` printed something else than a status")
    }

    /// The takeovers of a service that are kept, oldest first.
    pub fn failovers(&self, service: &str) -> Result<Vec<Failover>> {
        let answer = self.command(&["events", "--json", "--failovers", "--service", service, "-n", "10000"])?;
        let page: api::EventPage =
            serde_json::from_slice(&answer.stdout).context("`events --json` printed something else than events")?;
        Ok(page.events.into_iter().filter_map(|event| event.failover).collect())
    }

    /// Moves an active to a standby.
    pub fn switchover(&self, service: &str) -> Result<api::Outcome> {
        let answer = self.command(&["switchover", service, "--json"])?;
        serde_json::from_slice(&answer.stdout).context("`switchover --json` printed something else than an outcome")
    }

    /// Waits until the status is as wished. Returns it and how long it took.
    pub fn wait_for(
        &self,
        what: &str,
        within: Duration,
        wished: impl Fn(&Status) -> bool,
    ) -> Result<(Status, Duration)> {
        let begun = Instant::now();
        let mut last = None;
        while begun.elapsed() < within {
            match self.status() {
                Ok(status) if wished(&status) => return Ok((status, begun.elapsed())),
                Ok(status) => last = Some(Ok(status)),
                // The agent may be on its way back.
                Err(error) => last = Some(Err(error)),
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let last = match last {
            Some(Ok(status)) => summary(&status),
            Some(Err(error)) => format!("{error:#}"),
            None => "never asked".into(),
        };
        bail!(
            "waited {within:?} for {what} in vain; last seen: {last}\n{}",
            self.own_logs()
        );
    }

    /// Our own processes.
    pub fn own(&self) -> Result<Own> {
        let of_lock = |path: PathBuf| -> Result<u32> {
            let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
            let pid = text.trim().parse();
            pid.with_context(|| format!("no process id in {}", path.display()))
        };
        let socket = self.layout.proxy_socket();
        let proxies = process::belonging_to(&socket);
        Ok(Own {
            agent: of_lock(self.layout.agent_lock())?,
            guard: of_lock(self.layout.guard_lock())?,
            proxy: proxies
                .into_iter()
                .find(|pid| process::arguments(*pid).iter().any(|word| word == "proxy")),
        })
    }

    /// Stops everything, and fails if that fails.
    pub fn down(self) -> Result<()> {
        self.command(&["down", "--yes"]).map(drop)
    }

    /// Runs a command of the operator's and returns what came of it, whatever that is.
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        Command::new(&self.program)
            .arg("--state-dir")
            .arg(self.state.path())
            .args(["--cluster", &self.cluster])
            .args(words)
            .output()
            .with_context(|| format!("failed to run {}", self.program.display()))
    }

    fn command(&self, words: &[&str]) -> Result<Output> {
        let output = self.run(words)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let logs = if words[0] == "up" {
                self.own_logs()
            } else {
                String::new()
            };
            bail!(
                "`understudy {}` failed ({}): {}\n{logs}",
                words.join(" "),
                output.status,
                said.trim()
            );
        }
        Ok(output)
    }

    /// The ends of our own logs, for whoever looks for the reason of a failure.
    fn own_logs(&self) -> String {
        let tail = |process: &str| {
            let text = std::fs::read_to_string(self.layout.own_log(process)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let from = lines.len().saturating_sub(8);
            format!("--- {process}\n{}\n", lines[from..].join("\n"))
        };
        ["guard", "agent", "proxy"].map(tail).concat()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.command(&["down", "--yes"]).ok();
        kill_all_of(self.state.path());
        running().retain(|folder| folder != self.state.path());
    }
}

/// Kills all clusters that this process runs and removes their state: for one that is told to end in the middle.
pub fn abandon() {
    for folder in running().drain(..) {
        kill_all_of(&folder);
        std::fs::remove_dir_all(&folder).ok();
    }
}

fn running() -> MutexGuard<'static, Vec<PathBuf>> {
    static RUNNING: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whatever is left of a cluster: ours first, or they would start the others again.
fn kill_all_of(folder: &Path) {
    let (own, others): (Vec<u32>, Vec<u32>) = process::belonging_to(folder).into_iter().partition(|pid| {
        process::arguments(*pid)
            .iter()
            .any(|word| word == "guard" || word == "agent")
    });
    for pid in own.into_iter().chain(others) {
        process::signal(pid, Signal::KILL).ok();
    }
}

/// The service of that name.
pub fn service<'a>(status: &'a Status, name: &str) -> Result<&'a ServiceStatus> {
    let found = status.services.iter().find(|service| service.name == name);
    found.with_context(|| format!("no service `{name}` in the status"))
}

/// Whether a service has all that was declared, and none of these processes among it.
pub fn redundant_without(status: &Status, name: &str, gone: &[u32]) -> bool {
    service(status, name).is_ok_and(|service| {
        let pids: Vec<u32> = service.instances.iter().filter_map(|instance| instance.pid).collect();
        service.state == "redundant"
            && pids.len() as u32 >= service.active + service.standby
            && !gone.iter().any(|pid| pids.contains(pid))
    })
}

/// The process that holds a slot, and the name of its instance.
pub fn holder(status: &Status, name: &str, slot: u32) -> Result<(String, u32)> {
    let service = service(status, name)?;
    let slot = service.slots.iter().find(|status| status.slot == slot);
    let instance = slot.and_then(|slot| slot.instance.clone());
    let instance = instance.with_context(|| format!("nobody holds the slot of `{name}`"))?;
    let pid = pids(status).get(&instance).copied();
    let pid = pid.with_context(|| format!("`{instance}` holds a slot of `{name}` and has no process"))?;
    Ok((instance, pid))
}

/// All processes by instance.
pub fn pids(status: &Status) -> BTreeMap<String, u32> {
    let instances = status.services.iter().flat_map(|service| &service.instances);
    instances
        .filter_map(|instance| Some((instance.id.clone(), instance.pid?)))
        .collect()
}

/// A port that was free a moment ago, and that was not given to anybody of this process before: nobody need have taken it yet.
pub fn free_address() -> Result<SocketAddr> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        if GIVEN
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(address.port())
        {
            return Ok(address);
        }
    }
}

/// The program to test: as given, or beside this one.
pub fn find_program(given: Option<PathBuf>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("understudy"),
    };
    let path = path.canonicalize().with_context(|| {
        format!(
            "no `understudy` at {}; build it: cargo build --release -p understudy-cli",
            path.display()
        )
    })?;
    ensure!(path.is_file(), "{} is not a program", path.display());
    Ok(path)
}

fn summary(status: &Status) -> String {
    let services = status.services.iter().map(|service| {
        let instances = service.instances.iter().take(8).map(|instance| {
            format!(
                "{} {} {} {:?}",
                instance.id, instance.role, instance.state, instance.last_failure
            )
        });
        let instances: Vec<String> = instances.collect();
        format!(
            "{} is {} because {}: {}",
            service.name,
            service.state,
            service.because,
            instances.join(", ")
        )
    });
    services.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_product_is_driven_by_its_command_line_and_stopped_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let program = fake(dir.path(), "redundant");
        let rig = Rig::up(&program, "try", "name = \"try\"\n").unwrap();
        let (status, _) = rig
            .wait_for("web", Duration::from_secs(5), |status| {
                redundant_without(status, "web", &[99])
            })
            .unwrap();
        assert_eq!(holder(&status, "web", 0).unwrap(), ("web-1".to_owned(), 11));
        assert_eq!(
            pids(&status),
            BTreeMap::from([("web-1".to_owned(), 11), ("web-2".to_owned(), 12)])
        );
        assert!(
            !redundant_without(&status, "web", &[12]),
            "a process that was to be gone is there"
        );
        assert!(holder(&status, "web", 7).is_err() && service(&status, "db").is_err());
        let folder = rig.folder().to_owned();
        drop(rig);
        let calls = std::fs::read_to_string(dir.path().join("calls")).unwrap();
        let calls: Vec<&str> = calls.lines().collect();
        let file = folder.join("file.toml").display().to_string();
        let common = format!("--state-dir {} --cluster try", folder.display());
        assert_eq!(calls[0], format!("{common} up {file} --detach --yes --timeout 300s"));
        assert_eq!(calls[1], format!("{common} status --json"));
        assert_eq!(calls.last(), Some(&format!("{common} down --yes").as_str()));
        assert!(!folder.exists());
    }

    #[test]
    fn a_state_that_never_comes_is_told_with_the_last_one_seen() {
        let dir = tempfile::tempdir().unwrap();
        let rig = Rig::up(&fake(dir.path(), "degraded"), "try", "").unwrap();
        let wish = |status: &Status| redundant_without(status, "web", &[]);
        let error = rig
            .wait_for("web to be redundant", Duration::from_millis(120), wish)
            .unwrap_err();
        assert!(error.to_string().contains("web is degraded"), "{error}");
    }

    #[test]
    fn a_refusal_is_passed_on_in_its_own_words() {
        let dir = tempfile::tempdir().unwrap();
        let program = script(dir.path(), "echo 'error: port in use' >&2; exit 1");
        let error = Rig::up(&program, "try", "").unwrap_err();
        assert!(error.to_string().contains("error: port in use"), "{error}");
        assert!(find_program(Some(dir.path().join("nothing"))).is_err());
    }

    /// Notes how it is called, and answers `status` with a service in this state.
    fn fake(dir: &Path, state: &str) -> PathBuf {
        let instance = |number: u32, role: &str| {
            format!(
                r#"{{"id":"web-{number}","node":"a","role":"{role}","health":"healthy","state":"running","ready":true,"since":"","because":"","pid":1{number},"address":null,"restarts":0,"last_failure":null}}"#
            )
        };
        let status = format!(
            r#"{{"version":1,"cluster":"try","at":"","revision":1,"nodes":[],"problems":[],"paused":null,"services":[{{"name":"web","state":"{state}","since":"","because":"","active":1,"standby":1,"need":1,"exclusive":false,"distance_to_outage":2,"protection":"","listen":null,"failover_order":[],"traffic":null,"slots":[{{"slot":0,"state":"serving","instance":"web-1","node":"a","epoch":1,"since":"","because":""}}],"instances":[{},{}]}}]}}"#,
            instance(1, "active"),
            instance(2, "standby"),
        );
        let calls = dir.join("calls").display().to_string();
        script(
            dir,
            &format!("echo \"$@\" >> {calls}\ncase \"$*\" in *status*) echo '{status}';; esac"),
        )
    }

    fn script(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("understudy");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}
