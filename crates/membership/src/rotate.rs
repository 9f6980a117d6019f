//! The authority is replaced: what each node reports, who is next, and whose etcd may be restarted now. The phases themselves are
//! decided in [`identity::rotation`].

use crate::error::Error;
use crate::place::now;
use crate::records::{REVOKED, TRUST, decode, encode, members, sealed};
use crate::renew::{authorities, issued_by, no_keys};
use crate::token::trust;
use crate::{Place, connect};
use identity::rotation::{Next, Phase, Progress, TrustRecord, Waiting};
use identity::{Authority, NodeRole, Purpose, RevocationList};
use model::{NodeName, Revision};
use std::collections::BTreeMap;
use store::{Compare, Op, Store, Txn};

/// How far each node is with the replacement.
const PROGRESS: &str = "identity/progress/";
/// Whose etcd is being restarted: one at a time.
const RESTARTING: &str = "identity/restarting";

/// Begins to replace the authority. The agents do the rest; `cluster status` says how far they are.
pub async fn rotate(place: &Place) -> Result<TrustRecord, Error> {
    let store = connect(place).await?;
    let (record, revision, folder) = current(place, &store).await?;
    let old = Authority::load(&folder, record.issues()).map_err(|_| no_keys())?;
    let new = old.successor(now())?;
    let begun = record.begin(&new).map_err(refused)?;
    // The keys are here before anybody is told of them.
    new.save(&folder)?;
    if !write(&store, &begun, &old, revision).await? {
        Authority::remove(&folder, new.certs().generation)?;
        return Err(changed());
    }
    Ok(begun)
}

/// Gives the replacement up.
pub async fn abort_rotation(place: &Place) -> Result<TrustRecord, Error> {
    let store = connect(place).await?;
    let (record, revision, folder) = current(place, &store).await?;
    let back = record.abort().map_err(refused)?;
    let old = Authority::load(&folder, back.sealed_by()).map_err(|_| no_keys())?;
    match write(&store, &back, &old, revision).await? {
        true => Ok(back),
        false => Err(changed()),
    }
}

async fn current(place: &Place, store: &etcd::Etcd) -> Result<(TrustRecord, Revision, identity::Folder), Error> {
    let record = trust(place, store).await?;
    let revision = match sealed(store, TRUST).await? {
        Some((_, revision)) => revision,
        None => Revision(0),
    };
    Ok((record, revision, place.folder()?))
}

async fn write(store: &dyn Store, record: &TrustRecord, by: &Authority, unless: Revision) -> Result<bool, Error> {
    let seal = by.seal(Purpose::Trust, TRUST, record)?;
    let txn = Txn::new()
        .when(Compare::modified(TRUST, unless))
        .then(Op::put(TRUST, encode(TRUST, &seal)?));
    Ok(store.txn(txn).await?.succeeded)
}

fn refused(error: identity::rotation::Error) -> Error {
    Error::Unsafe {
        what: error.to_string(),
        hint: "`understudy cluster status` shows how far a replacement is".into(),
    }
}

fn changed() -> Error {
    Error::Unsafe {
        what: "somebody else changed the trusted authorities at this moment".into(),
        hint: "look at `understudy cluster status`, then try again".into(),
    }
}

/// What a node's agent reports of itself.
pub fn progress_of(place: &Place, trust: &TrustRecord, role: NodeRole, etcd: Option<u64>) -> Result<Progress, Error> {
    let folder = place.folder()?;
    let trusts = trust.version;
    let keys = authorities(&folder, trust);
    let newest = keys.iter().map(|authority| authority.certs().generation).max();
    Ok(Progress {
        role,
        trusts,
        // Whoever runs the store restarts it.
        store_trusts: match &place.node.store.member {
            Some(_) => etcd,
            None => role.votes().then_some(trusts),
        },
        keys_of: role.has_authority().then(|| newest.unwrap_or(0)),
        issued_by: issued_by(&folder, trust)?,
    })
}

/// Writes it down.
pub async fn note_progress(store: &dyn Store, node: &NodeName, progress: &Progress) -> Result<(), Error> {
    let key = format!("{PROGRESS}{node}");
    store
        .txn(Txn::new().then(Op::put(&*key, encode(&key, progress)?)))
        .await?;
    Ok(())
}

