//! Texts that are longer than the model reads: none is cut silently.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use walvec_e2e::{Collection, Kafka, Settings, Test, TestContext, Walvec, test};
use walvec_embed::model_dir;
use walvec_test_kafka::can_test;
use walvec_test_providers::TestProvider;

use crate::broker::indexed_by_one;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_text_that_the_model_does_not_read_to_its_end_is_counted_and_named_by_check).once(),
        test!(a_query_that_the_model_does_not_read_to_its_end_says_so).once(),
        test!(rows_with_texts_that_are_too_long_are_parked_where_that_is_wanted_until_they_are_shorter),
        test!(a_provider_is_asked_for_the_beginning_of_a_text_only_when_it_has_refused_all_of_it),
        test!(workers_behind_a_broker_count_and_park_texts_that_are_too_long).once(),
        test!(a_reindex_and_a_backfill_count_the_texts_that_they_cut).once(),
        test!(chunks_that_are_longer_than_the_model_reads_are_counted_and_named_by_check).once(),
    ]
}

/// A table in which a tenth of the texts are longer than MiniLM reads. Their ends have words that no other text has.
const TABLE: &str = "CREATE TABLE docs (id int PRIMARY KEY, body text);
    INSERT INTO docs SELECT g, 'about ships ' || g FROM generate_series(1, 18) g;
    INSERT INTO docs SELECT g, repeat('some words about ships ', 600) || 'zebra' FROM generate_series(19, 20) g";

/// How many bytes of a text the provider reads.
const READS: usize = 1000;

fn docs() -> Collection {
    Collection::new("docs", "public.docs", "{{ body }}")
}

/// Returns settings of a collection whose model runs inside walvec.
fn with_minilm(collection: Collection) -> Result<Settings> {
    let set = |name| std::env::var_os(name);
    let root = model_dir::root_from(set("WALVEC_MODELS"), set("XDG_CACHE_HOME"), set("HOME")).context("no home")?;
    let directory = model_dir::resolve(model_dir::DEMO_MODEL, &root).context("run `make model`")?;
    Ok(Settings::new([collection]).with("embedding", json!({ "model": directory })))
}

/// Starts a provider whose model reads [`READS`] bytes, and returns it with settings of collections that use it.
async fn with_provider<const N: usize>(collections: [Collection; N]) -> Result<(TestProvider, Settings)> {
    let provider = TestProvider::start().await?;
    provider.refuse_longer_than(READS, 413, "Input validation error: `inputs` must have less than 512 tokens");
    let settings = Settings::new(collections).with("embedding", json!({ "model": "tei/m", "url": provider.url() }));
    Ok((provider, settings))
}

/// Returns what `walvec check` reports about texts that are too long.
async fn warnings(context: &TestContext) -> Result<Vec<Value>> {
    let output = context.walvec(&["check", "--json"]).await?;
    let answer: Value =
        serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let checks = answer["checks"].as_array().context("no checks")?;
    let is_about_texts = |check: &&Value| check["result"] == "warning" && check["detail"]["code"] == "E_EMBED_LONG";
    Ok(checks.iter().filter(is_about_texts).map(|check| check["detail"].clone()).collect())
}

async fn metric(walvec: &Walvec, name: &str) -> Result<String> {
    let metrics = walvec.get("/metrics", &[]).await?.text().await?;
    Ok(metrics.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned())
}

async fn a_text_that_the_model_does_not_read_to_its_end_is_counted_and_named_by_check(
    context: TestContext,
) -> Result<()> {
    context.execute(TABLE).await?;
    let settings = with_minilm(docs())?;
    context.configure(&settings)?;
    let warnings = warnings(&context).await?;
    let told = warnings.first().and_then(|warning| warning["message"].as_str()).unwrap_or_default();
    let expected = "10 % of public.docs is longer than the 256 tokens that the model reads, their ends are not found";
    assert!(told.starts_with(expected), "{warnings:?}");
    assert!(warnings[0]["remedy"].as_str().is_some_and(|remedy| remedy.starts_with("use `chunk`")), "{warnings:?}");

    let mut walvec = context.start(&settings).await?;
    let status = walvec.caught_up(&context).await?;
    let collection = &status.collections[0];
    assert_eq!((collection.texts_cut, collection.embeddings_computed, collection.dead_letters), (2, 20, 0));
    assert_eq!(metric(&walvec, "walvec_texts_cut_total").await?, "walvec_texts_cut_total{table=\"public.docs\"} 2");
    let shown = String::from_utf8(context.walvec(&["status"]).await?.stdout)?;
    assert!(shown.contains("Cut in docs: 2 of the texts embedded were longer than the model reads"), "{shown}");
    let log = std::fs::read_to_string(walvec.log())?;
    assert_eq!(log.matches("texts are longer than the 256 tokens that the model reads").count(), 1, "{log}");

    context.execute("INSERT INTO docs SELECT 21, body FROM docs WHERE id = 20").await?;
    assert_eq!(walvec.caught_up(&context).await?.collections[0].texts_cut, 3);
    walvec.stop().await
}

