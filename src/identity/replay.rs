use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::MAX_SKEW;
use crate::model::Timestamp;

/// Remembers nonces for as long as a request that carries one could be taken, and how far back it
/// remembers. What counts is the time that a request was signed at, so that a server whose clock
/// jumps and is set right again still takes no request twice.
///
/// The log keeps them on disk as well: [`ReplayGuard::new`] takes what it had at the start.
pub struct ReplayGuard {
    /// Never held across I/O.
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    nonces: HashSet<Arc<str>>,
    /// By when they expire, to the second that follows.
    expiries: BTreeMap<u64, Vec<Arc<str>>>,
    /// No nonce that expired later was ever forgotten.
    forgotten: Timestamp,
}

/// What becomes of a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// It is spent now.
    Now,
    /// It was spent before.
    Before,
    /// Whether it was is forgotten.
    Unknown,
}

impl Seen {
    fn remember(&mut self, nonce: &str, expires: Timestamp) {
        let nonce: Arc<str> = nonce.into();
        let second = expires.as_millis().div_ceil(1000);
        self.expiries
            .entry(second)
            .or_default()
            .push(Arc::clone(&nonce));
        self.nonces.insert(nonce);
    }

    fn forget_before(&mut self, now: Timestamp) {
        while let Some(oldest) = self.expiries.first_entry() {
            let expired = Timestamp::from_secs(*oldest.key());
            if expired >= now {
                break;
            }
            for nonce in oldest.remove() {
                self.nonces.remove(&nonce);
            }
            self.forgotten = self.forgotten.max(expired);
        }
    }
}

impl ReplayGuard {
    /// With the nonces that were spent before, of which none that expires after `forgotten` is
    /// missing.
    pub fn new(spent: Vec<(String, Timestamp)>, forgotten: Timestamp, now: Timestamp) -> Self {
        // Forgotten by a clock that was ahead: then nothing is taken that was signed before `now`,
        // but what is signed from now on.
        let forgotten = forgotten.min(Self::expiry(now));
        let mut seen = Seen {
            forgotten,
            ..Seen::default()
        };
        for (nonce, expires) in spent {
            seen.remember(&nonce, expires);
        }
        Self {
            seen: Mutex::new(seen),
        }
    }

    /// Spends the nonce of a request that was signed at `signed`.
    pub fn spend(&self, nonce: &str, signed: Timestamp, now: Timestamp) -> Spent {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.forget_before(now);
        let expires = Self::expiry(signed);
        if seen.nonces.contains(nonce) {
            return Spent::Before;
        }
        if expires <= seen.forgotten {
            return Spent::Unknown;
        }
        seen.remember(nonce, expires);
        Spent::Now
    }

    /// Until when the nonce of a request that was signed at `signed` must be remembered: as long
    /// as it could be taken, and a minute.
    pub fn expiry(signed: Timestamp) -> Timestamp {
        signed.plus(MAX_SKEW * 2)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_nonce_is_good_once_for_as_long_as_its_request_could_be_taken() {
        let signed = Timestamp::from_secs(1_000_000);
        let old = vec![("old".to_owned(), ReplayGuard::expiry(signed))];
        let guard = ReplayGuard::new(old, Timestamp::default(), signed);
        assert_eq!(guard.spend("old", signed, signed), Spent::Before, "restart");
        assert_eq!(guard.spend("new", signed, signed), Spent::Now);
        for later in [0, 1, 60, 120] {
            let now = signed.plus(seconds(later));
            assert_eq!(guard.spend("new", signed, now), Spent::Before, "{later} s");
        }
    }

    #[test]
    fn a_clock_that_jumps_and_is_set_right_makes_no_request_good_again() {
        let signed = Timestamp::from_secs(1_000_000);
        let guard = ReplayGuard::new(
            Vec::new(),
            Timestamp::default(),
            Timestamp::from_secs(1_000_000),
        );
        assert_eq!(guard.spend("mine", signed, signed), Spent::Now);
        let far = signed.plus(seconds(100_000));
        assert_eq!(guard.spend("another", far, far), Spent::Now);
        let after = signed.plus(seconds(5));
        assert_eq!(guard.spend("mine", signed, after), Spent::Unknown);
        // Nor does a restart in between, whatever was still on disk.
        for forgotten in [ReplayGuard::expiry(signed), far] {
            let restarted = ReplayGuard::new(Vec::new(), forgotten, after);
            assert_eq!(restarted.spend("mine", signed, after), Spent::Unknown);
            let next = after.plus(seconds(1));
            assert_eq!(restarted.spend("next", next, next), Spent::Now);
        }
        // And none is refused that was signed later.
        assert_eq!(guard.spend("next", after, after), Spent::Now);
    }

    #[test]
    fn what_has_expired_is_forgotten() {
        let start = Timestamp::from_secs(1_000_000);
        let guard = ReplayGuard::new(
            Vec::new(),
            Timestamp::default(),
            Timestamp::from_secs(1_000_000),
        );
        for n in 0..100 {
            assert_eq!(guard.spend(&format!("nonce-{n}"), start, start), Spent::Now);
        }
        let later = ReplayGuard::expiry(start).plus(seconds(1));
        guard.spend("last", later, later);
        assert_eq!(guard.seen.lock().unwrap().nonces.len(), 1);
    }
}
