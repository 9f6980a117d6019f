//! The calls of a machine that wants to become a node, of one that wants to stay one, and of one that asks whether it still is.

use crate::error::Error;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use identity::{Bundle, Expect, JoinRequest, JoinToken, Peer, Tls, join_client_config, server_name};
use model::NodeName;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A member answers in milliseconds; signing and three writes are all it does.
const CALL: Duration = Duration::from_secs(15);
/// A machine that is off does not even say no.
const CONNECT: Duration = Duration::from_secs(3);
/// Longer is no answer of ours.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Asks the members named in the token, one after the other; the first clear answer counts.
pub(crate) async fn ask_to_join(token: &JoinToken, request: &JoinRequest) -> Result<(Bundle, String), Error> {
    let mut tried = Vec::new();
    for address in token.addresses() {
        match tokio::time::timeout(CALL, ask(address, token, request)).await {
            Ok(Ok(bundle)) => return Ok((bundle, address.clone())),
            Ok(Err(error @ (Error::Said { .. } | Error::Tls(_)))) => return Err(error),
            Ok(Err(error)) => tried.push(format!("{address}: {}", chain(&error))),
            Err(_) => tried.push(format!("{address}: no answer within {} s", CALL.as_secs())),
        }
    }
    Err(Error::NoMember { tried })
}

/// Asks a member's agent to sign this node's keys once more; who asks is proved by the certificate that is still valid.
pub(crate) async fn ask_to_renew(
    tls: &Tls,
    member: &NodeName,
    address: SocketAddr,
    request: &JoinRequest,
) -> Result<Bundle, Error> {
    let config = tls.client_config(Expect::Node(member.clone()))?;
    let at = address.to_string();
    let name = server_name(member).map_err(|error| failed(&at, &error))?;
    match tokio::time::timeout(CALL, post(&at, config, name, "/v1/renew", request)).await {
        Ok(answer) => answer.map(|(bundle, _)| bundle),
        Err(_) => Err(failed(&at, &format!("no answer within {} s", CALL.as_secs()))),
    }
}

async fn ask(address: &str, token: &JoinToken, request: &JoinRequest) -> Result<Bundle, Error> {
    let ip = address
        .parse::<SocketAddr>()
        .map_err(|error| failed(address, &error))?
        .ip();
    let name = ServerName::from(ip);
    let (bundle, _) = post(address, join_client_config(token)?, name, "/v1/join", request).await?;
    Ok(bundle)
}

fn failed(address: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Io {
        doing: "reach",
        path: address.into(),
        source: std::io::Error::other(error.to_string()),
    }
}

/// The answer, and who gave it as its certificate says.
pub(crate) async fn post<Q: Serialize, A: DeserializeOwned>(
    address: &str,
    config: ClientConfig,
    name: ServerName<'static>,
    path: &str,
    request: &Q,
) -> Result<(A, Option<Peer>), Error> {
    let io = |source| Error::Io {
        doing: "reach",
        path: address.into(),
        source,
    };
    let tcp = match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(io)?,
        Err(_) => {
            return Err(failed(
                address,
                &format!("no connection within {} s", CONNECT.as_secs()),
            ));
        }
    };
    let tls = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .map_err(|error| match identity::Refused::from_io(&error) {
            Some(refused) => Error::Said {
                address: address.into(),
                text: refused.to_string(),
                hint: Some(refused.hint.clone()),
            },
            None => io(error),
        })?;
    let peer = Peer::of_connection(tls.get_ref().1.peer_certificates());
    let other = |error: &dyn std::fmt::Display| failed(address, error);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls))
        .await
        .map_err(|error| other(&error))?;
    tokio::spawn(connection);
    let body = serde_json::to_vec(request).map_err(|source| Error::Record {
        key: "request".into(),
        source,
    })?;
    let call = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("host", address)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| other(&error))?;
    let answer = sender.send_request(call).await.map_err(|error| other(&error))?;
    let status = answer.status();
    let body = http_body_util::Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| other(&error))?
        .to_bytes();
    if !status.is_success() {
        let said: Option<api::Outcome> = serde_json::from_slice(&body).ok();
        return Err(Error::Said {
            address: address.into(),
            text: said
                .as_ref()
                .map_or_else(|| status.to_string(), |said| said.text.clone()),
            hint: said.and_then(|said| said.hint),
        });
    }
    let answer = serde_json::from_slice(&body).map_err(|source| Error::Record {
        key: "the answer".into(),
        source,
    })?;
    Ok((answer, peer))
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
