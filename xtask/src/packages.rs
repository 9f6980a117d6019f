//! Programs from the distribution that tests and benchmarks run.

use anyhow::{Context, Result, bail};
use std::process::Command;

/// A program, and Debian's package of it.
pub(crate) struct Program {
    name: &'static str,
    package: &'static str,
}

const REDIS: Program = Program {
    name: "redis-server",
    package: "redis-server",
};
const REDIS_CLI: Program = Program {
    name: "redis-cli",
    package: "redis-tools",
};
const NGINX: Program = Program {
    name: "nginx",
    package: "nginx-light",
};
const PYTHON: Program = Program {
    name: "python3",
    package: "python3",
};
const SETPRIV: Program = Program {
    name: "setpriv",
    package: "util-linux",
};
const CURL: Program = Program {
    name: "curl",
    package: "curl",
};
const IP: Program = Program {
    name: "ip",
    package: "iproute2",
};
const NFT: Program = Program {
    name: "nft",
    package: "nftables",
};
const HAPROXY: Program = Program {
    name: "haproxy",
    package: "haproxy",
};
const WRK: Program = Program {
    name: "wrk",
    package: "wrk",
};
const PING: Program = Program {
    name: "ping",
    package: "iputils-ping",
};
const PGREP: Program = Program {
    name: "pgrep",
    package: "procps",
};
const FSFREEZE: Program = Program {
    name: "fsfreeze",
    package: "util-linux",
};
const MKFS: Program = Program {
    name: "mkfs.ext4",
    package: "e2fsprogs",
};
const ETCD: Program = Program {
    name: "etcd",
    package: "etcd-server",
};
const ETCDCTL: Program = Program {
    name: "etcdctl",
    package: "etcd-client",
};
const CHROMIUM: Program = Program {
    name: "chromium",
    package: "chromium",
};
const KEEPALIVED: Program = Program {
    name: "keepalived",
    package: "keepalived",
};
const PACEMAKER: Program = Program {
    name: "pacemakerd",
    package: "pacemaker",
};
const PACEMAKER_CLI: Program = Program {
    name: "cibadmin",
    package: "pacemaker-cli-utils",
};
const COROSYNC: Program = Program {
    name: "corosync",
    package: "corosync",
};
const RESOURCE_AGENTS: Program = Program {
    name: "ocf-tester",
    package: "resource-agents",
};

const FAKETIME: Program = Program {
    name: "faketime",
    package: "faketime",
};
const SCRAM: Program = Program {
    name: "scram",
    package: "scram",
};
const PROMETHEUS: Program = Program {
    name: "prometheus",
    package: "prometheus",
};
const PROMTOOL: Program = Program {
    name: "promtool",
    package: "prometheus",
};
const ALERTMANAGER: Program = Program {
    name: "prometheus-alertmanager",
    package: "prometheus-alertmanager",
};

/// What `cargo xtask test` runs.
pub(crate) const FOR_TESTS: &[Program] = &[
    REDIS,
    REDIS_CLI,
    NGINX,
    PYTHON,
    SETPRIV,
    IP,
    NFT,
    PING,
    PGREP,
    FSFREEZE,
    MKFS,
    ETCD,
    ETCDCTL,
    CURL,
    CHROMIUM,
    FAKETIME,
    SCRAM,
    PROMETHEUS,
    PROMTOOL,
    ALERTMANAGER,
];
/// What `cargo xtask hosts` runs, and what runs on them.
pub(crate) const FOR_HOSTS: &[Program] = &[IP, NFT, PGREP, FSFREEZE, MKFS, ETCD, SETPRIV, CURL, FAKETIME];
/// The peers of `cargo xtask bench failover`.
pub(crate) const FOR_FAILOVER: &[Program] = &[KEEPALIVED, PACEMAKER, PACEMAKER_CLI, COROSYNC, RESOURCE_AGENTS, CURL];
/// What `cargo xtask bench` runs.
pub(crate) const FOR_BENCHES: &[Program] = &[REDIS, REDIS_CLI, NGINX, HAPROXY, WRK, SCRAM];

/// Installs what is missing, or says with which command to do so.
pub(crate) fn need(programs: &[Program], no_install: bool) -> Result<()> {
    let mut missing: Vec<&str> = programs
        .iter()
        .filter(|program| !is_there(program.name))
        .map(|program| program.package)
        .collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install --no-install-recommends {}", missing.join(" "));
    if no_install || !is_there("apt-get") || !is_root() {
        bail!(
            "missing: {}; as root: `apt-get update && {install}`",
            missing.join(", ")
        );
    }
    eprintln!("installing what is missing for this: {install}");
    run(&["apt-get", "update", "-qq"])?;
    let mut words = vec!["apt-get", "install", "-y", "-qq", "--no-install-recommends"];
    words.extend(&missing);
    run(&words)
}

fn run(words: &[&str]) -> Result<()> {
    let status = Command::new(words[0])
        .args(&words[1..])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .with_context(|| format!("failed to run {}", words[0]))?;
    if !status.success() {
        bail!("`{}` failed ({status})", words.join(" "));
    }
    Ok(())
}

fn is_there(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/sbin"]);
    folders
        .into_iter()
        .any(|folder| std::path::Path::new(folder).join(program).exists())
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|out| out.stdout.trim_ascii() == b"0")
}
