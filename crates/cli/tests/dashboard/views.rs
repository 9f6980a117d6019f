//! Every view, in light and dark, with mouse, keyboard and on a phone.

use crate::{HEAL, LIVE, SHOWN, Shop, assert_quiet, picture};
use bench::browser::Page;
use bench::load::{self, Plan};
use bench::process;
use rustix::process::Signal;
use std::time::Duration;

const VIEWS: [&str; 6] = ["overview", "charts", "events", "failovers", "risks", "service/db"];

fn show(page: &Page, view: &str) {
    page.eval(&format!(
        "location.hash = '#/{view}'; new Promise(done => setTimeout(done, 150))"
    ))
    .unwrap();
    let section = if view.contains('/') { "detail" } else { view };
    page.until(
        &format!("!document.querySelector('[data-view={section}]').hidden"),
        SHOWN,
    )
    .unwrap();
}

#[test]
fn every_view_shows_what_the_command_line_says() {
    let shop = Shop::up();
    let (holder, _) = shop.holder("db");
    let page = shop.look();
    let status = shop.rig.status().unwrap();
    for instance in status.services.iter().flat_map(|service| &service.instances) {
        let is = if instance.role == "active" { "active" } else { "standby" };
        let chip = format!(
            "document.querySelector('#picture a[href=\"#/instance/{}\"]').dataset.is === '{is}'",
            instance.id
        );
        page.until(&chip, SHOWN).unwrap();
    }
    for node in ["a", "b", "c"] {
        page.until(
            &format!("document.querySelector('#picture a[href=\"#/node/{node}\"]').textContent.includes('online')"),
            SHOWN,
        )
        .unwrap();
    }
    page.until("document.querySelectorAll('#services tbody tr').length === 3", SHOWN)
        .unwrap();
    page.until(
        "document.querySelector('tr[data-service=db]').innerText.includes('redundant')",
        SHOWN,
    )
    .unwrap();
    page.until(
        "document.querySelector('tr[data-service=db]').innerText.includes('by this machine; 2 instances')",
        SHOWN,
    )
    .unwrap();
    // Two actives of web and one of db: three lines from the doors.
    page.until("document.querySelectorAll('#picture .flow').length === 3", SHOWN)
        .unwrap();

    show(&page, "service/db");
    page.until(
        &format!("document.querySelector('#detail').innerText.includes('{holder}')"),
        SHOWN,
    )
    .unwrap();
    for said in [
        "why not failed over",
        "why slow",
        "If it dies now",
        "failover order",
        "Epoch",
    ] {
        page.until(
            &format!(
                "document.querySelector('#detail').innerText.toLowerCase().includes('{}')",
                said.to_lowercase()
            ),
            SHOWN,
        )
        .unwrap();
    }
    let node = status.services[0].slots[0].node.clone().unwrap();
    page.eval(&format!("(() => {{ const s = document.querySelector('#if-dies'); s.value = '{node}'; s.dispatchEvent(new Event('change')); }})()"))
        .unwrap();
    page.until(
        &format!("document.querySelector('#detail').innerText.toLowerCase().includes('what if node {node} dies now')"),
        SHOWN,
    )
    .unwrap();
    page.until(
        "document.querySelector('#detail').innerText.includes('takes over')",
        SHOWN,
    )
    .unwrap();

    show(&page, &format!("instance/{holder}"));
    for said in ["why here", "why not there", "fewest copies", "holds slot 0"] {
        page.until(
            &format!("document.querySelector('#detail').innerText.toLowerCase().includes('{said}')"),
            SHOWN,
        )
        .unwrap();
    }
    show(&page, &format!("node/{node}"));
    page.until(
        &format!("document.querySelector('#detail').innerText.includes('{holder}')"),
        SHOWN,
    )
    .unwrap();

    shop.rig.switchover("db").unwrap();
    show(&page, "failovers");
    page.until("document.querySelector('.fall').innerText.includes('promoted')", SHOWN)
        .unwrap();
    let steps = page.eval("document.querySelectorAll('.fall .row').length").unwrap();
    assert!(steps.as_u64().unwrap() >= 4, "{steps}");

    show(&page, "events");
    page.until("document.querySelectorAll('#event-list li').length > 5", SHOWN)
        .unwrap();
    page.eval("(() => { const s = document.querySelector('#event-service'); s.value = 'web'; s.dispatchEvent(new Event('change')); })()")
        .unwrap();
    page.until(
        "[...document.querySelectorAll('#event-list li')].every(li => li.innerText.includes('web'))",
        SHOWN,
    )
    .unwrap();

    show(&page, "risks");
    page.until("document.querySelector('#risk-list').innerText.length > 20", SHOWN)
        .unwrap();
    show(&page, "charts");
    page.until("document.querySelectorAll('#chart-grid canvas').length === 6", SHOWN)
        .unwrap();
    page.until(
        "document.querySelector('#chart-grid canvas').getAttribute('aria-label').includes('Requests')",
        SHOWN,
    )
    .unwrap();

    // Nothing but ours, and little of it.
    let loaded = page
        .eval("performance.getEntriesByType('resource').map(e => e.name)")
        .unwrap();
    for name in loaded.as_array().unwrap() {
        assert!(name.as_str().unwrap().starts_with(&shop.url), "{name}");
    }
    assert_quiet(&page);
}

