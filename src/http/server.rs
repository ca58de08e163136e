use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::guests::Guests;
use super::problem::Problem;
use super::signed::Peer;
use super::stalled::Stalled;
use super::tail::Streams;
use super::{ServerTls, TlsError, routes};
use crate::authority::Authority;
use crate::model::HostTtl;

/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 1024;
/// Of them from one source, such as a bastion behind which many sit.
const CONNECTIONS_OF_ONE: usize = 128;
/// Line and headers together. An 8192-bit RSA signature needs less than 4 KiB.
const LARGEST_HEAD: usize = 16 * 1024;
const MOST_HEADERS: usize = 64;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For the head of a request, and between two of them.
const HEAD: Duration = Duration::from_secs(30);
/// For the rest: body, work and answer.
const REQUEST: Duration = Duration::from_secs(30);
/// For a peer to take some of what is written to it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long requests in flight have to finish when the server stops.
const FAREWELL: Duration = Duration::from_secs(15);

/// Serves until `stop` is done, then lets the requests in flight finish. `ready` is called once
/// connections are accepted. The server's certificate lives that long, and is renewed at half.
///
/// # Errors
/// When the server's certificate can't be issued.
pub async fn serve(
    listener: TcpListener,
    authority: Arc<Authority>,
    certificate_ttl: HostTtl,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), TlsError> {
    let tls = ServerTls::new(Arc::clone(&authority), certificate_ttl).await?;
    let acceptor = TlsAcceptor::from(Arc::new(tls.config()?));
    let streams = Streams::new();
    let router = routes::router(authority, streams.clone());
    let tasks = TaskTracker::new();
    let renewal = tasks.spawn(tls.keep_fresh());
    ready();
    let stop = async {
        stop.await;
        renewal.abort();
        streams.stop();
    };
    let serve = move |stream, peer, watcher| {
        secured(stream, peer, acceptor.clone(), router.clone(), watcher)
    };
    accept_all(listener, tasks, serve, stop).await;
    Ok(())
}

/// Serves each connection, until `stop` is done; then lets the requests in flight finish.
pub(super) async fn accept_all<F>(
    listener: TcpListener,
    tasks: TaskTracker,
    serve: impl Fn(TcpStream, SocketAddr, Watcher) -> F,
    stop: impl Future<Output = ()>,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let guests = Guests::default();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &connections) => accepted,
            () = &mut stop => break,
        };
        let (stream, peer, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                // Out of file descriptors, most likely: others must end first.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(guest) = guests.admit(peer.ip(), CONNECTIONS_OF_ONE) else {
            tracing::debug!(%peer, "too many connections of one source");
            continue;
        };
        let work = serve(stream, peer, graceful.watcher());
        tasks.spawn(async move {
            work.await;
            drop((permit, guest));
        });
    }
    drop(listener);
    tasks.close();
    let farewell = async {
        graceful.shutdown().await;
        // The last of them to end lets go of the authority, which then can be closed.
        tasks.wait().await;
    };
    if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
        tracing::warn!("requests in flight were cut off");
    }
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, permit))
}

/// A connection that begins with TLS.
async fn secured(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    router: Router,
    watcher: Watcher,
) {
    stream.set_nodelay(true).ok();
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS failed"),
        Err(_) => return tracing::debug!(%peer, "TLS took too long"),
    };
    connection(stream, peer, router, watcher).await;
}

/// HTTP on a connection that is ready for it.
pub(super) async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    router: Router,
    watcher: Watcher,
) {
    let service = service_fn(move |request| answer(router.clone(), request, peer));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(LARGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .serve_connection(TokioIo::new(Stalled::new(stream, PATIENCE)), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%peer, %error, "the connection broke");
    }
}

async fn answer(
    mut router: Router,
    mut request: Request<Incoming>,
    peer: SocketAddr,
) -> Result<Response, Infallible> {
    request.extensions_mut().insert(Peer(peer));
    let call = tower_service::Service::call(&mut router, request.map(Body::new));
    let mut response = match tokio::time::timeout(REQUEST, call).await {
        Ok(Ok(response)) => response,
        Err(_) => Problem::timed_out().into_response(),
    };
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
