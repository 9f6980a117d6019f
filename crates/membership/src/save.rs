//! Backups, and the two ways back: from a backup, and from the one member that is left.

use crate::error::Error;
use crate::init::etcd_up;
use crate::place::server_config;
use crate::records::{REVOKED, TRUST, decode, encode, sealed};
use crate::renew::{authorities, known_revoked, no_keys};
use crate::{Place, Progress, connect, etcd_options};
use api::record::{self, Meta};
use etcd::server::backup::{Description, snapshot, verify};
use etcd::server::restore::{Old, force_new_cluster, restore as restore_etcd};
use etcd::server::{PATIENCE, Server};
use identity::rotation::TrustRecord;
use identity::{Purpose, RevocationList, Tls};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use store::{Op, Store, Txn};

/// A machine that is on says so within this time, also over a slow network.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// A backup that was written, or put back.
#[derive(Debug, Clone)]
pub struct Saved {
    /// What it is.
    pub description: Description,
    /// Where the data before it are kept, if there were any.
    pub kept: Option<PathBuf>,
}

/// Writes all that the cluster knows to `file`, and its description beside it.
pub async fn backup(place: &Place, file: &Path) -> Result<Saved, Error> {
    let store = connect(place).await?;
    let meta = store.get(record::META).await?;
    let meta: Option<Meta> = meta.map(|entry| decode(record::META, &entry.value)).transpose()?;
    let meta = serde_json::json!({ "cluster": place.node.cluster, "meta": meta });
    let own = place
        .node
        .store
        .member
        .as_ref()
        .map(|member| format!("https://{}", member.client));
    let endpoint = own
        .or_else(|| place.node.store.endpoints.first().cloned())
        .unwrap_or_default();
    let description = snapshot(store.client(), &endpoint, file, meta).await?;
    Ok(Saved {
        description,
        kept: None,
    })
}

/// Puts a backup back as the store of this node alone. The agent must not run. The others join anew.
pub async fn restore(place: &mut Place, file: &Path, tell: Progress<'_>) -> Result<Saved, Error> {
    let config = own_etcd(place)?;
    tell("checking the backup");
    must_be_ours(place, file)?;
    tell("looking whether the others are off");
    let others = must_be_alone(place).await?;
    tell("stopping etcd");
    stop(&config).await?;
    tell("putting the backup back");
    let restored = restore_etcd(file, &config, Old::MoveAside)
        .await
        .map_err(|error| Error::Backup {
            path: file.into(),
            what: crate::call::chain(&error),
        })?;
    let _server = Server::start(config).await?;
    alone(place, others, tell).await?;
    Ok(Saved {
        description: restored.description,
        kept: restored.kept,
    })
}

/// Stops the member of the store that this node runs: politely, so that it hands its leadership over. It starts with the next agent.
pub async fn stop_etcd(place: &Place) -> Result<(), Error> {
    stop(&own_etcd(place)?).await
}

/// A backup that is whole, and of this cluster: looked at before anything is stopped.
fn must_be_ours(place: &Place, file: &Path) -> Result<(), Error> {
    let no = |what: String| Error::Backup {
        path: file.into(),
        what,
    };
    let description = verify(file).map_err(|error| no(format!("{}; {}", crate::call::chain(&error), error.hint())))?;
    let of = &description.meta["meta"]["cluster_id"];
    match of.as_str() {
        Some(of) if of == place.node.cluster_id => Ok(()),
        Some(of) => Err(no(format!(
            "it is of cluster {of}, this node belongs to {}",
            place.node.cluster_id
        ))),
        None => Err(no("it does not say of which cluster it is".into())),
    }
}

/// Members of the store that run elsewhere would go on as the cluster that they are, beside this one: two of everything. Told is where they are,
/// also those who joined so lately that `node.json` does not have them yet.
async fn must_be_alone(place: &Place) -> Result<BTreeSet<String>, Error> {
    let own = place.node.store.member.as_ref().map(|member| member.client.to_string());
    let client = etcd::Client::new(etcd_options(&place.node, &place.layout)?)?;
    // Our own member knows the others, also without a majority; those of before are known without it.
    let voters = match tokio::time::timeout(ANSWERS_WITHIN, client.admin().members(true)).await {
        Ok(Ok(voters)) => voters,
        _ => Vec::new(),
    };
    let urls = voters.iter().flat_map(|voter| &voter.client_urls);
    let others: BTreeSet<String> = urls
        .chain(&place.node.store.endpoints)
        .chain(&place.node.left_behind)
        .filter_map(|url| Some(url.split_once("://")?.1.to_owned()))
        .filter(|address| own.as_ref() != Some(address))
        .collect();
    let asking = others.clone().into_iter().map(|address| {
        tokio::spawn(async move {
            let connecting = tokio::net::TcpStream::connect(&address);
            let connected = tokio::time::timeout(ANSWERS_WITHIN, connecting).await;
            connected.is_ok_and(|stream| stream.is_ok()).then_some(address)
        })
    });
    let mut running = Vec::new();
    for asked in asking.collect::<Vec<_>>() {
        running.extend(asked.await.ok().flatten());
    }
    if running.is_empty() {
        return Ok(others);
    }
    Err(Error::Unsafe {
        what: format!(
            "the store of another machine runs still, and answers at {}: it would go on beside this one, with actives of its own",
            running.join(" and ")
        ),
        hint: "end it there with `understudy down --etcd --force`, or switch that machine off; if it is none of this cluster's any more, take its \
               address out of `node.json`. Nothing was changed here"
            .into(),
    })
}

