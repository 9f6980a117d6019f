//! The picture of all contenders beside each other, from the table that `cargo xtask bench failover` wrote: `cargo xtask picture --peers`.

use super::draw::{STYLE, escape, text};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// From the root.
const RESULTS: &str = "bench/results/failover.md";
const PICTURE: &str = "docs/peers.svg";

const WIDTH: u32 = 880;
const LEFT: u32 = 250;
const RIGHT: u32 = 590;
const ROW: u32 = 22;
/// Between two faults.
const GAP: u32 = 34;
/// The scale is logarithmic, from one of these to the other.
const FROM_MS: f64 = 10.0;
const TO_MS: f64 = 10_000.0;

/// One line of the table.
#[derive(Debug, PartialEq)]
struct Line {
    fault: String,
    contender: String,
    /// The middle one; none if no request failed, or if it did not come back.
    outage_ms: Option<f64>,
    failed: String,
    /// At most.
    two_actives_s: f64,
    /// What the client heard of an older active than it had heard of before.
    older: u32,
}

/// Draws it anew.
pub(super) fn make(root: &Path) -> Result<()> {
    let results = root.join(RESULTS);
    let table = std::fs::read_to_string(&results).with_context(|| format!("failed to read {}", results.display()))?;
    let lines: Vec<Line> = table.lines().filter_map(line).collect();
    ensure!(!lines.is_empty(), "{} has no table of contenders", results.display());
    let tries = table
        .lines()
        .find_map(|line| line.split_once("Settings: ")?.1.split(" tries").next())
        .unwrap_or("some");
    let path = root.join(PICTURE);
    std::fs::write(&path, svg(&lines, tries)).with_context(|| format!("failed to write {}", path.display()))?;
    eprintln!("written to {}", path.display());
    Ok(())
}

/// `| fault | contender | min / **p50** / p95 / max | failed | p50 / max | never | older | tries |`
fn line(text: &str) -> Option<Line> {
    let cells: Vec<&str> = text.trim().trim_matches('|').split(" | ").map(str::trim).collect();
    let [fault, contender, outage, failed, dual, _, older, _] = cells[..] else {
        return None;
    };
    let middle = outage.split("**").nth(1)?;
    Some(Line {
        fault: fault.into(),
        contender: short(contender),
        outage_ms: middle.parse().ok(),
        failed: failed.into(),
        two_actives_s: dual.split(" / ").nth(1)?.parse().ok()?,
        older: older.parse().ok()?,
    })
}

/// A contender in few words.
fn short(contender: &str) -> String {
    let (name, settings) = contender.split_once(" (").unwrap_or((contender, ""));
    let name = name.split([' ', ',']).next().unwrap_or(name);
    let name = if name == "understudy" { "Understudy" } else { name };
    let settings = settings.trim_end_matches(')');
    let said = match settings {
        settings if settings.contains("adverts") => settings.rsplit(", ").next().unwrap_or(settings),
        settings if settings.starts_with("token of its own") => "as it comes",
        settings if settings.starts_with("token") => "token 0.5 s",
        settings => settings.split(", ").next().unwrap_or(settings),
    };
    format!("{name}, {said}")
}

