//! Turns rows into documents: which columns become the text to embed, which become payload, and under which id they are stored.
//! This crate is pure. It has no I/O and no clock, so the same row always gives the same document.
//!
//! - [`transform`]: [`Transform`], the public interface: checks a table, fills in unchanged values, renders a row
//! - [`fields`]: what is stored in the payload's fields, which index serves them, and what filters compare them with
//! - [`layout`]: how a point's payload is laid out, for the readers of other libraries
//! - [`point_id`]: how a row key becomes a point id
//! - `template`: one compiled template of a [`TransformSpec`]
//! - `indexed`: fields in the form that their indexes need
//! - `chunk`: cuts long texts into chunks
//! - `absent`: the absent values that a template looked at
//! - `lookup`: rows of other tables, as the text's template sees them
//! - `names`: which columns a template can reach, and which name was probably meant
//! - `printed`: which columns a template prints, in its order
//! - `shape`: what a transform needs of a table's columns, and a row as its templates see it
//! - `values`: row values in and out of the template engine, and what NULL means there
//! - [`error`]: errors, and whether one row or the whole table is concerned
//!
//! # The template language
//!
//! Templates are minijinja (Jinja2 syntax). A column is a variable; `row["first name"]` reaches a column whose name is not an
//! identifier. Where templates differ from plain Jinja they follow SQL and JSON, because that is where rows come from:
//!
//! - NULL renders as nothing, is false, `is none`, not `is defined`, and is replaced by `default("...")`. A field of
//!   NULL and a missing JSON key are NULL too. Test for NULL with `is none`; `== none` is refused, since it would never
//!   hold. A comparison by size (`<`, `>`) with NULL does not hold either, as in SQL. Calculating with NULL is an
//!   error, except in computed fields (see below).
//! - Booleans print as `true` and `false`, arrays and objects as JSON.
//! - A numeric is a number that prints all its digits. Comparisons and arithmetic treat it as a floating-point number.
//!   A computed field that consists of a numeric alone is its text, unless the field is indexed as a number.
//! - Dates and other types that JSON cannot hold exactly are text.
//! - `row` is the whole row. Where a column is called `row`, use `walvec_row`, which always is the whole row.
//! - A lookup is a variable of the text's template. A lookup of one row is an object of its columns, or NULL if there
//!   is no row; a lookup of many rows is a list of such objects. Templates of computed fields do not see lookups.
//! - A name that is not a column is an error, never an empty text.
//! - There is no `include` or `extends`, and a template that runs without end is stopped.
//!
//! A computed field that is exactly one `{{ expression }}` keeps the expression's type: `"{{ year // 10 * 10 }}"` is the
//! number 1890. If such an expression cannot be evaluated because a column is NULL, the field is NULL, as in SQL.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod absent;
pub mod chunk;
pub mod error;
pub mod fields;
mod indexed;
pub mod layout;
mod lookup;
mod names;
pub mod point_id;
mod printed;
mod shape;
mod template;
pub mod transform;
mod values;

pub use chunk::{ChunkSpec, Chunker, Unit};
pub use error::TransformError;
pub use fields::{Compared, Field};
pub use layout::PayloadLayout;
pub use names::{nearest, similarity};
pub use printed::printed_names;
pub use transform::{Completed, Transform, TransformSpec};
