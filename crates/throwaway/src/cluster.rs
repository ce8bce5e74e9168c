//! A running cluster.

use std::fs::Permissions;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::statvfs;
use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::{Client, Config};

use crate::account::Account;
use crate::command::{command, output, run, words};
use crate::guard::{AtEnd, Guard};
use crate::layout::{Layout, SUPERUSER, check_major, is_running};
use crate::{ClusterDir, ClusterOptions, Durability, Installation, ThrowawayError, Version, Volume, sql};

/// How long a server may take to become ready, crash recovery included: far longer than a healthy one needs.
const START_TIMEOUT_SECONDS: &str = "60";

/// How long a fast stop may take. It waits for replication clients to read everything, and a client may hang.
const STOP_TIMEOUT_SECONDS: &str = "20";

/// How long the processes of a killed server may take to end.
const GONE_TIMEOUT: Duration = Duration::from_secs(20);

/// The file system in memory on Linux.
const MEMORY: &str = "/dev/shm";

/// How many bytes of it must be free. Several clusters with their WAL may be there at once.
const MEMORY_ROOM: u64 = 8 << 30;

/// How often another free port is tried when another program took the first one.
const PORT_TRIES: u32 = 5;

/// A PostgreSQL server for one program.
///
/// The server ends when this value is dropped, and also if this process ends in any other way, `kill -9` included;
/// temporary files are removed then. [`close`](Self::close) ends it without blocking; dropping blocks until the server
/// has stopped.
#[derive(Debug)]
pub struct Cluster {
    installation: Installation,
    account: Account,
    layout: Layout,
    port: u16,
    password: Option<String>,
    guard: Guard,
    /// What its files lie on. Fields are dropped in this order: a server whose files are gone could not be stopped.
    volumes: Mutex<Vec<Arc<Volume>>>,
}

impl Cluster {
    /// Starts a cluster, and creates it unless it was kept from before. Takes about two seconds, for a kept one less.
    ///
    /// # Errors
    /// If the directory cannot be used, or initdb or the server fails; the error has the end of the server's log.
    pub async fn start(options: ClusterOptions) -> Result<Self, ThrowawayError> {
        let account = Account::for_servers()?;
        let pg_ctl = options.installation.program("pg_ctl");
        let (layout, guard) = match &options.data_dir {
            ClusterDir::Temporary => temporary(&pg_ctl, &account, options.durability)?,
            ClusterDir::Copy { of, is_standby } => {
                let (layout, guard) = temporary(&pg_ctl, &account, options.durability)?;
                layout.copy(&Layout::new(of.clone()), &account, *is_standby).await?;
                (layout, guard)
            }
            ClusterDir::Kept(directory) => kept(directory, &options.installation, &account).await?,
        };
        if layout.made_by().is_none() {
            layout.initialise(&options.installation, &account, options.access, options.durability).await?;
        }
        let password = layout.password()?;
        let mut cluster = Self {
            installation: options.installation.clone(),
            account,
            layout,
            port: 0,
            password,
            guard,
            volumes: Mutex::default(),
        };
        cluster.start_on_port(&options).await?;
        tracing::debug!(version = %cluster.version(), port = cluster.port, "temporary PostgreSQL started");
        Ok(cluster)
    }

