//! Guarantees about a model behind an HTTP interface, whatever its server does.

use std::sync::Arc;
use std::time::Duration;

use walvec_embed::{EmbedError, Embedder, Options, ProviderEmbedder, ProviderOptions, hash::HashEmbedder};
use walvec_model::Vector;
use walvec_test_providers::{DIMENSION, Fault, TestProvider};

/// Returns for each protocol a model's name and its address.
fn protocols(provider: &TestProvider) -> [(&'static str, String); 3] {
    [("openai/m", provider.openai_url()), ("ollama/m", provider.url()), ("tei/m", provider.url())]
}

fn at(url: &str) -> ProviderOptions {
    ProviderOptions { url: Some(url.to_owned()), ..ProviderOptions::default() }
}

async fn opened(name: &str, options: ProviderOptions) -> ProviderEmbedder {
    ProviderEmbedder::open(name, options).await.unwrap_or_else(|error| panic!("{error}: {}", error.remedy()))
}

async fn refused(name: &str, options: ProviderOptions) -> EmbedError {
    ProviderEmbedder::open(name, options).await.err().expect("it should fail")
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("the text with the number {number}")).collect()
}

async fn expected(texts: &[String]) -> Vec<Vector> {
    let hash = HashEmbedder::new(DIMENSION).unwrap();
    hash.embed(texts.to_vec()).await.unwrap().into_iter().map(Result::unwrap).collect()
}

fn same(found: &[Result<Vector, EmbedError>], expected: &[Vector]) {
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let found = found.as_ref().unwrap_or_else(|error| panic!("text {at}: {error}"));
        let cosine: f32 = found.iter().zip(expected).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.9999, "text {at} has another vector (cosine {cosine})");
    }
}

#[tokio::test]
async fn every_protocol_gives_each_text_its_own_vector() {
    let provider = TestProvider::start().await.unwrap();
    for (name, url) in protocols(&provider) {
        let embedder = opened(name, ProviderOptions { batch_items: Some(7), ..at(&url) }).await;
        assert_eq!((embedder.info().model.as_str(), embedder.info().dimension), (name, DIMENSION));
        let texts = texts(50);
        same(&embedder.embed(texts.clone()).await.unwrap(), &expected(&texts).await);
        same(&[embedder.embed_query(texts[3].clone()).await], &expected(&texts[3..4]).await);
        assert!(embedder.embed(Vec::new()).await.unwrap().is_empty());
    }
    assert!(provider.asked().iter().all(|asked| asked.texts.len() <= 7 && asked.status == 200));
}

#[tokio::test]
async fn a_configured_dimension_is_asked_for_and_saves_the_first_question() {
    let provider = TestProvider::start().await.unwrap();
    for (name, url) in &protocols(&provider)[..2] {
        let embedder = opened(name, ProviderOptions { dimensions: Some(32), ..at(url) }).await;
        let before = provider.asked().len();
        assert_eq!(embedder.embed(texts(1)).await.unwrap()[0].as_ref().unwrap().len(), 32);
        assert_eq!(provider.asked()[before].body["dimensions"], 32);
    }
    assert_eq!(provider.asked().len(), 2);
}

#[tokio::test]
async fn vectors_in_base64_and_in_another_order_find_their_texts() {
    let provider = TestProvider::start().await.unwrap();
    let embedder = opened("openai/m", at(&provider.openai_url())).await;
    let texts = texts(5);
    for fault in [Fault::Base64, Fault::Shuffled] {
        provider.next(fault);
        same(&embedder.embed(texts.clone()).await.unwrap(), &expected(&texts).await);
    }
    assert_eq!(provider.asked().len(), 3, "no question was repeated");
}

