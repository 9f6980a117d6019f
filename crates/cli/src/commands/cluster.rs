//! `cluster`: several machines that act as one.

use super::daemons::Guard;
use super::start::{Logs, await_agent};
use super::{Done, Error, Session, to_json};
use crate::args::{
    ClusterBackup, ClusterCommand, ClusterInit, ClusterJoin, ClusterRecover, ClusterRemove, ClusterRestore,
    ClusterRotate, ClusterToken,
};
use crate::client::{self, Client};
use crate::place::{Life, life};
use api::layout::Layout;
use identity::{NodeRole, TOKEN_LIFETIME};
use membership::{Init, Join, Place, Report};
use model::NodeName;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Opening a session takes a commit, once the guard is ready; on a machine without spare time it takes a while.
const SESSION_WITHIN: Duration = Duration::from_secs(15);
/// Likewise, for its store.
const KEPT_WITHIN: Duration = Duration::from_secs(5);
const SESSION_LOOK: Duration = Duration::from_millis(50);

pub(super) async fn run(session: &Session, command: ClusterCommand) -> Result<Done, Error> {
    match command {
        ClusterCommand::Init(args) => init(session, args).await,
        ClusterCommand::Join(args) => join(session, args).await,
        ClusterCommand::Token(args) => token(session, &args).await,
        ClusterCommand::Remove(args) => remove(session, &args).await,
        ClusterCommand::Status(args) => status(session, args.json).await,
        ClusterCommand::Backup(args) => backup(session, &args).await,
        ClusterCommand::Restore(args) => restore(session, &args).await,
        ClusterCommand::Recover(args) => recover(session, &args).await,
        ClusterCommand::Start(_) => start(session).await,
        ClusterCommand::RotateAuthority(args) => rotate(session, &args).await,
    }
}

async fn start(session: &Session) -> Result<Done, Error> {
    let place = stopped_here(session)?;
    let (node, cluster) = (&place.node.node, &place.node.cluster);
    if let Ok(Some(told)) = place.taken_out() {
        return Err(Error::BadArgument {
            what: told.text(node),
            hint: "`understudy down --etcd` here, then join anew with a token that `understudy cluster token` makes on a node of the cluster",
        });
    }
    if let Up::Waiting(why) = start_agent(session, &place).await? {
        session.output.answer_line(&format!(
            "the agent of node {node} of cluster {cluster} runs, and is {why}"
        ));
        return Ok(Done::No);
    }
    let lacking = await_session(session, &place).await;
    let (text, done) = match lacking {
        None => (format!("node {node} of cluster {cluster} is up"), Done::Yes),
        Some(why) => (
            format!("node {node} of cluster {cluster} is up, and cannot take part yet: {why}"),
            Done::No,
        ),
    };
    session.output.answer_line(&text);
    Ok(done)
}

async fn rotate(session: &Session, args: &ClusterRotate) -> Result<Done, Error> {
    let place = here(session)?;
    if args.abort {
        membership::abort_rotation(&place).await?;
        session
            .output
            .answer_line("the replacement is given up; the present authority stays");
        return Ok(Done::Yes);
    }
    session.output.say(
        "all nodes get certificates of a new authority, while everything runs; each member's etcd is restarted twice, one after the other. \
         Nodes that are away meanwhile have to join again: take those out first that will not come back. Join tokens made before end with it",
    );
    session.consent(args.yes, "replacing the authority", "Go on?")?;
    membership::rotate(&place).await?;
    session
        .output
        .answer_line("the replacement has begun; `understudy cluster status` says how far it is");
    Ok(Done::Yes)
}

