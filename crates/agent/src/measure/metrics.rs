//! `GET /metrics`: what this node knows, for Prometheus.
//!
//! Every node answers for its own proxy and instances, and says of services and nodes what all agree on. Labels are names from the file and of nodes,
//! and words from closed lists: nothing that clients could make up.

use super::{Measures, Seen, State};
use crate::clock;
use api::{Measure, ServiceStatus};
use model::latency::Histogram;
use monitor::alert::Silence;
use monitor::exposition::{Format, Kind, Page, about_sum_us};
use std::collections::BTreeMap;

const STATES: [&str; 4] = ["redundant", "degraded", "down", "unknown"];
const ROLES: [&str; 2] = ["active", "standby"];
const INSTANCE_STATES: [&str; 6] = ["waiting", "starting", "running", "prepared", "stopping", "failed"];

/// The page. Without a look at the main loop there is only what is known without one.
pub(super) fn page(measures: &Measures, format: Format) -> String {
    let mut page = Page::new(format);
    let state = measures.state();
    let now = clock::now().0;
    page.family(
        "understudy_agent_info",
        Kind::Gauge,
        "The agent that answers: always 1.",
    );
    let me = state.look.as_ref().map_or("", |(seen, _)| seen.me.as_str());
    let cluster = state.look.as_ref().map_or("", |(seen, _)| seen.status.cluster.as_str());
    page.sample(
        &[
            ("version", env!("CARGO_PKG_VERSION")),
            ("node", me),
            ("cluster", cluster),
        ],
        1.0,
    );
    if let Some((seen, at)) = &state.look {
        page.family(
            "understudy_agent_look_age_seconds",
            Kind::Gauge,
            "How old what is said here of services is.",
        );
        page.sample(&[], now.saturating_sub(*at) as f64 / 1e6);
        manager(&mut page, seen, now);
        services(&mut page, &seen.status.services);
        nodes(&mut page, seen);
        proxy(&mut page, &state, seen);
    }
    outlook(&mut page, &state);
    takeovers(&mut page, &state);
    instances(&mut page, &state);
    machine(&mut page, &state);
    objectives(&mut page, &state);
    page.family(
        "understudy_agent_measuring_seconds_total",
        Kind::Counter,
        "Processor time that measuring took.",
    );
    page.sample(&[], state.own_cpu_us as f64 / 1e6);
    page.family(
        "understudy_agent_measuring_rounds_total",
        Kind::Counter,
        "How often was measured.",
    );
    page.sample(&[], state.rounds as f64);
    let told = measures.told();
    let silences: Vec<Silence> = told.silences.values().cloned().collect();
    alerts(&mut page, &state, &silences);
    page.family(
        "understudy_alerts_deliveries_total",
        Kind::Counter,
        "Deliveries of alerts by this node.",
    );
    for ((receiver, well), count) in &told.deliveries {
        let result = if *well { "done" } else { "failed" };
        page.sample(&[("receiver", receiver), ("result", result)], *count as f64);
    }
    page.family(
        "understudy_alerts_telling",
        Kind::Gauge,
        "Whether this node tells receivers of alerts.",
    );
    page.sample(&[], flag(told.tells));
    page.finish()
}

