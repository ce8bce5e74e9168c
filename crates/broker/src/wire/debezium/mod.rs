//! Changes as Debezium's PostgreSQL connector writes them through its JSON converter.
//!
//! <https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-events>
//!
//! - `encode`: changes → records, with walvec's own block inside `source`, which programs between us pass on
//! - `decode`: records → changes, ours and those of a real Debezium
//! - `key`: which row a record is about
//! - `source`: where a change is from
//! - `schema`: values under a Connect schema, in the text forms that walvec's own capture gives them
//!
//! walvec's block is `{"v":1,"position":"0/1D5C408.3","generation":2,"key_types":[20]}`: what orders versions exactly (`lsn`
//! alone does not), what a sweep needs, and the type oids that decide about point ids.

mod decode;
mod encode;
mod key;
mod schema;
mod source;

pub(super) use decode::Decoder;
pub(super) use encode::Encoder;

/// What stands in for a value that PostgreSQL did not send.
///
/// A user's text that is exactly this one cannot be told from it in an update: it is then read from the stored point or
/// from the source like any other value that is missing, which finds the same text.
const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// The same where Debezium writes bytes, in base64.
const UNAVAILABLE_BYTES: &str = "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==";
