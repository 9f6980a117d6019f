use super::{Covered, Holder, HolderAction, HolderEvent, HolderOptions, Lost, Still};
use model::{Mark, Millis, Profile, Revision, Timing};
use proptest::prelude::*;
use std::time::Duration;

// The profile `fast`: R 80, T 100, A 540.
const SESSION: Revision = Revision(7);

#[test]
fn session_is_opened_only_with_a_guard_a_good_disk_and_nothing_exclusive_running() {
    let all = [
        HolderEvent::GuardReady(true),
        HolderEvent::AllExclusiveEmpty(true),
        healthy(0),
    ];
    for missing in 0..all.len() {
        let mut node = Node::bare();
        for (_, event) in all.iter().enumerate().filter(|(which, _)| *which != missing) {
            assert_eq!(node.at(0, *event), []);
        }
        assert_eq!(node.at(1, all[missing]), [HolderAction::Open { attempt: 1 }]);
    }
}

#[test]
fn opening_alone_covers_nothing_since_an_older_request_may_have_created_the_session() {
    let mut node = Node::ready();
    assert_eq!(node.at(1, opened(1)), [renew(2, 1, 1)]);
    assert_eq!(node.covered(1), Covered::NotYet);
    assert_eq!(node.at(2, renewed(2, 1)), [tell_guard(1)]);
    assert_eq!(node.covered(2), Covered::Yes);
}

#[test]
fn session_of_another_agent_is_asked_for_again_every_renewal_interval() {
    let mut node = Node::ready();
    assert_eq!(node.at(3, HolderEvent::OpenTaken { attempt: 1 }), []);
    assert_eq!(node.next(), Some(80));
    assert_eq!(node.tick(80), [HolderAction::Open { attempt: 2 }]);
    assert_eq!(node.at(81, opened(1)), [], "an answer to the request before");
    assert_eq!(node.at(82, opened(2)), [renew(3, 1, 82)]);
}

#[test]
fn lease_runs_from_the_send_and_not_from_the_answer() {
    let mut node = Node::open();
    node.tick(80);
    node.at(170, renewed(3, 80));
    assert_eq!(node.covered(619), Covered::Yes);
    assert_eq!(node.covered(620), Covered::TooOld);
}

#[test]
fn holder_believes_the_clock_that_ran_faster() {
    let node = Node::open();
    let slewed = Mark { raw_ns: 1, ..mark(540) };
    assert!(!node.holder.covers(slewed));
}

#[test]
fn one_renewal_is_outstanding_and_hedged_to_a_second_member_after_half_its_time() {
    let mut node = Node::open();
    assert_eq!(node.tick(80), [renew(3, 2, 80)]);
    assert_eq!(node.next(), Some(130));
    assert_eq!(node.tick(130), [HolderAction::Hedge { attempt: 3 }]);
    assert_eq!(node.tick(179), []);
    assert_eq!(node.at(179, renewed(3, 80)), [tell_guard(80), renew(4, 3, 179)]);
}

#[test]
fn after_a_missed_answer_a_probe_comes_before_each_renewal() {
    let mut node = Node::open();
    node.tick(80);
    node.tick(130);
    assert_eq!(node.tick(180), [HolderAction::Probe], "T is over");
    assert_eq!(node.at(200, HolderEvent::ProbeFailed), []);
    assert_eq!(node.next(), Some(260));
    assert_eq!(node.tick(260), [HolderAction::Probe]);
    assert_eq!(node.at(262, HolderEvent::ProbeAnswered), [renew(4, 3, 262)]);
    assert_eq!(
        node.at(270, HolderEvent::RenewalFailed { attempt: 4 }),
        [],
        "R since the last probe is not over"
    );
    assert_eq!(node.tick(340), [HolderAction::Probe]);
    node.at(341, HolderEvent::ProbeAnswered);
    assert_eq!(node.at(345, renewed(5, 341)), [tell_guard(341)]);
    assert_eq!(node.tick(421), [renew(6, 5, 421)], "no doubt any more");
}

#[test]
fn holder_whose_answers_are_lost_stops_renewing() {
    let mut node = Node::open();
    let mut renewals = 0;
    for at in 80..5_000 {
        let actions = node.at(at, healthy(at));
        renewals += actions.iter().filter(|action| is_renewal(action)).count();
    }
    assert_eq!(renewals, 1);
}

