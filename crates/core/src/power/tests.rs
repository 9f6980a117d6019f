use super::*;
use model::{FenceDevice, Timestamp, WallTime, attempt_bound};

const BOUND: Millis = Millis(20_000);

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn at(ms: u64) -> Mark {
    Mark {
        boot_ns: ms * 1_000_000,
        raw_ns: ms * 1_000_000,
    }
}

/// What agent a sees of nodes a to e; c is lost, with session 3.
struct Seen {
    sessions: BTreeMap<NodeName, Revision>,
    unproven: BTreeMap<NodeName, Revision>,
    leaves: BTreeMap<NodeName, Condemn>,
    bounds: BTreeMap<NodeName, Millis>,
    needed: BTreeSet<NodeName>,
    rank: u32,
}

impl Seen {
    fn new() -> Self {
        let all = ["a", "b", "c", "d", "e"];
        let leave = Condemn {
            session: Revision(3),
            modified: Revision(30),
        };
        Self {
            sessions: (1..)
                .map(Revision)
                .zip(all)
                .map(|(id, name)| (node(name), id))
                .collect(),
            unproven: BTreeMap::from([(node("c"), Revision(3))]),
            leaves: BTreeMap::from([(node("c"), leave)]),
            bounds: all.into_iter().map(|name| (node(name), BOUND)).collect(),
            needed: BTreeSet::new(),
            rank: 0,
        }
    }

    fn at(&self, ms: u64) -> Situation<'_> {
        Situation {
            now: at(ms),
            session: self.sessions.get(&node("a")).copied(),
            sessions: &self.sessions,
            unproven: &self.unproven,
            leaves: &self.leaves,
            bounds: &self.bounds,
            needed: &self.needed,
            rank: self.rank,
            stagger: Duration::from_millis(100),
        }
    }
}

fn record(by: &str, state: FenceState) -> FenceRecord {
    FenceRecord {
        session: Revision(3),
        state,
        by: node(by),
        under: Revision(2),
        bound: BOUND,
        tries: 1,
        proven: Revision(0),
        because: String::new(),
        at: WallTime(0),
    }
}

fn begins(steps: &[Step]) -> Vec<&Begin> {
    let mut begins = Vec::new();
    for step in steps {
        if let Step::Begin(begin) = step {
            begins.push(begin);
        }
    }
    begins
}

#[test]
fn a_lost_node_is_fenced_by_the_renewal_that_was_seen() {
    let (mut fencer, seen) = (Fencer::new(node("a")), Seen::new());
    let steps = fencer.look(&seen.at(0));
    let [begin] = begins(&steps)[..] else {
        panic!("{steps:?}")
    };
    assert_eq!(
        (begin.session, begin.modified, begin.expect),
        (Revision(3), Some(Revision(30)), Revision(0))
    );
    assert_eq!(fencer.look(&seen.at(10)), [], "it is begun once");
    fencer.ended(&node("c"));
    assert_eq!(fencer.look(&seen.at(20)).len(), 1, "and again when that is over");
}

#[test]
fn nobody_is_fenced_without_leave_a_session_a_device_or_before_ones_turn() {
    let none = |change: fn(&mut Seen)| {
        let mut seen = Seen::new();
        change(&mut seen);
        assert_eq!(Fencer::new(node("a")).look(&seen.at(0)), []);
    };
    none(|seen| seen.leaves.clear());
    none(|seen| {
        seen.sessions.remove(&node("a"));
    });
    none(|seen| {
        seen.bounds.remove(&node("c"));
    });
    none(|seen| seen.rank = 1);
    none(|seen| {
        seen.needed.insert(node("c"));
    });
    none(|seen| seen.leaves.values_mut().for_each(|leave| leave.session = Revision(2)));
    let (mut fencer, mut seen) = (Fencer::new(node("a")), Seen::new());
    seen.rank = 2;
    assert_eq!(fencer.look(&seen.at(0)), []);
    assert_eq!(fencer.look(&seen.at(199)), []);
    assert_eq!(fencer.look(&seen.at(200)).len(), 1);
}

#[test]
fn one_whose_session_is_gone_is_fenced_as_having_none() {
    let (mut fencer, mut seen) = (Fencer::new(node("a")), Seen::new());
    seen.sessions.remove(&node("c"));
    seen.leaves.clear();
    let steps = fencer.look(&seen.at(0));
    assert_eq!(begins(&steps)[0].modified, None);
}

#[test]
fn more_than_a_third_at_once_are_not_fenced_but_at_an_operators_word() {
    let (mut fencer, mut seen) = (Fencer::new(node("a")), Seen::new());
    seen.unproven.insert(node("d"), Revision(4));
    seen.sessions.remove(&node("d"));
    assert_eq!(fencer.look(&seen.at(0)), []);
    assert_eq!(
        fencer.holdup(&node("c"), &seen.at(0)),
        Holdup::Braked { lost: 2, of: 5 }
    );
    assert!(fencer.by_hand(&node("d"), &seen.at(0)).is_ok());
}

