//! The operations of a PostgreSQL source. Each is carried out by the module of its subject.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use walvec_model::{Lsn, Row, RowKey, Table, TableName};

use crate::blockers::{Blocker, SlotBlockers};
use crate::catalog::{self, CatalogSessions, ServerFacts};
use crate::config::SourceConfig;
use crate::connect::Hosts;
use crate::preflight::{self, Finding, Script, Unfit};
use crate::publication::{self, PublicationDrop, PublicationIdentity, PublicationState};
use crate::server::Source;
use crate::slot::{self, ServerPosition, SlotState};
use crate::snapshot::{self, Selection, Snapshot};
use crate::stream::{self, ChangeStream};
use crate::{CaptureError, fetch, own_publication, sample_rows, timeline};

impl Source {
    /// Connects to the first host in the settings that answers and matches `target_session_attrs`, and reads the
    /// server's identity. All sessions of the source use that host.
    ///
    /// # Errors
    /// Fails if the settings cannot be used (`E_CONFIG`), or if the server cannot be reached, trusted or logged in to.
    pub async fn connect(config: SourceConfig) -> Result<Self, CaptureError> {
        let catalog = Arc::new(CatalogSessions::connect(&Hosts::parse(&config.url)?).await?);
        let server = catalog::server_facts(&*catalog.session().await?).await?;
        let (shapes, waiting, configured) = (Default::default(), SlotBlockers::default(), config.clone());
        Ok(Self { config, configured, aside: Vec::new(), catalog, shapes, waiting, spool: None, server })
    }

    /// Sets tables aside: the source then behaves as if they were not configured. Lookups by their rows are dropped too.
    #[must_use]
    pub fn setting_aside(mut self, tables: Vec<Unfit>) -> Self {
        let names: Vec<TableName> = tables.iter().map(|unfit| unfit.table.clone()).collect();
        self.config = self.configured.without(&names);
        self.aside = tables;
        self
    }

    /// Returns the tables that were [set aside](Self::setting_aside).
    #[must_use]
    pub fn set_aside(&self) -> &[Unfit] {
        &self.aside
    }

    /// Returns the tables for which no documents are made at present: those that were [set aside](Self::setting_aside),
    /// in which others may still look rows up, and those in which no rows are looked up any more because of that.
    #[must_use]
    pub fn unfollowed(&self) -> Vec<TableName> {
        let mut tables = self.unpublished();
        let aside = self.aside.iter().map(|unfit| unfit.table.clone());
        tables.extend(aside.filter(|table| self.config.published().iter().any(|spec| spec.name == *table)));
        tables
    }

    /// Returns a table as it is currently published, if it is configured.
    ///
    /// # Errors
    /// Returns `E_TABLE` or `E_NO_KEY` if the table cannot be followed.
    pub async fn table(&self, name: &TableName) -> Result<Option<Arc<Table>>, CaptureError> {
        let spec = self.configured.tables.iter().find(|spec| spec.name == *name);
        let Some(spec) = spec else { return Ok(None) };
        Ok(self.published_as(std::slice::from_ref(spec)).await?.pop().map(|published| published.table))
    }

    /// Returns whether there are tables to follow other than these.
    #[must_use]
    pub fn has_others_than(&self, tables: &[Unfit]) -> bool {
        self.configured.tables.iter().any(|spec| tables.iter().all(|unfit| unfit.table != spec.name))
    }

    /// Returns the configured tables that cannot be followed in the present state, including those that were set aside.
    /// Includes tables whose rows look something up in one of them.
    ///
    /// # Errors
    /// Fails if the catalogue cannot be read.
    pub async fn unfit(&self) -> Result<Vec<Unfit>, CaptureError> {
        preflight::unfit(&*self.catalog.patient_session().await?, &self.configured, &self.server).await
    }

    /// Keeps rows that a snapshot has read in files of `directory`, so that the snapshot does not have to be held until
    /// all of them are taken.
    #[must_use]
    pub fn spooling_in(mut self, directory: &Path) -> Self {
        self.spool = Some(directory.to_owned());
        self
    }

