//! Previews of what an operator does by hand: a slot without a holder, and a slot taken by force.

use super::loss::{after_loss, sentence};
use super::preview::{blank, severity_of};
use super::{Known, names};
use api::{Effect, Preview, Severity};
use decisions::lease::{self, Forcing};
use decisions::{NodeState, NodeView, ServiceView, SlotPhase, SlotView};
use model::{NodeName, ServiceState};

/// A slot shall have no holder.
pub(super) fn park(service: &ServiceView, slot: Option<&str>) -> Preview {
    let name = &service.name;
    let mut preview = blank(format!("Park {name}"));
    let slot = match named(service, slot, |slot| slot.parked.is_none()) {
        Ok(slot) => slot,
        Err(why) => return refused(preview, why),
    };
    preview.title = format!("Park slot {name}/{}", slot.slot);
    if let Some(parked) = &slot.parked {
        return refused(preview, format!("{}, already", parked.reason()));
    }
    match &slot.instance {
        Some(holder) if service.declared.exclusive => preview.lines.push(format!(
            "{holder} finishes what is under way, gives the slot up and becomes a standby; nobody takes it"
        )),
        Some(holder) => preview
            .lines
            .push(format!("{holder} becomes a standby, and nobody takes the slot")),
        None => preview.lines.push("nobody holds it now, and nobody takes it".into()),
    }
    if service.declared.listen.is_some() && serving(service) <= 1 {
        let hold = service.declared.hold_timeout;
        preview
            .lines
            .push(format!("clients wait up to {hold} and are then turned away"));
    }
    preview
        .lines
        .push("it stays so over restarts of agents and losses of nodes, until it is unparked".into());
    preview.effects.push(without_a_slot(service, slot));
    preview.severity = preview
        .effects
        .iter()
        .map(|effect| severity_of(effect, service.state))
        .max()
        .unwrap_or(Severity::Info);
    preview.undo = Some(format!("`understudy unpark {name}/{}`", slot.slot));
    preview
}

/// And is to have one again.
pub(super) fn unpark(service: &ServiceView, slot: Option<&str>, paused: bool) -> Preview {
    let name = &service.name;
    let mut preview = blank(format!("Unpark {name}"));
    let slot = match named(service, slot, |slot| slot.parked.is_some()) {
        Ok(slot) => slot,
        Err(why) => return refused(preview, why),
    };
    preview.title = format!("Unpark slot {name}/{}", slot.slot);
    if slot.parked.is_none() {
        return refused(preview, format!("slot {} of {name} is not parked", slot.slot));
    }
    preview.lines.push(match service.failover_order.first() {
        _ if paused => "nobody takes it while automatic actions are paused".into(),
        Some(heir) => format!("{heir} takes it at the next epoch"),
        None => "nobody could take it now: whoever is ready first does".into(),
    });
    preview.undo = Some(format!("`understudy park {name}/{}`", slot.slot));
    preview
}

/// A slot is taken from a node that is off, says the operator.
pub(super) fn force(service: &ServiceView, known: &Known<'_>) -> Preview {
    let mut preview = blank(format!("Take {} by force", service.name));
    preview.severity = Severity::Error;
    let Some((slot, forcing)) = &known.forcing else {
        return refused(preview, "which slot is not known".into());
    };
    let node = &forcing.node;
    preview.title = format!("Take slot {slot} from node {node} by force");
    let lease = known.pace.map(|pace| pace.timing.lease);
    if let Some(pace) = known.pace
        && let Err(why) = lease::may_force(forcing, pace.timing)
    {
        return refused(preview, why.to_string());
    }
    let Some(lease) = lease else {
        return refused(preview, lease::NotForced::OneMachine.to_string());
    };
    let gone = forcing.unproven && forcing.sessions.1.is_none();
    preview.lines.push(match gone {
        true => format!("the session of node {node} has ended; at your word it is noted that the node writes no more"),
        false => format!(
            "{forcing}. Its session is ended at once, at your word, and not when its lease of {lease} has run out"
        ),
    });
    for service in &known.view.services {
        if let Some(effect) = loss_of(service, node) {
            preview.lines.push(sentence(
                &effect,
                service.declared.listen.map(|_| service.declared.hold_timeout),
            ));
            preview.effects.push(effect);
        }
    }
    preview.lines.push(match gone {
        true => format!("if host {node} is NOT off, it may go on writing beside the new active, and data may be lost"),
        false => danger(forcing, lease),
    });
    preview
        .lines
        .push("who stated it is written to the store: `understudy history --deeds`".into());
    preview
}

