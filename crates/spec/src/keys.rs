//! Every key of the file, once: the parser, the JSON Schema and the reference page are all made from these tables.

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
                  with one active; no two services share one. It needs root, or CAP_NET_ADMIN and CAP_NET_RAW. A change counts from the next \
                  activation on: `understudy switchover SERVICE`. With `listen` on it, a planned move lets the clients' connections end first, for up to \
                  1.5 s, and makes new ones wait for the new node: clients need a time-out of 3 s, and with `nf_tables` none is broken.",
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

const HOOK_KIND: Kind = Kind::Either(&[Kind::Command, Kind::Table(&HOOK)]);

pub(crate) static CHECK: TableKind = TableKind {
    name: "check",
    heading: "`check` and `standby_check`",
    doc: "Exactly one of `tcp`, `http`, `grpc` and `exec` says what is tried.",
    keys: &[
        Key {
            name: "tcp",
            kind: Kind::Only(true),
            default: Default::Rule("no such check"),
            doc: "The instance accepts a connection on its port.",
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

pub(crate) static RESERVE: TableKind = TableKind {
    name: "reserve",
    heading: "`reserve`",
    doc: "An instance is placed only where this is left of what the machine had when it joined. After faults that overlap, a node may hold more than it has: nobody is stopped for that. Nodes of one machine share it and are not counted.",
    keys: &[
        Key {
            name: "cpu",
            kind: Kind::Integer { min: 0, max: 1_000_000 },
            default: Default::Is("0"),
            doc: "Processor time, in percent of one processor.",
            example: "150",
        },
        Key {
            name: "memory",
            kind: Kind::Size { min: 0, max: 1 << 50 },
            default: Default::Is(r#""0B""#),
            doc: "Memory.",
            example: r#""2GiB""#,
        },
    ],
    exactly_one: &[],
    only_beside: &[],
    later: &["disk"],
};

pub(crate) static LIMITS: TableKind = TableKind {
    name: "limits",
    heading: "`limits`",
    doc: "A limit that is not given is the one Understudy itself runs under.",
    keys: &[
        Key {
            name: "open_files",
            kind: Kind::Integer { min: 16, max: 1 << 30 },
            default: Default::Rule("inherited"),
            doc: "Open files of each process (RLIMIT_NOFILE).",
            example: "65536",
        },
        Key {
            name: "processes",
            kind: Kind::Integer { min: 1, max: 1 << 22 },
            default: Default::Rule("inherited"),
            doc: "Processes and threads of the user (RLIMIT_NPROC).",
            example: "512",
        },
        Key {
            name: "memory",
            kind: Kind::Size {
                min: 1 << 20,
                max: 1 << 50,
            },
            default: Default::Rule("inherited"),
            doc: "Address space of each process (RLIMIT_AS).",
            example: r#""512MiB""#,
        },
        Key {
            name: "core",
            kind: Kind::Size { min: 0, max: 1 << 50 },
            default: Default::Rule("inherited"),
            doc: "Size of a core dump (RLIMIT_CORE); `0B` for none.",
            example: r#""1GiB""#,
        },
    ],
    exactly_one: &[],
    only_beside: &[],
    later: &["cpu", "io"],
};

pub(crate) static STOP: TableKind = TableKind {
    name: "stop",
    heading: "`stop`",
    doc: "The signal goes to the main process; after the timeout everything the instance started is killed.",
    keys: &[
        Key {
            name: "signal",
            kind: Kind::Choice {
                of: &[
                    ("SIGTERM", ""),
                    ("SIGINT", ""),
                    ("SIGQUIT", ""),
                    ("SIGHUP", ""),
                    ("SIGUSR1", ""),
                    ("SIGUSR2", ""),
                    ("SIGKILL", "no polite attempt"),
                ],
                later: &[],
            },
            default: Default::Is(r#""SIGTERM""#),
            doc: "The signal that asks the program to stop.",
            example: r#""SIGQUIT""#,
        },
        Key {
            name: "timeout",
            kind: Kind::Duration {
                min: Millis(1),
                max: hours(1),
            },
            default: Default::Is(r#""10s""#),
            doc: "How long it is given to do so.",
            example: r#""30s""#,
        },
    ],
    exactly_one: &[],
    only_beside: &[],
    later: &[],
};

pub(crate) static RESTART: TableKind = TableKind {
    name: "restart",
    heading: "`restart`",
    doc: "The first restart is at once; then the wait doubles from `backoff` to `backoff_max`, plus up to a quarter of chance.",
    keys: &[
        Key {
            name: "backoff",
            kind: Kind::Duration {
                min: Millis(10),
                max: hours(1),
            },
            default: Default::Is(r#""250ms""#),
            doc: "Wait before the second attempt.",
            example: r#""1s""#,
        },
        Key {
            name: "backoff_max",
            kind: Kind::Duration {
                min: Millis(10),
                max: hours(24),
            },
            default: Default::Is(r#""30s""#),
            doc: "The longest wait; at least `backoff`.",
            example: r#""1m""#,
        },
        Key {
            name: "replace_after",
            kind: Kind::Integer { min: 1, max: 1_000 },
            default: Default::Is("5"),
            doc: "Starts in a row that never became healthy until the instance is replaced by a new one with an empty data folder.",
            example: "3",
        },
        Key {
            name: "give_up_after",
            kind: Kind::Integer { min: 1, max: 1_000 },
            default: Default::Is("3"),
            doc: "Replacements in a row that never became healthy until the place is given up, which `status` reports.",
            example: "5",
        },
        Key {
            name: "retry_after",
            kind: Kind::Duration {
                min: seconds(1),
                max: hours(24 * 7),
            },
            default: Default::Is(r#""5m""#),
            doc: "A place that was given up is tried again after this long.",
            example: r#""1h""#,
        },
    ],
    exactly_one: &[],
    only_beside: &[],
    later: &[],
};

pub(crate) static LOGS: TableKind = TableKind {
    name: "logs",
    heading: "`logs`",
    doc: "What `understudy logs` can show.",
    keys: &[
        Key {
            name: "max_size",
            kind: Kind::Size {
                min: 4_096,
                max: 1 << 40,
            },
            default: Default::Is(r#""10MB""#),
            doc: "A log file is rotated when it grows past this.",
            example: r#""100MB""#,
        },
        Key {
            name: "keep",
            kind: Kind::Integer { min: 0, max: 1_000 },
            default: Default::Is("3"),
            doc: "How many rotated files are kept beside the current one.",
            example: "10",
        },
    ],
    exactly_one: &[],
    only_beside: &[],
    later: &[],
};

pub(crate) static HOLD: TableKind = TableKind {
    name: "hold",
    heading: "`hold`",
    doc: "A connection beyond either bound is closed (`tcp`) or answered with 503 (`http`).",
    keys: &[
        Key {
            name: "time",
            kind: Kind::Duration {
                min: Millis(0),
                max: hours(1),
            },
            default: Default::Is(r#""5s""#),
            doc: "How long a connection is held.",
            example: r#""2s""#,
        },
        Key {
            name: "max",
            kind: Kind::Integer { min: 0, max: 100_000 },
            default: Default::Is("1024"),
            doc: "How many are held at a time.",
            example: "64",
        },
    ],
    exactly_one: &[],
    only_beside: &[],
    later: &[],
};

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

const MTTF: Kind = Kind::Duration {
    min: seconds(1),
    max: hours(24 * 365_000),
};
const MTTR: Kind = Kind::Duration {
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

/// Every table, in the order of the reference.
pub(crate) static TABLES: [&TableKind; 19] = [
    &FILE, &SERVICE, &ADDRESS, &CHECK, &HOOK, &RESERVE, &LIMITS, &STOP, &RESTART, &LOGS, &HOLD, &OBJECTIVE, &ALERTS,
    &NODE, &FENCE, &SECRET, &SWITCH, &RATE, &RATES,
];