#[tokio::test]
async fn what_goes_wrong_in_passing_costs_another_request_and_nothing_else() {
    // Most of the time goes by in pauses, so the protocols run concurrently, each with a provider of its
    // own.
    let through = |index: usize| async move {
        let provider = TestProvider::start().await.unwrap();
        let (name, url) = protocols(&provider)[index].clone();
        let embedder = opened(name, ProviderOptions { timeout: Some(Duration::from_secs(1)), ..at(&url) }).await;
        let texts = texts(5);
        let wanted = expected(&texts).await;
        for fault in [
            Fault::TooManyRequests("0".to_owned()),
            Fault::Status(500),
            Fault::Status(503),
            Fault::Status(408),
            Fault::MissingVector,
            Fault::Dimension(DIMENSION + 1),
            Fault::NotANumber,
            Fault::Zeros,
            Fault::Page,
            Fault::Endless,
            Fault::BreakOff,
            Fault::Slow(Duration::from_secs(10)),
        ] {
            provider.next(fault.clone());
            let found = embedder.embed(texts.clone()).await.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
            same(&found, &wanted);
        }
    };
    futures::future::join_all((0..3).map(through)).await;
}

#[tokio::test]
async fn a_provider_that_refuses_every_second_request_loses_nothing_and_is_asked_no_more_than_needed() {
    let provider = TestProvider::start().await.unwrap();
    let options = ProviderOptions { batch_items: Some(2), ..at(&provider.openai_url()) };
    let embedder = opened("openai/m", options).await;
    provider.every_second(Some(Fault::TooManyRequests("0".to_owned())));
    let texts = texts(200);
    let wanted = expected(&texts).await;
    let before = provider.asked().len();
    let mut found: Vec<Option<Vector>> = vec![None; texts.len()];
    // As the pipeline does: keep the vectors that came, and ask again for the missing ones.
    while found.iter().any(Option::is_none) {
        let open: Vec<usize> = (0..found.len()).filter(|at| found[*at].is_none()).collect();
        let answers = embedder.embed(open.iter().map(|at| texts[*at].clone()).collect()).await.unwrap();
        for (at, answer) in open.into_iter().zip(answers) {
            match answer {
                Ok(vector) => found[at] = Some(vector),
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
    }
    same(&found.into_iter().map(|vector| Ok(vector.unwrap())).collect::<Vec<_>>(), &wanted);
    let asked = provider.asked().split_off(before);
    let (answered, refused): (Vec<_>, Vec<_>) = asked.iter().partition(|asked| asked.status == 200);
    assert_eq!(answered.len(), 100, "no text was paid for twice");
    assert!(refused.len().abs_diff(answered.len()) <= 1, "{} were refused", refused.len());
}

#[tokio::test]
async fn a_poisonous_text_is_found_by_halving_and_fails_alone() {
    let provider = TestProvider::start().await.unwrap();
    for (name, url) in protocols(&provider) {
        let embedder = opened(name, at(&url)).await;
        let mut texts = texts(32);
        texts[17] = "this one holds poison".to_owned();
        provider.refuse("poison");
        let found = embedder.embed(texts.clone()).await.unwrap();
        for (at, result) in found.iter().enumerate() {
            assert_eq!(result.is_err(), at == 17, "text {at}: {result:?}");
        }
        let error = found[17].as_ref().unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), ("E_EMBED_TEXT", false));
        let message = error.to_string();
        assert!(message.contains("400") && message.contains("cannot be embedded"), "{message}");
        assert!(!message.contains("holds poison"), "the text is confidential: {message}");
    }
    let mut refused: Vec<_> = provider.asked().into_iter().filter(|asked| asked.status == 400).collect();
    let all = refused.len();
    refused.sort_by_key(|asked| asked.body.to_string());
    refused.dedup_by_key(|asked| asked.body.to_string());
    assert_eq!(refused.len(), all, "a refused request was repeated");
}

