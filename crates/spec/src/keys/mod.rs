//! Every key of the file, once: the parser, the JSON Schema and the reference page are all made from these tables.

mod check;
mod objective;
mod running;
mod service;
mod site;

pub(crate) use self::check::{CHECK, HOOK};
pub(crate) use self::objective::{ALERTS, OBJECTIVE};
pub(crate) use self::running::{HOLD, LIMITS, LOGS, RESERVE, RESTART, STOP};
pub(crate) use self::service::{ADDRESS, SERVICE};
pub(crate) use self::site::{FENCE, NODE, RATE, RATES, SECRET, SWITCH};
use crate::kind::{Default, Key, Kind, TableKind, TextRule};
use model::Millis;

const fn seconds(seconds: u64) -> Millis {
    Millis(seconds * 1_000)
}
const fn hours(hours: u64) -> Millis {
    Millis(hours * 3_600_000)
}
const COUNT_MAX: u64 = 10_000;

pub(crate) static FILE: TableKind = TableKind {
    name: "file",
    heading: "Top level",
    doc: "The services of one cluster.",
    keys: &[
        Key {
            name: "name",
            kind: Kind::Text(TextRule::Name),
            default: Default::Rule("the file's name without `.toml`, if that is a possible name, else `understudy`"),
            doc: "Name of the cluster: 1 to 48 of `a-z`, `0-9` and `-`, beginning with a letter. State and logs are kept under it.",
            example: r#""shop""#,
        },
        Key {
            name: "service",
            kind: Kind::Map {
                names: TextRule::Name,
                of: &Kind::Table(&SERVICE),
            },
            default: Default::Required,
            doc: "The services, each a table `[service.NAME]`; names are made as those of clusters are. At least one.",
            example: r#"{ web = { command = ["./web"] } }"#,
        },
        Key {
            name: "alerts",
            kind: Kind::Table(&ALERTS),
            default: Default::Rule("none: alerts are shown by `understudy alerts`, and nobody is told"),
            doc: "Who is told of alerts: a table `[alerts]`.",
            example: r#"{ webhook = ["http://10.0.0.9:9000/hook"] }"#,
        },
        Key {
            name: "node",
            kind: Kind::Map {
                names: TextRule::Name,
                of: &Kind::Table(&NODE),
            },
            default: Default::Is("{}"),
            doc: "What is to be known of a node, a table `[node.NAME]`: where it stands, for `understudy analyze`, and what takes its power away.",
            example: r#"{ a = { zone = "dc1/rack1" } }"#,
        },
        Key {
            name: "zone",
            kind: Kind::Map {
                names: TextRule::Zone,
                of: &Kind::Table(&RATE),
            },
            default: Default::Is("{}"),
            doc: "How often a zone fails as a whole, a table `[zone.\"PATH\"]`; some node must lie in it.",
            example: r#"{ "dc1/rack1" = { mttf = "1000d" } }"#,
        },
        Key {
            name: "feed",
            kind: Kind::Map {
                names: TextRule::Name,
                of: &Kind::Table(&RATE),
            },
            default: Default::Is("{}"),
            doc: "A power feed that nodes may name, a table `[feed.NAME]`; it may be empty.",
            example: "{ ups-1 = {} }",
        },
        Key {
            name: "switch",
            kind: Kind::Map {
                names: TextRule::Name,
                of: &Kind::Table(&SWITCH),
            },
            default: Default::Is("{}"),
            doc: "A switch that nodes may name, a table `[switch.NAME]`; it may be empty.",
            example: "{ sw-1 = {} }",
        },
        Key {
            name: "external",
            kind: Kind::Map {
                names: TextRule::Name,
                of: &Kind::Table(&RATE),
            },
            default: Default::Is("{}"),
            doc: "Something that services need and Understudy does not run, a table `[external.NAME]`; it may be empty. Services name it in `needs` or `uses`.",
            example: r#"{ payments = { mttf = "30d", mttr = "10m" } }"#,
        },
        Key {
            name: "rates",
            kind: Kind::Table(&RATES),
            default: Default::Is("{}"),
            doc: "How often things of a kind fail, where one of them has no rate of its own.",
            example: r#"{ node = { mttf = "365d", mttr = "4h" } }"#,
        },
    ],
    exactly_one: &[],
    only_beside: &[],
    later: &["cluster", "store"],
};

/// Every table, in the order of the reference.
pub(crate) static TABLES: [&TableKind; 19] = [
    &FILE, &SERVICE, &ADDRESS, &CHECK, &HOOK, &RESERVE, &LIMITS, &STOP, &RESTART, &LOGS, &HOLD, &OBJECTIVE, &ALERTS,
    &NODE, &FENCE, &SECRET, &SWITCH, &RATE, &RATES,
];
