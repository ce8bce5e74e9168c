//! The embedder against vectors that another program computed (see `tests/fixtures/make_minilm.py`).

use std::sync::{Arc, OnceLock};

use serde::Deserialize;
use walvec_embed::{Embedder, model_dir::DEMO_MODEL};

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    tokens: usize,
    vector: Vec<f32>,
}

fn fixture() -> Vec<Case> {
    serde_json::from_str::<Fixture>(include_str!("../fixtures/minilm.json")).unwrap().cases
}

fn embedder() -> Arc<dyn Embedder> {
    static EMBEDDER: OnceLock<Arc<dyn Embedder>> = OnceLock::new();
    let load = || {
        crate::minilm_dir();
        walvec_embed::load(DEMO_MODEL, &crate::models_root()).unwrap()
    };
    Arc::clone(EMBEDDER.get_or_init(load))
}

async fn embed(texts: &[&str]) -> Vec<Vec<f32>> {
    let texts = texts.iter().map(|&text| text.to_owned()).collect();
    embedder().embed(texts).await.unwrap().into_iter().map(Result::unwrap).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[tokio::test]
async fn vectors_are_those_of_an_independent_implementation() {
    let cases = fixture();
    let texts: Vec<_> = cases.iter().map(|case| case.text.as_str()).collect();
    assert!(cases.iter().filter(|case| case.tokens == 256).count() >= 2, "no text is cut at the limit");
    for (vector, case) in embed(&texts).await.iter().zip(&cases) {
        let similarity = cosine(vector, &case.vector);
        assert!(similarity >= 0.9999, "{similarity} {:.60}", case.text);
    }
}

#[tokio::test]
async fn a_text_has_the_same_vector_whatever_else_is_in_the_batch() {
    let cases = fixture();
    let mut texts: Vec<_> = cases.iter().map(|case| case.text.as_str()).collect();
    texts.extend(["sea", "the sea", "the deep sea", "the deep blue sea"]);
    for (text, together) in texts.iter().zip(embed(&texts).await) {
        let alone = embed(&[text]).await.remove(0);
        let furthest = alone.iter().zip(&together).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(furthest < 1e-5, "{furthest} {text:.60}");
    }
}

#[tokio::test]
async fn every_vector_has_length_one_and_texts_keep_their_order() {
    let texts = ["a much longer text about the sea and its whales", "", "b", "the sea", "b"];
    let vectors = embed(&texts).await;
    assert_eq!(vectors.len(), texts.len());
    for vector in &vectors {
        assert_eq!(vector.len(), 384);
        assert!((cosine(vector, vector) - 1.0).abs() < 1e-5);
    }
    assert!(cosine(&vectors[2], &vectors[4]) > 0.9999);
    assert!(cosine(&vectors[0], &vectors[3]) > cosine(&vectors[0], &vectors[2]));
}

#[tokio::test]
async fn an_empty_batch_is_answered() {
    assert!(embedder().embed(Vec::new()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_text_of_many_megabytes_is_embedded_by_what_the_model_can_read() {
    let sentence = "The whale surfaced beside the ship, and the captain saw it. ";
    let vectors = embed(&[&sentence.repeat(200_000), &sentence.repeat(100), &"y".repeat(8_000_000)]).await;
    assert!(cosine(&vectors[0], &vectors[1]) > 0.9999);
}

#[tokio::test]
async fn a_text_that_is_not_read_to_its_end_is_refused_where_all_of_it_is_asked_for() {
    let words = |count: usize| vec!["ship"; count].join(" ");
    // Two of the 256 tokens are special.
    let texts = [words(254), words(255), "about ships ".repeat(100_000)];
    let found = embedder().embed_whole(texts.to_vec()).await.unwrap();
    let codes: Vec<_> = found.iter().map(|answer| answer.as_ref().err().map(walvec_embed::EmbedError::code)).collect();
    assert_eq!(codes, [None, Some("E_EMBED_LONG"), Some("E_EMBED_LONG")]);
    let told = found[1].as_ref().unwrap_err().to_string();
    assert!(told.contains("longer than the 256 tokens that the model reads") && told.contains("`chunk`"), "{told}");
    assert_eq!(texts.each_ref().map(|text| embedder().is_too_long(text)), [false, true, true]);
    assert!(embedder().embed_query_whole(texts[1].clone()).await.is_err());
    let (whole, beginning) = (embed(&[&texts[0]]).await, embed(&[&texts[1]]).await);
    assert!(cosine(&whole[0], &beginning[0]) > 0.9999, "the beginning is what the model reads");
}

#[tokio::test]
async fn a_vector_does_not_depend_on_how_many_threads_compute_it() {
    let cases = fixture();
    let texts: Vec<_> = cases.iter().map(|case| case.text.clone()).collect();
    let vector = |mut answers: Vec<Result<Vec<f32>, walvec_embed::EmbedError>>| answers.remove(0).unwrap();
    // A query uses all cores; each of several concurrent calls, except one, uses a single core.
    let beside = texts.iter().map(|text| async { vector(embedder().embed(vec![text.clone()]).await.unwrap()) });
    let beside = futures::future::join_all(beside).await;
    for (text, beside) in texts.iter().zip(beside) {
        let query = embedder().embed_query(text.clone()).await.unwrap();
        let alone = vector(embedder().embed(vec![text.clone()]).await.unwrap());
        assert!(query == beside && query == alone, "{text:.60}");
    }
}

#[test]
fn the_model_is_described_by_its_own_files() {
    let embedder = embedder();
    let info = embedder.info();
    assert_eq!((info.model.as_str(), info.dimension, info.max_tokens), (DEMO_MODEL, 384, 256));
    assert_eq!(info.pooling, "mean");
}

#[test]
fn a_model_with_other_pooling_or_limits_has_another_revision() {
    let copy = tempfile::tempdir().unwrap();
    let source = crate::minilm_dir();
    let name = copy.path().to_str().unwrap();
    let revision = || walvec_embed::load(name, copy.path()).unwrap().info().revision.clone();
    for file in ["model.onnx", "tokenizer.json", "sentence_bert_config.json"] {
        std::fs::copy(source.join(file), copy.path().join(file)).unwrap();
    }
    let original = revision();
    assert_eq!(original, embedder().info().revision, "mean pooling is the default");
    std::fs::write(copy.path().join("sentence_bert_config.json"), r#"{"max_seq_length": 128}"#).unwrap();
    let shorter = revision();
    std::fs::create_dir(copy.path().join("1_Pooling")).unwrap();
    std::fs::write(copy.path().join("1_Pooling/config.json"), r#"{"pooling_mode_cls_token": true}"#).unwrap();
    assert_eq!([&original, &shorter, &revision()].map(String::len), [32; 3]);
    assert!(original != shorter && shorter != revision());
}

#[test]
fn a_broken_model_file_is_an_error_that_names_it() {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(crate::minilm_dir().join("tokenizer.json"), copy.path().join("tokenizer.json")).unwrap();
    let whole = std::fs::read(crate::minilm_dir().join("model.onnx")).unwrap();
    for broken in [&b"not a model"[..], &whole[..whole.len() / 2], &[]] {
        std::fs::write(copy.path().join("model.onnx"), broken).unwrap();
        let error = walvec_embed::load(copy.path().to_str().unwrap(), copy.path()).err().expect("it is broken");
        assert_eq!(error.code(), "E_MODEL");
        assert!(error.to_string().contains("model.onnx"), "{error}");
    }
}

#[test]
fn a_missing_model_says_what_to_type() {
    let error = walvec_embed::load("BAAI/bge-small-en-v1.5", std::path::Path::new("/nowhere")).err().unwrap();
    assert_eq!(error.code(), "E_MODEL_MISSING");
    assert!(error.remedy().contains("walvec model pull BAAI/bge-small-en-v1.5"));
}

#[tokio::test]
async fn the_stand_in_without_a_model_is_loaded_by_name() {
    let hash = walvec_embed::load("hash/64", std::path::Path::new("/nowhere")).unwrap();
    let vectors = hash.embed(vec![String::new(), "whale".to_owned()]).await.unwrap();
    assert!(vectors.iter().all(|vector| vector.as_ref().unwrap().len() == 64));
}