fn manager(page: &mut Page, seen: &Seen, now: u64) {
    let cluster = seen.cluster.as_ref();
    page.family(
        "understudy_agent_leader",
        Kind::Gauge,
        "Whether this node is the controller.",
    );
    page.sample(&[], flag(cluster.is_none_or(|cluster| cluster.leads)));
    page.family(
        "understudy_agent_controller_known",
        Kind::Gauge,
        "Whether there is a controller, as far as this node knows.",
    );
    page.sample(&[], flag(cluster.is_none_or(|cluster| cluster.controller.is_some())));
    let lost = cluster.and_then(|cluster| cluster.store_lost_since);
    page.family(
        "understudy_agent_quorum",
        Kind::Gauge,
        "Whether the store answers this node.",
    );
    page.sample(&[], flag(lost.is_none()));
    page.family(
        "understudy_agent_store_silent_seconds",
        Kind::Gauge,
        "For how long the store has not answered; 0 while it does.",
    );
    page.sample(&[], lost.map_or(0.0, |since| now.saturating_sub(since) as f64 / 1e6));
    page.family(
        "understudy_agent_config_revision",
        Kind::Gauge,
        "Revision of the file in force.",
    );
    page.sample(&[], seen.status.revision as f64);
    if let Some(applied) = seen.applied_ms {
        page.family(
            "understudy_agent_config_age_seconds",
            Kind::Gauge,
            "How long ago the file in force was applied.",
        );
        page.sample(&[], (clock::wall_now().0 - applied).max(0) as f64 / 1e3);
    }
    page.family(
        "understudy_agent_paused",
        Kind::Gauge,
        "Whether automatic actions are paused.",
    );
    page.sample(&[], flag(seen.status.paused.is_some()));
    page.family(
        "understudy_agent_problems",
        Kind::Gauge,
        "Problems that status tells, by severity.",
    );
    for (severity, name) in [(api::Severity::Warning, "warning"), (api::Severity::Error, "critical")] {
        let count = seen
            .status
            .problems
            .iter()
            .filter(|problem| problem.severity == severity)
            .count();
        page.sample(&[("severity", name)], count as f64);
    }
}

/// Whether this node can say now how it is.
fn is_known(service: &ServiceStatus) -> bool {
    service.state != "unknown"
}

fn services(page: &mut Page, services: &[ServiceStatus]) {
    // While it cannot be said how a service is, no figure is better than one that hides what other nodes say.
    type Figure = fn(&ServiceStatus) -> Option<f64>;
    let figures: [(&str, &str, Figure); 4] = [
        (
            "understudy_service_up",
            "Whether as many actives serve as are needed.",
            |service| is_known(service).then(|| flag(service.state != "down")),
        ),
        ("understudy_service_need", "How many actives must serve.", |service| {
            Some(f64::from(service.need))
        }),
        (
            "understudy_service_distance_to_outage",
            "How many more failures, of anything that analyze counts, at least, take it down; 0 is down.",
            |service| is_known(service).then(|| f64::from(service.distance_to_outage)),
        ),
        (
            "understudy_service_rolling",
            "Whether a rollout is under way.",
            |service| Some(flag(service.rolling)),
        ),
    ];
    for (name, help, figure) in figures {
        page.family(name, Kind::Gauge, help);
        for service in services {
            if let Some(figure) = figure(service) {
                page.sample(&[("service", &service.name)], figure);
            }
        }
    }
    page.family(
        "understudy_service_state",
        Kind::Gauge,
        "1 for the state that the service is in.",
    );
    for service in services {
        for state in STATES {
            page.sample(
                &[("service", &service.name), ("state", state)],
                flag(service.state == state),
            );
        }
    }
    page.family(
        "understudy_service_declared_instances",
        Kind::Gauge,
        "How many instances are declared.",
    );
    for service in services {
        page.sample(
            &[("service", &service.name), ("role", "active")],
            f64::from(service.active),
        );
        page.sample(
            &[("service", &service.name), ("role", "standby")],
            f64::from(service.standby),
        );
    }
    page.family(
        "understudy_service_instances",
        Kind::Gauge,
        "How many instances there are, by role and state.",
    );
    for service in services {
        for role in ROLES {
            for state in INSTANCE_STATES {
                let count = service
                    .instances
                    .iter()
                    .filter(|one| one.role == role && one.state == state)
                    .count();
                page.sample(
                    &[("service", &service.name), ("role", role), ("state", state)],
                    count as f64,
                );
            }
        }
    }
    page.family(
        "understudy_service_ready_standbys",
        Kind::Gauge,
        "How many standbys could take over now.",
    );
    for service in services {
        let ready = service
            .instances
            .iter()
            .filter(|one| one.role == "standby" && one.ready)
            .count();
        page.sample(&[("service", &service.name)], ready as f64);
    }
    page.family(
        "understudy_service_restarts",
        Kind::Gauge,
        "How often its present instances were started again, together.",
    );
    for service in services {
        let restarts: u32 = service.instances.iter().map(|one| one.restarts).sum();
        page.sample(&[("service", &service.name)], f64::from(restarts));
    }
}

