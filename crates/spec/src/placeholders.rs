//! Which placeholders have a meaning where.

use crate::diagnostic::Diagnostic;
use crate::mend;
use crate::source::{Source, shown};
use crate::tree::{Data, Table, Value};
use model::template::{self, TemplateError};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Each placeholder, where it has a meaning, and which: for the check here and for the reference page.
pub(crate) const MEANINGS: [(&str, &str, &str); 15] = [
    ("port", EVERYWHERE, "the port given to the instance"),
    (
        "host",
        EVERYWHERE,
        "the IP address of the instance's node, on which it is to listen",
    ),
    (
        "data",
        EVERYWHERE,
        "the data folder of the instance; it is made, and kept over restarts",
    ),
    ("instance", EVERYWHERE, "the instance, as in `db-2`"),
    ("service", EVERYWHERE, "the service, as in `db`"),
    ("node", EVERYWHERE, "the node the instance runs on"),
    ("cluster", EVERYWHERE, "the name of the cluster"),
    ("understudy", EVERYWHERE, "the path of the `understudy` program"),
    (
        "service.NAME.address",
        EVERYWHERE,
        "`listen` of the service NAME, as in `127.0.0.1:6379`",
    ),
    ("service.NAME.host", EVERYWHERE, "its IP address alone"),
    ("service.NAME.port", EVERYWHERE, "its port alone"),
    ("role", HOOKS, "`active` or `standby`: what the instance is to be"),
    ("epoch", HOOKS, "the number of the promotion; it only rises"),
    ("active.host", FOLLOWERS, "the IP address of the active to follow"),
    ("active.port", FOLLOWERS, "the port of the active to follow"),
];

const EVERYWHERE: &str = "everywhere";
const HOOKS: &str = "`on_promote`, `on_demote`, `on_follow`";
const FOLLOWERS: &str = "`on_follow`, `standby_check`";

/// A text in which placeholders are filled in.
struct Template<'a> {
    /// The key it belongs to.
    key: &'static str,
    value: &'a Value,
    text: &'a str,
}

/// Where a service's own port is first used, if it is.
pub(crate) fn use_of_port(table: &Table, source: &Source) -> Option<(String, Range<usize>)> {
    templates(table).into_iter().find_map(|template| {
        let found = template::placeholders(template.text).ok()?;
        let port = found
            .into_iter()
            .find(|p| p.name == "port" || p.name == "active.port")?;
        Some((port.name, place(source, &template, &port.range)))
    })
}

/// Services by name, with whether they have a `listen` (or a mistake in it).
pub(crate) type Listening<'a> = BTreeMap<&'a str, bool>;

/// Notes each placeholder of a service that has no meaning where it stands.
pub(crate) fn check(table: &Table, source: &Arc<Source>, listening: &Listening<'_>, found: &mut Vec<Diagnostic>) {
    for template in templates(table) {
        match template::placeholders(template.text) {
            Ok(placeholders) => {
                for placeholder in placeholders {
                    let span = place(source, &template, &placeholder.range);
                    if let Some((problem, help)) = problem(&placeholder.name, template.key, listening) {
                        found.push(Diagnostic::new(source, &span, problem).help(help));
                    } else if template.text[..placeholder.range.start].ends_with('$') {
                        let name = &placeholder.name;
                        let problem =
                            format!("`${{{name}}}` is no shell variable: `{{{name}}}` is filled in, the `$` stays");
                        let help = format!("write `${{{{{name}}}}}` for the shell's variable");
                        found.push(Diagnostic::new(source, &span, problem).help(help).warning());
                    }
                }
                note_near_misses(&template, source, found);
            }
            Err(error) => {
                let span = place(source, &template, &error.range());
                let TemplateError::Unclosed { name, .. } = error else {
                    continue;
                };
                let name = shown(&name);
                let problem = format!("`{{{name}` is not closed");
                let help = format!("write `{{{name}}}`, or `{{{{{name}` to keep the brace as it is");
                found.push(Diagnostic::new(source, &span, problem).help(help));
            }
        }
    }
}

