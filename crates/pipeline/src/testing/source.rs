//! A source and a stream that bring what the test gives them, and remember what was confirmed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use tokio::sync::{mpsc, watch};
use walvec_capture::{CaptureError, KeyPage, Related, Selection};
use walvec_model::{Change, Lookup, Lsn, Position, Row, RowKey, StreamEvent, Table, TableName, Value};

use crate::port::{SnapshotPort, SourceAnswer, SourcePort, StreamPort};

/// How many reads may wait in a stream.
const WAITING: usize = 64;

/// The position of a reread, and what each of its reads yields.
type Reread = (Position, Vec<Result<Vec<Change>, CaptureError>>);

/// A source in memory; clones share it.
#[derive(Clone)]
pub(crate) struct TestSource(Arc<TestSourceState>);

struct TestSourceState {
    flushed: Mutex<Lsn>,
    rereads: mpsc::Sender<Reread>,
    next_reread: tokio::sync::Mutex<mpsc::Receiver<Reread>>,
    /// How many rereads have been asked for.
    asked: watch::Sender<usize>,
}

impl TestSource {
    pub(crate) fn new() -> Self {
        let (rereads, next_reread) = mpsc::channel(WAITING);
        let (flushed, asked) = (Mutex::default(), watch::Sender::default());
        Self(Arc::new(TestSourceState { flushed, rereads, next_reread: tokio::sync::Mutex::new(next_reread), asked }))
    }

    /// Sets the server's position.
    pub(crate) fn set_flushed(&self, lsn: Lsn) {
        *self.0.flushed.lock().unwrap() = lsn;
    }

    /// Lets a reread yield these reads, as of `position`. Until then it waits, as for an open transaction.
    pub(crate) fn reread(&self, position: Position, reads: Vec<Result<Vec<Change>, CaptureError>>) {
        self.0.rereads.try_send((position, reads)).unwrap();
    }

    /// Waits until a reread was asked for.
    pub(crate) async fn asked_to_reread(&self) {
        self.0.asked.subscribe().wait_for(|asked| *asked > 0).await.unwrap();
    }

    /// Returns the source as the pipeline knows it.
    pub(crate) fn port(&self) -> Arc<dyn SourcePort> {
        Arc::new(self.clone())
    }
}

fn now<'a, T: Send + 'a>(answer: Result<T, CaptureError>) -> SourceAnswer<'a, T> {
    std::future::ready(answer).boxed()
}

impl SourcePort for TestSource {
    fn flushed(&self) -> SourceAnswer<'_, Lsn> {
        now(Ok(*self.0.flushed.lock().unwrap()))
    }

    fn read_as_of(&self) -> Lsn {
        Lsn::ZERO
    }

    fn invisible<'a>(&'a self, _: &'a [u32]) -> SourceAnswer<'a, Vec<u32>> {
        now(Ok(Vec::new()))
    }

    fn never_begun<'a>(&'a self, _: &'a [u32]) -> SourceAnswer<'a, Vec<u32>> {
        now(Ok(Vec::new()))
    }

    fn fetch_rows<'a>(&'a self, _: &'a Table, _: &'a [RowKey]) -> SourceAnswer<'a, Vec<(RowKey, Row)>> {
        now(Ok(Vec::new()))
    }

    fn look_up<'a>(
        &'a self,
        _: &'a TableName,
        _: &'a Lookup,
        _: &'a [RowKey],
    ) -> SourceAnswer<'a, Vec<(usize, Value)>> {
        now(Ok(Vec::new()))
    }

    fn related_keys<'a>(
        &'a self,
        _: &'a TableName,
        _: &'a Lookup,
        _: &'a Related<'a>,
        _: KeyPage<'a>,
    ) -> SourceAnswer<'a, Vec<RowKey>> {
        now(Ok(Vec::new()))
    }

    fn estimate_rows(&self) -> SourceAnswer<'_, Vec<(TableName, u64)>> {
        now(Ok(Vec::new()))
    }

    fn begin_reread<'a>(&'a self, _: &'a TableName, _: &'a Selection) -> SourceAnswer<'a, Box<dyn SnapshotPort>> {
        self.0.asked.send_modify(|asked| *asked += 1);
        async {
            let (position, reads) = self.0.next_reread.lock().await.recv().await.ok_or(CaptureError::Closed)?;
            Ok(Box::new(TestSnapshot { position, reads: reads.into() }) as Box<dyn SnapshotPort>)
        }
        .boxed()
    }
}

struct TestSnapshot {
    position: Position,
    reads: VecDeque<Result<Vec<Change>, CaptureError>>,
}

impl SnapshotPort for TestSnapshot {
    fn position(&self) -> Position {
        self.position
    }

    fn next(&mut self) -> SourceAnswer<'_, Option<Vec<Change>>> {
        now(self.reads.pop_front().transpose())
    }

    fn close(self: Box<Self>) -> SourceAnswer<'static, ()> {
        now(Ok(()))
    }
}

/// The test's end of a stream.
pub(crate) struct TestServer {
    events: mpsc::Sender<Result<Vec<StreamEvent>, CaptureError>>,
    confirmed: watch::Receiver<Vec<Lsn>>,
}

/// The pipeline's end of a stream.
pub(crate) struct TestStream {
    events: mpsc::Receiver<Result<Vec<StreamEvent>, CaptureError>>,
    confirmed: watch::Sender<Vec<Lsn>>,
}

/// Opens a stream.
pub(crate) fn stream() -> (TestServer, Box<dyn StreamPort>) {
    let (events_in, events) = mpsc::channel(WAITING);
    let (confirmed_in, confirmed) = watch::channel(Vec::new());
    (TestServer { events: events_in, confirmed }, Box::new(TestStream { events, confirmed: confirmed_in }))
}

impl TestServer {
    /// Sends what one read brings.
    pub(crate) async fn send(&self, events: Vec<StreamEvent>) {
        self.events.send(Ok(events)).await.unwrap();
    }

    /// Ends the stream with an error.
    pub(crate) async fn fail(&self, error: CaptureError) {
        self.events.send(Err(error)).await.unwrap();
    }

    /// Waits until `lsn` is confirmed.
    pub(crate) async fn confirmed(&mut self, lsn: Lsn) {
        self.confirmed.wait_for(|confirmed| confirmed.last() == Some(&lsn)).await.unwrap();
    }

    /// Returns the highest position that was confirmed.
    pub(crate) fn highest(&self) -> Lsn {
        self.confirmed.borrow().iter().copied().max().unwrap_or_default()
    }
}

impl StreamPort for TestStream {
    fn next(&mut self) -> SourceAnswer<'_, Vec<StreamEvent>> {
        self.events.recv().map(|events| events.unwrap_or(Err(CaptureError::Closed))).boxed()
    }

    fn confirm(&self, lsn: Lsn) {
        self.confirmed.send_modify(|confirmed| confirmed.push(lsn));
    }

    fn close(self: Box<Self>) -> SourceAnswer<'static, ()> {
        now(Ok(()))
    }
}
