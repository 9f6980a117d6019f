//! `analyze`: what takes which service down. The reckoning is in the crate `analysis`.

use super::{Done, Error, Session, files, to_json};
use crate::args::{self, Export};
use crate::render;
use analysis::Options;
use analysis::openpsa::{self, Model, Source};
use analysis::solve::{Limits, Probability, Solution, solve};
use api::analysis::Report;
use std::path::Path;

/// `analyze`: the running cluster.
pub(super) async fn running(session: &Session, args: &args::Analyze) -> Result<Done, Error> {
    if args.export == Some(Export::OpenPsa) {
        let client = session.client().await?;
        session
            .output
            .verbatim(&client.get_text("/v1/analysis/open-psa").await?);
        return Ok(Done::Yes);
    }
    let client = session.client().await?;
    let order = args.order.map(|order| format!("?order={order}")).unwrap_or_default();
    let answer = client.get::<Report>(&format!("/v1/analysis{order}")).await?;
    if args.json {
        session.json(&answer.raw);
    } else {
        print(session, &answer.value, args.export);
    }
    Ok(Done::Yes)
}

/// `analyze FILE`: as it would be placed.
pub(super) fn of_file(session: &Session, args: &args::Analyze) -> Result<Done, Error> {
    let Some(path) = &args.file else {
        return open_psa(session, args);
    };
    let file = files::read(session, path)?;
    if args.export == Some(Export::OpenPsa) {
        let logic = analysis::system::logic(&analysis::declared(file.cluster()));
        session.output.verbatim(&analysis::openpsa::write(&logic));
        return Ok(Done::Yes);
    }
    let mut options = Options::default();
    if let Some(order) = args.order {
        options.limits.order = order as usize;
    }
    let report = analysis::planned(file.cluster(), &options);
    if args.json {
        session.output.verbatim_line(&to_json(&report));
    } else {
        print(session, &report, args.export);
    }
    Ok(Done::Yes)
}

/// What `analyze --open-psa --json` prints.
#[derive(serde::Serialize)]
struct Solved {
    version: u32,
    top: String,
    /// All of them, whether listed or not; absent if they could not be counted.
    minimal_cut_sets: Option<u64>,
    by_order: Option<Vec<u64>>,
    cut_sets: Vec<Vec<String>>,
    /// Every minimal cut set of at most so many events is listed; absent if all are.
    #[serde(skip_serializing_if = "Option::is_none")]
    listed_to: Option<usize>,
    /// Absent where events have no probability.
    probability: Option<f64>,
    exact: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    bounds: Option<[f64; 2]>,
    /// Events that have none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    without_probability: Vec<String>,
    /// What was left aside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

/// `analyze --open-psa FILE`
fn open_psa(session: &Session, args: &args::Analyze) -> Result<Done, Error> {
    let mut sources = Vec::new();
    for path in &args.open_psa {
        let text = files::bounded(path, openpsa::BYTES_MAX)?;
        sources.push(Source {
            path: path.display().to_string(),
            // A byte that is no text is told by the XML reader, with its place.
            text: String::from_utf8_lossy(&text).into_owned(),
        });
    }
    let folder = args
        .open_psa
        .first()
        .and_then(|path| path.parent())
        .unwrap_or(Path::new(""));
    let mut include = |file: &str| std::fs::read_to_string(folder.join(file)).map_err(|error| error.to_string());
    let model = match openpsa::read(&sources, &mut include, args.top.as_deref()) {
        Ok(model) => model,
        Err(mistake) => {
            session.output.error(&mistake, mistake.help.as_deref());
            return Ok(Done::No);
        }
    };
    let limits = Limits {
        order: args.order.map_or(usize::MAX, |order| order as usize),
        sets: 1_000_000,
        // Half a gigabyte and a minute at the worst; a benchmark tree of 283 gates and events takes a quarter of it.
        nodes: 3_000_000,
        steps: 40_000_000,
    };
    let solved = solved(&model, &solve(&model.tree, model.top, &limits), args.order);
    if args.json {
        session.output.verbatim_line(&to_json(&solved));
    } else {
        session.output.answer(&in_words(&solved));
    }
    Ok(Done::Yes)
}

fn solved(model: &Model, solution: &Solution, order: Option<u32>) -> Solved {
    let known = model.without_probability.is_empty();
    let (exact, bounds) = match solution.probability {
        Probability::Exact(_) => (known, None),
        Probability::Bounds(low, high) => (false, Some([low, high])),
    };
    let is_asked = |events: &[u32]| order.is_none_or(|order| events.len() <= order as usize);
    let name = |event: &u32| model.names[*event as usize].clone();
    let listed = solution.sets.iter().filter(|set| is_asked(&set.events));
    let mut cut_sets: Vec<Vec<String>> = listed.map(|set| set.events.iter().map(name).collect()).collect();
    cut_sets.iter_mut().for_each(|set| set.sort());
    cut_sets.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    let all = solution.total == Some(cut_sets.len() as u64);
    Solved {
        version: api::VERSION,
        top: model.top_name.clone(),
        minimal_cut_sets: solution.total,
        by_order: solution.by_order.clone(),
        cut_sets,
        listed_to: (!all).then(|| solution.listed_to.min(order.map_or(usize::MAX, |order| order as usize))),
        probability: known.then(|| solution.probability.high()),
        exact,
        bounds: bounds.filter(|_| known),
        without_probability: model.without_probability.clone(),
        notes: model.notes.clone(),
    }
}

fn in_words(solved: &Solved) -> String {
    const SHOWN: usize = 50;
    let mut out = format!("{}\n", render::clean(&solved.top));
    match (solved.probability, solved.bounds) {
        (_, Some([low, high])) => out.push_str(&format!(
            "  probability  between {low:e} and {high:e}: too large to be worked out exactly\n"
        )),
        (Some(p), None) => out.push_str(&format!("  probability  {p:e}, exact\n")),
        (None, None) => out.push_str(&format!(
            "  probability  unknown: {} has none\n",
            render::clean(&solved.without_probability.join(", "))
        )),
    }
    match (&solved.minimal_cut_sets, &solved.by_order) {
        (Some(total), Some(by_order)) => {
            let each = (1..).zip(by_order).filter(|(_, count)| **count > 0);
            let each: Vec<String> = each
                .map(|(order, count)| format!("{} of {order}", render::count(*count)))
                .collect();
            out.push_str(&format!(
                "  minimal cut sets  {}: {}\n",
                render::count(*total),
                each.join(", ")
            ));
        }
        _ => out.push_str("  minimal cut sets  too many to be counted\n"),
    }
    for set in solved.cut_sets.iter().take(SHOWN) {
        out.push_str(&format!("    {}\n", render::clean(&set.join(" + "))));
    }
    if solved.cut_sets.len() > SHOWN {
        out.push_str(&format!(
            "    and {} more; --json lists them\n",
            render::count((solved.cut_sets.len() - SHOWN) as u64)
        ));
    }
    for note in &solved.notes {
        out.push_str(&format!("  note: {}\n", render::clean(note)));
    }
    out
}

fn print(session: &Session, report: &Report, export: Option<Export>) {
    match export {
        Some(Export::Svg) => session.output.verbatim(&analysis::report::svg(report)),
        _ => session
            .output
            .answer(&render::analysis::page(report, &session.output.view)),
    }
}
