//! The server, its tables and slots.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio_postgres::Client;
use walvec_throwaway::{Cluster, ClusterOptions, Installation, SearchPlaces};

/// The publication of the measured table.
pub(crate) const PUBLICATION: &str = "bench";
/// The measured table: 250 bytes a row.
pub(crate) const TABLE: &str = "bench";

/// A server to measure against, configured as in production: durable, with room for a large backlog.
pub(crate) struct Workbench {
    pub(crate) cluster: Cluster,
    bin: PathBuf,
}

impl Workbench {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts a server with further settings.
    pub(crate) async fn start_with(further: &[(&str, &str)]) -> anyhow::Result<Self> {
        let installation = Installation::find(&SearchPlaces::from_env())?;
        let bin = installation.bin().to_owned();
        let mut options = ClusterOptions::new(installation);
        let settings = [("max_replication_slots", "32"), ("max_wal_senders", "16"), ("max_wal_size", "8GB")];
        let all = settings.iter().chain(further);
        options.settings = all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Ok(Self { cluster: Cluster::start(options).await?, bin })
    }

    pub(crate) fn version(&self) -> String {
        self.cluster.version().to_string()
    }

    pub(crate) async fn close(self) -> anyhow::Result<()> {
        Ok(self.cluster.close().await?)
    }

    /// Creates a database with an empty, published table.
    pub(crate) async fn database(&self, name: &str) -> anyhow::Result<Database<'_>> {
        let url = self.cluster.create_database(name).await?;
        let client = self.cluster.connect(name).await?;
        let create = format!(
            "CREATE TABLE {TABLE} (id bigint PRIMARY KEY, name text NOT NULL, price integer NOT NULL, body text NOT NULL);
             CREATE PUBLICATION {PUBLICATION} FOR TABLE {TABLE} WITH (publish_via_partition_root = true)"
        );
        client.batch_execute(&create).await?;
        Ok(Database { workbench: self, name: name.to_owned(), url, client })
    }
}

/// One database of the server.
pub(crate) struct Database<'a> {
    workbench: &'a Workbench,
    name: String,
    pub(crate) url: String,
    pub(crate) client: Client,
}

impl Database<'_> {
    pub(crate) async fn create_slot(&self, slot: &str) -> anyhow::Result<()> {
        let query = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
        self.client.execute(query, &[&slot]).await?;
        Ok(())
    }

    /// Inserts `rows` rows, `per_transaction` at a time, and returns the position after them.
    pub(crate) async fn insert(&self, rows: u64, per_transaction: u64) -> anyhow::Result<String> {
        let mut from = 1;
        while from <= rows {
            let to = (from + per_transaction - 1).min(rows);
            let insert = format!(
                "INSERT INTO {TABLE} SELECT i, 'name ' || i, i % 1000, repeat(md5(i::text), 7) \
                 FROM generate_series({from}, {to}) i"
            );
            self.client.batch_execute(&insert).await?;
            from = to + 1;
        }
        // No reader should have to wait for a checkpoint or read from a cold cache.
        self.client.batch_execute(&format!("VACUUM ANALYZE {TABLE}")).await?;
        self.client.batch_execute("CHECKPOINT").await?;
        Ok(self.client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?.get(0))
    }

    /// Drops the database and its slots.
    pub(crate) async fn drop(self) -> anyhow::Result<()> {
        let slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                     WHERE database = current_database() AND NOT active";
        self.client.query(slots, &[]).await?;
        drop(self.client);
        Ok(self.workbench.cluster.drop_database(&self.name).await?)
    }

    /// Returns how long one of PostgreSQL's own programs takes; its output is discarded.
    pub(crate) async fn time(&self, program: &str, arguments: &[&str]) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let status = tokio::process::Command::new(self.workbench.bin.join(program))
            .arg(format!("--dbname={}", self.url))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .await
            .with_context(|| program.to_owned())?;
        ensure!(status.success(), "{program} {arguments:?}: {status}");
        Ok(began.elapsed())
    }
}