/// All texts of a service in which placeholders are filled in.
fn templates(table: &Table) -> Vec<Template<'_>> {
    let mut values: Vec<(&'static str, &Value)> = Vec::new();
    values.extend(table.array("command").iter().map(|value| ("command", value)));
    values.extend(table.map("env").iter().map(|entry| ("env", &entry.value)));
    values.extend(table.get("dir").map(|value| ("dir", value)));
    for key in ["check", "standby_check"] {
        let Some(check) = table.table(key) else { continue };
        values.extend(check.array("exec").iter().map(|value| (key, value)));
        values.extend(
            ["http", "body"]
                .into_iter()
                .filter_map(|part| Some((key, check.get(part)?))),
        );
    }
    for key in ["on_promote", "on_demote", "on_follow"] {
        let command = match table.get(key).map(|value| &value.data) {
            Some(Data::Table(hook)) => hook.array("command"),
            Some(Data::Array(command)) => command,
            _ => &[],
        };
        values.extend(command.iter().map(|value| (key, value)));
    }
    values
        .into_iter()
        .filter_map(|(key, value)| {
            Some(Template {
                key,
                value,
                text: value.as_text()?,
            })
        })
        .collect()
}

/// Why a placeholder has no meaning in a key, and what to do.
fn problem(name: &str, key: &str, listening: &Listening<'_>) -> Option<(String, String)> {
    if let Some(rest) = name.strip_prefix("service.") {
        return problem_with_service(name, rest, listening);
    }
    let meaning = MEANINGS.iter().find(|(known, ..)| *known == name);
    if let Some((_, places, _)) = meaning {
        let is_hook = key.starts_with("on_");
        let has_meaning = match *places {
            HOOKS => is_hook,
            FOLLOWERS => matches!(key, "on_follow" | "standby_check"),
            _ => true,
        };
        let problem = || format!("`{{{name}}}` has no meaning in `{key}`");
        return (!has_meaning).then(|| (problem(), format!("it can be used in {places}")));
    }
    let known = MEANINGS
        .iter()
        .map(|(known, ..)| *known)
        .filter(|known| !known.contains("NAME"));
    let keep = format!("write `{{{{{name}}}}}` to keep the braces as they are");
    let help = match mend::similar(name, known) {
        Some(meant) => format!("did you mean `{{{meant}}}`? If not, {keep}"),
        None => keep,
    };
    Some((format!("unknown placeholder `{{{name}}}`"), help))
}

/// What may be wrong with `service.NAME.FIELD`.
fn problem_with_service(name: &str, rest: &str, listening: &Listening<'_>) -> Option<(String, String)> {
    const FIELDS: [&str; 3] = ["address", "host", "port"];
    let (service, field) = rest.split_once('.').unwrap_or((rest, ""));
    if !FIELDS.contains(&field) {
        let field = mend::similar(field, FIELDS.into_iter()).unwrap_or("address");
        let problem = format!("unknown placeholder `{{{name}}}`");
        return Some((problem, format!("did you mean `{{service.{service}.{field}}}`?")));
    }
    match listening.get(service) {
        Some(true) => None,
        Some(false) => Some((
            format!("`{{{name}}}` has no value: `{service}` has no `listen`"),
            format!("add `listen = \"127.0.0.1:PORT\"` to `[service.{service}]`"),
        )),
        None => {
            let help = match mend::similar(service, listening.keys().copied()) {
                Some(meant) => format!("did you mean `{{service.{meant}.{field}}}`?"),
                None => format!("declare it: `[service.{service}]`"),
            };
            Some((format!("there is no service `{service}` for `{{{name}}}`"), help))
        }
    }
}

/// `{Port}` and `{ port }` are no placeholders; they were probably meant to be.
fn note_near_misses(template: &Template<'_>, source: &Arc<Source>, found: &mut Vec<Diagnostic>) {
    for (start, _) in template.text.match_indices('{') {
        let inner = &template.text[start + 1..];
        let Some(length) = inner.find(['{', '}']).filter(|at| inner[*at..].starts_with('}')) else {
            continue;
        };
        let inner = &inner[..length];
        let meant = inner.trim().to_ascii_lowercase();
        if meant != inner && MEANINGS.iter().any(|(known, ..)| *known == meant) {
            let span = place(source, template, &(start..start + length + 2));
            let problem = format!("`{{{}}}` is no placeholder and is passed on as it stands", shown(inner));
            let help = format!("did you mean `{{{meant}}}`?");
            found.push(Diagnostic::new(source, &span, problem).help(help).warning());
        }
    }
}

/// Where a part of a text stands in the file; the whole text if it is written with escapes.
fn place(source: &Source, template: &Template<'_>, range: &Range<usize>) -> Range<usize> {
    let whole = &template.value.span;
    let written = source.text().get(whole.clone()).unwrap_or_default();
    match written.find(template.text) {
        Some(at) if at <= 3 && at + template.text.len() >= written.len().saturating_sub(3) => {
            let start = whole.start + at;
            start + range.start..start + range.end
        }
        _ => whole.clone(),
    }
}
