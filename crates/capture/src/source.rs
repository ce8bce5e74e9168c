//! A PostgreSQL source: what can be asked of it, and where its snapshot and its stream begin.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use walvec_model::{Lsn, Row, RowKey, Table, TableName};

use crate::blockers::{Blocker, Waiting};
use crate::catalog::{self, Catalog, ServerFacts, TableFacts};
use crate::column_list::listed;
use crate::config::{SourceConfig, TableSpec};
use crate::connect::{Hosts, Session, statement_error};
use crate::lookup::Shapes;
use crate::preflight::{self, Breaks, Finding, Identities, Script, Unfit};
use crate::publication::{self, PublicationDrop, PublicationIdentity, PublicationState, Published};
use crate::slot::{self, SlotState};
use crate::snapshot::{self, Selection, Snapshot};
use crate::sql::quote_ident;
use crate::stream::{self, ChangeStream};
use crate::{CaptureError, fetch, sample_rows, timeline};

/// A source whose server is known. All methods may be called at any time, and at the same time; a broken session is
/// replaced at the next call.
pub struct Source {
    /// What is followed: what is configured, without what was set aside.
    pub(crate) config: SourceConfig,
    configured: SourceConfig,
    aside: Vec<Unfit>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) shapes: tokio::sync::Mutex<Shapes>,
    pub(crate) waiting: Waiting,
    /// Where rows wait that a snapshot has read; in memory without.
    pub(crate) spool: Option<PathBuf>,
    server: ServerFacts,
}

/// A configured table with what the publication sends of it.
pub(crate) struct PublishedTable {
    pub(crate) facts: TableFacts,
    pub(crate) table: Arc<Table>,
    /// The row filter to copy by.
    pub(crate) filter: Option<String>,
}

/// Where the server is, and what it keeps for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerPosition {
    /// The end of the WAL that is on disk.
    pub flushed: Lsn,
    /// WAL that the slot keeps the server from removing, in bytes; 0 without a slot.
    pub retained_wal_bytes: u64,
}

impl Source {
    /// Connects to the first host of the settings that answers and is what `target_session_attrs` asks for, and asks the
    /// server who it is. All sessions of the source are opened there.
    ///
    /// # Errors
    /// If the settings cannot be used (`E_CONFIG`), or the server cannot be reached, trusted or logged in to.
    pub async fn connect(config: SourceConfig) -> Result<Self, CaptureError> {
        let catalog = Arc::new(Catalog::connect(&Hosts::parse(&config.url)?).await?);
        let server = catalog::server_facts(&*catalog.session().await?).await?;
        let (shapes, waiting, configured) = (Default::default(), Waiting::default(), config.clone());
        Ok(Self { config, configured, aside: Vec::new(), catalog, shapes, waiting, spool: None, server })
    }

    /// Sets tables aside: from now on this source is as if they were not configured. Those that are looked up in by others go with these.
    #[must_use]
    pub fn setting_aside(mut self, tables: Vec<Unfit>) -> Self {
        let names: Vec<TableName> = tables.iter().map(|unfit| unfit.table.clone()).collect();
        self.config = self.configured.without(&names);
        self.aside = tables;
        self
    }

    /// The tables that were [set aside](Self::setting_aside).
    #[must_use]
    pub fn set_aside(&self) -> &[Unfit] {
        &self.aside
    }

    /// The tables that are not followed for their own sake at present: those that were [set aside](Self::setting_aside), which others may
    /// look rows up in, and those in which nothing looks rows up any more because of that.
    #[must_use]
    pub fn unfollowed(&self) -> Vec<TableName> {
        let mut tables = self.unpublished();
        let aside = self.aside.iter().map(|unfit| unfit.table.clone());
        tables.extend(aside.filter(|table| self.config.published().iter().any(|spec| spec.name == *table)));
        tables
    }

