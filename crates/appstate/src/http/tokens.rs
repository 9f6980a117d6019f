//! Tokens over HTTP, for the operator.

use super::path;
use super::wire::{ErrorBody, TokenBody};
use crate::{AppState, Error};
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use model::ServiceName;

/// Makes a token with which `holder` may use the state of a service, and ends the one it had.
#[utoipa::path(
    post,
    path = "/v1/state/tokens/{service}/{holder}",
    tag = "state",
    params(
        ("service" = String, Path, description = "The service"),
        ("holder" = String, Path, description = "Who will have it: an instance, or a name for a person or a script"),
    ),
    responses((status = 200, body = TokenBody), (status = 400, body = ErrorBody), (status = 503, body = ErrorBody))
)]
pub(super) async fn issue_token(
    State(state): State<AppState>,
    names: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<TokenBody>, Error> {
    let (service, holder) = path(names)?;
    let token = state.issue(&named(service)?, &holder).await?;
    Ok(Json(TokenBody {
        token: token.expose().to_owned(),
    }))
}

/// Ends the token of `holder`.
#[utoipa::path(
    delete,
    path = "/v1/state/tokens/{service}/{holder}",
    tag = "state",
    params(("service" = String, Path, description = "The service"), ("holder" = String, Path, description = "Who has it")),
    responses((status = 204), (status = 400, body = ErrorBody), (status = 503, body = ErrorBody))
)]
pub(super) async fn revoke_token(
    State(state): State<AppState>,
    names: Result<Path<(String, String)>, PathRejection>,
) -> Result<StatusCode, Error> {
    let (service, holder) = path(names)?;
    state.revoke(&named(service)?, &holder).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn named(service: String) -> Result<ServiceName, Error> {
    ServiceName::new(service).map_err(|invalid| Error::InvalidName {
        what: "service",
        name: invalid.name,
        problem: invalid.problem,
    })
}
