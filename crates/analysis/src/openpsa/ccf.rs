//! Common-cause groups: each member is replaced by an `or` over all joint failures that it is part of.

use super::Mistake;
use super::scan::Group;
use crate::tree::{Ref, Tree};

/// The joint failures of larger groups are too many.
const MEMBERS_MAX: usize = 12;

/// How likely each joint failure of so many members is, of 1, 2, … of them. `total` is the probability of one member to fail for any cause.
fn by_size(group: &Group, factors: &[f64], total: f64) -> Result<Vec<f64>, Mistake> {
    let members = group.members.len();
    let factor = |size: usize| factors.get(size).copied().unwrap_or_default();
    let sizes = 1..=members;
    let probabilities: Vec<f64> = match group.model.as_str() {
        "beta-factor" => {
            let beta = factors.iter().copied().fold(0.0, f64::max);
            sizes
                .map(|size| match size {
                    1 => (1.0 - beta) * total,
                    size if size == members => beta * total,
                    _ => 0.0,
                })
                .collect()
        }
        "MGL" => sizes
            .map(|size| {
                let upto: f64 = (2..=size).map(factor).product();
                upto * (1.0 - factor(size + 1)) * total / choose(members - 1, size - 1)
            })
            .collect(),
        "alpha-factor" => {
            let sum: f64 = (1..=members).map(|size| size as f64 * factor(size)).sum();
            sizes
                .map(|size| size as f64 / choose(members - 1, size - 1) * factor(size) / sum * total)
                .collect()
        }
        "phi-factor" => sizes.map(|size| factor(size) * total).collect(),
        other => {
            let problem = format!("`{other}` is no model of common causes");
            return Err(group
                .mistake(problem)
                .help("there are beta-factor, MGL, alpha-factor and phi-factor"));
        }
    };
    let is_sound = |p: &f64| p.is_finite() && (0.0..=1.0).contains(p);
    match probabilities.iter().all(is_sound) {
        true => Ok(probabilities),
        false => Err(group.mistake(format!("the factors of `{}` make no probabilities", group.name))),
    }
}

fn choose(n: usize, k: usize) -> f64 {
    (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product()
}

/// Makes the events of a group; for each member what it is now. Names are those of the members that fail together: `[a b]`.
pub(super) fn expand(
    group: &Group,
    members: &[String],
    factors: &[f64],
    total: f64,
    tree: &mut Tree,
    names: &mut Vec<String>,
) -> Result<Vec<Ref>, Mistake> {
    if members.len() < 2 || members.len() > MEMBERS_MAX {
        let problem = format!(
            "`{}` has {} members; 2 to {MEMBERS_MAX} are possible",
            group.name,
            members.len()
        );
        return Err(group.mistake(problem));
    }
    let probabilities = by_size(group, factors, total)?;
    let mut causes: Vec<Vec<Ref>> = vec![Vec::new(); members.len()];
    for set in 1_u32..1 << members.len() {
        let probability = probabilities[set.count_ones() as usize - 1];
        if probability == 0.0 {
            continue;
        }
        let inside: Vec<usize> = (0..members.len()).filter(|member| set >> member & 1 == 1).collect();
        let event = tree.event(probability);
        let list: Vec<&str> = inside.iter().map(|member| members[*member].as_str()).collect();
        names.push(format!("[{}]", list.join(" ")));
        inside.into_iter().for_each(|member| causes[member].push(event));
    }
    Ok(causes.into_iter().map(|causes| tree.or(causes)).collect())
}
