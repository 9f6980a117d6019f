//! Actives that do as they are told: answer, hang, die within a request, disappear.

use crate::client::{Message, read_message};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What is done with a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// 200 with this body.
    Text(String),
    /// These bytes.
    Raw(Vec<u8>),
    /// These bytes and then the end of the connection.
    Last(Vec<u8>),
    /// These bytes and then a reset.
    Broken(Vec<u8>),
    /// 200 after a while.
    Late(Duration, String),
    /// These bytes, and nothing after them until the other side has enough of it.
    Hang(Vec<u8>),
    /// The protocol is changed; from here on what comes is sent back.
    Echo,
}

pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
    killed: watch::Sender<bool>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: Mutex<Vec<Message>>,
}

enum Kind {
    Http(Box<dyn Fn(&Message) -> Reply + Send + Sync>),
    Echo(String),
}

impl Backend {
    /// An HTTP/1.1 server.
    pub(crate) async fn http(reply: impl Fn(&Message) -> Reply + Send + Sync + 'static) -> Self {
        Self::start("127.0.0.1:0".parse().unwrap(), Kind::Http(Box::new(reply))).await
    }

    /// An HTTP/1.1 server that answers with its name.
    pub(crate) async fn named(name: &str) -> Self {
        let name = name.to_string();
        Self::http(move |_| Reply::Text(name.clone())).await
    }

    /// The same, at an address.
    pub(crate) async fn named_at(name: &str, address: SocketAddr) -> Self {
        let name = name.to_string();
        Self::start(address, Kind::Http(Box::new(move |_| Reply::Text(name.clone())))).await
    }

    /// A server that says its name to whoever comes, sends back what it gets, and ends when the client does.
    pub(crate) async fn echo(name: &str) -> Self {
        Self::start("127.0.0.1:0".parse().unwrap(), Kind::Echo(name.to_string())).await
    }

    async fn start(address: SocketAddr, kind: Kind) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let (killed, mut is_killed) = watch::channel(false);
        let (kind, counted) = (Arc::new(kind), Arc::clone(&seen));
        tokio::spawn(async move {
            loop {
                let mut stream = tokio::select! {
                    biased;
                    _ = is_killed.wait_for(|killed| *killed) => return,
                    accepted = listener.accept() => accepted.unwrap().0,
                };
                let (kind, seen, mut is_killed) = (Arc::clone(&kind), Arc::clone(&counted), is_killed.clone());
                tokio::spawn(async move {
                    seen.connections.fetch_add(1, SeqCst);
                    seen.open.fetch_add(1, SeqCst);
                    tokio::select! {
                        biased;
                        _ = is_killed.wait_for(|killed| *killed) => stream.set_zero_linger().unwrap(),
                        () = kind.serve(&mut stream, &seen) => {}
                    }
                    drop(stream);
                    seen.open.fetch_sub(1, SeqCst);
                });
            }
        });
        Self { address, seen, killed }
    }

    /// Dies as after kill -9 with unread bytes: the door is shut, connections are reset.
    pub(crate) fn kill(&self) {
        self.killed.send_replace(true);
    }

    pub(crate) fn requests(&self) -> Vec<Message> {
        self.seen.requests.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(SeqCst)
    }

    pub(crate) fn open(&self) -> usize {
        self.seen.open.load(SeqCst)
    }
}

impl Kind {
    async fn serve(&self, stream: &mut TcpStream, seen: &Seen) {
        match self {
            Self::Http(reply) => while answer(stream, seen, reply).await {},
            Self::Echo(name) => {
                if stream.write_all(name.as_bytes()).await.is_ok() {
                    echo(stream).await;
                }
            }
        }
    }
}

/// Answers one request; says whether another may come.
async fn answer(stream: &mut TcpStream, seen: &Seen, reply: &(dyn Fn(&Message) -> Reply + Send + Sync)) -> bool {
    let Some(request) = read_message(stream, false).await else {
        return false;
    };
    let reply = reply(&request);
    let is_head = request.head.starts_with("HEAD");
    seen.requests.lock().unwrap().push(request);
    let text = |body: &str| {
        let shown = if is_head { "" } else { body };
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{shown}", body.len())
    };
    match reply {
        Reply::Text(body) => stream.write_all(text(&body).as_bytes()).await.is_ok(),
        Reply::Raw(bytes) => stream.write_all(&bytes).await.is_ok(),
        Reply::Last(bytes) => {
            let _ = stream.write_all(&bytes).await;
            false
        }
        Reply::Broken(bytes) => {
            let _ = stream.write_all(&bytes).await;
            // What was sent has to arrive before the reset does away with it.
            tokio::time::sleep(Duration::from_millis(50)).await;
            stream.set_zero_linger().unwrap();
            false
        }
        Reply::Late(after, body) => {
            tokio::time::sleep(after).await;
            stream.write_all(text(&body).as_bytes()).await.is_ok()
        }
        Reply::Hang(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let mut more = [0; 1024];
            while let Ok(1..) = stream.read(&mut more).await {}
            false
        }
        Reply::Echo => {
            let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
            if stream.write_all(head.as_bytes()).await.is_ok() {
                echo(stream).await;
            }
            false
        }
    }
}

async fn echo(stream: &mut TcpStream) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
    let _ = stream.shutdown().await;
}
