//! Placeholders in commands, checks and environments: `--port {port}`.
//!
//! A placeholder is `{name}` with a name of `[a-z][a-z0-9_.-]*`: `{port}`, `{active.host}`, `{service.db.address}`.
//! Doubled braces around a name stand for the braces themselves: `{{port}}` gives `{port}`, and `{{{port}}}` gives
//! `{40001}`. Every other brace is taken as it is, so that JSON, shell and awk in an argument need no care:
//! `{"a":{"port":{port}}}` and `awk '{print $1}'` mean what they seem to.

use std::fmt;
use std::ops::Range;

/// A placeholder in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placeholder {
    /// What stands between the braces: `service.db.address`.
    pub name: String,
    /// Where it stands, in bytes, its braces included.
    pub range: Range<usize>,
}

/// Why a text cannot be filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateError {
    /// Nobody knows a value for the name.
    Unknown {
        /// The placeholder.
        placeholder: Placeholder,
    },
    /// The text ends within a placeholder: `--port={port`.
    Unclosed {
        /// The name as far as it goes.
        name: String,
        /// Where it stands, in bytes, from its brace to the end of the text.
        range: Range<usize>,
    },
}

impl TemplateError {
    /// Where it is wrong, in bytes of the text.
    pub fn range(&self) -> Range<usize> {
        match self {
            TemplateError::Unknown { placeholder } => placeholder.range.clone(),
            TemplateError::Unclosed { range, .. } => range.clone(),
        }
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TemplateError::Unknown { placeholder } => {
                let name = &placeholder.name;
                write!(
                    f,
                    "`{{{name}}}` has no value here; write `{{{{{name}}}}}` to keep the braces as they are"
                )
            }
            TemplateError::Unclosed { name, .. } => {
                write!(
                    f,
                    "`{{{name}` is not closed; write `{{{name}}}`, or `{{{{{name}` to keep the brace as it is"
                )
            }
        }
    }
}

impl std::error::Error for TemplateError {}

