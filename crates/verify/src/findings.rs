//! All proven mismatches, for a repair. They lie in a temporary file, because there may be as many as
//! rows.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Seek as _, Write as _};

use serde_json::Value;
use walvec_model::PointId;

use crate::{Mismatch, MismatchKind};

/// How many findings a portion has at most; the next constant bounds its bytes. Each portion is one
/// request, with a snapshot of its own.
const PORTION: usize = 10_000;
const PORTION_BYTES: usize = 1 << 20;

/// The findings to mend, in the order in which they were found.
#[derive(Debug)]
pub struct Findings {
    file: BufWriter<File>,
    count: u64,
}

/// A mismatch, reduced to what a repair needs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RepairTarget {
    pub(crate) kind: MismatchKind,
    pub(crate) id: PointId,
    pub(crate) key: Option<Vec<Value>>,
    pub(crate) version: Option<String>,
}

impl Findings {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { file: BufWriter::new(tempfile::tempfile()?), count: 0 })
    }

    pub(crate) fn add(&mut self, mismatch: &Mismatch) -> io::Result<()> {
        let Mismatch { kind, id, key, version, .. } = mismatch;
        serde_json::to_writer(&mut self.file, &(kind.name(), id, key, version))?;
        self.count += 1;
        self.file.write_all(b"\n")
    }

    /// Returns how many findings there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Returns the findings from the first one on, in portions.
    pub(crate) fn portions(&mut self) -> io::Result<Portions> {
        self.file.flush()?;
        let mut file = self.file.get_ref().try_clone()?;
        file.rewind()?;
        Ok(Portions(BufReader::new(file)))
    }
}

/// An iterator over findings in bounded portions.
#[derive(Debug)]
pub(crate) struct Portions(BufReader<File>);

impl Portions {
    /// Returns the next findings; none at the end.
    pub(crate) fn next(&mut self) -> io::Result<Vec<RepairTarget>> {
        let (mut portion, mut bytes) = (Vec::new(), 0);
        while portion.len() < PORTION && bytes < PORTION_BYTES {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                break;
            }
            bytes += line.len();
            let (name, id, key, version): (String, _, _, _) = serde_json::from_str(&line)?;
            let kind = MismatchKind::ALL.into_iter().find(|kind| kind.name() == name);
            let kind = kind.ok_or_else(|| io::Error::other("a finding of no known kind"))?;
            portion.push(RepairTarget { kind, id, key, version });
        }
        Ok(portion)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn findings_come_back_in_portions_as_often_as_wanted() {
        let mut findings = Findings::new().unwrap();
        let mismatch = |number: u64| Mismatch {
            kind: if number.is_multiple_of(2) { MismatchKind::Extra } else { MismatchKind::BadVector },
            id: if number.is_multiple_of(2) {
                PointId::Num(number)
            } else {
                PointId::Uuid(Uuid::from_u64_pair(1, number))
            },
            key: (!number.is_multiple_of(2)).then(|| vec![json!("x".repeat(100)), json!(number)]),
            version: Some("0/1.1".to_owned()),
            differences: Vec::new(),
        };
        (0..30_000).for_each(|number| findings.add(&mismatch(number)).unwrap());
        for _ in 0..2 {
            let mut portions = findings.portions().unwrap();
            let mut all = Vec::new();
            loop {
                let portion = portions.next().unwrap();
                if portion.is_empty() {
                    break;
                }
                assert!(portion.len() <= PORTION, "{}", portion.len());
                all.extend(portion);
            }
            assert_eq!(all.len(), 30_000);
            let Mismatch { kind, id, key, version, .. } = mismatch(29_999);
            assert_eq!(all.last(), Some(&RepairTarget { kind, id, key, version }));
        }
        assert_eq!(findings.count(), 30_000);
    }
}
