//! From XML to what a model defines: definitions with their places and the paths under which they are known.

use super::expression::Expression;
use super::places::Places;
use super::{BYTES_MAX, Mistake, Source};
use roxmltree::{Document, Node, ParsingOptions};
use std::collections::BTreeMap;

/// Files include each other no deeper than this.
const DEPTH_MAX: usize = 16;
/// Formulas and expressions are nested no deeper than this.
pub(super) const NESTED_MAX: usize = 200;

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: String,
    pub(super) line: u32,
    pub(super) column: u32,
}

impl Place {
    pub(super) fn mistake(&self, problem: impl Into<String>) -> Mistake {
        Mistake {
            path: self.path.clone(),
            line: self.line,
            column: self.column,
            problem: problem.into(),
            help: None,
        }
    }
}

impl Mistake {
    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self {
            help: Some(help.into()),
            ..self
        }
    }
}

/// A formula over events.
#[derive(Debug, Clone)]
pub(super) enum Formula {
    /// An event of any kind, by the name it is referred to.
    Event(String, Kind, Place),
    /// `true` or `false`.
    Constant(bool),
    /// An operator, its lower and upper number where it has them, and what it is over.
    Operator(Operator, Vec<Formula>),
}

/// What a reference says that it is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Any,
    Gate,
    Basic,
    House,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    And,
    Or,
    Not,
    Xor,
    Nand,
    Nor,
    Imply,
    Iff,
    AtLeast(u32),
    Cardinality(u32, u32),
}

/// What a name stands for.
#[derive(Debug, Clone)]
pub(super) enum Meaning {
    Gate(Formula),
    Basic(Option<Expression>),
    House(bool),
    Parameter(Expression),
}

/// A definition.
#[derive(Debug, Clone)]
pub(super) struct Definition {
    /// Its name.
    pub(super) name: String,
    /// The containers it is in: `TwoTrains.pumps`.
    pub(super) scope: String,
    /// Known by its path alone.
    pub(super) private: bool,
    pub(super) meaning: Meaning,
    pub(super) place: Place,
}

/// A common-cause group.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) model: String,
    pub(super) scope: String,
    pub(super) members: Vec<(String, Place)>,
    pub(super) distribution: Option<Expression>,
    /// By level.
    pub(super) factors: BTreeMap<u32, Expression>,
    pub(super) place: Place,
}

/// All that was found in the files.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    pub(super) definitions: Vec<Definition>,
    pub(super) groups: Vec<Group>,
    pub(super) notes: Vec<String>,
    open: Vec<String>,
    pub(super) first: Option<String>,
}

/// Reads a file, and what it includes.
pub(super) fn scan(
    source: &Source,
    include: &mut dyn FnMut(&str) -> Result<String, String>,
    scanned: &mut Scanned,
) -> Result<(), Mistake> {
    scanned.first.get_or_insert_with(|| source.path.clone());
    let whole = Place {
        path: source.path.clone(),
        line: 0,
        column: 0,
    };
    if source.text.len() > BYTES_MAX {
        return Err(whole.mistake(format!(
            "the file has {} bytes, at most {BYTES_MAX} are read",
            source.text.len()
        )));
    }
    let options = ParsingOptions {
        allow_dtd: true,
        nodes_limit: 4_000_000,
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(&source.text, options).map_err(|error| {
        let at = error.pos();
        let place = Place {
            path: source.path.clone(),
            line: at.row,
            column: at.col,
        };
        // The parser repeats the place at the end of its sentence.
        let said = error.to_string();
        let said = said
            .rsplit_once(" at ")
            .map_or(said.as_str(), |(said, _)| said)
            .to_owned();
        place.mistake(format!("this is not well-formed XML: {said}"))
    })?;
    let root = document.root_element();
    let mut scanner = Scanner {
        source,
        places: Places::of(&source.text),
        include,
        scanned,
    };
    if root.tag_name().name() != "opsa-mef" {
        let problem = format!("the file is a `{}`, not an Open-PSA model", root.tag_name().name());
        return Err(scanner
            .place(root)
            .mistake(problem)
            .help("an Open-PSA model begins with `<opsa-mef>`"));
    }
    scanner.container(root, "", false, 0)
}

struct Scanner<'a> {
    source: &'a Source,
    places: Places<'a>,
    include: &'a mut dyn FnMut(&str) -> Result<String, String>,
    scanned: &'a mut Scanned,
}

