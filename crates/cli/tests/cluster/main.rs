//! Several machines that act as one: the real program on hosts out of namespaces, with etcd and power losses. Needs root, `iproute2`, `nftables`,
//! `util-linux`, `etcd-server`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod cut_off;
mod grow;
mod hands;
mod harm;
mod leave;
mod many;
mod papers;
mod power;
mod refuse;
mod save;
mod shop;
mod strangers;

use hosts::{Command, Host, Output, Rig, Spec};
use std::time::{Duration, Instant};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_understudy");
/// For anything to heal on a busy machine.
const HEAL: Duration = Duration::from_secs(30);
/// A machine joins within this: a second to measure, one to start etcd, and five that etcd wants between two joins.
const JOINED_WITHIN: Duration = Duration::from_secs(25);

/// Machines, some of which are nodes of the cluster `shop`.
struct Land {
    rig: Rig,
}

impl Land {
    fn new(hosts: &[&str]) -> Self {
        Self {
            rig: Rig::create(&Spec::new(hosts.iter().copied())).unwrap(),
        }
    }

    /// The first of them begins the cluster.
    fn begun(hosts: &[&str], more: &[&str]) -> Self {
        let land = Self::new(hosts);
        let begun = Instant::now();
        let host = land.address(hosts[0]);
        let mut words = vec!["cluster", "init", "shop", "--host", &host, "--profile", "lan"];
        words.extend(more);
        let output = land.ok(hosts[0], &words);
        assert!(output.contains("is the first of cluster shop"), "{output}");
        eprintln!("init took {} ms", begun.elapsed().as_millis());
        assert!(begun.elapsed() < JOINED_WITHIN, "init took {:?}", begun.elapsed());
        land
    }

    /// All of them are members.
    fn of(hosts: &[&str]) -> Self {
        let land = Self::begun(hosts, &[]);
        for host in &hosts[1..] {
            land.join(host, hosts[0], "member");
        }
        land
    }

    fn host(&self, name: &str) -> &Host {
        self.rig.host(name).unwrap()
    }

    fn address(&self, name: &str) -> String {
        self.host(name).address().to_string()
    }

    /// What a command of ours on a host printed.
    fn run(&self, host: &str, words: &[&str]) -> Output {
        let command = [PROGRAM, "--state-dir", "/var/lib/understudy"].into_iter();
        let command = Command::new(command.chain(words.iter().copied()));
        self.host(host).run(command).unwrap()
    }

    /// Its answer; it must succeed.
    fn ok(&self, host: &str, words: &[&str]) -> String {
        let output = self.run(host, words);
        if !output.ended.is_success() {
            let log = self
                .host(host)
                .shell("tail -n 40 /var/lib/understudy/shop/run/*.log")
                .unwrap_or_default();
            panic!("{host}: {words:?}: {output:?}\n{log}");
        }
        output.stdout
    }

    /// Its refusal, with the way out; it must fail.
    fn refused(&self, host: &str, words: &[&str]) -> String {
        let output = self.run(host, words);
        assert!(!output.ended.is_success(), "{host}: {words:?} succeeded: {output:?}");
        let said = output.stderr;
        assert!(said.contains("error: "), "{host}: {words:?}: {said}");
        said
    }

    fn token(&self, from: &str, role: &str) -> String {
        self.ok(from, &["cluster", "token", "--role", role]).trim().to_owned()
    }

    fn join(&self, host: &str, at: &str, role: &str) {
        let token = self.token(at, role);
        let begun = Instant::now();
        let output = self.ok(host, &["cluster", "join", &token, "--host", &self.address(host)]);
        assert!(output.contains("belongs to cluster shop"), "{output}");
        eprintln!("join of {host} took {} ms", begun.elapsed().as_millis());
        assert!(begun.elapsed() < JOINED_WITHIN, "it took {:?}", begun.elapsed());
    }

    fn status(&self, host: &str) -> Option<api::Status> {
        let output = self.run(host, &["status", "--json"]);
        serde_json::from_str(&output.stdout).ok()
    }

    fn report(&self, host: &str) -> membership::Report {
        let output = self.run(host, &["cluster", "status", "--json"]);
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    fn agent(&self, host: &str) -> u32 {
        let text = self
            .host(host)
            .shell("cat /var/lib/understudy/shop/agent.lock")
            .unwrap();
        text.trim().parse().unwrap()
    }
}

/// Bounded: what a test waits for comes in time or not at all.
fn wait_for<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited {within:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
