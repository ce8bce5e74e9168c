//! The context of a test: its database, its directory, and ways to start walvec.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use tokio_postgres::Client;
use walvec_model::Lsn;
use walvec_test_program::wait::Pauses;
use walvec_test_program::{CONFIGURATION, Start, Walvec, wal_position};
use walvec_throwaway::{Cluster, ClusterDir};

use crate::{Server, Settings};

/// Returns a name for a database that no other test of this run has.
pub(crate) fn next_database() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A database of the test's own, empty at first, and a directory; both are removed when the test ends.
#[derive(Debug)]
pub struct TestContext {
    /// The server under test, which knows what its version supports.
    pub server: Arc<Server>,
    /// A session of the superuser in the test's database.
    pub sql: Client,
    cluster: Arc<Cluster>,
    database: String,
    directory: PathBuf,
}

impl TestContext {
    pub(crate) async fn new(
        server: Arc<Server>,
        cluster: Arc<Cluster>,
        database: &str,
        directory: &Path,
    ) -> Result<Self> {
        let sql = cluster.connect(database).await?;
        Ok(Self { server, sql, cluster, database: database.to_owned(), directory: directory.to_owned() })
    }

    /// The cluster that the database is in. Only a test [on its own server](crate::Test::on_own_server) may stop or
    /// kill it.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Returns a copy of the cluster as it is now, on a port of its own; with `is_standby` the copy follows the cluster
    /// as a standby. Stops the cluster for a moment, so only a test [on its own server](crate::Test::on_own_server) may
    /// call it.
    ///
    /// # Errors
    /// If the files cannot be copied, or a server does not start.
    pub async fn copy_cluster(&self, is_standby: bool, settings: &[(&str, &str)]) -> Result<Cluster> {
        self.cluster.stop_fast().await?;
        let data_dir = ClusterDir::Copy { of: self.cluster.directory().to_owned(), is_standby };
        let copy = self.server.cluster_in(data_dir, settings).await;
        self.cluster.start_again().await?;
        copy
    }

