use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{GroupName, Timestamp};

/// How and when somebody asks: what policy is told beside who asks for what. It stands in the log
/// with each decision, so that the decision can be made again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circumstances {
    /// The requester's groups.
    pub groups: Vec<GroupName>,
    /// What the requester is known by: `ssh-key`, or a provider.
    pub method: String,
    /// The kind of the key that signed the request, as OpenSSH names it.
    pub key_type: String,
    /// The second factor that was shown, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mfa: Option<Mfa>,
    /// The address that the request came from.
    pub source: IpAddr,
    /// When, where the CA is.
    pub time: LocalTime,
    /// What is known of a requester that is a workload; nothing for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<BTreeMap<String, String>>,
}

/// A second factor at the moment of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mfa {
    /// Whether it knew its owner by PIN or finger, beyond that somebody was there.
    pub verified: bool,
    /// Whether its maker's certificate, by a root that is trusted here, says what it is.
    #[serde(default)]
    pub attested: bool,
    /// How many seconds ago it was shown.
    pub age: u64,
}

/// A second factor that a requester showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondFactor {
    /// Whether it knew its owner by PIN or finger, beyond that somebody was there.
    pub verified: bool,
    /// Whether its maker's certificate, by a root that is trusted here, says what it is.
    #[serde(default)]
    pub attested: bool,
    /// When it was shown.
    pub time: Timestamp,
}

impl SecondFactor {
    /// As policy sees it at some moment.
    pub fn at(self, now: Timestamp) -> Mfa {
        Mfa {
            verified: self.verified,
            attested: self.attested,
            age: now.as_millis().saturating_sub(self.time.as_millis()) / 1000,
        }
    }
}

/// The time of day and the day of the week in the configured time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LocalTime {
    /// From 1 for Monday to 7 for Sunday.
    pub weekday: u8,
    /// From 0 to 23.
    pub hour: u8,
    /// From 0 to 59.
    pub minute: u8,
}
