//! `proxy`: our data path beside HAProxy, each on one core, on the same backends, in turns.

use crate::{Context, files, say};
use anyhow::{Context as _, Result, ensure};
use bench::process;
use bench::report::{Page, first_line, spread};
use bench::rig::{self, Rig};
use bench::sample::Sample;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CLUSTER: &str = "bench-proxy";
/// The proxies share this one, and never run at the same time.
const PROXY_CORE: usize = 0;
/// Everything else.
const LOAD_CORE: usize = 1;
const SECONDS: u64 = 5;
const ECHO_BYTES: usize = 64;

/// What is sent through a proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// wrk, kept connections.
    Wrk,
    /// wrk, a new connection for each request.
    WrkClose,
    /// Ping-pong of 64 bytes over kept connections.
    Echo,
}

struct Case {
    name: &'static str,
    kind: Kind,
    connections: usize,
    /// Index of the front: http, tcp, echo.
    front: usize,
}

const CASES: [Case; 8] = [
    Case {
        name: "http, kept",
        kind: Kind::Wrk,
        connections: 50,
        front: 0,
    },
    Case {
        name: "http, kept",
        kind: Kind::Wrk,
        connections: 1_000,
        front: 0,
    },
    Case {
        name: "http, new connections",
        kind: Kind::WrkClose,
        connections: 50,
        front: 0,
    },
    Case {
        name: "tcp to nginx, kept",
        kind: Kind::Wrk,
        connections: 50,
        front: 1,
    },
    Case {
        name: "tcp to nginx, kept",
        kind: Kind::Wrk,
        connections: 1_000,
        front: 1,
    },
    Case {
        name: "tcp to nginx, new connections",
        kind: Kind::WrkClose,
        connections: 50,
        front: 1,
    },
    Case {
        name: "tcp echo, 64 bytes",
        kind: Kind::Echo,
        connections: 50,
        front: 2,
    },
    Case {
        name: "tcp echo, 64 bytes",
        kind: Kind::Echo,
        connections: 1_000,
        front: 2,
    },
];

/// One measurement.
#[derive(Clone, Copy)]
struct Measured {
    per_second: f64,
    p99_ms: f64,
    errors: u64,
    /// Time of the proxy on its core for each request.
    cpu_us: f64,
    /// How busy it kept that core.
    busy: f64,
}

pub(crate) fn run(context: &Context) -> Result<Page> {
    let cores = std::thread::available_parallelism()?.get();
    ensure!(
        cores > LOAD_CORE,
        "this needs two cores, one for the proxy and one for the rest; here is {cores}"
    );
    let rounds = context.runs(5);
    let fronts = [rig::free_address()?, rig::free_address()?, rig::free_address()?];
    let own_program = std::env::current_exe()?;
    let text = files::backends(CLUSTER, LOAD_CORE, &own_program, fronts[0], fronts[1], fronts[2]);
    let rig = Rig::up(&context.program, CLUSTER, &text)?;
    let ours = rig.own()?.proxy.context("understudy runs no proxy")?;
    process::pin(ours, PROXY_CORE)?;
    let haproxy = HaProxy::start(&rig)?;

    let settings = format!("{rounds} rounds of {SECONDS} s for each case and proxy, in turns");
    let mut page = Page::new(
        "proxy",
        "The proxy beside HAProxy",
        &settings,
        &context.program,
        rig.folder(),
    )?;
    page.paragraph(&format!(
        "- haproxy: {}\n- nginx: {}\n- wrk: {}\n- core {PROXY_CORE}: the proxy that is measured. Core {LOAD_CORE}: wrk, nginx, the echo server and its client.",
        version("haproxy -v"),
        version("nginx -v"),
        version("wrk -v"),
    ));
    let mut rows = Vec::new();
    for case in &CASES {
        let mut both: [Vec<Measured>; 2] = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            // In turns, and each first every other time.
            for turn in [round % 2, (round + 1) % 2] {
                let (address, pid) = match turn {
                    0 => (fronts[case.front], ours),
                    _ => (haproxy.fronts[case.front], haproxy.child.id()),
                };
                both[turn as usize].push(measure(case, address, pid)?);
            }
        }
        let row = row(case, &both);
        say(&row.join(" | "));
        rows.push(row);
    }
    page.table(
        &[
            "case",
            "connections",
            "requests/s ours",
            "requests/s HAProxy",
            "**ratio**",
            "p99 ms ours",
            "p99 ms HAProxy",
            "**ratio**",
            "µs on the core for each, ours",
            "HAProxy",
            "core busy, ours / HAProxy",
            "errors, ours / HAProxy",
        ],
        &rows,
    );
    page.paragraph(
        "Medians (smallest to largest). Ratios are ours to HAProxy's, of the medians: of throughput more is better, of p99 less. \
         Where the proxy's core is not busy, the other core is what limits both, and the time on the core for each request \
         tells which proxy has more to give.",
    );
    haproxy.stop();
    rig.down()?;
    Ok(page)
}

