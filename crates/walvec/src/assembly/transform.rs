//! From a configured collection to its documents and vectors: templates, chunks, keywords, and the fingerprint of them.

use std::sync::Arc;

use walvec_embed::Embedder;
use walvec_model::Fingerprint;
use walvec_sink::Keywords;
use walvec_transform::chunk::CountTokens;
use walvec_transform::{Chunker, Transform, TransformError, TransformSpec};

use crate::config::CollectionConfig;
use crate::failure::Failure;

/// Returns a function that counts the tokens of the configured model.
pub(crate) fn token_counter(embedder: &Arc<dyn Embedder>) -> CountTokens {
    let embedder = Arc::clone(embedder);
    Arc::new(move |text| embedder.count_tokens(text))
}

/// Returns what makes the sparse vectors of a collection, if it has any. The configuration was checked, so it names a known language.
pub(crate) fn keywords(collection: &CollectionConfig) -> Option<Arc<Keywords>> {
    let language = collection.hybrid.as_ref()?;
    Keywords::new(language).ok().map(Arc::new)
}

/// Refuses chunks that are longer than the model reads: searches would not find the rest.
pub(crate) fn check_chunks(collection: &CollectionConfig, embedder: &dyn Embedder) -> Result<(), Failure> {
    // One special token before the text and one after it, as models of BERT's kind have them.
    let room = embedder.info().max_tokens.saturating_sub(2);
    match collection.chunk.as_ref().and_then(|chunk| chunk.tokens) {
        Some(tokens) if tokens > room => {
            let what = format!(
                "collections.{}.chunk.tokens is {tokens}, but {} reads {room} tokens: the rest of each chunk would not be found",
                collection.name,
                embedder.info().model
            );
            Err(Failure::new(2, "E_CONFIG", what).with_remedy(format!("chunk: {{ tokens: {room} }}, or less")))
        }
        _ => Ok(()),
    }
}

/// Compiles a collection's templates. `tokens` counts tokens of the model, for chunks.
pub(crate) fn compile(collection: &CollectionConfig, tokens: CountTokens) -> Result<Transform, Failure> {
    let transform = without_chunks(collection)
        .map_err(|error| Failure::new(2, error.code(), format!("collections.{}: {error}", collection.name)))?;
    Ok(match &collection.chunk {
        Some(chunk) => transform.in_chunks(Chunker::new(chunk.spec(), tokens)),
        None => transform,
    })
}

/// Compiles a collection's templates without chunks, for which tokens would have to be counted.
pub(super) fn without_chunks(collection: &CollectionConfig) -> Result<Transform, Box<TransformError>> {
    Transform::new(TransformSpec {
        table: collection.table.clone(),
        shared: false,
        text: collection.text.clone(),
        payload: collection.payload.clone(),
        computed: collection.computed.clone().into_iter().collect(),
        layout: collection.layout(),
        lookups: collection.lookups(),
        indexes: collection.indexes(),
    })
    .map_err(Box::new)
}

/// Returns the fingerprint of a collection's vectors: the model as it is on disk, the text template, its lookups, the chunking, and the language
/// of keywords.
pub(crate) fn fingerprint(embedder: &dyn Embedder, collection: &CollectionConfig) -> Fingerprint {
    let info = embedder.info();
    let (dimension, max_tokens) = (info.dimension.to_string(), info.max_tokens.to_string());
    let chunks = collection.chunk.as_ref().map(|chunk| chunk.spec().describe());
    let parts = [&info.revision, &dimension, &max_tokens, &info.pooling, &collection.text];
    let keywords = collection.hybrid.as_ref().map(|language| walvec_sink::keywords::describe(language));
    let lookups: Vec<String> =
        collection.lookups().iter().map(|lookup| format!("lookup {}", lookup.describe())).collect();
    let further = chunks.iter().chain(&lookups).chain(&keywords);
    let parts: Vec<&str> = parts.into_iter().chain(further).map(String::as_str).collect();
    Fingerprint::of(&parts)
}
