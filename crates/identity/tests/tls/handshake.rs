//! Who is believed, and what the others are told.

use crate::world::{Cluster, Server, call, call_with, minutes, name, now};
use identity::{Expect, Issued, Keys, NodeRole, OPERATOR_LIFETIME, Refused, Right, Tls, Why};
use model::WallTime;
use rustls::{ClientConfig, ServerConfig};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

#[tokio::test]
async fn two_nodes_of_a_cluster_know_each_other_by_name_and_role() {
    let cluster = Cluster::new();
    let server = Server::start(server(&cluster.node("a", NodeRole::Member))).await;
    let worker = cluster.node("w", NodeRole::Worker);
    for expect in [Expect::AnyNode, Expect::Node(name("a"))] {
        let (greeting, peer) = call(client(&worker, expect), server.address).await.expect("let in");
        assert_eq!(greeting, "worker w");
        assert_eq!(peer.node(), Some((&name("a"), NodeRole::Member)));
        assert_eq!(peer.who.cluster, cluster.authority.cluster_id());
    }
}

#[tokio::test]
async fn an_operator_is_let_in_with_its_right_and_cannot_pose_as_a_node() {
    let cluster = Cluster::new();
    let keys = Keys::generate().expect("keys");
    let csr = keys.request(None, &name("ann"), None, &[]).expect("request").node_csr;
    let signed = cluster
        .authority
        .enrol_operator(&name("ann"), Right::Read, &csr, OPERATOR_LIFETIME, now());
    let (_, pem) = signed.expect("signed");
    let operator = cluster.stranger();
    let certificates = identity::Certificates {
        node_pem: pem,
        ..cluster
            .enrol(
                &Keys::generate().expect("keys"),
                "x",
                NodeRole::Worker,
                (minutes(1), now()),
            )
            .certificates
    };
    operator.replace_own(&keys.node_pem(&certificates), None).expect("own");

    let node = cluster.node("a", NodeRole::Member);
    let server = Server::start(server(&node)).await;
    let (greeting, _) = call(client(&operator, Expect::AnyNode), server.address)
        .await
        .expect("let in");
    assert_eq!(greeting, "operator ann (read)");

    // With a client's certificate it makes a server: not even the use is allowed.
    let impostor = Server::start(self::server(&operator)).await;
    let refused = call(client(&node, Expect::AnyNode), impostor.address)
        .await
        .expect_err("no server");
    assert!(matches!(refused.why, Why::Other(_)), "{refused}");
    // And it has nothing to show to the store.
    assert!(!client(&operator, Expect::Store).client_auth_cert_resolver.has_certs());
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused_by_name_on_both_sides() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let (our_id, their_id) = (ours.authority.cluster_id(), theirs.authority.cluster_id());
    let mut server = Server::start(server(&ours.node("a", NodeRole::Member))).await;

    // The client notices.
    let refused = call(
        client(&theirs.node("a", NodeRole::Member), Expect::AnyNode),
        server.address,
    )
    .await;
    let refused = refused.expect_err("another cluster");
    assert_eq!(
        refused.why,
        Why::OtherCluster {
            theirs: our_id,
            ours: their_id
        }
    );
    assert!(
        refused.to_string().contains("two clusters must not share addresses"),
        "{refused}"
    );
    assert!(matches!(server.why().await.why, Why::ByThem(_)), "the server is told");

    // The server notices, if the client does not care.
    let careless = careless(&theirs.node("b", NodeRole::Member));
    let told = call(careless, server.address).await.expect_err("another cluster");
    assert!(matches!(told.why, Why::ByThem(_)), "{told}");
    assert_eq!(
        server.why().await.why,
        Why::OtherCluster {
            theirs: their_id,
            ours: our_id
        }
    );
}

