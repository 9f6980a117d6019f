//! Watching over HTTP: server-sent events, or a line of JSON for each.
//!
//! | event | as server-sent event | as a line |
//! |---|---|---|
//! | begins | `event: open`, `data: {"from":7}` | `{"open":{"from":7}}` |
//! | changes | `id: 7`, `event: change`, `data: {"revision":7,…}` | `{"change":{"revision":7,…}}` |
//! | nothing new | a comment, `: heartbeat` | `{"heartbeat":{}}` |
//! | ends | `event: end`, `data: {"code":"compacted",…}` | `{"end":{"code":"compacted",…}}` |

use super::wire::{ChangeBody, ErrorBody};
use super::{Caller, query};
use crate::{AppState, Error, Watching};
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::{self, HeaderMap};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use model::Revision;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;

const LINES: &str = "application/x-ndjson";

#[derive(Deserialize)]
pub(super) struct WatchQuery {
    #[serde(default)]
    prefix: String,
    from: Option<u64>,
}

/// What is told, in either form.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Event {
    Open { from: u64 },
    Change(ChangeBody),
    Heartbeat {},
    End(ErrorBody),
}

#[derive(Clone, Copy)]
enum Form {
    Events,
    Lines,
}

struct Telling {
    state: AppState,
    caller: Caller,
    watching: Watching,
    form: Form,
    opened: bool,
    ended: bool,
}

/// Every change to keys that begin with a prefix, in order and none lost: server-sent events, or with `Accept:
/// application/x-ndjson` a line of JSON each.
///
/// To resume, give the revision after the last one that was told as `from`, or the last one as `Last-Event-ID`. If changes
/// since then are no longer kept the answer is 410 `compacted`, or the event `end` later on: list, then watch from the
/// revision after the list's.
#[utoipa::path(
    get,
    path = "/v1/state/watch",
    tag = "state",
    params(
        ("prefix" = Option<String>, Query, description = "How the keys begin; all if not given"),
        ("from" = Option<u64>, Query, description = "The first revision whose changes are told; those to come if not given"),
        ("Last-Event-ID" = Option<u64>, Header, description = "The last revision that was told; `from` goes before it"),
    ),
    responses(
        (status = 200, body = ChangeBody, content_type = "text/event-stream"),
        (status = 410, description = "Changes since then are no longer kept", body = ErrorBody),
        (status = 429, description = "Too many watches are open", body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
pub(super) async fn watch_values(
    State(state): State<AppState>,
    caller: Caller,
    watch: Result<Query<WatchQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let watch = query(watch)?;
    let from = match (watch.from, headers.get("last-event-id")) {
        (Some(from), _) => Some(Revision(from)),
        (None, Some(last)) => {
            let last: Option<u64> = last.to_str().ok().and_then(|last| last.trim().parse().ok());
            let last = last.ok_or_else(|| Error::InvalidRequest("`Last-Event-ID` is not a revision".into()))?;
            Some(Revision(last.saturating_add(1)))
        }
        (None, None) => None,
    };
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let form = match accept {
        Some(accept) if accept.contains(LINES) => Form::Lines,
        _ => Form::Events,
    };
    let watching = state.watch(&caller.service, &watch.prefix, from).await?;
    let telling = Telling {
        state,
        caller,
        watching,
        form,
        opened: false,
        ended: false,
    };
    let stream = unfold(telling, |mut telling| async move {
        let event = telling.next().await?;
        let text = telling.form.write(&event);
        Some((Ok::<_, Infallible>(text), telling))
    });
    let kind = match form {
        Form::Events => "text/event-stream",
        Form::Lines => LINES,
    };
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(stream)).into_response())
}

impl Telling {
    async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        if !self.opened {
            self.opened = true;
            return Some(Event::Open {
                from: self.watching.from().0,
            });
        }
        let heartbeat = self.state.limits().heartbeat;
        let error = match tokio::time::timeout(heartbeat, self.watching.next()).await {
            Ok(Ok(news)) => return Some(Event::Change(news.into())),
            Ok(Err(error)) => error,
            // A token that was revoked meanwhile ends what was opened with it. A store that does not answer does not.
            Err(_) => match self.state.authorize(&self.caller.token).await {
                Err(error @ Error::TokenInvalid) => error,
                _ => return Some(Event::Heartbeat {}),
            },
        };
        self.ended = true;
        Some(Event::End(ErrorBody::new(&error)))
    }
}

impl Form {
    fn write(self, event: &Event) -> Bytes {
        let text = match (self, event) {
            (Form::Lines, event) => format!("{}\n", json(event)),
            (Form::Events, Event::Heartbeat {}) => ": heartbeat\n\n".into(),
            (Form::Events, Event::Open { from }) => format!("event: open\ndata: {{\"from\":{from}}}\n\n"),
            (Form::Events, Event::Change(change)) => {
                format!("id: {}\nevent: change\ndata: {}\n\n", change.revision, json(change))
            }
            (Form::Events, Event::End(error)) => format!("event: end\ndata: {}\n\n", json(error)),
        };
        text.into()
    }
}

fn json(value: &impl Serialize) -> String {
    // Our own types always serialise, and JSON has no line breaks of its own.
    serde_json::to_string(value).unwrap_or_default()
}
