//! Why a connection was refused, for the person who has to put it right.

use crate::join::people;
use crate::{ClusterId, NodeRole};
use rustls::{AlertDescription, CertificateError, Error, OtherError};
use std::io;
use std::sync::Arc;

/// A connection that was refused by us, or by the other side.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}; {hint}")]
pub struct Refused {
    /// The reason.
    pub why: Why,
    /// What to do about it.
    pub hint: String,
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// It is a node of another cluster.
    #[error("the other side belongs to cluster {theirs}, this node to {ours}")]
    OtherCluster {
        /// Their cluster, as their certificate says.
        theirs: ClusterId,
        /// Our cluster.
        ours: ClusterId,
    },
    /// It says it is of this cluster, but no trusted authority signed that.
    #[error(
        "the other side claims to be {claims}, but its certificate is not signed by an authority that this node trusts"
    )]
    NotSigned {
        /// Whom it claims to be.
        claims: String,
    },
    /// It is not of any Understudy cluster.
    #[error("the other side has a certificate, but none of an Understudy cluster")]
    Foreign,
    /// Its certificate ended.
    #[error("the other side's certificate expired {} ago", people(*by_ms))]
    Expired {
        /// For how long it has been, milliseconds.
        by_ms: u64,
    },
    /// Its certificate has not begun.
    #[error("the other side's certificate is valid only in {}", people(*in_ms))]
    NotYetValid {
        /// When it will be, in milliseconds.
        in_ms: u64,
    },
    /// It is somebody else of this cluster.
    #[error("the other side is {found}, expected was {expected}")]
    WrongName {
        /// Whom we called.
        expected: String,
        /// Who answered.
        found: String,
    },
    /// It showed no certificate.
    #[error("the other side showed no certificate")]
    NoCertificate,
    /// Its certificate was revoked.
    #[error("the other side's certificate was revoked")]
    Revoked,
    /// The authority is not the one that the join token names.
    #[error("whoever answers has not the authority that the join token names")]
    OtherAuthority,
    /// Who answers a join cannot let anybody in.
    #[error("who answers is a {role}, which cannot let nodes in")]
    NotAMember {
        /// What it is.
        role: NodeRole,
    },
    /// The other side did not believe our certificate.
    #[error("the other side refused our certificate: {0}")]
    ByThem(Theirs),
    /// The other side speaks no TLS, or an old one.
    #[error("the other side does not speak TLS 1.3")]
    NotTls,
    /// Anything else.
    #[error("the TLS handshake failed ({0})")]
    Other(String),
}

/// What the other side said of our certificate. TLS allows it one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Theirs {
    /// Expired or not yet valid.
    #[error("it is expired or not yet valid by its clock")]
    Expired,
    /// Revoked.
    #[error("it was revoked")]
    Revoked,
    /// None was shown.
    #[error("it wants one and we have none")]
    Required,
    /// Not signed by an authority that it trusts.
    #[error("it is not signed by an authority that it trusts")]
    UnknownAuthority,
    /// Another cluster, another node or another kind.
    #[error("it is of another cluster, or of somebody else than it expected")]
    Unknown,
    /// Something is wrong with it.
    #[error("it is damaged or made for another use")]
    Bad,
}

impl Refused {
    pub(crate) fn new(why: Why) -> Self {
        let hint = hint(&why).into();
        Self { why, hint }
    }

    /// Reads what rustls says.
    pub fn from_rustls(error: &Error) -> Self {
        let why = match error {
            Error::InvalidCertificate(CertificateError::Other(OtherError(ours))) => {
                match ours.downcast_ref::<Refused>() {
                    Some(refused) => return refused.clone(),
                    None => Why::Other(error.to_string()),
                }
            }
            Error::InvalidCertificate(error) => why_certificate(error),
            Error::NoCertificatesPresented => Why::NoCertificate,
            Error::AlertReceived(alert) => match why_alert(*alert) {
                Some(why) => why,
                None => Why::Other(error.to_string()),
            },
            Error::InvalidMessage(_) | Error::PeerIncompatible(_) => Why::NotTls,
            _ => Why::Other(error.to_string()),
        };
        Self::new(why)
    }

