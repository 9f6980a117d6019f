//! How a service runs: what it reserves and may use, how it ends, is started again and logs.

use super::{hours, seconds};
use crate::kind::{Default, Key, Kind, TableKind};
use model::Millis;

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
    doc: "The first restart is at once; then the wait doubles from `backoff` to `backoff_max`, plus up to a quarter of chance. A place is given up after `replace_after` times `give_up_after` starts in a row that never became healthy, each of at most `start_timeout`: fifteen if nothing else is said, which is some seconds for a program that exits at once and eight minutes for one that hangs while it starts.",
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
            doc: "A place that was given up is tried again after this long, unless it went back to the version that worked before.",
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