/// How far all nodes are. One that has reported nothing has done nothing.
pub(crate) async fn progress(store: &dyn Store) -> Result<BTreeMap<NodeName, Progress>, Error> {
    let mut all = BTreeMap::new();
    for (name, member) in members(store).await? {
        let role = match (member.runs_services, member.votes) {
            (false, _) => NodeRole::Witness,
            (true, true) => NodeRole::Member,
            (true, false) => NodeRole::Worker,
        };
        let key = format!("{PROGRESS}{name}");
        let found = match store.get(&key).await? {
            Some(entry) => decode(&key, &entry.value)?,
            None => Progress {
                role,
                trusts: 0,
                store_trusts: None,
                keys_of: None,
                issued_by: 0,
            },
        };
        all.insert(name, found);
    }
    Ok(all)
}

/// Goes on to the next phase if all nodes are ready; says whom it waits for otherwise.
pub async fn advance(place: &Place, store: &dyn Store, record: &TrustRecord) -> Result<Vec<Waiting>, Error> {
    if matches!(record.phase, Phase::Steady { .. }) {
        return Ok(Vec::new());
    }
    let next = match record.next(&progress(store).await?) {
        Next::Nothing => return Ok(Vec::new()),
        Next::Wait(waiting) => return Ok(waiting),
        Next::Write(next) => next,
    };
    let folder = place.folder()?;
    let Some((seal, revision)) = sealed(store, TRUST).await? else {
        return Ok(Vec::new());
    };
    let found: TrustRecord = seal.open(record, Purpose::Trust, TRUST)?;
    if found.version != record.version {
        return Ok(Vec::new());
    }
    let held = authorities(&folder, record);
    let by = |generation: u32| {
        held.iter()
            .find(|authority| authority.certs().generation == generation)
            .ok_or_else(no_keys)
    };
    let last = matches!(next.phase, Phase::Steady { .. });
    if last {
        // What the old one sealed would not be believed any more.
        reseal_revoked(store, record, by(next.issues())?).await?;
    }
    if write(store, &next, by(next.sealed_by())?, revision).await? {
        tracing::info!(version = next.version, "the replacement of the authority goes on");
    }
    Ok(Vec::new())
}

async fn reseal_revoked(store: &dyn Store, record: &TrustRecord, new: &Authority) -> Result<(), Error> {
    let Some((seal, revision)) = sealed(store, REVOKED).await? else {
        return Ok(());
    };
    if seal.generation == new.certs().generation {
        return Ok(());
    }
    let mut revoked: RevocationList = seal.open(record, Purpose::Revocation, REVOKED)?;
    revoked.version += 1;
    revoked.for_store(new, now())?;
    let seal = new.seal(Purpose::Revocation, REVOKED, &revoked)?;
    let txn = Txn::new()
        .when(Compare::modified(REVOKED, revision))
        .then(Op::put(REVOKED, encode(REVOKED, &seal)?));
    match store.txn(txn).await?.succeeded {
        true => Ok(()),
        false => Err(changed()),
    }
}

/// Takes the turn to restart the own etcd. Only one node has it; whoever has it keeps it until [`leave_turn`], also over a restart
/// of its agent.
pub async fn take_turn(store: &dyn Store, node: &NodeName) -> Result<bool, Error> {
    let txn = Txn::new()
        .when(Compare::absent(RESTARTING))
        .then(Op::put(RESTARTING, node.as_str()))
        .otherwise(Op::get(RESTARTING));
    let result = store.txn(txn).await?;
    let mut holder = result.reads.into_iter().flatten();
    Ok(result.succeeded
        || holder
            .next()
            .is_some_and(|entry| entry.value == node.as_str().as_bytes()))
}

/// Leaves it to the next one.
pub async fn leave_turn(store: &dyn Store, node: &NodeName) -> Result<(), Error> {
    if let Some(entry) = store.get(RESTARTING).await?
        && entry.value == node.as_str().as_bytes()
    {
        let txn = Txn::new()
            .when(Compare::modified(RESTARTING, entry.modified))
            .then(Op::delete(RESTARTING));
        store.txn(txn).await?;
    }
    Ok(())
}

/// What a node that was taken out leaves behind here.
pub(crate) async fn forget(store: &dyn Store, node: &NodeName) -> Result<(), Error> {
    leave_turn(store, node).await?;
    store
        .txn(Txn::new().then(Op::delete(format!("{PROGRESS}{node}"))))
        .await?;
    Ok(())
}