/// A node's power is taken away.
pub(super) fn fence(node: &NodeView, known: &Known<'_>) -> Preview {
    let name = &node.name;
    let mut preview = blank(format!("Take the power of node {name} away"));
    preview.severity = Severity::Error;
    let lives = node.state != NodeState::Offline;
    let mut last = Vec::new();
    for service in &known.view.services {
        let Some(effect) = loss_of(service, name) else { continue };
        if lives && effect.state != "down" && effect.state_after == "down" {
            last.push(effect.service.clone());
        }
        let hold = service.declared.listen.map(|_| service.declared.hold_timeout);
        preview.lines.push(sentence(&effect, hold));
        preview.effects.push(effect);
    }
    let left = known
        .voters
        .iter()
        .filter(|(node, there)| *there && node != name)
        .count();
    let no_majority = lives && !known.voters.is_empty() && left < known.voters.len() / 2 + 1;
    if let Some(line) = super::loss::of_voters(&known.voters, name.as_str()) {
        preview.lines.push(line);
    }
    preview.lines.push(match lives {
        true => "it is online: nothing on it is stopped in order, as `understudy drain` would do".into(),
        false => "it is offline: what it holds is taken as soon as every device of it says that it is off".to_owned(),
    });
    preview
        .lines
        .push("who wanted it is written to the store: `understudy history --deeds`".into());
    if no_majority {
        return refused(
            preview,
            "without it the store has no majority, and nobody could see that it is off".into(),
        );
    }
    if !last.is_empty() {
        let last = names(&last);
        return refused(
            preview,
            format!("{last} would be down: nobody else could take over; move it first, or give it another standby"),
        );
    }
    preview
}

fn danger(forcing: &Forcing, lease: model::Millis) -> String {
    let node = &forcing.node;
    format!(
        "if host {node} is NOT off, two may act at once and data may be lost: its guard ends what is active there only when {lease} have passed \
         since its last renewal, and nothing but your word keeps the new active from acting before that"
    )
}

/// Who holds slots there is no more: so is what was lost with the node before, which the view may show as gone already.
fn loss_of(service: &ServiceView, node: &NodeName) -> Option<Effect> {
    after_loss(service, |instance| instance.node == *node)
}

fn without_a_slot(service: &ServiceView, slot: &SlotView) -> Effect {
    let serves = serving(service) - usize::from(slot.phase == SlotPhase::Serving);
    let need = service.need as usize;
    let down = serves < need;
    // The one that gives it up stands by for the other slots.
    let ready = service.failover_order.len() + usize::from(slot.instance.is_some());
    let distance = if down { 0 } else { serves + ready - need + 1 };
    Effect {
        service: service.name.to_string(),
        state: service.state.to_string(),
        state_after: if down {
            ServiceState::Down
        } else {
            ServiceState::Degraded
        }
        .to_string(),
        distance: service.distance,
        distance_after: u32::try_from(distance).unwrap_or(u32::MAX),
        actives: slot.instance.iter().map(ToString::to_string).collect(),
        standbys: Vec::new(),
        heirs: Vec::new(),
    }
}

fn serving(service: &ServiceView) -> usize {
    let serves = |slot: &&SlotView| slot.phase == SlotPhase::Serving;
    service.slots.iter().filter(serves).count()
}

/// The slot that is named; the only one that is meant, if none is.
fn named<'a>(
    service: &'a ServiceView,
    slot: Option<&str>,
    meant: impl Fn(&SlotView) -> bool,
) -> Result<&'a SlotView, String> {
    let name = &service.name;
    if let Some(slot) = slot {
        let found = service.slots.iter().find(|one| one.slot.to_string() == slot);
        return found.ok_or_else(|| format!("{name} has no slot {slot}"));
    }
    match service.slots.as_slice() {
        [] => Err(format!("{name} has no slot")),
        [only] => Ok(only),
        several => {
            let all = several
                .iter()
                .filter(|slot| meant(slot))
                .map(|slot| format!("{name}/{}", slot.slot));
            Err(format!("{name} has several slots: say which of {}", names(all)))
        }
    }
}

fn refused(mut preview: Preview, why: String) -> Preview {
    preview.refused = Some(why);
    preview
}
