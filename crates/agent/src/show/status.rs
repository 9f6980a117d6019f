//! `GET /v1/status`.

use crate::clock::{self, shown};
use crate::executor::Executor;
use crate::fronts::Fronts;
use crate::journal::Journal;
use crate::show::{Pace, slots};
use api::{InstanceStatus, NodeState, NodeStatus, Problem, ServiceStatus, Severity, SlotStatus, Status, Traffic};
use decisions::{InstancePhase, InstanceView, Reason, RolloutState, ServiceView, SlotPhase, View};
use model::{CheckKind, FenceBy, Millis, ServiceState, Site, Timestamp};
use std::collections::BTreeSet;
use std::time::Duration;

/// What is told beside what was decided.
#[derive(Clone, Copy)]
pub(crate) struct Beside<'a> {
    pub(crate) executor: &'a Executor,
    pub(crate) fronts: &'a Fronts,
    /// Absent on a single machine.
    pub(crate) pace: Option<Pace<'a>>,
    pub(crate) site: &'a Site,
    pub(crate) journal: &'a Journal,
}

/// Everything as it is.
pub(crate) fn status(name: &str, revision: u64, view: &View, beside: &Beside<'_>, extra: Vec<Problem>) -> Status {
    let mut problems: Vec<Problem> = view
        .services
        .iter()
        .flat_map(|service| problems(service, view.paused.is_some()))
        .chain(extra)
        .chain(paused(view))
        .collect();
    problems.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
    Status {
        version: api::VERSION,
        cluster: name.into(),
        at: clock::shown_wall(clock::wall_now()),
        revision,
        services: view
            .services
            .iter()
            .map(|service| service_status(service, view, beside))
            .collect(),
        nodes: view.nodes.iter().map(node_status).collect(),
        problems,
        paused: view.paused.as_ref().map(|paused| shown(paused.since)),
        pause: view.paused.as_ref().map(|paused| api::Pause {
            since: shown(paused.since),
            by: paused.by.clone(),
            why: paused.why.clone(),
        }),
        distances_at: None,
    }
}

fn node_status(node: &decisions::NodeView) -> NodeStatus {
    NodeStatus {
        name: node.name.to_string(),
        zone: node.zone.clone(),
        state: match node.state {
            decisions::NodeState::Online => NodeState::Online,
            decisions::NodeState::Drained => NodeState::Drained,
            decisions::NodeState::Offline => NodeState::Offline,
        },
        since: since(node.since),
        because: node.because.to_string(),
    }
}

/// Whatever else is said, nothing follows while automatic actions are paused.
fn paused(view: &View) -> Option<Problem> {
    let paused = view.paused.as_ref()?;
    Some(Problem {
        code: "paused".into(),
        severity: Severity::Warning,
        about: "cluster".into(),
        text: format!(
            "nothing is failed over, started again or rolled out: {}, since {}",
            paused.reason(),
            shown(paused.since)
        ),
        hint: "`understudy resume` ends that".into(),
        since: shown(paused.since),
    })
}

fn service_status(service: &ServiceView, view: &View, beside: &Beside<'_>) -> ServiceStatus {
    let Beside { executor, fronts, .. } = *beside;
    let node_of = |slot: &decisions::SlotView| {
        let holder = slot.instance.as_ref()?;
        service
            .instances
            .iter()
            .find(|instance| instance.id == *holder)
            .map(|instance| instance.node.to_string())
    };
    let slots = service.slots.iter().map(|slot| SlotStatus {
        slot: slot.slot,
        state: slot_state(slot.phase).into(),
        instance: slot.instance.as_ref().map(ToString::to_string),
        node: node_of(slot),
        epoch: slot.epoch.0,
        since: since(slot.since),
        because: slots::because(slot),
        parked: slot.parked.as_ref().map(|parked| api::Parked {
            since: since(parked.since),
            by: parked.by.clone(),
            why: parked.why.clone(),
        }),
    });
    ServiceStatus {
        name: service.name.to_string(),
        state: service.state.to_string(),
        since: since(service.since),
        because: because_of(service),
        active: service.declared.active,
        standby: service.declared.standby,
        need: service.need,
        exclusive: service.declared.exclusive,
        // Of instances alone: the rest is added by who has reckoned it.
        distance_to_outage: service.distance,
        outage: None,
        protection: protection(service, view, beside),
        listen: service.declared.listen.map(|listen| listen.to_string()),
        floating: service
            .declared
            .address
            .as_ref()
            .map(|address| floating(address, service, executor)),
        slots: slots.collect(),
        instances: service
            .instances
            .iter()
            .map(|instance| instance_status(instance, executor))
            .collect(),
        rolling: service.rollout.is_some(),
        rollout: rollout(service),
        waits_for: match &service.because {
            Reason::WaitsForNeed { need } => Some(need.to_string()),
            _ => None,
        },
        unplaced: service.unplaced.clone(),
        failover_order: service.failover_order.iter().map(ToString::to_string).collect(),
        traffic: fronts.totals(&service.name).map(|totals| Traffic {
            open: totals.open,
            requests: totals.requests,
            retried: totals.retried,
            held: totals.held,
            failed: totals.failed,
            errors: totals.errors,
        }),
    }
}

