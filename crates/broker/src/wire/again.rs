//! Records of parked rows that are written once more, to be processed only while their rows are still parked.

use super::header;
use crate::Record;

/// Returns the record as it is written again: with a key that no row has, and the row's own key in a header. A compacted topic
/// keeps only the last record of each key, and this record may be older than the one that the topic holds for the row.
#[must_use]
pub fn marked(record: Record) -> Record {
    let mut record = unmarked(record);
    let key = record.key.take();
    record.headers.retain(|(name, _)| name != header::AGAIN);
    record.key =
        key.as_ref().map(|key| format!("{:?}", format!("walvec: again {}", String::from_utf8_lossy(key))).into_bytes());
    record.headers.push((header::AGAIN.to_owned(), key.unwrap_or_default()));
    record
}

/// Returns the record with the key of its row.
#[must_use]
pub fn unmarked(record: Record) -> Record {
    let again = record.headers.iter().rev().find(|(name, _)| name == header::AGAIN);
    let of_row = again.map(|(_, key)| key).filter(|key| !key.is_empty()).cloned();
    Record { key: of_row.or(record.key), ..record }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_written_again_keeps_the_place_of_its_row_free() {
        let record = Record {
            topic: "t".into(),
            partition: 1,
            offset: 7,
            timestamp: None,
            key: Some(br#"{"id":7}"#.to_vec()),
            value: Some(b"{}".to_vec()),
            headers: vec![("of the row".to_owned(), b"1".to_vec())],
        };
        let again = marked(record.clone());
        assert_eq!(again.key.as_deref(), Some(br#""walvec: again {\"id\":7}""#.as_slice()));
        assert_eq!((unmarked(again.clone()).key, &again.value), (record.key.clone(), &record.value));
        assert_eq!(marked(again.clone()), again, "a second time");
        let without = Record { key: None, ..record };
        assert_eq!(unmarked(marked(without.clone())).key, None);
        assert_eq!(unmarked(without.clone()), without);
    }
}
