//! The log as others check it: checkpoints, tiles and proofs.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::Problem;
use super::routes::{Answer, Name, Shared, illegal, index_of, query, serial_of};
use super::signed::Signed;
use crate::audit::TileRange;
use crate::authority::{Authority, Which};
use crate::model::{
    ArchiveAnswer, ArchiveRequest, ConsistencyProof, EntryIndex, InclusionProof, RangeProof, Span,
    Timestamp,
};

/// The hashes or entries of a whole tile.
const TILE: u16 = 256;

pub(super) fn api() -> OpenApiRouter<Arc<Authority>> {
    OpenApiRouter::new()
        .routes(routes!(checkpoint))
        .routes(routes!(cosigned))
        .routes(routes!(tile))
        .routes(routes!(bundle))
        .routes(routes!(inclusion))
        .routes(routes!(consistency))
        .routes(routes!(range))
        .routes(routes!(span))
        .routes(routes!(archive))
        .routes(routes!(prove_entry))
        .routes(routes!(prove_serial))
}

/// The newest checkpoint of the log: a signed note (C2SP tlog-checkpoint).
#[utoipa::path(get, path = "/v1/log/checkpoint",
    responses((status = 200, body = String, content_type = "text/plain")))]
async fn checkpoint(State(authority): Shared, signed: Signed) -> Result<String, Problem> {
    Ok(authority.checkpoint(&signed.request, signed.source).await?)
}

/// Whose cosignatures are demanded.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WitnessQuery {
    /// The name of a witness; several with + in between, which no name has.
    witness: Option<String>,
}

impl WitnessQuery {
    /// A + that was not percent-encoded is a space by now, which no name has either.
    fn names(&self) -> Vec<String> {
        let names = self
            .witness
            .as_deref()
            .unwrap_or_default()
            .split(['+', ' ']);
        names
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect()
    }
}

/// The newest checkpoint that witnesses cosigned, with all the cosignatures that it has (C2SP
/// tlog-cosignature).
#[utoipa::path(get, path = "/v1/log/checkpoint/cosigned", params(WitnessQuery),
    responses((status = 200, body = String, content_type = "text/plain")))]
async fn cosigned(State(authority): Shared, uri: Uri, signed: Signed) -> Result<String, Problem> {
    let names = query::<WitnessQuery>(&uri)?.names();
    Ok(authority
        .cosigned(&signed.request, signed.source, &names)
        .await?)
}

/// The hashes of a tile of the tree (C2SP tlog-tiles): `LEVEL/N`, or `LEVEL/N.p/WIDTH` for its
/// first hashes, with N in groups of three digits such as `x001/234`.
#[utoipa::path(get, path = "/v1/log/tile/{*tile}", params(("tile" = String, Path)),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream")))]
async fn tile(State(authority): Shared, tile: Name, signed: Signed) -> Result<Response, Problem> {
    let Path(tile) = tile?;
    let no_tile = || illegal("the path: use LEVEL/N or LEVEL/N.p/WIDTH, as C2SP tlog-tiles has it");
    let (level, rest) = tile.split_once('/').ok_or_else(no_tile)?;
    let level: u8 = level
        .parse()
        .ok()
        .filter(|level| *level < 8)
        .ok_or_else(no_tile)?;
    let (index, width) = place(rest).ok_or_else(no_tile)?;
    let range = TileRange {
        level,
        index,
        width,
    };
    let hashes = authority
        .tile(&signed.request, signed.source, range)
        .await?;
    Ok(binary(hashes))
}

/// Entries of the log, 256 at a time (C2SP tlog-tiles), each behind its length in two bytes.
#[utoipa::path(get, path = "/v1/log/tile/entries/{*bundle}", params(("bundle" = String, Path)),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream")))]
async fn bundle(
    State(authority): Shared,
    bundle: Name,
    signed: Signed,
) -> Result<Response, Problem> {
    let Path(bundle) = bundle?;
    let (index, width) = place(&bundle)
        .ok_or_else(|| illegal("the path: use N or N.p/WIDTH, as C2SP tlog-tiles has it"))?;
    let entries = authority
        .bundle(&signed.request, signed.source, index, width)
        .await?;
    Ok(binary(entries))
}

fn binary(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response()
}

/// `x001/x234/067` or `067`, with `.p/W` behind it for a part.
fn place(path: &str) -> Option<(u64, u16)> {
    let (digits, width) = match path.split_once(".p/") {
        None => (path, TILE),
        Some((digits, written)) => {
            let width: u16 = written.parse().ok()?;
            let legal = (1..TILE).contains(&width) && width.to_string() == written;
            (digits, legal.then_some(width)?)
        }
    };
    let mut index: u64 = 0;
    let mut groups = digits.split('/').peekable();
    while let Some(group) = groups.next() {
        let digits = match groups.peek() {
            Some(_) => group.strip_prefix('x')?,
            None => group,
        };
        if digits.len() != 3 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        index = index.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
    }
    Some((index, width))
}

/// Which proof of inclusion.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct InclusionQuery {
    /// The entry's index.
    index: u64,
    /// How many entries the log has in the proof; the newest checkpoint's when left out.
    size: Option<u64>,
}

