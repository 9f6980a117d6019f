//! `bottleneck`: a chain web → app → db of real services, one of them limited in one way, or none: whether `understudy load` finds who and
//! how, and the largest load.

use crate::{Context, say};
use anyhow::{Context as _, Result, ensure};
use bench::report::{self, Page};
use bench::rig::{Rig, free_address};
use load_test::outcome::Outcome;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const CLUSTER: &str = "bench-bottleneck";
const TIERS: [&str; 3] = ["web", "app", "db"];
/// Every limit lets through about so many requests a second.
const CAPACITY: f64 = 200.0;
const OBJECTIVE: &str = "p99 < 250ms";
const CONTROLS: usize = 5;
/// What clients that ask again at once get out of the chain is the truth, measured for so long with so many connections, before and after.
const TRUTH_FOR: Duration = Duration::from_secs(3);
const TRUTH_CONNECTIONS: usize = 16;
/// Two truths further apart than this tell of the machine, not of the chain.
const TRUTH_MOVED: f64 = 0.1;
/// Of a step, so that a queue that grows by 4 % of what comes in breaks the objective within it.
const STEP: &str = "6s";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Injected {
    Cpu,
    Lock,
    Pool,
    Disk,
    External,
    None,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    injected: Injected,
    /// In which tier.
    at: usize,
}

struct Run {
    case: Case,
    /// Before and after.
    truth: Option<[f64; 2]>,
    outcome: Outcome,
    right: bool,
}

pub(crate) fn run(context: &Context, wanted: RangeInclusive<usize>) -> Result<Page> {
    let folder = std::env::temp_dir();
    let settings = format!("objective {OBJECTIVE}, steps of 6 s of which the first 2 do not count, even intervals");
    let title = "A limit in a chain of services, and whether it is found";
    let mut page = Page::new("bottleneck", title, &settings, &context.program, &folder)?;
    std::fs::create_dir_all(&context.results)?;
    let notes = context.results.join("bottleneck.parts.jsonl");
    if *wanted.start() == 1 {
        std::fs::remove_file(&notes).ok();
    }
    for (index, case) in cases().into_iter().enumerate() {
        if !wanted.contains(&(index + 1)) {
            continue;
        }
        // As many synced writes as fill a request's share, of the disk as it is now.
        let writes = (1e6 / CAPACITY / report::fsync_us(&folder)?.median())
            .round()
            .clamp(1.0, 100.0);
        let run = measure(context, case, writes as u32).with_context(|| format!("case {}: {case:?}", index + 1))?;
        say(&format!("{:>2} {}", index + 1, row(&run).join("  ")));
        let line = serde_json::json!({
            "right": run.right, "truth": run.truth, "largest": run.outcome.largest.map(|largest| largest.load),
            "bottleneck": &run.outcome.bottleneck, "distrust": &run.outcome.distrust, "cells": row(&run),
        });
        let mut file = std::fs::File::options().create(true).append(true).open(&notes)?;
        writeln!(file, "{line}")?;
    }
    write(&mut page, &notes)?;
    Ok(page)
}

fn cases() -> Vec<Case> {
    let kinds = [
        Injected::Cpu,
        Injected::Lock,
        Injected::Pool,
        Injected::Disk,
        Injected::External,
    ];
    let limited = kinds
        .into_iter()
        .flat_map(|injected| (0..TIERS.len()).map(move |at| Case { injected, at }));
    limited
        .chain((0..CONTROLS).map(|at| Case {
            injected: Injected::None,
            at: at % TIERS.len(),
        }))
        .collect()
}

