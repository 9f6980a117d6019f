//! An analysis as a page: where everything is, how far each service is from an outage, what is in the way, what would help.

use super::{Cell, Tone, View, clean, hanging, plural, table};
use api::Severity;
use api::analysis::{Advice, Availability, Fix, NodePicture, Report, ServiceReport, Spof, ZonePicture};

/// Cut sets of more than one thing that are shown for a service.
const SETS_SHOWN: usize = 5;

/// The whole page.
pub(crate) fn page(report: &Report, view: &View) -> String {
    let mut out = heading(report, view);
    out.push_str(&picture(report, view));
    out.push_str(&services(report, view));
    out.push_str(&spofs(report, view));
    out.push_str(&pairs(report, view));
    out.push_str(&observed(report, view));
    out.push_str(&findings(report, view));
    out.push_str(&advice(report, view));
    out.push_str(&measured(report, view));
    out.push_str(&assumed(report, view));
    out
}

fn heading(report: &Report, view: &View) -> String {
    let of = match (report.of.as_str(), &report.at) {
        ("running", Some(at)) => format!("as it runs at {}", view.moment(at)),
        ("running", None) => "as it runs".to_owned(),
        _ => "as it would be placed".to_owned(),
    };
    format!("{}, {of}\n\n", view.paint(Tone::Strong, &clean(&report.cluster)))
}

fn title(text: &str, view: &View) -> String {
    format!("\n{}\n", view.paint(Tone::Strong, text))
}

/// Zones in each other, with nodes and what is on them.
fn picture(report: &Report, view: &View) -> String {
    let mut out = String::new();
    let mut shown: Vec<String> = Vec::new();
    for zone in &report.zones {
        let depth = open_zones(zone, report, &mut shown, view, &mut out);
        for node in &zone.nodes {
            out.push_str(&node_line(node, depth, view));
        }
    }
    out.push_str(&format!(
        "{}\n",
        view.paint(
            Tone::Quiet,
            "* active  + standby  x failed  ! its loss takes a service down"
        )
    ));
    out
}

fn open_zones(zone: &ZonePicture, report: &Report, shown: &mut Vec<String>, view: &View, out: &mut String) -> usize {
    if zone.path.is_empty() {
        return 0;
    }
    let parts: Vec<&str> = zone.path.split('/').collect();
    for depth in 0..parts.len() {
        let path = parts[..=depth].join("/");
        if shown.contains(&path) {
            continue;
        }
        let takes = report
            .zones
            .iter()
            .find(|other| other.path == path)
            .map_or(&[][..], |other| other.takes.as_slice());
        out.push_str(&"  ".repeat(depth));
        out.push_str(&marked(&format!("zone {}", clean(&path)), takes, view));
        out.push('\n');
        shown.push(path);
    }
    parts.len()
}

fn marked(name: &str, takes: &[String], view: &View) -> String {
    if takes.is_empty() {
        return name.to_owned();
    }
    let takes: Vec<String> = takes.iter().map(|service| clean(service)).collect();
    view.paint(Tone::Bad, &format!("{name} ! takes {} down", takes.join(", ")))
}

fn node_line(node: &NodePicture, depth: usize, view: &View) -> String {
    let mut name = format!("node {}", clean(&node.name));
    if node.failed {
        name.push_str(" x failed");
    }
    let mut out = "  ".repeat(depth);
    out.push_str(&marked(&name, &node.takes, view));
    let mut behind: Vec<String> = Vec::new();
    if !node.feeds.is_empty() {
        behind.push(format!("power {}", node.feeds.join(" or ")));
    }
    if !node.switches.is_empty() {
        behind.push(format!("network {}", node.switches.join(" or ")));
    }
    if !behind.is_empty() {
        out.push_str(&view.paint(Tone::Quiet, &format!("  ({})", clean(&behind.join("; ")))));
    }
    out.push('\n');
    let instances = node.instances.iter().map(|instance| {
        let (tone, sign) = match (instance.failed, instance.role.as_str()) {
            (true, _) => (Tone::Bad, "x"),
            (false, "active") => (Tone::Good, "*"),
            _ => (Tone::Plain, "+"),
        };
        view.paint(tone, &format!("{sign} {}", clean(&instance.id)))
    });
    let instances: Vec<String> = instances.collect();
    if !instances.is_empty() {
        out.push_str(&format!("{}  {}\n", "  ".repeat(depth), instances.join("  ")));
    }
    out
}