fn measure(case: &Case, address: SocketAddr, proxy: u32) -> Result<Measured> {
    let before = process::cpu_time(proxy)?;
    let begun = Instant::now();
    let load = match case.kind {
        Kind::Wrk => wrk(case.connections, address, &[])?,
        Kind::WrkClose => wrk(case.connections, address, &["-H", "Connection: close"])?,
        Kind::Echo => echo(case.connections, address)?,
    };
    let took = begun.elapsed().as_secs_f64();
    let cpu = (process::cpu_time(proxy)? - before).as_secs_f64();
    Ok(Measured {
        per_second: load.per_second,
        p99_ms: load.p99_ms,
        errors: load.errors,
        cpu_us: 1e6 * cpu / (load.per_second * SECONDS as f64),
        busy: cpu / took,
    })
}

struct Load {
    per_second: f64,
    p99_ms: f64,
    errors: u64,
}

fn wrk(connections: usize, address: SocketAddr, more: &[&str]) -> Result<Load> {
    let output = Command::new("taskset")
        .args(["-c", &LOAD_CORE.to_string(), "wrk", "--latency", "-t", "1"])
        .args(["-c", &connections.to_string(), "-d", &format!("{SECONDS}s")])
        .args(more)
        .arg(format!("http://{address}/"))
        .output()
        .context("failed to run taskset and wrk (Debian: util-linux, wrk)")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "wrk failed: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    parse_wrk(&said).with_context(|| format!("wrk printed something else than expected:\n{said}"))
}

fn parse_wrk(said: &str) -> Option<Load> {
    let after = |name: &str| {
        let line = said.lines().find(|line| line.trim_start().starts_with(name))?;
        line.trim_start()[name.len()..].split_ascii_whitespace().next()
    };
    // "Socket errors: connect 0, read 3, write 0, timeout 0" and "Non-2xx or 3xx responses: 5" are there only if there were any.
    let socket_errors = said
        .lines()
        .find(|line| line.contains("Socket errors:"))
        .map_or(0, |line| {
            let numbers = line.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok());
            numbers.sum()
        });
    let refused = after("Non-2xx or 3xx responses:").map_or(Some(0), |count| count.parse().ok())?;
    Some(Load {
        per_second: after("Requests/sec:")?.parse().ok()?,
        p99_ms: wrk_ms(after("99%")?)?,
        errors: socket_errors + refused,
    })
}

/// "850.00us", "1.23ms", "1.02s".
fn wrk_ms(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits.parse().ok()?;
    match &text[digits.len()..] {
        "us" => Some(number / 1e3),
        "ms" => Some(number),
        "s" => Some(number * 1e3),
        "m" => Some(number * 60e3),
        _ => None,
    }
}

/// Each connection sends, waits for the same bytes, and sends again: as many as both sides manage.
fn echo(connections: usize, address: SocketAddr) -> Result<Load> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let core = LOAD_CORE;
    // On a thread of its own, so that it alone moves to that core.
    let client = std::thread::spawn(move || -> Result<(Vec<u64>, u64)> {
        pin_this_thread(core)?;
        Ok(runtime.block_on(ping_all(connections, address)))
    });
    let (mut times_us, errors) = client.join().map_err(|_| anyhow::anyhow!("the echo client broke"))??;
    ensure!(!times_us.is_empty(), "no echo came back through {address}");
    times_us.sort_unstable();
    let p99 = times_us[(times_us.len() - 1) * 99 / 100];
    Ok(Load {
        per_second: times_us.len() as f64 / SECONDS as f64,
        p99_ms: p99 as f64 / 1e3,
        errors,
    })
}

async fn ping_all(connections: usize, address: SocketAddr) -> (Vec<u64>, u64) {
    let until = Instant::now() + Duration::from_secs(SECONDS);
    let tasks: Vec<_> = (0..connections).map(|_| tokio::spawn(ping(address, until))).collect();
    let (mut all, mut errors) = (Vec::new(), 0);
    for task in tasks {
        match task.await {
            Ok((times, None)) => all.extend(times),
            Ok((times, Some(_))) => {
                all.extend(times);
                errors += 1;
            }
            Err(_) => errors += 1,
        }
    }
    (all, errors)
}

async fn ping(address: SocketAddr, until: Instant) -> (Vec<u64>, Option<std::io::Error>) {
    let mut times = Vec::new();
    let pings = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sent, mut back) = ([7; ECHO_BYTES], [0; ECHO_BYTES]);
        while Instant::now() < until {
            let begun = Instant::now();
            stream.write_all(&sent).await?;
            stream.read_exact(&mut back).await?;
            times.push(begun.elapsed().as_micros() as u64);
        }
        Ok(())
    };
    // A lost echo must not hold the measurement up.
    let bounded = tokio::time::timeout_at((until + Duration::from_secs(2)).into(), pings).await;
    let error = match bounded {
        Ok(result) => result.err(),
        Err(late) => Some(late.into()),
    };
    (times, error)
}

fn pin_this_thread(core: usize) -> Result<()> {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores).with_context(|| format!("failed to move to core {core}"))
}

