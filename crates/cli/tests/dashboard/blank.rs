//! What the page says before it knows anything, and of a slot that nobody holds on purpose.

use crate::{HEAL, SHOWN, Shop, assert_quiet};
use bench::browser::Page;
use serde_json::json;

/// The page will come, and its news will not.
fn without_news(shop: &Shop) -> Page {
    let page = shop.browser.open("about:blank").unwrap();
    page.call("Network.enable", json!({})).unwrap();
    page.call("Network.setBlockedURLs", json!({ "urls": ["*/v1/stream*"] }))
        .unwrap();
    page
}

#[test]
fn a_new_page_shows_how_all_stands_before_its_stream_brings_anything_and_greys_without_it() {
    let shop = Shop::up();
    shop.until_redundant();
    let page = without_news(&shop);
    page.go(&format!("{}/ui/#/overview", shop.url)).unwrap();
    let drawn = "document.querySelector('#picture .node') && document.querySelector('#verdict').innerText.includes('all redundant')";
    page.until(drawn, SHOWN).unwrap();
    let first = "performance.getEntriesByName('first-picture')[0].startTime - performance.timing.responseEnd + performance.timing.navigationStart";
    let waited = page.eval(first).unwrap().as_f64().unwrap();
    eprintln!("first picture {waited:.0} ms after the page came");
    // Nothing confirms it, so it grows old.
    page.until("document.querySelector('#live').dataset.state === 'stale'", SHOWN)
        .unwrap();
    assert_quiet(&page);

    // The lines have the past as soon as they are drawn.
    let page = shop.look();
    page.go(&format!("{}/ui/#/charts", shop.url)).unwrap();
    page.until(
        "document.querySelector('.chart p') && document.querySelector('.chart p').textContent.includes('now')",
        SHOWN,
    )
    .unwrap();
}

#[test]
fn what_is_not_known_and_what_is_parked_is_said() {
    let shop = Shop::up();
    shop.until_redundant();
    // Nor what comes with it, as from an agent whose main loop hangs.
    let page = without_news(&shop);
    let source = "new MutationObserver(() => { const one = document.getElementById('first'); if (one) one.remove(); })\
        .observe(document, { childList: true, subtree: true })";
    page.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": source }))
        .unwrap();
    for (view, place) in [
        ("overview", "#verdict"),
        ("risks", "#risk-list"),
        ("events", "#event-list"),
        ("failovers", "#waterfalls"),
        ("service/db", "#detail"),
    ] {
        page.go(&format!("{}/ui/#/{view}", shop.url)).unwrap();
        let said = format!("document.querySelector('{place}').innerText.includes('No data yet')");
        page.until(&said, SHOWN).unwrap();
        let all = page.text("document.body.innerText").unwrap();
        for wrong in [
            "nothing runs",
            "0 of 0",
            "Nothing alone",
            "is not there any more",
            "nothing like that",
        ] {
            assert!(!all.contains(wrong), "{view}: {wrong} in {all}");
        }
    }
    drop(page);
    let page = shop.look();
    page.until(
        "document.querySelector('#verdict').innerText.includes('all redundant')",
        SHOWN,
    )
    .unwrap();

    // The proxy of a machine that pretends to be three nodes is on none of them.
    page.until(
        "document.querySelector('#picture .beside').innerText.includes('the proxy on this machine takes')",
        HEAL,
    )
    .unwrap();
    let beside = page
        .text("document.querySelector('#picture .beside').innerText")
        .unwrap();
    assert!(!beside.contains("node machine"), "{beside}");

    let parked = shop
        .rig
        .run(&["park", "db", "--yes", "--because", "new disks"])
        .unwrap();
    assert!(parked.status.success(), "{parked:?}");
    page.until(
        "document.querySelector('tr[data-service=db] .parked')?.innerText.includes('slot 0 parked')",
        SHOWN,
    )
    .unwrap();
    page.until(
        "document.querySelector('#picture a[href=\"#/service/db\"]').getAttribute('aria-label').includes('slot 0 parked')",
        SHOWN,
    )
    .unwrap();
    // Alone it is told what a slot that nobody holds means.
    let said = String::from_utf8(shop.rig.run(&["explain", "db/0"]).unwrap().stdout).unwrap();
    // Its lines break where they may.
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        said.contains("nobody takes it before `understudy --state-dir ") && said.contains(" unpark db/0`"),
        "{said}"
    );
    let said = String::from_utf8(shop.rig.run(&["explain", "db"]).unwrap().stdout).unwrap();
    assert!(
        !said.contains("could take over") && !said.contains("wait up to"),
        "{said}"
    );
    // A plan tells what would keep it from being applied: an address that another has, though a cluster of that name runs.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let status = shop.rig.status().unwrap();
    let db = status.services.iter().find(|service| service.name == "db").unwrap();
    let db = db.listen.as_deref().unwrap().parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.toml");
    std::fs::write(&file, crate::shop_file(taken, db)).unwrap();
    let said = String::from_utf8(shop.rig.run(&["plan", file.to_str().unwrap()]).unwrap().stdout).unwrap();
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        said.contains("`apply` would be refused: web: `listen`") && said.contains(&format!("{taken} is in use by")),
        "{said}"
    );
    let refused = shop.rig.run(&["apply", file.to_str().unwrap(), "--yes"]).unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && !said.contains("error: error:"), "{said}");
    let back = shop.rig.run(&["unpark", "db"]).unwrap();
    assert!(back.status.success(), "{back:?}");
    page.until("!document.querySelector('tr[data-service=db] .parked')", HEAL)
        .unwrap();
    assert_quiet(&page);
}
