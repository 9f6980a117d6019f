//! Looks after this node's certificates, and after whom it believes: renews in time, follows the revocation list and the trusted authorities,
//! restarts its etcd when it is its turn.
//!
//! ```text
//!   folder pki ◄── renewed ── this task ◄── identity/trust, identity/revoked ── store
//!                                │
//!                                ├──► Tls: the next handshake
//!                                ├──► Ways: connections to the store, exchanged without a gap
//!                                └──► etcd: restarted once for each change of the authorities
//! ```

use super::own_etcd::{OwnEtcd, digest};
use super::reach::Ways;
use crate::clock;
use crate::executor::chain;
use identity::renewal::{Plan, Reloader, Standing};
use identity::rotation::{Phase, Progress, TrustRecord, Waiting};
use identity::{Peer, Purpose, RevocationList, Sealed, Tls};
use membership::{Place, REVOKED, TRUST};
use model::{Revision, WallTime};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::Store;
use tokio::time::Instant;

/// Who was revoked may do nothing after this long. Two small reads.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A node that was taken out reads so itself within this, and says it to whoever asks; then what it has open is ended.
const SHUT_AFTER: Duration = Duration::from_secs(6);
/// All members of the store have to see a leader for so long before the next one is restarted.
const WELL_FOR: Duration = Duration::from_secs(2);
/// A restarted member has answered and follows within this, or somebody has to look.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// Certificates that could not be renewed are tried again after this at the latest, also if they last for months.
const RENEW_RETRY_MAX: Duration = Duration::from_secs(60);
/// While the authority is being replaced.
const REPLACE_RETRY: Duration = Duration::from_secs(5);
const LOOK_AT_ETCD: Duration = Duration::from_millis(200);

/// What is wrong with certificates, for the status.
pub(crate) type Troubles = Arc<Mutex<Vec<api::Problem>>>;

/// The task.
pub(crate) struct Papers {
    ways: Arc<Ways>,
    tls: Tls,
    etcd: Option<Arc<OwnEtcd>>,
    reloader: Reloader,
    /// After an attempt that failed.
    renew_after: Option<Instant>,
    /// The issue that is noted in the store.
    noted: Option<identity::IssueId>,
    reported: Option<Progress>,
    troubles: Troubles,
    /// The list that this agent acts on; none before it read one.
    revoked: Option<RevocationList>,
    /// Where nodes were that were revoked, and when what they have open to our member of the store is ended.
    shut: Option<(Instant, BTreeSet<IpAddr>)>,
    /// What could not be done this time.
    failed: Vec<(&'static str, String)>,
}

impl Papers {
    pub(crate) fn new(
        ways: Arc<Ways>,
        tls: Tls,
        etcd: Option<Arc<OwnEtcd>>,
        troubles: Troubles,
    ) -> Result<Self, String> {
        let folder = ways.place().folder().map_err(|error| chain(&error))?;
        let reloader = Reloader::new(folder, tls.clone()).map_err(|error| chain(&error))?;
        Ok(Self {
            ways,
            tls,
            etcd,
            reloader,
            renew_after: None,
            noted: None,
            reported: None,
            troubles,
            revoked: None,
            shut: None,
            failed: Vec::new(),
        })
    }

