//! Requests as the log has them.

use serde::Serialize;

use super::super::failure::Failure;
use crate::audit::{Entry, Event};
use crate::client::{Api, Query};
use crate::model::{AuditPage, Circumstances, EntryIndex, Timestamp, Ttl, UserName};
use crate::policy::{Judged, PolicySet, Wanted};

/// How many entries are read at a time.
const PAGE: usize = 1000;

/// A request on which policy decided.
#[derive(Serialize)]
pub(super) struct Logged {
    pub(super) entry: EntryIndex,
    pub(super) requester: UserName,
    #[serde(flatten)]
    pub(super) wanted: Wanted,
    pub(super) permitted: bool,
    #[serde(skip)]
    circumstances: Circumstances,
}

impl Logged {
    /// What a policy set says to it.
    pub(super) fn judge(&self, policy: &PolicySet) -> Judged {
        policy.judge(&self.requester, &self.wanted, &self.circumstances)
    }
}

/// Hands over each request of the log since then. Gives how many were logged without what a decision
/// needs.
pub(super) fn requests_since(
    api: &Api,
    since: Timestamp,
    mut each: impl FnMut(Logged) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let (mut from, mut incomplete) = (None, 0);
    loop {
        let target = Query::path(&["v1", "audit", "entries"])
            .with("since", Some(since))
            .with("from", from)
            .with("limit", Some(PAGE));
        let page: AuditPage = api.get(target.as_str())?;
        for body in &page.entries {
            let entry: Entry = serde_json::from_str(body.get()).map_err(Failure::internal)?;
            match logged(entry) {
                Some(Ok(logged)) => each(logged)?,
                Some(Err(NotKept)) => incomplete += 1,
                None => {}
            }
        }
        match page.next {
            // Never back, or there would be no end.
            Some(EntryIndex(next)) if from.is_none_or(|before| next > before) => from = Some(next),
            _ => return Ok(incomplete),
        }
    }
}

/// How and when it was asked is not in the log.
struct NotKept;

/// Nothing for entries that are about something else, and for requests that are refused whatever
/// the policies are.
fn logged(entry: Entry) -> Option<Result<Logged, NotKept>> {
    let (by, asked, decision, permitted) = match entry.event {
        Event::CertificateIssued {
            by,
            request,
            decision,
            ..
        } => (by, request, decision, true),
        Event::RequestRefused {
            by,
            request: Some(asked),
            decision: Some(decision),
            refused,
        } if decision.approves.is_none() => (by, asked, decision, !refused.is_by_policy()),
        _ => return None,
    };
    let Some(circumstances) = decision.circumstances else {
        return Some(Err(NotKept));
    };
    Some(Ok(Logged {
        entry: entry.index,
        requester: by.requester,
        wanted: Wanted {
            role: asked.role,
            purpose: asked.purpose,
            reason: asked.reason,
            ttl: Some(Ttl::from_secs(asked.ttl).ok()?),
        },
        permitted,
        circumstances,
    }))
}
