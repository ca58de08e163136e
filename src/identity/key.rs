use crate::model::{Attestation, EntryIndex, LockSummary, UserKey};

/// A key that is bound to a user.
#[derive(Clone, Debug)]
pub struct Key {
    /// The key, as an OpenSSH line without comment.
    pub public_key: String,
    /// What its maker says of it, for a FIDO2 key whose enrolment proved that.
    pub attestation: Option<Attestation>,
    /// Why no request by it is taken.
    pub locked: Option<LockSummary>,
    /// The entry that enrolled or unlocked it: what it counted before does not matter any more.
    pub since: EntryIndex,
}

impl Key {
    /// Whether its maker's certificate, by a root that is trusted here, says what it is.
    pub fn is_attested(&self) -> bool {
        let attestation = self.attestation.as_ref();
        attestation.is_some_and(|attestation| attestation.root.is_some())
    }

    /// The name by which it is known what it counted, since it was enrolled or unlocked.
    pub fn counted(&self, fingerprint: &str) -> String {
        format!("{fingerprint}@{}", self.since)
    }

    /// What the API says of it.
    pub(super) fn summary(&self, fingerprint: &str) -> UserKey {
        UserKey {
            fingerprint: fingerprint.to_owned(),
            public_key: self.public_key.clone(),
            attestation: self.attestation.clone(),
            locked: self.locked.clone(),
        }
    }
}
