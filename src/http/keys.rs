//! CA keys.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::Problem;
use super::routes::{Answer, Name, Shared};
use super::signed::Signed;
use crate::authority::Authority;
use crate::model::{KeyRevocation, KeyStep, KeySummary, RevokedKey};

pub(super) fn api() -> OpenApiRouter<Arc<Authority>> {
    OpenApiRouter::new()
        .routes(routes!(keys))
        .routes(routes!(stage))
        .routes(routes!(activate))
        .routes(routes!(retire))
        .routes(routes!(cancel))
        .routes(routes!(revoke))
        .routes(routes!(revocation_lists))
}

/// Certificate revocation lists in PEM: one by each trusted root and each trusted issuing CA.
#[utoipa::path(get, path = "/v1/ca-keys/x509/crl",
    responses((status = 200, body = String, content_type = "application/x-pem-file")))]
async fn revocation_lists(State(authority): Shared, signed: Signed) -> Result<String, Problem> {
    let lists = authority.revocation_lists(&signed.request, signed.source);
    Ok(lists.await?)
}

/// All CA keys, those of the past included.
#[utoipa::path(get, path = "/v1/ca-keys", responses((status = 200, body = Vec<KeySummary>)))]
async fn keys(State(authority): Shared, signed: Signed) -> Answer<Vec<KeySummary>> {
    let keys = authority.ca_keys(&signed.request, signed.source).await?;
    Ok(Json(keys))
}

/// Make a new CA key of a kind and have it trusted.
#[utoipa::path(post, path = "/v1/ca-keys/{key}/stage", params(("key" = String, Path)),
    responses((status = 200, body = KeySummary)))]
async fn stage(State(authority): Shared, kind: Name, signed: Signed) -> Answer<KeySummary> {
    let Path(kind) = kind?;
    let key = authority.stage_key(&signed.request, signed.source, &kind);
    Ok(Json(key.await?))
}

/// Have a staged CA key sign from now on.
#[utoipa::path(post, path = "/v1/ca-keys/{key}/activate", params(("key" = String, Path)),
    request_body = KeyStep, responses((status = 200, body = KeySummary)))]
async fn activate(State(authority): Shared, key: Name, signed: Signed) -> Answer<KeySummary> {
    let Path(key) = key?;
    let key = authority.activate_key(&signed.request, signed.source, &key);
    Ok(Json(key.await?))
}

/// Have a CA key that no longer signs not be trusted any more.
#[utoipa::path(post, path = "/v1/ca-keys/{key}/retire", params(("key" = String, Path)),
    request_body = KeyStep, responses((status = 200, body = KeySummary)))]
async fn retire(State(authority): Shared, key: Name, signed: Signed) -> Answer<KeySummary> {
    let Path(key) = key?;
    let key = authority.retire_key(&signed.request, signed.source, &key);
    Ok(Json(key.await?))
}

/// Give a staged CA key up.
#[utoipa::path(post, path = "/v1/ca-keys/{key}/cancel", params(("key" = String, Path)),
    responses((status = 200, body = KeySummary)))]
async fn cancel(State(authority): Shared, key: Name, signed: Signed) -> Answer<KeySummary> {
    let Path(key) = key?;
    let key = authority.cancel_key(&signed.request, signed.source, &key);
    Ok(Json(key.await?))
}

/// Have a CA key that others may have not be trusted any more, and a fresh one sign in its place.
#[utoipa::path(post, path = "/v1/ca-keys/{key}/revoke", params(("key" = String, Path)),
    request_body = KeyRevocation, responses((status = 200, body = RevokedKey)))]
async fn revoke(State(authority): Shared, key: Name, signed: Signed) -> Answer<RevokedKey> {
    let Path(key) = key?;
    let revoked = authority.revoke_key(&signed.request, signed.source, &key);
    Ok(Json(revoked.await?))
}