#[test]
fn without_an_answer_for_a_everything_exclusive_freezes_and_thaws_when_one_comes_in_time() {
    let mut node = Node::running();
    node.tick(80);
    let still = HolderAction::Frozen { why: Still::NoRenewal };
    let frozen = (81..=541).flat_map(|at| node.tick(at).into_iter().map(move |action| (at, action)));
    assert_eq!(frozen.filter(|(_, action)| *action == still).count(), 1);
    assert!(node.holder.is_frozen());
    node.at(560, healthy(560));
    while node.actions.last() != Some(&HolderAction::Probe) {
        let next = node.next().expect("it goes on probing");
        node.tick(next);
    }
    let at = node.now;
    assert_eq!(node.at(at + 1, HolderEvent::ProbeAnswered).len(), 1);
    assert_eq!(
        node.at(at + 9, renewed(4, at + 1)),
        [tell_guard(at + 1), HolderAction::Thawed]
    );
}

#[test]
fn answer_that_took_longer_than_a_thaws_nothing() {
    let mut node = Node::running();
    node.tick(80);
    for at in 81..700 {
        node.tick(at);
    }
    assert_eq!(node.at(700, renewed(3, 80)), [tell_guard(80)]);
    assert!(node.holder.is_frozen());
    assert_eq!(node.covered(700), Covered::TooOld);
}

#[test]
fn answers_that_overtake_each_other_never_shorten_the_lease() {
    let mut node = Node::open();
    node.tick(80);
    node.at(85, renewed(3, 80));
    assert_eq!(node.at(90, renewed(2, 1)), []);
    assert_eq!(node.holder.acked(), Some(mark(80)));
}

#[test]
fn ended_session_means_kill_wait_until_empty_and_open_anew() {
    let mut node = Node::running();
    node.tick(80);
    let fenced = HolderAction::Fenced {
        why: Lost::Session(SESSION),
        was_frozen: false,
    };
    assert_eq!(node.at(82, HolderEvent::RenewalFenced { attempt: 3 }), [fenced]);
    assert_eq!(node.covered(82), Covered::NoSession);
    assert_eq!(node.tick(300), []);
    assert_eq!(
        node.at(301, HolderEvent::AllExclusiveEmpty(true)),
        [HolderAction::Open { attempt: 4 }]
    );
    // News of the old session does not touch the new one.
    node.at(302, opened(4));
    assert_eq!(node.at(303, HolderEvent::RenewalFenced { attempt: 3 }), []);
    assert_eq!(node.at(303, renewed(3, 80)), []);
    assert_eq!(node.covered(303), Covered::NotYet);
}

#[test]
fn what_was_taken_under_one_session_is_not_started_under_the_next() {
    let node = Node::open();
    assert!(node.holder.covers_take(SESSION, mark(1)));
    assert!(!node.holder.covers_take(Revision(6), mark(1)));
}

#[test]
fn what_was_frozen_before_the_session_ended_may_stay_for_the_next() {
    let mut node = Node::running();
    node.tick(80);
    for at in 81..=560 {
        node.tick(at);
    }
    let actions = node.at(561, HolderEvent::RenewalFenced { attempt: 3 });
    assert!(matches!(actions[..], [HolderAction::Fenced { was_frozen: true, .. }]));
}

#[test]
fn guard_that_fired_stays_so_whatever_is_acknowledged_later() {
    let mut node = Node::running();
    node.tick(80);
    let fired = HolderAction::Fenced {
        why: Lost::GuardFired,
        was_frozen: false,
    };
    assert_eq!(node.at(90, HolderEvent::GuardFired), [fired]);
    node.at(91, renewed(3, 80));
    assert_eq!(node.covered(91), Covered::Fired);
    node.at(92, HolderEvent::GuardReady(true));
    assert_eq!(node.covered(92), Covered::Fired, "what it killed may not be gone");
    node.at(93, HolderEvent::AllExclusiveEmpty(true));
    assert_eq!(node.covered(93), Covered::Yes);
    assert_eq!(node.holder.session(), Some(SESSION));
}

#[test]
fn without_a_guard_everything_exclusive_freezes_at_once() {
    let mut node = Node::running();
    let frozen = HolderAction::Frozen { why: Still::NoGuard };
    assert_eq!(node.at(10, HolderEvent::GuardReady(false))[0], frozen);
    assert_eq!(node.covered(10), Covered::NoGuard);
    assert!(
        node.at(30, HolderEvent::GuardReady(true))
            .contains(&HolderAction::Thawed)
    );
}

