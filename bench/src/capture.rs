//! The stream against `pg_recvlogical`, the snapshot against `COPY`, and how both grow.

use std::fmt::Write as _;

use anyhow::ensure;

use crate::Plan;
use crate::child::{self, ChildRun};
use crate::report::megabytes;
use crate::stats::{median, median_ratio};
use crate::workbench::{Database, PUBLICATION, TABLE, Workbench};

const ROWS: u64 = 300_000;
const MANY_TRANSACTIONS: u64 = 1_000;

/// Rates in rows per second, medians; memory the largest seen, in bytes.
struct AgainstPostgres {
    pg_recvlogical: f64,
    stream: f64,
    /// Median of the ratios of paired runs.
    stream_ratio: f64,
    stream_rss: u64,
    copy: f64,
    snapshot: f64,
    snapshot_ratio: f64,
    snapshot_rss: u64,
}

/// The rate and the memory of one reader at one size.
struct Growth {
    reader: &'static str,
    rows: u64,
    rate: f64,
    rss: u64,
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
pub(crate) async fn against_postgres(plan: &Plan, workbench: &Workbench) -> anyhow::Result<String> {
    let database = workbench.database("against").await?;
    // Every reader gets a slot of its own, created before the rows, because reading advances a slot.
    for round in 0..plan.rounds {
        database.create_slot(&format!("theirs_{round}")).await?;
        database.create_slot(&format!("ours_{round}")).await?;
    }
    let until = database.insert(ROWS, ROWS).await?;
    let (mut theirs, mut ours, mut copies, mut snapshots) = (vec![], vec![], vec![], vec![]);
    for round in 0..plan.rounds {
        theirs.push(ROWS as f64 / recvlogical(&database, &format!("theirs_{round}"), &until).await?);
        ours.push(stream(&database, &format!("ours_{round}"), &until, ROWS).await?);
        let copy = format!("--command=COPY {TABLE} TO STDOUT");
        copies.push(ROWS as f64 / database.time("psql", &["--quiet", "--no-psqlrc", &copy]).await?.as_secs_f64());
        snapshots.push(snapshot(&database, ROWS).await?);
    }
    database.drop().await?;
    let rates = |runs: &[ChildRun]| runs.iter().map(ChildRun::rows_per_second).collect::<Vec<_>>();
    let (stream_rates, snapshot_rates) = (rates(&ours), rates(&snapshots));
    let measured = AgainstPostgres {
        stream_ratio: median_ratio(&stream_rates, &theirs),
        snapshot_ratio: median_ratio(&snapshot_rates, &copies),
        pg_recvlogical: median(theirs),
        stream: median(stream_rates),
        stream_rss: largest(&ours),
        copy: median(copies),
        snapshot: median(snapshot_rates),
        snapshot_rss: largest(&snapshots),
    };
    Ok(against_section(&measured)?)
}

pub(crate) async fn growth(plan: &Plan, workbench: &Workbench) -> anyhow::Result<String> {
    let mut grown = Vec::new();
    let sizes = [plan.largest / 100, plan.largest / 10, plan.largest];
    for rows in sizes {
        for (reader, per_transaction) in [("stream, one transaction", rows), ("stream, many", MANY_TRANSACTIONS)] {
            eprintln!("    {rows} rows, {reader}");
            let database = workbench.database("growth").await?;
            for round in 0..plan.rounds {
                database.create_slot(&format!("ours_{round}")).await?;
            }
            let until = database.insert(rows, per_transaction).await?;
            let mut runs = Vec::new();
            for round in 0..plan.rounds {
                runs.push(stream(&database, &format!("ours_{round}"), &until, rows).await?);
            }
            grown.push(of(reader, rows, &runs));
            if per_transaction == rows {
                let mut runs = Vec::new();
                for _ in 0..plan.rounds {
                    runs.push(snapshot(&database, rows).await?);
                }
                grown.push(of("snapshot", rows, &runs));
            }
            database.drop().await?;
        }
    }
    Ok(growth_section(&grown)?)
}

fn of(reader: &'static str, rows: u64, runs: &[ChildRun]) -> Growth {
    let rate = median(runs.iter().map(ChildRun::rows_per_second).collect());
    Growth { reader, rows, rate, rss: largest(runs) }
}

fn largest(runs: &[ChildRun]) -> u64 {
    runs.iter().map(|run| run.peak_rss_bytes).max().unwrap_or(0)
}

/// Returns the seconds that `pg_recvlogical` takes to read the same changes into nothing.
async fn recvlogical(database: &Database<'_>, slot: &str, until: &str) -> anyhow::Result<f64> {
    let (slot, end) = (format!("--slot={slot}"), format!("--endpos={until}"));
    let publication = format!("--option=publication_names={PUBLICATION}");
    let arguments = ["--start", &slot, &end, "--option=proto_version=1", &publication, "--file=/dev/null", "--no-loop"];
    Ok(database.time("pg_recvlogical", &arguments).await?.as_secs_f64())
}

async fn stream(database: &Database<'_>, slot: &str, until: &str, rows: u64) -> anyhow::Result<ChildRun> {
    let reading = child::spawn(&["stream", &database.url, slot, until]).await?;
    ensure!(reading.rows == rows, "the stream had {} rows instead of {rows}", reading.rows);
    Ok(reading)
}

async fn snapshot(database: &Database<'_>, rows: u64) -> anyhow::Result<ChildRun> {
    let reading = child::spawn(&["copy", &database.url, "snapshot"]).await?;
    ensure!(reading.rows == rows, "the snapshot had {} rows instead of {rows}", reading.rows);
    Ok(reading)
}

/// Returns the section of the measurements against PostgreSQL's own programs.
fn against_section(capture: &AgainstPostgres) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(
        text,
        "## Capture, 300,000 rows of 250 bytes, into nothing\n\n\
         | | rows/s | ratio | target | peak memory |\n|---|---|---|---|---|\n\
         | `pg_recvlogical` to /dev/null | {:.0} | | | |\n\
         | walvec, stream | {:.0} | {:.2} | ≥ 0.95 | {} |\n\
         | one `COPY TO STDOUT` | {:.0} | | | |\n\
         | walvec, snapshot | {:.0} | {:.2} | ≥ 0.40 | {} |\n",
        capture.pg_recvlogical,
        capture.stream,
        capture.stream_ratio,
        megabytes(capture.stream_rss),
        capture.copy,
        capture.snapshot,
        capture.snapshot_ratio,
        megabytes(capture.snapshot_rss),
    )?;
    Ok(text)
}

/// Returns the section about growth.
fn growth_section(growth: &[Growth]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(
        text,
        "## Growth\n\nTargets, the largest against a tenth of it: rate ≥ 0.90, at most 20 MB more.\n\n\
         | | rows | rows/s | against a tenth | peak memory |\n|---|---|---|---|---|"
    )?;
    for Growth { reader, rows, rate, rss } in growth {
        let tenth = growth.iter().find(|other| other.reader == *reader && other.rows == rows / 10);
        let ratio = tenth.map_or_else(String::new, |tenth| format!("{:.2}", rate / tenth.rate));
        writeln!(text, "| {reader} | {rows} | {rate:.0} | {ratio} | {} |", megabytes(*rss))?;
    }
    writeln!(text)?;
    Ok(text)
}
