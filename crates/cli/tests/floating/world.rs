//! Three hosts with a cluster on them, and a service that has an address.

use hosts::client::{Client, Plan};
use hosts::{Command, Host, Rig, Spec};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(20);

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_understudy");
/// Where the service listens, on every host.
pub(crate) const PORT: u16 = 7100;

/// Answers with the epoch that its promote hook wrote down, and as a standby with 503.
pub(crate) const SERVICE: &str = r#"
import http.server, os, socketserver, sys
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        try:
            epoch, status = open("epoch").read().strip(), 200
        except OSError:
            epoch, status = "0", 503
        body = f"epoch {epoch} slot 0 name {sys.argv[2]} pid {os.getpid()}\n".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128
server = Server(("0.0.0.0", int(sys.argv[1])), Answer)
open("up", "w").close()
server.serve_forever()
"#;

pub(crate) struct World {
    pub(crate) rig: Rig,
}

/// Bounded: what a test waits for comes soon or not at all.
pub(crate) fn wait_until(what: &str, within: Duration, mut is_so: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < within, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    begun.elapsed()
}

pub(crate) fn understudy(host: &Host, words: &[&str]) -> Result<String, hosts::Error> {
    let words = std::iter::once(PROGRAM).chain(words.iter().copied());
    host.check(Command::new(words))
}

impl World {
    /// Hosts `a`, `b`, `c`, members of one cluster.
    pub(crate) fn three() -> Self {
        let rig = Rig::create(&Spec::new(["a", "b", "c"])).unwrap();
        let world = Self { rig };
        for host in world.rig.hosts() {
            host.write("/srv/service.py", SERVICE).unwrap();
        }
        let (a, others) = (world.host("a"), ["b", "c"].map(|name| world.host(name)));
        let address = a.address().to_string();
        understudy(a, &["cluster", "init", "shop", "--host", &address, "--profile", "lan"]).unwrap();
        for host in others {
            let token = understudy(a, &["cluster", "token"]).unwrap();
            let token = token.split_whitespace().next().unwrap();
            let address = host.address().to_string();
            understudy(host, &["cluster", "join", token, "--host", &address]).unwrap();
        }
        world
    }

    pub(crate) fn host(&self, name: &str) -> &Host {
        self.rig.host(name).unwrap()
    }

    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.rig.floating_address(0)
    }

    /// Clients come to the service itself, on whichever host has the address.
    pub(crate) fn apply_direct(&self) {
        self.apply(&format!(
            r#"
            command = ["/bin/sh", "-c", "rm -f epoch up; exec /usr/bin/python3 /srv/service.py {PORT} {{instance}}"]
            port = false
            check = {{ exec = ["/usr/bin/test", "-e", "up"], every = "1s" }}
            "#
        ));
    }

    /// Clients come to the proxy of whichever host has the address.
    pub(crate) fn apply_proxied(&self, protocol: &str) {
        let ip = self.ip();
        self.apply(&format!(
            r#"
            command = ["/bin/sh", "-c", "rm -f epoch up; exec /usr/bin/python3 /srv/service.py {{port}} {{instance}}"]
            listen = "{ip}:{PORT}"
            protocol = "{protocol}"
            "#
        ));
    }

    fn apply(&self, how: &str) {
        let ip = self.ip();
        let file = format!(
            r#"
            name = "shop"
            [service.db]
            {how}
            active = 1
            standby = 1
            exclusive = true
            address = "{ip}/24"
            on_promote = ["/bin/sh", "-c", "echo {{epoch}} > epoch"]
            on_demote = ["/bin/rm", "-f", "epoch"]
            "#
        );
        self.apply_file(&file);
    }

    pub(crate) fn apply_file(&self, file: &str) {
        let a = self.host("a");
        a.write("/srv/shop.toml", file).unwrap();
        understudy(a, &["apply", "/srv/shop.toml", "--yes"]).unwrap();
        wait_until("a redundant service", Duration::from_secs(30), || {
            self.db("a")["state"] == "redundant"
        });
    }

    /// The service as a host sees it; null if that cannot be asked.
    pub(crate) fn db(&self, asked: &str) -> Value {
        let answer = understudy(self.host(asked), &["status", "--json"]);
        let status: Value = answer
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        status["services"]
            .as_array()
            .and_then(|services| services.first().cloned())
            .unwrap_or_default()
    }

    /// The node of the active; waits until one serves.
    pub(crate) fn active(&self, asked: &str) -> String {
        let mut node = None;
        wait_until("an active", Duration::from_secs(20), || {
            node = self.serves(asked);
            node.is_some()
        });
        node.unwrap()
    }

    /// The node of the active, if one serves.
    pub(crate) fn serves(&self, asked: &str) -> Option<String> {
        let db = self.db(asked);
        let slot = &db["slots"][0];
        (slot["state"] == "serving")
            .then(|| slot["node"].as_str().map(str::to_owned))
            .flatten()
    }

    /// Waits until another than `but` serves.
    pub(crate) fn moved(&self, asked: &str, but: &str) {
        wait_until("an active elsewhere", Duration::from_secs(20), || {
            self.serves(asked).is_some_and(|node| node != but)
        });
    }

    /// A host that has no part in it.
    pub(crate) fn other(&self, but: &str) -> String {
        self.rig
            .hosts()
            .map(hosts::Host::name)
            .find(|name| *name != but)
            .unwrap()
            .to_owned()
    }

    /// Moves the service to another host, once a standby is ready; clients are answered when it returns.
    pub(crate) fn switch_over(&self, client: &Client) {
        wait_until("a standby", WAIT, || self.db("a")["state"] == "redundant");
        wait_until("answers", WAIT, || client.good_in_a_row() > 20);
        understudy(self.host("a"), &["switchover", "db"]).unwrap();
        wait_until("answers", WAIT, || client.good_in_a_row() > 20);
    }

    /// 200 requests a second on new connections, which have as long as a lost SYN takes to be sent again.
    pub(crate) fn client(&self) -> Client {
        let plan = Plan {
            timeout: Duration::from_millis(2_500),
            ..Plan::new(SocketAddr::from((self.ip(), PORT)))
        };
        let client = Client::start(self.rig.client(), plan).unwrap();
        wait_until("answers", Duration::from_secs(10), || client.good_in_a_row() > 100);
        client
    }
}
