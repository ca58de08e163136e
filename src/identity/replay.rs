use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::MAX_SKEW;
use crate::model::Timestamp;

/// Remembers nonces for as long as a request that carries one could be taken.
///
/// The log keeps them on disk as well: [`ReplayGuard::new`] takes what it had at the start.
pub struct ReplayGuard {
    /// Never held across I/O.
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    nonces: HashSet<String>,
    /// In the order of their expiry.
    expiries: VecDeque<(Timestamp, String)>,
}

impl ReplayGuard {
    /// How long a nonce is remembered: a request may be signed a minute ahead of the server's
    /// clock and be replayed until a minute after that, and some for a clock that is corrected.
    pub const MEMORY: Duration = Duration::from_secs(2 * MAX_SKEW.as_secs() + 60);

    /// With the nonces that were spent before.
    pub fn new(mut spent: Vec<(String, Timestamp)>) -> Self {
        spent.sort_by_key(|(_, expires)| *expires);
        Self {
            seen: Mutex::new(Seen {
                nonces: spent.iter().map(|(nonce, _)| nonce.clone()).collect(),
                expiries: spent
                    .into_iter()
                    .map(|(nonce, expires)| (expires, nonce))
                    .collect(),
            }),
        }
    }

    /// Spends a nonce. Says whether it was not spent before.
    pub fn spend(&self, nonce: &str, now: Timestamp) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        while seen
            .expiries
            .front()
            .is_some_and(|(expires, _)| *expires < now)
        {
            if let Some((_, old)) = seen.expiries.pop_front() {
                seen.nonces.remove(&old);
            }
        }
        if !seen.nonces.insert(nonce.to_owned()) {
            return false;
        }
        seen.expiries
            .push_back((Self::expiry(now), nonce.to_owned()));
        true
    }

    /// Until when a nonce that is spent at `now` must be remembered.
    pub fn expiry(now: Timestamp) -> Timestamp {
        now.plus(Self::MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_good_once_for_as_long_as_its_request_could_be_taken() {
        let start = Timestamp::from_secs(1_000_000);
        let guard = ReplayGuard::new(vec![("old".to_owned(), ReplayGuard::expiry(start))]);
        assert!(!guard.spend("old", start), "spent before a restart");
        assert!(guard.spend("new", start));
        for seconds in [0, 1, 60, 120] {
            let later = start.plus(Duration::from_secs(seconds));
            assert!(!guard.spend("new", later), "after {seconds} s");
        }
    }

    #[test]
    fn what_has_expired_is_forgotten() {
        let start = Timestamp::from_secs(1_000_000);
        let guard = ReplayGuard::new(Vec::new());
        for n in 0..100 {
            assert!(guard.spend(&format!("nonce-{n}"), start));
        }
        guard.spend(
            "last",
            ReplayGuard::expiry(start).plus(Duration::from_secs(1)),
        );
        assert_eq!(guard.seen.lock().unwrap().nonces.len(), 1);
    }
}
