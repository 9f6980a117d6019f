//! Who may: a token names a service, and whoever shows it gets that service's namespace and no other.
//!
//! A token is `SERVICE:HOLDER:SECRET`. The store has only the hash of the secret, 256 random bits, so whoever reads the
//! store or a backup of it gets in nowhere. There is one token per holder, usually an instance: the next one issued to it
//! ends the one before, so what is left of an earlier start of the instance is refused.

use crate::{AppState, Error, keys};
use model::ServiceName;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use store::{Op, Txn};

/// Most holders of tokens of one service.
pub const HOLDERS_MAX: usize = 1_000;

/// A secret that names its service. Shown once, when it is issued.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// What the store keeps of a token.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// SHA-256 of the secret, as hex digits.
    sha256: String,
}

impl Token {
    /// The token as it goes into a file or a header. Whoever reads it may act as the service.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Puts the token into a file that only `owner` (user and group id; this process's if none) may read, at once and whole.
    pub fn save(&self, file: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
        let draft = file.with_extension("new");
        match std::fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = std::fs::OpenOptions::new();
        let mut open = options.write(true).create_new(true).mode(0o600).open(&draft)?;
        if let Some((user, group)) = owner {
            std::os::unix::fs::fchown(&open, Some(user), Some(group))?;
        }
        open.write_all(self.0.as_bytes())?;
        std::fs::rename(&draft, file)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let public = self.0.rsplit_once(':').map_or("", |(public, _)| public);
        write!(f, "Token({public}:...)")
    }
}

impl AppState {
    /// Makes a token for `holder` (`db-1`) and ends the one it had.
    pub async fn issue(&self, service: &ServiceName, holder: &str) -> Result<Token, Error> {
        keys::check_name("holder", holder)?;
        let key = keys::token(service, holder);
        let (entries, _) = self
            .store()
            .list(&keys::tokens(service))
            .await
            .map_err(Error::reading)?;
        if entries.len() >= HOLDERS_MAX && entries.iter().all(|entry| entry.key != key) {
            return Err(Error::QuotaExceeded {
                service: service.clone(),
                what: "tokens",
                max: HOLDERS_MAX as u64,
                wanted: HOLDERS_MAX as u64 + 1,
            });
        }
        let mut secret = String::with_capacity(64);
        for _ in 0..4 {
            secret.push_str(&format!("{:016x}", crate::namespace::random()?));
        }
        let record = Record { sha256: hash(&secret) };
        let value = serde_json::to_vec(&record).map_err(|error| Error::Damaged {
            key: key.clone(),
            problem: error.to_string(),
        })?;
        self.repeatable(Txn::new().then(Op::put(&key, value))).await?;
        Ok(Token(format!("{service}:{holder}:{secret}")))
    }

    /// Ends the token of `holder`. Nothing happens if it has none.
    pub async fn revoke(&self, service: &ServiceName, holder: &str) -> Result<(), Error> {
        keys::check_name("holder", holder)?;
        let delete = Op::delete(keys::token(service, holder));
        self.repeatable(Txn::new().then(delete)).await.map(drop)
    }

    /// The service that a token names, if it is valid.
    pub async fn authorize(&self, token: &str) -> Result<ServiceName, Error> {
        let mut parts = token.splitn(3, ':');
        let (Some(service), Some(holder), Some(secret)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Error::TokenInvalid);
        };
        let service = ServiceName::new(service).map_err(|_| Error::TokenInvalid)?;
        keys::check_name("holder", holder).map_err(|_| Error::TokenInvalid)?;
        let key = keys::token(&service, holder);
        let entry = self.store().get(&key).await.map_err(Error::reading)?;
        let entry = entry.ok_or(Error::TokenInvalid)?;
        let record: Record = serde_json::from_slice(&entry.value).map_err(|error| Error::Damaged {
            key,
            problem: error.to_string(),
        })?;
        // Hashes of random secrets are compared, so how long the comparison takes tells nothing of use.
        if record.sha256 == hash(secret) {
            return Ok(service);
        }
        Err(Error::TokenInvalid)
    }
}

fn hash(secret: &str) -> String {
    Sha256::digest(secret)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
