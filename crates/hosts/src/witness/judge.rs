//! What the stamps prove. Pure.

use super::ring::Trace;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// When stamps belong together, and what counts as a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Between stamps further apart than this, the process did not act: it was stopped. Well above the distance of stamps, or a
    /// busy machine makes many spans of one; that hides nothing, for a span between two others of somebody else is still an overlap.
    pub still_ns: u64,
    /// Shorter times without anybody active are not told.
    pub gap_ns: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            still_ns: 20_000_000,
            gap_ns: 1_000_000,
        }
    }
}

/// Somebody acted without pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Which ring: processes have one each, also if they have the same name.
    pub ring: usize,
    /// Who.
    pub who: String,
    /// For which slot.
    pub slot: u32,
    /// At which epoch.
    pub epoch: u64,
    /// Its first stamp.
    pub from_ns: u64,
    /// Its last stamp.
    pub to_ns: u64,
}

/// Two acted for one slot at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// Who began first.
    pub one: Span,
    /// Who began while the first still acted.
    pub other: Span,
    /// From when.
    pub from_ns: u64,
    /// Until when; the same if there is only one stamp that proves it.
    pub to_ns: u64,
}

/// Something about epochs that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EpochFault {
    /// Somebody began to act at an epoch below one that had acted before.
    Backwards {
        /// Who had acted before.
        before: Span,
        /// Who acted at the lower epoch.
        then: Span,
    },
    /// Two processes acted at the same epoch.
    Twice {
        /// The one.
        one: Span,
        /// The other.
        other: Span,
    },
}

/// Nobody acted for a slot, between two that did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Which slot.
    pub slot: u32,
    /// The last stamp before it.
    pub from_ns: u64,
    /// The first after it.
    pub to_ns: u64,
}

/// All that the stamps prove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// All spans, by slot and begin.
    pub spans: Vec<Span>,
    /// Two actives at once.
    pub overlaps: Vec<Overlap>,
    /// Epochs that did not rise.
    pub faults: Vec<EpochFault>,
    /// Nobody active.
    pub gaps: Vec<Gap>,
    /// Stamps that were overwritten before they could be judged: with any, this proves less.
    pub lost: u64,
}

impl Verdict {
    /// Never two at once, epochs rose, and nothing is missing.
    pub fn is_clean(&self) -> bool {
        self.overlaps.is_empty() && self.faults.is_empty() && self.lost == 0
    }

