//! A relay between us and a member, which can be held up in either direction.

use crate::rig::address;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes bytes on, or keeps them.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    hold_up: Arc<watch::Sender<bool>>,
    hold_down: Arc<watch::Sender<bool>>,
}

impl Relay {
    /// To `member`, from a port of its own.
    pub(crate) async fn new(port: u16, member: SocketAddr) -> Self {
        Self::rewriting(port, member, "", "").await
    }

    /// To `member`, which then says `to` where it says `from`; both are of one length.
    pub(crate) async fn rewriting(port: u16, member: SocketAddr, from: &str, to: &str) -> Self {
        assert_eq!(from.len(), to.len());
        let rewrite = (from.as_bytes().to_vec(), to.as_bytes().to_vec());
        let listener = TcpListener::bind(address(port)).await.expect("a free port");
        let relay = Self {
            address: address(port),
            hold_up: Arc::new(watch::Sender::new(false)),
            hold_down: Arc::new(watch::Sender::new(false)),
        };
        let (up, down) = (Arc::clone(&relay.hold_up), Arc::clone(&relay.hold_down));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(member) = TcpStream::connect(member).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_member, to_member) = member.into_split();
                tokio::spawn(pass(from_client, to_member, up.subscribe(), Default::default()));
                tokio::spawn(pass(from_member, to_client, down.subscribe(), rewrite.clone()));
            }
        });
        relay
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Keeps what we send.
    pub(crate) fn hold_requests(&self, hold: bool) {
        self.hold_up.send_replace(hold);
    }

    /// Keeps what the member sends.
    pub(crate) fn hold_answers(&self, hold: bool) {
        self.hold_down.send_replace(hold);
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut held: watch::Receiver<bool>,
    (said, instead): (Vec<u8>, Vec<u8>),
) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(count) = from.read(&mut bytes).await {
        let bytes = &mut bytes[..count];
        while let Some(at) = (!said.is_empty())
            .then(|| bytes.windows(said.len()).position(|window| window == said))
            .flatten()
        {
            bytes[at..at + said.len()].copy_from_slice(&instead);
        }
        if count == 0 || held.wait_for(|held| !held).await.is_err() || to.write_all(bytes).await.is_err() {
            return;
        }
    }
}
