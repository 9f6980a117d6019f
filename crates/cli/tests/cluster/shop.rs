//! The sample: a database that is exclusive, and a web page in front of it.

use crate::{HEAL, Land, wait_for};
use hosts::client::{Attempt, Client, Plan};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) const DB: u16 = 6380;
pub(crate) const WEB: u16 = 8080;

/// `witness` is where databases write down when they acted: seen by all hosts.
fn file(witness: &str) -> String {
    format!(
        r#"
name = "shop"

[service.db]
command = ["{{understudy}}", "sample", "db", "--host", "{{host}}", "--port", "{{port}}", "--data", "{{data}}", "--witness", "{witness}"]
exclusive = true
listen = "0.0.0.0:{DB}"
protocol = "http"
check = {{ http = "/healthz", every = "200ms", timeout = "2s", fail_after = 3 }}
standby_check = {{ http = "/ready", every = "200ms" }}
on_promote = ["{{understudy}}", "sample", "promote", "--host", "{{host}}", "--port", "{{port}}", "--epoch", "{{epoch}}"]
on_demote = ["{{understudy}}", "sample", "demote", "--host", "{{host}}", "--port", "{{port}}"]
on_follow = ["{{understudy}}", "sample", "follow", "--host", "{{host}}", "--port", "{{port}}", "--active", "{{active.host}}:{{active.port}}"]

[service.web]
command = ["{{understudy}}", "sample", "web", "--host", "{{host}}", "--port", "{{port}}", "--db", "127.0.0.1:{DB}"]
active = 2
need = 1
listen = "0.0.0.0:{WEB}"
protocol = "http"
check = {{ http = "/healthz", every = "200ms", timeout = "2s", fail_after = 3 }}
needs = ["db"]
"#
    )
}

impl Land {
    fn witness(&self) -> PathBuf {
        self.rig.shared().join("witness")
    }

    /// Applies the file and waits until nothing is missing.
    pub(crate) fn open_shop(&self, host: &str) {
        let witness = self.witness();
        self.host(host)
            .write("/root/shop.toml", &file(&witness.to_string_lossy()))
            .unwrap();
        self.ok(host, &["apply", "/root/shop.toml", "--yes"]);
        self.until_redundant(host);
    }

    /// All services are up, with all the copies that they want.
    pub(crate) fn until_redundant(&self, host: &str) {
        wait_for("redundancy", HEAL * 2, || {
            let status = self.status(host)?;
            let all = status.services.len() == 2 && status.services.iter().all(|service| service.state == "redundant");
            all.then_some(())
        });
    }

    /// The instance and the node that are active for a service, as `host` sees it.
    pub(crate) fn active(&self, host: &str, service: &str) -> Option<(String, String)> {
        let status = self.status(host)?;
        let service = status.services.into_iter().find(|one| one.name == service)?;
        let id = service.slots.first()?.instance.clone()?;
        let instance = service.instances.into_iter().find(|one| one.id == id)?;
        Some((id, instance.node))
    }

    /// A client outside asks for a host's page, which counts in the database, twenty times a second.
    pub(crate) fn clients(&self, host: &str) -> Client {
        let target = SocketAddr::new(self.host(host).address().into(), WEB);
        let plan = Plan {
            every: Duration::from_millis(50),
            timeout: Duration::from_secs(5),
            ..Plan::new(target)
        };
        Client::start(self.rig.client(), plan).unwrap()
    }

    /// From outside, by what the databases themselves wrote down: never two of them active at once.
    pub(crate) fn assert_never_two_actives(&self) {
        let overlaps = sample::witness::overlaps(&self.witness()).unwrap();
        assert!(overlaps.is_empty(), "two were active at once: {overlaps:?}");
    }
}

/// How many failed, and the longest time between two good ones in milliseconds.
pub(crate) fn judge(attempts: &[Attempt]) -> (usize, u64) {
    let failed = attempts.iter().filter(|attempt| !attempt.is_good()).count();
    let good: Vec<u64> = attempts
        .iter()
        .filter(|one| one.is_good())
        .map(Attempt::ended_ns)
        .collect();
    let gap = good
        .windows(2)
        .map(|pair| pair[1].saturating_sub(pair[0]))
        .max()
        .unwrap_or(0);
    (failed, gap / 1_000_000)
}
