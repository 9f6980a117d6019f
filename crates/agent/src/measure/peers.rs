//! What the agents of other nodes measured, asked over the mutual TLS that nodes have among each other.
//!
//! Each agent keeps its own; whoever is asked asks all others at once, and says of whom it heard nothing. Connections are kept.

use super::ClusterLook;
use crate::executor::chain;
use api::Silent;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use identity::{Expect, Tls, server_name};
use model::NodeName;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// A node that does not answer within this is told as silent: a picture of the others is wanted now.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// An hour of a thousand series is about 20 MB.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The ways to the others. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Peers {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    tls: OnceLock<Tls>,
    /// Connections that are free, by node.
    free: Mutex<BTreeMap<NodeName, SendRequest<Empty<Bytes>>>>,
    heard: Mutex<BTreeMap<NodeName, Instant>>,
}

impl Peers {
    /// From now on others can be asked.
    pub(crate) fn meet(&self, tls: Tls) {
        // It is set once, before anybody asks.
        let _ = self.inner.tls.set(tls);
    }

    /// Asks all others the same; those that do not answer in time are told apart.
    pub(crate) async fn ask_all<T: DeserializeOwned + Send + 'static>(
        &self,
        cluster: Option<&ClusterLook>,
        path: &str,
    ) -> (Vec<(NodeName, T)>, Vec<Silent>) {
        let Some(cluster) = cluster else {
            return (Vec::new(), Vec::new());
        };
        let paths = cluster
            .others
            .keys()
            .map(|node| (node.clone(), path.to_owned()))
            .collect();
        self.ask_each(cluster, &paths).await
    }

    /// Asks others, each what is wanted of it.
    pub(crate) async fn ask_each<T: DeserializeOwned + Send + 'static>(
        &self,
        cluster: &ClusterLook,
        paths: &BTreeMap<NodeName, String>,
    ) -> (Vec<(NodeName, T)>, Vec<Silent>) {
        let mut asking = JoinSet::new();
        for (node, path) in paths {
            let Some(address) = cluster.others.get(node) else {
                continue;
            };
            let (peers, node, address, path) = (self.clone(), node.clone(), *address, path.clone());
            asking.spawn(async move {
                let answer = peers.ask_one::<T>(&node, address, &path).await;
                (node, answer)
            });
        }
        let (mut answers, mut silent) = (Vec::new(), Vec::new());
        while let Some(asked) = asking.join_next().await {
            let Ok((node, answer)) = asked else { continue };
            let mut heard = self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner);
            match answer {
                Ok(answer) => {
                    heard.insert(node.clone(), Instant::now());
                    answers.push((node, answer));
                }
                Err(because) => silent.push(Silent {
                    age_ms: heard
                        .get(&node)
                        .map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)),
                    node: node.to_string(),
                    because,
                }),
            }
        }
        silent.sort_by(|a, b| a.node.cmp(&b.node));
        (answers, silent)
    }

    /// Asks one.
    pub(crate) async fn ask_one<T: DeserializeOwned>(
        &self,
        node: &NodeName,
        address: SocketAddr,
        path: &str,
    ) -> Result<T, String> {
        match tokio::time::timeout(PATIENCE, self.ask(node, address, path)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} ms", PATIENCE.as_millis())),
        }
    }

    async fn ask<T: DeserializeOwned>(&self, node: &NodeName, address: SocketAddr, path: &str) -> Result<T, String> {
        let free = |peers: &Self| {
            let mut free = peers.inner.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.remove(node).filter(|connection| !connection.is_closed())
        };
        let mut connection = match free(self) {
            Some(connection) => connection,
            None => self.connect(node, address).await?,
        };
        let request = Request::get(path)
            .header("host", address.to_string())
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let answer = connection.send_request(request).await.map_err(|error| chain(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| error.to_string())?
            .to_bytes();
        if !status.is_success() {
            return Err(format!("it answered {status}"));
        }
        let answer = serde_json::from_slice(&body).map_err(|error| format!("its answer is not understood: {error}"))?;
        let mut free = self.inner.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.insert(node.clone(), connection);
        Ok(answer)
    }

    async fn connect(&self, node: &NodeName, address: SocketAddr) -> Result<SendRequest<Empty<Bytes>>, String> {
        let tls = self.inner.tls.get().ok_or("this node is not ready to ask others yet")?;
        let config = tls
            .client_config(Expect::Node(node.clone()))
            .map_err(|error| chain(&error))?;
        let name = server_name(node).map_err(|error| error.to_string())?;
        let tcp = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
            .map_err(|error| error.to_string())?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| chain(&error))?;
        tokio::spawn(connection);
        Ok(sender)
    }
}
