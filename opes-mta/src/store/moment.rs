//! Points of time that stand in files.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

const DAY: u64 = 24 * 60 * 60;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/// 1 January 1970 was a Thursday.
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

/// A point of time from 1970 to 9999, to the millisecond; in files `2026-11-26T10:00:00.000Z` (RFC 3339).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Moment(u64);

impl Moment {
    /// The beginning of 1970.
    pub const EPOCH: Self = Self(0);
    /// The end of 9999.
    pub const LAST: Self = Self(253_402_300_799_999);

    /// Milliseconds since [`Self::EPOCH`].
    pub fn milliseconds(self) -> u64 {
        self.0
    }

    /// So much later.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(milliseconds)).min(Self::LAST)
    }

    /// The time since an earlier moment; nothing if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The moment in the form of files.
    pub fn parse(text: &str) -> Result<Self, InvalidMoment> {
        let invalid = || InvalidMoment(text.chars().take(40).collect());
        let number = |from: usize, to: usize| -> Option<u64> {
            let digits = text.get(from..to)?;
            digits.bytes().all(|o| o.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
        };
        let read = || {
            let days = days_until(number(0, 4)?, number(5, 7)?, number(8, 10)?)?;
            let seconds = number(11, 13)? * 3_600 + number(14, 16)? * 60 + number(17, 19)?;
            Some(Self((days * DAY + seconds) * 1_000 + number(20, 23)?))
        };
        // What is written anew and is the same had no wrong separator, and no 31 February.
        read().filter(|moment: &Self| moment.to_string() == text).ok_or_else(invalid)
    }

    /// As in a Date field (RFC 5322 section 3.3).
    pub fn date_time(self) -> String {
        let Calendar { year, month, day, weekday, hour, minute, second } = self.calendar();
        format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} +0000")
    }

    /// As in the `From ` line of a mailbox (RFC 4155).
    pub fn mailbox_date(self) -> String {
        let Calendar { year, month, day, weekday, hour, minute, second } = self.calendar();
        format!("{weekday} {month} {day:>2} {hour:02}:{minute:02}:{second:02} {year}")
    }

    fn calendar(self) -> Calendar {
        let seconds = self.0 / 1_000;
        let (year, month, day) = date(seconds / DAY);
        let name = |names: &[&'static str], at: u64| {
            names.get(usize::try_from(at).unwrap_or_default()).copied().unwrap_or_default()
        };
        Calendar {
            year,
            month: name(&MONTHS, month - 1),
            day,
            weekday: name(&WEEKDAYS, seconds / DAY % 7),
            hour: seconds % DAY / 3_600,
            minute: seconds % 3_600 / 60,
            second: seconds % 60,
        }
    }
}

struct Calendar {
    year: u64,
    month: &'static str,
    day: u64,
    weekday: &'static str,
    hour: u64,
    minute: u64,
    second: u64,
}

/// Days from 1970 to this day. Years begin with March here, so that a leap day is the last of one; 400 of them have
/// 146,097 days.
fn days_until(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month < 3 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    Some(year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468)
}

/// The other way round: year, month and day.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month < 3), month, day)
}

/// A text that is no point of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no time such as 2026-11-26T10:00:00.000Z")]
pub struct InvalidMoment(String);

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Self {
        Self::EPOCH.after(time.duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

impl From<Moment> for SystemTime {
    fn from(moment: Moment) -> Self {
        UNIX_EPOCH + Duration::from_millis(moment.0)
    }
}

impl TryFrom<String> for Moment {
    type Error = InvalidMoment;

    fn try_from(text: String) -> Result<Self, InvalidMoment> {
        Self::parse(&text)
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> Self {
        moment.to_string()
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1_000;
        let (year, month, day) = date(seconds / DAY);
        let Calendar { hour, minute, second, .. } = self.calendar();
        let milliseconds = self.0 % 1_000;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z"
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn well_known_days_have_their_names() {
        assert_eq!(Moment::EPOCH.to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Moment::LAST.to_string(), "9999-12-31T23:59:59.999Z");
        let leap = Moment(951_782_400_000);
        assert_eq!(leap.to_string(), "2000-02-29T00:00:00.000Z");
        assert_eq!(leap.date_time(), "Tue, 29 Feb 2000 00:00:00 +0000");
        let moment = Moment::parse("2026-11-06T10:02:03.004Z").unwrap();
        assert_eq!(moment.date_time(), "Fri, 06 Nov 2026 10:02:03 +0000");
        assert_eq!(moment.mailbox_date(), "Fri Nov  6 10:02:03 2026");
    }

    #[test]
    fn other_texts_are_no_times() {
        for wrong in [
            "",
            "2026-02-29T00:00:00.000Z",
            "2026-11-06 10:02:03.004Z",
            "é26-11-06T10:02:03.004Z",
            "2026-11-06T24:00:00.000Z",
            "1969-12-31T23:59:59.999Z",
            "2026-11-06T10:02:03Z",
        ] {
            assert!(Moment::parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(milliseconds in 0..=Moment::LAST.0) {
            let moment = Moment(milliseconds);
            prop_assert_eq!(Moment::parse(&moment.to_string()), Ok(moment));
            prop_assert_eq!(Moment::from(SystemTime::from(moment)), moment);
        }
    }
}
