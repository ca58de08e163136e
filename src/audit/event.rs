//! What each kind of event means to the log and to those who rebuild state from it.

use super::{Actor, Asked, Event, NewCaKey, RecordedCertificate};
use crate::model::{HostName, KeyKind, UserName};

impl Event {
    /// The requester, for the log's index.
    pub fn requester(&self) -> Option<&UserName> {
        self.by().map(|actor| &actor.requester)
    }

    /// The user that something was done to, for the log's index.
    pub fn subject(&self) -> Option<&UserName> {
        match self {
            Self::UserEnrolled { user, .. }
            | Self::UserDisabled { user, .. }
            | Self::UserEnabled { user, .. }
            | Self::UserRemoved { user, .. }
            | Self::KeyEnrolled { user, .. }
            | Self::KeyRemoved { user, .. }
            | Self::UserLinked { user, .. }
            | Self::UserUnlinked { user, .. }
            | Self::SessionEnded { user, .. }
            | Self::CounterWentBack { user, .. } => Some(user),
            Self::SessionBegun(session) => Some(&session.user),
            Self::ApprovalGiven { requester, .. } => Some(requester),
            _ => None,
        }
    }

    /// Whether who is enrolled, which hosts have joined, what is locked, or which CA keys there are, is
    /// another after it.
    pub fn changes_state(&self) -> bool {
        self.subject().is_some()
            || self.host().is_some()
            || self.changes_ca_keys()
            || self.matters_for_a_day()
            || matches!(self, Self::Locked { .. } | Self::Unlocked { .. })
    }

    /// Whether something that a server holds in memory is other after it.
    pub fn is_heard(&self) -> bool {
        let policy = matches!(self, Self::PolicyText { .. } | Self::PolicyLoaded { .. });
        policy || self.changes_state()
    }

    /// The host that was invited, joined, confirmed or was removed.
    pub fn host(&self) -> Option<&HostName> {
        match self {
            Self::HostInvited { profile, .. } => Some(&profile.host),
            Self::HostJoined { host, .. }
            | Self::HostConfirmed { host, .. }
            | Self::HostRemoved { host, .. } => Some(host),
            _ => None,
        }
    }

    /// Whether a CA key stands elsewhere in its life after it.
    pub fn changes_ca_keys(&self) -> bool {
        matches!(
            self,
            Self::CaKeyStaged { .. }
                | Self::CaKeyActivated { .. }
                | Self::CaKeyRetired { .. }
                | Self::CaKeyCancelled { .. }
                | Self::CaKeyRevoked { .. }
        )
    }

    /// Whether what signs the log's checkpoints is another after it.
    pub fn changes_log_keys(&self) -> bool {
        let key = match self {
            Self::CaKeyStaged { new, .. } => &new.key,
            Self::CaKeyActivated { key, .. }
            | Self::CaKeyRetired { key, .. }
            | Self::CaKeyCancelled { key, .. }
            | Self::CaKeyRevoked { key, .. } => key,
            _ => return false,
        };
        key.kind == KeyKind::Log
    }

    /// The CA keys that it introduces.
    pub fn new_ca_keys(&self) -> &[NewCaKey] {
        match self {
            Self::CaKeyStaged { new, .. } => std::slice::from_ref(new),
            Self::CaKeyActivated { issuing, .. } => issuing.as_slice(),
            Self::CaKeyRevoked { successors, .. } => successors,
            _ => &[],
        }
    }

    /// Whether what it changes is over after a day at most: for a while, a key signs for somebody or
    /// does not any more, or an approval counts.
    pub fn matters_for_a_day(&self) -> bool {
        matches!(
            self,
            Self::SessionBegun(_)
                | Self::SessionTouched { .. }
                | Self::SessionEnded { .. }
                | Self::ApprovalGiven { .. }
        )
    }

    /// Whether a start believes it only when it is proven to be in the tree.
    pub fn must_be_proven(&self) -> bool {
        self.is_believed_when_proven()
            || self.matters_for_a_day()
            || matches!(self, Self::LogRestored { .. } | Self::ClockCorrected { .. })
    }

    /// Whether it stays in the database for good, and a start believes it only when it is proven to be
    /// in the tree: it says which keys there are, who may do what, or which files hold entries. A kind
    /// that once counted must always count, or archived logs don't add up.
    pub fn is_believed_when_proven(&self) -> bool {
        (self.changes_state() && !self.matters_for_a_day())
            || matches!(
                self,
                Self::AuthorityCreated { .. } | Self::LogArchived { .. }
            )
    }

    /// What a person asked for.
    pub fn request(&self) -> Option<&Asked> {
        match self {
            Self::CertificateIssued { request, .. } | Self::ApprovalGiven { request, .. } => {
                Some(request)
            }
            Self::RequestRefused { request, .. } => request.as_ref(),
            _ => None,
        }
    }

