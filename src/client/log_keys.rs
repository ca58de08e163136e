//! The keys of the CA's log as they are known here, and how newer ones become known: from what a key
//! that is known has signed, and from nothing else.

use crate::audit::{IllegalKey, VerifierKey};
use crate::model::{SignedTrust, TrustBundle};

/// How many keys of the past are kept.
const MOST_BEFORE: usize = 16;

/// The keys of a log. They only ever go forward: what an older bundle names is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogKeys {
    /// The one that signs.
    pub(super) first: VerifierKey,
    /// Others that sign as well, while one takes the place of another.
    pub(super) others: Vec<VerifierKey>,
    /// Those that signed before. What is new is never believed for their sake.
    pub(super) before: Vec<VerifierKey>,
    /// The version of the trust bundle that names them.
    pub(super) version: u64,
}

impl From<VerifierKey> for LogKeys {
    /// A key that somebody vouches for in another way.
    fn from(first: VerifierKey) -> Self {
        Self {
            first,
            others: Vec::new(),
            before: Vec::new(),
            version: 0,
        }
    }
}

impl LogKeys {
    /// Those that a bundle names. Where it comes from is for the caller to know.
    ///
    /// # Errors
    /// When one is no verifier key, or of another log than the first.
    pub fn named(trust: &TrustBundle) -> Result<Self, IllegalKey> {
        let first: VerifierKey = trust.log.parse()?;
        let mut others = Vec::new();
        for key in &trust.log_keys {
            let key: VerifierKey = key.parse()?;
            if key.name() != first.name() || key.kind() != first.kind() {
                return Err(IllegalKey);
            }
            if key != first && !others.contains(&key) {
                others.push(key);
            }
        }
        Ok(Self {
            first,
            others,
            before: Vec::new(),
            version: trust.version,
        })
    }

    /// The one that signs, as far as is known.
    pub fn first(&self) -> &VerifierKey {
        &self.first
    }

    /// Those of which any may sign now.
    pub fn now(&self) -> Vec<VerifierKey> {
        std::iter::once(&self.first)
            .chain(&self.others)
            .cloned()
            .collect()
    }

    /// Those, and those that signed before, for what is from then.
    pub fn ever(&self) -> Vec<VerifierKey> {
        let mut keys = self.now();
        keys.extend(self.before.iter().cloned());
        keys
    }

    /// What is to be trusted, once a key that is known has signed it.
    pub fn believe(&self, signed: &SignedTrust) -> Option<TrustBundle> {
        let keys = self.now();
        keys.iter()
            .any(|key| key.signed_statement(&signed.bundle, &signed.signature))
            .then(|| serde_json::from_str(&signed.bundle).ok())
            .flatten()
    }

    /// The keys that a bundle names which was [believed](Self::believe), when these are others and
    /// the bundle is not older than what is known.
    pub fn followed(&self, trust: &TrustBundle) -> Option<Self> {
        let named = Self::named(trust).ok()?;
        let newer = trust.version >= self.version && named.first.name() == self.first.name();
        if !newer || named.now() == self.now() {
            return None;
        }
        let now = named.now();
        let mut before = self.ever();
        before.retain(|key| !now.contains(key));
        before.truncate(MOST_BEFORE);
        Some(Self { before, ..named })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{LogSigners, NoteKind, NoteSigner};
    use crate::keys::Signer;

    fn signer() -> NoteSigner {
        NoteSigner::new("log", NoteKind::Checkpoint, Signer::throwaway()).unwrap()
    }

    /// A bundle that names the keys of `named`, signed by those of `by`.
    fn signed(version: u64, named: &[&NoteSigner], by: &[&NoteSigner]) -> SignedTrust {
        let keys: Vec<String> = named.iter().map(|key| key.verifier().to_string()).collect();
        let trust = TrustBundle {
            version,
            ssh_user: Vec::new(),
            ssh_host: Vec::new(),
            x509: Vec::new(),
            ssh_revoked: Vec::new(),
            log: keys[0].clone(),
            log_keys: keys,
        };
        let bundle = serde_json::to_string(&trust).unwrap();
        let by = LogSigners::new(by.iter().map(|key| (*key).clone())).unwrap();
        let signature = by.sign_statement(&bundle).unwrap();
        SignedTrust { bundle, signature }
    }

    fn follow(known: &LogKeys, signed: &SignedTrust) -> Option<LogKeys> {
        known.followed(&known.believe(signed)?)
    }

    #[test]
    fn keys_go_forward_along_what_known_ones_have_signed_and_never_back() {
        let (old, new, thief) = (signer(), signer(), signer());
        let staged = signed(5, &[&old, &new], &[&old, &new]);
        let active = signed(7, &[&new, &old], &[&new, &old]);
        let retired = signed(9, &[&new], &[&new]);
        let mut known = LogKeys::from(old.verifier().clone());
        assert_eq!(follow(&known, &retired), None, "nothing vouches for it");
        for (bundle, keys) in [
            (&staged, vec![&old, &new]),
            (&active, vec![&new, &old]),
            (&retired, vec![&new]),
        ] {
            known = follow(&known, bundle).unwrap();
            let keys: Vec<_> = keys.iter().map(|key| key.verifier().clone()).collect();
            assert_eq!(known.now(), keys);
            assert_eq!(follow(&known, bundle), None, "again");
        }
        assert_eq!(known.ever().len(), 2);
        // Not back to what both signed once, and not along what the old one signs now.
        for other in [
            &staged,
            &active,
            &signed(11, &[&old], &[&old]),
            &signed(11, &[&thief], &[&old, &thief]),
            &signed(11, &[&thief], &[&thief]),
        ] {
            assert_eq!(follow(&known, other), None);
        }
        let changed = SignedTrust {
            bundle: retired.bundle.replace(":9", ":10"),
            ..retired
        };
        assert_eq!(known.believe(&changed), None);
    }

    #[test]
    fn keys_of_another_log_are_none() {
        let (own, new) = (signer(), signer());
        let elsewhere =
            NoteSigner::new("elsewhere", NoteKind::Checkpoint, Signer::throwaway()).unwrap();
        let witness = NoteSigner::new("log", NoteKind::Cosignature, Signer::throwaway()).unwrap();
        let known = LogKeys::from(own.verifier().clone());
        for other in [&[&own, &elsewhere][..], &[&elsewhere], &[&own, &witness]] {
            assert_eq!(follow(&known, &signed(3, other, &[&own])), None);
        }
        assert!(follow(&known, &signed(3, &[&own, &new], &[&own])).is_some());
    }
}
