//! Key-value over HTTP. Conditions are HTTP's own: an entity tag is a revision.

use super::wire::{EntryPage, ErrorBody, TransactionBody, TransactionDone, UsageBody, Written};
use super::{Caller, bytes, json, path, query};
use crate::{AppState, Condition, Error, PAGE_MAX, Transaction};
use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use model::Revision;
use serde::Deserialize;

/// The revision that wrote the value.
const REVISION: HeaderName = HeaderName::from_static("revision");
/// The revision at which the key came to be.
const CREATED: HeaderName = HeaderName::from_static("created");
/// How often the key was written since.
const VERSION: HeaderName = HeaderName::from_static("version");
/// A write is made only while a lock is held: `NAME:TOKEN`.
const IF_LOCK: HeaderName = HeaderName::from_static("if-lock");

/// The value of a key as it is now, as bytes; its revision is in the headers `Revision` and `ETag`.
#[utoipa::path(
    get,
    path = "/v1/state/kv/{*key}",
    tag = "state",
    params(("key" = String, Path, description = "The key; may have parts divided by `/`")),
    responses(
        (status = 200, description = "The value", content_type = "application/octet-stream",
            headers(("Revision" = u64), ("Created" = u64), ("Version" = u64), ("ETag" = String))),
        (status = 404, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
pub(super) async fn get_value(
    State(state): State<AppState>,
    caller: Caller,
    key: Result<Path<String>, PathRejection>,
) -> Result<Response, Error> {
    let key = path(key)?;
    let value = state.get(&caller.service, &key).await?.ok_or(Error::NotFound { key })?;
    let mut response = value.value.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REVISION, value.revision.0.into());
    headers.insert(CREATED, value.created.0.into());
    headers.insert(VERSION, value.version.into());
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", value.revision)) {
        headers.insert(header::ETAG, tag);
    }
    Ok(response)
}

/// Writes a value.
///
/// Only if the key has a revision: `If-Match: REVISION` (`*` for any). Only if it does not exist: `If-None-Match: *`. Only
/// while a lock is held: `If-Lock: NAME:TOKEN`.
#[utoipa::path(
    put,
    path = "/v1/state/kv/{*key}",
    tag = "state",
    params(
        ("key" = String, Path, description = "The key; may have parts divided by `/`"),
        ("If-Match" = Option<String>, Header, description = "A revision, or `*`"),
        ("If-None-Match" = Option<String>, Header, description = "`*`"),
        ("If-Lock" = Option<String>, Header, description = "`NAME:TOKEN`"),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, body = Written),
        (status = 409, description = "The quota is used up", body = ErrorBody),
        (status = 412, description = "A condition did not hold", body = ErrorBody),
        (status = 413, description = "The value is too large", body = ErrorBody),
        (status = 503, description = "Not done", body = ErrorBody),
        (status = 504, description = "Perhaps done", body = ErrorBody),
    )
)]
pub(super) async fn put_value(
    State(state): State<AppState>,
    caller: Caller,
    key: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Written>, Error> {
    let key = path(key)?;
    let conditions = conditions(&headers, &key)?;
    let value = bytes(body, state.limits().value_bytes_max).await?;
    let revision = state.put(&caller.service, &key, value, conditions).await?;
    Ok(Json(Written {
        revision: revision.0,
        deleted: None,
    }))
}

/// Removes a key. Takes the same conditions as a write.
#[utoipa::path(
    delete,
    path = "/v1/state/kv/{*key}",
    tag = "state",
    params(
        ("key" = String, Path, description = "The key; may have parts divided by `/`"),
        ("If-Match" = Option<String>, Header, description = "A revision, or `*`"),
        ("If-Lock" = Option<String>, Header, description = "`NAME:TOKEN`"),
    ),
    responses(
        (status = 200, body = Written),
        (status = 412, description = "A condition did not hold", body = ErrorBody),
        (status = 503, description = "Not done", body = ErrorBody),
        (status = 504, description = "Perhaps done", body = ErrorBody),
    )
)]
pub(super) async fn delete_value(
    State(state): State<AppState>,
    caller: Caller,
    key: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Json<Written>, Error> {
    let key = path(key)?;
    let conditions = conditions(&headers, &key)?;
    let (deleted, revision) = state.delete(&caller.service, &key, conditions).await?;
    Ok(Json(Written {
        revision: revision.0,
        deleted: Some(deleted),
    }))
}

#[derive(Deserialize)]
pub(super) struct ListQuery {
    #[serde(default)]
    prefix: String,
    after: Option<String>,
    limit: Option<usize>,
}

/// The values whose keys begin with a prefix, page by page. Each page is of one moment; two pages may be of two.
#[utoipa::path(
    get,
    path = "/v1/state/kv",
    tag = "state",
    params(
        ("prefix" = Option<String>, Query, description = "How the keys begin; all if not given"),
        ("after" = Option<String>, Query, description = "Only keys after this one: `next` of the page before"),
        ("limit" = Option<usize>, Query, description = "At most this many, 1 to 1000; a page has at most about a megabyte"),
    ),
    responses((status = 200, body = EntryPage), (status = 503, body = ErrorBody))
)]
pub(super) async fn list_values(
    State(state): State<AppState>,
    caller: Caller,
    list: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<EntryPage>, Error> {
    let list = query(list)?;
    let limit = list.limit.unwrap_or(PAGE_MAX);
    let page = state
        .list(&caller.service, &list.prefix, list.after.as_deref(), limit)
        .await?;
    Ok(Json(page.into()))
}

/// Several operations at once, all or none.
#[utoipa::path(
    post,
    path = "/v1/state/txn",
    tag = "state",
    request_body = TransactionBody,
    responses(
        (status = 200, body = TransactionDone),
        (status = 400, body = ErrorBody),
        (status = 409, description = "The quota is used up", body = ErrorBody),
        (status = 413, description = "A value is too large", body = ErrorBody),
        (status = 503, description = "Not done", body = ErrorBody),
        (status = 504, description = "Perhaps done", body = ErrorBody),
    )
)]
pub(super) async fn post_txn(
    State(state): State<AppState>,
    caller: Caller,
    body: Body,
) -> Result<Json<TransactionDone>, Error> {
    let body: TransactionBody = json(body).await?;
    let done = state.transact(&caller.service, Transaction::try_from(body)?).await?;
    Ok(Json(done.into()))
}

