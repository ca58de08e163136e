//! Reading the log live: what is there already, and then each entry once it is committed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{Authority, Refusal, now};
use crate::audit::{Checkpoint, Filter};
use crate::identity::{Requester, SignedRequest};
use crate::model::{Circumstances, EntryIndex};
use crate::policy::AdminAction;

/// How many entries a batch has at most. Whoever reads slowly has that many in memory, each of at
/// most 64 KiB.
const BATCH: usize = 16;
/// How often it is looked whether the requester may still read while nothing is committed. A
/// disabling wakes the tail itself, but may be taken in only after it has looked.
const LOOK: Duration = Duration::from_secs(1);

/// One requester's live view of the log.
pub struct Tail {
    authority: Arc<Authority>,
    requester: Requester,
    filter: Filter,
    newest: watch::Receiver<Option<Checkpoint>>,
    /// What was found before the first was asked for.
    ready: Vec<(EntryIndex, String)>,
    /// Whether there may be more on disk than was looked at.
    behind: bool,
}

impl Authority {
    /// Begins to read the log live at `from`; at the newest entry when left out.
    ///
    /// # Errors
    /// When the requester may not read the log, or it can't be read there.
    pub async fn tail(
        self: &Arc<Self>,
        request: &SignedRequest,
        source: IpAddr,
        mut filter: Filter,
        from: Option<EntryIndex>,
    ) -> Result<Tail, Refusal> {
        let (requester, _) = self
            .administrator(request, source, AdminAction::ReadLog, now())
            .await?;
        self.read(&requester).await?;
        let newest = self.log.newest();
        filter.from = from.unwrap_or_else(|| EntryIndex(size(&newest).saturating_sub(1)));
        let mut tail = Tail {
            authority: Arc::clone(self),
            requester,
            filter,
            newest,
            ready: Vec::new(),
            behind: true,
        };
        tail.ready = tail.look()?;
        Ok(tail)
    }

    /// Whether a requester who was identified may still read the log.
    fn may_still_read(&self, requester: &Requester) -> bool {
        let now = now();
        let permitted = self.accepted(requester, now, |directory, accepted| {
            if directory.check_unlocked(|| [requester.lock()]).is_err() {
                return false;
            }
            let circumstances = Circumstances {
                groups: accepted.groups(),
                ..self.circumstances(requester, now)
            };
            let policy = self.policy();
            let action = AdminAction::ReadLog;
            let engine = &policy.engine;
            engine
                .decide_admin(accepted.name, action, &circumstances)
                .allowed
        });
        permitted.unwrap_or(false)
    }
}

impl Tail {
    /// The next entries that match, as stored; none when `patience` has passed without any. Nothing
    /// at all once the requester may not read the log any more, or it can't be read.
    pub async fn next(&mut self, patience: Duration) -> Option<Vec<(EntryIndex, String)>> {
        let end = tokio::time::Instant::now() + patience;
        loop {
            if !self.authority.may_still_read(&self.requester) {
                let actor = &self.requester.actor;
                tracing::info!(user = %actor.requester, "may not read the log any more");
                return None;
            }
            if !self.ready.is_empty() {
                return Some(std::mem::take(&mut self.ready));
            }
            if self.behind {
                // Whoever asks anew is told why.
                let entries = self.look().ok()?;
                if !entries.is_empty() {
                    return Some(entries);
                }
            }
            // Time passes too while a search finds nothing.
            if tokio::time::Instant::now() >= end {
                return Some(Vec::new());
            }
            if self.behind {
                tokio::task::yield_now().await;
                continue;
            }
            let look = end.min(tokio::time::Instant::now() + LOOK);
            match tokio::time::timeout_at(look, self.newest.changed()).await {
                Ok(Ok(())) => self.behind = true,
                Ok(Err(_)) => return None,
                Err(_) => {}
            }
        }
    }

    /// Looks at what is on disk.
    fn look(&mut self) -> Result<Vec<(EntryIndex, String)>, Refusal> {
        // Before the search, so that nothing committed meanwhile is passed over.
        self.newest.mark_unchanged();
        let size = size(&self.newest);
        let found =
            tokio::task::block_in_place(|| self.authority.reader.list(&self.filter, BATCH))?;
        self.behind = found.next.is_some();
        let after = found.entries.last().map_or(0, |(index, _)| index.0 + 1);
        let looked_at = found.next.map_or(size, |next| next.0);
        // Never back: `from` may be of an entry that does not exist yet.
        self.filter.from.0 = self.filter.from.0.max(after).max(looked_at);
        Ok(found.entries)
    }
}

/// How many entries are on disk.
fn size(newest: &watch::Receiver<Option<Checkpoint>>) -> u64 {
    newest
        .borrow()
        .as_ref()
        .map_or(0, |checkpoint| checkpoint.size)
}
