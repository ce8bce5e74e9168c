//! The repair of findings, and the check that follows it.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

use crate::findings::RepairTarget;
use crate::image::Imager;
use crate::recheck::{Rechecker, SuspectVerdict};
use crate::suspect::Suspect;
use crate::{
    CompareJob, ComparisonStage, Findings, Mismatch, MismatchKind, RepairPortion, VerifyError, barrier, vectors,
};

/// How many of the remaining mismatches are shown.
const EXAMPLES: usize = 10;

/// The result of a repair.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mended {
    /// Mismatches that are gone.
    pub mended: u64,
    /// Mismatches whose rows could not be processed when they were read again.
    pub parked: u64,
    /// Mismatches that are still there.
    pub left: u64,
    /// Rows that changed whenever they were read.
    pub unsettled: u64,
    /// A few of the remaining mismatches.
    pub examples: Vec<Mismatch>,
}

/// Sends every finding to the running walvec in portions, waits for it, then compares all of them again.
///
/// # Errors
/// If the running walvec cannot do it, or a side cannot be read.
pub async fn repair(job: &CompareJob<'_>, findings: &mut Findings) -> Result<Mended, VerifyError> {
    send(job, findings).await?;
    barrier::prepare(job.query_session).await?;
    let rechecker = Rechecker::new(job, Arc::new(Imager::find(job).await?)).await?;
    let mut mended = Mended::default();
    let mut portions = findings.portions()?;
    loop {
        let portion = portions.next()?;
        if portion.is_empty() {
            return Ok(mended);
        }
        prove(&rechecker, portion, &mut mended).await?;
    }
}

async fn send(job: &CompareJob<'_>, findings: &mut Findings) -> Result<(), VerifyError> {
    let of = findings.count();
    let mut portions = findings.portions()?;
    let mut sent = 0;
    loop {
        let found = portions.next()?;
        if found.is_empty() {
            return Ok(());
        }
        sent += found.len() as u64;
        let portion = portion(&job.spec.collection, found);
        job.running
            .repair(&portion, &|state| (job.watch)(ComparisonStage::Repairing { sent, of, state: Some(state) }))
            .await?;
        (job.watch)(ComparisonStage::Repairing { sent, of, state: None });
    }
}

/// Returns the request for these findings. Where a row exists, it is read again and replaces its point. Where none
/// exists, the point is removed.
fn portion(collection: &str, findings: Vec<RepairTarget>) -> RepairPortion {
    let mut portion = RepairPortion { collection: collection.to_owned(), rows: Vec::new(), points: Vec::new() };
    // Several chunks of one row may differ; the row is named once.
    let mut named = HashSet::new();
    for RepairTarget { id, key, version, .. } in findings {
        match key {
            Some(key) if !named.insert(Value::from(key.clone()).to_string()) => {}
            Some(key) => portion.rows.push(key),
            None => portion.points.push((id, version)),
        }
    }
    portion
}

async fn prove(rechecker: &Rechecker<'_>, findings: Vec<RepairTarget>, mended: &mut Mended) -> Result<(), VerifyError> {
    let mut vectors = Vec::new();
    let mut suspects = Vec::with_capacity(findings.len());
    for RepairTarget { kind, id, key, .. } in findings {
        if let (MismatchKind::BadVector, Some(key)) = (kind, &key) {
            vectors.push((id, key.clone()));
        }
        suspects.push(Suspect { id, key });
    }
    let mut bad = vectors::check(rechecker, vectors, 0).await?.bad;
    for (suspect, verdict) in rechecker.recheck(suspects).await? {
        let vector = bad.iter().position(|mismatch| mismatch.id == suspect.id).map(|index| bad.swap_remove(index));
        match (verdict, vector) {
            (SuspectVerdict::Mismatch(mismatch), _) | (_, Some(mismatch)) => {
                mended.left += 1;
                if mended.examples.len() < EXAMPLES {
                    mended.examples.push(mismatch);
                }
            }
            (SuspectVerdict::Unsettled, None) => mended.unsettled += 1,
            (SuspectVerdict::Parked, None) => mended.parked += 1,
            (SuspectVerdict::Same, None) => mended.mended += 1,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use walvec_model::PointId;

    use super::*;

    #[test]
    fn what_has_a_row_is_read_again_and_what_has_none_is_removed() {
        let finding = |kind, number, key: Option<i64>| RepairTarget {
            kind,
            id: PointId::Num(number),
            key: key.map(|key| vec![json!(key)]),
            version: Some(format!("0/{number}.1")),
        };
        let findings = vec![
            finding(MismatchKind::Missing, 1, Some(1)),
            finding(MismatchKind::Extra, 2, None),
            finding(MismatchKind::BadVector, 3, Some(3)),
            RepairTarget { version: None, ..finding(MismatchKind::Extra, 4, None) },
        ];
        let portion = portion("books", findings);
        assert_eq!(portion.rows, [[json!(1)], [json!(3)]]);
        assert_eq!(portion.points, [(PointId::Num(2), Some("0/2.1".to_owned())), (PointId::Num(4), None)]);
    }
}
