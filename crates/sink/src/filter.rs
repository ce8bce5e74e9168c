//! Conditions on payload fields, in the few forms that the search surface offers.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use walvec_model::Value;

use crate::SinkError;

/// Conditions that must all hold. An empty filter matches everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter(pub Vec<Condition>);

/// A condition on one payload field.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// The field equals the value, or is an array that contains it.
    Equals {
        /// The field.
        field: FieldPath,
        /// A string, a whole number or a boolean.
        value: Value,
    },
    /// The field is a number inside the bounds.
    Range {
        /// The field.
        field: FieldPath,
        /// The bounds of the number.
        bounds: Bounds<f64>,
    },
    /// The field is a text that reads as a [`Datetime`], inside the bounds.
    DatetimeRange {
        /// The field.
        field: FieldPath,
        /// The bounds of the moment.
        bounds: Bounds<Datetime>,
    },
    /// The field is NULL. A member of JSON counts as NULL if it is null, an empty list, or missing.
    Null {
        /// The field.
        field: FieldPath,
    },
    /// At least one of these conditions holds. The list is not empty.
    AnyOf(Vec<Condition>),
    /// The condition does not hold.
    Not(Box<Condition>),
}

/// A payload field, or a member of one that holds JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath {
    /// The user's name of the field, without the object that may hold it, in any characters.
    pub name: String,
    /// The steps from the field to the member.
    pub steps: Vec<PathStep>,
}

/// A step from a JSON value to a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathStep {
    /// A member of an object.
    Key(String),
    /// An element of a list, from 0.
    Index(usize),
    /// Any element of a list.
    Each,
}

impl FieldPath {
    /// Parses a path as Qdrant writes paths: `meta.color`, `items[0].name`, `items[].name`, and in double quotes what is not a
    /// word, `meta."a b"`. `None` if `text` is not a path.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (name, mut rest) = key(text)?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(inside) = rest.strip_prefix('[') {
                let (index, after) = inside.split_once(']')?;
                steps.push(if index.is_empty() { PathStep::Each } else { PathStep::Index(index.parse().ok()?) });
                rest = after;
            } else {
                let (name, after) = key(rest.strip_prefix('.')?)?;
                steps.push(PathStep::Key(name));
                rest = after;
            }
        }
        Some(Self { name, steps })
    }
}

/// Splits the key at the beginning off `text`.
fn key(text: &str) -> Option<(String, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (key, rest) = quoted.split_once('"')?;
        return (!key.is_empty()).then(|| (key.to_owned(), rest));
    }
    let end = text.find(['.', '[']).unwrap_or(text.len());
    (end > 0).then(|| (text[..end].to_owned(), &text[end..]))
}

/// Makes the path of a whole field.
impl From<&str> for FieldPath {
    fn from(name: &str) -> Self {
        Self { name: name.to_owned(), steps: Vec::new() }
    }
}

/// Writes the path as filters write it.
impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.steps.iter().try_for_each(|step| match step {
            PathStep::Key(key) if key.contains(['.', '[', '"']) => write!(f, ".\"{key}\""),
            PathStep::Key(key) => write!(f, ".{key}"),
            PathStep::Index(index) => write!(f, "[{index}]"),
            PathStep::Each => f.write_str("[]"),
        })
    }
}

/// The bounds of a range, named as Qdrant names them. All bounds that are given must hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds<T> {
    /// Greater than this.
    pub gt: Option<T>,
    /// Greater than this, or equal.
    pub gte: Option<T>,
    /// Less than this.
    pub lt: Option<T>,
    /// Less than this, or equal.
    pub lte: Option<T>,
}

// A derived implementation would require `T: Default`.
impl<T> Default for Bounds<T> {
    fn default() -> Self {
        Self { gt: None, gte: None, lt: None, lte: None }
    }
}

impl<T> Bounds<T> {
    /// Converts all bounds.
    ///
    /// # Errors
    /// The first error of `convert`.
    pub fn try_map<U, E>(self, mut convert: impl FnMut(T) -> Result<U, E>) -> Result<Bounds<U>, E> {
        Ok(Bounds {
            gt: self.gt.map(&mut convert).transpose()?,
            gte: self.gte.map(&mut convert).transpose()?,
            lt: self.lt.map(&mut convert).transpose()?,
            lte: self.lte.map(convert).transpose()?,
        })
    }

    /// Returns the bounds that are given.
    pub fn given(&self) -> impl Iterator<Item = &T> {
        [&self.gt, &self.gte, &self.lt, &self.lte].into_iter().flatten()
    }
}

impl<T: PartialOrd> Bounds<T> {
    /// Returns whether `value` is inside the bounds.
    pub fn contain(&self, value: &T) -> bool {
        self.gt.as_ref().is_none_or(|end| value > end)
            && self.gte.as_ref().is_none_or(|end| value >= end)
            && self.lt.as_ref().is_none_or(|end| value < end)
            && self.lte.as_ref().is_none_or(|end| value <= end)
    }
}