#[tokio::test(flavor = "multi_thread")]
async fn charts_show_what_was_measured_and_their_figures_are_in_the_lines() {
    let shop = Shop::up();
    let status = shop.rig.status().unwrap();
    let web = bench::rig::service(&status, "web").unwrap().listen.clone().unwrap();
    let load = load::start(Plan::get(web.parse().unwrap(), "/", 100.0)).unwrap();
    let page = shop.look();
    page.until(
        "Number(document.querySelector('tr[data-service=web] [data-name=\"requests/s\"]').textContent) > 20",
        SHOWN,
    )
    .unwrap();
    page.until(
        "Number(document.querySelector('tr[data-service=web] [data-name=\"p99 ms\"]').textContent) > 0",
        SHOWN,
    )
    .unwrap();
    page.until("document.querySelectorAll('#picture .flow.runs').length >= 2", SHOWN)
        .unwrap();
    show(&page, "charts");
    page.eval("(() => { const s = document.querySelector('#chart-note select'); s.value = 'service web'; s.dispatchEvent(new Event('change')); })()")
        .unwrap();
    for chart in ["Requests", "Latency", "Processor", "Memory"] {
        let drawn = format!(
            "[...document.querySelectorAll('#chart-grid canvas')].some(c => c.getAttribute('aria-label').startsWith('{chart}: now'))"
        );
        page.until(&drawn, SHOWN).unwrap();
    }
    page.until("document.querySelector('#chart-why').textContent === ''", SHOWN)
        .unwrap();
    show(&page, "service/web");
    page.until(
        "document.querySelector('#detail').innerText.includes('all nodes together')",
        SHOWN,
    )
    .unwrap();
    show(&page, "node/a");
    page.until("[...document.querySelectorAll('#detail canvas')].some(c => c.getAttribute('aria-label').startsWith('Memory: now'))", SHOWN)
        .unwrap();
    drop(load);
    assert_quiet(&page);
}

#[test]
fn all_words_have_enough_contrast_in_light_and_dark() {
    let shop = Shop::up();
    let (_, pid) = shop.holder("db");
    process::signal(pid, Signal::KILL).unwrap();
    shop.until_redundant();
    let page = shop.sign_in();
    for scheme in ["light", "dark"] {
        page.prefers(&[("prefers-color-scheme", scheme)]).unwrap();
        for view in VIEWS {
            show(&page, view);
            let poor = page.eval(CONTRAST).unwrap();
            let poor = poor.as_array().unwrap();
            assert!(poor.is_empty(), "{scheme}, {view}: {poor:#?}");
        }
    }
    // The switch beats what the system prefers.
    page.key("t").unwrap();
    page.until(
        "getComputedStyle(document.body.parentElement).backgroundColor === 'rgb(244, 246, 249)'",
        SHOWN,
    )
    .unwrap();
    page.key("t").unwrap();
    page.until(
        "getComputedStyle(document.body.parentElement).backgroundColor === 'rgb(14, 19, 25)'",
        SHOWN,
    )
    .unwrap();
    assert_quiet(&page);
}

