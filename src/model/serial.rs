use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Invalid;

/// A certificate's serial number: unique for ever, 1 to 2^63 - 1.
///
/// The same number stands in the certificate (an SSH `serial`, an X.509 `serialNumber`), in
/// sshd's log, in `pg_stat_ssl.client_serial` and in the audit log. The highest bit stays clear:
/// SQLite's integers are signed.
///
/// In JSON it is a string, since most JSON readers lose integers beyond 2^53.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial(u64);

impl Serial {
    /// From a number in the legal range.
    pub fn new(number: u64) -> Option<Self> {
        (1..=i64::MAX as u64)
            .contains(&number)
            .then_some(Self(number))
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Serial {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        text.parse()
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| Invalid::new("serial", text, "use the decimal number of a certificate"))
    }
}

impl TryFrom<String> for Serial {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> Self {
        serial.to_string()
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of an entry in the audit log, counted from 0 without gaps (RFC 6962's leaf index).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct EntryIndex(pub u64);

impl fmt::Display for EntryIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
