//! What every implementation of [`Store`] must do, as a suite that runs against any of them.
//!
//! A [`Subject`] makes stores; [`check`] runs everything and panics at the first thing that is not as it should be,
//! naming it. Nothing here assumes that a store is empty, or at which revision it begins.

mod sessions;
mod txns;
mod watches;

use crate::{BoxFuture, Entry, Op, Store, Txn, TxnResult};
use model::Revision;
use std::sync::Arc;

/// The suite watches this far back.
pub const HISTORY_MIN: usize = 200;

/// What is tested.
pub struct Subject {
    history: usize,
    fresh: Box<dyn Fn() -> Arc<dyn Store>>,
    forget: Box<Forget>,
}

type Forget = dyn Fn(Revision) -> BoxFuture<'static, ()>;

impl Subject {
    /// Stores made by `fresh`, which keep at least `history` ([`HISTORY_MIN`] or more) revisions for watches, and not
    /// more than twice as many.
    pub fn new<S: Store>(history: usize, fresh: impl Fn() -> Arc<S> + 'static) -> Self {
        assert!(history >= HISTORY_MIN, "the suite watches {HISTORY_MIN} revisions back");
        Self {
            history,
            fresh: Box::new(move || fresh()),
            forget: Box::new(|_| Box::pin(async {})),
        }
    }

    /// For stores that do not forget by themselves after so many revisions: how they are told to keep those from this
    /// one on, and no others.
    #[must_use]
    pub fn forgetting(mut self, forget: impl Fn(Revision) -> BoxFuture<'static, ()> + 'static) -> Self {
        self.forget = Box::new(forget);
        self
    }

    fn fresh(&self) -> Arc<dyn Store> {
        (self.fresh)()
    }
}

/// Runs the whole suite. Needs a tokio runtime.
pub async fn check(subject: Subject) {
    txns::create_and_modified_revisions(subject.fresh()).await;
    txns::every_compare_is_exact(subject.fresh()).await;
    txns::all_compares_must_hold(subject.fresh()).await;
    txns::a_transaction_is_one_revision(subject.fresh()).await;
    txns::either_branch_reads_as_it_goes(subject.fresh()).await;
    txns::what_changes_nothing_has_no_revision(subject.fresh()).await;
    txns::a_key_written_again_is_a_new_one(subject.fresh()).await;
    txns::values_are_bytes(subject.fresh()).await;
    txns::bounds_are_kept(subject.fresh()).await;
    txns::prefixes_are_listed_in_order(subject.fresh()).await;
    txns::no_increment_is_lost(subject.fresh()).await;
    txns::only_one_of_many_claims_succeeds(subject.fresh()).await;
    watches::tell_the_past(subject.fresh()).await;
    watches::tell_each_revision_once_while_many_write(subject.fresh()).await;
    watches::tell_only_their_prefix(subject.fresh()).await;
    watches::tell_only_their_range(subject.fresh()).await;
    watches::may_be_dropped_half_way(subject.fresh()).await;
    watches::may_be_set_on_the_future(subject.fresh()).await;
    watches::say_when_history_is_gone(subject.fresh(), subject.history, &*subject.forget).await;
    sessions::are_opened_renewed_and_closed(subject.fresh()).await;
    sessions::end_only_on_their_ground(subject.fresh()).await;
    sessions::end_at_an_operators_word(subject.fresh()).await;
    sessions::no_renewal_commits_after_a_grave(subject.fresh()).await;
}

async fn put(store: &Arc<dyn Store>, key: &str, value: impl Into<Vec<u8>>) -> TxnResult {
    carry_out(store, Txn::new().then(Op::put(key, value))).await
}

async fn delete(store: &Arc<dyn Store>, key: &str) -> TxnResult {
    carry_out(store, Txn::new().then(Op::delete(key))).await
}

async fn carry_out(store: &Arc<dyn Store>, txn: Txn) -> TxnResult {
    store.txn(txn).await.expect("a valid transaction is answered")
}

async fn entry(store: &Arc<dyn Store>, key: &str) -> Option<Entry> {
    store.get(key).await.expect("a key is read")
}

async fn keys(store: &Arc<dyn Store>, prefix: &str) -> Vec<String> {
    let (entries, _) = store.list(prefix).await.expect("a prefix is listed");
    entries.into_iter().map(|entry| entry.key).collect()
}