fn measure(context: &Context, case: Case, writes: u32) -> Result<Run> {
    let port = || free_address().map(|address| address.port());
    let (web, app, db, outside) = (port()?, port()?, port()?, port()?);
    let ports = [web, app, db];
    let _outside = match (case.injected, case.at) {
        (Injected::External, _) => Some(Outside::start(
            &context.program,
            outside,
            &["--work", "5ms", "--limit", "lock:5ms"],
        )?),
        (Injected::Pool, 2) => Some(Outside::start(&context.program, outside, &["--work", "20ms"])?),
        _ => None,
    };
    let file = file(&context.program, case, ports, outside, writes);
    let rig = Rig::up(&context.program, CLUSTER, &file)?;
    let front = SocketAddr::from(([127, 0, 0, 1], web));
    let has_limit = case.injected != Injected::None;
    let before = has_limit.then(|| truth(front)).transpose()?;
    let arguments: &[&str] = match case.injected {
        // Far below what the chain can do.
        Injected::None => &["--rate", "120", "--for", "9s"],
        _ => &["--from", "60", "--rate-max", "2000", "--for", STEP, "--even"],
    };
    let words = [&["load", "web", "--json", "--objective", OBJECTIVE], arguments].concat();
    let output = rig.run(&words)?;
    let outcome: Outcome =
        serde_json::from_slice(&output.stdout).context("`load --json` printed something else than an outcome")?;
    let after = has_limit.then(|| truth(front)).transpose()?;
    rig.down()?;
    let right = is_right(case, &outcome, outside);
    if !right {
        say(&format!("not right: {}", serde_json::to_string(&outcome)?));
    }
    Ok(Run {
        case,
        truth: before.zip(after).map(|(before, after)| [before, after]),
        outcome,
        right,
    })
}

/// The operator's file of a case.
fn file(program: &Path, case: Case, ports: [u16; 3], outside: u16, writes: u32) -> String {
    let mut text = format!("name = \"{CLUSTER}\"\n");
    for (tier, name) in TIERS.iter().enumerate().rev() {
        let mut command = vec![program.display().to_string()];
        command.extend(["sample", "tier", "--port", "{port}", "--data", "{data}"].map(str::to_owned));
        // Behind a pool of four: 20 ms each make 200 a second.
        let waits = if case.injected == Injected::Pool && tier == case.at + 1 {
            "20ms"
        } else {
            "5ms"
        };
        command.extend(["--work".to_owned(), waits.to_owned()]);
        if tier + 1 < TIERS.len() {
            command.extend(["--next".to_owned(), format!("{{service.{}.address}}", TIERS[tier + 1])]);
        }
        if tier == case.at {
            let limit = match case.injected {
                Injected::Cpu => Some("cpu:5ms".to_owned()),
                Injected::Lock => Some("lock:5ms".to_owned()),
                Injected::Pool => Some("pool:4".to_owned()),
                Injected::Disk => Some(format!("disk:{writes}")),
                Injected::External | Injected::None => None,
            };
            command.extend(limit.into_iter().flat_map(|limit| ["--limit".to_owned(), limit]));
            if case.injected == Injected::External || (case.injected == Injected::Pool && tier == 2) {
                command.extend(["--next".to_owned(), format!("127.0.0.1:{outside}")]);
            }
        }
        let needs = TIERS
            .get(tier + 1)
            .map_or_else(String::new, |next| format!("needs = [\"{next}\"]\n"));
        text.push_str(&format!(
            "\n[service.{name}]\ncommand = {command:?}\nlisten = \"127.0.0.1:{}\"\nprotocol = \"http\"\nactive = 1\nstandby = 0\n\
             check = {{ http = \"/healthz\", every = \"1s\" }}\n{needs}",
            ports[tier]
        ));
    }
    text
}

fn is_right(case: Case, outcome: &Outcome, outside: u16) -> bool {
    let suspect = outcome.bottleneck.as_ref().and_then(|limits| limits.suspects.first());
    let Some(suspect) = suspect else {
        return case.injected == Injected::None;
    };
    let (service, kind) = match case.injected {
        Injected::Cpu => (TIERS[case.at].to_owned(), "cpu"),
        Injected::Lock => (TIERS[case.at].to_owned(), "lock"),
        Injected::Pool => (TIERS[case.at].to_owned(), "pool"),
        Injected::Disk => (TIERS[case.at].to_owned(), "io"),
        Injected::External => (format!("127.0.0.1:{outside}"), "external"),
        Injected::None => return false,
    };
    suspect.service == service && suspect.kind == kind
}

