//! `GET /v1/series` and `GET /v1/samples`.

use super::{Measures, moment};
use crate::http::{Door, Refused};
use crate::input::refused;
use api::{History, Measure, Part, Samples};
use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use monitor::memory::{Moment, Wanted};
use monitor::merge;
use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct MeasuredQuery {
    service: Option<String>,
    node: Option<String>,
    name: Option<Measure>,
    since: Option<i64>,
    #[serde(default)]
    own: bool,
}

impl MeasuredQuery {
    fn wanted(&self, now: Moment) -> Wanted {
        Wanted {
            service: self.service.clone(),
            node: self.node.clone(),
            name: self.name,
            since: self.since.map_or(0, |since| now.second_after(since)),
        }
    }

    /// The same for another node, whose clock may differ: what is wanted by age.
    fn for_others(&self, path: &str, now: Moment) -> String {
        let mut query = format!("{path}?own=true");
        let names = [("service", &self.service), ("node", &self.node)];
        for (key, value) in names
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.as_ref()?)))
        {
            query.push_str(&format!("&{key}={}", encoded(value)));
        }
        if let Some(name) = self.name
            && let Ok(serde_json::Value::String(name)) = serde_json::to_value(name)
        {
            query.push_str(&format!("&name={name}"));
        }
        if let Some(since) = self.since {
            query.push_str(&format!("&ago_ms={}", now.wall_ms.saturating_sub(since).max(0)));
        }
        query
    }
}

#[derive(Deserialize)]
pub(crate) struct AgoQuery {
    ago_ms: Option<i64>,
}

/// What was measured in the last hour, a value a second, of all nodes that answer.
#[utoipa::path(
    get,
    path = "/v1/series",
    params(
        ("service" = Option<String>, Query, description = "Only this service and its instances"),
        ("node" = Option<String>, Query, description = "Only what this node measured"),
        ("name" = Option<Measure>, Query, description = "Only this measure"),
        ("since" = Option<i64>, Query, description = "Only after this moment, in milliseconds since 1970; an hour is kept"),
    ),
    responses((status = 200, body = History), (status = 503, body = api::Outcome))
)]
pub(crate) async fn get_series(
    State(door): State<Door>,
    Query(mut query): Query<MeasuredQuery>,
    Query(ago): Query<AgoQuery>,
) -> Result<Response, Refused> {
    let now = moment();
    if let Some(ago) = ago.ago_ms {
        query.since = Some(now.wall_ms.saturating_sub(ago));
    }
    let measures = &door.measures;
    let part = {
        let state = measures.state();
        let (seen, _) = state.look.as_ref().ok_or_else(not_yet)?;
        state.memory.history(&seen.me, &query.wanted(now), now)
    };
    if query.own {
        return Ok(Json(part).into_response());
    }
    let (parts, silent) = all(measures, part, &query.for_others("/v1/series", now)).await;
    Ok(Json(merge::history(now.wall_ms, parts, silent, query.name)).into_response())
}

/// The newest second of what was measured, of all nodes that answer, each value with its age.
#[utoipa::path(
    get,
    path = "/v1/samples",
    params(
        ("service" = Option<String>, Query, description = "Only this service and its instances"),
        ("node" = Option<String>, Query, description = "Only what this node measured"),
        ("name" = Option<Measure>, Query, description = "Only this measure"),
    ),
    responses((status = 200, body = Samples), (status = 503, body = api::Outcome))
)]
pub(crate) async fn get_samples(
    State(door): State<Door>,
    Query(query): Query<MeasuredQuery>,
) -> Result<Response, Refused> {
    let now = moment();
    let measures = &door.measures;
    let part = {
        let state = measures.state();
        let (seen, _) = state.look.as_ref().ok_or_else(not_yet)?;
        state.memory.newest(&seen.me, &query.wanted(now), now)
    };
    if query.own {
        return Ok(Json(part).into_response());
    }
    let (parts, silent) = all(measures, part, &query.for_others("/v1/samples", now)).await;
    Ok(Json(merge::samples(now.wall_ms, parts, silent, query.name)).into_response())
}

/// Of a service, the newest second, of all nodes that answer.
pub(crate) async fn samples_of(measures: &Measures, service: &str) -> Vec<api::Sample> {
    let now = moment();
    let query = MeasuredQuery {
        service: Some(service.to_owned()),
        node: None,
        name: None,
        since: None,
        own: false,
    };
    let part = {
        let state = measures.state();
        let Some((seen, _)) = state.look.as_ref() else {
            return Vec::new();
        };
        state.memory.newest(&seen.me, &query.wanted(now), now)
    };
    let (parts, silent) = all(measures, part, &query.for_others("/v1/samples", now)).await;
    merge::samples(now.wall_ms, parts, silent, None).samples
}

async fn all(measures: &Measures, own: Part, path: &str) -> (Vec<Part>, Vec<api::Silent>) {
    let cluster = {
        let state = measures.state();
        state.look.as_ref().and_then(|(seen, _)| seen.cluster.clone())
    };
    let (others, silent) = measures.peers.ask_all::<Part>(cluster.as_ref(), path).await;
    let mut parts = vec![own];
    parts.extend(others.into_iter().map(|(_, part)| part));
    (parts, silent)
}

pub(crate) fn not_yet() -> Refused {
    Refused(
        StatusCode::SERVICE_UNAVAILABLE,
        refused("nothing is measured yet", Some("try again in a second".into())),
    )
}

/// A text as part of a query: all but letters, digits and a few signs as `%XX`.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
