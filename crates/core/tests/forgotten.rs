//! A controller forgets an instance while its node is away, and puts another one in its place: who comes back takes no slot without its record.

#![expect(clippy::unwrap_used, reason = "a test that cannot do its part has failed")]

mod pair;

use decisions::{
    Action, Adopted, ClusterEvent, Commit, Core, Event, HookOutcome, InstancePhase, Reason, Recovered, Report,
    SlotKnown, SlotWrite,
};
use model::{Epoch, HookKind, InstanceId, Revision, RunId, ServiceState, SlotId, Timestamp};
use pair::{id, node, says, slot};
use std::time::Duration;

const NOW: Timestamp = Timestamp(1_000_000);
const PLACED: Revision = Revision(7);
const FILE: &str = r#"
[service.db]
command = ["db"]
exclusive = true
active = 1
standby = 1
standby_mode = "warm"
on_promote = ["promote"]
"#;

const FOLLOWING: &str = r#"
[service.db]
command = ["db"]
exclusive = true
active = 1
standby = 1
standby_mode = "warm"
on_promote = ["promote"]
on_follow = ["follow"]
"#;
/// A node that is away for longer is lost.
const LOST_FOR: Duration = Duration::from_secs(6);

#[test]
fn a_claim_compares_the_record_of_who_is_to_hold_the_slot() {
    let mut core = standby(held_by_b());
    session_of_b(&mut core, None);
    let claim = decided(&mut core).claim.unwrap();
    assert_eq!((claim.holder, claim.placed), (id("db-1"), Some(PLACED)));
}

#[test]
fn who_was_forgotten_claims_nothing_and_ends() {
    let mut core = standby(held_by_b());
    forgotten(&mut core);
    session_of_b(&mut core, None);
    let decided = decided(&mut core);
    assert_eq!(decided.claim, None, "nobody would start it again");
    assert!(decided.stopped && !decided.recorded);
}

#[test]
fn who_has_the_data_of_a_slot_that_nobody_holds_has_its_record_back_and_then_claims_it() {
    let released = SlotKnown {
        held: false,
        served: false,
        data: Some((id("db-1"), Epoch(1))),
        revision: Revision(20),
        ..held_by_b()
    };
    let mut core = standby(held_by_b());
    core.hear_on();
    forgotten(&mut core);
    session_of_b(&mut core, None);
    core.handle(Event::Cluster(ClusterEvent::Slot(released)), NOW);
    core.all_heard(NOW);
    let first = decided(&mut core);
    assert_eq!(first.claim, None, "it is not in the store yet");
    assert!(first.recorded && !first.stopped);

    assigned(&mut core, Revision(30));
    let claim = decided(&mut core).claim.unwrap();
    assert_eq!((claim.holder, claim.placed), (id("db-1"), Some(Revision(30))));
}

#[test]
fn a_claim_without_an_answer_binds_nobody_once_the_holder_is_known_to_live() {
    let mut core = standby(held_by_b());
    assert_eq!(state(&core), ServiceState::Redundant);
    // What it is told of the other's session is old, and the store, which knows better, does not get through.
    session_of_b(&mut core, None);
    let claim = decided(&mut core).claim.unwrap();
    let unanswered = Event::Committed {
        slot: claim.slot,
        attempt: claim.attempt,
        result: Commit::Failed("the store does not tell whether it was written".into()),
    };
    core.handle(unanswered, NOW);
    assert_eq!(state(&core), ServiceState::Down);
    session_of_b(&mut core, Some(Revision(2)));
    core.handle(says(Some(2)), NOW);
    assert_eq!(
        state(&core),
        ServiceState::Redundant,
        "who may take over is free to do so"
    );
}

/// A controller that stood still knows old news: who served meanwhile, on a node that is lost again, may have the only copy of the data.
#[test]
fn who_is_lost_with_its_node_is_forgotten_only_if_no_slot_was_written_since() {
    for (file, compared) in [(FOLLOWING, vec![(slot_0(), Revision(10))]), (FILE, Vec::new())] {
        let mut core = pair::holder_and_standby(file, NOW);
        core.handle(Event::Cluster(ClusterEvent::Controller(true)), NOW);
        session_of_b(&mut core, None);
        decided(&mut core);
        core.handle(Event::Tick, NOW + LOST_FOR);
        assert_eq!(decided(&mut core).forgotten, [(id("db-2"), compared)]);
    }
}

/// What was refused is asked for again by what is known then, and not at all of who turned out to have served last.
#[test]
fn who_is_to_be_forgotten_is_judged_anew_by_what_was_heard_since() {
    for serves in [true, false] {
        let mut core = pair::holder_and_standby(FOLLOWING, NOW);
        core.handle(Event::Cluster(ClusterEvent::Controller(true)), NOW);
        session_of_b(&mut core, None);
        core.handle(Event::Tick, NOW + LOST_FOR);
        decided(&mut core);
        let heard = match serves {
            true => slot(20, 2, "db-1", "a", 2, true),
            false => SlotKnown {
                data: Some((id("db-2"), Epoch(2))),
                ..slot(20, 2, "db-1", "a", 3, false)
            },
        };
        core.handle(Event::Cluster(ClusterEvent::Slot(heard)), NOW + LOST_FOR);
        core.handle(Event::Tick, NOW + LOST_FOR * 2);
        let asked = decided(&mut core).forgotten;
        let again = [(id("db-2"), vec![(slot_0(), Revision(20))])];
        assert_eq!(asked, if serves { again.to_vec() } else { Vec::new() });
    }
}

