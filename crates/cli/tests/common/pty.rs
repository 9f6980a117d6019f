//! The program on a terminal of its own.

use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Nothing that a test waits for takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program and the terminal it believes to be on.
pub struct OnTerminal {
    pub child: Child,
    keyboard: File,
    shown: Arc<(Mutex<String>, Condvar)>,
}

impl OnTerminal {
    /// Starts it on a terminal of 100 columns and 40 rows.
    pub fn start(mut command: Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY, rustix::fs::Mode::empty()).unwrap();
        let size = rustix::termios::Winsize {
            ws_row: 40,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&master, size).unwrap();
        // A process group of its own, so that a test may signal it; the terminal is not its controlling one.
        command
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap())
            .stderr(slave)
            .process_group(0);
        let child = command.spawn().unwrap();
        drop(command);
        let keyboard = File::from(master);
        let shown = Arc::<(Mutex<String>, Condvar)>::default();
        let (mut screen, written) = (keyboard.try_clone().unwrap(), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                written
                    .0
                    .lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&bytes[..count]));
                written.1.notify_all();
            }
        });
        Self { child, keyboard, shown }
    }

    /// Waits until it has shown this, counted from the start.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        let shown = self.shown.0.lock().unwrap();
        let (shown, timeout) = self
            .shown
            .1
            .wait_timeout_while(shown, PATIENCE, |shown| !shown.contains(text))
            .unwrap();
        assert!(!timeout.timed_out(), "`{text}` was not shown, but:\n{}", *shown);
    }

    /// All that was shown so far.
    pub fn shown(&self) -> String {
        self.shown.0.lock().unwrap().clone()
    }

    /// Types.
    pub fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Sends it a signal, as Ctrl-C does.
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ends(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "it did not end; it showed:\n{}",
                self.shown()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
