//! Reading certificates: whom they stand for, and from when to when.

use crate::{Kind, Who};
use model::WallTime;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use std::fmt;
use x509_parser::extensions::GeneralName;

/// What the other side of a connection proved to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its cluster, name and role.
    pub who: Who,
    /// The issue its certificate belongs to.
    pub issue: IssueId,
    /// Valid from (backdated by an hour).
    pub not_before: WallTime,
    /// Valid until.
    pub not_after: WallTime,
}

impl Peer {
    /// Reads a certificate. It says what the certificate *claims*: only TLS that was set up with [`crate::Tls`] proves it.
    /// `None` if it is no certificate of an Understudy cluster.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        match read(der) {
            Read::Ours(peer) => Some(*peer),
            Read::Foreign | Read::Garbage => None,
        }
    }

    /// The peer of a connection that was set up with a configuration of [`crate::Tls`]: pass `peer_certificates()`.
    /// `None` if it showed no certificate.
    pub fn of_connection(certificates: Option<&[CertificateDer<'_>]>) -> Option<Self> {
        Self::of_certificate(certificates?.first()?)
    }

    /// The node behind it, and its role; `None` for operators.
    pub fn node(&self) -> Option<(&model::NodeName, crate::NodeRole)> {
        match &self.who.kind {
            Kind::Node { name, role } => Some((name, *role)),
            _ => None,
        }
    }
}

/// One issue: all certificates that a node got at once have serial numbers that differ in the last byte only, so that one
/// entry revokes all of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IssueId([u8; 15]);

/// The last byte of the serial numbers of an issue.
pub(crate) const SERIALS_PER_ISSUE: u8 = 4;

impl IssueId {
    /// Another one each time; `None` if the kernel gives no random bytes.
    pub fn random() -> Option<Self> {
        let mut bytes: [u8; 15] = crate::random::random()?;
        // Positive and without leading zeros, whatever the reader thinks of the sign bit.
        bytes[0] = bytes[0] & 0x7f | 0x40;
        Some(Self(bytes))
    }

    pub(crate) fn serial(self, certificate: u8) -> Vec<u8> {
        let mut serial = self.0.to_vec();
        serial.push(certificate);
        serial
    }

    fn from_serial(serial: &[u8]) -> Option<Self> {
        let (_, head) = serial.split_last()?;
        head.try_into().ok().map(Self)
    }
}

impl fmt::Display for IssueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for IssueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<IssueId> for String {
    fn from(issue: IssueId) -> String {
        issue.to_string()
    }
}

impl TryFrom<String> for IssueId {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes());
        bytes
            .ok()
            .and_then(|b| b.try_into().ok())
            .map(Self)
            .ok_or("an issue is written with 30 hexadecimal digits")
    }
}

/// What a certificate turned out to be.
pub(crate) enum Read {
    /// One of an Understudy cluster; not yet known of which.
    Ours(Box<Peer>),
    /// A certificate of something else.
    Foreign,
    /// No certificate.
    Garbage,
}

pub(crate) fn read(der: &[u8]) -> Read {
    let Ok((rest, certificate)) = x509_parser::parse_x509_certificate(der) else {
        return Read::Garbage;
    };
    if !rest.is_empty() {
        return Read::Garbage;
    }
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Read::Foreign;
    };
    let mut whos = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Who::from_uri(uri),
        _ => None,
    });
    // Two identities in one certificate are none: it must not depend on the order who somebody is.
    let (Some(who), None) = (whos.next(), whos.next()) else {
        return Read::Foreign;
    };
    let Some(issue) = IssueId::from_serial(certificate.raw_serial()) else {
        return Read::Foreign;
    };
    let validity = certificate.validity();
    Read::Ours(Box::new(Peer {
        who,
        issue,
        not_before: WallTime(validity.not_before.timestamp().saturating_mul(1_000)),
        not_after: WallTime(validity.not_after.timestamp().saturating_mul(1_000)),
    }))
}

/// The uncompressed point of a certificate's public key.
pub(crate) fn public_key(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(certificate.public_key().subject_public_key.data.to_vec())
}

/// All certificates in a PEM text; `None` if there is none, or one is damaged.
pub(crate) fn from_pem(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    all.ok().filter(|all| !all.is_empty())
}
