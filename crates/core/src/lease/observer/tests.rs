use super::{Condemn, Observer, Wait, Why};
use crate::lease::{Holder, HolderAction, HolderEvent, HolderOptions};
use model::timing::CLOCK_DRIFT;
use model::{Mark, Millis, NodeName, Profile, Revision};
use proptest::prelude::*;
use std::time::Duration;

// The profile `fast`: R 80, H 240, D 700, W 706.4.

#[test]
fn session_expires_when_no_renewal_was_seen_for_w() {
    let mut observer = writing();
    saw(&mut observer, "a", 5, 0);
    assert!(matches!(why(&observer, "a", 706), Why::Fresh { .. }));
    assert_eq!(observer.may_condemn(&node("a"), mark(707)), Ok(condemn(1, 5)));
    let wait = observer.may_condemn(&node("a"), mark(1)).expect_err("too early");
    assert_eq!(wait.until, observer.expires_at(&node("a")));
}

#[test]
fn renewal_starts_the_wait_anew_and_old_news_does_not() {
    let mut observer = writing();
    saw(&mut observer, "a", 5, 0);
    saw(&mut observer, "a", 6, 100);
    saw(&mut observer, "a", 5, 300);
    saw(&mut observer, "a", 6, 400);
    assert!(matches!(why(&observer, "a", 800), Why::Fresh { .. }));
    assert_eq!(observer.may_condemn(&node("a"), mark(807)), Ok(condemn(1, 6)));
}

#[test]
fn wait_follows_the_lease_in_the_record() {
    let mut observer = writing();
    observer.seen(&node("a"), Revision(1), Revision(5), Millis(3_000), mark(0));
    assert!(matches!(why(&observer, "a", 2_999), Why::Fresh { .. }));
    write_until(&mut observer, 3_012);
    assert!(observer.may_condemn(&node("a"), mark(3_012)).is_ok());
}

#[test]
fn observer_believes_the_clock_that_ran_slower() {
    let mut observer = writing();
    saw(&mut observer, "a", 5, 0);
    let slewed = Mark {
        boot_ns: mark(900).boot_ns,
        raw_ns: mark(706).raw_ns,
    };
    assert!(observer.may_condemn(&node("a"), slewed).is_err());
}

#[test]
fn nobody_is_condemned_before_own_writes_have_succeeded_for_h() {
    let mut observer = Observer::new(Profile::Fast.timing());
    saw(&mut observer, "a", 5, 0);
    assert_eq!(why(&observer, "a", 2_000), Why::NoWrites);
    observer.write_ok(mark(1_990), mark(2_000));
    assert!(matches!(why(&observer, "a", 2_239), Why::HoldOff { .. }));
    assert!(observer.may_condemn(&node("a"), mark(2_240)).is_ok());
    // One failure, and H begins anew.
    observer.write_failed();
    observer.write_ok(mark(2_249), mark(2_250));
    assert!(matches!(why(&observer, "a", 2_300), Why::HoldOff { .. }));
}

#[test]
fn writes_long_ago_say_nothing_about_the_store() {
    let mut observer = Observer::new(Profile::Fast.timing());
    saw(&mut observer, "a", 5, 0);
    observer.write_ok(mark(1), mark(2));
    observer.write_ok(mark(300), mark(301));
    assert_eq!(why(&observer, "a", 840), Why::NoWrites);
    // The row is broken, although no write failed.
    observer.write_ok(mark(900), mark(901));
    assert!(matches!(why(&observer, "a", 902), Why::HoldOff { .. }));
}

#[test]
fn observer_that_was_late_itself_waits_for_h() {
    let mut observer = writing();
    saw(&mut observer, "a", 5, 0);
    assert!(observer.may_condemn(&node("a"), mark(800)).is_ok());
    observer.late();
    assert_eq!(why(&observer, "a", 800), Why::NoWrites);
}

