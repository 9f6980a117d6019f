//! A store that keeps nothing, has the same semantics, and fails on demand.

use crate::shared::Shared;
use crate::state::State;
use crate::txn::check_key;
use crate::{BoxFuture, Entry, Error, Store, Txn, TxnResult, Watch};
use model::Revision;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

/// How many revisions are kept for watches if nothing else is said.
const HISTORY: usize = 10_000;

/// For tests and the simulator. Clones are the same store.
#[derive(Debug, Clone)]
pub struct Memory {
    shared: Arc<Shared>,
    history: usize,
    faults: Arc<Mutex<VecDeque<Fault>>>,
}

/// What becomes of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// None.
    Pass,
    /// It is not carried out, and the caller is told so.
    Refuse,
    /// It is carried out, and the caller is not told.
    UnknownDone,
    /// It is not carried out, and the caller is not told.
    UnknownNotDone,
    /// It is carried out when its future was polled this many times more.
    Delay {
        /// How many times.
        polls: u32,
    },
}

impl Default for Memory {
    fn default() -> Self {
        Self::with_history(HISTORY)
    }
}

impl Memory {
    /// An empty one that keeps at least `history` revisions for watches, and at most a tenth more.
    pub fn with_history(history: usize) -> Self {
        Self {
            shared: Shared::new(State::default()),
            history,
            faults: Arc::default(),
        }
    }

    /// Adds to the faults, of which each coming transaction takes one, in order.
    pub fn inject(&self, fault: Fault) {
        self.faults().push_back(fault);
    }

    fn faults(&self) -> std::sync::MutexGuard<'_, VecDeque<Fault>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry_out(&self, txn: &Txn) -> TxnResult {
        self.shared.update(|inner| {
            let mut plan = inner.state.plan([txn]);
            let trim = inner.state.trim(&plan.steps, self.history);
            inner.state.publish(plan.steps, trim);
            plan.results.remove(0)
        })
    }
}

impl Store for Memory {
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, Error>> {
        Box::pin(async move {
            txn.validate()?;
            let fault = self.faults().pop_front().unwrap_or(Fault::Pass);
            match fault {
                Fault::Pass => Ok(self.carry_out(&txn)),
                Fault::Refuse => Err(Error::Unavailable {
                    reason: "injected".into(),
                }),
                Fault::UnknownDone => {
                    self.carry_out(&txn);
                    Err(Error::Unknown {
                        reason: "injected".into(),
                    })
                }
                Fault::UnknownNotDone => Err(Error::Unknown {
                    reason: "injected".into(),
                }),
                Fault::Delay { polls } => {
                    after_polls(polls).await;
                    Ok(self.carry_out(&txn))
                }
            }
        })
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, Error>> {
        Box::pin(async move {
            check_key(key)?;
            self.shared.get(key)
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<(Vec<Entry>, Revision), Error>> {
        Box::pin(async move { self.shared.list(prefix) })
    }

    fn watch<'a>(&'a self, prefix: &'a str, from: Revision) -> BoxFuture<'a, Result<Watch, Error>> {
        Box::pin(async move { self.shared.watch(prefix, from) })
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, Error>> {
        Box::pin(async move { self.shared.revision() })
    }
}

async fn after_polls(mut polls: u32) {
    std::future::poll_fn(|context| {
        if polls == 0 {
            return Poll::Ready(());
        }
        polls -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compare, Op, conformance};

    #[tokio::test]
    async fn conforms() {
        conformance::check(conformance::Subject::new(200, || Arc::new(Memory::with_history(200)))).await;
    }

    #[tokio::test]
    async fn each_transaction_takes_one_fault() {
        let store = Memory::default();
        let claim = |by: &str| Txn::new().when(Compare::absent("slot")).then(Op::put("slot", by));
        for fault in [
            Fault::Refuse,
            Fault::UnknownNotDone,
            Fault::UnknownDone,
            Fault::Delay { polls: 3 },
        ] {
            store.inject(fault);
        }

        assert!(matches!(store.txn(claim("a")).await, Err(Error::Unavailable { .. })));
        assert!(matches!(store.txn(claim("b")).await, Err(Error::Unknown { .. })));
        assert_eq!(store.get("slot").await.unwrap(), None);
        assert!(matches!(store.txn(claim("c")).await, Err(Error::Unknown { .. })));
        assert_eq!(store.get("slot").await.unwrap().unwrap().value, b"c");

        let mut late = store.txn(Txn::new().then(Op::put("slot", "d")));
        for _ in 0..3 {
            let polled = std::future::poll_fn(|context| Poll::Ready(late.as_mut().poll(context))).await;
            assert!(polled.is_pending());
            assert_eq!(store.get("slot").await.unwrap().unwrap().value, b"c");
        }
        late.await.unwrap();
        assert_eq!(store.get("slot").await.unwrap().unwrap().value, b"d");
    }
}
