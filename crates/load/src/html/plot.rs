//! Lines over a rate, as SVG.

use std::fmt::Write;

/// A picture.
pub(super) struct Plot {
    pub(super) title: &'static str,
    pub(super) x: &'static str,
    pub(super) y: &'static str,
    pub(super) lines: Vec<Line>,
    pub(super) marks: Vec<Mark>,
    /// Of heights: latencies go over several powers of ten.
    pub(super) logarithmic: bool,
}

pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) class: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A line across, with what it means.
pub(super) enum Mark {
    Height(f64, String),
    Place(f64, String),
}

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 44.0;

impl Plot {
    pub(super) fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let widest = points().map(|(x, _)| *x).fold(0.0, f64::max).max(1e-9);
        let marked = self
            .marks
            .iter()
            .filter_map(|mark| if let Mark::Height(y, _) = mark { Some(*y) } else { None });
        let heights = || points().map(|(_, y)| *y).chain(marked.clone()).filter(|y| *y > 0.0);
        let (low, high) = (heights().fold(f64::INFINITY, f64::min), heights().fold(1e-9, f64::max));
        let (low, high) = if self.logarithmic {
            (
                10.0_f64.powf(low.min(high).log10().floor()),
                10.0_f64.powf(high.log10().ceil()),
            )
        } else {
            (0.0, high * 1.05)
        };
        let x = |x: f64| LEFT + x / (widest * 1.02) * (WIDTH - LEFT - RIGHT);
        let y = |y: f64| {
            let share = if self.logarithmic {
                (y.max(low) / low).ln() / (high / low).ln().max(1e-9)
            } else {
                (y - low) / (high - low)
            };
            HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
        };
        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"{}\">",
            self.title
        );
        for tick in ticks(0.0, widest) {
            let at = x(tick);
            let _ = write!(
                out,
                "<text x={at:.1} y={:.1} text-anchor=middle>{}</text>",
                HEIGHT - BOTTOM + 18.0,
                label(tick)
            );
        }
        for tick in if self.logarithmic {
            powers(low, high)
        } else {
            ticks(low, high)
        } {
            let at = y(tick);
            let _ = write!(
                out,
                "<line class=axis x1={LEFT} x2={:.1} y1={at:.1} y2={at:.1} /><text x={:.1} y={:.1} text-anchor=end>{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                at + 4.0,
                label(tick)
            );
        }
        let _ = write!(
            out,
            "<text x={:.1} y={:.1} text-anchor=middle>{}</text><text x={LEFT} y=14>{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 6.0,
            self.x,
            self.y
        );
        for (number, mark) in self.marks.iter().enumerate() {
            let (x1, x2, y1, y2, text) = match mark {
                Mark::Height(at, text) => (LEFT, WIDTH - RIGHT, y(*at), y(*at), text),
                Mark::Place(at, text) => (x(*at), x(*at), TOP, HEIGHT - BOTTOM, text),
            };
            let (tx, ty) = match mark {
                Mark::Height(..) => (LEFT + 6.0, y1 - 5.0),
                // Two that are close do not stand on each other.
                Mark::Place(..) => (x1 + 5.0, TOP + 10.0 + 15.0 * number as f64),
            };
            let text = super::escape(text);
            let _ = write!(
                out,
                "<line class=limit x1={x1:.1} x2={x2:.1} y1={y1:.1} y2={y2:.1} /><text x={tx:.1} y={ty:.1}>{text}</text>"
            );
        }
        for line in &self.lines {
            let path: Vec<String> = line
                .points
                .iter()
                .map(|(px, py)| format!("{:.1},{:.1}", x(*px), y(*py)))
                .collect();
            let _ = write!(
                out,
                "<polyline class=\"{} line\" points=\"{}\" />",
                line.class,
                path.join(" ")
            );
            for (px, py) in &line.points {
                let _ = write!(
                    out,
                    "<circle class={} cx={:.1} cy={:.1} r=3.5><title>{}: {} at {}</title></circle>",
                    line.class,
                    x(*px),
                    y(*py),
                    line.name,
                    label(*py),
                    label(*px)
                );
            }
            if let Some((px, py)) = line.points.last() {
                let _ = write!(
                    out,
                    "<text x={:.1} y={:.1}>{}</text>",
                    x(*px) + 8.0,
                    y(*py) + 4.0,
                    line.name
                );
            }
        }
        out.push_str("</svg>");
        out
    }
}

/// Four to ten round numbers.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = ((high - low) / 5.0).max(1e-12);
    let power = 10.0_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|times| times * power)
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    (0..20)
        .map(|number| (first + number) as f64 * step)
        .take_while(|tick| *tick <= high)
        .collect()
}

fn powers(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.log10().round() as i32, high.log10().round() as i32);
    (first..=last).map(|power| 10.0_f64.powi(power)).collect()
}

fn label(value: f64) -> String {
    let text = match value.abs() {
        0.0 => "0".into(),
        value if value >= 10.0 => format!("{value:.0}"),
        value if value >= 1.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    };
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(ticks(0.0, 47.0), [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!(ticks(0.0, 1_234.0), [0.0, 500.0, 1_000.0]);
        assert_eq!(powers(0.1, 1_000.0).len(), 5);
        assert!(!ticks(0.0, 1e-9).is_empty());
    }
}
