//! `plan`, `apply`, `rollback`: from the operator's text to the file in force.
//!
//! Everything that can be wrong is found before anything changes: the text, this machine, the addresses. Then the file is
//! written to the store by compare-and-swap, and only then do the decisions see it.

use crate::agent::{Agent, refused_by};
use crate::clock;
use crate::cluster::power::not_everybody_fences;
use crate::input::{Input, Request, done, refused};
use crate::preflight::{Here, preflight};
use crate::revisions::Worked;
use crate::show;
use crate::words::with_addresses;
use api::record::{self, Applied};
use api::{ApplyRequest, Outcome, Plan, Severity};
use decisions::Event;
use model::{Cluster, NodeName, Revision};
use std::collections::BTreeMap;
use std::sync::Arc;
use store::{Compare, Op, Txn};
use tokio::sync::oneshot;

/// A store that cannot tell what became of a write is asked again so often, and after so long each time.
const SETTLE_LOOKS: u32 = 100;
const SETTLE_LOOK: std::time::Duration = std::time::Duration::from_millis(100);

/// A file that was written, or not.
pub(crate) struct Written {
    applied: Applied,
    result: Result<Revision, Outcome>,
    answer: oneshot::Sender<Result<Outcome, Outcome>>,
}

/// What a file would change.
pub(crate) fn plan(agent: &Agent, request: &ApplyRequest) -> Result<Plan, Outcome> {
    let parsed = parse(request)?;
    check_name(agent, &parsed.cluster)?;
    let revision = agent.applied.as_ref().map_or(0, |applied| applied.revision);
    let view = agent.core.view(clock::now());
    let mut plan = show::plan(revision, &agent.cluster, &parsed.cluster, &view);
    let obstacles = obstacles(agent, request, &parsed.cluster).into_iter();
    plan.warnings.extend(obstacles.map(|(service, finding)| {
        format!(
            "`apply` would be refused: {service}: `{}`: {}; {}",
            finding.key, finding.problem, finding.help
        )
    }));
    plan.warnings.extend(moved_addresses(&agent.cluster, &parsed.cluster));
    Ok(plan)
}

/// A floating address that is another one than before takes the connections of the one before with it.
fn moved_addresses(before: &Cluster, after: &Cluster) -> Vec<String> {
    let moved = after.services.iter().filter_map(|(name, service)| {
        let old = before.services.get(name)?.address.as_ref()?;
        let others = service.address.as_ref().is_none_or(|new| new.ip != old.ip);
        others.then(|| match &service.address {
            Some(new) => format!(
                "{name}: its active takes {}, then nobody answers at {} any more, and connections to it end",
                new.ip, old.ip
            ),
            None => format!(
                "{name}: nobody answers at {} any more, and connections to it end",
                old.ip
            ),
        })
    });
    moved.collect()
}

/// Floating addresses that are those of machines of this cluster: whoever took one would cut that machine off.
fn addresses_of_nodes(
    cluster: &Cluster,
    members: &BTreeMap<NodeName, record::Member>,
) -> Vec<(model::ServiceName, drivers::preflight::Finding)> {
    let taken = cluster.services.iter().filter_map(|(name, service)| {
        let ip = service.address.as_ref()?.ip;
        let (node, _) = members.iter().find(|(_, member)| member.host == ip)?;
        let finding = drivers::preflight::Finding {
            key: "address",
            problem: format!("{ip} is the address of node {node}: whoever took it would cut that machine off"),
            help: "choose one that no machine of the network has".into(),
        };
        Some((name.clone(), finding))
    });
    taken.collect()
}

/// What would keep a file's services from running on this machine.
fn obstacles(
    agent: &Agent,
    request: &ApplyRequest,
    cluster: &Cluster,
) -> Vec<(model::ServiceName, drivers::preflight::Finding)> {
    let folder = Agent::folder_of(&request.path);
    let ours = agent.our_addresses();
    let here = Here {
        layout: &agent.layout,
        exe: &agent.keeper.exe,
        folder: folder.as_deref(),
        ours: &ours,
    };
    let mut findings = preflight(cluster, here);
    if let Some(clustered) = &agent.clustered {
        findings.extend(addresses_of_nodes(cluster, &clustered.members));
    }
    findings
}

/// Begins to put a file in force; the answer comes when it is on disk.
pub(crate) fn begin(
    agent: &mut Agent,
    request: &ApplyRequest,
    how: String,
    answer: oneshot::Sender<Result<Outcome, Outcome>>,
) {
    let says_the_same = |applied: &Applied| applied.text == request.text && applied.path == request.path;
    if let Some(applied) = agent.applied.as_ref().filter(|applied| says_the_same(applied)) {
        let text = format!("nothing to do: revision {} already says the same", applied.revision);
        let _ = answer.send(Ok(done(text)));
        return;
    }
    match prepare(agent, request, how) {
        Ok(applied) => write(agent, applied, answer),
        Err(outcome) => {
            let _ = answer.send(Err(outcome));
        }
    }
}

