//! A node joins: token, pinned call, signed certificates, folder.

use crate::world::{Cluster, Server, call, copy, minutes, name, now};
use identity::rotation::TrustRecord;
use identity::{
    Authority, BundleError, Expect, Folder, IssueError, JoinToken, Keys, NodeRole, Presented, Purpose, RenewError,
    Sealed, TOKEN_LIFETIME, Tls, Why, join_client_config, mint_join_token, redeem,
};

#[tokio::test]
async fn a_node_joins_with_a_token_and_is_one_of_the_cluster() {
    let cluster = Cluster::new();
    let door = Server::start(
        cluster
            .node("a", NodeRole::Member)
            .join_server_config()
            .expect("config"),
    )
    .await;

    // On `a`: the operator makes a token; the store keeps the sealed record.
    let (token, record) = mint(&cluster, NodeRole::Member);
    let key = format!("join/{}", record.id);
    let stored: Sealed = cluster.authority.seal(Purpose::Join, &key, &record).expect("seal");

    // On `b`: the operator pastes it.
    let token = JoinToken::parse(token.text().reveal()).expect("token");
    let (greeting, peer) = call(join_client_config(&token).expect("config"), door.address)
        .await
        .expect("pinned");
    assert_eq!(
        (greeting.as_str(), peer.node()),
        ("nobody", Some((&name("a"), NodeRole::Member)))
    );
    let keys = Keys::generate().expect("keys");
    let request = keys
        .request(Some(&token), &name("b"), None, &["127.0.0.1".into()])
        .expect("request");
    let sent = serde_json::to_string(&request).expect("json");
    assert!(!sent.contains("PRIVATE KEY"), "keys do not leave the node");

    // On `a` again.
    let request: identity::JoinRequest = serde_json::from_str(&sent).expect("json");
    let shown = JoinToken::parse(request.token.as_ref().expect("token").reveal()).expect("token");
    let opened = stored.open(&cluster.trust, Purpose::Join, &key).expect("sealed by us");
    let requests = request.requests();
    let presented = Presented {
        token: &shown,
        node: &request.node,
        role: request.role,
        requests: &requests,
    };
    let redeemed = redeem(cluster.trust.cluster, Some(&opened), &presented, now()).expect("let in");
    let profile = serde_json::json!({"timing": "lan"});
    let (authorities, endpoints) = ([copy(&cluster.authority)], ["https://10.0.0.1:2379".to_owned()]);
    let mut registrar = cluster.registrar(&authorities, minutes(60));
    (registrar.endpoints, registrar.profile) = (&endpoints, &profile);
    let bundle = registrar
        .enrol(&request.node, redeemed.role, &request, now())
        .expect("bundle");

    // On `b`: it is what was asked for, is kept, and works.
    let bundle: identity::Bundle = serde_json::from_str(&serde_json::to_string(&bundle).expect("json")).expect("json");
    bundle.check(&keys, &name("b"), Some(&token)).expect("fits");
    assert_eq!(bundle.profile, profile);
    let temporary = tempfile::tempdir().expect("folder");
    let folder = Folder::create(temporary.path().join("pki")).expect("folder");
    bundle.save(&folder, &keys).expect("saved");
    let tls = Tls::load(&folder).expect("loaded");
    assert_eq!(tls.own().expect("own").node(), Some((&name("b"), NodeRole::Member)));
    let (greeting, _) = call(
        tls.client_config(Expect::Node(name("a"))).expect("config"),
        door.address,
    )
    .await
    .expect("let in");
    assert_eq!(greeting, "member b");

    // As a member it can let others in itself.
    let authority = Authority::load(&folder, 1).expect("the authority's keys");
    assert_eq!(authority.certs(), cluster.authority.certs());
    authority
        .seal(Purpose::Join, "join/x", &"record")
        .expect("seal")
        .open::<String>(&cluster.trust, Purpose::Join, "join/x")
        .expect("believed");
    std::fs::set_permissions(
        folder.file("authority-1.pem"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .expect("chmod");
    let error = Authority::load(&folder, 1).expect_err("open to others");
    assert!(
        matches!(&error, IssueError::File(file) if file.to_string().contains("chmod 600")),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_joiner_believes_only_a_member_with_the_authority_of_its_token() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let (token, _) = mint(&ours, NodeRole::Worker);
    let pinned = || join_client_config(&token).expect("config");

    let server = Server::start(theirs.node("a", NodeRole::Member).join_server_config().expect("config")).await;
    let refused = call(pinned(), server.address).await.expect_err("another cluster");
    assert_eq!(refused.why, Why::OtherAuthority);

    for (role, word) in [(NodeRole::Worker, "worker"), (NodeRole::Witness, "witness")] {
        let server = Server::start(ours.node("w", role).join_server_config().expect("config")).await;
        let refused = call(pinned(), server.address).await.expect_err("cannot let in");
        assert_eq!(refused.why, Why::NotAMember { role });
        assert!(refused.to_string().contains(word), "{refused}");
    }

    // Somebody puts our authority's certificate, which is no secret, behind a certificate of their own.
    let keys = Keys::generate().expect("keys");
    let mut bundle = theirs.enrol(&keys, "a", NodeRole::Member, (minutes(60), now()));
    bundle
        .certificates
        .node_pem
        .push_str(&ours.authority.certs().cluster_pem);
    let attacker = theirs.stranger();
    crate::world::show(&attacker, &keys, &bundle);
    let server = Server::start(attacker.join_server_config().expect("config")).await;
    let refused = call(pinned(), server.address).await.expect_err("attacker");
    assert!(
        !matches!(refused.why, Why::OtherAuthority),
        "the certificate is there: {refused}"
    );
    assert!(
        refused.to_string().contains("UnknownIssuer") || matches!(refused.why, Why::NotSigned { .. }),
        "{refused}"
    );
}

#[test]
fn a_renewal_goes_by_the_certificate_of_the_caller_and_not_by_what_it_asks_for() {
    let mut cluster = Cluster::new();
    let worker = cluster.node("w", NodeRole::Worker).own().expect("own");
    let keys = Keys::generate().expect("keys");
    let asks = keys
        .request(None, &name("a"), Some(NodeRole::Member), &[])
        .expect("request");
    let authorities = [copy(&cluster.authority)];
    let bundle = cluster
        .registrar(&authorities, minutes(60))
        .renew(&worker, &asks, now())
        .expect("renewed");
    assert_eq!((bundle.node.as_str(), bundle.role), ("w", NodeRole::Worker));
    assert!(bundle.authorities.is_empty());
    bundle.check(&keys, &name("w"), None).expect("fits");

    let mut operator = worker.clone();
    operator.who.kind = identity::Kind::Operator {
        name: name("w"),
        right: identity::Right::Operate,
    };
    let error = cluster
        .registrar(&authorities, minutes(60))
        .renew(&operator, &asks, now())
        .expect_err("no node");
    assert!(
        error.to_string().starts_with("operator w (operate) of cluster"),
        "{error}"
    );
    let other = Cluster::new().node("w", NodeRole::Worker).own().expect("own");
    let error = cluster.registrar(&authorities, minutes(60)).renew(&other, &asks, now());
    assert!(matches!(error, Err(RenewError::NotANode { .. })), "{error:?}");

    // Over a connection that was open before it was removed.
    cluster
        .revoked
        .revoke_issue(worker.issue, &name("w"), worker.not_after, "stolen", now());
    let error = cluster
        .registrar(&authorities, minutes(60))
        .renew(&worker, &asks, now())
        .expect_err("removed");
    assert!(error.to_string().contains("`w` was removed (stolen)"), "{error}");
}

#[test]
fn a_member_that_lacks_the_new_authority_gets_it_with_its_renewal_and_a_worker_does_not() {
    let mut cluster = Cluster::new();
    let new = cluster.authority.successor(now()).expect("successor");
    let member = cluster.node("b", NodeRole::Member).own().expect("own");
    let worker = cluster.node("w", NodeRole::Worker).own().expect("own");
    cluster.trust = cluster.trust.begin(&new).expect("begin");
    let authorities = [copy(&cluster.authority), new];
    let keys = Keys::generate().expect("keys");
    for (peer, node, gets) in [(&member, "b", 2), (&worker, "w", 0)] {
        let request = keys.request(None, &name(node), None, &[]).expect("request");
        let bundle = cluster
            .registrar(&authorities, minutes(60))
            .renew(peer, &request, now())
            .expect("renewed");
        assert_eq!(bundle.authorities.len(), gets, "{node}");
        bundle.check(&keys, &name(node), None).expect("fits");
    }
    let request = keys.request(None, &name("b"), None, &[]).expect("request");
    cluster.trust = TrustRecord::first(&authorities[1]);
    let error = cluster
        .registrar(&authorities[..1], minutes(60))
        .renew(&member, &request, now())
        .expect_err("no keys");
    assert!(matches!(error, RenewError::Issue(_)), "{error}");
}

#[test]
fn only_members_get_the_keys_of_the_authority_and_only_voters_certificates_for_etcd() {
    let cluster = Cluster::new();
    for (role, keys_of_authority, for_etcd) in [
        (NodeRole::Member, true, true),
        (NodeRole::Witness, false, true),
        (NodeRole::Worker, false, false),
    ] {
        let bundle = cluster.enrol(&Keys::generate().expect("keys"), "n", role, (minutes(60), now()));
        assert_eq!(!bundle.authorities.is_empty(), keys_of_authority, "{role}");
        assert_eq!(bundle.certificates.store_peer_pem.is_some(), for_etcd, "{role}");
        assert_eq!(bundle.certificates.store_server_pem.is_some(), for_etcd, "{role}");
        let sent = serde_json::to_string(&bundle).expect("json");
        assert_eq!(sent.contains("PRIVATE KEY"), keys_of_authority, "{role}");
    }
}

#[test]
fn an_answer_that_does_not_fit_is_refused_before_anything_is_kept() {
    let cluster = Cluster::new();
    let (token, _) = mint(&cluster, NodeRole::Member);
    let (other_token, _) = mint(&Cluster::new(), NodeRole::Member);
    let keys = Keys::generate().expect("keys");
    let good = || cluster.enrol(&keys, "b", NodeRole::Member, (minutes(60), now()));
    good().check(&keys, &name("b"), Some(&token)).expect("fits");
    let refused = |bundle: &identity::Bundle, node: &str, token| {
        bundle
            .check(&keys, &name(node), Some(token))
            .expect_err("refused")
            .to_string()
    };

    assert!(refused(&good(), "c", &token).contains("for another node"));
    assert!(refused(&good(), "b", &other_token).contains("another cluster than the token"));
    let mut bundle = good();
    bundle.certificates.node_pem = cluster
        .enrol(&keys, "c", NodeRole::Member, (minutes(60), now()))
        .certificates
        .node_pem;
    assert!(refused(&bundle, "b", &token).contains("for somebody else"));
    let stranger = Keys::generate().expect("keys");
    let bundle = cluster.enrol(&stranger, "b", NodeRole::Member, (minutes(60), now()));
    assert!(refused(&bundle, "b", &token).contains("for another key"));
    let mut bundle = good();
    bundle.authorities.clear();
    assert!(refused(&bundle, "b", &token).contains("keys are missing"));
    let mut bundle = good();
    bundle.authorities = vec![Cluster::new().authority.to_secret()];
    let error = bundle.check(&keys, &name("b"), Some(&token));
    assert!(matches!(error, Err(BundleError::Mismatch(_))), "{error:?}");
}

#[test]
fn names_that_may_be_another_nodes_are_not_signed() {
    let cluster = Cluster::new();
    let keys = Keys::generate().expect("keys");
    let sign = |host: &str| {
        let request = keys.request(None, &name("b"), None, &[host.into()]).expect("request");
        let enrolment = identity::Enrolment {
            node: &name("b"),
            role: NodeRole::Member,
            hosts: &request.hosts,
            node_csr: &request.node_csr,
            store_csr: &request.store_csr,
        };
        cluster.authority.enrol(&enrolment, minutes(60), now()).map(|_| ())
    };
    for good in [
        "b",
        "localhost",
        "10.0.0.2",
        "fd00::2",
        "b.example.org",
        "B-2.example.org",
    ] {
        sign(good).unwrap_or_else(|error| panic!("{good}: {error}"));
    }
    for bad in [
        "a",
        "",
        "*.example.org",
        "0.0.0.0",
        "224.0.0.1",
        "a b.c",
        "b.example.org\n",
        "ü.example.org",
        "x..y",
        "understudy://x",
    ] {
        let error = sign(bad).expect_err(bad);
        assert!(matches!(error, IssueError::Host { .. }), "{bad}: {error}");
    }
}

#[test]
fn a_request_that_its_own_key_did_not_sign_is_refused() {
    let cluster = Cluster::new();
    let request = Keys::generate()
        .expect("keys")
        .request(None, &name("b"), None, &[])
        .expect("request");
    let mut lines: Vec<String> = request.node_csr.lines().map(str::to_owned).collect();
    let last = lines.len() - 2;
    let swapped = if lines[last].starts_with('A') { "B" } else { "A" };
    lines[last].replace_range(0..1, swapped);
    for node_csr in [
        lines.join("\n"),
        String::new(),
        "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n".into(),
    ] {
        let enrolment = identity::Enrolment {
            node: &name("b"),
            role: NodeRole::Worker,
            hosts: &[],
            node_csr: &node_csr,
            store_csr: &request.store_csr,
        };
        let error = cluster
            .authority
            .enrol(&enrolment, minutes(60), now())
            .expect_err("refused");
        assert!(matches!(error, IssueError::BadRequest), "{error}");
    }
}

fn mint(cluster: &Cluster, role: NodeRole) -> (JoinToken, identity::JoinRecord) {
    let addresses = ["127.0.0.1:7400".to_owned()];
    mint_join_token(&cluster.authority, role, None, &addresses, TOKEN_LIFETIME, now()).expect("token")
}
