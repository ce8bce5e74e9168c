//! A broker that a test starts, stops, kills and pauses.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::config::{Ports, format_arguments, properties};
use crate::guard::Guard;
use crate::java::{self, Java, log_errors, log_tail};
use crate::tls::{self, ClientCertificate};
use crate::{Options, installation, ports};

/// How long a broker may take to stop in order, before it is killed: a healthy one takes less than a second.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// How often other ports are tried if another program takes the ports just found.
const PORT_TRIES: u32 = 5;

/// An Apache Kafka broker of a test's own, with its controller.
///
/// The broker and its directory are removed when this value is dropped, and also if this process ends in any other way,
/// even by `kill -9`.
pub struct TestBroker {
    class_path: OsString,
    ports: Ports,
    tls: bool,
    java: Mutex<Option<Java>>,
    directory: PathBuf,
    guard: Guard,
}

impl fmt::Debug for TestBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TestBroker({}, {})", self.bootstrap(), self.directory.display())
    }
}

impl TestBroker {
    /// Creates a broker and starts it. Takes about three seconds.
    ///
    /// # Errors
    /// If Java or the jars are missing, or it does not start; the error has the end of its log.
    pub async fn start(options: Options) -> Result<Self> {
        let class_path = installation::class_path()?;
        let rights = !options.access_rights || options.security.sasl.is_some();
        ensure!(rights, "access rights need users: set `security.sasl`");
        let mut tries = 1;
        loop {
            let broker = Self::make(class_path.clone(), &options).await?;
            match broker.start_again().await {
                Err(error) if tries < PORT_TRIES && format!("{error:#}").contains("Address already in use") => {
                    tries += 1;
                }
                result => return result.map(|()| broker),
            }
        }
    }

    /// Returns a broker that does not run yet.
    async fn make(class_path: OsString, options: &Options) -> Result<Self> {
        let [clients, internal, controller] = ports::free()?;
        let ports = Ports { clients, internal, controller };
        let directory = tempfile::Builder::new().prefix("walvec-kafka-").tempdir()?;
        let guard = Guard::start(directory.path()).context("/bin/sh could not be started")?;
        // From here on the guard removes the directory.
        let directory = directory.keep();
        let tls = options.security.tls;
        if tls {
            tls::make(&directory).await?;
        }
        std::fs::write(directory.join("server.properties"), properties(options, ports, &directory))?;
        let arguments = format_arguments(options);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        java::run(&class_path, &directory, "kafka.tools.StorageTool", &arguments)
            .await
            .context("the broker's storage could not be formatted")?;
        Ok(Self { class_path, ports, tls, java: Mutex::new(None), directory, guard })
    }

    /// Starts the broker again after a stop or a kill, on the same ports, with the same data; returns when it serves.
    ///
    /// # Errors
    /// If it runs already, or does not start; the error has the end of its log.
    pub async fn start_again(&self) -> Result<()> {
        if self.running().as_ref().is_some_and(Java::has_ended) {
            // The broker has ended by itself, and only remains to be reaped.
            self.kill().await?;
        }
        ensure!(self.running().is_none(), "the broker runs already");
        let java = Java::start(&self.class_path, &self.directory, &self.guard)?;
        let mut progress = java.progress();
        *self.running() = Some(java);
        let serves = match progress.ready().await {
            Ok(()) => self.reach().await,
            Err(error) => Err(error),
        };
        if let Err(error) = serves {
            self.kill().await?;
            let (errors, tail) = (log_errors(&self.directory), self.log_tail());
            return Err(error.context(format!("errors in the broker's log:\n{errors}\nits end:\n{tail}")));
        }
        Ok(())
    }

    async fn reach(&self) -> Result<()> {
        let port = self.ports.clients;
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.with_context(|| format!("127.0.0.1:{port}"))?;
        Ok(())
    }

    /// Stops the broker in order (SIGTERM) and returns when it has ended. Stopping a stopped broker is no error.
    ///
    /// # Errors
    /// If it had to be killed, because it did not stop within 30 seconds.
    pub async fn stop(&self) -> Result<()> {
        self.end(Signal::TERM).await
    }

    /// Kills the broker (SIGKILL) and returns when it is gone. Killing a dead broker is no error.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub async fn kill(&self) -> Result<()> {
        self.end(Signal::KILL).await
    }

    async fn end(&self, signal: Signal) -> Result<()> {
        let Some(mut progress) = self.running().as_ref().map(Java::progress) else { return Ok(()) };
        self.signal(signal)?;
        // A paused broker takes no other signal.
        self.signal(Signal::CONT)?;
        let in_time = tokio::time::timeout(STOP_TIMEOUT, progress.ended()).await.is_ok();
        if !in_time {
            self.signal(Signal::KILL)?;
            progress.ended().await;
        }
        // The process is taken out only now: if the caller gives up waiting, it stays in its place.
        if let Some(java) = self.running().take() {
            java.wait()?;
            self.guard.watch(None)?;
        }
        if !in_time {
            bail!("the broker did not stop within {} seconds and was killed", STOP_TIMEOUT.as_secs());
        }
        Ok(())
    }

    /// Pauses the broker's process (SIGSTOP): connections stay open, and no request is answered.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a paused broker go on (SIGCONT).
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.running().as_ref().context("the broker does not run")?.signal(signal)
    }

    /// Returns the address to which clients connect: `127.0.0.1:<port>`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.ports.clients)
    }

    /// Returns the address of the broker's second listener, which needs neither TLS nor a login and allows everything. A
    /// test uses it as administrator.
    #[must_use]
    pub fn admin_bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.ports.internal)
    }

    /// Returns the certificate of the authority that signed the broker's certificate; `None` without TLS.
    #[must_use]
    pub fn ca_path(&self) -> Option<PathBuf> {
        self.tls.then(|| self.directory.join(tls::AUTHORITY))
    }

    /// Makes a client's certificate, signed by the same authority as the broker's.
    ///
    /// # Errors
    /// Without TLS.
    pub async fn client_certificate(&self, name: &str) -> Result<ClientCertificate> {
        ensure!(self.tls, "the broker has no TLS");
        tls::client(&self.directory, name).await
    }

    /// Returns the end of the broker's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        log_tail(&self.directory)
    }

    /// Returns the directory of the broker's files: `data`, `server.properties`, `broker.log`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn class_path(&self) -> &OsStr {
        &self.class_path
    }

    /// Returns the process, if there is one. The lock may be poisoned: a panic of another thread leaves no change half
    /// done.
    fn running(&self) -> MutexGuard<'_, Option<Java>> {
        self.java.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        // The process is reaped first; then this waits for the guard, which removes the files.
        let java = self.running().take();
        if let Some(java) = java
            && java.signal(Signal::KILL).is_ok()
            && java.wait().is_ok()
        {
            let _ = self.guard.watch(None);
        }
    }
}
