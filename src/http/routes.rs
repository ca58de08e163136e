use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use utoipa::openapi::OpenApi;
use utoipa::{IntoParams, OpenApi as _};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::approvals;
use super::hosts;
use super::keys;
use super::locks;
use super::log;
use super::login;
use super::policy;
use super::problem::Problem;
use super::signed::Signed;
use super::tail::{self, Streams};
use crate::audit::Filter;
use crate::authority::{Authority, Which};
use crate::model::{
    AuditPage, CertificateAnswer, EntryIndex, Health, HostCertificateRequest, Identity, NewKey,
    NewUser, Purpose, RoleName, RoleSummary, Serial, SignedTrust, SshCertificateRequest, Timestamp,
    TrustBundle, UserName, UserSummary, Written, X509CertificateRequest,
};

/// The most entries of a page of the log.
const LARGEST_PAGE: usize = 1000;
const DEFAULT_PAGE: usize = 100;

pub(super) type Shared = State<Arc<Authority>>;
pub(super) type Answer<T> = Result<Json<T>, Problem>;
pub(super) type Name = Result<Path<String>, PathRejection>;

#[derive(utoipa::OpenApi)]
#[openapi(info(
    title = "Hallpass",
    description = "An SSH and database certificate authority. Every path but /healthz, /readyz, GET of /v1/login, \
                   /v1/trust, /v1/trust/signed and /v1/openapi.json takes signed requests only: the headers \
                   Hallpass-Time, Hallpass-Nonce and Hallpass-Signature, as docs/api.md specifies."
))]
struct Description;

/// The API as OpenAPI 3.1, made from the code that serves it.
pub fn openapi() -> OpenApi {
    api().into_openapi()
}

/// Everything that is served.
pub(super) fn router(authority: Arc<Authority>, streams: Streams) -> Router {
    let (router, description) = api().split_for_parts();
    let description = Arc::new(description);
    router
        .route(
            "/v1/openapi.json",
            get(move || {
                let description = Arc::clone(&description);
                async move { Json((*description).clone()) }
            }),
        )
        .fallback(async || Problem::no_such_path())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(Extension(streams))
        .with_state(authority)
}

fn api() -> OpenApiRouter<Arc<Authority>> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(trust))
        .routes(routes!(signed_trust))
        .routes(routes!(whoami))
        .routes(routes!(roles))
        .routes(routes!(issue_ssh))
        .routes(routes!(issue_x509))
        .routes(routes!(certify_ssh_host))
        .routes(routes!(certify_tls_host))
        .routes(routes!(users, enrol))
        .routes(routes!(user, remove_user))
        .routes(routes!(disable_user))
        .routes(routes!(enable_user))
        .routes(routes!(enrol_key))
        .routes(routes!(remove_key))
        .routes(routes!(entries))
        .routes(routes!(entry))
        .routes(routes!(entry_of_serial))
        .merge(approvals::api())
        .merge(hosts::api())
        .merge(keys::api())
        .merge(locks::api())
        .merge(login::api())
        .merge(policy::api())
        .merge(log::api())
        .merge(tail::api())
}

/// Whether the process runs.
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = Health)))]
async fn healthz() -> Json<Health> {
    Json(Health {
        status: "ok".to_owned(),
        detail: None,
    })
}

/// Whether certificates can be issued, and what is wrong when something is.
#[utoipa::path(get, path = "/readyz",
    responses((status = 200, body = Health), (status = 503, body = Health)))]
async fn readyz(State(authority): Shared) -> Response {
    match authority.check().await {
        Ok(()) => {
            let detail = authority.trouble();
            let status = if detail.is_some() { "degraded" } else { "ok" };
            let status = status.to_owned();
            Json(Health { status, detail }).into_response()
        }
        Err(refusal) => {
            let detail = Some(refusal.to_string());
            let health = Health {
                status: "unavailable".to_owned(),
                detail,
            };
            (StatusCode::SERVICE_UNAVAILABLE, Json(health)).into_response()
        }
    }
}

/// The public CA keys that hosts, databases and clients must trust.
#[utoipa::path(get, path = "/v1/trust", responses((status = 200, body = TrustBundle)))]
async fn trust(State(authority): Shared) -> Json<Written<TrustBundle>> {
    Json(authority.trust())
}

/// The same with a signature by the log's key, for those who can't tell yet whom to trust.
#[utoipa::path(get, path = "/v1/trust/signed", responses((status = 200, body = SignedTrust)))]
async fn signed_trust(State(authority): Shared) -> Answer<SignedTrust> {
    Ok(Json(authority.signed_trust()?))
}

/// Who the server takes the caller for.
#[utoipa::path(get, path = "/v1/whoami", responses((status = 200, body = Identity)))]
async fn whoami(State(authority): Shared, signed: Signed) -> Answer<Identity> {
    Ok(Json(
        authority.whoami(&signed.request, signed.source).await?,
    ))
}

