//! The comparison of one collection, from beginning to end.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_postgres::binary_copy::{BinaryCopyOutRow, BinaryCopyOutStream};
use tokio_postgres::types::Type;
use walvec_model::{PointId, RESERVED_KEY, RawPoint};

use crate::error::{interrupted, statement};
use crate::image::Imager;
use crate::merge::{Merge, Scanned};
use crate::recheck::{Rechecker, SuspectVerdict};
use crate::sort::{Expected, Sorted, Sorter};
use crate::vectors::{self, Sampler};
use crate::{CompareJob, ComparisonStage, Findings, Mismatch, Report, VerifyError, barrier};

/// How many rows are rendered together at most; the next constant bounds their bytes.
const BATCH_ROWS: usize = 512;
const BATCH_BYTES: usize = 1 << 20;
/// How many batches are rendered concurrently.
const BATCHES: usize = 4;
/// Points of a page: at first, at least, at most. In between, a page has as many as make about [`PAGE_BYTES`].
const PAGE: usize = 16;
const PAGES: std::ops::RangeInclusive<usize> = 16..=4096;
const PAGE_BYTES: usize = 2 << 20;
/// How many points are read first: a majority of them shows what the collection was built with.
const FIRST_POINTS: usize = 256;

/// Compares a collection with its table, both as they are at some moment during the call.
///
/// Reads every row once, in one transaction, and every point once; what differs is read again. Takes about 100 MiB of memory,
/// whatever the number of rows, and per row a temporary file's share of some 50 bytes and the key.
///
/// # Errors
/// If a side cannot be read, or the collection was built with another model or text ([`VerifyError::Fingerprint`]). Waits for
/// as long as the running walvec is behind, and reports that to [`CompareJob::watch`].
#[must_use]
pub fn compare<'a>(job: &'a CompareJob<'_>) -> BoxFuture<'a, Result<(Report, Findings), VerifyError>> {
    // Boxed here, because a bare future would be compiled in the crate that awaits it, with that crate's optimisation level.
    Box::pin(compare_in_pages(job))
}

async fn compare_in_pages(job: &CompareJob<'_>) -> Result<(Report, Findings), VerifyError> {
    check_fingerprint(job).await?;
    barrier::prepare(job.query_session).await?;
    let imager = Arc::new(Imager::find(job).await?);
    let rechecker = Rechecker::new(job, Arc::clone(&imager)).await?;
    let mut comparison = Comparison {
        rechecker,
        report: Report::new(&job.spec.collection, &job.spec.table),
        findings: Findings::new()?,
    };
    let sorted = comparison.read_rows(&imager).await?;
    comparison.merge(imager, sorted).await?;
    comparison.list_parked().await?;
    let Comparison { mut report, findings, .. } = comparison;
    report.examples.sort_by_key(|mismatch| mismatch.kind);
    Ok((report, findings))
}

/// Refuses a collection if most of its first points were made by another model or text.
async fn check_fingerprint(job: &CompareJob<'_>) -> Result<(), VerifyError> {
    let page = job.points.page(None, FIRST_POINTS).await?;
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for point in &page.points {
        let fingerprint = point.payload.get(RESERVED_KEY).and_then(|own| own.get("m")?.as_str());
        *counts.entry(fingerprint.unwrap_or_default()).or_default() += 1;
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    match most {
        Some((stored, count))
            if !stored.is_empty() && stored != job.spec.fingerprint.0 && count * 2 > page.points.len() && count > 1 =>
        {
            Err(VerifyError::Fingerprint {
                collection: job.spec.collection.clone(),
                stored: stored.to_owned(),
                configured: job.spec.fingerprint.to_string(),
            })
        }
        _ => Ok(()),
    }
}

struct Comparison<'a> {
    rechecker: Rechecker<'a>,
    report: Report,
    findings: Findings,
}

