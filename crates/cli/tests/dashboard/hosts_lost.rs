//! Three machines, of which one and then two are lost under the eyes of a browser on a fourth. Needs root.

use crate::{HEAL, LIVE, PROGRAM, SHOWN};
use bench::browser::Browser;
use hosts::{Command, Rig, Spec};
use std::time::{Duration, Instant};

struct Land {
    rig: Rig,
}

impl Land {
    fn words(&self, host: &str, words: &[&str]) -> hosts::Output {
        let command = [PROGRAM, "--state-dir", "/var/lib/understudy"].into_iter();
        let command = Command::new(command.chain(words.iter().copied()));
        self.rig.host(host).unwrap().run(command).unwrap()
    }

    fn ok(&self, host: &str, words: &[&str]) -> String {
        let output = self.words(host, words);
        assert!(output.ended.is_success(), "{host}: {words:?}: {output:?}");
        output.stdout
    }

    fn status(&self, host: &str) -> Option<api::Status> {
        serde_json::from_str(&self.words(host, &["status", "--json"]).stdout).ok()
    }
}

const FILE: &str = r#"
name = "shop"

[service.web]
command = ["{understudy}", "sample", "web", "--host", "{host}", "--port", "{port}"]
active = 2
need = 1
listen = "0.0.0.0:8080"
protocol = "http"
check = { http = "/healthz", every = "200ms", timeout = "2s", fail_after = 3 }

[service.worker]
command = ["{understudy}", "sample", "sleeper"]
active = 1
standby = 1
"#;

#[test]
fn hosts_are_lost_and_the_page_moves_on() {
    let land = Land {
        rig: Rig::create(&Spec::new(["a", "b", "c"])).unwrap(),
    };
    let address = |host: &str| land.rig.host(host).unwrap().address().to_string();
    land.ok(
        "a",
        &[
            "cluster",
            "init",
            "shop",
            "--host",
            &address("a"),
            "--profile",
            "lan",
            "--zone",
            "dc/rack1",
        ],
    );
    for (host, zone) in [("b", "dc/rack1"), ("c", "dc/rack2")] {
        let token = land.ok("a", &["cluster", "token", "--role", "member"]);
        land.ok(
            host,
            &[
                "cluster",
                "join",
                token.trim(),
                "--host",
                &address(host),
                "--zone",
                zone,
            ],
        );
    }
    land.rig.host("a").unwrap().write("/root/shop.toml", FILE).unwrap();
    land.ok("a", &["apply", "/root/shop.toml", "--yes"]);
    let until = Instant::now() + HEAL * 2;
    while !land
        .status("a")
        .is_some_and(|status| status.services.len() == 2 && status.services.iter().all(|one| one.state == "redundant"))
    {
        assert!(Instant::now() < until, "not redundant");
        std::thread::sleep(Duration::from_millis(200));
    }

    let link: api::DashboardLink = serde_json::from_str(&land.ok("a", &["dashboard", "--json"])).unwrap();
    let remote = link.remote.clone().unwrap();
    let browser = land.rig.client().run(Browser::start).unwrap().unwrap();
    let page = browser.open("about:blank").unwrap();
    page.trust_all().unwrap();
    // From another machine nothing is shown before one signs in.
    page.go(&format!("{remote}/ui/")).unwrap();
    page.until("!document.querySelector('#sign-in').hidden", SHOWN).unwrap();
    for path in ["/v1/status", "/v1/stream", "/v1/events"] {
        assert_eq!(
            page.eval(&format!("fetch('{path}').then(r => r.status)")).unwrap(),
            401,
            "{path}"
        );
    }
    // A pass is good where it was made.
    let other: api::DashboardLink = serde_json::from_str(&land.ok("b", &["dashboard", "--json"])).unwrap();
    page.go(&format!("{remote}/ui/sign-in#{}", other.pass)).unwrap();
    page.until(
        "document.querySelector('#sign-in-said').textContent.includes('for node b')",
        SHOWN,
    )
    .unwrap();
    page.go("about:blank").unwrap();
    page.go(&format!("{remote}/ui/sign-in#{}", link.pass)).unwrap();
    page.until(LIVE, SHOWN).unwrap();
    page.until("document.querySelectorAll('#picture .zone').length === 2", SHOWN)
        .unwrap();

    // One that is looked at dies: its word comes with the loss of its session.
    land.rig.host("c").unwrap().power_off().unwrap();
    let lost = page
        .until(
            "document.querySelector('#picture a[href=\"#/node/c\"]').textContent.includes('offline')",
            HEAL,
        )
        .unwrap();
    eprintln!("node c is shown as lost {} ms after its power went", lost.as_millis());
    page.until("document.querySelector('#verdict').innerText.includes('2 of 3')", SHOWN)
        .unwrap();
    // In between it was old news, and what is left goes on.
    page.until(
        "document.querySelector('tr[data-service=web]').innerText.includes('active')",
        SHOWN,
    )
    .unwrap();
    // The one that shows the page dies too: the page finds the last one, signed in as before, although two of three are gone and no store answers.
    page.until("document.querySelector('#who').textContent === 'Sign out'", SHOWN)
        .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    land.rig.host("a").unwrap().power_off().unwrap();
    let moved = page
        .until(&format!("!location.href.startsWith('{remote}') && {LIVE}"), HEAL * 2)
        .unwrap();
    eprintln!(
        "the page is live on another node {} ms after its own was lost",
        moved.as_millis()
    );
    page.until("document.querySelector('#who').textContent === 'Sign out'", SHOWN)
        .unwrap();
    page.until("document.querySelector('#picture a[href=\"#/node/a\"]').textContent.includes('offline') || document.querySelector('#banner').innerText.includes('cut off')", HEAL)
        .unwrap();
}
