//! From definitions to gates: names are looked up, expressions worked out, circles refused.

use super::expression::Expression;
use super::names::Names;
use super::scan::{Definition, Formula, Kind, Meaning, Operator, Place, Scanned};
use super::{Mistake, Model, ccf};
use crate::tree::{Ref, Tree};
use std::collections::{BTreeMap, BTreeSet};

/// Makes the model.
pub(super) fn build(scanned: &Scanned, top: Option<&str>) -> Result<Model, Mistake> {
    let is_parameter = |definition: &Definition| matches!(definition.meaning, Meaning::Parameter(_));
    let numbered = || scanned.definitions.iter().enumerate();
    let events = Names::new(numbered().filter(|(_, definition)| !is_parameter(definition)))?;
    let parameters = Names::new(numbered().filter(|(_, definition)| is_parameter(definition)))?;
    let mut builder = Builder {
        scanned,
        events,
        parameters,
        tree: Tree::new(),
        names: Vec::new(),
        made: BTreeMap::new(),
        undeclared: BTreeMap::new(),
        values: BTreeMap::new(),
        unknown: BTreeSet::new(),
    };
    builder.groups()?;
    let top = builder.top(top)?;
    let mut notes = scanned.notes.clone();
    let gate = builder.gate(top)?;
    let others = builder.tops().len() - 1;
    if others > 0 {
        notes.push(format!(
            "{others} more gates are used by no other; `{}` was solved",
            scanned.definitions[top].shown()
        ));
    }
    let used: BTreeSet<u32> = builder.tree.events_of(gate).into_iter().collect();
    let without: Vec<String> = builder
        .unknown
        .intersection(&used)
        .map(|event| builder.names[*event as usize].clone())
        .collect();
    Ok(Model {
        tree: builder.tree,
        top: gate,
        top_name: scanned.definitions[top].shown(),
        names: builder.names,
        without_probability: without,
        notes,
    })
}

struct Builder<'a> {
    scanned: &'a Scanned,
    events: Names,
    parameters: Names,
    tree: Tree,
    names: Vec<String>,
    made: BTreeMap<usize, Ref>,
    /// Basic events that are used and nowhere defined.
    undeclared: BTreeMap<String, Ref>,
    values: BTreeMap<usize, Option<f64>>,
    /// Events without a probability.
    unknown: BTreeSet<u32>,
}

