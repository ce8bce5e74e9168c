//! Searches by keyword, by meaning and by both: the sparse vectors follow the rows as the dense ones do.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use walvec_e2e::{Collection, Expected, Kafka, Settings, Test, TestContext, Walvec, image, test};
use walvec_model::{Payload, PointId};
use walvec_sink::qdrant::{Remote, Server};
use walvec_sink::{Search, Sink, Write};
use walvec_test_kafka::can_test;
use walvec_test_qdrant::TestServer;
use walvec_transform::PayloadLayout;

use crate::broker::{captured, indexed_though_one_is_killed};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(words_follow_every_change),
        test!(words_follow_every_change_on_a_server_in_every_layout).once(),
        test!(words_follow_every_change_through_a_kill),
        test!(a_search_goes_by_meaning_by_words_or_by_both),
        test!(a_search_of_a_stopped_walvec_goes_by_words_too).once(),
        test!(verify_finds_sparse_vectors_of_other_words_and_has_them_mended).once(),
        test!(a_collection_learns_to_be_searched_by_keyword_in_a_reindex),
        test!(workers_behind_a_broker_store_sparse_vectors).once(),
        test!(sparse_vectors_travel_through_the_topic_of_vectors).once(),
    ]
}

const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, name text, note text)";

fn collection() -> Collection {
    Collection::new("items", "public.items", "{{ name }}").with("hybrid", json!(true))
}

fn items() -> Settings {
    Settings::new([collection()])
}

fn on(server: &TestServer, settings: Settings) -> Settings {
    settings.with("sink", json!({ "qdrant": { "url": server.url() } }))
}

fn image_of_items() -> Expected {
    let name = |row: &Payload| row["name"].as_str().unwrap_or_default().to_owned();
    Expected { hybrid: true, ..Expected::of("items", name) }
}

/// Creates rows whose names have distinct words, and some whose names consist of words that are left out.
async fn create(context: &TestContext, rows: u32) -> Result<()> {
    let name = "CASE g % 10 WHEN 0 THEN 'the and of' ELSE 'item' || g || ' of the martians, whale' || g % 7 END";
    let rows = format!("INSERT INTO items SELECT g, {name}, 'note' FROM generate_series(1, {rows}) g");
    context.execute(&format!("{TABLE}; {rows}")).await
}

async fn change_everything(context: &TestContext) -> Result<()> {
    context
        .execute(
            "UPDATE items SET name = 'another ' || name WHERE id % 7 = 0;
             UPDATE items SET name = 'and the' WHERE id % 7 = 1;
             UPDATE items SET note = 'changed' WHERE id % 7 = 2;
             UPDATE items SET id = id + 1000 WHERE id % 7 = 3;
             DELETE FROM items WHERE id % 7 = 4;
             INSERT INTO items SELECT g, 'submarine', 'new' FROM generate_series(2001, 2009) g",
        )
        .await
}

async fn followed(context: &TestContext, settings: &Settings) -> Result<Walvec> {
    let mut walvec = context.start(settings).await?;
    walvec.caught_up(context).await?;
    Ok(walvec)
}