#[test]
fn those_who_go_one_after_the_other_are_counted_together() {
    let (mut fencer, mut seen) = (Fencer::new(node("a")), Seen::new());
    seen.sessions.remove(&node("d"));
    fencer.hear(node("d"), record("b", FenceState::Off), Revision(50), at(0));
    assert_eq!(begins(&fencer.look(&seen.at(10_000))), Vec::<&Begin>::new());
    assert_eq!(
        begins(&fencer.look(&seen.at(30_000))).len(),
        1,
        "half a minute later it is one again"
    );
}

#[test]
fn another_goes_on_when_the_fencer_is_gone_and_his_time_is_over() {
    let (mut fencer, mut seen) = (Fencer::new(node("a")), Seen::new());
    fencer.hear(node("c"), record("b", FenceState::Powering), Revision(50), at(0));
    assert_eq!(fencer.look(&seen.at(60_000)), [], "he lives");
    assert_eq!(
        fencer.holdup(&node("c"), &seen.at(0)),
        Holdup::Powering { by: node("b") }
    );
    assert!(fencer.by_hand(&node("c"), &seen.at(60_000)).is_err());
    seen.sessions.remove(&node("b"));
    assert_eq!(fencer.look(&seen.at(20_000)), [], "what he began may not be over");
    let steps = fencer.look(&seen.at(20_050));
    let [begin] = begins(&steps)[..] else {
        panic!("{steps:?}")
    };
    assert_eq!(begin.gone, Some((node("b"), Revision(0))));
    assert_eq!((begin.expect, begin.tries), (Revision(50), 2));
}

#[test]
fn a_failed_attempt_is_repeated_less_and_less_often() {
    let (mut fencer, seen) = (Fencer::new(node("a")), Seen::new());
    let failed = |by: &str, tries| FenceRecord {
        tries,
        ..record(by, FenceState::Failed("no route".into()))
    };
    fencer.hear(node("c"), failed("a", 2), Revision(50), at(0));
    assert_eq!(fencer.look(&seen.at(9_999)), []);
    assert_eq!(begins(&fencer.look(&seen.at(10_000)))[0].tries, 3);
    // Others come later than who failed.
    let mut other = Fencer::new(node("a"));
    other.hear(node("c"), failed("b", 2), Revision(50), at(0));
    assert_eq!(other.look(&seen.at(10_000)), []);
    assert_eq!(other.look(&seen.at(15_000)).len(), 1);
    assert_eq!(again_after(60), AGAIN_AFTER_MAX);
}

#[test]
fn power_is_given_back_by_others_when_the_fencer_is_gone() {
    let (mut fencer, mut seen) = (Fencer::new(node("a")), Seen::new());
    seen.unproven.clear();
    fencer.hear(node("c"), record("b", FenceState::Off), Revision(50), at(0));
    assert_eq!(fencer.look(&seen.at(1_000)), []);
    seen.sessions.remove(&node("b"));
    assert_eq!(fencer.look(&seen.at(20_000)), [], "what he began may not be over");
    assert!(matches!(fencer.look(&seen.at(20_050))[..], [Step::GiveBack { .. }]));
}

#[test]
fn nobody_is_fenced_while_somebody_gives_him_his_power_back() {
    let (mut fencer, mut seen) = (Fencer::new(node("a")), Seen::new());
    fencer.hear(node("c"), record("b", FenceState::Off), Revision(50), at(0));
    assert_eq!(fencer.look(&seen.at(60_000)), [], "he lives");
    assert!(fencer.by_hand(&node("c"), &seen.at(60_000)).is_err());
    seen.sessions.remove(&node("b"));
    assert_eq!(begins(&fencer.look(&seen.at(60_000))).len(), 1);
}

#[test]
fn what_an_agent_of_before_left_behind_is_given_up() {
    let (mut fencer, mut seen) = (Fencer::new(node("a")), Seen::new());
    seen.unproven.clear();
    fencer.hear(node("c"), record("a", FenceState::Powering), Revision(50), at(0));
    assert_eq!(fencer.look(&seen.at(20_000)), [], "a call may go on");
    assert!(matches!(fencer.look(&seen.at(20_050))[..], [Step::GiveUp { .. }]));
    // And one whose node is lost is tried again at once.
    let (mut fencer, seen) = (Fencer::new(node("a")), Seen::new());
    fencer.hear(node("c"), record("a", FenceState::Powering), Revision(50), at(0));
    assert_eq!(begins(&fencer.look(&seen.at(20_050))).len(), 1);
}

#[test]
fn one_that_stays_off_counts_for_the_brake_too() {
    let (mut fencer, mut seen) = (Fencer::new(node("a")), Seen::new());
    seen.sessions.remove(&node("d"));
    fencer.hear(node("d"), record("b", FenceState::Powering), Revision(50), at(0));
    let done = FenceRecord {
        proven: Revision(4),
        ..record("b", FenceState::Done)
    };
    fencer.hear(node("d"), done, Revision(51), at(0));
    assert_eq!(begins(&fencer.look(&seen.at(10_000))), Vec::<&Begin>::new());
}

