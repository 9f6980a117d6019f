//! Join tokens.

use crate::error::Error;
use crate::place::now;
use crate::records::{TRUST, encode, members, sealed, token_key};
use crate::{Place, connect};
use identity::rotation::TrustRecord;
use identity::{Authority, NodeRole, Purpose, Secret, mint_join_token};
use model::NodeName;
use std::net::SocketAddr;
use std::time::Duration;
use store::{Op, Store, Txn};

/// Makes a join token for one node. Only a member can: it has the authority's keys.
pub async fn mint(place: &Place, role: NodeRole, node: Option<NodeName>, lifetime: Duration) -> Result<Secret, Error> {
    let store = connect(place).await?;
    let trust = trust(place, &store).await?;
    let authority = Authority::load(&place.folder()?, trust.issues())?;
    let mut addresses = vec![SocketAddr::new(place.node.host, place.node.agent_port).to_string()];
    for (_, member) in members(&store).await? {
        let address = SocketAddr::new(member.host, member.agent_port).to_string();
        if member.votes && member.runs_services && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses.truncate(16);
    let (token, record) = mint_join_token(&authority, role, node, &addresses, lifetime, now())?;
    let key = token_key(&record.id);
    let seal = authority.seal(Purpose::Join, &key, &record)?;
    store.txn(Txn::new().then(Op::put(&*key, encode(&key, &seal)?))).await?;
    Ok(token.text())
}

/// The trusted authorities as the store has them, checked by those that this node trusts.
pub(crate) async fn trust(place: &Place, store: &dyn Store) -> Result<TrustRecord, Error> {
    let own = identity::Tls::load(&place.folder()?)?.trusted();
    match sealed(store, TRUST).await? {
        Some((seal, _)) => {
            let found: TrustRecord = seal.open(&own, Purpose::Trust, TRUST)?;
            Ok(if found.version >= own.version { found } else { own })
        }
        None => Ok(own),
    }
}
