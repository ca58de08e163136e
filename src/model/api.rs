//! The bodies of the JSON API, which are also what the authority is asked and answers. Requests
//! refuse unknown fields: a misspelt limit must not be taken for none.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{
    Account, Attestation, EntryIndex, GroupName, HostName, HostTtl, KeyId, KeyState, LockTarget,
    PrincipalName, Purpose, Reason, RoleName, Serial, SessionSummary, Timestamp, Ttl, UserName,
    Written,
};

/// Asks for an SSH user certificate.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SshCertificateRequest {
    /// An SSH role.
    #[schema(value_type = String)]
    pub role: RoleName,
    /// One of the role's purposes.
    #[schema(value_type = String)]
    pub purpose: Purpose,
    /// Free text or a ticket number, as the role demands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub reason: Option<Reason>,
    /// How long it shall live, such as `15m`; the role's default when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ttl: Option<Ttl>,
    /// The key to be certified, as a line of OpenSSH's public key format.
    pub public_key: String,
    /// Proof that the requester holds that key: an armored SSHSIG by it in the namespace
    /// `hallpass-possession-v1` over the text that docs/api.md gives.
    pub possession: String,
}

/// Asks for an X.509 client certificate for a database role.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct X509CertificateRequest {
    /// A database role.
    #[schema(value_type = String)]
    pub role: RoleName,
    /// One of the role's purposes.
    #[schema(value_type = String)]
    pub purpose: Purpose,
    /// Free text or a ticket number, as the role demands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub reason: Option<Reason>,
    /// How long it shall live, such as `15m`; the role's default when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ttl: Option<Ttl>,
    /// A PKCS#10 certificate signing request in PEM (RFC 2986). Its signature proves possession;
    /// its subject and extensions are ignored.
    pub csr: String,
}

/// Asks for a host's certificate: an SSH host certificate or a TLS server certificate.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostCertificateRequest {
    /// The host's OpenSSH public key line, or for TLS its PKCS#10 request in PEM.
    pub subject: String,
    /// The names that clients reach it by.
    #[schema(value_type = Vec<String>)]
    pub names: Vec<HostName>,
    /// How long it shall live, such as `30d`, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ttl: Option<HostTtl>,
}

/// A certificate and where it stands in the log.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CertificateAnswer {
    /// The entry's place in the audit log.
    #[schema(value_type = u64)]
    pub entry: EntryIndex,
    /// The certificate's serial number, as a string.
    #[schema(value_type = String)]
    pub serial: Serial,
    /// An OpenSSH certificate line, or PEM: the certificate and the issuing CA's.
    pub certificate: String,
    /// From when it is good (RFC 3339).
    #[schema(value_type = String)]
    pub valid_after: Timestamp,
    /// Until when it is good (RFC 3339).
    #[schema(value_type = String)]
    pub valid_before: Timestamp,
    /// The login names or the database user that it is good for; a host's names.
    pub good_for: Vec<String>,
    /// What proves that the entry is in the log.
    pub receipt: Receipt,
    /// What the client must trust to recognise the hosts.
    #[schema(value_type = TrustBundle)]
    pub trust: Written<TrustBundle>,
}

/// What proves that a certificate is in the log. Whoever keeps it can show later that the log was
/// changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// The entry as the log has it, byte for byte: JSON that records the certificate.
    #[serde(default)]
    pub body: String,
    /// SHA-256 over a zero byte and `body` (RFC 6962), in base64.
    pub leaf_hash: String,
    /// The inclusion proof from that leaf up to the checkpoint's root, in base64.
    pub inclusion: Vec<String>,
    /// The signed note of the first checkpoint that covers the entry (C2SP tlog-checkpoint).
    pub checkpoint: String,
}

