use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::audit::LogError;
use crate::authority::Refusal;
use crate::model;

/// An error answer as RFC 9457 problem details.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
        }
    }

    pub(super) fn no_such_path() -> Self {
        let detail = "there is nothing at this path: /v1/openapi.json lists what there is";
        Self::new(StatusCode::NOT_FOUND, "not-found", detail)
    }

    pub(super) fn method_not_allowed() -> Self {
        let detail = "this path does not take this method: /v1/openapi.json lists those it takes";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
    }

    pub(super) fn timed_out() -> Self {
        let detail = "the request took too long: try again";
        Self::new(StatusCode::REQUEST_TIMEOUT, "timed-out", detail)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::Unidentified => StatusCode::UNAUTHORIZED,
            Refusal::Illegal(_) => StatusCode::BAD_REQUEST,
            Refusal::Denied { .. } => StatusCode::FORBIDDEN,
            Refusal::NotFound(_) => StatusCode::NOT_FOUND,
            Refusal::Conflict(_) => StatusCode::CONFLICT,
            Refusal::Unavailable(LogError::Illegal(_)) => StatusCode::BAD_REQUEST,
            Refusal::Unavailable(_) | Refusal::NoKey(_) | Refusal::NoProvider(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Refusal::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, refusal.code(), refusal.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = model::Problem {
            kind: format!("urn:hallpass:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
