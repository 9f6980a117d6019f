//! The product on several hosts: brought up through its command line, asked how it stands, found process by process.
//!
//! The service under test is `token`, exclusive, one instance on each host, which proves when it was active; beside it runs `web`, which is
//! not exclusive. Clients ask at any host: its proxy knows the active.

use anyhow::{Context, Result, bail, ensure};
use api::Status;
use hosts::witness::{self, Limits, Verdict, judge};
use hosts::{Command, Host, Output, Rig, Spec};
use membership::Report;
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The cluster's name.
pub const NAME: &str = "rig";
/// Where clients of the exclusive service come to, on every host.
pub const TOKEN_PORT: u16 = 8080;
/// Where clients of the other service come to.
pub const WEB_PORT: u16 = 8081;
/// An agent that hangs must not hold up whoever looks.
const ASK: Duration = Duration::from_secs(4);
/// For `init` and `join`: etcd starts, is measured, and takes a member in. On a busy machine that takes its time.
const JOIN_WITHIN: Duration = Duration::from_secs(120);
/// From the file to all of it running.
const UP_WITHIN: Duration = Duration::from_secs(120);
/// As a service manager gives it to what it starts.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The code of the problem that a clock is wrong.
const CLOCK_WRONG: &str = "clock-wrong";
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The program under test.
    pub understudy: PathBuf,
    /// The service under test.
    pub tokenserver: PathBuf,
    /// The timing; `None` leaves it to what `cluster init` measures.
    pub profile: Option<String>,
    /// A disk of its own for each host, of this size: slower than that of the machine, but it can be filled and stalled.
    pub disk_bytes: Option<u64>,
    /// A wall clock of its own for each host, by which the program under test goes there: it can be stepped, and costs whoever asks for the time
    /// microseconds.
    pub own_wall_clocks: bool,
}

impl Settings {
    /// With the token server that lies beside `understudy`.
    pub fn beside(understudy: PathBuf) -> Result<Self> {
        let tokenserver = understudy.with_file_name("tokenserver");
        ensure!(
            tokenserver.is_file(),
            "no `tokenserver` at {}; build it: cargo build -p understudy-hosts",
            tokenserver.display()
        );
        Ok(Self {
            understudy,
            tokenserver,
            profile: None,
            disk_bytes: None,
            own_wall_clocks: false,
        })
    }
}

/// One of our processes on a host, or one that we look after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Process {
    /// Decides.
    Agent,
    /// Fences.
    Guard,
    /// Passes traffic on.
    Proxy,
    /// The member of the store.
    Etcd,
    /// The instance of the exclusive service.
    Token,
}

impl Process {
    /// All of them.
    pub const ALL: [Process; 5] = [
        Process::Agent,
        Process::Guard,
        Process::Proxy,
        Process::Etcd,
        Process::Token,
    ];

    fn pattern(self) -> String {
        match self {
            Process::Agent => format!("--cluster {NAME} agent"),
            Process::Guard => format!("--cluster {NAME} guard"),
            Process::Proxy => "understudy.* proxy --".to_owned(),
            Process::Etcd => "^[^ ]*etcd --".to_owned(),
            Process::Token => "tokenserver serve --name token".to_owned(),
        }
    }
}

/// Who holds the exclusive slot, as the cluster says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    /// On which host.
    pub host: String,
    /// Which instance.
    pub instance: String,
    /// At which epoch.
    pub epoch: u64,
}

/// Three hosts that act as one.
#[derive(Debug)]
pub struct Cluster {
    rig: Rig,
    bin: PathBuf,
    names: Vec<String>,
}