/// The roles that policy grants the caller while it knows no reason.
#[utoipa::path(get, path = "/v1/roles", responses((status = 200, body = Vec<RoleSummary>)))]
async fn roles(State(authority): Shared, signed: Signed) -> Answer<Vec<RoleSummary>> {
    Ok(Json(authority.roles(&signed.request, signed.source).await?))
}

/// Issue an SSH user certificate.
#[utoipa::path(post, path = "/v1/certificates/ssh", request_body = SshCertificateRequest,
    responses((status = 200, body = CertificateAnswer)))]
async fn issue_ssh(State(authority): Shared, signed: Signed) -> Answer<CertificateAnswer> {
    Ok(Json(
        authority.issue_ssh(&signed.request, signed.source).await?,
    ))
}

/// Issue an X.509 client certificate for a database.
#[utoipa::path(post, path = "/v1/certificates/x509", request_body = X509CertificateRequest,
    responses((status = 200, body = CertificateAnswer)))]
async fn issue_x509(State(authority): Shared, signed: Signed) -> Answer<CertificateAnswer> {
    Ok(Json(
        authority.issue_x509(&signed.request, signed.source).await?,
    ))
}

/// Issue an SSH host certificate.
#[utoipa::path(post, path = "/v1/host-certificates/ssh", request_body = HostCertificateRequest,
    responses((status = 200, body = CertificateAnswer)))]
async fn certify_ssh_host(State(authority): Shared, signed: Signed) -> Answer<CertificateAnswer> {
    Ok(Json(
        authority
            .certify_ssh_host(&signed.request, signed.source)
            .await?,
    ))
}

/// Issue a TLS server certificate.
#[utoipa::path(post, path = "/v1/host-certificates/tls", request_body = HostCertificateRequest,
    responses((status = 200, body = CertificateAnswer)))]
async fn certify_tls_host(State(authority): Shared, signed: Signed) -> Answer<CertificateAnswer> {
    Ok(Json(
        authority
            .certify_tls_host(&signed.request, signed.source)
            .await?,
    ))
}

/// Everybody who is enrolled.
#[utoipa::path(get, path = "/v1/users", responses((status = 200, body = Vec<UserSummary>)))]
async fn users(State(authority): Shared, signed: Signed) -> Answer<Vec<UserSummary>> {
    Ok(Json(authority.users(&signed.request, signed.source).await?))
}

/// Enrol a user.
#[utoipa::path(post, path = "/v1/users", request_body = NewUser,
    responses((status = 200, body = UserSummary)))]
async fn enrol(State(authority): Shared, signed: Signed) -> Answer<UserSummary> {
    Ok(Json(authority.enrol(&signed.request, signed.source).await?))
}

/// One enrolled user.
#[utoipa::path(get, path = "/v1/users/{name}", params(("name" = String, Path)),
    responses((status = 200, body = UserSummary)))]
async fn user(State(authority): Shared, name: Name, signed: Signed) -> Answer<UserSummary> {
    let Path(name) = name?;
    Ok(Json(
        authority
            .user(&signed.request, signed.source, &name)
            .await?,
    ))
}

/// Remove a user and all keys of theirs.
#[utoipa::path(delete, path = "/v1/users/{name}", params(("name" = String, Path)),
    responses((status = 204)))]
async fn remove_user(
    State(authority): Shared,
    name: Name,
    signed: Signed,
) -> Result<StatusCode, Problem> {
    let Path(name) = name?;
    authority
        .remove(&signed.request, signed.source, &name)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Stop taking a user's requests.
#[utoipa::path(post, path = "/v1/users/{name}/disable", params(("name" = String, Path)),
    responses((status = 200, body = UserSummary)))]
async fn disable_user(State(authority): Shared, name: Name, signed: Signed) -> Answer<UserSummary> {
    let Path(name) = name?;
    Ok(Json(
        authority
            .disable(&signed.request, signed.source, &name)
            .await?,
    ))
}

/// Take a user's requests again.
#[utoipa::path(post, path = "/v1/users/{name}/enable", params(("name" = String, Path)),
    responses((status = 200, body = UserSummary)))]
async fn enable_user(State(authority): Shared, name: Name, signed: Signed) -> Answer<UserSummary> {
    let Path(name) = name?;
    Ok(Json(
        authority
            .enable(&signed.request, signed.source, &name)
            .await?,
    ))
}

/// Enrol another key of a user.
#[utoipa::path(post, path = "/v1/users/{name}/keys", params(("name" = String, Path)),
    request_body = NewKey, responses((status = 200, body = UserSummary)))]
