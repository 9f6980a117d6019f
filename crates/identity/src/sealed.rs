//! Records that give rights, signed by the cluster's authority.
//!
//! Every node can write to the store. What says who may join, whom to trust or whom not must come from a member all the
//! same, so these records carry a signature that only members can make.

use crate::certificate::{from_pem, public_key};
use crate::{Authority, CaCerts};
use rcgen::SigningKey;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What a sealed record is for. A record of one purpose is not taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A join token ([`crate::JoinRecord`]).
    Join,
    /// A token for the API ([`crate::ApiRecord`]).
    Api,
    /// The revocation list ([`crate::RevocationList`]).
    Revocation,
    /// The trusted authorities ([`crate::rotation::TrustRecord`]).
    Trust,
    /// Any other record whose writers shall be members only, such as what is declared. The word tells them apart.
    Other(&'static str),
}

impl Purpose {
    fn word(self) -> String {
        match self {
            Purpose::Join => "join".into(),
            Purpose::Api => "api".into(),
            Purpose::Revocation => "revocation".into(),
            Purpose::Trust => "trust".into(),
            Purpose::Other(word) => format!("other {word}"),
        }
    }
}

/// A record with the authority's signature, as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The record, in JSON: kept as text so that what was signed is what is read.
    pub record: String,
    /// Which generation of the authority signed.
    pub generation: u32,
    /// ECDSA P-256 with SHA-256 (ASN.1), in base64.
    pub signature: String,
}

/// Why a sealed record cannot be made or is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The signature is of an authority that this node does not trust.
    #[error(
        "the record was signed by authority {0}, which this node does not trust; was it offline while the authority was replaced?"
    )]
    UnknownAuthority(u32),
    /// The signature does not fit: somebody without the authority's key wrote the record.
    #[error(
        "the record was not signed by a member of this cluster; whoever wrote it has access to the store but not that right"
    )]
    Forged,
    /// The signature fits, but the content is not what this version expects.
    #[error("the record is signed, but this version cannot read it ({0})")]
    Unreadable(String),
    /// The record could not be signed.
    #[error("failed to sign the record ({0})")]
    Sign(String),
}

impl Authority {
    /// Signs a record for the store. `key` is where it will stand, so that it cannot be copied to another place.
    pub fn seal<T: Serialize>(&self, purpose: Purpose, key: &str, record: &T) -> Result<Sealed, SealError> {
        let record = serde_json::to_string(record).map_err(|e| SealError::Sign(e.to_string()))?;
        let message = message(&self.cluster_id().to_string(), purpose, key, &record);
        let signature = self
            .cluster_key()
            .sign(&message)
            .map_err(|e| SealError::Sign(e.to_string()))?;
        Ok(Sealed {
            record,
            generation: self.certs().generation,
            signature: data_encoding::BASE64.encode(&signature),
        })
    }
}

impl Sealed {
    /// Checks the signature by the authorities that are trusted now, and reads the record that stands at `key`.
    pub fn open<T: DeserializeOwned>(
        &self,
        trusted: &crate::rotation::TrustRecord,
        purpose: Purpose,
        key: &str,
    ) -> Result<T, SealError> {
        let certs = trusted
            .authorities()
            .find(|certs| certs.generation == self.generation)
            .ok_or(SealError::UnknownAuthority(self.generation))?;
        let message = message(&trusted.cluster.to_string(), purpose, key, &self.record);
        verify(certs, &message, &self.signature).ok_or(SealError::Forged)?;
        serde_json::from_str(&self.record).map_err(|e| SealError::Unreadable(e.to_string()))
    }
}

fn verify(certs: &CaCerts, message: &[u8], signature: &str) -> Option<()> {
    let certificates = from_pem(&certs.cluster_pem)?;
    let key = public_key(certificates.first()?)?;
    let signature = data_encoding::BASE64.decode(signature.as_bytes()).ok()?;
    ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_ASN1, key)
        .verify(message, &signature)
        .ok()
}

/// What is signed: each part with its length before it, so that no two different records give the same bytes. The
/// first byte is none that a certificate, the only other thing this key signs, begins with.
fn message(cluster: &str, purpose: Purpose, key: &str, record: &str) -> Vec<u8> {
    let mut message = b"understudy sealed record 1".to_vec();
    for part in [cluster, &purpose.word(), key, record] {
        message.extend_from_slice(&(part.len() as u64).to_be_bytes());
        message.extend_from_slice(part.as_bytes());
    }
    message
}
