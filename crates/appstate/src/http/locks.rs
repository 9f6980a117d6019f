//! Locks over HTTP.

use super::wire::{AcquireBody, ErrorBody, LockBody, LockTokenBody, Released};
use super::{Caller, json, path};
use crate::{AppState, Error, Wish};
use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use model::{Millis, Revision};

/// The locks that are held: to look at, may be a moment old.
#[utoipa::path(get, path = "/v1/state/locks", tag = "state", responses((status = 200, body = Vec<LockBody>)))]
pub(super) async fn list_locks(State(state): State<AppState>, caller: Caller) -> Result<Json<Vec<LockBody>>, Error> {
    let held = state.locks_held(&caller.service).await?;
    Ok(Json(held.into_iter().map(LockBody::from).collect()))
}

/// Who holds a lock now. Its time may be up all the same: that shows when somebody waits for it.
#[utoipa::path(
    get,
    path = "/v1/state/locks/{name}",
    tag = "state",
    params(("name" = String, Path, description = "The lock")),
    responses((status = 200, body = LockBody), (status = 404, description = "It is free", body = ErrorBody))
)]
pub(super) async fn get_lock(
    State(state): State<AppState>,
    caller: Caller,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<LockBody>, Error> {
    let name = path(name)?;
    let held = state.lock(&caller.service, &name).await?;
    let held = held.ok_or_else(|| Error::NotFound {
        key: format!("lock {name}"),
    })?;
    Ok(Json(held.into()))
}

/// Acquires a lock. The holder must stop `ttl_ms` after it *sent* the last request that was acknowledged.
#[utoipa::path(
    post,
    path = "/v1/state/locks/{name}/acquire",
    tag = "state",
    params(("name" = String, Path, description = "The lock")),
    request_body = AcquireBody,
    responses(
        (status = 200, body = LockBody),
        (status = 409, description = "Somebody else has it, or the quota is used up", body = ErrorBody),
        (status = 503, description = "Not done", body = ErrorBody),
        (status = 504, description = "Perhaps done: ask again with the same `attempt`", body = ErrorBody),
    )
)]
pub(super) async fn acquire_lock(
    State(state): State<AppState>,
    caller: Caller,
    name: Result<Path<String>, PathRejection>,
    body: Body,
) -> Result<Json<LockBody>, Error> {
    let name = path(name)?;
    let body: AcquireBody = json(body).await?;
    let attempt = match body.attempt {
        Some(attempt) => attempt,
        None => format!("{:016x}", crate::namespace::random()?),
    };
    let wish = Wish {
        owner: body.owner,
        ttl: Millis(body.ttl_ms),
        wait: Millis(body.wait_ms),
        attempt,
    };
    Ok(Json(state.acquire(&caller.service, &name, &wish).await?.into()))
}

/// Renews a lock. Once answered, the holder's time runs from when it sent this.
#[utoipa::path(
    post,
    path = "/v1/state/locks/{name}/renew",
    tag = "state",
    params(("name" = String, Path, description = "The lock")),
    request_body = LockTokenBody,
    responses(
        (status = 200, body = LockBody),
        (status = 412, description = "It is lost: stop", body = ErrorBody),
        (status = 503, description = "Not done", body = ErrorBody),
        (status = 504, description = "Perhaps done", body = ErrorBody),
    )
)]
pub(super) async fn renew_lock(
    State(state): State<AppState>,
    caller: Caller,
    name: Result<Path<String>, PathRejection>,
    body: Body,
) -> Result<Json<LockBody>, Error> {
    let name = path(name)?;
    let body: LockTokenBody = json(body).await?;
    let held = state.renew(&caller.service, &name, Revision(body.token)).await?;
    Ok(Json(held.into()))
}

/// Gives a lock back. Stop what it protects before.
#[utoipa::path(
    post,
    path = "/v1/state/locks/{name}/release",
    tag = "state",
    params(("name" = String, Path, description = "The lock")),
    request_body = LockTokenBody,
    responses((status = 200, body = Released), (status = 503, body = ErrorBody), (status = 504, body = ErrorBody))
)]
pub(super) async fn release_lock(
    State(state): State<AppState>,
    caller: Caller,
    name: Result<Path<String>, PathRejection>,
    body: Body,
) -> Result<Json<Released>, Error> {
    let name = path(name)?;
    let body: LockTokenBody = json(body).await?;
    let released = state.release(&caller.service, &name, Revision(body.token)).await?;
    Ok(Json(Released { released }))
}
