//! A report as a picture: zones with their nodes and what is on them, and each service with its distance to an outage. One SVG, nothing outside it.

use api::analysis::{NodePicture, Report, ServiceReport, ZonePicture};
use std::fmt::Write;

const NODE_WIDTH: usize = 200;
const LINE: usize = 20;
const GAP: usize = 14;
const MARGIN: usize = 16;
const HEADING: usize = 26;
/// Nodes beside each other in a zone.
const ACROSS: usize = 3;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1b1f24}.small{font-size:11px;fill:#57606a}.strong{font-weight:600}\
.zone{fill:#f6f8fa;stroke:#8c959f}.node{fill:#fff;stroke:#8c959f}.spof{stroke:#b42318;stroke-width:2.5}.mark{fill:#b42318;font-weight:600}\
.active{fill:#1a7f37}.standby{fill:none;stroke:#0969da;stroke-width:2}.failed{stroke:#b42318;stroke-width:2.5}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}.zone{fill:#161b22;stroke:#6e7681}.node{fill:#0d1117;stroke:#6e7681}\
.spof{stroke:#ff7b72}.mark{fill:#ff7b72}.active{fill:#3fb950}.standby{stroke:#58a6ff}.failed{stroke:#ff7b72}}";

/// The picture.
pub fn svg(report: &Report) -> String {
    let mut out = String::new();
    let mut y = MARGIN;
    let mut width = MARGIN * 2 + 560;
    text(
        &mut out,
        MARGIN,
        y + 14,
        "strong",
        &format!("{}, {}", report.cluster, report.of),
    );
    legend(&mut out, MARGIN + 260, y + 10);
    y += HEADING + 6;
    for zone in report
        .zones
        .iter()
        .filter(|zone| !zone.nodes.is_empty() || !zone.takes.is_empty())
    {
        let (w, h) = one_zone(&mut out, zone, MARGIN, y);
        width = width.max(w + 2 * MARGIN);
        y += h + GAP;
    }
    for service in &report.services {
        service_line(&mut out, service, y + 14);
        y += LINE;
    }
    y += MARGIN;
    let said: Vec<String> = report.spofs.iter().map(|spof| spof.text.clone()).collect();
    let said = if said.is_empty() {
        "No single point of failure.".to_owned()
    } else {
        said.join(". ")
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {y}\" width=\"{width}\" height=\"{y}\" role=\"img\" aria-labelledby=\"t d\">\n\
         <title id=\"t\">What takes which service of {} down</title>\n<desc id=\"d\">{}</desc>\n<style>{STYLE}</style>\n{out}</svg>\n",
        escaped(&report.cluster),
        escaped(&said)
    )
}

fn legend(out: &mut String, x: usize, y: usize) {
    let mut at = x;
    for (kind, words, width) in [
        ("active", "active", 70),
        ("standby", "standby", 80),
        ("failed", "failed", 70),
    ] {
        mark(out, kind, at, y);
        text(out, at + 12, y + 4, "small", words);
        at += width;
    }
    text(out, at, y + 4, "mark", "! its loss takes a service down");
}

fn one_zone(out: &mut String, zone: &ZonePicture, x: usize, y: usize) -> (usize, usize) {
    let heights: Vec<usize> = zone.nodes.iter().map(node_height).collect();
    let across = zone.nodes.len().clamp(1, ACROSS);
    let width = across * NODE_WIDTH + (across + 1) * GAP;
    let rows: Vec<usize> = heights
        .chunks(ACROSS)
        .map(|row| row.iter().copied().max().unwrap_or_default())
        .collect();
    let height = HEADING + rows.iter().map(|row| row + GAP).sum::<usize>();
    let name = if zone.path.is_empty() {
        "no zone".to_owned()
    } else {
        format!("zone {}", zone.path)
    };
    frame(out, "zone", x, y, width.max(260), height, &zone.takes);
    heading(out, x + GAP, y + 18, &name, &zone.takes);
    let mut top = y + HEADING;
    for (row, nodes) in rows.iter().zip(zone.nodes.chunks(ACROSS)) {
        for (at, node) in nodes.iter().enumerate() {
            one_node(out, node, x + GAP + at * (NODE_WIDTH + GAP), top, *row);
        }
        top += row + GAP;
    }
    (width.max(260), height)
}

fn node_height(node: &NodePicture) -> usize {
    let behind = usize::from(!node.feeds.is_empty()) + usize::from(!node.switches.is_empty());
    HEADING + (node.instances.len().max(1) + behind) * LINE
}

fn one_node(out: &mut String, node: &NodePicture, x: usize, y: usize, height: usize) {
    frame(out, "node", x, y, NODE_WIDTH, height, &node.takes);
    let name = if node.failed {
        format!("node {}, failed", node.name)
    } else {
        format!("node {}", node.name)
    };
    heading(out, x + 10, y + 18, &name, &node.takes);
    let mut line = y + HEADING + 12;
    for instance in &node.instances {
        let kind = match (instance.failed || node.failed, instance.role.as_str()) {
            (true, _) => "failed",
            (false, "active") => "active",
            _ => "standby",
        };
        mark(out, kind, x + 18, line - 4);
        text(
            out,
            x + 32,
            line,
            "",
            &format!(
                "{}, {}",
                instance.id,
                if kind == "failed" { "failed" } else { &instance.role }
            ),
        );
        line += LINE;
    }
    for (what, names) in [("power", &node.feeds), ("network", &node.switches)] {
        if !names.is_empty() {
            text(out, x + 10, line, "small", &format!("{what} {}", names.join(" or ")));
            line += LINE;
        }
    }
}

fn service_line(out: &mut String, service: &ServiceReport, y: usize) {
    let distance = match service.distance {
        Some(0) => "is down".to_owned(),
        Some(1) => "is 1 failure from an outage".to_owned(),
        Some(n) => format!("is {n} failures from an outage"),
        None => format!("bears any {} failures", service.listed_to.min(99)),
    };
    let class = if service
        .distance
        .is_some_and(|distance| distance < service.distance_target.unwrap_or(2))
    {
        "mark"
    } else {
        ""
    };
    let sign = if service.availability.assumed { "about " } else { "" };
    let up = super::checks::percent(service.availability.unavailability);
    text(
        out,
        MARGIN,
        y,
        class,
        &format!("{} {distance}; up {sign}{up}% of the time", service.name),
    );
}

fn frame(out: &mut String, class: &str, x: usize, y: usize, width: usize, height: usize, takes: &[String]) {
    let spof = if takes.is_empty() { "" } else { " spof" };
    // Writing to a `String` cannot fail.
    let _ = writeln!(
        out,
        "<rect class=\"{class}{spof}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>"
    );
}

fn heading(out: &mut String, x: usize, y: usize, name: &str, takes: &[String]) {
    if takes.is_empty() {
        text(out, x, y, "strong", name);
    } else {
        text(out, x, y, "mark", &format!("{name} ! takes {}", takes.join(", ")));
    }
}

/// Shapes besides colours: a disc, a ring, a cross.
fn mark(out: &mut String, kind: &str, x: usize, y: usize) {
    let _ = match kind {
        "failed" => {
            let (l, r, t, b) = (x - 4, x + 4, y - 4, y + 4);
            writeln!(out, "<path class=\"failed\" d=\"M{l} {t}L{r} {b}M{l} {b}L{r} {t}\"/>")
        }
        kind => writeln!(out, "<circle class=\"{kind}\" cx=\"{x}\" cy=\"{y}\" r=\"5\"/>"),
    };
}

fn text(out: &mut String, x: usize, y: usize, class: &str, words: &str) {
    let class = if class.is_empty() {
        String::new()
    } else {
        format!(" class=\"{class}\"")
    };
    let _ = writeln!(out, "<text{class} x=\"{x}\" y=\"{y}\">{}</text>", escaped(words));
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
