//! How the cluster itself stands: who votes, who leads, whether there is a majority. Works without one.

use crate::error::Error;
use crate::records::members;
use crate::{Place, etcd_options};
use model::{NodeName, Profile};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use store::Store;
use store::session::SESSIONS;

/// A member of the store that does not answer within this is not there.
const ASK: Duration = Duration::from_secs(2);

/// How the cluster itself stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this JSON.
    pub version: u32,
    /// Name of the cluster.
    pub cluster: String,
    /// Its id.
    pub cluster_id: String,
    /// This node.
    pub node: NodeName,
    /// The timing.
    pub profile: Profile,
    /// Why it was chosen.
    pub because: String,
    /// From the loss of a node to its slot being held elsewhere, at worst, in milliseconds; the promotion comes on top.
    pub node_loss_worst_ms: u64,
    /// Likewise if the store's leader is lost with it.
    pub node_loss_with_leader_worst_ms: u64,
    /// Whether the store answers.
    pub store_answers: bool,
    /// Members that answer, and members that are needed.
    pub votes: (usize, usize),
    /// In plain words: what is so, and what to do.
    pub says: Vec<String>,
    /// The nodes.
    pub members: Vec<MemberReport>,
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberReport {
    /// Its name.
    pub node: String,
    /// `member`, `witness` or `worker`.
    pub role: String,
    /// Where it is reached.
    pub host: String,
    /// Whether its agent has a session; unknown without the store.
    pub session: Option<bool>,
    /// Its member of the store: `leader`, `follower`, `learner`, `does not answer`, or nothing.
    pub store: Option<String>,
    /// etcd's version there.
    pub etcd: Option<String>,
    /// Size of its database in bytes.
    pub db_bytes: Option<u64>,
}

/// Asks everybody.
pub async fn report(place: &Place) -> Result<Report, Error> {
    let node = &place.node;
    let mut client = etcd::Client::new(etcd_options(node, &place.layout)?)?;
    let mut says = Vec::new();
    // The local view answers also without a majority.
    let voters = match tokio::time::timeout(ASK, client.admin().members(true)).await {
        Ok(Ok(voters)) => voters,
        Ok(Err(error)) => {
            says.push(format!(
                "no member of the store answers: {}",
                crate::call::chain(&error)
            ));
            Vec::new()
        }
        Err(_) => {
            says.push(format!("no member of the store answers within {} s", ASK.as_secs()));
            Vec::new()
        }
    };
    // All of them are asked, also those that this node does not know yet.
    let urls: Vec<String> = voters.iter().flat_map(|voter| voter.client_urls.clone()).collect();
    if !urls.is_empty() {
        let mut options = etcd_options(node, &place.layout)?;
        options.endpoints = urls;
        client = etcd::Client::new(options)?;
    }
    let admin = client.admin();
    let mut stores = BTreeMap::new();
    let mut answering = 0;
    for voter in &voters {
        let mut found = None;
        for url in &voter.client_urls {
            if let Ok(Ok(status)) = tokio::time::timeout(ASK, admin.status(url)).await {
                found = Some(status);
                break;
            }
        }
        let state = match &found {
            None => "does not answer",
            Some(_) if voter.learner => "learner",
            Some(status) if status.leader == Some(voter.id) => "leader",
            Some(status) if status.leader.is_none() => "has no leader",
            Some(_) => "follower",
        };
        answering += usize::from(found.is_some() && !voter.learner);
        if let Some(status) = &found {
            says.extend(
                status
                    .errors
                    .iter()
                    .map(|error| format!("the store on {} says: {error}", voter.name)),
            );
        }
        stores.insert(voter.name.clone(), (state.to_owned(), found));
    }
    let votes = voters.iter().filter(|voter| !voter.learner).count();
    let needed = votes / 2 + 1;
    let store = etcd::Etcd::on(client.clone());
    let answers = matches!(tokio::time::timeout(ASK, store.revision()).await, Ok(Ok(_)));
    let mut reports = Vec::new();
    if answers {
        let sessions = store.list(SESSIONS).await?.0;
        for (name, member) in members(&store).await? {
            let (state, status) = stores.get(name.as_str()).cloned().unzip();
            let status = status.flatten();
            reports.push(MemberReport {
                node: name.to_string(),
                role: match (member.runs_services, member.votes) {
                    (false, _) => "witness",
                    (true, true) => "member",
                    (true, false) => "worker",
                }
                .into(),
                host: member.host.to_string(),
                session: Some(
                    sessions
                        .iter()
                        .any(|entry| entry.key == store::session::session_key(&name)),
                ),
                store: state,
                etcd: status.as_ref().map(|status| status.version.clone()),
                db_bytes: status.map(|status| status.db_bytes),
            });
        }
    } else {
        for (name, (state, status)) in &stores {
            reports.push(MemberReport {
                node: name.clone(),
                role: "votes".into(),
                host: String::new(),
                session: None,
                store: Some(state.clone()),
                etcd: status.as_ref().map(|status| status.version.clone()),
                db_bytes: status.as_ref().map(|status| status.db_bytes),
            });
        }
    }
    if votes > 0 && answering < needed {
        says.push(format!(
            "only {answering} of {votes} members of the store answer, {needed} are needed: nothing is decided until {} more come{} back. \
             What runs goes on as each service's policy says; exclusive actives stand still",
            needed - answering,
            if needed - answering == 1 { "s" } else { "" }
        ));
        says.push(
            "start the missing machines. If they are lost for good: `understudy cluster recover` on one node that is left makes it \
             the only one that votes; read what it says first"
                .into(),
        );
    } else if !answers {
        says.push(
            "the store does not answer, though a majority of its members does: an election may be under way".into(),
        );
    }
    if votes == 2 {
        says.push("two members vote: the loss of either stops the store. Add a third, or a witness: `understudy cluster token --role witness`".into());
    } else if votes == 1 && reports.len() <= 1 {
        says.push("this is the only node so far: `understudy cluster token` lets another one in".into());
    }
    let timing = node.timing();
    let commit = Duration::from_millis(20);
    Ok(Report {
        version: api::VERSION,
        cluster: node.cluster.clone(),
        cluster_id: node.cluster_id.clone(),
        node: node.node.clone(),
        profile: node.profile,
        because: node.because.clone(),
        node_loss_worst_ms: ms(timing.node_loss_worst(commit, false)),
        node_loss_with_leader_worst_ms: ms(timing.node_loss_worst(commit, true)),
        store_answers: answers,
        votes: (answering, needed),
        says,
        members: reports,
    })
}

fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
