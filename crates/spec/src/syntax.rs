//! What is not TOML at all, in words for whoever wrote it.

use crate::diagnostic::Diagnostic;
use crate::source::{Source, shown};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use toml::de::{DeTable, DeValue, Error};

/// How many unclosed arrays and tables are traced to where they begin: each takes a walk through the document.
const UNCLOSED_MAX: usize = 16;

/// The mistakes of a text, one a line: what follows in the same line, or within something unclosed, is a consequence.
pub(crate) fn diagnostics(mistakes: &[Error], document: &DeTable<'_>, source: &Arc<Source>) -> Vec<Diagnostic> {
    let is_unclosed =
        |message: &str| message.starts_with("unclosed array") || message.starts_with("unclosed inline table");
    let ends: BTreeSet<usize> = mistakes
        .iter()
        .filter(|mistake| is_unclosed(mistake.message()))
        .map(|mistake| mistake.span().map_or(source.text().len(), |span| span.start))
        .take(UNCLOSED_MAX)
        .collect();
    let unclosed: Vec<Range<usize>> = ends
        .into_iter()
        .filter_map(|end| outermost_at(document, end, source))
        .collect();
    let mut found: Vec<Diagnostic> = unclosed
        .iter()
        .map(|span| {
            let (what, close) = if source.text()[span.clone()].starts_with('[') {
                ("array", "]")
            } else {
                ("table", "}")
            };
            let problem = format!("the {what} that begins here is not closed");
            Diagnostic::new(source, &(span.start..span.start + 1), problem)
                .help(format!("add a `{close}` where it ends"))
        })
        .collect();
    let mut rest: Vec<(Range<usize>, &str)> = mistakes
        .iter()
        .map(|mistake| (mistake.span().unwrap_or(0..0), mistake.message()))
        .filter(|(span, _)| {
            !unclosed
                .iter()
                .any(|all| all.start <= span.start && span.start <= all.end)
        })
        .collect();
    // Of the mistakes in one line the one about a whole value tells most.
    rest.sort_by_key(|(span, message)| (!message.starts_with("string values must be quoted"), span.start));
    let mut lines: BTreeSet<usize> = found.iter().map(|one| one.line).collect();
    for (span, message) in rest {
        let one = explain(&span, message, source);
        if lines.insert(one.line) {
            found.push(one);
        }
    }
    found
}

fn explain(span: &Range<usize>, message: &str, source: &Arc<Source>) -> Diagnostic {
    let written = source.text().get(span.clone()).unwrap_or_default();
    let error = |problem: String| Diagnostic::new(source, span, problem);
    if message.starts_with("string values must be quoted") || message.starts_with("invalid float") {
        return if written.is_empty() {
            error("a value is missing after `=`".into())
                .help("for example `active = 2` or `listen = \"127.0.0.1:8080\"`")
        } else if message.starts_with("invalid float") && written.starts_with(|c: char| c.is_ascii_digit()) {
            error(format!("`{}` is neither a number nor text", shown(written)))
                .help(format!("write text in quotes: `\"{}\"`", shown(written)))
        } else if let Some(meant) = crate::mend::truth_meant_by(written) {
            error(format!("`{}` is text without quotes", shown(written))).help(format!(
                "write `{meant}`; if text is meant, `{}`",
                shown(&crate::mend::quoted(written))
            ))
        } else {
            error(format!("`{}` is text without quotes", shown(written)))
                .help(format!("write `{}`", shown(&crate::mend::quoted(written))))
        };
    }
    let (problem, help) = match message {
        "duplicate key" => (
            format!("`{}` is there twice", shown(written)),
            Some("leave one of them out; a table has one heading".to_owned()),
        ),
        m if m.starts_with("key with no value") => (
            "a key without a value".into(),
            Some("a line is `key = value`, or a heading such as `[service.web]`".into()),
        ),
        m if m.starts_with("unclosed table") => (
            "the heading is not closed".into(),
            Some("write it as in `[service.web]`".into()),
        ),
        m if m.starts_with("invalid basic string, expected `\"`") => {
            ("the text is not closed".into(), Some("add a `\"` where it ends".into()))
        }
        m if m.starts_with("invalid literal string, expected `'`") => {
            ("the text is not closed".into(), Some("add a `'` where it ends".into()))
        }
        m if m.starts_with("missing escaped value") => (
            "unknown escape after `\\` in a text".into(),
            Some("write `\\\\` for a backslash, or put the text into single quotes".into()),
        ),
        m if m.starts_with("unexpected key or value, expected newline") => (
            "something follows the value".into(),
            Some("begin a new line for each key".into()),
        ),
        m => (format!("not TOML: {}", shown(m)), None),
    };
    error(problem).maybe_help(help)
}

/// The outermost array or inline table that ends at a place.
fn outermost_at(table: &DeTable<'_>, end: usize, source: &Source) -> Option<Range<usize>> {
    table.iter().find_map(|(_, value)| {
        let span = value.span();
        let is_written_in_line = source
            .text()
            .get(span.clone())
            .is_some_and(|text| text.starts_with(['[', '{']));
        let ends_there = span.end == end && span.start < end;
        match value.get_ref() {
            DeValue::Array(_) if ends_there && is_written_in_line => Some(span),
            DeValue::Table(inner) if ends_there && is_written_in_line && !inner.is_empty() => Some(span),
            DeValue::Table(inner) => outermost_at(inner, end, source),
            _ => None,
        }
    })
}
