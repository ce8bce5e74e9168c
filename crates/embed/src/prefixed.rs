//! Words before queries and documents, as some models want them: `query: ` and `passage: `, or an instruction.

use std::sync::Arc;

use walvec_model::Vector;

use crate::{BoxFuture, EmbedError, Embedder, EmbedderInfo, Reads};

/// An embedder that puts a prefix before each text and each query.
struct Prefixed {
    inner: Arc<dyn Embedder>,
    info: EmbedderInfo,
    query: String,
    document: String,
}

/// Wraps `inner` to put these prefixes before queries and documents; returns `inner` itself if both are empty.
///
/// The prefix of documents decides their vectors, so it is part of [`EmbedderInfo::revision`]. That of queries can be
/// changed at any time.
#[must_use]
pub fn wrap(inner: Arc<dyn Embedder>, query: String, document: String) -> Arc<dyn Embedder> {
    if query.is_empty() && document.is_empty() {
        return inner;
    }
    let mut info = inner.info().clone();
    if !document.is_empty() {
        let digest = blake3::hash(document.as_bytes()).to_hex();
        info.revision = format!("{} behind {}", info.revision, &digest[..32]);
    }
    Arc::new(Prefixed { inner, info, query, document })
}

impl Prefixed {
    fn documents(&self, mut texts: Vec<String>) -> Vec<String> {
        if !self.document.is_empty() {
            texts.iter_mut().for_each(|text| text.insert_str(0, &self.document));
        }
        texts
    }
}

impl Embedder for Prefixed {
    fn info(&self) -> &EmbedderInfo {
        &self.info
    }

    fn count_tokens(&self, text: &str) -> usize {
        self.inner.count_tokens(&format!("{}{text}", self.document))
    }

    fn reads(&self) -> Option<Reads> {
        self.inner.reads()
    }

    fn is_too_long(&self, text: &str) -> bool {
        self.inner.is_too_long(&format!("{}{text}", self.document))
    }

    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>> {
        self.inner.embed(self.documents(texts))
    }

    fn embed_query(&self, text: String) -> BoxFuture<'_, Result<Vector, EmbedError>> {
        self.inner.embed_query(format!("{}{text}", self.query))
    }

    fn embed_whole(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>> {
        self.inner.embed_whole(self.documents(texts))
    }

    fn embed_query_whole(&self, text: String) -> BoxFuture<'_, Result<Vector, EmbedError>> {
        self.inner.embed_query_whole(format!("{}{text}", self.query))
    }

    fn sample(&self) -> BoxFuture<'_, Result<Option<Vector>, EmbedError>> {
        self.inner.sample()
    }

    fn texts_per_call(&self) -> usize {
        self.inner.texts_per_call()
    }

    fn calls_at_once(&self) -> usize {
        self.inner.calls_at_once()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::HashEmbedder;

    fn hash() -> Arc<dyn Embedder> {
        Arc::new(HashEmbedder::new(64).unwrap())
    }

    #[tokio::test]
    async fn queries_and_documents_have_their_own_prefixes() {
        let prefixed = wrap(hash(), "query ".to_owned(), "passage ".to_owned());
        let plain = hash();
        let whole = plain.embed(vec!["passage whale".to_owned()]).await.unwrap();
        assert_eq!(
            prefixed.embed(vec!["whale".to_owned()]).await.unwrap()[0].as_ref().unwrap(),
            whole[0].as_ref().unwrap()
        );
        let query = plain.embed_query("query whale".to_owned()).await.unwrap();
        assert_eq!(prefixed.embed_query("whale".to_owned()).await.unwrap(), query);
    }

    #[test]
    fn only_what_decides_stored_vectors_is_told_from_no_prefix() {
        let revision =
            |query: &str, document: &str| wrap(hash(), query.to_owned(), document.to_owned()).info().revision.clone();
        assert_eq!(revision("", ""), hash().info().revision);
        assert_eq!(revision("q", ""), revision("", ""));
        assert_ne!(revision("", "d"), revision("", ""));
        assert_ne!(revision("", "d"), revision("", "e"));
        assert_eq!(revision("q", "d"), revision("", "d"));
    }
}
