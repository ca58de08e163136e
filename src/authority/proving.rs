//! What anybody may check: checkpoints, the tree's hashes, and proofs.
//!
//! Hashes tell nothing about anybody, since each entry has a nonce or a salt that can't be guessed: so
//! every requester and every host may have them. Entries hold personal data: they are for those whom policy lets read
//! the log. A request for hashes spends its nonce in
//! memory alone: taken again after a restart, it would give what it gave before. What a FIDO2 key has
//! counted outlives a restart here, too: a copy of it shows by that.

use std::net::IpAddr;

use super::{Authority, Refusal, Which, now};
use crate::audit::{EntryProof, Stretch, TileRange};
use crate::identity::SignedRequest;
use crate::model::{ConsistencyProof, EntryIndex, InclusionProof, RangeProof};
use crate::policy::AdminAction;

/// How many entries stand in a whole bundle.
const BUNDLE: u64 = 256;

impl Authority {
    /// The signed note of the newest checkpoint.
    ///
    /// # Errors
    /// When the requester can't be identified.
    pub async fn checkpoint(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<String, Refusal> {
        self.identify_anybody(request, source).await?;
        let newest = self.log.newest();
        let newest = newest.borrow();
        let none = || Refusal::Internal("the log has no checkpoint".to_owned());
        Ok(newest.as_ref().ok_or_else(none)?.note().to_owned())
    }

    /// The proof that an entry is in the log of a size; of the newest when none is given.
    ///
    /// # Errors
    /// When the requester can't be identified, or the log was never that long.
    pub async fn inclusion(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        index: EntryIndex,
        size: Option<u64>,
    ) -> Result<InclusionProof, Refusal> {
        self.identify_anybody(request, source).await?;
        let size = size.unwrap_or_else(|| self.size());
        self.bounded(size)?;
        tokio::task::block_in_place(|| {
            let hashes = self.reader.inclusion(index, size)?;
            let leaf = self.reader.leaf(index)?;
            let none = || Refusal::NotFound(format!("the log has no entry {index}"));
            let leaf = leaf.ok_or_else(none)?;
            Ok(InclusionProof {
                index,
                size,
                leaf_hash: leaf.to_string(),
                hashes: hashes.into(),
            })
        })
    }

    /// The proof that the log of one size begins with all of the log of another.
    ///
    /// # Errors
    /// When the requester can't be identified, or the log was never that long.
    pub async fn consistency(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        old: u64,
        new: u64,
    ) -> Result<ConsistencyProof, Refusal> {
        self.identify_anybody(request, source).await?;
        self.bounded(new)?;
        let hashes = tokio::task::block_in_place(|| self.reader.consistency(old, new))?;
        Ok(ConsistencyProof {
            old,
            new,
            hashes: hashes.into(),
        })
    }

    /// The proof that entries are all that the log of a size has from one to before another.
    ///
    /// # Errors
    /// When the requester can't be identified, or the log was never that long.
    pub async fn range_proof(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        first: u64,
        next: u64,
        size: u64,
    ) -> Result<RangeProof, Refusal> {
        self.identify_anybody(request, source).await?;
        self.bounded(size)?;
        let stretch = Stretch::new(first, next, size)?;
        let hashes = tokio::task::block_in_place(|| self.reader.around(stretch))?;
        Ok(RangeProof {
            first,
            next,
            size,
            hashes: hashes.into(),
        })
    }

    /// The hashes of a tile (C2SP tlog-tiles).
    ///
    /// # Errors
    /// When the requester can't be identified, or the log does not have them.
    pub async fn tile(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        range: TileRange,
    ) -> Result<Vec<u8>, Refusal> {
        self.identify_anybody(request, source).await?;
        tokio::task::block_in_place(|| self.reader.tile(range))?
            .ok_or_else(|| Refusal::NotFound("the log has no such tile yet".to_owned()))
    }

    /// The entries of a bundle (C2SP tlog-tiles), each behind its length in two bytes.
    ///
    /// # Errors
    /// When the requester may not read the log, or it does not have them.
    pub async fn bundle(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        bundle: u64,
        width: u16,
    ) -> Result<Vec<u8>, Refusal> {
        let (requester, _) = self
            .administrator(request, source, AdminAction::ReadLog, now())
            .await?;
        self.read(&requester).await?;
        let none = || Refusal::NotFound("the log has no such entries yet".to_owned());
        let first = bundle.checked_mul(BUNDLE).ok_or_else(none)?;
        let end = first.checked_add(u64::from(width)).ok_or_else(none)?;
        if end > self.size() {
            return Err(none());
        }
        let entries = tokio::task::block_in_place(|| {
            self.reader.range(EntryIndex(first), usize::from(width))
        })?;
        if entries.len() != usize::from(width) {
            return Err(none());
        }
        let mut bytes = Vec::new();
        for entry in entries {
            let length = u16::try_from(entry.len())
                .map_err(|_| Refusal::Internal("an entry is too long".to_owned()))?;
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(entry.as_bytes());
        }
        Ok(bytes)
    }

    /// An entry with the proof that it is in the log, which needs nothing else to be checked. With
    /// witnesses, it is in the newest log that all of them cosigned.
    ///
    /// # Errors
    /// When there is none, or the requester may not read the log.
    pub async fn prove(
        &self,
        request: &SignedRequest,
        source: IpAddr,
        which: Which,
        witnesses: &[String],
    ) -> Result<EntryProof, Refusal> {
        let (requester, _) = self
            .administrator(request, source, AdminAction::ReadLog, now())
            .await?;
        self.read(&requester).await?;
        let newest = if witnesses.is_empty() {
            let newest = self.log.newest().borrow().clone();
            newest.ok_or_else(|| Refusal::NotFound("the log is empty".to_owned()))?
        } else {
            self.newest_cosigned(witnesses)?
        };
        tokio::task::block_in_place(|| {
            let (index, entry) = self.find(which)?;
            if index.0 >= newest.size && !witnesses.is_empty() {
                return Err(Refusal::NotFound(format!(
                    "entry {index} is newer than what {} cosigned so far, {} entries: try again \
                     in a moment; if that lasts, the server's own log says why",
                    witnesses.join(" and "),
                    newest.size
                )));
            }
            Ok(EntryProof {
                entry,
                index,
                hashes: self.reader.inclusion(index, newest.size)?,
                note: newest.note().to_owned(),
            })
        })
    }

    /// Identifies whoever asks for hashes: a requester or a host.
    pub(super) async fn identify_anybody(
        &self,
        request: &SignedRequest,
        source: IpAddr,
    ) -> Result<(), Refusal> {
        let now = now();
        let found = self.authenticate(request, now).await.and_then(|authentic| {
            let (directory, replays) = (self.directory(), &self.replays);
            if authentic.is_by_host(directory.hosts()) {
                let host = authentic.host(source, directory.hosts(), replays, now);
                return host.map(|_| None);
            }
            let requester = authentic.requester(source, &directory, replays, &self.counters, now);
            requester.map(Some)
        });
        match found {
            Ok(Some(requester)) if requester.counter.is_some() => self.read(&requester).await,
            Ok(_) => Ok(()),
            Err(refusal) => Err(self.unidentified(request, source, refusal, now).await?),
        }
    }

    /// How many entries are on disk.
    fn size(&self) -> u64 {
        let newest = self.log.newest();
        newest
            .borrow()
            .as_ref()
            .map_or(0, |checkpoint| checkpoint.size)
    }

    fn bounded(&self, size: u64) -> Result<(), Refusal> {
        let length = self.size();
        if size <= length {
            return Ok(());
        }
        Err(Refusal::NotFound(format!(
            "the log has {length} entries, and not {size}"
        )))
    }
}
