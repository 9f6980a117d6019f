//! The order of calls that takes a node's power away, every device off, then every device read back; and of those that give it back.

use model::{FenceDevice, Mark, Millis, Timestamp};
use std::time::Duration;

/// A device that still says "on" after it was told "off" is read again this often, this far apart: outlets take a moment.
const READS: u32 = 5;
const READ_AGAIN: Duration = Duration::from_secs(1);

/// What a device was told has happened this long after its fence agent ended, or never does. As long as this an attempt that failed is not over,
/// and no power is given back.
pub const SETTLE: Duration = Duration::from_secs(5);

/// Power is given back this often, this far apart, before somebody has to do it by hand.
const ON_TRIES: u32 = 3;
const ON_AGAIN: Duration = Duration::from_secs(2);

/// A call to the device of this number, from 0 in the order of the declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Take the power away.
    Off(usize),
    /// Is it off?
    Status(usize),
    /// Give it back.
    On(usize),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Call a device, and tell the job what it said.
    Call(Call),
    /// Wait for so long, then ask again.
    Wait(Duration),
    /// It is done: every device said that it is off, after it was told so; or was told to give the power back.
    Done,
    /// It did not go: why.
    Fail(String),
}

/// Until when something may be begun at a node's power. Others count on it that whatever was begun has happened when the bound of the record is
/// over, so nothing is begun that could end, and settle, later.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    timeouts: Vec<Duration>,
    bound: Duration,
    sent: Mark,
}

impl Span {
    /// `sent` was taken before the record with this `bound` was sent.
    fn new(devices: &[FenceDevice], bound: Millis, sent: Mark) -> Self {
        Self {
            // The kernel's alarm, which ends a fence agent whose caller hangs, knows whole seconds.
            timeouts: devices
                .iter()
                .map(|device| Duration::from_secs(device.timeout.0.div_ceil(1_000)))
                .collect(),
            bound: bound.duration(),
            sent,
        }
    }

    fn devices(&self) -> usize {
        self.timeouts.len()
    }

    fn has_room_for(&self, device: usize, now: Mark) -> bool {
        now.held_for(self.sent) <= self.room(device)
    }

    fn begins_by(&self, device: usize) -> Timestamp {
        let room = u64::try_from(self.room(device).as_micros()).unwrap_or(u64::MAX);
        Timestamp((self.sent.boot_ns / 1_000).saturating_add(room))
    }

    /// How long after the record was sent a call may begin.
    fn room(&self, device: usize) -> Duration {
        self.bound.saturating_sub(self.timeouts[device] + SETTLE)
    }
}

/// One attempt to take the power away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    span: Span,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Telling { device: usize },
    Waiting { device: usize, reads: u32 },
    Reading { device: usize, reads: u32 },
    Settling { why: String },
    Over(Result<(), String>),
}

impl Job {
    /// An attempt with these devices, of whose intent, with this bound, `sent` was taken before it was sent.
    pub fn new(devices: &[FenceDevice], bound: Millis, sent: Mark) -> Self {
        let state = match devices {
            // Nothing was told "off", so nothing can be confirmed.
            [] => State::Over(Err("no device is declared".into())),
            _ => State::Telling { device: 0 },
        };
        Self {
            span: Span::new(devices, bound, sent),
            state,
        }
    }

    /// What to do next; the same until the job is told what came of it. `ours` says whether the session that is in the intent was renewed a moment
    /// ago: without it another may be at it.
    pub fn next(&mut self, now: Mark, ours: bool) -> Next {
        if let State::Telling { device } = self.state {
            let why = match self.span.has_room_for(device, now) {
                false => Some("there was no time left for all of its devices"),
                true if !ours => Some("this node's own session was not renewed: another node goes on"),
                true => None,
            };
            if let Some(why) = why {
                self.state = match device {
                    0 => State::Over(Err(why.into())),
                    _ => State::Settling { why: why.into() },
                };
            }
        }
        match &self.state {
            State::Telling { device } => Next::Call(Call::Off(*device)),
            State::Waiting { .. } => Next::Wait(READ_AGAIN),
            State::Settling { .. } => Next::Wait(SETTLE),
            State::Reading { device, .. } => Next::Call(Call::Status(*device)),
            State::Over(Ok(())) => Next::Done,
            State::Over(Err(why)) => Next::Fail(why.clone()),
        }
    }

