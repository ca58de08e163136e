use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::audit::Asked;
use crate::model::{EntryIndex, Timestamp, UserName};

/// How long a request waits.
const PATIENCE: Duration = Duration::from_secs(60 * 60);
/// How many wait of one requester. Of more, their oldest waits no longer.
const MOST_OF_REQUESTER: usize = 16;
/// How many wait in all. Of more, the oldest waits no longer.
const MOST: usize = 4096;

/// Requests that wait for approval, by the entry that logs each. They are in memory alone: after a
/// restart, whoever asks again gets a new number.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<BTreeMap<EntryIndex, Waits>>);

/// A request that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    /// Who asks.
    pub requester: UserName,
    /// For what.
    pub request: Asked,
    /// How many approvals it needs in all.
    pub needs: u32,
    /// Since when.
    pub since: Timestamp,
}

impl Waits {
    /// Until when it waits.
    pub fn until(&self) -> Timestamp {
        self.since.plus(PATIENCE)
    }
}

impl Waiting {
    /// Has one wait, in place of the same that waited before.
    pub fn add(&self, entry: EntryIndex, waits: Waits) {
        let mut waiting = self.lasting(waits.since);
        let same = |other: &Waits| {
            (&other.requester, &other.request) == (&waits.requester, &waits.request)
        };
        waiting.retain(|_, other| !same(other));
        // The first of a map by entries is the oldest.
        let own = |(entry, other): (&EntryIndex, &Waits)| {
            (other.requester == waits.requester).then_some(*entry)
        };
        let owns: Vec<EntryIndex> = waiting.iter().filter_map(own).collect();
        if owns.len() >= MOST_OF_REQUESTER {
            waiting.remove(&owns[0]);
        }
        if waiting.len() >= MOST {
            waiting.pop_first();
        }
        waiting.insert(entry, waits);
    }

    /// That of an entry.
    pub fn of(&self, entry: EntryIndex, now: Timestamp) -> Option<Waits> {
        self.lasting(now).get(&entry).cloned()
    }

    /// All, the oldest first.
    pub fn all(&self, now: Timestamp) -> Vec<(EntryIndex, Waits)> {
        let waiting = self.lasting(now);
        let all = waiting.iter();
        all.map(|(entry, waits)| (*entry, waits.clone())).collect()
    }

    /// What was asked for was granted, and waits no longer.
    pub fn done(&self, requester: &UserName, request: &Asked, now: Timestamp) {
        self.lasting(now)
            .retain(|_, other| other.requester != *requester || other.request != *request);
    }

    fn lasting(&self, now: Timestamp) -> MutexGuard<'_, BTreeMap<EntryIndex, Waits>> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, waits| now < waits.until());
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(requester: &str, ttl: u64, since: u64) -> Waits {
        Waits {
            requester: requester.parse().unwrap(),
            request: Asked {
                role: "deploy".parse().unwrap(),
                purpose: "deploy".parse().unwrap(),
                reason: None,
                ttl,
            },
            needs: 1,
            since: Timestamp::from_secs(since),
        }
    }

    fn entries(waiting: &Waiting, now: u64) -> Vec<u64> {
        let all = waiting.all(Timestamp::from_secs(now));
        all.into_iter().map(|(entry, _)| entry.0).collect()
    }

    #[test]
    fn a_request_waits_for_an_hour_under_its_newest_number() {
        let waiting = Waiting::default();
        waiting.add(EntryIndex(1), waits("vera", 60, 100));
        waiting.add(EntryIndex(2), waits("vera", 61, 100));
        waiting.add(EntryIndex(3), waits("olaf", 60, 100));
        waiting.add(EntryIndex(4), waits("vera", 60, 200));
        assert_eq!(entries(&waiting, 200), [2, 3, 4]);
        assert!(
            waiting
                .of(EntryIndex(1), Timestamp::from_secs(200))
                .is_none()
        );
        assert_eq!(entries(&waiting, 3699), [2, 3, 4]);
        assert_eq!(entries(&waiting, 3700), [4]);
        let Waits {
            requester, request, ..
        } = waits("vera", 60, 0);
        waiting.done(&requester, &request, Timestamp::from_secs(3700));
        assert!(entries(&waiting, 3700).is_empty());
    }

    #[test]
    fn nobody_pushes_others_out_but_by_many_hands() {
        let waiting = Waiting::default();
        waiting.add(EntryIndex(0), waits("olaf", 60, 100));
        for entry in 1..100 {
            waiting.add(EntryIndex(entry), waits("vera", entry, 100));
        }
        let mut left: Vec<u64> = (100 - MOST_OF_REQUESTER as u64..100).collect();
        left.insert(0, 0);
        assert_eq!(entries(&waiting, 100), left);
        for entry in 100..100 + MOST as u64 {
            let requester = format!("u{entry}");
            waiting.add(EntryIndex(entry), waits(&requester, 60, 100));
        }
        let all = entries(&waiting, 100);
        assert_eq!((all.len(), all[0]), (MOST, 100));
    }
}
