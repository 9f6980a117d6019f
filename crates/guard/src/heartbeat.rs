//! On one machine, where no deadline is kept: whether the main loop of the agent goes round. One that hangs is as good as dead, and
//! worse: nobody starts it again. It is killed, and then it is.
//!
//! The agent sends its process id to a socket now and then, and waits for no answer. One that never did (of an older program) is left alone.

use crate::fence::AGENT_TIMEOUT;
use crate::fence::socket::which;
use crate::silence::Silence;
use crate::watch::Process;
use crate::{is_free, locked_by};
use model::Mark;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(200);

/// What an agent tells its guard with that it goes on.
#[derive(Debug)]
pub struct Heart {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Heart {
    /// For the guard that listens at `path`, this one or a later one.
    pub fn new(path: PathBuf) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path })
    }

    /// One beat. Best effort: there may be no guard at this moment.
    pub fn beat(&self) {
        let _ = self.socket.send_to(&std::process::id().to_le_bytes(), &self.path);
    }
}

/// Begins to listen for the agent that holds `agent_lock`. Best effort: without it the agent is watched as before, by its end alone.
pub(crate) fn watch(path: &Path, agent_lock: &Path) {
    let (path, agent_lock) = (path.to_owned(), agent_lock.to_owned());
    let thread = std::thread::Builder::new().name("heartbeat".into()).spawn(move || {
        let began = Instant::now();
        let now = || Mark::default().later(began.elapsed());
        loop {
            match listen_at(&path) {
                Ok((socket, file)) => listen(&socket, || which(&path) == Some(file), &agent_lock, &now),
                Err(error) => tracing::warn!(%error, path = %path.display(), "cannot listen whether the agent hangs"),
            }
            std::thread::sleep(AGENT_TIMEOUT);
        }
    });
    if let Err(error) = thread {
        tracing::warn!(%error, "cannot listen whether the agent hangs");
    }
}

/// Until the socket has lost its name: then nobody can be heard, and silence means nothing.
fn listen(socket: &UnixDatagram, has_name: impl Fn() -> bool, agent_lock: &Path, now: &dyn Fn() -> Mark) {
    let mut silence = Silence::default();
    let mut agent = 0;
    loop {
        let mut beat = [0; 4];
        match socket.recv(&mut beat) {
            Ok(4) => {
                agent = u32::from_le_bytes(beat);
                silence.heard(now());
                continue;
            }
            Ok(_) => continue,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => return,
        }
        if !has_name() {
            return;
        }
        if !silence.is_watched() || !silence.look(now(), AGENT_TIMEOUT) {
            continue;
        }
        silence.forget();
        let Ok(Some(process)) = Process::open(agent) else {
            continue;
        };
        let holds = !is_free(agent_lock) && locked_by(agent_lock).is_some_and(|holder| holder == agent.to_string());
        if !holds {
            continue;
        }
        match process.kill() {
            Ok(()) => tracing::warn!(
                pid = agent,
                ms = AGENT_TIMEOUT.as_millis(),
                "the agent hung, and was killed"
            ),
            Err(error) => tracing::error!(pid = agent, %error, "the agent hangs, and cannot be killed"),
        }
    }
}

/// Whoever finds it can send to it; only our own user may.
fn listen_at(path: &Path) -> io::Result<(UnixDatagram, (u64, u64))> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let socket = UnixDatagram::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.set_read_timeout(Some(LOOK))?;
    let file = which(path).ok_or_else(|| io::Error::other("it is gone already"))?;
    Ok((socket, file))
}
