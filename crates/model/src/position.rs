//! The version of a row: where in the WAL its latest change became visible.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::lsn::{InvalidLsn, Lsn};

/// The version of a row: (commit LSN, ordinal inside the transaction). This is the only total order over changes.
///
/// LSNs of single rows are not unique: BEGIN shares the LSN of its first row, and every row of one COPY has the same
/// LSN. Ordinals count the row changes of a transaction from 1. Ordinal 0 belongs to the snapshot: its rows are as of
/// the snapshot's LSN, and therefore older than every change streamed after it.
///
/// Printed and parsed as `0/1D5C408.3`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Position {
    /// The LSN of the transaction's commit record; for a snapshot, the slot's consistent point.
    pub commit_lsn: Lsn,
    /// The change's number inside its transaction, from 1; 0 for snapshot rows.
    pub ordinal: u64,
}

impl Position {
    /// Returns the position of every row of a snapshot taken at `consistent_point`.
    #[must_use]
    pub const fn snapshot(consistent_point: Lsn) -> Self {
        Self { commit_lsn: consistent_point, ordinal: 0 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.commit_lsn, self.ordinal)
    }
}

impl FromStr for Position {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidLsn(text.to_owned());
        let (lsn, ordinal) = text.split_once('.').ok_or_else(invalid)?;
        Ok(Self { commit_lsn: lsn.parse()?, ordinal: ordinal.parse().map_err(|_| invalid())? })
    }
}

impl From<Position> for String {
    fn from(position: Position) -> Self {
        position.to_string()
    }
}

impl TryFrom<String> for Position {
    type Error = InvalidLsn;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_order_first_and_ordinals_second() {
        let at = |lsn, ordinal| Position { commit_lsn: Lsn(lsn), ordinal };
        assert!(at(1, 9) < at(2, 1));
        assert!(at(2, 1) < at(2, 2));
        assert!(Position::snapshot(Lsn(2)) < at(2, 1));
    }

    #[test]
    fn a_position_survives_its_text_form() {
        let position = Position { commit_lsn: Lsn(0x1D5_C408), ordinal: 42 };
        assert_eq!(position.to_string(), "0/1D5C408.42");
        assert_eq!("0/1D5C408.42".parse(), Ok(position));
        assert!("0/1D5C408".parse::<Position>().is_err());
    }
}