/// Prove that an entry is in the log.
#[utoipa::path(get, path = "/v1/log/inclusion", params(InclusionQuery),
    responses((status = 200, body = InclusionProof)))]
async fn inclusion(State(authority): Shared, uri: Uri, signed: Signed) -> Answer<InclusionProof> {
    let InclusionQuery { index, size } = query(&uri)?;
    let (request, source) = (&signed.request, signed.source);
    Ok(Json(
        authority
            .inclusion(request, source, EntryIndex(index), size)
            .await?,
    ))
}

/// Which proof of consistency.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ConsistencyQuery {
    /// The smaller size.
    old: u64,
    /// The larger size.
    new: u64,
}

/// Prove that the log of one size begins with all of the log of another.
#[utoipa::path(get, path = "/v1/log/consistency", params(ConsistencyQuery),
    responses((status = 200, body = ConsistencyProof)))]
async fn consistency(
    State(authority): Shared,
    uri: Uri,
    signed: Signed,
) -> Answer<ConsistencyProof> {
    let ConsistencyQuery { old, new } = query(&uri)?;
    Ok(Json(
        authority
            .consistency(&signed.request, signed.source, old, new)
            .await?,
    ))
}

/// Which entries to prove.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RangeQuery {
    /// The first entry.
    first: u64,
    /// The entry behind the last.
    next: u64,
    /// How many entries the log has in the proof.
    size: u64,
}

/// Prove that entries are all that the log has from one to before another.
#[utoipa::path(get, path = "/v1/log/range", params(RangeQuery),
    responses((status = 200, body = RangeProof)))]
async fn range(State(authority): Shared, uri: Uri, signed: Signed) -> Answer<RangeProof> {
    let RangeQuery { first, next, size } = query(&uri)?;
    Ok(Json(
        authority
            .range_proof(&signed.request, signed.source, first, next, size)
            .await?,
    ))
}

/// Which time.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SpanQuery {
    /// Not before (RFC 3339).
    #[param(value_type = Option<String>)]
    since: Option<Timestamp>,
    /// Before (RFC 3339).
    #[param(value_type = Option<String>)]
    until: Option<Timestamp>,
}

/// Find where the entries of a time stand in the audit log.
#[utoipa::path(get, path = "/v1/audit/span", params(SpanQuery),
    responses((status = 200, body = Span)))]
async fn span(State(authority): Shared, uri: Uri, signed: Signed) -> Answer<Span> {
    let SpanQuery { since, until } = query(&uri)?;
    Ok(Json(
        authority
            .span(&signed.request, signed.source, since, until)
            .await?,
    ))
}

/// Move the oldest entries out of the database into a file, one file at a time.
#[utoipa::path(post, path = "/v1/audit/archive", request_body = ArchiveRequest,
    responses((status = 200, body = ArchiveAnswer)))]
async fn archive(State(authority): Shared, signed: Signed) -> Answer<ArchiveAnswer> {
    Ok(Json(
        authority.archive(&signed.request, signed.source).await?,
    ))
}

/// An entry with the proof that it is in the log (C2SP tlog-proof, the entry as extra data).
#[utoipa::path(get, path = "/v1/log/proofs/entries/{index}",
    params(("index" = u64, Path), WitnessQuery),
    responses((status = 200, body = String, content_type = "text/plain")))]
async fn prove_entry(
    State(authority): Shared,
    index: Name,
    uri: Uri,
    signed: Signed,
) -> Result<String, Problem> {
    let which = Which::Entry(index_of(&index?)?);
    prove(&authority, &signed, which, &uri).await
}

/// The entry of a certificate with the proof that it is in the log (C2SP tlog-proof, the entry as
/// extra data).
#[utoipa::path(get, path = "/v1/log/proofs/serials/{serial}",
    params(("serial" = String, Path), WitnessQuery),
    responses((status = 200, body = String, content_type = "text/plain")))]
async fn prove_serial(
    State(authority): Shared,
    serial: Name,
    uri: Uri,
    signed: Signed,
) -> Result<String, Problem> {
    let which = Which::Serial(serial_of(&serial?)?);
    prove(&authority, &signed, which, &uri).await
}

async fn prove(
    authority: &Authority,
    signed: &Signed,
    which: Which,
    uri: &Uri,
) -> Result<String, Problem> {
    let names = query::<WitnessQuery>(uri)?.names();
    let proof = authority
        .prove(&signed.request, signed.source, which, &names)
        .await?;
    Ok(proof.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_tlog_tiles() {
        assert_eq!(place("000"), Some((0, 256)));
        assert_eq!(place("x001/x234/067"), Some((1_234_067, 256)));
        assert_eq!(place("x001/067.p/1"), Some((1067, 1)));
        let illegal = [
            "",
            "0",
            "00",
            "0000",
            "x000",
            "x001/",
            "001/234",
            "x1/234",
            "001.p/0",
            "001.p/256",
            "001.p/07",
            "001.p/",
            "001.p/-1",
            "+01",
            "x001/23a",
            "x999/x999/x999/x999/x999/x999/x999/999",
        ];
        for path in illegal {
            assert_eq!(place(path), None, "{path}");
        }
    }
}
