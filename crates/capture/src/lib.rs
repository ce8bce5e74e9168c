//! PostgreSQL → [`Change`](walvec_model::Change)s.
//!
//! ```text
//!            Source ── preflight, publication, slot
//!              │
//!   begin_snapshot ──▶ Snapshot: the rows as of the slot's consistent point, by parallel COPY
//!              │
//!      open_stream ──▶ ChangeStream: everything committed after it, by logical replication
//!              │
//!     begin_reread ──▶ Snapshot of chosen rows, with their place among the changes of the stream
//!              │
//!       fetch_rows ──▶ values that an UPDATE left out
//!              │
//!          look_up ──▶ rows of other tables that documents are rendered with; related_keys ──▶ the other way round
//! ```
//!
//! All of them give a row the same values, because they read the same text form with the same function.
//!
//! - `config`: what has to be told
//! - `source`: the source and what can be asked of it
//! - `preflight`: what would stop the pipeline, found before it starts, and the statements that put it right
//! - `publication`, `slot`: the two things that live on the server
//! - `row_filter`: what the server makes of a row filter
//! - `snapshot`: slot creation, the plan of the copy, its workers
//! - `blockers`: open transactions that the creation of a slot waits for
//! - `stream`: the task that reads the stream and answers the server
//! - `pgoutput`: replication messages, decoded without any I/O
//! - `assemble`: messages into changes with positions and keys
//! - `first_row`: a row of a table, to try templates on
//! - `fetch`: rows read again by key
//! - `labels`: the labels of enums
//! - `lookup`: rows looked up in other tables, and the rows that look something up
//! - `owner`: which process may write a collection
//! - `timeline`: where the server's history left another timeline
//! - `withheld`: why a column of a table is not read
//! - `waits`: who waits for whom, while tables are read
//! - `look`: one look at the server and the shapes of the tables
//! - `visible`: whether what the stream has brought can be read already
//! - `sample_rows`: some rows of a table
//! - [`relations`], [`sample`]: which tables there are, and what they hold, for proposals
//! - `copy_text`, `value`: PostgreSQL's text forms
//! - `catalog`: what the server's catalogue says
//! - `connect`: sessions, TLS, pinned settings; [`open_session`] for who wants to ask the same server by itself
//! - `sql`: quoting
//! - `error`: what can go wrong, and what to do about it
//! - `limits`, `outlook`: what the server's error codes say

// Functions on which much code hangs return a boxed future: the body of an `async fn` is compiled in each crate that awaits it.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod assemble;
mod blockers;
mod catalog;
mod column_list;
mod config;
mod connect;
mod copy_text;
mod error;
mod fetch;
mod first_row;
mod labels;
mod limits;
mod look;
mod lookup;
mod outlook;
mod owner;
mod pgoutput;
mod preflight;
mod publication;
pub mod relations;
mod row_filter;
pub mod sample;
mod sample_rows;
mod slot;
mod snapshot;
mod source;
mod sql;
mod stream;
mod timeline;
mod value;
mod visible;
mod waits;
mod withheld;

pub use blockers::{Blocker, Holder};
pub use catalog::{Alteration, Capabilities, ServerFacts, Service, Shape};
pub use config::{Columns, LookupSpec, SourceConfig, TableSpec};
pub use connect::{Session, open_session};
pub use error::CaptureError;
pub use limits::Resource;
pub use look::Look;
pub use lookup::Related;
pub use outlook::Outlook;
pub use owner::Ownership;
pub use preflight::{Actor, Finding, Owned, Part, Remedy, Script, Severity, Statement, Subject, Unfit};
pub use publication::{PublicationDrop, PublicationIdentity, PublicationState};
pub use slot::{SlotState, WalStatus};
pub use snapshot::{Selection, Snapshot};
pub use source::{ServerPosition, Source};
pub use stream::ChangeStream;
pub use waits::{LockWait, LockWatch};
pub use withheld::Withheld;
