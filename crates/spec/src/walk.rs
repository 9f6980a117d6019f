//! Reads a TOML document by the tables of [`crate::keys`]: every value is checked on its own, every mistake is noted,
//! and what is right is kept with its place.

use crate::diagnostic::Diagnostic;
use crate::kind::{Default, Key, Kind, TableKind, TextRule};
use crate::mend;
use crate::source::{Source, shown};
use crate::text;
use crate::tree::{Data, Entry, Table, Value};
use crate::units;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

/// Where things stand, by dotted path: `service.db.check.every`, `service.db.command.0`.
pub(crate) type Places = BTreeMap<String, Range<usize>>;

pub(crate) struct Walker<'a> {
    source: &'a Arc<Source>,
    pub(crate) found: Vec<Diagnostic>,
    pub(crate) places: Places,
}

/// The key whose value is being read.
#[derive(Clone, Copy)]
struct Label<'a> {
    path: &'a str,
    name: &'a str,
    example: Option<&'a str>,
}

impl<'a> Walker<'a> {
    pub(crate) fn new(source: &'a Arc<Source>) -> Self {
        Self {
            source,
            found: Vec::new(),
            places: Places::new(),
        }
    }

    pub(crate) fn table(
        &mut self,
        path: &str,
        kind: &'static TableKind,
        document: &DeTable<'_>,
        span: Range<usize>,
    ) -> Table {
        let mut table = Table {
            span,
            values: BTreeMap::new(),
            troubled: BTreeSet::new(),
        };
        for (name, value) in document {
            let Some(key) = kind.key(name.get_ref()) else {
                self.unknown_key(kind, &mut table, name, value);
                continue;
            };
            let path = join(path, key.name);
            let label = Label {
                path: &path,
                name: key.name,
                example: Some(key.example),
            };
            match self.value(label, &key.kind, value) {
                Some(value) => drop(table.values.insert(key.name, value)),
                None => drop(table.troubled.insert(key.name)),
            }
        }
        self.check_presence(path, kind, &mut table, document);
        for key in kind.keys {
            if let Default::Is(literal) = key.default
                && !table.values.contains_key(key.name)
                && let Some(value) = self.default_value(key, literal, &table.span)
            {
                table.values.insert(key.name, value);
            }
        }
        table
    }

    fn default_value(&self, key: &'static Key, literal: &str, span: &Range<usize>) -> Option<Value> {
        let parsed = DeValue::parse(literal).ok()?;
        let label = Label {
            path: "",
            name: key.name,
            example: None,
        };
        let mut value = Walker::new(self.source).value(label, &key.kind, &parsed)?;
        value.given = false;
        value.span = span.clone();
        if let Data::Table(table) = &mut value.data {
            table.span = span.clone();
            table.values.values_mut().for_each(|value| value.span = span.clone());
        }
        Some(value)
    }

    fn unknown_key(
        &mut self,
        kind: &'static TableKind,
        table: &mut Table,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let word = name.get_ref();
        let said = shown(word);
        if kind.later.contains(&word.as_ref()) {
            // These say in another way what is run or where, so that the lack of a command is no mistake of its own.
            table.troubled.insert("command");
            let help = match word.as_ref() {
                "systemd" | "container" | "ocf" => "run the program itself: `command = [\"PROGRAM\", \"ARGUMENT\"]`",
                _ => "leave it out",
            };
            self.note(
                &name.span(),
                format!("`{said}` is not supported by this version"),
                Some(help.into()),
            );
            return;
        }
        let misplaced = (kind.name == "file")
            .then(|| mend::misplaced(word, value.get_ref()))
            .flatten();
        let help = misplaced.or_else(|| {
            let meant = mend::key_meant_by(word, kind)?;
            table.troubled.insert(meant);
            Some(format!("did you mean `{meant}`?"))
        });
        if kind.name == "file" {
            table.troubled.insert("service");
        }
        let known: Vec<String> = kind.keys.iter().map(|key| format!("`{}`", key.name)).collect();
        let help = help.unwrap_or_else(|| format!("possible here: {}", known.join(", ")));
        self.note(&name.span(), format!("unknown key `{said}`"), Some(help));
    }

