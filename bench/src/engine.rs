//! Measures the engine inside the program with many points: when its index is complete, how fast and how good searches are, one durable
//! point against a plain `fdatasync`, how long a stop and a start take, and memory.
//!
//! - `memory`: the memory of this process
//! - [`space`]: the points
//! - this file: what is measured

mod memory;
mod space;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use walvec_model::{Fingerprint, MadeWith, PointId};
use walvec_sink::embedded::Embedded;
use walvec_sink::{CollectionSpec, Filter, IndexType, Query, Search as _, SearchRequest, Sink as _, Write};

use self::memory::{Memory, anonymous_bytes};
use self::space::Space;
use crate::child;
use crate::report::megabytes;
use crate::stats::{milliseconds, percentile};

const DIMENSION: usize = 384;
const BATCH: u64 = 256;
const SEARCHES: u64 = 500;
const JUDGED: u64 = 100;
const WANTED: usize = 10;
/// The most points for which recall is computed: with more, comparing a query with every point takes minutes.
const JUDGED_UP_TO: u64 = 200_000;
const SINGLE: u64 = 200;

/// The results for one number of points.
struct Engine {
    points: u64,
    filled: Filled,
    reopened: Opened,
    /// A start after a stop in the middle of an index build.
    interrupted: Opened,
}

/// The results of the process that filled the collection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Filled {
    pub(crate) points_per_second: f64,
    /// Milliseconds of the longest write while the collection was filled.
    pub(crate) longest_write: f64,
    /// Seconds from the last write until everything had an index.
    pub(crate) index_seconds: f64,
    /// Milliseconds.
    pub(crate) search_p50: f64,
    pub(crate) searches_per_second: f64,
    /// The share of the ten nearest points that a search finds; `None` if they were not computed by comparing every
    /// point.
    pub(crate) recall: Option<f64>,
    /// Milliseconds until one point is durable, median.
    pub(crate) write: f64,
    /// Milliseconds of an append of as many bytes and its `fdatasync`, median.
    pub(crate) plain: f64,
    /// The most anonymous memory that the process had, in bytes.
    pub(crate) anonymous: u64,
    /// Seconds that a stop in the middle of an index build took.
    pub(crate) stop_seconds: f64,
}

/// The results of a process that opened the collection again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Opened {
    pub(crate) seconds: f64,
    pub(crate) points: u64,
    pub(crate) anonymous: u64,
}

/// Measures a collection of this many points, in child processes.
pub(crate) async fn measure(points: u64) -> anyhow::Result<String> {
    let root = tempfile::tempdir()?;
    let path = root.path().to_str().context("a directory with a plain name")?;
    let filled = child::answer(&["engine-fill", path, &points.to_string()]).await?;
    let interrupted = child::answer(&["engine-open", path]).await?;
    let reopened = child::answer(&["engine-open", path]).await?;
    Ok(section(&Engine { points, filled, reopened, interrupted })?)
}

/// Opens the collection, in a process of its own.
pub(crate) async fn open(root: PathBuf) -> anyhow::Result<Opened> {
    let began = Instant::now();
    let sink = Embedded::open(&root, spec())?;
    let seconds = began.elapsed().as_secs_f64();
    let space = Space::new();
    for query in 0..SEARCHES {
        sink.search(request(space.vector(u64::MAX - query))).await?;
    }
    let anonymous = anonymous_bytes()?;
    let points = sink.count().await?;
    sink.close().await?;
    Ok(Opened { seconds, points, anonymous })
}

