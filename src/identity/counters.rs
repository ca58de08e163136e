use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use super::MAX_SKEW;
use crate::audit::Counter;
use crate::model::Timestamp;

/// How many counts of a key are told from each other that may still overtake one another.
const MOST_RECENT: usize = 64;

/// Remembers how far each FIDO2 key has counted its signatures, so that it shows when there are two
/// of a key. docs/fido2.md tells the rule and why it is that one.
///
/// The log keeps the highest count of each key on disk as well: [`Counters::new`] takes what it had
/// at the start.
pub struct Counters {
    /// Never held across I/O.
    keys: Mutex<HashMap<String, Count>>,
    /// What the log had at the start: the highest count of each key, and none of those below it.
    before: BTreeMap<String, u32>,
    started: Timestamp,
}

/// What one key has counted since the start.
#[derive(Default)]
struct Count {
    /// No count up to it is good any more.
    floor: u32,
    /// Counts above it, and when each came.
    recent: BTreeMap<u32, Timestamp>,
    /// It went back, behind this one. Nothing makes that undone.
    back: Option<u32>,
}

/// What becomes of a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// It is new.
    Fits,
    /// The key has never counted.
    DoesNotCount,
    /// Whether it came before the server's start is forgotten.
    Unknown,
    /// It came before, or should have.
    Back {
        /// The highest that came before.
        newest: u32,
    },
}

impl Counters {
    /// With the highest count of each key before `now`.
    pub fn new(before: BTreeMap<String, u32>, now: Timestamp) -> Self {
        Self {
            keys: Mutex::default(),
            before,
            started: now,
        }
    }

    /// Whether a key went back since it said this.
    pub fn went_back(&self, counter: &Counter) -> bool {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(&counter.of)
            .is_some_and(|count| count.back.is_some())
    }

    /// Takes the count of a request that was signed at `signed`.
    pub fn count(&self, counter: &Counter, signed: Timestamp, now: Timestamp) -> Counted {
        let Counter { of, value } = counter;
        let before = self.before.get(of).copied().unwrap_or_default();
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let count = keys.entry(of.clone()).or_default();
        let newest = count.newest().max(before);
        if let Some(newest) = count.back {
            return Counted::Back { newest };
        }
        if *value == 0 && newest == 0 {
            return Counted::DoesNotCount;
        }
        if *value <= count.highest_before(signed) || count.recent.contains_key(value) {
            count.back = Some(newest);
            return Counted::Back { newest };
        }
        if *value <= before {
            if signed <= self.started.plus(MAX_SKEW) {
                return Counted::Unknown;
            }
            count.back = Some(newest);
            return Counted::Back { newest };
        }
        count.take(*value, now);
        Counted::Fits
    }
}

impl Count {
    fn newest(&self) -> u32 {
        let newest = self.recent.last_key_value().map(|(value, _)| *value);
        newest.unwrap_or(self.floor)
    }

    /// The highest that came before a request was signed, even if its clock is wrong by as much as
    /// is let pass: whatever the key signs later is higher.
    fn highest_before(&self, signed: Timestamp) -> u32 {
        let mut older = self.recent.iter().rev();
        let older = older.find(|(_, came)| came.plus(MAX_SKEW) < signed);
        older.map_or(self.floor, |(value, _)| *value)
    }

    fn take(&mut self, value: u32, now: Timestamp) {
        self.recent.insert(value, now);
        // No request can still come that was signed before these came.
        self.floor = self.highest_before(now.minus(MAX_SKEW));
        while self.recent.len() > MOST_RECENT
            && let Some((value, _)) = self.recent.pop_first()
        {
            self.floor = self.floor.max(value);
        }
        let floor = self.floor;
        self.recent.retain(|value, _| *value > floor);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_secs(1_000_000 + seconds)
    }

    fn counters(before: u32) -> Counters {
        Counters::new([("key@1".to_owned(), before)].into(), at(0))
    }

    /// What becomes of a count that was signed and came then.
    fn count(counters: &Counters, value: u32, signed: u64, came: u64) -> Counted {
        let counter = Counter {
            of: "key@1".to_owned(),
            value,
        };
        counters.count(&counter, at(signed), at(came))
    }

    const fn back(newest: u32) -> Counted {
        Counted::Back { newest }
    }

    #[test]
    fn counts_rise_and_may_leave_some_out() {
        let counters = counters(0);
        for (place, value) in [1, 2, 7, 1000, u32::MAX].into_iter().enumerate() {
            let second = 1000 * place as u64;
            assert_eq!(count(&counters, value, second, second), Counted::Fits);
        }
    }

