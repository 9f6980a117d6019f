//! A client outside of all hosts: requests at planned times, whatever became of those before, each one recorded.
//!
//! It runs on a thread of its own in the client's namespace. A request counts from its *planned* time: a client that is itself late, or waits
//! for an answer before it asks again, would hide a pause. How late it was is in the record.

use crate::clock::now_ns;
use crate::net::Namespace;
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until, timeout_at};

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Where to.
    pub target: SocketAddr,
    /// Between planned times.
    pub every: Duration,
    /// A request that has no whole answer so long after its planned time has failed.
    pub timeout: Duration,
    /// Whether connections are kept for the next request. One that breaks or times out is given up.
    pub kept: bool,
}

impl Plan {
    /// 200 requests a second on new connections, 200 ms each.
    pub fn new(target: SocketAddr) -> Self {
        Self {
            target,
            every: Duration::from_millis(5),
            timeout: Duration::from_millis(200),
            kept: false,
        }
    }

    /// The same over kept connections.
    #[must_use]
    pub fn kept(mut self) -> Self {
        self.kept = true;
        self
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// When it was planned, nanoseconds on CLOCK_BOOTTIME.
    pub planned_ns: u64,
    /// How late the client was to begin it, nanoseconds.
    pub late_ns: u64,
    /// From the planned time to its end, nanoseconds.
    pub took_ns: u64,
    /// Whether it was sent again: a kept connection was closed as it was on its way, before any of its answer came.
    pub repeated: bool,
    /// What came of it.
    pub outcome: Outcome,
}

impl Attempt {
    /// When it ended, nanoseconds on CLOCK_BOOTTIME.
    pub fn ended_ns(&self) -> u64 {
        self.planned_ns + self.took_ns
    }

    /// Whether it was answered in time with status 200.
    pub fn is_good(&self) -> bool {
        matches!(self.outcome, Outcome::Answered { .. })
    }
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Answered with status 200, by an active at this epoch if it says so.
    Answered {
        /// As its line says.
        epoch: Option<u64>,
        /// The name in its line.
        name: Option<String>,
    },
    /// Another status.
    Refused {
        /// Which.
        status: u16,
    },
    /// No connection, a broken one, or an answer that is none.
    Broken {
        /// In the system's words.
        why: String,
    },
    /// No whole answer in time.
    TimedOut,
}

/// A client at work. Dropped, it stops.
#[derive(Debug)]
pub struct Client {
    stop: Arc<AtomicBool>,
    good_in_a_row: Arc<AtomicU64>,
    thread: Option<JoinHandle<io::Result<Vec<Attempt>>>>,
}

/// An hour at 200 a second: whoever forgets to stop it runs out of this, not of memory.
const ATTEMPTS_MAX: usize = 720_000;
/// Larger answers are no answers of a service that we ask.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

impl Client {
    /// Starts to send.
    pub fn start(from: &Namespace, plan: Plan) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let good_in_a_row = Arc::new(AtomicU64::new(0));
        let good = Arc::clone(&good_in_a_row);
        let from = from.clone();
        let thread = thread::Builder::new().name("client".into()).spawn(move || {
            from.enter()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(LocalSet::new().block_on(&runtime, send(plan, &stopping, &good)))
        })?;
        Ok(Self {
            stop,
            good_in_a_row,
            thread: Some(thread),
        })
    }

    /// How many requests, the last ones that ended, were good without one between them that was not.
    pub fn good_in_a_row(&self) -> u64 {
        self.good_in_a_row.load(Ordering::Relaxed)
    }

    /// Sends nothing new, waits for what is under way, and returns all requests by planned time.
    pub fn stop(mut self) -> io::Result<Vec<Attempt>> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(attempts)) => attempts,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(Vec::new()),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn send(plan: Plan, stop: &AtomicBool, good_in_a_row: &Arc<AtomicU64>) -> Vec<Attempt> {
    let attempts = Rc::new(RefCell::new(Vec::new()));
    let idle: Rc<RefCell<Vec<TcpStream>>> = Rc::default();
    let (began, began_ns) = (Instant::now(), now_ns());
    let mut under_way = Vec::new();
    for number in 0..ATTEMPTS_MAX as u32 {
        let after = plan.every * number;
        let planned = began + after;
        sleep_until(planned).await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let planned_ns = began_ns + nanoseconds(after);
        let (attempts, idle) = (Rc::clone(&attempts), Rc::clone(&idle));
        let good = Arc::clone(good_in_a_row);
        under_way.retain(|task: &tokio::task::JoinHandle<()>| !task.is_finished());
        under_way.push(tokio::task::spawn_local(async move {
            let late_ns = nanoseconds(planned.elapsed());
            let mut repeated = false;
            let answer = timeout_at(planned + plan.timeout, ask(plan, &idle, &mut repeated)).await;
            let outcome = match answer {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(error)) => Outcome::Broken { why: error.to_string() },
                Err(_) => Outcome::TimedOut,
            };
            match outcome {
                Outcome::Answered { .. } => good.fetch_add(1, Ordering::Relaxed),
                _ => good.swap(0, Ordering::Relaxed),
            };
            attempts.borrow_mut().push(Attempt {
                planned_ns,
                late_ns,
                took_ns: nanoseconds(planned.elapsed()),
                repeated,
                outcome,
            });
        }));
    }
    // Each has its time-out, so this ends.
    for task in under_way {
        task.await.ok();
    }
    let mut attempts = attempts.take();
    attempts.sort_by_key(|attempt: &Attempt| attempt.planned_ns);
    attempts
}

