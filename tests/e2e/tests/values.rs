//! Values that stores or readers cannot hold as they are, and keys with types from extensions.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use walvec_e2e::settings::MODEL;
use walvec_e2e::{Collection, Settings, Test, TestContext, Walvec, image, test};
use walvec_sink::{Search as _, Sink as _, Write};
use walvec_test_qdrant::TestServer;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(documents_of_any_depth_are_stored_and_every_reader_copes),
        test!(documents_of_any_depth_are_stored_on_a_server).once(),
        test!(a_document_that_was_not_sent_is_the_same_after_each_update).once(),
        test!(a_document_that_was_not_sent_is_the_same_after_each_update_on_a_server),
        test!(rows_with_keys_of_types_that_extensions_bring_are_read_again_and_compared),
    ]
}

async fn followed(context: &TestContext, settings: &Settings, table: &str) -> Result<Walvec> {
    context.execute(table).await?;
    let mut walvec = context.start(settings).await?;
    walvec.caught_up(context).await?;
    Ok(walvec)
}

async fn verified(context: &TestContext, arguments: &[&str]) -> Result<Value> {
    let output = context.walvec(&[&["verify", "--json"], arguments].concat()).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A table with nested lists and objects, as jsonb, as json, inside an array and as a computed field.
const DEEP: &str = "CREATE TABLE items (id int PRIMARY KEY, title text, b jsonb, j json, l jsonb[]);
    CREATE FUNCTION deep(depth int) RETURNS text LANGUAGE sql AS
        $$ SELECT repeat('[', depth) || '1' || repeat(']', depth) $$;
    CREATE FUNCTION deeper(depth int) RETURNS text LANGUAGE sql AS
        $$ SELECT repeat('{\"a\": ', depth) || '1' || repeat('}', depth) $$;
    INSERT INTO items SELECT d, 'depth ' || d, deep(d)::jsonb, deeper(d)::json, ARRAY[deeper(d)::jsonb, deep(d)::jsonb]
        FROM unnest(ARRAY[1, 23, 24, 25, 30, 33, 48, 100, 123, 124, 125, 126, 127, 128, 500]) d";

fn deep(layout: &str) -> Collection {
    let collection = Collection::new("items", "public.items", "{{ title }}").with("layout", json!(layout));
    collection.with("computed", json!({ "whole": "{{ b }}", "title": "{{ title }}" }))
}

async fn every_reader_copes(context: &TestContext, mut walvec: Walvec) -> Result<()> {
    let status = walvec.status().await?;
    assert_eq!(status.collections[0].dead_letters, 0, "{:?}", status.collections[0].latest_dead_letters);
    context.execute("UPDATE items SET title = title || ' again'").await?;
    let status = walvec.caught_up(context).await?;
    assert_eq!(status.collections[0].dead_letters, 0, "{:?}", status.collections[0].latest_dead_letters);
    assert_eq!(walvec.search("depth 127 again", 20).await?.len(), 15);
    let output = context.walvec(&["search", "--json", "--limit", "20", "depth 127 again"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout)?["hits"].as_array().map(Vec::len), Some(15));
    verified(context, &[]).await?;
    context.execute("DELETE FROM items WHERE id > 100").await?;
    let status = walvec.caught_up(context).await?;
    assert_eq!(status.collections[0].dead_letters, 0);
    verified(context, &[]).await?;
    walvec.stop().await
}

async fn documents_of_any_depth_are_stored_and_every_reader_copes(context: TestContext) -> Result<()> {
    let walvec = followed(&context, &Settings::new([deep("flat")]), DEEP).await?;
    let shown: Value = walvec.get_json("/api/v1/search", &[("q", "depth 25"), ("limit", "1")]).await?;
    let shown = &shown["hits"][0]["payload"];
    let within = (0..24).fold(&shown["b"], |value, _| &value[0]);
    assert_eq!(within, "[1]", "what lies deeper than 24 levels is text: {shown}");
    every_reader_copes(&context, walvec).await
}

async fn documents_of_any_depth_are_stored_on_a_server(context: TestContext) -> Result<()> {
    for layout in ["flat", "langchain", "llamaindex"] {
        let server = TestServer::start()?;
        let settings = Settings::new([deep(layout)]).with("sink", json!({ "qdrant": { "url": server.url() } }));
        let walvec = followed(&context, &settings, DEEP).await?;
        every_reader_copes(&context, walvec).await?;
        context.execute("DROP TABLE items; DROP FUNCTION deep, deeper").await?;
        context.execute("SELECT pg_drop_replication_slot(current_database()); DROP PUBLICATION walvec").await?;
        std::fs::remove_dir_all(context.data_directory())?;
    }
    Ok(())
}

/// A table with documents and lists that no update sends again. A server keeps neither the order of their fields nor
/// large integers.
const UNSENT: &str = "CREATE TABLE items (id int PRIMARY KEY, n int, b jsonb, big jsonb, f float8[], tags text[], body text);
    ALTER TABLE items ALTER b SET STORAGE EXTERNAL, ALTER big SET STORAGE EXTERNAL, ALTER f SET STORAGE EXTERNAL,
        ALTER tags SET STORAGE EXTERNAL, ALTER body SET STORAGE EXTERNAL;
    INSERT INTO items SELECT id, 0, jsonb_build_object('zz', 1, 'a', repeat('x', 3000), 'bbb', 2, 'largest', 18446744073709551615),
        jsonb_build_array(18446744073709551615, repeat('y', 3000)), array_fill(0.1::float8 / 3, ARRAY[500]),
        array_fill('tag'::text, ARRAY[500]), repeat('body ', 1000)
        FROM generate_series(1, 5) id";

async fn the_same_after_each_update(context: &TestContext, settings: Settings) -> Result<()> {
    let mut walvec = followed(context, &settings, UNSENT).await?;
    for _ in 0..3 {
        context.execute("UPDATE items SET n = n + 1").await?;
        let status = walvec.caught_up(context).await?;
        assert_eq!(status.collections[0].embeddings_computed, 5, "unchanged texts were embedded again");
        verified(context, &[]).await?;
    }
    walvec.stop().await
}

fn unsent() -> Settings {
    Settings::new([Collection::new("items", "public.items", "{{ b }} {{ big }} {{ f }} {{ tags }} {{ body }}")])
}

async fn a_document_that_was_not_sent_is_the_same_after_each_update(context: TestContext) -> Result<()> {
    the_same_after_each_update(&context, unsent()).await
}

async fn a_document_that_was_not_sent_is_the_same_after_each_update_on_a_server(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    the_same_after_each_update(&context, unsent().with("sink", json!({ "qdrant": { "url": server.url() } }))).await
}

async fn rows_with_keys_of_types_that_extensions_bring_are_read_again_and_compared(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    let table = "CREATE SCHEMA ext; CREATE EXTENSION ltree SCHEMA ext; CREATE EXTENSION isn SCHEMA ext; CREATE EXTENSION hstore;
        CREATE DOMAIN branch AS ext.ltree;
        CREATE TABLE items (p branch, isbn ext.isbn13, h hstore, n int, title text, body text, PRIMARY KEY (p, isbn, h));
        ALTER TABLE items ALTER body SET STORAGE EXTERNAL;
        INSERT INTO items SELECT ('top.part' || g)::ext.ltree, '978-0-393-04002-9', 'a=>1', g, 'title ' || g, repeat('body ' || g, 1000)
            FROM generate_series(1, 5) g";
    let collection = Collection::new("items", "public.items", "{{ title }}: {{ body }}");
    let settings = Settings::new([collection.with("payload", json!(["title", "n"]))]);
    let settings = settings.with("sink", json!({ "qdrant": { "url": server.url() } }));
    let mut walvec = followed(&context, &settings, table).await?;
    context.execute("UPDATE items SET title = title || ' again'").await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.collections[0].embeddings_computed, 10);
    verified(&context, &[]).await?;
    // Rows that differ are read again and repaired by their keys.
    let collection = image::on_server("items", MODEL, &server.url())?;
    let lost = collection.page(None, 1, false).await?.points.pop().context("no point")?;
    collection.write(&[Write::Delete(lost.id)]).await?;
    verified(&context, &["--repair"]).await?;
    assert_eq!(collection.count().await?, 5);
    walvec.stop().await
}
