//! Where the dashboard is served, and that nobody passes who may not.

use super::Place;
use super::desk::Desk;
use crate::input::refused;
use crate::loopback::{Bounded, Room};
use crate::recover::StartError;
use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use dashboard::access::{self, Asked, OWN_HEADER};
use identity::Right;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpListener;

/// How a request came in, for those who answer it.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    /// The port, which is in the cookie's name.
    pub(crate) port: u16,
    /// Whether over TLS, from other machines.
    pub(crate) tls: bool,
    /// What the one who asks may do, if signed in.
    pub(crate) right: Option<Right>,
    /// The session that was shown.
    pub(crate) session: Option<String>,
}

/// Answers on loopback. That the usual port is taken keeps no agent from its work.
pub(crate) fn listen(
    room: Room,
    place: Place,
    noted: &Path,
    desk: &Arc<Desk>,
    app: axum::Router,
) -> Result<(), StartError> {
    let listener = match place {
        Place::Off => {
            let _ = std::fs::remove_file(noted);
            return Ok(());
        }
        Place::At(address) => std::net::TcpListener::bind(address).map_err(|source| StartError::Dashboard {
            at: address.to_string(),
            source,
        })?,
        Place::Usual => match usual(noted) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(%error, "there is no dashboard on this machine: no port is to be had");
                return Ok(());
            }
        },
    };
    let at = |source| StartError::Dashboard {
        at: "a loopback port".into(),
        source,
    };
    let address = listener.local_addr().map_err(at)?;
    listener.set_nonblocking(true).map_err(at)?;
    let listener = Bounded::new(TcpListener::from_std(listener).map_err(at)?, room);
    // The next agent takes the same one, so that pages that are open find it again.
    if let Err(error) = std::fs::write(noted, address.to_string()) {
        tracing::warn!(%error, "the next agent may have its dashboard at another port");
    }
    let _ = desk.local.set(address);
    let desk = Arc::clone(desk);
    let app = app.layer(middleware::from_fn(move |request, next| {
        guarded(Arc::clone(&desk), false, address.port(), request, next)
    }));
    tracing::info!(%address, "the dashboard");
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "the dashboard ended");
        }
    });
    Ok(())
}

/// The port of the agent before, the usual one, or any.
fn usual(noted: &Path) -> std::io::Result<std::net::TcpListener> {
    let before = std::fs::read_to_string(noted)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let before = before.filter(|address: &SocketAddr| address.ip().is_loopback());
    let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let places = before.into_iter().chain([local(dashboard::PORT), local(0)]);
    let mut last = None;
    for place in places {
        match std::net::TcpListener::bind(place) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::Error::from(std::io::ErrorKind::AddrInUse)))
}

/// Lets through what may pass, and adds what browsers are to be told with every answer.
pub(crate) async fn guarded(desk: Arc<Desk>, tls: bool, port: u16, mut request: Request, next: Next) -> Response {
    let cookie = access::cookie_name(port, tls);
    let session = text(request.headers(), header::COOKIE.as_str())
        .and_then(|cookies| access::cookie(cookies, &cookie))
        .map(str::to_owned);
    let right = session.as_deref().and_then(|session| desk.right_of(session));
    let headers = request.headers();
    // HTTP/2 has the name in the address.
    let host = text(headers, "host").or_else(|| request.uri().authority().map(axum::http::uri::Authority::as_str));
    let asked = Asked {
        reads: matches!(*request.method(), Method::GET | Method::HEAD),
        path: request.uri().path(),
        host,
        origin: text(headers, "origin"),
        site: text(headers, "sec-fetch-site"),
        own_header: headers.contains_key(OWN_HEADER),
        right,
    };
    let door = match tls {
        true => access::Door::Machines {
            node: desk.node.as_str(),
        },
        false => access::Door::Loopback,
    };
    if let Err(refusal) = access::judge(&asked, door) {
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::FORBIDDEN);
        let outcome = refused(refusal.to_string(), refusal.hint().map(Into::into));
        return (status, Json(outcome)).into_response();
    }
    request.extensions_mut().insert(Way {
        port,
        tls,
        right,
        session,
    });
    next.run(request).await
}

/// Whether a page of another site makes a browser ask.
pub(crate) fn is_lured(headers: &HeaderMap) -> bool {
    access::is_lured(
        text(headers, "host"),
        text(headers, "origin"),
        text(headers, "sec-fetch-site"),
    )
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
