//! Payloads as the vector stores of other libraries read them: as exact as flat ones, through every operation.

use anyhow::Result;
use serde_json::{Value, json};
use walvec_e2e::{Collection, Expected, PayloadLayout, Settings, Test, TestContext, Walvec, image, test};
use walvec_test_qdrant::TestServer;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(every_layout_is_the_tables_exact_image),
        test!(every_layout_is_the_tables_exact_image_on_a_server),
        test!(another_layout_is_written_without_embedding_again),
        test!(a_layout_that_names_the_vector_otherwise_is_refused_and_the_old_vectors_stay),
        test!(a_reindex_changes_to_a_layout_that_names_the_vector_otherwise),
        test!(a_column_whose_name_the_layout_needs_is_named),
    ]
}

const LAYOUTS: [PayloadLayout; 4] =
    [PayloadLayout::Flat, PayloadLayout::LangChain, PayloadLayout::LlamaIndex, PayloadLayout::FastEmbed];

/// A table whose columns have the names of parts of the layouts, and whose `body` is too large to be sent while it is
/// unchanged.
const TABLE: &str = "
    CREATE TABLE items (id int PRIMARY KEY, name text, document text, metadata jsonb, year int, body text);
    ALTER TABLE items ALTER COLUMN body SET STORAGE EXTERNAL;
    INSERT INTO items
        SELECT g, 'name ' || g, 'page ' || g, jsonb_build_object('year', 1), 1800 + g, repeat('x', 3000)
        FROM generate_series(1, 100) g";

/// Returns the name of a layout in the configuration, which is also the name of its collection.
const fn name(layout: PayloadLayout) -> &'static str {
    match layout {
        PayloadLayout::Flat => "flat",
        PayloadLayout::LangChain => "langchain",
        PayloadLayout::LlamaIndex => "llamaindex",
        PayloadLayout::FastEmbed => "fastembed",
    }
}

fn collection(name: &str, layout: PayloadLayout) -> Collection {
    Collection::new(name, "public.items", "{{ name }}")
        .with("layout", json!(self::name(layout)))
        .with("index", json!({ "year": "integer" }))
}

fn every_layout() -> Settings {
    Settings::new(LAYOUTS.map(|layout| collection(name(layout), layout)))
}

fn image_of(collection: &'static str, layout: PayloadLayout) -> Expected {
    let text = |row: &walvec_model::Payload| row["name"].as_str().unwrap_or_default().to_owned();
    Expected { collection, layout, ..Expected::of("items", text) }
}

async fn change_everything(context: &TestContext, walvec: &mut Walvec) -> Result<()> {
    context
        .execute(
            "INSERT INTO items VALUES (2000, 'new', NULL, NULL, 2000, 'b');
             UPDATE items SET name = 'changed' || id WHERE id <= 10;
             UPDATE items SET year = 1500 WHERE id BETWEEN 11 AND 20;
             UPDATE items SET body = 'only the payload' WHERE id BETWEEN 21 AND 30;
             UPDATE items SET id = id + 5000 WHERE id BETWEEN 31 AND 40;
             DELETE FROM items WHERE id BETWEEN 41 AND 50",
        )
        .await?;
    walvec.caught_up(context).await?;
    Ok(())
}

/// Checks that the API finds rows by the table's own column names, and by members of its JSON, in every layout.
async fn filters_know_the_columns(walvec: &Walvec) -> Result<()> {
    let with_metadata = || (1..=30).chain(51..=100).chain(5031..=5040).collect();
    for layout in LAYOUTS {
        for (filter, found) in
            [("year=1860", vec![60]), ("year<=1500", (11..=20).collect()), ("metadata.year=1", with_metadata())]
        {
            let query = [("q", "name"), ("collection", name(layout)), ("limit", "100"), ("filter", filter)];
            let answer: Value = walvec.get("/api/v1/search", &query).await?.json().await?;
            let mut ids: Vec<_> =
                answer["hits"].as_array().unwrap().iter().map(|hit| hit["id"].as_i64().unwrap()).collect();
            ids.sort_unstable();
            assert_eq!(ids, found, "{filter} in {layout}: {answer}");
        }
    }
    Ok(())
}

