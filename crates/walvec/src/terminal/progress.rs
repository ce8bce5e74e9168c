//! The progress of long work: a bar on a terminal, a line every ten seconds elsewhere.

use std::collections::VecDeque;
use std::fmt;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::{bars, note};

/// How often a line reports the progress.
pub(crate) const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// The period that the rate is measured over: a pause before it, for example because the database was away, says nothing about
/// the rest.
const RATE_WINDOW: Duration = Duration::from_secs(30);

/// How far work has come.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct WorkProgress {
    /// Rows that are done.
    pub(crate) rows: u64,
    /// Rows in all, if that is known and not less than what is done.
    pub(crate) of: Option<u64>,
    /// Rows per second, measured lately.
    pub(crate) per_second: Option<f64>,
}

impl WorkProgress {
    /// Returns how long the rest takes at this rate.
    pub(crate) fn left(&self) -> Option<Duration> {
        let rest = self.of?.checked_sub(self.rows)?;
        let per_second = self.per_second.filter(|rate| *rate > 0.0)?;
        #[allow(clippy::cast_precision_loss, reason = "an estimate")]
        Duration::try_from_secs_f64(rest as f64 / per_second).ok()
    }

    /// Returns the rate and the remaining time as text, to follow a number of `things`.
    pub(crate) fn pace(&self, things: &str) -> String {
        let rate = self.per_second.map(|rate| format!(", {rate:.*} {things}/s", usize::from(rate < 10.0)));
        let left = self.left().map(|left| format!(", about {} left", rough(left)));
        [rate, left].into_iter().flatten().collect()
    }
}

impl fmt::Display for WorkProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.of {
            Some(of) => write!(f, "{} of about {of} rows{}", self.rows, self.pace("rows")),
            None => write!(f, "{} rows{}", self.rows, self.pace("rows")),
        }
    }
}

/// Formats a duration in one unit, or two for hours and days: an estimate is not more exact than that.
fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = (seconds + 30) / 60;
    match seconds {
        0..120 => format!("{} s", seconds.max(1)),
        120..7_200 => format!("{minutes} min"),
        7_200..172_800 => format!("{} h {} min", minutes / 60, minutes % 60),
        _ => format!("{} days {} h", minutes / 1_440, minutes % 1_440 / 60),
    }
}

/// Measures the rate of work.
#[derive(Debug)]
pub(crate) struct Pace(VecDeque<(Instant, u64)>);

impl Pace {
    /// Starts to measure, with nothing done.
    pub(crate) fn begin(now: Instant) -> Self {
        Self::begin_at(now, 0)
    }

    /// Starts to measure when `rows` are done already.
    fn begin_at(now: Instant, rows: u64) -> Self {
        Self(VecDeque::from([(now, rows)]))
    }

    /// Records that `rows` are done, of `estimated`, which is ignored if it is less.
    pub(crate) fn record(&mut self, now: Instant, rows: u64, estimated: Option<u64>) -> WorkProgress {
        if self.0.back().is_some_and(|(_, before)| rows < *before) {
            // Fewer rows than before: the work began again.
            *self = Self::begin_at(now, rows);
        }
        // Keep one sample that is at least as old as the window, if there is one.
        while self.0.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= RATE_WINDOW) {
            self.0.pop_front();
        }
        // One sample per second is enough.
        if self.0.back().is_none_or(|(at, _)| now.duration_since(*at) >= Duration::from_secs(1)) {
            self.0.push_back((now, rows));
        }
        let per_second = self.0.front().and_then(|(began, before)| {
            let elapsed = now.duration_since(*began).as_secs_f64();
            #[allow(clippy::cast_precision_loss, reason = "an estimate")]
            (elapsed >= 1.0 && rows > *before).then(|| (rows - before) as f64 / elapsed)
        });
        WorkProgress { rows, of: estimated.filter(|estimated| *estimated >= rows.max(1)), per_second }
    }
}

/// Where the progress is reported if there is no terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReportTo {
    /// In the log, with the numbers as fields: for `run`.
    Log,
    /// On stderr, to the person who typed the command.
    Stderr,
}

/// Shows the progress of one piece of work, until dropped.
pub(crate) struct Meter {
    what: String,
    report_to: ReportTo,
    bar: Option<ProgressBar>,
    pace: Pace,
    reported_at: Instant,
}

