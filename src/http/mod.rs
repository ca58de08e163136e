//! The JSON API over TLS. It takes requests apart, hands them to the authority as they are, and
//! puts the answers together; it decides nothing.

mod approvals;
mod guests;
mod hosts;
mod keys;
mod locks;
mod log;
mod login;
mod policy;
mod problem;
mod routes;
mod server;
mod signed;
mod stalled;
mod tail;
mod tls;
mod witness;

pub use routes::openapi;
pub use server::serve;
pub use tls::{ServerTls, TlsError};
pub use witness::serve_witness;
