//! Binary decision diagrams: the exact probability of a tree, however its events repeat.

use super::table::{Cache, Node, ONE, Table, TooLarge, ZERO};

/// Diagrams over variables `0..`, the smallest at the top.
pub(crate) struct Bdd {
    table: Table,
    cache: Cache,
    steps: u64,
}

impl Bdd {
    /// At most so many nodes and steps of work.
    pub(crate) fn new(nodes: usize, steps: u64) -> Self {
        Self {
            table: Table::new(nodes),
            cache: Cache::new(),
            steps,
        }
    }

    pub(crate) fn node(&self, at: u32) -> Node {
        self.table.node(at)
    }

    /// How much work is left.
    pub(crate) fn steps_left(&self) -> u64 {
        self.steps
    }

    pub(crate) fn variable(&mut self, variable: u32) -> Result<u32, TooLarge> {
        self.table.make(variable, ONE, ZERO)
    }

    fn make(&mut self, variable: u32, high: u32, low: u32) -> Result<u32, TooLarge> {
        if high == low {
            return Ok(high);
        }
        self.table.make(variable, high, low)
    }

    /// If `f` then `g` else `h`.
    pub(crate) fn ite(&mut self, f: u32, g: u32, h: u32) -> Result<u32, TooLarge> {
        let (mut g, mut h) = (g, h);
        match f {
            ONE => return Ok(g),
            ZERO => return Ok(h),
            _ => {}
        }
        if g == f {
            g = ONE;
        }
        if h == f {
            h = ZERO;
        }
        if g == h {
            return Ok(g);
        }
        if g == ONE && h == ZERO {
            return Ok(f);
        }
        // The same question in one form: or and and do not care which comes first.
        let mut f = f;
        if g == ONE && f > h {
            (f, h) = (h, f);
        } else if h == ZERO && f > g {
            (f, g) = (g, f);
        }
        if let Some(known) = self.cache.get(f, g, h) {
            return Ok(known);
        }
        self.steps = self.steps.checked_sub(1).ok_or(TooLarge)?;
        let top = [f, g, h]
            .map(|at| self.variable_of(at))
            .into_iter()
            .min()
            .unwrap_or(u32::MAX);
        let [f1, g1, h1] = [f, g, h].map(|at| self.follow(at, top, true));
        let [f0, g0, h0] = [f, g, h].map(|at| self.follow(at, top, false));
        let high = self.ite(f1, g1, h1)?;
        let low = self.ite(f0, g0, h0)?;
        let result = self.make(top, high, low)?;
        self.cache.put(f, g, h, result, self.table.len());
        Ok(result)
    }

    pub(crate) fn or(&mut self, f: u32, g: u32) -> Result<u32, TooLarge> {
        self.ite(f, ONE, g)
    }

    pub(crate) fn and(&mut self, f: u32, g: u32) -> Result<u32, TooLarge> {
        self.ite(f, g, ZERO)
    }

    pub(crate) fn not(&mut self, f: u32) -> Result<u32, TooLarge> {
        self.ite(f, ZERO, ONE)
    }

    /// True if at least `count` of them are: row by row, `rows[j]` being "at least j of those seen so far".
    pub(crate) fn at_least(&mut self, count: u32, inputs: &[u32]) -> Result<u32, TooLarge> {
        let count = count as usize;
        let mut rows = vec![ZERO; count + 1];
        rows[0] = ONE;
        for (seen, input) in inputs.iter().enumerate() {
            for j in (1..=count.min(seen + 1)).rev() {
                rows[j] = self.ite(*input, rows[j - 1], rows[j])?;
            }
        }
        Ok(rows[count])
    }

    fn variable_of(&self, at: u32) -> u32 {
        self.table.node(at).variable
    }

    fn follow(&self, at: u32, variable: u32, high: bool) -> u32 {
        let node = self.table.node(at);
        match node.variable == variable {
            false => at,
            true if high => node.high,
            true => node.low,
        }
    }

    /// The nodes of a diagram, each after those below it.
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

    /// The probability that the function is true, each variable being so with its own. Only sums of positive terms: small ones keep their digits.
    pub(crate) fn probability(&self, root: u32, probabilities: &[f64]) -> f64 {
        let below = self.probabilities(&self.nodes_of(root), root, probabilities);
        below[root as usize]
    }

    fn probabilities(&self, nodes: &[u32], root: u32, probabilities: &[f64]) -> Vec<f64> {
        let mut below = vec![0.0; root as usize + 2];
        below[ONE as usize] = 1.0;
        for at in nodes {
            let Node { variable, high, low } = self.table.node(*at);
            let q = probabilities[variable as usize];
            below[*at as usize] = q * below[high as usize] + (1.0 - q) * below[low as usize];
        }
        below
    }

    /// Birnbaum's importance of each variable: how much surer the function is with it than without.
    pub(crate) fn birnbaum(&self, root: u32, probabilities: &[f64]) -> Vec<f64> {
        let nodes = self.nodes_of(root);
        let below = self.probabilities(&nodes, root, probabilities);
        let mut reach = vec![0.0; root as usize + 2];
        reach[root as usize] = 1.0;
        let mut importance = vec![0.0; probabilities.len()];
        for at in nodes.iter().rev() {
            let Node { variable, high, low } = self.table.node(*at);
            let (q, weight) = (probabilities[variable as usize], reach[*at as usize]);
            reach[high as usize] += weight * q;
            reach[low as usize] += weight * (1.0 - q);
            importance[variable as usize] += weight * (below[high as usize] - below[low as usize]);
        }
        importance
    }
}

impl Bdd {
    /// The least and the greatest probability that the function can have while each variable's is between its two.
    pub(crate) fn range(&self, root: u32, lows: &[f64], highs: &[f64]) -> (f64, f64) {
        let mut below = vec![(0.0, 0.0); root as usize + 2];
        below[ONE as usize] = (1.0, 1.0);
        for at in self.nodes_of(root) {
            let Node { variable, high, low } = self.table.node(at);
            let (high, low) = (below[high as usize], below[low as usize]);
            let mix = |q: f64, high: f64, low: f64| q * high + (1.0 - q) * low;
            let (q_low, q_high) = (lows[variable as usize], highs[variable as usize]);
            below[at as usize] = (
                mix(q_low, high.0, low.0).min(mix(q_high, high.0, low.0)),
                mix(q_low, high.1, low.1).max(mix(q_high, high.1, low.1)),
            );
        }
        below[root as usize]
    }
}