    /// Goes on for as long as the agent lives.
    pub(crate) async fn run(mut self) {
        let mut changes = None;
        loop {
            if changes.is_none() {
                changes = self.watch().await;
            }
            self.look().await;
            let changed = async {
                match &mut changes {
                    Some(watch) => watch.next().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            // Whoever was removed is shut out at once, and says so itself at once, if it still hears of it.
            if let Ok(false) = tokio::time::timeout(LOOK_EVERY, changed).await {
                changes = None;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// What is written to the list of whom not to trust from now on; none while the store does not tell.
    async fn watch(&self) -> Option<store::Watch> {
        let from = self.ways.store.revision().await.ok()?;
        self.ways.store.watch(REVOKED, Revision(from.0 + 1)).await.ok()
    }

    async fn look(&mut self) {
        self.failed.clear();
        let place = self.ways.place();
        self.take_files();
        if let Err(error) = self.follow_store(&place).await {
            self.failed.push(("follow the records of whom to trust", error));
        }
        if let Err(error) = self.shut_out(&place).await {
            self.failed.push(("end what a node that was taken out has open", error));
        }
        if let Err(error) = self.renew_if_due(&place).await {
            self.failed.push(("renew the certificates", error));
        }
        if let Err(error) = self.replacement(&place).await {
            self.failed.push(("follow the replacement of the authority", error));
        }
        self.tell(&place);
    }

    /// What an operator, or another program of ours, wrote to the folder.
    fn take_files(&mut self) {
        match self.reloader.poll() {
            Ok(true) => tracing::info!("keys and certificates were read anew"),
            Ok(false) => {}
            Err(error) => self.failed.push(("read the keys and certificates anew", chain(&error))),
        }
    }

    async fn follow_store(&mut self, place: &Place) -> Result<(), String> {
        let folder = place.folder().map_err(|error| chain(&error))?;
        let trusted = self.tls.trusted();
        if let Some(trust) = self.sealed::<TrustRecord>(&trusted, Purpose::Trust, TRUST).await?
            && trust.version != trusted.version
        {
            self.tls.replace_trust(trust.clone()).map_err(|error| chain(&error))?;
            identity::save_trust(&folder, &trust).map_err(|error| chain(&error))?;
            membership::forget_old_keys(&folder, &trust).map_err(|error| chain(&error))?;
            tracing::info!(version = trust.version, "other authorities are trusted from now on");
            self.ways.exchange(None).await?;
        }
        let trusted = self.tls.trusted();
        if let Some(revoked) = self
            .sealed::<RevocationList>(&trusted, Purpose::Revocation, REVOKED)
            .await?
        {
            // By what this agent acts on: the file may be newer, `cluster remove` writes it too.
            let version = revoked.version;
            if self.revoked.as_ref().is_none_or(|known| known.version != version) {
                let hosts = revoked.hosts_since(self.revoked.as_ref());
                self.tls
                    .replace_revoked(revoked.clone())
                    .map_err(|error| chain(&error))?;
                identity::save_revoked(&folder, &revoked).map_err(|error| chain(&error))?;
                tracing::info!(version, "the list of revoked certificates changed");
                if !hosts.is_empty() {
                    let others = self.shut.take().map(|(_, hosts)| hosts).unwrap_or_default();
                    self.shut = Some((Instant::now() + SHUT_AFTER, hosts.into_iter().chain(others).collect()));
                }
                self.revoked = Some(revoked);
            }
        }
        Ok(())
    }

    /// Who was taken out gets no new connection to etcd, which reads the list at each handshake; one that is open it would leave open.
    async fn shut_out(&mut self, place: &Place) -> Result<(), String> {
        let due = |(at, _): &mut (Instant, BTreeSet<IpAddr>)| Instant::now() >= *at;
        let Some((at, hosts)) = self.shut.take_if(due) else {
            return Ok(());
        };
        let Some(member) = place.node.store.member.clone() else {
            return Ok(());
        };
        let members = match self.ways.store.list(api::record::MEMBERS).await {
            Ok((members, _)) => members,
            Err(error) => {
                // Again at the next look.
                self.shut = Some((at, hosts));
                return Err(chain(&error));
            }
        };
        let host = |entry: &store::Entry| serde_json::from_slice::<api::record::Member>(&entry.value).ok();
        // Somebody else is there, or came back with a new certificate.
        let present: BTreeSet<IpAddr> = members.iter().filter_map(host).map(|member| member.host).collect();
        for host in hosts.difference(&present).copied() {
            let port = member.client.port();
            let ended = tokio::task::spawn_blocking(move || drivers::address::reset_from(host, port)).await;
            let ended = ended.map_err(|error| error.to_string())?;
            let ended = ended.map_err(|error| format!("{error}; it ends when etcd is restarted here"))?;
            tracing::info!(%host, ended, "ended what a node that was taken out had open to the store");
        }
        Ok(())
    }

    async fn sealed<T: DeserializeOwned>(
        &self,
        trusted: &TrustRecord,
        purpose: Purpose,
        key: &str,
    ) -> Result<Option<T>, String> {
        let Some(entry) = self.ways.store.get(key).await.map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        let seal: Sealed =
            serde_json::from_slice(&entry.value).map_err(|error| format!("the record `{key}` is damaged: {error}"))?;
        seal.open(trusted, purpose, key)
            .map(Some)
            .map_err(|error| chain(&error))
    }

    async fn renew_if_due(&mut self, place: &Place) -> Result<(), String> {
        let Some(own) = self.tls.own() else { return Ok(()) };
        if self.removed(&own) {
            return Ok(());
        }
        let folder = place.folder().map_err(|error| chain(&error))?;
        let trust = self.tls.trusted();
        let issued_by = membership::issued_by(&folder, &trust).map_err(|error| chain(&error))?;
        let member = own.node().is_some_and(|(_, role)| role.has_authority());
        let keys_of = member.then(|| membership::lacks_keys_of(&folder, &trust)).flatten();
        let plan = Plan::of(&own);
        let due = !matches!(plan.standing(now()), Standing::Fresh { .. });
        if due || issued_by != trust.issues() || keys_of.is_some() {
            if self.renew_after.is_some_and(|after| Instant::now() < after) {
                return Err("it failed a moment ago, and is tried again".into());
            }
            // What the others wait for is tried again sooner than what has a third of its life left.
            let pause = if due {
                plan.retry.min(RENEW_RETRY_MAX)
            } else {
                REPLACE_RETRY
            };
            self.renew_after = Some(Instant::now() + pause);
            let renewed = membership::renew(place, self.ways.store.as_ref(), &self.tls, keys_of).await;
            let bundle = renewed.map_err(|error| chain(&error))?;
            self.tls.reload_own(&folder).map_err(|error| chain(&error))?;
            tracing::info!(until = %clock::shown_wall(bundle.certificates.not_after), "the certificates of this node were renewed");
            self.renew_after = None;
            self.ways.exchange(None).await?;
        }
        // Also what was signed while the store did not answer.
        if let Some(own) = self.tls.own()
            && self.noted != Some(own.issue)
        {
            let noted = membership::note_own(self.ways.store.as_ref(), &place.node.node, &own).await;
            noted.map_err(|error| chain(&error))?;
            self.noted = Some(own.issue);
        }
        Ok(())
    }

    fn removed(&self, own: &Peer) -> bool {
        !self.tls.still_allowed(own)
    }

    /// The authority is being replaced, or was: this node does its part.
    async fn replacement(&mut self, place: &Place) -> Result<(), String> {
        let trust = self.tls.trusted();
        let Some(own) = self.tls.own() else { return Ok(()) };
        let Some((me, role)) = own.node() else { return Ok(()) };
        if self.removed(&own) {
            return Ok(());
        }
        let store = Arc::clone(&self.ways.store);
        let store = store.as_ref();
        if let Some(etcd) = &self.etcd {
            let outdated = match etcd.trusts() {
                Some(trusts) => trusts != digest(&trust),
                // Nobody knows; it matters only while the others wait for it.
                None => !matches!(trust.phase, Phase::Steady { .. }),
            };
            if outdated {
                restart_in_turn(&self.ways, store, etcd, me, digest(&trust)).await?;
            }
        }
        let trusts = self.etcd.as_ref().and_then(|etcd| etcd.trusts());
        let etcd = (trusts == Some(digest(&trust))).then_some(trust.version);
        let progress = membership::progress_of(place, &trust, role, etcd);
        let progress = progress.map_err(|error| chain(&error))?;
        if self.reported.as_ref() != Some(&progress) {
            let noted = membership::note_progress(store, me, &progress).await;
            noted.map_err(|error| chain(&error))?;
            self.reported = Some(progress);
        }
        if role.has_authority() {
            let waiting = membership::advance(place, store, &trust).await;
            let waiting = waiting.map_err(|error| chain(&error))?;
            for Waiting { node, lacks } in &waiting {
                tracing::debug!(%node, ?lacks, "the replacement of the authority waits");
            }
        }
        Ok(())
    }

    fn tell(&self, place: &Place) {
        let me = &place.node.node;
        let mut problems = Vec::new();
        let mut add = |code: &str, severity, text: String, hint: &str| {
            problems.push(api::Problem {
                code: code.into(),
                severity,
                about: me.to_string(),
                text,
                hint: hint.into(),
                since: clock::shown_wall(clock::wall_now()),
            });
        };
        let why = || {
            let said: Vec<String> = self
                .failed
                .iter()
                .map(|(doing, why)| format!("failed to {doing}: {why}"))
                .collect();
            said.join("; ")
        };
        for (doing, why) in &self.failed {
            tracing::warn!(why, "failed to {doing}");
        }
        if let Some(own) = self.tls.own() {
            if let Some(told) = self.removed(&own).then(|| place.taken_out().ok().flatten()).flatten() {
                problems.push(super::standing::out(place, &told));
            } else {
                match Plan::of(&own).standing(now()) {
                    Standing::Ended { .. } => add(
                        "certificates-ended",
                        api::Severity::Error,
                        format!(
                            "the certificates of node {me} have ended: nobody believes it. {}",
                            why()
                        ),
                        "see that a member is reachable and clocks are right; else take the node out and let it join again",
                    ),
                    Standing::Early { left } => add(
                        "certificates-early",
                        api::Severity::Error,
                        format!(
                            "the certificates of node {me} are valid in {} only, for they were signed by a clock that was ahead, or ours is behind: \
                             nobody else believes them. {}",
                            model::Millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
                            why()
                        ),
                        "see that clocks are right: a member then makes its own anew; else take the node out and let it join again",
                    ),
                    Standing::Due { left, late: true } => add(
                        "certificates-late",
                        api::Severity::Warning,
                        format!(
                            "the certificates of node {me} end in {} and could not be renewed. {}",
                            model::Millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
                            why()
                        ),
                        "a member has to be reachable; `run/agent.log` says what keeps it",
                    ),
                    _ => {}
                }
            }
        }
        *self.troubles.lock().unwrap_or_else(PoisonError::into_inner) = problems;
    }
}

/// Restarts this node's etcd, if no other is being restarted and all of them see a leader. A leader that is stopped politely hands over
/// first, so that writes wait for milliseconds.
async fn restart_in_turn(
    ways: &Ways,
    store: &dyn Store,
    etcd: &OwnEtcd,
    me: &model::NodeName,
    trusts: u64,
) -> Result<(), String> {
    if !membership::take_turn(store, me).await.map_err(|error| chain(&error))? {
        return Ok(());
    }
    let mut cluster = etcd::server::cluster::Cluster::new(ways.options()?).map_err(|error| chain(&error))?;
    let since = Instant::now();
    while since.elapsed() < WELL_FOR {
        if !all_well(&mut cluster).await {
            return Err("not all members of the store are well: its member here is not restarted".into());
        }
        tokio::time::sleep(LOOK_AT_ETCD).await;
    }
    tracing::info!("restarting etcd, for it to trust the authorities that are trusted now");
    etcd.restart(trusts).await?;
    let since = Instant::now();
    while !all_well(&mut cluster).await {
        if since.elapsed() > BACK_WITHIN {
            // The turn is kept: nobody restarts another one.
            return Err(format!(
                "etcd of this node is not back {} s after its restart; no other is restarted meanwhile",
                BACK_WITHIN.as_secs()
            ));
        }
        tokio::time::sleep(LOOK_AT_ETCD).await;
    }
    membership::leave_turn(store, me).await.map_err(|error| chain(&error))
}

async fn all_well(cluster: &mut etcd::server::cluster::Cluster) -> bool {
    match cluster.look().await {
        Ok(view) => view.leader().is_some() && view.voters().all(|seen| view.up_to_date(seen)),
        Err(_) => false,
    }
}

fn now() -> WallTime {
    clock::wall_now()
}
