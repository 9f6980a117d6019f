//! What the dashboard answers.

use super::desk::Desk;
use super::feed::{EVENTS, Message};
use super::serve::Way;
use crate::http::{Answer, Door, Refused};
use crate::input::{Request, done, refused};
use api::{DashboardLink, Outcome, Preview, SignIn, Snapshot, Viewer};
use axum::extract::{DefaultBodyLimit, Extension, Path as UrlPath, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use dashboard::access;
use futures_util::Stream;
use futures_util::stream::unfold;
use identity::Right;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes as of_api;

/// A pass is a few hundred bytes.
const BODY_BYTES_MAX: usize = 4_096;
/// The page comes also while the main loop hangs; then it says so by itself.
const PEERS_WITHIN: Duration = Duration::from_millis(300);
/// Of more than a few hundred instances the stream tells: it would be twice as much as the page can be had for.
const FIRST_BYTES_MAX: usize = 512 << 10;

/// Those that are part of the API.
pub(crate) fn openapi_routes() -> OpenApiRouter<Door> {
    OpenApiRouter::new()
        .routes(of_api!(get_stream))
        .routes(of_api!(get_preview))
        .routes(of_api!(post_dashboard))
}

/// The page, its files, and the way in.
pub(crate) fn routes() -> Router<Door> {
    Router::new()
        .route("/", get(|| async { Redirect::temporary("/ui/") }))
        .route("/ui", get(|| async { Redirect::temporary("/ui/") }))
        .route("/ui/", get(page))
        // The pass is behind the `#`, which is not sent: the page's script hands it over.
        .route("/ui/sign-in", get(page).post(sign_in))
        .route("/ui/sign-out", post(sign_out))
        .route("/ui/pass", post(pass))
        .route("/ui/me", get(me))
        .route("/ui/alive", get(|| async { StatusCode::NO_CONTENT }))
        .route("/ui/{file}", get(file))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

async fn page(State(door): State<Door>, way: Option<Extension<Way>>) -> Response {
    let viewer = viewer(&door, way);
    let look = tokio::time::timeout(PEERS_WITHIN, look(&door)).await.ok().flatten();
    let peers = look.as_ref().map(|first| first.peers.clone()).unwrap_or_default();
    // What was not looked at since the agent came up is no first picture.
    let first = look.filter(|_| viewer.may_look && *door.settled.borrow());
    let first = first.and_then(|snapshot| serde_json::to_string(&First { viewer, snapshot }).ok());
    let first = first.filter(|json| json.len() <= FIRST_BYTES_MAX);
    let mut response = (
        [(header::CACHE_CONTROL, "no-store")],
        dashboard::page(&door.desk.cluster, first.as_deref()),
    )
        .into_response();
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, html);
    harden(response.headers_mut(), peers.iter().map(|peer| peer.url.as_str()));
    response
}

/// What the page has before its stream brings the same.
#[derive(Serialize)]
struct First {
    viewer: Viewer,
    snapshot: Snapshot,
}

/// Everything, as the first message of a stream has it.
async fn look(door: &Door) -> Option<Snapshot> {
    let look = door.ask(Request::Overview).await.ok()?;
    let ask = |answer| Request::Events {
        after: door.news.borrow().saturating_sub(1 + EVENTS as u64),
        limit: EVENTS,
        service: None,
        answer,
    };
    let events = door.ask(ask).await.ok()?.events;
    Some(look.snapshot(0, events))
}

async fn file(UrlPath(name): UrlPath<String>, headers: HeaderMap) -> Response {
    let Some(asset) = dashboard::assets::asset(&name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let tag = asset.tag();
    // Asked for each time, sent once: a page never mixes files of two versions.
    let cache = [
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::ETAG, tag.clone()),
    ];
    let mut response = match headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|known| known.as_bytes() == tag.as_bytes())
    {
        true => (StatusCode::NOT_MODIFIED, cache).into_response(),
        false => (cache, asset.text).into_response(),
    };
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.kind));
    harden(response.headers_mut(), std::iter::empty());
    response
}