#[test]
fn sick_disk_stops_the_renewals() {
    let mut node = Node::open();
    node.at(10, HolderEvent::NodeHealth { ok: false, at: mark(9) });
    assert_eq!(node.tick(80), []);
    assert_eq!(node.at(90, healthy(85)), [renew(3, 2, 90)]);
    node.at(91, renewed(3, 90));
    assert!(node.tick(624).iter().any(is_renewal));
    node.at(625, renewed(4, 624));
    assert_eq!(node.tick(704), [], "the last good write began longer than A ago");
}

#[test]
fn idle_node_renews_seldom_under_a_longer_lease_until_it_is_wanted() {
    let mut node = Node::open();
    assert_eq!(node.at(2, HolderEvent::FastWanted(false)), []);
    assert_eq!(node.tick(80), []);
    assert_eq!(node.next(), Some(400));
    let [HolderAction::Renew { lease, .. }] = node.tick(400)[..] else {
        panic!("it renews: {:?}", node.actions)
    };
    assert_eq!(lease, Millis(1_500));
    node.at(401, renewed(3, 400));
    assert_eq!(node.at(450, HolderEvent::FastWanted(true)), [renew(4, 3, 450)]);
}

#[test]
fn agent_that_slept_through_its_wakeup_says_so() {
    let mut node = Node::open();
    assert_eq!(node.next(), Some(80));
    // A quarter of A: below that a busy machine is late all the time.
    assert!(!matches!(node.tick(200)[0], HolderAction::Late { .. }));
    let mut node = Node::open();
    assert_eq!(node.next(), Some(80));
    let late = HolderAction::Late { by: ms(136) };
    assert_eq!(node.tick(216)[0], late);
}

#[test]
fn new_agent_goes_on_with_the_session_of_the_old_one_or_learns_that_it_has_ended() {
    let timing = Profile::Fast.timing();
    let adopted = |acked| Node {
        holder: Holder::adopt(timing, HolderOptions::of(&timing), 50, SESSION, 9, acked),
        actions: Vec::new(),
        now: 0,
    };
    let mut node = adopted(Some(mark(900)));
    node.at(1_000, HolderEvent::GuardReady(true));
    assert_eq!(node.covered(1_000), Covered::Yes);
    assert!(node.at(1_000, healthy(1_000)).iter().any(is_renewal));
    assert!(matches!(
        node.at(1_001, HolderEvent::RenewalFenced { attempt: 51 })[..],
        [HolderAction::Fenced { .. }]
    ));
    let mut node = adopted(None);
    node.at(1_000, HolderEvent::GuardReady(true));
    assert_eq!(node.covered(1_000), Covered::NotYet);
}

#[test]
fn closed_session_is_not_opened_again() {
    let mut node = Node::open();
    assert_eq!(node.at(5, HolderEvent::Closed), []);
    assert_eq!(node.tick(5_000), []);
    assert_eq!((node.next(), node.covered(6)), (None, Covered::NoSession));
}