impl Cluster {
    /// Makes three hosts `a`, `b`, `c` with a member of the store on each, applies the services, and waits until all is redundant.
    pub fn up(settings: &Settings) -> Result<Self> {
        let names: Vec<String> = ["a", "b", "c"].map(str::to_owned).into();
        let mut spec = Spec::new(names.clone());
        if let Some(bytes) = settings.disk_bytes {
            spec = spec.disk_bytes(bytes);
        }
        if settings.own_wall_clocks {
            spec = spec.own_wall_clocks();
        }
        let rig = Rig::create(&spec)?;
        // In memory that all hosts see: what is run must not depend on their disks.
        let bin = rig.shared().join("bin");
        fs::create_dir_all(&bin)?;
        fs::create_dir_all(rig.shared().join("rings"))?;
        for program in [&settings.understudy, &settings.tokenserver] {
            let name = program.file_name().context("a program has a name")?;
            fs::copy(program, bin.join(name)).with_context(|| format!("failed to copy {}", program.display()))?;
        }
        let cluster = Self { rig, bin, names };
        cluster.join_all(settings.profile.as_deref())?;
        cluster.apply(&cluster.file())?;
        cluster.wait_redundant(UP_WITHIN)?;
        Ok(cluster)
    }

    fn join_all(&self, profile: Option<&str>) -> Result<()> {
        let mut names = self.names.iter();
        let first = self.host(names.next().context("a cluster has hosts")?)?;
        let address = first.address().to_string();
        let mut words = vec!["cluster", "init", NAME, "--host", &address];
        words.extend(profile.iter().flat_map(|profile| ["--profile", profile]));
        self.must(first, &words, JOIN_WITHIN)?;
        for name in names {
            let host = self.host(name)?;
            let token = self.must(first, &["cluster", "token"], JOIN_WITHIN)?;
            let address = host.address().to_string();
            self.must(
                host,
                &["cluster", "join", token.trim(), "--host", &address],
                JOIN_WITHIN,
            )?;
        }
        for name in &self.names {
            self.start(name)?;
        }
        Ok(())
    }

    /// The file that is in force.
    pub fn file(&self) -> String {
        let server = self.bin.join("tokenserver").display().to_string();
        let rings = self.rig.shared().join("rings").display().to_string();
        format!(
            r#"name = "{NAME}"

[service.token]
command = ["{server}", "serve", "--name", "{{instance}}", "--listen", "{{host}}:{{port}}", "--control", "{{data}}/token.sock", "--rings", "{rings}"]
active = 1
standby = 2
exclusive = true
spread = "node"
standby_mode = "warm"
listen = "0.0.0.0:{TOKEN_PORT}"
protocol = "tcp"
check = {{ http = "/", status = [200, 503], every = "200ms", fail_after = 3 }}
on_promote = ["{server}", "promote", "--control", "{{data}}/token.sock", "{{epoch}}"]
on_demote = ["{server}", "demote", "--control", "{{data}}/token.sock"]
drain_timeout = "1s"

[service.web]
command = ["{server}", "serve", "--name", "{{instance}}", "--listen", "{{host}}:{{port}}", "--answer-standby"]
active = 2
standby = 1
listen = "0.0.0.0:{WEB_PORT}"
protocol = "http"
check = {{ http = "/", every = "200ms", fail_after = 3 }}
"#
        )
    }

    /// Puts a file in force.
    pub fn apply(&self, file: &str) -> Result<()> {
        let path = "/root/services.toml";
        let host = self.host(&self.names[0])?;
        host.write(path, file)?;
        self.must(host, &["apply", path, "--yes"], UP_WITHIN)?;
        Ok(())
    }

    /// The hosts under it.
    pub fn rig(&self) -> &Rig {
        &self.rig
    }

    /// Names of the hosts.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// A host by name.
    pub fn host(&self, name: &str) -> Result<&Host> {
        Ok(self.rig.host(name)?)
    }

    /// Where a client reaches a service through the proxy of a host.
    pub fn target(&self, host: &str, port: u16) -> Result<SocketAddr> {
        Ok(SocketAddr::from((self.host(host)?.address(), port)))
    }

    /// Runs the program under test on a host.
    pub fn run(&self, host: &Host, words: &[&str], within: Duration) -> Result<Output> {
        let program = self.bin.join("understudy").display().to_string();
        let words = std::iter::once(program).chain(words.iter().map(|word| (*word).to_owned()));
        let mut command = Command::new(words).env("PATH", PATH);
        for (name, value) in host.wall_clock_env() {
            command = command.env(name, value);
        }
        Ok(host.run_within(command, within)?)
    }

