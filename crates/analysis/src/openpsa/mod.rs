//! Fault trees in the Open-PSA Model Exchange Format: read, so that ours can be compared with others' answers, and written, so that anybody can
//! check ours with another tool.
//!
//! Read are fault trees with components, gates of every operator, house events, basic events with expressions (of random deviates the mean),
//! parameters, common-cause groups, and included files. Left aside, and told, are event trees, alignments and substitutions.

mod ccf;
mod expression;
mod formula;
mod names;
mod places;
mod scan;
mod write;

pub use write::{write, write_tree};

use crate::tree::{Ref, Tree};
use std::fmt;

/// A file that cannot be understood, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Mistake {
    /// The file.
    pub path: String,
    /// Line, from 1; 0 if the file as a whole is meant.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub help: Option<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.problem),
            _ => write!(f, "{}:{}:{}: {}", self.path, self.line, self.column, self.problem),
        }
    }
}

/// A file by its path, with its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What messages call it.
    pub path: String,
    /// What is in it.
    pub text: String,
}

/// A fault tree that was read.
#[derive(Debug, Clone)]
pub struct Model {
    /// The gates.
    pub tree: Tree,
    /// What is to be avoided.
    pub top: Ref,
    /// Its name.
    pub top_name: String,
    /// The names of the events.
    pub names: Vec<String>,
    /// Events that the top depends on and that have no probability: the sets are known, the top's probability is not.
    pub without_probability: Vec<String>,
    /// What was left aside, for people.
    pub notes: Vec<String>,
}

/// Nothing larger is read: a hundred thousand gates fit.
pub const BYTES_MAX: usize = 64 << 20;

/// Reads a model that lies in these files. `include` gives the text of a file that one of them includes. `top` is the gate to solve; without
/// it the first that no other gate uses.
pub fn read(
    sources: &[Source],
    include: &mut dyn FnMut(&str) -> Result<String, String>,
    top: Option<&str>,
) -> Result<Model, Mistake> {
    let mut scanned = scan::Scanned::default();
    for source in sources {
        scan::scan(source, include, &mut scanned)?;
    }
    formula::build(&scanned, top)
}
