//! What changes between two files, in the words of the file.

use crate::mend::quoted;
use crate::units::show_size;
use model::{
    Addressing, Check, CheckKind, Cluster, FenceBy, Hook, Limits, Logs, NodeName, Objective, Protocol, Reliability,
    Reserve, Restart, Service, ServiceName, Spread, StandbyMode, Stop, StopSignal,
};
use serde::Serialize;
use std::collections::BTreeSet;

/// What becomes of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceDiff {
    /// The service.
    pub service: ServiceName,
    /// What kind of change.
    pub kind: Difference,
    /// What changes, a line each: `active: 2 -> 3`. Of an added or removed service, what it is.
    pub lines: Vec<String>,
    /// Whether its running instances must be started anew.
    pub relaunch: bool,
}

/// How a service differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Difference {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is there in both and not the same.
    Changed,
}

/// The services that differ, by name.
pub fn diff(old: &Cluster, new: &Cluster) -> Vec<ServiceDiff> {
    let names: BTreeSet<&ServiceName> = old.services.keys().chain(new.services.keys()).collect();
    let mut all = Vec::new();
    for name in names {
        let (kind, lines, relaunch) = match (old.services.get(name), new.services.get(name)) {
            (Some(old), Some(new)) if old == new => continue,
            (Some(before), Some(after)) => {
                let mut lines = changes(before, after);
                if before.listen != after.listen {
                    lines.extend(keepers_of_old_address(name, old, new));
                }
                (Difference::Changed, lines, before.launch() != after.launch())
            }
            (None, Some(new)) => (Difference::Added, summary(new), false),
            (Some(old), None) => (Difference::Removed, summary(old), false),
            (None, None) => continue,
        };
        all.push(ServiceDiff {
            service: name.clone(),
            kind,
            lines,
            relaunch,
        });
    }
    all
}

fn changes(old: &Service, new: &Service) -> Vec<String> {
    let (old, new) = (keys(old), keys(new));
    let value = |of: &[(String, String)], key: &str| {
        of.iter()
            .find(|(name, _)| name == key)
            .map_or("none".to_owned(), |(_, value)| value.clone())
    };
    let mut names: Vec<&String> = old.iter().map(|(name, _)| name).collect();
    let known: BTreeSet<&String> = names.iter().copied().collect();
    names.extend(new.iter().map(|(name, _)| name).filter(|name| !known.contains(name)));
    names
        .into_iter()
        .map(|name| (name, value(&old, name), value(&new, name)))
        .filter(|(_, old, new)| old != new)
        .map(|(name, old, new)| format!("{name}: {old} -> {new}"))
        .collect()
}

/// Services that were told the address of another when they were started, and are not started anew now.
fn keepers_of_old_address(changed: &ServiceName, old: &Cluster, new: &Cluster) -> Option<String> {
    let told = format!("{{service.{changed}.");
    let is_told = |service: &Service| {
        let texts = service.command.iter().chain(service.env.values()).chain(&service.dir);
        texts.into_iter().any(|text| text.contains(&told))
    };
    let keepers: Vec<&str> = new
        .services
        .iter()
        .filter(|(name, service)| {
            is_told(service)
                && old
                    .services
                    .get(name)
                    .is_some_and(|old| old.launch() == service.launch())
        })
        .map(|(name, _)| name.as_str())
        .collect();
    (!keepers.is_empty()).then(|| {
        format!(
            "running instances of {} know the old address until they are started anew",
            keepers.join(", ")
        )
    })
}

fn summary(service: &Service) -> Vec<String> {
    const TOLD: [&str; 6] = ["command", "active", "standby", "exclusive", "listen", "address"];
    let told = keys(service)
        .into_iter()
        .filter(|(key, value)| TOLD.contains(&key.as_str()) && !(key == "exclusive" && value == "false"));
    told.map(|(key, value)| format!("{key}: {value}")).collect()
}

