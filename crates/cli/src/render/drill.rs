//! What a drill would break, worked out from the status before anything is broken.

use super::{Tone, View, hanging, plural};
use api::{InstanceStatus, ServiceStatus, Status};

/// What is to be broken.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target<'a> {
    /// All on a node.
    Node(&'a str),
    /// One instance.
    Instance(&'a str),
}

/// What becomes of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Effect {
    /// The service.
    pub(crate) service: String,
    /// Whether fewer than `need` actives serve even after the standbys took over.
    pub(crate) outage: bool,
    /// In words.
    pub(crate) text: String,
}

/// What becomes of each service that is touched.
pub(crate) fn blast_radius(status: &Status, target: Target<'_>) -> Vec<Effect> {
    status
        .services
        .iter()
        .filter_map(|service| effect(service, target, status.paused.is_some()))
        .collect()
}

/// The radius in words.
pub(crate) fn page(effects: &[Effect], view: &View) -> String {
    if effects.is_empty() {
        return "  nothing runs there: no service is touched\n".into();
    }
    let mut out = String::new();
    for effect in effects {
        let block = hanging(&format!("  {}: ", effect.service), &effect.text, view.width);
        out.push_str(&if effect.outage {
            view.paint(Tone::Bad, block.trim_end()) + "\n"
        } else {
            block
        });
    }
    out
}

fn effect(service: &ServiceStatus, target: Target<'_>, paused: bool) -> Option<Effect> {
    let hit = |instance: &InstanceStatus| match target {
        Target::Node(node) => instance.node == node,
        Target::Instance(id) => instance.id == id,
    };
    let lost: Vec<&InstanceStatus> = service.instances.iter().filter(|instance| hit(instance)).collect();
    if lost.is_empty() {
        return None;
    }
    let is_lost = |id: &String| lost.iter().any(|instance| instance.id == *id);
    let serving: Vec<&String> = service
        .slots
        .iter()
        .filter(|slot| slot.state == "serving")
        .filter_map(|slot| slot.instance.as_ref())
        .collect();
    let lost_actives: Vec<&str> = serving.iter().filter(|id| is_lost(id)).map(|id| id.as_str()).collect();
    let lost_standbys = lost.len() - lost_actives.len();
    let successors: Vec<&str> = service
        .failover_order
        .iter()
        .filter(|id| !paused && !is_lost(id))
        .filter(|id| {
            service
                .instances
                .iter()
                .any(|instance| instance.id == **id && instance.ready)
        })
        .take(lost_actives.len())
        .map(String::as_str)
        .collect();
    let serve_after = serving.len() - lost_actives.len() + successors.len();
    let outage = serve_after < service.need as usize;

    let mut parts = Vec::new();
    if !lost_actives.is_empty() {
        parts.push(format!(
            "loses {} ({})",
            plural(lost_actives.len() as u64, "active"),
            lost_actives.join(", ")
        ));
        parts.push(match successors.as_slice() {
            [] if paused => "nobody takes over while automatic actions are paused".to_owned(),
            [] => "no standby could take over".to_owned(),
            successors => format!("{} would take over", successors.join(", ")),
        });
    }
    if lost_standbys > 0 {
        parts.push(format!("loses {}", plural(lost_standbys as u64, "standby")));
    }
    parts.push(if outage {
        format!("GOES DOWN: {serve_after} would serve, {} are needed", service.need)
    } else {
        format!("stays up: {serve_after} would serve, {} needed", service.need)
    });
    Some(Effect {
        service: service.name.clone(),
        outage,
        text: parts.join("; "),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{plain, shop};
    use super::*;

    #[test]
    fn losing_a_node_tells_who_takes_over_and_who_goes_down() {
        let effects = blast_radius(&shop(), Target::Node("a"));
        insta::assert_snapshot!(page(&effects, &plain()), @r#"
        db: loses 1 active (db-1); db-2 would take over; stays up: 1 would serve, 1
            needed
        web: loses 1 active (web-1); no standby could take over; GOES DOWN: 0 would
             serve, 2 are needed
        "#);
    }

    #[test]
    fn losing_a_standby_takes_nothing_down() {
        let effects = blast_radius(&shop(), Target::Instance("db-2"));
        assert_eq!(effects.len(), 1);
        assert!(!effects[0].outage);
        assert_eq!(effects[0].text, "loses 1 standby; stays up: 1 would serve, 1 needed");
    }

    #[test]
    fn while_everything_is_paused_nobody_takes_over() {
        let mut status = shop();
        status.paused = Some("2026-01-01T12:00:00Z".into());
        let effects = blast_radius(&status, Target::Instance("db-1"));
        assert!(effects[0].outage);
        assert_eq!(
            effects[0].text,
            "loses 1 active (db-1); nobody takes over while automatic actions are paused; GOES DOWN: 0 would serve, 1 are needed"
        );
    }

    #[test]
    fn an_empty_node_touches_nothing() {
        assert!(page(&blast_radius(&shop(), Target::Node("c")), &plain()).contains("no service is touched"));
    }
}
