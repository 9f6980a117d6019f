//! Parser, schema, reference page and the checked-in documents say the same.

use crate::keys::TABLES;
use crate::kind::{Default, Key, Kind, TableKind};
use crate::schema::json_of;
use crate::walk::Walker;
use crate::{json_schema, parse, reference};
use model::Cluster;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use toml::de::{DeTable, DeValue};

#[test]
fn the_schema_is_checked_in() {
    let schema = serde_json::to_string_pretty(&json_schema()).unwrap() + "\n";
    is_checked_in("understudy.schema.json", &schema);
}

#[test]
fn the_reference_is_checked_in() {
    is_checked_in("file.md", &reference());
}

#[test]
fn parser_and_schema_know_the_same_keys() {
    let schema = json_schema();
    for table in TABLES {
        let in_schema: BTreeSet<&str> = definition(&schema, table)["properties"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        // What the parser takes is tried, not read from its tables.
        for name in &in_schema {
            assert!(
                !unknown_keys(table).contains(*name),
                "the parser does not know `{name}` of {}",
                table.name
            );
        }
        for key in table.keys {
            assert!(
                in_schema.contains(key.name),
                "the schema does not know `{}` of {}",
                key.name,
                table.name
            );
        }
        assert!(unknown_keys(table).contains("surely-unknown"));
        assert_eq!(definition(&schema, table)["additionalProperties"], false);
    }
}

#[test]
fn every_key_is_in_the_reference_with_its_default() {
    let page = reference();
    for (table, key) in all_keys() {
        let section = page
            .split("\n## ")
            .find(|section| section.starts_with(table.heading))
            .unwrap();
        let row = section
            .lines()
            .find(|line| line.starts_with(&format!("| `{}` |", key.name)))
            .unwrap();
        let default = match key.default {
            Default::Required => "required".to_owned(),
            Default::Is(literal) => format!("`{literal}`"),
            Default::Rule(rule) => rule.to_owned(),
        };
        assert!(row.contains(&default) && row.contains(key.doc), "{row}");
    }
}

#[test]
fn every_default_and_example_is_itself_right() {
    for (table, key) in all_keys() {
        if let Default::Is(literal) = key.default {
            assert_eq!(
                complaints(key, literal),
                "",
                "default of `{}` of {}",
                key.name,
                table.name
            );
            assert_ne!(literal, key.example, "an example that is the default teaches nothing");
        }
        assert_eq!(
            complaints(key, key.example),
            "",
            "example of `{}` of {}",
            key.name,
            table.name
        );
    }
}

/// No key is read and forgotten: each example makes a different cluster from the same file without it.
#[test]
fn every_key_changes_what_is_run() {
    for (table, key) in all_keys() {
        let with = format!("{} = {}", key.name, key.example);
        let (before, after) = match table.name {
            "file" if key.name == "service" => (base(""), cluster(&with)),
            "file" if key.name == "zone" => (
                site("[node.a]\nzone = \"dc1/rack1\""),
                cluster(&format!("{with}\nnode = {{ a = {{ zone = \"dc1/rack1\" }} }}\n{SITE}")),
            ),
            "file" => (base(""), cluster(&format!("{with}\n{}", base_text("")))),
            "service" if key.name == "command" => {
                (base(""), cluster(&base_text("").replace("command = [\"a\"]", &with)))
            }
            "service" if key.name == "port" => (
                base(""),
                cluster(&base_text("").replace("listen = \"127.0.0.1:1\"", &with)),
            ),
            "service" if key.name == "need" => (base("active = 3"), base(&format!("active = 3\n{with}"))),
            "service" if key.name == "address" => (base(EXCLUSIVE), base(&format!("{EXCLUSIVE}\n{with}"))),
            "service" if key.name == "fence" => (fenced(""), fenced(&with)),
            "service" => (base(""), base(&with)),
            "address" if key.name == "ip" => (base(EXCLUSIVE), base(&format!("{EXCLUSIVE}\naddress = {{ {with} }}"))),
            "address" => (
                base(&format!("{EXCLUSIVE}\naddress = {{ ip = \"10.0.0.100/24\" }}")),
                base(&format!("{EXCLUSIVE}\naddress = {{ ip = \"10.0.0.100/24\", {with} }}")),
            ),
            "check" if table.exactly_one.contains(&key.name) => (
                base("check = { exec = [\"b\"] }"),
                base(&format!("check = {{ {with} }}")),
            ),
            "check" => (
                base("check = { http = \"/\" }"),
                base(&format!("check = {{ http = \"/\", {with} }}")),
            ),
            "hook" if key.name == "command" => (
                base("on_promote = [\"b\"]"),
                base(&format!("on_promote = {{ {with} }}")),
            ),
            "hook" => (
                base("on_promote = [\"b\"]"),
                base(&format!("on_promote = {{ command = [\"b\"], {with} }}")),
            ),
            "alerts" => {
                let alerts = |with: &str| cluster(&format!("{}\n[alerts]\n{with}\n", base_text("")));
                (alerts(""), alerts(&with))
            }
            "objective" if key.name == "latency_share" => (
                base("objective = { latency = \"1s\" }"),
                base(&format!("objective = {{ latency = \"1s\", {with} }}")),
            ),
            "node" if key.name == "after_fence" => (device("agent = \"f\"", ""), device("agent = \"f\"", &with)),
            "fence" if key.name == "agent" => (device("agent = \"f\"", ""), device(&with, "")),
            "fence" => (
                device("agent = \"f\"", ""),
                device(&format!("agent = \"f\", {with}"), ""),
            ),
            "secret" => {
                let secret = |inner: &str| device(&format!("agent = \"f\", secrets = {{ p = {{ {inner} }} }}"), "");
                (secret("file = \"/a\""), secret(&with))
            }
            "node" => (site("[node.a]"), site(&format!("[node.a]\n{with}"))),
            "switch" => (site("[switch.x]"), site(&format!("[switch.x]\n{with}"))),
            "rate" => (site("[external.pay]"), site(&format!("[external.pay]\n{with}"))),
            "rates" => (site(""), site(&format!("[rates]\n{with}"))),
            nested => (base(""), base(&format!("{nested} = {{ {with} }}"))),
        };
        assert_ne!(before, after, "`{}` of {} changes nothing", key.name, table.name);
    }
}

#[test]
fn every_word_of_a_choice_has_its_own_meaning() {
    for (table, key) in all_keys() {
        let Kind::Choice { of, .. } = &key.kind else { continue };
        let mut clusters: Vec<Cluster> = Vec::new();
        for (word, _) in *of {
            let with = format!("{} = \"{word}\"", key.name);
            let cluster = match table.name {
                "service" if key.name == "fence" => fenced(&with),
                "service" => base(&with),
                "node" => device("agent = \"f\"", &with),
                name => base(&format!("{name} = {{ {with} }}")),
            };
            assert!(
                !clusters.contains(&cluster),
                "`{word}` of `{}` is like another",
                key.name
            );
            clusters.push(cluster);
        }
    }
}

#[test]
fn the_schema_takes_what_the_parser_takes_and_refuses_what_is_wrong_by_itself() {
    let schema = json_schema();
    for (table, key) in all_keys() {
        let (prefix, suffix) = match table.name {
            "service" if key.name != "address" => ("", ""),
            "check" if !table.exactly_one.contains(&key.name) => ("check = { http = \"/\", ", " }"),
            "check" => ("check = { ", " }"),
            "service" if key.name == "address" => ("exclusive = true\n", ""),
            "address" if key.name == "ip" => ("exclusive = true\naddress = { ", " }"),
            "address" => ("exclusive = true\naddress = { ip = \"10.0.0.1/8\", ", " }"),
            "hook" => ("on_follow = { command = [\"a\"], ", " }"),
            "limits" => ("limits = { ", " }"),
            "reserve" => ("reserve = { ", " }"),
            "stop" => ("stop = { ", " }"),
            "restart" => ("restart = { ", " }"),
            "logs" => ("logs = { ", " }"),
            "hold" => ("hold = { ", " }"),
            "objective" if key.name == "latency_share" => ("objective = { latency = \"1s\", ", " }"),
            "objective" => ("objective = { ", " }"),
            _ => continue,
        };
        // A fence needs devices, which stand elsewhere.
        if key.name == "command" || key.name == "fence" {
            continue;
        }
        let values = [
            key.example,
            "0",
            "1",
            "-1",
            "1.5",
            "true",
            "false",
            "\"\"",
            "\"a\"",
            "\"1s\"",
            "\"5\"",
            "[]",
            "[\"a\"]",
            "[1]",
            "{}",
            "{ a = \"b\" }",
            "{ a = 1 }",
            "\"/a\"",
            "\"SIGTERM\"",
            "\"10MB\"",
            "{ tcp = true }",
            "{ tcp = true, http = \"/\" }",
            "100000000000",
            "[[]]",
        ];
        for value in values {
            let text = base_text(&format!("{prefix}{} = {value}{suffix}", key.name));
            let errors = parse(&text, "x.toml").err().map(|errors| errors.to_string());
            // Ranges of durations and sizes, and what keys have to do with each other, are beyond a schema.
            let is_beyond = errors.as_ref().is_some_and(|errors| {
                [
                    "a duration from",
                    "a size from",
                    "no service",
                    "each other",
                    "the program of",
                    "the instances have no port",
                    "but only",
                ]
                .iter()
                .any(|words| errors.contains(words))
                    && !errors.contains(", not ")
            });
            if !is_beyond {
                assert_eq!(accepts(&schema, &text), errors.is_none(), "{text}\n{errors:?}");
            }
        }
    }
}

/// What nodes and switches may name.
const SITE: &str = "[service.x]\ncommand = [\"a\"]\n[feed.ups-1]\n[switch.sw-1]\n[switch.core-1]\n";

fn site(more: &str) -> Cluster {
    cluster(&format!("{SITE}{more}"))
}

/// A node with a device.
fn device(device: &str, more: &str) -> Cluster {
    site(&format!("[node.a]\nfence = {{ {device} }}\n{more}"))
}

/// A service that may lean on power fencing.
fn fenced(more: &str) -> Cluster {
    let text = base_text(&format!("{EXCLUSIVE}\n{more}"));
    cluster(&format!("{text}[node.a.fence]\nagent = \"f\"\n"))
}

/// What `address` needs.
const EXCLUSIVE: &str = "exclusive = true";

fn is_checked_in(name: &str, generated: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, generated).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        checked_in == generated,
        "docs/{name} is not what crates/spec/src/keys/ says; write it anew: UPDATE_DOCS=1 cargo nextest run -p understudy-spec"
    );
}

