//! The keys of a service.

use super::check::HOOK_KIND;
use super::site::{MTTF, MTTR};
use super::{CHECK, COUNT_MAX, HOLD, LIMITS, LOGS, OBJECTIVE, RESERVE, RESTART, STOP, hours};
use crate::kind::{Default, Key, Kind, TableKind, TextRule};
use model::Millis;

pub(crate) static SERVICE: TableKind = TableKind {
    name: "service",
    heading: "`[service.NAME]`",
    doc: "One service: a program, how many copies of it serve, how many wait, and how to tell whether they work.",
    keys: &[
        Key {
            name: "command",
            kind: Kind::Command,
            default: Default::Required,
            doc: "Program and arguments, started without a shell. [Placeholders](#placeholders) such as `{port}` are filled in for each instance.",
            example: r#"["redis-server", "--port", "{port}", "--dir", "{data}"]"#,
        },
        Key {
            name: "active",
            kind: Kind::Integer { min: 1, max: COUNT_MAX },
            default: Default::Is("1"),
            doc: "How many instances serve at a time. `active` and `standby` together are at most 10000.",
            example: "2",
        },
        Key {
            name: "standby",
            kind: Kind::Integer { min: 0, max: COUNT_MAX },
            default: Default::Is("1"),
            doc: "How many more instances wait, ready to take the place of an active.",
            example: "2",
        },
        Key {
            name: "need",
            kind: Kind::Integer { min: 1, max: COUNT_MAX },
            default: Default::Rule("as `active`"),
            doc: "How many actives must work for the service to count as up; at most `active`. With fewer it is `down`, with at least so many but not all `degraded`.",
            example: "1",
        },
        Key {
            name: "exclusive",
            kind: Kind::Bool,
            default: Default::Is("false"),
            doc: "At most one instance per slot may ever act as active: the old one is stopped for certain before the next is promoted. For whatever owns data.",
            example: "true",
        },
        Key {
            name: "fence",
            kind: Kind::Choice {
                of: &[
                    (
                        "lease",
                        "its node's guard ends it when the lease of that node is over, which is enough for all that only it can write",
                    ),
                    (
                        "power",
                        "besides, its node must be known to write no more: its devices (`[node.NAME] fence`) say that it is off, or it is back and says \
                         that it ended what ran there. For storage that several nodes share",
                    ),
                ],
                later: &[],
            },
            default: Default::Is("\"lease\""),
            doc: "What has to be certain before the slot of a lost node is taken. `power` needs `exclusive = true` and a device for each node it may be on; \
                  while no device answers, nobody takes the slot, and `understudy force` is the operator's way on.",
            example: r#""power""#,
        },
        Key {
            name: "standby_mode",
            kind: Kind::Choice {
                of: &[
                    ("warm", "a standby runs and is checked all the time"),
                    ("cold", "a standby is prepared, and started when it takes a slot"),
                ],
                later: &[],
            },
            default: Default::Rule(
                "`warm`; `cold` for an exclusive service without `on_promote` and `on_follow`, whose running copy might act as if it were active",
            ),
            doc: "Whether standbys run.",
            example: r#""cold""#,
        },
        Key {
            name: "listen",
            kind: Kind::Address,
            default: Default::Rule("none: clients find the instances by themselves"),
            doc: "Where clients come to, whoever is active: an IP address and a port of this machine, or of the service's own `address`: then clients \
                  reach the proxy of the node that has it. No two services share one.",
            example: r#""127.0.0.1:8080""#,
        },
        Key {
            name: "address",
            kind: Kind::Either(&[Kind::Text(TextRule::HostAddress), Kind::Table(&ADDRESS)]),
            default: Default::Rule("none"),
            doc: "A floating address: an IP address with its prefix that is on the node of the active, and moves with it. For an exclusive service \
                  with one active; no two services share one. It needs root, or CAP_NET_ADMIN and CAP_NET_RAW. Another \
                  one is taken at once, without a restart, and then the one before is given up. With `listen` on it, a planned move lets the clients' \
                  connections end first, for up to \
                  1.5 s, and makes new ones wait for the new node: clients need a time-out of 3 s, and with `nf_tables` none is broken. Without \
                  `listen`, connections end with the move, and new ones wait for the new node, for up to 1.5 s and the promote hook: the service then listens on all addresses, \
                  or binds to this one when it is promoted.",
            example: r#""10.0.0.100/24""#,
        },
        Key {
            name: "protocol",
            kind: Kind::Choice {
                of: &[
                    ("tcp", "bytes are passed on as they come"),
                    (
                        "http",
                        "HTTP/1.1 and HTTP/2: requests that are safe to repeat are repeated on another active when one dies under them",
                    ),
                ],
                later: &["udp", "tls"],
            },
            default: Default::Is(r#""tcp""#),
            doc: "What the proxy at `listen` understands of the traffic.",
            example: r#""http""#,
        },
        Key {
            name: "port",
            kind: Kind::Bool,
            default: Default::Rule(
                "`true` if `listen` is given, or `{port}` or `{active.port}` is used anywhere in the service",
            ),
            doc: "Whether each instance is given a free port of its own, as `{port}`.",
            example: "true",
        },
        Key {
            name: "check",
            kind: Kind::Either(&[Kind::Table(&CHECK), Kind::Only(false)]),
            default: Default::Rule(
                "`{ tcp = true }` if instances have a port; else none, and an instance is healthy while its process lives",
            ),
            doc: "How to tell whether an instance works. `false` turns it off.",
            example: r#"{ http = "/healthz", every = "500ms" }"#,
        },
        Key {
            name: "standby_check",
            kind: Kind::Table(&CHECK),
            default: Default::Rule("none: a standby that passes `check` is fit"),
            doc: "How to tell, beyond `check`, whether a warm standby could take over: that its copy of the data is fresh, say.",
            example: r#"{ exec = ["./caught-up", "--with", "{active.host}"] }"#,
        },
        Key {
            name: "needs",
            kind: Kind::Array(&Kind::Either(&[
                Kind::Text(TextRule::Name),
                Kind::Array(&Kind::Text(TextRule::Name)),
            ])),
            default: Default::Is("[]"),
            doc: "What this service does not work without: services, which must be up before it is started, and `external` things. Of names in brackets of \
                  their own, `[\"cache-a\", \"cache-b\"]`, any one is enough; the start waits for none of those.",
            example: r#"["db"]"#,
        },
        Key {
            name: "uses",
            kind: Kind::Array(&Kind::Text(TextRule::Name)),
            default: Default::Is("[]"),
            doc: "Services and `external` things that it works without, though not as well. The start does not wait for them.",
            example: r#"["db"]"#,
        },
        Key {
            name: "mttf",
            kind: MTTF,
            default: Default::Rule("that of `rates.process`"),
            doc: "Mean time between failures of an instance's process, from its own history.",
            example: r#""90d""#,
        },
        Key {
            name: "mttr",
            kind: MTTR,
            default: Default::Rule("that of `rates.process`"),
            doc: "Mean time until an instance whose process failed is fit again; less than `mttf`.",
            example: r#""20s""#,
        },
        Key {
            name: "spread",
            kind: Kind::Choice {
                of: &[
                    ("prefer", "on different nodes while there are enough, else together"),
                    (
                        "node",
                        "never two on one node: an instance without a node of its own is not started",
                    ),
                    (
                        "zone",
                        "never two in one zone: the whole path of the node counts, such as `dc1/rack3`; a node that joined without one is a zone of its own",
                    ),
                ],
                later: &["feed", "switch", "rack"],
            },
            default: Default::Is(r#""prefer""#),
            doc: "How far the instances keep apart. Whatever is chosen, those nodes come first that have the least in common with the instances there are: another node, another zone, another first part of the zone's path.",
            example: r#""zone""#,
        },
        Key {
            name: "nodes",
            kind: Kind::Array(&Kind::Text(TextRule::Name)),
            default: Default::Is("[]"),
            doc: "The nodes that instances may be on; any if none is named. An instance that is elsewhere when this is applied is moved.",
            example: r#"["a", "b"]"#,
        },
        Key {
            name: "avoid",
            kind: Kind::Array(&Kind::Text(TextRule::Name)),
            default: Default::Is("[]"),
            doc: "Nodes that no instance may be on. One that is there when this is applied is moved.",
            example: r#"["c"]"#,
        },
        Key {
            name: "reserve",
            kind: Kind::Table(&RESERVE),
            default: Default::Is("{}"),
            doc: "What each instance keeps of its node: none is placed where this is not left. It limits nothing; see `limits`.",
            example: r#"{ cpu = 150, memory = "2GiB" }"#,
        },
        Key {
            name: "on_promote",
            kind: HOOK_KIND,
            default: Default::Rule("none"),
            doc: "Run when an instance becomes active, before clients reach it. If it fails, so has the promotion.",
            example: r#"["redis-cli", "-p", "{port}", "replicaof", "no", "one"]"#,
        },
        Key {
            name: "on_demote",
            kind: HOOK_KIND,
            default: Default::Rule("none"),
            doc: "Run when an active becomes a standby, after clients are kept away from it.",
            example: r#"["./read-only", "{port}"]"#,
        },
        Key {
            name: "on_follow",
            kind: HOOK_KIND,
            default: Default::Rule("none"),
            doc: "Run on each standby when there is a new active to follow, at `{active.host}` and `{active.port}`.",
            example: r#"["redis-cli", "-p", "{port}", "replicaof", "{active.host}", "{active.port}"]"#,
        },
        Key {
            name: "env",
            kind: Kind::Map {
                names: TextRule::Variable,
                of: &Kind::Text(TextRule::Any),
            },
            default: Default::Is("{}"),
            doc: "Environment variables of the instances; placeholders are filled in. Names that begin with `UNDERSTUDY_` are Understudy's own.",
            example: r#"{ CACHE_DIR = "{data}/cache" }"#,
        },
        Key {
            name: "dir",
            kind: Kind::Text(TextRule::Folder),
            default: Default::Rule("the instance's data folder, `{data}`"),
            doc: "Working directory: absolute, or beginning with `{data}`.",
            example: r#""/srv/shop""#,
        },
        Key {
            name: "user",
            kind: Kind::Text(TextRule::User),
            default: Default::Rule("the user Understudy runs as"),
            doc: "User the instances run as, by name or number. Only root can choose another.",
            example: r#""www-data""#,
        },
        Key {
            name: "limits",
            kind: Kind::Table(&LIMITS),
            default: Default::Is("{}"),
            doc: "Resource limits of an instance.",
            example: "{ open_files = 65536 }",
        },
        Key {
            name: "start_timeout",
            kind: Kind::Duration {
                min: Millis(10),
                max: hours(24),
            },
            default: Default::Is(r#""30s""#),
            doc: "How long an instance may take from its start to its first passed check; failed checks do not count until then.",
            example: r#""2m""#,
        },
        Key {
            name: "stop",
            kind: Kind::Table(&STOP),
            default: Default::Is("{}"),
            doc: "How an instance is stopped.",
            example: r#"{ signal = "SIGQUIT" }"#,
        },
        Key {
            name: "restart",
            kind: Kind::Table(&RESTART),
            default: Default::Is("{}"),
            doc: "What happens when an instance fails: it is restarted, then replaced, then given up and reported.",
            example: "{ replace_after = 3 }",
        },
        Key {
            name: "logs",
            kind: Kind::Table(&LOGS),
            default: Default::Is("{}"),
            doc: "What is kept of the output of an instance.",
            example: "{ keep = 10 }",
        },
        Key {
            name: "drain_timeout",
            kind: Kind::Duration {
                min: Millis(0),
                max: hours(1),
            },
            default: Default::Is(r#""10s""#),
            doc: "How long a planned move lets requests under way finish before their connections are closed. For an exclusive service \
                  at most half of `hold.time`: those that wait meanwhile must not be sent away.",
            example: r#""1m""#,
        },
        Key {
            name: "hold",
            kind: Kind::Table(&HOLD),
            default: Default::Is("{}"),
            doc: "New connections that `listen` holds while no active can serve them.",
            example: r#"{ time = "2s" }"#,
        },
        Key {
            name: "objective",
            kind: Kind::Table(&OBJECTIVE),
            default: Default::Rule("none"),
            doc: "What is wanted of the service. An alert says when it is missed, or will be soon.",
            example: r#"{ availability = "99.9%", latency = "200ms" }"#,
        },
    ],
    exactly_one: &[],
    only_beside: &[],
    later: &["scale", "container", "systemd", "ocf"],
};

pub(crate) static ADDRESS: TableKind = TableKind {
    name: "address",
    heading: "`address`",
    doc: "Either the address alone, as text, or a table with these keys. While a node has it, it answers ARP and neighbour discovery for it; \
          where the interface has another address of the network, it is added as /32 or /128.",
    keys: &[
        Key {
            name: "ip",
            kind: Kind::Text(TextRule::HostAddress),
            default: Default::Required,
            doc: "The address, one that no host has for itself, and the prefix of its network.",
            example: r#""10.0.0.100/24""#,
        },
        Key {
            name: "interface",
            kind: Kind::Text(TextRule::Interface),
            default: Default::Rule("the one with an address of the same network, else that of the default route"),
            doc: "The network interface that the address is put on, on whichever node has it.",
            example: r#""eth0""#,
        },
    ],
    exactly_one: &[],
    only_beside: &[],
    later: &[],
};