impl Meter {
    /// Starts to show `what`, for example "snapshot".
    pub(crate) fn new(what: &str, report_to: ReportTo) -> Self {
        let now = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| bars().add(ProgressBar::no_length()));
        Self { what: what.to_owned(), report_to, bar, pace: Pace::begin(now), reported_at: now }
    }

    /// Changes the name of the work, for example to another step of the same task, with `rows` done.
    pub(crate) fn rename(&mut self, what: &str, rows: u64) {
        if self.what == what {
            return;
        }
        what.clone_into(&mut self.what);
        // The log of a running walvec already has the steps.
        if self.bar.is_none() && self.report_to == ReportTo::Stderr {
            note(what);
        }
        let now = Instant::now();
        (self.pace, self.reported_at) = (Pace::begin_at(now, rows), now);
    }

    /// Shows the progress.
    pub(crate) fn show(&mut self, rows: u64, estimated: Option<u64>) {
        let now = Instant::now();
        let progress = self.pace.record(now, rows, estimated);
        if let Some(bar) = &self.bar {
            draw(bar, &self.what, &progress);
        } else if now.duration_since(self.reported_at) >= REPORT_INTERVAL {
            self.reported_at = now;
            self.report(&progress);
        }
    }

    fn report(&self, progress: &WorkProgress) {
        match self.report_to {
            ReportTo::Stderr => note(&format!("{}: {progress}", self.what)),
            ReportTo::Log => tracing::info!(
                rows = progress.rows,
                estimated = progress.of,
                rows_per_second = progress.per_second.map(f64::round),
                seconds_left = progress.left().map(|left| left.as_secs()),
                "{}",
                self.what
            ),
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn draw(bar: &ProgressBar, what: &str, progress: &WorkProgress) {
    let template = if progress.of.is_some() { "  {prefix} {bar:32} {msg}" } else { "  {spinner} {prefix} {msg}" };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_length(progress.of.unwrap_or(progress.rows));
    bar.set_position(progress.rows);
    bar.set_prefix(what.to_owned());
    bar.set_message(progress.to_string());
    bar.tick();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_many_of_how_many_at_what_rate_and_how_long_still() {
        let began = Instant::now();
        let mut pace = Pace::begin(began);
        let mut at =
            |seconds, rows, estimated| pace.record(began + Duration::from_secs(seconds), rows, estimated).to_string();
        assert_eq!(at(0, 0, Some(100_000)), "0 of about 100000 rows");
        assert_eq!(at(10, 19_500, Some(100_000)), "19500 of about 100000 rows, 1950 rows/s, about 41 s left");
        assert_eq!(at(20, 39_000, Some(1_000_000)), "39000 of about 1000000 rows, 1950 rows/s, about 8 min left");
    }

    #[test]
    fn an_estimate_that_is_missing_or_too_low_is_left_out() {
        let began = Instant::now();
        let mut pace = Pace::begin(began);
        for estimated in [None, Some(0), Some(1_999)] {
            let progress = pace.record(began + Duration::from_secs(4), 2_000, estimated);
            assert_eq!(progress.to_string(), "2000 rows, 500 rows/s", "{estimated:?}");
        }
    }

    #[test]
    fn the_rate_is_that_of_the_last_half_minute_and_begins_anew_with_the_work() {
        let began = Instant::now();
        let mut pace = Pace::begin(began);
        let mut rate = |seconds, rows| pace.record(began + Duration::from_secs(seconds), rows, None).per_second;
        rate(100, 10);
        rate(110, 1_010);
        assert_eq!(rate(130, 3_010), Some(100.0), "the first hundred seconds are forgotten");
        assert_eq!(rate(131, 5), None, "it has only just begun again");
        assert_eq!(rate(133, 15), Some(5.0));
    }

    #[test]
    fn what_is_left_is_told_as_roughly_as_it_is_known() {
        for (seconds, reported_at) in
            [(0, "1 s"), (119, "119 s"), (121, "2 min"), (9_000, "2 h 30 min"), (200_000, "2 days 7 h")]
        {
            assert_eq!(rough(Duration::from_secs(seconds)), reported_at);
        }
    }
}