fn harden<'a>(headers: &mut HeaderMap, peers: impl Iterator<Item = &'a str>) {
    for (name, value) in dashboard::security_headers(peers) {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

async fn me(State(door): State<Door>, way: Option<Extension<Way>>) -> Json<Viewer> {
    Json(viewer(&door, way))
}

fn viewer(door: &Door, way: Option<Extension<Way>>) -> Viewer {
    // Without a way it came over the socket of this machine's owner, or where the API may be read.
    let (may_look, may_act) = match way {
        Some(Extension(way)) => (!way.tls || way.right.is_some(), way.right == Some(Right::Operate)),
        None => (true, false),
    };
    Viewer {
        cluster: door.desk.cluster.clone(),
        node: door.desk.node.to_string(),
        may_look,
        may_act,
    }
}

async fn sign_in(
    State(door): State<Door>,
    way: Option<Extension<Way>>,
    Json(request): Json<SignIn>,
) -> Result<Response, Refused> {
    let Some(Extension(way)) = way else {
        let text = "nobody signs in here; use the address that `understudy dashboard` prints";
        return Err(Refused(StatusCode::FORBIDDEN, refused(text, None)));
    };
    match door.desk.sign_in(&request.pass) {
        Ok(session) => Ok(with_session(&way, &session, "signed in")),
        Err(error) => {
            tracing::warn!(%error, "somebody was not let into the dashboard");
            Err(Refused(StatusCode::UNAUTHORIZED, refused(error.to_string(), None)))
        }
    }
}

async fn sign_out(State(door): State<Door>, way: Option<Extension<Way>>) -> Response {
    let Some(Extension(way)) = way else {
        return StatusCode::NO_CONTENT.into_response();
    };
    if let Some(session) = &way.session {
        door.desk.sign_out(session);
    }
    with_session(&way, "", "signed out")
}

fn with_session(way: &Way, session: &str, text: &str) -> Response {
    let name = access::cookie_name(way.port, way.tls);
    let cookie = access::set_cookie(&name, session, Desk::session_seconds(), way.tls);
    ([(header::SET_COOKIE, cookie)], Json(done(text))).into_response()
}

/// For a page that is signed in: with this it moves on to another node when this one is lost.
async fn pass(State(door): State<Door>, way: Option<Extension<Way>>) -> Result<Json<SignIn>, Refused> {
    let right = way.and_then(|Extension(way)| way.right);
    let pass = right.and_then(|right| door.desk.sign_in_pass(right, false));
    let no = || Refused(StatusCode::FORBIDDEN, refused("nobody is signed in", None));
    Ok(Json(SignIn {
        pass: pass.ok_or_else(no)?,
    }))
}

/// Everything once, then each change: server-sent events named `snapshot` (a `Snapshot`, first), `change` (a `Delta`) and `beat` (a `Beat`, one a second).
#[utoipa::path(get, path = "/v1/stream", responses((status = 200, body = Snapshot, content_type = "text/event-stream")))]
async fn get_stream(
    State(door): State<Door>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Refused> {
    let ending = || {
        let text = "too many dashboards are open, or the agent is ending";
        Refused(
            StatusCode::SERVICE_UNAVAILABLE,
            refused(text, Some("try again in a moment".into())),
        )
    };
    let (first, following) = door.feed.join().await.ok_or_else(ending)?;
    let stream = unfold(
        (VecDeque::from([first]), following),
        |(mut waiting, mut following)| async move {
            let message = match waiting.pop_front() {
                Some(message) => message,
                None => match following.recv().await {
                    Ok(message) => message,
                    // Too slow: the page connects again and begins anew.
                    Err(RecvError::Lagged(_) | RecvError::Closed) => return None,
                },
            };
            Some((Ok(event(&message)), (waiting, following)))
        },
    );
    Ok(Sse::new(stream))
}

fn event(message: &Message) -> sse::Event {
    sse::Event::default()
        .event(message.name)
        .id(message.seq.to_string())
        .data(&*message.json)
}

/// What would be done.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "action")]
pub(crate) enum Intent {
    Switchover {
        name: String,
        slot: Option<String>,
        to: Option<String>,
    },
    Drain {
        name: String,
    },
    Undrain {
        name: String,
    },
    DrillNode {
        name: String,
    },
    DrillInstance {
        name: String,
    },
    Retry {
        name: String,
    },
    Park {
        name: String,
        slot: Option<String>,
    },
    Unpark {
        name: String,
        slot: Option<String>,
    },
    Force {
        name: String,
        slot: Option<String>,
        node: String,
    },
    Fence {
        name: String,
    },
    Pause,
    Resume,
}

/// What an action would do: who moves, what clients notice, and how far each service is from an outage then. Changes nothing.
#[utoipa::path(
    get,
    path = "/v1/preview",
    params(
        ("action" = String, Query, description = "`switchover`, `drain`, `undrain`, `drill-node`, `drill-instance`, `retry`, `park`, `unpark`, `force`, `fence`, `pause` or `resume`"),
        ("name" = Option<String>, Query, description = "Of the service, node or instance"),
        ("slot" = Option<u32>, Query, description = "Of a switchover: which slot; the first if not given. To park, unpark, force: must be given where there are several"),
        ("to" = Option<String>, Query, description = "Of a switchover: who shall take over"),
        ("node" = Option<String>, Query, description = "Of force: the node that is off"),
    ),
    responses((status = 200, body = Preview), (status = 404, body = Outcome))
)]
async fn get_preview(State(door): State<Door>, Query(intent): Query<Intent>) -> Answer<Preview> {
    let preview = door.ask(|answer| Request::Preview { intent, answer }).await?;
    Ok(Json(preview.map_err(crate::http::not_found)?))
}

#[derive(Deserialize)]
struct LinkQuery {
    right: Option<String>,
}

/// Where the dashboard is, and a pass to sign in there, once. Answered over the Unix socket, and to certificates with the right to operate.
#[utoipa::path(
    post,
    path = "/v1/dashboard",
    params(("right" = Option<String>, Query, description = "`read` or `operate`; `operate` if not given")),
    responses((status = 200, body = DashboardLink), (status = 409, body = Outcome))
)]
async fn post_dashboard(State(door): State<Door>, Query(query): Query<LinkQuery>) -> Answer<DashboardLink> {
    let desk = &door.desk;
    let right = query.right.as_deref().unwrap_or("operate").parse::<Right>();
    let right = right.map_err(|error| refused(error, None))?;
    let no_pass = || refused("the kernel gives no random bytes", None);
    Ok(Json(DashboardLink {
        local: desk.local.get().map(|address| format!("http://{address}")),
        remote: desk.remote.map(|address| format!("https://{address}")),
        authority: desk.authority.clone(),
        pass: desk.sign_in_pass(right, true).ok_or_else(no_pass)?,
        valid_s: Desk::link_seconds(),
    }))
}