async fn a_query_that_the_model_does_not_read_to_its_end_says_so(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let mut walvec = context.start(&with_minilm(docs())?).await?;
    walvec.caught_up(&context).await?;
    let long = "a storm at sea ".repeat(200);
    for (text, is_cut) in [("a storm at sea", false), (long.as_str(), true)] {
        let answer: Value = walvec.get_json("/api/v1/search", &[("q", text)]).await?;
        assert_eq!(answer["query_cut"], is_cut, "{}", answer["query_cut"]);
        let output = context.walvec(&["search", text]).await?;
        let told = String::from_utf8(output.stderr)?;
        assert_eq!(told.contains("the query is longer than the model reads"), is_cut, "{told}");
    }
    assert_eq!(metric(&walvec, "walvec_queries_cut_total").await?, "walvec_queries_cut_total{collection=\"docs\"} 2");
    walvec.stop().await?;
    let output = context.walvec(&["search", "--json", &long]).await?;
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout)?["query_cut"], true);
    Ok(())
}

async fn rows_with_texts_that_are_too_long_are_parked_where_that_is_wanted_until_they_are_shorter(
    context: TestContext,
) -> Result<()> {
    let (_provider, settings) = with_provider([docs().with("on_long", json!("park"))]).await?;
    context.execute(TABLE).await?;
    let mut walvec = context.start(&settings).await?;
    let status = walvec.caught_up(&context).await?;
    let collection = &status.collections[0];
    assert_eq!((collection.dead_letters, collection.texts_cut, collection.points), (2, 0, Some(18)));
    let letter = &collection.latest_dead_letters[0];
    assert_eq!(letter.code, "E_EMBED_LONG");
    assert!(letter.reason.contains("its end would not be found; let `chunk` cut"), "{}", letter.reason);
    context.execute("UPDATE docs SET body = 'short' WHERE id = 19; DELETE FROM docs WHERE id = 20").await?;
    assert_eq!(walvec.caught_up(&context).await?.collections[0].dead_letters, 0);
    walvec.stop().await
}

async fn a_provider_is_asked_for_the_beginning_of_a_text_only_when_it_has_refused_all_of_it(
    context: TestContext,
) -> Result<()> {
    let (provider, settings) = with_provider([docs()]).await?;
    context.execute(TABLE).await?;
    let mut walvec = context.start(&settings).await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!((status.collections[0].texts_cut, status.collections[0].dead_letters), (2, 0));
    let cut: Vec<String> = provider
        .asked()
        .into_iter()
        .filter(|asked| asked.body["truncate"] == true)
        .flat_map(|asked| asked.texts)
        .filter(|text| text.starts_with("some words") || text.starts_with("about"))
        .collect();
    assert_eq!(cut.len(), 2, "{cut:?}");
    assert!(cut.iter().all(|text| text.len() > READS));
    walvec.stop().await
}

async fn workers_behind_a_broker_count_and_park_texts_that_are_too_long(context: TestContext) -> Result<()> {
    if !can_test("long texts behind a broker") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let parking = Collection::new("parking", "public.docs", "{{ body }}").with("on_long", json!("park"));
    let (_provider, settings) = with_provider([docs(), parking]).await?;
    let settings = kafka.carries(settings);
    context.execute(TABLE).await?;
    let (capture, worker) = indexed_by_one(&context, &kafka, &settings).await?;
    let status = worker.status().await?;
    let counted: Vec<_> = status.collections.iter().map(|one| (one.texts_cut, one.dead_letters)).collect();
    assert_eq!(counted, [(2, 0), (0, 2)]);
    worker.stop().await?;
    capture.stop().await
}

async fn a_reindex_and_a_backfill_count_the_texts_that_they_cut(context: TestContext) -> Result<()> {
    let (_provider, settings) = with_provider([docs()]).await?;
    context.execute(TABLE).await?;
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    // No text is embedded again, and no text is counted twice.
    assert!(context.walvec(&["backfill", "--table", "public.docs"]).await?.status.success());
    assert_eq!(walvec.caught_up(&context).await?.collections[0].texts_cut, 2);
    let other = Collection::new("docs", "public.docs", "Of {{ body }}");
    let (_other_provider, settings) = with_provider([other]).await?;
    walvec.stop().await?;
    context.configure(&settings)?;
    let output = context.walvec(&["reindex"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("texts are longer than"), "{told}");
    Ok(())
}

async fn chunks_that_are_longer_than_the_model_reads_are_counted_and_named_by_check(
    context: TestContext,
) -> Result<()> {
    context.execute(TABLE).await?;
    let settings = with_minilm(docs().with("chunk", json!({ "sentences": 3 })).with("payload", json!(["id"])))?;
    context.configure(&settings)?;
    let warnings = warnings(&context).await?;
    let told = warnings.first().and_then(|warning| warning["message"].as_str()).unwrap_or_default();
    assert!(told.starts_with("10 % of public.docs has chunks that are longer than the 256 tokens"), "{warnings:?}");
    let mut walvec = context.start(&settings).await?;
    assert_eq!(walvec.caught_up(&context).await?.collections[0].texts_cut, 2);
    walvec.stop().await
}