#[tokio::test]
async fn a_text_that_is_too_long_fails_alone_and_is_told_of_chunks_and_its_beginning_can_be_had() {
    for (index, status, words, code) in [
        (
            0,
            400,
            "This model's maximum context length is 512 tokens. However, you requested 2048 tokens",
            "E_EMBED_TEXT",
        ),
        (1, 400, "the input length exceeds the context length", "E_EMBED_LONG"),
        (1, 500, "the input length exceeds the context length", "E_EMBED_LONG"),
        (2, 413, "Input validation error: `inputs` must have less than 512 tokens. Given: 2048", "E_EMBED_LONG"),
    ] {
        let provider = TestProvider::start().await.unwrap();
        let (name, url) = protocols(&provider)[index].clone();
        let embedder = opened(name, at(&url)).await;
        provider.refuse_longer_than(500, status, words);
        let mut texts = texts(5);
        texts[2] = "word ".repeat(200);
        let found = embedder.embed_whole(texts.clone()).await.unwrap();
        let error = found[2].as_ref().unwrap_err();
        assert_eq!(error.code(), code, "{name}");
        assert!(error.to_string().contains("let `chunk` cut"), "{name}: {error}");
        assert_eq!(found.iter().filter(|found| found.is_ok()).count(), 4, "{name}");
        let error = embedder.embed_query_whole(texts[2].clone()).await.unwrap_err();
        assert_eq!(error.code(), code, "{name}");
        if code == "E_EMBED_LONG" {
            let beginning = texts[2][..500].to_owned();
            let found = embedder.embed(texts).await.unwrap();
            same(&found[2..3], &expected(&[beginning]).await);
        }
    }
}

#[tokio::test]
async fn a_provider_that_cuts_without_a_word_is_not_given_what_seems_too_long() {
    let provider = TestProvider::start().await.unwrap();
    let embedder = opened("openai/gemini-embedding-001", at(&provider.openai_url())).await;
    let texts = vec!["short".to_owned(), "word ".repeat(2000), "also short".to_owned()];
    let found = embedder.embed_whole(texts.clone()).await.unwrap();
    assert_eq!(found.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(found[1].as_ref().unwrap_err().code(), "E_EMBED_LONG");
    same(&found[2..], &expected(&texts[2..]).await);
    assert!(embedder.is_too_long(&texts[1]) && !embedder.is_too_long(&texts[0]));
    assert!(provider.asked().iter().all(|asked| !asked.texts.contains(&texts[1])));
    assert!(embedder.embed(texts).await.unwrap().iter().all(Result::is_ok), "whoever wants its beginning has it");
}

#[tokio::test]
async fn a_text_without_a_usable_vector_is_parked_and_its_neighbours_are_not() {
    let provider = TestProvider::start().await.unwrap();
    provider.give_zeros_to("nothing");
    let embedder = opened("tei/m", at(&provider.url())).await;
    let mut texts = texts(9);
    texts[4] = "nothing".to_owned();
    let found = embedder.embed(texts).await.unwrap();
    assert_eq!(found.iter().filter(|result| result.is_err()).count(), 1);
    assert_eq!(found[4].as_ref().unwrap_err().code(), "E_EMBED_TEXT");
}

#[tokio::test]
async fn a_provider_that_refuses_everything_is_to_blame_and_not_the_texts() {
    let provider = TestProvider::start().await.unwrap();
    let options = ProviderOptions { dimensions: Some(DIMENSION), ..at(&provider.openai_url()) };
    let embedder = opened("openai/m", options).await;
    provider.refuse("");
    let error = embedder.embed(texts(3)).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("E_EMBED_REFUSED", false));
    assert!(error.remedy().contains("embedding.model"), "{}", error.remedy());
}

