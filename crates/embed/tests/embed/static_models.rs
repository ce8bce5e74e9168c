//! Static models in directories made for the test, whose vectors are known.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use walvec_embed::hash::HashEmbedder;
use walvec_embed::{EmbedError, Embedder, Options, model_dir};
use walvec_test_providers::write_static_model;

const WORDS: [&str; 4] = ["whale", "sea", "captain", "ship"];
const NAME: &str = "acme/static";

/// Makes a models root with a static model in it.
async fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    write_static_model(&root.path().join(NAME), &WORDS).await.unwrap();
    root
}

fn load(root: &Path) -> Arc<dyn Embedder> {
    walvec_embed::load(NAME, root).unwrap()
}

async fn one(embedder: &dyn Embedder, text: &str) -> Result<Vec<f32>, EmbedError> {
    embedder.embed(vec![text.to_owned()]).await.unwrap().remove(0)
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[tokio::test]
async fn a_text_has_the_mean_of_its_words_as_its_vector_whatever_else_is_in_the_batch() {
    let root = root().await;
    let (embedder, expected) = (load(root.path()), HashEmbedder::new(64).unwrap());
    let texts = ["whale", "The SEA, the sea and a captain!", "whale ship sea", "ship"].map(str::to_owned);
    // Words that the model does not know have no part in the mean.
    let known = ["whale", "sea sea captain", "whale ship sea", "ship"].map(str::to_owned);
    let vectors = embedder.embed(texts.to_vec()).await.unwrap();
    for ((text, vector), expected) in texts.iter().zip(vectors).zip(expected.embed(known.to_vec()).await.unwrap()) {
        let vector = vector.unwrap();
        assert!(cosine(&vector, &expected.unwrap()) > 0.9999, "{text}");
        assert!((cosine(&vector, &vector) - 1.0).abs() < 1e-5, "{text}");
        assert_eq!(one(&*embedder, text).await.unwrap(), vector);
    }
}

#[tokio::test]
async fn a_text_without_a_known_word_is_refused_alone() {
    let root = root().await;
    let texts = ["whale", "", "kraken", "sea"].map(str::to_owned).to_vec();
    let results = load(root.path()).embed(texts).await.unwrap();
    assert!(results[0].is_ok() && results[3].is_ok());
    for (result, length) in [(&results[1], 0), (&results[2], 6)] {
        let error = result.as_ref().unwrap_err();
        assert!(matches!(error, EmbedError::Text { bytes, .. } if *bytes == length), "{error}");
        assert!(!error.is_retryable() && !error.to_string().contains("kraken"), "{error}");
    }
}

#[tokio::test]
async fn the_end_of_a_long_text_counts_as_its_beginning_does() {
    let root = root().await;
    let embedder = load(root.path());
    let text = "whale ".repeat(5_000) + &"sea ".repeat(5_000);
    assert_eq!(embedder.count_tokens(&text), 10_000);
    let mean = one(&*embedder, "sea whale").await.unwrap();
    assert!(cosine(&one(&*embedder, &text).await.unwrap(), &mean) > 0.9999);
    // Only the beginning of a text of many megabytes is read.
    let endless = "whale ".repeat(1 << 18) + &"sea ".repeat(1 << 20);
    assert!(cosine(&one(&*embedder, &endless).await.unwrap(), &one(&*embedder, "whale").await.unwrap()) > 0.9999);
}

#[tokio::test]
async fn prefixes_work_as_with_every_model() {
    let root = root().await;
    let options =
        Options { document_prefix: "ship ".to_owned(), query_prefix: "captain ".to_owned(), ..Options::default() };
    let prefixed = walvec_embed::open(NAME, root.path(), options).await.unwrap();
    let plain = load(root.path());
    assert_eq!(one(&*prefixed, "sea").await.unwrap(), one(&*plain, "ship sea").await.unwrap());
    assert_eq!(
        prefixed.embed_query("sea".to_owned()).await.unwrap(),
        plain.embed_query("captain sea".to_owned()).await.unwrap()
    );
    assert_eq!(prefixed.count_tokens("sea"), 2);
}

#[tokio::test]
async fn a_static_model_is_listed_and_known_by_its_files() {
    let root = root().await;
    let listed: Vec<_> = model_dir::list(root.path()).unwrap().into_iter().map(|model| model.name).collect();
    assert_eq!(listed, [NAME]);
    let before = load(root.path()).info().clone();
    assert_eq!((before.model.as_str(), before.dimension, before.pooling.as_str()), (NAME, 64, "mean"));
    let dir = root.path().join(NAME);
    let by_path = walvec_embed::load(dir.to_str().unwrap(), Path::new("/elsewhere")).unwrap().info().clone();
    assert_eq!((by_path.model.as_str(), &by_path.revision), ("static", &before.revision));
    // Only a change of what decides vectors makes it another model.
    std::fs::write(dir.join("config.json"), json!({"model_type": "model2vec", "normalize": false}).to_string())
        .unwrap();
    assert_eq!(load(root.path()).info().revision, before.revision);
    write_static_model(&dir, &["whale", "captain", "sea", "ship"]).await.unwrap();
    assert_ne!(load(root.path()).info().revision, before.revision);
}

#[tokio::test]
async fn a_directory_that_is_broken_is_refused_with_what_is_wrong_and_what_to_do() {
    let refused = |root: &Path| match walvec_embed::load(NAME, root) {
        Ok(_) => panic!("it was loaded"),
        Err(error) => {
            assert_eq!(error.code(), "E_MODEL");
            assert!(error.remedy().contains("model2vec"), "{}", error.remedy());
            error.to_string()
        }
    };
    for (file, content, said) in [
        ("config.json", Some("{"), "config.json"),
        ("tokenizer.json", Some("{}"), "not a tokenizer"),
        ("tokenizer.json", None, "tokenizer.json"),
        ("model.safetensors", Some("cut off"), "safetensors"),
        ("model.safetensors", None, "model.safetensors"),
    ] {
        let root = root().await;
        let path = root.path().join(NAME).join(file);
        match content {
            Some(content) => std::fs::write(path, content).unwrap(),
            None => std::fs::remove_file(path).unwrap(),
        }
        let error = refused(root.path());
        assert!(error.contains(said), "{error}");
    }
    // Each file is whole, but they belong to two different models.
    let root = root().await;
    let other = tempfile::tempdir().unwrap();
    write_static_model(other.path(), &["a", "b", "c", "d", "e", "f"]).await.unwrap();
    std::fs::copy(other.path().join("tokenizer.json"), root.path().join(NAME).join("tokenizer.json")).unwrap();
    let error = refused(root.path());
    assert!(error.contains("not of one model"), "{error}");
}
