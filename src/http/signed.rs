use std::net::{IpAddr, SocketAddr};

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::problem::Problem;
use crate::identity::{Proof, SignedRequest};

/// The largest body that is read. A request with an 8192-bit RSA key needs less than a quarter.
pub(super) const LARGEST_BODY: usize = 64 * 1024;

/// Where a connection comes from.
#[derive(Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// A request taken as it came, with the address that it came from. Whether its signature is
/// right is for the authority to find out.
pub(super) struct Signed {
    pub(super) request: SignedRequest,
    pub(super) source: IpAddr,
}

impl<S: Send + Sync> FromRequest<S> for Signed {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let source = parts
            .extensions
            .get::<Peer>()
            .map(|peer| peer.0.ip().to_canonical());
        let Some(source) = source else {
            let detail = "the connection has no address";
            return Err(Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                detail,
            ));
        };
        let target = parts
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str())
            .to_owned();
        let proof = proof(&parts.headers);
        let body = Limited::new(body, LARGEST_BODY)
            .collect()
            .await
            .map_err(|error| {
                if error.downcast_ref::<LengthLimitError>().is_some() {
                    let detail = format!("the body is larger than {LARGEST_BODY} bytes");
                    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
                } else {
                    let detail = "the body broke off";
                    Problem::new(StatusCode::BAD_REQUEST, "illegal-request", detail)
                }
            })?;
        Ok(Self {
            request: SignedRequest {
                method: parts.method.as_str().to_owned(),
                target,
                body: body.to_bytes().into(),
                proof,
            },
            source,
        })
    }
}

fn proof(headers: &HeaderMap) -> Option<Proof> {
    let only = |name| {
        let mut values = headers.get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        // Of two, one could be checked and the other be used.
        values.next().is_none().then_some(value)
    };
    Proof::parse(
        only(Proof::TIME)?,
        only(Proof::NONCE)?,
        only(Proof::SIGNATURE)?,
    )
}
