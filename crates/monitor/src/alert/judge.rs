//! What is wrong now.

use super::catalogue::Code;
use crate::objective::{Burn, Urgency};
use api::{Failover, NodeState, ServiceStatus, Status};
use model::{Cluster, ServiceName};
use std::collections::BTreeMap;

/// A failover that was too slow is told of for this long, in seconds.
pub const SLOW_FAILOVER_TOLD_S: u64 = 3_600;
/// An instance that was noted as flapping is told of for this long.
pub const FLAPPING_TOLD_S: u64 = 600;
/// A promotion that failed is told of for this long after the last.
pub const FAILED_TOLD_S: u64 = 300;
/// A disk with less than this share free is nearly full.
const DISK_FREE_MIN: f64 = 0.05;

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// What.
    pub code: Code,
    /// A service, instance or node.
    pub about: String,
    /// The service that it belongs to, if it does.
    pub service: Option<String>,
    /// In one sentence, with its figures.
    pub text: String,
    /// Another alert that explains this one: while that one fires, this one is not told.
    pub because_of: Option<(Code, String)>,
    /// What keeps the manager from mending it.
    pub stopped: Stopped,
}

/// What an operator stopped by hand. Nothing, as a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stopped {
    /// Automatic actions are paused.
    pub paused: bool,
    /// Slots that are parked, as `db/0`.
    pub parked: Vec<String>,
    /// There are other slots that nobody serves.
    pub others: bool,
}

impl Wrong {
    /// What the manager does about it, as it stands now.
    pub fn manager(&self) -> String {
        let usual = self.code.entry().manager;
        let Stopped { paused, parked, others } = &self.stopped;
        match (paused, parked.as_slice()) {
            (true, _) => "Nothing, for automatic actions are paused.".into(),
            (false, []) => usual.into(),
            (false, parked) if *others => {
                format!(
                    "Nothing about what is parked: {}. About the rest: {usual}",
                    parked.join(", ")
                )
            }
            (false, parked) => format!("Nothing, for it is parked: {}.", parked.join(", ")),
        }
    }

    /// What to do, with the names that it is about: to be typed as it stands.
    pub fn action(&self) -> String {
        let action = self.code.entry().action;
        let action = match self.service.as_ref() == Some(&self.about) {
            true => action.replace(
                "`understudy retry INSTANCE`",
                "`understudy retry` with each instance that `understudy status` tells as given up",
            ),
            false => action.replace("INSTANCE", &self.about),
        };
        let usual = match &self.service {
            Some(service) => action.replace("SERVICE", service),
            None => action,
        };
        let unpark = self
            .stopped
            .parked
            .iter()
            .map(|slot| format!("`understudy unpark {slot}` lets it be held again."));
        let resume = self
            .stopped
            .paused
            .then(|| "`understudy resume` lets automatic actions go on.".to_owned());
        let all: Vec<String> = unpark.chain(resume).chain([usual]).collect();
        all.join(" ")
    }
}

/// Which objective burns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Requests that fail.
    Availability,
    /// Requests that are slow.
    Latency,
}

impl Kind {
    /// Its name as a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Availability => "availability",
            Self::Latency => "latency",
        }
    }
}

/// What is judged.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// How everything stands.
    pub status: &'a Status,
    /// What was declared.
    pub declared: &'a Cluster,
    /// The store does not answer this node.
    pub store_lost: bool,
    /// How budgets burn.
    pub burns: &'a BTreeMap<(String, Kind), Burn>,
    /// Failovers with their age in seconds.
    pub failovers: &'a [(Failover, u64)],
    /// Instances that were noted as flapping, and how long ago.
    pub flapping: &'a [(String, u64)],
    /// Why each of them ended last, or was ended.
    pub flapped: &'a BTreeMap<String, String>,
    /// Services of which a promotion failed, and how long ago.
    pub failed: &'a [(String, u64)],
    /// Nodes that were not heard of although they are online, and for how long in seconds.
    pub unheard: &'a [(String, u64)],
    /// Free share of the disk, by node.
    pub disks: &'a [(String, f64)],
}