async fn init(session: &Session, args: ClusterInit) -> Result<Done, Error> {
    let node = node_name(args.node.as_deref())?;
    let init = Init {
        cluster: NodeName::new(&args.name)
            .map_err(|error| Error::BadArgument {
                what: format!("`{}` cannot be the name of a cluster: {error}", args.name),
                hint: "letters, digits and `-`, as in `shop`",
            })?
            .to_string(),
        base: session.place.base.clone(),
        zone: args.zone.unwrap_or_else(|| node.to_string()),
        node,
        host: args.host,
        port: args.port,
        profile: args.profile,
        etcd: args.etcd,
        etcd_tls: match (args.etcd_ca, args.etcd_cert, args.etcd_key) {
            (Some(ca), Some(cert), Some(key)) => Some((ca, cert, key)),
            _ => None,
        },
        etcd_login: args.etcd_user.zip(args.etcd_password_file),
        prefix: args.prefix,
        in_the_open: args.etcd_in_the_open,
        lifetime: args.certificate_lifetime.map(lifetime).transpose()?,
    };
    let place = membership::init(&init, &|what| session.output.say(what)).await?;
    start_agent(session, &place).await?;
    let lacking = await_session(session, &place).await;
    let mut text = format!(
        "node {} is the first of cluster {}",
        place.node.node, place.node.cluster
    );
    if let Some(why) = &lacking {
        text.push_str(&format!(", and cannot take part yet: {why}"));
    }
    session.output.answer_line(&text);
    session
        .output
        .say("on the next two machines, one line each (a token lets one machine in, within the hour):");
    for _ in 0..2 {
        let token = membership::mint(&place, NodeRole::Member, None, TOKEN_LIFETIME).await?;
        session.output.answer_line(&format!(
            "  understudy cluster join {} --host ITS-ADDRESS",
            token.reveal()
        ));
    }
    session
        .output
        .say("with two machines, take a third small one as a witness: `understudy cluster token --role witness`");
    Ok(match lacking {
        None => Done::Yes,
        Some(_) => Done::No,
    })
}

async fn join(session: &Session, args: ClusterJoin) -> Result<Done, Error> {
    let node = node_name(args.node.as_deref())?;
    let token = if args.token == "-" {
        let mut text = String::new();
        std::io::stdin()
            .take(8192)
            .read_to_string(&mut text)
            .map_err(|source| Error::ReadFile {
                path: PathBuf::from("-"),
                source,
            })?;
        text
    } else {
        args.token
    };
    let join = Join {
        token,
        base: session.place.base.clone(),
        zone: args.zone.unwrap_or_else(|| node.to_string()),
        node,
        host: args.host,
        port: args.port,
    };
    let place = membership::join(&join, &|what| session.output.say(what)).await?;
    start_agent(session, &place).await?;
    let lacking = await_session(session, &place).await;
    let (text, done) = belongs(&place.node.node, &place.node.cluster, lacking.as_deref());
    session.output.answer_line(&text);
    Ok(done)
}

/// What is said of a node that was let in, given why it has no session, and whether that is what was wanted.
fn belongs(node: &NodeName, cluster: &str, lacking: Option<&str>) -> (String, Done) {
    match lacking {
        None => (format!("node {node} belongs to cluster {cluster}"), Done::Yes),
        Some(why) => (
            format!("node {node} is a member of cluster {cluster}, and cannot take part yet: {why}"),
            Done::No,
        ),
    }
}

async fn token(session: &Session, args: &ClusterToken) -> Result<Done, Error> {
    let place = here(session)?;
    let node = args.node.as_deref().map(|name| node_name(Some(name))).transpose()?;
    let token = membership::mint(&place, args.role, node, args.expires).await?;
    session.output.verbatim_line(token.reveal());
    session.output.say(&format!(
        "on the new machine: understudy cluster join TOKEN --host ITS-ADDRESS   (it will be a {})",
        args.role
    ));
    Ok(Done::Yes)
}

async fn remove(session: &Session, args: &ClusterRemove) -> Result<Done, Error> {
    let place = here(session)?;
    let node = node_name(Some(&args.node))?;
    if node == place.node.node {
        return Err(Error::BadArgument {
            what: format!("{node} is this node: it cannot take itself out"),
            hint: "`understudy cluster remove` on another node; before it, `understudy drain` and `understudy down` here",
        });
    }
    session.output.say(&format!(
        "node {node} will not belong to cluster {} any more: its vote and its certificates end, its instances are replaced",
        place.node.cluster
    ));
    session.consent(args.yes, "taking a node out", "Go on?")?;
    membership::remove(&place, &node, args.force, &|what| session.output.say(what)).await?;
    let how = if args.force { ", by force" } else { "" };
    keep_deed(
        session,
        &place,
        "remove",
        node.as_str(),
        format!("node {node} was taken out{how}"),
    )
    .await;
    session.output.answer_line(&format!("node {node} was taken out"));
    Ok(Done::Yes)
}

async fn status(session: &Session, json: bool) -> Result<Done, Error> {
    let place = here(session)?;
    let report = membership::report(&place).await?;
    if json {
        session.output.verbatim_line(&to_json(&report));
    } else {
        session.output.answer_line(page(&report).trim_end());
    }
    Ok(if report.store_answers { Done::Yes } else { Done::No })
}