    /// When a call to a device must have begun: whoever was held up in between must not begin it any more.
    pub fn begins_by(&self, device: usize) -> Timestamp {
        self.span.begins_by(device)
    }

    /// The wait is over.
    pub fn waited(&mut self) {
        self.state = match &self.state {
            State::Waiting { device, reads } => State::Reading {
                device: *device,
                reads: *reads,
            },
            State::Settling { why } => State::Over(Err(why.clone())),
            other => other.clone(),
        };
    }

    /// A device answered a call to take the power away.
    pub fn off_done(&mut self, result: Result<(), String>) {
        let State::Telling { device } = self.state else {
            return;
        };
        self.state = match result {
            Err(why) => State::Settling { why },
            Ok(()) if device + 1 < self.span.devices() => State::Telling { device: device + 1 },
            Ok(()) => State::Reading { device: 0, reads: 0 },
        };
    }

    /// A device said whether the power is off.
    pub fn read(&mut self, off: Result<bool, String>) {
        let State::Reading { device, reads } = self.state else {
            return;
        };
        self.state = match off {
            Err(why) => State::Settling { why },
            Ok(true) if device + 1 < self.span.devices() => State::Reading {
                device: device + 1,
                reads: 0,
            },
            Ok(true) => State::Over(Ok(())),
            Ok(false) if reads + 1 < READS => State::Waiting {
                device,
                reads: reads + 1,
            },
            Ok(false) => {
                let number = device + 1;
                let why = format!("device {number} still says that the power is on, after it was told to take it away");
                State::Settling { why }
            }
        };
    }
}

/// Power is given back: when what took it away has settled, each device is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GiveBack {
    span: Span,
    state: Giving,
    trouble: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Giving {
    Settling,
    Telling { device: usize, tries: u32 },
    Waiting { device: usize, tries: u32 },
    Over,
}

impl GiveBack {
    /// By these devices, noted by a record with this bound, of which `sent` was taken before it was sent.
    pub fn new(devices: &[FenceDevice], bound: Millis, sent: Mark) -> Self {
        Self {
            span: Span::new(devices, bound, sent),
            state: Giving::Settling,
            trouble: None,
        }
    }

    /// What to do next; the same until the job is told what came of it.
    pub fn next(&mut self, now: Mark) -> Next {
        if let Giving::Telling { device, .. } = self.state
            && (device >= self.span.devices() || !self.span.has_room_for(device, now))
        {
            if device < self.span.devices() {
                self.trouble.get_or_insert("there was no time left for it".into());
            }
            self.state = Giving::Over;
        }
        match (self.state, &self.trouble) {
            (Giving::Settling, _) => Next::Wait(SETTLE),
            (Giving::Waiting { .. }, _) => Next::Wait(ON_AGAIN),
            (Giving::Telling { device, .. }, _) => Next::Call(Call::On(device)),
            (Giving::Over, None) => Next::Done,
            (Giving::Over, Some(why)) => Next::Fail(why.clone()),
        }
    }

    /// When a call to a device must have begun: whoever was held up in between must not begin it any more.
    pub fn begins_by(&self, device: usize) -> Timestamp {
        self.span.begins_by(device)
    }

    /// The wait is over.
    pub fn waited(&mut self) {
        self.state = match self.state {
            Giving::Settling => Giving::Telling { device: 0, tries: 1 },
            Giving::Waiting { device, tries } => Giving::Telling { device, tries },
            other => other,
        };
    }

    /// A device answered.
    pub fn on_done(&mut self, result: Result<(), String>) {
        let Giving::Telling { device, tries } = self.state else {
            return;
        };
        self.state = match result {
            Err(_) if tries < ON_TRIES => Giving::Waiting {
                device,
                tries: tries + 1,
            },
            result => {
                self.trouble = self.trouble.take().or(result.err());
                Giving::Telling {
                    device: device + 1,
                    tries: 1,
                }
            }
        };
    }
}