    /// Uses another cluster from now on, which has a copy of the test's database.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn turn_to(&mut self, cluster: &Cluster) -> Result<()> {
        self.sql = cluster.connect(&self.database).await?;
        Ok(())
    }

    /// The name of the test's database.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Creates another database on the same server. Returns its URL for walvec, and a session in it.
    ///
    /// # Errors
    /// If the server refuses, or does not answer.
    pub async fn create_another_database(&self) -> Result<(String, Client)> {
        let other = self.another_database();
        self.execute(&format!("CREATE DATABASE {other}")).await?;
        let url = self.url().replace(&format!("/{}", self.database), &format!("/{other}"));
        Ok((url, self.cluster.connect(&other).await?))
    }

    /// Drops what [`create_another_database`](Self::create_another_database) has created and ends its sessions.
    ///
    /// # Errors
    /// If the server refuses, or does not answer.
    pub async fn drop_another_database(&self) -> Result<()> {
        self.execute(&format!("DROP DATABASE {} WITH (FORCE)", self.another_database())).await
    }

    fn another_database(&self) -> String {
        format!("{}_other", self.database)
    }

    /// Opens another session in the test's database.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn connect(&self) -> Result<Client> {
        Ok(self.cluster.connect(&self.database).await?)
    }

    /// Connects [`sql`](Self::sql) again, after the server was down.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn reconnect(&mut self) -> Result<()> {
        self.sql = self.connect().await?;
        Ok(())
    }

    /// Runs statements.
    ///
    /// # Errors
    /// The server's.
    pub async fn execute(&self, statements: &str) -> Result<()> {
        Ok(self.sql.batch_execute(statements).await?)
    }

    /// Returns the database's URL for the superuser.
    #[must_use]
    pub fn url(&self) -> String {
        self.cluster.url(&self.database)
    }

    /// Returns the name of the replication slot that [`start`](Self::start) configures. Slots belong to the whole
    /// cluster, so every test has its own.
    #[must_use]
    pub fn slot(&self) -> &str {
        &self.database
    }

    /// The directory of walvec.yaml and of the logs.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The data directory of the program.
    #[must_use]
    pub fn data_directory(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// The WAL position that is safe on the server's disk: everything committed so far lies before it.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn wal_position(&self) -> Result<Lsn> {
        wal_position(&self.sql).await
    }

    /// Writes walvec.yaml, starts `walvec run`, and waits until its API answers.
    ///
    /// # Errors
    /// If the program ends instead; the error has its log.
    pub async fn start(&self, settings: &Settings) -> Result<Walvec> {
        self.configure(settings)?;
        self.start_as(&["run"], &self.data_directory()).await
    }

    /// Writes walvec.yaml, starts `walvec run`, and waits until it has crashed at a failpoint: `failpoints` as the crate `fail`
    /// reads them, e.g. `written=3*off->return` for the fourth time.
    ///
    /// # Errors
    /// If the program ends in another way, or does not reach the failpoint.
    pub async fn crash(&self, settings: &Settings, failpoints: &str) -> Result<()> {
        self.configure(settings)?;
        walvec_test_program::crash(&self.directory, failpoints).await
    }

    /// Writes walvec.yaml, starts `walvec run` with failpoints, as the crate `fail` reads them, and waits until its API
    /// answers.
    ///
    /// # Errors
    /// If the program ends instead; the error has its log.
    pub async fn start_with_failpoints(&self, settings: &Settings, failpoints: &str) -> Result<Walvec> {
        self.configure(settings)?;
        self.spawn(&["run"], &self.data_directory(), failpoints).await
    }

    /// Writes `configuration` as walvec.yaml, starts `walvec run` and waits until its API answers. State goes into `data`.
    ///
    /// # Errors
    /// If the program ends instead; the error has its log.
    pub async fn start_with(&self, configuration: &str) -> Result<Walvec> {
        std::fs::write(self.directory.join(CONFIGURATION), configuration)?;
        self.start_as(&["run"], &self.data_directory()).await
    }

    /// Starts the program with these arguments, which make it keep its state in `state`, and waits until its API answers.
    ///
    /// # Errors
    /// If the program ends instead; the error has its log.
    pub async fn start_as(&self, arguments: &[&str], state: &Path) -> Result<Walvec> {
        self.spawn(arguments, state, "").await
    }

    /// Writes walvec.yaml, starts `walvec run --stage <stage> --instance <instance>`, and waits until its API answers.
    ///
    /// # Errors
    /// If the program ends instead; the error has its log.
    pub async fn start_stage(&self, settings: &Settings, stage: &str, instance: &str) -> Result<Walvec> {
        self.start_stage_with_failpoints(settings, stage, instance, "").await
    }

    /// Starts a stage like [`start_stage`](Self::start_stage), with failpoints, as the crate `fail` reads them.
    ///
    /// # Errors
    /// If the program ends instead; the error has its log.
    pub async fn start_stage_with_failpoints(
        &self,
        settings: &Settings,
        stage: &str,
        instance: &str,
        failpoints: &str,
    ) -> Result<Walvec> {
        self.configure(settings)?;
        let state = self.stage_directory(settings, stage, instance);
        self.spawn(&["run", "--stage", stage, "--instance", instance], &state, failpoints).await
    }

    async fn spawn(&self, arguments: &[&str], state: &Path, failpoints: &str) -> Result<Walvec> {
        let (directory, variables) = (self.directory.as_path(), &[("FAILPOINTS", failpoints)]);
        Walvec::start(&Start { directory, arguments, state, variables, pauses: Pauses::OF_TESTS }).await
    }

    /// Returns the directory in which a process of a stage keeps its state.
    #[must_use]
    pub fn stage_directory(&self, settings: &Settings, stage: &str, instance: &str) -> PathBuf {
        walvec_test_program::stage_directory(&self.data_directory(), stage, instance, settings.has_qdrant_server())
    }

    /// Writes walvec.yaml without starting anything.
    ///
    /// # Errors
    /// The file system's.
    pub fn configure(&self, settings: &Settings) -> Result<()> {
        let text = settings.render(&self.url(), self.slot());
        let path = self.directory.join(CONFIGURATION);
        // Another process that is starting may be reading the file.
        if std::fs::read_to_string(&path).is_ok_and(|written| written == text) {
            return Ok(());
        }
        Ok(std::fs::write(path, text)?)
    }

    /// Runs a command of the program to its end, e.g. `["status", "--json"]`, in the directory of walvec.yaml.
    ///
    /// # Errors
    /// If it cannot be started, or does not end in time.
    pub async fn walvec(&self, arguments: &[&str]) -> Result<Output> {
        walvec_test_program::run(&self.directory, arguments).await
    }

    /// Runs a command of the program with a closed pipe as its stdout.
    ///
    /// # Errors
    /// If the command cannot be started, or does not end in time.
    pub async fn walvec_unread(&self, arguments: &[&str]) -> Result<Output> {
        walvec_test_program::run_unread(&self.directory, arguments).await
    }
}

impl AsRef<Client> for TestContext {
    fn as_ref(&self) -> &Client {
        &self.sql
    }
}
