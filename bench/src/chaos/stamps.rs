//! Stamps of many rounds: those that can still matter are judged, the others are put away.

use anyhow::{Context, Result};
use hosts::witness::{self, Limits, Verdict, judge};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Judges what was stamped since then (CLOCK_BOOTTIME), and removes rings that nobody holds open any more and that end before it.
pub(super) fn judge_since(rings: &Path, at_ns: u64) -> Result<Verdict> {
    let open = held_open(rings);
    let traces = witness::read_all(rings)?;
    let traces: Vec<_> = traces.into_iter().map(|trace| trace.since(at_ns)).collect();
    let verdict = judge(&traces, Limits::default());
    for ring in fs::read_dir(rings)?.flatten() {
        if open.contains(&ring.file_name()) {
            continue;
        }
        let written = ring.metadata()?.modified()?;
        let age = written.elapsed().unwrap_or_default().as_nanos();
        if age > u128::from(hosts::now_ns().saturating_sub(at_ns)) {
            fs::remove_file(ring.path()).with_context(|| format!("failed to remove {}", ring.path().display()))?;
        }
    }
    Ok(verdict)
}

/// Names of rings that a process has open: one that stands still may stamp again.
fn held_open(rings: &Path) -> BTreeSet<std::ffi::OsString> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return BTreeSet::new();
    };
    let files = processes
        .flatten()
        .filter_map(|process| fs::read_dir(process.path().join("fd")).ok())
        .flat_map(std::iter::Iterator::flatten)
        .filter_map(|file| fs::read_link(file.path()).ok());
    // The hosts see the folder under the same path.
    files
        .filter(|path| path.starts_with(rings))
        .filter_map(|path| path.file_name().map(Into::into))
        .collect()
}
