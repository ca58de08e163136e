use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::{
    Account, Attestation, Circumstances, EntryIndex, GroupName, HostName, KeyId, LockTarget,
    Purpose, Reason, RoleName, SecondFactor, Serial, Timestamp, UserName,
};

/// The code of a request that policy would permit if somebody approved it.
pub const NEEDS_APPROVAL: &str = "needs-approval";

/// One entry of the log. Its JSON text, as stored, is what counts; docs/log.md describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place, counted from 0 without gaps.
    pub index: EntryIndex,
    /// When it was recorded. Never before the entry that precedes it.
    pub time: Timestamp,
    /// What happened.
    pub event: Event,
    /// 16 random bytes in base64url, where the event has no request's nonce: so nobody can find out by
    /// trying what an entry says whose hash they have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<String>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Event {
    /// A home was made.
    AuthorityCreated {
        /// The version of Hallpass that made it.
        version: String,
        /// Its CA keys.
        keys: Vec<AuthorityKey>,
    },
    /// A server began to work.
    ServerStarted {
        /// The version of Hallpass that runs.
        version: String,
        /// The digest of the policy set in force.
        policy_set: String,
    },
    /// An administrator said that the clock is right, and the log's newest times are not.
    ClockCorrected {
        /// The time of the entry before.
        newest: Timestamp,
    },
    /// A piece of a policy set that is about to come into force: all of its text is kept, so that
    /// an old decision can be explained.
    PolicyText {
        /// The set's digest.
        policy_set: String,
        /// The file's name.
        file: String,
        /// Which piece of the file it is, counted from 1.
        part: usize,
        /// Of how many.
        parts: usize,
        /// The piece.
        text: String,
    },
    /// Another policy set came into force. Its text stands in the entries before, or where it came
    /// into force first.
    PolicyLoaded {
        /// Its digest, as certificates' entries name it.
        policy_set: String,
        /// Its files.
        files: Vec<String>,
        /// Who had it loaded; nobody when the server did by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Actor>,
    },
    /// A user was enrolled.
    UserEnrolled {
        /// Who.
        user: UserName,
        /// The user's groups.
        groups: Vec<GroupName>,
        /// The first key, as an OpenSSH line without comment.
        public_key: String,
        /// What the maker of a FIDO2 key says of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attestation: Option<Attestation>,
        /// By whom; nobody when the home was made.
        by: Option<Actor>,
    },
    /// A user's requests are no longer taken.
    UserDisabled {
        /// Whose.
        user: UserName,
        /// By whom.
        by: Actor,
    },
    /// A user's requests are taken again.
    UserEnabled {
        /// Whose.
        user: UserName,
        /// By whom.
        by: Actor,
    },
    /// A user and all keys of theirs were removed.
    UserRemoved {
        /// Who.
        user: UserName,
        /// By whom.
        by: Actor,
    },
    /// Another key of a user was enrolled.
    KeyEnrolled {
        /// Whose.
        user: UserName,
        /// The key, as an OpenSSH line without comment.
        public_key: String,
        /// What the maker of a FIDO2 key says of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attestation: Option<Attestation>,
        /// By whom.
        by: Actor,
    },
    /// A key of a user was removed.
    KeyRemoved {
        /// Whose.
        user: UserName,
        /// The key's fingerprint.
        fingerprint: String,
        /// By whom.
        by: Actor,
    },
    /// An account at a provider is a user's from now on: who signs in there is that user. A user
    /// whom nobody enrolled is one from then on.
    UserLinked {
        /// Whose.
        user: UserName,
        /// The account.
        account: Account,
        /// By whom; nobody when a first login did it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Actor>,
    },
    /// An account at a provider is nobody's any more, and nobody signs in with it.
    UserUnlinked {
        /// Whose it was.
        user: UserName,
        /// The account.
        account: Account,
        /// By whom.
        by: Actor,
    },
    /// Somebody signed in: for a while, a key signs for them.
    SessionBegun(NewSession),
    /// A FIDO2 key of theirs is the second factor of somebody's session.
    SessionTouched {
        /// The fingerprint of the FIDO2 key.
        touched: String,
        /// How many signatures it had made by then, when it counts them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        counter: Option<u32>,
        /// What it said.
        mfa: SecondFactor,
        /// Whose session it is, which is that of the key that signed.
        by: Actor,
    },
    /// A key does not sign for anybody any more, before the session's own end.
    SessionEnded {
        /// For whom it did.
        user: UserName,
        /// The key's fingerprint.
        fingerprint: String,
        /// By whom; nobody when a start did it, since nobody vouches for them here any more.
        by: Option<Actor>,
    },
    /// Somebody approved what another asked for.
    ApprovalGiven {
        /// The entry that logs that it was asked for, and needs approval.
        entry: EntryIndex,
        /// Who asked.
        requester: UserName,
        /// For what: the approval counts for exactly this.
        request: Asked,
        /// Until when it counts.
        expires: Timestamp,
        /// Why policy granted it.
        decision: Decision,
        /// Who approved it.
        by: Actor,
    },
    /// A certificate was issued to a person.
    CertificateIssued {
        /// Who asked.
        by: Actor,
        /// For what.
        request: Asked,
        /// Why policy granted it.
        decision: Decision,
        /// What was signed.
        certificate: RecordedCertificate,
    },
    /// A host's SSH or TLS certificate was issued.
    HostCertificateIssued {
        /// Who asked.
        by: Actor,
        /// The host's names.
        names: Vec<HostName>,
        /// Why policy granted it.
        decision: Decision,
        /// What was signed.
        certificate: RecordedCertificate,
    },
    /// The server signed its own TLS certificate.
    ServerCertificateIssued {
        /// The server's names.
        names: Vec<HostName>,
        /// What was signed.
        certificate: RecordedCertificate,
    },
    /// A request of a known requester was refused.
    RequestRefused {
        /// Who asked.
        by: Actor,
        /// What for, as far as it could be read.
        request: Option<Asked>,
        /// Why.
        refused: Refused,
        /// What policy said, when it was asked.
        decision: Option<Decision>,
    },
    /// Requests that nobody enrolled could be found for were refused, those of hosts among them.
    UnauthenticatedRefused {
        /// From where.
        source: IpAddr,
        /// The key that signed, when one did.
        fingerprint: Option<String>,
        /// The host whose key that is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<HostName>,
        /// Why.
        refused: Refused,
        /// How many more of that source's or that host's refusals in the minute before are not listed.
        unlisted: u64,
    },
    /// A FIDO2 key counted its signatures back: there may be two of it. The request was refused, and
    /// none by that key is taken any more.
    CounterWentBack {
        /// Whose key it is. Who has the other one, nobody knows.
        user: UserName,
        /// The key's fingerprint.
        fingerprint: String,
        /// What the signature says.
        counter: u32,
        /// The highest that one said before.
        newest: u32,
        /// The address that the request came from.
        source: IpAddr,
        /// What was asked, and why it was refused.
        refused: Refused,
    },
    /// A host may join, with a token that is good once.
    HostInvited {
        /// Which host, and for what.
        profile: HostProfile,
        /// The SHA-256 of the token in hexadecimal.
        token_sha256: String,
        /// Until when the token is good.
        expires: Timestamp,
        /// By whom.
        by: Actor,
    },
    /// A host joined: from then on its key signs its requests.
    HostJoined {
        /// Which.
        host: HostName,
        /// The host's key, as an OpenSSH line without comment.
        public_key: String,
        /// The address that the request came from.
        source: IpAddr,
    },
    /// A host got a new certificate for its SSH key or its database's TLS key.
    HostCertificateRenewed {
        /// Which host.
        by: HostActor,
        /// The host's names.
        names: Vec<HostName>,
        /// What was signed.
        certificate: RecordedCertificate,
    },
    /// A host said which trust bundle is in force there.
    HostConfirmed {
        /// Which.
        host: HostName,
        /// The bundle's version.
        trust: u64,
        /// The address that the request came from.
        source: IpAddr,
    },
    /// A host's requests are not taken any more.
    HostRemoved {
        /// Which.
        host: HostName,
        /// Which administrator did it; nobody when the host left by itself.
        #[serde(default)]
        removed_by: Option<Actor>,
    },
    /// Nothing is issued for a role, a user or a host any more, or no request by a key is taken.
    Locked {
        /// Which.
        target: LockTarget,
        /// Why.
        reason: String,
        /// By whom.
        by: Actor,
    },
    /// It is issued again.
    Unlocked {
        /// For which role, user, host or key.
        target: LockTarget,
        /// By whom.
        by: Actor,
    },
    /// A new CA key is in the trust bundle from now on, and does not sign yet.
    CaKeyStaged {
        /// Which key, and its public part.
        new: NewCaKey,
        /// By whom; nobody when it was done on the CA's own machine.
        by: Option<Actor>,
    },
    /// A staged CA key signs from now on. The one that signed before is trusted until it is
    /// retired.
    CaKeyActivated {
        /// Which.
        key: KeyId,
        /// The issuing CA that a new root comes with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        issuing: Option<NewCaKey>,
        /// For those who only know the key before: a new root's certificate by the old root's key,
        /// in PEM, or the note in which the log's old key names the new one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cross: Option<String>,
        /// Why it was not waited for everybody who has to trust it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        forced: Option<String>,
        /// By whom; nobody when it was done on the CA's own machine.
        by: Option<Actor>,
    },
    /// A CA key that no longer signs is not in the trust bundle any more.
    CaKeyRetired {
        /// Which.
        key: KeyId,
        /// Why it was not waited for the last certificate that it signed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        forced: Option<String>,
        /// By whom.
        by: Actor,
    },
    /// A staged CA key was given up.
    CaKeyCancelled {
        /// Which.
        key: KeyId,
        /// By whom.
        by: Actor,
    },
    /// A CA key that others may have is not in the trust bundle any more. What signs in its place is
    /// new.
    CaKeyRevoked {
        /// Which.
        key: KeyId,
        /// Why.
        reason: String,
        /// What takes its place: its successor, and with a root also an issuing CA.
        successors: Vec<NewCaKey>,
        /// By whom.
        by: Actor,
    },
    /// Entries were moved out of the database into a file.
    LogArchived {
        /// The file in `archive/`.
        file: String,
        /// Its SHA-256 in hexadecimal.
        sha256: String,
        /// Its first entry.
        first: u64,
        /// The entry behind its last.
        next: u64,
        /// How many of them are kept in the database as well since they say who may do what.
        kept: u64,
        /// By whom.
        by: Actor,
    },
    /// The home was restored from a backup. What came after the backup is not in this log.
    LogRestored {
        /// How many entries the backup has.
        size: u64,
        /// When it was made.
        backup: Timestamp,
    },
    /// A place in the log that was taken by a request which then failed within the server.
    RequestFailed,
}

