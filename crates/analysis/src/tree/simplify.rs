//! The same function with less in it: what repeats where it cannot matter is left out, and gates of one kind are joined.
//!
//! ```text
//! a or (b and (a or c))  =  a or (b and c)      inside, a is false: else all is true anyway
//! a and (b or (a and c)) =  a and (b or c)      inside, a is true: else all is false anyway
//! (a or b) or c          =  a or b or c         if nobody else looks at the inner one
//! ```
//! What holds below a gate, holds wherever every way from the top leads through that gate. Of several inputs that are all true, the lowest does
//! not rest on any other being false, so it tells the truth, and the gate with it.

use super::{Gate, Ref, Tree};
use std::collections::{BTreeMap, BTreeSet};

/// Joining lets more be left out, and leaving out lets more be joined; it comes to rest after a few rounds.
const ROUNDS_MAX: usize = 8;

impl Tree {
    /// The same function of the same events, which keep their numbers, with fewer gates and inputs if that can be seen. Gates that nothing looks at any more may be left.
    pub(crate) fn simplified(&self, top: Ref) -> (Tree, Ref) {
        let (mut tree, mut top) = (self.clone(), top);
        let mut size = tree.size_below(top);
        for _ in 0..ROUNDS_MAX {
            let (next, next_top) = tree.simplified_once(top);
            let next_size = next.size_below(next_top);
            (tree, top) = (next, next_top);
            if next_size >= size {
                break;
            }
            size = next_size;
        }
        (tree, top)
    }

    /// Inputs of all gates that have to do with `top`.
    fn size_below(&self, top: Ref) -> usize {
        let gates = self.below(top);
        gates.iter().map(|gate| 1 + self.gate(*gate).inputs().len()).sum()
    }

    fn simplified_once(&self, top: Ref) -> (Tree, Ref) {
        let mut tree = Tree {
            probabilities: self.probabilities.clone(),
            ..Tree::default()
        };
        let dominance = Dominance::of(self, top);
        let uses = self.uses(top);
        let mut new: BTreeMap<u32, Ref> = BTreeMap::new();
        for number in self.below(top) {
            let gate = self.gate(number);
            let mut inputs: Vec<Ref> = Vec::with_capacity(gate.inputs().len());
            for input in gate.inputs() {
                let input_uses = uses.get(input).map_or(&[][..], Vec::as_slice);
                let known = input_uses.iter().find_map(|user| {
                    let value = match self.gate(*user) {
                        Gate::Or(_) => Ref::False,
                        Gate::And(_) => Ref::True,
                        Gate::AtLeast(..) | Gate::Not(_) => return None,
                    };
                    dominance.is_above(*user, number).then_some(value)
                });
                let renewed = known.unwrap_or(match input {
                    Ref::Gate(input) => new.get(input).copied().unwrap_or(Ref::False),
                    other => *other,
                });
                match (gate, renewed) {
                    (Gate::Or(_), Ref::Gate(inner)) if input_uses.len() == 1 => match tree.gate(inner) {
                        Gate::Or(more) => inputs.extend(more.iter().copied()),
                        _ => inputs.push(renewed),
                    },
                    (Gate::And(_), Ref::Gate(inner)) if input_uses.len() == 1 => match tree.gate(inner) {
                        Gate::And(more) => inputs.extend(more.iter().copied()),
                        _ => inputs.push(renewed),
                    },
                    _ => inputs.push(renewed),
                }
            }
            tree.absorb(gate, &mut inputs);
            let renewed = match gate {
                Gate::Or(_) => tree.or(inputs),
                Gate::And(_) => tree.and(inputs),
                Gate::AtLeast(count, _) => tree.at_least(*count, inputs),
                Gate::Not(_) => tree.not(inputs[0]),
            };
            new.insert(number, renewed);
        }
        let top = match top {
            Ref::Gate(top) => new.get(&top).copied().unwrap_or(Ref::False),
            other => other,
        };
        (tree, top)
    }

    /// `a and (a or b)` is `a`, whoever else looks at the inner gate; and so with `or`.
    fn absorb(&self, gate: &Gate, inputs: &mut Vec<Ref>) {
        let is_absorbed = |input: &Ref| {
            let Ref::Gate(inner) = input else { return false };
            match (gate, self.gate(*inner)) {
                (Gate::And(_), Gate::Or(more)) | (Gate::Or(_), Gate::And(more)) => {
                    more.iter().any(|one| inputs.contains(one))
                }
                _ => false,
            }
        };
        let absorbed: BTreeSet<Ref> = inputs.iter().copied().filter(is_absorbed).collect();
        inputs.retain(|input| !absorbed.contains(input));
    }

