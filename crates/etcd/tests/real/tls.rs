//! Certificates: the right ones, and every wrong one by name.

use crate::rig::{Cluster, Recipe, address, until};
use etcd::{Etcd, Options, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use std::path::Path;
use store::{Error, Op, ServerError, Store, TlsProblem, Txn};

/// An authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
struct Leaf {
    certificate: String,
    key: String,
}

#[tokio::test]
async fn certificates_of_both_sides_are_checked() {
    let (ours, other) = (Authority::new(), Authority::new());
    let here = address(2379).ip().to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let cluster = secure(folder.path(), &ours, &ours.leaf(&here, false));
    let (client, stranger) = (ours.leaf("agent", false), other.leaf("agent", false));

    let right = store(&cluster, &ours, Some(&client));
    until("etcd answers", async || right.revision().await.is_ok()).await;
    let at = right.txn(put()).await.expect("it may write").revision;
    let mut watch = right.watch("", at).await.expect("it may watch");
    watch.next().await.expect("it is told");
    assert!(right.renewal_handle().expect("a thread").txn(put()).await.is_ok());

    for (what, store, expected) in [
        (
            "no certificate",
            store(&cluster, &ours, None),
            TlsProblem::OurCertificate,
        ),
        (
            "a certificate of another authority",
            store(&cluster, &ours, Some(&stranger)),
            TlsProblem::OurCertificate,
        ),
        (
            "a certificate that has expired",
            store(&cluster, &ours, Some(&ours.leaf("agent", true))),
            TlsProblem::OurCertificate,
        ),
        (
            "an authority that did not sign it",
            store(&cluster, &other, Some(&client)),
            TlsProblem::Issuer,
        ),
    ] {
        refused(what, &store, expected).await;
    }

    // Without https:// there is no answer that makes sense, and the hint is in the text of the error.
    let plain = Options::new([cluster.endpoint(0).replace("https", "http")]);
    let plain = Etcd::connect(plain).await.map(drop);
    assert!(matches!(plain, Err(etcd::Error::Unavailable { .. })), "{plain:?}");
}

#[tokio::test]
async fn a_members_certificate_for_another_name_or_time_is_refused() {
    let ours = Authority::new();
    let here = address(2379).ip().to_string();
    let client = ours.leaf("agent", false);
    for (what, leaf, expected) in [
        ("another name", ours.leaf("192.0.2.1", false), TlsProblem::Name),
        ("expired", ours.leaf(&here, true), TlsProblem::Expired),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let cluster = secure(folder.path(), &ours, &leaf);
        let store = store(&cluster, &ours, Some(&client));
        until("it listens", async || {
            !matches!(store.revision().await, Err(Error::Unavailable { .. }))
        })
        .await;
        refused(what, &store, expected).await;
    }
}

#[tokio::test]
async fn https_to_a_member_without_tls_is_refused() {
    let cluster = Recipe::members(1).start();
    cluster.store("").await;
    let ours = Authority::new();
    let options = Options::new([cluster.endpoint(0).replace("http", "https")]).tls(ours.trusted(None));
    let store = Etcd::new(options).expect("good options");
    refused("no TLS", &store, TlsProblem::Handshake).await;
}

#[tokio::test]
async fn what_is_no_certificate_is_refused_before_anything_is_sent() {
    let ours = Authority::new();
    let leaf = ours.leaf("agent", false);
    let try_with = |ca: &str, certificate: &str, key: &str| {
        let tls = Tls {
            ca: ca.into(),
            identity: Some((certificate.into(), key.into())),
        };
        let Err(error) = Etcd::new(Options::new(["https://127.0.0.1:1"]).tls(tls)) else {
            panic!("taken")
        };
        assert!(!error.to_string().contains(key) || key.is_empty(), "{error}");
        error.to_string()
    };
    assert!(try_with("", &leaf.certificate, &leaf.key).contains("authority"));
    assert!(try_with("nonsense", &leaf.certificate, &leaf.key).contains("authority"));
    assert!(try_with(&ours.pem(), "nonsense", &leaf.key).contains("our certificate"));
    assert!(try_with(&ours.pem(), &leaf.certificate, "nonsense").contains("our key"));
    let other = ours.leaf("agent", false);
    assert!(try_with(&ours.pem(), &leaf.certificate, &other.key).contains("our certificate and key"));
    for endpoint in [
        "",
        "10.0.0.1:2379",
        "ftp://10.0.0.1",
        "https://10.0.0.1:2379",
        "http://",
    ] {
        assert!(Etcd::new(Options::new([endpoint])).is_err(), "`{endpoint}`");
    }
    assert!(Etcd::new(Options::new([""; 0])).is_err());
}

async fn refused(what: &str, store: &Etcd, expected: TlsProblem) {
    match store.txn(put()).await {
        Err(Error::Server(error @ ServerError::Tls { problem, .. })) => {
            assert_eq!(problem, expected, "{what}: {error}");
            assert!(!error.hint().is_empty());
        }
        other => panic!("{what}: {other:?}"),
    }
}

fn secure(folder: &Path, authority: &Authority, leaf: &Leaf) -> Cluster {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("it is written");
        path.to_str().expect("a path that is text").to_owned()
    };
    let (ca, certificate, key) = (
        write("ca.pem", &authority.pem()),
        write("cert.pem", &leaf.certificate),
        write("key.pem", &leaf.key),
    );
    let mut recipe = Recipe::members(1).flags(&[
        "--client-cert-auth",
        "--trusted-ca-file",
        &ca,
        "--cert-file",
        &certificate,
        "--key-file",
        &key,
    ]);
    recipe.https = true;
    recipe.start()
}

fn store(cluster: &Cluster, trusts: &Authority, identity: Option<&Leaf>) -> Etcd {
    Etcd::new(cluster.options().tls(trusts.trusted(identity))).expect("good options")
}

fn put() -> Txn {
    Txn::new().then(Op::put("a", "x"))
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("good parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("it signs itself"))
    }

    fn leaf(&self, name: &str, expired: bool) -> Leaf {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a good name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if expired {
            (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2001, 1, 1));
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("it is signed");
        Leaf {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    fn trusted(&self, identity: Option<&Leaf>) -> Tls {
        Tls {
            ca: self.pem(),
            identity: identity.map(|leaf| (leaf.certificate.clone(), leaf.key.clone().into())),
        }
    }

    fn pem(&self) -> String {
        self.0.pem()
    }
}
