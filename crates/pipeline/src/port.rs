//! What a running pipeline asks of PostgreSQL: the ports behind which a test can put a script.
//!
//! [`Source`], [`ChangeStream`] and [`Snapshot`] stand behind them otherwise. What sets a session up (preflight, the
//! publication, tables that are set aside) uses `Source` itself: it runs before the first row is read.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use walvec_capture::{CaptureError, ChangeStream, KeyPage, Related, Selection, Snapshot, Source};
use walvec_model::{Change, Lookup, Lsn, Position, Row, RowKey, StreamEvent, Table, TableName, Value};

/// The answer to a question to PostgreSQL.
pub(crate) type SourceAnswer<'a, T> = BoxFuture<'a, Result<T, CaptureError>>;

/// The database whose tables are followed. All methods may be called at any time and concurrently.
///
/// The rows of [`fetch_rows`](Self::fetch_rows), [`look_up`](Self::look_up) and [`related_keys`](Self::related_keys) are
/// current: they may be newer than anything that the stream has brought.
pub(crate) trait SourcePort: Send + Sync {
    /// Returns the end of the server's WAL on disk.
    fn flushed(&self) -> SourceAnswer<'_, Lsn>;

    /// Returns the server's position when rows were last read, which may come from a transaction that the stream has
    /// not brought yet.
    fn read_as_of(&self) -> Lsn;

    /// Returns those of these committed transactions that a statement cannot see yet.
    fn invisible<'a>(&'a self, xids: &'a [u32]) -> SourceAnswer<'a, Vec<u32>>;

    /// Returns those of these transactions that the server has never begun.
    fn never_begun<'a>(&'a self, xids: &'a [u32]) -> SourceAnswer<'a, Vec<u32>>;

    /// Reads the rows of `table` with these keys. Rows that are gone are left out.
    fn fetch_rows<'a>(&'a self, table: &'a Table, keys: &'a [RowKey]) -> SourceAnswer<'a, Vec<(RowKey, Row)>>;

    /// Reads the rows that rows of `main` with the values `wanted` look up, each with the index of its value.
    fn look_up<'a>(
        &'a self,
        main: &'a TableName,
        lookup: &'a Lookup,
        wanted: &'a [RowKey],
    ) -> SourceAnswer<'a, Vec<(usize, Value)>>;

    /// Returns a page of the keys of the rows of `main` that look something up in the changed rows.
    fn related_keys<'a>(
        &'a self,
        main: &'a TableName,
        lookup: &'a Lookup,
        changed: &'a Related<'a>,
        page: KeyPage<'a>,
    ) -> SourceAnswer<'a, Vec<RowKey>>;

    /// Returns about how many rows each table has; 0 where that is unknown.
    fn estimate_rows(&self) -> SourceAnswer<'_, Vec<(TableName, u64)>>;

    /// Begins to read rows of one table again, as of a position among the changes of the stream.
    fn begin_reread<'a>(&'a self, table: &'a TableName, rows: &'a Selection)
    -> SourceAnswer<'a, Box<dyn SnapshotPort>>;
}

/// A running stream of changes, in commit order.
pub(crate) trait StreamPort: Send + Sync {
    /// Waits for the next events, at least one. Dropping the future loses nothing. Any error ends the stream.
    fn next(&mut self) -> SourceAnswer<'_, Vec<StreamEvent>>;

    /// Lets the server forget everything before `lsn`: the end of a transaction, or the server's position while nothing
    /// is in flight. Everything up to it must be durable. A lower position than before has no effect.
    fn confirm(&self, lsn: Lsn);

    /// Ends the stream. Afterwards the server has the last confirmed position.
    fn close(self: Box<Self>) -> SourceAnswer<'static, ()>;
}

/// A copy of rows as they were at one position.
pub(crate) trait SnapshotPort: Send + Sync {
    /// Returns the version of the copied rows.
    fn position(&self) -> Position;

    /// Returns the next rows, as inserts into one table; `None` at the end. If a table was rewritten during the
    /// copy, it is copied once more: first comes a truncate, then all rows, with the position of the truncate.
    fn next(&mut self) -> SourceAnswer<'_, Option<Vec<Change>>>;

    /// Stops the copy.
    fn close(self: Box<Self>) -> SourceAnswer<'static, ()>;
}

impl SourcePort for Source {
    fn flushed(&self) -> SourceAnswer<'_, Lsn> {
        async { Ok(self.server_position().await?.flushed) }.boxed()
    }

    fn read_as_of(&self) -> Lsn {
        Self::read_as_of(self)
    }

    fn invisible<'a>(&'a self, xids: &'a [u32]) -> SourceAnswer<'a, Vec<u32>> {
        Self::invisible(self, xids).boxed()
    }

    fn never_begun<'a>(&'a self, xids: &'a [u32]) -> SourceAnswer<'a, Vec<u32>> {
        Self::never_begun(self, xids).boxed()
    }

    fn fetch_rows<'a>(&'a self, table: &'a Table, keys: &'a [RowKey]) -> SourceAnswer<'a, Vec<(RowKey, Row)>> {
        Self::fetch_rows(self, table, keys).boxed()
    }

    fn look_up<'a>(
        &'a self,
        main: &'a TableName,
        lookup: &'a Lookup,
        wanted: &'a [RowKey],
    ) -> SourceAnswer<'a, Vec<(usize, Value)>> {
        Self::look_up(self, main, lookup, wanted).boxed()
    }

    fn related_keys<'a>(
        &'a self,
        main: &'a TableName,
        lookup: &'a Lookup,
        changed: &'a Related<'a>,
        page: KeyPage<'a>,
    ) -> SourceAnswer<'a, Vec<RowKey>> {
        Self::related_keys(self, main, lookup, changed, page).boxed()
    }

    fn estimate_rows(&self) -> SourceAnswer<'_, Vec<(TableName, u64)>> {
        Self::estimate_rows(self).boxed()
    }

    fn begin_reread<'a>(
        &'a self,
        table: &'a TableName,
        rows: &'a Selection,
    ) -> SourceAnswer<'a, Box<dyn SnapshotPort>> {
        async move { Ok(Box::new(Self::begin_reread(self, table, rows).await?) as Box<dyn SnapshotPort>) }.boxed()
    }
}

impl StreamPort for ChangeStream {
    fn next(&mut self) -> SourceAnswer<'_, Vec<StreamEvent>> {
        Self::next(self).boxed()
    }

    fn confirm(&self, lsn: Lsn) {
        Self::confirm(self, lsn);
    }

    fn close(self: Box<Self>) -> SourceAnswer<'static, ()> {
        Self::close(*self).boxed()
    }
}

impl SnapshotPort for Snapshot {
    fn position(&self) -> Position {
        Self::position(self)
    }

    fn next(&mut self) -> SourceAnswer<'_, Option<Vec<Change>>> {
        Self::next(self).boxed()
    }

    fn close(self: Box<Self>) -> SourceAnswer<'static, ()> {
        Self::close(*self).boxed()
    }
}
