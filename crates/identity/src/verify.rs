//! The judgement over a certificate in a handshake.

use crate::certificate::{Read, read};
use crate::random::{same, sha256};
use crate::refused::{Refused, Why};
use crate::tls::{Expect, Live, provider};
use crate::trust::{Roots, Trust};
use crate::{JoinToken, Kind, Peer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, RootCertStore, SignatureScheme,
};
use std::sync::Arc;

/// Judges clients of an agent: nodes and operators.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) live: Arc<Live>,
    /// Whether one without a certificate is let through, to join.
    pub(crate) anonymous: bool,
}

/// Judges servers: agents, or members of the store.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) live: Arc<Live>,
    pub(crate) expect: Expect,
}

/// Judges the member that answers a join, by the fingerprint in the token.
#[derive(Debug)]
pub(crate) struct Pinned {
    pub(crate) token: JoinToken,
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        !self.anonymous
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // None: whoever connects shows what it has, and is told what is wrong with it.
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let trust = self.live.trust();
        let peer = claimed(&trust, certificate)?;
        let signed = trust.cluster.clients.verify_client_cert(certificate, chain, now);
        believed(&trust, &peer, signed)?;
        match peer.who.kind {
            Kind::Node { .. } | Kind::Operator { .. } => Ok(ClientCertVerified::assertion()),
            _ => Err(wrong_name("a node or an operator", &peer)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let trust = self.live.trust();
        let peer = claimed(&trust, certificate)?;
        let roots: &Roots = if self.expect == Expect::Store {
            &trust.store
        } else {
            &trust.cluster
        };
        believed(&trust, &peer, signed_by(&roots.store, certificate, chain, now))?;
        match (&self.expect, &peer.who.kind) {
            (Expect::AnyNode, Kind::Node { .. }) => {}
            (Expect::Node(expected), Kind::Node { name, .. }) if expected == name => {}
            (Expect::Node(expected), _) => return Err(wrong_name(&format!("node {expected}"), &peer)),
            (Expect::AnyNode, _) => return Err(wrong_name("a node", &peer)),
            // A member of the store is called by its address, and must have it in its certificate.
            (Expect::Store, Kind::StoreServer(_)) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
            }
            (Expect::Store, _) => return Err(wrong_name("a member of the store", &peer)),
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refuse = |why| Err(Refused::new(why).into_rustls());
        let Some(root) = chain.iter().find(|root| same(&sha256(root), &self.token.authority())) else {
            return refuse(Why::OtherAuthority);
        };
        // From here on `root` is what the token vouches for; the rest must follow from it.
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        signed_by(&roots, certificate, chain, now)?;
        let (Some(peer), Some(authority)) = (Peer::of_certificate(certificate), Peer::of_certificate(root)) else {
            return refuse(Why::Foreign);
        };
        if peer.who.cluster != authority.who.cluster || peer.who.cluster.short() != self.token.cluster_short() {
            return refuse(Why::OtherAuthority);
        }
        match peer.node() {
            Some((_, role)) if role.has_authority() => Ok(ServerCertVerified::assertion()),
            Some((_, role)) => refuse(Why::NotAMember { role }),
            None => Err(wrong_name("a member", &peer)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Whom the certificate claims to be. That another cluster is named is reason enough to refuse, whoever signed it.
fn claimed(trust: &Trust, certificate: &CertificateDer<'_>) -> Result<Peer, Error> {
    match read(certificate) {
        Read::Ours(peer) if peer.who.cluster == trust.record.cluster => Ok(*peer),
        Read::Ours(peer) => {
            let why = Why::OtherCluster {
                theirs: peer.who.cluster,
                ours: trust.record.cluster,
            };
            Err(Refused::new(why).into_rustls())
        }
        Read::Foreign => Err(Refused::new(Why::Foreign).into_rustls()),
        Read::Garbage => Err(CertificateError::BadEncoding.into()),
    }
}

/// Whether the signature makes the claim true, and nobody took it back.
fn believed<T>(trust: &Trust, peer: &Peer, signed: Result<T, Error>) -> Result<(), Error> {
    match signed {
        Ok(_) => {}
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            let claims = peer.who.kind.to_string();
            return Err(Refused::new(Why::NotSigned { claims }).into_rustls());
        }
        Err(error) => return Err(error),
    }
    if let Some(entry) = trust.revoked.revoked(peer) {
        // TLS tells the other side one word; what is known of it is told here.
        tracing::warn!(peer = %peer.who.kind, issue = %peer.issue, reason = %entry.reason, "refused a revoked certificate");
        return Err(CertificateError::Revoked.into());
    }
    Ok(())
}

fn signed_by(
    roots: &RootCertStore,
    certificate: &CertificateDer<'_>,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, chain, now, algorithms().all)
}

fn wrong_name(expected: &str, peer: &Peer) -> Error {
    Refused::new(Why::WrongName {
        expected: expected.into(),
        found: peer.who.kind.to_string(),
    })
    .into_rustls()
}

fn no_tls12() -> Error {
    Error::PeerIncompatible(PeerIncompatible::SupportedVersionsExtensionRequired)
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}