    /// Returns a source as if only `tables`, and those whose rows look something up in one of them, were configured.
    /// Questions about a few tables then do not read the catalogue for all of them.
    #[must_use]
    pub fn only(&self, tables: &[TableName]) -> Self {
        Self { config: self.config.only(tables), configured: self.configured.only(tables), ..self.another() }
    }

    /// Returns the server's identity and capabilities.
    #[must_use]
    pub const fn server(&self) -> &ServerFacts {
        &self.server
    }

    /// Returns `host:port/database`, for messages.
    #[must_use]
    pub fn address(&self) -> String {
        self.catalog.info.server()
    }

    /// Reads the server's identity again. After a reconnect, it may be another server.
    ///
    /// # Errors
    /// Fails if the question cannot be asked.
    pub async fn identify(&self) -> Result<ServerFacts, CaptureError> {
        catalog::server_facts(&*self.session().await?).await
    }

    /// Looks for everything that would stop the pipeline, and for risks.
    ///
    /// # Errors
    /// Fails if a check itself could not be run.
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

    /// Runs the checks of [`preflight`](Self::preflight) without opening a replication session, for a source that was followed
    /// before. The limits may be exhausted by its own earlier session, if the server has not noticed yet that it is dead.
    ///
    /// # Errors
    /// Returns the errors of [`preflight`](Self::preflight).
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

    /// Returns the statements that fix the errors among `findings`; `None` if no statement helps.
    #[must_use]
    pub fn script(&self, findings: &[Finding]) -> Option<Script> {
        preflight::script(findings, &self.server)
    }

    /// Returns the configured tables with their published columns and their keys, in the order of the configuration.
    ///
    /// # Errors
    /// Returns `E_TABLE` or `E_NO_KEY` for the first table that cannot be followed.
    pub async fn tables(&self) -> Result<Vec<Arc<Table>>, CaptureError> {
        Ok(self.published_tables().await?.into_iter().map(|published| published.table).collect())
    }

    /// Returns the configured tables, followed by the tables that are only looked up.
    ///
    /// # Errors
    /// Returns the errors of [`tables`](Self::tables).
    pub async fn followed_tables(&self) -> Result<Vec<Arc<Table>>, CaptureError> {
        let published = self.published_as(&self.config.published()).await?;
        Ok(published.into_iter().map(|published| published.table).collect())
    }

    /// Returns the configured tables without these. If these are the [unfit](Self::unfit) ones, the rest can be followed.
    ///
    /// # Errors
    /// Returns the errors of [`tables`](Self::tables).
    pub async fn tables_without(&self, tables: &[Unfit]) -> Result<Vec<Arc<Table>>, CaptureError> {
        let names: Vec<TableName> = tables.iter().map(|unfit| unfit.table.clone()).collect();
        let published = self.published_as(&self.configured.without(&names).published()).await?;
        Ok(published.into_iter().map(|published| published.table).collect())
    }

    /// Returns how many rows each table has, by the server's statistics and without row filters; 0 if there are no
    /// statistics yet.
    ///
    /// # Errors
    /// Fails if the catalogue cannot be read.
    pub async fn estimate_rows(&self) -> Result<Vec<(TableName, u64)>, CaptureError> {
        let names = self.config.tables.iter().map(|spec| &spec.name);
        catalog::estimate_rows(&*self.catalog.patient_session().await?, names).await
    }

    /// Compares the publication with the configuration.
    ///
    /// # Errors
    /// Fails if the catalogue cannot be read.
    pub async fn publication(&self) -> Result<PublicationState, CaptureError> {
        own_publication::state(self).await
    }

    /// Returns the present identity of the publication; `None` if there is none.
    ///
    /// # Errors
    /// Fails if the catalogue cannot be read.
    pub async fn publication_identity(&self) -> Result<Option<PublicationIdentity>, CaptureError> {
        publication::identity(&*self.session().await?, &self.config.publication, self.server.capabilities).await
    }

