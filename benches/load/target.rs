//! What the load generator asks of whoever issues certificates.

use std::time::Duration;

/// The two kinds of certificate for people.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ssh,
    X509,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ssh => "ssh",
            Self::X509 => "x509",
        }
    }
}

/// An issuer under test, and somebody whom it trusts.
pub(crate) trait Target: Sync {
    /// A key to be certified.
    type Subject: Sync;
    type Request: Send + Sync;
    /// What carries requests, one after the other.
    type Connection: Send;

    fn connect(&self) -> Self::Connection;

    fn subject(&self, kind: Kind) -> Self::Subject;

    /// A fresh request with all its signatures. Made before the clock starts.
    fn request(&self, subject: &Self::Subject) -> Self::Request;

    /// Sends a request, and waits for its answer, which must be a good one.
    fn exchange<'a>(
        &self,
        connection: &'a mut Self::Connection,
        request: &Self::Request,
    ) -> &'a [u8];

    /// The serial number of the certificate in an answer, which must hold one of that kind.
    fn serial(&self, kind: Kind, answer: &[u8]) -> u128;

    /// What it has spent so far, on all its threads.
    fn cpu(&self) -> Duration;
}