impl Comparison<'_> {
    /// Reads the image of every row of a snapshot, sorted by id; returns when the running walvec has applied the whole
    /// snapshot.
    async fn read_rows(&mut self, imager: &Arc<Imager>) -> Result<Sorted, VerifyError> {
        let job = self.rechecker.job;
        let failed = || statement(format!("reading {}", job.spec.table));
        job.reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await.map_err(failed())?;
        // The first query takes the snapshot.
        job.reader.batch_execute("SELECT").await.map_err(failed())?;
        let barrier = barrier::emit(job.query_session).await?;
        let copy = format!("COPY ({}) TO STDOUT (FORMAT binary)", self.rechecker.all_rows());
        let rows = job.reader.copy_out(&copy).await.map_err(failed())?;
        let columns = imager.texts();
        // Fused, because the stream must not be polled after its end.
        let mut rows = Box::pin(BinaryCopyOutStream::new(rows, &vec![Type::TEXT; columns]).fuse());
        let mut sorter = Sorter::new();
        let mut rendering: VecDeque<JoinHandle<Result<Vec<Expected>, VerifyError>>> = VecDeque::new();
        loop {
            let batch = next_batch(&mut rows, columns).await.map_err(failed())?;
            let ended = batch.is_empty();
            if !ended {
                self.report.rows += batch.len() as u64;
                let imager = Arc::clone(imager);
                rendering.push_back(spawn_blocking(move || render(&imager, &batch, columns)));
            }
            while rendering.len() >= BATCHES || (ended && !rendering.is_empty()) {
                let Some(batch) = rendering.pop_front() else { break };
                let batch = batch.await.map_err(interrupted)??;
                let pushed = spawn_blocking(move || sorter.push(batch).map(|()| sorter));
                sorter = pushed.await.map_err(interrupted)??;
                (job.watch)(ComparisonStage::Reading(self.report.rows));
            }
            if ended {
                break;
            }
        }
        job.reader.batch_execute("COMMIT").await.map_err(failed())?;
        barrier::wait(job, barrier).await?;
        Ok(spawn_blocking(move || sorter.finish()).await.map_err(interrupted)??)
    }

    async fn merge(&mut self, imager: Arc<Imager>, sorted: Sorted) -> Result<(), VerifyError> {
        let job = self.rechecker.job;
        let mut merge = Merge::new(imager, sorted, Sampler::new(job.sample, job.seed))?;
        let mut scan = Scan { next: Some(None), limit: PAGE };
        let mut ahead = scan.page(job).await?;
        while !merge.is_done() {
            let page = if merge.is_hungry() { ahead.take() } else { None };
            let last = ahead.is_none() && scan.next.is_none();
            let work = spawn_blocking(move || merge.run(page, last).map(|()| merge));
            // Fetch the next page concurrently.
            let fetch = async { if ahead.is_none() { scan.page(job).await } else { Ok(ahead.take()) } };
            let (worked, fetched) = tokio::join!(work, fetch);
            merge = worked.map_err(interrupted)??;
            ahead = fetched?;
            (job.watch)(ComparisonStage::Comparing { points: merge.points, rows: self.report.rows });
            if merge.is_full() || merge.is_done() {
                self.look_again(&mut merge).await?;
            }
        }
        self.report.points = merge.points;
        Ok(())
    }

    async fn look_again(&mut self, merge: &mut Merge) -> Result<(), VerifyError> {
        for (suspect, verdict) in self.rechecker.recheck(std::mem::take(&mut merge.suspects)).await? {
            match verdict {
                SuspectVerdict::Same => {
                    if let Some(key) = suspect.key {
                        merge.sampler.offer(suspect.id, serde_json::Value::Array(key).to_string().as_bytes());
                    }
                }
                SuspectVerdict::Parked => {}
                SuspectVerdict::Unsettled => self.report.unsettled += 1,
                SuspectVerdict::Mismatch(mismatch) => self.found(mismatch)?,
            }
        }
        let chosen = merge.sampler.take(merge.is_done());
        let checked = vectors::check(&self.rechecker, chosen, self.report.sampled).await?;
        self.report.sampled += checked.sampled;
        checked.bad.into_iter().try_for_each(|mismatch| self.found(mismatch))
    }

    fn found(&mut self, mismatch: Mismatch) -> Result<(), VerifyError> {
        self.findings.add(&mismatch)?;
        self.report.add(mismatch);
        Ok(())
    }

    async fn list_parked(&mut self) -> Result<(), VerifyError> {
        self.rechecker.job.each_parked(|row| self.report.add_parked(row)).await
    }
}

/// The position of the scroll.
struct Scan {
    /// Where the next page begins; `None` at the end.
    next: Option<Option<PointId>>,
    limit: usize,
}

impl Scan {
    async fn page(&mut self, job: &CompareJob<'_>) -> Result<Option<Scanned>, VerifyError> {
        let Some(from) = self.next else { return Ok(None) };
        let page = job.points.page(from, self.limit).await?;
        let upper = barrier::wal_position(job.query_session).await?;
        self.next = page.next.map(Some);
        self.limit = next_limit(&page.points).unwrap_or(self.limit);
        Ok(Some(Scanned { points: page.points, upper }))
    }
}

/// Returns how many points make about [`PAGE_BYTES`], judging by the last page.
fn next_limit(points: &[RawPoint]) -> Option<usize> {
    let bytes: usize =
        points.iter().map(|point| point.payload.iter().map(|(_, value)| weight(value)).sum::<usize>()).sum();
    let each = bytes.checked_div(points.len())?.max(1);
    Some((PAGE_BYTES / each).clamp(*PAGES.start(), *PAGES.end()))
}

/// Returns about how many bytes a value takes.
fn weight(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::String(text) => text.len() + 16,
        serde_json::Value::Array(items) => items.iter().map(weight).sum::<usize>() + 16,
        serde_json::Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + weight(value)).sum(),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => 16,
    }
}

type RowStream = std::pin::Pin<Box<futures::stream::Fuse<BinaryCopyOutStream>>>;

/// Reads the next rows, bounded by number and bytes; none at the end.
async fn next_batch(rows: &mut RowStream, columns: usize) -> Result<Vec<BinaryCopyOutRow>, tokio_postgres::Error> {
    let (mut batch, mut bytes) = (Vec::with_capacity(BATCH_ROWS), 0);
    while batch.len() < BATCH_ROWS && bytes < BATCH_BYTES {
        let Some(row) = rows.try_next().await? else { break };
        for column in 0..columns {
            bytes += row.try_get::<Option<&str>>(column)?.map_or(0, str::len);
        }
        batch.push(row);
    }
    Ok(batch)
}

fn render(imager: &Imager, rows: &[BinaryCopyOutRow], columns: usize) -> Result<Vec<Expected>, VerifyError> {
    let mut expected = Vec::with_capacity(rows.len());
    for row in rows {
        let texts = (0..columns).map(|column| row.try_get(column)).collect::<Result<Vec<Option<&str>>, _>>();
        for image in imager.images(texts.map_err(statement("reading a row"))?.into_iter()) {
            let key = serde_json::to_vec(&image.key).map_err(std::io::Error::from)?;
            expected.push(Expected { id: image.id, digest: image.digest(), key: key.into() });
        }
    }
    Ok(expected)
}