    /// Returns the entry of each table in the publication's list, as its version contains it. Empty if the publication
    /// is one of all tables or of a schema.
    ///
    /// # Errors
    /// Fails if the catalogue cannot be read.
    pub async fn publication_entries(&self) -> Result<BTreeMap<TableName, String>, CaptureError> {
        publication::entries(&*self.session().await?, &self.config.publication).await
    }

    /// Returns the present name of the publication with this [version](PublicationIdentity::version); `None` if it is gone.
    ///
    /// # Errors
    /// Fails if the catalogue cannot be read.
    pub async fn publication_called(&self, version: &str) -> Result<Option<String>, CaptureError> {
        publication::called(&*self.session().await?, version).await
    }

    /// Creates the publication for exactly the configured tables, if it is missing.
    ///
    /// # Errors
    /// Returns `E_PUBLICATION` if it exists with other contents, with the difference and the SQL that removes it;
    /// `E_RIGHTS` if the role may not create it.
    pub async fn ensure_publication(&self) -> Result<(), CaptureError> {
        own_publication::ensure(self).await
    }

    /// Drops the publication, if this configuration has made it and nothing else can be using it.
    ///
    /// # Errors
    /// Fails if the server cannot be asked.
    pub async fn drop_publication(&self) -> Result<PublicationDrop, CaptureError> {
        publication::drop(&*self.session().await?, &self.config).await
    }

    /// Returns where the history of the server's present timeline left `timeline`; `None` if `timeline` is not one of
    /// its ancestors.
    ///
    /// # Errors
    /// Fails if the server cannot be asked.
    pub async fn timeline_left_at(&self, timeline: u32) -> Result<Option<Lsn>, CaptureError> {
        timeline::left_at(self, timeline).await
    }

    /// Returns the configured tables whose updates and deletes by the application PostgreSQL refuses, because they are
    /// published.
    ///
    /// # Errors
    /// Fails if the server cannot be asked.
    pub async fn breaking(&self) -> Result<Vec<TableName>, CaptureError> {
        own_publication::breaking(self).await
    }

    /// Removes tables from a publication that this configuration has made, if PostgreSQL refuses the application's updates and
    /// deletes of them because they are published: tables that have lost their key, for example. Returns these tables.
    ///
    /// # Errors
    /// Fails if the server cannot be asked, or a lock is not released in time.
    pub async fn unpublish_what_breaks(&self) -> Result<Vec<TableName>, CaptureError> {
        own_publication::unpublish_what_breaks(self).await
    }

    /// Makes a publication that this configuration has made send all columns of a table again, if PostgreSQL refuses
    /// the application's updates and deletes because the column list no longer contains the replica identity. Returns
    /// whether it did.
    ///
    /// # Errors
    /// Returns the errors of [`mend_publication`](Self::mend_publication).
    pub async fn widen_publication(&self) -> Result<bool, CaptureError> {
        own_publication::widen(self).await
    }

    /// Makes a publication that this configuration has made match the configuration again, after it was altered, or
    /// after another table has taken over the name of a published one. Returns whether it did. A publication that this
    /// configuration has not made, or may not alter, is left alone.
    ///
    /// # Errors
    /// Fails if the server cannot be asked, or a lock is not released in time.
    pub async fn mend_publication(&self) -> Result<bool, CaptureError> {
        own_publication::mend(self).await
    }

    /// Returns the state of the slot.
    ///
    /// # Errors
    /// Returns `E_CONFIG` if the slot belongs to another program.
    pub async fn slot(&self) -> Result<SlotState, CaptureError> {
        slot::state(&*self.session().await?, &self.config.slot).await
    }

    /// Returns the warning for a slot whose WAL the server may drop.
    #[must_use]
    pub fn slot_at_risk(&self) -> Finding {
        preflight::at_risk(&self.config.slot)
    }

    /// Drops the slot. A missing slot is not an error.
    ///
    /// # Errors
    /// Returns `E_SLOT_BUSY` if another process reads from it.
    pub async fn drop_slot(&self) -> Result<(), CaptureError> {
        slot::drop(&*self.session().await?, &self.config.slot).await
    }

