use super::*;
use http::Version;
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

#[tokio::test]
async fn the_page_tells_who_answers() {
    let web = Running::start(None).await;
    let (status, page) = web.ask(Method::GET, "/").await;
    assert_eq!(status, 200);
    for part in ["web-1", "active", "no database", &std::process::id().to_string()] {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
}

#[tokio::test]
async fn http2_is_spoken_to_who_begins_with_it() {
    let web = Running::start(None).await;
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build::<_, Full<Bytes>>(HttpConnector::new());
    let uri = format!("http://{}/", web.address).parse().unwrap();
    let answer = client.get(uri).await.unwrap();
    assert_eq!((answer.version(), answer.status()), (Version::HTTP_2, StatusCode::OK));
}

#[tokio::test]
async fn the_counter_is_that_of_the_database() {
    let db = FakeDb::start().await;
    let web = Running::start(Some(db.address.to_string())).await;
    let (status, body) = web.ask(Method::POST, "/count").await;
    assert_eq!((status, body.as_str()), (200, "{\"counter\":42}\n"));
    let (_, page) = web.ask(Method::GET, "/").await;
    assert!(page.contains("<dd>41"), "{page}");
}

#[tokio::test]
async fn without_its_database_it_is_alive_and_says_so() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let web = Running::start(Some(nobody.to_string())).await;
    let (status, page) = web.ask(Method::GET, "/").await;
    assert_eq!((status, page.contains("not available")), (200, true), "{page}");
    let (status, health) = web.ask(Method::GET, "/healthz").await;
    assert_eq!(status, 200);
    assert!(health.contains("cannot be reached"), "{health}");
    assert_eq!(web.ask(Method::POST, "/count").await.0, 503);
}

#[tokio::test]
async fn bad_requests_are_refused_with_a_reason() {
    let web = Running::start(None).await;
    for (method, path, expected) in [
        (Method::GET, "/slow?ms=soon", 400),
        (Method::GET, "/slow?ms=60001", 400),
        (Method::GET, "/bytes?n=-1", 400),
        (Method::GET, "/bytes?n=99999999999", 400),
        (Method::DELETE, "/", 405),
        (Method::GET, "/count", 405),
        (Method::POST, "/count", 404),
        (Method::GET, "/nothing", 404),
    ] {
        let (status, body) = web.ask(method.clone(), path).await;
        assert_eq!(status, expected, "{method} {path}: {body}");
        assert!(body.contains("\"error\""), "{method} {path}: {body}");
    }
}

#[tokio::test]
async fn as_many_bytes_as_asked_for() {
    let web = Running::start(None).await;
    for count in [0, 1, 16_384, 100_000] {
        let (status, body) = web.ask(Method::GET, &format!("/bytes?n={count}")).await;
        assert_eq!((status, body.len()), (200, count));
    }
}

#[tokio::test]
async fn told_to_stop_it_finishes_what_is_under_way_and_takes_nothing_new() {
    let mut web = Running::start(None).await;
    let address = web.address;
    let slow = tokio::spawn(async move { ask_at(address, Method::GET, "/slow?ms=300").await });
    // Under way once the server has read it: a request on another connection is answered after that one was accepted.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(web.ask(Method::GET, "/healthz").await.0, 200);
    web.stop.take().unwrap().send(()).unwrap();
    assert_eq!(slow.await.unwrap().0, 200);
    web.ended.await.unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[test]
fn an_address_without_a_port_is_refused() {
    for given in ["localhost", "", "127.0.0.1:", "a b:1", ":80"] {
        let error = Db::new(given).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("HOST:PORT")), "{given}");
    }
    assert!(Db::new("127.0.0.1:6380").is_ok());
}

struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    ended: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(db: Option<String>) -> Self {
        let listener = serve::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let config = WebConfig {
            listen: address,
            db,
            start_delay: Duration::ZERO,
            answer_delay: Duration::ZERO,
            identity: Identity {
                instance: "web-1".into(),
                role: "active".into(),
            },
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(async {
            serve_on(listener, config, async { drop(stopped.await) }).await.unwrap();
        });
        Self {
            address,
            stop: Some(stop),
            ended,
        }
    }

    async fn ask(&self, method: Method, path: &str) -> (u16, String) {
        ask_at(self.address, method, path).await
    }
}

async fn ask_at(address: SocketAddr, method: Method, path: &str) -> (u16, String) {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "web")
        .body(Full::<Bytes>::default())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// Answers `GET /counter` with 41 and `POST /counter` with 42.
struct FakeDb {
    address: SocketAddr,
}

impl FakeDb {
    async fn start() -> Self {
        let listener = serve::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve::run(
            listener,
            Arc::new(()),
            |_, request: Request<Incoming>| async move {
                let counter = if request.method() == Method::POST { 42 } else { 41 };
                serve::json(StatusCode::OK, &serde_json::json!({ "counter": counter }))
            },
            std::future::pending(),
        ));
        Self { address }
    }
}
