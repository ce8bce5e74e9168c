//! The layout of a record in a file: length, checksum, kind, owner, number of flushes before it, content.

use std::io::{self, ErrorKind};

use uuid::Uuid;
use walvec_model::{Vector, checksum};

use crate::embedded::steps::{EnginePoint, EngineStep};

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordKind {
    /// The first record of a file.
    Begin,
    /// A change.
    Change,
    /// The last change of this collection was not made.
    Withdrawn,
}

impl RecordKind {
    const fn code(self) -> u8 {
        match self {
            Self::Begin => 0,
            Self::Change => 1,
            Self::Withdrawn => 2,
        }
    }

    fn of(code: u8) -> io::Result<Self> {
        match code {
            0 => Ok(Self::Begin),
            1 => Ok(Self::Change),
            2 => Ok(Self::Withdrawn),
            other => Err(invalid(format!("it has a record of kind {other}, which a later version of walvec wrote"))),
        }
    }
}

/// Bytes of the length and of the checksum.
const HEAD: usize = 4 + 8;
/// Bytes that follow in every record: the kind, the owner's id, and the number of flushes.
const TAG: usize = 1 + 16 + 8;

/// A record as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct JournalRecord<'a> {
    pub(super) kind: RecordKind,
    pub(super) owner: Uuid,
    /// How many flushes of the collection came before this record.
    pub(super) flushes: u64,
    pub(super) content: &'a [u8],
    /// The whole record, as it lies in the file.
    pub(super) bytes: &'a [u8],
}

/// Builds a record as it lies in a file.
pub(super) fn record(kind: RecordKind, (owner, flushes): (Uuid, u64), content: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(TAG + content.len()).map_err(|_| invalid("a change has more than 4 GiB"))?;
    let mut tag = [kind.code(); TAG];
    tag[1..17].copy_from_slice(owner.as_bytes());
    tag[17..].copy_from_slice(&flushes.to_le_bytes());
    let mut bytes = Vec::with_capacity(HEAD + TAG + content.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&checksum(&[&tag, content]).to_le_bytes());
    bytes.extend_from_slice(&tag);
    bytes.extend_from_slice(content);
    Ok(bytes)
}

/// Parses records up to the first incomplete one; also returns the length in bytes of the complete ones.
pub(super) fn records(bytes: &[u8]) -> io::Result<(Vec<JournalRecord<'_>>, usize)> {
    let mut found = Vec::new();
    let mut length = 0;
    while let Some((record, rest)) = split_record(&bytes[length..])? {
        found.push(record);
        length = bytes.len() - rest.len();
    }
    Ok((found, length))
}

fn split_record(bytes: &[u8]) -> io::Result<Option<(JournalRecord<'_>, &[u8])>> {
    let Some((length, behind)) = split_number::<4>(bytes) else { return Ok(None) };
    let Some((sum, behind)) = split_number::<8>(behind) else { return Ok(None) };
    let length = u32::from_le_bytes(length) as usize;
    if length < TAG || length > behind.len() {
        return Ok(None);
    }
    let (body, rest) = behind.split_at(length);
    if checksum(&[body]) != u64::from_le_bytes(sum) {
        return Ok(None);
    }
    let (tag, content) = body.split_at(TAG);
    let owner = Uuid::from_slice(&tag[1..17]).map_err(invalid)?;
    let flushes = split_number::<8>(&tag[17..]).map_or(0, |(flushes, _)| u64::from_le_bytes(flushes));
    let record =
        JournalRecord { kind: RecordKind::of(tag[0])?, owner, flushes, content, bytes: &bytes[..HEAD + length] };
    Ok(Some((record, rest)))
}

/// Encodes a change: the JSON of its steps without their vectors, then the numbers of the vectors. The vectors are most of a change,
/// and as text three times as long.
pub(super) fn encode(change: &mut [EngineStep]) -> io::Result<Vec<u8>> {
    let vectors: Vec<Vector> = points_of(change).map(|point| std::mem::take(&mut point.vector)).collect();
    let text = serde_json::to_vec(&*change);
    let mut room = 4;
    for (point, vector) in points_of(change).zip(vectors) {
        room += 4 + size_of_val(vector.as_slice());
        point.vector = vector;
    }
    let text = text?;
    let mut content = Vec::with_capacity(room + text.len());
    put_length(&mut content, text.len())?;
    content.extend_from_slice(&text);
    for point in points_of(change) {
        put_length(&mut content, point.vector.len())?;
        content.extend(point.vector.iter().flat_map(|number| number.to_le_bytes()));
    }
    Ok(content)
}