/// Each word that is shown against the ground that is painted behind it (WCAG 2.1, 1.4.3). Shapes need 3, see the test `contrast`.
const CONTRAST: &str = r#"(() => {
  const parse = c => { const m = c.match(/[\d.]+/g).map(Number); return m.length < 4 ? [...m.slice(0, 3), 1] : m; };
  const lum = c => { const [r, g, b] = c.slice(0, 3).map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
  const ratio = (a, b) => { const [x, y] = [lum(a), lum(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
  const painted = e => { const style = getComputedStyle(e); const fill = e.tagName === 'rect' ? style.fill : style.backgroundColor; return fill === 'none' ? null : parse(fill); };
  const ground = e => {
    if (e.ownerSVGElement) {
      const r = e.getBoundingClientRect(); const x = r.x + r.width / 2, y = r.y + r.height / 2;
      for (const under of [...e.ownerSVGElement.querySelectorAll('rect')].reverse()) {
        const p = painted(under), b = under.getBoundingClientRect();
        if (p && p[3] > 0 && !under.classList.contains('ring') && x >= b.left && x <= b.right && y >= b.top && y <= b.bottom) return p;
      }
      return ground(e.ownerSVGElement.parentElement);
    }
    for (let at = e; at; at = at.parentElement) { const p = painted(at); if (p && p[3] > 0) return p; }
    return [255, 255, 255, 1];
  };
  const poor = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !e.getClientRects().length || e.closest('.visually-hidden, title, noscript, option')) continue;
    const style = getComputedStyle(e);
    if (style.visibility === 'hidden' || style.display === 'none') continue;
    const colour = parse(e.ownerSVGElement ? style.fill : style.color);
    const got = ratio(colour, ground(e));
    if (got < 4.5) poor.push(`${got.toFixed(2)} ${e.tagName}.${e.getAttribute('class')} "${walk.currentNode.textContent.slice(0, 30)}" ${colour} on ${ground(e)}`);
  }
  return poor;
})()"#;

#[test]
fn all_is_reached_by_keys_and_the_focus_is_seen() {
    let shop = Shop::up();
    let page = shop.sign_in();
    for (key, view) in [
        ("c", "charts"),
        ("e", "events"),
        ("f", "failovers"),
        ("r", "risks"),
        ("o", "overview"),
    ] {
        page.key(key).unwrap();
        page.until(&format!("!document.querySelector('[data-view={view}]').hidden"), SHOWN)
            .unwrap();
    }
    page.key("?").unwrap();
    page.until("document.querySelector('#help').open", SHOWN).unwrap();
    page.key("Escape").unwrap();
    page.until("!document.querySelector('#help').open", SHOWN).unwrap();

    // Tab goes through everything that can be clicked; in the picture it stops once, and arrows go on.
    let mut seen = Vec::new();
    for _ in 0..60 {
        page.key("Tab").unwrap();
        let at = page
            .text("(() => { const e = document.activeElement; const s = getComputedStyle(e.closest('svg a') ? e.querySelector('.ring') : e); \
                   const ring = e.closest('svg a') ? s.stroke !== 'none' : s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2; \
                   return (ring ? 'ring ' : 'none ') + (e.id || e.getAttribute('href') || e.tagName); })()")
            .unwrap();
        if at.ends_with("BODY") {
            // Once round, through the browser's own.
            continue;
        }
        assert!(at.starts_with("ring "), "the focus is not seen at {at}");
        seen.push(at[5..].to_owned());
    }
    for wanted in [
        "#/charts",
        "pause",
        "theme",
        "help-open",
        "who",
        "#/service/db",
        "#/service/web",
    ] {
        assert!(seen.iter().any(|at| at == wanted), "{wanted} is not reached: {seen:?}");
    }
    page.eval("document.querySelector('#picture a[tabindex=\"0\"]').focus()")
        .unwrap();
    let total = page
        .eval("document.querySelectorAll('#picture a').length")
        .unwrap()
        .as_u64()
        .unwrap();
    let mut found = std::collections::BTreeSet::new();
    for _ in 0..total {
        page.key("ArrowRight").unwrap();
        found.insert(page.text("document.activeElement.getAttribute('href')").unwrap());
    }
    assert_eq!(found.len() as u64, total, "{found:?}");
    // Enter opens what is focused; s begins a switchover; Escape takes it back, then leads home.
    page.eval("document.querySelector('#picture a[href=\"#/service/db\"]').focus()")
        .unwrap();
    page.key("Enter").unwrap();
    page.until(
        "document.querySelector('#detail h2') && document.querySelector('#detail h2').textContent === 'service db'",
        SHOWN,
    )
    .unwrap();
    page.key("s").unwrap();
    page.until("document.querySelector('#ask').open && document.querySelector('#ask-yes') && !document.querySelector('#ask-yes').disabled", SHOWN)
        .unwrap();
    page.until("document.activeElement.id === 'ask-no'", SHOWN).unwrap();
    page.key("Escape").unwrap();
    page.until("!document.querySelector('#ask').open", SHOWN).unwrap();
    page.key("Escape").unwrap();
    page.until("!document.querySelector('[data-view=overview]').hidden", SHOWN)
        .unwrap();
    assert_quiet(&page);
}