/// A moment, in microseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Datetime(pub i64);

/// The error for a text that is not a date or a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotADatetime;

/// Parses what the engine parses in payloads, so that bounds and fields are understood alike: a date, or a date and a time, as
/// RFC 3339 and PostgreSQL write them. Without an offset it is UTC, without a time the beginning of the day.
impl FromStr for Datetime {
    type Err = NotADatetime;

    fn from_str(text: &str) -> Result<Self, NotADatetime> {
        let moment = DateTime::parse_from_rfc3339(text).ok();
        let moment = moment.or_else(|| WITH_OFFSET.iter().find_map(|form| DateTime::parse_from_str(text, form).ok()));
        if let Some(moment) = moment {
            return Ok(Self(moment.timestamp_micros()));
        }
        let moment = WITHOUT_OFFSET.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
        let moment = moment.or_else(|| Some(NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.into()));
        moment.map(|moment| Self(moment.and_utc().timestamp_micros())).ok_or(NotADatetime)
    }
}

/// Forms that the engine reads in addition to RFC 3339.
const WITH_OFFSET: [&str; 2] = ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z"];
const WITHOUT_OFFSET: [&str; 4] = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];

impl fmt::Display for NotADatetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a date or time, such as 2024-01-31 or 2024-01-31T18:00:00Z")
    }
}

/// Returns the bound, or an error if it is NaN.
pub(crate) fn comparable_end(field: &FieldPath, end: f64) -> Result<f64, SinkError> {
    if end.is_nan() { Err(SinkError::BadRequest(format!("a bound of \"{field}\" is not a number"))) } else { Ok(end) }
}

/// Makes the error for a moment that the engine or the protocol cannot represent.
pub(crate) fn too_far(field: &FieldPath) -> SinkError {
    SinkError::BadRequest(format!("a bound of \"{field}\" is too far from today"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> Datetime {
        text.parse().unwrap()
    }

    #[test]
    fn a_path_leads_to_a_member_and_reads_as_it_is_written() {
        let steps = |text: &str| FieldPath::parse(text).map(|path| (path.name, path.steps));
        let key = |name: &str| PathStep::Key(name.to_owned());
        assert_eq!(steps("meta"), Some(("meta".to_owned(), vec![])));
        assert_eq!(steps("m.a.b"), Some(("m".to_owned(), vec![key("a"), key("b")])));
        assert_eq!(
            steps("m[0].\"a.b\"[]"),
            Some(("m".to_owned(), vec![PathStep::Index(0), key("a.b"), PathStep::Each]))
        );
        for text in ["", ".a", "a.", "a..b", "a[", "a[x]", "a]b.", "a.\"b", "a[0]b"] {
            assert_eq!(steps(text).filter(|(name, _)| name != "a]b"), None, "{text}");
        }
        for text in ["meta.color", "m[0].\"a.b\"[]"] {
            assert_eq!(FieldPath::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_moment_is_read_as_rfc_3339_and_postgresql_write_it() {
        let noon = moment("2024-01-31T12:00:00Z");
        assert_eq!(noon, Datetime(1_706_702_400_000_000));
        for text in
            ["2024-01-31 12:00:00+00", "2024-01-31 14:00:00+02", "2024-01-31T12:00:00", "2024-01-31 17:30:00+05:30"]
        {
            assert_eq!(moment(text), noon, "{text}");
        }
        assert_eq!(moment("2024-01-31 12:00:00.000001+00"), Datetime(noon.0 + 1));
        assert_eq!(moment("2024-01-31"), moment("2024-01-31T00:00:00Z"));
    }

    #[cfg(feature = "embedded")]
    #[test]
    fn a_bound_is_the_moment_that_the_engine_sees_in_a_payload() {
        let days = ["2024-01-31", "0001-01-01", "9999-12-31"];
        let times = [
            "",
            "T18:30:15Z",
            " 18:30:15.123456+02",
            "T18:30:15.5-05:30",
            " 18:30",
            "T18:30:15",
            " 18:30:15 +02:00",
            "x",
        ];
        for text in days.iter().flat_map(|day| times.map(|time| format!("{day}{time}"))) {
            let seen = text.parse().ok().map(|moment: qdrant_edge::DateTimeWrapper| Datetime(moment.timestamp()));
            assert_eq!(text.parse().ok(), seen, "{text}");
        }
    }

    #[test]
    fn what_names_no_moment_is_refused() {
        for text in ["", "2024", "yesterday", "infinity", "2024-02-30", "2024-01-31T25:00:00Z", "0044-03-15 BC"] {
            assert_eq!(text.parse::<Datetime>(), Err(NotADatetime), "{text}");
        }
    }
}
