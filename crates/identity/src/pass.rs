//! Passes of people's browsers: `UD1.CLAIMS.SEAL`. Nothing is looked up to check one, so that the dashboard of a node that lost the store
//! still knows its operators.
//!
//! ```text
//!   understudy dashboard ──► pass to sign in (one node, minutes, once) ──► session (a cookie, hours, every node with the same key)
//!   a page that is open  ──► pass to move on (any node, minutes) ────────► session there, when this node is lost
//! ```
//! The key is random and in a file of mode 0600 on a single machine; on several it is derived from the key of the cluster's authority,
//! which every member has. A node without that key takes no passes of others.

use crate::random::random;
use crate::{Authority, FileError, Folder, Right, Secret};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use model::{NodeName, WallTime};
use ring::hmac;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use zeroize::Zeroizing;

const PREFIX: &str = "UD1";
const TEXT_BYTES_MAX: usize = 1_024;
const LABEL: &[u8] = b"understudy dashboard passes 1";

/// Who asked for a link opens it within this.
pub const SIGN_IN_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// A working day, and some.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

/// What a pass is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PassUse {
    /// To get a session with, once.
    SignIn,
    /// It is the session.
    Session,
}

/// What a pass says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// Another one for each pass.
    pub id: String,
    /// What it is good for.
    #[serde(rename = "use")]
    pub good_for: PassUse,
    /// What its bearer may do.
    pub right: Right,
    /// The only node that takes it; `None` if all do.
    pub node: Option<NodeName>,
    /// From then on it is void.
    pub expires: WallTime,
}

/// Seals passes and knows its own again. Its `Debug` shows nothing.
pub struct PassKey(hmac::Key);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum PassKeyError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The kernel.
    #[error("the kernel gives no random bytes")]
    NoRandom,
}

/// Why a pass was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PassRefused {
    /// The text is no pass, or its seal is not ours: which of them is nobody's business.
    #[error("this is no pass of this cluster")]
    Unknown,
    /// It is too old.
    #[error("this pass is too old; `understudy dashboard` makes a new one")]
    Expired,
    /// A session was shown where one signs in, or the other way round.
    #[error("this pass is good for something else")]
    OtherUse,
    /// It was made for another node.
    #[error("this pass is for node {node}; run `understudy dashboard` on the node that you want to look at")]
    OtherNode {
        /// For which.
        node: NodeName,
    },
    /// It was used before.
    #[error("this pass was used already; `understudy dashboard` makes a new one")]
    Used,
}

impl Pass {
    /// A new pass; `None` if the kernel gives no random bytes.
    pub fn new(good_for: PassUse, right: Right, node: Option<NodeName>, now: WallTime) -> Option<Self> {
        let lifetime = match good_for {
            PassUse::SignIn => SIGN_IN_LIFETIME,
            PassUse::Session => SESSION_LIFETIME,
        };
        let lifetime = i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX);
        Some(Self {
            id: HEXLOWER.encode(&random::<12>()?),
            good_for,
            right,
            node,
            expires: WallTime(now.0.saturating_add(lifetime)),
        })
    }
}

impl PassKey {
    /// That of a single machine: read from a file of the folder, or made.
    pub fn of_folder(folder: &Folder, name: &str) -> Result<Self, PassKeyError> {
        let good = |text: &Secret| {
            BASE64URL_NOPAD
                .decode(text.reveal().trim().as_bytes())
                .ok()
                .filter(|key| key.len() == 32)
        };
        if folder.file(name).exists()
            && let Some(key) = good(&folder.read_secret(name)?)
        {
            return Ok(Self::new(&Zeroizing::new(key)));
        }
        let key = Self::random_bytes()?;
        folder.write_secret(name, &Secret::new(BASE64URL_NOPAD.encode(&*key)))?;
        Ok(Self::new(&*key))
    }

    /// That of a cluster: all who have the authority's keys have the same.
    pub fn of_authority(authority: &Authority) -> Self {
        let authority = hmac::Key::new(hmac::HMAC_SHA256, authority.cluster_key().serialized_der());
        Self::new(hmac::sign(&authority, LABEL).as_ref())
    }

    /// One that nobody else has and that is forgotten with the process.
    pub fn of_this_process() -> Result<Self, PassKeyError> {
        Ok(Self::new(&*Self::random_bytes()?))
    }

    /// The pass as text.
    pub fn seal(&self, pass: &Pass) -> String {
        // Strings and numbers only: this cannot fail.
        let claims = BASE64URL_NOPAD.encode(&serde_json::to_vec(pass).unwrap_or_default());
        let seal = hmac::sign(&self.0, claims.as_bytes());
        format!("{PREFIX}.{claims}.{}", BASE64URL_NOPAD.encode(seal.as_ref()))
    }

