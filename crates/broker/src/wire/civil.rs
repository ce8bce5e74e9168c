//! Formats days and times of day since 1970 as PostgreSQL does with `DateStyle` ISO, which capture requests.
//!
//! The calendar is the proleptic Gregorian one. Like PostgreSQL, it writes years before the year 1 with `BC` at the end.

use walvec_model::calendar::{from_days, to_days};

const MICROS_PER_DAY: i128 = 86_400_000_000;
/// The last years of PostgreSQL's timestamps and dates. A later value can only be infinity.
const LAST_TIMESTAMP_YEAR: i64 = 294_276;
const LAST_DATE_YEAR: i64 = 5_874_897;
const FIRST_YEAR: i64 = -4_713;

/// Formats days since 1970 as `YYYY-MM-DD`.
pub(super) fn date(days: i64) -> String {
    let (year, month, day) = from_days(days);
    infinite(year, LAST_DATE_YEAR).unwrap_or_else(|| ymd(year, month, day) + era(year))
}

/// Formats microseconds since midnight as `HH:MM:SS[.ffffff]`; `None` if they exceed one day (24:00:00 is allowed).
pub(super) fn time(micros: i64) -> Option<String> {
    (0..=86_400_000_000).contains(&micros).then(|| hms(micros))
}

/// Formats microseconds since 1970 as `YYYY-MM-DD HH:MM:SS[.ffffff]`, followed by `zone`.
pub(super) fn timestamp(micros: i128, zone: &str) -> String {
    let days = i64::try_from(micros.div_euclid(MICROS_PER_DAY)).unwrap_or(if micros < 0 { i64::MIN } else { i64::MAX });
    let of_day = i64::try_from(micros.rem_euclid(MICROS_PER_DAY)).unwrap_or_default();
    let (year, month, day) = from_days(days);
    let text = || format!("{} {}{zone}{}", ymd(year, month, day), hms(of_day), era(year));
    infinite(year, LAST_TIMESTAMP_YEAR).unwrap_or_else(text)
}

/// Converts an ISO 8601 timestamp with `Z` or an offset to PostgreSQL's form in UTC; `None` if it is not one.
pub(super) fn zoned_timestamp(iso: &str) -> Option<String> {
    let (date, rest) = iso.split_once('T')?;
    let (negative, unsigned) = date.strip_prefix('-').map_or((false, date), |rest| (true, rest));
    let mut parts = unsigned.strip_prefix('+').unwrap_or(unsigned).split('-').map(number);
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() || year > 1_000_000_000 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (of_day, offset) = zoned_micros(rest)?;
    let days = to_days(if negative { -year } else { year }, month, day);
    Some(timestamp(i128::from(days) * MICROS_PER_DAY + i128::from(of_day - offset), "+00"))
}

/// Converts an ISO 8601 time of day with `Z` or an offset to PostgreSQL's form in UTC; `None` if it is not one.
pub(super) fn zoned_time(iso: &str) -> Option<String> {
    let (of_day, offset) = zoned_micros(iso)?;
    Some(hms((of_day - offset).rem_euclid(86_400_000_000)) + "+00")
}

/// Returns the microseconds since midnight, and the offset from UTC in microseconds, for a text like `13:37:03.25+02:00`.
fn zoned_micros(text: &str) -> Option<(i64, i64)> {
    let at = text.find(['Z', '+', '-'])?;
    let (time, zone) = text.split_at(at);
    let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let seconds = sexagesimal(whole)?;
    // Digits beyond a microsecond are cut off. The server never sends them.
    let fraction = number(format!("{fraction:0<6}").get(..6)?)?;
    let offset = match zone.split_at(1) {
        ("Z", "") => 0,
        ("+", offset) => sexagesimal(offset)?,
        ("-", offset) => -sexagesimal(offset)?,
        _ => return None,
    };
    Some((seconds * 1_000_000 + fraction, offset * 1_000_000))
}

/// Returns the seconds of `HH[:MM[:SS]]`.
fn sexagesimal(text: &str) -> Option<i64> {
    let parts: Vec<_> = text.split(':').map(number).collect::<Option<_>>()?;
    let valid = (1..=3).contains(&parts.len()) && parts.iter().all(|&part| part <= 60);
    valid.then(|| parts.iter().zip([3600, 60, 1]).map(|(part, unit)| part * unit).sum())
}