#[test]
fn lost_watch_keeps_timers_of_unchanged_sessions_and_waits_for_the_rest_to_be_read() {
    let mut observer = writing();
    saw(&mut observer, "a", 5, 0);
    saw(&mut observer, "b", 6, 0);
    saw(&mut observer, "c", 7, 600);
    observer.resync();
    assert_eq!(why(&observer, "a", 710), Why::Resyncing);
    saw(&mut observer, "a", 5, 710);
    saw(&mut observer, "b", 9, 710);
    observer.resynced(mark(710));
    assert_eq!(observer.may_condemn(&node("a"), mark(710)), Ok(condemn(1, 5)));
    assert!(matches!(why(&observer, "b", 710), Why::Fresh { .. }));
    assert_eq!(why(&observer, "c", 710), Why::NoSession);
}

#[test]
fn lost_watch_of_one_session_keeps_its_timer_and_holds_back_only_its_end() {
    let mut observer = writing();
    saw(&mut observer, "a", 5, 0);
    saw(&mut observer, "b", 6, 600);
    observer.unheard(&node("a"));
    assert_eq!(why(&observer, "a", 710), Why::Resyncing);
    saw(&mut observer, "a", 5, 720);
    assert_eq!(observer.may_condemn(&node("a"), mark(720)), Ok(condemn(1, 5)));
    observer.unheard(&node("a"));
    saw(&mut observer, "a", 9, 730);
    assert!(matches!(why(&observer, "a", 740), Why::Fresh { .. }));
}

#[test]
fn what_is_read_of_everything_else_says_nothing_of_a_session_whose_own_watch_is_lost() {
    let mut observer = writing();
    saw(&mut observer, "a", 5, 0);
    observer.hold();
    assert_eq!(why(&observer, "a", 710), Why::Resyncing);
    observer.go_on();
    assert_eq!(observer.may_condemn(&node("a"), mark(710)), Ok(condemn(1, 5)));
    observer.unheard(&node("a"));
    observer.hold();
    observer.go_on();
    assert_eq!(why(&observer, "a", 720), Why::Resyncing);
}

#[test]
fn who_is_told_of_again_is_seen_for_all_of_w_anew() {
    let mut observer = writing();
    saw(&mut observer, "a", 5, 0);
    observer.keep(|other| *other != node("a"));
    assert_eq!(why(&observer, "a", 800), Why::NoSession);
    assert!(!observer.is_anyone_silent(mark(800)));
    saw(&mut observer, "a", 5, 800);
    write_until(&mut observer, 1_600);
    assert!(matches!(why(&observer, "a", 1_500), Why::Fresh { .. }));
    assert_eq!(observer.may_condemn(&node("a"), mark(1_507)), Ok(condemn(1, 5)));
}

#[test]
fn restarted_observer_waits_for_all_of_w() {
    let mut observer = writing();
    saw(&mut observer, "a", 5, 900);
    write_until(&mut observer, 1_700);
    assert!(observer.may_condemn(&node("a"), mark(1_606)).is_err());
    assert!(observer.may_condemn(&node("a"), mark(1_607)).is_ok());
}

#[test]
fn one_of_two_or_three_nodes_is_not_too_many_but_two_are() {
    for others in [&["a"][..], &["a", "b"]] {
        let mut observer = writing();
        for other in others {
            saw(&mut observer, other, 5, if *other == "a" { 0 } else { 700 });
        }
        assert!(observer.may_condemn(&node("a"), mark(710)).is_ok(), "{others:?}");
    }
    let mut observer = writing();
    saw(&mut observer, "a", 5, 0);
    saw(&mut observer, "b", 5, 60);
    assert_eq!(why(&observer, "a", 710), Why::TooMany { silent: 2, of: 3 });
    observer.let_on(mark(710));
    assert!(observer.may_condemn(&node("a"), mark(711)).is_ok());
}

