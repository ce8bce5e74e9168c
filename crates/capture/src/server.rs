//! What every question to a source needs: its configuration, the catalogue with its sessions, and the tables as they are published.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use walvec_model::{Table, TableName};

use crate::CaptureError;
use crate::blockers::SlotBlockers;
use crate::catalog::{self, CatalogSessions, ServerFacts, TableFacts};
use crate::column_list::listed;
use crate::config::{SourceConfig, TableSpec};
use crate::connect::Session;
use crate::identities::Identities;
use crate::preflight::Unfit;
use crate::published::{Published, published_tables};
use crate::sql::quote_ident;
use crate::value::ValueKind;

/// A source whose server is known. All methods may be called at any time and concurrently. A broken session is replaced
/// at the next call.
pub struct Source {
    /// What is followed: the configuration without the tables that were set aside.
    pub(crate) config: SourceConfig,
    pub(crate) configured: SourceConfig,
    pub(crate) aside: Vec<Unfit>,
    pub(crate) catalog: Arc<CatalogSessions>,
    pub(crate) shapes: tokio::sync::Mutex<ReadableTables>,
    pub(crate) waiting: SlotBlockers,
    /// The directory for rows that a snapshot has read; `None` to keep them in memory.
    pub(crate) spool: Option<PathBuf>,
    pub(crate) server: ServerFacts,
}

/// A configured table, with what the publication sends of it.
pub(crate) struct PublishedTable {
    pub(crate) facts: TableFacts,
    pub(crate) table: Arc<Table>,
    /// The row filter for the copy.
    pub(crate) filter: Option<String>,
}

/// A published table, and how to read it.
#[derive(Clone)]
pub(crate) struct ReadableTable {
    pub(crate) table: Arc<Table>,
    pub(crate) kinds: Arc<[ValueKind]>,
    pub(crate) filter: Option<String>,
    pub(crate) partitioned: bool,
}

/// Published tables, as they were when they were first needed.
pub(crate) type ReadableTables = HashMap<TableName, ReadableTable>;

impl Source {
    /// Returns a handle on this source that a task can own.
    pub(crate) fn another(&self) -> Self {
        let (config, catalog, server) = (self.config.clone(), Arc::clone(&self.catalog), self.server.clone());
        let (configured, aside) = (self.configured.clone(), self.aside.clone());
        let (shapes, waiting, spool) = (tokio::sync::Mutex::default(), self.waiting.clone(), self.spool.clone());
        Self { config, configured, aside, catalog, shapes, waiting, spool, server }
    }

    /// Returns, for each column of a table, whether it is used. The others may be large.
    pub(crate) fn used(&self, table: &Table) -> Vec<bool> {
        self.config.used(table)
    }

    /// Returns the select list for reading rows of a table, with NULL in place of columns that nothing uses.
    pub(crate) fn select_list(&self, table: &Table) -> String {
        let used = self.used(table);
        let columns = table.columns.iter().zip(used);
        let columns =
            columns.map(|(column, is_used)| if is_used { quote_ident(&column.name) } else { "NULL".to_owned() });
        columns.collect::<Vec<_>>().join(", ")
    }

    /// Returns the configured tables that are not needed at present.
    pub(crate) fn unpublished(&self) -> Vec<TableName> {
        if self.aside.is_empty() {
            return Vec::new();
        }
        let needed: HashSet<TableName> = self.config.published().into_iter().map(|spec| spec.name).collect();
        let configured = self.configured.published().into_iter().map(|spec| spec.name);
        configured.filter(|table| !needed.contains(table)).collect()
    }

    pub(crate) async fn session(&self) -> Result<Arc<Session>, CaptureError> {
        self.catalog.session().await
    }

    /// Returns the tables to copy, each with its row filter from the publication, or else from the configuration.
    pub(crate) async fn published_tables(&self) -> Result<Vec<PublishedTable>, CaptureError> {
        self.published_as(&self.config.tables).await
    }

    /// Returns the table of this name with its row filter, if it is one of those to copy.
    pub(crate) async fn published_table(&self, name: &TableName) -> Result<Option<PublishedTable>, CaptureError> {
        let spec = self.config.tables.iter().find(|spec| spec.name == *name);
        Ok(self.published_as(spec.map_or(&[], std::slice::from_ref)).await?.pop())
    }

    /// Returns the tables in `specs`, each with its row filter from the publication, or else from the configuration.
    pub(crate) async fn published_as(&self, specs: &[TableSpec]) -> Result<Vec<PublishedTable>, CaptureError> {
        let session = self.session().await?;
        let can = self.server.capabilities;
        let published = published_tables(&session, &self.config.publication, can).await?;
        let facts = catalog::facts_of(&session, specs.iter().map(|spec| &spec.name)).await?;
        let unpublished = facts.values().filter(|facts| !published.contains_key(&facts.name));
        let identities = Identities::of(&session, unpublished).await?;
        let mut tables = Vec::with_capacity(specs.len());
        for spec in specs {
            let Some(facts) = facts.get(&spec.name).cloned() else {
                return Err(CaptureError::Table { table: spec.name.clone(), reason: "does not exist".to_owned() });
            };
            let published = published.get(&spec.name).cloned().unwrap_or_else(|| {
                let columns = listed(&self.config, spec, &facts, &identities, can);
                Published { has_list: columns.is_some(), columns, filter: spec.filter.clone() }
            });
            let table = facts.table(|column| {
                let named = published.columns.as_ref().is_none_or(|names| names.contains(&column.column.name));
                // Before 18, the stream leaves generated columns out, even if the view lists them.
                named && column.can_be_sent(can)
            })?;
            tables.push(PublishedTable { facts, table: Arc::new(table), filter: published.filter });
        }
        Ok(tables)
    }
}
