//! What is shown of all this: status, previews, the dashboard's overview, and what is measured of it each second.

use super::Agent;
use crate::clock;
use crate::input::{LogSource, refused};
use crate::measure::{ClusterLook, Glance, Look};
use crate::show;
use api::{Outcome, Severity};
use model::{InstanceId, NodeName, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The dashboard calls nothing old before this, whatever the timing: a busy machine is late now and then.
const STALE_AFTER_MS_MIN: u64 = 2_500;
/// So many events are told to the one who measures each second; there are never so many.
const EVENTS_A_LOOK: usize = 1_000;

impl Agent {
    pub(super) fn preview(
        &self,
        intent: &crate::dashboard::Intent,
        view: &decisions::View,
        now: Timestamp,
    ) -> Result<api::Preview, Outcome> {
        let mut known = self.known(view);
        if let crate::dashboard::Intent::Force { name, slot, node } = intent {
            let slot = slot.as_deref().and_then(|slot| slot.parse().ok());
            known.forcing = Some(self.forcing_named(name, slot, node, now)?);
        }
        show::preview(intent, &known)
    }

    /// What is known beside the decisions, for those who explain them.
    pub(super) fn known<'a>(&'a self, view: &'a decisions::View) -> show::Known<'a> {
        let voters = self.clustered.as_ref().map(|cluster| {
            let voting = cluster.members.iter().filter(|(_, member)| member.votes);
            voting
                .map(|(node, _)| (node.clone(), *node == cluster.me || cluster.sessions.contains_key(node)))
                .collect()
        });
        let members = self.clustered.iter().flat_map(|cluster| &cluster.members);
        show::Known {
            cluster: self.name.as_str(),
            hosts: members.map(|(node, member)| (node.clone(), member.host)).collect(),
            view,
            executor: &self.executor,
            fronts: &self.fronts,
            journal: &self.journal,
            pace: self.pace(),
            voters: voters.unwrap_or_default(),
            amiss: self.clocks_amiss(),
            forcing: None,
        }
    }

    /// What the takeover of a lost node's slots is reckoned from. Absent on a single machine.
    fn pace(&self) -> Option<show::Pace<'_>> {
        self.clustered.as_ref().map(|cluster| show::Pace {
            timing: &cluster.timing,
            commit: cluster.commits.longest(),
        })
    }

    /// Everything at once, for the dashboard.
    pub(super) fn overview(&self, status: Arc<api::Status>, now: Timestamp) -> crate::input::Overview {
        let Some(cluster) = &self.clustered else {
            return crate::input::Overview {
                node: status.nodes.first().map_or_else(String::new, |node| node.name.clone()),
                ages: status.nodes.iter().map(|node| (node.name.clone(), 0)).collect(),
                stale_after_ms: STALE_AFTER_MS_MIN,
                peers: Vec::new(),
                seen: now,
                status,
            };
        };
        let age = |at: &Timestamp| u64::try_from(now.since(*at).as_millis()).unwrap_or(u64::MAX);
        let mut ages: BTreeMap<String, u64> = cluster
            .heard
            .iter()
            // Of others nothing is told but that their sessions are there.
            .filter(|(node, _)| cluster.scoped.scope().has(node))
            .map(|(node, at)| (node.to_string(), age(at)))
            .collect();
        ages.insert(cluster.me.to_string(), 0);
        let others = cluster.members.iter().filter(|(node, _)| **node != cluster.me);
        let peers = others.map(|(node, member)| api::Peer {
            node: node.to_string(),
            url: format!("https://{}", std::net::SocketAddr::new(member.host, member.agent_port)),
        });
        crate::input::Overview {
            node: cluster.me.to_string(),
            ages,
            // A node that lives renews its session several times within its lease.
            stale_after_ms: cluster.timing.lease.0.max(STALE_AFTER_MS_MIN),
            peers: peers.collect(),
            seen: now,
            status,
        }
    }

    pub(crate) fn status(&self, now: Timestamp) -> api::Status {
        let mut status = self.bare_status(now);
        if let Some(cluster) = &self.clustered {
            for node in &mut status.nodes {
                let member = NodeName::new(&node.name)
                    .ok()
                    .and_then(|name| cluster.members.get(&name));
                if let Some(member) = member.filter(|member| !member.zone.is_empty()) {
                    node.zone.clone_from(&member.zone);
                }
                if node.name == cluster.me.as_str() && cluster.session.is_none() && cluster.answering.takes_writes() {
                    // To itself it lives; no other node sees it, and nothing is placed here.
                    node.state = api::NodeState::Offline;
                    node.since = clock::shown(cluster.session_lost);
                    node.because = match &cluster.fencing {
                        Err(why) => format!("it has no session, for it cannot fence: {why}"),
                        Ok(_) => "it has no session".into(),
                    };
                }
            }
        }
        self.outlook.tell(&mut status);
        if let Some(cluster) = &self.clustered
            && let Some((silence, since)) = cluster.answering.silence()
        {
            // A node that lives renews its session several times within its lease.
            let fresh = Duration::from_millis(cluster.timing.lease.0.max(STALE_AFTER_MS_MIN));
            let lately = |node: &NodeName| cluster.heard.get(node).is_some_and(|at| now.since(*at) < fresh);
            let others = || cluster.members.keys().filter(|node| **node != cluster.me);
            let heard = |name: &str| match NodeName::new(name) {
                Ok(node) if cluster.scoped.scope().has(&node) => lately(&node),
                // Its renewals are not told to this node: it goes by those that are.
                _ => others().any(lately),
            };
            let frozen = cluster.frozen.is_some();
            show::tell_unheard(
                &mut status,
                cluster.me.as_str(),
                (silence, &clock::shown(since)),
                frozen,
                heard,
            );
        }
        status
    }

    /// Why what is shown of others is old.
    pub(super) fn silence_in_words(&self) -> Option<String> {
        let cluster = self.clustered.as_ref()?;
        let (silence, since) = cluster.answering.silence()?;
        Some(show::silence_in_words(
            cluster.me.as_str(),
            silence,
            &clock::shown(since),
        ))
    }

    pub(super) fn bare_status(&self, now: Timestamp) -> api::Status {
        let revision = self.applied.as_ref().map_or(0, |applied| applied.revision);
        show::status(
            &self.name,
            revision,
            &self.core.view(now),
            &show::Beside {
                executor: &self.executor,
                fronts: &self.fronts,
                pace: self.pace(),
                site: &self.cluster.site,
                journal: &self.journal,
            },
            self.own_problems(),
        )
    }

    /// What there is to be measured.
    pub(super) fn look(&self, after: u64, now: Timestamp) -> Look {
        let status = Arc::new(self.status(now));
        let cluster = self.clustered.as_ref().map(|cluster| ClusterLook {
            controller: cluster.controller.as_ref().map(|(record, _)| record.node.clone()),
            leads: self.core.is_controller() && cluster.session.is_some() && cluster.answering.takes_writes(),
            store_lost_since: cluster.answering.of_no_use().map(|since| since.0),
            others: cluster
                .members
                .iter()
                .filter(|(node, _)| **node != cluster.me)
                .map(|(node, member)| (node.clone(), std::net::SocketAddr::new(member.host, member.agent_port)))
                .collect(),
        });
        Look {
            me: match &self.clustered {
                Some(cluster) => cluster.me.to_string(),
                // One machine, whatever nodes it pretends to be.
                None => status.nodes.first().map(|node| node.name.clone()).unwrap_or_default(),
            },
            watched: self.executor.watched(),
            proxy_is_up: self.proxy_is_up,
            declared: Arc::clone(&self.cluster),
            cluster,
            glance: Glance {
                overview: Arc::new(self.overview(Arc::clone(&status), now)),
                seen: Arc::new(crate::analysis::Seen::of(self, Arc::clone(&status))),
            },
            status,
            applied_ms: self.applied.as_ref().map(|applied| applied.at.0),
            events: self.journal.after(after, EVENTS_A_LOOK, None).events,
            last_event: self.journal.last(),
        }
    }

    /// What is wrong with our own parts.
    pub(super) fn own_problems(&self) -> Vec<api::Problem> {
        let since = clock::shown_wall(clock::wall_now());
        let problem = |code: &str, about: &str, text: String, hint: &str| api::Problem {
            code: code.into(),
            severity: Severity::Error,
            about: about.into(),
            text,
            hint: hint.into(),
            since: since.clone(),
        };
        let mut problems = Vec::new();
        if !self.proxy_is_up && self.cluster.services.values().any(|service| service.listen.is_some()) {
            let text = "there is no proxy: clients wait at the door".to_owned();
            problems.push(problem(
                "proxy-down",
                "proxy",
                text,
                "it is started again by itself; `run/proxy.log` says why it ended",
            ));
        }
        problems.extend(self.cluster_problems());
        for (instance, trouble) in self.executor.address_troubles() {
            let service = instance.service();
            let declared = self.cluster.services.get(service);
            if declared.is_some_and(|service| service.address.is_some()) {
                let mut problem = problem("address", service.as_str(), trouble.text, &trouble.hint);
                problem.since = clock::shown_wall(trouble.since);
                problems.push(problem);
            }
        }
        for (service, why) in self.fronts.trouble() {
            let text = format!("clients of {service} cannot come: {why}");
            problems.push(problem(
                "not-served",
                service.as_str(),
                text,
                "free the address; it is tried again every few seconds",
            ));
        }
        problems
    }

    pub(super) fn log_file(&self, instance: &str) -> Result<LogSource, Outcome> {
        let there = || {
            let view = self.core.view(clock::now());
            view.services.into_iter().flat_map(|service| service.instances)
        };
        let unknown = || {
            let names: Vec<InstanceId> = there().map(|instance| instance.id).collect();
            let hint = match names.as_slice() {
                [] => "there are no instances".to_owned(),
                names => format!("there are {}", show::names(names)),
            };
            refused(format!("there is no instance `{instance}`"), Some(hint))
        };
        let id: InstanceId = instance.parse().map_err(|_| unknown())?;
        let path = self.layout.log(&id);
        let service = self.cluster.services.get(id.service());
        // One that is gone may have left its log; one that never started has none yet.
        if !path.exists() {
            let known = there().find(|known| known.id == id).ok_or_else(unknown)?;
            if let Some(cluster) = self.clustered.as_ref().filter(|cluster| cluster.me != known.node) {
                return Err(refused(
                    format!("the log of {id} is on node {}, not here on {}", known.node, cluster.me),
                    Some(format!("`understudy logs {id}` on node {}", known.node)),
                ));
            }
        }
        Ok(LogSource {
            path,
            keep: service.map_or(0, |service| service.logs.keep),
        })
    }
}