/// Fills the collection, in a process of its own.
pub(crate) async fn fill(root: PathBuf, points: u64) -> anyhow::Result<Filled> {
    let space = Space::new();
    let sink = Embedded::open(&root, spec())?;
    let memory = Memory::watch();
    let building = Building::start(&sink);
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    for first in (0..points).step_by(usize::try_from(BATCH)?) {
        let batch: Vec<Write> = (first..(first + BATCH).min(points)).map(|id| Write::Upsert(space.point(id))).collect();
        let write = Instant::now();
        sink.write(&batch).await?;
        longest = longest.max(write.elapsed());
    }
    let seconds = began.elapsed().as_secs_f64();
    let began = Instant::now();
    building.end().await?;
    sink.optimize().await?;
    let index_seconds = began.elapsed().as_secs_f64();
    let (search_p50, searches_per_second) = searched(&sink, &space).await?;
    let recall = if points <= JUDGED_UP_TO { Some(recall(&sink, &space, points).await?) } else { None };
    let (write, plain) = single_writes(&root, &sink, &space, points).await?;
    let anonymous = memory.most();
    // These points are enough for another build, which the stop interrupts.
    let more = points / 10 + 20_000;
    for first in (points..points + more).step_by(usize::try_from(BATCH)?) {
        sink.write(&(first..first + BATCH).map(|id| Write::Upsert(space.point(id))).collect::<Vec<_>>()).await?;
    }
    let build = tokio::spawn({
        let sink = sink.clone();
        async move { sink.optimize().await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    sink.leave().await?;
    let stop_seconds = began.elapsed().as_secs_f64();
    drop(build);
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let points_per_second = points as f64 / seconds;
    let longest_write = milliseconds(longest);
    Ok(Filled {
        points_per_second,
        longest_write,
        index_seconds,
        search_p50,
        searches_per_second,
        recall,
        write,
        plain,
        anonymous,
        stop_seconds,
    })
}

/// A task that builds indexes concurrently with the writes, as the pipeline does during a snapshot.
struct Building {
    is_over: Arc<AtomicBool>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Building {
    fn start(sink: &Embedded) -> Self {
        let (is_over, sink) = (Arc::new(AtomicBool::new(false)), sink.clone());
        let over = Arc::clone(&is_over);
        let task = tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                sink.optimize_while_filling().await?;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Ok(())
        });
        Self { is_over, task }
    }

    async fn end(self) -> anyhow::Result<()> {
        self.is_over.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

/// Returns the median milliseconds of a search, and the searches per second, one after the other.
async fn searched(sink: &Embedded, space: &Space) -> anyhow::Result<(f64, f64)> {
    let requests: Vec<SearchRequest> = (0..SEARCHES).map(|query| request(space.vector(u64::MAX - query))).collect();
    for request in requests.iter().take(100) {
        sink.search(request.clone()).await?;
    }
    let (mut times, began) = (Vec::new(), Instant::now());
    for request in requests {
        let search = Instant::now();
        sink.search(request).await?;
        times.push(milliseconds(search.elapsed()));
    }
    let rate = f64::from(u32::try_from(SEARCHES)?) / began.elapsed().as_secs_f64();
    Ok((percentile(&mut times, 50), rate))
}

/// Returns the share of the ten nearest points that a search finds.
async fn recall(sink: &Embedded, space: &Space, points: u64) -> anyhow::Result<f64> {
    let all: Vec<Vec<f32>> = (0..points).map(|id| space.vector(id)).collect();
    let mut found = 0;
    for query in 0..JUDGED {
        let query = space.vector(u64::MAX / 2 - query);
        let score = |vector: &Vec<f32>| vector.iter().zip(&query).map(|(one, other)| one * other).sum::<f32>();
        let mut scores: Vec<(f32, u64)> = all.iter().map(score).zip(0..).collect();
        scores.sort_by(|one, other| other.0.total_cmp(&one.0));
        let nearest: HashSet<PointId> = scores.iter().take(WANTED).map(|(_, id)| PointId::Num(*id)).collect();
        found += sink.search(request(query)).await?.iter().filter(|hit| nearest.contains(&hit.id)).count();
    }
    let wanted = usize::try_from(JUDGED)? * WANTED;
    Ok(f64::from(u32::try_from(found)?) / f64::from(u32::try_from(wanted)?))
}

/// Returns the median milliseconds until one point is durable, and those of an append with `fdatasync` on the same
/// disk, measured in turns.
async fn single_writes(root: &Path, sink: &Embedded, space: &Space, points: u64) -> anyhow::Result<(f64, f64)> {
    let path = root.join("plain");
    let mut file = std::fs::File::create(&path)?;
    let (mut writes, mut plains) = (Vec::new(), Vec::new());
    for number in 0..SINGLE {
        let point = space.point(number * 37 % points);
        let write = Instant::now();
        sink.write(&[Write::Upsert(point)]).await?;
        writes.push(milliseconds(write.elapsed()));
        let plain = Instant::now();
        file.write_all(&[7; 2000])?;
        file.sync_data()?;
        plains.push(milliseconds(plain.elapsed()));
    }
    std::fs::remove_file(path)?;
    Ok((percentile(&mut writes, 50), percentile(&mut plains, 50)))
}

fn request(vector: Vec<f32>) -> SearchRequest {
    SearchRequest { query: Query::Dense(vector), limit: WANTED, filter: Filter::default(), min_score: None }
}

fn spec() -> CollectionSpec {
    CollectionSpec {
        name: "bench".to_owned(),
        dimension: DIMENSION,
        fingerprint: Fingerprint::of(&["bench"]),
        made_with: MadeWith::default(),
        indexes: vec![("number".into(), IndexType::Integer)],
        vector: None,
        keywords: None,
        nesting: None,
    }
}

/// Returns the section of the engine inside the program.
fn section(measured: &Engine) -> Result<String, std::fmt::Error> {
    let Engine { points, filled, reopened, interrupted } = measured;
    let mut text = String::new();
    let recall = filled.recall.map_or_else(|| "not compared".to_owned(), |recall| format!("{recall:.3}"));
    let most = filled.anonymous.max(reopened.anonymous).max(interrupted.anonymous);
    writeln!(
        text,
        "## The engine inside the program, {points} points of 384 dimensions\n\n\
         One process fills the collection, in batches of 256, while indexes are built concurrently; other processes open it again.\n\n\
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