/// The public CA keys that hosts, databases and clients must trust now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrustBundle {
    /// The index of the log's entry that made it what it is. It only ever rises.
    #[serde(default)]
    pub version: u64,
    /// Keys that sign user certificates, for sshd's `TrustedUserCAKeys`.
    pub ssh_user: Vec<String>,
    /// Keys that sign host certificates, for `@cert-authority` in `known_hosts`.
    pub ssh_host: Vec<String>,
    /// X.509 root certificates in PEM, for `ssl_ca_file` and `sslrootcert`.
    pub x509: Vec<String>,
    /// Keys that signed user certificates and were revoked, for sshd's `RevokedKeys`.
    #[serde(default)]
    pub ssh_revoked: Vec<String>,
    /// The verifier key of the audit log's checkpoints (C2SP signed-note).
    pub log: String,
    /// All verifier keys that sign the log's checkpoints and signed bundles now, that one first:
    /// more than one while it is rotated.
    #[serde(default)]
    pub log_keys: Vec<String>,
}

/// A CA key and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeySummary {
    /// Which key, such as `ssh-user-2`.
    #[schema(value_type = String)]
    pub key: KeyId,
    /// `staged`, `active`, `retiring`, `retired`, `cancelled` or `revoked`.
    #[schema(value_type = String)]
    pub state: KeyState,
    /// Since when (RFC 3339).
    #[schema(value_type = String)]
    pub since: Timestamp,
    /// The fingerprint of the key or of its certificate; a verifier key as it is.
    pub fingerprint: String,
    /// An OpenSSH line, a certificate in PEM, or a verifier key.
    pub public: String,
    /// When the last certificate expires that it signed (RFC 3339), as far as it still counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub last_expiry: Option<Timestamp>,
    /// What the next step waits for, one line each; empty when it can be taken.
    #[serde(default)]
    pub waits_for: Vec<String>,
}

/// Goes one step on with a CA key.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyStep {
    /// Why it is done although not everything that it waits for has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub force: Option<Reason>,
}

/// A key that was revoked.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RevokedKey {
    /// The key.
    pub key: KeySummary,
    /// What it signed that is still good where the key is still trusted, by requester.
    pub living: Vec<LivingCertificate>,
}

/// A certificate that has not expired yet.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LivingCertificate {
    /// Who asked for it; nobody for the server's own.
    #[schema(value_type = Option<String>)]
    pub requester: Option<UserName>,
    /// The entry that records it.
    #[schema(value_type = u64)]
    pub entry: EntryIndex,
    /// Its serial number, as a string.
    #[schema(value_type = String)]
    pub serial: Serial,
    /// The SSH key id, or the X.509 subject.
    pub key_id: String,
    /// Until when it is good (RFC 3339).
    #[schema(value_type = String)]
    pub valid_before: Timestamp,
}

/// Revokes a CA key.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRevocation {
    /// Why.
    #[schema(value_type = String)]
    pub reason: Reason,
}

/// Lets a host join once.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostInvitation {
    /// The host's name among the hosts.
    #[schema(value_type = String)]
    pub host: HostName,
    /// The names and addresses that clients reach it by; its own name when left out.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub names: Vec<HostName>,
    /// More names that the `hosts` patterns of roles match.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub labels: Vec<HostName>,
    /// Whether it has an sshd.
    #[serde(default)]
    pub ssh: bool,
    /// Whether it has a database.
    #[serde(default)]
    pub database: bool,
    /// How long its certificates shall live; seven days when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ttl: Option<HostTtl>,
    /// How long the token is good; an hour when left out, a day at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub token_life: Option<HostTtl>,
}

/// What a host joins with.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Invited {
    /// Which host.
    #[schema(value_type = String)]
    pub host: HostName,
    /// Good once. It is shown this one time.
    pub token: String,
    /// Until when it is good (RFC 3339).
    #[schema(value_type = String)]
    pub expires: Timestamp,
}

/// A host joins: the key that signs this request is the host's from then on.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostJoin {
    /// The invitation's token.
    pub token: String,
}

/// What a host that joined must know.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HostState {
    /// Its name among the hosts.
    #[schema(value_type = String)]
    pub host: HostName,
    /// The names that stand on its certificates.
    #[schema(value_type = Vec<String>)]
    pub names: Vec<HostName>,
    /// Whether it was invited as an sshd's host.
    pub ssh: bool,
    /// Whether it was invited as a database's host.
    pub database: bool,
    /// What it must trust.
    pub trust: SignedTrust,
    /// The principals of the SSH roles that name it.
    #[schema(value_type = Vec<String>)]
    pub principals: Vec<PrincipalName>,
    /// The fingerprint of the CA key that signs hosts' SSH certificates now.
    pub ssh_host_ca: String,
    /// The fingerprint of the certificate of the CA that signs databases' certificates now.
    pub x509_ca: String,
}

