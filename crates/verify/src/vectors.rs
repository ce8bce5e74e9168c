//! The check whether stored vectors are those of the rows' texts. Nothing stored could show that, so the texts are embedded
//! again.

use std::collections::BinaryHeap;

use serde_json::{Value, json};
use walvec_embed::EmbedError;
use walvec_model::{PointId, RawPoint, SparseVector, Vector};

use crate::digest;
use crate::image::Content;
use crate::recheck::Rechecker;
use crate::suspect::version;
use crate::{ComparisonStage, Difference, KeywordFunction, Mismatch, MismatchKind, VectorSample, VerifyError};

/// The least cosine of two vectors of one text: they differ at most by rounding and quantization of their numbers.
const SAME_COSINE: f64 = 0.999;
/// The greatest difference of two weights of one token: they differ at most by rounding.
const SAME_WEIGHT: f32 = 1e-4;
/// How many points have their texts read and embedded together.
const BATCH: usize = 256;
/// How often a point is looked at whose row keeps changing.
const ROUNDS: usize = 3;

/// A point to check, and its row's key.
pub(crate) type Chosen = (PointId, Vec<Value>);

/// Chooses the points whose ids have the lowest hashes under the seed, so that the choice depends on nothing else.
#[derive(Debug)]
pub(crate) struct Sampler {
    sample: VectorSample,
    seed: [u8; 32],
    lowest: BinaryHeap<(u64, PointId, Box<[u8]>)>,
    /// If all points are checked: those that were not checked yet.
    batch: Vec<(PointId, Box<[u8]>)>,
}

impl Sampler {
    pub(crate) fn new(sample: VectorSample, seed: u64) -> Self {
        let seed = blake3::derive_key("walvec verify sample", &seed.to_be_bytes());
        Self { sample, seed, lowest: BinaryHeap::new(), batch: Vec::new() }
    }

    /// Offers a point that shows its row; `key` is the row's key as JSON.
    pub(crate) fn offer(&mut self, point: PointId, key: &[u8]) {
        let size = match self.sample {
            VectorSample::All => return self.batch.push((point, key.into())),
            VectorSample::Points(size) => size,
        };
        let id = match point {
            PointId::Num(number) => u128::from(number),
            PointId::Uuid(uuid) => uuid.as_u128(),
        };
        let hash = blake3::keyed_hash(&self.seed, &id.to_be_bytes());
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        let rank = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        if self.lowest.len() < size || self.lowest.peek().is_some_and(|(highest, ..)| rank < *highest) {
            self.lowest.push((rank, point, key.into()));
            if self.lowest.len() > size {
                self.lowest.pop();
            }
        }
    }

    /// Returns whether points must be checked before further ones are offered.
    pub(crate) const fn is_full(&self) -> bool {
        self.batch.len() >= BATCH
    }

    /// Takes the points that are to be checked; `last`: all points were offered.
    pub(crate) fn take(&mut self, last: bool) -> Vec<Chosen> {
        let mut chosen: Vec<(PointId, Box<[u8]>)> = std::mem::take(&mut self.batch);
        if last {
            chosen.extend(std::mem::take(&mut self.lowest).into_iter().map(|(_, id, key)| (id, key)));
        }
        chosen.into_iter().filter_map(|(id, key)| Some((id, serde_json::from_slice(&key).ok()?))).collect()
    }
}

/// The result of a check.
#[derive(Debug, Default)]
pub(crate) struct VectorCheck {
    pub(crate) sampled: u64,
    pub(crate) bad: Vec<Mismatch>,
}