#[tokio::test]
async fn a_forged_certificate_with_our_clusters_id_is_refused() {
    let ours = Cluster::new();
    let mut server = Server::start(server(&ours.node("a", NodeRole::Member))).await;
    // The next authority of the same cluster, made by somebody who has the old one's keys and is not in the trust record.
    let mut forged = Cluster::new();
    forged.authority = ours.authority.successor(now()).expect("successor");
    forged.trust = identity::rotation::TrustRecord::first(&forged.authority);
    let told = call(careless(&forged.node("b", NodeRole::Member)), server.address)
        .await
        .expect_err("forged");
    assert!(matches!(told.why, Why::ByThem(_)), "{told}");
    let refused = server.why().await;
    assert_eq!(
        refused.why,
        Why::NotSigned {
            claims: "member b".into()
        }
    );
    assert!(refused.hint.contains("join again"), "{refused}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_and_both_sides_think_of_the_clock() {
    let cluster = Cluster::new();
    let old = WallTime(now().0 - 20 * 60_000);
    let expired = cluster.node_at("b", NodeRole::Worker, minutes(10), old);
    let fresh = cluster.node("a", NodeRole::Member);
    let mut server = Server::start(server(&fresh)).await;
    let told = call(client(&expired, Expect::AnyNode), server.address)
        .await
        .expect_err("expired");
    assert!(
        told.to_string().contains("expired or not yet valid by its clock"),
        "{told}"
    );
    assert!(told.hint.contains("clocks"), "{told}");
    let refused = server.why().await;
    assert!(
        refused
            .to_string()
            .starts_with("the other side's certificate expired 10 minutes ago"),
        "{refused}"
    );
    assert!(refused.hint.contains("compare the clocks"), "{refused}");

    let late = Server::start(self::server(&expired)).await;
    let refused = call(client(&fresh, Expect::AnyNode), late.address)
        .await
        .expect_err("expired");
    assert!(
        matches!(
            refused.why,
            Why::Expired {
                by_ms: 599_000..=660_000
            }
        ),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_certificate_of_tomorrow_is_refused_and_one_of_a_fast_clock_is_not() {
    let cluster = Cluster::new();
    let fresh = cluster.node("a", NodeRole::Member);
    let mut server = Server::start(server(&fresh)).await;
    let ahead = |minutes_ahead: i64| WallTime(now().0 + minutes_ahead * 60_000);
    let tomorrow = cluster.node_at("b", NodeRole::Worker, minutes(60), ahead(24 * 60 + 30));
    call(client(&tomorrow, Expect::AnyNode), server.address)
        .await
        .expect_err("not yet");
    let refused = server.why().await;
    assert!(matches!(refused.why, Why::NotYetValid { .. }), "{refused:?}");
    assert!(refused.to_string().contains("valid only in 23 hours"), "{refused}");
    assert!(refused.hint.contains("clocks"), "{refused}");

    let skewed = cluster.node_at("b", NodeRole::Worker, minutes(60), ahead(50));
    call(client(&skewed, Expect::AnyNode), server.address)
        .await
        .expect("a clock that is 50 minutes ahead");
}

#[tokio::test]
async fn an_address_that_belongs_to_another_node_now_is_noticed() {
    let cluster = Cluster::new();
    let server = Server::start(server(&cluster.node("b", NodeRole::Member))).await;
    let caller = cluster.node("a", NodeRole::Member);
    let refused = call(client(&caller, Expect::Node(name("c"))), server.address)
        .await
        .expect_err("b is not c");
    assert_eq!(
        refused.why,
        Why::WrongName {
            expected: "node c".into(),
            found: "member b".into()
        }
    );
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_except_where_nodes_join() {
    let cluster = Cluster::new();
    let node = cluster.node("a", NodeRole::Member);
    let mut closed = Server::start(server(&node)).await;
    let stranger = client(&cluster.stranger(), Expect::AnyNode);
    let told = call(stranger.clone(), closed.address)
        .await
        .expect_err("no certificate");
    assert!(told.to_string().contains("it wants one and we have none"), "{told}");
    assert_eq!(closed.why().await.why, Why::NoCertificate);

    let mut door = Server::start(node.join_server_config().expect("config")).await;
    assert_eq!(call(stranger, door.address).await.expect("let in").0, "nobody");
    let worker = cluster.node("w", NodeRole::Worker);
    assert_eq!(
        call(client(&worker, Expect::AnyNode), door.address)
            .await
            .expect("let in")
            .0,
        "worker w"
    );
    // A certificate that is shown is judged also there.
    let other = careless(&Cluster::new().node("w", NodeRole::Worker));
    call(other, door.address).await.expect_err("another cluster");
    assert!(matches!(door.why().await.why, Why::OtherCluster { .. }));
}

#[tokio::test]
async fn a_revoked_node_is_refused_from_the_next_connection_on() {
    let cluster = Cluster::new();
    let ours = cluster.node("a", NodeRole::Member);
    let mut server = Server::start(server(&ours)).await;
    let removed = cluster.node("b", NodeRole::Worker);
    let kept = TlsConnector::from(Arc::new(client(&cluster.node("c", NodeRole::Worker), Expect::AnyNode)));
    // One configuration for all: a resumed session would pass by the list.
    let connector = TlsConnector::from(Arc::new(client(&removed, Expect::AnyNode)));
    let (_, peer_a) = call_with(&connector, server.address).await.expect("let in");
    call_with(&connector, server.address).await.expect("let in again");

    let peer = removed.own().expect("a certificate");
    assert!(ours.still_allowed(&peer));
    let mut list = cluster.revoked.clone();
    list.revoke_issue(peer.issue, &name("b"), peer.not_after, "stolen", now());
    ours.replace_revoked(list.clone()).expect("newer list");
    assert!(!ours.still_allowed(&peer), "open connections are found by it");
    assert!(ours.still_allowed(&peer_a));
    let told = call_with(&connector, server.address).await.expect_err("revoked");
    assert!(told.to_string().contains("this node was removed"), "{told}");
    let refused = server.why().await;
    assert_eq!(refused.why, Why::Revoked);
    call_with(&kept, server.address)
        .await
        .expect("others are not concerned");

    // And as a server.
    let removed_server = Server::start(self::server(&removed)).await;
    let refused = call(client(&ours, Expect::AnyNode), removed_server.address)
        .await
        .expect_err("revoked");
    assert_eq!(refused.why, Why::Revoked);

    let stale = ours
        .replace_revoked(cluster.revoked.clone())
        .expect_err("an older list");
    assert!(stale.to_string().contains("put the old record back"), "{stale}");
    call_with(&connector, server.address).await.expect_err("still revoked");
}

#[tokio::test]
async fn a_removed_node_is_refused_whatever_was_issued_to_it_and_may_join_anew_later() {
    let mut cluster = Cluster::new();
    let ours = cluster.node("a", NodeRole::Member);
    let server = Server::start(server(&ours)).await;
    let ten_minutes_ago = WallTime(now().0 - 600_000);
    let removed = cluster.node_at("b", NodeRole::Worker, minutes(60), ten_minutes_ago);
    let five_minutes_ago = WallTime(now().0 - 300_000);
    // Nobody noted what was issued.
    cluster
        .revoked
        .revoke_node(&name("b"), &Issued::default(), "removed", five_minutes_ago);
    ours.replace_revoked(cluster.revoked.clone()).expect("newer list");
    call(client(&removed, Expect::AnyNode), server.address)
        .await
        .expect_err("removed");
    let anew = cluster.node("b", NodeRole::Worker);
    call(client(&anew, Expect::AnyNode), server.address)
        .await
        .expect("joined again");

    assert!(!cluster.revoked.prune(now()));
    let version = cluster.revoked.version;
    assert!(
        cluster.revoked.prune(WallTime(now().0 + 92 * 86_400_000)),
        "the entry ends with the certificates"
    );
    assert!(cluster.revoked.nodes.is_empty() && cluster.revoked.version > version);
}

#[tokio::test]
async fn what_speaks_no_tls_or_an_old_one_is_told_apart() {
    let cluster = Cluster::new();
    let node = cluster.node("a", NodeRole::Member);
    let mut server = Server::start(server(&node)).await;
    let mut tcp = TcpStream::connect(server.address).await.expect("connect");
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("write");
    assert_eq!(server.why().await.why, Why::NotTls);

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let address = listener.local_addr().expect("address");
    let web = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.expect("accept");
        let mut hello = [0; 16];
        tcp.read_exact(&mut hello).await.expect("hello");
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("write");
    });
    let refused = call(client(&node, Expect::AnyNode), address)
        .await
        .expect_err("a web server");
    assert_eq!(refused.why, Why::NotTls, "{refused}");
    web.await.expect("web server");
}

#[tokio::test]
async fn nothing_of_it_shows_a_key_when_it_is_printed() {
    let cluster = Cluster::new();
    let keys = Keys::generate().expect("keys");
    let bundle = cluster.enrol(&keys, "a", NodeRole::Member, (minutes(60), now()));
    let tls = cluster.node("a", NodeRole::Member);
    let (server, client) = (server(&tls), client(&tls, Expect::AnyNode));
    let shown = format!(
        "{keys:?} {bundle:?} {:?} {tls:?} {server:?} {client:?}",
        cluster.authority
    );
    for secret in [
        keys.node_pem(&bundle.certificates),
        keys.store_key().clone(),
        cluster.authority.to_secret(),
    ] {
        let text = secret.reveal();
        let begin = text.find("PRIVATE KEY-----").expect("a key");
        // The second line of a key: the first begins alike for all.
        let line = text[begin..].lines().nth(2).expect("two lines");
        assert!(line.len() > 40 && !shown.contains(line), "a key is shown");
    }
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    assert!(
        serde_json::to_string(&bundle).expect("json").contains("PRIVATE KEY"),
        "the bundle itself has them"
    );
}

fn server(tls: &Tls) -> ServerConfig {
    tls.server_config().expect("config")
}

fn client(tls: &Tls, expect: Expect) -> ClientConfig {
    tls.client_config(expect).expect("config")
}

/// Shows the node's certificate and believes whatever server there is.
fn careless(tls: &Tls) -> ClientConfig {
    let shows = tls
        .client_config(Expect::AnyNode)
        .expect("config")
        .client_auth_cert_resolver
        .clone();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(BelievesAll))
        .with_no_client_auth();
    config.client_auth_cert_resolver = shows;
    config
}

#[derive(Debug)]
struct BelievesAll;

impl rustls::client::danger::ServerCertVerifier for BelievesAll {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[test]
fn a_refusal_of_an_io_error_that_is_not_of_tls_is_none() {
    assert_eq!(Refused::from_io(&std::io::Error::other("broken pipe")), None);
}
