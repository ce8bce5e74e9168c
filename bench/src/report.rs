//! Medians, and the tables of BENCHMARKS.md.

use std::fmt::Write as _;

use crate::Plan;
use crate::broker::ThroughBroker;
use crate::capture::{AgainstPostgres, Growth};
use crate::embedding::Embedding;
use crate::engine::Engine;
use crate::operations::Operations;
use crate::points::Points;
use crate::provider::{AtALimit, From, ROWS};
use crate::sync::Sync;
use crate::tables::{self, ManyTables};

/// Everything that was measured.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) server: String,
    pub(crate) capture: Option<AgainstPostgres>,
    pub(crate) growth: Vec<Growth>,
    pub(crate) embedding: Vec<Embedding>,
    pub(crate) sync: Vec<(&'static str, Sync)>,
    pub(crate) points: Vec<Points>,
    pub(crate) operations: Vec<(&'static str, Operations)>,
    pub(crate) broker: Option<ThroughBroker>,
    pub(crate) provider: Vec<AtALimit>,
    pub(crate) engine: Option<Engine>,
    pub(crate) tables: Vec<(&'static str, ManyTables)>,
}

/// Returns the median; 0 if there are no values.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    percentile(&mut values, 50)
}

/// Returns the smallest value that at least `percent` of the values do not exceed; 0 if there are no values.
pub(crate) fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * percent).div_ceil(100);
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

impl Report {
    pub(crate) fn render(&self, plan: &Plan) -> anyhow::Result<String> {
        let mut text = String::new();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        writeln!(
            text,
            "# Benchmarks\n\nWritten by `make bench`: {cores} cores, PostgreSQL {}, release build, medians of {} round(s). Machines \
             differ and are\nnoisy: compare the ratios, which come from paired runs, rather than the rates.\n",
            self.server, plan.rounds
        )?;
        if let Some(capture) = &self.capture {
            render_capture(&mut text, capture)?;
        }
        for (sink, sync) in &self.sync {
            render_sync(&mut text, sink, sync)?;
        }
        if let Some(broker) = &self.broker {
            render_broker(&mut text, broker)?;
        }
        if !self.points.is_empty() {
            render_points(&mut text, &self.points)?;
        }
        if let Some(measured) = &self.engine {
            text.push_str(&engine(measured)?);
        }
        if !self.operations.is_empty() {
            render_operations(&mut text, &self.operations)?;
        }
        if !self.embedding.is_empty() {
            render_embedding(&mut text, &self.embedding)?;
        }
        if !self.provider.is_empty() {
            render_provider(&mut text, &self.provider)?;
        }
        if !self.tables.is_empty() {
            tables::render(&mut text, &self.tables)?;
        }
        if !self.growth.is_empty() {
            render_growth(&mut text, &self.growth)?;
        }
        Ok(text)
    }
}

/// Returns the section of the engine inside the program.
pub(crate) fn engine(measured: &Engine) -> Result<String, std::fmt::Error> {
    let Engine { points, filled, reopened, interrupted } = measured;
    let mut text = String::new();
    let recall = filled.recall.map_or_else(|| "not compared".to_owned(), |recall| format!("{recall:.3}"));
    let most = filled.anonymous.max(reopened.anonymous).max(interrupted.anonymous);
    writeln!(
        text,
        "## The engine inside the program, {points} points of 384 dimensions\n\n\
         One process fills the collection, in batches of 256, while indexes are built beside that; others open it again.\n\n\
         | | measured | target |\n|---|---|---|\n\
         | written | {:.0} points/s, the longest batch {:.0} ms | |\n\
         | everything has an index, after the last write | {:.0} s | ≤ 60 at 100,000 |\n\
         | a search with the vector given, p50 | {:.2} ms | ≤ 5 at 100,000 |\n\
         | one search after the other | {:.0}/s | ≥ 200 at 100,000 |\n\
         | recall@10 against comparing all | {recall} | ≥ 0.97 |\n\
         | one point durable, against an append with `fdatasync` | {:.2} ms, {:.2} ms: {:.1} × | ≤ 3 × |\n\
         | a stop in the middle of an index build | {:.2} s | ≤ 3 |\n\
         | a start after that | {:.2} s, {} points | ≤ 5 |\n\
         | a start after a clean stop | {:.2} s, {} points | ≤ 5 |\n\
         | anonymous memory, the most | {} | ≤ 400 MB |\n",
        filled.points_per_second,
        filled.longest_write,
        filled.index_seconds,
        filled.search_p50,
        filled.searches_per_second,
        filled.write,
        filled.plain,
        filled.write / filled.plain,
        filled.stop_seconds,
        interrupted.seconds,
        interrupted.points,
        reopened.seconds,
        reopened.points,
        megabytes(most),
    )?;
    Ok(text)
}

