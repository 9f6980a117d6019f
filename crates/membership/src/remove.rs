//! A node leaves for good.

use crate::error::Error;
use crate::place::now;
use crate::records::{REVOKED, decode, encode, issued_key, member_key, members, sealed};
use crate::token::trust;
use crate::{Place, Progress, connect, etcd_options};
use api::record::{self, SlotState};
use etcd::server::cluster::Cluster;
use identity::{Authority, Issued, Purpose, RevocationList};
use model::NodeName;
use store::{Compare, Op, Store, Txn};

/// Takes a node out: its vote, its certificates, its record. Refuses what would stop the cluster or a service, unless `force`.
pub async fn remove(place: &Place, node: &NodeName, force: bool, tell: Progress<'_>) -> Result<(), Error> {
    let store = connect(place).await?;
    let all = members(&store).await?;
    let (_, member) = all
        .iter()
        .find(|(name, _)| name == node)
        .ok_or_else(|| Error::UnknownNode { node: node.clone() })?;
    let unsafe_to = |what: String, hint: &str| {
        Err(Error::Unsafe {
            what,
            hint: hint.into(),
        })
    };
    let session = store.get(&store::session::session_key(node)).await?;
    if !force {
        for entry in store.list(record::SLOTS).await?.0 {
            let slot: record::Slot = decode(&entry.key, &entry.value)?;
            if slot.state == SlotState::Held && slot.node == *node {
                let what = format!("node {node} holds {}", entry.key);
                return unsafe_to(what, "`understudy drain NODE` moves everything off it first");
            }
        }
    }
    if place.node.store.member.is_some() && member.votes {
        let mut voters = Cluster::new(etcd_options(&place.node, &place.layout)?).map_err(not_done)?;
        let statement = force.then_some(node.as_str());
        voters.remove(node.as_str(), statement).await.map_err(not_done)?;
        tell("it does not vote any more");
    }
    finish(place, &store, node, session.is_some()).await
}

fn not_done(error: etcd::server::cluster::Error) -> Error {
    Error::Unsafe {
        hint: error.hint().unwrap_or_else(|| "nothing was changed".into()),
        what: crate::call::chain(&error),
    }
}

async fn finish(place: &Place, store: &etcd::Etcd, node: &NodeName, had_session: bool) -> Result<(), Error> {
    let at = now();
    let trust = trust(place, store).await?;
    let authority = Authority::load(&place.folder()?, trust.issues())?;
    let key = issued_key(node);
    let issued: Issued = match store.get(&key).await? {
        Some(entry) => decode(&key, &entry.value)?,
        None => Issued::default(),
    };
    if let Some((seal, revision)) = sealed(store, REVOKED).await? {
        let mut revoked: RevocationList = seal.open(&trust, Purpose::Revocation, REVOKED)?;
        revoked.version += 1;
        revoked.revoke_node(node, &issued, "it was removed", at);
        revoked.for_store(&authority, at)?;
        let seal = authority.seal(Purpose::Revocation, REVOKED, &revoked)?;
        let txn = Txn::new()
            .when(Compare::modified(REVOKED, revision))
            .then(Op::put(REVOKED, encode(REVOKED, &seal)?));
        store.txn(txn).await?;
        identity::save_revoked(&place.folder()?, &revoked)?;
    }
    let mut txn = Txn::new().then(Op::delete(member_key(node))).then(Op::delete(key));
    for entry in store.list(record::INSTANCES).await?.0 {
        let instance: record::Instance = decode(&entry.key, &entry.value)?;
        if instance.node == *node && txn.then.len() < 100 {
            txn = txn.then(Op::delete(entry.key));
        }
    }
    if had_session {
        tracing::info!(%node, "its session ends by itself");
    }
    store.txn(txn).await?;
    Ok(())
}
