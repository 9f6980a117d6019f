//! `tier`: one service of a chain. Each request takes a while, passes its one limit if it has one, and calls the next service if there is one.
//!
//! A thread for each connection, as of old: what they wait for is what the kernel sees. `GET /healthz` answers at once, whatever the rest does.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How a `tier` is run.
#[derive(Debug, Clone)]
pub struct TierConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Whom it calls for each request, HOST:PORT, one after the other.
    pub next: Vec<String>,
    /// How long a request takes in it while nobody waits for anything.
    pub work: Duration,
    /// What there is too little of.
    pub limit: Option<Limit>,
    /// Folder for the file that it writes.
    pub data: PathBuf,
}

/// What there is too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// One thread does the work, and computes for so long each.
    Cpu(Duration),
    /// A lock is held for so long each, by a thread that sleeps.
    Lock(Duration),
    /// One thread writes to the disk, so many synced writes each.
    Disk(u32),
    /// So many calls to the next service at once.
    Pool(usize),
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no limit; write cpu:5ms, lock:5ms, disk:4 or pool:4");
        let (kind, size) = text.split_once(':').ok_or_else(wrong)?;
        let span = || {
            let ms: f64 = size
                .strip_suffix("ms")
                .and_then(|ms| ms.parse().ok())
                .ok_or_else(wrong)?;
            if (0.0..=10_000.0).contains(&ms) {
                Ok(Duration::from_secs_f64(ms / 1_000.0))
            } else {
                Err(wrong())
            }
        };
        let count = || {
            size.parse::<u32>()
                .ok()
                .filter(|count| (1..=1_000).contains(count))
                .ok_or_else(wrong)
        };
        match kind {
            "cpu" => Ok(Limit::Cpu(span()?)),
            "lock" => Ok(Limit::Lock(span()?)),
            "disk" => Ok(Limit::Disk(count()?)),
            "pool" => Ok(Limit::Pool(count()? as usize)),
            _ => Err(wrong()),
        }
    }
}

/// Thousands of connections need thousands of stacks.
const STACK_BYTES: usize = 128 * 1024;
const BLOCK_BYTES: usize = 4_096;
/// The file is written from its beginning again after this.
const BLOCKS: u64 = 1_024;
/// Connections to the next service that are kept idle.
const IDLE_MAX: usize = 256;

/// Serves until it is killed.
pub fn tier(config: &TierConfig) -> io::Result<()> {
    let listener = listen(config.listen)?;
    let tier = Arc::new(Tier {
        work: config.work,
        limit: Gate::new(config)?,
        next: config
            .next
            .iter()
            .map(|address| Next {
                address: address.clone(),
                idle: Mutex::default(),
            })
            .collect(),
    });
    println!("pid {} serves on {}", std::process::id(), config.listen);
    loop {
        let (stream, _) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(_) => {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
        };
        let tier = Arc::clone(&tier);
        let spawned = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            // A client that goes away is no news.
            let _ = tier.serve(stream);
        });
        if let Err(error) = spawned {
            eprintln!("no thread for a connection: {error}");
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _within = runtime.enter();
    let listener = socket.listen(4_096)?.into_std()?;
    listener.set_nonblocking(false)?;
    Ok(listener)
}

struct Tier {
    work: Duration,
    limit: Gate,
    next: Vec<Next>,
}

/// A service that is called.
struct Next {
    address: String,
    idle: Mutex<Vec<BufReader<TcpStream>>>,
}

impl Tier {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        while let Some(line) = head(&mut stream)? {
            let outcome = if line.contains(" /healthz ") {
                Ok(())
            } else {
                self.answer()
            };
            let (status, text) = match outcome {
                Ok(()) => ("200 OK", "ok".to_owned()),
                Err(error) => ("502 Bad Gateway", error.to_string()),
            };
            let length = text.len();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{text}");
            stream.get_mut().write_all(answer.as_bytes())?;
        }
        Ok(())
    }

    fn answer(&self) -> io::Result<()> {
        std::thread::sleep(self.work);
        self.limit.pass()?;
        for next in &self.next {
            let _one_of_few = self.limit.take_connection();
            next.call()?;
        }
        Ok(())
    }
}

impl Next {
    fn call(&self) -> io::Result<()> {
        let next = &self.address;
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let was_kept = kept.is_some();
        let mut connection = match kept {
            Some(connection) => connection,
            None => dial(next)?,
        };
        let asked = ask(&mut connection, next);
        let asked = match asked {
            // It was closed while it was idle.
            Err(_) if was_kept => {
                connection = dial(next)?;
                ask(&mut connection, next)
            }
            asked => asked,
        };
        asked?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
        Ok(())
    }
}

fn dial(next: &str) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(next)?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

fn ask(connection: &mut BufReader<TcpStream>, host: &str) -> io::Result<()> {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    connection.get_mut().write_all(request.as_bytes())?;
    let line = head(connection)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    if line.contains(" 200 ") {
        Ok(())
    } else {
        Err(io::Error::other(line.trim().to_owned()))
    }
}

/// The first line of a message, after all of it was read; `None` at the end of the connection.
fn head(stream: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut first = String::new();
    let mut length = 0_usize;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
        }
        if first.is_empty() {
            first = line;
        }
    }
    let mut body = vec![0; length.min(1 << 20)];
    io::Read::read_exact(stream, &mut body)?;
    Ok(Some(first))
}