fn render_capture(text: &mut String, capture: &AgainstPostgres) -> std::fmt::Result {
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
    )
}

fn render_broker(text: &mut String, broker: &ThroughBroker) -> std::fmt::Result {
    writeln!(
        text,
        "## Through a broker\n\nApache Kafka 4.3, one node, on the same cores. Capture: 300,000 rows of 250 bytes that wait in the slot, until the \
         broker\nhas acknowledged them, start of the program included; Debezium's engine gives its JSON to a counter, with no broker behind \
         it.\n\n\
         | | rows/s | ratio | target |\n|---|---|---|---|\n\
         | walvec, into nothing | {:.0} | | |\n\
         | walvec, into Kafka | {:.0} | {:.2} of into nothing | ≥ 0.6 |\n\
         | Debezium 3.6.3 engine, into nothing | {:.0} | walvec into Kafka is {:.2} of it | ≥ 2 |\n\n\
         | | measured | target |\n|---|---|---|\n\
         | commit → searchable, p50 | {:.1} ms | ≤ 50 |\n| p95 | {:.1} ms | |\n| p99 | {:.1} ms | ≤ 150 |\n\
         | one worker, 40,000 rows at once, an embedder that waits 50 ms per batch | {:.0} rows/s | |\n\
         | two workers | {:.0} rows/s, {:.2} × | ≥ 1.8 × |\n\
         | a worker killed {} times in two minutes under load: points that differ | {} | 0 |\n\
         | from a kill until all rows of then can be found, the longest | {:.1} s | ≤ 10 |\n",
        broker.nothing,
        broker.kafka,
        broker.to_nothing,
        broker.debezium,
        broker.to_debezium,
        broker.p50,
        broker.p95,
        broker.p99,
        broker.one_worker,
        broker.two_workers,
        broker.two_workers / broker.one_worker,
        broker.kills,
        broker.mismatches,
        broker.recovery / 1000.0,
    )
}

fn render_points(text: &mut String, points: &[Points]) -> std::fmt::Result {
    writeln!(
        text,
        "## Points into a Qdrant server\n\n20,000 points of 384 dimensions in requests of 256, each waited for. The Python client has one \
         request in flight, as its\n`upsert(wait=True)` does, walvec up to four.\n\n\
         | server | official Python client, gRPC | walvec | ratio | target |\n|---|---|---|---|---|"
    )?;
    for Points { server, python, walvec, ratio } in points {
        writeln!(text, "| {server} | {python:.0} points/s | {walvec:.0} points/s | {ratio:.2} | ≥ 1.5 |")?;
    }
    writeln!(text)
}

fn render_operations(text: &mut String, operations: &[(&str, Operations)]) -> std::fmt::Result {
    writeln!(
        text,
        "## Verify and reindex\n\n`verify` of 200,000 rows, start of the program included; `reindex` of 10,000 rows with another model, while a \
         client\nsearches 20 times a second; after it, the start of the program until it follows the stream again; then embeddings that are \
         computed when the price of every row\nis changed, and for a new snapshot of all of them. Targets: verify ≥ 20,000 rows/s, no failed \
         search, memory ≤ 350 MB, start ≤ 0.5 s,\n0 embeddings.\n\n\
         | points in | verify | reindex | searches meanwhile | failed | peak memory | start | embeddings for other prices | for a new snapshot \
         |\n|---|---|---|---|---|---|---|---|---|"
    )?;
    for (sink, measured) in operations {
        let Operations { verify_rate, searches, failed_searches, reindex_seconds, .. } = measured;
        let Operations { reindex_rss, restart_seconds, repriced, again, .. } = measured;
        writeln!(
            text,
            "| {sink} | {verify_rate:.0} rows/s | {reindex_seconds:.0} s | {searches} | {failed_searches} | {} | {restart_seconds:.2} s | {repriced} | {again} |",
            megabytes(*reindex_rss)
        )?;
    }
    writeln!(text)
}