    /// The configured tables that are not needed at present.
    fn unpublished(&self) -> Vec<TableName> {
        if self.aside.is_empty() {
            return Vec::new();
        }
        let needed: HashSet<TableName> = self.config.published().into_iter().map(|spec| spec.name).collect();
        let configured = self.configured.published().into_iter().map(|spec| spec.name);
        configured.filter(|table| !needed.contains(table)).collect()
    }

    /// A table as it is published now, if it is configured.
    ///
    /// # Errors
    /// `E_TABLE` or `E_NO_KEY` if it cannot be followed.
    pub async fn table(&self, name: &TableName) -> Result<Option<Arc<Table>>, CaptureError> {
        let spec = self.configured.tables.iter().find(|spec| spec.name == *name);
        let Some(spec) = spec else { return Ok(None) };
        Ok(self.published_as(std::slice::from_ref(spec)).await?.pop().map(|published| published.table))
    }

    /// Whether there are other tables to follow than these.
    #[must_use]
    pub fn has_others_than(&self, tables: &[Unfit]) -> bool {
        self.configured.tables.iter().any(|spec| tables.iter().all(|unfit| unfit.table != spec.name))
    }

    /// The configured tables that cannot be followed as things are, those that were set aside included. Tables whose rows look something up
    /// in one of them are among them.
    ///
    /// # Errors
    /// If the catalogue cannot be read.
    pub async fn unfit(&self) -> Result<Vec<Unfit>, CaptureError> {
        preflight::unfit(&*self.catalog.patient_session().await?, &self.configured, &self.server).await
    }

    /// Lets rows that a snapshot has read wait in files of `directory`, so that the snapshot need not be held until all of them are
    /// taken.
    #[must_use]
    pub fn spooling_in(mut self, directory: &Path) -> Self {
        self.spool = Some(directory.to_owned());
        self
    }

    /// This source as if `tables`, and those whose rows look something up in one of them, were all that is configured: what is asked
    /// about some tables shall not cost a look at all.
    #[must_use]
    pub fn only(&self, tables: &[TableName]) -> Self {
        Self { config: self.config.only(tables), configured: self.configured.only(tables), ..self.another() }
    }

    /// A handle on this source that a task can own.
    pub(crate) fn another(&self) -> Self {
        let (config, catalog, server) = (self.config.clone(), Arc::clone(&self.catalog), self.server.clone());
        let (configured, aside) = (self.configured.clone(), self.aside.clone());
        let (shapes, waiting, spool) = (tokio::sync::Mutex::default(), self.waiting.clone(), self.spool.clone());
        Self { config, configured, aside, catalog, shapes, waiting, spool, server }
    }

    /// Which server this is.
    #[must_use]
    pub const fn server(&self) -> &ServerFacts {
        &self.server
    }

    /// `host:port/database`, for messages.
    #[must_use]
    pub fn address(&self) -> String {
        self.catalog.info.server()
    }

    /// Asks the server again who it is: after a reconnect it may be another one.
    ///
    /// # Errors
    /// If the question cannot be asked.
    pub async fn identify(&self) -> Result<ServerFacts, CaptureError> {
        catalog::server_facts(&*self.session().await?).await
    }

    /// Looks for everything that would stop the pipeline, and for risks.
    ///
    /// # Errors
    /// If a check itself could not be made.
    pub async fn preflight(&self) -> Result<Vec<Finding>, CaptureError> {
        preflight::findings(
            &*self.catalog.patient_session().await?,
            &self.config,
            &self.unpublished(),
            &self.server,
            true,
        )
        .await
    }

    /// What [`preflight`](Self::preflight) finds without opening a replication session, for a source that has been followed
    /// before: the limits may be used up by its own session, of which the server does not know yet that it is dead.
    ///
    /// # Errors
    /// As [`preflight`](Self::preflight).
    pub async fn preflight_again(&self) -> Result<Vec<Finding>, CaptureError> {
        preflight::findings(
            &*self.catalog.patient_session().await?,
            &self.config,
            &self.unpublished(),
            &self.server,
            false,
        )
        .await
    }

