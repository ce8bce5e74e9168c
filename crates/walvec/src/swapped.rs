//! Whether a provider has another model now under the name that the collections were built with.
//!
//! No protocol tells the revision of a model. So the vector of one text is remembered in the data directory, and compared at each
//! start: vectors of two models have nothing to do with each other, and searches over both would find anything.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use walvec_embed::Embedder;
use walvec_model::Vector;

use crate::cli::Failure;
use crate::config::Config;
use crate::remembered::write_private;

/// The file of the sample, in the data directory.
pub(crate) const SAMPLE: &str = "sample.json";

/// The code of the refusal.
const E_MODEL_CHANGED: &str = "E_MODEL_CHANGED";

/// Vectors of the same text by the same model are at least so similar, whatever hardware computes them; those of two models are not.
const SAME: f32 = 0.95;

/// How long a provider may take to answer. One that is away does not keep walvec from starting.
const PATIENCE: Duration = Duration::from_secs(5);

/// The vector of the sample, and which model gave it.
#[derive(Serialize, Deserialize)]
struct Sample {
    revision: String,
    vector: Vector,
}

/// Compares the provider's vector of a sample with that of the first start, or remembers it. A provider that does not answer
/// is no other one.
pub(crate) async fn refuse_another_model(config: &Config, embedder: &dyn Embedder) -> Result<(), Failure> {
    let Ok(Ok(Some(vector))) = tokio::time::timeout(PATIENCE, embedder.sample()).await else { return Ok(()) };
    let info = embedder.info();
    let now = Sample { revision: info.revision.clone(), vector };
    match remembered(config).filter(|before| before.revision == now.revision && before.vector.len() == now.vector.len())
    {
        Some(before) if similarity(&before.vector, &now.vector) < SAME => {
            let what = format!(
                "the provider has another model under the name \"{}\": for the same text its vector has a similarity of {:.2} with that of \
                 before. Searches would compare vectors of two models",
                info.model,
                similarity(&before.vector, &now.vector)
            );
            let remedy =
                "bring the former model back, or embed everything again: `walvec reset --purge`, then `walvec run`";
            Err(Failure::definite(E_MODEL_CHANGED, what).with_remedy(remedy))
        }
        Some(_) => Ok(()),
        None => {
            let text = serde_json::to_vec(&now).unwrap_or_default();
            write_private(&file(config), &text)
                .map_err(|error| Failure::definite("E_STATE", format!("{}: {error}", file(config).display())))
        }
    }
}

fn file(config: &Config) -> PathBuf {
    config.directory_of(config.stage).join(SAMPLE)
}

fn remembered(config: &Config) -> Option<Sample> {
    serde_json::from_slice(&std::fs::read(file(config)).ok()?).ok()
}

/// The cosine of the angle between two vectors.
fn similarity(one: &[f32], other: &[f32]) -> f32 {
    let product = |one: &[f32], other: &[f32]| one.iter().zip(other).map(|(one, other)| one * other).sum::<f32>();
    product(one, other) / (product(one, one) * product(other, other)).sqrt()
}
