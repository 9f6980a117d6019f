//! What cannot come by itself: nobody waits for it.

use crate::render::clean;
use api::{ServiceStatus, Status};
use std::collections::BTreeMap;

/// Services that do not become redundant before somebody does something, each with what stands in the way and the way out.
pub(super) fn blocked(status: &Status) -> BTreeMap<&str, String> {
    let mut blocked: BTreeMap<&str, String> = BTreeMap::new();
    let behind = || status.services.iter().filter(|service| is_behind(service));
    for service in behind() {
        if let Some(why) = why(status, service) {
            blocked.insert(&service.name, why);
        }
    }
    // Whoever waits for one of them waits as long; a chain of needs is no longer than there are services.
    for _ in 0..status.services.len() {
        for service in behind() {
            let needs = service.waits_for.as_deref();
            let Some(needs) = needs.filter(|needs| blocked.contains_key(needs)) else {
                continue;
            };
            let text = format!("{} waits for {}, which it needs", clean(&service.name), clean(needs));
            blocked.entry(&service.name).or_insert(text);
        }
    }
    blocked
}

/// Whether everything that is not as declared waits for somebody.
pub(super) fn all_blocked(status: &Status, blocked: &BTreeMap<&str, String>) -> bool {
    let behind = || status.services.iter().filter(|service| is_behind(service));
    behind().next().is_some() && behind().all(|service| blocked.contains_key(service.name.as_str()))
}

/// Whether a service is not yet what its file says.
pub(super) fn is_behind(service: &ServiceStatus) -> bool {
    service.rolling || service.state != "redundant" || service.unplaced.is_some() || lacks_address(service)
}

/// Whether nobody has the floating address that its file says: after a change of it, until it was taken.
pub(super) fn lacks_address(service: &ServiceStatus) -> bool {
    service
        .floating
        .as_ref()
        .is_some_and(|floating| floating.node.is_none())
}

/// What is waited for of a service that is behind.
pub(super) fn waits_for(status: &Status, service: &ServiceStatus) -> String {
    let floating = service
        .floating
        .as_ref()
        .filter(|_| lacks_address(service) && service.state == "redundant");
    let Some(floating) = floating else {
        return format!(
            "{}: {}, {}",
            clean(&service.name),
            clean(&service.state),
            clean(&service.because)
        );
    };
    let of_it = |problem: &&api::Problem| problem.code == "address" && problem.about == service.name;
    let why = status.problems.iter().find(of_it);
    let why = why.map_or_else(String::new, |problem| format!(": {}", clean(&problem.text)));
    format!(
        "{}: no node has {} yet{why}",
        clean(&service.name),
        clean(&floating.address)
    )
}

fn why(status: &Status, service: &ServiceStatus) -> Option<String> {
    let said = |why: &str| match why {
        "" => String::new(),
        why => format!(" ({})", clean(why)),
    };
    let name = clean(&service.name);
    if let Some(slot) = service.slots.iter().find(|slot| slot.parked.is_some()) {
        let parked = slot.parked.as_ref()?;
        return Some(format!(
            "slot {name}/{n} is parked by {} since {}{}: nobody holds it before `understudy unpark {name}/{n}`",
            clean(&parked.by),
            clean(&parked.since),
            said(&parked.why),
            n = slot.slot,
        ));
    }
    if let Some(since) = &status.paused {
        let by = status.pause.as_ref().map_or_else(String::new, |pause| {
            format!(" by {}{}", clean(&pause.by), said(&pause.why))
        });
        return Some(format!(
            "{name} is {}, and automatic actions are paused since {}{by}: nothing is done before `understudy resume`",
            clean(&service.state),
            clean(since)
        ));
    }
    // Where instances are missing a node may come back, and is waited for.
    if let Some(unplaced) = service.unplaced.as_ref().filter(|_| service.state == "redundant") {
        return Some(format!(
            "{name} runs where the file no longer lets it: {}: mend `nodes`, `zones` or `spread`, or add such a node",
            clean(unplaced)
        ));
    }
    let rollout = given_up(service)?;
    Some(format!(
        "the rollout of {name} was given up: {}\n    {}",
        clean(&rollout.because),
        clean(&rollout.hint)
    ))
}

