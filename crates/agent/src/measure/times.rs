//! What the threads of an instance do with their time, from the kernel's account of each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Accounts are compared over this at least: over less, a tick more or less is a tenth.
const OVER_S: f64 = 0.9;

/// What a thread does with its time, shares; the rest of it, it rests.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Shares {
    /// It runs.
    pub(super) ran: f64,
    /// It could run, and gets no processor.
    pub(super) waited: f64,
    /// It waits for a disk; told from looks, while the others are counted by the kernel.
    pub(super) at_disk: f64,
}

impl Shares {
    fn works(self) -> f64 {
        self.ran + self.waited + self.at_disk
    }
}

/// Accounts of an instance's threads, compared about once a second.
#[derive(Debug, Default)]
pub(super) struct Times {
    before: Option<(Instant, BTreeMap<u32, Account>)>,
    /// Looks since then, and at how many of them each thread waited for a disk.
    looks: u32,
    at_disk: BTreeMap<u32, u32>,
    /// What the busiest thread does.
    pub(super) busiest: Shares,
    /// How many threads could run and got no processor, mean.
    pub(super) waiting: Option<f64>,
}

/// Nanoseconds since a thread began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Account {
    ran: u64,
    waited: u64,
}

impl Times {
    /// Takes in a look at threads, those of them that wait for a disk, and how many of all each of them stands for.
    pub(super) fn look(&mut self, tasks: &[PathBuf], at_disk: BTreeSet<u32>, each: f64, now: Instant) {
        self.looks += 1;
        for thread in at_disk {
            *self.at_disk.entry(thread).or_default() += 1;
        }
        let span_s = self
            .before
            .as_ref()
            .map(|(at, _)| now.duration_since(*at).as_secs_f64());
        if span_s.is_some_and(|span_s| span_s < OVER_S) {
            return;
        }
        let accounts: BTreeMap<u32, Account> = tasks.iter().filter_map(|task| read(task)).collect();
        if let (Some((_, before)), Some(span_s)) = (self.before.take(), span_s) {
            self.compare(&before, &accounts, span_s, each);
        }
        self.before = Some((now, accounts));
        self.looks = 0;
        self.at_disk.clear();
    }

    fn compare(&mut self, before: &BTreeMap<u32, Account>, now: &BTreeMap<u32, Account>, span_s: f64, each: f64) {
        let share = |now: u64, before: u64| (now.saturating_sub(before) as f64 / 1e9 / span_s).min(1.0);
        let looks = f64::from(self.looks.max(1));
        let shares = now.iter().filter_map(|(thread, account)| {
            let before = before.get(thread)?;
            let at_disk = self.at_disk.get(thread).copied().unwrap_or(0);
            Some(Shares {
                ran: share(account.ran, before.ran),
                waited: share(account.waited, before.waited),
                at_disk: f64::from(at_disk) / looks,
            })
        });
        let shares: Vec<Shares> = shares.collect();
        self.waiting = (!shares.is_empty()).then(|| shares.iter().map(|shares| shares.waited).sum::<f64>() * each);
        self.busiest = shares
            .into_iter()
            .max_by(|a, b| a.works().total_cmp(&b.works()))
            .unwrap_or_default();
    }
}

fn read(task: &Path) -> Option<(u32, Account)> {
    let thread: u32 = task.file_name()?.to_str()?.parse().ok()?;
    let text = std::fs::read_to_string(task.join("schedstat")).ok()?;
    let mut numbers = text.split_ascii_whitespace().map_while(|number| number.parse().ok());
    let (ran, waited) = (numbers.next()?, numbers.next()?);
    Some((thread, Account { ran, waited }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_is_the_one_that_rests_least() {
        let account = |ran, waited| Account { ran, waited };
        let before = [(1, account(0, 0)), (2, account(5, 5)), (3, account(0, 0))].into();
        // The third began since, the fourth is not known from before.
        let now = [
            (1, account(600_000_000, 200_000_000)),
            (2, account(200_000_005, 500_000_005)),
            (4, account(900_000_000, 0)),
        ]
        .into();
        let mut times = Times {
            looks: 4,
            at_disk: [(2, 3)].into(),
            ..Times::default()
        };
        times.compare(&before, &now, 2.0, 1.5);
        let busiest = Shares {
            ran: 0.1,
            waited: 0.25,
            at_disk: 0.75,
        };
        assert_eq!(times.busiest, busiest);
        assert!((times.waiting.unwrap() - 1.5 * 0.35).abs() < 1e-9, "{times:?}");
    }
}
