//! `POST /v1/plan`: what a file would change, and what clients would notice.

use crate::clock::shown;
use api::{Change, ChangeKind, Plan};
use decisions::{ServiceView, Spare, View, first_to_go};
use model::{CheckKind, Cluster, InstanceId, Service, StandbyMode};

/// Compares what runs with what a file wants.
pub(crate) fn plan(against: u64, old: &Cluster, new: &Cluster, view: &View) -> Plan {
    let mut changes: Vec<Change> = spec::diff(old, new)
        .into_iter()
        .map(|diff| change(&diff, old, new, view))
        .collect();
    // In the order in which services start, removals last.
    let order: Vec<&str> = new.start_order().into_iter().map(model::ServiceName::as_str).collect();
    changes.sort_by_key(|change| {
        order
            .iter()
            .position(|name| *name == change.service)
            .unwrap_or(usize::MAX)
    });
    let warnings = stopped(&changes, view);
    Plan {
        version: api::VERSION,
        against,
        changes,
        warnings,
    }
}

/// What an operator stopped by hand, and a change does not start.
fn stopped(changes: &[Change], view: &View) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(paused) = view.paused.as_ref().filter(|_| !changes.is_empty()) {
        said.push(format!(
            "automatic actions are paused since {}, because {}: nothing of this is carried out before `understudy resume`",
            shown(paused.since),
            paused.reason()
        ));
    }
    let concerned = |service: &&ServiceView| changes.iter().any(|change| change.service == service.name.as_str());
    for service in view.services.iter().filter(concerned) {
        said.extend(
            service
                .slots
                .iter()
                .filter_map(|slot| super::slots::parked(service, slot)),
        );
    }
    said
}

fn change(diff: &spec::ServiceDiff, old: &Cluster, new: &Cluster, view: &View) -> Change {
    let name = diff.service.to_string();
    let find = |cluster: &Cluster| {
        cluster
            .services
            .iter()
            .find(|(n, _)| n.as_str() == name)
            .map(|(_, s)| s.clone())
    };
    let running = view.services.iter().find(|service| service.name.as_str() == name);
    let (kind, starts, stops, risk) = match (find(old), find(new)) {
        (None, Some(new)) => (ChangeKind::Add, started(&new), 0, None),
        (Some(old), None) => {
            // Another service may take its clients.
            let taken = |listen| new.services.values().any(|other| other.listen == Some(listen));
            let risk = old
                .listen
                .filter(|listen| !taken(*listen))
                .map(|listen| format!("clients of {listen} are refused from then on"));
            (ChangeKind::Remove, 0, old.wanted(), risk)
        }
        (Some(old), Some(new)) => {
            let more = new.wanted().saturating_sub(old.wanted());
            let fewer = old.wanted().saturating_sub(new.wanted());
            let (stays, goes) = compared(&new, running);
            // Nothing is known of what runs where nothing does: then the files say it.
            let rolls = match stays + goes {
                0 => diff.relaunch,
                _ => goes > 0,
            };
            if rolls && stays > 0 {
                let risks = [update_risk(&name, &old, &new, true), Some(roll_risk(&new, running))];
                let risks: Vec<String> = risks.into_iter().flatten().collect();
                let starts = started(&new).saturating_sub(stays);
                (ChangeKind::Roll, starts, goes, Some(risks.join("; ")))
            } else if !rolls && diff.relaunch {
                let starts = started(&new).saturating_sub(stays);
                (ChangeKind::Update, starts, fewer, update_risk(&name, &old, &new, false))
            } else if rolls {
                // Processes are replaced, and what else changes is noticed all the same.
                let risks = [update_risk(&name, &old, &new, true), Some(roll_risk(&new, running))];
                let risks: Vec<String> = risks.into_iter().flatten().collect();
                (ChangeKind::Roll, new.wanted(), old.wanted(), Some(risks.join("; ")))
            } else {
                (ChangeKind::Update, more, fewer, update_risk(&name, &old, &new, false))
            }
        }
        (None, None) => (ChangeKind::Update, 0, 0, None),
    };
    let mut details = diff.lines.clone();
    details.extend(kept(diff.relaunch, running, find(new).as_ref()));
    details.extend(moved(running, find(new).as_ref()));
    details.extend(ended(running, find(new).as_ref()));
    Change {
        service: name,
        kind,
        details,
        starts,
        stops,
        risk,
    }
}

