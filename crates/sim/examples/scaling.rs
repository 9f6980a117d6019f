//! Measures what many nodes cost, and writes `docs/scaling.md` and `docs/scaling.svg`.
//!
//! `cargo run --release -p understudy-sim --example scaling`; with sizes behind it, only clusters of these are looked at, and nothing is written;
//! with `go-on`, the table of losses stays as it is written, and so do the clusters that are in the other one: the largest take long.

use sim::cluster::{Loss, Scale, core_alone, measure, scale};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// Instances on each node.
const PER_NODE: usize = 20;
/// Clusters that are simulated as a whole.
const WHOLE: [usize; 6] = [3, 10, 30, 50, 300, 1_000];
/// One core that knows a cluster of so many nodes.
const ALONE: [usize; 6] = [3, 10, 30, 100, 300, 1_000];
/// Runs for each loss.
const SEEDS: u64 = 100;

fn main() -> std::io::Result<()> {
    let asked: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|nodes| nodes.parse().ok())
        .collect();
    if !asked.is_empty() {
        let mut page = String::new();
        sizes(
            &mut page,
            &asked
                .iter()
                .filter_map(|nodes| scale(*nodes, PER_NODE))
                .collect::<Vec<_>>(),
        );
        println!("{page}");
        return Ok(());
    }
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let mut page = String::from(HEAD);
    let written = std::fs::read_to_string(docs.join("scaling.md")).unwrap_or_default();
    let same = std::env::args().any(|arg| arg == "go-on");
    match written
        .split_once(LOSSES_BEGIN)
        .and_then(|(_, rest)| rest.split_once(LOSSES_END))
    {
        Some((rows, _)) if same => page.push_str(rows),
        _ => losses(&mut page),
    }
    let known: Vec<Scale> = written.lines().filter(|_| same).filter_map(row).collect();
    let measured = |nodes: &usize| {
        if let Some(known) = known.iter().find(|scale| scale.nodes == *nodes) {
            return Some(known.clone());
        }
        eprintln!("{nodes} nodes");
        scale(*nodes, PER_NODE)
    };
    let whole: Vec<Scale> = WHOLE.iter().filter_map(measured).collect();
    sizes(&mut page, &whole);
    let alone: Vec<(usize, [Duration; 3])> = ALONE
        .iter()
        .filter_map(|nodes| Some((*nodes, core_alone(*nodes, PER_NODE)?.into())))
        .collect();
    cores(&mut page, &alone);
    page.push_str(TAIL);
    std::fs::write(docs.join("scaling.md"), page)?;
    std::fs::write(docs.join("scaling.svg"), picture(&whole, &alone))
}

const HEAD: &str = "\
# How it scales

Written by `cargo run --release -p understudy-sim --example scaling`: several machines in virtual time, profile `lan`, a network of about
1 ms, twenty instances on each node, half of them exclusive actives with one standby elsewhere. The cores are the real ones; processor
time is that of the machine on which this was run, and an order of magnitude for others.

## One loss

The longest time of 100 runs from a loss at the active's node until another instance held its slot, and the bound of the takeover
protocol.

| What happens to the active | `fast` | bound | `lan` | bound | `stock` | bound |
|---|---:|---:|---:|---:|---:|---:|
";

const LOSSES_BEGIN: &str = "|---|---:|---:|---:|---:|---:|---:|\n";
const LOSSES_END: &str = "\n## Whole clusters";

const AFTER_SIZES: &str = "
Here the standbys of what a node holds are on one or two others; where they are on ten, an agent is told of ten nodes.

Up to 50 nodes every agent is told everything: n times n renewals. Of more, an agent is told the renewals of those nodes alone that hold slots
of services of which it has instances, and of the controller; the controller is told all, which is as many changes a second as there are writes.
That a session was opened or has ended, and what changes of slots and instances, all are told: nothing at rest, and with a loss the number of
writes times the nodes, which is in the table. `whole_up_to` in `node.json` moves the bound.