/// The requester behind an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Who.
    pub requester: UserName,
    /// How they authenticated: `ssh-key`, or the provider that vouched for them.
    pub method: String,
    /// The fingerprint of the key that signed the request.
    pub fingerprint: String,
    /// The address that the request came from.
    pub source: IpAddr,
    /// The request's nonce.
    pub nonce: String,
    /// How many signatures a FIDO2 key had made by then, when it counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<u32>,
}

/// A session as it begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSession {
    /// For whom the key signs.
    pub user: UserName,
    /// Whose word that is.
    pub account: Account,
    /// The key, as an OpenSSH line without comment.
    pub public_key: String,
    /// The groups that the provider puts them in.
    pub groups: Vec<GroupName>,
    /// The second factor that the provider says was shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mfa: Option<SecondFactor>,
    /// Whether somebody signed in on another device than the one whose key it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_device: bool,
    /// What is known of a workload; nothing for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<BTreeMap<String, String>>,
    /// A workload's token, which is good once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<SpentToken>,
    /// Until when.
    pub expires: Timestamp,
    /// The address that the request came from.
    pub source: IpAddr,
}

/// A token that is good once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpentToken {
    /// The SHA-256 of what its signature covers, in hexadecimal.
    pub sha256: String,
    /// Until when it would be good.
    pub expires: Timestamp,
}