/// Makes this node the only one that votes. The agent must not run. What the lost machines acknowledged last is lost.
pub async fn recover_quorum(place: &mut Place, tell: Progress<'_>) -> Result<PathBuf, Error> {
    let config = own_etcd(place)?;
    tell("looking whether the others are off");
    let others = must_be_alone(place).await?;
    tell("stopping etcd");
    stop(&config).await?;
    tell("forgetting the other members");
    let (_server, kept) = force_new_cluster(config).await.map_err(|error| Error::Unsafe {
        what: crate::call::chain(&error),
        hint: error.hint().unwrap_or_else(|| "nothing was changed".into()),
    })?;
    alone(place, others, tell).await?;
    Ok(kept)
}

fn own_etcd(place: &Place) -> Result<etcd::server::Config, Error> {
    server_config(&place.node, &place.layout).ok_or_else(|| Error::Unsafe {
        what: "this node runs no member of the store".into(),
        hint: "do it on a node that does; or with the tools of whoever runs that etcd".into(),
    })
}

async fn stop(config: &etcd::server::Config) -> Result<(), Error> {
    if !config.has_data() {
        return Ok(());
    }
    let server = Server::start(config.clone()).await?;
    server.stop(PATIENCE).await.map_err(|error| Error::Unsafe {
        what: error.to_string(),
        hint: error.hint().into(),
    })?;
    Ok(())
}

/// The store goes on with this node alone: every epoch begins a new generation, nobody has a session, and the other nodes are none any
/// more before they join anew.
async fn alone(place: &mut Place, others: BTreeSet<String>, tell: Progress<'_>) -> Result<(), Error> {
    if let Some(member) = &place.node.store.member {
        place.node.store.endpoints = vec![format!("https://{}", member.client)];
        let url = |address: String| format!("https://{address}");
        place.node.left_behind = others.into_iter().map(url).collect();
    }
    let store = etcd_up(place).await?;
    tell("beginning a new generation");
    let entry = store.get(record::META).await?;
    let Some(entry) = entry else {
        return Err(Error::Unsafe {
            what: "the store has no record of a cluster".into(),
            hint: "it is of another prefix, or of nobody".into(),
        });
    };
    let meta: Meta = decode(record::META, &entry.value)?;
    if meta.cluster_id != place.node.cluster_id {
        return Err(Error::Unsafe {
            what: format!(
                "the store is of cluster {}, this node belongs to {}",
                meta.cluster_id, place.node.cluster_id
            ),
            hint: "take a backup of this cluster".into(),
        });
    }
    // A backup that is put back knows nothing of the generations since: no epoch is given twice.
    let meta = Meta {
        generation: meta.generation.max(place.node.generation) + 1,
        ..meta
    };
    place.node.generation = meta.generation;
    place.node.write(&place.layout.node())?;
    store
        .txn(Txn::new().then(Op::put(record::META, encode(record::META, &meta)?)))
        .await?;
    // Before who is trusted is sealed anew: to that list the others are added.
    keep_what_is_newer(place, &store).await?;
    let keep = crate::records::member_key(&place.node.node);
    tell("taking their certificates from the others");
    for (node, member) in crate::records::members(&store).await? {
        if node != place.node.node {
            // It may be switched on again, with the store of before: it is none of this cluster before it joins anew.
            crate::remove::finish(
                place,
                &store,
                &node,
                Some(member.host),
                false,
                crate::remove::LEFT_BEHIND,
            )
            .await?;
        }
    }
    for prefix in [
        record::MEMBERS,
        store::session::SESSIONS,
        store::session::THERE,
        record::ASKS,
        record::ANSWERS,
        record::CONTROLLER,
        record::WHOLE,
        record::LIVES,
    ] {
        for entry in store.list(prefix).await?.0 {
            if entry.key != keep {
                store.txn(Txn::new().then(Op::delete(entry.key))).await?;
            }
        }
    }
    place.node.write(&place.layout.node())?;
    Ok(())
}

/// Who is trusted and who is not does not go back with the store: nodes refuse older records than they know.
async fn keep_what_is_newer(place: &Place, store: &etcd::Etcd) -> Result<(), Error> {
    let folder = place.folder()?;
    let own = Tls::load(&folder)?.trusted();
    let authorities = authorities(&folder, &own);
    let by = |generation: u32| {
        authorities
            .iter()
            .find(|authority| authority.certs().generation == generation)
            .ok_or_else(no_keys)
    };
    let known = match sealed(store, TRUST).await? {
        Some((seal, _)) => seal.open::<TrustRecord>(&own, Purpose::Trust, TRUST).ok(),
        None => None,
    };
    if known.is_none_or(|known| known.version < own.version) {
        let seal = by(own.sealed_by())?.seal(Purpose::Trust, TRUST, &own)?;
        store
            .txn(Txn::new().then(Op::put(TRUST, encode(TRUST, &seal)?)))
            .await?;
    }
    let ours = known_revoked(&folder)?;
    let known = match sealed(store, REVOKED).await? {
        Some((seal, _)) => seal.open::<RevocationList>(&own, Purpose::Revocation, REVOKED).ok(),
        None => None,
    };
    if known.is_none_or(|known| known.version < ours.version) {
        let seal = by(own.issues())?.seal(Purpose::Revocation, REVOKED, &ours)?;
        store
            .txn(Txn::new().then(Op::put(REVOKED, encode(REVOKED, &seal)?)))
            .await?;
    }
    Ok(())
}
