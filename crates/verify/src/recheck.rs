//! The second look at suspects, repeated until the result is certain.
//!
//! Each round reads the row, writes a message into the WAL, waits for the running walvec to apply it, reads the point, and reads
//! the row once more. If both reads of the row found the same version, and the same versions of everything that its text is
//! rendered with, the point must show that version.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;
use tokio_postgres::Statement;
use walvec_model::{Lsn, PointId, RawPoint};

use crate::error::statement;
use crate::image::{Image, Imager};
use crate::outside::GET_LIMIT;
use crate::suspect::{Suspect, claim, version};
use crate::{CompareJob, ComparisonStage, Difference, Mismatch, MismatchKind, ParkedRow, VerifyError, barrier, select};

/// In how many rounds a row that keeps changing is read.
const ROUNDS: usize = 3;

/// A row, or a chunk of it, as it is now.
#[derive(Debug)]
pub(crate) struct PresentRow {
    pub(crate) image: Image,
    /// Distinguishes this version of the row from every other one.
    mark: String,
}

/// The result for a suspect.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SuspectVerdict {
    /// The point shows its row, or neither of them exists.
    Same,
    /// The running walvec reports that it could not process the row.
    Parked,
    /// The row changed in every round.
    Unsettled,
    /// The point differs from its row.
    Mismatch(Mismatch),
}

/// Reads rows and points again.
pub(crate) struct Rechecker<'a> {
    pub(crate) job: &'a CompareJob<'a>,
    imager: Arc<Imager>,
    rows_by_key: Statement,
    /// The keys of rows that PostgreSQL cannot send, as the running walvec reports: they are parked, and not read here.
    unsendable: HashMap<PointId, Vec<Value>>,
}

/// The code under which such rows are parked.
const TOO_LARGE: &str = "E_TOO_LARGE";

/// What one round has read about the suspects.
struct RecheckRound {
    before: HashMap<PointId, PresentRow>,
    barrier: Lsn,
    points: HashMap<PointId, RawPoint>,
    upper: Lsn,
    after: HashMap<PointId, PresentRow>,
}

impl<'a> Rechecker<'a> {
    pub(crate) async fn new(job: &'a CompareJob<'a>, imager: Arc<Imager>) -> Result<Self, VerifyError> {
        let query = select::rows_by_key(&imager.table, &imager.joined);
        let rows_by_key = job.query_session.prepare(&query).await.map_err(statement("preparing to read rows again"))?;
        let mut unsendable = HashMap::new();
        let note = |row: ParkedRow| {
            if row.code == TOO_LARGE {
                unsendable.insert(imager.ids.of(&row.key), row.key);
            }
        };
        job.each_parked(note).await?;
        Ok(Self { job, imager, rows_by_key, unsendable })
    }

    /// Returns the statement that reads every row that can be sent.
    pub(crate) fn all_rows(&self) -> String {
        let unsendable: Vec<_> = self.unsendable.values().cloned().collect();
        select::all_rows(&self.imager.table, &self.imager.joined, &unsendable)
    }

    /// Reads the rows with these keys, by the ids of their points.
    pub(crate) async fn rows(&self, keys: &[Vec<Value>]) -> Result<HashMap<PointId, PresentRow>, VerifyError> {
        let can_be_sent = |key: &&Vec<Value>| !self.unsendable.contains_key(&self.imager.ids.of(key));
        let keys: Vec<_> = keys.iter().filter(can_be_sent).cloned().collect();
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let wanted = select::key_texts(&keys);
        let failed = || statement("reading rows again");
        let found = self.job.query_session.query(&self.rows_by_key, &[&wanted]).await.map_err(failed())?;
        let columns = self.imager.texts();
        let mut rows = HashMap::with_capacity(found.len());
        for row in found {
            let texts = (0..columns).map(|index| row.try_get(index)).collect::<Result<Vec<Option<&str>>, _>>();
            let texts = texts.map_err(failed())?;
            let mut mark: String = row.try_get(columns).map_err(failed())?;
            // The text of a lookup contains the versions of its rows.
            texts.iter().skip(self.imager.table.columns.len()).for_each(|text| mark.push_str(text.unwrap_or("-")));
            let images = self.imager.images(texts.into_iter());
            rows.extend(images.into_iter().map(|image| (image.id, PresentRow { image, mark: mark.clone() })));
        }
        Ok(rows)
    }

