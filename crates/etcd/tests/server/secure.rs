//! Members that trust only certificates of their own authority.

use crate::rig::{PATIENCE, World, address, cluster, get, put, tell};
use etcd::server::cluster::{Error, bootstrap};
use etcd::server::config::Tls;
use etcd::{Client, Options};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[tokio::test]
async fn members_with_certificates_make_a_cluster_and_strangers_are_kept_out() {
    let world = World::new();
    let (ours, other) = (Authority::new("ours"), Authority::new("another"));
    let folder = world.folder.path();
    let secure = |name: &str, n, authority: &Authority| {
        let mut config = world.config(name, n);
        config.tls = Some(authority.files(folder, name));
        config
    };
    let a = bootstrap(secure("a", 0, &ours)).await.unwrap();
    put(&a, "k", "v").await;
    let mut cluster = cluster(&a);
    let b = cluster.join(secure("b", 1, &ours), PATIENCE, &mut tell).await.unwrap();
    assert_eq!(get(&b, "k").await.as_deref(), Some("v"));

    let ca = ours.0.pem();
    let plain = Options::new([a.config().client_url()]).tls(etcd::Tls { ca, identity: None });
    let refused = Client::connect(plain).await.map(drop);
    assert!(refused.is_err(), "no certificate, no answer");

    // A node with certificates of another authority reaches nobody, and nobody reaches it.
    let stranger = secure("x", 2, &other);
    let error = cluster
        .join(stranger, Duration::from_secs(7), &mut tell)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Died { .. } | Error::NotJoined { .. }), "{error}");
    assert_eq!(cluster.look().await.unwrap().names(), ["a", "b"]);
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A node's certificate, in files.
    fn files(&self, folder: &Path, node: &str) -> Tls {
        // A peer's certificate must name the address that it comes from, and on loopback that is always this one.
        let mut params = CertificateParams::new([address().to_string(), "127.0.0.1".into()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        let write = |kind: &str, text: String| -> PathBuf {
            let path = folder.join(format!("{node}.{kind}"));
            std::fs::write(&path, text).unwrap();
            path
        };
        Tls {
            peer_cert: None,
            peer_name: None,
            revoked: None,
            ca: write("ca", self.0.pem()),
            cert: write("pem", cert.pem()),
            key: write("key", key.serialize_pem()),
        }
    }
}
