//! What verifying has to know of each entry.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Columns;
use crate::model::{Serial, Timestamp};

/// What is read out of an entry to verify it.
#[derive(Deserialize)]
pub(super) struct Outline<'a> {
    pub(super) index: u64,
    pub(super) time: Timestamp,
    #[serde(borrow)]
    pub(super) event: EventOutline<'a>,
}

#[derive(Deserialize)]
pub(super) struct EventOutline<'a> {
    pub(super) kind: &'a str,
    #[serde(borrow, default, alias = "removed_by")]
    pub(super) by: Option<ByOutline<'a>>,
    #[serde(default)]
    pub(super) user: Option<&'a str>,
    #[serde(borrow, default)]
    pub(super) request: Option<RequestOutline<'a>>,
    #[serde(default)]
    pub(super) certificate: Option<CertificateOutline<'a>>,
}

#[derive(Deserialize)]
pub(super) struct ByOutline<'a> {
    /// None when it is a host.
    #[serde(default)]
    pub(super) requester: Option<&'a str>,
}

#[derive(Deserialize)]
pub(super) struct RequestOutline<'a> {
    pub(super) role: &'a str,
    pub(super) purpose: &'a str,
}

#[derive(Deserialize)]
pub(super) struct CertificateOutline<'a> {
    pub(super) form: &'a str,
    pub(super) serial: Serial,
    /// A JSON string, whose escaped line breaks only the check of the certificate has to read.
    #[serde(borrow)]
    pub(super) certificate: &'a RawValue,
}

impl Outline<'_> {
    /// What the database should have copied out of it.
    pub(super) fn columns(&self) -> Columns<'_> {
        let event = &self.event;
        // Of these, the first two are about what somebody asked for, and the rest about somebody.
        let asks = matches!(event.kind, "certificate-issued" | "request-refused");
        let request = event.request.as_ref().filter(|_| asks);
        Columns {
            time: self.time.as_millis(),
            kind: event.kind,
            requester: event.by.as_ref().and_then(|by| by.requester),
            subject: event.user,
            role: request.map(|request| request.role),
            purpose: request.map(|request| request.purpose),
            serial: event
                .certificate
                .as_ref()
                .map(|certificate| certificate.serial.get()),
        }
    }
}
