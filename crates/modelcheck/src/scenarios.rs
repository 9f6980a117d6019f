//! The bounds that the tests explore: each has room for a few faults and a few transactions, and is visited completely.

use crate::config::{Budget, Config, Start};

/// A scenario: its name and bounds.
pub type Scenario = (&'static str, fn() -> Config);

/// All of them.
pub const ALL: [Scenario; 21] = [
    ("expiry", expiry),
    ("expiry with drift", drift),
    ("condemned first", condemned),
    ("frozen holder goes on", rebind_seeing),
    ("dead instance", dead),
    ("handover", handover),
    ("close", close),
    ("reboot", reboot),
    ("agent crash", crash),
    ("agent pause", pause),
    ("machine standstill", stall),
    ("delayed request", delayed),
    ("taker expires", taker),
    ("taker condemned", taker_condemned),
    ("two slots", two_slots),
    ("forgetful agent", forgetful),
    ("three nodes", three_nodes),
    ("outage", outage),
    ("no answers", deaf),
    ("parked", parked),
    ("taken by force", force),
];

fn held(session: [u8; 3], steps: [u8; 3]) -> Config {
    let steady = session.map(|session| session == 0);
    let budget = Budget {
        session,
        steps,
        ..Budget::default()
    };
    Config {
        budget,
        steady,
        ..Config::new(2, Start::Held)
    }
}

fn with(mut config: Config, change: impl FnOnce(&mut Config)) -> Config {
    change(&mut config);
    config
}

/// Node a loses its requests and answers at any point, may freeze and thaw; node b takes its slot.
pub fn expiry() -> Config {
    held([2, 0, 0], [0, 1, 0])
}

/// Both nodes lose requests and answers.
pub fn both() -> Config {
    held([1, 1, 0], [0, 1, 0])
}

/// Node a again, with clocks that drift apart as far as W allows.
pub fn drift() -> Config {
    with(held([1, 0, 0], [0, 1, 0]), |config| {
        config.budget.slow = 1;
        config.budget.fast = 1;
    })
}

/// The session is ended first, then the slot is taken.
pub fn condemned() -> Config {
    with(held([1, 0, 0], [0, 2, 0]), |config| config.condemn = true)
}

/// A frozen holder whose session has ended opens the next and binds its slot to it, if it is still its own.
pub fn rebind() -> Config {
    with(held([3, 0, 0], [1, 1, 0]), |config| {
        config.condemn = true;
        config.quick = true;
        config.sharp = [false, true, false];
    })
}

/// The same, and the holder's watch is never behind.
pub fn rebind_seeing() -> Config {
    with(rebind(), |config| config.sharp = [true, true, false])
}

/// A session ends, the next is opened, and a take that was sent before arrives.
pub fn reopened() -> Config {
    with(held([3, 0, 0], [0, 2, 0]), |config| {
        config.condemn = true;
        config.quick = true;
        config.sharp = [false, true, false];
    })
}

/// The instance dies or is stopped for its health: released or started anew.
pub fn dead() -> Config {
    with(held([0, 0, 0], [2, 1, 0]), |config| {
        config.budget.ends = 1;
        config.budget.edits = 1;
        config.sharp = [true, false, false];
        config.budget.announcements = 1;
    })
}

/// The holder hands its slot over, and may lose its session meanwhile.
pub fn handover() -> Config {
    with(held([1, 0, 0], [1, 1, 0]), |config| {
        config.budget.handovers = 1;
        config.quick = true;
        config.sharp = [true, false, false];
    })
}

/// A standby leaves.
pub fn close() -> Config {
    with(held([0, 0, 0], [1, 2, 0]), |config| config.budget.closes = 1)
}

/// The holder's machine boots, and ends its own old session.
pub fn reboot() -> Config {
    with(held([0, 0, 0], [1, 1, 0]), |config| {
        config.steady = [true, true, false];
        config.budget.reboots = 1;
    })
}

/// The holder's agent crashes and starts again.
pub fn crash() -> Config {
    with(held([1, 0, 0], [0, 1, 0]), |config| config.budget.crashes = 1)
}

/// The holder's agent stands still and goes on.
pub fn pause() -> Config {
    with(held([1, 0, 0], [0, 1, 0]), |config| config.budget.pauses = 1)
}

/// A whole machine stands still and goes on.
pub fn stall() -> Config {
    with(held([1, 0, 0], [0, 1, 0]), |config| config.budget.stalls = 1)
}

/// An overtaken request takes effect at any later time.
pub fn delayed() -> Config {
    with(held([1, 0, 0], [0, 1, 0]), |config| config.budget.delayed = 1)
}

/// A taker whose own session expires while its take is under way; another takes from it.
pub fn taker() -> Config {
    with(held([0, 1, 0], [1, 1, 0]), |config| config.start = Start::Released)
}

/// A taker that is condemned while its take is under way.
pub fn taker_condemned() -> Config {
    with(taker(), |config| {
        config.condemn = true;
        config.quick = true;
        config.sharp = [true, false, false];
    })
}

/// A taker that opens another session before it hears of its take.
pub fn taker_reopens() -> Config {
    with(held([0, 3, 0], [1, 1, 0]), |config| {
        config.start = Start::Released;
        config.quick = true;
        config.sharp = [true, false, false];
    })
}

/// One standby, two slots that are free.
pub fn two_slots() -> Config {
    with(held([0, 0, 0], [3, 0, 0]), |config| {
        config.nodes = 1;
        config.start = Start::Released;
        config.slots = 2;
    })
}

/// The same, and its agent forgets what it has sent.
pub fn forgetful() -> Config {
    with(two_slots(), |config| {
        config.budget.crashes = 1;
        config.budget.announcements = 1;
    })
}

/// Two takers, and a holder that may be late.
pub fn three_nodes() -> Config {
    with(held([1, 0, 0], [0, 1, 1]), |config| {
        config.nodes = 3;
        config.quick = true;
        config.sharp = [false, true, true];
    })
}

/// The store is away for any while and comes back; then messages are prompt.
pub fn outage() -> Config {
    with(held([9, 9, 0], [0, 1, 0]), |config| {
        config.outage = true;
        config.prompt = true;
        config.condemn = true;
        config.real_hold_off = true;
        config.ticks = Some(11);
    })
}

/// Requests of node a arrive, answers do not.
pub fn deaf() -> Config {
    with(held([9, 0, 0], [0, 1, 0]), |config| {
        config.prompt = true;
        config.deaf = Some(0);
        config.ticks = Some(12);
    })
}

/// The slot is parked. Its holder gives it up or starts anew, and a standby would take it.
pub fn parked() -> Config {
    with(held([0, 0, 0], [2, 1, 0]), |config| {
        config.budget.parks = 1;
        config.budget.ends = 1;
        config.sharp = [true, true, false];
    })
}

/// The holder's machine may lose its power, and boot. It is taken from at an operator's word, who has looked at it.
pub fn force() -> Config {
    with(held([1, 0, 0], [0, 2, 0]), |config| {
        config.budget.offs = 1;
        config.budget.forces = 1;
        config.quick = true;
        config.sharp = [true, true, false];
    })
}
