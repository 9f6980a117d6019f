//! The machines: nodes, their fence devices, switches, and how often each kind of thing fails.

use super::{hours, seconds};
use crate::kind::{Default, Key, Kind, TableKind, TextRule};
use model::Millis;

pub(super) const MTTF: Kind = Kind::Duration {
    min: seconds(1),
    max: hours(24 * 365_000),
};
pub(super) const MTTR: Kind = Kind::Duration {
    min: Millis(1),
    max: hours(24 * 3_650),
};
const MTTF_KEY: Key = Key {
    name: "mttf",
    kind: MTTF,
    default: Default::Rule("that of its kind in `rates`"),
    doc: "Mean time from its repair to its next failure.",
    example: r#""1000d""#,
};
const MTTR_KEY: Key = Key {
    name: "mttr",
    kind: MTTR,
    default: Default::Rule("that of its kind in `rates`"),
    doc: "Mean time from its failure to its repair; less than `mttf`.",
    example: r#""2h""#,
};

pub(crate) static NODE: TableKind = TableKind {
    name: "node",
    heading: "`[node.NAME]`",
    doc: "Where a node stands, what it hangs on, and what takes its power away. A node of a running cluster is in the zone it joined with.",
    keys: &[
        Key {
            name: "zone",
            kind: Kind::Text(TextRule::Zone),
            default: Default::Rule("none of its own"),
            doc: "A path of failure domains, the widest first: what takes a part of the path down takes all in it down.",
            example: r#""dc1/rack1""#,
        },
        Key {
            name: "feeds",
            kind: Kind::Array(&Kind::Text(TextRule::Name)),
            default: Default::Is("[]"),
            doc: "Power feeds of which any one is enough, each declared as `[feed.NAME]`.",
            example: r#"["ups-1"]"#,
        },
        Key {
            name: "switches",
            kind: Kind::Array(&Kind::Text(TextRule::Name)),
            default: Default::Is("[]"),
            doc: "Switches of which any one is enough, each declared as `[switch.NAME]`.",
            example: r#"["sw-1"]"#,
        },
        Key {
            name: "fence",
            kind: Kind::Either(&[Kind::Table(&FENCE), Kind::Array(&Kind::Table(&FENCE))]),
            default: Default::Is("[]"),
            doc: "The device that takes the node's power away, or several of them, as `[[node.NAME.fence]]`: all are told, in this order, and the node counts \
                  as off when all of them say so. Used for services with `fence = \"power\"`, and by `understudy fence`.",
            example: r#"{ agent = "fence_ipmilan", parameters = { ip = "10.0.9.1", username = "fence" }, secrets = { password = { file = "/etc/understudy/bmc" } } }"#,
        },
        Key {
            name: "after_fence",
            kind: Kind::Choice {
                of: &[
                    (
                        "on",
                        "it gets its power back as soon as it is noted that it was off, so that it boots and stands by again",
                    ),
                    ("stay-off", "it stays off until somebody has looked at it"),
                ],
                later: &[],
            },
            default: Default::Is("\"on\""),
            doc: "What becomes of the node after it was fenced.",
            example: r#""stay-off""#,
        },
        MTTF_KEY,
        MTTR_KEY,
    ],
    exactly_one: &[],
    only_beside: &[("after_fence", "fence")],
    later: &[],
};

pub(crate) static FENCE: TableKind = TableKind {
    name: "fence",
    heading: "`[node.NAME.fence]`, `[[node.NAME.fence]]`",
    doc: "A fence agent of ClusterLabs or Debian (`fence-agents`), or any program that speaks as they do: it reads `action=off`, `on`, `status` or \
          `metadata` and its parameters from its standard input, a line each. Any node may be the one that runs it.",
    keys: &[
        Key {
            name: "agent",
            kind: Kind::Text(TextRule::Any),
            default: Default::Required,
            doc: "The program: a name, looked up in `PATH` and in `/usr/sbin`, or an absolute path.",
            example: r#""fence_ipmilan""#,
        },
        Key {
            name: "parameters",
            kind: Kind::Map {
                names: TextRule::Variable,
                of: &Kind::Text(TextRule::Any),
            },
            default: Default::Is("{}"),
            doc: "What it is told, by the names that `fence_… -o metadata` shows.",
            example: r#"{ ip = "10.0.9.1", lanplus = "1" }"#,
        },
        Key {
            name: "secrets",
            kind: Kind::Map {
                names: TextRule::Variable,
                of: &Kind::Table(&SECRET),
            },
            default: Default::Is("{}"),
            doc: "Parameters that are secret, by name, each with where it is found. They reach the agent by its standard input alone: never its arguments, \
                  a log, the store, or anything that is shown.",
            example: r#"{ password = { file = "/etc/understudy/bmc" } }"#,
        },
        Key {
            name: "timeout",
            kind: Kind::Duration {
                min: seconds(1),
                max: seconds(600),
            },
            default: Default::Is("\"30s\""),
            doc: "How long one call may take; then the agent is ended, and the call has failed.",
            example: r#""10s""#,
        },
        Key {
            name: "feeds",
            kind: Kind::Array(&Kind::Text(TextRule::Name)),
            default: Default::Is("[]"),
            doc: "Power feeds of the device itself, of which any one is enough, each declared as `[feed.NAME]`: one that has no other than its node is without \
                  power together with it, and cannot say that it is off.",
            example: r#"["ups-1"]"#,
        },
    ],
    exactly_one: &[],
    only_beside: &[],
    later: &[],
};

