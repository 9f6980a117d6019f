//! What goes wrong next. Pure: chance in, troubles out.

use crate::cluster::Process;
use crate::trouble::Trouble;
use fastrand::Rng;

/// On whom it falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// The active's host.
    Active,
    /// Of the others the one with the store's leader, if it is among them.
    Second,
    /// The other one.
    Third,
}

/// A trouble before it is known which host is which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drawn {
    who: Who,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Kill(Process),
    Stop(Process),
    PowerLoss,
    LinkDown,
    PathCut,
    NotHeardBy(Who),
    DoesNotHear(Who),
    ApartFrom(Who),
    Loss(u16),
    Pause,
    Hogs(u8),
    DiskFull,
    DiskStall,
    ClockStep(i64),
}

/// What clocks are stepped by, in seconds: what a time service sets at its start, and an hour of summer time or of a wrong zone. Not further: what is
/// beyond the hour that certificates bear is refused, as is told.
const STEPS_S: [i64; 6] = [-3_600, -600, -2, 2, 600, 3_600];

/// What the hosts have that can be harmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Means {
    /// Disks that can be filled and stalled.
    pub disks: bool,
    /// Wall clocks that can be stepped.
    pub clocks: bool,
}

/// One to three at once.
pub fn draw(chance: &mut Rng, means: Means) -> Vec<Drawn> {
    let count = match chance.u8(..10) {
        0..6 => 1,
        6..9 => 2,
        _ => 3,
    };
    let mut drawn: Vec<Drawn> = Vec::new();
    while drawn.len() < count {
        let one = one(chance, means);
        if drawn.iter().all(|other| one.goes_with(*other)) {
            drawn.push(one);
        }
    }
    drawn
}

fn one(chance: &mut Rng, means: Means) -> Drawn {
    let who = match chance.u8(..10) {
        0..5 => Who::Active,
        5..8 => Who::Second,
        _ => Who::Third,
    };
    let other = match (who, chance.bool()) {
        (Who::Active, true) | (Who::Third, false) => Who::Second,
        (Who::Active, false) | (Who::Second, true) => Who::Third,
        (Who::Second, false) | (Who::Third, true) => Who::Active,
    };
    let process = Process::ALL[chance.usize(..Process::ALL.len())];
    let of_disks = if means.disks { 2 } else { 0 };
    let of_clocks = if means.clocks { 2 } else { 0 };
    let drawn = chance.u8(..16 + of_disks + of_clocks);
    let what = match drawn {
        16.. if drawn >= 16 + of_disks => What::ClockStep(STEPS_S[chance.usize(..STEPS_S.len())]),
        0..4 => What::Kill(process),
        4..7 => What::Stop(process),
        7 | 8 => What::PowerLoss,
        9 => What::LinkDown,
        10 => What::PathCut,
        11 => What::NotHeardBy(other),
        12 => What::DoesNotHear(other),
        13 if chance.bool() => What::ApartFrom(other),
        13 => What::Loss(chance.u16(50..300)),
        14 => What::Pause,
        15 => What::Hogs(chance.u8(2..5)),
        16 => What::DiskFull,
        _ => What::DiskStall,
    };
    Drawn { who, what }
}

impl Drawn {
    /// A host without power has no other trouble, and nothing is broken twice.
    fn goes_with(self, other: Self) -> bool {
        if self.who != other.who {
            return true;
        }
        if matches!((self.what, other.what), (What::ClockStep(_), What::ClockStep(_))) {
            return false;
        }
        self.what != What::PowerLoss && other.what != What::PowerLoss && self.what != other.what
    }

    /// The trouble, with the hosts as they are now: the active's, and the two others.
    pub fn at(self, hosts: &[String]) -> Trouble {
        let name = |who: Who| hosts[who as usize].clone();
        let host = name(self.who);
        match self.what {
            What::Kill(process) => Trouble::Kill { host, process },
            What::Stop(process) => Trouble::Stop { host, process },
            What::PowerLoss => Trouble::PowerLoss { host },
            What::LinkDown => Trouble::LinkDown { host },
            What::PathCut => Trouble::PathCut { host },
            What::NotHeardBy(other) => Trouble::OneWay {
                from: host,
                to: name(other),
            },
            What::DoesNotHear(other) => Trouble::OneWay {
                from: name(other),
                to: host,
            },
            What::ApartFrom(other) => Trouble::Apart {
                one: host,
                other: name(other),
            },
            What::Loss(permille) => Trouble::Loss { host, permille },
            What::Pause => Trouble::Pause { host },
            What::Hogs(count) => Trouble::Hogs { host, count },
            What::DiskFull => Trouble::DiskFull { host },
            What::DiskStall => Trouble::DiskStall { host },
            What::ClockStep(seconds) => Trouble::ClockStep { host, seconds },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const ALL: Means = Means {
        disks: true,
        clocks: true,
    };

    fn words(seed: u64, means: Means) -> Vec<String> {
        let hosts = ["a", "b", "c"].map(str::to_owned);
        let mut chance = Rng::with_seed(seed);
        (0..500)
            .flat_map(|_| draw(&mut chance, means))
            .map(|drawn| drawn.at(&hosts).to_string())
            .collect()
    }

    #[test]
    fn a_seed_draws_the_same_again_and_every_kind_comes_up() {
        assert_eq!(words(7, ALL), words(7, ALL));
        assert_ne!(words(7, ALL), words(8, ALL));
        assert_eq!(kinds(ALL).len(), 13, "{:?}", kinds(ALL));
        let clock_steps: BTreeSet<String> = words(7, ALL)
            .into_iter()
            .filter(|word| word.starts_with("clock-step a "))
            .collect();
        assert_eq!(clock_steps.len(), STEPS_S.len(), "{clock_steps:?}");
    }

    #[test]
    fn nothing_is_drawn_that_the_hosts_have_not() {
        for (disks, clocks) in [(false, false), (true, false), (false, true)] {
            let found = kinds(Means { disks, clocks });
            for kind in ["disk-full", "disk-stall"] {
                assert_eq!(found.contains(kind), disks, "{found:?}");
            }
            assert_eq!(found.contains("clock-step"), clocks, "{found:?}");
            assert!(found.contains("hogs") && found.contains("kill"), "{found:?}");
        }
    }

    fn kinds(means: Means) -> BTreeSet<String> {
        let first = |word: &String| word.split(' ').next().map(str::to_owned);
        words(7, means).iter().filter_map(first).collect()
    }

    #[test]
    fn nothing_else_befalls_a_host_without_power() {
        let mut chance = Rng::with_seed(1);
        for _ in 0..2_000 {
            let drawn = draw(&mut chance, ALL);
            for (at, one) in drawn.iter().enumerate() {
                assert!(drawn[..at].iter().all(|other| one.goes_with(*other)), "{drawn:?}");
            }
        }
    }
}
