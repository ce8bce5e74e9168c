//! The database that is read.

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;

use super::values::secret;

/// A PostgreSQL database.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SourceSettings {
    /// `postgres://user:password@host:5432/database?sslmode=verify-full`, or `key=value` pairs as libpq reads them. Several hosts are separated by
    /// commas; the one that accepts writes is used. If it is left out, `DATABASE_URL` is used. Parts that are left out come from `PGHOST`, `PGPORT`,
    /// `PGUSER`, `PGPASSWORD`, `PGDATABASE`, `PGSSLMODE`, `PGSSLROOTCERT`, `PGCHANNELBINDING` and `PGTARGETSESSIONATTRS`. Best written as
    /// `${DATABASE_URL}`, so that no password is in the file. The stages index, embed and sink work without it: they only use it to read values that
    /// PostgreSQL did not send. With `lookup`, index and embed need it.
    #[serde(deserialize_with = "secret")]
    #[schemars(with = "String")]
    pub(crate) url: SecretString,
    /// The replication slot. Created on the first run, and kept: PostgreSQL retains WAL for it until `walvec reset` drops it. Lower-case letters,
    /// digits and underscores, at most 63.
    pub(crate) slot: String,
    /// The publication. Created when missing, for exactly the tables of the collections and of their lookups.
    pub(crate) publication: String,
    /// The columns that walvec puts into the publication it creates: `all`, or, on PostgreSQL 15 and later, only those that are `used`. With `used`,
    /// PostgreSQL refuses to drop such a column, and refuses UPDATE and DELETE of the table after `REPLICA IDENTITY FULL` until walvec has noticed
    /// that.
    pub(crate) columns: PublishedColumns,
    /// What to do when changes are no longer available, for example because the slot was lost: `resync` reads the tables again, and embeds only what
    /// has changed; `stop` stops, and leaves the decision to a person.
    pub(crate) on_gap: OnGap,
    /// How many connections copy tables concurrently when a snapshot is taken, 1 to 64.
    pub(crate) copy_workers: usize,
}

/// The columns that a publication sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PublishedColumns {
    /// All columns of the table.
    #[default]
    All,
    /// The columns that a collection uses, and those that identify the row.
    Used,
}

/// What to do when changes are no longer available.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnGap {
    /// Read the tables again.
    #[default]
    Resync,
    /// Stop.
    Stop,
}

impl From<OnGap> for walvec_pipeline::source::gap::OnGap {
    fn from(on_gap: OnGap) -> Self {
        match on_gap {
            OnGap::Resync => Self::Resync,
            OnGap::Stop => Self::Stop,
        }
    }
}

impl SourceSettings {
    /// COPY on one connection reads hundreds of thousands of rows per second, an embedding model hundreds. Two connections are enough to hide waiting
    /// times, and take little from other users of the database.
    const COPY_WORKERS: usize = 2;
}

impl Default for SourceSettings {
    fn default() -> Self {
        Self {
            url: SecretString::default(),
            slot: "walvec".to_owned(),
            publication: "walvec".to_owned(),
            columns: PublishedColumns::default(),
            on_gap: OnGap::default(),
            copy_workers: Self::COPY_WORKERS,
        }
    }
}
