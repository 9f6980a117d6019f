//! Who is signed in.

use crate::clock;
use api::layout::Layout;
use api::node::Node;
use identity::{
    Authority, Folder, Pass, PassKey, PassRefused, PassUse, Right, SESSION_LIFETIME, SIGN_IN_LIFETIME, Tls,
};
use model::{NodeName, WallTime};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Passes that were used and have not run out: a pass a second for five minutes, many times over. Then nobody signs in until some run out.
const USED_MAX: usize = 10_000;

/// Hands out passes and takes them.
pub(crate) struct Desk {
    pub(crate) cluster: String,
    pub(crate) node: NodeName,
    key: PassKey,
    /// Passes that are good no more, until they would have run out anyway.
    used: Mutex<BTreeMap<String, WallTime>>,
    /// The certificates of the cluster's authority, in PEM.
    pub(crate) authority: Option<String>,
    /// Where it is on this machine.
    pub(crate) local: OnceLock<SocketAddr>,
    /// Where other machines reach it, with TLS.
    pub(crate) remote: Option<SocketAddr>,
}

impl Desk {
    /// With the key of the cluster, or of this machine. Without any, a key is made that is forgotten with this agent: people sign in anew.
    pub(crate) fn open(cluster: &str, node: NodeName, layout: &Layout, file: Option<&Node>) -> std::io::Result<Self> {
        let key = match file {
            Some(_) => cluster_key(layout),
            None => own_key(layout),
        };
        let key = match key {
            Ok(key) => key,
            Err(error) => {
                tracing::warn!(error, "sessions of the dashboard end with this agent, and at this node");
                PassKey::of_this_process().map_err(std::io::Error::other)?
            }
        };
        Ok(Self {
            cluster: cluster.into(),
            node,
            key,
            authority: file.and_then(|_| authority_pem(layout)),
            used: Mutex::default(),
            local: OnceLock::new(),
            remote: file.map(|node| SocketAddr::new(node.host, node.agent_port)),
        })
    }

    /// A pass to sign in with: here only, or wherever the cluster's key is.
    pub(crate) fn sign_in_pass(&self, right: Right, here_only: bool) -> Option<String> {
        let node = here_only.then(|| self.node.clone());
        let pass = Pass::new(PassUse::SignIn, right, node, clock::wall_now())?;
        Some(self.key.seal(&pass))
    }

    /// A session for whoever shows a pass that was not used yet.
    pub(crate) fn sign_in(&self, text: &str) -> Result<String, PassRefused> {
        let now = clock::wall_now();
        let pass = self.key.open(text, PassUse::SignIn, &self.node, now)?;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, expires| *expires > now);
        if used.len() >= USED_MAX || used.insert(pass.id.clone(), pass.expires).is_some() {
            return Err(PassRefused::Used);
        }
        drop(used);
        let session = Pass::new(PassUse::Session, pass.right, None, now).ok_or(PassRefused::Unknown)?;
        Ok(self.key.seal(&session))
    }

    /// What the bearer of a session may do.
    pub(crate) fn right_of(&self, session: &str) -> Option<Right> {
        let pass = self.session(session)?;
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        (!used.contains_key(&pass.id)).then_some(pass.right)
    }

    /// Ends a session at this node.
    pub(crate) fn sign_out(&self, session: &str) {
        if let Some(pass) = self.session(session) {
            let now = clock::wall_now();
            let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            used.retain(|_, expires| *expires > now);
            if used.len() < USED_MAX {
                used.insert(pass.id, pass.expires);
            }
        }
    }

    fn session(&self, text: &str) -> Option<Pass> {
        self.key
            .open(text, PassUse::Session, &self.node, clock::wall_now())
            .ok()
    }

    /// How long a link to sign in is good, in seconds.
    pub(crate) fn link_seconds() -> u64 {
        SIGN_IN_LIFETIME.as_secs()
    }

    /// How long a session is good, in seconds.
    pub(crate) fn session_seconds() -> u64 {
        SESSION_LIFETIME.as_secs()
    }
}

/// While the authority is being replaced there are two, and nodes show certificates of either.
fn authority_pem(layout: &Layout) -> Option<String> {
    let tls = Tls::load(&Folder::open(layout.pki()).ok()?).ok()?;
    let trusted = tls.trusted();
    Some(trusted.authorities().map(|certs| certs.cluster_pem.as_str()).collect())
}

fn cluster_key(layout: &Layout) -> Result<PassKey, String> {
    let chain = |error: &dyn std::error::Error| crate::executor::chain(error);
    let folder = Folder::open(layout.pki()).map_err(|error| chain(&error))?;
    let tls = Tls::load(&folder).map_err(|error| chain(&error))?;
    let authority = Authority::load(&folder, tls.trusted().issues()).map_err(|error| chain(&error))?;
    Ok(PassKey::of_authority(&authority))
}

fn own_key(layout: &Layout) -> Result<PassKey, String> {
    let chain = |error: &dyn std::error::Error| crate::executor::chain(error);
    let folder = Folder::create(layout.dashboard()).map_err(|error| chain(&error))?;
    PassKey::of_folder(&folder, "key").map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desk(folder: &std::path::Path) -> Desk {
        let node = NodeName::new("a").unwrap_or_else(|error| panic!("{error}"));
        Desk::open("shop", node, &Layout::new(folder, "shop"), None).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_pass_signs_in_once_and_a_session_outlives_the_agent() {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        std::fs::create_dir(folder.path().join("shop")).unwrap_or_else(|error| panic!("{error}"));
        let first = desk(folder.path());
        let Some(pass) = first.sign_in_pass(Right::Operate, true) else {
            panic!("no random bytes")
        };
        let session = first.sign_in(&pass).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(first.sign_in(&pass), Err(PassRefused::Used));
        assert_eq!(first.right_of(&session), Some(Right::Operate));
        assert_eq!(first.right_of(&pass), None, "a pass is no session");
        assert_eq!(first.sign_in(&session), Err(PassRefused::OtherUse));
        let second = desk(folder.path());
        assert_eq!(second.right_of(&session), Some(Right::Operate));
        second.sign_out(&session);
        assert_eq!(second.right_of(&session), None);
    }
}
