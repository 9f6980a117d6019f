//! What the agent says and hears.

use crate::backend::Backend;
use crate::client::{Client, get};
use crate::support::{PATIENT, Proxy, at_epoch, connect, instance, leaving, serve, target, until, web};
use api::proxy::{FromProxy, PROTOCOL, ToProxy};
use model::{Millis, Protocol, ServiceName};
use proxy::client::ProxyClient;
use proxy::listener;
use proxy::server::{self, Config};
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

#[tokio::test]
async fn an_agent_that_comes_back_is_told_everything_and_the_same_sockets_go_on() {
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    let a = Backend::named("a").await;
    proxy.route_as(7, vec![at_epoch(0, 1, 3, a.address)], vec![]).await;
    let Proxy {
        agent,
        socket,
        sockets,
        folder: _folder,
        ..
    } = proxy;
    drop((agent, sockets));
    // Nobody is in charge, and nobody notices.
    assert_eq!(get(address, "/").await.text(), "a");
    let (mut agent, hello) = connect(&socket).await;
    assert_eq!(hello.pid, std::process::id());
    let (front, listener) = &hello.fronts[0];
    assert_eq!((&front.service, front.listen, front.revision), (&web(), address, 7));
    assert_eq!(front.targets, [at_epoch(0, 1, 3, a.address)]);
    assert_eq!(listener.local_addr().unwrap(), address);
    // It needs no socket for what is served already.
    let message = serve(web(), address, Protocol::Http, PATIENT);
    agent.send(&message, None).await.unwrap();
    let (said, _) = agent.receive().await.unwrap();
    assert!(matches!(said, FromProxy::Served { error: None, .. }), "{said:?}");
    assert_eq!(get(address, "/").await.text(), "a");
}

#[tokio::test]
async fn a_second_agent_takes_the_place_of_the_first() {
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    let a = Backend::named("a").await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    let (second, hello) = connect(&proxy.socket).await;
    assert_eq!(hello.fronts.len(), 1);
    while proxy.agent.receive().await.is_ok() {}
    assert_eq!(get(address, "/").await.text(), "a");
    drop(second);
}

#[tokio::test]
async fn more_services_than_one_packet_has_room_for_are_handed_back() {
    let mut proxy = Proxy::start().await;
    let mut expected = Vec::new();
    for n in 0..300 {
        let service = ServiceName::new(format!("s{n:03}")).unwrap();
        expected.push((service.clone(), proxy.serve(service, Protocol::Tcp, PATIENT).await));
    }
    let (_agent, hello) = connect(&proxy.socket).await;
    let got: Vec<_> = hello
        .fronts
        .iter()
        .map(|(front, socket)| (front.service.clone(), socket.local_addr().unwrap()))
        .collect();
    assert!(got == expected, "{} of {} sockets", got.len(), expected.len());
}

#[tokio::test]
async fn nonsense_at_the_socket_does_no_harm() {
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    let a = Backend::named("a").await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    let hello = |protocol| format!("{{\"say\":\"hello\",\"protocol\":{protocol}}}\n");
    for nonsense in [
        "GET / HTTP/1.1\r\n\r\n".into(),
        "{}\n".into(),
        "{\"say\":\"only\",\"services\":[]}\n".into(),
        hello(PROTOCOL + 1),
    ] {
        let mut stream = UnixStream::connect(&proxy.socket).await.unwrap();
        stream.write_all(nonsense.as_bytes()).await.unwrap();
        // Sent away; an agent of another version is told ours.
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(
            said.contains(&format!("\"protocol\":{PROTOCOL}")),
            nonsense == hello(PROTOCOL + 1)
        );
    }
    // The agent in charge is still heard.
    proxy.route(vec![target(1, a.address)], vec![]).await;
    // One in charge that talks nonsense is heard on; one that never ends a line is sent away.
    let mut stream = UnixStream::connect(&proxy.socket).await.unwrap();
    stream.write_all(hello(PROTOCOL).as_bytes()).await.unwrap();
    stream.write_all(b"nonsense\n{\"say\":\"dance\"}\n").await.unwrap();
    let remove = serde_json::to_string(&ToProxy::Remove {
        service: ServiceName::new("other").unwrap(),
        drain: Millis(0),
    });
    stream
        .write_all(format!("{}\n", remove.unwrap()).as_bytes())
        .await
        .unwrap();
    let mut greeting = [0; 10];
    stream.read_exact(&mut greeting).await.unwrap();
    let endless = vec![b'x'; 1 << 20];
    while stream.write_all(&endless).await.is_ok() {}
    assert_eq!(get(address, "/").await.text(), "a");
}

#[tokio::test]
async fn a_service_without_a_proper_socket_is_refused() {
    let mut proxy = Proxy::start().await;
    let listener = listener::bind(([127, 0, 0, 1], 0).into(), false).unwrap();
    let address = listener.local_addr().unwrap();
    let elsewhere = listener::bind(([127, 0, 0, 1], 0).into(), false).unwrap();
    let file = tempfile::tempfile().unwrap();
    let message = serve(web(), address, Protocol::Tcp, PATIENT);
    for (socket, problem) in [
        (None, "no socket came with it"),
        (Some(file.as_fd()), "not a listening TCP socket"),
        (Some(elsewhere.as_fd()), "the socket listens at"),
    ] {
        proxy.agent.send(&message, socket).await.unwrap();
        let error = proxy
            .hears(|said| match said {
                FromProxy::Served { error, .. } => error.clone(),
                _ => None,
            })
            .await;
        assert!(error.contains(problem), "{error}");
    }
    proxy.agent.send(&message, Some(listener.as_fd())).await.unwrap();
    let served = proxy
        .hears(|said| match said {
            FromProxy::Served { error, .. } => Some(error.clone()),
            _ => None,
        })
        .await;
    assert_eq!(served, None);
}