fn all_keys() -> impl Iterator<Item = (&'static TableKind, &'static Key)> {
    TABLES
        .into_iter()
        .flat_map(|table| table.keys.iter().map(move |key| (table, key)))
}

fn definition<'a>(schema: &'a Value, table: &TableKind) -> &'a Value {
    if table.name == "file" {
        schema
    } else {
        &schema["$defs"][table.name]
    }
}

/// Of the keys of the schema and one that nobody knows, those of which the parser says that it does not know them.
fn unknown_keys(table: &'static TableKind) -> BTreeSet<String> {
    let schema = json_schema();
    let names = definition(&schema, table)["properties"].as_object().unwrap().keys();
    let text: String = names.map(|name| format!("{name} = 1\n")).collect::<String>() + "surely-unknown = 1\n";
    let source = Arc::new(crate::source::Source::new("", &text));
    let document = DeTable::parse(&text).unwrap();
    let mut walker = Walker::new(&source);
    walker.table("", table, document.get_ref(), 0..0);
    let unknown = walker.found.iter().filter(|one| one.problem.starts_with("unknown key"));
    unknown.map(|one| one.value.clone()).collect()
}

/// What the parser says about a value of a key, all else being right.
fn complaints(key: &'static Key, literal: &str) -> String {
    let text = format!("{} = {literal}", key.name);
    let source = Arc::new(crate::source::Source::new("x.toml", &text));
    let table: &'static TableKind = TABLES
        .into_iter()
        .find(|table| table.keys.iter().any(|one| std::ptr::eq(one, key)))
        .unwrap();
    let mut walker = Walker::new(&source);
    walker.table("", table, DeTable::parse(&text).unwrap().get_ref(), 0..0);
    let about_it = walker.found.iter().filter(|one| {
        !one.problem.contains("has no `command`")
            && !one.problem.contains("has no `agent`")
            && !one.problem.contains("has no `ip`")
            && !one.problem.contains("what to try")
            && !one.problem.contains("only beside")
    });
    about_it.map(ToString::to_string).collect()
}

