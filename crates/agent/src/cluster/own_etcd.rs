//! The member of the store that this node runs: kept running for as long as the agent lives, and made anew when its data cannot be used.
//!
//! ```text
//!   Running ──died──► started again ──► Running
//!      │
//!      └─ its data are damaged, older than what it had promised, or gone
//!              │ the others can decide without it
//!              ▼
//!         taken out ──► data moved aside ──► joins without a vote ──► caught up ──► votes
//! ```
//! A member never goes on with less than it had: it has promised the others what is missing. So it comes back as another one.

use super::reach::Ways;
use super::upkeep::Trouble;
use crate::executor::chain;
use crate::recover::StartError;
use etcd::server::cluster::{Cluster, JOIN_PATIENCE};
use etcd::server::{Cause, Config, PATIENCE, Server, State};
use identity::rotation::TrustRecord;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Between two looks at whether it is usable. Nobody waits for it: the others decide meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// After it could not be: each try costs the others a copy of what they have, so the next one waits twice as long, up to [`NOT_AGAIN_FOR`].
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// After a member was made anew: a disk that spoils it again and again must not make the others copy all day.
const NOT_AGAIN_FOR: Duration = Duration::from_secs(600);

/// The member, and which authorities it was started with: etcd reads those only then.
pub(crate) struct OwnEtcd {
    config: Config,
    /// None where it could not be started for want of its data.
    server: Mutex<Option<Arc<Server>>>,
    /// Process, and digest of the authorities, for the next agent of this boot.
    noted: PathBuf,
    trusts: Mutex<Option<u64>>,
}

impl OwnEtcd {
    /// Adopts it or starts it. Without its data it is not started, and that is no error: see [`keep_usable`].
    pub(crate) async fn start(config: Config, place: &membership::Place) -> Result<Arc<Self>, StartError> {
        // Read before: etcd may know more than is said of it, never less.
        let known = trusted(place);
        let server = match Server::start(config.clone()).await {
            Ok(server) => Some(server),
            Err(error @ etcd::server::StartError::NoData { .. }) => {
                tracing::error!(%error, "etcd is not started; with the others' help it is made anew");
                None
            }
            Err(error) => {
                let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
                return Err(StartError::Join(format!("{}{hint}", chain(&error))));
            }
        };
        let noted = place.layout.run().join("etcd-trusts");
        let trusts = match server.as_ref().map(Server::state) {
            Some(State::Running { adopted: false, .. }) => known,
            // What it was started with says the note of whoever started it; without one nobody knows.
            Some(State::Running { pid, .. }) => read_note(&noted, pid),
            _ => None,
        };
        let own = Self {
            config,
            server: Mutex::default(),
            noted,
            trusts: Mutex::new(trusts),
        };
        if let Some(server) = server {
            own.put(server);
        }
        own.note();
        Ok(Arc::new(own))
    }

    /// The digest of the authorities that it was started with, if that is known.
    pub(crate) fn trusts(&self) -> Option<u64> {
        *self.trusts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops it politely and starts it again, for it to trust those authorities.
    pub(crate) async fn restart(&self, trusts: u64) -> Result<(), String> {
        let server = self.server().ok_or("etcd of this node does not run")?;
        let restarted = server.restart(PATIENCE).await;
        restarted.map_err(|error| error.to_string())?;
        self.trust(Some(trusts));
        Ok(())
    }

    fn trust(&self, trusts: Option<u64>) {
        *self.trusts.lock().unwrap_or_else(PoisonError::into_inner) = trusts;
        self.note();
    }

    fn server(&self) -> Option<Arc<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, server: Server) {
        let mut changes = server.watch();
        tokio::spawn(async move {
            loop {
                match changes.borrow_and_update().clone() {
                    State::Running { pid, adopted, .. } => tracing::info!(pid, adopted, "etcd runs"),
                    state => tracing::error!(?state, "etcd does not run"),
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        });
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(server));
    }

    fn note(&self) {
        let state = self.server().map(|server| server.state());
        let (Some(version), Some(State::Running { pid, .. })) = (self.trusts(), state) else {
            return;
        };
        if let Err(error) = std::fs::write(&self.noted, format!("{pid} {version}")) {
            tracing::warn!(%error, "which authorities etcd was started with cannot be noted");
        }
    }

    /// Why its data cannot be used, if they cannot.
    fn unusable(&self) -> Option<String> {
        match self.server().map(|server| server.state()) {
            None => Some(format!("there are none in `{}`", self.config.data_dir.display())),
            Some(State::Failed { because }) if because.cause == Cause::Damaged => Some(because.to_string()),
            Some(_) => None,
        }
    }
}

/// Looks whether the data of the member can be used, and makes it anew from the others if not. Goes on for as long as the agent lives.
pub(crate) async fn keep_usable(ways: Arc<Ways>, own: Arc<OwnEtcd>, trouble: Trouble) {
    let mut rest_until: Option<tokio::time::Instant> = None;
    let mut after_failure = TRY_AGAIN_AFTER;
    let mut refused = String::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(why) = own.unusable() else {
            tell(&trouble, &ways, None);
            continue;
        };
        let text = format!("the data of this node's member of the store cannot be used: {why}");
        if let Some(until) = rest_until
            && tokio::time::Instant::now() < until
        {
            let seconds = until.duration_since(tokio::time::Instant::now()).as_secs();
            let hint = format!(
                "look after this node's disk and its log; it is tried again in {} s",
                seconds + 1
            );
            tell(&trouble, &ways, Some((format!("{text}{refused}"), hint)));
            continue;
        }
        let hint = "nothing to do: it is made anew from the other members; what was there is kept beside it";
        tell(&trouble, &ways, Some((text.clone(), hint.into())));
        match make_anew(&ways, &own, &text, &trouble).await {
            Ok(()) => {
                rest_until = Some(tokio::time::Instant::now() + NOT_AGAIN_FOR);
                (after_failure, refused) = (TRY_AGAIN_AFTER, String::new());
                tracing::warn!(why, "this node's member of the store was made anew from the others");
            }
            Err((error, hint)) => {
                tracing::warn!(error, why, "this node's member of the store could not be made anew");
                refused = format!("; it is not made anew: {error}");
                tell(&trouble, &ways, Some((format!("{text}{refused}"), hint)));
                rest_until = Some(tokio::time::Instant::now() + after_failure);
                after_failure = (after_failure * 2).min(NOT_AGAIN_FOR);
            }
        }
    }
}

