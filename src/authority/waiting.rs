//! Where each CA key stands, and what must come before its next step is safe.

use super::in_force::InForce;
use super::init::public_fingerprint;
use super::{Authority, Refusal};
use crate::audit::VerifierKey;
use crate::certificate::is_issued_by;
use crate::keys::CaKey;
use crate::model::{KeyId, KeyKind, KeyState, KeySummary, Timestamp};

impl Authority {
    /// A key as it is shown.
    pub(super) fn summarize(
        &self,
        keys: &InForce,
        id: KeyId,
        key: &CaKey,
        now: Timestamp,
    ) -> Result<KeySummary, Refusal> {
        Ok(KeySummary {
            key: id,
            state: key.state,
            since: key.since.time,
            fingerprint: public_fingerprint(&key.public)?,
            public: key.public.clone(),
            last_expiry: keys
                .last_expiry(id, &self.keys.open)
                .filter(|last| *last > now),
            waits_for: self.waits_for(keys, id, key, now)?,
        })
    }

    /// What must come before the key's next step is safe.
    pub(super) fn waits_for(
        &self,
        keys: &InForce,
        id: KeyId,
        key: &CaKey,
        now: Timestamp,
    ) -> Result<Vec<String>, Refusal> {
        match key.state {
            KeyState::Staged => Ok(self.waits_to_sign(id, key, now)),
            KeyState::Retiring => self.waits_to_retire(keys, id, key, now),
            _ => Ok(Vec::new()),
        }
    }

    /// Whoever asks for a certificate learns what to trust. So when everything has expired that was
    /// issued before the key was staged, everybody who logs in has asked since.
    fn waits_to_sign(&self, id: KeyId, key: &CaKey, now: Timestamp) -> Vec<String> {
        let clients_learn = matches!(id.kind, KeyKind::SshHost | KeyKind::X509Root | KeyKind::Log);
        let known = self.known_to_people(key);
        let mut waits_for = Vec::new();
        if clients_learn && known > now {
            waits_for.push(format!(
                "until {known} for the last who asked for a certificate before it was staged, and \
                 may not know it yet"
            ));
        }
        let hosts = self.unconfirmed(key.since.entry.0, |host| match id.kind {
            KeyKind::SshUser => host.ssh,
            KeyKind::X509Root => host.database,
            // It signs what any host is told to trust.
            KeyKind::Log => true,
            // A host's own certificate is for clients, and an issuing CA comes with what it signs.
            _ => false,
        });
        let hosts = hosts.iter();
        waits_for.extend(hosts.map(|host| format!("for host {host} to confirm that it trusts it")));
        if id.kind == KeyKind::Log
            && let Ok(verifier) = key.public.parse()
        {
            waits_for.extend(self.witnesses_that_wait(&verifier));
        }
        waits_for
    }

    /// When everybody who logs in has asked for a certificate since the key stands where it does.
    fn known_to_people(&self, key: &CaKey) -> Timestamp {
        // Also of roles that lived longer before the policies were loaded anew.
        key.since.time.plus(self.policies.longest()).whole_secs()
    }

    /// The witnesses that refuse what that key of the log signs alone.
    fn witnesses_that_wait(&self, verifier: &VerifierKey) -> Vec<String> {
        let strangers = self.witnesses.strangers_to(verifier);
        strangers
            .into_iter()
            .map(|witness| {
                format!(
                    "for witness {witness} to cosign what it signs: its operator adds {verifier} \
                     to logs in witness.toml"
                )
            })
            .collect()
    }

    /// With the log's old key goes what those know the log by who have not heard of the new one.
    fn log_waits_to_retire(&self, keys: &InForce, key: &CaKey, now: Timestamp) -> Vec<String> {
        let mut waits_for = Vec::new();
        let known = self.known_to_people(key);
        if known > now {
            waits_for.push(format!(
                "until {known} for the last who asked for a certificate before another key took \
                 its place"
            ));
        }
        let hosts = self.unconfirmed(key.since.entry.0, |_| true);
        let hosts = hosts.iter();
        waits_for.extend(hosts.map(|host| {
            format!("for host {host} to confirm that it trusts the key that signs now")
        }));
        // The newest, when another rotation has begun: it signs as well, and witnesses are asked by it.
        if let Some(coming) = keys.coming_log_key() {
            waits_for.extend(self.witnesses_that_wait(&coming));
        }
        waits_for
    }

    fn waits_to_retire(
        &self,
        keys: &InForce,
        id: KeyId,
        key: &CaKey,
        now: Timestamp,
    ) -> Result<Vec<String>, Refusal> {
        if id.kind == KeyKind::Log {
            return Ok(self.log_waits_to_retire(keys, key, now));
        }
        if id.kind == KeyKind::X509Root {
            let mut below = Vec::new();
            for (issuing, ca) in keys.keyring.iter() {
                if issuing.kind == KeyKind::X509Issuing
                    && ca.state.is_trusted()
                    && is_issued_by(&ca.public, &key.public)?
                {
                    below.push(format!(
                        "for {issuing}, which stands under it, to be retired"
                    ));
                }
            }
            return Ok(below);
        }
        let last = keys.last_expiry(id, &self.keys.open);
        Ok(last
            .filter(|last| *last > now)
            .map(|last| format!("until {last} for the last certificate that it signed to expire"))
            .into_iter()
            .collect())
    }
}
