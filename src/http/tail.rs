//! The log live, as server-sent events.

use std::convert::Infallible;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::guests::{Guest, Guests};
use super::problem::Problem;
use super::routes::{Shared, illegal, query};
use super::signed::Signed;
use crate::audit::Filter;
use crate::authority::{Authority, Tail};
use crate::model::{EntryIndex, Purpose, RoleName, Serial, Timestamp, UserName};

/// Streams at a time.
const STREAMS: usize = 64;
/// Of them to one source.
const STREAMS_OF_ONE: usize = 16;
/// After so long without an event a comment shows that the server is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The streams that are open.
#[derive(Clone)]
pub(super) struct Streams {
    places: Arc<Semaphore>,
    guests: Guests,
    stop: CancellationToken,
}

/// The place of one of them, until it is dropped.
struct Place {
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
    _guest: Guest,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(STREAMS)),
            guests: Guests::default(),
            stop: CancellationToken::new(),
        }
    }

    /// Ends all of them: they would not end by themselves.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    fn admit(&self, source: IpAddr) -> Result<Place, Problem> {
        let busy = |whose: &str| {
            let detail = format!("{whose} follow the log already: end one, or try again later");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
        };
        let permit = Arc::clone(&self.places).try_acquire_owned();
        let permit = permit.map_err(|_| busy(&format!("{STREAMS} clients")))?;
        let guest = self.guests.admit(source, STREAMS_OF_ONE);
        let guest = guest.ok_or_else(|| busy(&format!("{STREAMS_OF_ONE} of your clients")))?;
        Ok(Place {
            stop: self.stop.clone(),
            _permit: permit,
            _guest: guest,
        })
    }
}

pub(super) fn api() -> OpenApiRouter<Arc<Authority>> {
    OpenApiRouter::new().routes(routes!(tail))
}

/// Which entries of the log to follow. All that is given must hold.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TailQuery {
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
    /// From this index on; from the newest entry on when left out.
    from: Option<u64>,
}

/// Follow the audit log: server-sent events, each with an entry's index as `id` and the entry as
/// `data`.
#[utoipa::path(get, path = "/v1/audit/tail", params(TailQuery),
    responses((status = 200, body = String, content_type = "text/event-stream")))]
async fn tail(
    State(authority): Shared,
    Extension(streams): Extension<Streams>,
    uri: Uri,
    signed: Signed,
) -> Result<Response, Problem> {
    let query: TailQuery = query(&uri)?;
    if query.from.is_some_and(|from| i64::try_from(from).is_err()) {
        return Err(illegal("the query: from: use an entry's index"));
    }
    let filter = Filter {
        user: query.user,
        role: query.role,
        purpose: query.purpose,
        since: query.since,
        until: query.until,
        serial: query.serial,
        from: EntryIndex(0),
    };
    let from = query.from.map(EntryIndex);
    let tail = authority
        .tail(&signed.request, signed.source, filter, from)
        .await?;
    let place = streams.admit(signed.source)?;
    let events = stream::unfold((tail, place), async |(mut tail, place)| {
        let events = next(&mut tail, &place).await?;
        Some((Ok::<_, Infallible>(events), (tail, place)))
    });
    let head = [(header::CONTENT_TYPE, "text/event-stream")];
    Ok((head, Body::from_stream(events)).into_response())
}

/// What is sent next; nothing at the end.
async fn next(tail: &mut Tail, place: &Place) -> Option<Bytes> {
    let entries = tokio::select! {
        entries = tail.next(KEEP_ALIVE) => entries?,
        () = place.stop.cancelled() => return None,
    };
    let mut text = String::new();
    for (index, entry) in &entries {
        // An entry is one line of JSON.
        write!(text, "id: {}\ndata: {entry}\n\n", index.0).expect("a String takes any text");
    }
    if entries.is_empty() {
        text.push_str(":\n\n");
    }
    Some(text.into())
}