/// Every key of a service with its value as it would stand in the file. What is not set has no entry.
fn keys(service: &Service) -> Vec<(String, String)> {
    // Taken apart in full, so that a field that is added cannot be forgotten here.
    let Service {
        command,
        active,
        standby,
        need,
        exclusive,
        fence,
        standby_mode,
        listen,
        address,
        protocol,
        addressing,
        check,
        standby_check,
        needs,
        spread,
        nodes,
        avoid,
        reserve,
        on_promote,
        on_demote,
        on_follow,
        env,
        dir,
        user,
        limits,
        start_timeout,
        stop,
        restart,
        logs,
        drain_timeout,
        hold_timeout,
        hold_max,
        objective,
        reliability,
    } = service;
    let mut keys = Keys::default();
    keys.add("command", array(command));
    keys.add("active", active);
    keys.add("standby", standby);
    keys.add("need", need);
    keys.add("exclusive", exclusive);
    keys.maybe("fence", (*fence == FenceBy::Power).then(|| quoted("power")));
    keys.add(
        "standby_mode",
        match standby_mode {
            StandbyMode::Warm => "warm",
            StandbyMode::Cold => "cold",
        },
    );
    keys.maybe("listen", listen.as_ref());
    keys.maybe("address", address.as_ref().map(|address| quoted(&address.to_string())));
    let interface = address.as_ref().and_then(|address| address.interface.as_ref());
    keys.maybe("address.interface", interface.map(|name| quoted(name)));
    keys.add(
        "protocol",
        match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Http => "http",
        },
    );
    keys.add("port", *addressing == Addressing::Port);
    keys.check("check", check.as_ref());
    keys.check("standby_check", standby_check.as_ref());
    keys.add("needs", array(needs.iter().map(ServiceName::as_str)));
    keys.add(
        "spread",
        match spread {
            Spread::Prefer => "prefer",
            Spread::Node => "node",
            Spread::Zone => "zone",
        },
    );
    let names = |nodes: &BTreeSet<NodeName>| array(nodes.iter().map(NodeName::as_str));
    keys.maybe("nodes", (!nodes.is_empty()).then(|| names(nodes)));
    keys.maybe("avoid", (!avoid.is_empty()).then(|| names(avoid)));
    let Reserve {
        cpu_percent,
        memory_bytes,
    } = reserve;
    keys.maybe("reserve.cpu", (*cpu_percent > 0).then_some(cpu_percent));
    keys.maybe("reserve.memory", (*memory_bytes > 0).then(|| show_size(*memory_bytes)));
    keys.hook("on_promote", on_promote.as_ref());
    keys.hook("on_demote", on_demote.as_ref());
    keys.hook("on_follow", on_follow.as_ref());
    for (name, value) in env {
        keys.add(&format!("env.{name}"), quoted(value));
    }
    keys.maybe("dir", dir.as_ref().map(|dir| quoted(dir)));
    keys.maybe("user", user.as_ref().map(|user| quoted(user)));
    let Limits {
        open_files,
        processes,
        memory_bytes,
        core_bytes,
    } = limits;
    keys.maybe("limits.open_files", open_files.as_ref());
    keys.maybe("limits.processes", processes.as_ref());
    keys.maybe("limits.memory", memory_bytes.map(show_size));
    keys.maybe("limits.core", core_bytes.map(show_size));
    keys.add("start_timeout", start_timeout);
    let Stop { signal, timeout } = stop;
    keys.add(
        "stop.signal",
        match signal {
            StopSignal::Term => "SIGTERM",
            StopSignal::Int => "SIGINT",
            StopSignal::Quit => "SIGQUIT",
            StopSignal::Hup => "SIGHUP",
            StopSignal::Usr1 => "SIGUSR1",
            StopSignal::Usr2 => "SIGUSR2",
            StopSignal::Kill => "SIGKILL",
        },
    );
    keys.add("stop.timeout", timeout);
    let Restart {
        backoff,
        backoff_max,
        replace_after,
        give_up_after,
        retry_after,
    } = restart;
    keys.add("restart.backoff", backoff);
    keys.add("restart.backoff_max", backoff_max);
    keys.add("restart.replace_after", replace_after);
    keys.add("restart.give_up_after", give_up_after);
    keys.add("restart.retry_after", retry_after);
    let Logs { max_bytes, keep } = logs;
    keys.add("logs.max_size", show_size(*max_bytes));
    keys.add("logs.keep", keep);
    keys.add("drain_timeout", drain_timeout);
    keys.add("hold.time", hold_timeout);
    keys.add("hold.max", hold_max);
    if let Some(objective) = objective {
        keys.objective(objective);
    }
    let Reliability {
        externals,
        any_of,
        uses,
        // Told as parts of the objective.
        unavailable_ppb_max: _,
        distance_min: _,
        rate,
    } = reliability;
    let groups = any_of.iter().map(array);
    let beyond: Vec<String> = externals.iter().map(|name| quoted(name)).chain(groups).collect();
    keys.maybe(
        "needs beyond services",
        (!beyond.is_empty()).then(|| format!("[{}]", beyond.join(", "))),
    );
    keys.maybe("uses", (!uses.is_empty()).then(|| array(uses)));
    keys.maybe("mttf", rate.mttf.as_ref());
    keys.maybe("mttr", rate.mttr.as_ref());
    keys.0
}

