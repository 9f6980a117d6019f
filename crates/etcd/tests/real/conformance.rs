//! The suite that every store passes.

use crate::rig::Recipe;
use etcd::{Class, Client, Etcd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use store::conformance::{HISTORY_MIN, Subject, check};

#[tokio::test]
async fn one_member_conforms() {
    conforms(1).await;
}

#[tokio::test]
async fn three_members_conform() {
    conforms(3).await;
}

async fn conforms(members: usize) {
    let cluster = Recipe::members(members).start();
    let store = cluster.store("").await;
    let client = store.client().clone();
    // No outcome may be unknown here, however busy the machine is.
    let patient = Class {
        attempt: Duration::from_secs(10),
        total: Duration::from_secs(20),
        hedge: false,
    };
    let number = AtomicU32::new(0);
    let options = cluster.options();
    let fresh = move || {
        let number = number.fetch_add(1, Ordering::Relaxed);
        let mut options = options.clone().prefix(format!("suite/{number}/"));
        (options.read, options.write) = (patient, patient);
        Arc::new(Etcd::new(options).expect("good options"))
    };
    check(Subject::new(HISTORY_MIN, fresh).forgetting(move |oldest| {
        let client: Client = client.clone();
        Box::pin(async move { client.admin().compact(oldest, true).await.expect("etcd compacts") })
    }))
    .await;
}
