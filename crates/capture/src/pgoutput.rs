//! Decodes replication messages without any I/O: bytes in, borrowed structures out.
//!
//! Protocol version 1, text format: whole transactions, in commit order.
//! <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>

use std::time::{Duration, SystemTime};

use walvec_model::Lsn;

/// A message that does not follow the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadMessage {
    #[error("a message ended early, inside {0}")]
    Short(&'static str),
    #[error("unknown {what} \"{}\"", char::from(*.tag))]
    Tag { what: &'static str, tag: u8 },
    #[error("a name is not UTF-8")]
    Name,
}

/// The contents of a CopyData message of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// One pgoutput message, and the position of its WAL record.
    Data { start: Lsn, payload: &'a [u8] },
    /// A keepalive: the server has decoded everything before `wal_end`.
    Keepalive { wal_end: Lsn, reply_requested: bool },
}

/// A pgoutput message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReplicationMessage<'a> {
    /// `commit_lsn` is known before the first row, because the server sends transactions after they have committed.
    Begin {
        commit_lsn: Lsn,
        at: SystemTime,
        xid: u32,
    },
    Commit {
        end_lsn: Lsn,
        at: SystemTime,
    },
    Relation(RelationMessage),
    Insert {
        relation: u32,
        new: Tuple<'a>,
    },
    /// `old` is the old key, if the update changed it, or the whole old row with REPLICA IDENTITY FULL.
    Update {
        relation: u32,
        old: Option<Tuple<'a>>,
        new: Tuple<'a>,
    },
    /// `old` holds at least the columns of the replica identity; the others are null.
    Delete {
        relation: u32,
        old: Tuple<'a>,
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// Origins, types and logical messages. They say nothing about rows.
    Other,
}

/// A table, as it applies to the rows that follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelationMessage {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// `d` default, `i` index, `f` full, `n` nothing.
    pub(crate) identity: u8,
    pub(crate) columns: Vec<RelationColumn>,
}

/// A column of a [`RelationMessage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelationColumn {
    /// Whether the column is part of the replica identity.
    pub(crate) in_identity: bool,
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) type_modifier: i32,
}

/// The fields of a row. They are checked when the row is read, so iterating over them cannot fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuple<'a> {
    count: usize,
    bytes: &'a [u8],
    /// Whether the tuple has only the columns of the replica identity. The others are null.
    pub(crate) is_key: bool,
}

/// One field of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TupleField<'a> {
    Null,
    /// A TOASTed value that the update did not change.
    Unchanged,
    Text(&'a [u8]),
}

/// Decodes a CopyData message of the stream.
pub(crate) fn frame(bytes: &[u8]) -> Result<Frame<'_>, BadMessage> {
    let mut reader = SliceReader(bytes);
    match reader.u8("a frame")? {
        b'w' => {
            let start = Lsn(reader.u64("a frame")?);
            // Skip the server's end of WAL and its clock.
            reader.take(16, "a frame")?;
            Ok(Frame::Data { start, payload: reader.0 })
        }
        b'k' => {
            let wal_end = Lsn(reader.u64("a keepalive")?);
            reader.take(8, "a keepalive")?;
            Ok(Frame::Keepalive { wal_end, reply_requested: reader.u8("a keepalive")? != 0 })
        }
        tag => Err(BadMessage::Tag { what: "frame", tag }),
    }
}

