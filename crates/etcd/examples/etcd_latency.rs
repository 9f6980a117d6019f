//! How long etcd takes, as we use it: three members on loopback, an fsync for each write.
//!
//! `cargo run -p understudy-etcd --example etcd_latency -- [TRIES]` prints put, compare-and-swap and watch delay, and the
//! time from a kill -9 of the leader to the next compare-and-swap that is done, for two timings of etcd.

use etcd::{Class, Etcd, Options};
use hdrhistogram::Histogram;
use model::Revision;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use store::{Compare, Error, Op, Store, Txn};

const ROUNDS: u64 = 2000;
const VALUE: [u8; 256] = [b'x'; 256];

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Outcome<()> {
    let tries: u32 = std::env::args().nth(1).map_or(Ok(10), |tries| tries.parse())?;
    for (heartbeat, election, attempt) in [(50, 500, 250), (20, 150, 100)] {
        let mut cluster = Cluster::start(heartbeat, election)?;
        let store = cluster.store(Duration::from_millis(attempt)).await?;
        println!("etcd {heartbeat}/{election} ms, deadline {attempt} ms");
        if heartbeat == 50 {
            let patient = Class {
                attempt: Duration::from_secs(5),
                total: Duration::from_secs(10),
                hedge: false,
            };
            latencies(&store.with_deadlines(patient, patient)).await?;
        }
        let mut gaps = Vec::new();
        for _ in 0..tries {
            gaps.push(cluster.kill_leader(&store).await?);
        }
        gaps.sort();
        println!("  gaps: {gaps:.0?}");
        let mean = gaps.iter().sum::<Duration>() / tries;
        println!(
            "  leader killed -> next CAS: mean {mean:.0?}, min {:.0?}, median {:.0?}, max {:.0?} of {tries}",
            gaps[0],
            gaps[gaps.len() / 2],
            gaps[gaps.len() - 1]
        );
    }
    Ok(())
}

async fn latencies(store: &Etcd) -> Outcome<()> {
    let mut put = Histogram::<u64>::new(3)?;
    for _ in 0..ROUNDS {
        let sent = Instant::now();
        store.txn(Txn::new().then(Op::put("put", VALUE))).await?;
        record(&mut put, sent)?;
    }
    let mut cas = Histogram::<u64>::new(3)?;
    let mut modified = Revision(0);
    for _ in 0..ROUNDS {
        let txn = Txn::new()
            .when(Compare::modified("cas", modified))
            .then(Op::put("cas", VALUE))
            .otherwise(Op::get("cas"));
        let sent = Instant::now();
        modified = store.txn(txn).await?.revision;
        record(&mut cas, sent)?;
    }
    let mut read = Histogram::<u64>::new(3)?;
    for _ in 0..ROUNDS {
        let sent = Instant::now();
        store.get("cas").await?;
        record(&mut read, sent)?;
    }
    let mut told = Histogram::<u64>::new(3)?;
    let mut watch = store.watch("watched", Revision(store.revision().await?.0 + 1)).await?;
    for _ in 0..ROUNDS {
        let sent = Instant::now();
        let (done, _) = tokio::join!(store.txn(Txn::new().then(Op::put("watched", VALUE))), async {
            let told_at = watch.next().await;
            record(&mut told, sent).map(|()| told_at)
        });
        done?;
    }
    println!("  one after the other, 256 bytes, ms:    p50    p99    max");
    for (name, histogram) in [
        ("put", put),
        ("CAS", cas),
        ("linearizable get", read),
        ("put -> watch", told),
    ] {
        let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1000.0;
        println!(
            "  {name:<35} {:>6.2} {:>6.2} {:>6.2}",
            ms(histogram.value_at_quantile(0.5)),
            ms(histogram.value_at_quantile(0.99)),
            ms(histogram.max())
        );
    }
    Ok(())
}

fn record(histogram: &mut Histogram<u64>, since: Instant) -> Outcome<()> {
    histogram.record(u64::try_from(since.elapsed().as_micros())?)?;
    Ok(())
}

struct Cluster {
    members: Vec<Option<Child>>,
    heartbeat: u32,
    election: u32,
    folder: tempfile::TempDir,
    host: String,
}

impl Cluster {
    fn start(heartbeat: u32, election: u32) -> Outcome<Self> {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let mut cluster = Self {
            members: vec![None, None, None],
            heartbeat,
            election,
            folder: tempfile::tempdir()?,
            host: format!("127.43.{high}.{low}"),
        };
        for index in 0..3 {
            cluster.spawn(index)?;
        }
        Ok(cluster)
    }

    fn url(&self, index: usize, peer: usize) -> String {
        format!(
            "http://{}:{}",
            self.host,
            2379 + self.election as usize + 2 * index + peer
        )
    }

    fn spawn(&mut self, index: usize) -> Outcome<()> {
        let (client, peer) = (self.url(index, 0), self.url(index, 1));
        let initial: Vec<_> = (0..3).map(|other| format!("m{other}={}", self.url(other, 1))).collect();
        let child = Command::new("etcd")
            .args(["--name", &format!("m{index}"), "--initial-cluster", &initial.join(",")])
            .arg("--data-dir")
            .arg(self.folder.path().join(format!("m{index}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--heartbeat-interval", &self.heartbeat.to_string(), "--pre-vote"])
            .args(["--election-timeout", &self.election.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.members[index] = Some(child.map_err(|error| format!("apt-get install etcd-server ({error})"))?);
        Ok(())
    }

    async fn store(&self, attempt: Duration) -> Outcome<Etcd> {
        let endpoints = (0..3).map(|index| self.url(index, 0));
        let store = Etcd::new(Options::new(endpoints).deadlines(attempt, Duration::from_secs(10)))?;
        store.revision().await?;
        self.whole(&store).await;
        Ok(store)
    }

    /// Kills the leader, and returns how long it was until a compare-and-swap was done.
    async fn kill_leader(&mut self, store: &Etcd) -> Outcome<Duration> {
        let leader = loop {
            let found = store.client().endpoints().iter().position(|endpoint| endpoint.leads);
            if let Some(found) = found {
                break found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        store.txn(Txn::new().then(Op::put("gap", "before"))).await?;
        if let Some(mut child) = self.members[leader].take() {
            child.kill()?;
            child.wait()?;
        }
        let killed = Instant::now();
        // As a takeover does it: the same transaction again, until it is known to be done.
        let urgent = store.with_deadlines(short(), short());
        let txn = Txn::new()
            .when(Compare::value("gap", "before"))
            .then(Op::put("gap", "after"))
            .otherwise(Op::get("gap"));
        loop {
            match urgent.txn(txn.clone()).await {
                Ok(_) => break,
                Err(Error::Unknown { .. } | Error::Unavailable { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let gap = killed.elapsed();
        self.spawn(leader)?;
        self.whole(store).await;
        Ok(gap)
    }

    /// Waits until all members follow one leader and have carried out the same, and a while longer.
    async fn whole(&self, store: &Etcd) {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let mut seen = Vec::new();
            for index in 0..3 {
                if let Ok(status) = store.client().admin().status(&self.url(index, 0)).await {
                    seen.push((status.leader, status.raft_applied));
                }
            }
            if seen.len() == 3 && seen[0].0.is_some() && seen.iter().all(|other| *other == seen[0]) {
                break;
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// 100 ms with each member, and back to the caller.
fn short() -> Class {
    Class {
        attempt: Duration::from_millis(100),
        total: Duration::ZERO,
        hedge: false,
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.members.iter_mut().flatten() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