/// As HTTP clients do (RFC 9112, 9.3.1): what is sent on a kept connection just as the server closes that is sent again, on a new one.
async fn ask(plan: Plan, idle: &RefCell<Vec<TcpStream>>, repeated: &mut bool) -> io::Result<Outcome> {
    let kept = idle.borrow_mut().pop().filter(is_usable);
    if let Some(stream) = kept {
        match once(plan, stream, idle).await {
            Err(Broke { answered: false, .. }) => *repeated = true,
            other => return other.map_err(|broke| broke.why),
        }
    }
    let stream = TcpStream::connect(plan.target).await?;
    once(plan, stream, idle).await.map_err(|broke| broke.why)
}

/// Why there is no answer, and whether any of it came.
struct Broke {
    why: io::Error,
    answered: bool,
}

impl From<io::Error> for Broke {
    fn from(why: io::Error) -> Self {
        Self { why, answered: false }
    }
}

async fn once(plan: Plan, mut stream: TcpStream, idle: &RefCell<Vec<TcpStream>>) -> Result<Outcome, Broke> {
    stream.set_nodelay(true)?;
    let end = if plan.kept { "keep-alive" } else { "close" };
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: {end}\r\n\r\n", plan.target);
    stream.write_all(request.as_bytes()).await?;
    let (outcome, is_last) = read_answer(&mut stream).await?;
    if plan.kept && !is_last {
        idle.borrow_mut().push(stream);
    }
    Ok(outcome)
}

/// Readable without a request is closed: not a failure, clients connect anew. The system is asked: the runtime may not know yet.
fn is_usable(stream: &TcpStream) -> bool {
    let read = socket2::SockRef::from(stream).peek(&mut [std::mem::MaybeUninit::uninit()]);
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// The answer, and whether it says that it is the last on its connection.
async fn read_answer(stream: &mut TcpStream) -> Result<(Outcome, bool), Broke> {
    let broken = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let mut bytes = Vec::new();
    loop {
        let answered = !bytes.is_empty();
        let broke = |why| Broke { why, answered };
        if let Some(outcome) = parse(&bytes).map_err(broke)? {
            return Ok(outcome);
        }
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(broke(broken("an answer without end")));
        }
        if stream.read_buf(&mut bytes).await.map_err(broke)? == 0 {
            return Err(broke(broken("closed before the answer was whole")));
        }
    }
}

/// `None` if there is more to come.
fn parse(bytes: &[u8]) -> io::Result<Option<(Outcome, bool)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response
        .parse(bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let httparse::Status::Complete(head) = parsed else {
        return Ok(None);
    };
    let length = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse::<usize>().ok());
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no length"))?;
    let is_last = response
        .headers
        .iter()
        .any(|header| header.name.eq_ignore_ascii_case("connection") && header.value.eq_ignore_ascii_case(b"close"));
    let Some(body) = bytes.get(head..head.saturating_add(length)) else {
        return Ok(None);
    };
    let status = response.code.unwrap_or(0);
    if status != 200 {
        return Ok(Some((Outcome::Refused { status }, is_last)));
    }
    let body = String::from_utf8_lossy(body);
    let words: Vec<&str> = body.split_ascii_whitespace().collect();
    let after = |name: &str| {
        words
            .iter()
            .position(|word| *word == name)
            .and_then(|place| words.get(place + 1))
    };
    let answered = Outcome::Answered {
        // A standby that answers does so at epoch 0, which is none.
        epoch: after("epoch")
            .and_then(|word| word.parse().ok())
            .filter(|epoch| *epoch > 0),
        name: after("name").map(|word| (*word).to_owned()),
    };
    Ok(Some((answered, is_last)))
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart_when_it_is_whole() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\nepoch 7 slot 0 name a pid 1";
        assert_eq!(parse(&text[..30]).unwrap(), None);
        assert_eq!(parse(&text[..text.len() - 3]).unwrap(), None);
        let whole = Outcome::Answered {
            epoch: Some(7),
            name: Some("a".into()),
        };
        assert_eq!(parse(text).unwrap(), Some((whole, false)));
        let other = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nconnection: Close\r\n\r\n";
        assert_eq!(parse(other).unwrap(), Some((Outcome::Refused { status: 503 }, true)));
        let standby = b"HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\nepoch 0 slot 0 name";
        let whole = Outcome::Answered {
            epoch: None,
            name: None,
        };
        assert_eq!(parse(standby).unwrap(), Some((whole, false)));
        let plain = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
        assert_eq!(
            parse(plain).unwrap().map(|(outcome, _)| outcome),
            Some(Outcome::Answered {
                epoch: None,
                name: None
            })
        );
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err() && parse(b"SSH-2.0-x\r\n\r\n").is_err());
    }
}