    /// Returns the verdict on each suspect.
    pub(crate) async fn recheck(&self, suspects: Vec<Suspect>) -> Result<Vec<(Suspect, SuspectVerdict)>, VerifyError> {
        let mut rechecked = Vec::with_capacity(suspects.len());
        for (portion, done) in suspects.chunks(GET_LIMIT).zip((0..).step_by(GET_LIMIT)) {
            (self.job.watch)(ComparisonStage::Rechecking(suspects.len() - done));
            rechecked.extend(self.recheck_portion(portion).await?);
        }
        Ok(rechecked)
    }

    async fn recheck_portion(&self, suspects: &[Suspect]) -> Result<Vec<(Suspect, SuspectVerdict)>, VerifyError> {
        let mut open = suspects.to_vec();
        let mut rechecked = Vec::with_capacity(open.len());
        for number in 0..ROUNDS {
            let round = self.round(&open).await?;
            let mut moving = Vec::new();
            for mut suspect in open {
                match round.verdict(&suspect).filter(|verdict| self.is_certain(verdict, number)) {
                    Some(verdict) => rechecked.push((suspect, verdict)),
                    None => {
                        let claimed = round.points.get(&suspect.id).map(claim).unwrap_or_default();
                        suspect.key = suspect.key.or_else(|| self.imager.ids.key_for(suspect.id, claimed));
                        moving.push(suspect);
                    }
                }
            }
            open = moving;
            if open.is_empty() {
                break;
            }
        }
        rechecked.extend(open.into_iter().map(|suspect| (suspect, SuspectVerdict::Unsettled)));
        self.set_parked_apart(&mut rechecked).await?;
        Ok(rechecked)
    }

    /// Returns whether a verdict is final. Looked-up rows are read whenever a document is rendered, for any change. A looked-up
    /// row that was added and removed between the two reads may therefore be in the document, whose version is from before the
    /// first read. So with lookups a mismatch counts only from the second round on.
    fn is_certain(&self, verdict: &SuspectVerdict, round: usize) -> bool {
        let is_mismatch = matches!(verdict, SuspectVerdict::Mismatch(_));
        self.imager.joined.is_empty() || !is_mismatch || round > 0
    }

    async fn round(&self, suspects: &[Suspect]) -> Result<RecheckRound, VerifyError> {
        debug_assert!(suspects.len() <= GET_LIMIT, "one call asks for at most {GET_LIMIT} points");
        let keys: Vec<_> = suspects.iter().filter_map(|suspect| suspect.key.clone()).collect();
        let before = self.rows(&keys).await?;
        let barrier = barrier::emit(self.job.query_session).await?;
        barrier::wait(self.job, barrier).await?;
        let points = self.job.points.get(suspects.iter().map(|suspect| suspect.id).collect(), false).await?;
        let upper = barrier::wal_position(self.job.query_session).await?;
        let after = self.rows(&keys).await?;
        let points = points.into_iter().map(|point| (point.id, point)).collect();
        Ok(RecheckRound { before, barrier, points, upper, after })
    }

    async fn set_parked_apart(&self, rechecked: &mut [(Suspect, SuspectVerdict)]) -> Result<(), VerifyError> {
        if !rechecked.iter().any(|(_, verdict)| matches!(verdict, SuspectVerdict::Mismatch(_))) {
            return Ok(());
        }
        let mut parked = HashSet::new();
        self.job.each_parked(|row| parked.extend([self.imager.ids.of(&row.key)])).await?;
        for (suspect, verdict) in rechecked {
            let first = suspect.key.as_ref().map_or(suspect.id, |key| self.imager.ids.of(key));
            if matches!(verdict, SuspectVerdict::Mismatch(_))
                && (parked.contains(&suspect.id) || parked.contains(&first))
            {
                *verdict = SuspectVerdict::Parked;
            }
        }
        Ok(())
    }
}

