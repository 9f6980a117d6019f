//! The service that proves when it was active; `tokenserver` is its program.
//!
//! An answer is a line: `epoch 7 slot 0 name a pid 12`. A standby answers with status 503, or at epoch 0.

use crate::clock::now_ns;
use crate::witness::Ring;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How to serve.
#[derive(Debug, Clone)]
pub struct Serve {
    /// In its answers and its ring.
    pub name: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The folder of rings, or nothing is stamped.
    pub rings: Option<PathBuf>,
    /// The slot that it acts for.
    pub slot: u32,
    /// Active from the start, at this epoch.
    pub epoch: Option<u64>,
    /// Where `promote` and `demote` reach it.
    pub control: Option<PathBuf>,
    /// Between stamps.
    pub every: Duration,
    /// Whether a standby answers with status 200 too.
    pub answer_standby: bool,
}

/// Four minutes at a stamp each half millisecond, 16 MiB of memory at most.
const STAMPS: u32 = 1 << 19;
/// An idle connection is closed after this; a client that keeps one asks more often.
const IDLE: Duration = Duration::from_secs(60);
/// More than any client that we have sends.
const HEAD_BYTES_MAX: u64 = 16 * 1024;

/// An epoch as a word: a number, or `now`, which takes the clock's nanoseconds. They rise over all hosts of a machine.
pub fn parse_epoch(word: &str) -> Result<u64, String> {
    match word {
        "now" => Ok(now_ns()),
        _ => word
            .parse()
            .map_err(|_| format!("`{word}` is neither a number nor `now`")),
    }
}

/// Serves until it is killed.
pub fn serve(how: &Serve) -> io::Result<()> {
    let listener = TcpListener::bind(how.listen)?;
    let ring = match &how.rings {
        Some(folder) => Some(Ring::create(folder, &how.name, STAMPS).map_err(io::Error::other)?),
        None => None,
    };
    let server = Arc::new(Server {
        how: how.clone(),
        state: Mutex::new(State { epoch: how.epoch, ring }),
    });
    server.stamp()?;
    if let Some(path) = &how.control {
        std::fs::remove_file(path).ok();
        let listener = UnixListener::bind(path)?;
        let server = Arc::clone(&server);
        thread::spawn(move || listener.incoming().flatten().for_each(|stream| server.obey(stream)));
    }
    let stamping = Arc::clone(&server);
    thread::spawn(move || {
        while stamping.stamp().is_ok() {
            thread::sleep(stamping.how.every);
        }
        // It could not be proved any more that this acts.
        std::process::exit(1);
    });
    for stream in listener.incoming() {
        let server = Arc::clone(&server);
        let stream = stream?;
        thread::Builder::new()
            .stack_size(128 * 1024)
            .spawn(move || server.converse(&stream).ok())?;
    }
    Ok(())
}

/// Makes it active at an epoch.
pub fn promote(control: &Path, epoch: u64) -> io::Result<()> {
    tell(control, &format!("promote {epoch}"))
}

/// Makes it a standby.
pub fn demote(control: &Path) -> io::Result<()> {
    tell(control, "demote")
}

/// Asks once; the answer is its line.
pub fn check(address: SocketAddr, timeout: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: check\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.take(HEAD_BYTES_MAX).read_to_string(&mut text)?;
    let body = text.split("\r\n\r\n").nth(1).unwrap_or_default().trim();
    match text.starts_with("HTTP/1.1 200") {
        true => Ok(body.to_owned()),
        false => Err(io::Error::other(format!("it answered: {body}"))),
    }
}

fn tell(control: &Path, word: &str) -> io::Result<()> {
    let mut stream = UnixStream::connect(control)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    writeln!(stream, "{word}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    match answer.trim() {
        "done" => Ok(()),
        other => Err(io::Error::other(format!("it answered `{other}`"))),
    }
}

struct Server {
    how: Serve,
    state: Mutex<State>,
}

struct State {
    epoch: Option<u64>,
    ring: Option<Ring>,
}

impl Server {
    /// The clock is read and the stamp written under the lock, so a demotion that returned is after the last stamp.
    fn stamp(&self) -> io::Result<Option<u64>> {
        let mut state = self.lock();
        let epoch = state.epoch;
        if let (Some(epoch), Some(ring)) = (epoch, &mut state.ring) {
            ring.stamp(self.how.slot, epoch).map_err(io::Error::other)?;
        }
        Ok(epoch)
    }

    fn obey(&self, mut stream: UnixStream) {
        let mut line = String::new();
        let Ok(reading) = stream.try_clone() else { return };
        BufReader::new(reading.take(100)).read_line(&mut line).ok();
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let answer = match words.as_slice() {
            ["demote"] => {
                self.lock().epoch = None;
                "done"
            }
            ["promote", epoch] => match epoch.parse() {
                Ok(epoch) => {
                    self.lock().epoch = Some(epoch);
                    self.stamp().map_or("no stamp", |_| "done")
                }
                Err(_) => "no epoch",
            },
            _ => "what?",
        };
        writeln!(stream, "{answer}").ok();
    }

    fn converse(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(IDLE))?;
        loop {
            let Some(keep) = read_head(stream)? else { return Ok(()) };
            // An answer is an act.
            let epoch = self.stamp()?;
            let (status, body) = match epoch {
                None if !self.how.answer_standby => ("503 Service Unavailable", "standby\n".to_owned()),
                epoch => ("200 OK", self.line(epoch.unwrap_or(0))),
            };
            let end = if keep { "keep-alive" } else { "close" };
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: text/plain\r\nConnection: {end}\r\n\r\n{body}",
                body.len()
            );
            (&*stream).write_all(answer.as_bytes())?;
            if !keep {
                return Ok(());
            }
        }
    }

    fn line(&self, epoch: u64) -> String {
        let Serve { name, slot, .. } = &self.how;
        format!("epoch {epoch} slot {slot} name {name} pid {}\n", std::process::id())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads to the empty line; `None` at the end. The request itself does not matter, only whether the client stays.
fn read_head(stream: &TcpStream) -> io::Result<Option<bool>> {
    let mut lines = BufReader::new(stream.take(HEAD_BYTES_MAX));
    let mut keep = true;
    let mut line = String::new();
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end().to_ascii_lowercase().as_str() {
            "" => return Ok(Some(keep)),
            "connection: close" => keep = false,
            _ => {}
        }
    }
}
