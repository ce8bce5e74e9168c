//! Tables and publications whose names change: another table takes over a name, a name is gone, a publication gets another one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use serde_json::json;
use walvec_e2e::{Collection, Expected, Kafka, Settings, Test, TestContext, image, test, wait};
use walvec_pipeline::observe::status::{Phase, Status};
use walvec_test_kafka::can_test;

use super::{LARGE, compared, image_of, named, shown};
use crate::broker::indexed_by_one;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_table_that_takes_over_the_name_is_shown),
        test!(a_table_that_took_over_the_name_while_nothing_ran_is_shown),
        test!(a_looked_up_table_that_another_one_replaces_reaches_the_documents),
        test!(a_worker_reads_values_of_the_partitioned_table_that_has_taken_over_the_name).once(),
        test!(a_table_that_is_gone_is_named),
        test!(a_collection_added_under_load_takes_one_start),
        test!(another_owner_of_the_publication_changes_nothing_and_another_name_is_told),
    ]
}

const BLUE_AND_GREEN: &str = "
    CREATE TABLE items (id int PRIMARY KEY, name text);
    CREATE TABLE items_new (id int PRIMARY KEY, name text);
    CREATE TABLE other (id int PRIMARY KEY, name text);
    INSERT INTO items VALUES (1, 'blue one'), (2, 'blue two');
    INSERT INTO items_new VALUES (2, 'green two'), (3, 'green three');
    INSERT INTO other VALUES (1, 'one')";

async fn a_table_that_takes_over_the_name_is_shown(context: TestContext) -> Result<()> {
    context.execute(BLUE_AND_GREEN).await?;
    let mut walvec = context.start(&named(&["items", "other"])).await?;
    walvec.caught_up(&context).await?;
    context.execute("ALTER TABLE items RENAME TO items_old; ALTER TABLE items_new RENAME TO items").await?;
    shown(&context, &mut walvec, &["items"]).await?;
    context
        .execute("UPDATE items SET name = 'green 2' WHERE id = 2; UPDATE items_old SET name = 'nobody sees it'")
        .await?;
    compared(&context, walvec, &["items", "other"]).await
}

async fn a_table_that_took_over_the_name_while_nothing_ran_is_shown(context: TestContext) -> Result<()> {
    context.execute(BLUE_AND_GREEN).await?;
    let settings = named(&["items", "other"]);
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    context
        .execute(
            "CREATE SCHEMA old; ALTER TABLE items SET SCHEMA old; ALTER TABLE items_new RENAME TO items;
             UPDATE items SET name = 'green 2' WHERE id = 2",
        )
        .await?;
    let mut walvec = context.start(&settings).await?;
    shown(&context, &mut walvec, &["items"]).await?;
    compared(&context, walvec, &["items", "other"]).await
}

async fn a_looked_up_table_that_another_one_replaces_reaches_the_documents(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TABLE authors (id int PRIMARY KEY, name text);
             CREATE TABLE authors_new (id int PRIMARY KEY, name text);
             CREATE TABLE books (id int PRIMARY KEY, name text, author int);
             INSERT INTO authors VALUES (1, 'blue'), (2, 'blue too');
             INSERT INTO authors_new VALUES (1, 'green'), (2, 'green too');
             INSERT INTO books VALUES (1, 'one', 1), (2, 'two', 2), (3, 'three', 1)",
        )
        .await?;
    let lookup = json!({ "writer": { "table": "public.authors", "on": { "id": "author" } } });
    let books = Collection::new("books", "public.books", "{{ name }}, {{ writer.name }}").with("lookup", lookup);
    let mut walvec = context.start(&Settings::new([books])).await?;
    walvec.caught_up(&context).await?;
    context.execute("ALTER TABLE authors RENAME TO authors_old; ALTER TABLE authors_new RENAME TO authors").await?;
    let again = |now: &Status| now.generation.0 > 1 && now.phase == Phase::Streaming;
    walvec.wait_for("the documents are made again", again).await?;
    context.execute("UPDATE authors SET name = 'greener' WHERE id = 2").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let sql = "format('%s, %s', name, (SELECT a.name FROM authors a WHERE a.id = author))";
    let expected = Expected { sql: Some(sql), ..image_of("books") };
    assert_eq!(image::compare(&context, &expected).await?, 3);
    Ok(())
}

