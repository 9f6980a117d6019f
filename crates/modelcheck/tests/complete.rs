//! With every rule in place, every state of every scenario keeps every property, and every transition happens somewhere.

use decisions::lease::txn::Transition::{
    self, Announce, T1, T2, T3, T4e, T4r, T5, T6a, T6b, T6c, T7, T8, T9, T10, T11, T12,
};
use modelcheck::{Config, check, scenarios};

macro_rules! complete {
    ($($(#[$meta:meta])* $name:ident: $scenario:ident reaches $($transition:ident)*;)*) => {
        $($(#[$meta])* #[test]
        fn $name() {
            must_hold(scenarios::$scenario(), &[$($transition),*]);
        })*
    };
}

complete! {
    holder_that_loses_messages: expiry reaches T1 T2 T6c;
    clocks_that_drift: drift reaches T2 T6c;
    session_ended_before_the_take: condemned reaches T2 T4e T6b T6c;
    frozen_holder_goes_on_under_a_new_session: rebind_seeing reaches T1 T2 T4e T6c T10;
    dead_instance_is_released_or_started_anew: dead reaches T5 T6a T8 T9 Announce;
    switchover: handover reaches T7 T6c;
    standby_leaves: close reaches T3;
    machine_boots_again: reboot reaches T4r T6b;
    agent_crashes_and_comes_back: crash reaches T2 T6c;
    agent_stands_still: pause reaches T2 T6c;
    machine_stands_still: stall reaches T2 T6c;
    overtaken_request: delayed reaches T1 T2 T6c;
    taker_expires: taker reaches T6a T6c;
    taker_condemned: taker_condemned reaches T4e T6a;
    two_free_slots_and_one_standby: two_slots reaches T6a;
    agent_forgets_its_take: forgetful reaches T5 T6a Announce;
    two_takers: three_nodes reaches T2 T6c;
    store_comes_back: outage reaches T2;
    answers_are_lost: deaf reaches T2 T6c;
    parked_slot: parked reaches T5 T6a T9 T11;
    taken_at_an_operators_true_word: force reaches T6b T12;
    #[ignore = "minutes: cargo nextest run -p understudy-modelcheck --run-ignored only"]
    both_lose_messages: both reaches T2 T6c;
    #[ignore = "minutes: cargo nextest run -p understudy-modelcheck --run-ignored only"]
    frozen_holder_that_sees_late: rebind reaches T1 T2 T4e T6c T10;
    #[ignore = "minutes: cargo nextest run -p understudy-modelcheck --run-ignored only"]
    stale_take_after_a_new_session: reopened reaches T1 T2 T4e T6b T6c;
    #[ignore = "minutes: cargo nextest run -p understudy-modelcheck --run-ignored only"]
    taker_opens_anew: taker_reopens reaches T1 T2 T6a T6c;
}

fn must_hold(config: Config, expected: &[Transition]) {
    let found = check(config);
    println!(
        "{} states, depth {}, {:.1?}: {:?}",
        found.states, found.depth, found.took, found.taken
    );
    if let Some((property, steps)) = found.broken {
        for (number, step) in steps.iter().enumerate() {
            println!("{:3}  {step:?}", number + 1);
        }
        panic!("broken: {property}");
    }
    for transition in expected {
        assert!(found.taken.contains(transition), "{transition:?} never happened");
    }
}
