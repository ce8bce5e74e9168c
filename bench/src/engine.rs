//! Measures the engine inside the program with many points: when its index is complete, how fast and how good searches are, one durable
//! point against a plain `fdatasync`, how long a stop and a start take, and memory.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::JoinHandle;
use walvec_model::{
    Fingerprint, Generation, InputHash, Lsn, MadeWith, Payload, Point, PointId, Position, Provenance, Value,
};
use walvec_sink::embedded::Embedded;
use walvec_sink::{CollectionSpec, Filter, IndexType, Query, Search as _, SearchRequest, Sink as _, Write};
use walvec_test_program::memory;

use crate::child;
use crate::report::percentile;

const DIMENSION: usize = 384;
/// The dimensions of the space from which vectors are made. Vectors of texts lie near a surface of few dimensions, and in
/// clusters; independent random numbers would have no near neighbours.
const LATENT: usize = 24;
const CROWDS: usize = 200;
const BATCH: u64 = 256;
const SEARCHES: u64 = 500;
const JUDGED: u64 = 100;
const WANTED: usize = 10;
/// The most points for which recall is computed: with more, comparing a query with every point takes minutes.
const JUDGED_UP_TO: u64 = 200_000;
const SINGLE: u64 = 200;

/// The results for one number of points.
pub(crate) struct Engine {
    pub(crate) points: u64,
    pub(crate) filled: Filled,
    pub(crate) reopened: Opened,
    /// A start after a stop in the middle of an index build.
    pub(crate) interrupted: Opened,
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
pub(crate) async fn measure(points: u64) -> anyhow::Result<Engine> {
    let root = tempfile::tempdir()?;
    let path = root.path().to_str().context("a directory with a plain name")?;
    let filled = child::answer(&["engine-fill", path, &points.to_string()]).await?;
    let interrupted = child::answer(&["engine-open", path]).await?;
    let reopened = child::answer(&["engine-open", path]).await?;
    Ok(Engine { points, filled, reopened, interrupted })
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

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
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

/// The space from which vectors are made.
struct Space {
    basis: Vec<Vec<f32>>,
    crowds: Vec<Vec<f32>>,
}

impl Space {
    fn new() -> Self {
        let mut random = StdRng::seed_from_u64(7);
        let mut normals = |count| (0..count).map(|_| normal(&mut random)).collect();
        Self {
            basis: (0..LATENT).map(|_| normals(DIMENSION)).collect(),
            crowds: (0..CROWDS).map(|_| normals(LATENT)).collect(),
        }
    }

    fn vector(&self, seed: u64) -> Vec<f32> {
        let mut random = StdRng::seed_from_u64(seed);
        let crowd = &self.crowds[random.random_range(0..CROWDS)];
        let mut vector: Vec<f32> = (0..DIMENSION).map(|_| 0.3 * random.random_range(-1.0_f32..1.0)).collect();
        for (direction, centre) in self.basis.iter().zip(crowd) {
            let along = centre + 0.7 * normal(&mut random);
            vector.iter_mut().zip(direction).for_each(|(number, part)| *number += along * part);
        }
        let length = vector.iter().map(|number| number * number).sum::<f32>().sqrt();
        vector.iter_mut().for_each(|number| *number /= length);
        vector
    }

    fn point(&self, id: u64) -> Point {
        let fields = json!({ "number": id, "title": format!("the title of {id}"), "text": "some words ".repeat(15) });
        let payload: Payload = if let Value::Object(fields) = fields { fields } else { Payload::new() };
        let provenance = Provenance {
            position: Position { commit_lsn: Lsn(100), ordinal: id },
            table: "public.bench".to_owned(),
            key: vec![json!(id)],
            input_hash: InputHash::of("a text"),
            fingerprint: Fingerprint::of(&["bench"]),
            generation: Generation(1),
            chunk: 0,
            chunks: 1,
        };
        Point { id: PointId::Num(id), vector: self.vector(id), keywords: None, payload, provenance }
    }
}

/// Returns a random number, approximately from a normal distribution of variance 1.
fn normal(random: &mut StdRng) -> f32 {
    (0..6).map(|_| random.random_range(-1.0_f32..1.0)).sum::<f32>() / std::f32::consts::SQRT_2
}

/// A task that records the most anonymous memory of this process.
struct Memory(Arc<AtomicU64>, JoinHandle<()>);

impl Memory {
    fn watch() -> Self {
        let most = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn({
            let most = Arc::clone(&most);
            async move {
                loop {
                    most.fetch_max(anonymous_bytes().unwrap_or(0), Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
        Self(most, task)
    }

    fn most(self) -> u64 {
        self.1.abort();
        self.0.load(Ordering::Relaxed)
    }
}

fn anonymous_bytes() -> anyhow::Result<u64> {
    memory(std::process::id(), "RssAnon")
}