    async fn start_on_port(&mut self, options: &ClusterOptions) -> Result<(), ThrowawayError> {
        let mut tries = 1;
        loop {
            self.port = if options.port == 0 { free_port()? } else { options.port };
            self.layout.configure(&self.account, self.port, options.durability, &options.settings)?;
            match self.start_server().await {
                Err(ThrowawayError::Start { log_tail, .. })
                    if options.port == 0 && tries < PORT_TRIES && log_tail.contains("Address already in use") =>
                {
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    /// Starts the server and returns when it accepts connections.
    async fn start_server(&self) -> Result<(), ThrowawayError> {
        let earlier = self.layout.log_length();
        let mut start = self.pg_ctl("start");
        start.args(["-w", "-t", START_TIMEOUT_SECONDS, "-l"]).arg(&self.layout.log);
        let output = output(start).await?;
        if output.status.success() {
            return Ok(());
        }
        Err(ThrowawayError::Start {
            version: self.version(),
            output: words(&output),
            log: self.layout.log.clone(),
            log_tail: self.layout.log_tail(earlier),
        })
    }

    /// Starts the server again after a stop or a kill, on the same port, with the same data.
    ///
    /// # Errors
    /// If it does not start; the error has the end of the server's log.
    pub async fn start_again(&self) -> Result<(), ThrowawayError> {
        // A killed server's process must be reaped, and its children must notice and release its memory.
        let not_gone_yet = ["lock file \"postmaster.pid\" already exists", "pre-existing shared memory block"];
        let deadline = Instant::now() + GONE_TIMEOUT;
        loop {
            match self.start_server().await {
                Err(ThrowawayError::Start { log_tail, .. })
                    if not_gone_yet.iter().any(|words| log_tail.contains(words)) && Instant::now() < deadline => {}
                result => return result,
            }
        }
    }

    /// Stops the server with a fast shutdown: sessions are ended, and replication clients get the rest of the WAL.
    ///
    /// A client that does not read within 20 seconds is cut off. Stopping a stopped server is no error.
    ///
    /// # Errors
    /// If the server does not stop.
    pub async fn stop_fast(&self) -> Result<(), ThrowawayError> {
        if !is_running(&self.installation, &self.account, &self.layout.data).await? {
            return Ok(());
        }
        let mut stop = self.pg_ctl("stop");
        stop.args(["-m", "fast", "-t", STOP_TIMEOUT_SECONDS]);
        if run(stop).await.is_ok() { Ok(()) } else { self.stop_immediate().await }
    }

    /// Stops the server as a crash would: no checkpoint, and the next start replays the WAL.
    ///
    /// # Errors
    /// If the server does not stop, or does not run.
    pub async fn stop_immediate(&self) -> Result<(), ThrowawayError> {
        let mut stop = self.pg_ctl("stop");
        stop.args(["-m", "immediate"]);
        run(stop).await
    }

    /// Stops the server with a fast shutdown and starts it again.
    ///
    /// # Errors
    /// Those of the two steps.
    pub async fn restart(&self) -> Result<(), ThrowawayError> {
        self.stop_fast().await?;
        self.start_again().await
    }

    /// Kills the server's postmaster with SIGKILL, and returns when the port no longer accepts connections.
    ///
    /// # Errors
    /// If the server does not run.
    pub async fn kill(&self) -> Result<(), ThrowawayError> {
        let pid = self.postmaster()?;
        kill_process(pid, Signal::KILL).map_err(|error| ThrowawayError::io("kill")(error.into()))?;
        let deadline = Instant::now() + GONE_TIMEOUT;
        // The postmaster is not our child, so we cannot wait for its exit; but its exit closes the port.
        while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_ok() {
            if Instant::now() > deadline {
                return Err(ThrowawayError::StillThere { pid: pid.as_raw_nonzero().get() });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Returns the process id of the postmaster, from the first line of its pid file.
    fn postmaster(&self) -> Result<Pid, ThrowawayError> {
        let path = self.layout.data.join("postmaster.pid");
        let text = std::fs::read_to_string(&path).map_err(ThrowawayError::io(&*path))?;
        let pid = text.lines().next().and_then(|line| line.trim().parse().ok()).and_then(Pid::from_raw);
        pid.ok_or_else(|| ThrowawayError::io(path)(std::io::ErrorKind::InvalidData.into()))
    }

    /// Keeps a volume to which the server's files were moved mounted until the server has ended.
    pub fn lies_on(&self, volume: &Arc<Volume>) {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(volume));
    }

    /// Ends the cluster: stops the server, and removes temporary files.
    ///
    /// # Errors
    /// If waiting for the end failed.
    pub async fn close(self) -> Result<(), ThrowawayError> {
        let Self { mut guard, layout, .. } = self;
        // A task that fails has dropped the guard, which ends the cluster too.
        let ended = tokio::task::spawn_blocking(move || guard.end()).await.unwrap_or(Ok(()));
        ended.map_err(ThrowawayError::io(layout.base))
    }

    /// Returns `postgres://user:password@127.0.0.1:port/database`, for the superuser.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let password = self.password.as_ref().map(|password| format!(":{password}")).unwrap_or_default();
        format!("postgres://{SUPERUSER}{password}@127.0.0.1:{}/{}", self.port, percent_encoded(database))
    }

    /// Returns the command line that opens a prompt on `database`, ready to be copied into a terminal.
    #[must_use]
    pub fn psql_command(&self, database: &str) -> String {
        // Some servers come without a client; then any psql on the PATH will do.
        let psql = self.installation.program("psql");
        let psql = if psql.is_file() { psql } else { PathBuf::from("psql") };
        format!("{} '{}'", psql.display(), self.url(database))
    }

    /// Connects to `database` as the superuser.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn connect(&self, database: &str) -> Result<Client, ThrowawayError> {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).user(SUPERUSER).connect_timeout(Duration::from_secs(10));
        if let Some(password) = &self.password {
            config.password(password);
        }
        sql::connect(&config, database).await
    }

    /// Creates an empty database and returns its [`url`](Self::url).
    ///
    /// # Errors
    /// If it exists, or the server does not answer.
    pub async fn create_database(&self, name: &str) -> Result<String, ThrowawayError> {
        let client = self.connect(SUPERUSER).await?;
        sql::create_database(&client, name).await?;
        Ok(self.url(name))
    }

    /// Drops a database, if it exists, with its replication slots, and ends all connections to it.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn drop_database(&self, name: &str) -> Result<(), ThrowawayError> {
        let client = self.connect(SUPERUSER).await?;
        sql::drop_database(&client, name).await
    }

    /// Returns the server's version.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.installation.version()
    }

    /// Returns the port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns the directory of the cluster's files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.layout.base
    }

    /// Returns the path of the server's log.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.layout.log
    }

