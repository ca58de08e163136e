//! Witnesses: others who saw the log grow, and who cosign no log that was rewritten.
//!
//! A [`Witness`] keeps, for each log that it follows, the newest checkpoint that it cosigned, and
//! cosigns only what continues it (C2SP tlog-witness). So the operator of a CA, who has the log's
//! key and its machine, can't show two histories that one honest witness both cosigned. The other
//! half is the CA's: [`Witnesses`] are those that it asks, with what they cosigned so far.

mod asked;
mod asking;
mod cosigned;
mod home;
mod judging;
mod request;
mod store;

pub use asked::{AskedError, AskedWitness, WitnessUrl};
pub use asking::Witnesses;
pub use cosigned::Cosigned;
pub use home::{WitnessConfig, WitnessHome, WitnessHomeError, WitnessName};
pub use judging::{Answer, Witness};
pub use request::{AddCheckpoint, Malformed};
pub use store::WitnessStoreError;