    /// Which gates look at each thing below `top`.
    fn uses(&self, top: Ref) -> BTreeMap<Ref, Vec<u32>> {
        let mut uses: BTreeMap<Ref, Vec<u32>> = BTreeMap::new();
        for gate in self.below(top) {
            for input in self.gate(gate).inputs() {
                uses.entry(*input).or_default().push(gate);
            }
        }
        uses
    }
}

/// Through which gates every way from the top to a gate leads.
struct Dominance {
    /// For each gate the span of those below it, in an order in which those are neighbours.
    spans: BTreeMap<u32, (u32, u32)>,
}

impl Dominance {
    fn of(tree: &Tree, top: Ref) -> Self {
        let Ref::Gate(top) = top else {
            return Self { spans: BTreeMap::new() };
        };
        // From the top down: gates refer to lower numbers only, so all who look at a gate come before it.
        let mut above: BTreeMap<u32, (u32, u32)> = BTreeMap::from([(top, (top, 0))]);
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for gate in tree.below(Ref::Gate(top)).into_iter().rev() {
            if gate != top
                && let Some((next, _)) = above.get(&gate).copied()
            {
                let depth = above.get(&next).map_or(0, |(_, depth)| depth + 1);
                above.insert(gate, (next, depth));
                children.entry(next).or_default().push(gate);
            }
            for input in tree.gate(gate).inputs() {
                let Ref::Gate(input) = input else { continue };
                let next = match above.get(input) {
                    None => gate,
                    Some((other, _)) => meet(&above, gate, *other),
                };
                above.insert(*input, (next, 0));
            }
        }
        let mut spans = BTreeMap::new();
        let mut count = 0;
        let mut stack = vec![(top, false)];
        while let Some((gate, is_done)) = stack.pop() {
            if is_done {
                if let Some((_, last)) = spans.get_mut(&gate) {
                    *last = count;
                }
                continue;
            }
            count += 1;
            spans.insert(gate, (count, count));
            stack.push((gate, true));
            stack.extend(children.get(&gate).into_iter().flatten().map(|child| (*child, false)));
        }
        Self { spans }
    }

    /// Whether every way to `gate` leads through `other`, which is not itself.
    fn is_above(&self, other: u32, gate: u32) -> bool {
        match (self.spans.get(&other), self.spans.get(&gate)) {
            (Some((first, last)), Some((at, _))) => other != gate && first <= at && at <= last,
            _ => false,
        }
    }
}

/// The lowest gate through which all ways to both lead.
fn meet(above: &BTreeMap<u32, (u32, u32)>, a: u32, b: u32) -> u32 {
    let (mut a, mut b) = (a, b);
    while a != b {
        let (Some((over_a, depth_a)), Some((over_b, depth_b))) = (above.get(&a), above.get(&b)) else {
            return a;
        };
        if depth_a >= depth_b {
            a = *over_a;
        } else {
            b = *over_b;
        }
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_matter_is_left_out() {
        let mut tree = Tree::new();
        let [a, b, c] = [0.1, 0.2, 0.3].map(|p| tree.event(p));
        let inner = tree.or([a, c]);
        let middle = tree.and([b, inner]);
        let top = tree.or([a, middle]);
        let (simple, simple_top) = tree.simplified(top);
        let mut expected = Tree::new();
        let [a, b, c] = [0.1, 0.2, 0.3].map(|p| expected.event(p));
        let both = expected.and([b, c]);
        let expected_top = expected.or([a, both]);
        assert_eq!(gates(&simple, simple_top), gates(&expected, expected_top));
    }

    #[test]
    fn a_gate_that_others_look_at_too_stays_whole() {
        let mut tree = Tree::new();
        let [a, b, c, d] = [0.1, 0.2, 0.3, 0.4].map(|p| tree.event(p));
        // Below `first` a is true; below `second` it may be false.
        let shared = tree.or([a, b]);
        let first = tree.and([a, shared]);
        let second = tree.and([c, d, shared]);
        let top = tree.at_least(2, [first, second, b]);
        let (simple, simple_top) = tree.simplified(top);
        let all = gates(&simple, simple_top);
        assert!(
            all.iter()
                .any(|gate| matches!(gate, Gate::Or(inputs) if **inputs == [a, b])),
            "{all:?}"
        );
        // `a and (a or b)` is a: the gate that looks at both is gone.
        assert_eq!(all.len(), 3, "{all:?}");
    }

    fn gates(tree: &Tree, top: Ref) -> Vec<Gate> {
        tree.below(top)
            .into_iter()
            .map(|gate| tree.gate(gate).clone())
            .collect()
    }
}
