//! The order of calls that takes a node's power away: every device off, then every device read back.

use std::time::Duration;

/// A device that still says "on" after it was told "off" is read again this often, this far apart: outlets take a moment.
const READS: u32 = 5;
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Some device may have been told, and outlets take a moment: as long as this an attempt that failed is not over, and the node opens no session.
const SETTLE: Duration = Duration::from_secs(5);

/// A call to the device of this number, from 0 in the order of the declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Take the power away.
    Off(usize),
    /// Is it off?
    Status(usize),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Call a device, and tell the job what it said.
    Call(Call),
    /// Wait for so long, then ask again.
    Wait(Duration),
    /// Every device said that it is off, after it was told so.
    Confirm,
    /// It did not go: why.
    Fail(String),
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    devices: usize,
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
    /// An attempt with so many devices.
    pub fn new(devices: usize) -> Self {
        let state = match devices {
            // Nothing was told "off", so nothing can be confirmed.
            0 => State::Over(Err("no device is declared".into())),
            _ => State::Telling { device: 0 },
        };
        Self { devices, state }
    }

    /// What to do next; the same until the job is told what came of it.
    pub fn next(&self) -> Next {
        match &self.state {
            State::Telling { device } => Next::Call(Call::Off(*device)),
            State::Waiting { .. } => Next::Wait(READ_AGAIN),
            State::Settling { .. } => Next::Wait(SETTLE),
            State::Reading { device, .. } => Next::Call(Call::Status(*device)),
            State::Over(Ok(())) => Next::Confirm,
            State::Over(Err(why)) => Next::Fail(why.clone()),
        }
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
            Ok(()) if device + 1 < self.devices => State::Telling { device: device + 1 },
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
            Ok(true) if device + 1 < self.devices => State::Reading {
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