/// Says what is wrong.
pub fn judge(facts: &Facts<'_>) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    let status = facts.status;
    for service in &status.services {
        of_service(facts, service, &mut wrong);
    }
    for (failover, _) in facts.failovers.iter().filter(|(_, age)| *age < SLOW_FAILOVER_TOLD_S) {
        wrong.extend(slow(facts, failover));
    }
    for node in status.nodes.iter().filter(|node| node.state == NodeState::Offline) {
        let text = format!("node {} is offline: {}", node.name, node.because);
        wrong.push(plain(Code::NodeLost, &node.name, text));
    }
    // One that answers and refuses is a problem of its own, which says in the store's words what is to be done.
    let refuses = status.problems.iter().any(|problem| problem.code == "store-refuses");
    if facts.store_lost && !refuses {
        let text = "the store does not answer: nothing is decided".to_owned();
        wrong.push(plain(Code::QuorumLost, &status.cluster, text));
    }
    for (instance, _) in facts.flapping.iter().filter(|(_, age)| *age < FLAPPING_TOLD_S) {
        let last = facts.flapped.get(instance);
        let last = last.map_or_else(String::new, |last| format!("; the last time: {last}"));
        let text = format!("{instance} does not stay up{last}");
        wrong.push(of(Code::Flapping, instance, service_of(instance), text));
    }
    for (service, _) in facts.failed.iter().filter(|(_, age)| *age < FAILED_TOLD_S) {
        let known = status.services.iter().find(|known| known.name == *service);
        let served = known.is_some_and(|known| known.slots.iter().all(|slot| slot.state == "serving"));
        let text = match served {
            true => format!("a promotion of {service} failed; all its slots are served by now"),
            false => format!("promotions of {service} fail"),
        };
        wrong.push(of(Code::FailoverFailed, service, Some(service.clone()), text));
    }
    for (node, age) in facts.unheard {
        let lost = status
            .nodes
            .iter()
            .any(|one| one.name == *node && one.state == NodeState::Offline);
        wrong.push(Wrong {
            because_of: lost.then(|| (Code::NodeLost, node.clone())),
            ..plain(
                Code::DataTooOld,
                node,
                format!("nothing was heard of node {node} for {age} s"),
            )
        });
    }
    for (node, free) in facts.disks.iter().filter(|(_, free)| *free < DISK_FREE_MIN) {
        let text = format!("{:.1} % of the disk of node {node} are free", free * 100.0);
        wrong.push(plain(Code::DiskNearlyFull, node, text));
    }
    of_problems(status, &mut wrong);
    if let Some(since) = &status.paused {
        let by = status
            .pause
            .as_ref()
            .map_or_else(String::new, |pause| match pause.why.as_str() {
                "" => format!(" by {}", pause.by),
                why => format!(" by {}: {why}", pause.by),
            });
        // What is wrong already would be put right by itself, and is not now.
        for one in &mut wrong {
            one.text
                .push_str("; NOTHING IS DONE about it by itself: automatic actions are paused");
            one.stopped.paused = true;
            one.text.push_str(&by);
        }
        let text = format!("automatic actions are paused since {since}{by}");
        wrong.push(plain(Code::PausedForLong, &status.cluster, text));
    }
    wrong
}