In the rows of more than 100 nodes a core is told only of the services of which its node has instances, and the controller's of all: a thousand
cores that know all do not fit into one machine. What a core knows beyond that decides nothing but where its proxy sends clients, of whom there
are none here. It is counted among what is told; what the core of a real agent works to take it in is in the table below.

The five seconds before a lost node's instances are replaced elsewhere are grace for a machine that only restarts.
";

const TAIL: &str = "
## What grows

- **Renewals are what a store writes**: a node that holds slots renews five times a second, one that holds none once. Few nodes with many actives
  are cheaper than many with few. A thousand nodes that all hold slots write 5,000 times a second, for which etcd needs disks of its own and a
  profile with a longer R; the protocol advises 500 a store.
- **Renewals are told to those who need them**: each to about as many agents as have standbys for what its node holds, and to the controller. The
  controller's own go to everybody, for any agent may become the next one: n more. In all it grows with n, where it grew with n².
- **Slots and instances are told to everybody**, for any proxy may have clients for any service. At rest that is nothing. While a rollout renews
  20,000 instances of a thousand nodes it is thousands of times as much as the rollout writes: roll out one service after the other.
- **Every core knows everything**: about 1 KiB for each instance of the cluster. But a loss is looked at only for the services that have
  something on that node, except by the controller.
- **The brake** (more than a third silent at once) counts, on an agent that is told few renewals, those few; the controller counts all. Whoever
  brakes by his few waits until the controller has ended the lost sessions, some 50 ms later. If the controller is lost along with them,
  the next one has to see them silent for all of W itself.
- **Writes of a takeover** are two for each slot (claimed, served) and some for each instance that is told of; all slots of a node are claimed
  at once by each of its successors, so they are taken in a burst.
";

fn losses(page: &mut String) {
    use model::Profile;
    for loss in Loss::ALL {
        let _ = write!(page, "| {loss} |");
        for profile in [Profile::Fast, Profile::Lan, Profile::Stock] {
            let taken = (0..SEEDS).filter_map(|seed| measure(loss, profile, seed).taken).max();
            let shown = |span: Option<Duration>| span.map_or("stays".into(), |span| format!("{} ms", span.as_millis()));
            let _ = write!(page, " {} | {} |", shown(taken), shown(loss.bound(profile)));
        }
        page.push('\n');
    }
}

fn sizes(page: &mut String, whole: &[Scale]) {
    page.push_str(
        "\n## Whole clusters\n\n![writes, changes told and processor time by size](scaling.svg)\n\n\
         | Nodes | Instances | Writes/s at rest | Told to an agent/s, mean | Told in all/s | Slots lost with a node | First served again after | \
         Last | Redundant again | Writes of the loss, renewals apart | Told of these, in all | Core time of the loss, mean | most |\n\
         |---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for scale in whole {
        let _ = writeln!(
            page,
            "| {} | {} | {:.0} | {:.0} | {:.0} | {} | {:.2} s | {:.2} s | {:.1} s | {} | {} | {:.1} ms | {:.1} ms |",
            scale.nodes,
            scale.instances,
            scale.writes_at_rest,
            scale.told_at_rest / scale.nodes as f64,
            scale.told_at_rest,
            scale.slots_lost,
            scale.first_served.as_secs_f64(),
            scale.last_served.as_secs_f64(),
            scale.redundant.as_secs_f64(),
            scale.writes_of_loss,
            scale.told_of_loss,
            millis(scale.core_of_loss),
            millis(scale.core_of_loss_max),
        );
    }
    page.push_str(AFTER_SIZES);
}

