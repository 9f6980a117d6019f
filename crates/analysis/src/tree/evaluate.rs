//! Evaluates a tree for 64 situations at once, a bit each; and by it finds what alone, or in pairs, makes the top true.

use super::{Gate, Part, Ref, Tree};

/// Values of all gates in 64 situations.
#[derive(Debug, Clone)]
pub struct Words {
    gates: Vec<u64>,
    needed: Vec<bool>,
    top: Ref,
}

impl Words {
    /// The value of a gate below the top, when it was last evaluated.
    pub fn gate(&self, gate: u32) -> u64 {
        self.gates[gate as usize]
    }
}

impl Tree {
    /// Room for evaluating `top` again and again.
    pub fn words(&self, top: Ref) -> Words {
        Words {
            gates: vec![0; self.gates()],
            needed: self.reachable(top),
            top,
        }
    }

    /// Room for evaluating every gate.
    pub(crate) fn words_of_all(&self) -> Words {
        Words {
            gates: vec![0; self.gates()],
            needed: vec![true; self.gates()],
            top: Ref::False,
        }
    }

    /// Evaluates `top`: `event` says of each event in which of the 64 situations it is true.
    pub fn evaluate(&self, words: &mut Words, event: impl Fn(u32) -> u64) -> u64 {
        let value = |input: &Ref, gates: &[u64]| match input {
            Ref::False => 0,
            Ref::True => u64::MAX,
            Ref::Event(number) => event(*number),
            Ref::Gate(number) => gates[*number as usize],
        };
        for (number, gate) in self.gates.iter().enumerate() {
            if !words.needed[number] {
                continue;
            }
            let gates = &words.gates;
            words.gates[number] = match gate {
                Gate::Or(inputs) => inputs.iter().fold(0, |all, input| all | value(input, gates)),
                Gate::And(inputs) => inputs.iter().fold(u64::MAX, |all, input| all & value(input, gates)),
                Gate::Not(input) => !value(input, gates),
                Gate::AtLeast(count, inputs) => {
                    let mut counter = Counter::default();
                    inputs.iter().for_each(|input| counter.add(value(input, gates)));
                    counter.at_least(*count)
                }
            };
        }
        value(&words.top, &words.gates)
    }

    /// The events of which one alone makes `top` true, all others being false. Exact.
    pub fn singles(&self, top: Ref) -> Vec<u32> {
        let Part { tree, top, events } = self.part(top);
        let mut words = tree.words(top);
        let mut found = Vec::new();
        for (block, chunk) in (0_u32..).zip(events.chunks(64)) {
            let value = tree.evaluate(&mut words, |event| u64::from(event / 64 == block) << (event % 64));
            let bits = (0..).zip(chunk).filter(|(bit, _)| value >> bit & 1 == 1);
            found.extend(bits.map(|(_, event)| *event));
        }
        found
    }

    /// The pairs of events of which both together make `top` true and neither alone does. Exact; takes the square of the number of events.
    pub fn pairs(&self, top: Ref) -> Vec<(u32, u32)> {
        let singles = self.singles(top);
        let events: Vec<u32> = self
            .events_of(top)
            .into_iter()
            .filter(|event| singles.binary_search(event).is_err())
            .collect();
        let mut place = vec![u32::MAX; self.events()];
        (0..).zip(&events).for_each(|(at, event)| place[*event as usize] = at);
        let mut words = self.words(top);
        let mut found = Vec::new();
        for (at, first) in events.iter().enumerate() {
            for block in at / 64..events.len().div_ceil(64) {
                let value = self.evaluate(&mut words, |event| match place[event as usize] {
                    u32::MAX => 0,
                    _ if event == *first => u64::MAX,
                    place if place as usize / 64 == block => 1 << (place % 64),
                    _ => 0,
                });
                for bit in (0..64).filter(|bit| value >> bit & 1 == 1) {
                    if let Some(second) = events.get(block * 64 + bit).filter(|_| block * 64 + bit > at) {
                        found.push((*first, *second));
                    }
                }
            }
        }
        found
    }
}

/// 64 counters side by side: plane `n` has the bit of worth 2ⁿ of each.
#[derive(Default)]
struct Counter {
    planes: Vec<u64>,
}

impl Counter {
    fn add(&mut self, mut carry: u64) {
        for plane in &mut self.planes {
            (*plane, carry) = (*plane ^ carry, *plane & carry);
            if carry == 0 {
                return;
            }
        }
        if carry != 0 {
            self.planes.push(carry);
        }
    }

    fn at_least(&self, count: u32) -> u64 {
        let bits = self.planes.len().max(32 - count.leading_zeros() as usize);
        let (mut greater, mut equal) = (0, u64::MAX);
        for bit in (0..bits).rev() {
            let plane = self.planes.get(bit).copied().unwrap_or_default();
            let wanted = if bit < 32 && count >> bit & 1 == 1 { u64::MAX } else { 0 };
            greater |= equal & plane & !wanted;
            equal &= !(plane ^ wanted);
        }
        greater | equal
    }
}
