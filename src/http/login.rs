//! Who signs in, and for how long.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::Problem;
use super::routes::{Answer, Name, Shared, illegal, query};
use super::signed::Signed;
use crate::authority::Authority;
use crate::model::{
    Account, LoginAnswer, LoginBegin, LoginBegun, LoginFinish, LoginWays, SessionSummary,
    SessionTouch, UserSummary, WorkloadLogin,
};

pub(super) fn api() -> OpenApiRouter<Arc<Authority>> {
    OpenApiRouter::new()
        .routes(routes!(ways, begin))
        .routes(routes!(finish))
        .routes(routes!(begin_workload))
        .routes(routes!(sessions))
        .routes(routes!(touch))
        .routes(routes!(end))
        .routes(routes!(link))
        .routes(routes!(unlink))
}

/// Who signs in here.
#[utoipa::path(get, path = "/v1/login", responses((status = 200, body = LoginWays)))]
async fn ways(State(authority): Shared) -> Json<LoginWays> {
    Json(authority.login_ways())
}

/// Begin to sign in. The key that signs the request is the session's afterwards.
#[utoipa::path(post, path = "/v1/login", request_body = LoginBegin,
    responses((status = 200, body = LoginBegun)))]
async fn begin(State(authority): Shared, signed: Signed) -> Answer<LoginBegun> {
    let begun = authority.begin_login(&signed.request, signed.source);
    Ok(Json(begun.await?))
}

/// Finish signing in, or ask whether somebody has.
#[utoipa::path(post, path = "/v1/login/finish", request_body = LoginFinish,
    responses((status = 200, body = LoginAnswer)))]
async fn finish(State(authority): Shared, signed: Signed) -> Answer<LoginAnswer> {
    let answer = authority.finish_login(&signed.request, signed.source);
    Ok(Json(answer.await?))
}

/// Begin a workload's session. The key that signs the request is the session's.
#[utoipa::path(post, path = "/v1/login/workload", request_body = WorkloadLogin,
    responses((status = 200, body = SessionSummary)))]
async fn begin_workload(State(authority): Shared, signed: Signed) -> Answer<SessionSummary> {
    let session = authority.begin_workload(&signed.request, signed.source);
    Ok(Json(session.await?))
}

/// Which sessions to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SessionsQuery {
    /// Everybody's, and not the caller's alone.
    #[serde(default)]
    all: bool,
}

/// The sessions that last.
#[utoipa::path(get, path = "/v1/sessions", params(SessionsQuery),
    responses((status = 200, body = Vec<SessionSummary>)))]
async fn sessions(
    State(authority): Shared,
    uri: Uri,
    signed: Signed,
) -> Answer<Vec<SessionSummary>> {
    let SessionsQuery { all } = query(&uri)?;
    let sessions = authority.sessions(&signed.request, signed.source, all);
    Ok(Json(sessions.await?))
}

/// Show a second factor for the session whose key signs the request.
#[utoipa::path(post, path = "/v1/sessions/touch", request_body = SessionTouch,
    responses((status = 200, body = SessionSummary)))]
async fn touch(State(authority): Shared, signed: Signed) -> Answer<SessionSummary> {
    let session = authority.touch_session(&signed.request, signed.source);
    Ok(Json(session.await?))
}

/// End a session.
#[utoipa::path(delete, path = "/v1/sessions/{fingerprint}",
    params(("fingerprint" = String, Path, description = "percent-encoded")),
    responses((status = 204)))]
async fn end(
    State(authority): Shared,
    fingerprint: Name,
    signed: Signed,
) -> Result<StatusCode, Problem> {
    let Path(fingerprint) = fingerprint?;
    let ended = authority.end_session(&signed.request, signed.source, &fingerprint);
    ended.await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Make an account at a provider a user's.
#[utoipa::path(post, path = "/v1/users/{name}/accounts", params(("name" = String, Path)),
    request_body = Account, responses((status = 200, body = UserSummary)))]
async fn link(State(authority): Shared, name: Name, signed: Signed) -> Answer<UserSummary> {
    let Path(name) = name?;
    let user = authority.link(&signed.request, signed.source, &name);
    Ok(Json(user.await?))
}

/// Take an account at a provider away from a user.
#[utoipa::path(delete, path = "/v1/users/{name}/accounts/{provider}/{subject}",
    params(("name" = String, Path), ("provider" = String, Path),
        ("subject" = String, Path, description = "percent-encoded")),
    responses((status = 200, body = UserSummary)))]
async fn unlink(
    State(authority): Shared,
    path: Result<Path<(String, String, String)>, PathRejection>,
    signed: Signed,
) -> Answer<UserSummary> {
    let Path((name, provider, subject)) = path?;
    let provider = provider
        .parse()
        .map_err(|error| illegal(format!("the path: {error}")))?;
    let account = Account { provider, subject };
    let user = authority.unlink(&signed.request, signed.source, &name, account);
    Ok(Json(user.await?))
}