fn base_text(more: &str) -> String {
    format!("[service.x]\ncommand = [\"a\"]\nlisten = \"127.0.0.1:1\"\n{more}\n[service.db]\ncommand = [\"db\"]\n")
        .replace("listen = \"127.0.0.1:1\"\nlisten", "listen")
}

fn base(more: &str) -> Cluster {
    cluster(&base_text(more))
}

fn cluster(text: &str) -> Cluster {
    parse(text, "x.toml")
        .unwrap_or_else(|errors| panic!("{text}\n{errors}"))
        .cluster
}

fn accepts(schema: &Value, toml: &str) -> bool {
    let document = DeValue::parse("1").and_then(|_| DeTable::parse(toml)).unwrap();
    let table = DeValue::Table(document.into_inner());
    is_valid(schema, schema, &json_of(&table))
}

/// As much of JSON Schema as ours uses; an unknown keyword fails the test rather than pass unseen.
fn is_valid(root: &Value, schema: &Value, value: &Value) -> bool {
    schema
        .as_object()
        .unwrap()
        .iter()
        .all(|(keyword, rule)| match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" | "examples" => true,
            "$ref" => is_valid(
                root,
                root.pointer(rule.as_str().unwrap().trim_start_matches('#')).unwrap(),
                value,
            ),
            "type" => match rule.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_i64() || value.is_u64(),
                other => panic!("type {other}"),
            },
            "const" => value == rule,
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_i64().is_none_or(|value| value >= rule.as_i64().unwrap()),
            "maximum" => value.as_i64().is_none_or(|value| value <= rule.as_i64().unwrap()),
            "minItems" => value
                .as_array()
                .is_none_or(|values| values.len() as u64 >= rule.as_u64().unwrap()),
            "minProperties" => value
                .as_object()
                .is_none_or(|values| values.len() as u64 >= rule.as_u64().unwrap()),
            "pattern" => value
                .as_str()
                .is_none_or(|text| matches_pattern(rule.as_str().unwrap(), text)),
            "items" => value
                .as_array()
                .is_none_or(|values| values.iter().all(|value| is_valid(root, rule, value))),
            "required" => value.as_object().is_none_or(|value| {
                rule.as_array()
                    .unwrap()
                    .iter()
                    .all(|key| value.contains_key(key.as_str().unwrap()))
            }),
            "dependentRequired" => value.as_object().is_none_or(|value| {
                rule.as_object().unwrap().iter().all(|(key, beside)| {
                    !value.contains_key(key)
                        || beside
                            .as_array()
                            .unwrap()
                            .iter()
                            .all(|one| value.contains_key(one.as_str().unwrap()))
                })
            }),
            "oneOf" => {
                rule.as_array()
                    .unwrap()
                    .iter()
                    .filter(|rule| is_valid(root, rule, value))
                    .count()
                    == 1
            }
            "anyOf" => rule.as_array().unwrap().iter().any(|rule| is_valid(root, rule, value)),
            "not" => !is_valid(root, rule, value),
            "propertyNames" => value.as_object().is_none_or(|value| {
                value
                    .keys()
                    .all(|key| is_valid(root, rule, &Value::String(key.clone())))
            }),
            "properties" => value.as_object().is_none_or(|value| {
                value
                    .iter()
                    .all(|(key, value)| rule.get(key).is_none_or(|rule| is_valid(root, rule, value)))
            }),
            "additionalProperties" => value.as_object().is_none_or(|value| {
                let known = schema.get("properties").and_then(Value::as_object);
                let others = value
                    .iter()
                    .filter(|(key, _)| known.is_none_or(|known| !known.contains_key(*key)));
                others
                    .into_iter()
                    .all(|(_, value)| rule != &Value::Bool(false) && is_valid(root, rule, value))
            }),
            other => panic!("keyword {other}"),
        })
}

