//! `GET /v1/preview`: what an action would do, before it is done.

use super::Known;
use super::loss::{after_loss, of_voters, sentence};
use crate::dashboard::Intent;
use crate::input::refused;
use api::{Effect, Outcome, Preview, Severity};
use decisions::{InstancePhase, NodeState, NodeView, ServiceView, SlotPhase};
use model::ServiceState;

/// What an action would do; an error if it is about something that does not exist.
pub(crate) fn preview(intent: &Intent, known: &Known<'_>) -> Result<Preview, Outcome> {
    let mut preview = match intent {
        Intent::Switchover { name, slot, to } => {
            switchover(service(known, name)?, slot.as_deref(), to.as_deref(), known)
        }
        Intent::Drain { name } => node_away(node(known, name)?, known, false),
        Intent::DrillNode { name } => node_away(node(known, name)?, known, true),
        Intent::Undrain { name } => undrain(node(known, name)?),
        Intent::DrillInstance { name } => drill_instance(name, known)?,
        Intent::Retry { name } => retry(name, known)?,
        Intent::Park { name, slot } => super::hands::park(service(known, name)?, slot.as_deref()),
        Intent::Unpark { name, slot } => {
            super::hands::unpark(service(known, name)?, slot.as_deref(), known.view.paused.is_some())
        }
        Intent::Force { name, .. } => super::hands::force(service(known, name)?, known),
        Intent::Fence { name } => super::hands::fence(node(known, name)?, known),
        Intent::Pause => pause(known),
        Intent::Resume => resume(known),
    };
    if let Some(paused) = &known.view.paused
        && preview.refused.is_none()
        && !matches!(intent, Intent::Pause | Intent::Resume)
    {
        preview.lines.push(format!(
            "nothing takes over and nothing is started again until automatic actions go on: {}, since {}",
            paused.reason(),
            crate::clock::shown(paused.since)
        ));
        preview.severity = preview.severity.max(Severity::Warning);
    }
    Ok(preview)
}

pub(super) fn blank(title: String) -> Preview {
    Preview {
        version: api::VERSION,
        title,
        refused: None,
        severity: Severity::Info,
        lines: Vec::new(),
        effects: Vec::new(),
        undo: None,
    }
}

fn unknown(what: &str, name: &str) -> Outcome {
    refused(
        format!("there is no {what} `{name}`"),
        Some("`understudy status` lists them".into()),
    )
}

fn service<'a>(known: &'a Known<'_>, name: &str) -> Result<&'a ServiceView, Outcome> {
    let found = known.view.services.iter().find(|service| service.name.as_str() == name);
    found.ok_or_else(|| unknown("service", name))
}

fn node<'a>(known: &'a Known<'_>, name: &str) -> Result<&'a NodeView, Outcome> {
    let found = known.view.nodes.iter().find(|node| node.name.as_str() == name);
    found.ok_or_else(|| unknown("node", name))
}

fn switchover(service: &ServiceView, slot: Option<&str>, to: Option<&str>, known: &Known<'_>) -> Preview {
    let name = &service.name;
    let number = slot.and_then(|slot| slot.parse::<u32>().ok()).unwrap_or(0);
    let mut preview = blank(format!("Switch {name} over"));
    let Some(slot) = service.slots.iter().find(|slot| slot.slot == number) else {
        preview.refused = Some(format!("{name} has no slot {number}"));
        return preview;
    };
    let heir = match to {
        Some(to) => service.failover_order.iter().find(|id| id.to_string() == to),
        None => service.failover_order.first(),
    };
    let (Some(holder), SlotPhase::Serving) = (&slot.instance, slot.phase) else {
        let state = super::status::slot_state(slot.phase);
        let way_on = super::slots::way_on(known.view.paused.as_ref(), service, slot);
        let way_on = way_on.map_or_else(String::new, |way_on| format!("; {way_on}"));
        preview.refused = Some(format!("slot {number} of {name} is {state}{way_on}"));
        return preview;
    };
    let Some(heir) = heir else {
        preview.refused = Some(match to {
            Some(to) => format!("{to} is not ready to take over"),
            None => format!("no standby of {name} is ready to take over"),
        });
        return preview;
    };
    let on = |id: &model::InstanceId| {
        let instance = service.instances.iter().find(|instance| instance.id == *id);
        instance.map_or_else(String::new, |instance| format!(" on {}", instance.node))
    };
    preview.title = format!("Switch {name} over to {heir}");
    preview.lines.push(format!(
        "slot {number} goes from {holder}{} to {heir}{}, at the next epoch",
        on(holder),
        on(heir)
    ));
    preview
        .lines
        .push(match (service.declared.exclusive, service.declared.listen.is_some()) {
            (true, true) => format!(
                "clients wait up to {} while the role changes hands; what is under way may finish first",
                service.declared.hold_timeout
            ),
            (true, false) => format!("{holder} is demoted before {heir} is promoted: nobody is active in between"),
            (false, _) => format!("{holder} serves until {heir} does: clients notice nothing"),
        });
    preview.lines.push(format!(
        "{holder} becomes a standby; as many failures as now would take {name} down"
    ));
    preview.effects.push(Effect {
        service: name.to_string(),
        state: service.state.to_string(),
        state_after: service.state.to_string(),
        distance: service.distance,
        distance_after: service.distance,
        actives: vec![holder.to_string()],
        standbys: Vec::new(),
        heirs: vec![heir.to_string()],
    });
    preview.undo = Some(format!("switch {name} over again, to {holder}"));
    preview
}

