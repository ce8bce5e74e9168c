//! Connections to PostgreSQL.
//!
//! - [`conninfo`]: the connection string, taken apart and checked
//! - [`tls`]: what `sslmode` asks for
//! - [`settings`]: the session settings that are pinned everywhere
//! - [`session`]: ordinary sessions, by tokio-postgres
//! - [`replication`]: replication sessions, by pg_walstream

mod conninfo;
mod replication;
mod session;
mod settings;
mod tls;

pub(crate) use conninfo::ConnInfo;
pub(crate) use replication::Replication;
pub(crate) use session::{Session, describe, statement_error};
