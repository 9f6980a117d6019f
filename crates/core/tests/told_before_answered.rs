//! In a cluster the store tells of later writes before it answers an earlier one.

#![expect(clippy::unwrap_used, reason = "a test that cannot do its part has failed")]

mod pair;

use decisions::{Action, ClusterEvent, Commit, Core, Event, SlotWrite};
use model::{Revision, RunId, Timestamp};
use pair::{holder_and_standby, id, node, says, slot};

const FILE: &str = r#"
[service.db]
command = ["db"]
exclusive = true
active = 1
standby = 1
standby_mode = "warm"
listen = "127.0.0.1:5000"
on_promote = ["promote"]
"#;

fn writes(core: &mut Core) -> Vec<SlotWrite> {
    let decided = std::iter::from_fn(|| core.poll_decision());
    decided
        .filter_map(|decision| match decision.action {
            Action::Write(write) => Some(write),
            _ => None,
        })
        .collect()
}

#[test]
fn a_slot_that_was_handed_over_and_promoted_before_the_answer_came_is_followed() {
    let now = Timestamp(1_000_000);
    let mut core = holder_and_standby(FILE, now);
    writes(&mut core);
    let (instance, run) = (id("db-1"), RunId(1));
    let how = "killed by SIGKILL".into();
    core.handle(
        Event::Exited {
            instance: instance.clone(),
            run,
            how,
        },
        now,
    );
    core.handle(Event::Gone { instance, run }, now);
    let write = writes(&mut core).pop().expect("the slot is handed over");
    assert_eq!((&write.holder, &write.node), (&id("db-2"), &node("b")));
    let (epoch, attempt) = (write.epoch, write.attempt);
    // b hears of it, promotes, and writes so, all before our own write is answered.
    let told = slot(20, attempt, "db-2", "b", epoch.0, false);
    core.handle(Event::Cluster(ClusterEvent::Slot(told)), now);
    let told = slot(21, 77, "db-2", "b", epoch.0, true);
    core.handle(Event::Cluster(ClusterEvent::Slot(told)), now);
    core.handle(says(Some(epoch.0)), now);
    let committed = Event::Committed {
        slot: write.slot.clone(),
        attempt,
        result: Commit::Done(Revision(20)),
    };
    core.handle(committed, now);
    let routed = std::iter::from_fn(|| core.poll_decision()).filter_map(|decision| match decision.action {
        Action::Route { targets, .. } => Some(targets),
        _ => None,
    });
    let last = routed.last().expect("clients are sent somewhere");
    assert_eq!(last.len(), 1);
    assert_eq!((&last[0].instance, last[0].epoch), (&id("db-2"), epoch));
}