    /// Reads the error of a connection or of an accept (tokio-rustls). `None` if it is not about TLS: the connection broke.
    ///
    /// In TLS 1.3 a client learns only with its first read that the server refused its certificate.
    pub fn from_io(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<Error>().map(Self::from_rustls)
    }

    pub(crate) fn into_rustls(self) -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(self))))
    }
}

fn why_certificate(error: &CertificateError) -> Why {
    match error {
        CertificateError::ExpiredContext { time, not_after } => Why::Expired {
            by_ms: time.as_secs().saturating_sub(not_after.as_secs()).saturating_mul(1_000),
        },
        CertificateError::Expired => Why::Expired { by_ms: 0 },
        CertificateError::NotValidYetContext { time, not_before } => Why::NotYetValid {
            in_ms: not_before
                .as_secs()
                .saturating_sub(time.as_secs())
                .saturating_mul(1_000),
        },
        CertificateError::NotValidYet => Why::NotYetValid { in_ms: 0 },
        CertificateError::Revoked => Why::Revoked,
        CertificateError::NotValidForNameContext { expected, presented } => Why::WrongName {
            expected: expected.to_str().into_owned(),
            found: presented.join(", "),
        },
        CertificateError::BadEncoding => Why::Foreign,
        _ => Why::Other(error.to_string()),
    }
}

fn why_alert(alert: AlertDescription) -> Option<Why> {
    Some(Why::ByThem(match alert {
        AlertDescription::CertificateExpired => Theirs::Expired,
        AlertDescription::CertificateRevoked => Theirs::Revoked,
        AlertDescription::CertificateRequired => Theirs::Required,
        AlertDescription::UnknownCA => Theirs::UnknownAuthority,
        AlertDescription::CertificateUnknown => Theirs::Unknown,
        AlertDescription::BadCertificate | AlertDescription::UnsupportedCertificate => Theirs::Bad,
        AlertDescription::ProtocolVersion => return Some(Why::NotTls),
        _ => return None,
    }))
}

fn hint(why: &Why) -> &'static str {
    match why {
        Why::OtherCluster { .. } => "is the address right? two clusters must not share addresses and ports",
        Why::NotSigned { .. } => {
            "was its authority replaced while one of the two was away? then let that one join again with a new token"
        }
        Why::Foreign => "another program listens at this address, or something between the two takes TLS apart",
        Why::Expired { .. } => {
            "compare the clocks of both nodes; if they agree, the other node could not renew for a third of the certificate's lifetime: see its log"
        }
        Why::NotYetValid { .. } => "compare the clocks of both nodes: this one is behind, or the other one is ahead",
        Why::WrongName { .. } => "the address belongs to another node now; check the addresses of the nodes",
        Why::NoCertificate => {
            "a node joins with a token, an operator gets a certificate with `understudy cluster operator`"
        }
        Why::Revoked => "it was removed from the cluster; to come back it joins with a new token",
        Why::OtherAuthority => {
            "make a new token if the authority was replaced since; if it was not, somebody else answers at this address"
        }
        Why::NotAMember { .. } => "make a token with the addresses of members",
        Why::ByThem(Theirs::Expired) => {
            "compare the clocks of both nodes; if they agree, renew this node's certificate"
        }
        Why::ByThem(Theirs::Revoked) => {
            "this node was removed from the cluster; to come back it joins with a new token"
        }
        Why::ByThem(Theirs::Required) => "join the cluster first",
        Why::ByThem(Theirs::UnknownAuthority | Theirs::Unknown | Theirs::Bad) => {
            "is the address right? the other side's log says more"
        }
        Why::NotTls => "another program listens at this address, or the other side is older than this program",
        Why::Other(_) => "the log of the other side may say more",
    }
}