/// Compares the vectors of these points with those of their rows' texts. Points whose rows keep changing, or are gone, are
/// left out.
pub(crate) async fn check(
    rechecker: &Rechecker<'_>,
    chosen: Vec<Chosen>,
    before: u64,
) -> Result<VectorCheck, VerifyError> {
    let mut checked = VectorCheck::default();
    for batch in chosen.chunks(BATCH) {
        let mut open = batch.to_vec();
        for _ in 0..ROUNDS {
            // Read each row once, even if several of its chunks are checked.
            let mut keys: Vec<_> = open.iter().map(|(_, key)| key.clone()).collect();
            keys.sort_by_cached_key(|key| Value::Array(key.clone()).to_string());
            keys.dedup();
            let mut rows = rechecker.rows(&keys).await?;
            let points = rechecker.job.points.get(open.iter().map(|(id, _)| *id).collect(), true).await?;
            let mut still = Vec::with_capacity(points.len());
            for point in points {
                let Some(row) = rows.remove(&point.id) else { continue };
                match row.image.content {
                    // Even if the row changes, this vector was made for this text.
                    Ok(content) if shows(&point, &content) => still.push((point, row.image.key, content)),
                    _ => {}
                }
            }
            open.retain(|(id, _)| !still.iter().any(|(point, ..)| point.id == *id));
            checked.sampled += still.len() as u64;
            checked.bad.extend(compare(rechecker, still).await?);
            (rechecker.job.watch)(ComparisonStage::Embedding(before + checked.sampled));
            if open.is_empty() {
                break;
            }
        }
    }
    Ok(checked)
}

fn shows(point: &RawPoint, content: &Content) -> bool {
    let [_, _, hash, ..] = digest::stored_parts(&point.payload);
    hash == content.text_hash()
}

async fn compare(
    rechecker: &Rechecker<'_>,
    points: Vec<(RawPoint, Vec<Value>, Content)>,
) -> Result<Vec<Mismatch>, VerifyError> {
    let texts: Vec<String> = points.iter().map(|(.., content)| content.text.clone()).collect();
    if texts.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = rechecker.job.embedder.embed(texts).await?;
    if wanted.len() != points.len() {
        let reason = format!("{} texts were given, {} vectors came back", points.len(), wanted.len());
        return Err(EmbedError::Failed(reason).into());
    }
    // If the provider does not answer, that says nothing about what is stored.
    let mut answers = Vec::with_capacity(wanted.len());
    for answer in wanted {
        match answer {
            Err(error) if error.is_retryable() => return Err(error.into()),
            answer => answers.push(answer),
        }
    }
    let keywords = rechecker.job.spec.keywords.as_ref();
    let bad = points.into_iter().zip(answers).filter_map(|((point, key, content), wanted)| {
        let fault = match wanted {
            Ok(wanted) => fault(point.vector.as_ref(), &wanted),
            Err(error) => Some(format!("its text cannot be embedded any more: {error}")),
        };
        let dense = fault.map(|fault| Difference {
            field: "vector".to_owned(),
            expected: Some(json!(format!("the vector of the row's text (cosine at least {SAME_COSINE})"))),
            stored: Some(fault.into()),
        });
        let wanted = keywords.map(|KeywordFunction(of)| of(&content.text));
        let sparse = sparse_fault(point.keywords.as_ref(), wanted.as_ref()).map(|fault| Difference {
            field: "keywords".to_owned(),
            expected: Some("the sparse vector of the row's text".into()),
            stored: Some(fault.into()),
        });
        let differences: Vec<Difference> = dense.into_iter().chain(sparse).collect();
        (!differences.is_empty()).then(|| Mismatch {
            kind: MismatchKind::BadVector,
            id: point.id,
            key: Some(key),
            version: version(&point).map(|version| version.to_string()),
            differences,
        })
    });
    Ok(bad.collect())
}

/// Returns what is wrong with a stored vector, if anything.
fn fault(stored: Option<&Vector>, wanted: &Vector) -> Option<String> {
    let Some(stored) = stored else { return Some("no vector".to_owned()) };
    if stored.len() != wanted.len() {
        return Some(format!("a vector of {} numbers, not {}", stored.len(), wanted.len()));
    }
    if stored.iter().any(|number| !number.is_finite()) {
        return Some("a vector with a number that is not finite".to_owned());
    }
    let product = |left: &Vector, right: &Vector| -> f64 {
        left.iter().zip(right).map(|(left, right)| f64::from(*left) * f64::from(*right)).sum()
    };
    let lengths = (product(stored, stored) * product(wanted, wanted)).sqrt();
    if lengths == 0.0 {
        return Some("a vector of zeros".to_owned());
    }
    let cosine = product(stored, wanted) / lengths;
    (cosine < SAME_COSINE).then(|| format!("another vector (cosine {cosine:.4})"))
}