    /// Whether what must be there is, and what must not be there is not.
    fn check_presence(&mut self, path: &str, kind: &TableKind, table: &mut Table, document: &DeTable<'_>) {
        for key in kind.keys {
            let is_there = document.contains_key(key.name) || table.troubled.contains(key.name);
            if matches!(key.default, Default::Required) && !is_there && kind.name != "file" {
                let problem = format!("`{}` has no `{}`", spoken(path), key.name);
                let help = format!("add one, for example `{} = {}`", key.name, key.example);
                self.note(&table.span, problem, Some(help));
                table.troubled.insert(key.name);
            }
        }
        let names = kind.exactly_one;
        let mut present: Vec<_> = document
            .keys()
            .filter(|key| names.contains(&key.get_ref().as_ref()))
            .collect();
        present.sort_by_key(|key| key.span().start);
        if let [first, second, ..] = present.as_slice() {
            let problem = format!("`{}` and `{}` cannot be together", first.get_ref(), second.get_ref());
            let error = Diagnostic::new(self.source, &second.span(), problem)
                .related(&first.span(), "the other one")
                .help("one check tries one thing; leave one of them out");
            self.found.push(error);
        } else if present.is_empty() && !names.is_empty() && !names.iter().any(|name| table.is_troubled(name)) {
            let choices: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            let problem = format!("`{}` does not say what to try", spoken(path));
            let help = format!("add exactly one of {}, for example `tcp = true`", choices.join(", "));
            self.note(&table.span, problem, Some(help));
        }
        for (name, beside) in kind.only_beside {
            if let Some((name, _)) = document.get_key_value(*name)
                && !document.contains_key(*beside)
                && !table.is_troubled(beside)
            {
                let problem = format!("`{}` has a meaning only beside `{beside}`", name.get_ref());
                self.note(&name.span(), problem, Some(format!("leave it out, or add `{beside}`")));
            }
        }
    }

    fn value(&mut self, label: Label<'_>, kind: &'static Kind, value: &Spanned<DeValue<'_>>) -> Option<Value> {
        let span = value.span();
        self.places.insert(label.path.into(), span.clone());
        let data = match (kind, value.get_ref()) {
            (Kind::Text(rule), DeValue::String(text)) => {
                self.text(label, *rule, text, &span)?;
                Data::Text(text.to_string())
            }
            (Kind::Only(only), DeValue::Boolean(value)) if value == only => Data::Bool(*value),
            (Kind::Bool, DeValue::Boolean(value)) => Data::Bool(*value),
            (Kind::Integer { min, max }, DeValue::Integer(number)) => {
                let number = integer(number).and_then(|number| u64::try_from(number).ok());
                match number.filter(|number| (min..=max).contains(&number)) {
                    Some(number) => Data::Integer(number),
                    None => return self.out_of_range(label, kind, &span),
                }
            }
            (Kind::Duration { min, max }, DeValue::String(text)) => match units::duration(text) {
                Ok(span) if (min..=max).contains(&&span) => Data::Duration(span),
                Ok(_) => return self.out_of_range(label, kind, &span),
                Err(mut error) => {
                    if error.instead.is_some()
                        && let Some(likely) = units::with_likely_unit(text, label.example, *min..=*max)
                    {
                        error.instead = Some(likely);
                    }
                    return self.unreadable(label, text, error, &span);
                }
            },
            (Kind::Size { min, max }, DeValue::String(text)) => match units::size(text) {
                Ok(size) if (min..=max).contains(&&size) => Data::Size(size),
                Ok(_) => return self.out_of_range(label, kind, &span),
                Err(error) => return self.unreadable(label, text, error, &span),
            },
            (Kind::Choice { of, later }, DeValue::String(text)) => {
                self.choice(label, kind, (of, later), text, &span)?;
                Data::Text(text.to_string())
            }
            (Kind::Address, DeValue::String(text)) => match text::address(text) {
                Ok(address) => Data::Address(address),
                Err((problem, help)) => {
                    return self.error(&span, format!("`{}` {problem}", label.name), Some(help));
                }
            },
            (Kind::Command, DeValue::Array(_)) => self.command(label, value)?,
            (Kind::Array(of), DeValue::Array(_)) => Data::Array(self.array(label, of, value)?),
            (Kind::Map { names, of }, DeValue::Table(table)) => self.map(label, *names, of, table)?,
            (Kind::Table(kind), DeValue::Table(table)) => {
                let found_before = self.found.len();
                let table = self.table(label.path, kind, table, span.clone());
                // A table in the file keeps what is right in it, so that a service is looked at in spite of one wrong key.
                if self.found.len() > found_before && !matches!(kind.name, "service" | "node" | "switch" | "rate") {
                    return None;
                }
                Data::Table(table)
            }
            (Kind::Either(kinds), document) => match kinds.iter().find(|kind| takes(kind, document)) {
                Some(kind) => return self.value(label, kind, value),
                None => return self.wrong_type(label, kind, value),
            },
            _ => return self.wrong_type(label, kind, value),
        };
        Some(Value {
            span,
            given: true,
            data,
        })
    }

