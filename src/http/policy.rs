//! Policies: loaded anew, and explained.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::routes::{Answer, Shared};
use super::signed::Signed;
use crate::authority::Authority;
use crate::model::{ExplainRequest, Explanation, PolicyInForce};

pub(super) fn api() -> OpenApiRouter<Arc<Authority>> {
    OpenApiRouter::new()
        .routes(routes!(reload))
        .routes(routes!(explain))
}

/// Load the policies from their files: all or nothing.
#[utoipa::path(post, path = "/v1/policy/reload", responses((status = 200, body = PolicyInForce)))]
async fn reload(State(authority): Shared, signed: Signed) -> Answer<PolicyInForce> {
    let reloaded = authority.reload_policy(&signed.request, signed.source);
    Ok(Json(reloaded.await?))
}

/// What policy says to a question and why, or why it decided as an entry of the log says.
#[utoipa::path(post, path = "/v1/policy/explain", request_body = ExplainRequest,
    responses((status = 200, body = Explanation)))]
async fn explain(State(authority): Shared, signed: Signed) -> Answer<Explanation> {
    let explained = authority.explain(&signed.request, signed.source);
    Ok(Json(explained.await?))
}