fn number(digits: impl AsRef<str>) -> Option<i64> {
    let digits = digits.as_ref();
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

fn infinite(year: i64, last: i64) -> Option<String> {
    if year > last {
        return Some("infinity".to_owned());
    }
    (year < FIRST_YEAR).then(|| "-infinity".to_owned())
}

fn ymd(year: i64, month: i64, day: i64) -> String {
    // There is no year 0: the year before 1 is 1 BC.
    let year = if year > 0 { year } else { 1 - year };
    format!("{year:04}-{month:02}-{day:02}")
}

fn era(year: i64) -> &'static str {
    if year > 0 { "" } else { " BC" }
}

fn hms(micros: i64) -> String {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let whole = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction == 0 { whole } else { format!("{whole}.{fraction:06}").trim_end_matches('0').to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_read_as_postgresql_writes_them() {
        for (days, text) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (11_016, "2000-02-29"),
            (19_782, "2024-02-29"),
            (20_000, "2024-10-04"),
            (2_932_896, "9999-12-31"),
            (2_932_897, "10000-01-01"),
            (-719_163, "0001-12-31 BC"),
            (-735_160, "0044-03-15 BC"),
            (i64::from(i32::MAX), "infinity"),
            (i64::MIN, "-infinity"),
        ] {
            assert_eq!(date(days), text);
        }
    }

    #[test]
    fn times_have_no_trailing_zeros() {
        assert_eq!(time(0).unwrap(), "00:00:00");
        assert_eq!(time(48_823_250_000).unwrap(), "13:33:43.25");
        assert_eq!(time(86_400_000_000).unwrap(), "24:00:00");
        assert_eq!((time(-1), time(86_400_000_001)), (None, None));
    }

    #[test]
    fn timestamps_read_as_postgresql_writes_them() {
        assert_eq!(timestamp(1_529_501_823_123_456, ""), "2018-06-20 13:37:03.123456");
        assert_eq!(timestamp(-1, ""), "1969-12-31 23:59:59.999999");
        assert_eq!(timestamp(i128::from(i64::MAX) * 1000, ""), "infinity");
        assert_eq!(timestamp(i128::MIN, ""), "-infinity");
    }

    #[test]
    fn a_timestamp_with_a_zone_is_shown_in_utc() {
        for (iso, text) in [
            ("2018-06-20T13:37:03.123456Z", "2018-06-20 13:37:03.123456+00"),
            ("2018-06-20T13:37:03.100Z", "2018-06-20 13:37:03.1+00"),
            ("2018-06-20T13:37:03Z", "2018-06-20 13:37:03+00"),
            ("2018-06-20T13:37Z", "2018-06-20 13:37:00+00"),
            ("2018-06-20T01:30:00+02:00", "2018-06-19 23:30:00+00"),
            ("+12018-06-20T13:37:03Z", "12018-06-20 13:37:03+00"),
            ("-0043-03-15T00:00:00Z", "0044-03-15 00:00:00+00 BC"),
        ] {
            assert_eq!(zoned_timestamp(iso).as_deref(), Some(text), "{iso}");
        }
        for iso in ["", "infinity", "2018-06-20", "2018-13-20T00:00:00Z", "2018-06-20T00:00:00", "2018-06-20T0\u{e4}Z"]
        {
            assert_eq!(zoned_timestamp(iso), None, "{iso}");
        }
        assert_eq!(zoned_time("00:30:00.5+02:00").unwrap(), "22:30:00.5+00");
    }

    proptest! {
        #[test]
        fn a_day_is_the_same_there_and_back(days in -1_700_000_i64..100_000_000) {
            let (year, month, day) = from_days(days);
            prop_assert_eq!(to_days(year, month, day), days);
        }

        #[test]
        fn no_text_is_too_strange(text in "[-+0-9TZ:.é]{0,40}") {
            let _ = (zoned_timestamp(&text), zoned_time(&text));
        }
    }
}
