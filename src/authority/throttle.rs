use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::model::{Timestamp, counted_source};

/// Keeps strangers from filling the log: of one source's refusals, the first few of each minute
/// are listed, and the rest are counted in the next that is. Of a flood that goes on for long, few are.
pub(super) struct Throttle<S = IpAddr> {
    windows: Mutex<Windows<S>>,
}

struct Windows<S> {
    sources: HashMap<S, Window>,
    /// All sources together.
    all: Window,
}

#[derive(Clone, Copy, Default)]
struct Window {
    /// Milliseconds since 1970.
    began: u64,
    listed: u32,
    unlisted: u64,
    /// What was listed has used up the time until then, in milliseconds since 1970.
    spent: u64,
}

/// How many are listed in the long run.
struct Rate {
    /// One in that time.
    each: Duration,
    /// And after a quiet time that many more.
    saved: u64,
}

const WINDOW: Duration = Duration::from_secs(60);

impl Throttle {
    /// The same of an address, where a network counts as one.
    pub(super) fn list_address(&self, source: IpAddr, now: Timestamp) -> Option<u64> {
        self.list(counted_source(source), now)
    }
}

impl<S: Eq + Hash> Throttle<S> {
    const LISTED_PER_SOURCE: u32 = 10;
    const LISTED_IN_ALL: u32 = 300;
    const SOURCES: usize = 10_000;
    const ALL: Rate = Rate {
        each: Duration::from_secs(60),
        saved: 3_000,
    };
    /// A few hosts that were removed, and ask each minute, must not hide what others try.
    const SOURCE: Rate = Rate {
        each: Duration::from_secs(3600),
        saved: 60,
    };

    pub(super) fn new() -> Self {
        Self {
            windows: Mutex::new(Windows {
                sources: HashMap::new(),
                all: Window::default(),
            }),
        }
    }

    /// Whether to list a refusal, and then how many before it were not.
    pub(super) fn list(&self, source: S, now: Timestamp) -> Option<u64> {
        let now = now.as_millis();
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let windows = &mut *windows;
        if windows.sources.len() >= Self::SOURCES {
            windows.sources.retain(|_, window| !window.over(now));
        }
        windows.all.roll(now, &Self::ALL);
        let known = windows.sources.len() < Self::SOURCES;
        if !known && !windows.sources.contains_key(&source) {
            return None;
        }
        let window = windows.sources.entry(source).or_default();
        window.roll(now, &Self::SOURCE);
        if !window.has_room(Self::LISTED_PER_SOURCE, &Self::SOURCE, now)
            || !windows.all.has_room(Self::LISTED_IN_ALL, &Self::ALL, now)
        {
            window.unlisted += 1;
            return None;
        }
        window.take(&Self::SOURCE);
        windows.all.take(&Self::ALL);
        Some(std::mem::take(&mut window.unlisted))
    }
}

impl Window {
    fn over(&self, now: u64) -> bool {
        now.abs_diff(self.began) >= WINDOW.as_millis() as u64
    }

    fn roll(&mut self, now: u64, rate: &Rate) {
        if self.over(now) {
            self.began = now;
            self.listed = 0;
        }
        let saved = rate.saved * rate.each();
        // A clock may have been ahead.
        if self.spent.abs_diff(now) > saved {
            self.spent = now.saturating_sub(saved);
        }
    }

    fn has_room(&self, most: u32, rate: &Rate, now: u64) -> bool {
        self.listed < most && self.spent + rate.each() <= now
    }

    fn take(&mut self, rate: &Rate) {
        self.listed += 1;
        self.spent += rate.each();
    }
}

impl Rate {
    /// In milliseconds.
    fn each(&self) -> u64 {
        self.each.as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_not_listed() {
        let throttle = Throttle::new();
        let start = Timestamp::from_secs(1_000_000);
        let flood: IpAddr = "2001:db8::1".parse().unwrap();
        let same_network: IpAddr = "2001:db8::ffff".parse().unwrap();
        let listed = (0..1000)
            .filter(|_| throttle.list_address(flood, start).is_some())
            .count();
        assert_eq!(listed, 10);
        assert_eq!(throttle.list_address(same_network, start), None);
        assert_eq!(
            throttle.list_address("192.0.2.1".parse().unwrap(), start),
            Some(0)
        );
        let later = start.plus(Duration::from_secs(60));
        assert_eq!(throttle.list_address(flood, later), Some(991));
        assert_eq!(throttle.list_address(flood, later), Some(0));
    }

    #[test]
    fn many_sources_together_are_bounded() {
        let throttle = Throttle::new();
        let start = Timestamp::from_secs(1_000_000);
        let listed = (0..20_000_u32)
            .filter(|n| {
                throttle
                    .list_address(std::net::Ipv4Addr::from_bits(*n).into(), start)
                    .is_some()
            })
            .count();
        assert_eq!(listed, 300);
    }

    #[test]
    fn a_flood_that_goes_on_is_listed_less_and_less() {
        let throttle = Throttle::new();
        let start = Timestamp::from_secs(1_000_000);
        let of_day = |day: u64| -> usize {
            let minutes =
                (0..1440).map(|minute| start.plus(Duration::from_secs(day * 86_400 + minute * 60)));
            let flood = minutes.flat_map(|now| (0..400_u32).map(move |n| (n, now)));
            flood
                .filter(|(n, now)| {
                    let source = std::net::Ipv4Addr::from_bits(*n).into();
                    throttle.list_address(source, *now).is_some()
                })
                .count()
        };
        assert_eq!(of_day(0), 3_000 + 1_439);
        assert_eq!(of_day(1), 1_440);
        // A week of quiet later, and before that by a clock that is put back.
        assert_eq!(of_day(8), 3_000 + 1_439);
        assert_eq!(of_day(3), 3_000 + 1_439);
    }

    #[test]
    fn a_few_that_ask_for_ever_hide_nobody() {
        let throttle = Throttle::new();
        let start = Timestamp::from_secs(1_000_000);
        let source = |n: u32| std::net::Ipv4Addr::from_bits(n).into();
        let minute = |minute: u64| start.plus(Duration::from_secs(minute * 60));
        let minutes = 0..14 * 1440;
        let listed: usize = minutes
            .map(|at| {
                let hosts = 0..5;
                hosts
                    .filter(|n| throttle.list_address(source(*n), minute(at)).is_some())
                    .count()
            })
            .sum();
        assert_eq!(listed, 5 * (60 + 14 * 24 - 1));
        let attacks =
            (100..300).filter(|n| throttle.list_address(source(*n), minute(20_160)).is_some());
        assert_eq!(attacks.count(), 200);
    }
}