/// Of how many processes each that run: those that were started as the new file says it, and those that were not.
fn compared(new: &Service, running: Option<&ServiceView>) -> (u32, u32) {
    let from = running
        .into_iter()
        .flat_map(|running| &running.instances)
        .filter_map(|instance| instance.runs_from.as_ref());
    let (stay, go): (Vec<_>, Vec<_>) = from.partition(|from| from.launch() == new.launch());
    let count = |of: Vec<_>| u32::try_from(of.len()).unwrap_or(u32::MAX);
    (count(stay), count(go))
}

/// Who is not started again although the files differ: it runs what worked before, and the new file says the same.
fn kept(relaunch: bool, running: Option<&ServiceView>, new: Option<&Service>) -> Option<String> {
    let new = new.filter(|_| relaunch)?;
    let stay = running?.instances.iter().filter(|instance| {
        let from = instance.runs_from.as_ref();
        from.is_some_and(|from| from.launch() == new.launch())
    });
    let stay: Vec<InstanceId> = stay.map(|instance| instance.id.clone()).collect();
    let run = if stay.len() == 1 { "runs" } else { "run" };
    (!stay.is_empty()).then(|| {
        format!(
            "{} {run} just that already: nothing of it is started again",
            super::names(&stay)
        )
    })
}

/// Who is where the new file does not want it.
fn moved(running: Option<&ServiceView>, new: Option<&Service>) -> Vec<String> {
    let (Some(running), Some(new)) = (running, new) else {
        return Vec::new();
    };
    let there = running
        .instances
        .iter()
        .filter(|instance| !new.may_be_on(&instance.node));
    let line = |instance: &decisions::InstanceView| {
        let how = match instance.role {
            model::Role::Active => "by a switchover, then replaced",
            model::Role::Standby => "replaced elsewhere first",
        };
        format!("{} leaves {}: {how}", instance.id, instance.node)
    };
    there.map(line).collect()
}

/// What ends where fewer are wanted, in this order: standbys at once, actives when their clients have finished.
fn ended(running: Option<&ServiceView>, new: Option<&Service>) -> Vec<String> {
    let (Some(running), Some(new)) = (running, new) else {
        return Vec::new();
    };
    let slot_of = |id: &InstanceId| {
        let mut slots = running.slots.iter();
        slots
            .find(|slot| slot.instance.as_ref() == Some(id))
            .map(|slot| slot.slot)
    };
    let spare = running.instances.iter().filter_map(|instance| {
        let slot = slot_of(&instance.id);
        let freed = slot.is_some_and(|slot| slot >= new.active);
        (slot.is_none() || freed).then(|| Spare {
            id: instance.id.clone(),
            freed,
            ready: instance.ready.is_ok(),
            current: instance.current,
        })
    });
    let spare: Vec<Spare> = spare.collect();
    let count = running.instances.len().saturating_sub(new.wanted() as usize);
    let gone = first_to_go(spare.clone(), count);
    let (actives, standbys): (Vec<&Spare>, Vec<&Spare>) = spare.iter().partition(|spare| spare.freed);
    let goes = |spare: &&&Spare| gone.contains(spare);
    let mut said: Vec<String> = Vec::new();
    said.extend(
        standbys
            .iter()
            .filter(goes)
            .map(|spare| format!("{}, a standby, ends at once", spare.id)),
    );
    let finish = match (new.listen, new.exclusive) {
        (None, _) => "at once".into(),
        (Some(_), false) => format!("when its clients have finished, within {}", new.drain_timeout),
        (Some(_), true) => format!(
            "when its clients have finished, within {}",
            model::Millis(new.drain_timeout.0.min(new.hold_timeout.0 / 2))
        ),
    };
    for spare in actives {
        let slot = slot_of(&spare.id).unwrap_or_default();
        let then = if gone.contains(spare) {
            "and ends"
        } else {
            "and stays as a standby"
        };
        said.push(format!(
            "{} gets no new clients, gives slot {slot} up {finish}, {then}",
            spare.id
        ));
    }
    let stay = standbys.iter().filter(|spare| !gone.contains(spare) && spare.ready);
    let stay: Vec<String> = stay.map(|spare| spare.id.to_string()).collect();
    if !said.is_empty() && !stay.is_empty() {
        said.push(format!("{} can take over all the while", stay.join(", ")));
    }
    said
}

