//! How a service is checked, and what is run at each change of role.

use super::{hours, seconds};
use crate::kind::{Default, Key, Kind, TableKind, TextRule};
use model::Millis;

pub(super) const HOOK_KIND: Kind = Kind::Either(&[Kind::Command, Kind::Table(&HOOK)]);

pub(crate) static CHECK: TableKind = TableKind {
    name: "check",
    heading: "`check` and `standby_check`",
    doc: "Exactly one of `tcp`, `http`, `grpc` and `exec` says what is tried.",
    keys: &[
        Key {
            name: "tcp",
            kind: Kind::Only(true),
            default: Default::Rule("no such check"),
            doc: "The instance accepts a connection on its port. One that was stopped, or whose threads all wait for each other, leaves it to the kernel, which accepts for it: that fails.",
            example: "true",
        },
        Key {
            name: "http",
            kind: Kind::Text(TextRule::HttpPath),
            default: Default::Rule("no such check"),
            doc: "The instance answers `GET` for this path with one of `status`.",
            example: r#""/healthz""#,
        },
        Key {
            name: "grpc",
            kind: Kind::Either(&[Kind::Only(true), Kind::Text(TextRule::Any)]),
            default: Default::Rule("no such check"),
            doc: "`grpc.health.v1.Health/Check` answers `SERVING`: `true` asks for the whole server, a text for the service of that name.",
            example: r#""shop.Cart""#,
        },
        Key {
            name: "exec",
            kind: Kind::Command,
            default: Default::Rule("no such check"),
            doc: "The command exits with 0. Placeholders as in `command`; in `standby_check` also `{active.host}` and `{active.port}`.",
            example: r#"["redis-cli", "-p", "{port}", "ping"]"#,
        },
        Key {
            name: "status",
            kind: Kind::Either(&[STATUS, Kind::Array(&STATUS)]),
            default: Default::Rule("200 to 299"),
            doc: "With `http`: the status code, or codes, that pass.",
            example: "[200, 204]",
        },
        Key {
            name: "body",
            kind: Kind::Text(TextRule::Any),
            default: Default::Rule("any"),
            doc: "With `http`: text that the first 64 KiB of the body must contain.",
            example: r#""ready""#,
        },
        Key {
            name: "every",
            kind: Kind::Duration {
                min: Millis(10),
                max: hours(1),
            },
            default: Default::Is(r#""1s""#),
            doc: "From the start of one check to the start of the next.",
            example: r#""200ms""#,
        },
        Key {
            name: "timeout",
            kind: Kind::Duration {
                min: Millis(1),
                max: seconds(300),
            },
            default: Default::Rule("as `every`, but at least `100ms` and at most `1s`"),
            doc: "A check that has no answer after this long has failed.",
            example: r#""500ms""#,
        },
        Key {
            name: "fail_after",
            kind: Kind::Integer { min: 1, max: 100 },
            default: Default::Is("3"),
            doc: "Failures in a row until an instance counts as unhealthy.",
            example: "2",
        },
        Key {
            name: "pass_after",
            kind: Kind::Integer { min: 1, max: 100 },
            default: Default::Is("1"),
            doc: "Passes in a row until an unhealthy instance counts as healthy again.",
            example: "2",
        },
    ],
    exactly_one: &["tcp", "http", "grpc", "exec"],
    only_beside: &[("status", "http"), ("body", "http")],
    later: &[],
};

const STATUS: Kind = Kind::Integer { min: 100, max: 599 };

pub(crate) static HOOK: TableKind = TableKind {
    name: "hook",
    heading: "`on_promote`, `on_demote`, `on_follow`",
    doc: "Either the command alone, as an array, or a table with these keys.",
    keys: &[
        Key {
            name: "command",
            kind: Kind::Command,
            default: Default::Required,
            doc: "Program and arguments. Placeholders as in the service's `command`, and `{role}` and `{epoch}`; in `on_follow` also `{active.host}` and `{active.port}`.",
            example: r#"["./promote", "{port}", "{epoch}"]"#,
        },
        Key {
            name: "timeout",
            kind: Kind::Duration {
                min: Millis(10),
                max: hours(1),
            },
            default: Default::Is(r#""10s""#),
            doc: "After this long it is killed and has failed.",
            example: r#""30s""#,
        },
    ],
    exactly_one: &[],
    only_beside: &[],
    later: &[],
};