fn services(report: &Report, view: &View) -> String {
    let heads = [
        "SERVICE",
        "NEED",
        "DISTANCE",
        "MAY FAIL",
        "AVAILABILITY",
        "DOWN A YEAR",
        "TARGET",
    ];
    let mut rows = vec![heads.map(|head| Cell::new(Tone::Quiet, head)).to_vec()];
    for service in &report.services {
        let availability = &service.availability;
        rows.push(vec![
            Cell::new(Tone::Strong, clean(&service.name)),
            Cell::plain(format!("{} of {}", service.need, service.instances)),
            distance(service),
            Cell::plain(survives(service)),
            Cell::plain(nines(availability)),
            Cell::plain(down(availability)),
            target(availability),
        ]);
    }
    let mut out = String::from("\n");
    for line in table(view, 2, &rows) {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn distance(service: &ServiceReport) -> Cell {
    let text = match service.distance {
        Some(0) => "0: down".to_owned(),
        Some(1) => "1 failure".to_owned(),
        Some(n) => format!("{n} failures"),
        None => format!("over {}", service.listed_to.min(99)),
    };
    let is_short = service
        .distance
        .is_some_and(|distance| distance < service.distance_target.unwrap_or(2));
    let tone = match service.distance {
        Some(0) => Tone::Bad,
        _ if is_short => Tone::Warn,
        _ => Tone::Good,
    };
    Cell::new(tone, text)
}

fn survives(service: &ServiceReport) -> String {
    let each = service.survives.iter().map(|survives| {
        let any = if survives.any { "yes" } else { "no" };
        format!("{} {any}", survives.kind)
    });
    each.collect::<Vec<_>>().join(", ")
}

/// With as many digits as tell it from all, `~` where it rests on what nobody gave.
fn nines(availability: &Availability) -> String {
    let u = availability.unavailability.max(1e-15);
    let digits = (-u.log10()).ceil().clamp(2.0, 15.0) as usize;
    let sign = match (availability.exact, availability.assumed) {
        (false, _) => "at least ",
        (true, true) => "~",
        (true, false) => "",
    };
    format!("{sign}{:.*}%", digits.saturating_sub(1).max(1), 100.0 * (1.0 - u))
}

fn down(availability: &Availability) -> String {
    let middle = minutes(availability.minutes_per_year);
    if !availability.assumed {
        return middle;
    }
    let year = 365.25 * 24.0 * 60.0;
    let (best, worst) = (
        availability.unavailability_best * year,
        availability.unavailability_worst * year,
    );
    format!("{middle} ({} to {})", minutes(best), minutes(worst))
}

fn minutes(minutes: f64) -> String {
    match minutes {
        m if m >= 2.0 * 1_440.0 => format!("{:.1} d", m / 1_440.0),
        m if m >= 120.0 => format!("{:.1} h", m / 60.0),
        m if m >= 1.0 => format!("{m:.1} min"),
        m if m * 60.0 >= 1.0 => format!("{:.1} s", m * 60.0),
        m => format!("{:.0} ms", m * 60_000.0),
    }
}

fn target(availability: &Availability) -> Cell {
    match (availability.target, availability.meets_target) {
        (Some(target), Some(true)) => Cell::new(Tone::Good, format!("{} kept", share(target))),
        (Some(target), _) => Cell::new(Tone::Bad, format!("{} missed", share(target))),
        (None, _) => Cell::plain("-"),
    }
}

fn share(unavailable: f64) -> String {
    let text = format!("{:.7}", 100.0 * (1.0 - unavailable));
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

fn spofs(report: &Report, view: &View) -> String {
    // Without the store it is not known what would take down what now.
    let silent = report.findings.iter().any(|finding| finding.code == "store-silent");
    match (report.spofs.is_empty(), silent) {
        (true, true) => {
            let old = "no single point of failure was known before the store fell silent; now nobody takes over";
            return format!("\n{}\n", view.paint(Tone::Bad, old));
        }
        (true, false) => return format!("\n{}\n", view.paint(Tone::Good, "no single point of failure")),
        (false, _) => {}
    }
    let count = plural(report.spofs.len() as u64, "single point");
    let mut out = title(&format!("{count} of failure"), view);
    let outer = report.spofs.iter().filter(|spof| spof.within.is_none());
    for spof in outer {
        out.push_str(&one(spof, view));
        for inner in report
            .spofs
            .iter()
            .filter(|inner| inner.within.as_ref() == Some(&spof.thing))
        {
            out.push_str(&hanging("    in it: ", &clean(&inner.text), view.width));
            out.push_str(&fix_lines("           ", inner.fix.as_ref(), view));
        }
    }
    out
}

fn one(spof: &Spof, view: &View) -> String {
    let mut out = hanging("  ! ", &clean(&spof.text), view.width);
    out.push_str(&fix_lines("    ", spof.fix.as_ref(), view));
    out
}

fn fix_lines(indent: &str, fix: Option<&Fix>, view: &View) -> String {
    match fix {
        Some(fix) => hanging(
            &format!("{indent}fix: "),
            &clean(&fix.actions.join(", and ")),
            view.width,
        ),
        None => hanging(
            &format!("{indent}fix: "),
            "none found by moving or doubling things",
            view.width,
        ),
    }
}

/// Smallest sets of two and more things.
fn pairs(report: &Report, view: &View) -> String {
    let mut out = String::new();
    for service in &report.services {
        let larger: Vec<_> = service.cut_sets.iter().filter(|set| set.things.len() > 1).collect();
        if larger.is_empty() {
            continue;
        }
        out.push_str(&format!("  {}\n", view.paint(Tone::Strong, &clean(&service.name))));
        let mut likeliest = larger.clone();
        likeliest.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        for set in likeliest.iter().take(SETS_SHOWN) {
            let things: Vec<String> = set.things.iter().map(|thing| clean(thing)).collect();
            out.push_str(&hanging(
                "    ",
                &format!("{}  ({:.1e})", things.join(" + "), set.probability),
                view.width,
            ));
        }
        if larger.len() > SETS_SHOWN {
            out.push_str(&format!("    and {} more\n", larger.len() - SETS_SHOWN));
        }
    }
    if out.is_empty() {
        return out;
    }
    let heading = format!(
        "what else takes a service down, up to {} things at once, likeliest first",
        report.order
    );
    title(&heading, view) + &out
}

/// What is common to several and stands in no file.
fn observed(report: &Report, view: &View) -> String {
    if report.observed.is_empty() {
        return String::new();
    }
    let mut out = title("observed, declared nowhere", view);
    for one in &report.observed {
        let below = clean(&one.below.join(", "));
        out.push_str(&hanging(
            "  ",
            &format!("{}: below {below}", clean(&one.thing)),
            view.width,
        ));
    }
    out
}

fn findings(report: &Report, view: &View) -> String {
    if report.findings.is_empty() {
        return String::new();
    }
    let mut out = title("findings", view);
    for finding in &report.findings {
        let (tone, word) = match finding.severity {
            Severity::Error => (Tone::Bad, "error"),
            Severity::Warning => (Tone::Warn, "warning"),
            Severity::Info => (Tone::Quiet, "note"),
        };
        let head = format!("  {word} {}: ", clean(&finding.code));
        let block = hanging(&head, &clean(&finding.text), view.width);
        out.push_str(&view.paint(tone, block.trim_end()));
        out.push('\n');
        out.push_str(&hanging("    do: ", &clean(&finding.hint), view.width));
    }
    out
}

fn advice(report: &Report, view: &View) -> String {
    if report.advice.is_empty() {
        return String::new();
    }
    let mut out = title("what would buy most", view);
    for advice in &report.advice {
        out.push_str(&hanging("  ", &sentence(advice), view.width));
    }
    out
}

fn sentence(advice: &Advice) -> String {
    let left = match advice.spofs_left.len() {
        0 => "no single point of failure is left".to_owned(),
        1 => format!("{} is the one single point of failure left", advice.spofs_left[0]),
        n => format!("{n} single points of failure are left"),
    };
    clean(&format!(
        "{}: +{:.2} nines ({:.1e} to {:.1e}, cost {}) by {}; {left}",
        advice.service,
        advice.nines,
        advice.before,
        advice.after,
        advice.cost,
        advice.actions.join(", and ")
    ))
}

fn measured(report: &Report, view: &View) -> String {
    if report.measured.is_empty() {
        return String::new();
    }
    let mut out = title("measured, and taken in the place of what was given", view);
    for line in &report.measured {
        out.push_str(&hanging("  ", &clean(line), view.width));
    }
    out
}

fn assumed(report: &Report, view: &View) -> String {
    if report.assumed.is_empty() {
        return String::new();
    }
    let mut out = title(
        "assumed, because nobody gave it (`[rates]` in the file); ~ and ranges are for a third and three times as much",
        view,
    );
    for line in &report.assumed {
        out.push_str(&hanging("  ", &clean(line), view.width));
    }
    out
}