/// What every request has to pass.
enum Gate {
    Open,
    Lock(Mutex<()>, Duration),
    /// Work for one thread, with a way to say that it is done.
    OneThread(Mutex<Sender<Sender<io::Result<()>>>>),
    Pool(Mutex<usize>, Condvar),
}

impl Gate {
    fn new(config: &TierConfig) -> io::Result<Self> {
        Ok(match config.limit {
            None => Gate::Open,
            Some(Limit::Lock(span)) => Gate::Lock(Mutex::new(()), span),
            Some(Limit::Pool(size)) => Gate::Pool(Mutex::new(size), Condvar::new()),
            Some(Limit::Cpu(span)) => Gate::one_thread(move || {
                compute(span);
                Ok(())
            })?,
            Some(Limit::Disk(writes)) => {
                let path = config.data.join("tier.data");
                let file = File::options().create(true).truncate(false).write(true).open(path)?;
                let mut block = 0;
                Gate::one_thread(move || {
                    for _ in 0..writes {
                        file.write_all_at(&[7; BLOCK_BYTES], block % BLOCKS * BLOCK_BYTES as u64)?;
                        file.sync_all()?;
                        block += 1;
                    }
                    Ok(())
                })?
            }
        })
    }

    fn one_thread(mut work: impl FnMut() -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let (sender, jobs) = channel::<Sender<io::Result<()>>>();
        std::thread::Builder::new().name("worker".into()).spawn(move || {
            for done in jobs {
                // Whoever asked may have gone.
                let _ = done.send(work());
            }
        })?;
        Ok(Gate::OneThread(Mutex::new(sender)))
    }

    fn pass(&self) -> io::Result<()> {
        match self {
            Gate::Open | Gate::Pool(..) => Ok(()),
            Gate::Lock(lock, span) => {
                let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
                std::thread::sleep(*span);
                Ok(())
            }
            Gate::OneThread(jobs) => {
                let (done, wait) = channel();
                let sent = jobs.lock().unwrap_or_else(PoisonError::into_inner).send(done);
                sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
                wait.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?
            }
        }
    }

    fn take_connection(&self) -> Option<OneOfFew<'_>> {
        let Gate::Pool(free, freed) = self else { return None };
        let free = free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = freed
            .wait_while(free, |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Some(OneOfFew(self))
    }
}

struct OneOfFew<'a>(&'a Gate);

impl Drop for OneOfFew<'_> {
    fn drop(&mut self) {
        if let Gate::Pool(free, freed) = self.0 {
            *free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            freed.notify_one();
        }
    }
}

/// Computes for as long, on the clock of the wall: on a busy machine it gets less done, as everybody does.
fn compute(span: Duration) {
    let begun = Instant::now();
    let mut work = 1_u64;
    while begun.elapsed() < span {
        for _ in 0..1_000 {
            work = work.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
        std::hint::black_box(work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_they_are_written() {
        assert_eq!("cpu:5ms".parse(), Ok(Limit::Cpu(Duration::from_millis(5))));
        assert_eq!("lock:0.5ms".parse(), Ok(Limit::Lock(Duration::from_micros(500))));
        assert_eq!("disk:4".parse(), Ok(Limit::Disk(4)));
        assert_eq!("pool:8".parse(), Ok(Limit::Pool(8)));
        for text in ["", "cpu", "cpu:5", "pool:0", "pool:x", "memory:1", "lock:-1ms"] {
            assert!(text.parse::<Limit>().unwrap_err().contains("cpu:5ms"), "{text}");
        }
    }

    /// A tier on a port of its own, for the life of the test process.
    fn started(limit: Option<Limit>, next: Option<SocketAddr>, data: PathBuf) -> SocketAddr {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = free.local_addr().unwrap();
        drop(free);
        let next = next.iter().map(ToString::to_string).collect();
        let config = TierConfig {
            listen,
            next,
            work: Duration::from_millis(1),
            limit,
            data,
        };
        std::thread::spawn(move || tier(&config).unwrap());
        for _ in 0..500 {
            if TcpStream::connect(listen).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        listen
    }

    /// How long so many requests at once take.
    fn at_once(address: SocketAddr, count: usize) -> Duration {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..count {
                scope.spawn(|| ask(&mut dial(&address.to_string()).unwrap(), "tier").unwrap());
            }
        });
        begun.elapsed()
    }

    #[test]
    fn each_limit_lets_one_pass_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().to_owned();
        let slow = started(Some(Limit::Lock(Duration::from_millis(20))), None, data.clone());
        assert!(at_once(slow, 5) >= Duration::from_millis(100));
        let cpu = started(Some(Limit::Cpu(Duration::from_millis(20))), None, data.clone());
        assert!(at_once(cpu, 5) >= Duration::from_millis(100));
        let disk = started(Some(Limit::Disk(2)), None, data.clone());
        at_once(disk, 3);
        assert_eq!(
            std::fs::metadata(data.join("tier.data")).unwrap().len(),
            6 * BLOCK_BYTES as u64
        );
        // Two at a time, 20 ms each one after the other behind it.
        let pool = started(Some(Limit::Pool(2)), Some(slow), data);
        assert!(at_once(pool, 4) >= Duration::from_millis(80));
    }

    #[test]
    fn a_chain_that_breaks_says_so() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let front = started(None, Some(nobody), ".".into());
        let error = ask(&mut dial(&front.to_string()).unwrap(), "tier").unwrap_err();
        assert!(error.to_string().contains("502"), "{error}");
    }
}
