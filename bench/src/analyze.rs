//! `analyze`: fault trees beside SCRAM, and how the search for single points of failure grows with the system.

use crate::{Context, say};
use analysis::Options;
use analysis::openpsa::write_tree;
use analysis::report::report;
use analysis::system::{Instance, Node, Service, System, logic};
use analysis::tree::{Ref, Tree};
use anyhow::{Context as _, Result, ensure};
use bench::report::{Page, first_line, spread};
use bench::sample::Sample;
use fastrand::Rng;
use model::Role;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// SCRAM's own examples, where its package is installed: each with the file of its probabilities.
const EXAMPLES: [(&str, &[&str]); 4] = [
    ("Chinese", &["Chinese/chinese.xml", "Chinese/chinese-basic-events.xml"]),
    ("Baobab 1", &["Baobab/baobab1.xml", "Baobab/baobab1-basic-events.xml"]),
    ("Baobab 2", &["Baobab/baobab2.xml", "Baobab/baobab2-basic-events.xml"]),
    ("ne574", &["ne574/ne574.xml"]),
];
const EXAMPLES_AT: &str = "/usr/share/scram/input";
const EVENTS: [usize; 4] = [50, 100, 200, 400];
const COMPONENTS: [usize; 6] = [10, 100, 1_000, 2_500, 5_000, 10_000];

pub(crate) fn run(context: &Context) -> Result<Page> {
    let rounds = context.runs(5);
    let settings = format!("{rounds} runs of each, in turns");
    let folder = tempfile::tempdir()?;
    let title = "Single points of failure, cut sets and probabilities";
    let mut page = Page::new("analyze", title, &settings, &context.program, folder.path())?;
    page.paragraph(&format!("SCRAM: {}.", first_line("scram", &["--version"])));
    page.paragraph(
        "Each is one run of a program, from its start to the last byte of its answer: `understudy analyze --open-psa FILE --json` and `scram --bdd \
         --probability true -l 60 FILE`, both exact, both with all minimal cut sets. Made-up trees are coherent, events repeat in a third of their gates. \
         Both must give the same number of sets and the same probability to five digits.",
    );
    let mut rows = Vec::new();
    for (name, files) in trees(folder.path())? {
        say(&name);
        rows.push(beside(context, &name, &files, rounds)?);
    }
    let head = [
        "tree",
        "minimal cut sets",
        "probability",
        "understudy, ms",
        "SCRAM, ms",
        "times as quick",
    ];
    page.table(&head, &rows);
    page.paragraph(
        "A system of so many components: nodes in racks with two power feeds each, two switches each with two uplinks, services of three instances that need \
         two, a tenth of which need another service. Times of one thread in milliseconds: all single points of failure of all services by evaluating 64 \
         situations at once; and the whole report, with cut sets up to three things, probabilities, ranges, fixes and advice.",
    );
    let rows: Result<Vec<Vec<String>>> = COMPONENTS
        .iter()
        .map(|components| growth(*components, rounds))
        .collect();
    let head = [
        "components",
        "services",
        "gates",
        "single points",
        "making the tree, ms",
        "finding them, ms",
        "whole report, ms",
    ];
    page.table(&head, &rows?);
    page.paragraph(&format!(
        "Most memory that all of this took at once: {}.",
        most_memory()?
    ));
    Ok(page)
}

/// Of this program, as the kernel has it.
fn most_memory() -> Result<String> {
    let status = std::fs::read_to_string("/proc/self/status").context("failed to read /proc/self/status")?;
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes: u64 = most
        .and_then(|most| most.trim().strip_suffix(" kB")?.trim().parse().ok())
        .context("the kernel does not tell how much memory was used")?;
    Ok(format!("{} MB", kilobytes / 1_024))
}

/// Fault trees by name, each as the files it is in.
fn trees(folder: &Path) -> Result<Vec<(String, Vec<PathBuf>)>> {
    let mut trees = Vec::new();
    for events in EVENTS {
        // The first seed whose tree has a few, and not too many, cut sets: others are either trivial or take SCRAM minutes.
        let fits = |seed: &u64| {
            let (tree, top) = grow(events, *seed);
            let solution = analysis::solve::solve(&tree, top, &analysis::solve::Limits::default());
            solution.total.is_some_and(|total| (100..20_000).contains(&total))
        };
        let seed = (0..500).find(fits).context("no seed gives a tree of the right size")?;
        let (tree, top) = grow(events, seed);
        let path = folder.join(format!("made-{events}.xml"));
        std::fs::write(&path, write_tree(&tree, top))?;
        trees.push((format!("made up, {events} events"), vec![path]));
    }
    let at = Path::new(EXAMPLES_AT);
    for (name, files) in EXAMPLES
        .into_iter()
        .filter(|(_, files)| files.iter().all(|file| at.join(file).exists()))
    {
        trees.push((name.to_owned(), files.iter().map(|file| at.join(file)).collect()));
    }
    Ok(trees)
}

fn grow(events: usize, seed: u64) -> (Tree, Ref) {
    let mut rng = Rng::with_seed(seed);
    let mut tree = Tree::new();
    let mut known: Vec<Ref> = (0..events).map(|_| tree.event(0.001 + rng.f64() * 0.05)).collect();
    let mut unused = known.clone();
    while unused.len() > 1 {
        let count = rng.usize(2..=4).min(unused.len());
        let mut inputs: Vec<Ref> = (0..count)
            .map(|_| unused.swap_remove(rng.usize(0..unused.len())))
            .collect();
        // Not twice in one gate: SCRAM refuses that.
        let again = known[rng.usize(0..known.len())];
        if rng.u32(0..3) == 0 && !inputs.contains(&again) {
            inputs.push(again);
        }
        let all = u32::try_from(inputs.len()).unwrap_or(2);
        let gate = match rng.u32(0..7) {
            0..=2 => tree.or(inputs),
            3..=5 => tree.and(inputs),
            _ => tree.at_least(rng.u32(1..=all), inputs),
        };
        if matches!(gate, Ref::Gate(_)) {
            known.push(gate);
            unused.push(gate);
        }
    }
    (tree, unused.pop().unwrap_or(Ref::False))
}

