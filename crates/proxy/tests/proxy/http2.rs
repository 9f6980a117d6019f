//! HTTP/2 clients, in front of actives that speak it and of those that do not.

use crate::backend::{Backend, Reply};
use crate::support::{PATIENT, Proxy, leaving, nobody, target, until};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use model::Protocol;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

type Sender = SendRequest<Full<Bytes>>;

async fn connect(address: SocketAddr) -> Sender {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

struct Answer {
    status: u16,
    text: String,
    trailers: Option<HeaderMap>,
    head: HeaderMap,
}

async fn ask(sender: &Sender, method: Method, body: &str) -> Result<Answer, hyper::Error> {
    let request = Request::builder()
        .method(method)
        .uri("http://shop.example/path")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    let response = sender.clone().send_request(request).await?;
    let (head, body) = response.into_parts();
    let body = body.collect().await?;
    Ok(Answer {
        status: head.status.as_u16(),
        trailers: body.trailers().cloned(),
        text: String::from_utf8(body.to_bytes().to_vec()).unwrap(),
        head: head.headers,
    })
}

/// An active that speaks HTTP/2 (and 1), answers with its name after a while, and ends with a trailer as gRPC does.
struct Speaker {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    killed: watch::Sender<bool>,
}

impl Speaker {
    async fn start(name: &'static str, after: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let (killed, mut is_killed) = watch::channel(false);
        let counted = Arc::clone(&requests);
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    biased;
                    _ = is_killed.wait_for(|killed| *killed) => return,
                    accepted = listener.accept() => accepted.unwrap().0,
                };
                let (requests, mut is_killed) = (Arc::clone(&counted), is_killed.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let requests = Arc::clone(&requests);
                        async move {
                            assert_eq!(request.version(), Version::HTTP_2);
                            assert_eq!(request.uri().authority().unwrap(), "shop.example");
                            requests.fetch_add(1, SeqCst);
                            let body = request.into_body().collect().await.unwrap().to_bytes();
                            tokio::time::sleep(after).await;
                            let text = format!("{name}:{}", String::from_utf8(body.to_vec()).unwrap());
                            let mut trailers = HeaderMap::new();
                            trailers.insert("grpc-status", HeaderValue::from_static("0"));
                            let frames = [Frame::data(Bytes::from(text)), Frame::trailers(trailers)];
                            let frames = frames.map(Ok::<_, Infallible>);
                            let body = StreamBody::new(futures_util::stream::iter(frames));
                            Ok::<_, Infallible>(Response::new(body))
                        }
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    tokio::select! {
                        biased;
                        _ = is_killed.wait_for(|killed| *killed) => {}
                        _ = builder.serve_connection(TokioIo::new(stream), service) => {}
                    }
                });
            }
        });
        Self {
            address,
            requests,
            killed,
        }
    }

    fn kill(&self) {
        self.killed.send_replace(true);
    }
}

#[tokio::test]
async fn an_active_that_speaks_http2_gets_it_and_its_trailers_pass() {
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    let a = Speaker::start("a", Duration::ZERO).await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    let sender = connect(address).await;
    for method in [Method::GET, Method::POST, Method::PUT] {
        let got = ask(&sender, method, "body").await.unwrap();
        assert_eq!((got.status, got.text.as_str()), (200, "a:body"));
        assert_eq!(got.trailers.unwrap()["grpc-status"], "0");
    }
    assert_eq!(a.requests.load(SeqCst), 3);
}

#[tokio::test]
async fn an_active_that_does_not_speak_http2_gets_http1() {
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    let a = Backend::http(|request| {
        // What greets in HTTP/2 is not for it.
        if request.head.starts_with("PRI") {
            return Reply::Last(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec());
        }
        assert_eq!(request.header("host"), Some("shop.example"));
        Reply::Text(format!("a:{}", request.text()))
    })
    .await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    let sender = connect(address).await;
    for method in [Method::GET, Method::POST, Method::PUT] {
        let got = ask(&sender, method, "body").await.unwrap();
        assert_eq!((got.status, got.text.as_str()), (200, "a:body"));
    }
    // Asked once whether it speaks HTTP/2.
    let greeted = a
        .requests()
        .iter()
        .filter(|request| request.head.starts_with("PRI"))
        .count();
    assert_eq!(greeted, 1);
}

#[tokio::test]
async fn no_get_over_http2_fails_when_an_active_dies_under_it() {
    for speaks in [true, false] {
        let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
        let after = Duration::from_millis(5);
        let speakers = [Speaker::start("a", after).await, Speaker::start("b", after).await];
        let late = |_: &_| Reply::Late(Duration::from_millis(5), "ok".into());
        let backends = [Backend::http(late).await, Backend::http(late).await];
        let addresses = match speaks {
            true => [speakers[0].address, speakers[1].address],
            false => [backends[0].address, backends[1].address],
        };
        proxy
            .route(vec![target(1, addresses[0]), target(2, addresses[1])], vec![])
            .await;
        let mut clients = JoinSet::new();
        for _ in 0..4 {
            let sender = connect(address).await;
            for _ in 0..50 {
                let sender = sender.clone();
                clients.spawn(async move {
                    for _ in 0..10 {
                        assert_eq!(ask(&sender, Method::GET, "").await.unwrap().status, 200);
                    }
                });
            }
        }
        until(|| speakers[0].requests.load(SeqCst) > 200 || backends[0].requests().len() > 200).await;
        speakers[0].kill();
        backends[0].kill();
        clients.join_all().await;
        let totals = proxy.hears_totals(|totals| totals.requests == 2_000).await;
        assert_eq!(totals.failed, 0);
        assert!(totals.retried > 0);
    }
}

#[tokio::test]
async fn a_post_over_http2_is_never_repeated_and_waits_for_an_active_like_any_other() {
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    let a = Speaker::start("a", Duration::from_secs(60)).await;
    let b = Speaker::start("b", Duration::ZERO).await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    let sender = connect(address).await;
    let inside = sender.clone();
    let asking = tokio::spawn(async move { ask(&inside, Method::POST, "once").await.unwrap() });
    until(|| a.requests.load(SeqCst) == 1).await;
    proxy.route(vec![], vec![leaving(1, 0)]).await;
    let got = asking.await.unwrap();
    assert_eq!(
        (got.status, &got.head["retry-after"]),
        (503, &HeaderValue::from_static("1"))
    );
    let inside = sender.clone();
    let asking = tokio::spawn(async move { ask(&inside, Method::POST, "once").await.unwrap() });
    proxy.hears_totals(|totals| totals.holding == 1).await;
    proxy
        .route(vec![target(2, nobody()), target(3, b.address)], vec![])
        .await;
    let got = asking.await.unwrap();
    assert_eq!((got.status, got.text.as_str()), (200, "b:once"));
    assert_eq!((a.requests.load(SeqCst), b.requests.load(SeqCst)), (1, 1));
}
