use serde_json::json;
use walvec_embed::{BoxFuture, EmbedError, EmbedderInfo};
use walvec_model::Vector;

use super::*;
use crate::testing::collection::collection;
use crate::testing::rows::table;
use crate::testing::{CollectionOptions, TestEmbedder, TestSink};

/// The embedder of a model that reads ten bytes of a text.
struct ShortReader(TestEmbedder);

impl Embedder for ShortReader {
    fn info(&self) -> &EmbedderInfo {
        self.0.info()
    }

    fn count_tokens(&self, text: &str) -> usize {
        self.0.count_tokens(text)
    }

    fn is_too_long(&self, text: &str) -> bool {
        text.len() > 10
    }

    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>> {
        self.0.embed(texts)
    }
}

/// Returns how many books with these texts are too long for the model.
fn long(options: CollectionOptions, bodies: &[&str]) -> usize {
    let transform = collection(options, &TestSink::default(), &Arc::new(TestEmbedder::new(2, 8))).transform;
    let rows: Vec<Vec<Value>> =
        bodies.iter().enumerate().map(|(id, body)| vec![json!(id), json!("title"), json!(body)]).collect();
    let looked_up = vec![Vec::new(); rows.len()];
    count_long(&table(), &transform, &ShortReader(TestEmbedder::new(2, 8)), rows.iter().zip(&looked_up))
}

#[test]
fn a_row_is_long_if_the_model_does_not_read_its_text_to_the_end() {
    assert_eq!(long(CollectionOptions::default(), &["0123456789", "0123456789a", "", "a long text too"]), 2);
}

#[test]
fn a_row_counts_once_however_many_of_its_chunks_are_long() {
    let in_sentences = || CollectionOptions { sentences: Some(1), ..CollectionOptions::default() };
    assert_eq!(long(in_sentences(), &["Short. Short. Short. Short."]), 0, "each chunk is read");
    assert_eq!(long(in_sentences(), &["Short. A long sentence. And another one.", "Short."]), 1);
}

#[test]
fn a_row_that_cannot_be_rendered_is_not_long() {
    let options = || CollectionOptions { text: "{{ body / 2 }} and many more words", ..CollectionOptions::default() };
    assert_eq!(long(options(), &["not a number"]), 0, "it will be parked for another reason");
}
