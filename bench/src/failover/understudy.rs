//! Understudy: etcd on each host, a warm standby on each other one, and the address with the active.

use super::contender::{Active, Break, CONTROL, Contender, PORT, floating, need, pids, tokenserver, wait_for};
use anyhow::{Context as _, Result, ensure};
use bench::report::first_line;
use hosts::{Command, Host, Rig};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The cluster's name.
const NAME: &str = "bench";
/// As a service manager gives it to what it starts.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// For etcd to start, to be measured, and to take a member in.
const COMMAND_WITHIN: Duration = Duration::from_secs(120);
/// All is redundant again within this, on whatever machine.
const WHOLE_WITHIN: Duration = Duration::from_secs(90);

pub(crate) struct Understudy {
    /// The timing.
    profile: &'static str,
    /// The program to measure; hosts see the machine's files.
    understudy: PathBuf,
    server: PathBuf,
}

impl Understudy {
    pub(crate) fn new(understudy: PathBuf, profile: &'static str) -> Result<Self> {
        need(&[("etcd", "etcd-server"), ("nft", "nftables"), ("curl", "curl")])?;
        Ok(Self {
            profile,
            understudy,
            server: tokenserver()?,
        })
    }

    fn file(&self, rig: &Rig) -> String {
        let (server, rings, address) = (self.server.display(), rig.shared(), floating(rig));
        let (rings, standbys) = (rings.display(), rig.hosts().count() - 1);
        format!(
            r#"name = "{NAME}"

[service.token]
command = ["{server}", "serve", "--name", "{{node}}", "--listen", "0.0.0.0:{PORT}", "--control", "{CONTROL}", "--rings", "{rings}", "--every-us", "1000"]
port = false
active = 1
standby = {standbys}
exclusive = true
spread = "node"
standby_mode = "warm"
address = "{address}/24"
# A standby answers with 503: whoever answers at all works.
check = {{ exec = ["curl", "--silent", "--output", "/dev/null", "--max-time", "0.3", "http://127.0.0.1:{PORT}/"], every = "500ms", timeout = "1s", fail_after = 1 }}
on_promote = ["{server}", "promote", "--control", "{CONTROL}", "{{epoch}}"]
on_demote = ["{server}", "demote", "--control", "{CONTROL}"]
"#
        )
    }

    fn must(&self, host: &Host, words: &[&str]) -> Result<String> {
        let program = self.understudy.display().to_string();
        let words = std::iter::once(program).chain(words.iter().map(|word| (*word).to_owned()));
        let output = host.run_within(Command::new(words.clone()).env("PATH", PATH), COMMAND_WITHIN)?;
        ensure!(
            output.ended.is_success(),
            "`{}` on {} failed ({:?}): {}{}",
            words.collect::<Vec<_>>().join(" "),
            host.name(),
            output.ended,
            output.stdout,
            output.stderr
        );
        Ok(output.stdout)
    }

    /// Whether a host says that nothing is missing.
    fn is_whole(&self, host: &Host, hosts: usize) -> bool {
        let Ok(text) = self.must(host, &["status", "--json"]) else {
            return false;
        };
        serde_json::from_str::<api::Status>(&text).is_ok_and(|status| {
            status.nodes.len() == hosts
                && status.nodes.iter().all(|node| node.state == api::NodeState::Online)
                && status.services.iter().all(|service| service.state == "redundant")
                && !status.services.is_empty()
        })
    }

    fn until_whole(&self, rig: &Rig) -> Result<()> {
        let hosts = rig.hosts().count();
        wait_for("Understudy to be redundant", WHOLE_WITHIN, || {
            Ok(rig.hosts().all(|host| self.is_whole(host, hosts)).then_some(()))
        })
    }
}

impl Contender for Understudy {
    fn name(&self) -> String {
        first_line(&self.understudy.display().to_string(), &["--version"])
    }

    fn settings(&self) -> String {
        let etcd = first_line("etcd", &["--version"]).to_lowercase();
        format!(
            "timing {}, check each 0.5 s (patience 300 ms, fall 1), {etcd} on each host",
            self.profile
        )
    }

    fn setup(&self, rig: &Rig) -> Result<SocketAddr> {
        let mut hosts = rig.hosts();
        let first = hosts.next().context("a rig has hosts")?;
        let address = first.address().to_string();
        self.must(
            first,
            &["cluster", "init", NAME, "--host", &address, "--profile", self.profile],
        )?;
        for host in hosts {
            let token = self.must(first, &["cluster", "token"])?;
            let address = host.address().to_string();
            self.must(host, &["cluster", "join", token.trim(), "--host", &address])?;
        }
        for host in rig.hosts() {
            self.booted(rig, host)?;
        }
        first.write("/root/bench.toml", &self.file(rig))?;
        self.must(first, &["apply", "/root/bench.toml", "--yes"])?;
        self.until_whole(rig)?;
        Ok(SocketAddr::from((floating(rig), PORT)))
    }

    /// What the host's service manager does: it starts guard and agent when the host has booted, and when both of them are gone.
    fn booted(&self, _rig: &Rig, host: &Host) -> Result<()> {
        let program = self.understudy.display();
        let ours = format!("--cluster {NAME} (agent|guard) ");
        let line = format!("while :; do pgrep -f -- '{ours}' > /dev/null || {program} cluster start; sleep 0.5; done");
        host.start_daemon(Command::shell(line).env("PATH", PATH), "start")?;
        Ok(())
    }

    /// Agent, guard and proxy; and etcd, which it runs.
    fn manager(&self, host: &Host) -> Result<Vec<u32>> {
        pids(host, "^(understudy|etcd)$")
    }

    fn switch_over(&self, _rig: &Rig, from: &Host) -> Result<()> {
        self.must(from, &["switchover", "token"]).map(drop)
    }

    /// It starts again what died; a try begins when all is redundant.
    fn tidy(&self, rig: &Rig, host: &Host, broken: Break, active: &Active) -> Result<()> {
        if broken == Break::ServiceFrozen {
            // Killed by now, in all likelihood.
            host.signal(active.pid, rustix::process::Signal::CONT).ok();
        }
        self.until_whole(rig)
    }

    /// The rig ends all that runs on its hosts.
    fn teardown(&self, _rig: &Rig) -> Result<()> {
        Ok(())
    }
}