#[test]
fn older_news_is_dropped() {
    let mut fencer = Fencer::new(node("a"));
    fencer.hear(node("c"), record("b", FenceState::Done), Revision(50), at(0));
    fencer.hear(node("c"), record("b", FenceState::Powering), Revision(49), at(1));
    assert_eq!(fencer.record(&node("c")).unwrap().0.state, FenceState::Done);
}

fn devices(count: usize) -> Vec<FenceDevice> {
    let device = FenceDevice {
        agent: "fence_made_up".into(),
        parameters: BTreeMap::new(),
        secrets: BTreeMap::new(),
        timeout: Millis(3_000),
        feeds: BTreeSet::new(),
    };
    vec![device; count]
}

fn job(count: usize) -> Job {
    Job::new(&devices(count), attempt_bound(&devices(count)), at(0))
}

#[test]
fn every_device_is_told_and_every_device_is_read() {
    let mut job = job(2);
    let mut calls = Vec::new();
    loop {
        match job.next(at(0), true) {
            Next::Call(call) => {
                calls.push(call);
                match call {
                    Call::Off(_) => job.off_done(Ok(())),
                    Call::Status(_) => job.read(Ok(true)),
                    Call::On(_) => panic!("it is to go off"),
                }
            }
            Next::Done => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(calls, [Call::Off(0), Call::Off(1), Call::Status(0), Call::Status(1)]);
}

#[test]
fn what_is_not_read_back_is_not_confirmed() {
    // One of two says that it is on, however often it is asked.
    let mut both = job(2);
    let mut reads = 0;
    let why = loop {
        match both.next(at(0), true) {
            Next::Call(Call::Status(device)) => {
                reads += usize::from(device == 1);
                both.read(Ok(device == 0));
            }
            Next::Call(_) => both.off_done(Ok(())),
            Next::Wait(_) => both.waited(),
            Next::Fail(why) => break why,
            Next::Done => panic!("it is on"),
        }
    };
    assert_eq!(reads, 5);
    assert!(why.contains("device 2 still says that the power is on"), "{why}");
    // A device that fails, in either call.
    let mut one = job(1);
    one.off_done(Err("no route".into()));
    assert!(
        matches!(one.next(at(0), true), Next::Wait(_)),
        "it may have heard it nevertheless"
    );
    one.waited();
    assert_eq!(one.next(at(0), true), Next::Fail("no route".into()));
    let mut one = job(1);
    one.off_done(Ok(()));
    one.read(Err("no route".into()));
    one.waited();
    assert_eq!(one.next(at(0), true), Next::Fail("no route".into()));
    assert!(
        matches!(job(0).next(at(0), true), Next::Fail(_)),
        "nothing confirms itself"
    );
}

#[test]
fn nothing_is_told_that_might_happen_after_the_bound_or_without_a_session() {
    let bound = attempt_bound(&devices(2)).0;
    // A call may take its timeout, and what it says five seconds to happen.
    let last = bound - 3_000 - 5_000;
    assert_eq!(job(2).next(at(last), true), Next::Call(Call::Off(0)));
    assert!(matches!(job(2).next(at(last + 1), true), Next::Fail(_)));
    assert_eq!(job(2).begins_by(0), Timestamp(last * 1_000));
    assert!(matches!(job(2).next(at(0), false), Next::Fail(_)));
    // The first was told, and takes a moment.
    let mut second = job(2);
    second.off_done(Ok(()));
    assert_eq!(second.next(at(1_000), false), Next::Wait(SETTLE));
    second.waited();
    assert!(matches!(second.next(at(1_000), true), Next::Fail(_)));
}

#[test]
fn power_is_given_back_when_what_took_it_away_has_settled() {
    let bound = attempt_bound(&devices(2));
    let mut back = GiveBack::new(&devices(2), bound, at(0));
    assert_eq!(back.next(at(0)), Next::Wait(SETTLE));
    back.waited();
    assert_eq!(back.next(at(5_000)), Next::Call(Call::On(0)));
    for _ in 0..2 {
        back.on_done(Err("no route".into()));
        assert!(matches!(back.next(at(5_000)), Next::Wait(_)), "it is tried again");
        back.waited();
    }
    back.on_done(Err("no route".into()));
    assert_eq!(
        back.next(at(5_000)),
        Next::Call(Call::On(1)),
        "the other is told nevertheless"
    );
    back.on_done(Ok(()));
    assert_eq!(back.next(at(5_000)), Next::Fail("no route".into()));
    // Nothing is begun that might happen after the bound, and no device is told where the node stays off.
    let mut late = GiveBack::new(&devices(1), bound, at(0));
    late.waited();
    assert!(matches!(late.next(at(bound.0)), Next::Fail(_)));
    let mut none = GiveBack::new(&[], bound, at(0));
    none.waited();
    assert_eq!(none.next(at(5_000)), Next::Done);
}
