//! A separate database for every test, and helpers for what tests do.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio_postgres::Client;
use walvec_capture::{ChangeStream, Columns, Source, SourceConfig, TableSpec};
use walvec_model::{Change, Lsn, Op, Row, StreamEvent, TableName};
use walvec_throwaway::{Access, Cluster, ClusterOptions, Durability, Installation, SearchPlaces};

/// Far longer than anything takes. Only a test that would otherwise hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

/// Returns the cluster that all tests share.
pub(crate) async fn cluster() -> &'static Cluster {
    CLUSTER.get_or_init(|| start_cluster(&[])).await
}

/// Starts a cluster with its own settings.
pub(crate) async fn start_cluster(settings: &[(&str, &str)]) -> Cluster {
    let installation = Installation::find(&SearchPlaces::from_env()).expect("a PostgreSQL server");
    start(installation, settings).await
}

/// Starts a cluster of a major version, if this machine has that version.
pub(crate) async fn start_cluster_of(major: &str) -> Option<Cluster> {
    let installation = Installation::named(&SearchPlaces::from_env(), major).ok()?;
    Some(start(installation, &[]).await)
}

async fn start(installation: Installation, settings: &[(&str, &str)]) -> Cluster {
    let options = ClusterOptions {
        access: Access::Password,
        durability: Durability::Volatile,
        settings: settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..ClusterOptions::new(installation)
    };
    Cluster::start(options).await.expect("a cluster")
}

/// A test's own database.
pub(crate) struct Db {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) client: Client,
}

impl Db {
    /// Creates database `name` and runs `setup` in it.
    pub(crate) async fn new(name: &str, setup: &str) -> Self {
        let cluster = cluster().await;
        let url = cluster.create_database(name).await.expect("a database");
        let client = cluster.connect(name).await.expect("a connection");
        client.batch_execute(setup).await.expect("the setup");
        Self { name: name.to_owned(), url, client }
    }

    /// Returns the server's major version.
    pub(crate) async fn version() -> u32 {
        cluster().await.version().major
    }

