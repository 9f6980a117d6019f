//! Every action: what it would do is shown first, then it is done, and taken back where that is possible.

use crate::{HEAL, LIVE, SHOWN, Shop, assert_quiet, link};
use bench::browser::Page;
use bench::rig::service;
use std::time::{Duration, Instant};

/// Begins an action on a thing's page, and waits until it may be confirmed. The preview's words.
fn begin(page: &Page, at: &str, action: &str) -> String {
    begin_with(page, at, &format!("[data-action=\"{action}\"]"))
}

/// The same of one slot of a service.
fn begin_of_slot(page: &Page, service: &str, slot: u32, action: &str) -> String {
    let button = format!("[data-action=\"{action}\"][data-slot=\"{slot}\"]");
    begin_with(page, &format!("service/{service}"), &button)
}

fn begin_with(page: &Page, at: &str, button: &str) -> String {
    page.eval(&format!("location.hash = '#/{at}'")).unwrap();
    let button = format!("#detail {button}");
    page.until(
        &format!("document.querySelector('{button}') && document.querySelector('{button}').offsetParent"),
        SHOWN,
    )
    .unwrap();
    page.click(&button).unwrap();
    page.until("document.querySelector('#ask').open", SHOWN).unwrap();
    page.until(
        "document.querySelector('#ask-yes') && !document.querySelector('#ask-yes').disabled",
        SHOWN,
    )
    .unwrap();
    page.text("document.querySelector('#ask').innerText").unwrap()
}

fn confirm(page: &Page) -> String {
    page.click("#ask-yes").unwrap();
    page.until("document.querySelector('#ask-done')", HEAL).unwrap();
    page.text("document.querySelector('#ask-done').textContent").unwrap()
}

/// Takes it back. On a busy machine it may be refused at first, as to anybody who presses the button while a standby is behind: the page says
/// so, and the button stays.
fn take_back(page: &Page) {
    let said = "document.querySelector('#ask-done').textContent";
    let until = Instant::now() + HEAL;
    loop {
        page.click("#ask-undo").unwrap();
        page.until(
            "!document.querySelector('#ask-undo') || !document.querySelector('#ask-undo').disabled",
            HEAL,
        )
        .unwrap();
        if page.eval("document.querySelector('#ask-undo')").unwrap().is_null() {
            break;
        }
        let refused = page.text(said).unwrap();
        assert!(refused.starts_with("not taken back: "), "the click was lost: {refused}");
        assert!(Instant::now() < until, "{refused}");
        std::thread::sleep(Duration::from_millis(200));
    }
    close(page);
}

fn close(page: &Page) {
    page.key("Escape").unwrap();
    page.until("!document.querySelector('#ask').open", SHOWN).unwrap();
}

#[test]
fn a_switchover_is_previewed_done_and_taken_back() {
    let shop = Shop::up();
    let (before, _) = shop.holder("db");
    let page = shop.sign_in();
    let would = begin(&page, "service/db", "switchover");
    let heir = service(&shop.rig.status().unwrap(), "db").unwrap().failover_order[0].clone();
    assert!(would.contains(&before) && would.contains(&heir), "{would}");
    assert!(would.contains("clients wait up to"), "{would}");
    assert_eq!(shop.holder("db").0, before, "asking changes nothing");
    let did = confirm(&page);
    assert!(did.contains(&heir), "{did}");
    assert_eq!(shop.holder("db").0, heir);
    // Who was active follows first, then it can take over again.
    shop.until_redundant();
    take_back(&page);
    assert_eq!(shop.holder("db").0, before);
    assert_quiet(&page);
}

#[test]
fn a_node_is_drained_and_let_back() {
    let shop = Shop::up();
    let node = service(&shop.rig.status().unwrap(), "db").unwrap().slots[0]
        .node
        .clone()
        .unwrap();
    let page = shop.sign_in();
    let would = begin(&page, &format!("node/{node}"), "drain");
    assert!(would.contains("db: ") && would.contains("hands over to"), "{would}");
    confirm(&page);
    let empty = |status: &api::Status| {
        let mut instances = status.services.iter().flat_map(|service| &service.instances);
        instances.all(|instance| instance.node != node)
            && status.services.iter().all(|service| service.state == "redundant")
    };
    shop.rig.wait_for("an empty node", HEAL, empty).unwrap();
    take_back(&page);
    let online = |status: &api::Status| status.nodes.iter().all(|node| node.state == api::NodeState::Online);
    shop.rig.wait_for("the node", HEAL, online).unwrap();
    assert_quiet(&page);
}

