//! Failure logic as a tree of gates over basic events: what everything else here works on.
//!
//! ```text
//!            top = or ──┬── and ──┬── event a
//!                       │         └── at least 2 of ── …
//!                       └── event b
//! ```
//! An event is true when it has failed. A gate refers to earlier gates only, so that there are no circles and the order of the gates is one
//! in which they can be evaluated. Equal gates are one gate.

mod evaluate;
mod modules;
mod simplify;

pub use evaluate::Words;
pub(crate) use modules::modules;

use std::collections::{BTreeMap, BTreeSet};

/// Something that is true or false: a constant, an event, or a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ref {
    /// Never fails.
    False,
    /// Has failed.
    True,
    /// A basic event, by number.
    Event(u32),
    /// A gate, by number.
    Gate(u32),
}

/// A gate with its inputs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// True if any input is.
    Or(Box<[Ref]>),
    /// True if all inputs are.
    And(Box<[Ref]>),
    /// True if so many inputs are.
    AtLeast(u32, Box<[Ref]>),
    /// True if its input is not. Only fault trees that were read from a file have it: in ours more failures never help.
    Not(Ref),
}

impl Gate {
    /// What it looks at.
    pub fn inputs(&self) -> &[Ref] {
        match self {
            Gate::Or(inputs) | Gate::And(inputs) | Gate::AtLeast(_, inputs) => inputs,
            Gate::Not(input) => std::slice::from_ref(input),
        }
    }
}

/// All below one top of a tree.
pub(crate) struct Part {
    pub(crate) tree: Tree,
    pub(crate) top: Ref,
    /// For each of its events, which one of the whole tree it is; in order.
    pub(crate) events: Vec<u32>,
}

/// Events with their probabilities, and the gates over them.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    probabilities: Vec<f64>,
    gates: Vec<Gate>,
    known: BTreeMap<Gate, u32>,
}

impl Tree {
    /// A tree without events.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a basic event that is true with this probability, 0 to 1.
    pub fn event(&mut self, probability: f64) -> Ref {
        let number = u32::try_from(self.probabilities.len()).unwrap_or(u32::MAX);
        self.probabilities.push(probability);
        Ref::Event(number)
    }

    /// How many events there are.
    pub fn events(&self) -> usize {
        self.probabilities.len()
    }

    /// How many gates there are.
    pub fn gates(&self) -> usize {
        self.gates.len()
    }

    /// The probability of an event; 0 of one that is not there.
    pub fn probability(&self, event: u32) -> f64 {
        self.probabilities.get(event as usize).copied().unwrap_or_default()
    }

    /// Gives an event another probability.
    pub fn set_probability(&mut self, event: u32, probability: f64) {
        if let Some(known) = self.probabilities.get_mut(event as usize) {
            *known = probability;
        }
    }

    /// A gate by its number.
    pub fn gate(&self, number: u32) -> &Gate {
        &self.gates[number as usize]
    }

    /// True if any is.
    pub fn or(&mut self, inputs: impl IntoIterator<Item = Ref>) -> Ref {
        let mut inputs: Vec<Ref> = inputs.into_iter().filter(|input| *input != Ref::False).collect();
        inputs = without_repeats(inputs);
        match inputs.as_slice() {
            [] => Ref::False,
            inputs if inputs.contains(&Ref::True) => Ref::True,
            [one] => *one,
            _ => self.add(Gate::Or(inputs.into())),
        }
    }

    /// True if all are.
    pub fn and(&mut self, inputs: impl IntoIterator<Item = Ref>) -> Ref {
        let mut inputs: Vec<Ref> = inputs.into_iter().filter(|input| *input != Ref::True).collect();
        inputs = without_repeats(inputs);
        match inputs.as_slice() {
            [] => Ref::True,
            inputs if inputs.contains(&Ref::False) => Ref::False,
            [one] => *one,
            _ => self.add(Gate::And(inputs.into())),
        }
    }

    /// True if at least so many are; one that is there twice counts twice.
    pub fn at_least(&mut self, count: u32, inputs: impl IntoIterator<Item = Ref>) -> Ref {
        let mut count = count;
        let mut left = Vec::new();
        for input in inputs {
            match input {
                Ref::False => {}
                Ref::True => count = count.saturating_sub(1),
                input => left.push(input),
            }
        }
        let all = u32::try_from(left.len()).unwrap_or(u32::MAX);
        match count {
            0 => Ref::True,
            count if count > all => Ref::False,
            1 => self.or(left),
            count if count == all => self.and(left),
            count => self.add(Gate::AtLeast(count, left.into())),
        }
    }

    /// True if it is not.
    pub fn not(&mut self, input: Ref) -> Ref {
        match input {
            Ref::False => Ref::True,
            Ref::True => Ref::False,
            Ref::Gate(gate) => match self.gates[gate as usize] {
                Gate::Not(inner) => inner,
                _ => self.add(Gate::Not(input)),
            },
            Ref::Event(_) => self.add(Gate::Not(input)),
        }
    }

    /// True if an odd number of them is.
    pub fn xor(&mut self, inputs: impl IntoIterator<Item = Ref>) -> Ref {
        let mut all = Ref::False;
        for input in inputs {
            let (not_all, not_input) = (self.not(all), self.not(input));
            let first = self.and([all, not_input]);
            let second = self.and([not_all, input]);
            all = self.or([first, second]);
        }
        all
    }

