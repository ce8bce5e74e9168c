//! The expected side in id order, for any number of rows: an external merge sort.
//!
//! Rows come in any order and are returned by id. Memory holds [`BUFFER`] bytes of them at a time. A full buffer is sorted
//! and written to an anonymous temporary file; in the end the files are merged, each through a small buffer. (The crates for
//! this bound the number of rows and not their bytes, and want an iterator where rows come from a socket.)

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek as _, Write};

use uuid::Uuid;
use walvec_model::PointId;

use crate::digest::Digest;

/// Bytes of rows that are sorted in memory.
const BUFFER: usize = 16 << 20;
/// How many bytes of each sorted file are read at a time.
const READ: usize = 64 << 10;

/// The part of a row that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) id: PointId,
    /// The digest of its point; `None` if it cannot be determined.
    pub(crate) digest: Option<Digest>,
    /// The row's key as JSON.
    pub(crate) key: Box<[u8]>,
}

impl Expected {
    fn weight(&self) -> usize {
        size_of::<Self>() + self.key.len() + 16
    }
}

/// Collects rows in any order.
#[derive(Debug)]
pub(crate) struct Sorter {
    rows: Vec<Expected>,
    bytes: usize,
    limit: usize,
    files: Vec<File>,
}

impl Sorter {
    pub(crate) fn new() -> Self {
        Self::with_buffer(BUFFER)
    }

    fn with_buffer(limit: usize) -> Self {
        Self { rows: Vec::new(), bytes: 0, limit, files: Vec::new() }
    }

    /// Adds rows. Blocks while a full buffer is written.
    pub(crate) fn push(&mut self, rows: Vec<Expected>) -> io::Result<()> {
        self.bytes += rows.iter().map(Expected::weight).sum::<usize>();
        self.rows.extend(rows);
        if self.bytes >= self.limit {
            self.write_out()?;
        }
        Ok(())
    }

    /// Ends the input, and returns the rows in id order. Blocks.
    pub(crate) fn finish(mut self) -> io::Result<Sorted> {
        self.write_out()?;
        let mut sorted = Sorted { files: Vec::with_capacity(self.files.len()), heads: BinaryHeap::new() };
        for mut file in self.files {
            file.rewind()?;
            sorted.files.push((BufReader::with_capacity(READ, file), None));
            sorted.advance(sorted.files.len() - 1)?;
        }
        Ok(sorted)
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.rows.sort_unstable_by_key(|row| row.id);
        let mut file = BufWriter::with_capacity(READ, tempfile::tempfile()?);
        for row in self.rows.drain(..) {
            write_row(&mut file, &row)?;
        }
        self.files.push(file.into_inner().map_err(io::IntoInnerError::into_error)?);
        self.bytes = 0;
        Ok(())
    }
}

/// The rows in id order.
#[derive(Debug)]
pub(crate) struct Sorted {
    /// Each file, with the first of its rows that was not returned yet.
    files: Vec<(BufReader<File>, Option<Expected>)>,
    heads: BinaryHeap<Reverse<(PointId, usize)>>,
}

impl Sorted {
    /// Returns the next row. Blocks.
    pub(crate) fn next(&mut self) -> io::Result<Option<Expected>> {
        let Some(Reverse((_, index))) = self.heads.pop() else { return Ok(None) };
        let row = self.files.get_mut(index).and_then(|(_, row)| row.take());
        self.advance(index)?;
        Ok(row)
    }

    fn advance(&mut self, index: usize) -> io::Result<()> {
        let Some((file, head)) = self.files.get_mut(index) else { return Ok(()) };
        *head = read_row(file)?;
        self.heads.extend(head.as_ref().map(|row| Reverse((row.id, index))));
        Ok(())
    }
}

fn write_row(file: &mut impl Write, row: &Expected) -> io::Result<()> {
    let (kind, id) = match row.id {
        PointId::Num(number) => (0, u128::from(number)),
        PointId::Uuid(uuid) => (1, uuid.as_u128()),
    };
    let length = u32::try_from(row.key.len()).map_err(io::Error::other)?;
    file.write_all(&[kind, row.digest.is_some().into()])?;
    file.write_all(&id.to_be_bytes())?;
    file.write_all(&row.digest.unwrap_or_default())?;
    file.write_all(&length.to_be_bytes())?;
    file.write_all(&row.key)
}

fn read_row(file: &mut impl Read) -> io::Result<Option<Expected>> {
    let mut kind = [0; 1];
    if file.read(&mut kind)? == 0 {
        return Ok(None);
    }
    let [has_digest] = bytes(file)?;
    let id = u128::from_be_bytes(bytes(file)?);
    let digest: Digest = bytes(file)?;
    let mut key = vec![0; u32::from_be_bytes(bytes(file)?) as usize];
    file.read_exact(&mut key)?;
    let id = match kind {
        [0] => PointId::Num(u64::try_from(id).map_err(io::Error::other)?),
        _ => PointId::Uuid(Uuid::from_u128(id)),
    };
    Ok(Some(Expected { id, digest: (has_digest == 1).then_some(digest), key: key.into() }))
}

fn bytes<const N: usize>(file: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row((number, is_uuid, key): (u64, bool, String)) -> Expected {
        let id = if is_uuid { PointId::Uuid(Uuid::from_u64_pair(number, 7)) } else { PointId::Num(number) };
        let digest = (number % 3 != 0).then(|| u128::from(number).to_be_bytes());
        Expected { id, digest, key: key.into_bytes().into() }
    }

    proptest! {
        #[test]
        fn rows_come_out_by_id_as_they_went_in(
            rows in prop::collection::vec((any::<u64>(), any::<bool>(), "[a-z]{0,12}"), 0..300),
            limit in 1_usize..4000,
        ) {
            let mut expected: Vec<Expected> = rows.into_iter().map(row).collect();
            let mut sorter = Sorter::with_buffer(limit);
            for some in expected.chunks(7) {
                sorter.push(some.to_vec()).unwrap();
            }
            let mut sorted = sorter.finish().unwrap();
            let mut given = Vec::new();
            while let Some(row) = sorted.next().unwrap() {
                given.push(row);
            }
            expected.sort_by_key(|row| row.id);
            prop_assert!(given.iter().map(|row| row.id).eq(expected.iter().map(|row| row.id)));
            let by_content = |mut rows: Vec<Expected>| {
                rows.sort_by(|left, right| (left.id, &left.key).cmp(&(right.id, &right.key)));
                rows
            };
            prop_assert_eq!(by_content(given), by_content(expected));
        }
    }
}