    fn pg_ctl(&self, action: &str) -> std::process::Command {
        let mut pg_ctl = command(&self.installation.program("pg_ctl"), &self.account);
        pg_ctl.args([action, "-s", "-D"]).arg(&self.layout.data);
        pg_ctl
    }
}

/// Creates a new directory, and the guard that will remove it.
fn temporary(pg_ctl: &Path, account: &Account, durability: Durability) -> Result<(Layout, Guard), ThrowawayError> {
    let parent = parent(durability);
    let mut builder = tempfile::Builder::new();
    // Closed to others, because the password lies inside.
    builder.prefix("walvec-pg-").permissions(Permissions::from_mode(0o700));
    let directory = builder.tempdir_in(&parent).map_err(ThrowawayError::io(&*parent))?;
    account.own(directory.path())?;
    account.check_reach(directory.path())?;
    let layout = Layout::new(directory.path().to_owned());
    let guard = Guard::start(pg_ctl, &layout.data, account, AtEnd::Remove(&layout.base))?;
    // From here on the guard removes the directory.
    let _ = directory.keep();
    Ok((layout, guard))
}

/// Returns the directory for temporary files: memory, if nothing need be on a disk and enough of it is free.
fn parent(durability: Durability) -> PathBuf {
    let has_room = || statvfs(MEMORY).is_ok_and(|volume| volume.f_bavail * volume.f_frsize >= MEMORY_ROOM);
    if durability == Durability::Volatile && has_room() { MEMORY.into() } else { std::env::temp_dir() }
}

/// Prepares the directory that the user wants to keep.
async fn kept(
    directory: &Path,
    installation: &Installation,
    account: &Account,
) -> Result<(Layout, Guard), ThrowawayError> {
    let layout = Layout::new(std::path::absolute(directory).map_err(ThrowawayError::io(directory))?);
    layout.prepare_kept(account)?;
    account.check_reach(&layout.base)?;
    check_major(&layout, installation)?;
    // Checked before the guard exists, which would stop the other program's server.
    if is_running(installation, account, &layout.data).await? {
        return Err(ThrowawayError::AlreadyRunning { path: layout.base });
    }
    let guard = Guard::start(&installation.program("pg_ctl"), &layout.data, account, AtEnd::Keep)?;
    Ok((layout, guard))
}

/// Returns a port that was free a moment ago.
fn free_port() -> Result<u16, ThrowawayError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    Ok(listener.map_err(ThrowawayError::io("127.0.0.1:0"))?.port())
}

/// Encodes a database name as a part of a URL.
fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}