    fn add(&mut self, gate: Gate) -> Ref {
        let next = u32::try_from(self.gates.len()).unwrap_or(u32::MAX);
        let number = *self.known.entry(gate.clone()).or_insert(next);
        if number == next {
            self.gates.push(gate);
        }
        Ref::Gate(number)
    }

    /// The same with some things known to have failed, or to be sound. Events keep their numbers.
    pub fn given(&self, top: Ref, known: &BTreeMap<u32, bool>) -> (Tree, Ref) {
        let mut tree = Tree {
            probabilities: self.probabilities.clone(),
            ..Tree::default()
        };
        let mut new: BTreeMap<u32, Ref> = BTreeMap::new();
        for number in self.below(top) {
            let gate = &self.gates[number as usize];
            let inputs: Vec<Ref> = gate.inputs().iter().map(|input| renewed(*input, &new, known)).collect();
            let renewed = match gate {
                Gate::Or(_) => tree.or(inputs),
                Gate::And(_) => tree.and(inputs),
                Gate::AtLeast(count, _) => tree.at_least(*count, inputs),
                Gate::Not(_) => tree.not(inputs[0]),
            };
            new.insert(number, renewed);
        }
        let top = renewed(top, &new, known);
        (tree, top)
    }

    /// Which gates have to do with `top`.
    pub(crate) fn reachable(&self, top: Ref) -> Vec<bool> {
        let mut seen = vec![false; self.gates.len()];
        if let Ref::Gate(top) = top {
            seen[top as usize] = true;
            for gate in (0..=top as usize).rev().filter(|gate| *gate < self.gates.len()) {
                if !seen[gate] {
                    continue;
                }
                for input in self.gates[gate].inputs() {
                    if let Ref::Gate(input) = input {
                        seen[*input as usize] = true;
                    }
                }
            }
        }
        seen
    }

    /// The events that have to do with `top`, in order. Takes as long as there is below the top, however much there is beside it.
    pub fn events_of(&self, top: Ref) -> Vec<u32> {
        let mut events = BTreeSet::new();
        if let Ref::Event(event) = top {
            events.insert(event);
        }
        for gate in self.below(top) {
            for input in self.gates[gate as usize].inputs() {
                if let Ref::Event(event) = input {
                    events.insert(*event);
                }
            }
        }
        events.into_iter().collect()
    }

    /// What has to do with `top`, as a tree of its own: of a tree with thousands of tops each is a small part.
    pub(crate) fn part(&self, top: Ref) -> Part {
        let gates = self.below(top);
        let events = self.events_of(top);
        let mut tree = Tree {
            probabilities: events.iter().map(|event| self.probability(*event)).collect(),
            ..Tree::default()
        };
        // Both keep their order: it decides the order of the variables later.
        let event_at: BTreeMap<u32, u32> = events.iter().copied().zip(0..).collect();
        let gate_at: BTreeMap<u32, u32> = gates.iter().copied().zip(0..).collect();
        let moved = |input: &Ref| match input {
            Ref::Event(event) => event_at.get(event).map_or(Ref::False, |event| Ref::Event(*event)),
            Ref::Gate(gate) => gate_at.get(gate).map_or(Ref::False, |gate| Ref::Gate(*gate)),
            constant => *constant,
        };
        for gate in gates {
            let gate = &self.gates[gate as usize];
            let inputs = || gate.inputs().iter().map(moved).collect();
            let gate = match gate {
                Gate::Or(_) => Gate::Or(inputs()),
                Gate::And(_) => Gate::And(inputs()),
                Gate::AtLeast(count, _) => Gate::AtLeast(*count, inputs()),
                Gate::Not(input) => Gate::Not(moved(input)),
            };
            tree.add(gate);
        }
        Part {
            top: moved(&top),
            tree,
            events,
        }
    }

    /// The gates that have to do with `top`, in order.
    fn below(&self, top: Ref) -> BTreeSet<u32> {
        let mut found = BTreeSet::new();
        let mut waiting: Vec<Ref> = vec![top];
        while let Some(next) = waiting.pop() {
            if let Ref::Gate(gate) = next
                && found.insert(gate)
            {
                waiting.extend(self.gates[gate as usize].inputs());
            }
        }
        found
    }

    /// Whether more failures can never help: nothing that `top` depends on is negated.
    pub fn is_coherent(&self, top: Ref) -> bool {
        let reachable = self.reachable(top);
        let mut gates = self.gates.iter().zip(reachable).filter(|(_, seen)| *seen);
        !gates.any(|(gate, _)| matches!(gate, Gate::Not(_)))
    }
}

fn renewed(input: Ref, gates: &BTreeMap<u32, Ref>, known: &BTreeMap<u32, bool>) -> Ref {
    match input {
        Ref::Event(event) => match known.get(&event) {
            Some(true) => Ref::True,
            Some(false) => Ref::False,
            None => input,
        },
        Ref::Gate(gate) => gates.get(&gate).copied().unwrap_or(Ref::False),
        constant => constant,
    }
}

/// In the order in which they were given: it decides the order of the variables later.
fn without_repeats(inputs: Vec<Ref>) -> Vec<Ref> {
    if inputs.len() < 16 {
        let mut kept: Vec<Ref> = Vec::with_capacity(inputs.len());
        for input in inputs {
            if !kept.contains(&input) {
                kept.push(input);
            }
        }
        return kept;
    }
    let mut seen = BTreeSet::new();
    inputs.into_iter().filter(|input| seen.insert(*input)).collect()
}