/// A host behind a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostActor {
    /// Which.
    pub host: HostName,
    /// The fingerprint of the key that signed the request.
    pub fingerprint: String,
    /// The address that the request came from.
    pub source: IpAddr,
    /// The request's nonce.
    pub nonce: String,
}

/// What a host is, and for what it gets certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostProfile {
    /// Its name among the hosts.
    pub host: HostName,
    /// The names and addresses that clients reach it by, which stand on its certificates.
    pub names: Vec<HostName>,
    /// More names that the patterns of roles match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<HostName>,
    /// Whether it has an sshd.
    pub ssh: bool,
    /// Whether it has a database.
    pub database: bool,
    /// How long its certificates live, in seconds.
    pub ttl: u64,
}

/// What a person asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The role.
    pub role: RoleName,
    /// The purpose.
    pub purpose: Purpose,
    /// The reason, when one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The lifetime in seconds: what was asked for, or the role's default.
    pub ttl: u64,
}

/// What policy decided, and by which policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The ids of the policies that decided. Empty when no policy permits it.
    pub policies: Vec<String>,
    /// The digest of the policy set.
    pub policy_set: String,
    /// What of administration was asked for, when no role was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Whose request was to be approved, when that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approves: Option<UserName>,
    /// On what, beside the request itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circumstances: Option<Circumstances>,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The request line: method and target.
    pub request: String,
    /// A word that programs can rely on.
    pub code: String,
    /// The same for people.
    pub detail: String,
}

impl Refused {
    /// Whether policy refused it; something else did otherwise, of what policy had permitted.
    pub fn is_by_policy(&self) -> bool {
        ["denied", NEEDS_APPROVAL].contains(&self.code.as_str())
    }
}

/// A certificate as it was signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedCertificate {
    /// `ssh-user`, `ssh-host`, `x509-client` or `x509-server`.
    pub form: String,
    /// Its serial number.
    pub serial: Serial,
    /// The SSH key id, or the X.509 subject.
    pub key_id: String,
    /// From when it is good.
    pub valid_after: Timestamp,
    /// Until when.
    pub valid_before: Timestamp,
    /// The fingerprint of the CA key that signed it.
    pub ca: String,
    /// The certificate itself: an OpenSSH line or PEM.
    pub certificate: String,
}

/// A CA key that was not there before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewCaKey {
    /// Which.
    pub key: KeyId,
    /// An OpenSSH line, a certificate in PEM, or a verifier key.
    pub public: String,
}

/// A CA key as it entered the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityKey {
    /// What it signs.
    pub purpose: String,
    /// An OpenSSH line, or a certificate in PEM.
    pub public: String,
}
