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
}

/// One to three at once.
pub fn draw(chance: &mut Rng, disks: bool) -> Vec<Drawn> {
    let count = match chance.u8(..10) {
        0..6 => 1,
        6..9 => 2,
        _ => 3,
    };
    let mut drawn: Vec<Drawn> = Vec::new();
    while drawn.len() < count {
        let one = one(chance, disks);
        if drawn.iter().all(|other| one.goes_with(*other)) {
            drawn.push(one);
        }
    }
    drawn
}

fn one(chance: &mut Rng, disks: bool) -> Drawn {
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
    let kinds = if disks { 18 } else { 16 };
    let what = match chance.u8(..kinds) {
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
    /// A host without power has no other trouble, nothing is broken twice, and agent and guard are not both harmed with one of them standing still: only
    /// a watchdog of the machine ends an active then, which these hosts have not.
    fn goes_with(self, other: Self) -> bool {
        if self.who != other.who {
            return true;
        }
        let of_keepers = |what: What| {
            let keeper = |process| matches!(process, Process::Agent | Process::Guard);
            matches!(what, What::Stop(process) | What::Kill(process) if keeper(process))
        };
        let one_hangs = [self.what, other.what].iter().any(|what| matches!(what, What::Stop(_)));
        if of_keepers(self.what) && of_keepers(other.what) && one_hangs {
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn words(seed: u64) -> Vec<String> {
        let hosts = ["a", "b", "c"].map(str::to_owned);
        let mut chance = Rng::with_seed(seed);
        (0..500)
            .flat_map(|_| draw(&mut chance, true))
            .map(|drawn| drawn.at(&hosts).to_string())
            .collect()
    }

    #[test]
    fn a_seed_draws_the_same_again_and_every_kind_comes_up() {
        assert_eq!(words(7), words(7));
        assert_ne!(words(7), words(8));
        let kinds: BTreeSet<String> = words(7)
            .iter()
            .filter_map(|word| word.split(' ').next().map(str::to_owned))
            .collect();
        assert_eq!(kinds.len(), 12, "{kinds:?}");
    }

    #[test]
    fn nothing_else_befalls_a_host_without_power() {
        let mut chance = Rng::with_seed(1);
        for _ in 0..2_000 {
            let drawn = draw(&mut chance, true);
            for (at, one) in drawn.iter().enumerate() {
                assert!(drawn[..at].iter().all(|other| one.goes_with(*other)), "{drawn:?}");
            }
        }
    }
}
