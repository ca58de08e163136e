use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Invalid;

const DAY: u64 = 24 * 60 * 60;

/// Defines a lifetime: whole seconds from 1 to a longest, written `90s`, `15m`, `8h` or `2d`.
macro_rules! lifetime {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $longest:expr, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(u64);

        impl $name {
            /// The longest there is.
            pub const MAX: Self = Self($longest);

            /// An hour.
            pub const HOUR: Self = Self(60 * 60);

            /// From whole seconds.
            ///
            /// # Errors
            /// When it is zero or longer than [`Self::MAX`].
            pub fn from_secs(seconds: u64) -> Result<Self, Invalid> {
                if (1..=$longest).contains(&seconds) {
                    Ok(Self(seconds))
                } else {
                    Err(Invalid::new($kind, &format!("{seconds}s"), $expected))
                }
            }

            /// Whole seconds, at least 1.
            pub fn as_secs(self) -> u64 {
                self.0
            }

            /// As a [`Duration`].
            pub fn duration(self) -> Duration {
                Duration::from_secs(self.0)
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                seconds(text)
                    .filter(|seconds| (1..=$longest).contains(seconds))
                    .map(Self)
                    .ok_or_else(|| Invalid::new($kind, text, $expected))
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;

            fn try_from(text: String) -> Result<Self, Invalid> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(lifetime: $name) -> Self {
                lifetime.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let (count, unit) = match self.0 {
                    s if s % DAY == 0 => (s / DAY, 'd'),
                    s if s % 3600 == 0 => (s / 3600, 'h'),
                    s if s % 60 == 0 => (s / 60, 'm'),
                    s => (s, 's'),
                };
                write!(f, "{count}{unit}")
            }
        }
    };
}

lifetime! {
    /// How long a person's certificate lives: 1 second to 24 hours.
    Ttl, "ttl", DAY,
    "use a whole number with s, m or h, from 1s to 24h, such as 90s, 15m or 8h"
}

lifetime! {
    /// How long a host's certificate lives: 1 second to 90 days. Hosts renew by themselves and
    /// hold no person's access, so theirs may live longer than a [`Ttl`].
    HostTtl, "host ttl", 90 * DAY,
    "use a whole number with s, m, h or d, from 1s to 90d, such as 12h or 30d"
}

fn seconds(text: &str) -> Option<u64> {
    let unit = match text.as_bytes().last()? {
        b's' => 1,
        b'm' => 60,
        b'h' => 3600,
        b'd' => DAY,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    // `parse` alone would take a sign.
    if !digits.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_whole_positive_lifetimes_within_the_day_are_legal() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("8h", 28_800), ("24h", 86_400)] {
            assert_eq!(text.parse::<Ttl>().unwrap().as_secs(), seconds);
        }
        for bad in [
            "",
            "0s",
            "0",
            "-1m",
            "+1m",
            "1.5h",
            "25h",
            "2d",
            "m",
            "10",
            "10 m",
            "10M",
            "1h30m",
            "99999999999999999999h",
            "18446744073709551615h",
            "１m",
        ] {
            assert!(bad.parse::<Ttl>().is_err(), "{bad:?}");
        }
        assert_eq!("30d".parse::<HostTtl>().unwrap().as_secs(), 30 * DAY);
        assert!("91d".parse::<HostTtl>().is_err());
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_to_the_same(seconds in 1..=DAY) {
            let ttl = Ttl::from_secs(seconds).unwrap();
            prop_assert_eq!(ttl.to_string().parse::<Ttl>().unwrap_or(Ttl::MAX), ttl);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,30}") {
            let _ = text.parse::<Ttl>();
        }
    }
}