impl Scanner<'_> {
    fn place(&self, node: Node<'_, '_>) -> Place {
        let (line, column) = self.places.of_byte(node.range().start);
        Place {
            path: self.source.path.clone(),
            line,
            column,
        }
    }

    fn attribute(&self, node: Node<'_, '_>, name: &str) -> Result<String, Mistake> {
        let value = node.attribute(name).map(str::trim).filter(|value| !value.is_empty());
        value.map(str::to_owned).ok_or_else(|| {
            self.place(node)
                .mistake(format!("`<{}>` has no `{name}`", node.tag_name().name()))
        })
    }

    fn container(&mut self, node: Node<'_, '_>, scope: &str, private: bool, depth: usize) -> Result<(), Mistake> {
        if depth > NESTED_MAX {
            return Err(self.place(node).mistake("components are nested too deep"));
        }
        for child in node.children().filter(Node::is_element) {
            match child.tag_name().name() {
                "label" | "attributes" => {}
                "model-data" => self.container(child, scope, private, depth + 1)?,
                "define-fault-tree" | "define-component" => {
                    let name = self.attribute(child, "name")?;
                    let inner = if scope.is_empty() {
                        name
                    } else {
                        format!("{scope}.{name}")
                    };
                    let private = is_private(child, private);
                    self.container(child, &inner, private, depth + 1)?;
                }
                "define-gate" => {
                    let formula = self.only_formula(child)?;
                    self.define(child, scope, private, Meaning::Gate(formula))?;
                }
                "define-basic-event" => {
                    let expression = self.maybe_expression(child)?;
                    self.define(child, scope, private, Meaning::Basic(expression))?;
                }
                "define-house-event" => {
                    let state = child.children().find(|part| part.has_tag_name("constant"));
                    let state = state.map(|part| self.boolean(part)).transpose()?.unwrap_or_default();
                    self.define(child, scope, private, Meaning::House(state))?;
                }
                "define-parameter" => match self.maybe_expression(child)? {
                    Some(expression) => self.define(child, scope, private, Meaning::Parameter(expression))?,
                    None => return Err(self.place(child).mistake("this parameter has no value")),
                },
                "define-CCF-group" => self.group(child, scope)?,
                "include" => self.included(child)?,
                other => {
                    let note = format!("`<{other}>` is left aside");
                    if !self.scanned.notes.contains(&note) {
                        self.scanned.notes.push(note);
                    }
                }
            }
        }
        Ok(())
    }

    fn included(&mut self, node: Node<'_, '_>) -> Result<(), Mistake> {
        let file = self.attribute(node, "file")?;
        if self.scanned.open.len() >= DEPTH_MAX || self.scanned.open.contains(&file) {
            return Err(self.place(node).mistake(format!("`{file}` includes itself")));
        }
        let text = (self.include)(&file)
            .map_err(|error| self.place(node).mistake(format!("`{file}` cannot be read: {error}")))?;
        self.scanned.open.push(file.clone());
        let inner = scan(&Source { path: file, text }, self.include, self.scanned);
        self.scanned.open.pop();
        inner
    }

    fn define(&mut self, node: Node<'_, '_>, scope: &str, private: bool, meaning: Meaning) -> Result<(), Mistake> {
        let definition = Definition {
            name: self.attribute(node, "name")?,
            scope: scope.to_owned(),
            private: !scope.is_empty() && is_private(node, private),
            meaning,
            place: self.place(node),
        };
        self.scanned.definitions.push(definition);
        Ok(())
    }

    fn boolean(&self, node: Node<'_, '_>) -> Result<bool, Mistake> {
        match self.attribute(node, "value")?.as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            other => Err(self
                .place(node)
                .mistake(format!("a constant is `true` or `false`, not `{other}`"))),
        }
    }

    fn only_formula(&self, node: Node<'_, '_>) -> Result<Formula, Mistake> {
        let mut parts = node.children().filter(Node::is_element).filter(|part| !is_words(*part));
        match (parts.next(), parts.next()) {
            (Some(part), None) => self.formula(part, 0),
            (None, _) => Err(self.place(node).mistake("this gate has no formula")),
            (_, Some(second)) => Err(self
                .place(second)
                .mistake("a gate has one formula, and this is a second one")),
        }
    }

    fn formula(&self, node: Node<'_, '_>, depth: usize) -> Result<Formula, Mistake> {
        if depth > NESTED_MAX {
            return Err(self.place(node).mistake("formulas are nested too deep"));
        }
        let tag = node.tag_name().name();
        let kind = match tag {
            "event" => match node.attribute("type") {
                Some("gate") => Some(Kind::Gate),
                Some("basic-event") => Some(Kind::Basic),
                Some("house-event") => Some(Kind::House),
                _ => Some(Kind::Any),
            },
            "gate" => Some(Kind::Gate),
            "basic-event" => Some(Kind::Basic),
            "house-event" => Some(Kind::House),
            _ => None,
        };
        if let Some(kind) = kind {
            return Ok(Formula::Event(self.attribute(node, "name")?, kind, self.place(node)));
        }
        if tag == "constant" {
            return Ok(Formula::Constant(self.boolean(node)?));
        }
        let operator = match tag {
            "and" => Operator::And,
            "or" => Operator::Or,
            "not" => Operator::Not,
            "xor" => Operator::Xor,
            "nand" => Operator::Nand,
            "nor" => Operator::Nor,
            "imply" => Operator::Imply,
            "iff" => Operator::Iff,
            "atleast" => Operator::AtLeast(self.number(node, "min")?),
            "cardinality" => Operator::Cardinality(self.number(node, "min")?, self.number(node, "max")?),
            other => return Err(self.place(node).mistake(format!("there is no operator `{other}`"))),
        };
        let parts: Result<Vec<Formula>, Mistake> = node
            .children()
            .filter(Node::is_element)
            .filter(|part| !is_words(*part))
            .map(|part| self.formula(part, depth + 1))
            .collect();
        let parts = parts?;
        let (least, most) = match operator {
            Operator::Not => (1, 1),
            Operator::Xor | Operator::Imply | Operator::Iff => (2, 2),
            _ => (1, usize::MAX),
        };
        if parts.len() < least || parts.len() > most {
            let wanted = if least == most {
                least.to_string()
            } else {
                "at least one".into()
            };
            return Err(self
                .place(node)
                .mistake(format!("`{tag}` is over {wanted}, and here over {}", parts.len())));
        }
        match operator {
            Operator::AtLeast(min) if min as usize > parts.len() => {
                let problem = format!("at least {min} of {} can never be", parts.len());
                Err(self.place(node).mistake(problem))
            }
            Operator::Cardinality(min, max) if min > max || max as usize > parts.len() => {
                let problem = format!("from {min} to {max} of {} has no sense", parts.len());
                Err(self.place(node).mistake(problem))
            }
            operator => Ok(Formula::Operator(operator, parts)),
        }
    }

    fn number(&self, node: Node<'_, '_>, name: &str) -> Result<u32, Mistake> {
        let text = self.attribute(node, name)?;
        text.parse().map_err(|_| {
            self.place(node)
                .mistake(format!("`{name}` is a whole number, not `{text}`"))
        })
    }

    fn maybe_expression(&self, node: Node<'_, '_>) -> Result<Option<Expression>, Mistake> {
        let mut parts = node.children().filter(Node::is_element).filter(|part| !is_words(*part));
        parts.next().map(|part| self.expression(part, 0)).transpose()
    }

    fn expression(&self, node: Node<'_, '_>, depth: usize) -> Result<Expression, Mistake> {
        if depth > NESTED_MAX {
            return Err(self.place(node).mistake("expressions are nested too deep"));
        }
        let tag = node.tag_name().name();
        let place = self.place(node);
        match tag {
            "float" | "int" => {
                let text = self.attribute(node, "value")?;
                let value = text.parse::<f64>().ok().filter(|value| value.is_finite());
                let value = value.ok_or_else(|| place.mistake(format!("`{text}` is no number")))?;
                Ok(Expression::Number(value))
            }
            "bool" => Ok(Expression::Number(f64::from(u8::from(self.boolean(node)?)))),
            "parameter" => Ok(Expression::Parameter(self.attribute(node, "name")?, place)),
            "system-mission-time" => Ok(Expression::MissionTime),
            "pi" => Ok(Expression::Number(std::f64::consts::PI)),
            _ => {
                let inner = |part: Node<'_, '_>| match part.tag_name().name() {
                    // A bin of a histogram: its upper end and its weight.
                    "bin" => part
                        .children()
                        .filter(Node::is_element)
                        .map(|part| self.expression(part, depth + 1))
                        .collect::<Result<Vec<_>, _>>(),
                    _ => Ok(vec![self.expression(part, depth + 1)?]),
                };
                let mut parts = Vec::new();
                for part in node.children().filter(Node::is_element) {
                    parts.extend(inner(part)?);
                }
                Expression::call(tag, parts, place)
            }
        }
    }

    fn group(&mut self, node: Node<'_, '_>, scope: &str) -> Result<(), Mistake> {
        let mut group = Group {
            name: self.attribute(node, "name")?,
            model: self.attribute(node, "model")?,
            scope: scope.to_owned(),
            members: Vec::new(),
            distribution: None,
            factors: BTreeMap::new(),
            place: self.place(node),
        };
        for part in node.descendants().filter(Node::is_element) {
            match part.tag_name().name() {
                "members" => {
                    for member in part.children().filter(Node::is_element) {
                        group
                            .members
                            .push((self.attribute(member, "name")?, self.place(member)));
                    }
                }
                "distribution" => group.distribution = self.maybe_expression(part)?,
                "factor" => {
                    let next = group.factors.keys().last().map_or(2, |last| last + 1);
                    let level = match part.attribute("level") {
                        Some(_) => self.number(part, "level")?,
                        None => next,
                    };
                    if let Some(value) = self.maybe_expression(part)? {
                        group.factors.insert(level, value);
                    }
                }
                _ => {}
            }
        }
        self.scanned.groups.push(group);
        Ok(())
    }
}

fn is_words(node: Node<'_, '_>) -> bool {
    matches!(node.tag_name().name(), "label" | "attributes")
}

fn is_private(node: Node<'_, '_>, inherited: bool) -> bool {
    match node.attribute("role") {
        Some("private") => true,
        Some("public") => false,
        _ => inherited,
    }
}