fn page(report: &Report) -> String {
    let (answering, needed) = report.votes;
    let mut page = format!(
        "{}, seen from node {}\n\nstore      {}\nauthority  {}\ntiming     {}: {}\n           \
         a lost node's slot is held elsewhere within {} ms, within {} ms if the store's leader is lost with it; the promotion comes on top\n           \
         (with 20 ms for a write of the store; `understudy explain NODE` goes by those that were measured)\n\n",
        report.cluster,
        report.node,
        match report.taken_out {
            true => "not for this node any more".to_owned(),
            false => format!(
                "{}: {answering} members answer, {needed} are needed",
                store_in_words(report.store_answers, report.store_refuses)
            ),
        },
        report.authority,
        report.profile,
        report.because,
        report.node_loss_worst_ms,
        report.node_loss_with_leader_worst_ms,
    );
    let mut rows = vec![["NODE", "ROLE", "ADDRESS", "AGENT", "STORE", "ETCD", "SIZE"].map(str::to_owned)];
    for member in &report.members {
        rows.push([
            member.node.clone(),
            member.role.clone(),
            member.host.clone(),
            match member.session {
                Some(true) => "has its session".into(),
                Some(false) => "has no session".into(),
                None => "unknown".into(),
            },
            member.store.clone().unwrap_or_else(|| "-".into()),
            member.etcd.clone().unwrap_or_else(|| "-".into()),
            member
                .db_bytes
                .map_or_else(|| "-".into(), |bytes| format!("{} KiB", bytes / 1024)),
        ]);
    }
    let widths: Vec<usize> = (0..7)
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        page.push_str(cells.join("  ").trim_end());
        page.push('\n');
    }
    if !report.says.is_empty() {
        page.push('\n');
        for line in &report.says {
            page.push_str(line);
            page.push('\n');
        }
    }
    page
}

fn store_in_words(answers: bool, refuses: bool) -> &'static str {
    match (answers, refuses) {
        (true, false) => "answers",
        (true, true) => "answers and REFUSES WRITES",
        (false, _) => "DOES NOT ANSWER",
    }
}

async fn backup(session: &Session, args: &ClusterBackup) -> Result<Done, Error> {
    let place = here(session)?;
    let saved = membership::backup(&place, &absolute(&args.file)).await?;
    session.output.answer_line(&format!(
        "wrote {} ({} bytes, up to revision {}) and its description beside it; keep both",
        args.file.display(),
        saved.description.bytes,
        saved.description.revision
    ));
    session
        .output
        .say("keys and certificates are not in it: a copy of the folder `pki` of one member keeps those");
    Ok(Done::Yes)
}

async fn restore(session: &Session, args: &ClusterRestore) -> Result<Done, Error> {
    let mut place = here(session)?;
    let stays_down = stays_down(&place)?;
    session.output.say(
        "the store will be as the backup has it, on this node alone. What was changed since is lost. \
         The other nodes must be down, and join anew. The data that are there are kept beside",
    );
    session.consent(args.yes, "putting a backup back", "Go on?")?;
    let saved = membership::restore(&mut place, &absolute(&args.file), &|what| session.output.say(what)).await?;
    if let Some(kept) = &saved.kept {
        session
            .output
            .say(&format!("the data before are kept in {}", kept.display()));
    }
    drop(stays_down);
    start_agent(session, &place).await?;
    let text = format!(
        "the backup {} was put back, on node {} alone",
        args.file.display(),
        place.node.node
    );
    keep_deed(session, &place, "restore", &place.node.cluster, text).await;
    session
        .output
        .answer_line("the backup is in force; let the other machines join anew with `understudy cluster token`");
    Ok(Done::Yes)
}

async fn recover(session: &Session, args: &ClusterRecover) -> Result<Done, Error> {
    let mut place = here(session)?;
    session.output.say(
        "this makes this node the only one that votes. What the others acknowledged last and this one did not hear is lost. \
         If they are not off, two clusters go on, and exclusive services have two actives",
    );
    if args.others_are.as_deref() != Some("off") {
        return Err(Error::BadArgument {
            what: "say that the other machines are off, and will not come back as they are".into(),
            hint: "when you have made sure: `understudy cluster recover --others-are off`",
        });
    }
    let stays_down = stays_down(&place)?;
    let kept = membership::recover_quorum(&mut place, &|what| session.output.say(what)).await?;
    session
        .output
        .say(&format!("the data before are kept in {}", kept.display()));
    drop(stays_down);
    start_agent(session, &place).await?;
    let text = format!(
        "node {} was made the only one that votes: stated that the others are off",
        place.node.node
    );
    keep_deed(session, &place, "recover", &place.node.cluster, text).await;
    session
        .output
        .answer_line("this node votes alone; let other machines join with `understudy cluster token`");
    Ok(Done::Yes)
}

