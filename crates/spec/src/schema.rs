//! The JSON Schema (2020-12) of the file, for editors: made from [`crate::keys`].

use crate::keys::{FILE, TABLES};
use crate::kind::{Default, Key, Kind, TableKind, TextRule};
use crate::units::{DURATION_PATTERN, SIZE_PATTERN};
use serde_json::{Map, Value, json};
use toml::de::DeValue;

/// What a share in percent looks like.
pub(crate) const PERCENT_PATTERN: &str = r"^(0\.(0*[1-9][0-9]*)|[1-9][0-9]?(\.[0-9]{1,4})?) *%$";
/// What an address for alerts looks like.
pub(crate) const URL_PATTERN: &str = r"^https?://[^/@]+(/.*)?$";

/// Which of these texts are addresses that a host can have, only the parser knows.
pub(crate) const HOST_ADDRESS_PATTERN: &str = r"^([0-9.]+|[0-9A-Fa-f:.]+)/[0-9]{1,3}$";
pub(crate) const INTERFACE_PATTERN: &str = r"^[^\s/]{1,15}$";
pub(crate) const ZONE_PATTERN: &str = r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$";
/// Above 0 and below 100, with at most 7 digits after the point.
const NAME_PATTERN: &str = "^[a-z]([a-z0-9-]{0,46}[a-z0-9])?$";

/// The schema. It takes every file that [`crate::parse`] takes; what keys have to do with each other (needs that form
/// a circle, an address that is taken, placeholders) only the parser sees.
pub fn json_schema() -> Value {
    let mut schema = table(&FILE);
    let defs: Map<String, Value> = TABLES
        .iter()
        .filter(|kind| kind.name != FILE.name)
        .map(|kind| (kind.name.to_owned(), table(kind)))
        .collect();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Understudy");
    schema["$defs"] = Value::Object(defs);
    schema
}

fn table(kind: &TableKind) -> Value {
    let properties: Map<String, Value> = kind
        .keys
        .iter()
        .map(|key| (key.name.to_owned(), property(key)))
        .collect();
    let required: Vec<&str> = kind
        .keys
        .iter()
        .filter(|key| matches!(key.default, Default::Required))
        .map(|key| key.name)
        .collect();
    let mut schema = json!({
        "type": "object",
        "description": kind.doc,
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if !kind.exactly_one.is_empty() {
        schema["oneOf"] = kind
            .exactly_one
            .iter()
            .map(|name| json!({ "required": [name] }))
            .collect();
    }
    if !kind.only_beside.is_empty() {
        let pairs = kind
            .only_beside
            .iter()
            .map(|(name, beside)| ((*name).to_owned(), json!([beside])));
        schema["dependentRequired"] = Value::Object(pairs.collect());
    }
    schema
}

fn property(key: &Key) -> Value {
    let mut schema = value(&key.kind);
    let mut description = key.doc.to_owned();
    match key.default {
        Default::Required => {}
        Default::Is(literal) => {
            if let Ok(literal) = DeValue::parse(literal) {
                schema["default"] = json_of(literal.get_ref());
            }
        }
        Default::Rule(rule) => description += &format!(" Default: {rule}."),
    }
    if let Kind::Duration { .. } | Kind::Size { .. } = key.kind {
        description += &format!(" As {}.", key.kind.expected());
    }
    schema["description"] = json!(description);
    if let Ok(example) = DeValue::parse(key.example) {
        schema["examples"] = json!([json_of(example.get_ref())]);
    }
    schema
}

fn value(kind: &Kind) -> Value {
    match kind {
        Kind::Text(rule) => text(*rule),
        Kind::Only(only) => json!({ "const": only }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Duration { .. } => json!({ "type": "string", "pattern": DURATION_PATTERN }),
        Kind::Size { .. } => json!({ "type": "string", "pattern": SIZE_PATTERN }),
        Kind::Choice { of, .. } => {
            let words: Vec<&str> = of.iter().map(|(word, _)| *word).collect();
            json!({ "type": "string", "enum": words })
        }
        Kind::Address => json!({ "type": "string", "pattern": r"^([0-9.]+|\[[0-9A-Fa-f:.%]+\]):[0-9]{1,5}$" }),
        Kind::Command => json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 }),
        Kind::Array(of) => json!({ "type": "array", "items": value(of) }),
        Kind::Map { names, of } => {
            let names = match names {
                TextRule::Variable => json!({ "pattern": "^[^=]+$", "not": { "pattern": "^UNDERSTUDY_" } }),
                rule => text(*rule),
            };
            let mut schema = json!({ "type": "object", "propertyNames": names, "additionalProperties": value(of) });
            if let Kind::Table(table) = of
                && table.name == "service"
            {
                schema["minProperties"] = json!(1);
            }
            schema
        }
        Kind::Table(table) => json!({ "$ref": format!("#/$defs/{}", table.name) }),
        Kind::Either(kinds) => json!({ "anyOf": kinds.iter().map(value).collect::<Vec<_>>() }),
    }
}

fn text(rule: TextRule) -> Value {
    match rule {
        TextRule::Any | TextRule::Variable => json!({ "type": "string" }),
        TextRule::Name => json!({ "type": "string", "pattern": NAME_PATTERN }),
        TextRule::HttpPath => json!({ "type": "string", "pattern": "^/" }),
        TextRule::Folder => json!({ "type": "string", "pattern": r"^(/|\{data\})" }),
        TextRule::User => json!({ "type": "string", "pattern": r"^[^\s:/]+$" }),
        TextRule::HostAddress => json!({ "type": "string", "pattern": HOST_ADDRESS_PATTERN }),
        TextRule::Percent => json!({ "type": "string", "pattern": PERCENT_PATTERN }),
        TextRule::File => json!({ "type": "string", "pattern": "^/.*[^/]$" }),
        TextRule::Url => json!({ "type": "string", "pattern": URL_PATTERN }),
        TextRule::Interface => json!({ "type": "string", "pattern": INTERFACE_PATTERN }),
        TextRule::Zone => json!({ "type": "string", "pattern": ZONE_PATTERN }),
    }
}

/// The same value in JSON. Dates have no use in the file and become text.
pub(crate) fn json_of(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => json!(text),
        DeValue::Integer(number) => match crate::walk::integer(number).and_then(|number| i64::try_from(number).ok()) {
            Some(number) => json!(number),
            None => json!(number.to_string()),
        },
        DeValue::Float(number) => number
            .as_str()
            .parse::<f64>()
            .map_or(Value::Null, |number| json!(number)),
        DeValue::Boolean(value) => json!(value),
        DeValue::Datetime(value) => json!(value.to_string()),
        DeValue::Array(values) => values.iter().map(|value| json_of(value.get_ref())).collect(),
        DeValue::Table(table) => Value::Object(
            table
                .iter()
                .map(|(key, value)| (key.get_ref().to_string(), json_of(value.get_ref())))
                .collect(),
        ),
    }
}
