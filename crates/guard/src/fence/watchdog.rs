//! The hardware watchdog: the last line. It resets the machine when nobody pets it, and we pet it only while every deadline is kept.

#![expect(unsafe_code, reason = "the watchdog's ioctls have no safe wrapper")]

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Setter, Updater, ioctl, opcode};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SET_TIMEOUT: rustix::ioctl::Opcode = opcode::read_write::<libc::c_int>(b'W', 6);
/// Numbered as a read although nothing is read.
const KEEP_ALIVE: rustix::ioctl::Opcode = opcode::read::<libc::c_int>(b'W', 5);
/// What makes a watchdog without `nowayout` stop when it is closed.
const MAGIC_CLOSE: &[u8] = b"V";
/// Any other byte.
const PET: &[u8] = b".";

/// Which, and how patient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `/dev/watchdog0`, for example.
    pub path: PathBuf,
    /// Resets the machine after this long without petting; whole seconds.
    pub timeout: Duration,
}

/// Why there is no watchdog.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device cannot be opened.
    #[error("failed to open watchdog `{}`: {source}; is its driver loaded, and does nobody else (systemd's RuntimeWatchdogSec=) hold it?", path.display())]
    Open {
        /// The device.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It cannot be that patient.
    #[error("watchdog `{}` refuses a timeout of {seconds}s: {source}", path.display())]
    Timeout {
        /// The device.
        path: PathBuf,
        /// What was asked for.
        seconds: i32,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An open watchdog. Dropped without [`Watchdog::close`] it goes on counting.
#[derive(Debug)]
pub struct Watchdog {
    device: OwnedFd,
    is_device: bool,
    timeout: Duration,
}

impl Watchdog {
    /// Starts it. A file or FIFO that plays the device is written to instead, as the kernel's interface allows too.
    pub fn open(config: &Config) -> Result<Self, Error> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let failed = |source: Errno| Error::Open {
            path: config.path.clone(),
            source: source.into(),
        };
        let device = rustix::fs::open(&config.path, flags, Mode::empty()).map_err(failed)?;
        let mut watchdog = Self {
            device,
            is_device: true,
            timeout: config.timeout,
        };
        watchdog.set_timeout(&config.path)?;
        Ok(watchdog)
    }

    /// How long it waits, as the device has rounded it.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Gives it its time anew.
    pub fn pet(&self) -> Result<(), Errno> {
        if !self.is_device {
            return rustix::io::write(&self.device, PET).map(drop);
        }
        // SAFETY: the driver takes no argument for this number, so whatever is passed is not read.
        unsafe { ioctl(&self.device, Setter::<KEEP_ALIVE, libc::c_int>::new(0)) }
    }

    /// Stops it, unless it is `nowayout`: only for a guard that ends in order with nothing armed.
    pub fn close(self) -> Result<(), Errno> {
        rustix::io::write(&self.device, MAGIC_CLOSE).map(drop)
    }

    fn set_timeout(&mut self, path: &Path) -> Result<(), Error> {
        let asked = i32::try_from(self.timeout.as_secs()).unwrap_or(i32::MAX);
        let mut seconds: libc::c_int = asked;
        // SAFETY: the number says that the driver reads and writes one `int`, and `seconds` is one.
        let result = unsafe { ioctl(&self.device, Updater::<SET_TIMEOUT, libc::c_int>::new(&mut seconds)) };
        match result {
            Ok(()) => self.timeout = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
            Err(Errno::NOTTY) => self.is_device = false,
            // It has one timeout and cannot be told another.
            Err(Errno::OPNOTSUPP) => {}
            Err(source) => {
                return Err(Error::Timeout {
                    path: path.into(),
                    seconds: asked,
                    source: source.into(),
                });
            }
        }
        Ok(())
    }
}
