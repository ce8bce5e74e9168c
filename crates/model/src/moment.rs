//! Timestamps as people and programs read them.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::calendar;

const SECONDS_PER_DAY: i64 = 86_400;

/// A point in time, to the second.
///
/// Stored as RFC 3339 in UTC, `2026-11-20T20:49:03Z`; shown to people as `2026-11-20 20:49:03 UTC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Moment {
    /// Seconds since 1970, in UTC.
    seconds: i64,
}

impl Moment {
    fn written(self, between: &str, zone: &str) -> String {
        let (year, month, day) = calendar::from_days(self.seconds.div_euclid(SECONDS_PER_DAY));
        let of_day = self.seconds.rem_euclid(SECONDS_PER_DAY);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        format!("{year:04}-{month:02}-{day:02}{between}{hour:02}:{minute:02}:{second:02}{zone}")
    }
}

/// Formats the moment for people: `2026-11-20 20:49:03 UTC`.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written(" ", " UTC"))
    }
}

impl From<SystemTime> for Moment {
    /// Converts a system time and drops fractions of a second. A clock that is set before 1970 counts as 1970.
    fn from(time: SystemTime) -> Self {
        let since: Duration = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX) }
    }
}

impl From<Moment> for String {
    /// Formats the moment as RFC 3339.
    fn from(moment: Moment) -> Self {
        moment.written("T", "Z")
    }
}

/// The error for a text that is not a moment of the form `2026-11-20T20:49:03Z`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a moment; expected the form 2026-11-20T20:49:03Z")]
pub struct InvalidMoment(pub String);

impl FromStr for Moment {
    type Err = InvalidMoment;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| InvalidMoment(text.to_owned()))
    }
}

impl TryFrom<String> for Moment {
    type Error = InvalidMoment;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

fn parse(text: &str) -> Option<Moment> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, day] = three(date, '-')?;
    let [hour, minute, second] = three(time, ':')?;
    let days = calendar::to_days(year, month, day);
    let moment = Moment { seconds: days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second };
    // A value out of range (month 13, for example) is formatted differently from the text it was read from.
    (String::from(moment) == text).then_some(moment)
}

fn three(text: &str, between: char) -> Option<[i64; 3]> {
    let numbers: Vec<i64> =
        text.split(between).map(|part| part.parse::<u32>().ok().map(i64::from)).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_for_people_and_for_programs() {
        let moment = Moment::from(SystemTime::UNIX_EPOCH + Duration::from_millis(1_529_501_823_999));
        assert_eq!(moment.to_string(), "2018-06-20 13:37:03 UTC");
        assert_eq!(String::from(moment), "2018-06-20T13:37:03Z");
        assert_eq!("2018-06-20T13:37:03Z".parse(), Ok(moment));
    }

    #[test]
    fn a_text_that_is_no_moment_is_refused_by_name() {
        for text in
            ["", "2018-06-20", "2018-13-20T13:37:03Z", "2018-06-20T13:37:03+02:00", "2018-06-20T13:37Z", "T:::Z"]
        {
            assert_eq!(text.parse::<Moment>(), Err(InvalidMoment(text.to_owned())), "{text}");
        }
    }
}