impl Builder<'_> {
    /// Gates that no other gate uses, in the order of the file.
    fn tops(&self) -> Vec<usize> {
        let mut used = BTreeSet::new();
        let is_gate = |definition: &Definition| matches!(definition.meaning, Meaning::Gate(_));
        for definition in &self.scanned.definitions {
            if let Meaning::Gate(formula) = &definition.meaning {
                let mut waiting = vec![formula];
                while let Some(next) = waiting.pop() {
                    match next {
                        Formula::Event(name, ..) => used.extend(self.events.find(name, &definition.scope)),
                        Formula::Operator(_, parts) => waiting.extend(parts),
                        Formula::Constant(_) => {}
                    }
                }
            }
        }
        let all = self.scanned.definitions.iter().enumerate();
        all.filter(|(at, definition)| is_gate(definition) && !used.contains(at))
            .map(|(at, _)| at)
            .collect()
    }

    fn top(&self, asked: Option<&str>) -> Result<usize, Mistake> {
        let whole = || Place {
            path: self.scanned.first.clone().unwrap_or_default(),
            line: 0,
            column: 0,
        };
        if let Some(name) = asked {
            let found = self.events.find(name, "");
            let found = found.filter(|at| matches!(self.scanned.definitions[*at].meaning, Meaning::Gate(_)));
            return found.ok_or_else(|| whole().mistake(format!("there is no gate `{name}`")));
        }
        if let Some(top) = self.tops().first() {
            return Ok(*top);
        }
        let gates = self
            .scanned
            .definitions
            .iter()
            .find(|definition| matches!(definition.meaning, Meaning::Gate(_)));
        Err(match gates {
            Some(gate) => gate.place.mistake(format!(
                "every gate is used by another one, `{}` too: they go in a circle",
                gate.name
            )),
            None => whole()
                .mistake("there is no gate in it")
                .help("a fault tree has `<define-gate>`"),
        })
    }

    /// Without recursion over gates: a chain of them may be long.
    fn gate(&mut self, top: usize) -> Result<Ref, Mistake> {
        let mut open: BTreeSet<usize> = BTreeSet::from([top]);
        let mut path = vec![top];
        while let Some(at) = path.last().copied() {
            let definition = &self.scanned.definitions[at];
            let Meaning::Gate(formula) = &definition.meaning else {
                break;
            };
            match self.first_unmade(formula, &definition.scope)? {
                Some((next, place)) => {
                    if !open.insert(next) {
                        let from = path.iter().position(|gate| *gate == next).unwrap_or_default();
                        let circle = path[from..]
                            .iter()
                            .chain([&next])
                            .map(|gate| self.scanned.definitions[*gate].name.as_str());
                        let circle: Vec<&str> = circle.collect();
                        return Err(place.mistake(format!("gates go in a circle: {}", circle.join(" -> "))));
                    }
                    path.push(next);
                }
                None => {
                    let made = self.formula(formula, &definition.scope)?;
                    self.made.insert(at, made);
                    open.remove(&at);
                    path.pop();
                }
            }
        }
        Ok(self.made[&top])
    }

    fn first_unmade(&self, formula: &Formula, scope: &str) -> Result<Option<(usize, Place)>, Mistake> {
        match formula {
            Formula::Constant(_) => Ok(None),
            Formula::Operator(_, parts) => {
                for part in parts {
                    if let Some(found) = self.first_unmade(part, scope)? {
                        return Ok(Some(found));
                    }
                }
                Ok(None)
            }
            Formula::Event(name, kind, place) => {
                let Some(at) = self.events.find(name, scope) else {
                    return match kind {
                        Kind::Basic => Ok(None),
                        // A member of a common-cause group need not be defined besides.
                        _ if self.undeclared.contains_key(name) => Ok(None),
                        _ => Err(place.mistake(format!("there is no event `{name}`"))),
                    };
                };
                let meaning = &self.scanned.definitions[at].meaning;
                let fits = match (kind, meaning) {
                    (Kind::Any, _) => true,
                    (Kind::Gate, meaning) => matches!(meaning, Meaning::Gate(_)),
                    (Kind::Basic, meaning) => matches!(meaning, Meaning::Basic(_)),
                    (Kind::House, meaning) => matches!(meaning, Meaning::House(_)),
                };
                if !fits {
                    return Err(place.mistake(format!("`{name}` is something else")));
                }
                let is_gate = matches!(meaning, Meaning::Gate(_));
                Ok((is_gate && !self.made.contains_key(&at)).then(|| (at, place.clone())))
            }
        }
    }

    fn formula(&mut self, formula: &Formula, scope: &str) -> Result<Ref, Mistake> {
        match formula {
            Formula::Constant(true) => Ok(Ref::True),
            Formula::Constant(false) => Ok(Ref::False),
            Formula::Event(name, ..) => self.event(name, scope),
            Formula::Operator(operator, parts) => {
                let inputs: Result<Vec<Ref>, Mistake> = parts.iter().map(|part| self.formula(part, scope)).collect();
                let inputs = inputs?;
                let tree = &mut self.tree;
                Ok(match operator {
                    Operator::And => tree.and(inputs),
                    Operator::Or => tree.or(inputs),
                    Operator::Not => tree.not(inputs[0]),
                    Operator::Xor => tree.xor(inputs),
                    Operator::Nand => {
                        let and = tree.and(inputs);
                        tree.not(and)
                    }
                    Operator::Nor => {
                        let or = tree.or(inputs);
                        tree.not(or)
                    }
                    Operator::Imply => {
                        let not = tree.not(inputs[0]);
                        tree.or([not, inputs[1]])
                    }
                    Operator::Iff => {
                        let xor = tree.xor(inputs);
                        tree.not(xor)
                    }
                    Operator::AtLeast(min) => tree.at_least(*min, inputs),
                    Operator::Cardinality(min, max) => {
                        let least = tree.at_least(*min, inputs.clone());
                        let more = tree.at_least(max + 1, inputs);
                        let not_more = tree.not(more);
                        tree.and([least, not_more])
                    }
                })
            }
        }
    }

    fn event(&mut self, name: &str, scope: &str) -> Result<Ref, Mistake> {
        let Some(at) = self.events.find(name, scope) else {
            if let Some(known) = self.undeclared.get(name) {
                return Ok(*known);
            }
            let event = self.new_event(name.to_owned(), None);
            self.undeclared.insert(name.to_owned(), event);
            return Ok(event);
        };
        if let Some(made) = self.made.get(&at) {
            return Ok(*made);
        }
        let definition = &self.scanned.definitions[at];
        let made = match &definition.meaning {
            Meaning::House(true) => Ref::True,
            Meaning::House(false) => Ref::False,
            Meaning::Basic(expression) => {
                let value = match expression {
                    Some(expression) => {
                        Some(self.probability(expression, &definition.scope, &definition.place, &definition.name)?)
                    }
                    None => None,
                };
                self.new_event(definition.shown(), value)
            }
            Meaning::Gate(_) | Meaning::Parameter(_) => Ref::False,
        };
        self.made.insert(at, made);
        Ok(made)
    }

    fn new_event(&mut self, name: String, probability: Option<f64>) -> Ref {
        let event = self.tree.event(probability.unwrap_or_default());
        if let (None, Ref::Event(number)) = (probability, event) {
            self.unknown.insert(number);
        }
        self.names.push(name);
        event
    }

    fn probability(&mut self, expression: &Expression, scope: &str, place: &Place, name: &str) -> Result<f64, Mistake> {
        let value = self.value(expression, scope, 0)?;
        match (0.0..=1.0).contains(&value) {
            true => Ok(value),
            false => Err(place
                .mistake(format!("the probability of `{name}` is {value}"))
                .help("it must be from 0 to 1")),
        }
    }

    fn value(&mut self, expression: &Expression, scope: &str, depth: usize) -> Result<f64, Mistake> {
        expression.value(&mut |name, place| self.parameter(name, place, scope, depth))
    }

    fn parameter(&mut self, name: &str, place: &Place, scope: &str, depth: usize) -> Result<f64, Mistake> {
        let Some(at) = self.parameters.find(name, scope) else {
            return Err(place.mistake(format!("there is no parameter `{name}`")));
        };
        match self.values.get(&at) {
            Some(Some(value)) => return Ok(*value),
            Some(None) => return Err(place.mistake(format!("the parameter `{name}` depends on itself"))),
            None if depth > super::scan::NESTED_MAX => return Err(place.mistake("parameters are nested too deep")),
            None => {}
        }
        let definition = &self.scanned.definitions[at];
        let Meaning::Parameter(expression) = &definition.meaning else {
            return Err(place.mistake(format!("there is no parameter `{name}`")));
        };
        self.values.insert(at, None);
        let value = self.value(expression, &definition.scope, depth + 1)?;
        self.values.insert(at, Some(value));
        Ok(value)
    }

    fn groups(&mut self) -> Result<(), Mistake> {
        for group in &self.scanned.groups {
            let Some(distribution) = &group.distribution else {
                return Err(group.mistake(format!("`{}` has no distribution", group.name)));
            };
            let total = self.probability(distribution, &group.scope, &group.place, &group.name)?;
            let mut factors = vec![
                0.0;
                group
                    .factors
                    .keys()
                    .last()
                    .map_or(0, |last| (*last).min(1_000) as usize)
                    + 1
            ];
            for (level, expression) in &group.factors {
                let value = self.value(expression, &group.scope, 0)?;
                if let Some(factor) = factors.get_mut(*level as usize) {
                    *factor = value;
                }
            }
            let members: Vec<String> = group.members.iter().map(|(name, _)| name.clone()).collect();
            let made = ccf::expand(group, &members, &factors, total, &mut self.tree, &mut self.names)?;
            for ((name, place), made) in group.members.iter().zip(made) {
                match self.events.find(name, &group.scope) {
                    Some(at) if matches!(self.scanned.definitions[at].meaning, Meaning::Basic(_)) => {
                        self.made.insert(at, made);
                    }
                    Some(_) => return Err(place.mistake(format!("`{name}` is no basic event"))),
                    None => {
                        self.undeclared.insert(name.clone(), made);
                    }
                }
            }
        }
        Ok(())
    }
}
