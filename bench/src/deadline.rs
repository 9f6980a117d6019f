//! `deadline`: what the kernel's deadline of an exclusive active costs who is watched, in turns with and without it.

use crate::{Context, say};
use anyhow::{Context as _, Result, ensure};
use bench::process;
use bench::report::{Page, first_line, spread};
use bench::rig;
use bench::sample::Sample;
use guard::fence::cgroup::mount_point;
use guard::fence::{KernelDeadline, Pins, mark};
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Who is watched has this one alone.
const WATCHED_CORE: usize = 0;
/// Who asks.
const ASKING_CORE: usize = 1;
const READY_WITHIN: Duration = Duration::from_secs(5);
/// Never reached.
const AHEAD: Duration = Duration::from_secs(3_600);

/// How Redis is asked: name, connections, requests sent at once, requests in all.
const CASES: [(&str, &str, &str, &str); 3] = [
    (
        "Redis, one connection: it sleeps and wakes for each request",
        "1",
        "1",
        "60000",
    ),
    ("Redis, 50 connections", "50", "1", "200000"),
    (
        "Redis, 50 connections, 16 requests at once: it computes",
        "50",
        "16",
        "1500000",
    ),
];

pub(crate) fn run(context: &Context) -> Result<Page> {
    let rounds = context.runs(9);
    let folder = tempfile::tempdir()?;
    let settings = format!("{rounds} rounds of each case, in turns");
    let mut page = Page::new(
        "deadline",
        "What the kernel's deadline costs",
        &settings,
        &context.program,
        folder.path(),
    )?;
    page.paragraph(&format!(
        "- redis: {}\n- core {WATCHED_CORE}: Redis, in a cgroup that is watched every other time. Core {ASKING_CORE}: `redis-benchmark -t get`.",
        first_line("redis-server", &["--version"]),
    ));
    let server = Server::start(folder.path())?;
    let mut rows = Vec::new();
    for case in CASES {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            // Each first every other time.
            for watched in [round % 2 == 0, round % 2 != 0] {
                let deadline = watched.then(|| server.watch(folder.path())).transpose()?;
                let asked = server.ask(case)?;
                drop(deadline);
                match watched {
                    true => with.push(asked),
                    false => without.push(asked),
                }
            }
        }
        let row = row(case.0, &with, &without);
        say(&row.join(" | "));
        rows.push(row);
    }
    page.table(
        &[
            "case",
            "requests/s watched",
            "not watched",
            "**ratio**",
            "p99 ms watched",
            "not watched",
            "µs on the core for each, watched",
            "not watched",
        ],
        &rows,
    );
    page.paragraph(
        "Medians (smallest to largest). Watched: the kernel calls the program of an exclusive active of several machines each millisecond \
         that it runs and each time that it leaves a processor (`docs/takeover-protocol.md`); the time is an hour ahead.",
    );
    Ok(page)
}

/// Redis in a cgroup of its own.
struct Server {
    child: Child,
    cgroup: PathBuf,
    port: u16,
}

#[derive(Clone, Copy)]
struct Asked {
    per_second: f64,
    p99_ms: f64,
    cpu_us: f64,
}

impl Server {
    fn start(folder: &Path) -> Result<Self> {
        let cgroup = mount_point()?.join(format!("understudy-bench.{}", std::process::id()));
        fs::create_dir(&cgroup).with_context(|| format!("failed to make {} (as root?)", cgroup.display()))?;
        let port = rig::free_address()?.port();
        let child = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--daemonize",
                "no",
            ])
            .current_dir(folder)
            .stdout(Stdio::null())
            .spawn()
            .context("failed to run redis-server (Debian: redis-server)")?;
        let server = Self { child, cgroup, port };
        fs::write(server.cgroup.join("cgroup.procs"), server.child.id().to_string())?;
        process::pin(server.child.id(), WATCHED_CORE)?;
        let until = Instant::now() + READY_WITHIN;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(Instant::now() < until, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// As an agent does.
    fn watch(&self, owner: &Path) -> Result<KernelDeadline> {
        let deadline = KernelDeadline::new()?;
        deadline.set(mark().later(AHEAD).boot_ns);
        deadline.watch(&self.cgroup, Some(&Pins::open(owner)?))??;
        Ok(deadline)
    }

    fn ask(&self, (_, connections, at_once, requests): (&str, &str, &str, &str)) -> Result<Asked> {
        let before = process::cpu_time(self.child.id())?;
        let output = Command::new("taskset")
            .args(["-c", &ASKING_CORE.to_string(), "redis-benchmark", "--csv", "-t", "get"])
            .args([
                "-p",
                &self.port.to_string(),
                "-c",
                connections,
                "-P",
                at_once,
                "-n",
                requests,
            ])
            .output()
            .context("failed to run taskset and redis-benchmark (Debian: util-linux, redis-tools)")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let cpu = process::cpu_time(self.child.id())? - before;
        let (per_second, p99_ms) =
            parse(&said).with_context(|| format!("redis-benchmark printed something else than expected:\n{said}"))?;
        Ok(Asked {
            per_second,
            p99_ms,
            cpu_us: 1e6 * cpu.as_secs_f64() / requests.parse::<f64>()?,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir(&self.cgroup);
    }
}

/// `"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"`: requests a second, p99.
fn parse(said: &str) -> Option<(f64, f64)> {
    let line = said.lines().find(|line| line.starts_with("\"GET\""))?;
    let fields: Vec<&str> = line.split(',').map(|field| field.trim_matches('"')).collect();
    Some((fields.get(1)?.parse().ok()?, fields.get(6)?.parse().ok()?))
}

fn row(name: &str, with: &[Asked], without: &[Asked]) -> Vec<String> {
    let of = |asked: &[Asked], what: fn(&Asked) -> f64| asked.iter().map(what).collect::<Sample>();
    let rates = [
        of(with, |asked| asked.per_second),
        of(without, |asked| asked.per_second),
    ];
    let late = [of(with, |asked| asked.p99_ms), of(without, |asked| asked.p99_ms)];
    let cost = [of(with, |asked| asked.cpu_us), of(without, |asked| asked.cpu_us)];
    vec![
        name.to_owned(),
        spread(&rates[0], 0),
        spread(&rates[1], 0),
        format!("**{:.3}**", rates[0].median() / rates[1].median()),
        spread(&late[0], 2),
        spread(&late[1], 2),
        format!("{:.2}", cost[0].median()),
        format!("{:.2}", cost[1].median()),
    ]
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn what_redis_benchmark_says_is_read() {
        let said = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
                    \"GET\",\"81967.21\",\"0.349\",\"0.088\",\"0.335\",\"0.503\",\"0.703\",\"2.847\"\n";
        assert_eq!(parse(said), Some((81_967.21, 0.703)));
        assert_eq!(parse("GET: 12 requests per second"), None);
    }
}
