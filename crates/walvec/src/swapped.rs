//! Whether a provider has another model now under the name that the collections were built with.
//!
//! No protocol tells the revision of a model. So the vector of one text is remembered in the data directory, and compared at each
//! start and from time to time while walvec runs: vectors of two models have nothing to do with each other, and searches over both
//! would find anything.
//!
//! - [`refuse_another_model`]: the comparison at a start
//! - [`Watch`]: the comparisons while walvec runs
//! - [`given`] and [`replace`]: what a reindex remembers in place of what was before

mod watch;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use walvec_embed::Embedder;
use walvec_model::{Moment, Vector};

use crate::cli::Failure;
use crate::config::Config;
use crate::remembered::write_private;

pub(crate) use watch::Watch;

/// The file of the samples, in the directory of a stage.
const SAMPLES: &str = "samples.json";

/// The code of the refusal.
const E_MODEL_CHANGED: &str = "E_MODEL_CHANGED";

/// Vectors of the same text by the same model are at least so similar, whatever hardware computes them; those of two models are not.
const SAME: f32 = 0.95;

/// How long a start, and the beginning of a reindex, wait for a provider. One that is away keeps neither from going on.
const PATIENCE: Duration = Duration::from_secs(5);

/// The vector of the text that is always the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sample {
    /// As it was at first: small differences must not add up unnoticed.
    vector: Vector,
    /// When the same vector was last asked for and given.
    same_at: Moment,
}

/// Samples, by what gave them.
type Samples = BTreeMap<String, Sample>;

/// What a model has just given for the sample.
#[derive(Debug)]
pub(crate) struct Given {
    /// What gave it: what vectors have to have in common to be compared.
    by: String,
    /// The name that people know the model by.
    model: String,
    sample: Sample,
}

/// What came of a comparison in which no other model was found.
#[derive(Debug, PartialEq, Eq)]
enum Checked {
    /// The model is the same, or was asked for the first time.
    Same,
    /// The files of the model tell what it is.
    NoNeed,
    /// The provider has not answered, and why.
    NotAnswered(String),
}

/// Compares the provider's vector of the sample with that of the first start, or remembers it. A provider that does not answer
/// is no other one. Returns whether nothing is left to be asked.
pub(crate) async fn refuse_another_model(config: &Config, embedder: &dyn Embedder) -> Result<bool, Failure> {
    Ok(!matches!(check(&file(config), embedder, PATIENCE).await?, Checked::NotAnswered(_)))
}

/// What the model gives for the sample now; `None` if its files tell what it is, or it does not answer.
pub(crate) async fn given(embedder: &dyn Embedder) -> Option<Given> {
    ask(embedder, PATIENCE).await.ok().flatten()
}

/// Puts what the model gave when it began to embed what is served now in the place of all samples of before.
pub(crate) fn replace(config: &Config, given: Option<Given>) {
    let file = file(config);
    let samples: Samples = given.into_iter().map(|given| (given.by, given.sample)).collect();
    if samples.is_empty() {
        return remove(&file);
    }
    if let Err(error) = write(&file, &samples) {
        tracing::warn!("{} cannot be written: {error}", file.display());
        // A sample of before would speak against the model of now.
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

/// Where the stage of this process remembers samples.
pub(crate) fn file(config: &Config) -> PathBuf {
    config.directory_of(config.stage).join(SAMPLES)
}

/// Asks for the sample once and compares. An error that [passes](Failure::passes): the sample could not be remembered.
async fn check(file: &Path, embedder: &dyn Embedder, patience: Duration) -> Result<Checked, Failure> {
    match ask(embedder, patience).await {
        Ok(Some(given)) => compare(file, given).map(|()| Checked::Same),
        Ok(None) => Ok(Checked::NoNeed),
        Err(reason) => Ok(Checked::NotAnswered(reason)),
    }
}

/// Asks for the sample; `None` if the model's files tell what it is. The error says why there is no answer.
async fn ask(embedder: &dyn Embedder, patience: Duration) -> Result<Option<Given>, String> {
    // Before the question: the model may be replaced right behind the answer.
    let same_at = SystemTime::now().into();
    let answer = tokio::time::timeout(patience, embedder.sample()).await;
    let late = |_| format!("no answer within {} s", patience.as_secs());
    let Some(vector) = answer.map_err(late)?.map_err(|error| error.to_string())? else { return Ok(None) };
    let info = embedder.info();
    let by = format!("{} {}", info.revision, vector.len());
    Ok(Some(Given { by, model: info.model.clone(), sample: Sample { vector, same_at } }))
}

/// Compares what was given with what is remembered, and remembers it, or when it was the same.
fn compare(file: &Path, given: Given) -> Result<(), Failure> {
    let Given { by, model, sample: now } = given;
    let mut samples = read(file);
    let Some(before) = samples.get_mut(&by) else {
        samples.insert(by, now);
        let failed = |error| Failure::definite("E_STATE", format!("{}: {error}", file.display())).passing();
        return write(file, &samples).map_err(failed);
    };
    let similarity = similarity(&before.vector, &now.vector);
    if similarity >= SAME {
        before.same_at = now.same_at;
        // An earlier time is named then, which is true as well.
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

/// What is remembered; nothing where there is no file yet, or an unreadable one.
fn read(file: &Path) -> Samples {
    std::fs::read(file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

fn write(file: &Path, samples: &Samples) -> io::Result<()> {
    write_private(file, &serde_json::to_vec(samples)?)
}

fn remove(file: &Path) {
    if let Err(error) = std::fs::remove_file(file)
        && !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
    {
        tracing::warn!("{} cannot be removed: {error}", file.display());
    }
}

/// The cosine of the angle between two vectors.
fn similarity(one: &[f32], other: &[f32]) -> f32 {
    let product = |one: &[f32], other: &[f32]| one.iter().zip(other).map(|(one, other)| one * other).sum::<f32>();
    product(one, other) / (product(one, one) * product(other, other)).sqrt()
}