fn render_embedding(text: &mut String, embedding: &[Embedding]) -> std::fmt::Result {
    let (texts, tokens) = embedding.first().map_or((0, 0), |first| (first.texts, first.tokens));
    writeln!(
        text,
        "## Embedding\n\nall-MiniLM-L6-v2, {texts} texts of 5 to 300 tokens, of which it reads 256: {tokens} tokens in all. From the text to \
         the vector,\nagainst the ONNX Runtime package for Python with batches of 32 and as many threads as there are cores. Sorted: by length. \
         walvec\nsorts the texts of each call by itself.\n\n\
         | weights | order | | tokens/s | padding | ratio | target |\n|---|---|---|---|---|---|---|"
    )?;
    for Embedding { weights, walvec, walvec_sorted, onnx_runtime, onnx_runtime_sorted, ratio, ratio_sorted, .. } in
        embedding
    {
        for (order, who, rate, compared) in [
            ("as they come", "ONNX Runtime", onnx_runtime, None),
            ("as they come", "walvec", walvec, Some((ratio, "≥ 1.25"))),
            ("sorted", "ONNX Runtime", onnx_runtime_sorted, None),
            ("sorted", "walvec", walvec_sorted, Some((ratio_sorted, "≥ 1.0"))),
        ] {
            let (ratio, target) =
                compared.map_or((String::new(), ""), |(ratio, target)| (format!("{ratio:.2}"), target));
            let (speed, padding) = (rate.tokens_per_second, rate.padding * 100.0);
            writeln!(text, "| {weights} | {order} | {who} | {speed:.0} | {padding:.1} % | {ratio} | {target} |")?;
        }
    }
    writeln!(text)
}

fn render_provider(text: &mut String, measured: &[AtALimit]) -> std::fmt::Result {
    writeln!(
        text,
        "## A provider at its limit\n\n{ROWS} rows, embedded over HTTP by a provider that answers 20 requests of 32 texts a second, and says \
         429 to those above\nit and to every second one besides: come back in a second.\n\n\
         | rows come from | texts/s allowed | rows/s | of what is allowed | target | answered 429 | rows without a point |\n\
         |---|---|---|---|---|---|---|"
    )?;
    for AtALimit { from, allowed, measured, refused, lost } in measured {
        let from = match from {
            From::Snapshot => "the table, as it was",
            From::Stream => "one transaction",
        };
        let (share, refused) = (measured / allowed, refused * 100.0);
        writeln!(text, "| {from} | {allowed:.0} | {measured:.0} | {share:.2} | ≥ 0.80 | {refused:.0} % | {lost} |")?;
    }
    writeln!(text)
}

fn render_sync(text: &mut String, sink: &str, sync: &Sync) -> std::fmt::Result {
    writeln!(
        text,
        "## PostgreSQL to searchable, the whole program, points in {sink}\n\n| | measured | target |\n|---|---|---|\n\
         | 2,000 rows inserted at once | {:.0} rows/s | ≥ 100 |\n\
         | single rows, p50 | {:.1} ms | ≤ 25 |\n| single rows, p95 | {:.1} ms | |\n| single rows, p99 | {:.1} ms | ≤ 60 |\n\
         | the same texts embedded as queries, p50 | {:.1} ms | |\n\
         | a single row takes longer than its text as a query, p50 | {:.1} ms | ≤ {:.0} |\n\
         | peak memory | {} | ≤ 300 MB |\n\n\
         A single row counts from before its INSERT until the status reports its position as applied, over HTTP. Its text is embedded \
         as a query before, in another\nprocess. Both come after 25 ms of rest.\n",
        sync.flood_rate,
        sync.p50,
        sync.p95,
        sync.p99,
        sync.query,
        sync.p50 - sync.query,
        sync.allowed,
        megabytes(sync.rss),
    )
}

fn render_growth(text: &mut String, growth: &[Growth]) -> std::fmt::Result {
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
    writeln!(text)
}

pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let mut values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert!((percentile(&mut values, 50) - 100.0).abs() < f64::EPSILON);
        assert!((percentile(&mut values, 99) - 198.0).abs() < f64::EPSILON);
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