fn beside(context: &Context, name: &str, files: &[PathBuf], rounds: u32) -> Result<Vec<String>> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut answers = None;
    for _ in 0..rounds {
        let mut command = Command::new(&context.program);
        command.arg("analyze").arg("--json");
        files.iter().for_each(|file| {
            command.arg("--open-psa").arg(file);
        });
        let (ms, text) = timed(&mut command)?;
        ours.push(ms);
        let answer: serde_json::Value = serde_json::from_str(&text)?;
        let own = (answer["minimal_cut_sets"].as_u64(), answer["probability"].as_f64());
        ensure!(answer["exact"] == true, "{name} was not solved exactly");
        let mut command = Command::new("scram");
        command.args(["--bdd", "--probability", "true", "-l", "60"]).args(files);
        let (ms, text) = timed(&mut command)?;
        theirs.push(ms);
        let scram = (
            of_scram(&text, "products").map(|n| n as u64),
            of_scram(&text, "probability"),
        );
        let close = own.1.zip(scram.1).is_some_and(|(a, b)| (a / b - 1.0).abs() < 1e-5);
        ensure!(
            own.0 == scram.0 && close,
            "{name}: {own:?} is not what SCRAM says, {scram:?}"
        );
        answers = Some(own);
    }
    let [ours, theirs] = [ours, theirs].map(|times: Vec<f64>| times.into_iter().collect::<Sample>());
    let (sets, probability) = answers.context("no run")?;
    Ok(vec![
        name.to_owned(),
        sets.unwrap_or_default().to_string(),
        format!("{:.6e}", probability.unwrap_or_default()),
        spread(&ours, 1),
        spread(&theirs, 1),
        format!("{:.1}", theirs.median() / ours.median()),
    ])
}

/// An attribute of the first `sum-of-products`.
fn of_scram(text: &str, attribute: &str) -> Option<f64> {
    let tag = text.split("<sum-of-products").nth(1)?.split('>').next()?;
    let value = tag.split(&format!("{attribute}=\"")).nth(1)?.split('"').next()?;
    value.parse().ok()
}

fn timed(command: &mut Command) -> Result<(f64, String)> {
    let begun = Instant::now();
    let out = command.output().with_context(|| format!("failed to run {command:?}"))?;
    let ms = begun.elapsed().as_secs_f64() * 1e3;
    ensure!(
        out.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok((ms, String::from_utf8(out.stdout)?))
}

fn growth(components: usize, rounds: u32) -> Result<Vec<String>> {
    say(&format!("{components} components"));
    let system = system(components);
    let (mut making, mut finding, mut reporting) = (Vec::new(), Vec::new(), Vec::new());
    let (mut gates, mut singles, mut things) = (0, 0, 0);
    for _ in 0..rounds {
        let begun = Instant::now();
        let logic = logic(&system);
        making.push(begun.elapsed().as_secs_f64() * 1e3);
        let begun = Instant::now();
        singles = logic.services.values().map(|top| logic.tree.singles(*top).len()).sum();
        finding.push(begun.elapsed().as_secs_f64() * 1e3);
        (gates, things) = (logic.tree.gates(), logic.things.len());
        let begun = Instant::now();
        std::hint::black_box(report(&system, "declared", &Options::default()));
        reporting.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let [making, finding, reporting] =
        [making, finding, reporting].map(|times: Vec<f64>| times.into_iter().collect::<Sample>());
    Ok(vec![
        things.to_string(),
        system.services.len().to_string(),
        gates.to_string(),
        singles.to_string(),
        spread(&making, 2),
        spread(&finding, 2),
        spread(&reporting, 0),
    ])
}

/// About so many components: a node for every ten, a rack for every twenty nodes, and instances for the rest.
fn system(components: usize) -> System {
    let mut system = System::default();
    let nodes = components / 10;
    for node in 0..nodes {
        let rack = node / 20;
        let place = Node {
            zone: vec![format!("dc{}", rack % 3), format!("rack{rack}")],
            feeds: [format!("feed{}a", rack % 3), format!("feed{}b", rack % 3)].into(),
            switches: [format!("sw{rack}a"), format!("sw{rack}b")].into(),
            runs_services: true,
            ..Node::default()
        };
        for switch in &place.switches {
            system
                .switches
                .insert(switch.clone(), ["core-1".to_owned(), "core-2".into()].into());
        }
        system.nodes.insert(format!("n{node:05}"), place);
    }
    let names: Vec<String> = system.nodes.keys().cloned().collect();
    system.voters = names.iter().step_by((nodes / 5).max(1)).take(5).cloned().collect();
    let services = (components - nodes - 3 * (nodes / 20)) / 3;
    for number in 0..services {
        let instances = (0..3).map(|copy| Instance {
            id: format!("s{number}-{copy}"),
            // A third of the way on: another data centre, most of the time.
            node: names[(number + copy * (nodes / 3 + 1)) % nodes].clone(),
            role: if copy < 2 { Role::Active } else { Role::Standby },
            weight: 1,
        });
        let service = Service {
            instances: instances.collect(),
            need: 2,
            active: 2,
            exclusive: number.is_multiple_of(2),
            needs: if number % 10 == 9 {
                [format!("s{}", number - 1)].into()
            } else {
                Default::default()
            },
            ..Service::default()
        };
        system.services.insert(format!("s{number}"), service);
    }
    system
}