fn started(service: &Service) -> u32 {
    match service.standby_mode {
        StandbyMode::Warm => service.wanted(),
        StandbyMode::Cold => service.active,
    }
}

fn roll_risk(new: &Service, running: Option<&ServiceView>) -> String {
    let ready = running.map_or(0, |running| running.failover_order.len());
    let gap = match (new.exclusive, new.standby) {
        (false, _) => "one process at a time; each old active serves until its successor does".to_owned(),
        (true, 0) => "an extra instance is started first; clients wait during one switchover".to_owned(),
        (true, _) => format!(
            "standbys first, then a switchover: clients wait up to {} while the slot changes hands",
            model::Millis(new.drain_timeout.0.min(new.hold_timeout.0 / 2))
        ),
    };
    if new.standby > 0 && ready == 0 {
        format!("{gap}; no standby is ready now, so it waits until one is")
    } else {
        gap
    }
}

fn update_risk(name: &str, old: &Service, new: &Service, rolls: bool) -> Option<String> {
    let moved = old.listen.filter(|_| old.listen != new.listen);
    let moved = moved.map(|listen| format!("clients of {listen} are refused from then on"));
    let fewer = (new.active < old.active)
        .then(|| format!("{} of {} actives stop serving", old.active - new.active, old.active));
    let alone = (new.standby == 0 && old.standby > 0).then(|| "no standby is left to take over".to_owned());
    let shared = (old.exclusive && !new.exclusive).then(|| "two may act at once from then on".to_owned());
    let all = [
        moved,
        fewer,
        alone,
        shared,
        unchecked(old, new),
        removed(old, new),
        untried(name, old, new).filter(|_| !rolls),
    ];
    let risks: Vec<String> = all.into_iter().flatten().collect();
    (!risks.is_empty()).then(|| risks.join("; "))
}

/// What is noticed no more.
fn unchecked(old: &Service, new: &Service) -> Option<String> {
    let kind = |service: &Service| service.check.as_ref().map(|check| check.kind.clone());
    match (kind(old)?, kind(new)) {
        (_, None) => Some("nobody asks any more whether it works: only the end of its process is noticed".into()),
        (CheckKind::Tcp, _) => None,
        (_, Some(CheckKind::Tcp)) => {
            Some("nobody asks any more what it answers: only that it takes connections".into())
        }
        _ => None,
    }
}

/// What is not done any more when roles change, by whoever runs by now.
fn removed(old: &Service, new: &Service) -> Option<String> {
    let table = [
        (
            old.on_promote.is_some() && new.on_promote.is_none(),
            "nobody makes a standby an active any more: it gets the clients as it is (on_promote)",
        ),
        (
            old.on_demote.is_some() && new.on_demote.is_none(),
            "an active that hands over is ended and started again (on_demote)",
        ),
        (
            old.on_follow.is_some() && new.on_follow.is_none(),
            "nobody tells the standbys whom to follow any more (on_follow)",
        ),
        (
            old.standby_check.is_some() && new.standby_check.is_none(),
            "a standby may take over without all data: nobody asks any more whether it has them (standby_check)",
        ),
    ];
    let gone: Vec<&str> = table.iter().filter(|(gone, _)| *gone).map(|(_, what)| *what).collect();
    (!gone.is_empty()).then(|| gone.join("; "))
}

