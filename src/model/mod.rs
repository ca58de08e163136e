//! The vocabulary of Hallpass as types: no I/O, no clock, no cryptography.
//!
//! Values are parsed, not validated: a [`Ttl`], a [`Purpose`] or a [`PrincipalName`] that exists
//! is a legal one, so nothing further down asks again.

mod api;
mod approval;
mod attestation;
mod ca_key;
mod circumstances;
mod delivery;
mod duration;
mod explanation;
mod invalid;
mod issuer;
mod lock;
mod login;
mod name;
mod reason;
mod role;
mod serial;
mod source;
mod timestamp;
mod written;

pub use api::{
    ArchiveAnswer, ArchiveRequest, ArchivedFile, AuditPage, CertificateAnswer, ConsistencyProof,
    Health, HostCertificateRequest, HostConfirmation, HostInvitation, HostJoin, HostState,
    HostSubject, HostSummary, Identity, InclusionProof, Invited, KeyRevocation, KeyStep,
    KeySummary, LivingCertificate, LockSummary, NewAttestation, NewKey, NewLock, NewUser, Problem,
    PurposeSummary, RangeProof, Receipt, RevokedKey, RoleSummary, SignedTrust, Span,
    SshCertificateRequest, TrustBundle, UserKey, UserSummary, X509CertificateRequest,
};
pub use approval::{GivenApproval, LONGEST_APPROVAL, WaitingRequest};
pub use attestation::Attestation;
pub use ca_key::{KeyId, KeyKind, KeyState};
pub use circumstances::{Circumstances, LocalTime, Mfa, SecondFactor};
pub use delivery::{Delivery, Endpoint, Receiver, WebhookUrl};
pub use duration::{HostTtl, Ttl};
pub use explanation::{
    ConditionOutcome, ExplainRequest, ExplainedCondition, ExplainedPolicy, Explanation,
    LoggedDecision, PolicyInForce,
};
pub use invalid::Invalid;
pub use issuer::IssuerUrl;
pub use lock::LockTarget;
pub use login::{
    Account, DevicePrompt, LONGEST_SESSION, LoginAnswer, LoginBegin, LoginBegun, LoginFinish,
    LoginWays, ProviderSummary, RedirectAnswer, SessionSummary, SessionTouch, WorkloadLogin,
};
pub use name::{
    DatabaseUser, DeliveryName, GroupName, HostName, Label, PrincipalName, ProviderName, Purpose,
    RoleName, UserName,
};
pub use reason::{Reason, ReasonRule};
pub use role::{Access, DatabaseAccess, Role, SourceAddress, SshAccess, SshExtension};
pub use serial::{EntryIndex, Serial};
pub use source::counted_source;
pub use timestamp::Timestamp;
pub use written::Written;
