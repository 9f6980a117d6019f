//! From a checked table to [`model::Service`]: what is not in the file is filled in, also where it depends on other keys.

use crate::keys::CHECK;
use crate::tree::{Data, Table, Value};
use crate::{fence, site, text, walk};
use model::{
    Addressing, AfterFence, Alerts, Check, CheckKind, FenceBy, FenceDevice, FloatingAddress, Hook, Limits, Logs,
    Millis, NodeName, Objective, Protocol, Reserve, Restart, Secret, Service, ServiceName, Share, Spread, StandbyMode,
    Stop, StopSignal,
};
use std::collections::{BTreeMap, BTreeSet};

/// Makes a service. `uses_port` tells whether `{port}` occurs in any of its texts.
///
/// Of a table with errors in it, it makes what can be looked at for further errors; nobody runs it.
pub(crate) fn service(table: &Table, uses_port: bool) -> Service {
    let active = number(table, "active");
    let exclusive = table.bool("exclusive").unwrap_or_default();
    let has_port = has_port(table, uses_port);
    let [on_promote, on_demote, on_follow] = ["on_promote", "on_demote", "on_follow"].map(|key| hook(table, key));
    let acts_when_run = exclusive && on_promote.is_none() && on_follow.is_none();
    Service {
        command: texts(table.array("command")),
        active,
        standby: number(table, "standby"),
        need: table.integer("need").map_or(active, narrow),
        exclusive,
        fence: match table.text("fence") {
            Some("power") => FenceBy::Power,
            _ => FenceBy::Lease,
        },
        standby_mode: match table.text("standby_mode") {
            Some("cold") => StandbyMode::Cold,
            None if acts_when_run => StandbyMode::Cold,
            _ => StandbyMode::Warm,
        },
        listen: table.address("listen"),
        address: address(table),
        protocol: match table.text("protocol") {
            Some("http") => Protocol::Http,
            _ => Protocol::Tcp,
        },
        addressing: if has_port { Addressing::Port } else { Addressing::None },
        check: check_or_default(table, has_port),
        standby_check: table.table("standby_check").and_then(check),
        needs: needs(table),
        spread: match table.text("spread") {
            Some("node") => Spread::Node,
            Some("zone") => Spread::Zone,
            _ => Spread::Prefer,
        },
        nodes: nodes(table, "nodes"),
        avoid: nodes(table, "avoid"),
        reserve: nested(table, "reserve", |reserve| Reserve {
            cpu_percent: number(reserve, "cpu"),
            memory_bytes: reserve.size("memory").unwrap_or(0),
        }),
        on_promote,
        on_demote,
        on_follow,
        env: env(table),
        dir: table.text("dir").map(str::to_owned),
        user: table.text("user").map(str::to_owned),
        limits: nested(table, "limits", |limits| Limits {
            open_files: limits.integer("open_files"),
            processes: limits.integer("processes"),
            memory_bytes: limits.size("memory"),
            core_bytes: limits.size("core"),
        }),
        start_timeout: span(table, "start_timeout"),
        stop: stop(table.table("stop")),
        restart: restart(table.table("restart")),
        logs: logs(table.table("logs")),
        drain_timeout: span(table, "drain_timeout"),
        hold_timeout: nested(table, "hold", |hold| span(hold, "time")),
        hold_max: nested(table, "hold", |hold| number(hold, "max")),
        objective: table.table("objective").map(objective),
        reliability: site::reliability(table),
    }
}

fn has_port(table: &Table, uses_port: bool) -> bool {
    let is_meant = || {
        let is_wanted = |key| table.given(key).is_some() || table.is_troubled(key);
        uses_port || is_wanted("listen") || table.is_troubled("port")
    };
    table.bool("port").unwrap_or_else(is_meant)
}

fn check_or_default(table: &Table, has_port: bool) -> Option<Check> {
    match table.get("check").map(|value| &value.data) {
        Some(Data::Table(given)) => check(given),
        Some(_) => None,
        None if has_port => walk::literal(&CHECK, "{ tcp = true }").as_ref().and_then(check),
        None => None,
    }
}

fn check(table: &Table) -> Option<Check> {
    let kind = if table.get("tcp").is_some() {
        CheckKind::Tcp
    } else if let Some(path) = table.text("http") {
        CheckKind::Http {
            path: path.into(),
            status: status(table),
            body: table.text("body").map(str::to_owned),
        }
    } else if let Some(grpc) = table.get("grpc") {
        CheckKind::Grpc {
            service: grpc.as_text().unwrap_or_default().into(),
        }
    } else {
        CheckKind::Exec {
            command: texts(table.get("exec")?.as_array()),
        }
    };
    let every = span(table, "every");
    Some(Check {
        kind,
        every,
        timeout: table.duration("timeout").unwrap_or_else(|| timeout_for(every)),
        fail_after: number(table, "fail_after"),
        pass_after: number(table, "pass_after"),
    })
}

/// A check that is still under way when the next is due tells nothing new; below 100 ms a busy machine is mistaken for a dead one.
fn timeout_for(every: Millis) -> Millis {
    every.clamp(Millis(100), Millis(1_000))
}

fn status(table: &Table) -> BTreeSet<u16> {
    let Some(status) = table.get("status") else {
        return BTreeSet::new();
    };
    let codes = match &status.data {
        Data::Array(codes) => codes.as_slice(),
        _ => std::slice::from_ref(status),
    };
    codes
        .iter()
        .filter_map(|code| u16::try_from(code.as_integer()?).ok())
        .collect()
}

fn needs(table: &Table) -> BTreeSet<ServiceName> {
    let names = table.array("needs").iter().filter_map(Value::as_text);
    names.filter_map(|name| ServiceName::new(name).ok()).collect()
}