/// Decodes a pgoutput message.
pub(crate) fn message(payload: &[u8]) -> Result<ReplicationMessage<'_>, BadMessage> {
    let mut reader = SliceReader(payload);
    match reader.u8("a message")? {
        b'B' => Ok(ReplicationMessage::Begin {
            commit_lsn: Lsn(reader.u64("Begin")?),
            at: timestamp(reader.u64("Begin")?),
            xid: reader.u32("Begin")?,
        }),
        b'C' => {
            // Skip the unused flags, and the commit's own LSN, which Begin has already given.
            reader.take(9, "Commit")?;
            Ok(ReplicationMessage::Commit { end_lsn: Lsn(reader.u64("Commit")?), at: timestamp(reader.u64("Commit")?) })
        }
        b'R' => reader.relation().map(ReplicationMessage::Relation),
        b'I' => {
            let relation = reader.u32("Insert")?;
            reader.expect(b'N')?;
            Ok(ReplicationMessage::Insert { relation, new: reader.tuple()? })
        }
        b'U' => {
            let relation = reader.u32("Update")?;
            let old = match reader.u8("Update")? {
                tag @ (b'K' | b'O') => {
                    let old = reader.old_tuple(tag)?;
                    reader.expect(b'N')?;
                    Some(old)
                }
                b'N' => None,
                tag => return Err(BadMessage::Tag { what: "tuple", tag }),
            };
            Ok(ReplicationMessage::Update { relation, old, new: reader.tuple()? })
        }
        b'D' => {
            let relation = reader.u32("Delete")?;
            match reader.u8("Delete")? {
                tag @ (b'K' | b'O') => Ok(ReplicationMessage::Delete { relation, old: reader.old_tuple(tag)? }),
                tag => Err(BadMessage::Tag { what: "tuple", tag }),
            }
        }
        b'T' => {
            let count = reader.u32("Truncate")?;
            // Skip CASCADE and RESTART IDENTITY: the list already includes the tables of the cascade, and walvec has no
            // sequences.
            reader.u8("Truncate")?;
            let relations = (0..count).map(|_| reader.u32("Truncate")).collect::<Result<_, _>>()?;
            Ok(ReplicationMessage::Truncate { relations })
        }
        // The end of a streamed transaction that was rolled back. walvec does not request streaming, but servers send
        // this message if a part of a transaction larger than logical_decoding_work_mem was rolled back. Nothing of
        // that part was sent.
        b'A' => Ok(ReplicationMessage::Other),
        b'O' | b'Y' | b'M' => Ok(ReplicationMessage::Other),
        tag => Err(BadMessage::Tag { what: "message", tag }),
    }
}

impl<'a> Tuple<'a> {
    /// Returns the number of fields.
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// Returns the fields, in the order of the columns.
    pub(crate) fn fields(&self) -> impl Iterator<Item = TupleField<'a>> + use<'a> {
        let mut reader = SliceReader(self.bytes);
        (0..self.count).map_while(move |_| reader.field().ok())
    }
}

/// Converts microseconds since the year 2000, which is PostgreSQL's epoch.
fn timestamp(micros: u64) -> SystemTime {
    const EPOCH: Duration = Duration::from_secs(946_684_800);
    let signed = micros.cast_signed();
    let distance = Duration::from_micros(signed.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH + EPOCH;
    if signed < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) }.unwrap_or(epoch)
}

/// Reads from the front of its slice.
struct SliceReader<'a>(&'a [u8]);

impl<'a> SliceReader<'a> {
    fn take(&mut self, count: usize, inside: &'static str) -> Result<&'a [u8], BadMessage> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(BadMessage::Short(inside))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, inside: &'static str) -> Result<[u8; N], BadMessage> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(BadMessage::Short(inside))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self, inside: &'static str) -> Result<u8, BadMessage> {
        self.array::<1>(inside).map(|[byte]| byte)
    }

    fn u16(&mut self, inside: &'static str) -> Result<u16, BadMessage> {
        self.array(inside).map(u16::from_be_bytes)
    }

    fn u32(&mut self, inside: &'static str) -> Result<u32, BadMessage> {
        self.array(inside).map(u32::from_be_bytes)
    }

    fn u64(&mut self, inside: &'static str) -> Result<u64, BadMessage> {
        self.array(inside).map(u64::from_be_bytes)
    }

    fn expect(&mut self, wanted: u8) -> Result<(), BadMessage> {
        match self.u8("a row")? {
            tag if tag == wanted => Ok(()),
            tag => Err(BadMessage::Tag { what: "tuple", tag }),
        }
    }

    fn name(&mut self) -> Result<String, BadMessage> {
        let end = self.0.iter().position(|&byte| byte == 0).ok_or(BadMessage::Short("a name"))?;
        let name = self.take(end, "a name")?;
        self.u8("a name")?;
        std::str::from_utf8(name).map(str::to_owned).map_err(|_| BadMessage::Name)
    }

    fn relation(&mut self) -> Result<RelationMessage, BadMessage> {
        let oid = self.u32("Relation")?;
        // The schema pg_catalog is sent as an empty name.
        let schema = Some(self.name()?).filter(|name| !name.is_empty()).unwrap_or_else(|| "pg_catalog".to_owned());
        let name = self.name()?;
        let identity = self.u8("Relation")?;
        let count = self.u16("Relation")?;
        let columns = (0..count).map(|_| self.relation_column()).collect::<Result<_, _>>()?;
        Ok(RelationMessage { oid, schema, name, identity, columns })
    }