fn node_away(node: &NodeView, known: &Known<'_>, lost: bool) -> Preview {
    let name = node.name.as_str();
    let mut preview = blank(match lost {
        true => format!("Drill the loss of node {name}"),
        false => format!("Drain node {name}"),
    });
    if lost && let Some(refusal) = no_drill_while_paused(known) {
        preview.refused = Some(refusal);
        return preview;
    }
    let online = |other: &&NodeView| other.state == NodeState::Online && other.name != node.name;
    if lost && known.pace.is_some() {
        preview.refused = Some(
            "the loss of a machine of several cannot be played by its own agent: take its power or its network away"
                .into(),
        );
    } else if known.view.nodes.iter().filter(online).count() == 0 {
        preview.refused = Some(format!("{name} is the only node that is left"));
    } else if node.state != NodeState::Online {
        preview.refused = Some(format!(
            "{name} is {} already",
            if node.state == NodeState::Drained {
                "drained"
            } else {
                "offline"
            }
        ));
    }
    for service in &known.view.services {
        let Some(mut effect) = after_loss(service, |instance| instance.node == node.name) else {
            continue;
        };
        let hold = service.declared.listen.map(|_| service.declared.hold_timeout);
        if !lost {
            // One by one, and each leaves when its replacement is ready.
            let moves = match (effect.actives.is_empty(), effect.heirs.is_empty()) {
                (true, _) => format!(
                    "{}: {} moves, and leaves when its replacement elsewhere is ready",
                    service.name,
                    super::names(&effect.standbys)
                ),
                (false, false) => format!(
                    "{}: {} hands over to {} first",
                    service.name,
                    super::names(&effect.actives),
                    super::names(&effect.heirs)
                ),
                (false, true) => format!(
                    "{}: {} stays until a replacement elsewhere is ready to take over",
                    service.name,
                    super::names(&effect.actives)
                ),
            };
            preview.lines.push(moves);
            effect.state_after.clone_from(&effect.state);
            effect.distance_after = effect.distance.min(effect.distance_after.max(1));
        } else {
            preview.lines.push(sentence(&effect, hold));
        }
        preview.severity = preview.severity.max(severity_of(&effect, service.state));
        preview.effects.push(effect);
    }
    if preview.effects.is_empty() {
        preview.lines.push("nothing runs there".into());
    }
    preview
        .lines
        .extend(lost.then(|| of_voters(&known.voters, name)).flatten());
    if !lost {
        preview
            .lines
            .push("nothing new is placed there until it is let back; nothing moves back by itself".into());
    }
    preview.undo = Some(match lost {
        true => format!("let node {name} back; what was killed is started again elsewhere meanwhile"),
        false => format!("let node {name} back"),
    });
    preview
}

pub(super) fn severity_of(effect: &Effect, now: ServiceState) -> Severity {
    match effect.distance_after {
        0 if now != ServiceState::Down => Severity::Error,
        0 | 1 => Severity::Warning,
        _ => Severity::Info,
    }
}

fn undrain(node: &NodeView) -> Preview {
    let mut preview = blank(format!("Let node {} back", node.name));
    if node.state == NodeState::Online {
        preview.refused = Some(format!("{} is online already", node.name));
    }
    preview
        .lines
        .push("instances may be placed there again; nothing moves back by itself".into());
    preview.undo = Some(format!("drain node {}", node.name));
    preview
}

fn find<'a>(known: &'a Known<'_>, name: &str) -> Result<(&'a ServiceView, &'a decisions::InstanceView), Outcome> {
    super::explain::find_instance(known.view, name).ok_or_else(|| unknown("instance", name))
}