fn given_up(service: &ServiceStatus) -> Option<&api::Rollout> {
    service.rollout.as_ref().filter(|rollout| rollout.state == "given-up")
}

/// Who tried in vain what was given up of a service: its output may say more.
pub(super) fn tried_in_vain(status: &Status, service: &str) -> Option<String> {
    let service = status.services.iter().find(|other| other.name == service)?;
    given_up(service)?.instance.clone()
}

/// Whether an instance has a process.
pub(super) fn runs(status: &Status, instance: &str) -> bool {
    let mut instances = status.services.iter().flat_map(|service| &service.instances);
    instances.any(|other| other.id == instance && other.pid.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::testing::shop;

    fn names(status: &Status) -> Vec<String> {
        blocked(status).keys().map(ToString::to_string).collect()
    }

    #[test]
    fn an_address_that_no_node_has_is_waited_for_and_the_wait_says_why() {
        let mut status = shop();
        let mut service = status.services.remove(0);
        service.state = "redundant".into();
        service.unplaced = None;
        service.floating = Some(api::Floating {
            address: "10.0.0.9/24".into(),
            node: None,
            interface: None,
        });
        assert!(is_behind(&service));
        status.problems = vec![api::Problem {
            code: "address".into(),
            severity: api::Severity::Error,
            about: service.name.clone(),
            text: "10.0.0.9 is in use".into(),
            hint: String::new(),
            since: String::new(),
        }];
        let said = waits_for(&status, &service);
        assert!(
            said.contains("no node has 10.0.0.9/24 yet: 10.0.0.9 is in use"),
            "{said}"
        );
        service.floating.as_mut().unwrap().node = Some("a".into());
        assert!(!is_behind(&service));
    }

    #[test]
    fn what_is_parked_and_what_needs_it_is_not_waited_for() {
        let mut status = shop();
        assert!(names(&status).is_empty(), "it heals by itself");
        for service in &mut status.services {
            service.state = "down".into();
        }
        let db = status.services.iter_mut().find(|service| service.name == "db").unwrap();
        db.slots[0].parked = Some(api::Parked {
            since: "2026-01-01T12:00:00Z".into(),
            by: "ann".into(),
            why: "the disk is swapped".into(),
        });
        assert_eq!(names(&status), ["db"]);
        assert!(!all_blocked(&status, &blocked(&status)), "web may still come");
        let web = status
            .services
            .iter_mut()
            .find(|service| service.name == "web")
            .unwrap();
        web.waits_for = Some("db".into());
        let blocked = blocked(&status);
        assert!(all_blocked(&status, &blocked));
        assert_eq!(
            blocked["db"],
            "slot db/0 is parked by ann since 2026-01-01T12:00:00Z (the disk is swapped): nobody holds it before `understudy unpark db/0`"
        );
        assert_eq!(blocked["web"], "web waits for db, which it needs");
    }

    #[test]
    fn nothing_is_waited_for_while_everything_is_paused_or_a_rollout_was_given_up() {
        let mut status = shop();
        status
            .services
            .iter_mut()
            .for_each(|service| service.state = "redundant".into());
        status.paused = Some("2026-01-01T12:00:00Z".into());
        assert!(names(&status).is_empty(), "a pause keeps nobody who is redundant");
        status.services[0].state = "degraded".into();
        assert!(blocked(&status)["db"].contains("`understudy resume`"));
        status.paused = None;
        status.services[0].rolling = true;
        status.services[0].rollout = Some(api::Rollout {
            state: "given-up".into(),
            since: None,
            because: "db-3 never became healthy with the new version: exit code 2".into(),
            hint: "what ran before serves on; `understudy rollback` goes back to it, or apply a mended file".into(),
            instance: Some("db-3".into()),
            tries: Some(5),
            by: None,
        });
        assert!(all_blocked(&status, &blocked(&status)));
        assert_eq!(
            blocked(&status)["db"],
            "the rollout of db was given up: db-3 never became healthy with the new version: exit code 2\n    what ran before serves on; \
             `understudy rollback` goes back to it, or apply a mended file"
        );
        assert_eq!(tried_in_vain(&status, "db").as_deref(), Some("db-3"));
        status.services[0].rollout.as_mut().unwrap().state = "under-way".into();
        assert!(names(&status).is_empty());
    }
}
