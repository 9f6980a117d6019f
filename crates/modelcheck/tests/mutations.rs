//! Every rule that is left out is found out: the list of section 8 of the protocol, and what the model added to it.

use modelcheck::{Config, Mutation, check, scenarios};

macro_rules! found_out {
    ($($(#[$doc:meta])* $name:ident: $mutation:ident in $scenario:ident => $($property:literal)|+;)*) => {
        $($(#[$doc])* #[test]
        fn $name() {
            must_break(scenarios::$scenario(), Mutation::$mutation, &[$($property),+]);
        })*
    };
}

found_out! {
    waiting_only_for_d: WaitIsLease in drift => "I1n" | "I1x" | "I5";
    lease_from_the_answer: LeaseFromAnswer in expiry => "I1n" | "I1x" | "I4" | "I5";
    timer_before_observation: TimerBeforeSight in expiry => "I1n" | "I1x" | "I5";
    take_without_session_revision: TakeWithoutRevision in expiry => "I1n" | "I1x" | "I5";
    take_without_condemning: TakeWithoutCondemning in expiry => "I1n" | "I1x";
    renewal_as_plain_put: RenewalAsPlainPut in expiry => "I5";
    release_before_the_cgroup_is_empty: ReleaseBeforeEmpty in dead => "I6";
    no_look_at_own_deadline_after_the_take: NoDeadlineCheck in taker => "I1n" | "I1x" | "I4";
    own_session_not_compared: OwnSessionNotCompared in taker_condemned => "I5";
    taken_under_one_session_started_under_the_next: AnySessionCovers in taker_reopens => "I1n" | "I1x" | "I4";
    instance_not_compared: InstanceNotCompared in two_slots => "I7";
    rebound_without_comparing_the_slot: RebindWithoutSlot in rebind => "I1n" | "I1x" | "I2";
    revision_equal_or_session_gone: RevisionOrGone in reopened => "I5";
    announced_without_comparing_its_record: AnnounceBlindly in forgetful => "I7";
    announced_while_it_holds_a_slot: AnnounceWhileHolding in forgetful => "I7";
    started_after_it_was_given_up: StartAfterRelease in handover => "I6";
    parked_slot_taken: TakeParked in parked => "T11";
    /// The one transition that rests on somebody's word: if that is false, two may act.
    taken_at_an_operators_false_word: ForcedAlive in force => "I1n" | "I1x";
    no_hold_off: NoHoldOff in outage => "L4";
    renewals_without_probes: RenewWithoutProbe in deaf => "L1";
}

fn must_break(config: Config, mutation: Mutation, properties: &[&str]) {
    let found = check(config.without(mutation));
    let Some((property, steps)) = found.broken else {
        panic!("{mutation:?} was not found out in {} states", found.states);
    };
    println!("{mutation:?} breaks \"{property}\" ({} states):", found.states);
    for (number, step) in steps.iter().enumerate() {
        println!("{:3}  {step:?}", number + 1);
    }
    let expected = |short: &&str| property.split(':').next() == Some(short);
    assert!(properties.iter().any(expected), "{mutation:?} breaks {property}");
}
