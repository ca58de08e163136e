//! A witness over HTTP (C2SP tlog-witness).
//!
//! Without TLS: what comes in is signed by a log and what goes out by the witness, and nothing of
//! it is secret.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use hyper_util::server::graceful::Watcher;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use super::problem::Problem;
use super::server::{accept_all, connection};
use super::signed::read;
use crate::witness::{Answer, Witness};

/// Serves a witness until `stop` is done, then lets the requests in flight finish. `ready` is
/// called once connections are accepted.
pub async fn serve_witness(
    listener: TcpListener,
    witness: Arc<Witness>,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) {
    let router = Router::new()
        .route("/add-checkpoint", post(add_checkpoint))
        .fallback(async || {
            (
                StatusCode::NOT_FOUND,
                "a witness has /add-checkpoint alone\n",
            )
        })
        .with_state(witness);
    ready();
    let serve = move |stream: TcpStream, peer: SocketAddr, watcher: Watcher| {
        stream.set_nodelay(true).ok();
        connection(stream, peer, router.clone(), watcher)
    };
    accept_all(listener, TaskTracker::new(), serve, stop).await;
}

async fn add_checkpoint(
    State(witness): State<Arc<Witness>>,
    body: Body,
) -> Result<Response, Problem> {
    let body = read(body).await?;
    // On a thread that may wait for the disk.
    let answer = tokio::task::block_in_place(|| witness.add_checkpoint(&body, now()));
    Ok(match answer {
        Ok(answer) => answer.into_response(),
        Err(error) => {
            tracing::error!(%error, "nothing is cosigned");
            let detail = "the witness can't cosign now: its log says why\n";
            (StatusCode::INTERNAL_SERVER_ERROR, detail).into_response()
        }
    })
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let size = |size: u64| {
            let kind = [(header::CONTENT_TYPE, "text/x.tlog.size")];
            (StatusCode::CONFLICT, kind, format!("{size}\n")).into_response()
        };
        match self {
            Self::Cosigned(line) => line.into_response(),
            Self::Malformed(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
            Self::UnknownLog => {
                (StatusCode::NOT_FOUND, "this log is not followed here\n").into_response()
            }
            Self::Unsigned => {
                let why = "the key that is known of this log did not sign the checkpoint\n";
                (StatusCode::FORBIDDEN, why).into_response()
            }
            Self::AnotherSize(cosigned) | Self::AnotherRoot(cosigned) => size(cosigned),
            Self::Unproven => {
                let why = "the proof does not hold: the log may have been rewritten\n";
                (StatusCode::UNPROCESSABLE_ENTITY, why).into_response()
            }
        }
    }
}

fn now() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since_1970.unwrap_or_default().as_secs()
}
