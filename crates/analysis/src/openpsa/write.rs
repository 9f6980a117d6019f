//! Trees for other tools.

use crate::system::Logic;
use crate::tree::{Gate, Ref, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// A file with a fault tree for each service.
pub fn write(logic: &Logic) -> String {
    let names = names(logic);
    let mut file = File::new(
        &logic.tree,
        |event| names[&event].clone(),
        |event| logic.thing(event).to_string(),
    );
    for (service, top) in &logic.services {
        file.fault_tree(
            &identifier(&format!("tree {service}")),
            &format!("{service} is down"),
            *top,
        );
    }
    file.finished()
}

/// A file with one fault tree; its events are called `e0`, `e1`, … by their numbers.
pub fn write_tree(tree: &Tree, top: Ref) -> String {
    let mut file = File::new(tree, |event| format!("e{event}"), |event| format!("event {event}"));
    file.fault_tree("tree", "the top", top);
    file.finished()
}

/// A file under way.
struct File<'a, N, L> {
    tree: &'a Tree,
    name: N,
    label: L,
    used: BTreeSet<u32>,
    out: String,
}

impl<'a, N: Fn(u32) -> String, L: Fn(u32) -> String> File<'a, N, L> {
    fn new(tree: &'a Tree, name: N, label: L) -> Self {
        Self {
            tree,
            name,
            label,
            used: BTreeSet::new(),
            out: String::from("<?xml version=\"1.0\"?>\n<opsa-mef>\n"),
        }
    }

    /// Its gates are private: several trees share events, and may share gates of one number.
    fn fault_tree(&mut self, name: &str, label: &str, top: Ref) {
        // Writing to a `String` cannot fail.
        let _ = writeln!(self.out, "  <define-fault-tree name=\"{name}\">");
        let _ = writeln!(self.out, "    <define-gate name=\"top\" role=\"private\">");
        let _ = writeln!(self.out, "      <label>{}</label>", escaped(label));
        let reference = self.reference(top, 6);
        self.out.push_str(&reference);
        self.out.push_str("    </define-gate>\n");
        let reachable = self.tree.reachable(top);
        for (number, _) in (0_u32..).zip(&reachable).filter(|(_, is)| **is) {
            let formula = self.formula(self.tree.gate(number));
            let _ = writeln!(self.out, "    <define-gate name=\"g{number}\" role=\"private\">");
            self.out.push_str(&formula);
            self.out.push_str("    </define-gate>\n");
        }
        self.out.push_str("  </define-fault-tree>\n");
        self.used.extend(self.tree.events_of(top));
    }

    fn formula(&self, gate: &Gate) -> String {
        let (open, close) = match gate {
            Gate::Or(_) => ("<or>".to_owned(), "</or>"),
            Gate::And(_) => ("<and>".to_owned(), "</and>"),
            Gate::Not(_) => ("<not>".to_owned(), "</not>"),
            Gate::AtLeast(min, _) => (format!("<atleast min=\"{min}\">"), "</atleast>"),
        };
        let mut out = format!("      {open}\n");
        for input in gate.inputs() {
            out.push_str(&self.reference(*input, 8));
        }
        let _ = writeln!(out, "      {close}");
        out
    }

    fn reference(&self, what: Ref, indent: usize) -> String {
        let blank = " ".repeat(indent);
        match what {
            Ref::True => format!("{blank}<constant value=\"true\"/>\n"),
            Ref::False => format!("{blank}<constant value=\"false\"/>\n"),
            Ref::Event(event) => format!("{blank}<basic-event name=\"{}\"/>\n", (self.name)(event)),
            Ref::Gate(gate) => format!("{blank}<gate name=\"g{gate}\"/>\n"),
        }
    }

    fn finished(mut self) -> String {
        self.out.push_str("  <model-data>\n");
        for event in &self.used {
            let _ = writeln!(self.out, "    <define-basic-event name=\"{}\">", (self.name)(*event));
            let _ = writeln!(self.out, "      <label>{}</label>", escaped(&(self.label)(*event)));
            let _ = writeln!(self.out, "      <float value=\"{:e}\"/>", self.tree.probability(*event));
            self.out.push_str("    </define-basic-event>\n");
        }
        self.out.push_str("  </model-data>\n</opsa-mef>\n");
        self.out
    }
}

/// A name for each thing, made of letters, digits and single `_`, no two alike.
fn names(logic: &Logic) -> BTreeMap<u32, String> {
    let mut taken = BTreeSet::new();
    let mut names = BTreeMap::new();
    for (event, thing) in (0_u32..).zip(&logic.things) {
        let name = identifier(&format!("{} {}", thing.kind(), thing.name()));
        let free = taken.insert(name.clone());
        let name = if free { name } else { format!("{name}_e{event}") };
        taken.insert(name.clone());
        names.insert(event, name);
    }
    names
}

fn identifier(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            c if c.is_ascii_alphanumeric() => out.push(c),
            _ if out.ends_with('_') || out.is_empty() => {}
            _ => out.push('_'),
        }
    }
    out.trim_end_matches('_').to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