#[derive(Default)]
struct Keys(Vec<(String, String)>);

impl Keys {
    fn add(&mut self, key: &str, value: impl std::fmt::Display) {
        self.0.push((key.into(), format!("{value}")));
    }

    fn maybe(&mut self, key: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.add(key, value);
        }
    }

    fn check(&mut self, key: &str, check: Option<&Check>) {
        let Some(Check {
            kind,
            every,
            timeout,
            fail_after,
            pass_after,
        }) = check
        else {
            return;
        };
        let what = match kind {
            CheckKind::Tcp => "tcp".to_owned(),
            CheckKind::Http { path, .. } => format!("http {}", quoted(path)),
            CheckKind::Grpc { service } if service.is_empty() => "grpc".to_owned(),
            CheckKind::Grpc { service } => format!("grpc {}", quoted(service)),
            CheckKind::Exec { command } => format!("exec {}", array(command)),
        };
        self.add(key, what);
        if let CheckKind::Http { status, body, .. } = kind {
            let codes: Vec<String> = status.iter().map(u16::to_string).collect();
            self.maybe(
                &format!("{key}.status"),
                (!codes.is_empty()).then(|| format!("[{}]", codes.join(", "))),
            );
            self.maybe(&format!("{key}.body"), body.as_ref().map(|body| quoted(body)));
        }
        self.add(&format!("{key}.every"), every);
        self.add(&format!("{key}.timeout"), timeout);
        self.add(&format!("{key}.fail_after"), fail_after);
        self.add(&format!("{key}.pass_after"), pass_after);
    }

    fn objective(&mut self, objective: &Objective) {
        let Objective {
            availability,
            latency,
            latency_share,
            distance,
            failover,
        } = objective;
        self.maybe("objective.availability", availability.as_ref());
        self.maybe("objective.latency", latency.as_ref());
        self.maybe("objective.latency_share", latency.map(|_| latency_share));
        self.maybe("objective.distance", distance.as_ref());
        self.maybe("objective.failover", failover.as_ref());
    }

    fn hook(&mut self, key: &str, hook: Option<&Hook>) {
        if let Some(Hook { command, timeout }) = hook {
            self.add(key, array(command));
            self.add(&format!("{key}.timeout"), timeout);
        }
    }
}

fn array(texts: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let texts: Vec<String> = texts.into_iter().map(|text| quoted(text.as_ref())).collect();
    format!("[{}]", texts.join(", "))
}
