//! The whole thing: the real program, real services, real signals. Each test has a folder and ports of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod bad_input;
mod failover;
mod hands;
mod hooks;
mod limits;
mod nodes;
mod programs;
mod rollout;
mod survival;
mod unprivileged;

use bench::load::{self, Load, Plan, Report};
use bench::process;
use bench::rig::{self, Rig};
use rustix::process::Signal;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_understudy");
/// For a service to heal after something was killed: a start, a check, and a busy machine.
const HEAL: Duration = Duration::from_secs(20);

/// A running shop: `web` 2+1 and `db` 1+1 exclusive.
struct Shop {
    rig: Rig,
    web: SocketAddr,
    db: SocketAddr,
    witness: std::path::PathBuf,
    // Dropped last: the witness file outlives the cluster.
    _folder: tempfile::TempDir,
}

impl Shop {
    fn up() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let witness = folder.path().join("witness");
        let (web, db) = (rig::free_address().unwrap(), rig::free_address().unwrap());
        let rig = Rig::up(Path::new(PROGRAM), "shop", &shop_file(web, db, &witness)).unwrap();
        Self {
            rig,
            web,
            db,
            witness,
            _folder: folder,
        }
    }

    /// 200 requests a second, each over a connection of its own.
    fn load(&self, target: SocketAddr, path: &str) -> Load {
        load::start(Plan::get(target, path, 200.0)).unwrap()
    }

    fn holder(&self, service: &str) -> (String, u32) {
        rig::holder(&self.rig.status().unwrap(), service, 0).unwrap()
    }

    fn until_redundant_without(&self, service: &str, gone: &[u32]) {
        self.rig
            .wait_for("redundancy", HEAL, |status| {
                rig::redundant_without(status, service, gone)
            })
            .unwrap();
    }

    /// From outside, by what the databases themselves wrote down: never two of them active at once.
    fn assert_never_two_actives(&self) {
        let overlaps = sample::witness::overlaps(&self.witness).unwrap();
        assert!(overlaps.is_empty(), "two were active at once: {overlaps:?}");
    }
}

fn shop_file(web: SocketAddr, db: SocketAddr, witness: &Path) -> String {
    format!(
        r#"
name = "shop"

[service.db]
command = ["{{understudy}}", "sample", "db", "--port", "{{port}}", "--data", "{{data}}", "--witness", "{witness}"]
exclusive = true
listen = "{db}"
protocol = "http"
check = {{ http = "/healthz", every = "200ms", fail_after = 2 }}
standby_check = {{ http = "/ready", every = "200ms" }}
on_promote = ["{{understudy}}", "sample", "promote", "--port", "{{port}}", "--epoch", "{{epoch}}"]
on_demote = ["{{understudy}}", "sample", "demote", "--port", "{{port}}"]
on_follow = ["{{understudy}}", "sample", "follow", "--port", "{{port}}", "--active", "{{active.host}}:{{active.port}}"]

[service.web]
command = ["{{understudy}}", "sample", "web", "--port", "{{port}}", "--db", "{{service.db.address}}"]
active = 2
need = 1
listen = "{web}"
protocol = "http"
check = {{ http = "/healthz", every = "200ms", fail_after = 2 }}
needs = ["db"]
"#,
        witness = witness.display()
    )
}

fn kill(pid: u32) {
    process::signal(pid, Signal::KILL).unwrap();
}

fn assert_no_failures(report: &Report) {
    assert_eq!(report.failed(), 0, "{report}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn up_needs_nothing_and_down_leaves_nothing() {
    let shop = Shop::up();
    let report = load::run(Plan {
        duration: Duration::from_secs(1),
        ..Plan::get(shop.web, "/", 100.0)
    })
    .await
    .unwrap();
    assert_no_failures(&report);
    let folder = shop.rig.folder().to_owned();
    let own = shop.rig.own().unwrap();
    shop.rig.down().unwrap();
    let guard_ends = || !process::is_alive(own.guard);
    let waited = std::time::Instant::now();
    while !guard_ends() && waited.elapsed() < HEAL {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(process::belonging_to(&folder), Vec::<u32>::new(), "processes are left");
    assert!(
        tokio::net::TcpStream::connect(shop.web).await.is_err(),
        "somebody still listens"
    );
}