async fn enrol_key(State(authority): Shared, name: Name, signed: Signed) -> Answer<UserSummary> {
    let Path(name) = name?;
    Ok(Json(
        authority
            .enrol_key(&signed.request, signed.source, &name)
            .await?,
    ))
}

/// Remove a key of a user.
#[utoipa::path(delete, path = "/v1/users/{name}/keys/{fingerprint}",
    params(("name" = String, Path), ("fingerprint" = String, Path, description = "percent-encoded")),
    responses((status = 200, body = UserSummary)))]
async fn remove_key(
    State(authority): Shared,
    path: Result<Path<(String, String)>, PathRejection>,
    signed: Signed,
) -> Answer<UserSummary> {
    let Path((name, fingerprint)) = path?;
    Ok(Json(
        authority
            .remove_key(&signed.request, signed.source, &name, &fingerprint)
            .await?,
    ))
}

/// Which entries of the log to list. All that is given must hold.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EntriesQuery {
    /// Who asked, or whom it was done to.
    #[param(value_type = Option<String>)]
    user: Option<UserName>,
    /// The role asked for.
    #[param(value_type = Option<String>)]
    role: Option<RoleName>,
    /// The purpose asked for.
    #[param(value_type = Option<String>)]
    purpose: Option<Purpose>,
    /// Not before (RFC 3339).
    #[param(value_type = Option<String>)]
    since: Option<Timestamp>,
    /// Before (RFC 3339).
    #[param(value_type = Option<String>)]
    until: Option<Timestamp>,
    /// The certificate's serial number.
    #[param(value_type = Option<String>)]
    serial: Option<Serial>,
    /// From this index on.
    from: Option<u64>,
    /// How many, 1 to 1000; 100 when left out.
    limit: Option<usize>,
}

/// List entries of the audit log, oldest first.
#[utoipa::path(get, path = "/v1/audit/entries", params(EntriesQuery),
    responses((status = 200, body = AuditPage)))]
async fn entries(State(authority): Shared, uri: Uri, signed: Signed) -> Answer<AuditPage> {
    let query: EntriesQuery = query(&uri)?;
    let limit = query.limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        return Err(illegal(format!(
            "the query: limit: use 1 to {LARGEST_PAGE}"
        )));
    }
    let from = query.from.unwrap_or(0);
    if i64::try_from(from).is_err() {
        return Err(illegal("the query: from: use an entry's index"));
    }
    let filter = Filter {
        user: query.user,
        role: query.role,
        purpose: query.purpose,
        since: query.since,
        until: query.until,
        serial: query.serial,
        from: EntryIndex(from),
    };
    Ok(Json(
        authority
            .entries(&signed.request, signed.source, &filter, limit)
            .await?,
    ))
}

/// One entry of the audit log.
#[utoipa::path(get, path = "/v1/audit/entries/{index}", params(("index" = u64, Path)),
    responses((status = 200, body = Object)))]
async fn entry(State(authority): Shared, index: Name, signed: Signed) -> Answer<Box<RawValue>> {
    let which = Which::Entry(index_of(&index?)?);
    Ok(Json(
        authority
            .entry(&signed.request, signed.source, which)
            .await?,
    ))
}

/// The entry of a certificate.
#[utoipa::path(get, path = "/v1/audit/serials/{serial}", params(("serial" = String, Path)),
    responses((status = 200, body = Object)))]
async fn entry_of_serial(
    State(authority): Shared,
    serial: Name,
    signed: Signed,
) -> Answer<Box<RawValue>> {
    let which = Which::Serial(serial_of(&serial?)?);
    Ok(Json(
        authority
            .entry(&signed.request, signed.source, which)
            .await?,
    ))
}

pub(super) fn index_of(path: &str) -> Result<EntryIndex, Problem> {
    path.parse::<u64>()
        .ok()
        .filter(|index| i64::try_from(*index).is_ok())
        .map(EntryIndex)
        .ok_or_else(|| illegal("the path: use an entry's index"))
}

pub(super) fn serial_of(path: &str) -> Result<Serial, Problem> {
    path.parse()
        .map_err(|error| illegal(format!("the path: {error}")))
}

/// Reads the query of a request.
pub(super) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    let Query(query) = Query::<T>::try_from_uri(uri).map_err(|error| {
        let text = error.body_text();
        let what = text
            .split_once("query string: ")
            .map_or(&*text, |(_, what)| what);
        illegal(format!("the query: {what}"))
    })?;
    Ok(query)
}

pub(super) fn illegal(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "illegal-request", detail)
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        illegal(format!("the path: {}", rejection.body_text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_names_every_path() {
        let paths = openapi().paths.paths;
        for path in [
            "/v1/certificates/ssh",
            "/v1/users/{name}/keys/{fingerprint}",
            "/readyz",
        ] {
            assert!(paths.contains_key(path), "{path}");
        }
        assert_eq!(paths.len(), 59);
    }
}
