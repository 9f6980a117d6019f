//! What is promised to users, and who is told when it is not kept.

use super::{hours, seconds};
use crate::kind::{Default, Key, Kind, TableKind, TextRule};
use model::Millis;

pub(crate) static OBJECTIVE: TableKind = TableKind {
    name: "objective",
    heading: "`objective`",
    doc: "Requests are judged as the proxy at `listen` sees them, all nodes together. What is not given is not judged.",
    keys: &[
        Key {
            name: "availability",
            kind: Kind::Text(TextRule::Percent),
            default: Default::Rule("not judged"),
            doc: "The share of requests (`tcp`: connections) that are answered without an error, over 30 days. Alerts tell how fast the rest is used up.",
            example: r#""99.9%""#,
        },
        Key {
            name: "latency",
            kind: Kind::Duration {
                min: Millis(1),
                max: seconds(60),
            },
            default: Default::Rule("not judged"),
            doc: "How long a request may take.",
            example: r#""200ms""#,
        },
        Key {
            name: "latency_share",
            kind: Kind::Text(TextRule::Percent),
            default: Default::Is(r#""99%""#),
            doc: "The share of requests that take no longer than `latency`.",
            example: r#""95%""#,
        },
        Key {
            name: "distance",
            kind: Kind::Integer { min: 1, max: 100 },
            default: Default::Rule("not judged"),
            doc: "The distance to outage that it must keep: how many failures, at least, take it down. With less there is an alert.",
            example: "2",
        },
        Key {
            name: "failover",
            kind: Kind::Duration {
                min: Millis(1),
                max: hours(1),
            },
            default: Default::Rule("not judged"),
            doc: "How long a failover may take: a slower one makes an alert.",
            example: r#""2s""#,
        },
    ],
    exactly_one: &[],
    only_beside: &[("latency_share", "latency")],
    later: &[],
};

pub(crate) static ALERTS: TableKind = TableKind {
    name: "alerts",
    heading: "`[alerts]`",
    doc: "Any number of ways to be told. One node tells, another goes on if that is lost. Secrets stand in files of their own, never here.",
    keys: &[
        Key {
            name: "webhook",
            kind: Kind::Array(&Kind::Text(TextRule::Url)),
            default: Default::Is("[]"),
            doc: "Addresses that get each alert by `POST`, in the JSON that Alertmanager sends to webhooks (version 4).",
            example: r#"["http://10.0.0.9:9000/hook"]"#,
        },
        Key {
            name: "alertmanager",
            kind: Kind::Array(&Kind::Text(TextRule::Url)),
            default: Default::Is("[]"),
            doc: "Alertmanagers, each told by its API (`/api/v2/alerts`).",
            example: r#"["http://10.0.0.9:9093"]"#,
        },
        Key {
            name: "command",
            kind: Kind::Array(&Kind::Text(TextRule::Any)),
            default: Default::Is("[]"),
            doc: "A program and its arguments, run as the agent's own user with the JSON of a webhook on its standard input, for at most 30 s.",
            example: r#"["/usr/local/bin/page"]"#,
        },
        Key {
            name: "token_file",
            kind: Kind::Text(TextRule::File),
            default: Default::Rule("none"),
            doc: "A file on each node with a token, shown to webhooks and Alertmanagers as `Authorization: Bearer`. Read at each use.",
            example: r#""/etc/understudy/alerts.token""#,
        },
        Key {
            name: "ca_file",
            kind: Kind::Text(TextRule::File),
            default: Default::Rule("those of the system"),
            doc: "A file on each node with the authorities (PEM) by which `https` addresses are judged.",
            example: r#""/etc/understudy/alerts-ca.pem""#,
        },
        Key {
            name: "repeat",
            kind: Kind::Duration {
                min: seconds(60),
                max: hours(24 * 7),
            },
            default: Default::Is(r#""4h""#),
            doc: "Webhooks and command are told of an alert that goes on again after this long. Alertmanagers are told every minute, as they want it.",
            example: r#""1h""#,
        },
        Key {
            name: "heartbeat",
            kind: Kind::Duration {
                min: seconds(10),
                max: hours(24),
            },
            default: Default::Rule("none"),
            doc: "Every so often an alert named `UnderstudyHeartbeat` is sent: whoever watches for it notices when nobody is left to tell anything.",
            example: r#""1m""#,
        },
    ],
    exactly_one: &[],
    only_beside: &[],
    later: &["mail"],
};
