//! Old entries leave the database, and stay in the log.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Authority, Refusal, now, spent};
use crate::audit::{Archive, Event, With};
use crate::identity::SignedRequest;
use crate::model::{ArchiveAnswer, ArchiveRequest, ArchivedFile};
use crate::policy::AdminAction;

impl Authority {
    /// Moves the oldest entries out of the database into a file, as many as fit one.
    ///
    /// The file is on disk and was read back before an entry says so; only then may the database
    /// forget. Whatever breaks off in between is taken up by the next call or start.
    ///
    /// # Errors
    /// When the requester may not, somebody else does it, or a file can't be written.
    pub async fn archive(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<ArchiveAnswer, Refusal> {
        let now = now();
        let (requester, _) = self
            .administrator(request, source, AdminAction::ArchiveLog, now)
            .await?;
        let refuse = async |refusal| {
            self.refuse(&requester, request, None, None, refusal, now)
                .await
        };
        let ArchiveRequest { before } = match self.parse(request) {
            Ok(ask) => ask,
            Err(refusal) => return Err(refuse(refusal).await),
        };
        let Ok(alone) = Arc::clone(&self.archiving).try_lock_owned() else {
            let detail = "entries are being archived right now: try again in a moment";
            return Err(refuse(Refusal::Conflict(detail.to_owned())).await);
        };
        // A file that the log does not tell of yet is nobody else's to touch, also when who asked for it
        // hangs up meanwhile.
        let alone = Arc::new(alone);
        self.clear_archived().await?;
        let written = tokio::task::block_in_place(|| Archive::write(&self.reader, before))?;
        let Some((archive, kept)) = written else {
            self.read(&requester).await?;
            return Ok(ArchiveAnswer {
                archived: None,
                more: false,
            });
        };
        let event = Event::LogArchived {
            file: archive.file.clone(),
            sha256: archive.sha256.clone(),
            first: archive.first,
            next: archive.next,
            kept,
            by: requester.actor.clone(),
        };
        self.reserve(request, &requester, now)
            .await?
            .commit_with(
                event,
                Some(spent(&requester)),
                With::holding(Arc::clone(&alone)),
            )
            .await?;
        self.clear_archived().await?;
        tokio::task::block_in_place(|| archive.tidy(&self.reader))?;
        let more = tokio::task::block_in_place(|| self.reader.archivable(before))?.is_some();
        Ok(ArchiveAnswer {
            archived: Some(ArchivedFile {
                file: archive.file,
                sha256: archive.sha256,
                first: archive.first,
                next: archive.next,
            }),
            more,
        })
    }

    /// Has the database forget what is safe in files.
    async fn clear_archived(&self) -> Result<(), Refusal> {
        if let Some(before) = tokio::task::block_in_place(|| self.reader.clearable())? {
            self.log.clear_archived(before).await?;
        }
        Ok(())
    }
}