fn nodes(page: &mut Page, seen: &Seen) {
    page.family("understudy_node_up", Kind::Gauge, "Whether the node runs instances.");
    for node in &seen.status.nodes {
        page.sample(&[("node", &node.name)], flag(node.state == api::NodeState::Online));
    }
    page.family("understudy_node_info", Kind::Gauge, "Where the node is: always 1.");
    for node in &seen.status.nodes {
        page.sample(&[("node", &node.name), ("zone", &node.zone)], 1.0);
    }
}

fn proxy(page: &mut Page, state: &State, seen: &Seen) {
    page.family(
        "understudy_proxy_up",
        Kind::Gauge,
        "Whether the proxy of this node runs.",
    );
    page.sample(&[], flag(seen.proxy_is_up));
    let declared = seen
        .declared
        .services
        .iter()
        .filter(|(_, service)| service.listen.is_some());
    let counted: Vec<_> = declared
        .map(|(name, service)| {
            (
                name.as_str(),
                service.protocol,
                state.flow.last(name.as_str()).cloned().unwrap_or_default(),
            )
        })
        .collect();
    page.family(
        "understudy_proxy_requests_total",
        Kind::Counter,
        "Answers by class of status (http), or connections that reached an active (tcp).",
    );
    for (service, protocol, (totals, measured)) in &counted {
        match protocol {
            model::Protocol::Http => {
                for (code, count) in ["1xx", "2xx", "3xx", "4xx", "5xx"].iter().zip(measured.status) {
                    page.sample(&[("service", service), ("code", code)], count as f64);
                }
            }
            model::Protocol::Tcp => page.sample(&[("service", service), ("code", "tcp")], totals.requests as f64),
        }
    }
    page.family(
        "understudy_proxy_unanswered_total",
        Kind::Counter,
        "Requests or connections that no active answered, by reason.",
    );
    for (service, _, (totals, measured)) in &counted {
        let named = measured.no_active + measured.crowded;
        let reasons = [
            ("no_active", measured.no_active),
            ("crowded", measured.crowded),
            ("client_left", measured.left),
            ("broken", totals.failed.saturating_sub(named)),
        ];
        for (reason, count) in reasons {
            page.sample(&[("service", service), ("reason", reason)], count as f64);
        }
    }
    type Times = fn(&api::proxy::Measured) -> &Histogram;
    let histograms: [(&str, &str, Times); 2] = [
        (
            "understudy_proxy_request_duration_seconds",
            "From the request to its whole answer, or to the head of a long one (http); from the connection to the first byte (tcp).",
            |measured| &measured.latency,
        ),
        (
            "understudy_proxy_connect_seconds",
            "How long connecting to an active took (tcp).",
            |measured| &measured.connect,
        ),
    ];
    for (name, help, of) in histograms {
        page.family(name, Kind::Histogram, help);
        for (service, _, (_, measured)) in &counted {
            page.histogram(&[("service", service)], of(measured), about_sum_us(of(measured)));
        }
    }
    page.family(
        "understudy_proxy_bytes_total",
        Kind::Counter,
        "Bytes from and to clients.",
    );
    for (service, _, (_, measured)) in &counted {
        page.sample(&[("service", service), ("direction", "in")], measured.bytes_in as f64);
        page.sample(&[("service", service), ("direction", "out")], measured.bytes_out as f64);
    }
    type Figure = fn(&api::proxy::Totals, &api::proxy::Measured) -> f64;
    let figures: [(&str, Kind, &str, Figure); 6] = [
        (
            "understudy_proxy_inflight_requests",
            Kind::Gauge,
            "Requests or connections under way.",
            |_, measured| measured.inflight as f64,
        ),
        (
            "understudy_proxy_inflight_seconds_total",
            Kind::Counter,
            "The sum over time of requests under way: its rate is their mean number.",
            |_, measured| measured.inflight_us as f64 / 1e6,
        ),
        (
            "understudy_proxy_held_requests",
            Kind::Gauge,
            "Requests or connections that wait for an active.",
            |totals, _| totals.holding as f64,
        ),
        (
            "understudy_proxy_connections_total",
            Kind::Counter,
            "Connections from clients.",
            |totals, _| totals.connections as f64,
        ),
        (
            "understudy_proxy_open_connections",
            Kind::Gauge,
            "Connections from clients that are open.",
            |totals, _| totals.open as f64,
        ),
        (
            "understudy_proxy_retries_total",
            Kind::Counter,
            "Requests repeated, or connects tried again, on another active.",
            |totals, _| totals.retried as f64,
        ),
    ];
    for (name, kind, help, figure) in figures {
        page.family(name, kind, help);
        for (service, _, (totals, measured)) in &counted {
            page.sample(&[("service", service)], figure(totals, measured));
        }
    }
}

