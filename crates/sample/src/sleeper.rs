//! A process that waits for its end and nothing else: no runtime, no threads, no memory of its own.

/// Sleeps for ever. SIGTERM ends the process the way the kernel does it by default, so nothing has to be set up for it.
pub fn sleeper() -> ! {
    loop {
        // Returns only after a signal that did not end the process (SIGCONT after SIGSTOP, say).
        rustix::event::pause();
    }
}