/// A floating address, and where it is: whoever has it for an instance says so.
fn floating(address: &model::FloatingAddress, service: &ServiceView, executor: &Executor) -> api::Floating {
    // What a lost node said of its own is not so any more: it counts for whoever holds the slot.
    let holds = |id: &model::InstanceId| service.slots.iter().any(|slot| slot.instance.as_ref() == Some(id));
    let mut there = service
        .instances
        .iter()
        .filter(|instance| holds(&instance.id))
        .filter_map(|instance| Some((instance, executor.floating_on(&instance.id, address)?)));
    let (node, interface) = there
        .next()
        .map(|(instance, interface)| (instance.node.to_string(), interface))
        .unzip();
    api::Floating {
        address: address.to_string(),
        node,
        interface,
    }
}

fn because_of(service: &ServiceView) -> String {
    let mut because = service.because.to_string();
    if service.removed {
        because.push_str("; the file no longer declares it");
    } else if let Some(rollout) = rollout(service) {
        because.push_str("; ");
        because.push_str(&rollout_in_words(&rollout));
    }
    if let Some(unplaced) = &service.unplaced {
        because.push_str("; ");
        because.push_str(unplaced);
    }
    because
}

/// How it goes with the replacement of processes that run from an earlier declaration.
pub(super) fn rollout(service: &ServiceView) -> Option<api::Rollout> {
    let rollout = service.rollout.as_ref()?;
    let retried = service
        .instances
        .iter()
        .filter(|instance| instance.current && instance.phase == InstancePhase::Failed);
    let given_up = rollout.given_up.as_ref();
    let by_hand = || {
        let tried = given_up.map(|given_up| format!("; `understudy retry {}` tries once more", given_up.instance));
        tried.unwrap_or_default()
    };
    let again = retried.clone().next().map_or_else(by_hand, |instance| {
        let at = instance.next_try.filter(|at| *at != Timestamp::NEVER);
        let by_itself = at.map_or_else(String::new, |at| format!(", as happens by itself at {}", shown(at)));
        format!("; `understudy retry {}` tries once more{by_itself}", instance.id)
    });
    let tried = retried.clone().next().map(|instance| instance.id.clone());
    let (state, hint) = match rollout.state {
        RolloutState::UnderWay => ("under-way", String::new()),
        RolloutState::Stuck => (
            "stuck",
            format!(
                "it goes on when that is mended; `understudy explain {}` says more, `understudy rollback` goes back",
                service.name
            ),
        ),
        RolloutState::GivenUp => (
            "given-up",
            format!("what ran before serves on; `understudy rollback` goes back to it, or apply a mended file{again}"),
        ),
    };
    Some(api::Rollout {
        state: state.into(),
        since: rollout.since.map(since),
        because: rollout.because.as_ref().map(ToString::to_string).unwrap_or_default(),
        hint,
        instance: given_up
            .map(|given_up| &given_up.instance)
            .or(tried.as_ref())
            .map(ToString::to_string),
        tries: given_up.map(|given_up| given_up.tries),
        by: given_up.and_then(|given_up| Some(given_up.by.as_ref()?.to_string())),
    })
}

/// In a clause, as part of why a service is as it is.
pub(super) fn rollout_in_words(rollout: &api::Rollout) -> String {
    let at = |word: &str| {
        rollout
            .since
            .as_ref()
            .map_or_else(String::new, |since| format!(" {word} {since}"))
    };
    match rollout.state.as_str() {
        "given-up" => format!("its rollout was given up{}: {}", at("at"), rollout.because),
        "stuck" => format!("its rollout gets no further{}: {}", at("since"), rollout.because),
        _ => format!("a rollout is under way{}", at("since")),
    }
}