async fn make_anew(ways: &Ways, own: &OwnEtcd, text: &str, trouble: &Trouble) -> Result<(), (String, String)> {
    let place = ways.place();
    let said = |error: String| (error, "it is tried again by itself".to_owned());
    let members = membership::members(ways.store.as_ref()).await;
    let members = members.map_err(|error| said(chain(&error)))?;
    if !members
        .iter()
        .any(|(name, member)| *name == place.node.node && member.votes)
    {
        return Err((
            "this node is no member of the cluster any more".into(),
            "`understudy cluster join` with a new token makes it one".into(),
        ));
    }
    let trusts = trusted(&place);
    let mut cluster = Cluster::new(ways.options().map_err(said)?).map_err(|error| said(chain(&error)))?;
    let mut progress = |progress: etcd::server::cluster::Progress| {
        tracing::info!(%progress, "making this node's member of the store anew");
        let hint = "nothing to do: what was there is kept beside it";
        tell(
            trouble,
            ways,
            Some((format!("{text}; it is being made anew: {progress}"), hint.into())),
        );
    };
    let made = cluster
        .make_anew(own.config.clone(), JOIN_PATIENCE, &mut progress)
        .await;
    let server = made.map_err(|error| {
        let hint = error.hint().unwrap_or_else(|| "it is tried again by itself".into());
        (chain(&error), hint)
    })?;
    own.put(server);
    own.trust(trusts);
    Ok(())
}

fn tell(trouble: &Trouble, ways: &Ways, what: Option<(String, String)>) {
    let mut told = trouble.lock().unwrap_or_else(PoisonError::into_inner);
    // Since when stays, however the words change.
    let since = told.take().map(|problem| problem.since);
    *told = what.map(|(text, hint)| api::Problem {
        code: "store-data".into(),
        severity: api::Severity::Error,
        about: ways.place().node.node.to_string(),
        text,
        hint,
        since: since.unwrap_or_else(|| crate::clock::shown(crate::clock::now())),
    });
}

/// Tells sets of trusted authorities apart. Not only their numbers: a replacement that was given up has that of the next one.
pub(crate) fn digest(trust: &TrustRecord) -> u64 {
    let mut hasher = DefaultHasher::new();
    trust.authorities().for_each(|certs| certs.store_pem.hash(&mut hasher));
    hasher.finish()
}

/// The digest of what is in the node's folder.
fn trusted(place: &membership::Place) -> Option<u64> {
    let tls = identity::Tls::load(&place.folder().ok()?).ok()?;
    Some(digest(&tls.trusted()))
}

fn read_note(path: &Path, pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let (of, version) = text.split_once(' ')?;
    (of.parse() == Ok(pid)).then(|| version.trim().parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_was_started_with_is_known_only_of_the_process_that_it_was_noted_of() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("etcd-trusts");
        assert_eq!(read_note(&path, 7), None);
        std::fs::write(&path, "7 3").expect("a note");
        assert_eq!(read_note(&path, 7), Some(3));
        assert_eq!(read_note(&path, 8), None);
        std::fs::write(&path, "nonsense").expect("a note");
        assert_eq!(read_note(&path, 7), None);
    }
}