struct HaProxy {
    child: Child,
    fronts: [SocketAddr; 3],
}

impl HaProxy {
    /// On the same backends as ours.
    fn start(rig: &Rig) -> Result<Self> {
        let status = rig.status()?;
        let backend = |service: &str| -> Result<String> {
            let instances = &rig::service(&status, service)?.instances;
            let address = instances.first().and_then(|instance| instance.address.clone());
            address.with_context(|| format!("`{service}` has no instance with an address"))
        };
        let fronts = [rig::free_address()?, rig::free_address()?, rig::free_address()?];
        let backends = [backend("http")?, backend("tcp")?, backend("echo")?];
        let path = write_config(rig.folder(), &fronts, &backends)?;
        let child = Command::new("taskset")
            .args(["-c", &PROXY_CORE.to_string(), "haproxy", "-db", "-f"])
            .arg(&path)
            .env("PATH", path_with_sbin())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .context("failed to run taskset and haproxy (Debian: util-linux, haproxy)")?;
        let haproxy = Self { child, fronts };
        let begun = Instant::now();
        while TcpStream::connect(fronts[2]).is_err() {
            ensure!(
                begun.elapsed() < Duration::from_secs(10),
                "haproxy does not listen on {}",
                fronts[2]
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(haproxy)
    }

    fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        self.end();
    }
}

fn write_config(folder: &Path, fronts: &[SocketAddr; 3], backends: &[String; 3]) -> Result<PathBuf> {
    let [http, tcp, echo] = fronts;
    let [to_http, to_tcp, to_echo] = backends;
    let text = format!(
        "global\n  nbthread 1\n  maxconn 5000\n\
         defaults\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  backlog 4096\n\
         listen http\n  mode http\n  option http-keep-alive\n  http-reuse always\n  bind {http}\n  server one {to_http}\n\
         listen tcp\n  mode tcp\n  bind {tcp}\n  server one {to_tcp}\n\
         listen echo\n  mode tcp\n  bind {echo}\n  server one {to_echo}\n"
    );
    let path = folder.join("haproxy.cfg");
    std::fs::write(&path, text)?;
    Ok(path)
}

/// These are where a user's PATH may not reach.
fn version(command: &str) -> String {
    first_line(
        "sh",
        &["-c", &format!("PATH=$PATH:/usr/sbin:/usr/local/sbin; {command}")],
    )
}

fn path_with_sbin() -> String {
    format!(
        "{}:/usr/sbin:/usr/local/sbin",
        std::env::var("PATH").unwrap_or_default()
    )
}

fn row(case: &Case, both: &[Vec<Measured>; 2]) -> Vec<String> {
    let sample = |side: usize, value: fn(&Measured) -> f64| -> Sample { both[side].iter().map(value).collect() };
    let errors = |side: usize| both[side].iter().map(|one| one.errors).sum::<u64>();
    let [rate, haproxy_rate] = [0, 1].map(|side| sample(side, |one| one.per_second));
    let [p99, haproxy_p99] = [0, 1].map(|side| sample(side, |one| one.p99_ms));
    let [cpu, haproxy_cpu] = [0, 1].map(|side| sample(side, |one| one.cpu_us).median());
    let [busy, haproxy_busy] = [0, 1].map(|side| 100.0 * sample(side, |one| one.busy).median());
    vec![
        case.name.to_owned(),
        case.connections.to_string(),
        spread(&rate, 0),
        spread(&haproxy_rate, 0),
        format!("**{:.2}**", rate.median() / haproxy_rate.median()),
        spread(&p99, 2),
        spread(&haproxy_p99, 2),
        format!("**{:.2}**", p99.median() / haproxy_p99.median()),
        format!("{cpu:.1}"),
        format!("{haproxy_cpu:.1}"),
        format!("{busy:.0} % / {haproxy_busy:.0} %"),
        format!("{} / {}", errors(0), errors(1)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_prints_is_understood() {
        let said = "\
Running 5s test @ http://127.0.0.1:8080/
  1 threads and 50 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.45ms  200.00us   5.12ms   80.00%
  Latency Distribution
     50%    1.40ms
     75%    1.60ms
     90%    1.80ms
     99%    2.50ms
  171234 requests in 5.00s, 30.00MB read
  Socket errors: connect 1, read 2, write 0, timeout 4
  Non-2xx or 3xx responses: 5
Requests/sec:  34246.80
Transfer/sec:      6.00MB
";
        let load = parse_wrk(said).unwrap();
        assert_eq!((load.per_second, load.p99_ms, load.errors), (34246.8, 2.5, 12));
        let clean: String = said
            .lines()
            .filter(|line| !line.contains("rrors") && !line.contains("Non-"))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(parse_wrk(&clean).unwrap().errors, 0);
        assert!(parse_wrk("unable to connect").is_none());
        assert_eq!(
            [wrk_ms("850.00us"), wrk_ms("1.02s"), wrk_ms("x")],
            [Some(0.85), Some(1020.0), None]
        );
    }
}
