//! Counts in a store as fast as it can and prints each number once it is acknowledged: to be killed while it does.
//!
//! `commit_counter STORE`: continues above the number in the store, three writers at once, each transaction writing two keys.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use store::{Embedded, Op, Options, Store, Txn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: commit_counter STORE")?;
    let store = Arc::new(Embedded::open(
        Path::new(&path),
        &Options {
            history: 200,
            ..Options::default()
        },
    )?);
    let mut writers = Vec::new();
    for writer in 0..3 {
        writers.push(tokio::spawn(count(Arc::clone(&store), writer)));
    }
    for writer in writers {
        writer.await??;
    }
    Ok(())
}

async fn count(store: Arc<Embedded>, writer: u32) -> Result<(), store::Error> {
    let (left, right) = (format!("left/{writer}"), format!("right/{writer}"));
    let before = store.get(&left).await?;
    let mut number: u64 = before
        .and_then(|entry| String::from_utf8_lossy(&entry.value).trim().parse().ok())
        .unwrap_or(0);
    loop {
        number += 1;
        // The two differ in length, so that they lie apart in the file.
        let txn = Txn::new()
            .then(Op::put(&left, number.to_string()))
            .then(Op::put(&right, format!("{number:>3000}")));
        store.txn(txn).await?;
        // One write, so that a line is there whole or not at all.
        let line = format!("{writer} {number}\n");
        if std::io::stdout().write_all(line.as_bytes()).is_err() {
            return Ok(());
        }
    }
}
