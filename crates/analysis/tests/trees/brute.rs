//! The truth by trying out every situation: slow, and too simple to be wrong in the same way.

use analysis::tree::{Gate, Ref, Tree};

/// Whether a reference is true when the events of `failed` (a bit each) are.
pub(crate) fn is_true(tree: &Tree, what: Ref, failed: u64) -> bool {
    match what {
        Ref::False => false,
        Ref::True => true,
        Ref::Event(event) => failed >> event & 1 == 1,
        Ref::Gate(gate) => {
            let mut inputs = tree
                .gate(gate)
                .inputs()
                .iter()
                .map(|input| is_true(tree, *input, failed));
            match tree.gate(gate) {
                Gate::Or(_) => inputs.any(|input| input),
                Gate::And(_) => inputs.all(|input| input),
                Gate::AtLeast(count, _) => inputs.filter(|input| *input).count() >= *count as usize,
                Gate::Not(_) => inputs.all(|input| !input),
            }
        }
    }
}

/// All minimal cut sets: of a top that may negate things, those of its coherent hull.
pub(crate) fn cut_sets(tree: &Tree, top: Ref) -> Vec<Vec<u32>> {
    let events = tree.events() as u32;
    let mut truths: Vec<bool> = (0..1_u64 << events).map(|failed| is_true(tree, top, failed)).collect();
    // The hull: true as soon as it is true for some part of what has failed.
    for failed in 0..truths.len() {
        let some = (0..events).any(|event| failed >> event & 1 == 1 && truths[failed & !(1 << event)]);
        truths[failed] |= some;
    }
    let mut sets: Vec<Vec<u32>> = (0..truths.len())
        .filter(|failed| truths[*failed])
        .filter(|failed| !(0..events).any(|event| failed >> event & 1 == 1 && truths[failed & !(1 << event)]))
        .map(|failed| (0..events).filter(|event| failed >> event & 1 == 1).collect())
        .collect();
    sets.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    sets
}

/// The probability of the top, situation by situation.
pub(crate) fn probability(tree: &Tree, top: Ref) -> f64 {
    let events = tree.events() as u32;
    (0..1_u64 << events)
        .filter(|failed| is_true(tree, top, *failed))
        .map(|failed| {
            let of = |event: u32| {
                let q = tree.probability(event);
                if failed >> event & 1 == 1 { q } else { 1.0 - q }
            };
            (0..events).map(of).product::<f64>()
        })
        .sum()
}
