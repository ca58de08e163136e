use super::{Counted, Counters, Touch, Unidentified, User};
use crate::audit::Counter;
use crate::model::{Attestation, EntryIndex, LockSummary, SecondFactor, Timestamp, UserKey};

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
    fn counted(&self, fingerprint: &str) -> String {
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

/// What a touch of a user's enrolled FIDO2 key is worth that signed something at `signed`, and what
/// of it must be kept so that a copy of the key shows.
///
/// # Errors
/// When the key is not the user's, or has counted back.
pub fn second_factor(
    user: &User,
    fingerprint: &str,
    touch: Touch,
    counters: &Counters,
    signed: Timestamp,
    now: Timestamp,
) -> Result<(SecondFactor, Option<Counter>), Unidentified> {
    let key = user.keys.get(fingerprint).ok_or(Unidentified::UnknownKey)?;
    let counter = Counter {
        of: key.counted(fingerprint),
        value: touch.counter,
    };
    let counter = match counters.count(&counter, signed, now) {
        Counted::Fits => Some(counter),
        Counted::DoesNotCount => None,
        Counted::Unknown => return Err(Unidentified::Forgotten(signed)),
        Counted::Back { newest } => {
            return Err(Unidentified::CounterWentBack {
                user: user.name.clone(),
                counter: touch.counter,
                newest,
            });
        }
    };
    let factor = SecondFactor {
        verified: touch.verified,
        attested: key.is_attested(),
        time: signed,
    };
    Ok((factor, counter))
}