fn of_service(facts: &Facts<'_>, service: &ServiceStatus, wrong: &mut Vec<Wrong>) {
    let name = &service.name;
    let declared = ServiceName::new(name)
        .ok()
        .and_then(|name| facts.declared.services.get(&name));
    // One that is taken away is not missed.
    let Some(declared) = declared else { return };
    let needs = declared.needs.iter().map(ToString::to_string);
    let down = |name: &String| {
        facts
            .status
            .services
            .iter()
            .any(|other| other.name == *name && other.state == "down")
    };
    let because_of = needs.into_iter().find(down).map(|need| (Code::ServiceDown, need));
    let stopped = |code| match code {
        Code::StandbyNotPromotable => Stopped::default(),
        // Standbys may be missing besides, and are started.
        Code::NotRedundant | Code::DistanceBelowTarget => Stopped {
            others: true,
            ..parked(service)
        },
        _ => parked(service),
    };
    let mut add = |code, text: String, because_of: Option<(Code, String)>| {
        wrong.push(Wrong {
            because_of,
            stopped: stopped(code),
            ..of(code, name, Some(name.clone()), text)
        });
    };
    let itself = || Some((Code::ServiceDown, name.clone()));
    if service.state == "down" {
        add(
            Code::ServiceDown,
            format!("{name} is down: {}", service.because),
            because_of.clone(),
        );
    }
    let objective = declared.objective.as_ref();
    if let Some(target) = objective.and_then(|objective| objective.distance)
        && service.distance_to_outage < target
    {
        let by = service.outage.as_ref().map(|outage| outage.by.join(" and "));
        let by = by
            .filter(|by| !by.is_empty())
            .map(|by| format!(" (of {by})"))
            .unwrap_or_default();
        let text = format!(
            "{name} is {}{by} from outage, {target} are wanted: {}",
            failures(service.distance_to_outage),
            service.because
        );
        let cause = if service.state == "down" { itself() } else { None };
        add(Code::DistanceBelowTarget, text, cause);
    }
    if service.state == "degraded" {
        let text = format!(
            "{name} is not redundant: {}{}",
            service.because,
            waits_for_somebody(service)
        );
        add(Code::NotRedundant, text, None);
    }
    let standbys: Vec<_> = service.instances.iter().filter(|one| one.role == "standby").collect();
    if service.standby > 0 && !standbys.is_empty() && standbys.iter().all(|one| !one.ready) && service.state != "down" {
        let why: Vec<String> = standbys
            .iter()
            .map(|one| format!("{}: {}", one.id, one.because))
            .collect();
        let text = format!("no standby of {name} could take over: {}", why.join("; "));
        add(Code::StandbyNotPromotable, text, None);
    }
    for kind in [Kind::Availability, Kind::Latency] {
        let Some(burn) = facts.burns.get(&(name.clone(), kind)) else {
            continue;
        };
        let Some(rule) = burn.broken else { continue };
        let bad = match kind {
            Kind::Availability => "fail",
            Kind::Latency => "are slow",
        };
        let text = format!(
            "{:.2} % of the requests of {name} {bad}: {:.1} times what its objective allows; {:.0} % of the budget of 30 days are left",
            burn.bad * 100.0,
            burn.rate,
            burn.left * 100.0
        );
        let code = match rule.urgency {
            Urgency::Page => Code::BudgetBurnsFast,
            Urgency::Ticket => Code::BudgetBurns,
        };
        wrong.push(Wrong {
            because_of: (service.state == "down").then(|| (Code::ServiceDown, name.clone())),
            ..of(code, &format!("{name}/{}", kind.name()), Some(name.clone()), text)
        });
    }
}

/// What is missing tried a version that is given up, and stays with it: only a person has it run what worked.
fn waits_for_somebody(service: &ServiceStatus) -> String {
    let given_up = service.rollout.as_ref().filter(|rollout| rollout.state == "given-up");
    let has_failed = service.instances.iter().any(|instance| instance.state == "failed");
    match given_up.filter(|_| has_failed) {
        Some(rollout) => format!("; this does not heal by itself: {}", rollout.hint),
        None => String::new(),
    }
}

fn parked(service: &ServiceStatus) -> Stopped {
    let (parked, held): (Vec<_>, Vec<_>) = service.slots.iter().partition(|slot| slot.parked.is_some());
    Stopped {
        paused: false,
        parked: parked
            .into_iter()
            .map(|slot| format!("{}/{}", service.name, slot.slot))
            .collect(),
        others: held.into_iter().any(|slot| slot.state != "serving"),
    }
}

fn slow(facts: &Facts<'_>, failover: &Failover) -> Option<Wrong> {
    let name = ServiceName::new(&failover.service).ok()?;
    let limit = facts.declared.services.get(&name)?.objective.as_ref()?.failover?;
    let took_ms = failover.total_us / 1_000;
    (took_ms > limit.0).then(|| {
        let text = format!(
            "the failover of {}/{} to {} took {took_ms} ms, {limit} are allowed",
            failover.service, failover.slot, failover.to
        );
        of(
            Code::FailoverSlow,
            &failover.service,
            Some(failover.service.clone()),
            text,
        )
    })
}

