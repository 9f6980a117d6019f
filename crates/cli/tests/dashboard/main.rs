//! The dashboard in a real Chromium, in front of the real program: every view, every action, and what becomes of it when something is lost.
//! Needs Debian's `chromium`; the tests named `hosts_…` also need root, `iproute2`, `nftables` and `etcd-server`.
//!
//! With `UNDERSTUDY_PICTURES=FOLDER` the views are written there as PNG: so the pictures in `docs/` are made.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod acting;
mod blank;
mod doors;
mod fluid;
mod hosts_lost;
mod losing;
mod views;

use api::DashboardLink;
use bench::browser::{Browser, Page};
use bench::rig::{self, Rig};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_understudy");
/// For a page to show what it is told, on a busy machine.
const SHOWN: Duration = Duration::from_secs(10);
/// For anything to heal on a busy machine.
const HEAL: Duration = Duration::from_secs(30);

/// A shop on three pretended nodes, and a browser.
struct Shop {
    browser: Browser,
    rig: Rig,
    url: String,
}

impl Shop {
    fn up() -> Self {
        let (web, db) = (rig::free_address().unwrap(), rig::free_address().unwrap());
        let file = shop_file(web, db);
        let words = ["--nodes", "3"];
        let rig = Rig::up_with(Path::new(PROGRAM), "shop", &file, &words).unwrap();
        let url = link(&rig).local.unwrap();
        Self {
            browser: Browser::start().unwrap(),
            rig,
            url,
        }
    }

    /// A page that looks, and may do nothing.
    fn look(&self) -> Page {
        let page = self.browser.open(&self.url).unwrap();
        page.until(LIVE, SHOWN).unwrap();
        page
    }

    /// A page that is signed in to operate.
    fn sign_in(&self) -> Page {
        let link = link(&self.rig);
        let page = self
            .browser
            .open(&format!("{}/ui/sign-in#{}", self.url, link.pass))
            .unwrap();
        page.until(LIVE, SHOWN).unwrap();
        page.until("document.querySelector('#who').textContent === 'Sign out'", SHOWN)
            .unwrap();
        page
    }

    fn holder(&self, service: &str) -> (String, u32) {
        rig::holder(&self.rig.status().unwrap(), service, 0).unwrap()
    }

    fn until_redundant(&self) {
        let redundant = |status: &api::Status| status.services.iter().all(|service| service.state == "redundant");
        self.rig.wait_for("redundancy", HEAL, redundant).unwrap();
    }
}

/// The page has news, and has drawn the picture.
const LIVE: &str =
    "document.querySelector('#live').dataset.state === 'live' && document.querySelector('#picture .node')";

fn link(rig: &Rig) -> DashboardLink {
    let output = rig.run(&["dashboard", "--json"]).unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn assert_quiet(page: &Page) {
    assert_eq!(page.complaints(), Vec::<String>::new());
}

/// Where pictures are wanted, if they are.
fn picture(name: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("UNDERSTUDY_PICTURES")?);
    std::fs::create_dir_all(&folder).unwrap();
    Some(folder.join(format!("{name}.png")))
}

fn shop_file(web: std::net::SocketAddr, db: std::net::SocketAddr) -> String {
    format!(
        r#"
name = "shop"

[service.db]
command = ["{{understudy}}", "sample", "db", "--port", "{{port}}", "--data", "{{data}}"]
exclusive = true
listen = "{db}"
protocol = "http"
check = {{ http = "/healthz", every = "200ms", timeout = "2s", fail_after = 3 }}
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
check = {{ http = "/healthz", every = "200ms", timeout = "2s", fail_after = 3 }}
needs = ["db"]

[service.worker]
command = ["{{understudy}}", "sample", "sleeper"]
active = 3
standby = 1
need = 2
"#
    )
}
