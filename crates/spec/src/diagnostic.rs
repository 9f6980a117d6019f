//! What is wrong, where, and what would be right.

use crate::source::{Excerpt, Source, shown};
use annotate_snippets::{Annotation, AnnotationKind, Level, Origin, Renderer, Snippet};
use serde::{Serialize, Serializer, ser::SerializeStruct};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// How many pictures [`Errors::render`] draws; the rest is counted. Nobody reads more before mending the first.
const RENDERED_MAX: usize = 50;

/// Above this there is no picture: a line this long, or places this far apart, would take longer to draw than to find.
const PICTURE_BYTES_MAX: usize = 64 << 10;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken; it probably does not do what was meant.
    Warning,
}

/// One finding in a file. `Display` is one line without colour, [`Diagnostic::render`] a picture of the place.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    /// The file.
    pub path: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Whether the file is refused for it.
    pub severity: Severity,
    /// What is wrong.
    pub problem: String,
    /// The text that is wrong, as it stands in the file.
    pub value: String,
    /// What would be right.
    pub help: Option<String>,
    /// Other places that have to do with it.
    pub related: Vec<Related>,
    source: Arc<Source>,
    span: Range<usize>,
}

/// Another place that has to do with a finding.
#[derive(Debug, Clone, Serialize)]
pub struct Related {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is there.
    pub note: String,
    #[serde(skip)]
    span: Range<usize>,
}

impl Diagnostic {
    pub(crate) fn new(source: &Arc<Source>, span: &Range<usize>, problem: impl Into<String>) -> Self {
        let span = source.tidy(span);
        let position = source.position(span.start);
        Self {
            path: source.path().into(),
            line: position.line,
            column: position.column,
            severity: Severity::Error,
            problem: problem.into(),
            value: shown(&source.text()[span.clone()]),
            help: None,
            related: Vec::new(),
            source: source.clone(),
            span,
        }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn maybe_help(self, help: Option<String>) -> Self {
        Self { help, ..self }
    }

    /// The same as a warning: the file may be used as it is.
    pub fn warning(self) -> Self {
        Self {
            severity: Severity::Warning,
            ..self
        }
    }

    pub(crate) fn related(mut self, span: &Range<usize>, note: impl Into<String>) -> Self {
        let span = self.source.tidy(span);
        let position = self.source.position(span.start);
        self.related.push(Related {
            line: position.line,
            column: position.column,
            note: note.into(),
            span,
        });
        self
    }

    /// The offending line with the place marked, what is wrong, and what would be right. Ends without a newline.
    pub fn render(&self, color: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let whole = self.related.iter().fold(self.span.clone(), |all, related| {
            all.start.min(related.span.start)..all.end.max(related.span.end)
        });
        let excerpt = self.source.excerpt(&whole);
        let title = level.primary_title(self.problem.as_str());
        let mut report = if excerpt.text.len() <= PICTURE_BYTES_MAX {
            title.element(self.picture(&excerpt))
        } else {
            title
                .element(self.origin())
                .elements(self.related.iter().map(|related| {
                    let Related { line, column, note, .. } = related;
                    Level::NOTE.message(format!("{}:{line}:{column}: {note}", self.path))
                }))
        };
        if let Some(help) = &self.help {
            report = report.element(Level::HELP.message(help.as_str()));
        }
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[report])
    }

    fn picture<'a>(&'a self, excerpt: &Excerpt<'a>) -> Snippet<'a, Annotation<'a>> {
        let within = |span: &Range<usize>| {
            let span = self.first_line_of(span);
            span.start - excerpt.start..span.end - excerpt.start
        };
        Snippet::source(excerpt.text)
            .path(self.path.as_str())
            .line_start(excerpt.line)
            .annotation(AnnotationKind::Primary.span(within(&self.span)))
            .annotations(self.related.iter().map(|related| {
                let place = AnnotationKind::Context.span(within(&related.span));
                place.label(related.note.as_str())
            }))
    }

    fn origin(&self) -> Origin<'_> {
        Origin::path(self.path.as_str())
            .line(self.line)
            .char_column(self.column)
    }

    /// A long array is marked on the line where it begins; more would push the message off the screen.
    fn first_line_of(&self, span: &Range<usize>) -> Range<usize> {
        let text = &self.source.text()[span.clone()];
        let end = text.find(['\n', '\r']).unwrap_or(text.len());
        span.start..span.start + end
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.path, self.line, self.column, self.problem)?;
        if let Some(help) = &self.help {
            write!(f, "; {help}")?;
        }
        Ok(())
    }
}

impl PartialEq for Diagnostic {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string() && self.severity == other.severity
    }
}

impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Diagnostic", 8)?;
        out.serialize_field("path", &self.path)?;
        out.serialize_field("line", &self.line)?;
        out.serialize_field("column", &self.column)?;
        out.serialize_field("severity", &self.severity)?;
        out.serialize_field("problem", &self.problem)?;
        out.serialize_field("value", &self.value)?;
        out.serialize_field("help", &self.help)?;
        out.serialize_field("related", &self.related)?;
        out.end()
    }
}

/// All that is wrong with a file, in the order of its lines. Never empty.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Errors(Vec<Diagnostic>);

impl Errors {
    /// Sorts by place; what is reported twice at one place is told once.
    pub(crate) fn new(mut found: Vec<Diagnostic>) -> Self {
        in_order(&mut found);
        Self(found)
    }

    /// Each of them as a picture, with a blank line between.
    pub fn render(&self, color: bool) -> String {
        let mut pictures: Vec<String> = self
            .0
            .iter()
            .take(RENDERED_MAX)
            .map(|error| error.render(color))
            .collect();
        if self.0.len() > RENDERED_MAX {
            pictures.push(format!("and {} more errors", self.0.len() - RENDERED_MAX));
        }
        pictures.join("\n\n")
    }
}

/// Sorts by place, and drops what repeats the one before.
pub(crate) fn in_order(found: &mut Vec<Diagnostic>) {
    found.sort_by(|a, b| (a.span.start, &a.problem).cmp(&(b.span.start, &b.problem)));
    found.dedup_by(|a, b| a.span == b.span && a.problem == b.problem);
}

impl std::ops::Deref for Errors {
    type Target = [Diagnostic];
    fn deref(&self) -> &[Diagnostic] {
        &self.0
    }
}

impl IntoIterator for Errors {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (count, error) in self.0.iter().enumerate() {
            if count > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}