#[test]
fn drills_say_how_far_the_outage_is_before_and_after() {
    let shop = Shop::up();
    let page = shop.sign_in();
    let (holder, pid) = shop.holder("db");
    let would = begin(&page, &format!("instance/{holder}"), "drill-instance");
    assert!(
        would.contains("loses its active") && would.contains("takes over"),
        "{would}"
    );
    assert!(would.contains("2 → 1"), "the distance to the outage: {would}");
    let did = confirm(&page);
    assert!(did.contains(&pid.to_string()), "{did}");
    assert_eq!(
        page.eval("document.querySelector('#ask-undo')").unwrap(),
        serde_json::Value::Null,
        "the dead do not come back"
    );
    close(&page);
    // Its death is noticed within milliseconds, which may be after the page was answered.
    let moved = |status: &api::Status| {
        service(status, "db").is_ok_and(|db| db.slots[0].instance.as_deref().is_some_and(|now| now != holder))
    };
    shop.rig.wait_for("another holder", HEAL, moved).unwrap();
    shop.until_redundant();

    let node = service(&shop.rig.status().unwrap(), "db").unwrap().slots[0]
        .node
        .clone()
        .unwrap();
    begin(&page, &format!("node/{node}"), "drill-node");
    confirm(&page);
    page.until(
        &format!("model_is_offline('{node}')").replace(
            "model_is_offline",
            "(n => document.querySelector('#detail').innerText.includes('offline') && n)",
        ),
        SHOWN,
    )
    .unwrap();
    take_back(&page);
    shop.until_redundant();
    assert_quiet(&page);
}

#[test]
fn one_slot_of_two_is_parked_and_unparked() {
    let shop = Shop::up();
    shop.until_redundant();
    let of_web = |slot: usize| service(&shop.rig.status().unwrap(), "web").unwrap().slots[slot].clone();
    let (first, holder) = (of_web(0), of_web(1).instance.unwrap());
    let page = shop.sign_in();
    // What falls: that slot, by who holds it, and web is as far from an outage as one active alone.
    let would = begin_of_slot(&page, "web", 1, "park");
    assert!(would.contains("Park slot web/1") && would.contains(&holder), "{would}");
    assert!(would.contains("redundant → degraded"), "{would}");
    assert!(of_web(1).parked.is_none(), "asking changes nothing");
    let did = confirm(&page);
    assert!(did.contains("slot web/1 is parked"), "{did}");
    let parked = |parked: bool| {
        let as_asked = move |status: &api::Status| {
            let slots = &service(status, "web").unwrap().slots;
            slots[0].parked.is_none() && slots[1].parked.is_some() == parked
        };
        shop.rig.wait_for("the slot as asked", HEAL, as_asked).unwrap();
    };
    parked(true);
    page.until(
        "document.querySelector('#detail .slots').innerText.includes('parked')",
        SHOWN,
    )
    .unwrap();
    assert_eq!(of_web(0).instance, first.instance, "the other slot is left alone");
    close(&page);
    // The page offers to unpark that slot only.
    let offered =
        "[...document.querySelectorAll('#detail [data-action]')].map(b => b.dataset.action + b.dataset.slot).join()";
    page.until(&format!("{offered} === 'switchover0,park0,unpark1'"), SHOWN)
        .unwrap();

    let would = begin_of_slot(&page, "web", 1, "unpark");
    assert!(would.contains("Unpark slot web/1"), "{would}");
    confirm(&page);
    parked(false);
    shop.until_redundant();
    page.until(
        "document.querySelector('#ask-undo').textContent === 'Park web/1 again'",
        SHOWN,
    )
    .unwrap();
    close(&page);
    page.until(&format!("{offered} === 'switchover0,park0,switchover1,park1'"), SHOWN)
        .unwrap();

    // Of two that are parked, one is unparked; and what was done to slot 1 is taken back there.
    begin_of_slot(&page, "web", 0, "park");
    confirm(&page);
    close(&page);
    begin_of_slot(&page, "web", 1, "park");
    confirm(&page);
    take_back(&page);
    parked_are(&shop, &[0]);
    begin_of_slot(&page, "web", 0, "unpark");
    confirm(&page);
    close(&page);
    parked_are(&shop, &[]);
    shop.until_redundant();
    assert_quiet(&page);
}

fn parked_are(shop: &Shop, expected: &[u32]) {
    let as_expected = |status: &api::Status| {
        let slots = service(status, "web").unwrap().slots.iter();
        slots
            .filter(|slot| slot.parked.is_some())
            .map(|slot| slot.slot)
            .eq(expected.iter().copied())
    };
    shop.rig.wait_for("the slots parked", HEAL, as_expected).unwrap();
}

#[test]
fn the_second_slot_is_switched_over_and_back() {
    let shop = Shop::up();
    shop.until_redundant();
    let held = |slot: usize| {
        service(&shop.rig.status().unwrap(), "web").unwrap().slots[slot]
            .instance
            .clone()
    };
    let (first, second) = (held(0), held(1));
    let page = shop.sign_in();
    let would = begin_of_slot(&page, "web", 1, "switchover");
    assert!(would.contains("slot 1 goes from"), "{would}");
    confirm(&page);
    assert_eq!(held(0), first);
    assert_ne!(held(1), second);
    shop.until_redundant();
    take_back(&page);
    assert_eq!((held(0), held(1)), (first, second));
    assert_quiet(&page);
}

