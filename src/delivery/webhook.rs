//! Delivery to an HTTP server. Its answer acknowledges a whole batch.

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::io::{AsyncRead, AsyncWrite};

use super::bearer::{self, BearerError};
use super::feed::{Feed, Page};
use super::peer::{Peer, PeerError, TlsPeer};
use crate::audit::Checkpoint;
use crate::model::WebhookUrl;

/// How many entries are posted at once, and of how many bytes but for a single one.
const BATCH: usize = 100;
const BATCH_BYTES: usize = 512 * 1024;
/// For all of a post: connection, request and answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// A receiver may not ask for a longer pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How much of an answer's body is taken. What it says means nothing.
const LARGEST_ANSWER: usize = 64 * 1024;

/// Where entries are posted, and how.
pub(super) struct Webhook {
    way: Way,
    url: WebhookUrl,
    bearer_file: Option<PathBuf>,
}

enum Way {
    Tls(TlsPeer),
    /// To this machine itself.
    Plain(Peer),
}

impl Webhook {
    pub(super) fn new(
        url: WebhookUrl,
        ca_file: Option<PathBuf>,
        bearer_file: Option<PathBuf>,
    ) -> Result<Self, WebhookError> {
        let endpoint = url.endpoint.clone();
        let way = if url.tls {
            Way::Tls(TlsPeer::new(endpoint, ca_file.as_deref())?)
        } else {
            Way::Plain(Peer { endpoint })
        };
        // A mistake shows at once.
        bearer_file.as_deref().map(bearer::read).transpose()?;
        Ok(Self {
            way,
            url,
            bearer_file,
        })
    }

    /// Delivers for ever.
    pub(super) async fn run(self, mut feed: Feed) {
        loop {
            feed.wait_for(feed.next()).await;
            match self.deliver(&feed).await {
                Ok(page) => {
                    if let Some(cursor) = page.cursor() {
                        feed.advance(&cursor);
                    }
                    feed.up();
                }
                Err(PostError::Refused { status, pause }) => {
                    feed.down(&format!("it answered {status}"), pause).await;
                }
                Err(error) => feed.down(&error.to_string(), None).await,
            }
        }
    }

    /// Posts the next entries.
    async fn deliver(&self, feed: &Feed) -> Result<Page, PostError> {
        // The checkpoint comes first, and covers what is read after it.
        let checkpoint = feed.checkpoint().ok_or(PostError::NoEntries)?;
        let most = checkpoint
            .size
            .saturating_sub(feed.next())
            .min(BATCH as u64);
        let page = feed
            .page(feed.next(), most as usize, BATCH_BYTES)
            .map_err(PostError::Log)?;
        if page.entries.is_empty() {
            return Err(PostError::NoEntries);
        }
        let request = self.request(&page, &checkpoint)?;
        tokio::time::timeout(PATIENCE, self.post(request))
            .await
            .unwrap_or(Err(PostError::Late))?;
        Ok(page)
    }

    fn request(&self, page: &Page, checkpoint: &Checkpoint) -> Result<Request<Body>, PostError> {
        let note = serde_json::Value::from(checkpoint.note());
        let entries = page.entries.join(",");
        let body = format!("{{\"entries\":[{entries}],\"checkpoint\":{note}}}");
        let mut request = Request::post(&self.url.target)
            .header(header::HOST, self.url.endpoint.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .header(
                header::USER_AGENT,
                concat!("hallpass/", env!("CARGO_PKG_VERSION")),
            )
            .header(header::CONNECTION, "close");
        if let Some(path) = &self.bearer_file {
            request = request.header(header::AUTHORIZATION, bearer::read(path)?);
        }
        Ok(request.body(Body::from(body))?)
    }

    async fn post(&self, request: Request<Body>) -> Result<(), PostError> {
        match &self.way {
            Way::Tls(peer) => {
                let stream = peer.connect().await?;
                exchange(peer.secure(stream).await?, request).await
            }
            Way::Plain(peer) => exchange(peer.connect().await?, request).await,
        }
    }
}

/// Sends the request and takes the answer.
async fn exchange<S>(stream: S, request: Request<Body>) -> Result<(), PostError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let (head, mut body) = response.into_parts();
        let mut length = 0;
        while length < LARGEST_ANSWER
            && let Some(Ok(frame)) = body.frame().await
        {
            length += frame.data_ref().map_or(0, Bytes::len);
        }
        if head.status.is_success() {
            return Ok(());
        }
        Err(PostError::Refused {
            status: head.status,
            pause: retry_after(&head.headers),
        })
    };
    let mut answer = pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // What it has brought is still to be taken.
        _ = connection => answer.await,
    }
}

/// What a `Retry-After` asks for: seconds or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    let pause = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = OffsetDateTime::parse(text, &Rfc2822).ok()?;
            SystemTime::from(date)
                .duration_since(SystemTime::now())
                .unwrap_or_default()
        }
    };
    Some(pause.min(LONGEST_PAUSE))
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
enum PostError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{}", in_words(.0))]
    Hyper(#[from] hyper::Error),
    #[error(transparent)]
    Http(#[from] axum::http::Error),
    #[error(transparent)]
    Bearer(#[from] BearerError),
    #[error("it answered {status}")]
    Refused {
        status: StatusCode,
        pause: Option<Duration>,
    },
    #[error("it did not answer within {} s", PATIENCE.as_secs())]
    Late,
    #[error("the log can't be read: {0}")]
    Log(String),
    #[error("the log has no entries where its checkpoint says so")]
    NoEntries,
}

/// What hyper means.
fn in_words(error: &hyper::Error) -> String {
    // It closed, with the request on the way or before the answer was whole.
    if error.is_closed() || error.is_canceled() || error.is_incomplete_message() {
        return "the receiver closed the connection without an answer".to_owned();
    }
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Why nothing can be posted at all.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The receiver could not be known.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// There is no token.
    #[error(transparent)]
    Bearer(#[from] BearerError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_asks_for_a_pause_in_seconds_or_until_a_date() {
        let asked = |text: &'static str| {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers)
        };
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        assert_eq!(asked("86400"), Some(LONGEST_PAUSE));
        assert_eq!(asked("Fri, 31 Dec 2199 23:59:59 GMT"), Some(LONGEST_PAUSE));
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        for bad in ["-1", "soon", "", "99999999999999999999999"] {
            assert_eq!(asked(bad), None, "{bad}");
        }
    }
}