    fn text(&mut self, label: Label<'_>, rule: TextRule, text: &str, span: &Range<usize>) -> Option<()> {
        match text::problem(rule, text) {
            None => Some(()),
            Some((problem, help)) => {
                let help = help.or_else(|| {
                    label
                        .example
                        .map(|example| assignment("for example", label.name, example))
                });
                let subject = if rule == TextRule::Name {
                    format!("the name `{}`", shown(text))
                } else {
                    format!("`{}`", label.name)
                };
                self.error(span, format!("{subject} {problem}"), help)
            }
        }
    }

    fn choice(
        &mut self,
        label: Label<'_>,
        kind: &Kind,
        (of, later): (&[(&'static str, &str)], &[&str]),
        text: &str,
        span: &Range<usize>,
    ) -> Option<()> {
        if of.iter().any(|(word, _)| *word == text) {
            return Some(());
        }
        if later.contains(&text) {
            let problem = format!("`{} = \"{text}\"` is not supported by this version", label.name);
            return self.error(span, problem, Some(format!("possible: {}", kind.expected())));
        }
        let upper = text.to_ascii_uppercase();
        let with_sig = if upper.starts_with("SIG") {
            upper
        } else {
            format!("SIG{upper}")
        };
        let words = || of.iter().map(|(word, _)| *word);
        let meant = words()
            .find(|word| word.eq_ignore_ascii_case(text) || *word == with_sig)
            .or_else(|| mend::similar(text, words()));
        let problem = format!("`{}` must be {}, not `{}`", label.name, kind.expected(), shown(text));
        self.error(span, problem, meant.map(|word| format!("did you mean `{word}`?")))
    }

    fn command(&mut self, label: Label<'_>, value: &Spanned<DeValue<'_>>) -> Option<Data> {
        static ARGUMENT: Kind = Kind::Text(TextRule::Any);
        let words = self.array(label, &ARGUMENT, value)?;
        let example = label
            .example
            .map(|example| assignment("for example", label.name, example));
        match words.first() {
            None => self.error(
                &value.span(),
                format!("`{}` is empty: there is nothing to run", label.name),
                example,
            ),
            Some(program) if program.as_text().is_none_or(|text| text.trim().is_empty()) => self.error(
                &program.span.clone(),
                format!("the program of `{}` is empty", label.name),
                example,
            ),
            Some(_) => Some(Data::Array(words)),
        }
    }

    /// All elements, or nothing if one of them is wrong.
    fn array(&mut self, label: Label<'_>, of: &'static Kind, value: &Spanned<DeValue<'_>>) -> Option<Vec<Value>> {
        let DeValue::Array(elements) = value.get_ref() else {
            return None;
        };
        let values: Vec<Option<Value>> = elements
            .iter()
            .enumerate()
            .map(|(index, element)| {
                let path = join(label.path, &index.to_string());
                self.value(
                    Label {
                        path: &path,
                        example: None,
                        ..label
                    },
                    of,
                    element,
                )
            })
            .collect();
        values.into_iter().collect()
    }

    /// The pairs that are right; of services all that have a name, so that others may refer to them.
    fn map(&mut self, label: Label<'_>, names: TextRule, of: &'static Kind, document: &DeTable<'_>) -> Option<Data> {
        let mut entries = Vec::new();
        for (name, value) in document {
            let word = name.get_ref().as_ref();
            if let Kind::Table(table) = of
                && !value.get_ref().is_table()
            {
                match table.name {
                    "service" => self.not_a_service(word, &name.span()),
                    _ => self.not_a_table(label.name, word, &name.span()),
                }
                continue;
            }
            if let Some((problem, help)) = text::problem(names, word) {
                let what = match (names, label.name) {
                    (TextRule::Variable, _) => "variable",
                    (_, of) => of,
                };
                self.note(
                    &name.span(),
                    format!("the {what} name `{}` {problem}", shown(word)),
                    help,
                );
            }
            let path = join(label.path, word);
            let inner = Label {
                path: &path,
                name: &shown(word),
                example: None,
            };
            if let Some(value) = self.value(inner, of, value) {
                entries.push(Entry {
                    name: word.into(),
                    name_span: name.span(),
                    value,
                });
            }
        }
        Some(Data::Map(entries))
    }

    fn not_a_table(&mut self, what: &str, word: &str, span: &Range<usize>) {
        let said = shown(word);
        let help = format!("write `[{what}.{said}]`, and its keys below");
        self.note(span, format!("the {what} `{said}` must be a table"), Some(help));
    }

    fn not_a_service(&mut self, word: &str, span: &Range<usize>) {
        let said = shown(word);
        let help = if crate::keys::SERVICE.key(word).is_some() {
            format!("`{said}` belongs to a service: write it below `[service.NAME]`")
        } else {
            format!("write `[service.{said}]`, and its keys below")
        };
        self.note(span, format!("the service `{said}` must be a table"), Some(help));
    }

    fn out_of_range<T>(&mut self, label: Label<'_>, kind: &Kind, span: &Range<usize>) -> Option<T> {
        let problem = format!("`{}` must be {}", label.name, kind.expected());
        let help = label
            .example
            .map(|example| assignment("for example", label.name, example));
        self.error(span, problem, help)
    }

    fn unreadable<T>(
        &mut self,
        label: Label<'_>,
        text: &str,
        error: units::Unreadable,
        span: &Range<usize>,
    ) -> Option<T> {
        let help = match error.instead {
            Some(instead) => Some(assignment("write", label.name, &mend::quoted(&instead))),
            None => label
                .example
                .map(|example| assignment("for example", label.name, example)),
        };
        self.error(
            span,
            format!("`{}`: `{}` {}", label.name, shown(text), error.problem),
            help,
        )
    }

    fn wrong_type<T>(&mut self, label: Label<'_>, kind: &Kind, value: &Spanned<DeValue<'_>>) -> Option<T> {
        let found = match value.get_ref() {
            DeValue::String(_) => "text",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(true) => "`true`",
            DeValue::Boolean(false) => "`false`",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        let is_text = matches!(
            kind,
            Kind::Text(_) | Kind::Duration { .. } | Kind::Size { .. } | Kind::Address
        );
        let in_quotes = if is_text { " in quotes" } else { "" };
        let problem = format!("`{}` must be {}{in_quotes}, not {found}", label.name, kind.expected());
        let help = match (mend::value_meant_by(kind, value.get_ref(), label.example), kind) {
            (Some(meant), _) => Some(assignment("write", label.name, &meant)),
            (None, Kind::Map { of: Kind::Table(_), .. }) => {
                Some("write `[service.NAME]` for each service, with a name of your choice".into())
            }
            (None, _) => label
                .example
                .map(|example| assignment("for example", label.name, example)),
        };
        self.error(&value.span(), problem, help)
    }

    /// Notes an error; there is no value then.
    fn error<T>(&mut self, span: &Range<usize>, problem: String, help: Option<String>) -> Option<T> {
        self.note(span, problem, help);
        None
    }

    fn note(&mut self, span: &Range<usize>, problem: String, help: Option<String>) {
        self.found
            .push(Diagnostic::new(self.source, span, problem).maybe_help(help));
    }
}

/// Whether a value has the TOML type of a kind, so that it was probably meant to be one.
fn takes(kind: &Kind, value: &DeValue<'_>) -> bool {
    match kind {
        Kind::Text(_) | Kind::Duration { .. } | Kind::Size { .. } | Kind::Choice { .. } | Kind::Address => {
            value.is_str()
        }
        Kind::Only(only) => value.as_bool() == Some(*only),
        Kind::Bool => value.is_bool(),
        Kind::Integer { .. } => value.is_integer(),
        Kind::Command | Kind::Array(_) => value.is_array(),
        Kind::Map { .. } | Kind::Table(_) => value.is_table(),
        Kind::Either(kinds) => kinds.iter().any(|kind| takes(kind, value)),
    }
}

/// A TOML integer of any radix; `None` if it is larger than anything we can use.
pub(crate) fn integer(number: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}

fn assignment(verb: &str, name: &str, value: &str) -> String {
    format!("{verb} `{name} = {value}`")
}

/// A table as people name it: `[service.db]`, but `check` for what lies within a service.
fn spoken(path: &str) -> String {
    match path.split('.').collect::<Vec<_>>().as_slice() {
        ["service", name] => format!("[service.{}]", shown(name)),
        [.., last] => shown(last),
        [] => String::new(),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.into()
    } else {
        format!("{path}.{name}")
    }
}

/// A table from text of our own, with its defaults.
pub(crate) fn literal(kind: &'static TableKind, text: &str) -> Option<Table> {
    let source = Arc::new(Source::new("", text));
    let parsed = DeValue::parse(text).ok()?;
    match parsed.get_ref() {
        DeValue::Table(document) => Some(Walker::new(&source).table("", kind, document, parsed.span())),
        _ => None,
    }
}
