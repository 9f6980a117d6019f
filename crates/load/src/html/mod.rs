//! The outcome as a page to hand to a colleague: one file, its own pictures, nothing loaded from anywhere.

mod plot;

use crate::objective::milliseconds;
use crate::outcome::{Outcome, StepReport};
use crate::test::number;
use crate::words;
use plot::{Line, Mark, Plot};
use std::fmt::Write;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6470;--paper:#fff;--rule:#d8dee6;--a:#0b62c4;--b:#a8480b;--c:#157347;--bad:#b3261e}\
@media(prefers-color-scheme:dark){:root{--ink:#e8ebef;--soft:#a3acb8;--paper:#14171b;--rule:#39414b;--a:#79b4ff;--b:#ffb27a;--c:#74d3a0;--bad:#ff8f86}}\
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2rem}p.soft,caption,figcaption{color:var(--soft)}\
ul{padding-left:1.2rem}.bad{color:var(--bad);font-weight:600}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th,td{text-align:right;padding:.25rem .6rem;border-bottom:1px solid var(--rule)}th:first-child,td:first-child{text-align:left}\
.wide{overflow-x:auto}figure{margin:1rem 0}svg{width:100%;height:auto}svg text{fill:var(--soft);font:12px system-ui,sans-serif}\
.bar{height:.9rem;background:var(--a)}.axis{stroke:var(--rule)}.a{stroke:var(--a)}.b{stroke:var(--b)}.c{stroke:var(--c)}\
.line{fill:none;stroke-width:2}.b.line{stroke-dasharray:6 3}.limit{stroke:var(--bad);stroke-dasharray:3 3}circle{fill:var(--paper);stroke-width:2}";

/// The page.
pub fn page(outcome: &Outcome) -> String {
    let mut out = String::new();
    let service = escape(&outcome.service);
    let _ = write!(
        out,
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>Load test of {service}</title><style>{STYLE}</style>\
         <h1>Load test of {service}</h1><p class=soft>{} at {}, objective {}, begun {}, {:.0} s</p><ul>",
        escape(&outcome.request),
        escape(&outcome.address),
        escape(&outcome.objective),
        escape(&outcome.began),
        outcome.took_s
    );
    let mut open = false;
    for line in words::report(outcome) {
        // What belongs to the line before is a list in it.
        match (line.strip_prefix("  "), open) {
            (Some(part), false) => {
                let _ = write!(out, "<ul><li>{}", escape(part));
                open = true;
            }
            (Some(part), true) => {
                let _ = write!(out, "<li>{}", escape(part));
            }
            (None, _) => {
                if std::mem::take(&mut open) {
                    out.push_str("</ul>");
                }
                let class = if line.starts_with("DISTRUST") || line.starts_with("the test was") {
                    " class=bad"
                } else {
                    ""
                };
                let _ = write!(out, "<li{class}>{}", escape(&line));
            }
        }
    }
    if open {
        out.push_str("</ul>");
    }
    out.push_str("</ul>");
    let mut steps: Vec<&StepReport> = outcome.steps.iter().collect();
    steps.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    figures(&mut out, outcome, &steps);
    shares(&mut out, outcome);
    table(&mut out, outcome);
    out.push_str("</html>\n");
    out
}

fn figures(out: &mut String, outcome: &Outcome, steps: &[&StepReport]) {
    if steps.len() < 2 {
        return;
    }
    let along = |of: fn(&StepReport) -> Option<f64>| {
        steps
            .iter()
            .filter_map(|step| Some((step.rate, of(step)?)))
            .collect::<Vec<_>>()
    };
    let mut marks = vec![Mark::Height(outcome.objective_ms, outcome.objective.clone())];
    marks.extend(outcome.largest.map(|largest| {
        let word = if largest.unmet.is_some() { "largest load" } else { "met" };
        Mark::Place(largest.load, format!("{word} {}", number(largest.load)))
    }));
    marks.extend(
        outcome
            .knee
            .map(|knee| Mark::Place(knee, format!("knee {}", number(knee)))),
    );
    let latency = Plot {
        title: "How long requests take",
        x: "requests a second asked for",
        y: "milliseconds",
        lines: vec![
            Line {
                name: "p50",
                class: "c",
                points: along(|step| step.p50_ms),
            },
            Line {
                name: "p99",
                class: "a",
                points: along(|step| step.p99_ms),
            },
        ],
        marks,
        logarithmic: true,
    };
    let goodput = Plot {
        title: "How many are answered",
        x: "requests a second asked for",
        y: "answers a second",
        lines: vec![
            Line {
                name: "answered",
                class: "a",
                points: along(|step| Some(step.goodput)),
            },
            Line {
                name: "asked for",
                class: "b",
                points: along(|step| Some(step.rate)),
            },
        ],
        marks: Vec::new(),
        logarithmic: false,
    };
    for plot in [latency, goodput] {
        let _ = write!(out, "<h2>{}</h2><figure>{}</figure>", plot.title, plot.svg());
    }
}

fn shares(out: &mut String, outcome: &Outcome) {
    let Some(limits) = &outcome.bottleneck else { return };
    let _ = write!(
        out,
        "<h2>Where requests wait</h2><p class=soft>Of {:.0} requests that need not be there, at {} a second.</p><table><tr><th>service<th style=width:60%><th>share",
        limits.excess,
        number(limits.rate)
    );
    let mut shares = limits.shares.clone();
    shares.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    for (service, share) in shares {
        let percent = share * 100.0;
        let _ = write!(
            out,
            "<tr><td>{}<td><div class=bar style=width:{percent:.1}%></div><td>{percent:.0} %",
            escape(&service)
        );
    }
    out.push_str("</table>");
}

fn table(out: &mut String, outcome: &Outcome) {
    out.push_str(
        "<h2>Steps</h2><div class=wide><table><tr><th>asked for<th>answered<th>p50<th>p95<th>p99<th>slowest<th>failed<th>sent late (p99)<th>objective",
    );
    let ms = |ms: Option<f64>| ms.map_or_else(|| "–".into(), milliseconds);
    for step in &outcome.steps {
        let met = if !step.tells() {
            "too few to tell"
        } else if step.met {
            "met"
        } else {
            "<span class=bad>not met</span>"
        };
        let _ = write!(
            out,
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{met}",
            number(step.rate),
            number(step.goodput),
            ms(step.p50_ms),
            ms(step.p95_ms),
            ms(step.p99_ms),
            milliseconds(step.max_ms),
            step.failed,
            milliseconds(step.lag_p99_ms)
        );
    }
    out.push_str("</table></div>");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Ended, Largest};

    fn step(rate: f64, p99: f64) -> StepReport {
        StepReport {
            rate,
            planned: 100,
            goodput: rate,
            failed: 0,
            failures: Vec::new(),
            p50_ms: Some(p99 / 2.0),
            p95_ms: Some(p99),
            p99_ms: Some(p99),
            objective_ms: Some(p99),
            max_ms: p99,
            met: p99 < 200.0,
            cut_short: false,
            lag_p99_ms: 0.1,
            generator_cpu: 0.1,
            own: Vec::new(),
            cpu: Vec::new(),
        }
    }

    fn outcome() -> Outcome {
        Outcome {
            version: 1,
            service: "<script>alert(1)</script>".into(),
            request: "GET /?a=1&b=2".into(),
            address: "127.0.0.1:80".into(),
            objective: "p99 < 200 ms".into(),
            objective_ms: 200.0,
            began: "2026-01-01T00:00:00Z".into(),
            took_s: 60.0,
            ended: Ended {
                how: "found".into(),
                text: "met at 20 and not at 30".into(),
            },
            largest: Some(Largest {
                load: 20.0,
                unmet: Some(30.0),
            }),
            knee: Some(15.0),
            scalability: None,
            steps: vec![step(10.0, 20.0), step(20.0, 90.0), step(30.0, 4_000.0)],
            distrust: Vec::new(),
            bottleneck: None,
            saturation: Vec::new(),
            one_more: None,
            after_losses: Vec::new(),
        }
    }

    #[test]
    fn a_load_beyond_which_nothing_was_tried_is_not_called_the_largest() {
        let mut outcome = outcome();
        outcome.largest = Some(Largest {
            load: 20.0,
            unmet: None,
        });
        outcome.ended.how = "aborted".into();
        let page = page(&outcome);
        assert!(page.contains("met 20") && !page.contains("largest load 20"));
        let words = crate::words::report(&outcome).join("\n");
        assert!(words.contains("20 requests a second meet p99"), "{words}");
        assert!(words.contains("the largest load was not found"), "{words}");
    }

    #[test]
    fn a_page_stands_alone_and_runs_nothing() {
        let page = page(&outcome());
        assert!(!page.contains("<script"), "names are escaped");
        for outside in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("prefers-color-scheme:dark") && page.matches("<svg").count() == 2);
        assert!(page.contains("largest load 20") && page.contains("knee 15"));
    }

    #[test]
    fn an_outcome_comes_back_from_its_json() {
        let outcome = outcome();
        let json = serde_json::to_string(&outcome).unwrap();
        assert_eq!(serde_json::from_str::<Outcome>(&json).unwrap(), outcome);
    }
}