/// Returns what is wrong with a stored sparse vector, if anything. An empty one need not be stored.
fn sparse_fault(stored: Option<&SparseVector>, wanted: Option<&SparseVector>) -> Option<String> {
    let stored = stored.filter(|stored| !stored.is_empty());
    match (stored, wanted.filter(|wanted| !wanted.is_empty())) {
        (None, None) => None,
        (None, Some(_)) => Some("no sparse vector".to_owned()),
        (Some(_), None) => Some("a sparse vector, where the text has none".to_owned()),
        (Some(stored), Some(wanted)) if stored.indices != wanted.indices => {
            Some("the sparse vector of other words".to_owned())
        }
        (Some(stored), Some(wanted)) => {
            let same = |(stored, wanted): (&f32, &f32)| (stored - wanted).abs() <= SAME_WEIGHT;
            let is_same = stored.values.iter().zip(&wanted.values).all(same);
            (!is_same).then(|| "a sparse vector with other weights".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(sampler: &mut Sampler, number: u64) {
        sampler.offer(PointId::Num(number), format!("[{number}]").as_bytes());
    }

    fn sample(size: usize, seed: u64, numbers: impl Iterator<Item = u64>) -> Vec<PointId> {
        let mut sampler = Sampler::new(VectorSample::Points(size), seed);
        numbers.for_each(|number| offer(&mut sampler, number));
        let mut ids: Vec<_> = sampler.take(true).into_iter().map(|(id, _)| id).collect();
        ids.sort();
        ids
    }

    #[test]
    fn a_seed_chooses_the_same_points_in_any_order() {
        let chosen = sample(20, 7, 0..1000);
        assert_eq!(chosen.len(), 20);
        assert_eq!(chosen, sample(20, 7, (0..1000).rev()));
        assert_ne!(chosen, sample(20, 8, 0..1000));
        assert_eq!(sample(20, 7, 0..5).len(), 5);
        assert!(sample(0, 7, 0..5).is_empty());
    }

    #[test]
    fn a_sample_of_all_points_is_checked_in_batches() {
        let mut sampler = Sampler::new(VectorSample::All, 0);
        (0..BATCH as u64).for_each(|number| offer(&mut sampler, number));
        assert!(sampler.is_full());
        assert_eq!(sampler.take(false).len(), BATCH);
        assert!(!sampler.is_full() && sampler.take(true).is_empty());
    }

    #[test]
    fn every_fault_of_a_sparse_vector_is_seen_and_an_empty_one_is_none() {
        let sparse = |pairs: &[(u32, f32)]| {
            let (indices, values) = pairs.iter().copied().unzip();
            SparseVector { indices, values }
        };
        let wanted = sparse(&[(1, 0.5), (7, 1.5)]);
        let fault = |stored: Option<&SparseVector>| sparse_fault(stored, Some(&wanted));
        assert_eq!(fault(Some(&sparse(&[(1, 0.500_01), (7, 1.5)]))), None);
        assert!(fault(None).unwrap().contains("no sparse vector"));
        assert!(fault(Some(&sparse(&[(1, 0.5)]))).unwrap().contains("other words"));
        assert!(fault(Some(&sparse(&[(1, 0.5), (7, 1.0)]))).unwrap().contains("weights"));
        assert!(fault(Some(&sparse(&[(1, 0.5), (7, f32::NAN)]))).is_some());
        assert_eq!(sparse_fault(None, Some(&sparse(&[]))), None);
        assert_eq!(sparse_fault(None, None), None);
        assert!(sparse_fault(Some(&wanted), None).is_some());
    }

    #[test]
    fn every_fault_of_a_vector_is_seen_and_rounding_is_none() {
        let wanted = vec![0.6, 0.8];
        assert_eq!(fault(Some(&vec![0.600_01, 0.799_99]), &wanted), None);
        assert_eq!(fault(Some(&vec![6.0, 8.0]), &wanted), None);
        for (stored, part) in [
            (None, "no vector"),
            (Some(vec![0.6]), "1 numbers"),
            (Some(vec![0.6, f32::NAN]), "not finite"),
            (Some(vec![0.0, 0.0]), "zeros"),
            (Some(vec![0.8, 0.6]), "cosine 0.96"),
            (Some(vec![-0.6, -0.8]), "cosine -1"),
        ] {
            assert!(fault(stored.as_ref(), &wanted).unwrap().contains(part), "{part}");
        }
    }
}
