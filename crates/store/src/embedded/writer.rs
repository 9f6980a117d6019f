//! The one thread that writes: takes all that waits, makes it durable at once, answers.

use super::disk::Disk;
use crate::shared::Shared;
use crate::{Error, FileError, Txn, TxnResult};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot};

/// A transaction, found in bounds, and who waits for it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) txn: Txn,
    pub(super) reply: oneshot::Sender<Result<TxnResult, Error>>,
}

pub(super) struct Writer {
    disk: Disk,
    shared: Arc<Shared>,
    history: usize,
    commits: Arc<AtomicU64>,
}

/// Why transactions are not on disk, or may not be.
enum Failure {
    /// They are not.
    Refused(FileError),
    /// Nobody knows yet.
    Unsettled(String),
}

impl Writer {
    pub(super) fn new(disk: Disk, shared: Arc<Shared>, history: usize, commits: Arc<AtomicU64>) -> Self {
        Self {
            disk,
            shared,
            history,
            commits,
        }
    }

    /// Serves until nobody can ask any more.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut batch = Vec::with_capacity(super::QUEUE);
        while requests.blocking_recv_many(&mut batch, super::QUEUE) > 0 {
            self.serve(std::mem::take(&mut batch));
        }
    }

    fn serve(&mut self, batch: Vec<Request>) {
        if let Err(reason) = self.settle() {
            return answer(batch, &Error::Unsettled { reason });
        }
        match self.carry_out(&batch) {
            Ok(results) => {
                for (request, result) in batch.into_iter().zip(results) {
                    // Whoever asked may have gone; the transaction stands.
                    let _ = request.reply.send(Ok(result));
                }
            }
            // One that is too large for what room is left must not take its neighbours down.
            Err(Failure::Refused(_)) if batch.len() > 1 => {
                batch.into_iter().for_each(|request| self.serve(vec![request]));
            }
            Err(Failure::Refused(error)) => answer(batch, &Error::File(error)),
            Err(Failure::Unsettled(reason)) => answer(batch, &Error::Unknown { reason }),
        }
    }

    fn carry_out(&mut self, batch: &[Request]) -> Result<Vec<TxnResult>, Failure> {
        let (base, plan, trim) = {
            let inner = self.shared.read();
            let plan = inner.state.plan(batch.iter().map(|request| &request.txn));
            let trim = inner.state.trim(&plan.steps, self.history);
            (inner.state.revision, plan, trim)
        };
        let Some(last) = plan.steps.last().map(|step| step.revision) else {
            return Ok(plan.results);
        };
        if let Err(error) = self.disk.commit(&plan.steps, trim) {
            tracing::warn!(error = %error, "failed to write to the store, looking at what is in it");
            match self.disk.settle() {
                Ok(state) if state.revision == base => return Err(Failure::Refused(error)),
                Ok(state) if state.revision == last => {}
                Ok(state) => {
                    return Err(self.unsettled(format!("found revision {} in the file", state.revision)));
                }
                Err(settling) => {
                    return Err(self.unsettled(format!("{}; then {}", chain(&error), chain(&settling))));
                }
            }
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.shared.update(|inner| inner.state.publish(plan.steps, trim));
        Ok(plan.results)
    }

    fn unsettled(&self, reason: String) -> Failure {
        tracing::error!(reason, "whether the last write is in the store is unknown");
        self.shared.update(|inner| inner.unsettled = Some(reason.clone()));
        Failure::Unsettled(reason)
    }

    /// Finds out about an earlier write whose outcome is unknown, if there is one.
    fn settle(&mut self) -> Result<(), String> {
        if self.shared.read().unsettled.is_none() {
            return Ok(());
        }
        let state = self.disk.settle().map_err(|error| chain(&error))?;
        tracing::info!(revision = %state.revision, "the store is settled again");
        self.shared.update(|inner| {
            inner.state = state;
            inner.unsettled = None;
        });
        Ok(())
    }
}

fn answer(batch: Vec<Request>, error: &Error) {
    for request in batch {
        // Whoever asked may have gone.
        let _ = request.reply.send(Err(error.clone()));
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