#[test]
fn sessions_already_condemned_count_for_the_brake() {
    let mut observer = writing();
    for (other, since) in [("a", 0), ("b", 40), ("c", 500), ("d", 500)] {
        saw(&mut observer, other, 5, since);
    }
    observer.gone(&node("a"), mark(720));
    assert_eq!(why(&observer, "b", 750), Why::TooMany { silent: 2, of: 5 });
    // A session that was closed in good health does not.
    let mut observer = writing();
    for (other, since) in [("a", 700), ("b", 40), ("c", 500), ("d", 500)] {
        saw(&mut observer, other, 5, since);
    }
    observer.gone(&node("a"), mark(720));
    assert!(observer.may_condemn(&node("b"), mark(750)).is_ok());
}

#[test]
fn rebooted_node_ends_its_own_old_session_after_three_silent_intervals() {
    let mut observer = Observer::new(Profile::Fast.timing());
    saw(&mut observer, "a", 5, 0);
    assert!(observer.may_condemn_rebooted(&node("a"), mark(239)).is_err());
    assert_eq!(observer.may_condemn_rebooted(&node("a"), mark(240)), Ok(condemn(1, 5)));
}

#[test]
fn own_session_seen_before_its_answer_counts_for_nothing() {
    let mut observer = writing();
    saw(&mut observer, "a", 5, 0);
    saw(&mut observer, "me", 6, 0);
    assert_eq!(why(&observer, "a", 710), Why::TooMany { silent: 2, of: 3 });
    observer.own(&node("me"));
    assert!(observer.may_condemn(&node("a"), mark(710)).is_ok());
}

#[test]
fn ranks_come_one_stagger_after_the_other() {
    let observer = writing();
    assert_eq!(observer.eligible_at(0, mark(10)), mark(10));
    assert_eq!(observer.eligible_at(2, mark(10)), mark(130));
}

#[test]
fn wakes_to_read_at_three_quarters_and_to_act_at_w() {
    let mut observer = writing();
    saw(&mut observer, "a", 5, 0);
    let wakes = |at| observer.next_wakeup(mark(at)).map(|mark| mark.boot_ns / 1_000_000);
    assert_eq!((wakes(0), wakes(530), wakes(706)), (Some(240), Some(706), Some(706)));
    assert_eq!(wakes(707), None);
}

