//! Changes as Debezium's PostgreSQL connector writes them through its JSON converter.
//!
//! <https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-events>
//!
//! - `encode`: changes → records, with walvec's own block inside `source`, which programs in between pass on
//! - `decode`: records → changes, both walvec's own records and those of Debezium itself
//! - `key`: finds out which row a record is about
//! - `source`: where a change comes from
//! - `schema`: converts values with a Connect schema to the text forms that walvec's own capture uses
//!
//! walvec's block is `{"v":1,"position":"0/1D5C408.3","generation":2,"key_types":[20]}`. It holds what orders versions
//! exactly (`lsn` alone does not), what a sweep needs, and the type oids that point ids depend on.

mod decode;
mod encode;
mod key;
mod schema;
mod source;

pub(super) use decode::DebeziumDecoder;
pub(super) use encode::DebeziumEncoder;

/// The placeholder for a value that PostgreSQL did not send.
///
/// In an update, a user's text that is equal to the placeholder cannot be told from it. It is then read from the stored
/// point or from the source, like any other missing value, which finds the same text.
const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// The placeholder where Debezium writes bytes, in base64.
const UNAVAILABLE_BYTES: &str = "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==";
