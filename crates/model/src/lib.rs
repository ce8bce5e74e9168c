//! The nouns of walvec. This crate has no I/O, no clock and no runtime, so that every stage can depend on it.
//!
//! The modules, in the order in which a row meets them:
//!
//! - [`lsn`] and [`position`]: where in the WAL something happened, and how two versions of one row are ordered
//! - [`table`]: table names, columns and keys as PostgreSQL describes them
//! - [`types`]: how the values of PostgreSQL's types are represented
//! - [`operands`]: the filters that templates add to Jinja's operators
//! - [`exact_json`]: reads JSON without rounding its numbers
//! - [`row`]: values, rows and row keys
//! - [`lookup`]: rows of other tables that a document is rendered with
//! - [`change`]: what capture emits: inserts, updates, deletes, truncates, commits
//! - [`document`]: what transform renders: the text to embed, the payload, the point id
//! - [`point`]: what the sink stores and gives back
//! - [`fingerprint`]: what must be equal for two vectors to be comparable
//! - [`causes`]: error messages together with their causes
//! - [`checksum`](mod@checksum): a checksum that shows whether the bytes read are the bytes written
//! - [`calendar`] and [`moment`]: days as dates, and timestamps as people and programs read them

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod calendar;
pub mod causes;
pub mod change;
pub mod checksum;
pub mod document;
pub mod exact_json;
pub mod fingerprint;
pub mod lookup;
pub mod lsn;
pub mod moment;
pub mod operands;
pub mod point;
pub mod position;
pub mod row;
pub mod table;
pub mod types;

pub use causes::with_causes;
pub use change::{Change, LookedUpChange, Op, StreamEvent, Touched};
pub use checksum::checksum;
pub use document::{Document, InputHash};
pub use fingerprint::{Fingerprint, MadeWith};
pub use lookup::{Lookup, OrderBy, Take};
pub use lsn::Lsn;
pub use moment::Moment;
pub use point::{
    Generation, Payload, Point, PointId, Provenance, RESERVED_KEY, RawPage, RawPoint, SparseVector, StoredPoint, Vector,
};
pub use position::Position;
pub use row::{Cell, KeyDigest, Row, RowKey, Value, weight};
pub use table::{Column, Table, TableName};
pub use types::{IndexType, Type};
