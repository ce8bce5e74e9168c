//! A collection on a cluster, sharded by a column: exact, and each row in the shard of its value.

use anyhow::{Result, bail};
use serde_json::{Value, json};
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, Walvec, image, test};
use walvec_test_qdrant::TestServer;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_row_that_changes_its_tenant_changes_its_shard_and_is_never_there_twice),
        test!(another_column_to_shard_by_moves_the_points_without_embedding_again),
    ]
}

const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, name text, tenant text, region int, body text);
    ALTER TABLE items ALTER COLUMN body SET STORAGE EXTERNAL;
    INSERT INTO items
        SELECT g, 'name ' || g, CASE WHEN g % 4 > 0 THEN 'tenant ' || g % 4 END, g % 2, repeat('x', 3000)
        FROM generate_series(1, 400) g";

fn sharded_by(field: &str, server: &TestServer) -> Settings {
    Settings::new([Collection::new("items", "public.items", "{{ name }}")])
        .with("sink", json!({ "qdrant": { "url": server.url(), "shard_key": field } }))
}

fn image_of_items() -> Expected {
    Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned())
}

async fn found(walvec: &Walvec, filter: &str) -> Result<usize> {
    let query = [("q", "name"), ("limit", "100"), ("filter", filter)];
    let answer: Value = walvec.get("/api/v1/search", &query).await?.json().await?;
    match answer["hits"].as_array() {
        Some(hits) => Ok(hits.len()),
        None => bail!("{filter}: {answer}"),
    }
}

async fn a_row_that_changes_its_tenant_changes_its_shard_and_is_never_there_twice(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    context.execute(TABLE).await?;
    let mut walvec = context.start(&sharded_by("tenant", &server)).await?;
    walvec.caught_up(&context).await?;
    context
        .execute(
            "UPDATE items SET tenant = 'new' WHERE id <= 10;
             UPDATE items SET tenant = NULL, name = 'without' WHERE id BETWEEN 11 AND 20;
             UPDATE items SET tenant = 'new' WHERE tenant IS NULL AND id > 380;
             UPDATE items SET id = id + 5000 WHERE id BETWEEN 21 AND 30;
             DELETE FROM items WHERE id BETWEEN 31 AND 40",
        )
        .await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.collections[0].dead_letters, 0);
    assert_eq!((found(&walvec, "tenant=new").await?, found(&walvec, "tenant=of nobody").await?), (15, 0));
    walvec.kill().await?;
    // The stream since the last stored position is repeated.
    context.execute("UPDATE items SET tenant = 'last' WHERE id IN (1, 50, 60)").await?;
    let mut walvec = context.start(&sharded_by("tenant", &server)).await?;
    walvec.caught_up(&context).await?;
    assert_eq!((found(&walvec, "tenant=new").await?, found(&walvec, "tenant=last").await?), (14, 3));
    walvec.stop().await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 390);
    Ok(())
}

async fn another_column_to_shard_by_moves_the_points_without_embedding_again(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    context.execute(TABLE).await?;
    let mut walvec = context.start(&sharded_by("tenant", &server)).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let mut walvec = context.start(&sharded_by("region", &server)).await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!((status.generation.0, status.collections[0].embeddings_computed), (2, 0));
    assert_eq!(found(&walvec, "region=1").await?, 100);
    walvec.stop().await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 400);
    Ok(())
}
