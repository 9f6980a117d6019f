//! A client that sees every byte.

use crate::support::PATIENCE;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request or an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// Start line and headers.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Message {
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (this, value) = line.split_once(':')?;
            this.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// A connection to the proxy.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(address).await.unwrap(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The next answer, if there is a whole one.
    pub(crate) async fn answer(&mut self) -> Option<Message> {
        self.answer_to("GET").await
    }

    pub(crate) async fn answer_to(&mut self, method: &str) -> Option<Message> {
        let reading = read_message(&mut self.stream, method == "HEAD");
        tokio::time::timeout(PATIENCE, reading).await.expect("no answer at all")
    }

    pub(crate) async fn get(&mut self, path: &str) -> Option<Message> {
        self.send(get_text(path)).await;
        self.answer().await
    }

    /// Reads until the end; an error if that is no regular one.
    pub(crate) async fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut rest))
            .await
            .expect("the connection does not end")?;
        Ok(rest)
    }

    /// Reads as many bytes.
    pub(crate) async fn read(&mut self, bytes: usize) -> String {
        let mut read = vec![0; bytes];
        tokio::time::timeout(PATIENCE, self.stream.read_exact(&mut read))
            .await
            .expect("nothing came")
            .unwrap();
        String::from_utf8(read).unwrap()
    }
}

pub(crate) fn get_text(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n")
}

pub(crate) fn post_text(method: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// The same request in a way that only hyper serves.
pub(crate) fn by_hyper(request: &str) -> String {
    request.replacen("\r\n", "\r\nTE: trailers\r\n", 1)
}

/// One GET on a connection of its own.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Message {
    Client::connect(address).await.get(path).await.expect("an answer")
}

/// One request with a body on a connection of its own.
pub(crate) async fn send(address: SocketAddr, method: &str, body: &str) -> Message {
    ask(address, &post_text(method, body)).await
}

/// One request on a connection of its own.
pub(crate) async fn ask(address: SocketAddr, request: &str) -> Message {
    let mut client = Client::connect(address).await;
    client.send(request).await;
    client.answer().await.expect("an answer")
}

/// Reads a message byte by byte, by the rules of its head; `None` if it does not come to its end.
pub(crate) async fn read_message(stream: &mut TcpStream, has_no_body: bool) -> Option<Message> {
    let head = read_until(stream, b"\r\n\r\n").await?;
    let mut message = Message {
        head: String::from_utf8(head).unwrap(),
        body: Vec::new(),
    };
    let is_answer = message.head.starts_with("HTTP/");
    if has_no_body || (is_answer && matches!(message.status(), 100..=199 | 204 | 304)) {
        return Some(message);
    }
    if let Some(length) = message.header("content-length") {
        message.body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut message.body).await.ok()?;
    } else if message.header("transfer-encoding") == Some("chunked") {
        loop {
            let line = read_until(stream, b"\r\n").await?;
            let size = std::str::from_utf8(&line).unwrap().trim().split(';').next().unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            let mut chunk = vec![0; size + 2];
            if size == 0 {
                // Trailers, if any, and an empty line.
                while read_until(stream, b"\r\n").await?.len() > 2 {}
                break;
            }
            stream.read_exact(&mut chunk).await.ok()?;
            message.body.extend_from_slice(&chunk[..size]);
        }
    } else if is_answer {
        stream.read_to_end(&mut message.body).await.ok()?;
    }
    Some(message)
}

async fn read_until(stream: &mut TcpStream, end: &[u8]) -> Option<Vec<u8>> {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        read.push(stream.read_u8().await.ok()?);
    }
    Some(read)
}