#[test]
fn an_active_is_not_moved_by_a_wish_to_see_it_go_that_was_never_written() {
    let mut core = standby(held_by_b());
    core.handle(Event::Cluster(placed("db-3", "b", PLACED)), NOW);
    let Event::Cluster(ClusterEvent::Reported(report)) = says(None) else {
        panic!("it says something else")
    };
    let spare = Report {
        instance: id("db-3"),
        ..report
    };
    core.handle(Event::Cluster(ClusterEvent::Reported(spare)), NOW);
    // Its node is emptied, and put back before the store was told.
    core.handle(Event::Cluster(ClusterEvent::Controller(true)), NOW);
    core.handle(Event::NodeDrained { node: node("a") }, NOW);
    assert!(decided(&mut core).retired);
    let because = Reason::BackAsked;
    core.handle(
        Event::NodeBack {
            node: node("a"),
            because,
        },
        NOW,
    );

    core.handle(
        Event::Cluster(ClusterEvent::Slot(slot(20, 2, "db-1", "a", 3, false))),
        NOW,
    );
    let (instance, epoch) = (id("db-1"), Epoch(3));
    let armed = Event::Armed {
        instance: instance.clone(),
        epoch,
        result: Ok(()),
    };
    core.handle(armed, NOW);
    let promoted = Event::HookDone {
        instance,
        run: RunId(1),
        hook: HookKind::Promote,
        epoch,
        outcome: HookOutcome::Done,
    };
    core.handle(promoted, NOW);
    let written = decided(&mut core).claim.unwrap();
    assert!(written.served);
    let result = Commit::Done(Revision(21));
    let (slot, attempt) = (written.slot, written.attempt);
    core.handle(Event::Committed { slot, attempt, result }, NOW);
    let told = core.report_of(&id("db-1"), NOW).unwrap();
    assert_eq!((told.phase, told.promoted), (InstancePhase::Running, Some(epoch)));
    assert!(!told.leaving && !decided(&mut core).stopped);
}

/// An agent on `a` with a standby; the active is on `b`.
fn standby(known: SlotKnown) -> Core {
    let mut core = Core::clustered(1, 1_000, 0, node("a"), Duration::from_millis(80));
    core.handle(Event::Cluster(ClusterEvent::OwnSession(Some(Revision(1)))), NOW);
    let member = |name| ClusterEvent::Member {
        node: node(name),
        runs_services: true,
        member: true,
        place: decisions::Place::default(),
    };
    let recovered = Recovered {
        worked: None,
        cluster: spec::parse(FILE, "shop.toml").unwrap().cluster,
        slots: vec![known],
        instances: vec![Adopted {
            promoted: None,
            acts: None,
            served: false,
            run: RunId(1),
            ..pair::holder()
        }],
        numbers: Vec::new(),
        routes: Vec::new(),
        elsewhere: vec![
            ClusterEvent::Session {
                node: node("b"),
                session: Some(Revision(2)),
            },
            member("a"),
            member("b"),
            placed("db-1", "a", PLACED),
            placed("db-2", "b", PLACED),
        ],
    };
    core.handle(Event::Recovered(recovered), NOW);
    core.handle(says(Some(2)), NOW);
    decided(&mut core);
    core
}

fn slot_0() -> SlotId {
    held_by_b().slot
}

fn held_by_b() -> SlotKnown {
    slot(10, 1, "db-2", "b", 2, true)
}

fn placed(name: &str, on: &str, placed: Revision) -> ClusterEvent {
    ClusterEvent::Assigned {
        instance: id(name),
        node: node(on),
        retiring: false,
        placed,
    }
}

fn assigned(core: &mut Core, at: Revision) {
    core.handle(Event::Cluster(placed("db-1", "a", at)), NOW);
}

fn forgotten(core: &mut Core) {
    let instance = id("db-1");
    core.handle(Event::Cluster(ClusterEvent::Unassigned { instance }), NOW);
}

fn session_of_b(core: &mut Core, session: Option<Revision>) {
    let node = node("b");
    core.handle(Event::Cluster(ClusterEvent::Session { node, session }), NOW);
}

fn state(core: &Core) -> ServiceState {
    core.view(NOW).services.remove(0).state
}

#[derive(Default)]
struct Decided {
    claim: Option<SlotWrite>,
    recorded: bool,
    stopped: bool,
    retired: bool,
    forgotten: Vec<(InstanceId, Vec<(SlotId, Revision)>)>,
}

fn decided(core: &mut Core) -> Decided {
    let mut decided = Decided::default();
    while let Some(decision) = core.poll_decision() {
        match decision.action {
            Action::Write(write) => decided.claim = Some(write),
            Action::Create { instance, .. } => decided.recorded |= instance == id("db-1"),
            Action::Stop { instance, .. } => decided.stopped |= instance == id("db-1"),
            Action::Forget {
                instance, judged_by, ..
            } => decided.forgotten.push((instance, judged_by)),
            Action::Retire { instance, .. } => decided.retired |= instance == id("db-1"),
            _ => {}
        }
    }
    decided
}