    /// How long there were two or more, over all slots, nanoseconds.
    pub fn dual_ns(&self) -> u64 {
        let mut slots: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
        for overlap in &self.overlaps {
            slots
                .entry(overlap.one.slot)
                .or_default()
                .push((overlap.from_ns, overlap.to_ns));
        }
        slots.into_values().map(length).sum()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let epochs: BTreeSet<(u32, u64)> = self.spans.iter().map(|span| (span.slot, span.epoch)).collect();
        write!(
            f,
            "{} activations in {} spans, {} gaps",
            epochs.len(),
            self.spans.len(),
            self.gaps.len()
        )?;
        if self.lost > 0 {
            write!(f, ", {} stamps lost", self.lost)?;
        }
        for Overlap {
            one,
            other,
            from_ns,
            to_ns,
        } in &self.overlaps
        {
            let ns = to_ns - from_ns;
            write!(
                f,
                "\nslot {}: {one} and {other} at once for {ns} ns, from {from_ns}",
                one.slot
            )?;
        }
        for fault in &self.faults {
            match fault {
                EpochFault::Backwards { before, then } => write!(f, "\nslot {}: {then} after {before}", then.slot)?,
                EpochFault::Twice { one, other } => write!(f, "\nslot {}: {one} and {other} at one epoch", one.slot)?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (ring {}) at epoch {}", self.who, self.ring, self.epoch)
    }
}

/// Judges all that was stamped.
pub fn judge(traces: &[Trace], limits: Limits) -> Verdict {
    let mut spans: Vec<Span> = traces
        .iter()
        .enumerate()
        .flat_map(|(ring, trace)| spans(ring, trace, limits.still_ns))
        .collect();
    spans.sort_by_key(|span| (span.slot, span.from_ns, span.epoch));
    let mut verdict = Verdict {
        lost: traces.iter().map(|trace| trace.lost).sum(),
        ..Verdict::default()
    };
    for of_slot in spans.chunk_by(|one, other| one.slot == other.slot) {
        verdict.overlaps.extend(overlaps(of_slot));
        verdict.faults.extend(faults(of_slot));
        verdict.gaps.extend(gaps(of_slot, limits.gap_ns));
    }
    verdict.spans = spans;
    verdict
}

fn spans(ring: usize, trace: &Trace, still_ns: u64) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for stamp in &trace.stamps {
        let goes_on = |span: &&mut Span| {
            span.slot == stamp.slot && span.epoch == stamp.epoch && stamp.at_ns.saturating_sub(span.to_ns) <= still_ns
        };
        match spans.last_mut().filter(goes_on) {
            Some(span) => span.to_ns = span.to_ns.max(stamp.at_ns),
            None => spans.push(Span {
                ring,
                who: trace.who.clone(),
                slot: stamp.slot,
                epoch: stamp.epoch,
                from_ns: stamp.at_ns,
                to_ns: stamp.at_ns,
            }),
        }
    }
    spans
}

/// Of spans by their begin.
fn overlaps(spans: &[Span]) -> Vec<Overlap> {
    let mut found = Vec::new();
    let mut open: Vec<&Span> = Vec::new();
    for other in spans {
        open.retain(|one| one.to_ns >= other.from_ns);
        for one in open.iter().filter(|one| one.ring != other.ring) {
            found.push(Overlap {
                one: (*one).clone(),
                other: other.clone(),
                from_ns: other.from_ns,
                to_ns: one.to_ns.min(other.to_ns),
            });
        }
        open.push(other);
    }
    found
}

fn faults(spans: &[Span]) -> Vec<EpochFault> {
    let mut found = Vec::new();
    let mut highest: Option<&Span> = None;
    let mut owners: BTreeMap<u64, &Span> = BTreeMap::new();
    for span in spans {
        match highest {
            Some(before) if span.epoch < before.epoch => found.push(EpochFault::Backwards {
                before: before.clone(),
                then: span.clone(),
            }),
            _ => highest = Some(span),
        }
        let owner = *owners.entry(span.epoch).or_insert(span);
        if owner.ring != span.ring {
            found.push(EpochFault::Twice {
                one: owner.clone(),
                other: span.clone(),
            });
        }
    }
    found
}

fn gaps(spans: &[Span], gap_ns: u64) -> Vec<Gap> {
    let mut found = Vec::new();
    let mut until = spans.first().map_or(0, |span| span.from_ns);
    for span in spans {
        if span.from_ns.saturating_sub(until) >= gap_ns {
            found.push(Gap {
                slot: span.slot,
                from_ns: until,
                to_ns: span.from_ns,
            });
        }
        until = until.max(span.to_ns);
    }
    found
}

/// Of what intervals cover together.
fn length(mut intervals: Vec<(u64, u64)>) -> u64 {
    intervals.sort_unstable();
    let (mut sum, mut until) = (0, 0);
    for (from, to) in intervals {
        sum += to.saturating_sub(from.max(until));
        until = until.max(to);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::witness::Stamp;

    const MS: u64 = 1_000_000;

    /// Stamps every millisecond, both ends included: (slot, epoch, from ms, to ms).
    fn trace(who: &str, acted: &[(u32, u64, u64, u64)]) -> Trace {
        let stamps = acted
            .iter()
            .flat_map(|(slot, epoch, from, to)| (*from..=*to).map(|at| (*slot, *epoch, at * MS)));
        let stamps = stamps.zip(1..).map(|((slot, epoch, at_ns), number)| Stamp {
            slot,
            epoch,
            at_ns,
            number,
        });
        Trace {
            who: who.to_owned(),
            stamps: stamps.collect(),
            lost: 0,
        }
    }

    fn judged(traces: &[Trace]) -> Verdict {
        judge(traces, Limits::default())
    }

    #[test]
    fn one_after_the_other_at_rising_epochs_is_clean_and_the_gap_is_measured() {
        let verdict = judged(&[trace("a", &[(0, 1, 0, 100)]), trace("b", &[(0, 2, 350, 500)])]);
        assert!(verdict.is_clean(), "{verdict}");
        let gap = Gap {
            slot: 0,
            from_ns: 100 * MS,
            to_ns: 350 * MS,
        };
        assert_eq!(verdict.gaps, [gap]);
        assert_eq!(verdict.dual_ns(), 0);
    }

    #[test]
    fn two_at_once_are_told_to_the_nanosecond() {
        let verdict = judged(&[trace("a", &[(0, 1, 0, 100)]), trace("b", &[(0, 2, 70, 200)])]);
        assert_eq!(verdict.overlaps.len(), 1, "{verdict}");
        assert_eq!((verdict.overlaps[0].from_ns, verdict.dual_ns()), (70 * MS, 30 * MS));
        assert!(verdict.to_string().contains("at once for 30000000 ns"), "{verdict}");
    }

    #[test]
    fn one_that_was_frozen_counts_from_its_thaw_on_and_at_the_old_epoch() {
        let old = trace("a", &[(0, 1, 0, 100), (0, 1, 1_000, 1_005)]);
        let verdict = judged(&[old, trace("b", &[(0, 2, 400, 2_000)])]);
        assert_eq!((verdict.overlaps.len(), verdict.dual_ns()), (1, 5 * MS), "{verdict}");
        let [EpochFault::Backwards { before, then }] = verdict.faults.as_slice() else {
            panic!("{verdict}")
        };
        assert_eq!(
            (before.who.as_str(), then.who.as_str(), then.from_ns),
            ("b", "a", 1_000 * MS)
        );
    }

    #[test]
    fn a_single_stamp_in_the_time_of_another_is_enough() {
        let verdict = judged(&[trace("a", &[(0, 1, 0, 100)]), trace("b", &[(0, 2, 50, 50)])]);
        assert_eq!((verdict.overlaps.len(), verdict.dual_ns()), (1, 0));
        assert!(!verdict.is_clean());
    }

    #[test]
    fn three_at_once_are_not_counted_double() {
        let traces =
            [(1, 0, 100), (2, 50, 150), (3, 60, 100)].map(|(epoch, from, to)| trace("x", &[(0, epoch, from, to)]));
        let verdict = judged(&traces);
        assert_eq!((verdict.overlaps.len(), verdict.dual_ns()), (3, 50 * MS));
    }

    #[test]
    fn an_epoch_that_goes_back_or_comes_twice_is_a_fault_without_any_overlap() {
        let back = judged(&[trace("a", &[(0, 5, 0, 10)]), trace("b", &[(0, 4, 100, 110)])]);
        assert!(
            matches!(back.faults.as_slice(), [EpochFault::Backwards { .. }]) && back.overlaps.is_empty(),
            "{back}"
        );
        let twice = judged(&[trace("a", &[(0, 5, 0, 10)]), trace("b", &[(0, 5, 100, 110)])]);
        assert!(
            matches!(twice.faults.as_slice(), [EpochFault::Twice { .. }]) && !twice.is_clean(),
            "{twice}"
        );
        // The same process going on is none.
        assert!(judged(&[trace("a", &[(0, 5, 0, 10), (0, 5, 500, 510)])]).is_clean());
    }

    #[test]
    fn slots_are_judged_apart() {
        let verdict = judged(&[trace("a", &[(0, 1, 0, 100)]), trace("b", &[(1, 1, 0, 100)])]);
        assert!(verdict.is_clean() && verdict.gaps.is_empty(), "{verdict}");
    }

    #[test]
    fn lost_stamps_prove_nothing() {
        let mut one = trace("a", &[(0, 1, 0, 10)]);
        one.lost = 1;
        assert!(!judged(&[one]).is_clean());
    }
}
