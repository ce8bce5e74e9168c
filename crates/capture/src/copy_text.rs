//! Decodes rows of `COPY ... TO STDOUT` in text format.
//!
//! <https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS>

use walvec_model::{Cell, Row, Table, Value};

use crate::CaptureError;
use crate::value::{self, ValueKind};

/// Decodes rows of one table. Reuses its buffer between rows.
pub(crate) struct RowDecoder<'a> {
    table: &'a Table,
    kinds: &'a [ValueKind],
    unescaped: Vec<u8>,
}

impl<'a> RowDecoder<'a> {
    /// Creates a decoder for rows with the columns of `table`, whose values are read as `kinds` specify.
    pub(crate) const fn new(table: &'a Table, kinds: &'a [ValueKind]) -> Self {
        Self { table, kinds, unescaped: Vec::new() }
    }

    /// Decodes one line, with or without its newline. PostgreSQL sends every row as one message.
    pub(crate) fn row(&mut self, line: &[u8]) -> Result<Row, CaptureError> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut cells = Vec::with_capacity(self.kinds.len());
        if !self.kinds.is_empty() {
            // A tab inside a value is written as \t, so every tab here is a separator.
            for field in line.split(|&byte| byte == b'\t') {
                cells.push(self.cell(cells.len(), field)?);
            }
        }
        if cells.len() != self.kinds.len() {
            return Err(CaptureError::Protocol {
                reason: format!("a row of {} has {} columns, not {}", self.table.name, cells.len(), self.kinds.len()),
            });
        }
        Ok(Row(cells))
    }

    fn cell(&mut self, index: usize, field: &[u8]) -> Result<Cell, CaptureError> {
        if field == b"\\N" {
            return Ok(Cell::Value(Value::Null));
        }
        let bytes = if field.contains(&b'\\') {
            unescape(field, &mut self.unescaped);
            &self.unescaped
        } else {
            field
        };
        let text = std::str::from_utf8(bytes).map_err(|error| not_utf8(self.table, index, error))?;
        Ok(Cell::Value(self.kinds.get(index).map_or(Value::Null, |kind| value::decode(text, kind))))
    }
}

/// Returns the error for a value that is not text in UTF-8.
pub(crate) fn not_utf8(table: &Table, index: usize, error: std::str::Utf8Error) -> CaptureError {
    let column = table.columns.get(index).map(|column| column.name.as_str()).unwrap_or_default();
    CaptureError::Encoding { place: format!("table {}, column \"{column}\"", table.name), reason: error.to_string() }
}

fn unescape(field: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut bytes = field.iter();
    while let Some(&byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'b') => 0x08,
                Some(b'f') => 0x0c,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 0x0b,
                Some(&other) => other,
                None => b'\\',
            },
            plain => plain,
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use walvec_model::{Column, TableName};

    use super::*;

    fn decode(line: &[u8]) -> Result<Row, CaptureError> {
        let column = |name: &str| Column::new(name, "text", 25);
        let table = Table { name: TableName::new("s", "t"), columns: vec![column("a"), column("b")], key: vec![0] };
        RowDecoder::new(&table, &[ValueKind::Text, ValueKind::Text]).row(line)
    }

    #[test]
    fn escapes_are_undone_and_only_a_bare_n_is_null() {
        let row = decode(b"a\\tb\\\\N\\n\\v\t\\N\n").unwrap();
        assert_eq!(row, Row(vec![Cell::Value(json!("a\tb\\N\n\u{b}")), Cell::Value(json!(null))]));
        assert_eq!(decode(b"\t").unwrap(), Row(vec![Cell::Value(json!("")), Cell::Value(json!(""))]));
    }

    #[test]
    fn a_row_of_another_shape_or_encoding_is_an_error() {
        assert_eq!(decode(b"a").unwrap_err().code(), "E_PROTOCOL");
        assert_eq!(decode(b"a\tb\tc").unwrap_err().code(), "E_PROTOCOL");
        assert!(matches!(decode(b"a\t\xff"), Err(CaptureError::Encoding { place, .. }) if place.contains("\"b\"")));
    }
}