/// Has the agent keep what was done, for `history --deeds`. One that has just come up may not have its store yet.
async fn keep_deed(session: &Session, place: &Place, what: &str, about: &str, text: String) {
    let client = Client::new(&place.node.cluster, &place.layout);
    let deed = api::DeedRequest {
        what: what.into(),
        about: about.into(),
        text,
    };
    let until = Instant::now() + KEPT_WITHIN;
    loop {
        let kept = tokio::time::timeout_at(until.into(), client.post::<_, api::Outcome>("/v1/deeds", &deed)).await;
        let why = match kept {
            Ok(Ok(_)) => return,
            Ok(Err(error)) if Instant::now() < until && is_up_soon(&error) => {
                tokio::time::sleep(SESSION_LOOK).await;
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the agent did not answer for {} s", KEPT_WITHIN.as_secs()),
        };
        session
            .output
            .say(&format!("`understudy history --deeds` may not show this: {why}"));
        return;
    }
}

/// Whether an agent that has yet to come up may have kept nothing so far: what may have been kept is not sent again.
fn is_up_soon(error: &client::Error) -> bool {
    matches!(
        error,
        client::Error::NotRunning { .. } | client::Error::Connect { .. } | client::Error::Refused { .. }
    )
}

/// Keeps the agent of this node down, whoever would start it meanwhile: it goes by what it read at its start, and writes that again.
struct StaysDown(File);

fn stays_down(place: &Place) -> Result<StaysDown, Error> {
    let runs = || Error::BadArgument {
        what: "the agent of this node runs".into(),
        hint: "end it first: `understudy down`, and whatever starts it again",
    };
    if !matches!(life(&place.layout), Life::Stopped) {
        return Err(runs());
    }
    match guard::lock(&place.layout.agent_lock()) {
        Ok(lock) => Ok(StaysDown(lock)),
        Err(guard::LockError::Held { .. }) => Err(runs()),
        Err(guard::LockError::Io { source, .. }) => Err(Error::Runtime {
            doing: "keep the agent down",
            source,
        }),
    }
}

impl Drop for StaysDown {
    fn drop(&mut self) {
        // Nothing died that held it.
        let _ = guard::write_lock(&mut self.0, guard::ENDED);
    }
}

/// The node that this machine is.
pub(super) fn here(session: &Session) -> Result<Place, Error> {
    if session.place.asked.is_none() {
        // Also one that does not run: that is when it matters most.
        let nodes: Vec<String> = session
            .place
            .known()?
            .into_iter()
            .map(|known| known.cluster)
            .filter(|cluster| session.place.layout(cluster).node().exists())
            .collect();
        if let [only] = nodes.as_slice() {
            return Ok(Place::open(&session.place.base, only)?);
        }
    }
    let cluster = session.place.choose()?;
    Ok(Place::open(&session.place.base, &cluster)?)
}

/// The node that this machine is, also if nothing of it runs: after a boot, say. If it is a node of several clusters, one has to be named.
fn stopped_here(session: &Session) -> Result<Place, Error> {
    let is_node = |cluster: &String| session.place.layout(cluster).node().exists();
    let mut nodes: Vec<String> = match session.place.asked {
        Some(_) => Vec::new(),
        None => session.place.known()?.into_iter().map(|known| known.cluster).collect(),
    };
    nodes.retain(is_node);
    match nodes.as_slice() {
        [only] => Ok(Place::open(&session.place.base, only)?),
        _ => here(session),
    }
}

fn lifetime(span: Duration) -> Result<identity::Lifetime, Error> {
    identity::Lifetime::new(span).ok_or_else(|| Error::BadArgument {
        what: "certificates cannot last so short or so long".into(),
        hint: "from a minute to ten years",
    })
}

/// Whether an agent that was started is at work.
enum Up {
    Working,
    /// It waits for something, in its own words.
    Waiting(String),
}

/// Starts guard and agent of a node, and waits until the agent answers.
async fn start_agent(session: &Session, place: &Place) -> Result<Up, Error> {
    let layout: &Layout = &place.layout;
    let client = Client::new(&place.node.cluster, layout);
    if matches!(life(layout), Life::Running) {
        return Ok(waiting(&client).await.map_or(Up::Working, Up::Waiting));
    }
    let logs = Logs::from_here(layout);
    // Somebody else may have started a guard that waits to start its agent.
    let guard = match life(layout) {
        Life::Starting => None,
        _ => Some(
            Guard::start(session, &place.node.cluster, 1, None, agent::DashboardPlace::Usual).map_err(|source| {
                Error::Runtime {
                    doing: "start the guard",
                    source,
                }
            })?,
        ),
    };
    match await_agent(layout, &client, &logs, guard.as_ref()).await {
        Ok(()) => Ok(Up::Working),
        Err(error) => match waiting(&client).await {
            Some(why) => Ok(Up::Waiting(why)),
            None => Err(error),
        },
    }
}

/// An agent that answers holds nothing yet: it opens its session when its guard is ready, and the others see it by that. Whoever is told that the
/// node is there may look at once. Returns why it has none, if it was waited for in vain.
async fn await_session(session: &Session, place: &Place) -> Option<String> {
    let client = Client::new(&place.node.cluster, &place.layout);
    let until = Instant::now() + SESSION_WITHIN;
    loop {
        // Without an answer of the store there is none to wait for, and `cluster status` says that.
        let lacking = match client.status().await {
            Ok(status) => lacks_session(&status),
            Err(error) => Some((error.to_string(), "`understudy cluster status` says more".to_owned())),
        };
        let (why, hint) = lacking?;
        if Instant::now() >= until {
            session.output.say(&format!(
                "its agent runs, and has no session after {} s: until it opens one this node holds nothing",
                SESSION_WITHIN.as_secs()
            ));
            session.output.say(&format!("hint: {hint}"));
            return Some(why);
        }
        tokio::time::sleep(SESSION_LOOK).await;
    }
}

/// Why a node has no session, and what to do about it; nothing if it has one.
fn lacks_session(status: &api::Status) -> Option<(String, String)> {
    let find = |code: &str| status.problems.iter().find(|problem| problem.code == code);
    let lacking = find("no-session")?;
    let told = find("cannot-fence").unwrap_or(lacking);
    Some((told.text.clone(), told.hint.clone()))
}

/// What an agent waits for that came up without the store.
async fn waiting(client: &Client) -> Option<String> {
    match client.status().await {
        Err(crate::client::Error::Refused { outcome, .. }) if outcome.text.starts_with("waiting for") => {
            Some(outcome.text)
        }
        _ => None,
    }
}

fn node_name(given: Option<&str>) -> Result<NodeName, Error> {
    let name = match given {
        Some(name) => name.to_owned(),
        None => std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map(|name| name.trim().split('.').next().unwrap_or_default().to_lowercase())
            .unwrap_or_default(),
    };
    NodeName::new(&name).map_err(|error| Error::BadArgument {
        what: format!("`{name}` cannot be the name of a node: {error}"),
        hint: "give it one with --node: letters, digits and `-`",
    })
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

#[cfg(test)]
mod tests {
    use super::{belongs, lacks_session, store_in_words};
    use crate::commands::Done;
    use model::NodeName;

    fn problem(code: &str, text: &str) -> api::Problem {
        api::Problem {
            code: code.into(),
            severity: api::Severity::Error,
            about: "b".into(),
            text: text.into(),
            hint: format!("what to do about {code}"),
            since: String::new(),
        }
    }

    #[test]
    fn who_joins_and_cannot_fence_is_told_so_with_the_way_out_and_fails() {
        let mut status: api::Status = serde_json::from_value(serde_json::json!({
            "version": 1, "cluster": "shop", "at": "", "revision": 1, "services": [], "nodes": [], "problems": [],
        }))
        .expect("a status");
        assert_eq!(lacks_session(&status), None);
        status.problems = vec![problem("cannot-fence", "there is no cgroup v2")];
        assert_eq!(lacks_session(&status), None, "it has its session");
        status.problems.push(problem("no-session", "it has no session"));
        let (why, hint) = lacks_session(&status).expect("it lacks one");
        assert_eq!(
            (&*why, &*hint),
            ("there is no cgroup v2", "what to do about cannot-fence")
        );
        status.problems.remove(0);
        assert_eq!(lacks_session(&status).expect("likewise").0, "it has no session");

        let node = NodeName::new("b").expect("a name");
        let (text, done) = belongs(&node, "shop", Some(&why));
        assert_eq!(
            text,
            "node b is a member of cluster shop, and cannot take part yet: there is no cgroup v2"
        );
        assert!(matches!(done, Done::No));
        assert!(matches!(belongs(&node, "shop", None).1, Done::Yes));
    }

    #[test]
    fn a_store_that_answers_and_is_full_is_said_to_refuse_writes() {
        assert_eq!(store_in_words(true, true), "answers and REFUSES WRITES");
        assert_eq!(store_in_words(true, false), "answers");
        assert_eq!(store_in_words(false, true), "DOES NOT ANSWER");
    }
}