    fn relation_column(&mut self) -> Result<RelationColumn, BadMessage> {
        Ok(RelationColumn {
            in_identity: self.u8("Relation")? & 1 != 0,
            name: self.name()?,
            type_oid: self.u32("Relation")?,
            type_modifier: self.u32("Relation")?.cast_signed(),
        })
    }

    fn old_tuple(&mut self, tag: u8) -> Result<Tuple<'a>, BadMessage> {
        Ok(Tuple { is_key: tag == b'K', ..self.tuple()? })
    }

    fn tuple(&mut self) -> Result<Tuple<'a>, BadMessage> {
        let count = usize::from(self.u16("a row")?);
        let start = self.0;
        for _ in 0..count {
            self.field()?;
        }
        let bytes = &start[..start.len() - self.0.len()];
        Ok(Tuple { count, bytes, is_key: false })
    }

    fn field(&mut self) -> Result<TupleField<'a>, BadMessage> {
        match self.u8("a row")? {
            b'n' => Ok(TupleField::Null),
            b'u' => Ok(TupleField::Unchanged),
            b't' => {
                let length = self.u32("a value")?;
                // The conversion fails only where such a message could not exist.
                let length = usize::try_from(length).map_err(|_| BadMessage::Short("a value"))?;
                self.take(length, "a value").map(TupleField::Text)
            }
            tag => Err(BadMessage::Tag { what: "field", tag }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_transaction_is_decoded() {
        let begin = [b"B".as_slice(), &0x1D5_C408_u64.to_be_bytes(), &[0; 8], &[0, 0, 2, 0xF1]].concat();
        let expected = ReplicationMessage::Begin { commit_lsn: Lsn(0x1D5_C408), at: timestamp(0), xid: 753 };
        assert_eq!(message(&begin), Ok(expected));
        let commit =
            [b"C\0".as_slice(), &7_u64.to_be_bytes(), &9_u64.to_be_bytes(), &1_000_000_u64.to_be_bytes()].concat();
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(946_684_801);
        assert_eq!(message(&commit), Ok(ReplicationMessage::Commit { end_lsn: Lsn(9), at }));
    }

    #[test]
    fn an_update_with_its_old_key_is_decoded() {
        let bytes = b"U\0\0\0\x07K\0\x02t\0\0\0\x011nN\0\x02t\0\0\0\x012u";
        let Ok(ReplicationMessage::Update { relation: 7, old: Some(old), new }) = message(bytes) else {
            panic!("no update")
        };
        assert_eq!(old.fields().collect::<Vec<_>>(), [TupleField::Text(b"1"), TupleField::Null]);
        assert_eq!(new.fields().collect::<Vec<_>>(), [TupleField::Text(b"2"), TupleField::Unchanged]);
    }

    #[test]
    fn a_relation_is_decoded() {
        let bytes = b"R\0\0\0\x07public\0B\xc3\xbccher\0d\0\x01\x01id\0\0\0\0\x17\xff\xff\xff\xff";
        let column = RelationColumn { in_identity: true, name: "id".to_owned(), type_oid: 23, type_modifier: -1 };
        let relation = RelationMessage {
            oid: 7,
            schema: "public".to_owned(),
            name: "Bücher".to_owned(),
            identity: b'd',
            columns: vec![column],
        };
        assert_eq!(message(bytes), Ok(ReplicationMessage::Relation(relation)));
    }

    #[test]
    fn a_message_that_ends_early_is_refused() {
        let whole = b"U\0\0\0\x07K\0\x02t\0\0\0\x011nN\0\x02t\0\0\0\x012u";
        for length in 0..whole.len() {
            assert!(message(&whole[..length]).is_err(), "{length} bytes");
        }
        assert!(message(b"I\0\0\0\x07N\0\x01t\xff\xff\xff\xffx").is_err());
        assert!(message(b"T\xff\xff\xff\xff\0").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_fail_in_another_way_than_by_an_error(bytes: Vec<u8>, tag in "[BCRIUDTOYM]") {
            let _ = frame(&bytes);
            let _ = message(&bytes);
            let _ = message(&[tag.as_bytes(), &bytes].concat());
        }
    }
}
