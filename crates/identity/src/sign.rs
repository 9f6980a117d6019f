//! What the authorities sign: which names, uses and times stand in a certificate.

use crate::authority::{AUTHORITY_LIFETIME, BACKDATED, HOSTS_MAX};
use crate::certificate::IssueId;
use crate::{ClusterId, IssueError, Kind, Lifetime, Who, etcd};
use model::{NodeName, WallTime};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use std::net::IpAddr;
use time::OffsetDateTime;

pub(crate) fn make_root(
    cluster: ClusterId,
    kind: Kind,
    now: WallTime,
) -> Result<(String, Issuer<'static, KeyPair>), IssueError> {
    let key = KeyPair::generate().map_err(IssueError::make)?;
    let issue = IssueId::random().ok_or(IssueError::NoRandom)?;
    let mut params = CertificateParams::default();
    params.not_before = at(now, -(BACKDATED.as_secs() as i64));
    params.not_after = at(now, AUTHORITY_LIFETIME.as_secs() as i64);
    params.serial_number = Some(SerialNumber::from(issue.serial(0)));
    params.distinguished_name = subject(&format!("{kind} of {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![uri(&Who { cluster, kind })?];
    let pem = params.self_signed(&key).map_err(IssueError::make)?.pem();
    Ok((pem, Issuer::new(params, key)))
}

pub(crate) fn sign(
    issuer: &Issuer<'static, KeyPair>,
    key: &rcgen::PublicKey,
    who: &Who,
    issue: IssueId,
    hosts: &[SanType],
    (now, lifetime): (WallTime, Lifetime),
) -> Result<String, IssueError> {
    let client = ExtendedKeyUsagePurpose::ClientAuth;
    let server = ExtendedKeyUsagePurpose::ServerAuth;
    let (name, usages, last): (&str, _, u8) = match &who.kind {
        Kind::Node { name, .. } => (name.as_str(), vec![server, client], 0),
        Kind::Operator { name, .. } => (name.as_str(), vec![client], 0),
        // etcd's own gateway is a client of its server and shows the server's certificate.
        Kind::StoreServer(name) => (name.as_str(), vec![server, client], 1),
        Kind::StorePeer(_) => (etcd::PEER_NAME, vec![server, client], 2),
        Kind::StoreClient(name) => (name.as_str(), vec![client], 3),
        // Authorities are made by `make_root`; a certificate of this kind for a key of somebody else is never signed.
        Kind::ClusterAuthority(_) | Kind::StoreAuthority(_) => return Err(IssueError::BadRequest),
    };
    let mut params = CertificateParams::default();
    params.not_before = at(now, -(BACKDATED.as_secs() as i64));
    params.not_after = at(end(now, lifetime), 0);
    params.serial_number = Some(SerialNumber::from(issue.serial(last)));
    params.distinguished_name = subject(name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages;
    params.subject_alt_names = vec![uri(who)?];
    params.subject_alt_names.extend_from_slice(hosts);
    params.use_authority_key_identifier_extension = true;
    Ok(params.signed_by(key, issuer).map_err(IssueError::make)?.pem())
}

/// The key of a request that was signed with it.
pub(crate) fn read_csr(pem: &str) -> Result<rcgen::PublicKey, IssueError> {
    let csr = CertificateSigningRequestParams::from_pem(pem).map_err(|_| IssueError::BadRequest)?;
    if csr.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return Err(IssueError::OtherKey);
    }
    Ok(csr.public_key)
}

/// Names and addresses for a certificate. A word without a dot is a name on the local network, and it may be
/// another node's: only the node's own is allowed.
pub(crate) fn host_names(node: &NodeName, hosts: &[String]) -> Result<Vec<SanType>, IssueError> {
    if hosts.len() > HOSTS_MAX {
        return Err(IssueError::TooManyHosts { given: hosts.len() });
    }
    let mut names = vec![dns(node, node.as_str())?, dns(node, "localhost")?];
    for host in hosts {
        let wrong = |why| IssueError::Host {
            host: host.clone(),
            node: node.clone(),
            why,
        };
        let name = match host.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() || ip.is_multicast() => return Err(wrong("it is no address of one machine")),
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) if host.contains('*') => return Err(wrong("it stands for many names")),
            Err(_) if !host.contains('.') && host != node.as_str() && host != "localhost" => {
                return Err(wrong("a name without a dot may be another node's"));
            }
            Err(_) if !is_dns_name(host) => return Err(wrong("it is neither an IP address nor a DNS name")),
            Err(_) => dns(node, host)?,
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn is_dns_name(host: &str) -> bool {
    host.len() <= 253
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

fn dns(node: &NodeName, host: &str) -> Result<SanType, IssueError> {
    let wrong = |_| IssueError::Host {
        host: host.into(),
        node: node.clone(),
        why: "it has characters that no DNS name has",
    };
    Ok(SanType::DnsName(host.try_into().map_err(wrong)?))
}

fn uri(who: &Who) -> Result<SanType, IssueError> {
    Ok(SanType::URI(who.uri().try_into().map_err(IssueError::make)?))
}

fn subject(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "Understudy");
    subject.push(DnType::CommonName, name);
    subject
}

pub(crate) fn end(now: WallTime, lifetime: Lifetime) -> WallTime {
    let ms = i64::try_from(lifetime.duration().as_millis()).unwrap_or(i64::MAX);
    WallTime(now.0.saturating_add(ms))
}

/// A time a certificate can carry; clocks beyond its range are taken for the nearest it can.
fn at(now: WallTime, plus_seconds: i64) -> OffsetDateTime {
    const YEAR_9999: i64 = 253_402_300_799;
    let seconds = (now.0.div_euclid(1_000))
        .saturating_add(plus_seconds)
        .clamp(0, YEAR_9999);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

pub(crate) fn to_pem(der: &[u8]) -> String {
    const LABEL: &str = "CERTIFICATE";
    let text = data_encoding::BASE64.encode(der);
    let mut pem = format!("-----BEGIN {LABEL}-----\n");
    // 64 characters a line (RFC 7468).
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {LABEL}-----\n"));
    pem
}
