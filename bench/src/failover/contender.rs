//! What every redundancy manager is asked to do in the same rig.

use anyhow::{Context, Result, bail, ensure};
use hosts::{Command, Fault, Host, Rig, token};
use rustix::process::Signal;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The service's port, on every address of a host.
pub(crate) const PORT: u16 = 80;
/// Where the service is told its role.
pub(crate) const CONTROL: &str = "/run/token.sock";

/// What is done to the active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Break {
    /// SIGKILL to the service
    ServiceKilled,
    /// SIGSTOP to the service
    ServiceFrozen,
    /// Its host loses power
    PowerLoss,
    /// Its host's link goes down
    LinkDown,
    /// The manager's processes on its host are stopped for ten seconds
    ManagerFrozen,
    /// The operator moves it
    Switchover,
}

impl Break {
    pub(crate) const ALL: [Break; 6] = [
        Break::ServiceKilled,
        Break::ServiceFrozen,
        Break::PowerLoss,
        Break::LinkDown,
        Break::ManagerFrozen,
        Break::Switchover,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Break::ServiceKilled => "service killed",
            Break::ServiceFrozen => "service frozen",
            Break::PowerLoss => "host power loss",
            Break::LinkDown => "link down",
            Break::ManagerFrozen => "manager frozen 10 s",
            Break::Switchover => "planned switchover",
        }
    }
}

/// Who answers at the service's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Active {
    pub(crate) host: String,
    /// Of the service, as the host numbers it.
    pub(crate) pid: u32,
}

/// A redundancy manager. It keeps `tokenserver` behind one address; the rig and the client are the same for all.
pub(crate) trait Contender {
    /// Name and version.
    fn name(&self) -> String;

    /// Settings, in a few words.
    fn settings(&self) -> String;

    /// Starts all of it on all hosts. Returns where clients connect; the caller waits until somebody answers there.
    fn setup(&self, rig: &Rig) -> Result<SocketAddr>;

    /// Starts what does not start by itself on a host that has booted.
    fn booted(&self, rig: &Rig, host: &Host) -> Result<()>;

    /// The processes of the manager itself on a host.
    fn manager(&self, host: &Host) -> Result<Vec<u32>>;

    /// Moves the service away from a host, and returns when the command for it has.
    fn switch_over(&self, rig: &Rig, from: &Host) -> Result<()>;

    /// Whatever must be undone after a switchover, or be started again after a service's death.
    fn tidy(&self, rig: &Rig, host: &Host, broken: Break, active: &Active) -> Result<()>;

    /// Carries a fault out on the active.
    fn fault(&self, rig: &Rig, broken: Break, active: &Active) -> Result<()> {
        let host = rig.host(&active.host)?;
        match broken {
            Break::ServiceKilled => host.signal(active.pid, Signal::KILL)?,
            Break::ServiceFrozen => host.signal(active.pid, Signal::STOP)?,
            Break::PowerLoss | Break::LinkDown => rig.begin(&fault_of(broken, active))?,
            Break::ManagerFrozen => signal_all(host, &self.manager(host)?, Signal::STOP)?,
            Break::Switchover => self.switch_over(rig, host)?,
        }
        Ok(())
    }

    /// Mends it.
    fn heal(&self, rig: &Rig, broken: Break, active: &Active) -> Result<()> {
        let host = rig.host(&active.host)?;
        match broken {
            Break::PowerLoss => {
                rig.heal(&fault_of(broken, active))?;
                self.booted(rig, host)?;
            }
            Break::LinkDown => rig.heal(&fault_of(broken, active))?,
            Break::ManagerFrozen => signal_all(host, &self.manager(host)?, Signal::CONT)?,
            Break::ServiceFrozen | Break::ServiceKilled | Break::Switchover => {}
        }
        self.tidy(rig, host, broken, active)
    }

    /// Stops it on all hosts that run, in order where that is possible; the rig is dropped after it.
    fn teardown(&self, rig: &Rig) -> Result<()>;
}

fn fault_of(broken: Break, active: &Active) -> Fault {
    match broken {
        Break::PowerLoss => Fault::power_loss(&active.host),
        _ => Fault::LinkDown {
            end: active.host.clone(),
        },
    }
}

fn signal_all(host: &Host, pids: &[u32], signal: Signal) -> Result<()> {
    ensure!(!pids.is_empty(), "no manager runs on {}", host.name());
    pids.iter().try_for_each(|pid| Ok(host.signal(*pid, signal)?))
}

/// Ids of processes by pattern.
pub(crate) fn pids(host: &Host, pattern: &str) -> Result<Vec<u32>> {
    let output = host.run(Command::new(["pgrep", pattern]))?;
    output
        .stdout
        .lines()
        .map(|line| line.parse().context("pgrep did not print a process id"))
        .collect()
}

/// Asks from the client's place who answers.
pub(crate) fn who_answers(rig: &Rig, address: SocketAddr) -> Result<Option<Active>> {
    let line = rig.client().run(|| token::check(address, Duration::from_millis(300)))?;
    let Ok(line) = line else { return Ok(None) };
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let after = |name: &str| {
        let place = words.iter().position(|word| *word == name)?;
        words.get(place + 1).copied()
    };
    match (after("name"), after("pid").map(str::parse)) {
        (Some(host), Some(Ok(pid))) => Ok(Some(Active {
            host: host.to_owned(),
            pid,
        })),
        _ => bail!("`{line}` is not an answer of tokenserver"),
    }
}

/// Looks again and again, 20 times a second, for at most `within`.
pub(crate) fn wait_for<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let until = Instant::now() + within;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= until {
            bail!("waited {} s in vain for {what}", within.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The service's program, beside this one.
pub(crate) fn tokenserver() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("tokenserver");
    let hint = "build it: cargo build --release -p understudy-hosts";
    path.canonicalize()
        .with_context(|| format!("no `tokenserver` at {}; {hint}", path.display()))
}

/// An error with the command that installs what is not there.
pub(crate) fn need(programs: &[(&str, &str)]) -> Result<()> {
    let places = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let missing: Vec<&str> = programs
        .iter()
        .filter(|(program, _)| !places.iter().any(|place| Path::new(place).join(program).exists()))
        .map(|(_, package)| *package)
        .collect();
    ensure!(
        missing.is_empty(),
        "missing: {}; as root: apt-get install --no-install-recommends {0}",
        missing.join(" ")
    );
    Ok(())
}

/// The address that moves.
pub(crate) fn floating(rig: &Rig) -> Ipv4Addr {
    rig.floating_address(0)
}