async fn is_verified(context: &TestContext) -> Result<()> {
    let output = context.walvec(&["verify", "--sample", "all"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

async fn words_follow_every_change(context: TestContext) -> Result<()> {
    create(&context, 300).await?;
    let mut walvec = followed(&context, &items()).await?;
    change_everything(&context).await?;
    walvec.caught_up(&context).await?;
    is_verified(&context).await?;
    walvec.stop().await?;
    image::compare(&context, &image_of_items()).await?;
    Ok(())
}

async fn words_follow_every_change_on_a_server_in_every_layout(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    create(&context, 50).await?;
    let layouts = [PayloadLayout::Flat, PayloadLayout::LangChain, PayloadLayout::LlamaIndex, PayloadLayout::FastEmbed];
    let names = ["flat", "langchain", "llamaindex", "fastembed"];
    let laid_out = names.map(|name| {
        let collection = Collection::new(name, "public.items", "{{ name }}").with("hybrid", json!("english"));
        collection.with("layout", json!(name))
    });
    let mut walvec = followed(&context, &on(&server, Settings::new(laid_out))).await?;
    change_everything(&context).await?;
    walvec.caught_up(&context).await?;
    is_verified(&context).await?;
    walvec.stop().await?;
    for (layout, collection) in layouts.into_iter().zip(names) {
        image::compare_on_server(&context, &Expected { layout, collection, ..image_of_items() }, &server.url()).await?;
    }
    Ok(())
}

async fn words_follow_every_change_through_a_kill(context: TestContext) -> Result<()> {
    create(&context, 300).await?;
    let walvec = followed(&context, &items()).await?;
    change_everything(&context).await?;
    walvec.kill().await?;
    followed(&context, &items()).await?.stop().await?;
    image::compare(&context, &image_of_items()).await?;
    Ok(())
}

/// Returns the ids that a search finds.
async fn found(walvec: &Walvec, query: &[(&str, &str)]) -> Result<Vec<u64>> {
    let answer: Value = walvec.get("/api/v1/search", query).await?.error_for_status()?.json().await?;
    let hits = answer["hits"].as_array().context("an answer without hits")?;
    Ok(hits.iter().filter_map(|hit| hit["id"].as_u64()).collect())
}

async fn a_search_goes_by_meaning_by_words_or_by_both(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    context
        .execute("INSERT INTO items VALUES (1, 'a white whale', 'x'), (2, 'martians', 'x'), (3, 'the martian', 'y')")
        .await?;
    let walvec = followed(&context, &items()).await?;
    assert_eq!(found(&walvec, &[("q", "MARTIAN"), ("mode", "keyword")]).await?, [2, 3]);
    assert_eq!(found(&walvec, &[("q", "MARTIAN"), ("mode", "keyword"), ("filter", "note=y")]).await?, [3]);
    assert_eq!(found(&walvec, &[("q", "submarine"), ("mode", "keyword")]).await?, [0_u64; 0]);
    assert_eq!(found(&walvec, &[("q", "submarine"), ("mode", "dense")]).await?.len(), 3);
    assert_eq!(found(&walvec, &[("q", "a white whale"), ("mode", "hybrid"), ("limit", "1")]).await?, [1]);
    assert_eq!(found(&walvec, &[("q", "submarine")]).await?.len(), 3, "hybrid is what nobody has to ask for");
    for (query, part) in [
        ([("q", "whale"), ("mode", "sparse")], "hybrid, dense or keyword"),
        ([("q", "whale"), ("min_score", "0.5")], "mode dense or keyword"),
    ] {
        let refused = walvec.get("/api/v1/search", &query).await?;
        assert_eq!(refused.status().as_u16(), 400);
        let problem = refused.text().await?;
        assert!(problem.contains(part), "{problem}");
    }
    let output = context.walvec(&["search", "Martian", "--mode", "keyword", "--json"]).await?;
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(answer["hits"].as_array().map(Vec::len), Some(2), "{answer:#}");
    walvec.stop().await
}

async fn a_search_of_a_stopped_walvec_goes_by_words_too(context: TestContext) -> Result<()> {
    create(&context, 30).await?;
    followed(&context, &items()).await?.stop().await?;
    let search = async |arguments: &[&str]| context.walvec(&[&["search"], arguments].concat()).await;
    let output = search(&["item17", "--mode", "keyword", "--json"]).await?;
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(answer["hits"].as_array().map(Vec::len), Some(1), "{answer:#}");
    assert_eq!(answer["hits"][0]["id"], 17);
    let output = search(&["item17", "--json"]).await?;
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(answer["hits"].as_array().map(Vec::len), Some(5), "{answer:#}");
    let output = search(&["item17", "--min-score", "0.5"]).await?;
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

async fn verify_finds_sparse_vectors_of_other_words_and_has_them_mended(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    create(&context, 30).await?;
    let walvec = followed(&context, &on(&server, items())).await?;
    let intruder = intruder(&server)?;
    let mut points = intruder.get((1..=3).map(PointId::Num).collect(), true).await?;
    points.sort_by_key(|point| point.id);
    let keywords = [points[1].keywords.clone(), points[0].keywords.clone(), None];
    let changed = points.into_iter().zip(keywords).map(|(point, keywords)| {
        let stored = walvec_model::StoredPoint::from_raw(point.id, point.payload);
        Write::Upsert(walvec_model::Point {
            id: point.id,
            vector: point.vector.unwrap(),
            keywords,
            payload: stored.payload,
            provenance: stored.provenance.unwrap(),
        })
    });
    intruder.write(&changed.collect::<Vec<_>>()).await?;
    let output = context.walvec(&["verify", "--sample", "all", "--json"]).await?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    let examples = report["collections"][0]["examples"].as_array().context("examples")?;
    let fields: Vec<&Value> = examples.iter().map(|example| &example["differences"][0]["field"]).collect();
    assert_eq!(fields, ["keywords"; 3], "{report:#}");
    let output = context.walvec(&["verify", "--sample", "all", "--repair"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    walvec.stop().await?;
    image::compare_on_server(&context, &image_of_items(), &server.url()).await?;
    Ok(())
}

/// Returns the collection as another program opens it, to write to it.
fn intruder(server: &TestServer) -> Result<Remote> {
    let spec = walvec_sink::CollectionSpec {
        name: "items".to_owned(),
        dimension: 64,
        fingerprint: walvec_model::Fingerprint(String::new()),
        made_with: walvec_model::MadeWith::default(),
        indexes: Vec::new(),
        vector: None,
        keywords: Some("bm25".to_owned()),
        nesting: None,
    };
    let server = Server::at(server.url());
    Ok(Remote::own(server, spec)?)
}

async fn a_collection_learns_to_be_searched_by_keyword_in_a_reindex(context: TestContext) -> Result<()> {
    create(&context, 50).await?;
    let dense = Settings::new([Collection::new("items", "public.items", "{{ name }}")]);
    let walvec = followed(&context, &dense).await?;
    let refused = walvec.get("/api/v1/search", &[("q", "whale"), ("mode", "keyword")]).await?;
    assert!(refused.text().await?.contains("walvec reindex"));
    walvec.stop().await?;
    context.configure(&items())?;
    let output = context.walvec(&["run"]).await?;
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(told.lines().last(), Some("E_FINGERPRINT"), "{told}");
    let output = context.walvec(&["reindex"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let walvec = followed(&context, &items()).await?;
    assert_eq!(found(&walvec, &[("q", "item17"), ("mode", "keyword")]).await?, [17]);
    walvec.stop().await?;
    image::compare(&context, &image_of_items()).await?;
    Ok(())
}

async fn workers_behind_a_broker_store_sparse_vectors(context: TestContext) -> Result<()> {
    if !can_test("sparse vectors behind a broker") {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    let settings = kafka.carries(on(&server, items())).with("pipeline", json!({ "batch_rows": 16 }));
    create(&context, 300).await?;
    let (capture, one) = indexed_though_one_is_killed(&context, &kafka, &settings, change_everything(&context)).await?;
    image::compare_on_server(&context, &image_of_items(), &server.url()).await?;
    one.stop().await?;
    capture.stop().await
}

async fn sparse_vectors_travel_through_the_topic_of_vectors(context: TestContext) -> Result<()> {
    if !can_test("sparse vectors in a topic") {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    let settings = kafka.carries(on(&server, items()));
    create(&context, 100).await?;
    let mut capture = captured(&context, &settings).await?;
    let mut embed = context.start_stage(&settings, "embed", "1").await?;
    // The stage `embed` creates the topic that the sink reads.
    kafka.read("embed", &mut [&mut embed]).await?;
    let mut sink = context.start_stage(&settings, "sink", "1").await?;
    change_everything(&context).await?;
    capture.caught_up(&context).await?;
    kafka.read("embed", &mut [&mut embed]).await?;
    kafka.read("sink", &mut [&mut sink]).await?;
    image::compare_on_server(&context, &image_of_items(), &server.url()).await?;
    for stage in [capture, embed, sink] {
        stage.stop().await?;
    }
    Ok(())
}