    /// The statements that put the errors among `findings` right; `None` if no statement helps.
    #[must_use]
    pub fn script(&self, findings: &[Finding]) -> Option<Script> {
        preflight::script(findings, &self.server)
    }

    /// The configured tables with their published columns and their keys, in the order of the configuration.
    ///
    /// # Errors
    /// `E_TABLE` or `E_NO_KEY` for the first table that cannot be followed.
    pub async fn tables(&self) -> Result<Vec<Arc<Table>>, CaptureError> {
        Ok(self.published_tables().await?.into_iter().map(|published| published.table).collect())
    }

    /// The same, and behind them the tables that are only looked up.
    ///
    /// # Errors
    /// As [`tables`](Self::tables).
    pub async fn followed_tables(&self) -> Result<Vec<Arc<Table>>, CaptureError> {
        let published = self.published_as(&self.config.published()).await?;
        Ok(published.into_iter().map(|published| published.table).collect())
    }

    /// All that is configured without these tables: those that can be followed, if these are the [unfit](Self::unfit) ones.
    ///
    /// # Errors
    /// As [`tables`](Self::tables).
    pub async fn tables_without(&self, tables: &[Unfit]) -> Result<Vec<Arc<Table>>, CaptureError> {
        let names: Vec<TableName> = tables.iter().map(|unfit| unfit.table.clone()).collect();
        let published = self.published_as(&self.configured.without(&names).published()).await?;
        Ok(published.into_iter().map(|published| published.table).collect())
    }

    /// How many rows each table has, by the server's statistics, without row filters; 0 where there are none yet.
    ///
    /// # Errors
    /// If the catalogue cannot be read.
    pub async fn estimate_rows(&self) -> Result<Vec<(TableName, u64)>, CaptureError> {
        // A partitioned table is not always analysed itself; its leaves are.
        let query = "
            SELECT n.nspname::text, r.relname::text, coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint
            FROM unnest($1::text[], $2::text[]) AS wanted (schema, name)
            JOIN pg_namespace n ON n.nspname = wanted.schema
            JOIN pg_class r ON r.relnamespace = n.oid AND r.relname = wanted.name
            CROSS JOIN LATERAL (SELECT relid FROM pg_partition_tree(r.oid) WHERE isleaf
                                UNION SELECT r.oid WHERE r.relkind <> 'p') AS leaf
            JOIN pg_class c ON c.oid = leaf.relid
            GROUP BY n.nspname, r.relname";
        let names = self.config.tables.iter().map(|spec| (spec.name.schema.as_str(), spec.name.name.as_str()));
        let (schemas, names): (Vec<&str>, Vec<&str>) = names.unzip();
        let rows = self.catalog.patient_session().await?.query(query, &[&schemas, &names]).await;
        let rows = rows.map_err(|error| statement_error("estimating the size of the tables", &error))?;
        let estimate = |row: &tokio_postgres::Row| {
            let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            (table, u64::try_from(row.get::<_, i64>(2)).unwrap_or(0))
        };
        Ok(rows.iter().map(estimate).collect())
    }

    /// How the publication compares to the configuration.
    ///
    /// # Errors
    /// If the catalogue cannot be read.
    pub async fn publication(&self) -> Result<PublicationState, CaptureError> {
        publication::state(
            &*self.catalog.patient_session().await?,
            &self.config,
            &self.unpublished(),
            self.server.capabilities,
        )
        .await
    }

    /// What identifies the publication as it is now; `None` if there is none.
    ///
    /// # Errors
    /// If the catalogue cannot be read.
    pub async fn publication_identity(&self) -> Result<Option<PublicationIdentity>, CaptureError> {
        publication::identity(&*self.session().await?, &self.config.publication, self.server.capabilities).await
    }

    /// What identifies the entry of each table that the publication lists, as its version has it. None if it is one of all tables or of a
    /// schema.
    ///
    /// # Errors
    /// If the catalogue cannot be read.
    pub async fn publication_entries(&self) -> Result<BTreeMap<TableName, String>, CaptureError> {
        publication::entries(&*self.session().await?, &self.config.publication).await
    }

