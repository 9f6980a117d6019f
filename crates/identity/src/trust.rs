//! What is trusted now, made ready for handshakes.

use crate::RevocationList;
use crate::certificate::from_pem;
use crate::rotation::TrustRecord;
use crate::tls::provider;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use std::sync::Arc;

/// Trusted authorities and revoked certificates.
#[derive(Debug)]
pub(crate) struct Trust {
    pub(crate) record: TrustRecord,
    pub(crate) cluster: Roots,
    pub(crate) store: Roots,
    pub(crate) revoked: RevocationList,
}

/// The authorities for one kind of certificate.
#[derive(Debug)]
pub(crate) struct Roots {
    pub(crate) store: Arc<RootCertStore>,
    pub(crate) clients: Arc<dyn ClientCertVerifier>,
}

/// Why a trust record cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// An authority in it is unreadable.
    #[error("the certificate of authority {generation} is damaged")]
    Damaged {
        /// Which.
        generation: u32,
    },
    /// It is of another cluster.
    #[error("the record of trusted authorities is of another cluster")]
    OtherCluster,
    /// It is older than what is known.
    #[error(transparent)]
    Stale(#[from] Stale),
}

/// A record that is older than the one this node has: somebody put an old one back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the store has version {given} of a security record, this node knew version {known} already; was the store restored from an old copy, or did somebody put the old record back?"
)]
pub struct Stale {
    /// The version given.
    pub given: u64,
    /// The version known.
    pub known: u64,
}

impl Trust {
    pub(crate) fn new(record: TrustRecord, revoked: RevocationList) -> Result<Self, TrustError> {
        let cluster = roots(&record, |certs| &certs.cluster_pem)?;
        let store = roots(&record, |certs| &certs.store_pem)?;
        Ok(Self {
            record,
            cluster,
            store,
            revoked,
        })
    }
}

fn roots(record: &TrustRecord, pem: fn(&crate::CaCerts) -> &str) -> Result<Roots, TrustError> {
    let mut store = RootCertStore::empty();
    for certs in record.authorities() {
        let damaged = TrustError::Damaged {
            generation: certs.generation,
        };
        for certificate in from_pem(pem(certs)).ok_or(damaged.clone())? {
            store.add(certificate).map_err(|_| damaged.clone())?;
        }
    }
    let store = Arc::new(store);
    let damaged = |_| TrustError::Damaged {
        generation: record.issues(),
    };
    let clients = WebPkiClientVerifier::builder_with_provider(store.clone(), provider())
        .build()
        .map_err(damaged)?;
    Ok(Roots { store, clients })
}
