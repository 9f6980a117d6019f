//! The HTTP form, for curl and for clients.

mod kv;
mod listen;
mod locks;
mod stream;
mod tokens;
mod wire;

pub use listen::serve;

use crate::{AppState, Error};
use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::header::{self, HeaderMap};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use model::ServiceName;
use serde::de::DeserializeOwned;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wire::ErrorBody;

/// Largest body of a transaction: its values as base64, and some room for keys.
const JSON_BYTES_MAX: usize = 2 << 20;

/// What applications may ask, each with the token of its service.
pub fn routes(state: AppState) -> axum::Router {
    documented().split_for_parts().0.with_state(state)
}

/// What only the operator may ask: tokens. Mount it where nobody else can send a request.
pub fn admin_routes(state: AppState) -> axum::Router {
    documented_admin().split_for_parts().0.with_state(state)
}

/// The OpenAPI document of both.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let (_, mut document) = documented().merge(documented_admin()).split_for_parts();
    // axum's way to write the rest of a path is not OpenAPI's.
    document.paths.paths = std::mem::take(&mut document.paths.paths)
        .into_iter()
        .map(|(path, item)| (path.replace("{*", "{"), item))
        .collect();
    document
}

fn documented() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(kv::get_value, kv::put_value, kv::delete_value))
        .routes(routes!(kv::list_values))
        .routes(routes!(kv::post_txn))
        .routes(routes!(kv::get_usage))
        .routes(routes!(stream::watch_values))
        .routes(routes!(locks::list_locks))
        .routes(routes!(locks::get_lock))
        .routes(routes!(locks::acquire_lock))
        .routes(routes!(locks::renew_lock))
        .routes(routes!(locks::release_lock))
}

fn documented_admin() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(tokens::issue_token, tokens::revoke_token))
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(ErrorBody::new(&self))).into_response();
        if matches!(self, Error::TokenMissing) {
            let challenge = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Who asks: the service whose token came with the request.
struct Caller {
    service: ServiceName,
    token: String,
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Error> {
        let token = bearer(&parts.headers)?.ok_or(Error::TokenMissing)?.to_owned();
        let service = state.authorize(&token).await?;
        Ok(Self { service, token })
    }
}

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    let value = value.to_str().map_err(|_| Error::TokenInvalid)?;
    let (scheme, token) = value.split_once(' ').ok_or(Error::TokenInvalid)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Error::TokenInvalid);
    }
    Ok(Some(token.trim()))
}

/// A part of the path, or what is wrong with it.
fn path<T>(path: Result<Path<T>, PathRejection>) -> Result<T, Error> {
    path.map(|Path(path)| path)
        .map_err(|rejection| Error::InvalidRequest(rejection.body_text()))
}

/// The query, or what is wrong with it.
fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Error> {
    query
        .map(|Query(query)| query)
        .map_err(|rejection| Error::InvalidRequest(rejection.body_text()))
}

/// The whole body, of at most `max` bytes.
async fn bytes(body: Body, max: usize) -> Result<Vec<u8>, Error> {
    match axum::body::to_bytes(body, max).await {
        Ok(bytes) => Ok(bytes.into()),
        Err(error) if is_length(&error) => Err(Error::ValueTooLarge { max }),
        Err(error) => Err(Error::InvalidRequest(format!("the body did not arrive: {error}"))),
    }
}

fn is_length(error: &axum::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if error.to_string() == "length limit exceeded" {
            return true;
        }
        source = error.source();
    }
    false
}

/// A JSON body; `Content-Type` may be what it will, curl sends its own.
async fn json<T: DeserializeOwned>(body: Body) -> Result<T, Error> {
    let bytes = bytes(body, JSON_BYTES_MAX).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::InvalidRequest(format!("the body is not what it should be: {error}")))
}