    #[test]
    fn a_key_that_never_counts_is_taken_until_it_has_counted_once() {
        let counters = counters(0);
        for second in 0..5 {
            let counted = count(&counters, 0, second, second);
            assert_eq!(counted, Counted::DoesNotCount);
        }
        assert_eq!(count(&counters, 3, 10, 10), Counted::Fits);
        assert_eq!(count(&counters, 0, 11, 11), back(3));
    }

    #[test]
    fn one_that_goes_back_or_stands_still_is_never_taken_again() {
        for wrong in [10, 9, 1, 0] {
            let counters = counters(0);
            assert_eq!(count(&counters, 10, 0, 0), Counted::Fits);
            let said = Counter {
                of: "key@1".to_owned(),
                value: 10,
            };
            assert!(!counters.went_back(&said));
            assert_eq!(count(&counters, wrong, 200, 200), back(10), "{wrong}");
            assert!(counters.went_back(&said));
            assert_eq!(count(&counters, 11, 201, 201), back(10), "after {wrong}");
        }
        // The same twice is wrong however little time has passed.
        let counters = counters(0);
        assert_eq!(count(&counters, 10, 0, 0), Counted::Fits);
        assert_eq!(count(&counters, 10, 0, 0), back(10));
    }

    #[test]
    fn requests_on_their_way_may_overtake_each_other() {
        let counters = counters(0);
        assert_eq!(count(&counters, 10, 100, 100), Counted::Fits);
        assert_eq!(count(&counters, 13, 101, 101), Counted::Fits);
        assert_eq!(count(&counters, 12, 101, 102), Counted::Fits);
        // Signed before 13 came, and held back for as long as it is taken at all.
        assert_eq!(count(&counters, 11, 101, 161), Counted::Fits);
        assert_eq!(count(&counters, 12, 101, 161), back(13), "seen");
    }

    #[test]
    fn one_that_was_signed_later_may_not_be_lower() {
        let counters = counters(0);
        assert_eq!(count(&counters, 100, 100, 100), Counted::Fits);
        // By a clock that is behind by a minute it could be from before.
        assert_eq!(count(&counters, 50, 160, 160), Counted::Fits);
        assert_eq!(count(&counters, 51, 161, 161), back(100));
    }

    #[test]
    fn after_a_start_nothing_is_forgotten_but_the_order_of_the_last_minute() {
        for value in [100, 99, 1] {
            let restarted = counters(100);
            // Perhaps on its way while the server was away, or seen before.
            assert_eq!(count(&restarted, value, 60, 60), Counted::Unknown);
            // Not for good: it is no proof.
            assert_eq!(count(&restarted, 101, 61, 61), Counted::Fits);
            assert_eq!(count(&restarted, value, 61, 61), back(101), "{value}");
        }
        let restarted = counters(100);
        assert_eq!(count(&restarted, 100, 61, 61), back(100));
        // No key that counts says so, ever.
        assert_eq!(count(&counters(100), 0, 60, 60), back(100));
    }

    #[test]
    fn what_is_kept_of_a_key_is_bounded() {
        let counters = counters(0);
        for value in 0..1000 {
            count(&counters, 2 * value + 2, 0, 0);
        }
        let keys = counters.keys.lock().unwrap();
        assert_eq!(keys["key@1"].recent.len(), MOST_RECENT);
        drop(keys);
        assert_eq!(count(&counters, 3, 0, 0), back(2000));
    }

    proptest! {
        /// A key of which there is one, whatever the network does to its requests as long as they
        /// are taken at all, with a clock that is wrong by up to a minute.
        #[test]
        fn no_honest_key_is_ever_refused(
            requests in prop::collection::vec((0_u64..90, 0_u64..120, 1_u32..5), 1..50),
            wrong in -60_i64..=60,
        ) {
            let counters = counters(0);
            let (mut value, mut second) = (0, 1000);
            let mut sent = Vec::new();
            for (pause, delay, step) in requests {
                (value, second) = (value + step, second + pause);
                let says = second.saturating_add_signed(wrong);
                let came = second + delay;
                if came.abs_diff(says) <= 60 {
                    sent.push((came, says, value));
                }
            }
            sent.sort_unstable();
            for (came, says, value) in sent {
                prop_assert_eq!(count(&counters, value, says, came), Counted::Fits);
            }
        }

        /// However a copy counts: it shows at once, or when the owner comes again two minutes later,
        /// where all that the key signs comes here.
        #[test]
        fn a_copy_shows_when_the_owner_comes_again(
            owned in 1_u32..1000, copied in 1_u32..2000, later in 121_u64..1000,
        ) {
            let counters = counters(0);
            count(&counters, owned, 0, 0);
            let copy = count(&counters, copied, 500, 500);
            let owner = count(&counters, owned + 1, 500 + later, 500 + later);
            let shows = |counted| matches!(counted, Counted::Back { .. });
            prop_assert!(shows(copy) || shows(owner));
        }
    }
}
