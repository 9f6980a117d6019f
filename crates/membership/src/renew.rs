//! A node's certificates are made anew before they end: a member signs for itself, the others ask one.

use crate::call::{ask_to_renew, chain};
use crate::error::Error;
use crate::place::now;
use crate::records::{REVOKED, Settings, decode, encode, issued_key, members, sealed};
use crate::{Access, Place};
use identity::rotation::TrustRecord;
use identity::{
    Authority, Bundle, CaCerts, Folder, Issued, JoinRequest, Keys, Lifetime, NODE_LIFETIME, Peer, Purpose, Registrar,
    RevocationList, Tls,
};
use model::{NodeName, WallTime};
use std::net::SocketAddr;
use std::time::Duration;
use store::{Compare, Op, Store, Txn};

/// Certificates begin this much before they are made (see [`identity`]).
const BACKDATED_MS: i64 = 3_600_000;
/// Two members that note an issue at once: the second one reads again.
const NOTES_MAX: usize = 5;

/// How long the certificates of this cluster are valid: as long as those of the member that signs. What `cluster init` was
/// told is so inherited, and no record of the store can make them longer.
pub(crate) fn lifetime(own: Option<&Peer>) -> Lifetime {
    let span = own.map(|own| own.not_after.0 - own.not_before.0 - BACKDATED_MS);
    let seconds = span.and_then(|span| u64::try_from((span + 500) / 1_000).ok());
    seconds
        .and_then(|seconds| Lifetime::new(Duration::from_secs(seconds)))
        .unwrap_or(NODE_LIFETIME)
}

/// Makes this node's certificates anew and writes them to its folder. A member that has the keys of the authority does it by itself, the
/// others ask the members, one after the other. `keys_of` is a generation of the authority whose keys have to come along.
pub async fn renew(place: &Place, store: &dyn Store, tls: &Tls, keys_of: Option<u32>) -> Result<Bundle, Error> {
    let folder = place.folder()?;
    let trust = tls.trusted();
    let own = tls.own().ok_or_else(no_certificate)?;
    let keys = Keys::renewed(&folder)?;
    let request = keys.request(None, &place.node.node, None, &[place.node.host.to_string()])?;
    let authorities = authorities(&folder, &trust);
    let has = |generation: u32| {
        authorities
            .iter()
            .any(|authority| authority.certs().generation == generation)
    };
    let bundle = if has(trust.issues()) && keys_of.is_none_or(has) {
        let revoked = revoked(store, &trust, &authorities).await?;
        sign(place, &trust, &revoked, &authorities, &own, &request, now())?
    } else {
        let mut tried = Vec::new();
        let mut got = None;
        for (name, address) in signers(store, &place.node.node).await? {
            match ask_to_renew(tls, &name, address, &request).await {
                // With them this node could not even ask another one any more.
                Ok(bundle) if bundle.begins().is_some_and(|begins| begins > now()) => tried.push(format!(
                    "{name}: what it signs is not valid yet by this node's clock; set the clocks of both right"
                )),
                Ok(bundle) if keys_of.is_none_or(|wanted| brings(&bundle, wanted)) => {
                    got = Some(bundle);
                    break;
                }
                Ok(_) => tried.push(format!("{name}: it does not have the new authority's keys itself yet")),
                Err(error) => tried.push(format!("{name}: {}", chain(&error))),
            }
        }
        got.ok_or(Error::NoMember { tried })?
    };
    bundle.check(&keys, &place.node.node, None)?;
    bundle.save(&folder, &keys)?;
    Ok(bundle)
}

/// The same before the store answers, which it may not without: etcd's own certificates end, too. Only for a member whose certificates
/// are due, have ended or are not valid yet; says whether they were renewed. The issue is noted when the store answers.
pub fn renew_alone(place: &Place) -> Result<bool, Error> {
    let folder = place.folder()?;
    let tls = Tls::load(&folder)?;
    let own = tls.own().ok_or_else(no_certificate)?;
    if matches!(
        identity::renewal::Plan::of(&own).standing(now()),
        identity::renewal::Standing::Fresh { .. }
    ) {
        return Ok(false);
    }
    let trust = tls.trusted();
    let authorities = authorities(&folder, &trust);
    if !authorities
        .iter()
        .any(|authority| authority.certs().generation == trust.issues())
    {
        return Ok(false);
    }
    let keys = Keys::renewed(&folder)?;
    let request = keys.request(None, &place.node.node, None, &[place.node.host.to_string()])?;
    let revoked: RevocationList = known_revoked(&folder)?;
    let bundle = sign(place, &trust, &revoked, &authorities, &own, &request, now())?;
    bundle.check(&keys, &place.node.node, None)?;
    bundle.save(&folder, &keys)?;
    Ok(true)
}

