//! Nodes of decision diagrams, each there once, found by hashing; bounded, so that a tree that is too hard is given up, not died of.

/// More nodes, or more steps, than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// A node: a variable, and what follows if it is true and if it is false.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) variable: u32,
    pub(crate) high: u32,
    pub(crate) low: u32,
}

/// The constants: nodes 0 and 1.
pub(crate) const ZERO: u32 = 0;
pub(crate) const ONE: u32 = 1;

/// All nodes.
pub(crate) struct Table {
    nodes: Vec<Node>,
    /// Open addressing: places of nodes, 0 where free.
    slots: Vec<u32>,
    most: usize,
}

impl Table {
    pub(crate) fn new(most: usize) -> Self {
        let constant = Node {
            variable: u32::MAX,
            high: 0,
            low: 0,
        };
        Self {
            nodes: vec![constant; 2],
            slots: vec![0; 1 << 10],
            most,
        }
    }

    pub(crate) fn node(&self, at: u32) -> Node {
        self.nodes[at as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The node with these parts; a new one if there is none yet.
    pub(crate) fn make(&mut self, variable: u32, high: u32, low: u32) -> Result<u32, TooLarge> {
        let node = Node { variable, high, low };
        let mask = self.slots.len() - 1;
        let mut slot = mix(variable, high, low) & mask;
        loop {
            match self.slots[slot] {
                0 => break,
                at if self.nodes[at as usize] == node => return Ok(at),
                _ => slot = (slot + 1) & mask,
            }
        }
        if self.nodes.len() >= self.most {
            return Err(TooLarge);
        }
        let at = u32::try_from(self.nodes.len()).map_err(|_| TooLarge)?;
        self.nodes.push(node);
        self.slots[slot] = at;
        if self.nodes.len() * 2 > self.slots.len() {
            self.grow();
        }
        Ok(at)
    }

    fn grow(&mut self) {
        let size = self.slots.len() * 2;
        let mut slots = vec![0; size];
        for (at, node) in (0..).zip(&self.nodes).skip(2) {
            let mut slot = mix(node.variable, node.high, node.low) & (size - 1);
            while slots[slot] != 0 {
                slot = (slot + 1) & (size - 1);
            }
            slots[slot] = at;
        }
        self.slots = slots;
    }
}

/// Results of operations, the newest at each place: forgetting costs time, never truth.
pub(crate) struct Cache {
    entries: Vec<(u32, u32, u32, u32)>,
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self {
            entries: vec![(u32::MAX, 0, 0, 0); 1 << 10],
        }
    }

    pub(crate) fn get(&self, a: u32, b: u32, c: u32) -> Option<u32> {
        let entry = self.entries[mix(a, b, c) & (self.entries.len() - 1)];
        ((entry.0, entry.1, entry.2) == (a, b, c)).then_some(entry.3)
    }

    pub(crate) fn put(&mut self, a: u32, b: u32, c: u32, result: u32, nodes: usize) {
        const ENTRIES_MAX: usize = 1 << 21;
        if nodes > self.entries.len() && self.entries.len() < ENTRIES_MAX {
            let old = std::mem::take(&mut self.entries);
            self.entries = vec![(u32::MAX, 0, 0, 0); old.len() * 4];
            let mask = self.entries.len() - 1;
            for entry in old.into_iter().filter(|entry| entry.0 != u32::MAX) {
                self.entries[mix(entry.0, entry.1, entry.2) & mask] = entry;
            }
        }
        let mask = self.entries.len() - 1;
        self.entries[mix(a, b, c) & mask] = (a, b, c, result);
    }
}

fn mix(a: u32, b: u32, c: u32) -> usize {
    let mut hash = u64::from(a).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    hash = (hash ^ u64::from(b))
        .wrapping_mul(0xC2B2_AE3D_27D4_EB4F)
        .rotate_left(29);
    hash = (hash ^ u64::from(c)).wrapping_mul(0x1656_67B1_9E37_79F9);
    // The upper bits are the well mixed ones.
    usize::try_from(hash >> 24).unwrap_or_default()
}
