//! A member lets a machine in: the other half of `cluster join`.

use crate::error::Error;
use crate::place::now;
use crate::records::{REVOKED, Settings, decode, encode, issued_key, member_key, sealed, token_key};
use crate::token::trust;
use crate::{Place, records};
use api::record::Member;
use identity::{
    Authority, Bundle, Issued, JoinRecord, JoinRequest, JoinToken, NODE_LIFETIME, Presented, Purpose, Registrar,
    RevocationList, redeem,
};
use store::{Compare, Op, Store, Txn};

/// What a joiner gets.
pub type Admitted = Bundle;

/// Redeems the token of a request and signs its keys. The token is used up before anything is signed.
pub async fn admit(place: &Place, store: &dyn Store, request: &JoinRequest) -> Result<Admitted, Error> {
    let at = now();
    let trust = trust(place, store).await?;
    let text = request
        .token
        .as_ref()
        .map(|token| token.reveal().to_owned())
        .unwrap_or_default();
    let token = JoinToken::parse(&text)?;
    let key = token_key(&token.id());
    let found = sealed(store, &key).await?;
    let record: Option<JoinRecord> = match &found {
        Some((seal, _)) => Some(seal.open(&trust, Purpose::Join, &key)?),
        None => None,
    };
    let presented = Presented {
        token: &token,
        node: &request.node,
        role: request.role,
        requests: &request.requests(),
    };
    let redeemed = redeem(trust.cluster, record.as_ref(), &presented, at)?;
    let folder = place.folder()?;
    let authorities: Vec<Authority> = trust
        .authorities()
        .filter_map(|certs| Authority::load(&folder, certs.generation).ok())
        .collect();
    let issuing = Authority::load(&folder, trust.issues())?;
    if let Some(write) = &redeemed.write {
        // Two nodes must not have one name. A name is free again when its node was removed.
        let member = member_key(&request.node);
        if let Some(entry) = store.get(&member).await? {
            let member: Member = decode(&member, &entry.value)?;
            return Err(Error::NameTaken {
                node: request.node.clone(),
                joined: shown(member.joined),
            });
        }
        let revision = found.map(|(_, revision)| revision).unwrap_or_default();
        let seal = issuing.seal(Purpose::Join, &key, write)?;
        let txn = Txn::new()
            .when(Compare::modified(&*key, revision))
            .then(Op::put(&*key, encode(&key, &seal)?));
        if !store.txn(txn).await?.succeeded {
            return Err(Error::Unsafe {
                what: "this join token is being used by another machine at this moment".into(),
                hint: "make a token for each machine: `understudy cluster token`".into(),
            });
        }
    }
    let revoked: RevocationList = match sealed(store, REVOKED).await? {
        Some((seal, _)) => seal.open(&trust, Purpose::Revocation, REVOKED)?,
        None => RevocationList::first(&issuing, at)?,
    };
    let settings = Settings {
        cluster: place.node.cluster.clone(),
        cluster_id: place.node.cluster_id.clone(),
        profile: place.node.profile,
        because: place.node.because.clone(),
        timing: place.node.timing,
        prefix: place.node.store.prefix.clone(),
        managed: place.node.store.member.is_some(),
        now_ms: at.0,
        by: place.node.node.clone(),
    };
    let profile = serde_json::to_value(&settings).map_err(|source| Error::Record {
        key: "settings".into(),
        source,
    })?;
    let registrar = Registrar {
        authorities: &authorities,
        trust: &trust,
        revoked: &revoked,
        endpoints: &place.node.store.endpoints,
        profile: &profile,
        lifetime: NODE_LIFETIME,
    };
    let bundle = registrar.enrol(&request.node, redeemed.role, request, at)?;
    note_issue(store, &request.node, &bundle, at).await?;
    Ok(bundle)
}

async fn note_issue(
    store: &dyn Store,
    node: &model::NodeName,
    bundle: &Bundle,
    at: model::WallTime,
) -> Result<(), Error> {
    let key = issued_key(node);
    let mut issued: Issued = match store.get(&key).await? {
        Some(entry) => records::decode(&key, &entry.value)?,
        None => Issued::default(),
    };
    issued.add(bundle.certificates.issue, bundle.certificates.not_after, at);
    store
        .txn(Txn::new().then(Op::put(&*key, encode(&key, &issued)?)))
        .await?;
    Ok(())
}

pub(crate) fn shown(at: model::WallTime) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| "some time ago".into(), |at| format!("{at:.0}"))
}
