//! Locks.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::Problem;
use super::routes::{Answer, Shared};
use super::signed::Signed;
use crate::authority::Authority;
use crate::model::{LockSummary, NewLock};

pub(super) fn api() -> OpenApiRouter<Arc<Authority>> {
    OpenApiRouter::new()
        .routes(routes!(locks, lock))
        .routes(routes!(unlock))
}

/// All locks.
#[utoipa::path(get, path = "/v1/locks", responses((status = 200, body = Vec<LockSummary>)))]
async fn locks(State(authority): Shared, signed: Signed) -> Answer<Vec<LockSummary>> {
    let locks = authority.locks(&signed.request, signed.source).await?;
    Ok(Json(locks))
}

/// Issue nothing more for a role, a user or a host, or take no more requests by a key.
#[utoipa::path(post, path = "/v1/locks", request_body = NewLock,
    responses((status = 200, body = LockSummary)))]
async fn lock(State(authority): Shared, signed: Signed) -> Answer<LockSummary> {
    let lock = authority.lock(&signed.request, signed.source).await?;
    Ok(Json(lock))
}

/// Issue again for a role, a user or a host, or take a key's requests again.
#[utoipa::path(delete, path = "/v1/locks/{kind}/{name}",
    params(("kind" = String, Path), ("name" = String, Path)), responses((status = 204)))]
async fn unlock(
    State(authority): Shared,
    target: Result<Path<(String, String)>, axum::extract::rejection::PathRejection>,
    signed: Signed,
) -> Result<StatusCode, Problem> {
    let Path((kind, name)) = target?;
    let target = format!("{kind}/{name}");
    let unlocked = authority.unlock(&signed.request, signed.source, &target);
    unlocked.await?;
    Ok(StatusCode::NO_CONTENT)
}
