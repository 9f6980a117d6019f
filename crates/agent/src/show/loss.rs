//! What becomes of a service right after some of its instances are gone, before anything is started anew. Reckoned from what is known now.

use api::Effect;
use decisions::{InstanceView, ServiceView, SlotPhase};
use model::{InstanceId, NodeName, Role, ServiceState};

/// Right after the loss of all instances that `lost` names; nothing if it has none of those.
pub(crate) fn after_loss(service: &ServiceView, lost: impl Fn(&InstanceView) -> bool) -> Option<Effect> {
    let gone: Vec<&InstanceView> = service.instances.iter().filter(|instance| lost(instance)).collect();
    if gone.is_empty() {
        return None;
    }
    let is_gone = |id: &InstanceId| gone.iter().any(|instance| instance.id == *id);
    let serving = |phase: SlotPhase| phase == SlotPhase::Serving;
    let fit = |id: &InstanceId| {
        service
            .instances
            .iter()
            .any(|instance| instance.id == *id && instance.ready.is_ok())
    };
    let holders: Vec<&InstanceId> = service
        .slots
        .iter()
        .filter(|slot| serving(slot.phase))
        .filter_map(|slot| slot.instance.as_ref())
        .filter(|id| fit(id))
        .collect();
    let stay = holders.iter().filter(|id| !is_gone(id)).count();
    // Whoever is next takes each slot that is free, those that had none before too.
    let free = (service.declared.active as usize).saturating_sub(stay);
    let heirs: Vec<&InstanceId> = service.failover_order.iter().filter(|id| !is_gone(id)).collect();
    let take = free.min(heirs.len());
    let need = service.need as usize;
    let (serve, wait) = (stay + take, heirs.len() - take);
    let distance_after = if serve < need { 0 } else { serve + wait - need + 1 };
    let wanted = service.declared.active as usize + service.declared.standby as usize;
    let state_after = match serve {
        _ if serve < need => ServiceState::Down,
        _ if serve + wait < wanted => ServiceState::Degraded,
        _ => service.state,
    };
    let with = |role: Role| {
        gone.iter()
            .filter(move |instance| instance.role == role)
            .map(|instance| instance.id.to_string())
    };
    Some(Effect {
        service: service.name.to_string(),
        state: service.state.to_string(),
        state_after: state_after.to_string(),
        distance: service.distance,
        distance_after: u32::try_from(distance_after).unwrap_or(u32::MAX),
        actives: with(Role::Active).collect(),
        standbys: with(Role::Standby).collect(),
        heirs: heirs.iter().take(take).map(ToString::to_string).collect(),
    })
}

/// The same in a sentence.
pub(crate) fn sentence(effect: &Effect, hold: Option<model::Millis>) -> String {
    let Effect {
        service,
        actives,
        standbys,
        heirs,
        ..
    } = effect;
    let loses = match (actives.len(), standbys.len()) {
        (0, _) => format!("{service} loses {}", counted(standbys, "standby", "standbys")),
        (_, 0) => format!("{service} loses {}", counted(actives, "active", "actives")),
        _ => format!(
            "{service} loses {} and {}",
            counted(actives, "active", "actives"),
            counted(standbys, "standby", "standbys")
        ),
    };
    let then = match (actives.is_empty(), heirs.is_empty()) {
        (true, _) => "clients notice nothing".to_owned(),
        (false, false) => format!("{} takes over", super::names(heirs)),
        (false, true) => "nobody is ready to take over".to_owned(),
    };
    let waits = match hold {
        Some(hold) if !actives.is_empty() => format!(", new connections wait up to {hold} meanwhile"),
        _ => String::new(),
    };
    let verdict = match effect.distance_after {
        0 => "it is down until instances were started elsewhere".to_owned(),
        1 => "it goes on, and the next instance that fails would take it down until others were started elsewhere"
            .to_owned(),
        more => format!("it goes on; {more} more of its instances would have to fail to take it down"),
    };
    format!("{loses}: {then}{waits}; {verdict}")
}

fn counted(ids: &[String], one: &str, many: &str) -> String {
    match ids {
        [id] => format!("its {one} {id}"),
        _ => format!("{} {many} ({})", ids.len(), super::names(ids)),
    }
}

/// What the loss of a node does to the store; nothing on a single machine, or if it does not vote.
pub(crate) fn of_voters(voters: &[(NodeName, bool)], lost: &str) -> Option<String> {
    voters.iter().find(|(node, _)| node.as_str() == lost)?;
    let all = voters.len();
    let majority = all / 2 + 1;
    let left = voters
        .iter()
        .filter(|(node, there)| *there && node.as_str() != lost)
        .count();
    let spare = left.checked_sub(majority);
    Some(match spare {
        None => format!(
            "the store keeps {left} of {all} voters and needs {majority}: nothing more is decided until one comes back; exclusive actives stand still, \
             the others go on"
        ),
        Some(0) => {
            format!("the store keeps {left} of {all} voters and needs {majority}: it works, and may lose no more")
        }
        Some(spare) => {
            format!("the store keeps {left} of {all} voters and needs {majority}: it works, and may lose {spare} more")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_are_counted_against_the_majority_of_all() {
        let node = |name: &str, there| (NodeName::new(name).unwrap_or_else(|error| panic!("{error}")), there);
        let three = [node("a", true), node("b", true), node("c", true)];
        let said = of_voters(&three, "b").unwrap_or_default();
        assert!(
            said.contains("keeps 2 of 3") && said.contains("may lose no more"),
            "{said}"
        );
        let two = [node("a", true), node("b", true), node("c", false)];
        let said = of_voters(&two, "b").unwrap_or_default();
        assert!(
            said.contains("keeps 1 of 3") && said.contains("nothing more is decided"),
            "{said}"
        );
        assert_eq!(of_voters(&three, "worker"), None);
        assert_eq!(of_voters(&[], "a"), None);
    }
}
