//! The audit log: what happened, in order, for good (45 CFR 164.312(b)).
//!
//! It is also the only state there is besides the keys: who is enrolled is what its entries say.
//! One writer commits; whatever waits is committed together. SQL stands in `store.rs` alone.

mod entry;
mod log;
mod store;

pub use entry::{Actor, Asked, AuthorityKey, Decision, Entry, Event, RecordedCertificate, Refused};
pub use log::{Log, LogError, Slot};
pub use store::{Filter, Reader, StoreError};