/// By a second implementation: proptest's own parser of regular expressions would need one to match with.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let amount = |units: &[&str]| {
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        text.len() > unit.len() && units.contains(&unit)
    };
    match pattern {
        crate::units::DURATION_PATTERN => amount(&["ms", "s", "m", "h", "d"]),
        crate::units::SIZE_PATTERN => amount(&["B", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB"]),
        "^/" => text.starts_with('/'),
        r"^(/|\{data\})" => text.starts_with('/') || text.starts_with("{data}"),
        crate::schema::HOST_ADDRESS_PATTERN => crate::text::host_address(text).is_ok(),
        crate::schema::ZONE_PATTERN => text.split('/').all(|part| {
            !part.is_empty()
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        }),
        crate::schema::INTERFACE_PATTERN => {
            (1..=15).contains(&text.chars().count()) && !text.contains(|c: char| c.is_whitespace() || c == '/')
        }
        crate::schema::PERCENT_PATTERN => model::Share::parse(text).is_some(),
        crate::schema::URL_PATTERN => crate::text::problem(crate::kind::TextRule::Url, text).is_none(),
        "^/.*[^/]$" => text.len() > 1 && text.starts_with('/') && !text.ends_with('/'),
        r"^[^\s:/]+$" => !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == ':' || c == '/'),
        "^[^=]+$" => !text.is_empty() && !text.contains('='),
        "^UNDERSTUDY_" => text.starts_with("UNDERSTUDY_"),
        "^[a-z]([a-z0-9-]{0,46}[a-z0-9])?$" => model::name_problem(text).is_none(),
        address if address.ends_with(":[0-9]{1,5}$") => text.parse::<std::net::SocketAddr>().is_ok(),
        other => panic!("pattern {other}"),
    }
}