#[test]
fn waits_are_told_in_words() {
    let mut observer = writing();
    saw(&mut observer, "a", 5, 0);
    let words = |wait: Wait| wait.why.to_string();
    assert_eq!(
        observer.may_condemn(&node("a"), mark(200)).map_err(words),
        Err("its last renewal was seen 200ms ago, and may cover it for 706ms".into())
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    /// Two real machines for both rules: clocks that run wrong by up to ±ρ, from arbitrary offsets, requests, answers and
    /// watches that take any time. When the observer may condemn what is the last renewal committed, the lease D of every
    /// acknowledged renewal is over on the holder's clock.
    #[test]
    fn effects_of_a_holder_end_before_it_can_be_condemned(
        profile in prop::sample::select(&Profile::ALL[..3]),
        drifts in (drift(), drift()),
        offsets in (0u64..10_000_000, 0u64..10_000_000),
        // For each renewal: until its request commits, its answer comes, its revision is seen by the observer.
        delays in prop::collection::vec((up_to(120), up_to(400), up_to(3_000)), 1..12),
    ) {
        let timing = profile.timing();
        let clock = |drift: f64, offset: u64, real_us: u64| {
            Mark::default().later(Duration::from_micros(offset) + Duration::from_micros(real_us).mul_f64(1.0 + drift * CLOCK_DRIFT))
        };
        let holder_clock = |real_us| clock(drifts.0, offsets.0, real_us);
        let observer_clock = |real_us| clock(drifts.1, offsets.1, real_us);

        let mut holder = Holder::new(timing, HolderOptions::of(&timing), 0);
        let mut world = vec![
            (0, HolderEvent::GuardReady(true)),
            (0, HolderEvent::FastWanted(true)),
            (0, HolderEvent::AllExclusiveEmpty(true)),
        ];
        let (mut commits, mut delays, mut real_us) = (Vec::new(), delays.into_iter(), 0);
        // The holder runs until its renewals are used up and their answers are in.
        for _ in 0..100_000 {
            let due = world.iter().enumerate().min_by_key(|(_, (at, _))| *at).map(|(which, _)| which);
            let (at, event) = due.map_or((u64::MAX, HolderEvent::Tick), |due| world[due]);
            if at <= real_us {
                world.swap_remove(due.expect("there is one"));
                holder.handle(event, holder_clock(real_us));
            } else {
                real_us += 1_000;
                let now = holder_clock(real_us);
                holder.handle(HolderEvent::NodeHealth { ok: true, at: now }, now);
            }
            while let Some(action) = holder.poll() {
                match action {
                    HolderAction::Open { attempt } => world.push((real_us, HolderEvent::Opened { attempt, id: Revision(1), seq: 0 })),
                    HolderAction::Probe => world.push((real_us + 500, HolderEvent::ProbeAnswered)),
                    HolderAction::Renew { attempt, sent, .. } => {
                        if let Some((commit, answer, seen)) = delays.next() {
                            let committed = real_us + 1_000 * commit;
                            commits.push((committed, committed + 1_000 * seen));
                            world.push((committed + 1_000 * answer, HolderEvent::Renewed { attempt, sent }));
                        }
                    }
                    _ => {}
                }
            }
            if delays.len() == 0 && world.is_empty() { break; }
        }
        let acked = holder.acked().expect("at least one renewal was acknowledged");

        let mut observer = Observer::new(timing);
        commits.sort_unstable();
        let mut at = 0;
        for (which, (_, seen)) in commits.iter().enumerate() {
            // A watch keeps the order.
            at = at.max(*seen);
            observer.seen(&node("a"), Revision(1), Revision(which as u64 + 2), timing.lease, observer_clock(at));
        }
        let last = at;
        // The earliest moment, to the half millisecond, at which it may condemn the last revision.
        while observer.may_condemn(&node("a"), observer_clock(at)).is_err() {
            at += 500;
            observer.write_ok(observer_clock(at.saturating_sub(200)), observer_clock(at));
            prop_assert!(at < last + 10_000_000, "it never expires");
        }
        let held = holder_clock(at).held_for(acked);
        prop_assert!(held >= timing.lease.duration(), "{held:?} after the send of the last acknowledged renewal");
        prop_assert!(!holder.covers(holder_clock(at)));
    }
}

/// Often the worst.
fn drift() -> impl Strategy<Value = f64> {
    prop_oneof![Just(-1.0), Just(1.0), -1.0..1.0]
}

/// Often nothing at all, and more often little than much.
fn up_to(ms: u64) -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 1 => 0..5u64, 1 => 0..ms]
}

/// An observer whose own writes succeed since 0 and go on.
fn writing() -> Observer {
    let mut observer = Observer::new(Profile::Fast.timing());
    write_until(&mut observer, 1_000);
    observer
}

fn write_until(observer: &mut Observer, ms: u64) {
    for at in (0..=ms).step_by(100) {
        observer.write_ok(mark(at), mark(at));
    }
}

fn saw(observer: &mut Observer, who: &str, modified: u64, at: u64) {
    observer.seen(&node(who), Revision(1), Revision(modified), Millis(700), mark(at));
}

fn why(observer: &Observer, who: &str, at: u64) -> Why {
    observer
        .may_condemn(&node(who), mark(at))
        .expect_err("it must wait")
        .why
}

fn condemn(session: u64, modified: u64) -> Condemn {
    Condemn {
        session: Revision(session),
        modified: Revision(modified),
    }
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn mark(ms: u64) -> Mark {
    Mark::default().later(Duration::from_millis(ms))
}