fn instance_status(instance: &InstanceView, executor: &Executor) -> InstanceStatus {
    InstanceStatus {
        id: instance.id.to_string(),
        node: instance.node.to_string(),
        role: instance.role.to_string(),
        health: instance.health.to_string(),
        state: match instance.phase {
            InstancePhase::Waiting => "waiting",
            InstancePhase::Prepared => "prepared",
            InstancePhase::Starting => "starting",
            InstancePhase::Running => "running",
            InstancePhase::Stopping => "stopping",
            InstancePhase::Failed => "failed",
        }
        .into(),
        // It may well be tried again; that it could take over is not what was seen.
        ready: instance.ready.is_ok() && instance.not_promoted.is_none(),
        since: since(instance.since),
        because: match (&instance.ready, &instance.not_promoted) {
            (_, Some(what)) => format!("{}; its last promotion failed: {what}", instance.because),
            (Err(why), None) if instance.phase == InstancePhase::Running => {
                format!("{}; not ready: {why}", instance.because)
            }
            _ => instance.because.to_string(),
        },
        pid: executor.pid(&instance.id),
        address: executor.address(&instance.id).map(|address| address.to_string()),
        restarts: instance.restarts,
        last_failure: instance.last_failure.clone(),
    }
}

pub(crate) fn slot_state(phase: SlotPhase) -> &'static str {
    match phase {
        SlotPhase::Vacant => "vacant",
        SlotPhase::Parked => "parked",
        SlotPhase::Releasing => "releasing",
        SlotPhase::Claiming => "claiming",
        SlotPhase::Promoting => "promoting",
        SlotPhase::Serving => "serving",
    }
}

/// Of how many nodes somebody could take over, whichever active's node is lost: the fewest, and the most.
fn nodes_in_line(service: &ServiceView) -> (u32, u32) {
    let node = |id: &model::InstanceId| {
        let instance = service.instances.iter().find(|instance| instance.id == *id);
        instance.map(|instance| &instance.node)
    };
    let heirs: BTreeSet<_> = service.failover_order.iter().filter_map(node).collect();
    let holders = service.slots.iter().filter_map(|slot| slot.instance.as_ref());
    let others = |lost| u32::try_from(heirs.iter().filter(|heir| **heir != lost).count()).unwrap_or(u32::MAX);
    let all = u32::try_from(heirs.len()).unwrap_or(u32::MAX);
    let mut of_each = holders.filter_map(node).map(others);
    let first = of_each.next().unwrap_or(all);
    of_each.fold((first, first), |(fewest, most), n| (fewest.min(n), most.max(n)))
}

/// Which class of failure is noticed how fast (design, rule 4), and what follows as things stand: a standby that could not take over, or a
/// pause, protects from nothing.
fn protection(service: &ServiceView, view: &View, beside: &Beside<'_>) -> String {
    let Beside {
        pace, site, journal, ..
    } = *beside;
    let declared = &service.declared;
    let heir = !service.failover_order.is_empty();
    let found = declared
        .check
        .as_ref()
        .map(|check| check.every.duration() * check.fail_after + check.timeout.duration());
    let death = match (heir, unready(service)) {
        (true, _) => "process death: an event, milliseconds".to_owned(),
        (false, why) => {
            format!(
                "process death: no standby could take over now{why}; an active that dies is missing until it was started again where it was"
            )
        }
    };
    // One that only connects sees whether anything of the instance runs, not whether all of it does.
    let of_what = match &declared.check {
        Some(check) if check.kind == CheckKind::Tcp => "a hang of all its threads",
        _ => "a hang",
    };
    let hang = match (found, heir) {
        (Some(found), true) => format!("{of_what}: its check, within {}", millis(found)),
        (Some(found), false) => format!(
            "{of_what}: its check, within {}, and with no standby it is started again {} later",
            millis(found),
            millis(decisions::unhealthy_restart_after(found))
        ),
        (None, _) => "a hang is not noticed: no check is declared".into(),
    };
    let machine = match pace {
        None => "loss of this machine: nothing, all nodes are on it".to_owned(),
        Some(pace) => {
            let lease = pace.timing.lease;
            let fence = if declared.fence == FenceBy::Power {
                by_power(service, site, lease)
            } else if declared.exclusive {
                format!(
                    "; never two: a lease of {lease}, kept by this node's guard. A pause of a whole virtual machine leaves a window of at most {lease}: \
                     use the epoch as a token, or power fencing, to close it"
                )
            } else {
                String::new()
            };
            match (heir, nodes_in_line(service)) {
                (true, (0, _)) => format!("loss of its node: who could take over is on the same node{fence}"),
                (true, (_, most)) => {
                    let within = super::takeover::within(pace, most);
                    format!("loss of its node: its session, taken elsewhere {within}{fence}")
                }
                (false, _) => format!("loss of its node: no standby could take over now{fence}"),
            }
        }
    };
    let paused = view.paused.as_ref().map_or_else(String::new, |paused| {
        let since = shown(paused.since);
        format!(
            "NOTHING FOLLOWS a failure now: {}, since {since}; after `understudy resume`: ",
            paused.reason()
        )
    });
    let took = journal.took(service.name.as_str());
    let took = took.map_or_else(String::new, |took| format!("; {took}"));
    format!("{paused}{death}; {hang}; {machine}{took}")
}