    /// What a text says, if it is a pass of ours that is good for this, here and now. Whether it was used before is for the caller to know.
    pub fn open(&self, text: &str, good_for: PassUse, node: &NodeName, now: WallTime) -> Result<Pass, PassRefused> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(PassRefused::Unknown);
        }
        let mut parts = text.trim().split('.');
        let (Some(PREFIX), Some(claims), Some(seal), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(PassRefused::Unknown);
        };
        let seal = BASE64URL_NOPAD
            .decode(seal.as_bytes())
            .map_err(|_| PassRefused::Unknown)?;
        // In constant time, and before anything of it is believed.
        hmac::verify(&self.0, claims.as_bytes(), &seal).map_err(|_| PassRefused::Unknown)?;
        let claims = BASE64URL_NOPAD
            .decode(claims.as_bytes())
            .map_err(|_| PassRefused::Unknown)?;
        let pass: Pass = serde_json::from_slice(&claims).map_err(|_| PassRefused::Unknown)?;
        if pass.good_for != good_for {
            return Err(PassRefused::OtherUse);
        }
        if now >= pass.expires {
            return Err(PassRefused::Expired);
        }
        match &pass.node {
            Some(other) if other != node => Err(PassRefused::OtherNode { node: other.clone() }),
            _ => Ok(pass),
        }
    }

    fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    fn random_bytes() -> Result<Zeroizing<[u8; 32]>, PassKeyError> {
        random().map(Zeroizing::new).ok_or(PassKeyError::NoRandom)
    }
}

impl std::fmt::Debug for PassKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PassKey(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime(1_000_000);

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn key() -> PassKey {
        PassKey::new(&[7; 32])
    }

    fn pass(good_for: PassUse, only: Option<&str>) -> Pass {
        match Pass::new(good_for, Right::Operate, only.map(node), NOW) {
            Some(pass) => pass,
            None => panic!("no random bytes"),
        }
    }

    #[test]
    fn a_pass_is_what_its_key_sealed_and_nothing_else() {
        let pass = pass(PassUse::Session, None);
        let text = key().seal(&pass);
        let open = |key: &PassKey, text: &str| key.open(text, PassUse::Session, &node("a"), NOW);
        assert_eq!(open(&key(), &text), Ok(pass.clone()));
        assert_eq!(open(&PassKey::new(&[8; 32]), &text), Err(PassRefused::Unknown));
        let mut claims = pass;
        claims.right = Right::Read;
        let other = key().seal(&claims);
        let mixed: Vec<&str> = [&text, &other]
            .iter()
            .enumerate()
            .flat_map(|(at, text)| text.split('.').skip(at).take(2))
            .collect();
        assert_eq!(
            open(&key(), &[mixed[0], mixed[2], mixed[1]].join(".")),
            Err(PassRefused::Unknown)
        );
        for cut in 0..text.len() {
            assert_eq!(open(&key(), &text[..cut]), Err(PassRefused::Unknown), "cut at {cut}");
        }
        assert_eq!(open(&key(), &"UD1.".repeat(1_000)), Err(PassRefused::Unknown));
    }

    #[test]
    fn it_is_good_for_one_use_one_node_and_a_while() {
        let text = key().seal(&pass(PassUse::SignIn, Some("a")));
        let open = |good_for, at: &str, now| key().open(&text, good_for, &node(at), now).map(|_| ());
        assert_eq!(open(PassUse::SignIn, "a", NOW), Ok(()));
        assert_eq!(open(PassUse::Session, "a", NOW), Err(PassRefused::OtherUse));
        assert_eq!(
            open(PassUse::SignIn, "b", NOW),
            Err(PassRefused::OtherNode { node: node("a") })
        );
        let later = WallTime(NOW.0 + SIGN_IN_LIFETIME.as_millis() as i64);
        assert_eq!(open(PassUse::SignIn, "a", WallTime(later.0 - 1)), Ok(()));
        assert_eq!(open(PassUse::SignIn, "a", later), Err(PassRefused::Expired));
    }

    #[test]
    fn the_key_of_a_folder_stays_and_is_closed_to_others() {
        use std::os::unix::fs::PermissionsExt;
        let folder = match tempfile::tempdir() {
            Ok(folder) => folder,
            Err(error) => panic!("{error}"),
        };
        let path = folder.path().join("keys");
        let keys = Folder::create(&path).unwrap_or_else(|error| panic!("{error}"));
        let made = PassKey::of_folder(&keys, "dashboard-key").unwrap_or_else(|error| panic!("{error}"));
        let text = made.seal(&pass(PassUse::Session, None));
        let again = PassKey::of_folder(&keys, "dashboard-key").unwrap_or_else(|error| panic!("{error}"));
        assert!(again.open(&text, PassUse::Session, &node("a"), NOW).is_ok());
        let mode = std::fs::metadata(path.join("dashboard-key")).map(|file| file.permissions().mode() & 0o777);
        assert_eq!(mode.ok(), Some(0o600));
    }

    #[test]
    fn all_who_have_the_authority_take_each_others_passes() {
        let authority = Authority::create(NOW).unwrap_or_else(|error| panic!("{error}"));
        let same = Authority::from_secret(&authority.to_secret(), "ca").unwrap_or_else(|error| panic!("{error}"));
        let text = PassKey::of_authority(&authority).seal(&pass(PassUse::Session, None));
        let open = |of: &Authority| PassKey::of_authority(of).open(&text, PassUse::Session, &node("b"), NOW);
        assert!(open(&same).is_ok());
        let other = Authority::create(NOW).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(open(&other).map(|_| ()), Err(PassRefused::Unknown));
    }
}