/// What a few clients get that ask again at once, a second.
fn truth(front: SocketAddr) -> Result<f64> {
    let (stop, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let ask = || -> Result<()> {
        let mut stream = TcpStream::connect(front)?;
        stream.set_nodelay(true)?;
        let mut buffer = [0; 4_096];
        while !stop.load(Relaxed) {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")?;
            // The answer is short: it comes in one piece.
            ensure!(stream.read(&mut buffer)? > 0, "the chain closed the connection");
            answers.fetch_add(1, Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..TRUTH_CONNECTIONS).map(|_| scope.spawn(ask)).collect();
        std::thread::sleep(Duration::from_millis(300));
        let (begun, before) = (Instant::now(), answers.load(Relaxed));
        std::thread::sleep(TRUTH_FOR);
        let rate = (answers.load(Relaxed) - before) as f64 / begun.elapsed().as_secs_f64();
        stop.store(true, Relaxed);
        for client in clients {
            client.join().map_err(|_| anyhow::anyhow!("a client ended"))??;
        }
        Ok(rate)
    })
}

/// A service that nobody manages.
struct Outside(Child);

impl Outside {
    fn start(program: &Path, port: u16, arguments: &[&str]) -> Result<Self> {
        let child = Command::new(program)
            .args(["sample", "tier", "--port", &port.to_string()])
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()?;
        let outside = Self(child);
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(
                begun.elapsed() < Duration::from_secs(10),
                "the service outside does not listen"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(outside)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn row(run: &Run) -> Vec<String> {
    let Run {
        case,
        truth,
        outcome,
        right,
    } = run;
    let injected = match case.injected {
        Injected::None => "none".to_owned(),
        kind => format!("{kind:?} in {}", TIERS[case.at]).to_lowercase(),
    };
    let said = outcome.bottleneck.as_ref().and_then(|limits| limits.suspects.first());
    let said = said.map_or_else(
        || "silent".to_owned(),
        |suspect| {
            format!(
                "{} of {}, {:.0} %",
                suspect.kind,
                suspect.service,
                suspect.share * 100.0
            )
        },
    );
    let found = outcome.largest.filter(|_| truth.is_some()).map(|largest| largest.load);
    let load = found.map_or_else(|| "–".to_owned(), |load| format!("{load:.0}"));
    let truth_cell = truth.map_or_else(|| "–".to_owned(), |[before, after]| format!("{before:.0}, {after:.0}"));
    let off = match (*truth, found) {
        (Some([before, after]), Some(load)) => format!("{:+.0} %", (load / f64::midpoint(before, after) - 1.0) * 100.0),
        _ => "–".to_owned(),
    };
    let distrust = if outcome.distrust.is_empty() { "" } else { "yes" };
    let right = if *right { "yes" } else { "**no**" };
    vec![injected, said, right.into(), truth_cell, load, off, distrust.into()]
}

/// The page, from the notes of all parts.
fn write(page: &mut Page, notes: &PathBuf) -> Result<()> {
    let text = std::fs::read_to_string(notes).context("no case was measured")?;
    let runs: Vec<serde_json::Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let cells: Vec<Vec<String>> = runs
        .iter()
        .map(|run| serde_json::from_value(run["cells"].clone()))
        .collect::<Result<_, _>>()?;
    let right = runs.iter().filter(|run| run["right"] == true).count();
    let truths: Vec<(f64, f64, f64)> = runs
        .iter()
        .filter_map(|run| {
            Some((
                run["truth"][0].as_f64()?,
                run["truth"][1].as_f64()?,
                run["largest"].as_f64().unwrap_or(0.0),
            ))
        })
        .collect();
    let is_near =
        |(before, after, found): &&(f64, f64, f64)| (found / f64::midpoint(*before, *after) - 1.0).abs() <= 0.1;
    let near = truths.iter().filter(is_near).count();
    let moved = truths
        .iter()
        .filter(|(before, after, _)| (after / before - 1.0).abs() > TRUTH_MOVED)
        .count();
    page.paragraph(
        "web → app → db, each `understudy sample tier`: 5 ms of sleep a request, and in one of them one limit that lets about 200 a second \
         through. `understudy load web` knows nothing of it. Truth is what 16 clients get that ask again at once, right before and right \
         after; the load found is held against their mean. Right means that the first named service and kind are those that were injected; \
         without one, that nothing is named.",
    );
    page.table(
        &[
            "injected",
            "found",
            "right",
            "truth before, after, a second",
            "largest load found",
            "off by",
            "distrusted",
        ],
        &cells,
    );
    page.paragraph(&format!(
        "Right in **{right} of {}**. The largest load is within 10 % of the truth in **{near} of {}**; the truth itself moved by more than \
         10 % from before to after in {moved}.",
        runs.len(),
        truths.len()
    ));
    Ok(())
}
