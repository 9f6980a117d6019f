//! A member lets a machine in: the other half of `cluster join`.

use crate::error::Error;
use crate::place::now;
use crate::records::{Joining, decode, encode, joining_key, member_key, sealed, token_key};
use crate::renew::{authorities, lifetime, no_keys, note_issue, revoked, settings_value};
use crate::token::trust;
use crate::{Place, check};
use api::record::Member;
use identity::{Bundle, JoinRecord, JoinRequest, JoinToken, Presented, Purpose, Registrar, Tls, redeem};
use model::WallTime;
use store::{Compare, Op, Store, Txn};

/// A join is through, or was given up, within this: catching up with the store has two minutes.
const JOIN_MS_MAX: i64 = 600_000;

/// What a joiner gets.
pub type Admitted = Bundle;

/// Redeems the token of a request and signs its keys. The token is used up before anything is signed.
pub async fn admit(place: &Place, store: &dyn Store, request: &JoinRequest) -> Result<Admitted, Error> {
    let at = now();
    if let Some(theirs) = request.now {
        let address = std::net::SocketAddr::new(place.node.host, place.node.agent_port);
        check::clocks(theirs.0, at.0, &address.to_string())?;
    }
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
        // A machine without etcd asks to be a worker; where etcd is not ours to run, it need not have it.
        role: request.role.filter(|_| place.node.store.member.is_some()),
        requests: &request.requests(),
    };
    let redeemed = redeem(trust.cluster, record.as_ref(), &presented, at)?;
    let folder = place.folder()?;
    let authorities = authorities(&folder, &trust);
    let issuing = authorities
        .iter()
        .find(|authority| authority.certs().generation == trust.issues())
        .ok_or_else(no_keys)?;
    if let Some(write) = &redeemed.write {
        let revision = found.map(|(_, revision)| revision).unwrap_or_default();
        let seal = issuing.seal(Purpose::Join, &key, write)?;
        let txn = reserve(store, request, at)
            .await?
            .when(Compare::modified(&*key, revision))
            .then(Op::put(&*key, encode(&key, &seal)?));
        if !store.txn(txn).await?.succeeded {
            return Err(Error::Unsafe {
                what: "this join token, or the name of the node, is being used by another machine at this moment"
                    .into(),
                hint: "make a token for each machine: `understudy cluster token`".into(),
            });
        }
    }
    let revoked = revoked(store, &trust, &authorities).await?;
    let profile = settings_value(place)?;
    let registrar = Registrar {
        authorities: &authorities,
        trust: &trust,
        revoked: &revoked,
        endpoints: &place.node.store.endpoints,
        profile: &profile,
        lifetime: lifetime(Tls::load(&folder)?.own().as_ref()),
    };
    let bundle = registrar.enrol(&request.node, redeemed.role, request, at)?;
    note_issue(store, &request.node, &bundle, at).await?;
    Ok(bundle)
}

/// Two nodes must not have one name, nor two machines that join at once. A name is free again when its node was removed, and a machine
/// whose join was cut off may come again.
async fn reserve(store: &dyn Store, request: &JoinRequest, at: WallTime) -> Result<Txn, Error> {
    let member = member_key(&request.node);
    if let Some(entry) = store.get(&member).await? {
        let member: Member = decode(&member, &entry.value)?;
        return Err(Error::NameTaken {
            node: request.node.clone(),
            joined: shown(member.joined),
        });
    }
    let key = joining_key(&request.node);
    let unchanged = match store.get(&key).await? {
        Some(entry) => {
            let before: Joining = decode(&key, &entry.value)?;
            if before.hosts != request.hosts && at.0 - before.at.0 < JOIN_MS_MAX {
                return Err(Error::Unsafe {
                    what: format!(
                        "the machine at {} is joining as node `{}` since {}",
                        before.hosts.join(", "),
                        request.node,
                        shown(before.at)
                    ),
                    hint: "choose another name with --node; if that join was given up, wait ten minutes".into(),
                });
            }
            Compare::modified(&*key, entry.modified)
        }
        None => Compare::absent(&*key),
    };
    let joining = Joining {
        hosts: request.hosts.clone(),
        at,
    };
    Ok(Txn::new()
        .when(Compare::absent(&*member))
        .when(unchanged)
        .then(Op::put(&*key, encode(&key, &joining)?)))
}

pub(crate) fn shown(at: model::WallTime) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| "some time ago".into(), |at| format!("{at:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::Keys;
    use model::NodeName;

    #[tokio::test]
    async fn two_machines_that_join_at_once_do_not_get_one_name() {
        let store = store::Memory::default();
        let request = |host: &str| {
            let name = NodeName::new("b").expect("a name");
            let keys = Keys::generate().expect("keys");
            keys.request(None, &name, None, &[host.to_owned()]).expect("a request")
        };
        let at = |minutes: i64| WallTime(1_800_000_000_000 + minutes * 60_000);
        let first = reserve(&store, &request("10.0.0.2"), at(0)).await.expect("reserved");
        let second = reserve(&store, &request("10.0.0.3"), at(0))
            .await
            .expect("nobody has it yet");
        assert!(store.txn(first).await.expect("a store").succeeded);
        assert!(!store.txn(second).await.expect("a store").succeeded, "one of the two");
        let refused = reserve(&store, &request("10.0.0.3"), at(9)).await.expect_err("refused");
        assert!(
            refused.to_string().contains("10.0.0.2 is joining as node `b`"),
            "{refused}"
        );
        // The same machine may come again, and another one when the first has given up.
        reserve(&store, &request("10.0.0.2"), at(1))
            .await
            .expect("the same machine");
        reserve(&store, &request("10.0.0.3"), at(10))
            .await
            .expect("after ten minutes");
    }
}
