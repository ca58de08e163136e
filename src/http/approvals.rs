//! Requests that wait for somebody's approval.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::routes::{Answer, Name, Shared, index_of};
use super::signed::Signed;
use crate::authority::Authority;
use crate::model::{GivenApproval, WaitingRequest};

pub(super) fn api() -> OpenApiRouter<Arc<Authority>> {
    OpenApiRouter::new()
        .routes(routes!(waiting))
        .routes(routes!(give))
}

/// The requests that wait for an approval which the caller may give, and the caller's own.
#[utoipa::path(get, path = "/v1/approvals", responses((status = 200, body = Vec<WaitingRequest>)))]
async fn waiting(State(authority): Shared, signed: Signed) -> Answer<Vec<WaitingRequest>> {
    let waiting = authority.waiting_requests(&signed.request, signed.source);
    Ok(Json(waiting.await?))
}

/// Approve the request that an entry of the log holds.
#[utoipa::path(post, path = "/v1/approvals/{entry}", params(("entry" = u64, Path)),
    responses((status = 200, body = GivenApproval)))]
async fn give(State(authority): Shared, entry: Name, signed: Signed) -> Answer<GivenApproval> {
    let entry = index_of(&entry?)?;
    let given = authority.approve(&signed.request, signed.source, entry);
    Ok(Json(given.await?))
}
