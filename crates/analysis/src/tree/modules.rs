//! Finds the modules of a tree: gates below which nothing is that is also elsewhere. Each can be solved alone, and is one event to those above.
//!
//! Two walks, after Dutuit and Rauzy (1996): a gate is a module if everything below it is first and last met between its own first visit and
//! the end of it.

use super::{Ref, Tree};

/// For each gate whether it is a module of `top`. The top is one.
pub(crate) fn modules(tree: &Tree, top: Ref) -> Vec<bool> {
    let gates = tree.gates();
    let mut found = vec![false; gates];
    let Ref::Gate(top) = top else { return found };
    let mut times = Times {
        first: vec![0; gates + tree.events()],
        end: vec![0; gates],
        last: vec![0; gates + tree.events()],
        gates,
    };
    times.walk(tree, top);
    // The earliest first and the latest last visit of anything below.
    let mut below: Vec<(u64, u64)> = vec![(u64::MAX, 0); gates];
    for gate in 0..=top {
        let at = gate as usize;
        if times.first[at] == 0 {
            continue;
        }
        let (mut earliest, mut latest) = (u64::MAX, 0);
        for input in tree.gate(gate).inputs() {
            let Some(place) = times.place(*input) else { continue };
            earliest = earliest.min(times.first[place]);
            latest = latest.max(times.last[place]);
            if let Ref::Gate(input) = input {
                earliest = earliest.min(below[*input as usize].0);
                latest = latest.max(below[*input as usize].1);
            }
        }
        below[at] = (earliest, latest);
        found[at] = earliest > times.first[at] && latest < times.end[at];
    }
    found
}

struct Times {
    first: Vec<u64>,
    end: Vec<u64>,
    last: Vec<u64>,
    gates: usize,
}

impl Times {
    fn place(&self, input: Ref) -> Option<usize> {
        match input {
            Ref::Gate(gate) => Some(gate as usize),
            Ref::Event(event) => Some(self.gates + event as usize),
            Ref::False | Ref::True => None,
        }
    }

    /// Depth first, without recursion: a chain of gates may be long.
    fn walk(&mut self, tree: &Tree, top: u32) {
        let mut clock = 1;
        self.first[top as usize] = clock;
        self.last[top as usize] = clock;
        let mut path: Vec<(u32, usize)> = vec![(top, 0)];
        while let Some((gate, next)) = path.last_mut() {
            clock += 1;
            let Some(input) = tree.gate(*gate).inputs().get(*next).copied() else {
                let gate = *gate as usize;
                self.end[gate] = clock;
                self.last[gate] = self.last[gate].max(clock);
                path.pop();
                continue;
            };
            *next += 1;
            let Some(place) = self.place(input) else { continue };
            self.last[place] = clock;
            if self.first[place] == 0 {
                self.first[place] = clock;
                if let Ref::Gate(gate) = input {
                    path.push((gate, 0));
                }
            }
        }
    }
}
