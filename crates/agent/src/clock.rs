//! The two clocks: microseconds since boot for decisions, wall time for people.

use model::{Timestamp, WallTime};
use rustix::time::{ClockId, clock_gettime};

/// Now, on CLOCK_BOOTTIME: it goes on while the machine sleeps and is the same for all processes of the machine.
pub(crate) fn now() -> Timestamp {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000;
    Timestamp(seconds * 1_000_000 + micros)
}

/// Now, for people.
pub(crate) fn wall_now() -> WallTime {
    WallTime(jiff::Timestamp::now().as_millisecond())
}

/// A moment as RFC 3339 in UTC with milliseconds.
pub(crate) fn shown(at: Timestamp) -> String {
    shown_wall(wall(at))
}

/// A moment, for people.
pub(crate) fn wall(at: Timestamp) -> WallTime {
    let ago_us = now().0.abs_diff(at.0);
    let ago_ms = i64::try_from(ago_us / 1_000).unwrap_or(i64::MAX);
    let wall = wall_now().0;
    WallTime(if at <= now() {
        wall.saturating_sub(ago_ms)
    } else {
        wall.saturating_add(ago_ms)
    })
}

/// A wall time as RFC 3339 in UTC with milliseconds.
pub(crate) fn shown_wall(wall: WallTime) -> String {
    match jiff::Timestamp::from_millisecond(wall.0) {
        Ok(at) => format!("{at:.3}"),
        Err(_) => "unknown".into(),
    }
}

/// A wall time, of another machine or of an earlier agent, on our clock, as well as the wall clocks agree: for people.
pub(crate) fn ago(at: WallTime) -> Timestamp {
    let ms = wall_now().0.saturating_sub(at.0).max(0);
    now() - std::time::Duration::from_millis(ms.unsigned_abs())
}
