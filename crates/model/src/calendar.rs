//! The proleptic Gregorian calendar, in days since 1970.

/// Days from 0000-03-01 to 1970-01-01. Years are counted from March here, so that the leap day is the last day of a year.
const DAYS_TO_1970: i64 = 719_468;
const DAYS_PER_400_YEARS: i64 = 146_097;

/// Returns the year (0 is 1 BC), month and day of a number of days since 1970.
#[must_use]
pub const fn from_days(days: i64) -> (i64, i64, i64) {
    let days = days.saturating_add(DAYS_TO_1970);
    let (era, of_era) = (days.div_euclid(DAYS_PER_400_YEARS), days.rem_euclid(DAYS_PER_400_YEARS));
    let of_era_year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * of_era_year + of_era_year / 4 - of_era_year / 100);
    // From March to January, any five consecutive months have 153 days.
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let (month, next_year) = if from_march < 10 { (from_march + 3, 0) } else { (from_march - 9, 1) };
    (of_era_year + era * 400 + next_year, month, day)
}

/// Returns the number of days since 1970 of a year (0 is 1 BC), month and day.
#[must_use]
pub const fn to_days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era_year) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * DAYS_PER_400_YEARS + of_era_year * 365 + of_era_year / 4 - of_era_year / 100 + of_year - DAYS_TO_1970
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_from_1970() {
        for (days, date) in [(0, (1970, 1, 1)), (-1, (1969, 12, 31)), (11_016, (2000, 2, 29)), (-719_163, (0, 12, 31))]
        {
            assert_eq!(from_days(days), date);
            assert_eq!(to_days(date.0, date.1, date.2), days);
        }
    }
}