#[test]
fn a_pause_is_seen_and_resumed() {
    let shop = Shop::up();
    let page = shop.sign_in();
    page.key("p").unwrap();
    page.until(
        "document.querySelector('#ask-yes') && !document.querySelector('#ask-yes').disabled",
        SHOWN,
    )
    .unwrap();
    let would = page.text("document.querySelector('#ask').innerText").unwrap();
    assert!(would.contains("nothing is failed over"), "{would}");
    confirm(&page);
    page.until(
        "document.querySelector('#banner').innerText.includes('paused since')",
        SHOWN,
    )
    .unwrap();
    assert!(shop.rig.status().unwrap().paused.is_some());
    take_back(&page);
    page.until("document.querySelector('#banner').hidden", SHOWN).unwrap();
    assert!(shop.rig.status().unwrap().paused.is_none());
    assert_quiet(&page);
}

#[test]
fn what_was_given_up_is_tried_again() {
    let shop = Shop::up();
    let mended = shop.rig.folder().join("mended");
    let file = shop.rig.folder().join("file.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let broken = format!(
        "{text}\n[service.broken]\ncommand = [\"sh\", \"-c\", \"test -e {} && exec sleep 1000\"]\nstandby = 0\n\
         restart = {{ give_up_after = 1, backoff = \"60s\", backoff_max = \"60s\" }}\n",
        mended.display()
    );
    std::fs::write(&file, broken).unwrap();
    let output = shop.rig.run(&["apply", file.to_str().unwrap(), "--yes"]).unwrap();
    assert!(
        !String::from_utf8_lossy(&output.stderr).contains("unexpected"),
        "{output:?}"
    );
    let failed = |status: &api::Status| {
        status
            .problems
            .iter()
            .any(|problem| problem.about.starts_with("broken-"))
    };
    let (status, _) = shop.rig.wait_for("a failure", HEAL, failed).unwrap();
    let id = service(&status, "broken").unwrap().instances[0].id.clone();
    let page = shop.sign_in();
    page.until(
        "document.querySelector('#problems').innerText.includes('broken')",
        SHOWN,
    )
    .unwrap();
    begin(&page, &format!("instance/{id}"), "retry");
    std::fs::write(&mended, "").unwrap();
    confirm(&page);
    close(&page);
    shop.rig
        .wait_for("broken to be mended", HEAL, |status| {
            service(status, "broken").is_ok_and(|service| service.state == "redundant")
        })
        .unwrap();
    page.until(&format!("document.querySelector('#detail').innerText.includes('active') && document.querySelector('#detail h2').textContent.includes('{id}')"), SHOWN)
        .unwrap();
    assert_quiet(&page);
}

#[test]
fn who_is_not_signed_in_looks_and_does_nothing() {
    let shop = Shop::up();
    let page = shop.look();
    page.eval("location.hash = '#/service/db'").unwrap();
    page.until(
        "document.querySelector('#detail').innerText.includes('sign in to act')",
        SHOWN,
    )
    .unwrap();
    assert_eq!(
        page.eval("document.querySelectorAll('#detail [data-action]').length")
            .unwrap(),
        0
    );
    let status = page
        .eval("fetch('/v1/pause', {method: 'POST', headers: {'x-understudy': '1'}}).then(r => r.status)")
        .unwrap();
    assert_eq!(status, 401);
    assert!(shop.rig.status().unwrap().paused.is_none());

    // A link signs in once, and the cookie is out of the reach of scripts.
    let pass = link(&shop.rig).pass;
    page.click("#who").unwrap();
    page.until("document.activeElement.id === 'pass'", SHOWN).unwrap();
    page.type_in(&pass).unwrap();
    page.key("Enter").unwrap();
    page.until("document.querySelector('#who').textContent === 'Sign out'", SHOWN)
        .unwrap();
    assert_eq!(page.eval("document.cookie").unwrap(), "");
    let second = page
        .eval(&format!(
            "fetch('/ui/sign-in', {{method: 'POST', headers: {{'x-understudy': '1', 'content-type': 'application/json'}}, body: JSON.stringify({{pass: '{pass}'}})}}).then(r => r.status)"
        ))
        .unwrap();
    assert_eq!(second, 401);
    page.click("#who").unwrap();
    page.until(
        &format!("{LIVE} && document.querySelector('#who').textContent === 'Sign in'"),
        SHOWN,
    )
    .unwrap();

    // With a pass to read, there is nothing to act with either.
    let output = shop.rig.run(&["dashboard", "--read", "--json"]).unwrap();
    let read: api::DashboardLink = serde_json::from_slice(&output.stdout).unwrap();
    page.go(&format!("{}/ui/sign-in#{}", shop.url, read.pass)).unwrap();
    page.until(LIVE, SHOWN).unwrap();
    let status = page
        .eval("fetch('/v1/pause', {method: 'POST', headers: {'x-understudy': '1'}}).then(r => r.status)")
        .unwrap();
    assert_eq!(status, 403);
}