fn svg(lines: &[Line], tries: &str) -> String {
    let faults = lines.chunk_by(|one, other| one.fault == other.fault);
    let height = 112 + faults.clone().map(|lines| lines.len() as u32 * ROW + GAP).sum::<u32>() + 40;
    let summary = "What clients saw of the same faults, with Understudy, keepalived and Pacemaker";
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n<style>{STYLE}\
         .strong{{font-weight:600}}.ours{{fill:#1a7f37}}.theirs{{fill:#8c959f}}@media(prefers-color-scheme:dark){{.ours{{fill:#3fb950}}.theirs{{fill:#6e7681}}}}</style>\n",
        escape(summary)
    );
    out.push_str(&format!(
        "<rect class=\"paper\" x=\"1\" y=\"1\" width=\"{}\" height=\"{}\" rx=\"8\"/>\n",
        WIDTH - 2,
        height - 2
    ));
    text(&mut out, 24, 34, "title", summary);
    text(
        &mut out,
        24,
        56,
        "soft",
        &format!(
            "Outage in the middle one of {tries} tries, logarithmic; failed of 200 requests a second; red: two actives at once, at most so long"
        ),
    );
    let bottom = height - 44;
    for ms in [10.0, 100.0, 1_000.0, 10_000.0] {
        let at = x(ms);
        out.push_str(&format!(
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"84\" y2=\"{bottom}\"/>\n"
        ));
        let said = if ms < 1_000.0 {
            format!("{ms} ms")
        } else {
            format!("{} s", ms / 1_000.0)
        };
        text(&mut out, at as u32, 80, "soft middle", &said);
    }
    let mut top = 96;
    for lines in faults {
        text(&mut out, 24, top + 14, "strong", &lines[0].fault);
        top += 22;
        for line in lines {
            bar(&mut out, top, line);
            top += ROW;
        }
        top += GAP - 22;
    }
    text(&mut out, 24, height - 16, "mono", "cargo xtask bench failover");
    text(
        &mut out,
        220,
        height - 16,
        "soft",
        "measured it, all contenders in one run on the same hosts: bench/results/failover.md",
    );
    out.push_str("</svg>\n");
    out
}

fn bar(out: &mut String, top: u32, line: &Line) {
    let ours = line.contender.starts_with("Understudy");
    text(
        out,
        LEFT - 10,
        top + 13,
        if ours { "right" } else { "soft right" },
        &line.contender,
    );
    let (from, to) = (f64::from(LEFT), line.outage_ms.map_or(f64::from(LEFT), x));
    // What took no time is a line, so that it is seen.
    out.push_str(&format!(
        "<rect class=\"{}\" x=\"{from:.1}\" y=\"{}\" width=\"{:.1}\" height=\"14\"/>\n",
        if ours { "ours" } else { "theirs" },
        top + 2,
        (to - from).max(1.5)
    ));
    let outage = match line.outage_ms {
        Some(ms) if ms >= 1_000.0 => format!("{:.1} s", ms / 1_000.0),
        Some(ms) => format!("{ms} ms"),
        None => "never measured well".into(),
    };
    text(
        out,
        to.max(from) as u32 + 8,
        top + 13,
        "",
        &format!("{outage}, {} failed", line.failed),
    );
    if line.two_actives_s >= 0.005 {
        let said = match line.older {
            0 => format!("two actives {:.1} s", line.two_actives_s),
            older => format!("two actives {:.1} s, {older} old answers", line.two_actives_s),
        };
        text(out, WIDTH - 20, top + 13, "cut right", &said);
    }
}

fn x(ms: f64) -> f64 {
    let share = (ms.clamp(FROM_MS, TO_MS) / FROM_MS).ln() / (TO_MS / FROM_MS).ln();
    f64::from(LEFT) + share * f64::from(RIGHT - LEFT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_table_are_read_and_no_others() {
        let read = line(
            "| link down | pacemaker 2.1.5, corosync 3.1.7 (token 500 ms and no more for a third host, monitor each 1 s) | 1295 / **1320** / \
             1335 / 1335 | 264 | 0.88 / 0.94 | 0 | 7 | 3 (0) |",
        );
        let expected = Line {
            fault: "link down".into(),
            contender: "pacemaker, token 0.5 s".into(),
            outage_ms: Some(1320.0),
            failed: "264".into(),
            two_actives_s: 0.94,
            older: 7,
        };
        assert_eq!(read, Some(expected));
        assert_eq!(
            line(
                "| fault | contender | outage ms: min / **p50** / p95 / max | failed requests, p50 | two actives, s, p50 / max | never back | answers at an older epoch | tries (dropped) |"
            ),
            None
        );
        assert_eq!(line("- machine: 2 cores"), None);
    }

    #[test]
    fn contenders_are_named_in_few_words() {
        for (long, few) in [
            (
                "understudy 0.1.0 (timing lan, check each 0.5 s (patience 300 ms)",
                "Understudy, timing lan",
            ),
            ("keepalived v2.2.7 (VRRP 3, adverts 0.1 s)", "keepalived, adverts 0.1 s"),
            (
                "pacemaker 2.1.5, corosync 3.1.7 (token of its own (3 s), monitor each 10 s)",
                "pacemaker, as it comes",
            ),
        ] {
            assert_eq!(short(long), few);
        }
    }

    #[test]
    fn longer_outages_reach_further_and_none_beyond_the_scale() {
        assert!(x(20.0) < x(200.0) && x(200.0) < x(2_000.0));
        assert_eq!(x(1.0), f64::from(LEFT));
        assert_eq!(x(100_000.0), f64::from(RIGHT));
    }
}