fn prepare(agent: &mut Agent, request: &ApplyRequest, how: String) -> Result<Applied, Outcome> {
    if agent.down_by.is_some() {
        return Err(refused(
            "everything is being stopped",
            Some("wait for `down` to end, then `understudy up FILE`".into()),
        ));
    }
    if agent.applying {
        return Err(refused(
            "another file is being applied at this moment",
            Some("look at `understudy history`, then try again".into()),
        ));
    }
    let revision = agent.applied.as_ref().map_or(0, |applied| applied.revision);
    if let Some(against) = request.against.filter(|against| *against != revision) {
        let text = format!("revision {revision} is in force by now, the plan was made against {against}");
        return Err(refused(text, Some("look at `understudy plan` again".into())));
    }
    let parsed = parse(request)?;
    check_name(agent, &parsed.cluster)?;
    let early = agent.clustered.as_ref();
    if let Some(early) = early.and_then(|cluster| not_everybody_fences(cluster, &parsed.cluster)) {
        return Err(early);
    }
    let findings = obstacles(agent, request, &parsed.cluster);
    if !findings.is_empty() {
        let lines: Vec<String> = findings
            .into_iter()
            .map(|(service, finding)| {
                parsed
                    .diagnostic(service.as_str(), finding.key, finding.problem, Some(finding.help))
                    .render(false)
            })
            .collect();
        return Err(refused(lines.join("\n"), Some("nothing was changed".into())));
    }
    // Of several machines each has addresses of its own: what this one cannot open is told in `status`.
    if let Err(failed) = agent.fronts.open(&parsed.cluster)
        && agent.clustered.is_none()
    {
        let lines: Vec<String> = failed
            .into_iter()
            .map(|(service, error)| {
                parsed
                    .diagnostic(service.as_str(), "listen", crate::executor::chain(&error), None)
                    .render(false)
            })
            .collect();
        return Err(refused(lines.join("\n"), Some("nothing was changed".into())));
    }
    Ok(Applied {
        revision: revision + 1,
        at: clock::wall_now(),
        by: request.by.clone(),
        how,
        text: request.text.clone(),
        path: request.path.clone(),
        cluster: parsed.cluster,
        judged: true,
    })
}

fn write(agent: &mut Agent, applied: Applied, answer: oneshot::Sender<Result<Outcome, Outcome>>) {
    agent.applying = true;
    let (store, inputs, expect) = (Arc::clone(&agent.store), agent.inputs.clone(), agent.applied_at);
    tokio::spawn(async move {
        let result = store_applied(store.as_ref(), &applied, expect).await;
        let _ = inputs.send(Input::Applied(Box::new(Written {
            applied,
            result,
            answer,
        })));
    });
}

async fn store_applied(store: &dyn store::Store, applied: &Applied, expect: Revision) -> Result<Revision, Outcome> {
    let value = serde_json::to_vec(applied).map_err(|error| refused_by(&error, None))?;
    let compare = if expect.0 == 0 {
        Compare::absent(record::CURRENT)
    } else {
        Compare::modified(record::CURRENT, expect)
    };
    let txn = Txn::new()
        .when(compare)
        .then(Op::put(record::CURRENT, value.clone()))
        .then(Op::put(record::history_key(applied.revision), value));
    let answer = match store.txn(txn).await {
        Err(store::Error::Unknown { .. } | store::Error::Unsettled { .. }) => settled(store, applied).await,
        answer => answer.map(|result| result.succeeded.then_some(result.revision)),
    };
    match answer {
        Ok(Some(revision)) => Ok(revision),
        Ok(None) => Err(refused(
            "another file was applied at the same moment",
            Some("look at `understudy history`".into()),
        )),
        Err(error) => Err(refused_by(&error, error.hint().map(Into::into))),
    }
}

/// Whether a write of which the store could not tell is there: what is told must be what the next agent finds.
async fn settled(store: &dyn store::Store, applied: &Applied) -> Result<Option<Revision>, store::Error> {
    let mut looks = 0;
    loop {
        match store.get(record::CURRENT).await {
            Ok(entry) => {
                let is_ours = |entry: &store::Entry| {
                    serde_json::from_slice::<Applied>(&entry.value).is_ok_and(|found| found == *applied)
                };
                return Ok(entry.filter(is_ours).map(|entry| entry.modified));
            }
            Err(error) if looks >= SETTLE_LOOKS => return Err(error),
            Err(_) => looks += 1,
        }
        tokio::time::sleep(SETTLE_LOOK).await;
    }
}