async fn a_worker_reads_values_of_the_partitioned_table_that_has_taken_over_the_name(
    context: TestContext,
) -> Result<()> {
    if !can_test("a table that takes over a name, through a broker") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    context.execute(LARGE).await?;
    // The embedded column is not stored, so a worker has to read it again when an update leaves it out.
    let collection = Collection::new("large", "public.large", "{{ name }}").with("payload", json!(["id", "n"]));
    let settings = kafka.carries(Settings::new([collection]));
    let (mut capture, mut worker) = indexed_by_one(&context, &kafka, &settings).await?;
    context.execute("UPDATE large SET n = 1 WHERE id <= 10").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    let before = capture.status().await?.generation;
    context
        .execute(
            "ALTER TABLE large RENAME TO former;
             CREATE TABLE large (id int PRIMARY KEY, n int, name text) PARTITION BY RANGE (id);
             CREATE TABLE large_1 PARTITION OF large FOR VALUES FROM (0) TO (10000);
             ALTER TABLE large_1 ALTER name SET STORAGE EXTERNAL;
             INSERT INTO large SELECT id, n, name FROM former",
        )
        .await?;
    let again = |now: &Status| now.generation > before && now.phase == Phase::Streaming;
    capture.wait_for("it is read again", again).await?;
    context.execute("UPDATE large SET n = 2 WHERE id <= 20").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    capture.stop().await?;
    worker.stop().await?;
    let expected = Expected { payload: Some(&["id", "n"]), ..image_of("large") };
    assert_eq!(image::compare(&context, &expected).await?, 1500);
    Ok(())
}

async fn a_table_that_is_gone_is_named(context: TestContext) -> Result<()> {
    context.execute(BLUE_AND_GREEN).await?;
    let mut walvec = context.start(&named(&["items", "other"])).await?;
    walvec.caught_up(&context).await?;
    context.execute("ALTER TABLE items RENAME TO items_old").await?;
    let is_named = |now: &Status| now.problem.as_ref().is_some_and(|problem| problem.message.contains("public.items"));
    walvec.wait_for("the table is named", is_named).await?;
    context.execute("UPDATE other SET name = 'goes on'").await?;
    shown(&context, &mut walvec, &["other"]).await?;
    compared(&context, walvec, &["other"]).await
}

async fn a_collection_added_under_load_takes_one_start(context: TestContext) -> Result<()> {
    context.execute(BLUE_AND_GREEN).await?;
    let mut walvec = context.start(&named(&["items"])).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let writer = context.connect().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let writing = tokio::spawn(async move {
        for id in 10.. {
            let sql = format!(
                "INSERT INTO other VALUES ({id}, 'new {id}'); UPDATE other SET name = name || '.' WHERE id = {id} - 3;
                 DELETE FROM other WHERE id = {id} - 9; INSERT INTO items VALUES ({id}, 'new {id}')"
            );
            writer.batch_execute(&sql).await?;
            if stopped.load(Ordering::Relaxed) {
                break;
            }
        }
        anyhow::Ok(())
    });
    context.execute("ALTER PUBLICATION walvec ADD TABLE ONLY other").await?;
    let mut walvec = context.start(&named(&["items", "other"])).await?;
    walvec.wait_for("the stream is followed", |now| now.phase == Phase::Streaming).await?;
    stop.store(true, Ordering::Relaxed);
    writing.await??;
    compared(&context, walvec, &["items", "other"]).await
}

async fn another_owner_of_the_publication_changes_nothing_and_another_name_is_told(context: TestContext) -> Result<()> {
    context.execute(BLUE_AND_GREEN).await?;
    let mut walvec = context.start(&named(&["items"])).await?;
    let asked = walvec.caught_up(&context).await?.server_asked;
    walvec.wait_for("another look was taken", |now| now.server_asked > asked).await?;
    let role = format!("owner_of_{}", context.slot());
    context.execute(&format!("CREATE ROLE {role} SUPERUSER; ALTER PUBLICATION walvec OWNER TO {role}")).await?;
    let log = walvec.log().to_owned();
    wait::until("the other owner is noticed", async || {
        walvec.is_alive()?;
        Ok(std::fs::read_to_string(&log)?.contains("the publication has another owner").then_some(()))
    })
    .await?;
    context.execute("INSERT INTO items VALUES (7, 'seven')").await?;
    shown(&context, &mut walvec, &["items"]).await?;
    walvec.stop().await?;
    let mut walvec = context.start(&named(&["items"])).await?;
    assert_eq!(walvec.caught_up(&context).await?.generation.0, 1, "and nothing after a restart");
    context.execute("ALTER PUBLICATION walvec RENAME TO \"my own\"").await?;
    let is_told =
        |now: &Status| now.resync.as_ref().is_some_and(|resync| resync.why.contains("is called \"my own\" now"));
    walvec.wait_for("the other name is told", is_told).await?;
    context.execute("DELETE FROM items WHERE id = 7").await?;
    shown(&context, &mut walvec, &["items"]).await?;
    walvec.stop().await?;
    context.execute(&format!("ALTER PUBLICATION \"my own\" OWNER TO CURRENT_USER; DROP ROLE {role}")).await
}