#[test]
fn it_fits_a_phone_and_stands_still_where_motion_is_not_wanted() {
    let shop = Shop::up();
    let page = shop.sign_in();
    page.screen(390, 844, true).unwrap();
    page.prefers(&[("prefers-reduced-motion", "reduce")]).unwrap();
    for view in VIEWS {
        show(&page, view);
        let wide = page.eval("document.documentElement.scrollWidth - innerWidth").unwrap();
        assert!(
            wide.as_f64().unwrap() <= 0.0,
            "{view} is wider than the phone by {wide}"
        );
    }
    show(&page, "overview");
    let small = page
        .eval("[...document.querySelectorAll('button, select, input')].filter(e => e.offsetParent && e.getBoundingClientRect().height < 40).map(e => e.id)")
        .unwrap();
    assert_eq!(small.as_array().unwrap().len(), 0, "too small for a finger: {small}");
    let moving = page
        .eval("document.getAnimations().filter(a => a.playState === 'running').length")
        .unwrap();
    assert_eq!(moving, 0);
    assert_quiet(&page);
}

/// Not a test of anything new: it makes the pictures of the documents when they are asked for, of a shop that works and loses a node.
#[tokio::test(flavor = "multi_thread")]
async fn pictures_for_the_documents() {
    if picture("any").is_none() {
        return;
    }
    let shop = Shop::up();
    let status = shop.rig.status().unwrap();
    let web = bench::rig::service(&status, "web").unwrap().listen.clone().unwrap();
    let load = load::start(Plan::get(web.parse().unwrap(), "/", 120.0)).unwrap();
    let (_, pid) = shop.holder("db");
    process::signal(pid, Signal::KILL).unwrap();
    shop.until_redundant();
    let page = shop.sign_in();
    page.screen(1120, 780, false).unwrap();
    page.prefers(&[("prefers-color-scheme", "light"), ("prefers-reduced-motion", "reduce")])
        .unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let shot = |name: &str, whole| page.picture(&picture(name).unwrap(), whole).unwrap();
    shot("overview-light", true);
    show(&page, "failovers");
    shot("failovers", false);
    show(&page, "charts");
    tokio::time::sleep(Duration::from_secs(2)).await;
    shot("charts", false);
    show(&page, "service/db");
    page.until("/why slow/i.test(document.querySelector('#detail').innerText)", SHOWN)
        .unwrap();
    shot("explain", false);
    show(&page, "node/b");
    page.key("x").unwrap();
    page.until(
        "document.querySelector('#ask-yes') && !document.querySelector('#ask-yes').disabled",
        SHOWN,
    )
    .unwrap();
    shot("preview", false);
    page.click("#ask-yes").unwrap();
    page.until("document.querySelector('#ask-done')", SHOWN).unwrap();
    page.key("Enter").unwrap();
    page.prefers(&[("prefers-color-scheme", "dark"), ("prefers-reduced-motion", "reduce")])
        .unwrap();
    show(&page, "overview");
    tokio::time::sleep(Duration::from_millis(400)).await;
    shot("overview-dark", true);
    page.screen(390, 844, true).unwrap();
    page.prefers(&[("prefers-color-scheme", "light")]).unwrap();
    page.until(LIVE, SHOWN).unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    shot("phone", false);
    drop(load);
    let _ = HEAL;
}