    /// The same; it must succeed. Returns its stdout.
    pub fn must(&self, host: &Host, words: &[&str], within: Duration) -> Result<String> {
        let output = self.run(host, words, within)?;
        ensure!(
            output.ended.is_success(),
            "`understudy {}` on {} failed ({:?}):\n{}{}",
            words.join(" "),
            host.name(),
            output.ended,
            output.stdout,
            output.stderr
        );
        Ok(output.stdout)
    }

    /// What a host's service manager does: it starts guard and agent when the host has booted, and when both of them are gone.
    pub fn start(&self, host: &str) -> Result<()> {
        let host = self.host(host)?;
        let program = self.bin.join("understudy").display().to_string();
        let ours = format!("--cluster {NAME} (agent|guard) ");
        // Guard, agent and proxy inherit it from each other; the shell and its helpers go without.
        let clock: String = host
            .wall_clock_env()
            .iter()
            .map(|(name, value)| format!("{name}='{value}' "))
            .collect();
        let line =
            format!("while :; do pgrep -f -- '{ours}' > /dev/null || {clock}{program} cluster start; sleep 0.5; done");
        host.start_daemon(Command::shell(line).env("PATH", PATH), "start")?;
        Ok(())
    }

    /// What a host says of everything.
    pub fn status(&self, host: &str) -> Result<Status> {
        let output = self.run(self.host(host)?, &["status", "--json"], ASK)?;
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("{host} says no status: {}{}", output.stdout, output.stderr))
    }

    /// What a host says of the store.
    pub fn store(&self, host: &str) -> Result<Report> {
        let output = self.run(self.host(host)?, &["cluster", "status", "--json"], ASK)?;
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("{host} says nothing of the store: {}{}", output.stdout, output.stderr))
    }

    /// On which host the store's leader is.
    pub fn store_leader(&self) -> Result<String> {
        let mut last = None;
        for name in &self.names {
            match self.store(name) {
                Ok(report) => {
                    let leads = |member: &&membership::MemberReport| member.store.as_deref() == Some("leader");
                    if let Some(member) = report.members.iter().find(leads) {
                        return Ok(member.node.clone());
                    }
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("the store has no leader")))
    }

    /// Who holds the exclusive slot, as the first host that answers says.
    pub fn active(&self) -> Result<Active> {
        let mut last = None;
        for name in &self.names {
            match self.status(name).map(|status| active_in(&status)) {
                Ok(Some(active)) => return Ok(active),
                Ok(None) => {}
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("nobody holds the exclusive slot")))
    }

    /// The process ids of something on a host, as the host numbers them.
    pub fn pids(&self, host: &str, process: Process) -> Result<Vec<u32>> {
        let output = self
            .host(host)?
            .run(Command::new(["pgrep", "-f", "--", &process.pattern()]))?;
        let pids = output.stdout.lines().filter_map(|line| line.trim().parse().ok());
        Ok(pids.collect())
    }

    /// Waits until every host says that all is redundant, that the same one is active, and that all members of the store answer.
    /// Returns how long that took.
    pub fn wait_redundant(&self, within: Duration) -> Result<Duration> {
        let began = Instant::now();
        loop {
            let missing = match self.missing() {
                Ok(None) => return Ok(began.elapsed()),
                Ok(Some(missing)) => missing,
                Err(error) => format!("{error:#}"),
            };
            if began.elapsed() > within {
                bail!("not redundant after {:.1?}: {missing}", began.elapsed());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// What keeps it from being redundant.
    fn missing(&self) -> Result<Option<String>> {
        let mut actives = BTreeSet::new();
        for name in &self.names {
            let status = self.status(name)?;
            if let Some(service) = status.services.iter().find(|service| service.state != "redundant") {
                return Ok(Some(format!(
                    "{name} says that {} is {}: {}",
                    service.name, service.state, service.because
                )));
            }
            // Half a minute longer than a clock is wrong it is told to be, and nothing that is decided goes by it: `clocks_told_wrong` looks at that.
            let serious = |problem: &&api::Problem| {
                let grave = problem.severity == api::Severity::Error && problem.code != CLOCK_WRONG;
                grave || problem.code == "store-member"
            };
            if let Some(problem) = status.problems.iter().find(serious) {
                return Ok(Some(format!("{name} says: {}", problem.text)));
            }
            if let Some(node) = status.nodes.iter().find(|node| node.state != api::NodeState::Online) {
                return Ok(Some(format!("{name} says that node {} is {:?}", node.name, node.state)));
            }
            if status.nodes.len() != self.names.len() || status.services.len() != 2 {
                return Ok(Some(format!(
                    "{name} knows {} nodes and {} services",
                    status.nodes.len(),
                    status.services.len()
                )));
            }
            let Some(active) = active_in(&status) else {
                return Ok(Some(format!("{name} says that nobody is active")));
            };
            actives.insert((active.instance, active.epoch));
        }
        if actives.len() != 1 {
            return Ok(Some(format!("they disagree about the active: {actives:?}")));
        }
        let store = self.store(&self.names[0])?;
        let voting = self.names.len();
        Ok((store.votes.0 != voting).then(|| format!("{} of {voting} members of the store answer", store.votes.0)))
    }

    /// Whose clocks are told to be wrong: the host that tells, and its words.
    pub fn clocks_told_wrong(&self) -> Result<Vec<(String, String)>> {
        let mut told = Vec::new();
        for name in &self.names {
            let problems = self.status(name)?.problems;
            let of_clocks = problems.into_iter().filter(|problem| problem.code == CLOCK_WRONG);
            told.extend(of_clocks.map(|problem| (name.clone(), problem.text)));
        }
        Ok(told)
    }

    /// Waits until no host tells of a clock that is wrong.
    pub fn wait_clocks_right(&self, within: Duration) -> Result<()> {
        let began = Instant::now();
        loop {
            let told = self.clocks_told_wrong();
            match told {
                Ok(told) if told.is_empty() => return Ok(()),
                told if began.elapsed() > within => {
                    bail!(
                        "after {:.1?} clocks are still told to be wrong: {told:?}",
                        began.elapsed()
                    )
                }
                _ => std::thread::sleep(LOOK_EVERY),
            }
        }
    }

    /// What the stamps of all actives prove.
    pub fn verdict(&self) -> Result<Verdict> {
        Ok(judge(&witness::read_all(&self.rings())?, Limits::default()))
    }

    /// What they prove of the time since then (CLOCK_BOOTTIME).
    pub fn verdict_since(&self, at_ns: u64) -> Result<Verdict> {
        let traces = witness::read_all(&self.rings())?;
        let traces: Vec<_> = traces.into_iter().map(|trace| trace.since(at_ns)).collect();
        Ok(judge(&traces, Limits::default()))
    }

    /// Where the stamps are.
    pub fn rings(&self) -> PathBuf {
        self.rig.shared().join("rings")
    }

    /// Copies all that can explain a failure: logs of our processes and events of each host.
    pub fn keep_logs(&self, folder: &Path) -> Result<()> {
        for host in self.rig.hosts() {
            let into = folder.join(host.name());
            fs::create_dir_all(&into)?;
            let root = host.files().join(format!("var/lib/understudy/{NAME}"));
            let mut copied = vec![root.join("events.jsonl"), host.files().join("var/log/start.log")];
            for inside in ["logs", "run", "etcd"] {
                let Ok(files) = fs::read_dir(root.join(inside)) else {
                    continue;
                };
                copied.extend(files.flatten().map(|file| file.path()));
            }
            let is_log = |path: &&PathBuf| path.extension().is_some_and(|kind| kind == "log" || kind == "jsonl");
            for path in copied.iter().filter(is_log) {
                if let Some(name) = path.file_name() {
                    fs::copy(path, into.join(name)).ok();
                }
            }
        }
        let rings = folder.join("rings");
        fs::create_dir_all(&rings)?;
        for ring in fs::read_dir(self.rings())?.flatten() {
            fs::copy(ring.path(), rings.join(ring.file_name())).ok();
        }
        Ok(())
    }
}

fn active_in(status: &Status) -> Option<Active> {
    let token = status.services.iter().find(|service| service.name == "token")?;
    let slot = token.slots.first().filter(|slot| slot.state == "serving")?;
    Some(Active {
        host: slot.node.clone()?,
        instance: slot.instance.clone()?,
        epoch: slot.epoch,
    })
}