/// A member renews another node's certificates; `peer` is what the connection proved.
pub async fn renew_for(
    place: &Place,
    store: &dyn Store,
    tls: &Tls,
    peer: &Peer,
    request: &JoinRequest,
) -> Result<Bundle, Error> {
    let trust = tls.trusted();
    let authorities = authorities(&place.folder()?, &trust);
    let revoked = revoked(store, &trust, &authorities).await?;
    let bundle = sign(place, &trust, &revoked, &authorities, peer, request, now())?;
    note_issue(store, &bundle.node, &bundle, now()).await?;
    Ok(bundle)
}

/// Notes what was issued to a node, so that all of it can be revoked.
pub(crate) async fn note_issue(store: &dyn Store, node: &NodeName, bundle: &Bundle, at: WallTime) -> Result<(), Error> {
    note(store, node, |issued| {
        issued.add(bundle.certificates.issue, bundle.certificates.not_after, at);
    })
    .await
}

/// Notes the certificates that this node shows, if that was not done: they were made while the store did not answer.
pub async fn note_own(store: &dyn Store, node: &NodeName, own: &Peer) -> Result<(), Error> {
    note(store, node, |issued| issued.add(own.issue, own.not_after, now())).await
}

async fn note(store: &dyn Store, node: &NodeName, change: impl Fn(&mut Issued)) -> Result<(), Error> {
    let key = issued_key(node);
    for _ in 0..NOTES_MAX {
        let entry = store.get(&key).await?;
        let before: Issued = match &entry {
            Some(entry) => decode(&key, &entry.value)?,
            None => Issued::default(),
        };
        let mut issued = before.clone();
        change(&mut issued);
        if entry.is_some() && issued == before {
            return Ok(());
        }
        let unchanged = match &entry {
            Some(entry) => Compare::modified(&*key, entry.modified),
            None => Compare::absent(&*key),
        };
        let txn = Txn::new().when(unchanged).then(Op::put(&*key, encode(&key, &issued)?));
        if store.txn(txn).await?.succeeded {
            return Ok(());
        }
    }
    Err(Error::Unsafe {
        what: format!("what was issued to node {node} could not be noted: others write the same record"),
        hint: "try again in a moment".into(),
    })
}

/// The authorities whose keys this node has, of those that are trusted.
pub(crate) fn authorities(folder: &Folder, trust: &TrustRecord) -> Vec<Authority> {
    let load = |certs: &CaCerts| {
        let authority = Authority::load(folder, certs.generation).ok()?;
        // A replacement that was given up leaves keys of the same number behind.
        (authority.certs() == certs).then_some(authority)
    };
    trust.authorities().filter_map(load).collect()
}

/// The newest of the trusted authorities, if this node lacks its keys.
pub fn lacks_keys_of(folder: &Folder, trust: &TrustRecord) -> Option<u32> {
    let newest = trust.authorities().map(|certs| certs.generation).max()?;
    let has = authorities(folder, trust)
        .iter()
        .any(|authority| authority.certs().generation == newest);
    (!has).then_some(newest)
}

/// Removes the keys of authorities that are not trusted any more.
pub fn forget_old_keys(folder: &Folder, trust: &TrustRecord) -> Result<(), Error> {
    let oldest = trust.authorities().map(|certs| certs.generation).min().unwrap_or(0);
    for name in folder.names()? {
        let number = name
            .strip_prefix("authority-")
            .and_then(|rest| rest.strip_suffix(".pem"));
        if let Some(number) = number.and_then(|number| number.parse::<u32>().ok())
            && number < oldest
        {
            Authority::remove(folder, number)?;
        }
    }
    Ok(())
}

/// The generation of the authority that issued the certificates in the folder; 0 if that is none of those trusted.
pub fn issued_by(folder: &Folder, trust: &TrustRecord) -> Result<u32, Error> {
    let text = folder.read_secret("node.pem")?;
    let of = trust
        .authorities()
        .find(|certs| text.reveal().contains(certs.cluster_pem.trim()));
    Ok(of.map_or(0, |certs| certs.generation))
}