/// Hooks that no rollout runs: whether they work is seen when they are needed.
fn untried(name: &str, old: &Service, new: &Service) -> Option<String> {
    let hooks = [
        ("on_promote", &old.on_promote, &new.on_promote),
        ("on_demote", &old.on_demote, &new.on_demote),
    ];
    let changed = hooks.iter().filter(|(_, old, new)| new.is_some() && old != new);
    let changed: Vec<&str> = changed.map(|(name, ..)| *name).collect();
    let how = match new.standby {
        0 => String::new(),
        _ => format!(": `understudy switchover {name}` tries it while somebody looks"),
    };
    (!changed.is_empty()).then(|| {
        format!(
            "the new {} is first run at the next takeover{how}",
            changed.join(" and ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::plan;
    use decisions::{Core, Event};
    use model::{Cluster, NodeName, Timestamp};

    fn file(text: &str) -> Cluster {
        let parsed = spec::parse(&format!("name = \"shop\"\n[service.web]\n{text}"), "shop.toml");
        parsed.unwrap_or_else(|errors| panic!("{errors}")).cluster
    }

    fn risk(old: &str, new: &str) -> String {
        let node = NodeName::new("a").unwrap_or_else(|error| panic!("{error}"));
        let core = Core::new(0, 0, 0, [node]);
        let plan = plan(1, &file(old), &file(new), &core.view(Timestamp(0)));
        plan.changes[0].risk.clone().unwrap_or_default()
    }

    #[test]
    fn a_plan_says_what_is_paused_and_parked_by_hand() {
        let node = NodeName::new("a").unwrap_or_else(|error| panic!("{error}"));
        let old = file("command = [\"true\"]\nactive = 2\n");
        let new = file("command = [\"false\"]\nactive = 2\n");
        let mut core = Core::new(0, 0, 0, [node]);
        core.handle(Event::Applied(old.clone()), Timestamp(0));
        let slot = model::SlotId {
            service: model::ServiceName::new("web").unwrap_or_else(|error| panic!("{error}")),
            slot: 1,
        };
        let parked = Some(decisions::Parked {
            since: Timestamp(0),
            by: "ann".into(),
            why: "the disk is swapped".into(),
        });
        core.handle(Event::Parked { slot, parked }, Timestamp(0));
        let paused = Some(decisions::Paused {
            since: Timestamp(0),
            by: "bob".into(),
            why: String::new(),
        });
        core.handle(Event::Paused(paused), Timestamp(0));
        let view = core.view(Timestamp(0));
        assert!(plan(1, &old, &old, &view).warnings.is_empty(), "nothing changes");
        let said = plan(1, &old, &new, &view).warnings;
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(
            said[0].contains("bob") && said[0].contains("`understudy resume`"),
            "{said:?}"
        );
        assert!(
            said[1].contains("the disk is swapped") && said[1].contains("`understudy unpark web/1`"),
            "{said:?}"
        );
    }

    #[test]
    fn a_plan_for_fewer_says_what_ends_in_which_order() {
        let old =
            "command = [\"true\"]\nlisten = \"127.0.0.1:8080\"\nactive = 3\nstandby = 2\ndrain_timeout = \"7s\"\n";
        let lines = |new: &str| {
            let node = NodeName::new("a").unwrap_or_else(|error| panic!("{error}"));
            let mut core = Core::new(0, 0, 0, [node]);
            core.handle(Event::Applied(file(old)), Timestamp(0));
            let mut view = core.view(Timestamp(0));
            let web = &mut view.services[0];
            for (slot, instance) in web.slots.iter_mut().zip(&web.instances) {
                slot.instance = Some(instance.id.clone());
            }
            for instance in &mut web.instances {
                instance.ready = Ok(());
            }
            let plan = plan(1, &file(old), &file(new), &view);
            let details = plan.changes[0].details.iter();
            let of_ends = details.filter(|line| line.starts_with("web-"));
            of_ends.cloned().collect::<Vec<String>>()
        };
        assert_eq!(
            lines(
                &old.replace("active = 3", "active = 2")
                    .replace("standby = 2", "standby = 1")
            ),
            [
                "web-5, a standby, ends at once",
                "web-3 gets no new clients, gives slot 2 up when its clients have finished, within 7s, and ends",
                "web-4 can take over all the while",
            ]
        );
        assert_eq!(
            lines(
                &old.replace("active = 3", "active = 2")
                    .replace("standby = 2", "standby = 3")
            ),
            [
                "web-3 gets no new clients, gives slot 2 up when its clients have finished, within 7s, and stays as a standby",
                "web-4, web-5 can take over all the while",
            ]
        );
        assert_eq!(lines(&old.replace("\"true\"", "\"false\"")), [""; 0]);
    }

    /// What was declared last was given up, and what worked before runs.
    #[test]
    fn a_plan_starts_nothing_again_that_runs_what_the_new_file_says() {
        let node = NodeName::new("a").unwrap_or_else(|error| panic!("{error}"));
        let (worked, broken) = (
            file("command = [\"true\"]\nactive = 2\nstandby = 0\n"),
            file("command = [\"false\"]\nactive = 2\nstandby = 0\n"),
        );
        let mut core = Core::new(0, 0, 0, [node]);
        core.handle(Event::Applied(broken.clone()), Timestamp(0));
        let mut view = core.view(Timestamp(0));
        let of = |file: &Cluster| file.services.values().next().cloned().map(std::sync::Arc::new);
        for instance in &mut view.services[0].instances {
            instance.runs_from = of(&worked);
        }
        let back = &plan(2, &broken, &worked, &view).changes[0];
        assert_eq!(
            (back.kind, back.starts, back.stops),
            (api::ChangeKind::Update, 0, 0),
            "{back:?}"
        );
        assert!(back.risk.is_none(), "{back:?}");
        let line = "web-1, web-2 run just that already: nothing of it is started again";
        assert!(back.details.iter().any(|detail| detail == line), "{back:?}");
        // One of them tries what was given up.
        view.services[0].instances[1].runs_from = of(&broken);
        let back = &plan(2, &broken, &worked, &view).changes[0];
        assert_eq!(
            (back.kind, back.starts, back.stops),
            (api::ChangeKind::Roll, 1, 1),
            "{back:?}"
        );
        let third = file("command = [\"sh\"]\nactive = 2\nstandby = 0\n");
        let on = &plan(2, &broken, &third, &view).changes[0];
        assert_eq!((on.kind, on.starts, on.stops), (api::ChangeKind::Roll, 2, 2), "{on:?}");
    }

    #[test]
    fn a_door_that_moves_is_told_whatever_else_changes() {
        let old = "command = [\"true\"]\nlisten = \"127.0.0.1:8080\"\nactive = 2\n";
        let moved = "clients of 127.0.0.1:8080 are refused from then on";
        assert_eq!(risk(old, &old.replace("8080", "8081")), moved);
        let both = risk(old, &old.replace("8080", "8081").replace("true", "false"));
        assert!(
            both.starts_with(moved) && both.contains("one process at a time"),
            "{both}"
        );
        let all = risk(old, &old.replace("8080", "8081").replace("active = 2", "active = 1"));
        assert_eq!(all, format!("{moved}; 1 of 2 actives stop serving"));
    }

    #[test]
    fn what_is_noticed_no_more_and_what_nobody_tried_are_told() {
        let old = "command = [\"true\"]\nlisten = \"127.0.0.1:8080\"\nexclusive = true\nstandby = 1\nstandby_mode = \"warm\"\n\
                   check = { http = \"/up\" }\non_promote = [\"up\"]\n";
        let table = [
            (
                "check = { http = \"/up\" }",
                "check = { tcp = true }",
                "what it answers",
            ),
            ("check = { http = \"/up\" }", "check = false", "whether it works"),
            ("standby = 1", "standby = 0", "no standby is left"),
            ("exclusive = true\n", "", "two may act at once"),
            ("[\"up\"]", "[\"up\", \"now\"]", "the new on_promote is first run"),
            ("on_promote = [\"up\"]\n", "", "(on_promote)"),
        ];
        for (from, to, told) in table {
            let new = old.replace(from, to);
            assert_ne!(old, new);
            let risk = risk(old, &new);
            assert!(risk.contains(told), "{to}: {risk}");
        }
        let hook = old.replace("on_promote = [\"up\"]", "on_promote = [\"down\"]");
        let both = risk(old, &hook.replace("true\"]", "false\"]"));
        assert!(!both.contains("first run"), "a rollout runs it: {both}");
    }
}
