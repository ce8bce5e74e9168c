//! With a broker, capture sets a table aside, and the workers go on.

use anyhow::Result;
use serde_json::json;
use walvec_e2e::{Collection, Expected, Kafka, Settings, Test, TestContext, image, test, wait};
use walvec_pipeline::Status;
use walvec_test_kafka::can_test;
use walvec_test_qdrant::TestServer;

use super::{CHANGES, TABLES, both, image_of, is_aside, theirs};
use crate::lookups;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_table_that_is_taken_out_of_a_publication_stops_alone_before_a_broker_too).once(),
        test!(workers_go_on_although_capture_has_set_a_table_aside).once(),
        test!(a_worker_that_looks_rows_up_goes_on_although_another_table_is_dropped).once(),
        test!(a_worker_goes_on_behind_records_of_a_table_that_is_gone_by_now).once(),
        test!(a_worker_goes_on_behind_records_that_look_something_up_in_a_table_that_is_gone).once(),
    ]
}

async fn a_table_that_is_taken_out_of_a_publication_stops_alone_before_a_broker_too(
    context: TestContext,
) -> Result<()> {
    if !can_test("a table that is set aside before a broker") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let server = TestServer::start()?;
    let settings = kafka.carries(theirs(&context).await?).with("sink", json!({ "qdrant": { "url": server.url() } }));
    let mut capture = context.start_stage(&settings, "capture", "1").await?;
    capture.caught_up(&context).await?;
    let mut worker = context.start_stage(&settings, "index", "1").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    context.execute("ALTER PUBLICATION theirs DROP TABLE others").await?;
    capture.wait_for("the table is set aside", is_aside).await?;
    capture.caught_up(&context).await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    assert_eq!(image::compare_on_server(&context, &image_of("others"), &server.url()).await?, 30, "nothing was swept");
    context.execute(CHANGES).await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    assert_eq!(image::compare_on_server(&context, &image_of("items"), &server.url()).await?, 20);
    context.execute("ALTER PUBLICATION theirs ADD TABLE others").await?;
    capture.wait_for("all tables are followed", |status| !is_aside(status)).await?;
    capture.caught_up(&context).await?;
    wait::until("the collection is the table's image", async || {
        kafka.read("index", &mut [&mut worker]).await?;
        let compared = image::compare_on_server(&context, &image_of("others"), &server.url()).await;
        Ok(compared.is_ok_and(|rows| rows == 31).then_some(()))
    })
    .await?;
    capture.stop().await?;
    worker.stop().await
}

async fn workers_go_on_although_capture_has_set_a_table_aside(context: TestContext) -> Result<()> {
    if !can_test("workers while a table is set aside") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let server = TestServer::start()?;
    context.execute(TABLES).await?;
    context.execute("ALTER TABLE items ADD body text; ALTER TABLE items ALTER body SET STORAGE EXTERNAL").await?;
    context.execute("UPDATE items SET body = repeat('x', 3000)").await?;
    let settings = kafka.carries(both()).with("sink", json!({ "qdrant": { "url": server.url() } }));
    let mut capture = context.start_stage(&settings, "capture", "1").await?;
    capture.caught_up(&context).await?;
    let mut worker = context.start_stage(&settings, "index", "1").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    context.execute("ALTER TABLE others DROP CONSTRAINT others_pkey").await?;
    capture.wait_for("the table is set aside", is_aside).await?;
    // The bodies are not sent, so the worker reads them from the table.
    context.execute("UPDATE items SET id = id + 100").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    assert_eq!(image::compare_on_server(&context, &image_of("items"), &server.url()).await?, 20);
    capture.stop().await?;
    worker.stop().await
}

async fn a_worker_that_looks_rows_up_goes_on_although_another_table_is_dropped(context: TestContext) -> Result<()> {
    if !can_test("a worker that looks rows up while a table is set aside") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let server = TestServer::start()?;
    context.execute(lookups::SCHEMA).await?;
    context
        .execute("INSERT INTO authors VALUES (1, 'former'); INSERT INTO books VALUES (1, 'book', 1, 'text')")
        .await?;
    context
        .execute("CREATE TABLE others (id int PRIMARY KEY, name text); INSERT INTO others VALUES (1, 'other')")
        .await?;
    let books = Collection::new("books", "public.books", lookups::TEXT).with("lookup", lookups::lookups());
    let settings = Settings::new([books, Collection::new("others", "public.others", "{{ name }}")]);
    let settings = kafka.carries(settings).with("sink", json!({ "qdrant": { "url": server.url() } }));
    let mut capture = context.start_stage(&settings, "capture", "1").await?;
    capture.caught_up(&context).await?;
    let mut worker = context.start_stage(&settings, "index", "1").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    context.execute("DROP TABLE others").await?;
    capture.wait_for("the table is set aside", is_aside).await?;
    capture.caught_up(&context).await?;
    context.execute("UPDATE authors SET name = 'somebody renamed lately'").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    assert_eq!(image::compare_on_server(&context, &lookups::image_of_books(), &server.url()).await?, 1);
    capture.stop().await?;
    worker.stop().await
}

/// Returns how many rows of the second collection a worker has parked.
fn parked(status: &Status) -> u64 {
    status.collections[1].dead_letters
}