/// Checks that `walvec verify`, which has its own code for every layout, finds no difference.
async fn verified(context: &TestContext) -> Result<()> {
    let output = context.walvec(&["verify", "--json"]).await?;
    let report = String::from_utf8(output.stdout)?;
    assert!(output.status.success(), "{report} {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn every_layout_is_the_tables_exact_image(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let mut walvec = context.start(&every_layout()).await?;
    walvec.caught_up(&context).await?;
    change_everything(&context, &mut walvec).await?;
    filters_know_the_columns(&walvec).await?;
    verified(&context).await?;
    walvec.stop().await?;
    for layout in LAYOUTS {
        assert_eq!(image::compare(&context, &image_of(name(layout), layout)).await?, 91, "{layout}");
        let arguments = ["search", "name 60", "--collection", name(layout), "--filter", "year=1860"];
        let output = context.walvec(&arguments).await?;
        let table = String::from_utf8(output.stdout)?;
        assert!(output.status.success() && table.contains("page 60") && table.contains("year"), "{table}");
        assert!(!table.contains("_node_content") && !table.contains("page_content"), "{table}");
    }
    Ok(())
}

async fn every_layout_is_the_tables_exact_image_on_a_server(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    context.execute(TABLE).await?;
    let settings = every_layout().with("sink", json!({ "qdrant": { "url": server.url() } }));
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    change_everything(&context, &mut walvec).await?;
    filters_know_the_columns(&walvec).await?;
    verified(&context).await?;
    // Values that were not sent are completed from the stored point after a restart as well.
    walvec.stop().await?;
    context.execute("UPDATE items SET year = 1600 WHERE id BETWEEN 51 AND 60").await?;
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    for layout in LAYOUTS {
        let expected = image_of(name(layout), layout);
        assert_eq!(image::compare_on_server(&context, &expected, &server.url()).await?, 91, "{layout}");
    }
    Ok(())
}

/// Fills the collection `items` in the layout `before`, and configures `after`.
async fn changed(context: &TestContext, before: PayloadLayout, after: PayloadLayout) -> Result<Settings> {
    context.execute(TABLE).await?;
    let mut walvec = context.start(&Settings::new([collection("items", before)])).await?;
    walvec.caught_up(context).await?;
    walvec.stop().await?;
    let settings = Settings::new([collection("items", after)]);
    context.configure(&settings)?;
    Ok(settings)
}

async fn another_layout_is_written_without_embedding_again(context: TestContext) -> Result<()> {
    let settings = changed(&context, PayloadLayout::Flat, PayloadLayout::LangChain).await?;
    context.execute("UPDATE items SET year = 1 WHERE id = 1; DELETE FROM items WHERE id = 2").await?;
    let mut walvec = context.start(&settings).await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!((status.generation.0, status.collections[0].embeddings_computed), (2, 0));
    context.execute("UPDATE items SET year = 3 WHERE id = 3").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of("items", PayloadLayout::LangChain)).await?, 99);
    let as_before = image::compare(&context, &image_of("items", PayloadLayout::Flat)).await.unwrap_err().to_string();
    assert!(as_before.contains("99 stale"), "{as_before}");
    Ok(())
}

async fn a_layout_that_names_the_vector_otherwise_is_refused_and_the_old_vectors_stay(
    context: TestContext,
) -> Result<()> {
    changed(&context, PayloadLayout::Flat, PayloadLayout::FastEmbed).await?;
    let output = context.walvec(&["run"]).await?;
    let message = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(3), "{message}");
    assert!(message.contains("E_FINGERPRINT") && message.contains("fast-64"), "{message}");
    assert_eq!(image::compare(&context, &image_of("items", PayloadLayout::Flat)).await?, 100);
    Ok(())
}

async fn a_reindex_changes_to_a_layout_that_names_the_vector_otherwise(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let mut walvec = context.start(&Settings::new([collection("items", PayloadLayout::Flat)])).await?;
    walvec.caught_up(&context).await?;
    context.configure(&Settings::new([collection("items", PayloadLayout::FastEmbed)]))?;
    let output = context.walvec(&["reindex"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    context.execute("UPDATE items SET year = 3 WHERE id = 3").await?;
    walvec.caught_up(&context).await?;
    verified(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of("items", PayloadLayout::FastEmbed)).await?, 100);
    Ok(())
}

async fn a_column_whose_name_the_layout_needs_is_named(context: TestContext) -> Result<()> {
    context.execute("CREATE TABLE items (id int PRIMARY KEY, name text, doc_id text)").await?;
    let items = collection("items", PayloadLayout::LlamaIndex).with("index", json!({}));
    context.configure(&Settings::new([items.clone()]))?;
    let output = context.walvec(&["run"]).await?;
    let message = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(3), "{message}");
    assert!(
        message.contains("E_SCHEMA") && message.contains("\"doc_id\", which the layout llamaindex needs"),
        "{message}"
    );
    let mut walvec = context.start(&Settings::new([items.with("payload", json!(["name"]))])).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await
}