/// Decodes the change of a record.
pub(super) fn decode(content: &[u8]) -> io::Result<Vec<EngineStep>> {
    let short = || invalid("a change is shorter than it says");
    let (length, behind) = split_number::<4>(content).ok_or_else(short)?;
    let (text, mut numbers) = behind.split_at_checked(u32::from_le_bytes(length) as usize).ok_or_else(short)?;
    let mut change: Vec<EngineStep> = serde_json::from_slice(text)?;
    for point in points_of(&mut change) {
        let (length, behind) = split_number::<4>(numbers).ok_or_else(short)?;
        let length = u32::from_le_bytes(length) as usize * size_of::<f32>();
        let (vector, behind) = behind.split_at_checked(length).ok_or_else(short)?;
        let (vector, _) = vector.as_chunks::<4>();
        point.vector = vector.iter().map(|number| f32::from_le_bytes(*number)).collect();
        numbers = behind;
    }
    Ok(change)
}

fn points_of(change: &mut [EngineStep]) -> impl Iterator<Item = &mut EnginePoint> {
    change
        .iter_mut()
        .filter_map(|step| if let EngineStep::Upsert(points) = step { Some(points) } else { None })
        .flatten()
}

fn put_length(bytes: &mut Vec<u8>, length: usize) -> io::Result<()> {
    let length = u32::try_from(length).map_err(|_| invalid("a change has more than 4 GiB"))?;
    bytes.extend_from_slice(&length.to_le_bytes());
    Ok(())
}

fn split_number<const LENGTH: usize>(bytes: &[u8]) -> Option<([u8; LENGTH], &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<LENGTH>()?;
    Some((*number, rest))
}

pub(super) fn invalid(reason: impl ToString) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use walvec_model::{PointId, SparseVector};

    use super::*;

    fn change() -> Vec<EngineStep> {
        let serde_json::Value::Object(payload) = json!({ "title": "a book", "price": 1.25 }) else { panic!() };
        let keywords = Some(SparseVector { indices: vec![7, 9], values: vec![0.5, 1.5] });
        let point = |id, keywords| EnginePoint {
            id: PointId::Num(id),
            vector: vec![0.1, -0.0, f32::MIN_POSITIVE],
            keywords,
            payload: payload.clone(),
        };
        vec![
            EngineStep::Upsert(vec![point(1, keywords), point(2, None)]),
            EngineStep::Overwrite { id: PointId::Num(3), payload: payload.clone() },
            EngineStep::Delete(vec![PointId::Num(4)]),
        ]
    }

    #[test]
    fn a_change_comes_back_to_the_bit() {
        let mut written = change();
        let content = encode(&mut written).unwrap();
        assert_eq!(written, change());
        assert_eq!(decode(&content).unwrap(), change());
        for length in 0..content.len() {
            assert!(decode(&content[..length]).is_err(), "{length} bytes are not all of it");
        }
    }

    #[test]
    fn records_end_before_the_first_that_is_torn_or_changed() {
        let owner = (Uuid::new_v4(), 7);
        let mut bytes = record(RecordKind::Change, owner, b"one").unwrap();
        let first = bytes.len();
        bytes.extend(record(RecordKind::Withdrawn, owner, b"").unwrap());
        let second = bytes.len();
        bytes.extend(record(RecordKind::Change, owner, b"three").unwrap());
        let kinds = |bytes: &[u8]| -> (Vec<RecordKind>, usize) {
            let (found, length) = records(bytes).unwrap();
            (found.iter().map(|record| record.kind).collect(), length)
        };
        assert_eq!(kinds(&bytes), (vec![RecordKind::Change, RecordKind::Withdrawn, RecordKind::Change], bytes.len()));
        for torn in second..bytes.len() {
            assert_eq!(kinds(&bytes[..torn]), (vec![RecordKind::Change, RecordKind::Withdrawn], second));
        }
        for changed in first..second {
            let mut other = bytes.clone();
            other[changed] ^= 0x10;
            assert_eq!(kinds(&other), (vec![RecordKind::Change], first), "byte {changed} is not what it was");
        }
    }
}
