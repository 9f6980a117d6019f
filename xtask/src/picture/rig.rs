//! The shop in a folder of its own, driven through its command line, and a client that asks it.

use super::{Asked, Failover, Service};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Addresses of the example, which may be taken on this machine.
const DECLARED: [&str; 2] = ["127.0.0.1:6380", "127.0.0.1:8080"];
/// A service that is killed is redundant again long before.
const HEAL: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// 200 requests a second.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// The proxy holds a request no longer than this.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A running shop; dropped, it is stopped.
pub(super) struct Shop {
    program: PathBuf,
    state: TempDir,
    db: SocketAddr,
}

#[derive(Deserialize)]
struct Status {
    services: Vec<Service>,
}

#[derive(Deserialize)]
struct Page {
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    failover: Option<Failover>,
}

impl Shop {
    pub(super) fn up(program: &Path, root: &Path) -> Result<Self> {
        let state = tempfile::tempdir().context("failed to make a folder")?;
        let mut file =
            std::fs::read_to_string(root.join("examples/shop.toml")).context("failed to read examples/shop.toml")?;
        let ports = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let addresses = [ports[0].local_addr()?, ports[1].local_addr()?];
        drop(ports);
        for (declared, address) in DECLARED.iter().zip(addresses) {
            ensure!(
                file.contains(declared),
                "examples/shop.toml does not listen on {declared} any more"
            );
            file = file.replace(declared, &address.to_string());
        }
        let path = state.path().join("shop.toml");
        std::fs::write(&path, file)?;
        // Dropped, and so stopped, also if it does not come up.
        let shop = Self {
            program: program.to_owned(),
            state,
            db: addresses[0],
        };
        shop.run(&["up", &path.to_string_lossy(), "--detach"])?;
        Ok(shop)
    }

    /// The database, once it is redundant without any of these processes.
    pub(super) fn redundant(&self, without: &[u32]) -> Result<Service> {
        let begun = Instant::now();
        loop {
            let answer = self.run(&["status", "--json"])?;
            let status: Status = serde_json::from_slice(&answer).context("`status --json` is no status")?;
            let db = status
                .services
                .into_iter()
                .find(|service| service.name == "db")
                .context("there is no db")?;
            let is_left = db
                .instances
                .iter()
                .filter_map(|instance| instance.pid)
                .any(|pid| without.contains(&pid));
            if db.state == "redundant" && !is_left {
                return Ok(db);
            }
            if begun.elapsed() > HEAL {
                bail!("db is not redundant after {} s: {db:?}", HEAL.as_secs());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    pub(super) fn last_failover(&self) -> Result<Failover> {
        let answer = self.run(&["events", "--failovers", "--service", "db", "-n", "1", "--json"])?;
        let page: Page = serde_json::from_slice(&answer).context("`events --json` is no page of events")?;
        page.events
            .into_iter()
            .rev()
            .find_map(|event| event.failover)
            .context("there was no failover")
    }

    pub(super) fn kill(&self, pid: u32) -> Result<()> {
        let status = Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status()
            .context("failed to run kill")?;
        ensure!(status.success(), "process {pid} could not be killed");
        Ok(())
    }

    /// A client that asks for the counter until it is told to finish.
    pub(super) fn ask(&self) -> Client {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, db) = (Arc::clone(&stop), self.db);
        let thread = std::thread::spawn(move || {
            let mut asked = Asked::default();
            while !told.load(Ordering::Relaxed) {
                let begun = Instant::now();
                match get(db) {
                    Ok(()) => asked.answered += 1,
                    Err(error) => {
                        eprintln!("a request failed: {error:#}");
                        asked.failed += 1;
                    }
                }
                let took = begun.elapsed();
                asked.slowest = asked.slowest.max(took);
                std::thread::sleep(ASK_EVERY.saturating_sub(took));
            }
            asked
        });
        Client { stop, thread }
    }

    fn run(&self, words: &[&str]) -> Result<Vec<u8>> {
        let mut command = Command::new(&self.program);
        let output = command.arg("--state-dir").arg(self.state.path()).args(words).output();
        let output = output.with_context(|| format!("failed to run {}", self.program.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "`understudy {}` failed: {}",
            words.join(" "),
            said.trim()
        );
        Ok(output.stdout)
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        if let Err(error) = self.run(&["down", "--yes"]) {
            eprintln!("{error:#}");
        }
    }
}

/// Somebody who asks.
pub(super) struct Client {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Asked>,
}

impl Client {
    pub(super) fn finish(self) -> Asked {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// One request over a connection of its own.
fn get(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(b"GET /counter HTTP/1.1\r\nHost: db\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(
        answer.starts_with("HTTP/1.1 200"),
        "answered: {}",
        answer.lines().next().unwrap_or("nothing")
    );
    ensure!(answer.contains("\"counter\""), "the answer has no counter: {answer}");
    Ok(())
}

/// The first line that a program prints.
pub(super) fn first_line(program: &Path, words: &[&str]) -> Result<String> {
    let output = Command::new(program).args(words).output();
    let output = output.with_context(|| format!("failed to run {}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .next()
        .unwrap_or("")
        .to_owned())
}
