//! The outcome in plain words.

use crate::objective::milliseconds;
use crate::outcome::{Outcome, StepReport};
use crate::test::number;

/// A line for a step: what is told when it has ended.
pub fn step(step: &StepReport, objective: &str) -> String {
    if !step.tells() {
        return format!(
            "{:>8} a second: too few requests to tell, {} were due",
            number(step.rate),
            step.planned
        );
    }
    let quantile = objective.split(' ').next().unwrap_or("p99");
    let latency = step.objective_ms.map_or_else(|| "too many failed".into(), milliseconds);
    let failed = match step.failed {
        0 => String::new(),
        failed => format!(", {failed} of {} failed", step.planned),
    };
    let verdict = if step.met { "met" } else { "NOT met" };
    format!(
        "{:>8} a second: {:>8} answered, {quantile} {latency:>8}{failed}  objective {verdict}",
        number(step.rate),
        number(step.goodput)
    )
}

/// The whole, sentences; each a line, indented ones belong to the one above.
pub fn report(outcome: &Outcome) -> Vec<String> {
    let mut lines = Vec::new();
    let ended = &outcome.ended;
    if ended.how == "aborted" {
        lines.push(format!("the test was {}", ended.text));
    }
    match outcome.largest {
        Some(largest) if ended.how == "measured" => lines.push(format!(
            "{} requests a second meet the objective, {}",
            number(largest.load),
            outcome.objective
        )),
        Some(largest) if largest.unmet.is_none() => {
            lines.push(format!(
                "{} requests a second meet {}; the largest load was not found, it is that or more",
                number(largest.load),
                outcome.objective
            ));
            lines.extend((ended.how != "aborted").then(|| format!("  {}", ended.text)));
        }
        Some(largest) => {
            lines.push(format!(
                "the largest load that meets {} is {} requests a second",
                outcome.objective,
                number(largest.load)
            ));
            lines.push(format!("  {}", ended.text));
        }
        None if !outcome.steps.is_empty() && !outcome.steps.iter().any(StepReport::tells) => {
            lines.push("too few requests were due to tell anything: ask for more a second, or for longer".into());
        }
        None => lines.push(format!("no load was seen to meet {}", outcome.objective)),
    }
    if let Some(knee) = outcome.knee {
        lines.push(format!(
            "latency begins to rise steeply at about {} a second",
            number(knee)
        ));
    }
    for why in &outcome.distrust {
        lines.push(format!("DISTRUST these figures: {why}"));
    }
    match &outcome.bottleneck {
        Some(limits) => {
            for suspect in &limits.suspects {
                lines.push(format!(
                    "{}: {:.0} % of the {:.0} requests that wait at {} a second are stuck in it",
                    suspect.text,
                    suspect.share * 100.0,
                    limits.excess,
                    number(limits.rate)
                ));
                lines.extend(suspect.evidence.iter().map(|evidence| format!("  {evidence}")));
                lines.push(format!("  what helps: {}", suspect.advice));
            }
        }
        None => lines.push("nothing is held up: no service has requests inside that need not be there".into()),
    }
    for saturation in outcome.saturation.iter().take(3) {
        lines.push(saturation.text.clone());
    }
    lines.extend(outcome.one_more.iter().map(|more| more.text.clone()));
    lines.extend(outcome.after_losses.iter().map(|loss| loss.text.clone()));
    lines
}
