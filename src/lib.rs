//! Hallpass: an SSH and database certificate authority for access that expires by itself.
//!
//! The modules are a house. Each imports only from those above it in this list:
//!
//! - [`model`]: the vocabulary as types
//! - `prepared`: what is made once and used often
//! - [`keys`]: CA keys and their life
//! - [`certificate`]: a grant and a signer become a certificate
//! - [`policy`]: may this requester have this role, for this purpose, now?
//! - [`audit`]: the log
//! - [`outbound`]: whom the server believes when it calls others
//! - [`witness`]: others who saw the log grow, and cosign it
//! - [`delivery`]: the log, brought to others
//! - [`identity`]: who signed this request?
//! - [`access`]: requests that wait for approval
//! - [`authority`]: the use cases; the only place where all of the above meet
//! - [`http`]: the JSON API over TLS
//! - [`client`]: what a person runs
//! - [`host`]: what a host runs
//! - [`cli`]: the command line; prints, and nothing else
//!
//! docs/issuance.md follows one request through them.

#![deny(unsafe_op_in_unsafe_fn)]

pub mod access;
pub mod audit;
pub mod authority;
pub mod certificate;
pub mod cli;
pub mod client;
pub mod delivery;
pub mod host;
pub mod http;
pub mod identity;
pub mod keys;
pub mod model;
pub mod outbound;
pub mod policy;
mod prepared;
pub mod witness;
