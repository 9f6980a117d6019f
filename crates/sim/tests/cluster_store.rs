//! The model of the store does what the store's own twin in memory does.

use fastrand::Rng;
use model::Revision;
use sim::cluster::store as modelled;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use store::{Memory, Store};

/// The twin in memory answers at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the store in memory does not answer at once"),
    }
}

#[test]
fn random_transactions_come_to_the_same() {
    for seed in 0..50 {
        let rng = &mut Rng::with_seed(seed);
        let memory = Memory::default();
        let mut model: modelled::Model<String, Vec<u8>> = modelled::Model::new(10_000);
        let mut revisions = vec![Revision(0)];
        for step in 0..300_u64 {
            let key = |rng: &mut Rng| format!("k{}", rng.u8(0..6));
            let revision = |rng: &mut Rng| revisions[rng.usize(0..revisions.len())];
            let (mut real, mut ours) = (store::Txn::new(), modelled::Txn::new());
            for _ in 0..rng.u32(0..3) {
                let (key, is) = (key(rng), revision(rng));
                if rng.bool() {
                    real = real.when(store::Compare::created(&*key, is));
                    ours = ours.when(modelled::Compare::Created(key, is));
                } else {
                    real = real.when(store::Compare::modified(&*key, is));
                    ours = ours.when(modelled::Compare::Modified(key, is));
                }
            }
            let mut written = Vec::new();
            for _ in 0..rng.u32(0..4) {
                let key = key(rng);
                // No key is written twice in one branch.
                let op = if written.contains(&key) { 2 } else { rng.u32(0..3) };
                if op < 2 {
                    written.push(key.clone());
                }
                let value = step.to_le_bytes().to_vec();
                real = real.then(match op {
                    0 => store::Op::put(&*key, value.clone()),
                    1 => store::Op::delete(&*key),
                    _ => store::Op::get(&*key),
                });
                ours = ours.then(match op {
                    0 => modelled::Op::Put(key, Rc::new(value)),
                    1 => modelled::Op::Delete(key),
                    _ => modelled::Op::Get(key),
                });
            }
            let read = key(rng);
            real = real.otherwise(store::Op::get(&*read));
            ours = ours.otherwise(modelled::Op::Get(read));
            let real = now(memory.txn(real)).unwrap();
            let (ours, changes) = model.txn(&ours);
            assert_eq!(real.succeeded, ours.succeeded, "seed {seed}, step {step}");
            assert_eq!(real.revision, ours.revision, "seed {seed}, step {step}");
            let found = |entry: &store::Entry| (entry.key.clone(), entry.value.clone(), entry.create, entry.modified);
            let real: Vec<_> = real.reads.iter().map(|read| read.as_ref().map(found)).collect();
            let found = |entry: &modelled::Entry<String, Vec<u8>>| {
                (
                    entry.key.clone(),
                    Vec::clone(&entry.value),
                    entry.create,
                    entry.modified,
                )
            };
            let ours: Vec<_> = ours.reads.iter().map(|read| read.as_ref().map(found)).collect();
            assert_eq!(real, ours, "seed {seed}, step {step}");
            revisions.extend(changes.map(|changes| changes.revision));
        }
        let (listed, revision) = now(memory.list("")).unwrap();
        assert_eq!(revision, model.revision());
        let ours: Vec<_> = model
            .entries()
            .map(|entry| (entry.key.clone(), entry.create, entry.modified))
            .collect();
        let real: Vec<_> = listed
            .iter()
            .map(|entry| (entry.key.clone(), entry.create, entry.modified))
            .collect();
        assert_eq!(real, ours, "seed {seed}");
    }
}
