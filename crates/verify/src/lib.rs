//! Checks whether a collection is the exact image of its table, while both are being written.
//!
//! This crate shares only the nouns, and the documentation of what is stored, with the path that fills collections. The
//! rows come from a plain SELECT in which PostgreSQL makes the JSON, and texts, ids and hashes are computed by code of
//! its own.
//!
//! ```text
//!  table ── REPEATABLE READ ──▶ image of each row ──▶ sorted by id ──┐
//!              barrier: the running walvec has applied all of it     ├──▶ differences ──▶ looked at again ──▶ report
//!  collection ─────────────── scroll in id order ────────────────────┘     (suspects)      until still
//! ```
//!
//! 1. A snapshot of the table is opened, then a message is written into the WAL. Once the running walvec has applied that
//!    message, every row of the snapshot must have its point, unless a later change of the row is in flight.
//! 2. Both sides are streamed as (id, digest) and merged. A difference is only a suspicion, because the sides were read
//!    at different moments.
//! 3. Suspects are read again: row, message, point, row. A row that did not change and a point that still differs prove a
//!    mismatch. If the row changed, or a row that its text is rendered with, it is tried again, up to three times.
//! 4. Texts of a sample are embedded again and compared with the stored vectors. Nothing stored tells a wrong vector from
//!    a right one, so only a sample of all points checks all vectors.
//!
//! - [`CompareJob`] (`job`), [`compare`](compare()): one collection, from beginning to end
//! - [`Running`], [`Points`] (`outside`): what the caller provides: the walvec that fills the collection, and the collection
//! - [`Report`] (`report`): the mismatches, counted, with examples
//! - [`Findings`] (`findings`): all mismatches, for a repair; [`repair`](repair()) has them mended and checks the result
//! - `table`, `select`, `lookup`, `sql`: the tables' columns, and the statement that reads them
//! - `values`: what points hold of a column's text
//! - `render`, `null`: templates
//! - `image`, `id`, `digest`: the point that a row should have, and the comparison of two points
//! - `layout`: the form of a payload in each layout
//! - `sort`, `merge`: the expected side in id order, and the merge of both sides
//! - `suspect`: differences that are not proved yet
//! - `barrier`, `recheck`: suspects read again
//! - `vectors`: the sample
//! - [`VerifyError`] (`error`): why a comparison could not be made

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod barrier;
mod compare;
mod digest;
mod error;
mod findings;
mod id;
mod image;
mod job;
mod layout;
mod lookup;
mod merge;
mod null;
mod outside;
mod recheck;
mod render;
mod repair;
mod report;
mod select;
mod sort;
mod sql;
mod suspect;
mod table;
mod values;
mod vectors;

pub use compare::compare;
pub use digest::Fractions;
pub use error::VerifyError;
pub use findings::Findings;
pub use futures::future::BoxFuture;
pub use job::{Chunks, CompareJob, ComparedCollection, ComparisonStage, KeywordFunction, Split, VectorSample};
pub use layout::StoredLayout;
pub use outside::{Applied, ParkedPage, ParkedRow, Points, RepairPortion, RepairState, Running};
pub use repair::{Mended, repair};
pub use report::{Difference, Mismatch, MismatchKind, Report};