fn takeovers(page: &mut Page, state: &State) {
    let takeovers = &state.alerting.takeovers;
    page.family(
        "understudy_service_failovers_total",
        Kind::Counter,
        "Changes of a slot's holder that this node carried out, by result.",
    );
    for (service, takeovers) in takeovers {
        let results = [
            ("done", takeovers.unplanned),
            ("failed", takeovers.failed),
            ("planned", takeovers.planned),
        ];
        for (result, count) in results {
            page.sample(&[("service", service), ("result", result)], count as f64);
        }
    }
    page.family(
        "understudy_service_failover_seconds",
        Kind::Histogram,
        "How long unplanned failovers took, from the first evidence to the first answer.",
    );
    for (service, takeovers) in takeovers {
        page.histogram(&[("service", service)], &takeovers.took, takeovers.took_us as f64);
    }
    page.family(
        "understudy_agent_events_total",
        Kind::Counter,
        "Events of this node, by severity.",
    );
    for (severity, count) in &state.alerting.events {
        page.sample(&[("severity", severity)], *count as f64);
    }
}

fn instances(page: &mut Page, state: &State) {
    type Figure = fn(&monitor::read::Usage) -> Option<f64>;
    fn seconds(us: Option<u64>) -> Option<f64> {
        us.map(|us| us as f64 / 1e6)
    }
    fn plain(number: Option<u64>) -> Option<f64> {
        number.map(|number| number as f64)
    }
    let figures: [(&str, Kind, &str, Figure); 9] = [
        (
            "understudy_instance_cpu_seconds_total",
            Kind::Counter,
            "Processor time.",
            |usage| seconds(usage.cpu_us),
        ),
        (
            "understudy_instance_throttled_seconds_total",
            Kind::Counter,
            "Time that its processor limit kept it from running.",
            |usage| seconds(usage.throttled_us),
        ),
        ("understudy_instance_memory_bytes", Kind::Gauge, "Memory.", |usage| {
            plain(usage.memory_bytes)
        }),
        (
            "understudy_instance_io_bytes_total",
            Kind::Counter,
            "Bytes read from and written to disks.",
            |usage| plain(usage.io_bytes),
        ),
        (
            "understudy_instance_cpu_stall_seconds_total",
            Kind::Counter,
            "Time that some of it waited for a processor.",
            |usage| seconds(usage.cpu_stall_us),
        ),
        (
            "understudy_instance_memory_stall_seconds_total",
            Kind::Counter,
            "Time that some of it waited for memory.",
            |usage| seconds(usage.memory_stall_us),
        ),
        (
            "understudy_instance_io_stall_seconds_total",
            Kind::Counter,
            "Time that some of it waited for a disk.",
            |usage| seconds(usage.io_stall_us),
        ),
        ("understudy_instance_open_files", Kind::Gauge, "Open files.", |usage| {
            plain(usage.files)
        }),
        ("understudy_instance_threads", Kind::Gauge, "Threads.", |usage| {
            plain(usage.threads)
        }),
    ];
    for (name, kind, help, figure) in figures {
        page.family(name, kind, help);
        for (id, usage) in &state.usages {
            if let Some(value) = figure(usage) {
                page.sample(
                    &[("service", id.service().as_str()), ("instance_name", &id.to_string())],
                    value,
                );
            }
        }
    }
}

