//! Rows that are read again by their keys, and rows that other rows look up, from a PostgreSQL server.

use std::sync::Arc;

use tokio::sync::Mutex;
use walvec_capture::{CaptureError, Source, SourceConfig, Unfit};
use walvec_model::{Lookup, Row, RowKey, Table, TableName, Value};

use crate::error::PipelineError;
use crate::port::SourcePort;
use crate::shared::Shared;
use crate::source::aside;
use crate::source::unseen::Unseen;
use crate::writer::row_source::{Fetched, LookedUp, RowSource, RowsAnswer, arranged};

/// Reads from a source once its answers include what the stream has brought. A stop does not wait for an answer.
pub(crate) struct SourceRows<'a> {
    pub(crate) source: &'a dyn SourcePort,
    pub(crate) unseen: &'a Unseen,
    pub(crate) shared: &'a Shared,
}

impl SourceRows<'_> {
    /// Returns the rows of `table` with these keys that still exist, each with its key.
    pub(crate) async fn fetch(&self, table: &Table, keys: &[RowKey]) -> Result<Vec<(RowKey, Row)>, PipelineError> {
        let answer = async {
            self.unseen.seen(self.source, self.shared).await?;
            Ok(self.source.fetch_rows(table, keys).await?)
        };
        self.shared.or_stop(answer).await
    }
}

impl RowSource for SourceRows<'_> {
    fn rows<'a>(&'a self, table: &'a Table, keys: &'a [RowKey]) -> Option<Fetched<'a>> {
        Some(Box::pin(async move { Ok(RowsAnswer::Found(self.fetch(table, keys).await?)) }))
    }

    /// The result may be from before changes that the stream has brought: those changes render the row again.
    fn look_up<'a>(&'a self, main: &'a TableName, lookup: &'a Lookup, wanted: &'a [RowKey]) -> Option<LookedUp<'a>> {
        let found = async move { Ok(RowsAnswer::Found(self.source.look_up(main, lookup, wanted).await?)) };
        Some(Box::pin(self.shared.or_stop(found)))
    }
}

/// A source that is connected when it is first needed. A worker behind a broker needs none as long as no large value is
/// left out of an update.
pub(crate) struct LazyRowSource {
    config: Option<SourceConfig>,
    source: Mutex<Option<Arc<Source>>>,
    shared: Shared,
    /// The transactions of the records that are being processed.
    pub(crate) unseen: Unseen,
}

impl LazyRowSource {
    pub(crate) fn new(config: Option<SourceConfig>, shared: &Shared) -> Self {
        Self { config, source: Mutex::default(), shared: shared.clone(), unseen: Unseen::default() }
    }

    async fn connected(&self, config: &SourceConfig) -> Result<Arc<Source>, PipelineError> {
        let mut source = self.source.lock().await;
        if let Some(source) = &*source {
            return Ok(Arc::clone(source));
        }
        let connected = Source::connect(config.clone()).await?;
        // Set aside what cannot be followed. Capture sends nothing of these tables either.
        let mut unfit = connected.unfit().await?;
        unfit.retain(Unfit::is_lost);
        let connected = if connected.has_others_than(&unfit) { connected.setting_aside(unfit) } else { connected };
        Ok(Arc::clone(source.insert(Arc::new(connected))))
    }

    /// Returns the primary. A standby may not have replayed the change that is read for, and cannot tell.
    async fn primary(&self, config: &SourceConfig) -> Result<Arc<Source>, PipelineError> {
        let source = self.connected(config).await?;
        if source.server().in_recovery {
            *self.source.lock().await = None;
            let (wanted, found) = ("primary", "it is a standby");
            return Err(CaptureError::OtherTarget { server: source.address(), wanted, found }.into());
        }
        Ok(source)
    }

    /// Drops the connection to a server that cannot be reached any more: another of several hosts may be the primary by
    /// now.
    async fn or_let_go<T>(&self, answer: Result<T, PipelineError>) -> Result<T, PipelineError> {
        if answer.as_ref().is_err_and(PipelineError::is_unreachable_source) {
            *self.source.lock().await = None;
        }
        answer
    }

    /// Returns the followed tables as they are now, to check lookups against; none if no source is configured.
    pub(crate) async fn followed_tables(&self) -> Result<Vec<Arc<Table>>, PipelineError> {
        let Some(config) = &self.config else { return Ok(Vec::new()) };
        let source = self.connected(config).await?;
        if source.server().in_recovery {
            let reason = "source.url leads to a standby, which may be behind the changes that documents are rendered for; lookups \
                          need the primary server";
            return Err(CaptureError::Config { reason: reason.to_owned() }.into());
        }
        self.or_let_go(source.followed_tables().await.map_err(Into::into)).await
    }

    async fn look_up_now(
        &self,
        config: &SourceConfig,
        main: &TableName,
        lookup: &Lookup,
        wanted: &[RowKey],
    ) -> Result<Vec<(usize, Value)>, PipelineError> {
        let look_up = || async {
            let source = self.primary(config).await?;
            source.forget_shapes().await;
            let found = source.look_up(main, lookup, wanted).await;
            self.or_let_go(found.map_err(PipelineError::from)).await
        };
        let found = look_up().await;
        if !found.as_ref().is_err_and(aside::is_about_a_table) {
            return found;
        }
        // Another table may be lost. A new connection goes on without it, as capture does.
        *self.source.lock().await = None;
        look_up().await
    }

    async fn fetch(
        &self,
        config: &SourceConfig,
        table: &Table,
        keys: &[RowKey],
    ) -> Result<Vec<(RowKey, Row)>, PipelineError> {
        let source = self.primary(config).await?;
        // Another table may have taken over the name.
        source.forget_shapes().await;
        // A record does not contain the types of its columns, and without them they cannot be read.
        let Some(typed) = self.or_let_go(source.table(&table.name).await.map_err(Into::into)).await? else {
            let reason = "is not in the publication".to_owned();
            return Err(CaptureError::Table { table: table.name.clone(), reason }.into());
        };
        let typed = typed.reduced(|column| table.column_index(&column.name).is_some());
        let seeing = SourceRows { source: source.as_ref(), unseen: &self.unseen, shared: &self.shared };
        let rows = self.or_let_go(seeing.fetch(&typed, keys).await).await?;
        Ok(rows.into_iter().map(|(key, row)| (key, arranged(row, &typed, table))).collect())
    }
}

impl RowSource for LazyRowSource {
    fn rows<'a>(&'a self, table: &'a Table, keys: &'a [RowKey]) -> Option<Fetched<'a>> {
        let config = self.config.as_ref()?;
        Some(Box::pin(async move { asked(self.fetch(config, table, keys).await) }))
    }

    fn look_up<'a>(&'a self, main: &'a TableName, lookup: &'a Lookup, wanted: &'a [RowKey]) -> Option<LookedUp<'a>> {
        let config = self.config.as_ref()?;
        Some(Box::pin(async move { asked(self.look_up_now(config, main, lookup, wanted).await) }))
    }
}

/// Separates the errors that concern only the rows of one table, whose records are older than its end.
fn asked<T>(answer: Result<T, PipelineError>) -> Result<RowsAnswer<T>, PipelineError> {
    match answer {
        Ok(found) => Ok(RowsAnswer::Found(found)),
        Err(error) if matches!(error.code(), "E_TABLE" | "E_NO_KEY") => Ok(RowsAnswer::NoTable(error.to_string())),
        Err(error) => Err(error),
    }
}