proptest! {
    /// Whatever comes in whatever order: at most one renewal is outstanding, the deadline rests on the send of a renewal
    /// of this session that was acknowledged, and the wake-up lies ahead.
    #[test]
    fn any_order_of_events_keeps_the_rules(steps in prop::collection::vec((0u8..14, 1u64..300), 1..200)) {
        let mut node = Node::ready();
        let (mut now, mut renewals, mut outstanding) = (0, Vec::new(), None);
        for (what, wait) in steps {
            now += wait;
            let last = renewals.last().copied();
            let event = match (what, last) {
                (0, _) => HolderEvent::GuardReady(true),
                (1, _) => HolderEvent::GuardReady(wait % 5 > 0),
                (2, _) => HolderEvent::AllExclusiveEmpty(wait % 2 == 0),
                (3, _) => HolderEvent::FastWanted(wait % 3 > 0),
                (4, _) => HolderEvent::ProbeAnswered,
                (5, _) if wait > 280 => HolderEvent::GuardFired,
                (6, _) => opened(node.holder.attempts),
                (7 | 8, Some((attempt, sent, _))) => HolderEvent::Renewed { attempt, sent },
                (9, Some((attempt, ..))) => HolderEvent::RenewalFailed { attempt },
                (10, Some((attempt, ..))) if wait > 200 => HolderEvent::RenewalFenced { attempt },
                (11, _) => healthy(now),
                _ => HolderEvent::Tick,
            };
            if let (HolderEvent::Renewed { attempt, .. } | HolderEvent::RenewalFailed { attempt }, Some((open, _))) = (event, outstanding)
                && attempt == open { outstanding = None; }
            let before = node.holder.session();
            for action in node.at(now, event) {
                match action {
                    HolderAction::Renew { attempt, sent, session, .. } => {
                        let timed_out = outstanding.is_none_or(|(_, at): (u64, u64)| now - at >= 100);
                        prop_assert!(timed_out, "two renewals outstanding");
                        prop_assert_eq!(Some(session), node.holder.session());
                        outstanding = Some((attempt, now));
                        renewals.push((attempt, sent, session));
                    }
                    HolderAction::Fenced { why: Lost::Session(_), .. } => outstanding = None,
                    HolderAction::TellGuard { mark } => prop_assert_eq!(event, HolderEvent::Renewed { attempt: last.unwrap().0, sent: mark }),
                    _ => {}
                }
            }
            if before.is_none() { outstanding = outstanding.filter(|_| node.holder.session().is_some()); }
            if node.holder.covers(mark(now)) {
                let acked = node.holder.acked().expect("covered by a renewal");
                prop_assert!(renewals.iter().any(|(_, sent, session)| *sent == acked && Some(*session) == node.holder.session()));
                prop_assert!(now - acked.boot_ns / 1_000_000 < 540);
            }
            prop_assert!(node.next().is_none_or(|next| next > now));
        }
    }
}

struct Node {
    holder: Holder,
    actions: Vec<HolderAction>,
    now: u64,
}

impl Node {
    fn bare() -> Self {
        let timing: Timing = Profile::Fast.timing();
        Self {
            holder: Holder::new(timing, HolderOptions::of(&timing), 0),
            actions: Vec::new(),
            now: 0,
        }
    }

    /// Asks for its session.
    fn ready() -> Self {
        let mut node = Self::bare();
        node.at(0, HolderEvent::GuardReady(true));
        node.at(0, HolderEvent::FastWanted(true));
        node.at(0, healthy(0));
        node.at(0, HolderEvent::AllExclusiveEmpty(true));
        node
    }

    /// Has one, whose first renewal was sent at 0.
    fn open() -> Self {
        let mut node = Self::ready();
        node.at(0, opened(1));
        node.at(1, renewed(2, 0));
        node
    }

    /// And runs something exclusive.
    fn running() -> Self {
        let mut node = Self::open();
        node.at(1, HolderEvent::AllExclusiveEmpty(false));
        node
    }

    fn at(&mut self, ms: u64, event: HolderEvent) -> Vec<HolderAction> {
        self.now = ms;
        self.holder.handle(event, mark(ms));
        self.actions = std::iter::from_fn(|| self.holder.poll()).collect();
        self.actions.clone()
    }

    fn tick(&mut self, ms: u64) -> Vec<HolderAction> {
        self.at(ms, HolderEvent::Tick)
    }

    fn next(&self) -> Option<u64> {
        self.holder.next_wakeup().map(|mark| mark.boot_ns.div_ceil(1_000_000))
    }

    fn covered(&self, ms: u64) -> Covered {
        self.holder.covered(mark(ms))
    }
}

fn mark(ms: u64) -> Mark {
    Mark::default().later(Duration::from_millis(ms))
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn healthy(ms: u64) -> HolderEvent {
    HolderEvent::NodeHealth { ok: true, at: mark(ms) }
}

fn opened(attempt: u64) -> HolderEvent {
    HolderEvent::Opened {
        attempt,
        id: SESSION,
        seq: 0,
    }
}

fn renewed(attempt: u64, sent: u64) -> HolderEvent {
    HolderEvent::Renewed {
        attempt,
        sent: mark(sent),
    }
}

fn renew(attempt: u64, seq: u64, sent: u64) -> HolderAction {
    HolderAction::Renew {
        attempt,
        session: SESSION,
        seq,
        lease: Millis(700),
        sent: mark(sent),
    }
}

fn tell_guard(sent: u64) -> HolderAction {
    HolderAction::TellGuard { mark: mark(sent) }
}

fn is_renewal(action: &HolderAction) -> bool {
    matches!(action, HolderAction::Renew { .. })
}
