//! From text to a cluster, or to all that is wrong with it.

use crate::diagnostic::{Diagnostic, Errors, Severity, in_order};
use crate::fence;
use crate::judge;
use crate::keys::FILE;
use crate::site;
use crate::source::Source;
use crate::syntax;
use crate::tree::Table;
use crate::walk::{Places, Walker};
use model::{Cluster, ServiceName};
use std::sync::Arc;
use toml::de::DeTable;

/// The largest file that is read; ten thousand services fit.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// A file that is right.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// What it declares.
    pub cluster: Cluster,
    /// What is allowed and probably not meant.
    pub warnings: Vec<Diagnostic>,
    source: Arc<Source>,
    places: Places,
}

impl Parsed {
    /// A finding of a later check (no such command, port in use, no such user), with its place in the file.
    ///
    /// `key` is a key of the service, dotted within tables and with the number of an element of an array:
    /// `listen`, `limits.open_files`, `command.0`. If it is not in the file, the service's own heading is shown.
    pub fn diagnostic(&self, service: &str, key: &str, problem: String, help: Option<String>) -> Diagnostic {
        let mut path = format!("service.{service}.{key}");
        let span = loop {
            if let Some(span) = self.places.get(&path) {
                break span.clone();
            }
            match path.rfind('.') {
                Some(at) => path.truncate(at),
                None => break 0..0,
            }
        };
        Diagnostic::new(&self.source, &span, problem).maybe_help(help)
    }

    /// The text it was read from.
    pub fn text(&self) -> &str {
        self.source.text()
    }

    /// The path it is known by.
    pub fn path(&self) -> &str {
        self.source.path()
    }
}

/// Reads a file as it came from the disk; one that is no UTF-8 is refused with the place of the first wrong byte.
pub fn parse_bytes(bytes: &[u8], path: &str) -> Result<Parsed, Errors> {
    // Before its text: whoever reads no further may have cut a letter in two.
    if bytes.len() > FILE_BYTES_MAX {
        return Err(too_large(path));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text, path),
        Err(error) => {
            let at = error.valid_up_to();
            let end = bytes.len().min(at + FILE_BYTES_MAX);
            let start = bytes[..at]
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |newline| newline + 1);
            // Lines before the wrong one are valid; from the wrong one on, what can be read is shown.
            let text = [&bytes[..start], &bytes[start..end]]
                .map(String::from_utf8_lossy)
                .concat();
            let source = Arc::new(Source::new(path, &text));
            let problem = format!("the byte 0x{:02X} is not text: the file must be UTF-8", bytes[at]);
            let width = char::REPLACEMENT_CHARACTER.len_utf8();
            let error = Diagnostic::new(&source, &(at..at + width), problem);
            Err(Errors::new(vec![error.help("save the file as UTF-8")]))
        }
    }
}

/// How much larger is not told: whoever read it may have stopped there.
fn too_large(path: &str) -> Errors {
    // The text itself is not kept: nothing in it is worth showing.
    let source = Arc::new(Source::new(path, ""));
    let problem = format!(
        "the file is larger than {} KiB, the most that is read",
        FILE_BYTES_MAX / 1024
    );
    let error = Diagnostic::new(&source, &(0..0), problem);
    Errors::new(vec![error.help("is it the right file?")])
}

/// Reads the text of a file. `path` is what messages call it, and names the cluster if the file does not.
pub fn parse(text: &str, path: &str) -> Result<Parsed, Errors> {
    if text.len() > FILE_BYTES_MAX {
        return Err(too_large(path));
    }
    let source = Arc::new(Source::new(path, text));
    let (document, mistakes) = DeTable::parse_recoverable(text);
    if !mistakes.is_empty() {
        return Err(Errors::new(syntax::diagnostics(&mistakes, document.get_ref(), &source)));
    }
    let mut walker = Walker::new(&source);
    let file = walker.table("", &FILE, document.get_ref(), 0..0);
    let Walker { mut found, places, .. } = walker;
    let declared = judge::services(file.map("service"), &site::externals(&file), &source, &mut found);
    site::judge_names(&file, &source, &mut found);
    if declared.is_empty() && found.is_empty() {
        let error = Diagnostic::new(&source, &(0..0), "no service is declared");
        found.push(
            error.help("add one: a line `[service.web]`, and below it `command = [\"./web\", \"--port\", \"{port}\"]`"),
        );
    }
    let site = site::site(&file, &source, &mut found);
    fence::judge(&file, &declared, &site, &source, &mut found);
    in_order(&mut found);
    let (warnings, errors): (Vec<_>, Vec<_>) = found.into_iter().partition(|one| one.severity == Severity::Warning);
    if !errors.is_empty() {
        return Err(Errors::new(errors));
    }
    let services = declared
        .into_iter()
        .filter_map(|one| Some((ServiceName::new(one.name).ok()?, one.service)))
        .collect();
    let cluster = Cluster {
        name: name(&file, path),
        services,
        alerts: crate::build::alerts(&file),
        site,
    };
    Ok(Parsed {
        cluster,
        warnings,
        source,
        places,
    })
}

fn name(file: &Table, path: &str) -> String {
    let stem = || {
        let name = path.rsplit('/').next().unwrap_or_default();
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        if model::name_problem(stem).is_none() {
            stem
        } else {
            "understudy"
        }
    };
    file.text("name").unwrap_or_else(stem).to_owned()
}