fn drill_instance(name: &str, known: &Known<'_>) -> Result<Preview, Outcome> {
    let (service, instance) = find(known, name)?;
    let mut preview = blank(format!("Drill the death of {name}"));
    if !matches!(instance.phase, InstancePhase::Running | InstancePhase::Starting) {
        preview.refused = Some(format!("{name} does not run"));
    }
    if let Some(refusal) = no_drill_while_paused(known) {
        preview.refused = Some(refusal);
        return Ok(preview);
    }
    preview.lines.push(format!(
        "its process on node {} is killed, as a crash would end it",
        instance.node
    ));
    if let Some(effect) = after_loss(service, |other| other.id == instance.id) {
        let hold = service.declared.listen.map(|_| service.declared.hold_timeout);
        preview.lines.push(sentence(&effect, hold));
        preview.severity = severity_of(&effect, service.state);
        preview.effects.push(effect);
    }
    preview
        .lines
        .push("it is started again at once, as a standby if another one took over".into());
    Ok(preview)
}

/// Whoever is killed while everything is paused stays dead: that is no rehearsal.
fn no_drill_while_paused(known: &Known<'_>) -> Option<String> {
    let paused = known.view.paused.as_ref()?;
    let (why, since) = (paused.reason(), crate::clock::shown(paused.since));
    Some(format!(
        "automatic actions are paused, so nobody would take over and nothing would be started again: {why}, since {since}"
    ))
}

fn retry(name: &str, known: &Known<'_>) -> Result<Preview, Outcome> {
    let tried = |service: &&ServiceView| {
        let given_up = service.rollout.as_ref().and_then(|rollout| rollout.given_up.as_ref());
        given_up.is_some_and(|given_up| given_up.instance.to_string() == name)
    };
    // Who tried it last may have been replaced since.
    if let Some(service) = known.view.services.iter().find(tried) {
        let mut preview = blank(format!("Try the new version of {} again", service.name));
        preview.lines.push(format!(
            "the rollout of {} goes on: one place after the other is stopped and started with the new version; if that is given up again, \
             who tried it goes back to what worked",
            service.name
        ));
        return Ok(preview);
    }
    let (_, instance) = find(known, name)?;
    let mut preview = blank(format!("Try {name} again"));
    if instance.phase == InstancePhase::Running {
        preview.refused = Some(format!("{name} runs; there is nothing to try again"));
    }
    preview.lines.push(format!(
        "{name} is started on node {} now; nobody else is touched",
        instance.node
    ));
    Ok(preview)
}

fn pause(known: &Known<'_>) -> Preview {
    let mut preview = blank("Pause automatic actions".into());
    if let Some(paused) = &known.view.paused {
        let since = crate::clock::shown(paused.since);
        preview.refused = Some(format!("they are paused already: {}, since {since}", paused.reason()));
    }
    preview.severity = Severity::Warning;
    preview.lines.push(
        "everything runs on as it is; nothing is failed over, started again or rolled out until they go on".into(),
    );
    let actives: usize = known.view.services.iter().map(|service| service.slots.len()).sum();
    preview.lines.push(format!(
        "if one of {actives} actives dies meanwhile, its clients are not served"
    ));
    for service in known.view.services.iter().filter(|service| service.distance > 0) {
        let serving = service
            .slots
            .iter()
            .filter(|slot| slot.phase == SlotPhase::Serving)
            .count();
        let left = serving.saturating_sub(service.need as usize) + 1;
        preview.effects.push(Effect {
            service: service.name.to_string(),
            state: service.state.to_string(),
            state_after: service.state.to_string(),
            distance: service.distance,
            // Standbys do not take over.
            distance_after: service.distance.min(u32::try_from(left).unwrap_or(u32::MAX)),
            actives: Vec::new(),
            standbys: Vec::new(),
            heirs: Vec::new(),
        });
    }
    preview.undo = Some("resume".into());
    preview
}

fn resume(known: &Known<'_>) -> Preview {
    let mut preview = blank("Let automatic actions go on".into());
    if known.view.paused.is_none() {
        preview.refused = Some("they are not paused".into());
    }
    let waiting: Vec<&ServiceView> = known
        .view
        .services
        .iter()
        .filter(|service| service.state != ServiceState::Redundant)
        .collect();
    preview.lines.push(match waiting.as_slice() {
        [] => "everything is as it should be: nothing is done at once".into(),
        some => format!(
            "what is missing is put right at once: {}",
            super::names(some.iter().map(|service| &service.name))
        ),
    });
    preview.undo = Some("pause".into());
    preview
}
