//! Whether a node still belongs to the cluster that it knows, and whether one that was left behind goes on beside it. Asked of agents, over TLS in
//! which they prove who they are: whoever was removed gets no answer of the store any more, and two stores say nothing of each other.
//!
//! ```text
//!   a node that its store does not answer ──► agents of the voters it knows ──► "you were removed", "it went on without you"
//!   a node that went on alone ──► agents of those it left behind ──► "I run, with the store of before"
//! ```
//! Nothing is decided by what is heard: it is told to people.

use crate::Place;
use crate::call::post;
use crate::error::Error;
use crate::records::{REVOKED, decode, members, sealed};
use crate::remove::LEFT_BEHIND;
use crate::renew::known_revoked;
use api::record::{self, Member, Meta};
use identity::{Expect, IssueId, Peer, Purpose, RevocationList, Tls};
use model::{NodeName, WallTime};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use store::Store;

/// Who runs says so within this time, also over a slow network.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// Whoever asks waits no longer: a store without a majority does not answer.
const STORE_ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// What a node asks that does not know whether it still belongs to the cluster. It shows no certificate, for one that was revoked ends the
/// handshake.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ask {
    /// Who asks.
    pub node: NodeName,
    /// The issue of its certificates.
    pub issue: IssueId,
}

/// What it is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Standing {
    /// The generation of epochs of who answers.
    pub generation: u32,
    /// Whether its store answers it.
    pub decides: bool,
    /// Why who asks is none of its cluster's nodes, if it is none.
    pub out: Option<Out>,
}

/// A node is none of the cluster's any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Out {
    /// Since when.
    pub at: WallTime,
    /// By `recover` or `restore` elsewhere, and not by `remove`.
    pub left_behind: bool,
}

/// What a node heard of how it stands.
#[derive(Debug, Default)]
pub struct Around {
    /// It is none of the cluster's nodes any more.
    pub out: Option<Told>,
    /// Nodes that were left behind, and run with the store of before.
    pub others: Vec<Other>,
    /// Addresses of before at which nodes of this cluster are: they have joined anew.
    pub joined: Vec<String>,
}

/// That a node is out, and who said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What is so.
    pub out: Out,
    /// Who said it, and its generation; nobody if this node read it itself.
    pub by: Option<(NodeName, u32)>,
}

/// A node with the store of before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// Which.
    pub node: NodeName,
    /// Its generation.
    pub generation: u32,
    /// Whether its store answers it.
    pub decides: bool,
}

impl Out {
    fn of(revoked: &RevocationList, peer: &Peer) -> Option<Self> {
        revoked.revoked(peer).map(Self::from)
    }

    fn from(entry: &identity::Revocation) -> Self {
        Self {
            at: entry.at,
            left_behind: entry.reason == LEFT_BEHIND,
        }
    }
}

impl Told {
    /// What is so, in plain words.
    pub fn text(&self, node: &NodeName) -> String {
        let at = crate::admit::shown(self.out.at);
        match (&self.by, self.out.left_behind) {
            (Some((by, generation)), true) => format!(
                "node {node} was left behind at {at}: node {by} went on without it, as generation {generation} of this cluster. What this node \
                 knows is the store of before, and if that decides, two clusters go on beside each other, with actives of their own"
            ),
            (None, true) => format!("node {node} was left behind at {at}: the cluster went on without it"),
            (_, false) => {
                format!(
                    "node {node} was removed from the cluster at {at}: it is none of its nodes any more, and gets nothing done"
                )
            }
        }
    }

    /// The way out.
    pub fn hint(&self, place: &Place) -> String {
        let folder = place.layout.root().display();
        match (&self.by, self.out.left_behind) {
            (Some((by, _)), true) => format!(
                "only one of both may go on. To stop this one: `understudy down --etcd --force` here and on each node that goes on with it, \
                 `mv {folder} ~/`, then `understudy cluster join` with a token that `understudy cluster token` makes on {by}"
            ),
            _ => format!(
                "`understudy down --etcd` here ends what is left; to come back, `mv {folder} ~/`, then `understudy cluster join` with a token \
                 that `understudy cluster token` makes on a node of the cluster"
            ),
        }
    }
}

impl Other {
    /// What is so, in plain words.
    pub fn text(&self) -> String {
        let how = match self.decides {
            true => "and that store decides: two clusters go on beside each other, with actives of their own",
            false => "which decides nothing at present; what runs there goes on as each service's policy says",
        };
        format!(
            "node {} was left behind when this side went on, and runs with the store of before (generation {}), {how}",
            self.node, self.generation
        )
    }

    /// The way out.
    pub fn hint(&self, place: &Place) -> String {
        format!(
            "only one of both may go on. To stop that one: `understudy down --etcd --force` on {}, `mv {} ~/` there, then \
             `understudy cluster join` with a token that `understudy cluster token` makes here",
            self.node,
            place.layout.root().display()
        )
    }
}

/// The answer to a node that asks how it stands, by the store, or by what is known without it.
pub async fn standing(place: &Place, store: &dyn Store, ask: &Ask) -> Result<Standing, Error> {
    let by_store = async {
        let meta = store.get(record::META).await?;
        let meta: Option<Meta> = meta.map(|entry| decode(record::META, &entry.value)).transpose()?;
        let generation = meta.map_or(place.node.generation, |meta| meta.generation);
        let revoked = revoked(place, store).await?;
        let member = members(store).await?.iter().any(|(name, _)| *name == ask.node);
        Ok::<_, Error>((generation, revoked, member))
    };
    let (generation, decides, revoked, member) = match tokio::time::timeout(STORE_ANSWERS_WITHIN, by_store).await {
        Ok(Ok((generation, revoked, member))) => (generation, true, revoked, member),
        // Whether it has joined anew since says the store alone.
        _ => (place.node.generation, false, known_revoked(&place.folder()?)?, true),
    };
    // A node with the authority's keys may have made itself others since: those are known by nothing but its name.
    let by_name = || revoked.nodes.get(&ask.node).filter(|_| !member);
    let entry = revoked.issues.get(&ask.issue).or_else(by_name);
    Ok(Standing {
        generation,
        decides,
        out: entry.map(Out::from),
    })
}