/// The placeholders of a text, in order.
pub fn placeholders(text: &str) -> Result<Vec<Placeholder>, TemplateError> {
    let mut found = Vec::new();
    scan(text, &mut |piece| {
        if let Piece::Placeholder(placeholder) = piece {
            found.push(placeholder);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Fills a text in. `value` answers for each placeholder, in order; `None` means that there is no such thing.
pub fn expand(text: &str, value: &mut dyn FnMut(&str) -> Option<String>) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(text.len());
    scan(text, &mut |piece| {
        match piece {
            Piece::Literal(literal) => out.push_str(literal),
            Piece::Placeholder(placeholder) => match value(&placeholder.name) {
                Some(filled) => out.push_str(&filled),
                None => return Err(TemplateError::Unknown { placeholder }),
            },
        }
        Ok(())
    })?;
    Ok(out)
}

enum Piece<'a> {
    Literal(&'a str),
    Placeholder(Placeholder),
}

/// Cuts the text into pieces at each run of opening braces. All cuts are beside ASCII, hence at character boundaries.
fn scan(text: &str, emit: &mut dyn FnMut(Piece<'_>) -> Result<(), TemplateError>) -> Result<(), TemplateError> {
    let mut at = 0;
    while let Some(offset) = text[at..].find('{') {
        let run = at + offset;
        emit(Piece::Literal(&text[at..run]))?;
        let name_start = run + count(&text[run..], b'{');
        let name_end = name_start + name_length(&text[name_start..]);
        let name = &text[name_start..name_end];
        let opened = name_start - run;
        let closed = count(&text[name_end..], b'}');
        let ends_unclosed = name_end == text.len();
        if name.is_empty() || (closed == 0 && !ends_unclosed) {
            emit(Piece::Literal(&text[run..name_end]))?;
            at = name_end;
            continue;
        }
        if ends_unclosed {
            if !opened.is_multiple_of(2) {
                return Err(TemplateError::Unclosed {
                    name: name.into(),
                    range: name_start - 1..name_end,
                });
            }
            emit(Piece::Literal(&text[run + opened / 2..]))?;
            return Ok(());
        }
        // The innermost pairs belong to the name, two of them for one literal; what is left over on either side
        // is text, as the closing braces of JSON are.
        let pairs = opened.min(closed);
        let literal = pairs / 2;
        let outer = opened - pairs;
        emit(Piece::Literal(&text[run..run + outer + literal]))?;
        if pairs.is_multiple_of(2) {
            emit(Piece::Literal(name))?;
        } else {
            emit(Piece::Placeholder(Placeholder {
                name: name.into(),
                range: name_start - 1..name_end + 1,
            }))?;
        }
        emit(Piece::Literal(&text[name_end..name_end + literal]))?;
        at = name_end + pairs;
    }
    emit(Piece::Literal(&text[at..]))
}

fn count(text: &str, brace: u8) -> usize {
    text.bytes().take_while(|byte| *byte == brace).count()
}

/// How many bytes at the beginning of the text are a name.
fn name_length(text: &str) -> usize {
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        return 0;
    }
    text.bytes()
        .take_while(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-'))
        .count()
}

#[cfg(test)]
mod tests {
    use super::{TemplateError, expand, placeholders};

    #[test]
    fn placeholders_are_filled_in() {
        assert_eq!(filled("--port={port}"), "--port=<port>");
        assert_eq!(filled("{port}{data}"), "<port><data>");
        assert_eq!(filled("é{service.db-2.address}é"), "é<service.db-2.address>é");
        assert_eq!(filled("{active.host}:{active.port}"), "<active.host>:<active.port>");
        assert_eq!(filled("nothing"), "nothing");
        assert_eq!(filled(""), "");
    }

    #[test]
    fn doubled_braces_around_a_name_are_braces() {
        assert_eq!(filled("{{port}}"), "{port}");
        assert_eq!(filled("${{home}}"), "${home}");
        assert_eq!(filled("{{{port}}}"), "{<port>}");
        assert_eq!(filled("{{{{port}}}}"), "{{port}}");
        assert_eq!(filled("{{port"), "{port");
    }

    #[test]
    fn other_peoples_braces_are_left_alone() {
        for text in [
            "awk '{print $1}'",
            "{}",
            "{ echo a; }",
            "{{.Names}}",
            "{\"a\":{\"b\":{}}}",
            "{Port}",
            "{1..3}",
            "{ port }",
            "}}{{",
            "{a,b}",
            "{é}",
            "{",
        ] {
            assert_eq!(filled(text), text);
        }
        assert_eq!(filled("{\"a\":{\"port\":{port}}}"), "{\"a\":{\"port\":<port>}}");
    }

    #[test]
    fn an_unclosed_placeholder_is_an_error_that_points() {
        let error = placeholders("--port={port").unwrap_err();
        assert_eq!(
            error,
            TemplateError::Unclosed {
                name: "port".into(),
                range: 7..12
            }
        );
        assert_eq!(
            error.to_string(),
            "`{port` is not closed; write `{port}`, or `{{port` to keep the brace as it is"
        );
    }

    #[test]
    fn an_unknown_name_is_an_error_that_points() {
        let error = expand("a {prot} b", &mut |_| None).unwrap_err();
        assert_eq!(error.range(), 2..8);
        assert_eq!(
            error.to_string(),
            "`{prot}` has no value here; write `{{prot}}` to keep the braces as they are"
        );
    }

    #[test]
    fn placeholders_tell_where_they_stand() {
        let text = "x{{{port}}}{data}";
        let found = placeholders(text).unwrap();
        let shown: Vec<_> = found
            .iter()
            .map(|p| (p.name.as_str(), &text[p.range.clone()]))
            .collect();
        assert_eq!(shown, [("port", "{port}"), ("data", "{data}")]);
    }

    #[test]
    fn no_arrangement_of_braces_panics_and_ranges_are_exact() {
        const PARTS: [&str; 6] = ["{", "}", "port", "é", " ", "{port}"];
        for mut code in 0..6_usize.pow(6) {
            let mut text = String::new();
            for _ in 0..6 {
                text.push_str(PARTS[code % 6]);
                code /= 6;
            }
            match placeholders(&text) {
                Ok(found) => {
                    for p in found {
                        assert_eq!(text[p.range].to_string(), format!("{{{}}}", p.name));
                    }
                }
                Err(error) => assert!(text.get(error.range()).is_some_and(|t| t.starts_with('{'))),
            }
        }
    }

    fn filled(text: &str) -> String {
        expand(text, &mut |name| Some(format!("<{name}>"))).unwrap()
    }
}
