//! A look at the server and at the catalogue, cheap enough for every second with any number of tables.

use walvec_model::TableName;

use crate::CaptureError;
use crate::catalog::{self, Shape, parse_lsn};
use crate::connect::statement_error;
use crate::publication::{PublicationIdentity, identity_expression};
use crate::server::Source;
use crate::slot::ServerPosition;

/// The result of a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The server's position.
    pub position: ServerPosition,
    /// The publication, if there is one.
    pub publication: Option<PublicationIdentity>,
    /// Whether the server may drop the WAL that the slot needs at its next checkpoint, because the slot is beyond
    /// `max_slot_wal_keep_size`.
    pub is_slot_at_risk: bool,
}

impl Source {
    /// Returns the server's position, and the identity of the publication.
    ///
    /// # Errors
    /// Fails if the question cannot be asked.
    pub async fn look(&self) -> Result<Look, CaptureError> {
        let query = format!(
            "SELECT pg_current_wal_flush_lsn()::text,
                    (SELECT greatest(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn), 0)::bigint
                     FROM pg_replication_slots WHERE slot_name = $2),
                    {},
                    EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $2 AND wal_status = 'unreserved')",
            identity_expression(self.server().capabilities)
        );
        let row = self.session().await?.query_one(&query, &[&self.config.publication, &self.config.slot]).await;
        let row = row.map_err(|error| statement_error("asking for the server's position", &error))?;
        let retained = row.get::<_, Option<i64>>(1).and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
        Ok(Look {
            position: ServerPosition { flushed: parse_lsn(row.get(0))?, retained_wal_bytes: retained },
            publication: PublicationIdentity::read(row.get(2)),
            is_slot_at_risk: row.get(3),
        })
    }

    /// Returns the current shapes of all published tables, including looked-up ones; `None` for a table that does not exist.
    ///
    /// # Errors
    /// Fails if the catalogue cannot be read.
    pub async fn shapes_now(&self) -> Result<Vec<(TableName, Option<Shape>)>, CaptureError> {
        let tables: Vec<TableName> = self.config.published().into_iter().map(|spec| spec.name).collect();
        let shapes = self.shapes_of(&tables).await?;
        Ok(tables.into_iter().zip(shapes).collect())
    }

    /// Returns the current shapes of these tables; `None` for a table that does not exist.
    ///
    /// # Errors
    /// Fails if the catalogue cannot be read.
    pub async fn shapes_of(&self, tables: &[TableName]) -> Result<Vec<Option<Shape>>, CaptureError> {
        catalog::shapes(&*self.session().await?, tables).await
    }

    /// Returns the main tables whose documents depend on `table`: the table itself if it is one, and those whose rows
    /// look something up in it.
    #[must_use]
    pub fn dependents(&self, table: &TableName) -> Vec<TableName> {
        let mut mains: Vec<TableName> = self.config.lookups_in(table).map(|spec| spec.main.clone()).collect();
        mains.extend(self.config.is_main(table).then(|| table.clone()));
        mains.sort();
        mains.dedup();
        mains
    }
}
