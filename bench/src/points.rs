//! Measures writes into a Qdrant server: walvec's sink against the official Python client, with the same batches.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Deserialize;
use serde_json::json;
use walvec_model::{
    Fingerprint, Generation, InputHash, Lsn, MadeWith, Payload, Point, PointId, Position, Provenance, TableName, Value,
};
use walvec_sink::qdrant::{Remote, Server};
use walvec_sink::{CollectionSpec, Sink as _, Write};
use walvec_test_qdrant::TestServer;

use crate::Plan;
use crate::child::{self, ChildRun};
use crate::stats::median;

const POINTS: u64 = 20_000;
const DIMENSION: usize = 384;
/// Points per request, for both clients.
const BATCH: usize = 256;
/// How many requests one call of the sink makes, as in a snapshot with large batches.
const BATCHES_PER_WRITE: usize = 16;

/// Points per second into one server.
struct Points {
    server: String,
    python: f64,
    walvec: f64,
    ratio: f64,
}

/// Measures with the test server, and with a real one if there is one.
pub(crate) async fn measure(plan: &Plan) -> anyhow::Result<String> {
    let python = plan.python()?;
    let mut measured = Vec::new();
    let test_server = TestServer::start()?;
    measured.push(against(plan, python, "the server for tests", &test_server.url()).await?);
    drop(test_server);
    if let Some(url) = &plan.qdrant {
        measured.push(against(plan, python, "a real server", url).await?);
    }
    Ok(section(&measured)?)
}

async fn against(plan: &Plan, python: &Path, name: &str, url: &str) -> anyhow::Result<Points> {
    let (mut by_python, mut by_walvec, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let theirs = with_python(python, url).await?;
        let ours = child::spawn(&["points", url]).await?.rows_per_second();
        by_python.push(theirs);
        by_walvec.push(ours);
        ratios.push(ours / theirs);
    }
    Ok(Points { server: name.to_owned(), python: median(by_python), walvec: median(by_walvec), ratio: median(ratios) })
}

/// The output of the Python program.
#[derive(Deserialize)]
struct Written {
    points: u32,
    seconds: f64,
}

async fn with_python(python: &Path, url: &str) -> anyhow::Result<f64> {
    const NAME: &str = "bench_python";
    // walvec creates the collection, so that both clients write into the same kind of collection.
    let collection = collection(url, NAME)?;
    Remote::purge(Server::at(url), NAME).await?;
    collection.prepare().await?;
    let host = url.split_once("://").map_or(url, |(_, host)| host);
    let (host, port) = host.rsplit_once(':').context("a server's URL ends with its port")?;
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python/write_points.py");
    let output = tokio::process::Command::new(python)
        .arg(script)
        .args([host, port])
        .args([POINTS.to_string(), DIMENSION.to_string(), BATCH.to_string()])
        .stderr(std::process::Stdio::inherit())
        .output()
        .await?;
    ensure!(output.status.success(), "write_points.py: {}", output.status);
    let written: Written = serde_json::from_slice(&output.stdout)?;
    ensure!(collection.count().await? == POINTS, "the Python program has not written all points");
    Remote::purge(Server::at(url), NAME).await?;
    Ok(f64::from(written.points) / written.seconds)
}

/// Writes the points in a child process, and returns how long that took.
pub(crate) async fn write(url: &str) -> anyhow::Result<ChildRun> {
    const NAME: &str = "bench_walvec";
    let collection = collection(url, NAME)?;
    Remote::purge(Server::at(url), NAME).await?;
    collection.prepare().await?;
    let writes: Vec<Write> = (0..POINTS).map(|number| Write::Upsert(point(number))).collect();
    let mut seconds = 0.0;
    for batch in writes.chunks(BATCH * BATCHES_PER_WRITE) {
        let batch = batch.to_vec();
        let began = Instant::now();
        collection.write(&batch).await?;
        seconds += began.elapsed().as_secs_f64();
    }
    ensure!(collection.count().await? == POINTS, "walvec has not written all points");
    Remote::purge(Server::at(url), NAME).await?;
    let peak_rss_bytes = child::peak_rss()?;
    Ok(ChildRun { rows: POINTS, seconds, peak_rss_bytes })
}

fn collection(url: &str, name: &str) -> anyhow::Result<Remote> {
    let spec = CollectionSpec {
        name: name.to_owned(),
        dimension: DIMENSION,
        fingerprint: Fingerprint::of(&["bench"]),
        made_with: MadeWith::default(),
        indexes: Vec::new(),
        vector: None,
        keywords: None,
        nesting: None,
    };
    Ok(Remote::new(Server::at(url), spec)?)
}

fn point(number: u64) -> Point {
    let mut source = StdRng::seed_from_u64(number);
    let fields: [(&str, Value); 4] = [
        ("id", json!(number)),
        ("name", json!(format!("name {number}"))),
        ("price", json!(number % 1000)),
        ("body", json!("x".repeat(200))),
    ];
    Point {
        id: PointId::Num(number),
        vector: (0..DIMENSION).map(|_| source.random_range(-1.0..1.0)).collect(),
        keywords: None,
        payload: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Payload>(),
        provenance: Provenance {
            position: Position { commit_lsn: Lsn(1), ordinal: number },
            table: Provenance::table_tag(&TableName::new("public", "bench")),
            key: vec![json!(number)],
            input_hash: InputHash::of("x"),
            fingerprint: Fingerprint::of(&["bench"]),
            generation: Generation(1),
            chunk: 0,
            chunks: 1,
        },
    }
}

/// Returns the section for BENCHMARKS.md.
fn section(points: &[Points]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(
        text,
        "## Points into a Qdrant server\n\n20,000 points of 384 dimensions in requests of 256, each waited for. The Python client has one \
         request in flight, as its\n`upsert(wait=True)` does, walvec up to four.\n\n\
         | server | official Python client, gRPC | walvec | ratio | target |\n|---|---|---|---|---|"
    )?;
    for Points { server, python, walvec, ratio } in points {
        writeln!(text, "| {server} | {python:.0} points/s | {walvec:.0} points/s | {ratio:.2} | ≥ 1.5 |")?;
    }
    writeln!(text)?;
    Ok(text)
}