/// What `status` tells and no rule above has a name for.
fn of_problems(status: &Status, wrong: &mut Vec<Wrong>) {
    for problem in &status.problems {
        let code = match problem.code.as_str() {
            "service-down" | "not-redundant" | "instance-failing" | "store-lost" => continue,
            "given-up" | "rollout-given-up" => Code::GivenUp,
            "not-served" | "address" => Code::NotServed,
            "proxy-down" => Code::ProxyDown,
            "frozen" | "cannot-fence" | "no-session" => Code::NotFenced,
            "clock-wrong" => Code::ClockWrong,
            "two-clusters" | "left-behind" => Code::TwoClusters,
            _ if problem.severity == api::Severity::Error => Code::OtherProblem,
            _ => continue,
        };
        let about = match code {
            Code::OtherProblem => format!("{}/{}", problem.about, problem.code),
            _ => problem.about.clone(),
        };
        let service = status.services.iter().find(|service| {
            service.name == problem.about || service_of(&problem.about).as_ref() == Some(&service.name)
        });
        let text = match code {
            Code::OtherProblem | Code::TwoClusters => format!("{}; {}", problem.text, problem.hint),
            _ => problem.text.clone(),
        };
        wrong.push(of(code, &about, service.map(|service| service.name.clone()), text));
    }
}

fn of(code: Code, about: &str, service: Option<String>, text: String) -> Wrong {
    Wrong {
        code,
        about: about.to_owned(),
        service,
        text,
        because_of: None,
        stopped: Stopped::default(),
    }
}

fn plain(code: Code, about: &str, text: String) -> Wrong {
    of(code, about, None, text)
}

fn service_of(instance: &str) -> Option<String> {
    instance.rsplit_once('-').map(|(service, _)| service.to_owned())
}

