//! A failover as SVG: who stood where before and after, and between them each step to scale.

use super::{Failover, Service, Try};
use std::fmt::Write as _;

const WIDTH: u32 = 880;
/// Where the bars begin and end.
const LEFT: u32 = 190;
const RIGHT: u32 = 560;
const ROW: u32 = 30;
/// Top of the first bar.
const TOP: u32 = 176;

/// Light by default, dark where the reader's screen is.
pub(super) const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-size:17px;font-weight:600}\
.soft{fill:#59636e}.mono{font:12px ui-monospace,monospace}.right{text-anchor:end}.middle{text-anchor:middle}\
.paper{fill:#fff;stroke:#d1d9e0}.box{fill:none;stroke:#59636e}.active{fill:#dafbe1;stroke:#1a7f37}\
.gone{fill:none;stroke:#d1242f;stroke-dasharray:4 3}.bar{fill:#0969da}.grid{stroke:#d1d9e0}.cut{fill:#d1242f;font-weight:600}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.soft{fill:#9198a1}.paper{fill:#0d1117;stroke:#3d444d}\
.box{stroke:#9198a1}.active{fill:#12261e;stroke:#3fb950}.gone{stroke:#f85149}.bar{fill:#4493f8}.grid{stroke:#3d444d}\
.cut{fill:#f85149}}";

/// The picture of one try among some; `totals` are the durations of all, in order.
pub(super) fn svg(one: &Try, totals: &[u64], machine: &str) -> String {
    let failover = &one.failover;
    let rows = u32::try_from(failover.steps.len()).unwrap_or(0);
    let below = TOP + rows * ROW + 14;
    let height = below + 180;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n<style>{STYLE}</style>\n",
        escape(&summary(failover))
    );
    out.push_str(&format!(
        "<rect class=\"paper\" x=\"1\" y=\"1\" width=\"{}\" height=\"{}\" rx=\"8\"/>\n",
        WIDTH - 2,
        height - 2
    ));
    text(
        &mut out,
        24,
        34,
        "title",
        &format!("kill -9 {}", failover.from.as_deref().unwrap_or("the active")),
    );
    text(&mut out, 24, 55, "soft", &summary(failover));
    text(&mut out, 24, 100, "soft", "before");
    instances(&mut out, 72, &one.before, failover.from.as_deref());
    timeline(&mut out, failover);
    text(&mut out, 24, below + 38, "soft", "after");
    instances(&mut out, below + 10, &one.after, None);
    let asked = one.asked;
    let mut line = below + 92;
    let client = format!(
        "A client asked db about 200 times a second all the while: {} answered, {} failed, the slowest after {} ms.",
        grouped(u64::from(asked.answered)),
        grouped(u64::from(asked.failed)),
        asked.slowest.as_millis()
    );
    let spread = format!(
        "The median of {} {}, which took {} to {} µs.",
        totals.len(),
        if totals.len() == 1 { "try" } else { "tries" },
        grouped(totals.first().copied().unwrap_or(0)),
        grouped(totals.last().copied().unwrap_or(0))
    );
    for (class, said) in [("", client.as_str()), ("", spread.as_str()), ("soft", machine)] {
        text(&mut out, 24, line, class, said);
        line += 22;
    }
    text(&mut out, 24, line + 4, "mono", "cargo xtask picture");
    text(
        &mut out,
        166,
        line + 4,
        "soft",
        "made this from a run of examples/shop.toml: its own status and events",
    );
    out.push_str("</svg>\n");
    out
}

fn summary(failover: &Failover) -> String {
    let answered = failover.steps.iter().find(|step| step.step == "first_answer");
    let after = answered.map_or(failover.total_us, |step| step.at_us);
    format!(
        "{} answers in its place at epoch {} after {} µs",
        failover.to,
        failover.epoch,
        grouped(after)
    )
}

/// The instances of a service side by side; the one named is about to be killed.
fn instances(out: &mut String, top: u32, service: &Service, killed: Option<&str>) {
    let holder = service.holder().ok();
    let mut left = LEFT;
    for instance in &service.instances {
        let epoch = holder
            .filter(|(holder, _)| holder.id == instance.id)
            .map(|(_, epoch)| epoch);
        let class = match epoch {
            _ if killed == Some(instance.id.as_str()) => "gone",
            Some(_) => "active",
            None => "box",
        };
        let role = match epoch {
            Some(epoch) => format!("{}, epoch {epoch}", instance.role),
            None => format!("{}, {}", instance.role, instance.health),
        };
        out.push_str(&format!(
            "<rect class=\"{class}\" x=\"{left}\" y=\"{top}\" width=\"176\" height=\"46\" rx=\"6\"/>\n"
        ));
        let process = instance.pid.map_or_else(String::new, |pid| format!("  pid {pid}"));
        text(out, left + 12, top + 19, "", &format!("{}{process}", instance.id));
        text(out, left + 12, top + 37, "soft", &role);
        if class == "gone" {
            text(out, left + 164, top + 19, "cut right", "✕");
        }
        left += 194;
    }
}

/// Each step as a bar from the one before it, all at one scale.
fn timeline(out: &mut String, failover: &Failover) {
    let scale = f64::from(RIGHT - LEFT) / failover.total_us.max(1) as f64;
    let x = |at_us: u64| f64::from(LEFT) + at_us as f64 * scale;
    let bottom = TOP + u32::try_from(failover.steps.len()).unwrap_or(0) * ROW;
    for at in [LEFT, RIGHT] {
        out.push_str(&format!(
            "<line class=\"grid\" x1=\"{at}\" x2=\"{at}\" y1=\"{}\" y2=\"{bottom}\"/>\n",
            TOP - 26
        ));
    }
    text(out, LEFT + 6, TOP - 14, "soft", "0 µs");
    text(
        out,
        RIGHT - 6,
        TOP - 14,
        "soft right",
        &format!("{} µs", grouped(failover.total_us)),
    );
    let mut begin: u64 = 0;
    for (row, step) in (0..).zip(&failover.steps) {
        let top = TOP + row * ROW;
        let (from, to) = (x(begin.min(step.at_us)), x(step.at_us));
        // What took no time is a line, so that it is seen.
        let width = (to - from).max(1.5);
        text(out, 24, top + 15, "", &step.step.replace('_', " "));
        text(out, LEFT - 10, top + 15, "soft right", &grouped(step.at_us));
        out.push_str(&format!(
            "<rect class=\"bar\" x=\"{from:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"16\" rx=\"2\"/>\n",
            top + 2
        ));
        text(out, RIGHT + 16, top + 15, "soft", &meaning(&step.step, failover));
        begin = begin.max(step.at_us);
    }
}

fn meaning(step: &str, failover: &Failover) -> String {
    match step {
        "detected" => "the kernel tells of its death (pidfd)".to_owned(),
        "confirmed_dead" => "nothing of its tree runs any more".to_owned(),
        "claimed" => format!("{} holds slot {}: on disk", failover.to, failover.slot),
        "promoted" => "its on_promote hook is through".to_owned(),
        "routed" => "all of the proxy sends clients to it".to_owned(),
        "first_answer" => "it gave its first answer".to_owned(),
        _ => String::new(),
    }
}

pub(super) fn text(out: &mut String, x: u32, y: u32, class: &str, said: &str) {
    // Writing to a `String` cannot fail.
    writeln!(
        out,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{}</text>",
        escape(said)
    )
    .ok();
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// `21,181`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::{Asked, Instance, Slot, Step};
    use std::time::Duration;

    #[test]
    fn every_step_is_drawn_to_scale_with_its_time() {
        let picture = svg(&a_try(), &[9_000, 10_000, 11_000], "a <machine>");
        for part in [
            "10,000 µs",
            "confirmed dead",
            "db-2 holds slot 0: on disk",
            "300 answered, 0 failed",
            "9,000 to 11,000",
            "a &lt;machine&gt;",
        ] {
            assert!(picture.contains(part), "{part} is missing in {picture}");
        }
        // Half of the time is half of the width.
        let half = LEFT + (RIGHT - LEFT) / 2;
        assert!(
            picture.contains(&format!(
                "<rect class=\"bar\" x=\"{LEFT}.0\" y=\"{}\" width=\"{}.0\"",
                TOP + ROW + 2,
                half - LEFT
            )),
            "{picture}"
        );
        assert_eq!(picture.matches("class=\"bar\"").count(), 3);
        assert_eq!(picture.matches("<text").count(), picture.matches("</text>").count());
    }

    #[test]
    fn who_is_killed_and_who_is_active_look_different() {
        let picture = svg(&a_try(), &[10_000], "");
        assert_eq!(picture.matches("<rect class=\"gone\"").count(), 1);
        assert_eq!(picture.matches("<rect class=\"active\"").count(), 1);
        assert!(picture.contains("median of 1 try"));
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
    }

    fn a_try() -> Try {
        let instance = |id: &str, role: &str, pid| Instance {
            id: id.into(),
            role: role.into(),
            health: "healthy".into(),
            pid: Some(pid),
        };
        let service = |holder: &str, epoch, instances| Service {
            name: "db".into(),
            state: "redundant".into(),
            slots: vec![Slot {
                instance: Some(holder.into()),
                epoch,
            }],
            instances,
        };
        let steps = [("detected", 0), ("confirmed_dead", 5_000), ("claimed", 10_000)];
        Try {
            failover: Failover {
                slot: 0,
                from: Some("db-1".into()),
                to: "db-2".into(),
                epoch: 2,
                total_us: 10_000,
                steps: steps
                    .map(|(step, at_us)| Step {
                        step: step.into(),
                        at_us,
                    })
                    .into(),
            },
            before: service(
                "db-1",
                1,
                vec![instance("db-1", "active", 11), instance("db-2", "standby", 12)],
            ),
            after: service(
                "db-2",
                2,
                vec![instance("db-1", "standby", 13), instance("db-2", "active", 12)],
            ),
            asked: Asked {
                answered: 300,
                failed: 0,
                slowest: Duration::from_millis(12),
            },
        }
    }
}