fn nodes(table: &Table, key: &str) -> BTreeSet<NodeName> {
    let names = table.array(key).iter().filter_map(Value::as_text);
    names.filter_map(|name| NodeName::new(name).ok()).collect()
}

fn hook(table: &Table, key: &str) -> Option<Hook> {
    match &table.get(key)?.data {
        Data::Table(hook) => Some(Hook {
            command: texts(hook.array("command")),
            timeout: span(hook, "timeout"),
        }),
        Data::Array(command) => {
            let defaults = walk::literal(&crate::keys::HOOK, r#"{ command = ["-"] }"#);
            let timeout = defaults.as_ref().map(|hook| span(hook, "timeout")).unwrap_or_default();
            Some(Hook {
                command: texts(command),
                timeout,
            })
        }
        _ => None,
    }
}

fn address(table: &Table) -> Option<FloatingAddress> {
    let (text, interface) = match &table.get("address")?.data {
        Data::Table(address) => (address.text("ip")?, address.text("interface").map(str::to_owned)),
        Data::Text(text) => (text.as_str(), None),
        _ => return None,
    };
    let (ip, prefix) = text::host_address(text).ok()?;
    Some(FloatingAddress { ip, prefix, interface })
}

fn objective(table: &Table) -> Objective {
    let share = |key| table.text(key).and_then(Share::parse);
    Objective {
        availability: share("availability"),
        latency: table.duration("latency"),
        latency_share: share("latency_share").unwrap_or(Share(Share::ALL - 1)),
        distance: table.integer("distance").map(narrow),
        failover: table.duration("failover"),
    }
}

/// Who is told of alerts.
pub(crate) fn alerts(file: &Table) -> Alerts {
    let Some(table) = file.table("alerts") else {
        return Alerts::default();
    };
    Alerts {
        webhook: texts(table.array("webhook")),
        alertmanager: texts(table.array("alertmanager")),
        command: texts(table.array("command")),
        token_file: table.text("token_file").map(str::to_owned),
        ca_file: table.text("ca_file").map(str::to_owned),
        repeat: span(table, "repeat"),
        heartbeat: table.duration("heartbeat"),
    }
}

/// The devices of a node.
pub(crate) fn fence(node: &Table) -> Vec<FenceDevice> {
    fence::devices(node).into_iter().map(device).collect()
}

fn device(table: &Table) -> FenceDevice {
    let secret = |value: &Value| {
        let table = value.as_table()?;
        let file = || Some(Secret::File(table.text("file")?.to_owned()));
        file().or_else(|| Some(Secret::Env(table.text("env")?.to_owned())))
    };
    let secrets = table.map("secrets").iter();
    FenceDevice {
        agent: table.text("agent").unwrap_or_default().to_owned(),
        parameters: texts_by_name(table, "parameters"),
        secrets: secrets
            .filter_map(|entry| Some((entry.name.clone(), secret(&entry.value)?)))
            .collect(),
        timeout: span(table, "timeout"),
        feeds: texts(table.array("feeds")).into_iter().collect(),
    }
}

/// What becomes of a node that was fenced.
pub(crate) fn after_fence(node: &Table) -> AfterFence {
    match node.text("after_fence") {
        Some("stay-off") => AfterFence::StayOff,
        _ => AfterFence::On,
    }
}

fn env(table: &Table) -> BTreeMap<String, String> {
    texts_by_name(table, "env")
}

fn texts_by_name(table: &Table, key: &str) -> BTreeMap<String, String> {
    let pairs = table.map(key).iter();
    pairs
        .filter_map(|entry| Some((entry.name.clone(), entry.value.as_text()?.to_owned())))
        .collect()
}

fn stop(table: Option<&Table>) -> Stop {
    Stop {
        signal: match table.and_then(|table| table.text("signal")) {
            Some("SIGINT") => StopSignal::Int,
            Some("SIGQUIT") => StopSignal::Quit,
            Some("SIGHUP") => StopSignal::Hup,
            Some("SIGUSR1") => StopSignal::Usr1,
            Some("SIGUSR2") => StopSignal::Usr2,
            Some("SIGKILL") => StopSignal::Kill,
            _ => StopSignal::Term,
        },
        timeout: table.map(|table| span(table, "timeout")).unwrap_or_default(),
    }
}

fn restart(table: Option<&Table>) -> Restart {
    let span = |key| table.map(|table| span(table, key)).unwrap_or_default();
    let number = |key| table.map(|table| number(table, key)).unwrap_or_default();
    Restart {
        backoff: span("backoff"),
        backoff_max: span("backoff_max"),
        replace_after: number("replace_after"),
        give_up_after: number("give_up_after"),
        retry_after: span("retry_after"),
    }
}

fn logs(table: Option<&Table>) -> Logs {
    Logs {
        max_bytes: table.and_then(|table| table.size("max_size")).unwrap_or_default(),
        keep: table.map(|table| number(table, "keep")).unwrap_or_default(),
    }
}

fn nested<T: Default>(table: &Table, key: &str, read: impl FnOnce(&Table) -> T) -> T {
    table.table(key).map(read).unwrap_or_default()
}

fn texts(values: &[Value]) -> Vec<String> {
    values.iter().filter_map(Value::as_text).map(str::to_owned).collect()
}

/// A number with a default, hence always there.
fn number(table: &Table, key: &str) -> u32 {
    debug_assert!(table.integer(key).is_some(), "`{key}` has no default");
    table.integer(key).map(narrow).unwrap_or_default()
}

/// A duration with a default, hence always there.
fn span(table: &Table, key: &str) -> Millis {
    debug_assert!(table.duration(key).is_some(), "`{key}` has no default");
    table.duration(key).unwrap_or_default()
}

/// The ranges of the keys all lie far within.
fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