/// A trust bundle with a signature that can be checked without the connection that it came over.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SignedTrust {
    /// The JSON text of a `TrustBundle`.
    pub bundle: String,
    /// A signed note (C2SP signed-note) by the log's key over the SHA-256 of that text.
    pub signature: String,
}

/// Certifies a host's key.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostSubject {
    /// The host's OpenSSH public key line, or for TLS its PKCS#10 request in PEM.
    pub subject: String,
}

/// Says which trust bundle is in force on a host.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostConfirmation {
    /// The bundle's version.
    pub trust: u64,
}

/// A host that was invited or has joined.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HostSummary {
    /// Its name among the hosts.
    #[schema(value_type = String)]
    pub host: HostName,
    /// The names that stand on its certificates.
    #[schema(value_type = Vec<String>)]
    pub names: Vec<HostName>,
    /// More names that the patterns of roles match.
    #[schema(value_type = Vec<String>)]
    pub labels: Vec<HostName>,
    /// Whether it has an sshd.
    pub ssh: bool,
    /// Whether it has a database.
    pub database: bool,
    /// Until when it may join, when it may (RFC 3339).
    #[schema(value_type = Option<String>)]
    pub invited_until: Option<Timestamp>,
    /// Since when it has joined, when it has (RFC 3339).
    #[schema(value_type = Option<String>)]
    pub joined: Option<Timestamp>,
    /// The version of the trust bundle that it said is in force.
    pub confirmed: Option<u64>,
    /// Whether that is the newest.
    pub up_to_date: bool,
}

/// Locks a role, a user or a host.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLock {
    /// What, such as `role/deploy`.
    #[schema(value_type = String)]
    pub target: LockTarget,
    /// Why. Those who are refused read it.
    #[schema(value_type = String)]
    pub reason: Reason,
}

/// A lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LockSummary {
    /// What is locked, such as `role/deploy`.
    #[schema(value_type = String)]
    pub target: LockTarget,
    /// Why.
    pub reason: String,
    /// Since when (RFC 3339).
    #[schema(value_type = String)]
    pub since: Timestamp,
    /// Who did it; nobody when the server did it by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub by: Option<UserName>,
}

impl std::fmt::Display for LockSummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} is locked since {}",
            self.target,
            self.since.whole_secs()
        )?;
        if let Some(by) = &self.by {
            write!(f, " by {by}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// Enrols a user.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// The new user's name, not yet in use.
    #[schema(value_type = String)]
    pub name: UserName,
    /// The first key, as a line of OpenSSH's public key format.
    pub public_key: String,
    /// The groups that policy knows the user by.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub groups: Vec<GroupName>,
    /// What the maker of a FIDO2 key says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<NewAttestation>,
}

/// Enrols another key of a user.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// The key, as a line of OpenSSH's public key format.
    pub public_key: String,
    /// What the maker of a FIDO2 key says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<NewAttestation>,
}

/// What `ssh-keygen` wrote when it made a FIDO2 key.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAttestation {
    /// The file of `-O write-attestation`, in base64.
    pub attestation: String,
    /// The file of `-O challenge`, in base64.
    pub challenge: String,
}

/// An enrolled user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserSummary {
    /// The user's name.
    #[schema(value_type = String)]
    pub name: UserName,
    /// The user's groups.
    #[schema(value_type = Vec<String>)]
    pub groups: Vec<GroupName>,
    /// Whether requests are taken.
    pub enabled: bool,
    /// The enrolled keys.
    pub keys: Vec<UserKey>,
    /// The accounts at providers that the user signs in with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<Account>,
    /// When the user was enrolled (RFC 3339).
    #[schema(value_type = String)]
    pub enrolled: Timestamp,
}

