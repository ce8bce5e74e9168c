//! Whether a provider has another model now under the name that the collections were built with.
//!
//! No protocol tells the revision of a model. So the vector of one text is remembered in the data directory, and compared at each
//! start: vectors of two models have nothing to do with each other, and searches over both would find anything.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use walvec_embed::Embedder;
use walvec_model::Vector;

use crate::cli::Failure;
use crate::config::Config;
use crate::remembered::write_private;

/// The file of the samples, in the directory of a stage.
const SAMPLES: &str = "samples.json";

/// The code of the refusal.
const E_MODEL_CHANGED: &str = "E_MODEL_CHANGED";

/// Vectors of the same text by the same model are at least so similar, whatever hardware computes them; those of two models are not.
const SAME: f32 = 0.95;

/// How long a provider may take to answer. One that is away does not keep walvec from starting.
const PATIENCE: Duration = Duration::from_secs(5);

/// Vectors of the sample, by what gave them.
type Samples = BTreeMap<String, Vector>;

/// Compares the provider's vector of a sample with that of the first start, or remembers it. A provider that does not answer
/// is no other one.
pub(crate) async fn refuse_another_model(config: &Config, embedder: &dyn Embedder) -> Result<(), Failure> {
    let Ok(Ok(Some(vector))) = tokio::time::timeout(PATIENCE, embedder.sample()).await else { return Ok(()) };
    let info = embedder.info();
    let model = format!("{} {}", info.revision, vector.len());
    let mut samples: Samples =
        std::fs::read(file(config)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let Some(before) = samples.get(&model) else {
        samples.insert(model, vector);
        let text = serde_json::to_vec(&samples).unwrap_or_default();
        return write_private(&file(config), &text)
            .map_err(|error| Failure::definite("E_STATE", format!("{}: {error}", file(config).display())));
    };
    let similarity = similarity(before, &vector);
    if similarity >= SAME {
        return Ok(());
    }
    let what = format!(
        "the provider has another model under the name \"{}\": for the same text its vector has a similarity of {similarity:.2} with that of \
         before. Searches would compare vectors of two models",
        info.model
    );
    let remedy = "bring the former model back, or embed everything again: `walvec reset --purge`, then `walvec run`";
    Err(Failure::definite(E_MODEL_CHANGED, what).with_remedy(remedy))
}

/// Forgets the samples of this process: its collections were embedded by the model that is there now.
pub(crate) fn forget(config: &Config) {
    remove(&file(config));
}

/// Forgets the samples of all stages.
pub(crate) fn forget_all(config: &Config) {
    let base = config.sink.directory();
    remove(&base.join(SAMPLES));
    for stage in std::fs::read_dir(base).into_iter().flatten().flatten() {
        remove(&stage.path().join(SAMPLES));
    }
}

fn remove(file: &Path) {
    if let Err(error) = std::fs::remove_file(file)
        && !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
    {
        tracing::warn!("{} cannot be removed: {error}", file.display());
    }
}

fn file(config: &Config) -> PathBuf {
    config.directory_of(config.stage).join(SAMPLES)
}

/// The cosine of the angle between two vectors.
fn similarity(one: &[f32], other: &[f32]) -> f32 {
    let product = |one: &[f32], other: &[f32]| one.iter().zip(other).map(|(one, other)| one * other).sum::<f32>();
    product(one, other) / (product(one, one) * product(other, other)).sqrt()
}