/// What the service keeps, and what it may keep.
#[utoipa::path(get, path = "/v1/state/usage", tag = "state", responses((status = 200, body = UsageBody)))]
pub(super) async fn get_usage(State(state): State<AppState>, caller: Caller) -> Result<Json<UsageBody>, Error> {
    let amounts = state.amounts(&caller.service).await?;
    let limits = state.limits();
    Ok(Json(UsageBody {
        service: caller.service.to_string(),
        keys: amounts.keys,
        keys_max: limits.keys_max,
        bytes: amounts.bytes,
        bytes_max: limits.bytes_max,
        locks: amounts.locks,
        locks_max: limits.locks_max,
    }))
}

/// The conditions that a request's headers name. One that is not understood is refused: without it the write would be made.
fn conditions(headers: &HeaderMap, key: &str) -> Result<Vec<Condition>, Error> {
    let mut conditions = Vec::new();
    for value in headers.get_all(header::IF_MATCH) {
        conditions.push(match text(value, "If-Match")? {
            "*" => Condition::Exists { key: key.into() },
            tag => Condition::Revision {
                key: key.into(),
                is: number(tag.trim_matches('"'), "If-Match", "REVISION")?,
            },
        });
    }
    for value in headers.get_all(header::IF_NONE_MATCH) {
        if text(value, "If-None-Match")? != "*" {
            return Err(Error::InvalidRequest("`If-None-Match` takes only `*`".into()));
        }
        conditions.push(Condition::Absent { key: key.into() });
    }
    for value in headers.get_all(IF_LOCK) {
        let (name, token) = text(value, "If-Lock")?
            .split_once(':')
            .ok_or_else(|| Error::InvalidRequest("`If-Lock` is `NAME:TOKEN`".into()))?;
        conditions.push(Condition::Lock {
            name: name.trim().into(),
            token: number(token.trim(), "If-Lock", "NAME:TOKEN")?,
        });
    }
    Ok(conditions)
}

fn text<'a>(value: &'a HeaderValue, header: &str) -> Result<&'a str, Error> {
    value
        .to_str()
        .map(str::trim)
        .map_err(|_| Error::InvalidRequest(format!("`{header}` is not text")))
}

fn number(text: &str, header: &str, form: &str) -> Result<Revision, Error> {
    text.parse()
        .map(Revision)
        .map_err(|_| Error::InvalidRequest(format!("`{header}` is `{form}`, with a number")))
}
