//! Makes a failing run smaller: leaves out faults as long as the same promise is still broken.

use crate::run::{Options, Report, run};

/// Runs at most: a smaller schedule is a help, not a need.
const TRIES_MAX: usize = 300;

/// The smallest schedule found, and what came of it.
pub(crate) fn shrink(failed: &Report, options: &Options) -> (Vec<usize>, Report) {
    let mut kept: Vec<usize> = options.only.clone().unwrap_or_else(|| (0..options.faults).collect());
    let mut best = failed.clone();
    let Some(promise) = failed.violation.as_ref().map(|violation| violation.invariant) else {
        return (kept, best);
    };
    let mut chunk = kept.len().div_ceil(2).max(1);
    let mut tries = 0;
    loop {
        let mut start = 0;
        while start < kept.len() && tries < TRIES_MAX {
            tries += 1;
            let mut fewer = kept.clone();
            fewer.drain(start..(start + chunk).min(kept.len()));
            let attempt = run(
                failed.seed,
                &Options {
                    only: Some(fewer.clone()),
                    ..options.clone()
                },
            );
            if attempt
                .violation
                .as_ref()
                .is_some_and(|violation| violation.invariant == promise)
            {
                kept = fewer;
                best = attempt;
            } else {
                start += chunk;
            }
        }
        if chunk == 1 || tries >= TRIES_MAX {
            return (kept, best);
        }
        chunk = chunk.div_ceil(2);
    }
}
