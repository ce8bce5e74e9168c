//! Row to document: which columns become the text to embed, which become payload, and under which id they are stored.
//! Pure: no I/O and no clock, so that the same row always gives the same document.
//!
//! - [`transform`]: [`Transform`], the public face: check a table, fill in unchanged values, render a row
//! - [`fields`]: what is stored in the payload's fields, which index serves them, and what filters compare them with
//! - [`layout`]: how a point's payload is laid out, for the readers of other libraries
//! - [`point_id`]: how a row key becomes a point id
//! - `template`: one compiled template of a [`TransformSpec`]
//! - `absent`: what a template looked at and did not find
//! - `lookup`: rows of other tables, as the text's template sees them
//! - `names`: which columns a template can reach, and which name was probably meant
//! - `printed`: which columns a template prints, in its order
//! - `shape`: what a table's columns mean to a transform, and a row as its templates see it
//! - `values`: row values in and out of the template engine, and what NULL means there
//! - [`error`]: what can go wrong, and whether one row or the whole table is concerned
//!
//! # The template language
//!
//! Templates are minijinja (Jinja2 syntax). A column is a variable; `row["first name"]` reaches a column whose name is no
//! identifier. What differs from plain Jinja follows SQL and JSON, because rows come from there:
//!
//! - NULL renders as nothing, is false, `is none`, not `is defined`, and gives way to `default("...")`. A field of NULL
//!   and a JSON key that is not there are NULL again. Test for it with `is none`; `== none` is refused, since it would
//!   never hold. A comparison by size (`<`, `>`) with NULL does not hold either, as in SQL. Calculating with NULL is an error; see
//!   below for computed fields.
//! - Booleans print as `true` and `false`, arrays and objects as JSON.
//! - numeric is a number that prints all its digits. Comparisons and arithmetic take it as a floating-point number. Alone in a
//!   computed field it is its text, unless the field is indexed as a number.
//! - Dates and other types that JSON cannot hold exactly are text.
//! - `row` is the whole row. Where a column has that name, `walvec_row` still is.
//! - A lookup is a variable of the text's template: one row is an object of its columns, or NULL if there is none; many rows
//!   are a list of such objects. Templates of computed fields do not see them.
//! - A name that is no column is an error, never an empty text.
//! - There is no `include` or `extends`, and a template that does not come to an end is stopped.
//!
//! A computed field that is exactly one `{{ expression }}` keeps the expression's type: `"{{ year // 10 * 10 }}"` is the
//! number 1890. If such an expression cannot be evaluated because a column is NULL, the field is NULL, as in SQL.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod absent;
pub mod chunk;
pub mod error;
pub mod fields;
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
pub use layout::Layout;
pub use names::nearest;
pub use printed::printed_names;
pub use transform::{Completed, Transform, TransformSpec};