    /// The certificate, when one was issued.
    pub fn certificate(&self) -> Option<&RecordedCertificate> {
        match self {
            Self::CertificateIssued { certificate, .. }
            | Self::HostCertificateIssued { certificate, .. }
            | Self::HostCertificateRenewed { certificate, .. }
            | Self::ServerCertificateIssued { certificate, .. } => Some(certificate),
            _ => None,
        }
    }

    /// Who did it.
    pub fn by(&self) -> Option<&Actor> {
        match self {
            Self::UserEnrolled { by, .. }
            | Self::UserLinked { by, .. }
            | Self::SessionEnded { by, .. }
            | Self::CaKeyStaged { by, .. }
            | Self::CaKeyActivated { by, .. } => by.as_ref(),
            Self::HostRemoved { removed_by, .. } => removed_by.as_ref(),
            Self::UserDisabled { by, .. }
            | Self::UserEnabled { by, .. }
            | Self::UserRemoved { by, .. }
            | Self::KeyEnrolled { by, .. }
            | Self::KeyRemoved { by, .. }
            | Self::UserUnlinked { by, .. }
            | Self::SessionTouched { by, .. }
            | Self::ApprovalGiven { by, .. }
            | Self::CertificateIssued { by, .. }
            | Self::HostCertificateIssued { by, .. }
            | Self::HostInvited { by, .. }
            | Self::Locked { by, .. }
            | Self::Unlocked { by, .. }
            | Self::CaKeyRetired { by, .. }
            | Self::CaKeyCancelled { by, .. }
            | Self::CaKeyRevoked { by, .. }
            | Self::LogArchived { by, .. }
            | Self::RequestRefused { by, .. } => Some(by),
            Self::AuthorityCreated { .. }
            | Self::ServerStarted { .. }
            | Self::ClockCorrected { .. }
            | Self::PolicyText { .. }
            | Self::PolicyLoaded { .. }
            | Self::ServerCertificateIssued { .. }
            | Self::UnauthenticatedRefused { .. }
            | Self::CounterWentBack { .. }
            | Self::SessionBegun(_)
            | Self::HostJoined { .. }
            | Self::HostCertificateRenewed { .. }
            | Self::HostConfirmed { .. }
            | Self::LogRestored { .. }
            | Self::RequestFailed => None,
        }
    }

    /// Whether whoever has the entry's hash could find out by trying what it says: no request's nonce is
    /// in it. That a request failed says nothing of anybody, and is written whatever else fails.
    pub(super) fn is_guessable(&self) -> bool {
        let by_host = matches!(self, Self::HostCertificateRenewed { .. });
        self.by().is_none() && !by_host && !matches!(self, Self::RequestFailed)
    }

    /// The `kind` in its JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AuthorityCreated { .. } => "authority-created",
            Self::ServerStarted { .. } => "server-started",
            Self::ClockCorrected { .. } => "clock-corrected",
            Self::PolicyText { .. } => "policy-text",
            Self::PolicyLoaded { .. } => "policy-loaded",
            Self::UserEnrolled { .. } => "user-enrolled",
            Self::UserDisabled { .. } => "user-disabled",
            Self::UserEnabled { .. } => "user-enabled",
            Self::UserRemoved { .. } => "user-removed",
            Self::KeyEnrolled { .. } => "key-enrolled",
            Self::KeyRemoved { .. } => "key-removed",
            Self::UserLinked { .. } => "user-linked",
            Self::UserUnlinked { .. } => "user-unlinked",
            Self::SessionBegun(_) => "session-begun",
            Self::SessionTouched { .. } => "session-touched",
            Self::SessionEnded { .. } => "session-ended",
            Self::ApprovalGiven { .. } => "approval-given",
            Self::CertificateIssued { .. } => "certificate-issued",
            Self::HostCertificateIssued { .. } => "host-certificate-issued",
            Self::ServerCertificateIssued { .. } => "server-certificate-issued",
            Self::RequestRefused { .. } => "request-refused",
            Self::UnauthenticatedRefused { .. } => "unauthenticated-refused",
            Self::CounterWentBack { .. } => "counter-went-back",
            Self::HostInvited { .. } => "host-invited",
            Self::HostJoined { .. } => "host-joined",
            Self::HostCertificateRenewed { .. } => "host-certificate-renewed",
            Self::HostConfirmed { .. } => "host-confirmed",
            Self::HostRemoved { .. } => "host-removed",
            Self::Locked { .. } => "locked",
            Self::Unlocked { .. } => "unlocked",
            Self::CaKeyStaged { .. } => "ca-key-staged",
            Self::CaKeyActivated { .. } => "ca-key-activated",
            Self::CaKeyRetired { .. } => "ca-key-retired",
            Self::CaKeyCancelled { .. } => "ca-key-cancelled",
            Self::CaKeyRevoked { .. } => "ca-key-revoked",
            Self::LogArchived { .. } => "log-archived",
            Self::LogRestored { .. } => "log-restored",
            Self::RequestFailed => "request-failed",
        }
    }
}