/// Asks around how this node stands: those it left behind, and if there is `doubt` whether it is one of them itself, all voters it knows of.
pub async fn look_around(place: &Place, store: Option<&dyn Store>, doubt: bool) -> Result<Around, Error> {
    let tls = Tls::load(&place.folder()?)?;
    let Some(own) = tls.own() else {
        return Ok(Around::default());
    };
    let left: BTreeSet<&String> = place.node.left_behind.iter().collect();
    let voters = place
        .node
        .store
        .endpoints
        .iter()
        .filter(|_| doubt && place.store_is_ours());
    let urls: BTreeSet<&String> = voters.chain(left.iter().copied()).collect();
    let me = SocketAddr::new(place.node.host, place.node.agent_port);
    let ask = Ask {
        node: place.node.node.clone(),
        issue: own.issue,
    };
    // Judged below: who was left behind is not believed, and is heard all the same.
    let unjudged = Tls::new(tls.trusted(), RevocationList::default()).map_err(identity::ConfigError::from)?;
    let mut asking = Vec::new();
    for url in urls {
        let Some(address) = agent_of(url).filter(|address| *address != me) else {
            continue;
        };
        let (config, ask, url) = (unjudged.client_config(Expect::AnyNode)?, ask.clone(), url.clone());
        asking.push(tokio::spawn(async move {
            let (at, name) = (address.to_string(), ServerName::from(address.ip()));
            let asked = post::<_, Standing>(&at, config, name, "/v1/standing", &ask);
            let (standing, peer) = tokio::time::timeout(ANSWERS_WITHIN, asked).await.ok()?.ok()?;
            Some((url, peer?, standing))
        }));
    }
    let mut heard = Vec::new();
    for asked in asking {
        heard.extend(asked.await.ok().flatten());
    }
    let of_now = match store {
        Some(store) => tokio::time::timeout(STORE_ANSWERS_WITHIN, members(store)).await,
        None => Ok(Ok(Vec::new())),
    };
    let of_now = of_now.ok().and_then(Result::ok).unwrap_or_default();
    let mut around = Around::default();
    for (url, peer, standing) in heard {
        let Some((node, role)) = peer.node() else { continue };
        let believed = tls.still_allowed(&peer);
        if !left.contains(&url) {
            // By the keys that it has, a member could make us believe anything; nobody else is believed.
            if believed
                && role.has_authority()
                && let Some(out) = standing.out
            {
                let by = Some((node.clone(), standing.generation));
                around.out.get_or_insert(Told { out, by });
            }
            continue;
        }
        let ip = agent_of(&url).map(|address| address.ip());
        let is_of_now = |(name, member): &(NodeName, Member)| name == node && Some(member.host) == ip;
        if believed && of_now.iter().any(is_of_now) {
            around.joined.push(url);
        } else if !believed || !of_now.is_empty() {
            around.others.push(Other {
                node: node.clone(),
                generation: standing.generation,
                decides: standing.decides,
            });
        }
    }
    Ok(around)
}

/// The ports of a node are three in a row: that of its agent, and those of etcd for clients and for members.
fn agent_of(url: &str) -> Option<SocketAddr> {
    let client: SocketAddr = url.split_once("://")?.1.parse().ok()?;
    Some(SocketAddr::new(client.ip(), client.port().checked_sub(1)?))
}

impl Place {
    /// That it is none of the cluster's nodes any more, if it heard that.
    pub fn taken_out(&self) -> Result<Option<Told>, Error> {
        let folder = self.folder()?;
        let own = Tls::load(&folder)?.own();
        let out = own.and_then(|own| Some((known_revoked(&folder).ok()?, own)));
        let out = out.and_then(|(revoked, own)| Out::of(&revoked, &own));
        Ok(out.map(|out| Told { out, by: None }))
    }

    /// Likewise as the store says it, which may be some moments earlier.
    pub async fn taken_out_by(&self, store: &dyn Store) -> Result<Option<Told>, Error> {
        let Some(own) = Tls::load(&self.folder()?)?.own() else {
            return Ok(None);
        };
        let out = Out::of(&revoked(self, store).await?, &own);
        Ok(out.map(|out| Told { out, by: None }))
    }
}

async fn revoked(place: &Place, store: &dyn Store) -> Result<RevocationList, Error> {
    let trusted = Tls::load(&place.folder()?)?.trusted();
    match sealed(store, REVOKED).await? {
        Some((seal, _)) => Ok(seal.open(&trusted, Purpose::Revocation, REVOKED)?),
        None => Ok(RevocationList::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_found_one_port_below_its_member_of_the_store() {
        let agent = |url| agent_of(url).map(|address| address.to_string());
        assert_eq!(agent("https://10.0.0.5:7461").as_deref(), Some("10.0.0.5:7460"));
        assert_eq!(agent("https://[fd00::5]:7461").as_deref(), Some("[fd00::5]:7460"));
        assert_eq!(agent("https://store.example:2379"), None, "an etcd that is not ours");
    }
}