fn sign(
    place: &Place,
    trust: &TrustRecord,
    revoked: &RevocationList,
    authorities: &[Authority],
    peer: &Peer,
    request: &JoinRequest,
    at: WallTime,
) -> Result<Bundle, Error> {
    let own = Tls::load(&place.folder()?)?.own();
    let profile = settings_value(place)?;
    let registrar = Registrar {
        authorities,
        trust,
        revoked,
        endpoints: &place.node.store.endpoints,
        profile: &profile,
        lifetime: lifetime(own.as_ref()),
    };
    Ok(registrar.renew(peer, request, at)?)
}

pub(crate) fn settings_value(place: &Place) -> Result<serde_json::Value, Error> {
    let settings = Settings {
        cluster: place.node.cluster.clone(),
        cluster_id: place.node.cluster_id.clone(),
        profile: place.node.profile,
        because: place.node.because.clone(),
        timing: place.node.timing,
        prefix: place.node.store.prefix.clone(),
        managed: place.node.store.member.is_some(),
        access: Access::of(place)?,
        now_ms: now().0,
        by: place.node.node.clone(),
    };
    serde_json::to_value(&settings).map_err(|source| Error::Record {
        key: "settings".into(),
        source,
    })
}

pub(crate) async fn revoked(
    store: &dyn Store,
    trust: &TrustRecord,
    authorities: &[Authority],
) -> Result<RevocationList, Error> {
    match sealed(store, REVOKED).await? {
        Some((seal, _)) => Ok(seal.open(trust, Purpose::Revocation, REVOKED)?),
        None => {
            let issuing = authorities
                .iter()
                .find(|authority| authority.certs().generation == trust.issues());
            Ok(RevocationList::first(issuing.ok_or_else(no_keys)?, now())?)
        }
    }
}

pub(crate) fn known_revoked(folder: &Folder) -> Result<RevocationList, Error> {
    let text = folder.read_public("revoked.json")?;
    decode("revoked.json", text.as_bytes())
}

/// Members that sign, with the address of their agents.
async fn signers(store: &dyn Store, me: &NodeName) -> Result<Vec<(NodeName, SocketAddr)>, Error> {
    let others = members(store).await?.into_iter();
    Ok(others
        .filter(|(name, member)| name != me && member.runs_services)
        .map(|(name, member)| (name, SocketAddr::new(member.host, member.agent_port)))
        .collect())
}

fn brings(bundle: &Bundle, generation: u32) -> bool {
    bundle.authorities.iter().any(|secret| {
        Authority::from_secret(secret, "authority").is_ok_and(|found| found.certs().generation == generation)
    })
}

fn no_certificate() -> Error {
    Error::Unsafe {
        what: "this node has no certificate".into(),
        hint: "join again: `understudy cluster remove` on another node, then `understudy cluster join` here".into(),
    }
}

pub(crate) fn no_keys() -> Error {
    Error::Unsafe {
        what: "this node does not have the keys of the authority".into(),
        hint: "do it on a member that votes and runs services: witnesses and workers do not have them".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::{Enrolment, NodeRole};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    #[test]
    fn certificates_last_as_long_as_those_of_who_signs() {
        let issued = |seconds: u64| {
            let authority = Authority::create(now()).expect("an authority");
            let node = NodeName::new("a").expect("a name");
            let hosts = ["10.0.0.1".to_owned()];
            let request = Keys::generate()
                .and_then(|keys| keys.request(None, &node, None, &hosts))
                .expect("a request");
            let enrolment = Enrolment {
                node: &node,
                role: NodeRole::Worker,
                hosts: &hosts,
                node_csr: &request.node_csr,
                store_csr: &request.store_csr,
            };
            let lasts = Lifetime::new(Duration::from_secs(seconds)).expect("a lifetime");
            let made = authority.enrol(&enrolment, lasts, now()).expect("certificates");
            let der = CertificateDer::from_pem_slice(made.node_pem.as_bytes()).expect("PEM");
            Peer::of_certificate(&der).expect("a certificate of ours")
        };
        for seconds in [60, 180, 90 * 86_400] {
            let inherited = lifetime(Some(&issued(seconds))).duration().as_secs();
            assert_eq!(inherited, seconds);
        }
        assert_eq!(lifetime(None), NODE_LIFETIME);
    }
}