/// A row of that table, as it was written.
fn row(line: &str) -> Option<Scale> {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    if cells.len() != 13 {
        return None;
    }
    let number = |at: usize| cells[at].split(' ').next()?.parse::<f64>().ok();
    let span = |at: usize| {
        let unit = if cells[at].ends_with("ms") { 1_000.0 } else { 1.0 };
        Some(Duration::from_secs_f64(number(at)? / unit))
    };
    Some(Scale {
        nodes: number(0)? as usize,
        instances: number(1)? as usize,
        writes_at_rest: number(2)?,
        told_at_rest: number(4)?,
        slots_lost: number(5)? as usize,
        first_served: span(6)?,
        last_served: span(7)?,
        redundant: span(8)?,
        writes_of_loss: number(9)? as u64,
        told_of_loss: number(10)? as u64,
        core_of_loss: span(11)?,
        core_of_loss_max: span(12)?,
        ..Scale::default()
    })
}

fn cores(page: &mut String, alone: &[(usize, [Duration; 3])]) {
    page.push_str(
        "\n## One core\n\nProcessor time of one core that knows a cluster of that size.\n\n\
         | Nodes | Instances | Taking all of it in | One report | The loss of a node |\n|---:|---:|---:|---:|---:|\n",
    );
    for (nodes, [all, report, loss]) in alone {
        let _ = writeln!(
            page,
            "| {nodes} | {} | {:.1} ms | {:.3} ms | {:.1} ms |",
            nodes * PER_NODE,
            millis(*all),
            millis(*report),
            millis(*loss)
        );
    }
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1_000.0
}

/// Both axes count in powers of ten.
fn picture(whole: &[Scale], alone: &[(usize, [Duration; 3])]) -> String {
    const LEFT: f64 = 60.0;
    const BOTTOM: f64 = 300.0;
    let x = |nodes: usize| LEFT + (nodes as f64).log10() * 160.0;
    let y = |value: f64| BOTTOM - (value.max(0.1).log10() + 1.0) * 32.0;
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 350\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"760\" height=\"350\" fill=\"#fff\"/>\n",
    );
    for power in 0..=3 {
        let nodes = 10_usize.pow(power);
        let at = x(nodes);
        let _ = writeln!(
            svg,
            "<path d=\"M{at} 20V{BOTTOM}\" stroke=\"#ddd\"/><text x=\"{at}\" y=\"318\" text-anchor=\"middle\">{nodes}</text>"
        );
    }
    for power in -1..=7 {
        let value = 10_f64.powi(power);
        let at = y(value);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {at}H560\" stroke=\"#ddd\"/><text x=\"54\" y=\"{}\" text-anchor=\"end\">{value}</text>",
            at + 4.0
        );
    }
    let lines: [(&str, &str, Vec<(usize, f64)>); 5] = [
        (
            "#1b6ca8",
            "writes/s at rest",
            whole.iter().map(|scale| (scale.nodes, scale.writes_at_rest)).collect(),
        ),
        (
            "#c0392b",
            "changes told/s, all agents",
            whole.iter().map(|scale| (scale.nodes, scale.told_at_rest)).collect(),
        ),
        (
            "#b8b8b8",
            "the same, if all were told all",
            whole
                .iter()
                .map(|scale| (scale.nodes, scale.writes_at_rest * scale.nodes as f64))
                .collect(),
        ),
        (
            "#27806b",
            "core: loss of a node, ms",
            alone.iter().map(|(nodes, times)| (*nodes, millis(times[2]))).collect(),
        ),
        (
            "#7d5ba6",
            "core: one report, ms",
            alone.iter().map(|(nodes, times)| (*nodes, millis(times[1]))).collect(),
        ),
    ];
    for (colour, name, points) in lines {
        let path: Vec<String> = points
            .iter()
            .map(|(nodes, value)| format!("{:.1},{:.1}", x(*nodes), y(*value)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        if let Some((nodes, value)) = points.last() {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
                x(*nodes) + 6.0,
                y(*value) + 4.0
            );
        }
    }
    svg.push_str("<text x=\"310\" y=\"340\" text-anchor=\"middle\">nodes, twenty instances on each</text>\n</svg>\n");
    svg
}