    /// Returns the server's position, and how much WAL it keeps because of the slot.
    ///
    /// # Errors
    /// Fails if the question cannot be asked.
    pub async fn server_position(&self) -> Result<ServerPosition, CaptureError> {
        slot::server_position(&*self.session().await?, &self.config.slot).await
    }

    /// Returns the open transactions that the creation of a slot is waiting for. Empty if no slot is being created, or
    /// as long as its creation takes no longer than usual.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<Blocker> {
        self.waiting.now()
    }

    /// Creates the slot, and starts to copy the tables as they were at its consistent point.
    ///
    /// Before it answers, the server waits for every open transaction. Transactions that keep it waiting are logged,
    /// and are returned by [`waiting_for`](Self::waiting_for).
    ///
    /// # Errors
    /// Returns `E_SLOT_EXISTS` if the slot already exists, and the errors of [`tables`](Self::tables).
    pub async fn begin_snapshot(&self) -> Result<Snapshot, CaptureError> {
        Box::pin(snapshot::begin(self)).await
    }

    /// Reads rows of one table again, as of the consistent point of a temporary slot. This gives them a place among the
    /// changes of the stream, while a plain SELECT may not see yet what the stream has already brought.
    ///
    /// Before it answers, the server waits for every open transaction, as in [`begin_snapshot`](Self::begin_snapshot).
    ///
    /// # Errors
    /// Returns `E_CONFIG` if the condition is not valid, `E_TABLE` if the table is not configured, and the errors of
    /// [`tables`](Self::tables).
    pub async fn begin_reread(&self, table: &TableName, rows: &Selection) -> Result<Snapshot, CaptureError> {
        Box::pin(snapshot::reread(self, table, rows)).await
    }

    /// Opens the stream of changes at the slot's position.
    ///
    /// # Errors
    /// Returns `E_SLOT_MISSING`, `E_SLOT_LOST`, or `E_SLOT_BUSY` if another process reads from the slot.
    pub async fn open_stream(&self) -> Result<ChangeStream, CaptureError> {
        stream::open(self, HashMap::new()).await
    }

    /// Opens the stream of changes at the slot's position, without changes of these tables that were committed before
    /// the given positions: the tables were or will be read whole, as of that position or later. At the time of such a
    /// change, their columns and keys may have been different.
    ///
    /// # Errors
    /// Returns the errors of [`open_stream`](Self::open_stream).
    pub async fn open_stream_passing(&self, passed: HashMap<TableName, Lsn>) -> Result<ChangeStream, CaptureError> {
        stream::open(self, passed).await
    }

    /// Reads rows again by their keys, for values that an UPDATE did not send. The values have the form that they have
    /// in the stream, but are current, so they may be newer. Rows that are gone, or that the row filter hides, are left
    /// out. A row that does not fit into a message of the server (1 GB) comes with only its key; everything else is
    /// [unchanged](walvec_model::Cell::Unchanged).
    ///
    /// # Errors
    /// Returns `E_ALTERED` if the table no longer has the columns of `table`.
    pub async fn fetch_rows(&self, table: &Table, keys: &[RowKey]) -> Result<Vec<(RowKey, Row)>, CaptureError> {
        fetch::rows(self, table, keys).await
    }

    /// Reads the first rows of a table: at most `most`, and fewer if they are large.
    ///
    /// # Errors
    /// Returns the errors of [`fetch_rows`](Self::fetch_rows).
    pub async fn sample_rows(&self, table: &Table, most: usize) -> Result<Vec<Row>, CaptureError> {
        sample_rows::rows(self, table, most).await
    }

    /// Returns the server's position when rows were last read by [`fetch_rows`](Self::fetch_rows), [`look_up`](Self::look_up)
    /// or [`related_keys`](Self::related_keys). These rows may come from a transaction that the stream has not brought yet.
    #[must_use]
    pub fn read_as_of(&self) -> Lsn {
        self.catalog.read_as_of()
    }
}
