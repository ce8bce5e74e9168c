//! Detects that a provider has another model now under the name that the collections were built with.
//!
//! No protocol tells the revision of a model. So the vector of one text is stored in the data directory, and compared at each start
//! and from time to time while walvec runs. Vectors of two models have nothing to do with each other, and the hits of searches over
//! both would be random.
//!
//! - [`refuse_another_model`]: the comparison at a start
//! - [`ModelWatch`] (`watch`): the comparisons while walvec runs
//! - [`take_sample`] and [`replace_samples`]: the sample that a reindex stores in place of the former one

mod watch;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use walvec_embed::Embedder;
use walvec_model::{Moment, Vector};

use crate::config::Config;
use crate::failure::Failure;
use crate::private_file;

pub(crate) use watch::ModelWatch;

/// The file of the samples, in the directory of a stage.
const SAMPLES: &str = "samples.json";

/// The code of the refusal.
const E_MODEL_CHANGED: &str = "E_MODEL_CHANGED";

/// The least similarity of two vectors of one text by the same model, whatever hardware computes them; those of two models are less
/// similar.
const SAME_SIMILARITY: f32 = 0.95;

/// How long a start, and the beginning of a reindex, wait for a provider. Both go on if it does not answer.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// The stored vector of the fixed text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StoredSample {
    /// The first vector that was given, so that small differences cannot add up unnoticed.
    vector: Vector,
    /// When the same vector was last asked for and given.
    same_at: Moment,
}

/// Samples, by the name of what gave them.
type Samples = BTreeMap<String, StoredSample>;

/// The sample that a model has just given.
#[derive(Debug)]
pub(crate) struct NewSample {
    /// What gave it: only vectors for which this is equal are compared.
    by: String,
    /// The name that users know the model by.
    model: String,
    sample: StoredSample,
}

/// The result of a comparison that found no other model.
#[derive(Debug, PartialEq, Eq)]
enum CheckOutcome {
    /// The model is the same, or was asked for the first time.
    Same,
    /// The model's files identify it, so no sample is needed.
    NoNeed,
    /// The provider has not answered, with the reason.
    NotAnswered(String),
}

/// Compares the provider's vector of the sample with the stored one, or stores it at the first start. A provider that does not
/// answer is not refused. Returns whether the model is checked, so that nothing is left to ask.
pub(crate) async fn refuse_another_model(config: &Config, embedder: &dyn Embedder) -> Result<bool, Failure> {
    Ok(!matches!(check(&file(config), embedder, START_TIMEOUT).await?, CheckOutcome::NotAnswered(_)))
}

/// Returns the sample that the model gives now; `None` if its files identify it, or it does not answer.
pub(crate) async fn take_sample(embedder: &dyn Embedder) -> Option<NewSample> {
    ask_for_sample(embedder, START_TIMEOUT).await.ok().flatten()
}

/// Replaces all stored samples by the one that the model gave when it began to embed the collections that are served now.
pub(crate) fn replace_samples(config: &Config, given: Option<NewSample>) {
    let file = file(config);
    let samples: Samples = given.into_iter().map(|given| (given.by, given.sample)).collect();
    if samples.is_empty() {
        return remove(&file);
    }
    if let Err(error) = write(&file, &samples) {
        tracing::warn!("{} cannot be written: {error}", file.display());
        // The former sample would not match the present model.
        remove(&file);
    }
}

/// Forgets the samples of all stages.
pub(crate) fn forget_all(config: &Config) {
    let base = config.sink.directory();
    remove(&base.join(SAMPLES));
    for stage in std::fs::read_dir(base).into_iter().flatten().flatten() {
        remove(&stage.path().join(SAMPLES));
    }
}

/// Returns the path of the samples of this process's stage.
pub(crate) fn file(config: &Config) -> PathBuf {
    config.directory_of(config.stage).join(SAMPLES)
}

/// Asks for the sample once and compares. An error that [passes](Failure::passes) means that the sample could not be stored.
async fn check(file: &Path, embedder: &dyn Embedder, timeout: Duration) -> Result<CheckOutcome, Failure> {
    match ask_for_sample(embedder, timeout).await {
        Ok(Some(given)) => compare(file, given).map(|()| CheckOutcome::Same),
        Ok(None) => Ok(CheckOutcome::NoNeed),
        Err(reason) => Ok(CheckOutcome::NotAnswered(reason)),
    }
}

/// Asks for the sample; `None` if the model's files identify it. The error says why there is no answer.
async fn ask_for_sample(embedder: &dyn Embedder, timeout: Duration) -> Result<Option<NewSample>, String> {
    // Taken before the request, because the model may be replaced right after the answer.
    let same_at = SystemTime::now().into();
    let answer = tokio::time::timeout(timeout, embedder.sample()).await;
    let late = |_| format!("no answer within {} s", timeout.as_secs());
    let Some(vector) = answer.map_err(late)?.map_err(|error| error.to_string())? else { return Ok(None) };
    let info = embedder.info();
    let by = format!("{} {}", info.revision, vector.len());
    Ok(Some(NewSample { by, model: info.model.clone(), sample: StoredSample { vector, same_at } }))
}

/// Compares the given sample with the stored one. Stores it if there is none, else when it was the same.
fn compare(file: &Path, given: NewSample) -> Result<(), Failure> {
    let NewSample { by, model, sample: now } = given;
    let mut samples = read(file);
    let Some(before) = samples.get_mut(&by) else {
        samples.insert(by, now);
        let failed = |error| Failure::definite("E_STATE", format!("{}: {error}", file.display())).passing();
        return write(file, &samples).map_err(failed);
    };
    let similarity = similarity(&before.vector, &now.vector);
    if similarity >= SAME_SIMILARITY {
        before.same_at = now.same_at;
        // If it is not stored, a refusal names an earlier time, which is true as well.
        if let Err(error) = write(file, &samples) {
            tracing::warn!("{} cannot be written: {error}", file.display());
        }
        return Ok(());
    }
    Err(another_model(&model, similarity, before.same_at))
}

fn another_model(model: &str, similarity: f32, same_at: Moment) -> Failure {
    let what = format!(
        "the provider has another model under the name \"{model}\": for the same text its vector has a similarity of {similarity:.2} with that \
         of before. What was written since {same_at} may have its vectors, and searches would compare vectors of two models"
    );
    let remedy = "bring the former model back, start walvec, and let `walvec verify --sample all --repair` mend what was written meanwhile \
                  (behind a broker it finds it only); or embed everything again: `walvec reset --purge`, then `walvec run`";
    Failure::definite(E_MODEL_CHANGED, what).with_remedy(remedy)
}

/// Reads the stored samples; none if there is no file yet, or an unreadable one.
fn read(file: &Path) -> Samples {
    std::fs::read(file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

fn write(file: &Path, samples: &Samples) -> io::Result<()> {
    private_file::write(file, &serde_json::to_vec(samples)?)
}

fn remove(file: &Path) {
    if let Err(error) = std::fs::remove_file(file)
        && !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
    {
        tracing::warn!("{} cannot be removed: {error}", file.display());
    }
}

/// Returns the cosine of the angle between two vectors.
fn similarity(one: &[f32], other: &[f32]) -> f32 {
    let product = |one: &[f32], other: &[f32]| one.iter().zip(other).map(|(one, other)| one * other).sum::<f32>();
    product(one, other) / (product(one, one) * product(other, other)).sqrt()
}
