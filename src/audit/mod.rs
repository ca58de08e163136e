//! The audit log: what happened, in order, for good (45 CFR 164.312(b)).
//!
//! It is also the only state there is besides the keys: who is enrolled is what its entries say.
//! One writer commits; whatever waits is committed together, with the Merkle tree over all entries and
//! a signed checkpoint of it. SQL stands in `store/` alone. docs/log.md specifies all of it.

mod archive;
mod checkpoint;
mod entry;
mod event;
mod export;
mod firsts;
mod log;
mod proof;
mod range;
mod signers;
mod store;
mod tree;
mod verify;
mod writer;

pub use archive::Archive;
pub use checkpoint::{Checkpoint, CheckpointError, IllegalKey, NoteKind, NoteSigner, VerifierKey};
pub use entry::{
    Actor, Asked, AuthorityKey, Decision, Entry, Event, HostActor, HostProfile, NEEDS_APPROVAL,
    NewCaKey, NewSession, RecordedCertificate, Refused, SpentToken,
};
pub use export::{ExportError, ExportProof, Format};
pub use log::{Counter, Log, LogError, Opened, Place, Slot, Spent, With};
pub use proof::{EntryProof, Hashes, ProofError};
pub use range::{Rebuilt, Stretch};
pub use signers::LogSigners;
pub use store::{
    Adopted, Database, Filter, Found, Reader, Snapshot, StoreError, TileRange, Trouble,
};
pub use tree::{Frontier, Hash, record_hash};
pub use verify::{Beside, Columns, Entries, Expected, Stored, Verified, Wrong, verify};
