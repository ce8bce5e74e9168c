//! WAL positions as PostgreSQL writes them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A log sequence number: a byte offset into the write-ahead log.
///
/// Printed and parsed in PostgreSQL's own form, two hexadecimal halves: `0/1D5C408`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Lsn(pub u64);

impl Lsn {
    /// The invalid LSN, before any WAL.
    pub const ZERO: Self = Self(0);

    /// Returns how many bytes of WAL lie between `earlier` and this position; 0 if this position is not later.
    #[must_use]
    pub const fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The error for a text that is not an LSN of the form `0/1D5C408`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a WAL position; expected the form 0/1D5C408")]
pub struct InvalidLsn(pub String);

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidLsn(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(invalid)?;
        let half = |digits: &str| u32::from_str_radix(digits, 16).map_err(|_| invalid());
        Ok(Self((u64::from(half(high)?) << 32) | u64::from(half(low)?)))
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

impl TryFrom<String> for Lsn {
    type Error = InvalidLsn;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_is_written_as_postgresql_writes_it() {
        assert_eq!(Lsn(0x1_01D5_C408).to_string(), "1/1D5C408");
        assert_eq!("1/1D5C408".parse(), Ok(Lsn(0x1_01D5_C408)));
        assert_eq!("FFFFFFFF/FFFFFFFF".parse(), Ok(Lsn(u64::MAX)));
    }

    #[test]
    fn a_text_that_is_no_lsn_is_refused_by_name() {
        for text in ["", "1", "1/", "/1", "1/G", "1/123456789"] {
            assert_eq!(text.parse::<Lsn>(), Err(InvalidLsn(text.to_owned())), "{text}");
        }
    }
}
