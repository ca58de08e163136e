use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;

use super::problem::Problem;
use crate::identity::{Proof, SignedRequest};

/// The largest body that is read. A request with an 8192-bit RSA key needs less than a quarter.
pub(super) const LARGEST_BODY: usize = 64 * 1024;
/// How much more is taken off the wire and dropped. A client that still writes when the connection
/// ends sees a broken connection and not our answer.
const DROPPED: usize = 16 * 1024 * 1024;

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
        let body = read(body).await?;
        Ok(Self {
            request: SignedRequest {
                method: parts.method.as_str().to_owned(),
                target,
                body,
                proof,
            },
            source,
        })
    }
}

/// Reads a body that is not too large.
pub(super) async fn read(mut body: Body) -> Result<Vec<u8>, Problem> {
    let mut kept = Vec::new();
    let mut length = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            let detail = "the body broke off";
            Problem::new(StatusCode::BAD_REQUEST, "illegal-request", detail)
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        length = length.saturating_add(data.len());
        if length <= LARGEST_BODY {
            kept.extend_from_slice(&data);
        } else if length > LARGEST_BODY + DROPPED {
            break;
        }
    }
    if length > LARGEST_BODY {
        let detail = format!("the body is larger than {LARGEST_BODY} bytes");
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            detail,
        ));
    }
    Ok(kept)
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
