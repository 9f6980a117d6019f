//! How the cluster itself stands: who votes, who leads, whether there is a majority. Works without one.

use crate::error::Error;
use crate::place::now;
use crate::records::{decode, issued_key, members};
use crate::renew::lifetime;
use crate::{Other, Place, Told, etcd_options};
use identity::rotation::Phase;
use identity::{Issued, Peer, Tls};
use model::{NodeName, Profile, WallTime};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use store::Store;
use store::session::SESSIONS;

/// A member of the store that does not answer within this is not there.
const ASK: Duration = Duration::from_secs(2);

/// Fourteen days.
const WARN_MS: i64 = 14 * 86_400_000;

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
    /// Whether it is known to refuse writes, for a database is full.
    #[serde(default)]
    pub store_refuses: bool,
    /// Members that answer and follow the leader (or are it), and members that are needed.
    pub votes: (usize, usize),
    /// This node is none of the cluster's any more: what it could count is none of its business.
    #[serde(default)]
    pub taken_out: bool,
    /// In plain words: what is so, and what to do.
    pub says: Vec<String>,
    /// The nodes.
    pub members: Vec<MemberReport>,
    /// Generation of the authority that signs, and how far its replacement is if one is under way.
    pub authority: String,
    /// What ends within two weeks, or is late to be renewed.
    pub ending: Vec<Ending>,
}