/// What power fencing costs and gives: how long the devices of the nodes that it may be on take at most.
fn by_power(service: &ServiceView, site: &Site, lease: Millis) -> String {
    let nodes = site
        .nodes
        .iter()
        .filter(|(node, place)| service.declared.may_be_on(node) && !place.fence.is_empty());
    let longest = nodes.map(|(_, place)| model::attempt_bound(&place.fence)).max();
    let longest = longest.map_or_else(String::new, |longest| format!(", at most {longest} for an attempt"));
    format!(
        ", but not before every fence device of the node says that it is off{longest}; never two, and nothing is written late: a power switch on top \
         of a lease of {lease}, which closes the window of a paused virtual machine and of what its kernel still writes"
    )
}

/// Why its standbys could not take over: at most three of them.
fn unready(service: &ServiceView) -> String {
    let standbys = service
        .instances
        .iter()
        .filter(|instance| instance.role == model::Role::Standby);
    let why = |instance: &InstanceView| Some(format!("{}: {}", instance.id, instance.ready.as_ref().err()?));
    let why: Vec<String> = standbys.filter_map(why).take(3).collect();
    match why.as_slice() {
        [] if service.declared.standby == 0 => " (none is declared)".into(),
        [] => String::new(),
        why => format!(" ({})", why.join(", ")),
    }
}