fn machine(page: &mut Page, state: &State) {
    let figures = [
        (
            Measure::CpuCores,
            "understudy_node_cpu_cores",
            "Processor cores in use.",
        ),
        (Measure::MemoryBytes, "understudy_node_memory_bytes", "Memory in use."),
        (Measure::Load, "understudy_node_load", "Load average of a minute."),
        (
            Measure::DiskFreeBytes,
            "understudy_node_disk_free_bytes",
            "Bytes free on the disk of the cluster's folder.",
        ),
        (
            Measure::DiskBytes,
            "understudy_node_disk_size_bytes",
            "Size of that disk.",
        ),
        (
            Measure::CpuStall,
            "understudy_node_cpu_stall_ratio",
            "Share of the last second in which something waited for a processor.",
        ),
        (
            Measure::MemoryStall,
            "understudy_node_memory_stall_ratio",
            "Likewise for memory.",
        ),
        (
            Measure::IoStall,
            "understudy_node_io_stall_ratio",
            "Likewise for a disk.",
        ),
    ];
    for (measure, name, help) in figures {
        page.family(name, Kind::Gauge, help);
        let of_nodes = state
            .memory
            .values()
            .filter(|(about, of, ..)| about.service.is_none() && *of == measure);
        for (about, _, _, value) in of_nodes {
            page.sample(&[("node", about.node.as_deref().unwrap_or_default())], value);
        }
    }
}

/// What is to be expected, and what could be borne.
fn outlook(page: &mut Page, state: &State) {
    page.family(
        "understudy_service_predicted_unavailability",
        Kind::Gauge,
        "Share of the time that the service is to be expected down, as analyze predicts it; assumed: whether that rests on rates that nobody gave.",
    );
    for (service, expected) in state.outlook.iter().flat_map(|outlook| outlook.expected.iter()) {
        let assumed = if expected.assumed { "true" } else { "false" };
        page.sample(&[("service", service), ("assumed", assumed)], expected.unavailability);
    }
    page.family(
        "understudy_service_headroom_ratio",
        Kind::Gauge,
        "How many times the present requests the service could bear before its processors are full; absent where that cannot be told.",
    );
    for (service, times) in super::limits::headroom(state) {
        page.sample(&[("service", &service)], times);
    }
}

fn objectives(page: &mut Page, state: &State) {
    let burns = &state.alerting.burns;
    type Figure = fn(&monitor::objective::Burn) -> f64;
    let figures: [(&str, &str, Figure); 3] = [
        (
            "understudy_objective_bad_ratio",
            "Share of requests of the last hour that failed or were slow.",
            |burn| burn.bad,
        ),
        (
            "understudy_objective_burn_rate",
            "How many times too fast the budget was used in the last hour.",
            |burn| burn.rate,
        ),
        (
            "understudy_objective_budget_left_ratio",
            "What is left of the budget of 30 days, as far as it is known.",
            |burn| burn.left,
        ),
    ];
    for (name, help, figure) in figures {
        page.family(name, Kind::Gauge, help);
        for ((service, kind), burn) in burns {
            page.sample(&[("service", service), ("objective", kind.name())], figure(burn));
        }
    }
}

fn alerts(page: &mut Page, state: &State, silences: &[Silence]) {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for one in state.alerting.book.firing(silences, clock::wall_now().0) {
        let entry = one.wrong.code.entry();
        let severity = monitor::alert::payload::severity(entry.severity);
        *counts.entry((entry.name, severity)).or_default() += 1;
    }
    page.family(
        "understudy_alerts_firing",
        Kind::Gauge,
        "Alerts that fire, by code and severity, as this node judges.",
    );
    for ((code, severity), count) in counts {
        page.sample(&[("code", code), ("severity", severity)], count as f64);
    }
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}