fn failures(distance: u32) -> String {
    match distance {
        1 => "1 failure".into(),
        many => format!("{many} failures"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::testing::{cluster, instance, service, status};
    use crate::objective::RULES;

    static NONE_FLAPPED: BTreeMap<String, String> = BTreeMap::new();

    #[test]
    fn what_to_do_names_whom_it_is_about() {
        let down = of(Code::ServiceDown, "db", Some("db".into()), String::new());
        assert_eq!(
            down.action(),
            "`understudy explain db` says what keeps it from serving; `understudy logs db` what the program says."
        );
        let of_all = of(Code::GivenUp, "db", Some("db".into()), String::new());
        assert!(!of_all.action().contains("retry db"), "{}", of_all.action());
        let given_up = of(Code::GivenUp, "db-2", Some("db".into()), String::new());
        assert!(
            given_up.action().ends_with("`understudy retry db-2`."),
            "{}",
            given_up.action()
        );
        // No other word in capitals is meant to be replaced, and each that is can be.
        for entry in &crate::alert::CATALOGUE {
            let told = of(entry.code, "db-2", Some("db".into()), String::new()).action();
            assert!(!told.contains("SERVICE") && !told.contains("INSTANCE"), "{told}");
        }
    }

    fn codes(facts: &Facts<'_>) -> Vec<(Code, String, bool)> {
        let wrong = judge(facts);
        wrong
            .into_iter()
            .map(|one| (one.code, one.about, one.because_of.is_some()))
            .collect()
    }

    fn facts<'a>(status: &'a Status, declared: &'a Cluster, burns: &'a BTreeMap<(String, Kind), Burn>) -> Facts<'a> {
        Facts {
            status,
            declared,
            store_lost: false,
            burns,
            failovers: &[],
            flapping: &[],
            flapped: &NONE_FLAPPED,
            failed: &[],
            unheard: &[],
            disks: &[],
        }
    }

    #[test]
    fn a_healthy_cluster_has_nothing_wrong() {
        let (status, declared) = (
            status(vec![service("db", "redundant", 2), service("web", "redundant", 2)]),
            cluster(),
        );
        assert_eq!(codes(&facts(&status, &declared, &BTreeMap::new())), []);
    }

    #[test]
    fn a_clock_that_is_wrong_is_an_alert_about_its_node() {
        let (mut status, declared) = (status(vec![service("db", "redundant", 2)]), cluster());
        for severity in [api::Severity::Warning, api::Severity::Error] {
            status.problems = vec![api::Problem {
                code: "clock-wrong".into(),
                severity,
                about: "c".into(),
                text: "the clock of node c is 1h ahead of those of most nodes".into(),
                hint: String::new(),
                since: String::new(),
            }];
            let wrong = codes(&facts(&status, &declared, &BTreeMap::new()));
            assert_eq!(wrong, [(Code::ClockWrong, "c".into(), false)]);
        }
    }

    #[test]
    fn while_everything_is_paused_each_alert_says_so_and_who_wanted_it() {
        let (mut status, declared) = (status(vec![service("db", "degraded", 1)]), cluster());
        status.paused = Some("2026-01-01T12:00:00Z".into());
        status.pause = Some(api::Pause {
            since: "2026-01-01T12:00:00Z".into(),
            by: "ann".into(),
            why: "the switch is replaced".into(),
        });
        let wrong = judge(&facts(&status, &declared, &BTreeMap::new()));
        assert!(wrong.len() >= 2, "{wrong:?}");
        for one in &wrong {
            assert!(
                one.text.contains("paused") && one.text.contains("by ann: the switch is replaced"),
                "{one:?}"
            );
            if one.code != Code::PausedForLong {
                assert_eq!(one.manager(), "Nothing, for automatic actions are paused.");
            }
            assert!(one.action().starts_with("`understudy resume`"), "{}", one.action());
        }
    }

    #[test]
    fn of_what_is_parked_nothing_is_promised_and_the_way_back_is_named() {
        let slot = |slot, parked: Option<&str>| api::SlotStatus {
            slot,
            state: if parked.is_some() { "parked" } else { "vacant" }.into(),
            instance: None,
            node: None,
            epoch: 3,
            since: String::new(),
            because: String::new(),
            parked: parked.map(|by| api::Parked {
                since: String::new(),
                by: by.into(),
                why: String::new(),
            }),
        };
        let down = |slots| {
            let (mut status, declared) = (status(vec![service("db", "down", 0)]), cluster());
            status.services[0].slots = slots;
            let wrong = judge(&facts(&status, &declared, &BTreeMap::new()));
            wrong
                .into_iter()
                .find(|one| one.code == Code::ServiceDown)
                .expect("it is down")
        };
        let all = down(vec![slot(0, Some("ann"))]);
        assert_eq!(all.manager(), "Nothing, for it is parked: db/0.");
        assert!(all.action().starts_with("`understudy unpark db/0`"), "{}", all.action());
        let one = down(vec![slot(0, None), slot(1, Some("ann"))]);
        assert_eq!(
            one.manager(),
            "Nothing about what is parked: db/1. About the rest: It starts and promotes whatever can still serve, and goes on trying."
        );
        let none = down(vec![slot(0, None)]);
        assert_eq!(none.manager(), Code::ServiceDown.entry().manager);
        assert!(
            none.action().starts_with("`understudy explain db`"),
            "{}",
            none.action()
        );
    }

    #[test]
    fn what_stays_with_a_version_that_was_given_up_does_not_heal_and_the_alert_says_the_way_out() {
        let text_of = |rollout: &str, state: &str| {
            let (mut status, declared) = (status(vec![service("db", "degraded", 1)]), cluster());
            let db = &mut status.services[0];
            db.rollout = Some(api::Rollout {
                state: rollout.into(),
                since: None,
                because: String::new(),
                hint: "`understudy rollback` goes back".into(),
                instance: None,
                tries: None,
                by: None,
            });
            db.instances = vec![instance("db-2", "standby", state)];
            let wrong = judge(&facts(&status, &declared, &BTreeMap::new()));
            let one = wrong.into_iter().find(|one| one.code == Code::NotRedundant);
            one.expect("it is degraded").text
        };
        let text = text_of("given-up", "failed");
        assert!(
            text.ends_with("; this does not heal by itself: `understudy rollback` goes back"),
            "{text}"
        );
        for (rollout, state) in [("given-up", "starting"), ("under-way", "failed")] {
            let text = text_of(rollout, state);
            assert!(!text.contains("heal"), "{text}");
        }
    }

    #[test]
    fn one_incident_is_one_alert_and_dependants_say_what_explains_them() {
        let (status, declared) = (
            status(vec![service("db", "down", 0), service("web", "down", 0)]),
            cluster(),
        );
        let burn = Burn {
            broken: Some(RULES[0]),
            rate: 1_000.0,
            bad: 1.0,
            left: -0.5,
        };
        let burns = BTreeMap::from([(("web".to_owned(), Kind::Availability), burn)]);
        let found = codes(&facts(&status, &declared, &burns));
        assert!(found.contains(&(Code::ServiceDown, "db".into(), false)), "{found:?}");
        let explained = [
            (Code::ServiceDown, "web"),
            (Code::BudgetBurnsFast, "web/availability"),
            (Code::DistanceBelowTarget, "db"),
        ];
        for (code, about) in explained {
            assert!(found.contains(&(code, about.into(), true)), "{found:?}");
        }
    }

    #[test]
    fn what_an_objective_says_is_judged() {
        let (status, declared) = (
            status(vec![service("db", "degraded", 1), service("web", "redundant", 2)]),
            cluster(),
        );
        let slow = |service: &str, ms: u64| Failover {
            service: service.into(),
            slot: 0,
            from: None,
            to: format!("{service}-2"),
            epoch: 2,
            planned: false,
            total_us: ms * 1_000,
            steps: Vec::new(),
        };
        let failovers = [
            (slow("db", 1_999), 5),
            (slow("db", 2_001), 5),
            (slow("web", 9_999), 5),
            (slow("db", 9_999), 3_601),
        ];
        let burns = BTreeMap::new();
        let facts = Facts {
            failovers: &failovers,
            flapping: &[("web-3".into(), 10), ("db-1".into(), 601)],
            unheard: &[("b".into(), 20)],
            disks: &[("a".into(), 0.049), ("b".into(), 0.06)],
            store_lost: true,
            ..facts(&status, &declared, &burns)
        };
        let found: Vec<(Code, String)> = codes(&facts)
            .into_iter()
            .map(|(code, about, _)| (code, about))
            .collect();
        let expected = [
            (Code::DistanceBelowTarget, "db"),
            (Code::NotRedundant, "db"),
            (Code::FailoverSlow, "db"),
            (Code::QuorumLost, "shop"),
            (Code::Flapping, "web-3"),
            (Code::DataTooOld, "b"),
            (Code::DiskNearlyFull, "a"),
        ];
        assert_eq!(found, expected.map(|(code, about)| (code, about.to_owned())));
    }

    #[test]
    fn an_instance_that_was_ended_again_and_again_is_not_said_to_have_died() {
        let (status, declared) = (status(Vec::new()), cluster());
        let burns = BTreeMap::new();
        let flapped = BTreeMap::from([("web-3".to_owned(), "web-3 is unhealthy: 503".to_owned())]);
        let facts = Facts {
            flapping: &[("web-3".into(), 10)],
            flapped: &flapped,
            ..facts(&status, &declared, &burns)
        };
        let wrong = judge(&facts);
        assert_eq!(
            wrong[0].text,
            "web-3 does not stay up; the last time: web-3 is unhealthy: 503"
        );
    }

    #[test]
    fn a_store_that_refuses_is_not_told_as_one_that_is_silent() {
        let (mut status, declared) = (status(Vec::new()), cluster());
        status.problems.push(api::Problem {
            code: "store-refuses".into(),
            severity: api::Severity::Error,
            about: "a".into(),
            text: "the store answers node a and refuses its renewals".into(),
            hint: "delete what fills it".into(),
            since: String::new(),
        });
        let burns = BTreeMap::new();
        let facts = Facts {
            store_lost: true,
            ..facts(&status, &declared, &burns)
        };
        let found: Vec<Code> = codes(&facts).into_iter().map(|(code, ..)| code).collect();
        assert_eq!(
            found,
            [Code::OtherProblem],
            "its members are there: nobody has to bring them back"
        );
    }
}
