use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use ssh_key::PublicKey;

use super::key_fingerprint;
use crate::audit::NewSession;
use crate::model::{
    Account, GroupName, LONGEST_SESSION, SecondFactor, SessionSummary, Timestamp, UserName,
};

/// For how long past its end a token is remembered that was used: clocks differ, and are set right.
const TOKEN_MEMORY: Duration = Duration::from_secs(10 * 60);

/// Which keys sign for whom because somebody signed in, rebuilt from the audit log's entries.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    /// By the fingerprint of the key.
    living: HashMap<String, Session>,
    /// Tokens that were used, by their hash, and until when they would be good.
    tokens: HashMap<String, Timestamp>,
}

/// For how long a key signs for somebody.
#[derive(Clone, Debug)]
pub struct Session {
    /// For whom.
    pub user: UserName,
    /// Who vouched for them.
    pub account: Account,
    /// The groups that the provider puts them in.
    pub groups: Vec<GroupName>,
    /// The second factor that was shown.
    pub mfa: Option<SecondFactor>,
    /// The FIDO2 key that was that factor, when it was one of the user's.
    pub touched: Option<String>,
    /// What is known of a workload; nothing for a person.
    pub workload: Option<BTreeMap<String, String>>,
    /// The address that it began from.
    pub source: std::net::IpAddr,
    /// Since when.
    pub began: Timestamp,
    /// Until when.
    pub expires: Timestamp,
}

impl Sessions {
    /// Takes in one that began.
    pub(super) fn begin(&mut self, new: &NewSession, began: Timestamp) {
        self.living.retain(|_, session| session.expires > began);
        self.tokens
            .retain(|_, expires| expires.plus(TOKEN_MEMORY) > began);
        if let Some(token) = &new.token {
            self.tokens.insert(token.sha256.clone(), token.expires);
        }
        // What is in the log was parsed before it got there.
        let Ok(key) = PublicKey::from_openssh(&new.public_key) else {
            return;
        };
        let session = Session {
            user: new.user.clone(),
            account: new.account.clone(),
            groups: new.groups.clone(),
            mfa: new.mfa,
            touched: None,
            workload: new.workload.clone(),
            source: new.source,
            began,
            expires: new.expires.min(began.plus(LONGEST_SESSION)),
        };
        self.living.insert(key_fingerprint(key.key_data()), session);
    }

    /// Takes in that a FIDO2 key is one's second factor.
    pub(super) fn touch(&mut self, fingerprint: &str, touched: &str, mfa: SecondFactor) {
        if let Some(session) = self.living.get_mut(fingerprint) {
            (session.mfa, session.touched) = (Some(mfa), Some(touched.to_owned()));
        }
    }

    /// Takes in that one ended.
    pub(super) fn end(&mut self, fingerprint: &str) {
        self.living.remove(fingerprint);
    }

    /// Ends those of which something holds.
    pub(super) fn end_those(&mut self, ended: impl Fn(&Session) -> bool) {
        self.living.retain(|_, session| !ended(session));
    }

    /// That of a key, also when it is over.
    pub fn of_key(&self, fingerprint: &str) -> Option<&Session> {
        self.living.get(fingerprint)
    }

    /// Whether a token was used, given its hash.
    pub fn has_spent(&self, token_sha256: &str) -> bool {
        self.tokens.contains_key(token_sha256)
    }

    /// All that last, with the fingerprints of their keys.
    pub fn living(&self, now: Timestamp) -> impl Iterator<Item = (&str, &Session)> {
        self.living
            .iter()
            .filter(move |(_, session)| now < session.expires)
            .map(|(fingerprint, session)| (fingerprint.as_str(), session))
    }
}

impl Session {
    /// What the API says of it, with the groups and the second factor that count.
    pub fn summary(
        &self,
        fingerprint: &str,
        groups: Vec<GroupName>,
        mfa: Option<SecondFactor>,
        now: Timestamp,
    ) -> SessionSummary {
        SessionSummary {
            name: self.user.clone(),
            provider: self.account.provider.clone(),
            subject: self.account.subject.clone(),
            fingerprint: fingerprint.to_owned(),
            groups,
            mfa: mfa.map(|mfa| mfa.at(now)),
            workload: self.workload.clone(),
            source_address: self.source.to_string(),
            began: self.began,
            expires: self.expires,
        }
    }
}