#[tokio::test]
async fn neither_an_old_route_nor_an_old_epoch_is_followed() {
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    let [a, b] = [Backend::named("a").await, Backend::named("b").await];
    assert_eq!(proxy.route_as(5, vec![at_epoch(0, 1, 9, a.address)], vec![]).await, 5);
    // Old by its revision.
    for revision in [4, 5] {
        assert_eq!(
            proxy
                .route_as(revision, vec![at_epoch(0, 2, 10, b.address)], vec![])
                .await,
            5
        );
        assert_eq!(get(address, "/").await.text(), "a");
    }
    // New, but one of its targets held the slot before another did.
    let targets = vec![at_epoch(0, 2, 8, b.address), at_epoch(1, 1, 1, a.address)];
    assert_eq!(proxy.route_as(6, targets, vec![]).await, 6);
    for _ in 0..4 {
        assert_eq!(get(address, "/").await.text(), "a");
    }
    assert_eq!(b.requests().len(), 0);
    let (_agent, hello) = connect(&proxy.socket).await;
    let slots: Vec<_> = hello.fronts[0].0.targets.iter().map(|target| target.slot).collect();
    assert_eq!(slots, [1]);
}

#[tokio::test]
async fn a_service_that_is_removed_lets_its_clients_finish_and_listens_no_more() {
    let mut proxy = Proxy::start().await;
    let address = proxy.serve(web(), Protocol::Tcp, PATIENT).await;
    let other = ServiceName::new("other").unwrap();
    let other_address = proxy.serve(other.clone(), Protocol::Tcp, PATIENT).await;
    let a = Backend::echo("a").await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    let mut client = Client::connect(address).await;
    client.read(1).await;
    let mut held = Client::connect(other_address).await;
    let remove = ToProxy::Remove {
        service: web(),
        drain: Millis(300),
    };
    proxy.agent.send(&remove, None).await.unwrap();
    // Our own copies would keep the sockets open.
    proxy.sockets.clear();
    until(|| std::net::TcpStream::connect(address).is_err()).await;
    client.send("more").await;
    assert_eq!(client.read(4).await, "more");
    assert!(client.rest().await.is_err());
    proxy
        .agent
        .send(&ToProxy::Only { services: vec![other] }, None)
        .await
        .unwrap();
    let (_agent, hello) = connect(&proxy.socket).await;
    assert_eq!(hello.fronts.len(), 1);
    let mut agent = _agent;
    agent.send(&ToProxy::Only { services: vec![] }, None).await.unwrap();
    drop(hello);
    assert!(held.rest().await.is_err());
    until(|| std::net::TcpStream::connect(other_address).is_err()).await;
}

#[tokio::test]
async fn settings_change_without_a_new_socket_and_an_address_with_one() {
    let (mut proxy, address) = Proxy::serving(Protocol::Tcp, PATIENT).await;
    let a = Backend::named("a").await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    let message = serve(web(), address, Protocol::Http, PATIENT);
    proxy.agent.send(&message, None).await.unwrap();
    proxy
        .hears(|said| matches!(said, FromProxy::Served { error: None, .. }).then_some(()))
        .await;
    until_forwarded(address).await;
    let moved = proxy.serve(web(), Protocol::Http, PATIENT).await;
    proxy.sockets.remove(0);
    assert_eq!(get(moved, "/").await.text(), "a");
    until(|| std::net::TcpStream::connect(address).is_err()).await;
}

/// Until requests are understood as such: the settings reach the workers one by one.
async fn until_forwarded(address: std::net::SocketAddr) {
    for _ in 0..1_000 {
        let got = get(address, "/").await;
        if got.header("content-length") == Some("1") {
            return;
        }
    }
    panic!("the settings did not change");
}

#[tokio::test]
async fn two_proxies_do_not_run_at_one_socket() {
    let proxy = Proxy::start().await;
    let config = Config {
        socket: proxy.socket.clone(),
        workers: 1,
        drain: Duration::ZERO,
    };
    let second = std::thread::spawn(move || server::run(&config)).join().unwrap();
    assert!(
        matches!(second, Err(server::Error::AlreadyRunning { .. })),
        "{second:?}"
    );
    ProxyClient::connect(&proxy.socket).await.unwrap();
}

#[tokio::test]
async fn an_instance_that_leaves_while_nothing_is_under_way_is_drained_at_once() {
    let (mut proxy, _) = Proxy::serving(Protocol::Tcp, PATIENT).await;
    let a = Backend::echo("a").await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    proxy.route(vec![], vec![leaving(1, 60_000), leaving(9, 60_000)]).await;
    for number in [1, 9] {
        assert_eq!(proxy.hears_drained(number).await, 0, "{}", instance(number));
    }
}
