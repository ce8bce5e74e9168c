//! Readers that run as processes of their own, so that their memory can be measured.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use anyhow::ensure;
use clap::Subcommand;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use walvec_capture::{Columns, Source, SourceConfig, TableSpec};
use walvec_model::{Lsn, StreamEvent, TableName};
use walvec_test_program::memory;

use crate::workbench::{PUBLICATION, TABLE};
use crate::{engine, points};

/// What a child process does.
#[derive(Subcommand, Clone)]
pub(crate) enum Child {
    /// Read the stream up to a position and throw it away.
    #[command(hide = true)]
    Stream { url: String, slot: String, until: Lsn },
    /// Read a snapshot and throw it away.
    #[command(hide = true)]
    Copy { url: String, slot: String },
    /// Write points into a Qdrant server.
    #[command(hide = true)]
    Points { url: String },
    /// Fill a collection of the engine inside the program.
    #[command(hide = true)]
    EngineFill { root: PathBuf, points: u64 },
    /// Open it again.
    #[command(hide = true)]
    EngineOpen { root: PathBuf },
}

/// The result of a child process.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct ChildRun {
    pub(crate) rows: u64,
    pub(crate) seconds: f64,
    pub(crate) peak_rss_bytes: u64,
}

impl ChildRun {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub(crate) fn rows_per_second(&self) -> f64 {
        self.rows as f64 / self.seconds
    }
}

impl Child {
    /// Runs in the child process and prints the reading.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let reading = match self {
            Self::Stream { url, slot, until } => reading(stream(url, slot, until).await?)?,
            Self::Copy { url, slot } => reading(copy(url, slot).await?)?,
            Self::Points { url } => points::write(&url).await?,
            Self::EngineFill { root, points } => return print(&engine::fill(root, points).await?),
            Self::EngineOpen { root } => return print(&engine::open(root).await?),
        };
        print(&reading)
    }
}

fn print(found: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(found)?);
    Ok(())
}

fn reading((rows, seconds): (u64, f64)) -> anyhow::Result<ChildRun> {
    Ok(ChildRun { rows, seconds, peak_rss_bytes: peak_rss()? })
}

/// Returns the largest resident set that this process has had, in bytes.
pub(crate) fn peak_rss() -> anyhow::Result<u64> {
    memory(std::process::id(), "VmHWM")
}

/// Starts this program again as a child and waits for its reading.
pub(crate) async fn spawn(arguments: &[&str]) -> anyhow::Result<ChildRun> {
    answer(arguments).await
}

/// Starts this program again as a child, and returns what it prints, parsed as JSON.
pub(crate) async fn answer<T: DeserializeOwned>(arguments: &[&str]) -> anyhow::Result<T> {
    let output = tokio::process::Command::new(std::env::current_exe()?)
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .await?;
    ensure!(output.status.success(), "{arguments:?}: {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn config(url: String, slot: String) -> SourceConfig {
    SourceConfig {
        url: url.into(),
        slot,
        publication: PUBLICATION.to_owned(),
        tables: vec![TableSpec { name: TableName::new("public", TABLE), filter: None, columns: Columns::All }],
        lookups: Vec::new(),
        copy_workers: 2,
    }
}

async fn stream(url: String, slot: String, until: Lsn) -> anyhow::Result<(u64, f64)> {
    let began = Instant::now();
    let source = Source::connect(config(url, slot)).await?;
    let mut stream = source.open_stream().await?;
    let mut rows = 0;
    loop {
        for event in stream.next().await? {
            let reached = match event {
                StreamEvent::Begin { .. } | StreamEvent::Partition { .. } | StreamEvent::LookedUp(_) => continue,
                StreamEvent::Change(_) => {
                    rows += 1;
                    continue;
                }
                StreamEvent::Commit { end_lsn, .. } => end_lsn,
                StreamEvent::Idle { wal_end } => wal_end,
            };
            stream.confirm(reached);
            if reached >= until {
                let seconds = began.elapsed().as_secs_f64();
                stream.close().await?;
                return Ok((rows, seconds));
            }
        }
    }
}

async fn copy(url: String, slot: String) -> anyhow::Result<(u64, f64)> {
    let source = Source::connect(config(url, slot)).await?;
    let began = Instant::now();
    let mut snapshot = source.begin_snapshot().await?;
    let mut rows = 0;
    while let Some(chunk) = snapshot.next().await? {
        rows += chunk.len() as u64;
    }
    let seconds = began.elapsed().as_secs_f64();
    snapshot.close().await?;
    source.drop_slot().await?;
    Ok((rows, seconds))
}
