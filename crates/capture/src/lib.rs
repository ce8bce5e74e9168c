//! Reads rows and changes from PostgreSQL, as [`Change`](walvec_model::Change)s.
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
//! All of these give a row the same values, because they read the same text form with the same function.
//!
//! - `config`: the configuration of a source
//! - `server`: the source: its configuration, catalogue and published tables
//! - `source`: its operations, each of which calls the module of its subject
//! - `preflight`: finds what would stop the pipeline before it starts, with the statements that fix it
//! - `published`, `identities`: what a publication contains, and what the server logs of old rows
//! - `publication`, `slot`: the two objects that walvec has on the server
//! - `own_publication`: creates the publication, and corrects one that this configuration has made
//! - `column_list`: the columns of a table that the publication has, where the configuration asks for a list
//! - `row_filter`: how the server understands a row filter
//! - `snapshot`: creates the slot, plans the copy, and runs its workers
//! - `blockers`: open transactions that the creation of a slot waits for
//! - `stream`: the task that reads the stream and reports to the server
//! - `pgoutput`: decodes replication messages, without any I/O
//! - `assemble`: turns messages into changes with positions and keys
//! - `first_row`: reads a row of a table, on which templates are tried
//! - `fetch`: reads rows again by key
//! - `labels`: reads the labels of enums
//! - `lookup`: reads rows of looked-up tables, and finds the rows that look something up
//! - `owner`: decides which process may write a collection
//! - `timeline`: finds where the server's history left another timeline
//! - `withheld`: why a column of a table is not read
//! - `waits`: finds which session waits for which, while tables are read
//! - `look`: looks at the server and the shapes of the tables
//! - `visible`: finds out whether rows that the stream has brought can already be read
//! - `sample_rows`: reads some rows of a table
//! - [`relations`], [`sample`]: which tables there are, and what they contain, for proposals
//! - `copy_text`, `value`: PostgreSQL's text forms
//! - `catalog`: reads the server's catalogue
//! - `connect`: sessions, TLS, pinned settings; [`open_session`] for callers with questions of their own to the same server
//! - `sql`: quotes names and values
//! - `error`: errors, and what to do about them
//! - `limits`, `outlook`: the meaning of the server's error codes

// Functions that are used in many places return a boxed future: the body of an `async fn` is compiled in each crate
// that awaits it.

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
mod identities;
mod labels;
mod limits;
mod look;
mod lookup;
mod outlook;
mod own_publication;
mod owner;
mod pgoutput;
mod preflight;
mod publication;
mod published;
pub mod relations;
mod row_filter;
pub mod sample;
mod sample_rows;
mod server;
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
pub use lookup::{KeyPage, Related};
pub use outlook::Outlook;
pub use owner::Ownership;
pub use preflight::{Actor, Finding, OwnedObject, Remedy, Script, ScriptPart, Severity, Statement, Subject, Unfit};
pub use publication::{PublicationDrop, PublicationIdentity, PublicationState};
pub use server::Source;
pub use slot::{ServerPosition, SlotState, WalStatus};
pub use snapshot::{Selection, Snapshot};
pub use stream::ChangeStream;
pub use waits::{LockWait, LockWatch};
pub use withheld::Withheld;