pub(crate) static SECRET: TableKind = TableKind {
    name: "secret",
    heading: "`secrets = { NAME = { … } }`",
    doc: "Where a secret is found on each node; exactly one of these.",
    keys: &[
        Key {
            name: "file",
            kind: Kind::Text(TextRule::File),
            default: Default::Rule("none"),
            doc: "The first line of this file, which nobody but its owner and group may read. Read at each use.",
            example: r#""/etc/understudy/bmc""#,
        },
        Key {
            name: "env",
            kind: Kind::Text(TextRule::Variable),
            default: Default::Rule("none"),
            doc: "This variable of the agent's environment.",
            example: r#""BMC_PASSWORD""#,
        },
    ],
    exactly_one: &["file", "env"],
    only_beside: &[],
    later: &[],
};

pub(crate) static SWITCH: TableKind = TableKind {
    name: "switch",
    heading: "`[switch.NAME]`",
    doc: "A switch, and what it hangs on itself.",
    keys: &[
        Key {
            name: "uplink",
            kind: Kind::Array(&Kind::Text(TextRule::Name)),
            default: Default::Is("[]"),
            doc: "Switches it hangs on, of which any one is enough.",
            example: r#"["core-1"]"#,
        },
        MTTF_KEY,
        MTTR_KEY,
    ],
    exactly_one: &[],
    only_beside: &[],
    later: &[],
};

pub(crate) static RATE: TableKind = TableKind {
    name: "rate",
    heading: "`[zone.\"PATH\"]`, `[feed.NAME]`, `[external.NAME]`",
    doc: "How often it fails, and for how long.",
    keys: &[MTTF_KEY, MTTR_KEY],
    exactly_one: &[],
    only_beside: &[],
    later: &[],
};

macro_rules! rate_key {
    ($name:literal, $default:literal, $doc:literal) => {
        Key {
            name: $name,
            kind: Kind::Table(&RATE),
            default: Default::Rule($default),
            doc: $doc,
            example: r#"{ mttf = "365d", mttr = "1h" }"#,
        }
    };
}

pub(crate) static RATES: TableKind = TableKind {
    name: "rates",
    heading: "`[rates]`",
    doc: "What is not given is assumed, and every figure that rests on an assumption says so.",
    keys: &[
        rate_key!("process", "30d and 10s", "The process of an instance."),
        rate_key!("node", "180d and 4h", "A machine."),
        rate_key!("zone", "1825d and 4h", "A zone as a whole."),
        rate_key!("feed", "730d and 2h", "A power feed."),
        rate_key!("switch", "1825d and 4h", "A switch."),
        rate_key!("external", "30d and 30m", "Something external."),
        rate_key!(
            "software",
            "365d and 1h",
            "A fault that all instances of a service have at once, such as a bad release."
        ),
        Key {
            name: "coverage",
            kind: Kind::Text(TextRule::Percent),
            default: Default::Rule("95%"),
            doc: "The share of an active's failures that are found and failed over without anybody's help.",
            example: r#""99%""#,
        },
        Key {
            name: "by_hand",
            kind: Kind::Duration {
                min: seconds(1),
                max: hours(24 * 30),
            },
            default: Default::Rule("30m"),
            doc: "How long a person takes to bring a service back where that did not work.",
            example: r#""1h""#,
        },
    ],
    exactly_one: &[],
    only_beside: &[],
    later: &[],
};