fn millis(span: Duration) -> model::Millis {
    model::Millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

/// What to do about one that is down. Data that only one had who will never be back are given up by nobody but an operator.
fn way_back_to_service(service: &ServiceView) -> String {
    let name = &service.name;
    let held_back = |slot: &&decisions::SlotView| matches!(slot.because, Reason::OnlyLastHolderHasData { .. });
    match service.slots.iter().find(held_back) {
        Some(slot) => format!(
            "wait for the node of {}, or bring it back; if it is lost for good, `understudy force {name}/{} --node-is-off ITS-NODE --give-to INSTANCE` \
             gives up what only that had",
            slot.last_holder
                .as_ref()
                .map_or_else(|| "who was active last".to_owned(), ToString::to_string),
            slot.slot
        ),
        None => format!("`understudy explain {name}` says what keeps its instances from serving"),
    }
}

/// What becomes of one that is not redundant if nobody does anything, and otherwise. A place that tried a version in vain stays with it where
/// nothing worked before, or where the version serves elsewhere.
fn way_back_to_redundancy(service: &ServiceView, paused: bool) -> String {
    let name = &service.name;
    let is_given_up = service
        .rollout
        .as_ref()
        .is_some_and(|rollout| rollout.state == RolloutState::GivenUp);
    let tried = service
        .instances
        .iter()
        .find(|instance| instance.current && instance.phase == InstancePhase::Failed);
    match tried.filter(|_| is_given_up) {
        Some(tried) => format!(
            "it does not heal by itself, unless {} starts after all with the version that was given up: `understudy rollback` has it run what \
             worked before, or apply a mended file",
            tried.id
        ),
        None if paused => format!(
            "it does not heal by itself while automatic actions are paused: `understudy resume` ends that; `understudy explain {name}` says what is amiss"
        ),
        None => format!("it heals by itself if it can; `understudy explain {name}` says what is under way"),
    }
}

/// What needs somebody's attention, from the catalogue.
fn problems(service: &ServiceView, paused: bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |code: &str, severity, about: String, text: String, hint: String, at: Timestamp| {
        problems.push(Problem {
            code: code.into(),
            severity,
            about,
            text,
            hint,
            since: since(at),
        });
    };
    let name = service.name.to_string();
    if !service.removed {
        match service.state {
            ServiceState::Down | ServiceState::Degraded if service.slots.iter().any(|slot| slot.parked.is_some()) => {
                add(
                    "parked",
                    Severity::Warning,
                    name.clone(),
                    format!("{name} is {}: {}", service.state, service.because),
                    format!("nobody takes it before `understudy unpark {name}`"),
                    service.since,
                );
            }
            ServiceState::Down => add(
                "service-down",
                Severity::Error,
                name.clone(),
                match service
                    .instances
                    .iter()
                    .find_map(|instance| instance.last_failure.as_ref())
                {
                    // What a process that was just started does not answer yet says less.
                    _ if matches!(service.because, Reason::NotPromoted { .. }) => {
                        format!("{name} is down: {}", service.because)
                    }
                    Some(last) => format!("{name} is down: {}; the last failure: {last}", service.because),
                    None => format!("{name} is down: {}", service.because),
                },
                way_back_to_service(service),
                service.since,
            ),
            ServiceState::Degraded => add(
                "not-redundant",
                Severity::Warning,
                name.clone(),
                format!("{name} is not redundant: {}", service.because),
                way_back_to_redundancy(service, paused),
                service.since,
            ),
            ServiceState::Redundant => {}
        }
    }
    if let (Some(told), Some(view)) = (rollout(service), &service.rollout)
        && view.state != RolloutState::UnderWay
    {
        let code = match view.state {
            RolloutState::GivenUp => "rollout-given-up",
            _ => "rollout-stuck",
        };
        let text = format!("{name}: {}", rollout_in_words(&told));
        add(
            code,
            Severity::Warning,
            name.clone(),
            text,
            told.hint,
            view.since.unwrap_or(service.since),
        );
    }
    for instance in &service.instances {
        let id = instance.id.to_string();
        if instance.phase == InstancePhase::Failed {
            let last = instance
                .last_failure
                .clone()
                .map(|last| format!(", last: {last}"))
                .unwrap_or_default();
            add(
                "given-up",
                Severity::Error,
                id.clone(),
                format!("{id} was given up: {}{last}", instance.because),
                format!("`understudy logs {id}` shows its output; when it is mended, `understudy retry {id}`"),
                instance.since,
            );
        } else if instance.phase == InstancePhase::Waiting && instance.last_failure.is_some() {
            add(
                "instance-failing",
                Severity::Warning,
                id.clone(),
                // Its last failure may be of long ago, where its node was lost since.
                format!("{id} does not run: {}", instance.because),
                format!("`understudy explain {id}` says what it waits for, `understudy logs {id}` shows its output"),
                instance.since,
            );
        }
    }
    problems
}

fn since(at: Timestamp) -> String {
    shown(at)
}

#[cfg(test)]
mod tests {
    use super::problems;
    use decisions::{Core, Event};
    use model::{NodeName, ServiceState, Timestamp};

    #[test]
    fn nothing_is_said_to_heal_by_itself_while_automatic_actions_are_paused() {
        let node = NodeName::new("a").unwrap_or_else(|error| panic!("{error}"));
        let text = "name = \"shop\"\n[service.web]\ncommand = [\"true\"]\nactive = 1\n";
        let file = spec::parse(text, "shop.toml").unwrap_or_else(|errors| panic!("{errors}"));
        let mut core = Core::new(0, 0, 0, [node]);
        core.handle(Event::Applied(file.cluster), Timestamp(0));
        let mut service = core.view(Timestamp(0)).services.remove(0);
        service.state = ServiceState::Degraded;
        let hint = |paused| problems(&service, paused).remove(0).hint;
        assert!(hint(false).starts_with("it heals by itself"), "{}", hint(false));
        assert!(hint(true).contains("`understudy resume`"), "{}", hint(true));
        assert!(!hint(true).contains("it heals by itself"), "{}", hint(true));
    }
}