impl RecheckRound {
    /// Returns the verdict of this round; `None` if the row changed during it.
    fn verdict(&self, suspect: &Suspect) -> Option<SuspectVerdict> {
        let (before, after) = (self.before.get(&suspect.id), self.after.get(&suspect.id));
        if before.map(|row| &row.mark) != after.map(|row| &row.mark) {
            return None;
        }
        let Some(point) = self.points.get(&suspect.id) else {
            return Some(
                after.map_or(SuspectVerdict::Same, |_| self.mismatch(MismatchKind::Missing, suspect, None, Vec::new())),
            );
        };
        let version = version(point);
        let mut differences = match after {
            None => Vec::new(),
            Some(row) => match &row.image.content {
                Ok(content) => content.differences(point),
                Err(reason) => vec![Difference {
                    field: "the row cannot be rendered".to_owned(),
                    expected: Some(reason.as_str().into()),
                    stored: None,
                }],
            },
        };
        if version.is_none_or(|version| version.commit_lsn > self.upper) {
            differences.push(Difference {
                field: "_walvec.v".to_owned(),
                expected: Some(format!("a version before {}", self.upper).into()),
                stored: point.payload.get("_walvec").and_then(|own| own.get("v")).cloned(),
            });
        } else if version.is_some_and(|version| version.commit_lsn >= self.barrier) {
            // The point was written since the row was first read, although the row is what it was then. Either the row was
            // changed and changed back, or that is still in flight.
            return (after.is_some() && differences.is_empty()).then_some(SuspectVerdict::Same);
        }
        if after.is_none() {
            return Some(self.mismatch(MismatchKind::Extra, suspect, Some(point), Vec::new()));
        }
        if differences.is_empty() {
            return Some(SuspectVerdict::Same);
        }
        let is_chunk = |difference: &Difference| matches!(difference.field.as_str(), "_walvec.c" | "_walvec.n");
        let kind = if differences.iter().all(is_chunk) { MismatchKind::Chunks } else { MismatchKind::Stale };
        Some(self.mismatch(kind, suspect, Some(point), differences))
    }

    fn mismatch(
        &self,
        kind: MismatchKind,
        suspect: &Suspect,
        point: Option<&RawPoint>,
        differences: Vec<Difference>,
    ) -> SuspectVerdict {
        let key = self.after.get(&suspect.id).map(|row| row.image.key.clone());
        let stored = point.and_then(|point| point.payload.get("_walvec")?.get("v")?.as_str());
        SuspectVerdict::Mismatch(Mismatch {
            kind,
            id: suspect.id,
            key,
            version: stored.map(str::to_owned),
            differences,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: PointId = PointId::Num(7);

    /// A row that cannot be rendered suffices where the content is not looked at.
    fn row(mark: &str) -> HashMap<PointId, PresentRow> {
        let image = Image { id: ID, key: vec![json!(7)], content: Err("no reason".to_owned()) };
        HashMap::from([(ID, PresentRow { image, mark: mark.to_owned() })])
    }

    fn point(version: Value) -> HashMap<PointId, RawPoint> {
        let Value::Object(payload) = json!({"_walvec": {"v": version, "k": [7]}}) else { panic!("a payload") };
        HashMap::from([(ID, RawPoint { id: ID, payload, vector: None, keywords: None })])
    }

    fn verdict(
        before: HashMap<PointId, PresentRow>,
        points: HashMap<PointId, RawPoint>,
        after: HashMap<PointId, PresentRow>,
    ) -> Option<SuspectVerdict> {
        let round = RecheckRound { before, barrier: Lsn(100), points, upper: Lsn(200), after };
        round.verdict(&Suspect { id: ID, key: None })
    }

    fn kind(verdict: Option<SuspectVerdict>) -> Option<MismatchKind> {
        match verdict {
            Some(SuspectVerdict::Mismatch(mismatch)) => Some(mismatch.kind),
            _ => None,
        }
    }

    #[test]
    fn a_row_that_moved_proves_nothing() {
        assert_eq!(verdict(row("1"), HashMap::new(), row("2")), None);
        assert_eq!(verdict(row("1"), point(json!("0/1.1")), HashMap::new()), None);
        assert_eq!(verdict(HashMap::new(), HashMap::new(), row("1")), None);
    }

    #[test]
    fn a_row_that_stood_still_proves_what_its_point_is() {
        assert_eq!(kind(verdict(row("1"), HashMap::new(), row("1"))), Some(MismatchKind::Missing));
        assert_eq!(kind(verdict(row("1"), point(json!("0/1.1")), row("1"))), Some(MismatchKind::Stale));
        assert_eq!(kind(verdict(HashMap::new(), point(json!("0/1.1")), HashMap::new())), Some(MismatchKind::Extra));
        assert_eq!(kind(verdict(HashMap::new(), point(Value::Null), HashMap::new())), Some(MismatchKind::Extra));
        assert_eq!(verdict(HashMap::new(), HashMap::new(), HashMap::new()), Some(SuspectVerdict::Same));
    }

    #[test]
    fn a_point_that_was_written_in_the_meantime_is_looked_at_again() {
        // 0/64 is the barrier, 0/C8 the end of the WAL.
        assert_eq!(verdict(HashMap::new(), point(json!("0/65.1")), HashMap::new()), None);
        assert_eq!(verdict(row("1"), point(json!("0/65.1")), row("1")), None);
        assert_eq!(kind(verdict(HashMap::new(), point(json!("0/C9.1")), HashMap::new())), Some(MismatchKind::Extra));
    }
}
