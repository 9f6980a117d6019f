//! Families of sets as decision diagrams without zeros: all minimal cut sets of a tree, millions of them, counted without being listed.
//!
//! They are made from a binary decision diagram as Rauzy (1993) does it. Where failures are negated (a fault tree from a file) the sets are
//! those of the coherent hull: which failures make the top possible, whatever else must then be sound.

use super::bdd::Bdd;
use super::table::{Cache, Node, ONE, Table, TooLarge, ZERO};

/// Families: 0 is the empty one, 1 the one that has only the empty set.
pub(crate) struct Zbdd {
    table: Table,
    minimal: Cache,
    without: Cache,
    steps: u64,
}

impl Zbdd {
    pub(crate) fn new(nodes: usize, steps: u64) -> Self {
        Self {
            table: Table::new(nodes),
            minimal: Cache::new(),
            without: Cache::new(),
            steps,
        }
    }

    pub(crate) fn node(&self, at: u32) -> Node {
        self.table.node(at)
    }

    /// The minimal sets of variables that make a function true.
    pub(crate) fn minimal(&mut self, bdd: &mut Bdd, function: u32, coherent: bool) -> Result<u32, TooLarge> {
        if function <= ONE {
            return Ok(function);
        }
        if let Some(known) = self.minimal.get(function, 0, 0) {
            return Ok(known);
        }
        self.steps = self.steps.checked_sub(1).ok_or(TooLarge)?;
        let node = bdd.node(function);
        let low = self.minimal(bdd, node.low, coherent)?;
        let with = if coherent {
            node.high
        } else {
            bdd.or(node.high, node.low)?
        };
        let high = self.minimal(bdd, with, coherent)?;
        let high = self.without(high, low)?;
        let result = self.make(node.variable, high, low)?;
        self.minimal.put(function, 0, 0, result, self.table.len());
        Ok(result)
    }

    fn make(&mut self, variable: u32, high: u32, low: u32) -> Result<u32, TooLarge> {
        if high == ZERO {
            return Ok(low);
        }
        self.table.make(variable, high, low)
    }

    /// The sets of `family` that contain no set of `others`.
    fn without(&mut self, family: u32, others: u32) -> Result<u32, TooLarge> {
        if family == ZERO || others == ONE || family == others {
            return Ok(ZERO);
        }
        if others == ZERO {
            return Ok(family);
        }
        if family == ONE {
            return Ok(if self.has_empty(others) { ZERO } else { ONE });
        }
        if let Some(known) = self.without.get(family, others, 0) {
            return Ok(known);
        }
        self.steps = self.steps.checked_sub(1).ok_or(TooLarge)?;
        let (one, other) = (self.table.node(family), self.table.node(others));
        let result = if one.variable > other.variable {
            self.without(family, other.low)?
        } else {
            let (other_high, other_low) = if one.variable == other.variable {
                (other.high, other.low)
            } else {
                (ZERO, others)
            };
            let high = self.without(one.high, other_high)?;
            let high = self.without(high, other_low)?;
            let low = self.without(one.low, other_low)?;
            self.make(one.variable, high, low)?
        };
        self.without.put(family, others, 0, result, self.table.len());
        Ok(result)
    }

    fn has_empty(&self, mut family: u32) -> bool {
        while family > ONE {
            family = self.table.node(family).low;
        }
        family == ONE
    }

    /// The nodes of a family, each after those below it.
    pub(crate) fn nodes_of(&self, root: u32) -> Vec<u32> {
        let mut seen = vec![false; root as usize + 1];
        seen[root as usize] = true;
        for at in (2..=root).rev() {
            if seen[at as usize] {
                let node = self.table.node(at);
                seen[node.high as usize] = true;
                seen[node.low as usize] = true;
            }
        }
        (2..=root).filter(|at| seen[*at as usize]).collect()
    }
}
