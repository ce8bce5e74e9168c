//! Numbers and times in a readable form.

/// Formats a number: `12405` → `12,405`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Formats a number with its noun: `1 hit`, `2 hits`.
pub(super) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Formats a time: `under 1 ms`, `250 ms`, `3.2 s`, `4 min`, `2 h 5 min`.
pub(super) fn milliseconds(ms: u64) -> String {
    match ms {
        0 => "under 1 ms".to_owned(),
        1..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h {} min", count(ms / 3_600_000), ms % 3_600_000 / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_written_for_people() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([counted(1, "hit"), counted(2_000, "hit")], ["1 hit", "2,000 hits"]);
        let times = [0, 999, 3_250, 240_000, 7_500_000].map(milliseconds);
        assert_eq!(times, ["under 1 ms", "999 ms", "3.2 s", "4 min", "2 h 5 min"]);
    }
}
