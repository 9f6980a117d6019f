//! A node leaves for good.

use crate::error::Error;
use crate::place::now;
use crate::records::{REVOKED, decode, encode, issued_key, joining_key, member_key, members, sealed};
use crate::token::trust;
use crate::{Place, Progress, connect, etcd_options};
use api::record::{self, SlotState};
use etcd::server::cluster::{Cluster, Refusal};
use identity::{Authority, Issued, Purpose, RevocationList};
use model::NodeName;
use std::net::IpAddr;
use store::{Compare, Op, Store, Txn};

/// Operations in one transaction; etcd takes 128.
const OPS_MAX: usize = 100;
/// Others revoke at the same moment: then the list is read again.
const TRIES_MAX: usize = 5;

/// Why certificates are revoked: by `remove`, and by the ways back of a node that is left.
const REMOVED: &str = "it was removed";
pub(crate) const LEFT_BEHIND: &str = "the cluster went on without it";

/// Takes a node out: its vote, its certificates, its record. Refuses what would stop the cluster or a service, unless `force`.
pub async fn remove(place: &Place, node: &NodeName, force: bool, tell: Progress<'_>) -> Result<(), Error> {
    let store = connect(place).await?;
    let all = members(&store).await?;
    let member = all.iter().find(|(name, _)| name == node).map(|(_, member)| member);
    let joining = store.get(&joining_key(node)).await?.is_some();
    if member.is_none() && !joining {
        return Err(Error::UnknownNode { node: node.clone() });
    }
    let session = store.get(&store::session::session_key(node)).await?;
    if !force {
        for entry in store.list(record::SLOTS).await?.0 {
            let slot: record::Slot = decode(&entry.key, &entry.value)?;
            if slot.state == SlotState::Held && slot.node == *node {
                return Err(Error::Unsafe {
                    what: format!("node {node} holds {}", entry.key),
                    hint: format!("`understudy drain {node}` moves everything off it first"),
                });
            }
        }
    }
    if place.node.store.member.is_some() && member.is_none_or(|member| member.votes) {
        let mut voters = Cluster::new(etcd_options(&place.node, &place.layout)?)?;
        let statement = force.then_some(node.as_str());
        match voters
            .remove(node.as_str(), statement, &mut |progress| tell(&progress.to_string()))
            .await
        {
            Ok(_) => tell("it does not vote any more"),
            // A removal, or a join, that was cut off.
            Err(etcd::server::cluster::Error::Refused(Refusal::Unknown { .. })) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let host = member.map(|member| member.host);
    finish(place, &store, node, host, session.is_some(), REMOVED).await
}

/// Takes its certificates and its records from a node that does not vote any more.
pub(crate) async fn finish(
    place: &Place,
    store: &etcd::Etcd,
    node: &NodeName,
    host: Option<IpAddr>,
    had_session: bool,
    why: &str,
) -> Result<(), Error> {
    let at = now();
    let trust = trust(place, store).await?;
    let authority = Authority::load(&place.folder()?, trust.issues())?;
    let key = issued_key(node);
    let issued: Issued = match store.get(&key).await? {
        Some(entry) => decode(&key, &entry.value)?,
        None => Issued::default(),
    };
    for _ in 0..TRIES_MAX {
        let Some((seal, revision)) = sealed(store, REVOKED).await? else {
            break;
        };
        let mut revoked: RevocationList = seal.open(&trust, Purpose::Revocation, REVOKED)?;
        revoked.prune(at);
        revoked.revoke_node(node, &issued, why, at);
        if let Some(host) = host {
            revoked.was_at(node, host);
        }
        revoked.for_store(&authority, at)?;
        let seal = authority.seal(Purpose::Revocation, REVOKED, &revoked)?;
        let txn = Txn::new()
            .when(Compare::modified(REVOKED, revision))
            .then(Op::put(REVOKED, encode(REVOKED, &seal)?));
        if store.txn(txn).await?.succeeded {
            identity::save_revoked(&place.folder()?, &revoked)?;
            break;
        }
    }
    let mut instances = Vec::new();
    for entry in store.list(record::INSTANCES).await?.0 {
        let instance: record::Instance = decode(&entry.key, &entry.value)?;
        if instance.node == *node {
            instances.push(entry.key);
        }
    }
    for batch in instances.chunks(OPS_MAX) {
        let deletions = batch.iter().fold(Txn::new(), |txn, key| txn.then(Op::delete(&**key)));
        store.txn(deletions).await?;
    }
    if had_session {
        tracing::info!(%node, "its session ends by itself");
    }
    crate::rotate::forget(store, node).await?;
    let last = Txn::new()
        .then(Op::delete(member_key(node)))
        .then(Op::delete(joining_key(node)))
        .then(Op::delete(format!("{}{node}", record::NODES)))
        .then(Op::delete(format!("{}{node}", record::HARDWARE)))
        .then(Op::delete(key));
    store.txn(last).await?;
    Ok(())
}