/// A key that is bound to a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserKey {
    /// `SHA256:` and the unpadded base64 of the key blob's SHA-256.
    pub fingerprint: String,
    /// The key as a line of OpenSSH's public key format.
    pub public_key: String,
    /// What the maker of a FIDO2 key says of it, when that was proven at the enrolment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Attestation>,
    /// Why no request by it is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked: Option<LockSummary>,
}

/// Who the server takes the caller for.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Identity {
    /// The requester's name.
    #[schema(value_type = String)]
    pub name: UserName,
    /// The requester's groups.
    #[schema(value_type = Vec<String>)]
    pub groups: Vec<GroupName>,
    /// The key that signed the request.
    pub fingerprint: String,
    /// The address that the request came from.
    pub source_address: String,
    /// The session whose key it is; absent for an enrolled key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionSummary>,
}

/// A role as the caller may use it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RoleSummary {
    /// The role's name.
    #[schema(value_type = String)]
    pub name: RoleName,
    /// `ssh` or `postgres`.
    pub kind: String,
    /// One line for people.
    pub description: String,
    /// The login names or the database user.
    pub good_for: Vec<String>,
    /// Hosts or databases that it is meant for.
    pub places: Vec<String>,
    /// The purposes for which policy grants it to the caller. Never empty.
    pub purposes: Vec<PurposeSummary>,
    /// The lifetime when none is asked for.
    #[schema(value_type = String)]
    pub default_ttl: Ttl,
    /// `optional`, `required`, or `must match PATTERN`.
    pub reason: String,
}

/// A purpose for which the caller may have a role.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PurposeSummary {
    /// The purpose.
    #[schema(value_type = String)]
    pub name: Purpose,
    /// The longest lifetime that role and policy grant for it.
    #[schema(value_type = String)]
    pub max_ttl: Ttl,
    /// How many people have to approve it.
    #[serde(default)]
    pub approvals: u32,
}

/// The proof that an entry is in the log (RFC 6962, section 2.1.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InclusionProof {
    /// The entry's place.
    #[schema(value_type = u64)]
    pub index: EntryIndex,
    /// How many entries the log has in the proof.
    pub size: u64,
    /// SHA-256 over a zero byte and the entry, in base64.
    pub leaf_hash: String,
    /// From the leaf's sibling up to the root's child, in base64.
    pub hashes: Vec<String>,
}

/// The proof that the log of one size begins with all of the log of another (RFC 6962, section
/// 2.1.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConsistencyProof {
    /// The smaller size.
    pub old: u64,
    /// The larger size.
    pub new: u64,
    /// In base64.
    pub hashes: Vec<String>,
}

/// The proof that entries are all that the log has from one to before another (docs/log.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RangeProof {
    /// The first entry.
    pub first: u64,
    /// The entry behind the last.
    pub next: u64,
    /// How many entries the log has in the proof.
    pub size: u64,
    /// The roots of the complete subtrees before `first` and from `next` on, in order, in base64.
    pub hashes: Vec<String>,
}

/// Where the entries of a time stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// The first.
    pub first: u64,
    /// The entry behind the last; no less than `first`.
    pub next: u64,
}

/// Asks to move old entries of the log out of the database.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ArchiveRequest {
    /// Entries from before this time (RFC 3339).
    #[schema(value_type = String)]
    pub before: Timestamp,
}

/// What was moved out of the database.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ArchiveAnswer {
    /// The file; absent when there was nothing to move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived: Option<ArchivedFile>,
    /// Whether asking again would move more.
    pub more: bool,
}

/// A file of archived entries.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ArchivedFile {
    /// Its name in the home's `archive/`.
    pub file: String,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
    /// Its first entry.
    pub first: u64,
    /// The entry behind its last.
    pub next: u64,
}

/// Entries of the audit log, oldest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// Each as docs/log.md describes it.
    #[schema(value_type = Vec<Object>)]
    pub entries: Vec<Box<RawValue>>,
    /// Where the next page begins; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub next: Option<EntryIndex>,
}

/// Whether the server can do its work.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`, `degraded` when it can but something is wrong, or `unavailable`.
    pub status: String,
    /// What is wrong, when something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// An error as RFC 9457 problem details.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:hallpass:problem:` and a word that programs can rely on.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every problem of this type.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong this time and what to do next.
    pub detail: String,
}