async fn a_worker_goes_on_behind_records_of_a_table_that_is_gone_by_now(context: TestContext) -> Result<()> {
    if !can_test("a worker behind records of a table that is gone") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let server = TestServer::start()?;
    context.execute(TABLES).await?;
    context.execute("ALTER TABLE others ADD body text; ALTER TABLE others ALTER body SET STORAGE EXTERNAL").await?;
    context.execute("UPDATE others SET body = repeat('x', 3000)").await?;
    // A value that is not sent, and not stored either.
    let others =
        Collection::new("others", "public.others", "{{ name }} {{ body }}").with("payload", json!(["id", "name"]));
    let settings = Settings::new([Collection::new("items", "public.items", "{{ name }}"), others]);
    let settings = kafka.carries(settings).with("sink", json!({ "qdrant": { "url": server.url() } }));
    let mut capture = context.start_stage(&settings, "capture", "1").await?;
    capture.caught_up(&context).await?;
    let mut worker = context.start_stage(&settings, "index", "1").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    worker.stop().await?;
    context.execute("UPDATE others SET name = 'changed' WHERE id <= 5").await?;
    capture.caught_up(&context).await?;
    context.execute("DROP TABLE others").await?;
    capture.wait_for("the table is set aside", is_aside).await?;
    context.execute("UPDATE items SET name = 'changed' WHERE id = 1").await?;
    let mut worker = context.start_stage(&settings, "index", "1").await?;
    worker.wait_for("the rows without their values are parked", |status| parked(status) == 5).await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    assert_eq!(image::compare_on_server(&context, &image_of("items"), &server.url()).await?, 20);

    context
        .execute("CREATE TABLE others (id int PRIMARY KEY, name text, body text); INSERT INTO others VALUES (1, 'other', 'b')")
        .await?;
    capture.wait_for("all tables are followed", |status| !is_aside(status)).await?;
    worker.wait_for("nothing is parked any more", |status| parked(status) == 0).await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    capture.stop().await?;
    worker.stop().await?;
    let sql = Some("format('%s %s', name, body)");
    let expected = Expected { payload: Some(&["id", "name"]), sql, ..image_of("others") };
    assert_eq!(image::compare_on_server(&context, &expected, &server.url()).await?, 1);
    Ok(())
}

async fn a_worker_goes_on_behind_records_that_look_something_up_in_a_table_that_is_gone(
    context: TestContext,
) -> Result<()> {
    if !can_test("a worker that looks rows up in a table that is gone") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let server = TestServer::start()?;
    context.execute(TABLES).await?;
    let schema = "CREATE TYPE kind AS ENUM ('former', 'other'); CREATE TABLE kinds (kind kind PRIMARY KEY, words text);
        INSERT INTO kinds VALUES ('former', 'as before'), ('other', 'another'); ALTER TABLE others ADD kind kind;
        UPDATE others SET kind = 'other'";
    context.execute(schema).await?;
    let lookup = json!({ "kind_of": { "table": "public.kinds", "on": { "kind": "kind" } } });
    let others = Collection::new("others", "public.others", "{{ name }} {{ kind_of.words }}").with("lookup", lookup);
    let settings = Settings::new([Collection::new("items", "public.items", "{{ name }}"), others]);
    let settings = kafka.carries(settings).with("sink", json!({ "qdrant": { "url": server.url() } }));
    let mut capture = context.start_stage(&settings, "capture", "1").await?;
    capture.caught_up(&context).await?;
    let mut worker = context.start_stage(&settings, "index", "1").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    worker.stop().await?;
    // When the record is read, the type no longer has the label that is in it.
    context
        .execute("UPDATE others SET kind = 'former' WHERE id <= 5; INSERT INTO others VALUES (50, 'new', 'other')")
        .await?;
    capture.caught_up(&context).await?;
    context.execute("ALTER TYPE kind RENAME VALUE 'former' TO 'latter'").await?;
    let mut worker = context.start_stage(&settings, "index", "1").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    let sql = "format('%s %s', name, (SELECT k.words FROM kinds k WHERE k.kind = others.kind))";
    let expected = Expected { sql: Some(sql), ..image_of("others") };
    wait::until("the rows show their new label", async || {
        Ok(image::compare_on_server(&context, &expected, &server.url()).await.ok().filter(|rows| *rows == 31))
    })
    .await?;
    worker.stop().await?;

    context.execute("UPDATE others SET name = 'unseen' WHERE id <= 7").await?;
    capture.caught_up(&context).await?;
    context.execute("DROP TABLE kinds").await?;
    capture.wait_for("the table is set aside", is_aside).await?;
    let mut worker = context.start_stage(&settings, "index", "1").await?;
    // More than these seven, if the worker was stopped before it had committed the rows that were read again.
    worker.wait_for("what cannot be looked up is parked", |status| parked(status) >= 7).await?;
    context.execute("UPDATE items SET name = 'changed' WHERE id = 1").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    assert_eq!(image::compare_on_server(&context, &image_of("items"), &server.url()).await?, 20);
    context
        .execute("CREATE TABLE kinds (kind kind PRIMARY KEY, words text); INSERT INTO kinds VALUES ('other', 'back')")
        .await?;
    worker.wait_for("nothing is parked any more", |status| parked(status) == 0).await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    capture.stop().await?;
    worker.stop().await?;
    assert_eq!(image::compare_on_server(&context, &expected, &server.url()).await?, 31);
    Ok(())
}