/// Something that ends soon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// "the certificates of node b", "the authority".
    pub what: String,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
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
    /// Its member of the store: `leader`, `follower`, `learner`, `has no leader`, `follows a leader of the past`, `does not answer`, or
    /// nothing.
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
    let mut answers = Vec::new();
    for voter in &voters {
        let mut found = None;
        for url in &voter.client_urls {
            if let Ok(Ok(status)) = tokio::time::timeout(ASK, admin.status(url)).await {
                found = Some(status);
                break;
            }
        }
        answers.push((voter, found));
    }
    // Who was away answers before the leader has reached it again. Until then nobody can count on it.
    let newest = answers.iter().filter_map(|(_, found)| found.as_ref());
    let newest = newest.max_by_key(|status| (status.raft_term, status.leader.is_some()));
    let leader = newest.and_then(|status| status.leader);
    let mut answering = 0;
    for (voter, found) in answers {
        let state = match &found {
            None => "does not answer",
            Some(_) if voter.learner => "learner",
            Some(status) if status.leader.is_none() => "has no leader",
            Some(status) if status.leader != leader => "follows a leader of the past",
            Some(_) if leader == Some(voter.id) => "leader",
            Some(_) => "follower",
        };
        answering += usize::from(matches!(state, "leader" | "follower"));
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
    let alarms = tokio::time::timeout(ASK, admin.alarms()).await;
    let full = |alarm: &etcd::client::Alarm| alarm.kind == etcd::client::AlarmKind::NoSpace;
    let refuses = matches!(alarms, Ok(Ok(alarms)) if alarms.iter().any(full));
    let votes = voters.iter().filter(|voter| !voter.learner).count();
    let mut needed = votes / 2 + 1;
    let store = etcd::Etcd::on(client.clone());
    let answers = matches!(tokio::time::timeout(ASK, store.revision()).await, Ok(Ok(_)));
    // It may go away while it is read: then it is as if it had not answered.
    let read = async {
        let sessions = store.list(SESSIONS).await.ok()?.0;
        Some((sessions, members(&store).await.ok()?))
    };
    let known = match answers {
        true => tokio::time::timeout(ASK, read).await.ok().flatten(),
        false => None,
    };
    let mut answers = known.is_some();
    let mut reports = Vec::new();
    if let Some((sessions, known)) = known {
        for (name, member) in known {
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
    if answers {
        says.extend(cut_off(&reports));
    }
    let silent = stores.iter().filter(|(_, (state, _))| state == "does not answer");
    let silent: Vec<&str> = silent.map(|(name, _)| name.as_str()).collect();
    if !silent.is_empty() && answering >= needed {
        says.push(format!(
            "the member of the store on {} does not answer. It is started again, and made anew if its data cannot be used, as soon as the \
             machine runs and is reached; if the machine is lost for good: `understudy cluster remove {}`",
            silent.join(" and "),
            silent[0]
        ));
    }
    let there = stores
        .values()
        .filter(|(state, _)| !matches!(state.as_str(), "does not answer" | "learner"));
    let there = there.count();
    if votes > 0 && there < needed {
        says.push(format!(
            "only {there} of {votes} members of the store answer, {needed} are needed: nothing is decided until {} more come{} back. \
             What runs goes on as each service's policy says; exclusive actives stand still",
            needed - there,
            if needed - there == 1 { "s" } else { "" }
        ));
        says.push(
            "start the missing machines. If they are lost for good: `understudy cluster recover` on one node that is left makes it \
             the only one that votes; read what it says first"
                .into(),
        );
    } else if votes == 0 {
        says.push(
            "this machine is cut off from all members of the store, or the cluster went on without it, which `understudy cluster status` on \
             another node tells; then it joins anew with a token"
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
    let (authority, ending) = match papers(place, answers.then_some(&store), &mut says).await {
        // The store went away while it was read: what lies on this node can still be told.
        Err(_) if answers => papers(place, None, &mut says).await?,
        told => told?,
    };
    let unwell = !answers
        || stores
            .values()
            .any(|(state, _)| !matches!(state.as_str(), "leader" | "follower" | "learner"));
    let (out, others) = how_it_stands(place, answers.then_some(&store), unwell).await;
    let taken_out = out.as_ref().is_some_and(|told| !told.out.left_behind);
    if let Some(told) = out {
        // Nothing else that could be said is of use to it, least of all how to go on alone.
        says = vec![told.text(&node.node), told.hint(place)];
    }
    says.splice(0..0, others.iter().flat_map(|other| [other.text(), other.hint(place)]));
    if taken_out {
        (answers, answering, needed) = (false, 0, 0);
        reports.clear();
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
        store_refuses: refuses,
        votes: (answering, needed),
        taken_out,
        says,
        members: reports,
        authority,
        ending,
    })
}

/// A removal that was cut off: its node is a member without a vote. One that lives may be made anew just now, and of the members of an
/// etcd of others nobody knows whose they are.
fn cut_off(reports: &[MemberReport]) -> Option<String> {
    let ours = reports.iter().any(|report| report.store.is_some());
    let voteless = reports
        .iter()
        .filter(|report| ours && report.role != "worker" && report.store.is_none() && report.session == Some(false));
    let nodes: Vec<&str> = voteless.map(|report| report.node.as_str()).collect();
    let first = nodes.first()?;
    let (belong, vote) = if nodes.len() == 1 {
        ("belongs", "does")
    } else {
        ("belong", "do")
    };
    Some(format!(
        "{} {belong} to the cluster and {vote} not vote: a removal was cut off. `understudy cluster remove {first}` finishes it",
        nodes.join(" and "),
    ))
}

/// Whether this node is none of the cluster's any more, by its own knowledge, by the store or by what others say; and who goes on beside it.
async fn how_it_stands(place: &Place, store: Option<&etcd::Etcd>, unwell: bool) -> (Option<Told>, Vec<Other>) {
    let mut out = place.taken_out().ok().flatten();
    if let (None, Some(store)) = (&out, store) {
        let read = tokio::time::timeout(ASK, place.taken_out_by(store)).await;
        out = read.ok().and_then(Result::ok).flatten();
    }
    if out.is_some() || !unwell && place.node.left_behind.is_empty() {
        return (out, Vec::new());
    }
    let store = store.map(|store| store as &dyn Store);
    match crate::look_around(place, store, unwell).await {
        Ok(around) => (around.out, around.others),
        Err(_) => (None, Vec::new()),
    }
}

/// Certificates: what ends soon, and how far a replacement of the authority is.
async fn papers(
    place: &Place,
    store: Option<&etcd::Etcd>,
    says: &mut Vec<String>,
) -> Result<(String, Vec<Ending>), Error> {
    let at = now();
    let folder = place.folder()?;
    let tls = Tls::load(&folder)?;
    let own = tls.own();
    let lasts = lifetime(own.as_ref());
    let mut ends: Vec<(String, WallTime)> = Vec::new();
    let me = &place.node.node;
    ends.extend(own.map(|own| (format!("certificates of node {me}"), own.not_after)));
    let mut trusted = tls.trusted();
    if let Some(store) = store {
        trusted = crate::token::trust(place, store).await?;
        for (name, _) in members(store).await?.iter().filter(|(name, _)| name != me) {
            let key = issued_key(name);
            if let Some(entry) = store.get(&key).await? {
                let issued: Issued = decode(&key, &entry.value)?;
                let last = issued.issues.into_values().max_by_key(|end| end.0);
                ends.extend(last.map(|last| (format!("certificates of node {name}"), last)));
            }
        }
    }
    let mut ending: Vec<Ending> = ends
        .into_iter()
        .filter(|(_, end)| ends_soon(at, *end, lasts.duration()))
        .map(|(what, end)| Ending { what, at_ms: end.0 })
        .collect();
    for certs in trusted.authorities() {
        let ends = CertificateDer::from_pem_slice(certs.cluster_pem.as_bytes())
            .ok()
            .and_then(|der| Some(Peer::of_certificate(&der)?.not_after));
        if let Some(end) = ends
            && end.0.saturating_sub(at.0) < WARN_MS
        {
            let what = format!("authority {}", certs.generation);
            ending.push(Ending { what, at_ms: end.0 });
        }
    }
    for end in &ending {
        let when = crate::admit::shown(WallTime(end.at_ms));
        let how = if end.at_ms < at.0 { "have ended" } else { "end" };
        let what = &end.what;
        says.push(match what.starts_with("authority") {
            true => format!("the {what} ends {when}: replace it, `understudy cluster rotate-authority`"),
            false => format!(
                "the {what} {how} {when} and are not renewed: is its agent running and connected? Its log says what keeps it; \
                 a node without valid certificates has to join again"
            ),
        });
    }
    let authority = match (&trusted.phase, store) {
        (Phase::Steady { current }, _) => format!("{}", current.generation),
        (Phase::TrustBoth { old, new } | Phase::IssueFromNew { old, new }, store) => {
            let step = match trusted.phase {
                Phase::IssueFromNew { .. } => "all nodes get certificates of the new one",
                _ => "all nodes learn to trust the new one",
            };
            let text = format!("{} is being replaced by {}: {step}", old.generation, new.generation);
            if let Some(store) = store
                && let identity::rotation::Next::Wait(waiting) = trusted.next(&crate::rotate::progress(store).await?)
            {
                says.extend(
                    waiting
                        .iter()
                        .map(|waiting| format!("the replacement of the authority waits: {waiting}")),
                );
            }
            text
        }
    };
    Ok((authority, ending))
}

/// Two weeks before the end; certificates that last shorter than three months are renewed later than that, and are late when a sixth
/// of their life is left.
fn ends_soon(now: WallTime, end: WallTime, lasts: Duration) -> bool {
    let sixth = i64::try_from(lasts.as_millis() / 6).unwrap_or(i64::MAX);
    end.0.saturating_sub(now.0) < WARN_MS.min(sixth)
}

fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_weeks_before_the_end_it_is_said_but_not_of_what_is_renewed_in_time() {
        const DAY: i64 = 86_400_000;
        let days = |days: u64| Duration::from_secs(days * 86_400);
        let soon = |left: i64, lasts| ends_soon(WallTime(1_000 * DAY), WallTime(1_000 * DAY + left), lasts);
        assert!(!soon(15 * DAY, days(90)) && soon(14 * DAY - 1, days(90)));
        assert!(soon(-DAY, days(90)), "ended");
        // Three minutes are renewed at two; half a minute before the end something is wrong.
        let short = Duration::from_secs(180);
        assert!(!soon(60_000, short) && soon(29_999, short));
    }

    #[test]
    fn a_removal_that_was_cut_off_is_told_and_nobody_else() {
        let report = |node: &str, role: &str, session: bool, store: Option<&str>| MemberReport {
            node: node.into(),
            role: role.into(),
            host: String::new(),
            session: Some(session),
            store: store.map(str::to_owned),
            etcd: None,
            db_bytes: None,
        };
        let well = [
            report("a", "member", true, Some("leader")),
            report("b", "witness", false, Some("does not answer")),
            report("w", "worker", false, None),
            report("d", "member", true, None),
        ];
        assert_eq!(cut_off(&well), None, "`d` is made anew");
        let mut all = well.to_vec();
        all.push(report("c", "member", false, None));
        let said = cut_off(&all).expect("it is told");
        assert!(
            said.starts_with("c belongs") && said.contains("`understudy cluster remove c`"),
            "{said}"
        );
        let theirs = [report("a", "member", false, None), report("b", "witness", false, None)];
        assert_eq!(cut_off(&theirs), None, "their votes are not ours to know");
    }
}