/// The file is on disk, or is not.
pub(crate) fn written(agent: &mut Agent, written: Written) {
    let Written {
        applied,
        result,
        answer,
    } = written;
    agent.applying = false;
    let revision = match result {
        Ok(revision) => revision,
        Err(outcome) => {
            // The sockets that were opened for it are not needed.
            let cluster = Arc::clone(&agent.cluster);
            agent.fronts.keep(&cluster);
            let _ = answer.send(Err(outcome));
            return;
        }
    };
    let text = in_force(agent, applied, revision);
    agent.replay(clock::now());
    let _ = answer.send(Ok(done(text)));
}

/// From now on a file counts that is in the store: written here, or by another agent.
pub(crate) fn in_force(agent: &mut Agent, applied: Applied, revision: Revision) -> String {
    let cluster = Arc::new(applied.cluster.clone());
    if agent.applied_at >= revision {
        return format!("revision {} is in force", applied.revision);
    }
    if agent.clustered.is_some()
        && let Err(failed) = agent.fronts.open(&cluster)
    {
        for (service, error) in failed {
            agent.fronts.told(service, Some(crate::executor::chain(&error)));
        }
    }
    agent
        .executor
        .declare(Arc::clone(&cluster), Agent::folder_of(&applied.path));
    agent.cluster = Arc::clone(&cluster);
    let text = format!(
        "revision {} is in force ({} by {})",
        applied.revision, applied.how, applied.by
    );
    agent.journal.tell(
        Severity::Info,
        "applied",
        text.clone(),
        format!("`{}` was applied", applied.path),
    );
    agent.applied = Some(applied);
    agent.applied_at = revision;
    agent.worked = Worked::NotYet;
    if agent.proxy_is_up {
        agent.fronts.serve(&cluster, &agent.link);
    }
    agent.fronts.keep(&cluster);
    let now = clock::now();
    agent.core.handle(Event::Applied((*cluster).clone()), now);
    agent.tell_given_up(now);
    text
}

fn parse(request: &ApplyRequest) -> Result<spec::Parsed, Outcome> {
    let refuse = |errors: spec::Errors| refused(errors.render(false), Some("nothing was changed".into()));
    let mut parsed = spec::parse(&request.text, &request.path).map_err(refuse)?;
    parsed.cluster = with_addresses(parsed.cluster);
    Ok(parsed)
}

fn check_name(agent: &Agent, cluster: &Cluster) -> Result<(), Outcome> {
    if cluster.name == agent.name {
        return Ok(());
    }
    let text = format!(
        "the file declares the cluster `{}`, and this is `{}`",
        cluster.name, agent.name
    );
    let hint = format!(
        "write `name = \"{}\"`, or start the other cluster with `understudy up`",
        agent.name
    );
    Err(refused(text, Some(hint)))
}

/// A rollback is an apply of an earlier text.
pub(crate) fn rollback(
    earlier: &Applied,
    by: String,
    against: Option<u64>,
    answer: oneshot::Sender<Result<Outcome, Outcome>>,
) -> Request {
    let request = ApplyRequest {
        text: earlier.text.clone(),
        path: earlier.path.clone(),
        against,
        by,
        first: false,
    };
    Request::Apply {
        request,
        how: format!("rollback to {}", earlier.revision),
        answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(address: &str) -> Cluster {
        let text = format!("[service.db]\ncommand = [\"sleep\", \"1\"]\nexclusive = true\naddress = \"{address}\"\n");
        spec::parse(&text, "db.toml").unwrap().cluster
    }

    #[test]
    fn the_address_of_a_machine_of_ours_does_not_float() {
        let member = serde_json::json!({
            "zone": "", "host": "10.0.0.3", "agent_port": 7461, "runs_services": true, "votes": true, "machine": "", "joined": 0,
        });
        let member: record::Member = serde_json::from_value(member).unwrap();
        let members = BTreeMap::from([(NodeName::new("c").unwrap(), member)]);
        let found = addresses_of_nodes(&with("10.0.0.3/24"), &members);
        assert!(
            matches!(&*found, [(service, finding)] if service.as_str() == "db" && finding.problem.contains("node c"))
        );
        assert!(addresses_of_nodes(&with("10.0.0.100/24"), &members).is_empty());
    }

    #[test]
    fn a_plan_says_whose_connections_end_with_an_address() {
        let said = moved_addresses(&with("10.0.0.100/24"), &with("10.0.0.101/24"));
        assert!(
            matches!(&*said, [line] if line.contains("takes 10.0.0.101") && line.contains("at 10.0.0.100 any more")),
            "{said:?}"
        );
        assert!(moved_addresses(&with("10.0.0.100/24"), &with("10.0.0.100/24")).is_empty());
    }
}