    /// Returns the database's URL for another role.
    pub(crate) fn url_as(&self, role: &str, password: &str) -> String {
        let (_, place) = self.url.split_once('@').expect("a role in the URL");
        format!("postgres://{role}:{password}@{place}")
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Runs `sql` and returns the server's position after it.
    pub(crate) async fn run_to(&self, sql: &str) -> Lsn {
        self.run(sql).await;
        let row = self.client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap();
        row.get::<_, String>(0).parse().unwrap()
    }

    /// Returns settings for the tables `public.*`, with slot and publication named like the database.
    pub(crate) fn config(&self, tables: &[&str]) -> SourceConfig {
        SourceConfig {
            url: self.url.clone().into(),
            slot: self.name.clone(),
            publication: self.name.clone(),
            tables: tables.iter().map(|table| spec(table)).collect(),
            lookups: Vec::new(),
            copy_workers: 2,
        }
    }

    /// Returns a source whose publication exists.
    pub(crate) async fn source(&self, config: SourceConfig) -> Source {
        let source = Source::connect(config).await.expect("a source");
        source.ensure_publication().await.expect("the publication");
        source
    }

    /// Returns a source whose snapshot was copied, with the rows, and the stream that follows them.
    pub(crate) async fn follow(&self, config: SourceConfig) -> (Source, Vec<Change>, ChangeStream) {
        let source = self.source(config).await;
        let rows = copy(&source).await;
        let stream = source.open_stream().await.expect("a stream");
        (source, rows, stream)
    }
}

pub(crate) fn spec(table: &str) -> TableSpec {
    TableSpec { name: TableName::new("public", table), filter: None, columns: Columns::All }
}

/// Copies everything.
pub(crate) async fn copy(source: &Source) -> Vec<Change> {
    let mut snapshot = source.begin_snapshot().await.expect("a snapshot");
    let mut rows = Vec::new();
    while let Some(chunk) = snapshot.next().await.expect("a chunk") {
        assert!(chunk.iter().all(|change| change.position == snapshot.position()));
        assert!(chunk.windows(2).all(|pair| pair[0].table == pair[1].table), "a chunk is of one table");
        rows.extend(chunk);
    }
    snapshot.close().await.expect("an orderly end");
    rows
}

/// Returns the next batch, or fails the test.
pub(crate) async fn next(stream: &mut ChangeStream) -> Vec<StreamEvent> {
    let batch = tokio::time::timeout(PATIENCE, stream.next()).await.expect("events in time").expect("events");
    assert!(!batch.is_empty());
    batch
}

/// Returns all events until everything up to `lsn` was streamed.
pub(crate) async fn events_to(stream: &mut ChangeStream, lsn: Lsn) -> Vec<StreamEvent> {
    let mut events = Vec::new();
    loop {
        for event in next(stream).await {
            let reached = match &event {
                StreamEvent::Commit { end_lsn, .. } => *end_lsn,
                StreamEvent::Idle { wal_end } => *wal_end,
                StreamEvent::Begin { .. }
                | StreamEvent::Partition { .. }
                | StreamEvent::LookedUp(_)
                | StreamEvent::Change(_) => Lsn::ZERO,
            };
            events.push(event);
            if reached >= lsn {
                return events;
            }
        }
    }
}

/// Returns all changes until everything up to `lsn` was streamed.
pub(crate) async fn changes_to(stream: &mut ChangeStream, lsn: Lsn) -> Vec<Change> {
    let change = |event| match event {
        StreamEvent::Change(change) => Some(change),
        StreamEvent::Begin { .. }
        | StreamEvent::Partition { .. }
        | StreamEvent::LookedUp(_)
        | StreamEvent::Commit { .. }
        | StreamEvent::Idle { .. } => None,
    };
    events_to(stream, lsn).await.into_iter().filter_map(change).collect()
}

/// Returns changes in a form that is easy to compare: `+ {..}`, `~ {..}`, `~ 1 -> {..}`, `- 1`, `truncate`.
pub(crate) fn shown(changes: &[Change]) -> Vec<String> {
    changes.iter().map(show).collect()
}

fn show(change: &Change) -> String {
    let row = |row: &Row| {
        let cells = change.table.columns.iter().zip(&row.0);
        let cells = cells.map(|(column, cell)| {
            let value = cell.value().map_or("(unchanged)".to_owned(), ToString::to_string);
            format!("{}:{value}", column.name)
        });
        format!("{{{}}}", cells.collect::<Vec<_>>().join(" "))
    };
    match &change.op {
        Op::Insert { new } => format!("+ {}", row(new)),
        Op::Update { old_key: None, new } => format!("~ {}", row(new)),
        Op::Update { old_key: Some(key), new } => format!("~ {key} -> {}", row(new)),
        Op::Delete { key } => format!("- {key}"),
        Op::Truncate => "truncate".to_owned(),
    }
}

/// The rows that remain after every change was applied: key → row, per table.
#[derive(Default)]
pub(crate) struct Image(pub(crate) BTreeMap<(String, String), Row>);

impl Image {
    pub(crate) fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            let table = change.table.name.to_string();
            let key = change.key().map(|key| key.to_string());
            match (change.op, key) {
                (Op::Insert { new }, Some(key)) => {
                    let previous = self.0.insert((table, key.clone()), new);
                    assert!(previous.is_none(), "{key} came twice");
                }
                (Op::Update { old_key, new }, Some(key)) => {
                    if let Some(old_key) = old_key {
                        self.0.remove(&(table.clone(), old_key.to_string())).expect("the row that changed its key");
                    }
                    self.0.insert((table, key), new);
                }
                (Op::Delete { .. }, Some(key)) => {
                    self.0.remove(&(table, key)).expect("the row that was deleted");
                }
                (_, _) => self.0.retain(|(name, _), _| *name != table),
            }
        }
    }
}
