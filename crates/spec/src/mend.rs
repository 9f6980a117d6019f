//! Guesses at what was meant, for the help below an error. Nothing is ever taken to mean something else by itself.

use crate::keys::SERVICE;
use crate::kind::{Kind, TableKind, TextRule};
use crate::units;
use toml::de::DeValue;

/// Words of other tools for keys of ours.
const SYNONYMS: [(&str, &str); 38] = [
    ("cmd", "command"),
    ("exec", "command"),
    ("run", "command"),
    ("program", "command"),
    ("replicas", "active"),
    ("instances", "active"),
    ("count", "active"),
    ("copies", "active"),
    ("spare", "standby"),
    ("backup", "standby"),
    ("quorum", "need"),
    ("singleton", "exclusive"),
    ("bind", "listen"),
    ("endpoint", "listen"),
    ("vip", "address"),
    ("virtual_ip", "address"),
    ("floating_ip", "address"),
    ("mode", "protocol"),
    ("device", "interface"),
    ("health", "check"),
    ("healthcheck", "check"),
    ("health_check", "check"),
    ("probe", "check"),
    ("liveness", "check"),
    ("readiness", "check"),
    ("depends_on", "needs"),
    ("after", "needs"),
    ("requires", "needs"),
    ("environment", "env"),
    ("cwd", "dir"),
    ("workdir", "dir"),
    ("working_directory", "dir"),
    ("interval", "every"),
    ("period", "every"),
    ("retries", "fail_after"),
    ("threshold", "fail_after"),
    ("nofile", "open_files"),
    ("nproc", "processes"),
];

/// The key of the table that an unknown one was meant to be.
pub(crate) fn key_meant_by(word: &str, table: &TableKind) -> Option<&'static str> {
    let lower = word.to_ascii_lowercase().replace('-', "_");
    let names = || table.keys.iter().map(|key| key.name);
    let synonym = SYNONYMS
        .iter()
        .find(|(theirs, _)| *theirs == lower)
        .map(|(_, ours)| *ours);
    names()
        .find(|name| *name == lower)
        .or_else(|| synonym.and_then(|ours| names().find(|name| *name == ours)))
        .or_else(|| similar(&lower, names()))
}

/// The candidate that differs from the word by no more than a slip of the finger or two.
pub(crate) fn similar<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const WORD_BYTES_MAX: usize = 64;
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    candidates
        .map(|candidate| (strsim::osa_distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(word.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `true` or `false`, where a word for one of them was written.
pub(crate) fn truth_meant_by(word: &str) -> Option<&'static str> {
    match word.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Some("true"),
        "false" | "no" | "off" => Some("false"),
        _ => None,
    }
}

/// The same value as TOML of the right type, where it is clear what was meant.
pub(crate) fn value_meant_by(kind: &Kind, value: &DeValue<'_>, example: Option<&str>) -> Option<String> {
    let number = match value {
        DeValue::Integer(_) | DeValue::Float(_) => Some(bare(value)?),
        _ => None,
    };
    let text = match value {
        DeValue::String(text) => Some(text.trim()),
        _ => None,
    };
    match kind {
        Kind::Text(TextRule::Any | TextRule::User) => match value {
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) => Some(quoted(&bare(value)?)),
            _ => None,
        },
        Kind::Text(TextRule::Percent) => {
            let percent = format!("{}%", number?);
            model::Share::parse(&percent).map(|_| quoted(&percent))
        }
        Kind::Bool => truth_meant_by(text?).map(Into::into),
        Kind::Only(_) => None,
        Kind::Integer { min, max } => {
            let number: u64 = match number {
                Some(number) => number.strip_suffix(".0")?.parse().ok()?,
                None => text?.parse().ok()?,
            };
            (*min..=*max).contains(&number).then(|| number.to_string())
        }
        Kind::Duration { min, max } => {
            units::with_likely_unit(&number?, example, *min..=*max).map(|text| quoted(&text))
        }
        Kind::Size { min, max } => {
            let text = format!("{}B", number?);
            let size = units::size(&text).ok()?;
            (*min..=*max).contains(&size).then(|| quoted(&text))
        }
        Kind::Address => {
            let port: u16 = number?.parse().ok().filter(|port| *port != 0)?;
            Some(quoted(&format!("127.0.0.1:{port}")))
        }
        Kind::Command => command_meant_by(text?),
        Kind::Array(of) => {
            let one = match (of, value) {
                (Kind::Text(_), DeValue::String(text)) => quoted(text),
                _ => value_meant_by(of, value, None)?,
            };
            Some(format!("[{one}]"))
        }
        Kind::Table(table) if table.name == "check" => match text? {
            "tcp" => Some("{ tcp = true }".into()),
            "grpc" => Some("{ grpc = true }".into()),
            "http" => Some(r#"{ http = "/" }"#.into()),
            path if path.starts_with('/') => Some(format!("{{ http = {} }}", quoted(path))),
            _ => None,
        },
        Kind::Either(kinds) => kinds.iter().find_map(|kind| value_meant_by(kind, value, example)),
        Kind::Text(_) | Kind::Choice { .. } | Kind::Map { .. } | Kind::Table(_) => None,
    }
}

/// Splits a command line at its blanks; one that needs a shell is given to a shell.
fn command_meant_by(line: &str) -> Option<String> {
    const LINE_BYTES_MAX: usize = 200;
    if line.is_empty() || line.len() > LINE_BYTES_MAX {
        return None;
    }
    let for_shell = line.contains(['|', '&', ';', '<', '>', '$', '`', '*', '?', '"', '\'', '\\', '~']);
    let words: Vec<String> = if for_shell {
        ["sh", "-c", line].map(quoted).into()
    } else {
        line.split_whitespace().map(quoted).collect()
    };
    Some(format!("[{}]", words.join(", ")))
}

/// Why a key that nobody knows at the top of the file may have been written there.
pub(crate) fn misplaced(word: &str, value: &DeValue<'_>) -> Option<String> {
    let shown = crate::source::shown(word);
    if let DeValue::Table(table) = value
        && table.contains_key("command")
        && model::name_problem(word).is_none()
    {
        return Some(format!("write `[service.{shown}]`"));
    }
    SERVICE.key(word)?;
    Some(format!(
        "`{shown}` belongs to a service: write it below `[service.NAME]`"
    ))
}

/// A TOML string.
pub(crate) fn quoted(text: &str) -> String {
    if text.contains(['"', '\\']) && !text.contains('\'') && !text.chars().any(char::is_control) {
        return format!("'{text}'");
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn bare(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::Integer(number) => Some(crate::walk::integer(number)?.to_string()),
        DeValue::Float(number) => Some(number.as_str().into()),
        DeValue::Boolean(value) => Some(value.to_string()),
        _ => None,
    }
}
