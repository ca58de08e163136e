//! Hosts that keep themselves up to date.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::Problem;
use super::routes::{Answer, Name, Shared};
use super::signed::Signed;
use crate::authority::Authority;
use crate::model::{
    CertificateAnswer, HostConfirmation, HostInvitation, HostJoin, HostState, HostSubject,
    HostSummary, Invited,
};

pub(super) fn api() -> OpenApiRouter<Arc<Authority>> {
    OpenApiRouter::new()
        .routes(routes!(hosts, invite))
        .routes(routes!(remove))
        .routes(routes!(join))
        .routes(routes!(state, leave))
        .routes(routes!(certify_ssh))
        .routes(routes!(certify_tls))
        .routes(routes!(confirm))
}

/// Every host that was invited or has joined.
#[utoipa::path(get, path = "/v1/hosts", responses((status = 200, body = Vec<HostSummary>)))]
async fn hosts(State(authority): Shared, signed: Signed) -> Answer<Vec<HostSummary>> {
    let hosts = authority.hosts(&signed.request, signed.source).await?;
    Ok(Json(hosts))
}

/// Let a host join once.
#[utoipa::path(post, path = "/v1/hosts", request_body = HostInvitation,
    responses((status = 200, body = Invited)))]
async fn invite(State(authority): Shared, signed: Signed) -> Answer<Invited> {
    let invited = authority.invite_host(&signed.request, signed.source);
    Ok(Json(invited.await?))
}

/// Take no more requests of a host.
#[utoipa::path(delete, path = "/v1/hosts/{name}", params(("name" = String, Path)),
    responses((status = 204)))]
async fn remove(
    State(authority): Shared,
    name: Name,
    signed: Signed,
) -> Result<StatusCode, Problem> {
    let Path(name) = name?;
    let removed = authority.remove_host(&signed.request, signed.source, &name);
    removed.await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Join with a token. The key that signs the request is the host's from then on.
#[utoipa::path(post, path = "/v1/host/join", request_body = HostJoin,
    responses((status = 200, body = HostState)))]
async fn join(State(authority): Shared, signed: Signed) -> Answer<HostState> {
    let state = authority.join_host(&signed.request, signed.source);
    Ok(Json(state.await?))
}

/// What the host that asks must trust and let in.
#[utoipa::path(get, path = "/v1/host", responses((status = 200, body = HostState)))]
async fn state(State(authority): Shared, signed: Signed) -> Answer<HostState> {
    let state = authority.host_state(&signed.request, signed.source);
    Ok(Json(state.await?))
}

/// Take no more requests of the host that asks.
#[utoipa::path(delete, path = "/v1/host", responses((status = 204)))]
async fn leave(State(authority): Shared, signed: Signed) -> Result<StatusCode, Problem> {
    authority.leave_host(&signed.request, signed.source).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Certify the SSH key of the host that asks.
#[utoipa::path(post, path = "/v1/host/certificates/ssh", request_body = HostSubject,
    responses((status = 200, body = CertificateAnswer)))]
async fn certify_ssh(State(authority): Shared, signed: Signed) -> Answer<CertificateAnswer> {
    let answer = authority.renew_ssh_host(&signed.request, signed.source);
    Ok(Json(answer.await?))
}

/// Certify the TLS key of the database of the host that asks.
#[utoipa::path(post, path = "/v1/host/certificates/tls", request_body = HostSubject,
    responses((status = 200, body = CertificateAnswer)))]
async fn certify_tls(State(authority): Shared, signed: Signed) -> Answer<CertificateAnswer> {
    let answer = authority.renew_tls_host(&signed.request, signed.source);
    Ok(Json(answer.await?))
}

/// Say which trust bundle is in force on the host that asks.
#[utoipa::path(post, path = "/v1/host/confirm", request_body = HostConfirmation,
    responses((status = 204)))]
async fn confirm(State(authority): Shared, signed: Signed) -> Result<StatusCode, Problem> {
    authority
        .confirm_trust(&signed.request, signed.source)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