    /// What the publication that had this [version](PublicationIdentity::version) is called now; `None` if it is gone.
    ///
    /// # Errors
    /// If the catalogue cannot be read.
    pub async fn publication_called(&self, version: &str) -> Result<Option<String>, CaptureError> {
        publication::called(&*self.session().await?, version).await
    }

    /// Creates the publication for exactly the configured tables, if it is missing.
    ///
    /// # Errors
    /// `E_PUBLICATION` if it exists with other content, with the difference and the SQL that removes it; `E_RIGHTS` if
    /// the role may not create it.
    pub async fn ensure_publication(&self) -> Result<(), CaptureError> {
        match self.publication().await? {
            PublicationState::Matches { .. } => Ok(()),
            PublicationState::Differs { difference, sql } => {
                Err(publication::differs(self.config.publication.clone(), difference, sql))
            }
            PublicationState::Missing => {
                let session = self.session().await?;
                let sql = publication::create_sql(&session, &self.config, self.server.capabilities).await?;
                let mark = publication::mark_sql(&self.config);
                // One message is one transaction: no publication is left without its mark.
                session
                    .batch_execute(&format!("{sql} {mark}"))
                    .await
                    .map_err(|error| statement_error("creating the publication", &error))
            }
        }
    }

    /// Drops the publication if this configuration has made it and nothing else can be using it.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn drop_publication(&self) -> Result<PublicationDrop, CaptureError> {
        publication::drop(&*self.session().await?, &self.config).await
    }

    /// Where the history of the server's present timeline left `timeline`; `None` if that is not one of its ancestors.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn timeline_left_at(&self, timeline: u32) -> Result<Option<Lsn>, CaptureError> {
        timeline::left_at(self, timeline).await
    }

    /// The configured tables of which PostgreSQL refuses the application's updates and deletes, because they are published.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn breaking(&self) -> Result<Vec<TableName>, CaptureError> {
        preflight::breaking(&*self.catalog.patient_session().await?, &self.config, &self.server, Breaks::Now).await
    }

    /// Takes the configured tables out of a publication that this configuration has made of which PostgreSQL refuses the application's
    /// updates and deletes because they are published: those that have lost their key, for example. Returns them.
    ///
    /// # Errors
    /// If the server cannot be asked, or a lock does not come free in time.
    pub async fn unpublish_what_breaks(&self) -> Result<Vec<TableName>, CaptureError> {
        let tables = self.breaking().await?;
        Ok(if self.unpublish(&tables).await? { tables } else { Vec::new() })
    }

    /// Lets a publication that this configuration has made send all columns of a table again, where PostgreSQL refuses the application's
    /// updates and deletes because the list of columns does not hold the replica identity any more. Says whether it did.
    ///
    /// # Errors
    /// As [`mend_publication`](Self::mend_publication).
    pub async fn widen_publication(&self) -> Result<bool, CaptureError> {
        let is_needed = self.config.lists_columns() && !self.breaking().await?.is_empty();
        if is_needed { self.mend_publication().await } else { Ok(false) }
    }

    /// Takes tables out of a publication that this configuration has made. Says whether it did.
    async fn unpublish(&self, tables: &[TableName]) -> Result<bool, CaptureError> {
        match publication::drop_tables_sql(&self.config, tables) {
            Some(sql) => publication::alter(&*self.catalog.patient_session().await?, &self.config, &sql).await,
            None => Ok(false),
        }
    }

    /// Makes a publication that this configuration has made publish what is configured: it was altered, or another table has the name
    /// of one that it publishes. Says whether it did; one that it has not made, or may not alter, is left alone.
    ///
    /// # Errors
    /// If the server cannot be asked, or a lock does not come free in time.
    pub async fn mend_publication(&self) -> Result<bool, CaptureError> {
        let state = match self.publication().await {
            // Preflight names it.
            Err(CaptureError::Table { .. }) => return Ok(false),
            state => state?,
        };
        let PublicationState::Differs { difference, sql: Some(sql) } = state else { return Ok(false) };
        // Preflight says what has to come first. The application's statements must not pay for a mistake in the settings.
        let session = self.catalog.patient_session().await?;
        if !preflight::breaking(&session, &self.config, &self.server, Breaks::AsConfigured).await?.is_empty() {
            // Nor for a table that was set aside.
            let mut published =
                publication::published_tables(&session, &self.config.publication, self.server.capabilities).await?;
            self.config.published().iter().for_each(|spec| drop(published.remove(&spec.name)));
            return self.unpublish(&published.into_keys().collect::<Vec<_>>()).await;
        }
        let is_mended = publication::alter(&*self.catalog.patient_session().await?, &self.config, &sql).await?;
        if is_mended {
            tracing::warn!(publication = self.config.publication, "walvec's publication is put right: {difference}");
        }
        Ok(is_mended)
    }

    /// The state of the slot.
    ///
    /// # Errors
    /// `E_CONFIG` if the slot belongs to somebody else.
    pub async fn slot(&self) -> Result<SlotState, CaptureError> {
        slot::state(&*self.session().await?, &self.config.slot).await
    }

    /// What to say of the slot where the server may drop what it needs.
    #[must_use]
    pub fn slot_at_risk(&self) -> Finding {
        preflight::at_risk(&self.config.slot)
    }

    /// Drops the slot; a missing one is no error.
    ///
    /// # Errors
    /// `E_SLOT_BUSY` if somebody reads from it.
    pub async fn drop_slot(&self) -> Result<(), CaptureError> {
        slot::drop(&*self.session().await?, &self.config.slot).await
    }

    /// Where the server is, and how much WAL the slot makes it keep.
    ///
    /// # Errors
    /// If the question cannot be asked.
    pub async fn server_position(&self) -> Result<ServerPosition, CaptureError> {
        let query = "
            SELECT pg_current_wal_flush_lsn()::text,
                   (SELECT greatest(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn), 0)::bigint
                    FROM pg_replication_slots WHERE slot_name = $1)";
        let row = self.session().await?.query_one(query, &[&self.config.slot]).await;
        let row = row.map_err(|error| statement_error("asking for the server's position", &error))?;
        Ok(ServerPosition {
            flushed: parse_lsn(row.get(0))?,
            retained_wal_bytes: row.get::<_, Option<i64>>(1).and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
        })
    }

    /// The open transactions that the creation of a slot waits for at the moment: none if no slot is being created, or as long
    /// as that takes no longer than usual.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<Blocker> {
        self.waiting.now()
    }

    /// Creates the slot and starts to copy the tables as they were at its consistent point.
    ///
    /// The server waits for every transaction that is open before it answers; who keeps it waiting is logged, and in
    /// [`waiting_for`](Self::waiting_for).
    ///
    /// # Errors
    /// `E_SLOT_EXISTS` if there is a slot already; everything that [`tables`](Self::tables) reports.
    pub async fn begin_snapshot(&self) -> Result<Snapshot, CaptureError> {
        Box::pin(snapshot::begin(self)).await
    }

    /// Reads rows of one table again, as of the consistent point of a slot that exists only for that. So they have a place
    /// among the changes of the stream: a plain SELECT may not see yet what the stream has brought already.
    ///
    /// The server waits for every transaction that is open before it answers, as in [`begin_snapshot`](Self::begin_snapshot).
    ///
    /// # Errors
    /// `E_CONFIG` if the condition is not one, `E_TABLE` if the table is not configured; everything that
    /// [`tables`](Self::tables) reports.
    pub async fn begin_reread(&self, table: &TableName, rows: &Selection) -> Result<Snapshot, CaptureError> {
        Box::pin(snapshot::reread(self, table, rows)).await
    }

    /// Opens the stream of changes at the slot's position.
    ///
    /// # Errors
    /// `E_SLOT_MISSING`, `E_SLOT_LOST`, or `E_SLOT_BUSY` if somebody reads from the slot.
    pub async fn open_stream(&self) -> Result<ChangeStream, CaptureError> {
        stream::open(self, HashMap::new()).await
    }

    /// Opens the stream of changes at the slot's position, without what was committed before the given positions to these tables: they
    /// were read whole as of then or later, or will be. Their columns and keys may have been others at that time.
    ///
    /// # Errors
    /// As [`open_stream`](Self::open_stream).
    pub async fn open_stream_passing(&self, passed: HashMap<TableName, Lsn>) -> Result<ChangeStream, CaptureError> {
        stream::open(self, passed).await
    }

    /// Reads rows again by their keys, for values that an UPDATE did not send. The values are exactly as the stream would
    /// give them, but as of now: they may be newer. Rows that are gone, or that the row filter hides, are left out. One that fits into no
    /// message of the server (1 GB) comes with its key alone; everything else is [unchanged](walvec_model::Cell::Unchanged).
    ///
    /// # Errors
    /// `E_ALTERED` if the table no longer has the columns of `table`.
    pub async fn fetch_rows(&self, table: &Table, keys: &[RowKey]) -> Result<Vec<(RowKey, Row)>, CaptureError> {
        fetch::rows(self, table, keys).await
    }

    /// Reads some rows of a table, at most so many, and fewer where they are large: those that come first.
    ///
    /// # Errors
    /// As [`fetch_rows`](Self::fetch_rows).
    pub async fn sample_rows(&self, table: &Table, most: usize) -> Result<Vec<Row>, CaptureError> {
        sample_rows::rows(self, table, most).await
    }

    /// As of which position rows were read at last by [`fetch_rows`](Self::fetch_rows), [`look_up`](Self::look_up) and
    /// [`related_keys`](Self::related_keys): what they gave may be of a transaction that the stream has not brought yet.
    #[must_use]
    pub fn read_as_of(&self) -> Lsn {
        self.catalog.read_as_of()
    }

    /// Which columns of a table something uses, in their order. The others may be large.
    pub(crate) fn used(&self, table: &Table) -> Vec<bool> {
        self.config.used(table)
    }

    /// What a statement selects to read rows of a table: NULL in the place of what nothing uses.
    pub(crate) fn select_list(&self, table: &Table) -> String {
        let used = self.used(table);
        let columns = table.columns.iter().zip(used);
        let columns =
            columns.map(|(column, is_used)| if is_used { quote_ident(&column.name) } else { "NULL".to_owned() });
        columns.collect::<Vec<_>>().join(", ")
    }

    pub(crate) async fn session(&self) -> Result<Arc<Session>, CaptureError> {
        self.catalog.session().await
    }

    /// The tables to copy, each with its row filter as it stands in the publication, or else as configured.
    pub(crate) async fn published_tables(&self) -> Result<Vec<PublishedTable>, CaptureError> {
        self.published_as(&self.config.tables).await
    }

    /// The table of this name with its row filter, if it is one of those to copy.
    pub(crate) async fn published_table(&self, name: &TableName) -> Result<Option<PublishedTable>, CaptureError> {
        let spec = self.config.tables.iter().find(|spec| spec.name == *name);
        Ok(self.published_as(spec.map_or(&[], std::slice::from_ref)).await?.pop())
    }

    /// The same for any of the tables that are published.
    pub(crate) async fn published_as(&self, specs: &[TableSpec]) -> Result<Vec<PublishedTable>, CaptureError> {
        let session = self.session().await?;
        let can = self.server.capabilities;
        let published = publication::published_tables(&session, &self.config.publication, can).await?;
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
                // Before 18 the stream leaves generated columns out, whatever the view says.
                named && column.can_be_sent(can)
            })?;
            tables.push(PublishedTable { facts, table: Arc::new(table), filter: published.filter });
        }
        Ok(tables)
    }
}

pub(crate) fn parse_lsn(text: &str) -> Result<Lsn, CaptureError> {
    text.parse().map_err(|error| CaptureError::Protocol { reason: format!("{error}") })
}
