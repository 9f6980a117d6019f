//! What a durable compare-and-swap costs, beside what the disk asks for at least.
//!
//! `commit_latency [FOLDER] [TIMES]`: run it with `--release`, on the disk in question.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::{Compare, Embedded, Op, Options, Store, Txn};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| ".".into());
    let times: usize = arguments.next().map_or(Ok(2_000), |times| times.parse())?;
    // In a folder of its own, which goes away with it.
    let folder = tempfile::tempdir_in(folder)?;
    println!(
        "{:<44} {:>9} {:>9} {:>9}  ms",
        format!("{times} times"),
        "p50",
        "p99",
        "max"
    );
    report("raw: write 4 KiB, fdatasync", raw(folder.path(), times)?);
    let store = Arc::new(Embedded::open(&folder.path().join("store.redb"), &Options::default())?);
    report("durable compare-and-swap, 256 bytes", swaps(&store, times).await?);
    let before = store.commits();
    report(
        "the same, 100 at once, until its own answer",
        claims(&store, times.div_ceil(100)).await?,
    );
    let rounds = times.div_ceil(100) as f64;
    println!(
        "commits for each hundred at once: {:.1}",
        (store.commits() - before) as f64 / rounds
    );
    Ok(())
}

fn raw(folder: &Path, times: usize) -> Outcome<Vec<Duration>> {
    const PAGES: usize = 64;
    let file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(folder.join("raw"))?;
    // Written once before, as the pages of a store are.
    file.write_all_at(&[0; 4096 * PAGES], 0)?;
    file.sync_all()?;
    let mut spans = Vec::with_capacity(times);
    for n in 0..times {
        let start = Instant::now();
        file.write_all_at(&[n as u8; 4096], (n % PAGES * 4096) as u64)?;
        file.sync_data()?;
        spans.push(start.elapsed());
    }
    Ok(spans)
}

async fn swaps(store: &Embedded, times: usize) -> Outcome<Vec<Duration>> {
    let mut seen = store.txn(Txn::new().then(Op::put("swap", ""))).await?.revision;
    let mut spans = Vec::with_capacity(times);
    for n in 0..times {
        let txn = Txn::new()
            .when(Compare::modified("swap", seen))
            .then(Op::put("swap", vec![n as u8; 256]));
        let start = Instant::now();
        let result = store.txn(txn).await?;
        spans.push(start.elapsed());
        if !result.succeeded {
            return Err("somebody else wrote to the store".into());
        }
        seen = result.revision;
    }
    Ok(spans)
}

async fn claims(store: &Arc<Embedded>, rounds: usize) -> Outcome<Vec<Duration>> {
    let mut spans = Vec::new();
    for round in 0..rounds {
        let mut waiting = Vec::new();
        for n in 0..100 {
            let store = Arc::clone(store);
            let key = format!("claim/{round}/{n}");
            waiting.push(tokio::spawn(async move {
                let start = Instant::now();
                let txn = Txn::new().when(Compare::absent(&key)).then(Op::put(&key, vec![n; 256]));
                store.txn(txn).await.map(|_| start.elapsed())
            }));
        }
        for claim in waiting {
            spans.push(claim.await??);
        }
    }
    Ok(spans)
}

fn report(what: &str, mut spans: Vec<Duration>) {
    spans.sort();
    let at = |share: f64| spans[((spans.len() - 1) as f64 * share) as usize].as_secs_f64() * 1_000.0;
    println!("{what:<44} {:>9.3} {:>9.3} {:>9.3}", at(0.5), at(0.99), at(1.0));
}
