use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{GroupName, Invalid, Timestamp};

/// How and when somebody asks: what policy is told beside who asks for what. It stands in the log
/// with each decision, so that the decision can be made again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Circumstances {
    /// The requester's groups.
    #[schema(value_type = Vec<String>)]
    pub groups: Vec<GroupName>,
    /// What the requester is known by: `ssh-key`, or a provider.
    pub method: String,
    /// The kind of the key that signed the request, as OpenSSH names it.
    pub key_type: String,
    /// The second factor that was shown, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mfa: Option<Mfa>,
    /// The address that the request came from.
    #[schema(value_type = String)]
    pub source: IpAddr,
    /// When, where the CA is.
    pub time: LocalTime,
    /// What is known of a requester that is a workload; nothing for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<BTreeMap<String, String>>,
    /// How many people have approved the request, as it counts for a request for a role.
    #[serde(default, skip_serializing_if = "is_none")]
    pub approvals: u32,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over references"
)]
fn is_none(approvals: &u32) -> bool {
    *approvals == 0
}

/// A second factor at the moment of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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

impl LocalTime {
    const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weekday = usize::from(self.weekday).saturating_sub(1);
        let weekday = Self::WEEKDAYS.get(weekday).unwrap_or(&"?");
        write!(f, "{weekday} {:02}:{:02}", self.hour, self.minute)
    }
}

impl FromStr for LocalTime {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parse = || {
            let (weekday, time) = text.split_once(' ')?;
            let weekday = Self::WEEKDAYS.iter().position(|known| *known == weekday)?;
            let (hour, minute) = time.split_once(':')?;
            let number = |text: &str, most: u8| {
                let legal = text.len() == 2 && text.bytes().all(|c| c.is_ascii_digit());
                text.parse().ok().filter(|number| legal && *number <= most)
            };
            Some(Self {
                weekday: u8::try_from(weekday + 1).ok()?,
                hour: number(hour, 23)?,
                minute: number(minute, 59)?,
            })
        };
        parse().ok_or_else(|| {
            let expected = "use a weekday and a time of day, such as \"mon 09:30\"";
            Invalid::new("time", text, expected)
        })
    }
}

/// The time of day and the day of the week in the configured time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct LocalTime {
    /// From 1 for Monday to 7 for Sunday.
    pub weekday: u8,
    /// From 0 to 23.
    pub hour: u8,
    /// From 0 to 59.
    pub minute: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_it_is_written() {
        for text in ["mon 00:00", "sun 23:59", "wed 09:05"] {
            assert_eq!(text.parse::<LocalTime>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "mon",
            "mon 24:00",
            "mon 9:30",
            "mon 12:60",
            "xyz 12:00",
            "mon +1:00",
        ] {
            assert!(text.parse::<LocalTime>().is_err(), "{text}");
        }
    }
}