#[tokio::test]
async fn a_wrong_key_an_unknown_path_and_a_redirect_are_told_at_the_start_with_what_to_change() {
    const KEY: &str = "sk-very-secret-key";
    let provider = TestProvider::start().await.unwrap();
    provider.require_key("right");
    for (name, url) in protocols(&provider) {
        for key in [None, Some(KEY.into())] {
            let error = refused(name, ProviderOptions { api_key: key, ..at(&url) }).await;
            assert_eq!((error.code(), error.is_retryable()), ("E_EMBED_REFUSED", false));
            let message = format!("{error} {error:?} {}", error.remedy());
            assert!(
                message.contains("401") && message.contains(&url) && message.contains("embedding.api_key"),
                "{message}"
            );
            assert!(!message.contains(KEY), "{message}");
        }
        opened(name, ProviderOptions { api_key: Some("right".into()), ..at(&url) }).await;
        let error = refused(name, at(&format!("{url}/elsewhere"))).await;
        assert!(error.to_string().contains("404") && !error.is_retryable(), "{error}");
        provider.next(Fault::Redirect);
        let error = refused(name, ProviderOptions { api_key: Some("right".into()), ..at(&url) }).await;
        assert!(error.remedy().contains("redirects are not followed"), "{error}: {}", error.remedy());
    }
}

#[tokio::test]
async fn a_provider_that_is_away_is_told_from_one_that_is_none() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = taken.local_addr().unwrap();
    drop(taken);
    let error = refused("tei/m", at(&format!("http://{closed}"))).await;
    assert_eq!((error.code(), error.is_retryable()), ("E_EMBED_UNAVAILABLE", true));
    assert!(error.to_string().contains(&closed.to_string()), "{error}");
    let provider = TestProvider::start().await.unwrap();
    for _ in 0..8 {
        provider.next(Fault::Page);
    }
    assert_eq!(refused("tei/m", at(&provider.url())).await.code(), "E_EMBED_ANSWER");
}

#[tokio::test]
async fn vectors_of_another_dimension_for_good_end_the_call() {
    let provider = TestProvider::start().await.unwrap();
    let embedder = opened("tei/m", ProviderOptions { dimensions: Some(128), ..at(&provider.url()) }).await;
    let error = embedder.embed(texts(2)).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("E_EMBED_DIMENSION", false));
    assert!(error.remedy().contains("64"), "{}", error.remedy());
}

#[tokio::test]
async fn another_model_shows_in_the_sample_which_costs_one_text_each_time() {
    let provider = TestProvider::start().await.unwrap();
    let embedder = opened("openai/m", at(&provider.openai_url())).await;
    let first = embedder.sample().await.unwrap().unwrap();
    assert_eq!(provider.asked().len(), 1, "the one that told the dimension is of use");
    same(&[Ok(embedder.sample().await.unwrap().unwrap())], std::slice::from_ref(&first));
    provider.swap_model();
    assert_ne!(embedder.sample().await.unwrap().unwrap(), first);
    let asked: Vec<usize> = provider.asked().iter().map(|asked| asked.texts.len()).collect();
    assert_eq!(asked, [1, 1, 1]);
}

#[tokio::test]
async fn metadata_addresses_are_never_asked() {
    for url in ["http://169.254.169.254/v1", "http://[fd00:ec2::254]", "http://[::ffff:a9fe:a9fe]"] {
        let error = refused("openai/m", at(url)).await;
        assert_eq!((error.code(), error.is_retryable()), ("E_EMBED_REFUSED", false), "{url}");
    }
}

#[tokio::test]
async fn prefixes_reach_the_provider_with_queries_and_documents_of_their_own() {
    let provider = TestProvider::start().await.unwrap();
    let options = Options {
        provider: at(&provider.url()),
        query_prefix: "query: ".to_owned(),
        document_prefix: "passage: ".to_owned(),
    };
    let embedder: Arc<dyn Embedder> =
        walvec_embed::open("ollama/m", std::path::Path::new("/nowhere"), options).await.unwrap();
    embedder.embed(vec!["a".to_owned()]).await.unwrap();
    embedder.embed_query("b".to_owned()).await.unwrap();
    let asked: Vec<_> = provider.asked().into_iter().flat_map(|asked| asked.texts).collect();
    assert_eq!(asked, ["walvec", "passage: a", "query: b"]);
}
