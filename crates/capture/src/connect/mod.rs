//! Connections to PostgreSQL.
//!
//! - [`conninfo`]: the connection string, taken apart and checked
//! - [`tls`]: what `sslmode` asks for
//! - [`settings`]: the session settings that are pinned everywhere
//! - [`session`]: ordinary sessions, by tokio-postgres
//! - [`replication`]: replication sessions
//! - [`login`]: opening one
//! - [`wire`]: the protocol that it speaks

mod conninfo;
mod login;
mod replication;
mod session;
mod settings;
mod tls;
mod wire;

pub(crate) use conninfo::ConnInfo;
pub(crate) use replication::Replication;
pub(crate) use session::{Session, describe, statement_error};
