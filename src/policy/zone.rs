use std::fmt;

use jiff::tz;
use serde::Deserialize;

use crate::model::{Invalid, LocalTime, Timestamp};

/// A time zone of the IANA database, which the program holds itself.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct TimeZone(tz::TimeZone);

impl TimeZone {
    /// The time of day and the day of the week there.
    pub fn local(&self, time: Timestamp) -> LocalTime {
        let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
        let local = self.0.to_datetime(time);
        // All are small and positive.
        LocalTime {
            weekday: local.weekday().to_monday_one_offset().unsigned_abs(),
            hour: local.hour().unsigned_abs(),
            minute: local.minute().unsigned_abs(),
        }
    }
}

impl Default for TimeZone {
    fn default() -> Self {
        Self(tz::TimeZone::UTC)
    }
}

impl TryFrom<String> for TimeZone {
    type Error = Invalid;

    fn try_from(name: String) -> Result<Self, Invalid> {
        tz::TimeZone::get(&name).map(Self).map_err(|_| {
            let expected = "use a name of the IANA database, such as UTC or Europe/Vienna";
            Invalid::new("time zone", &name, expected)
        })
    }
}

impl fmt::Debug for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iana_name().unwrap_or("UTC"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(zone: &str, time: &str) -> LocalTime {
        let zone = TimeZone::try_from(zone.to_owned()).unwrap();
        zone.local(time.parse().unwrap())
    }

    #[test]
    fn a_zone_has_its_own_day_and_hour_in_summer_and_winter() {
        let new_years_eve = "2026-12-31T23:30:00Z";
        let at = |weekday, hour, minute| LocalTime {
            weekday,
            hour,
            minute,
        };
        assert_eq!(local("UTC", new_years_eve), at(4, 23, 30));
        assert_eq!(local("Europe/Vienna", new_years_eve), at(5, 0, 30));
        assert_eq!(local("America/New_York", new_years_eve), at(4, 18, 30));
        assert_eq!(local("Europe/Vienna", "2026-07-05T20:00:00Z"), at(7, 22, 0));
        assert!(TimeZone::try_from("Europe/Nowhere".to_owned()).is_err());
    }
}
