//! Rows that a program between capture and the workers removes: it writes their keys with a null value, and without walvec's headers.

use anyhow::{Context, Result};
use serde_json::json;
use walvec_e2e::{Collection, Expected, Kafka, Settings, Test, TestContext, Walvec, image, records, test};
use walvec_test_kafka::can_test;
use walvec_test_qdrant::TestServer;

pub(crate) fn tests() -> Vec<Test> {
    vec![test!(a_row_that_another_program_takes_out_is_gone_however_soon_the_worker_reads_it).once()]
}

const TABLE: &str = "
    CREATE TABLE items (id uuid PRIMARY KEY, name text);
    INSERT INTO items SELECT ('00000000-0000-4000-8000-00000000000' || g)::uuid, 'name ' || g FROM generate_series(1, 5) g";

fn items(kafka: &Kafka, server: &TestServer) -> Settings {
    let collection = Collection::new("items", "public.items", "{{ name }}");
    kafka.carries(Settings::new([collection]).with("sink", json!({ "qdrant": { "url": server.url() } })))
}

/// Writes a null after the row's records in the topic, and deletes the row while capture is stopped and does not see it.
async fn take_out(context: &TestContext, kafka: &Kafka, number: u32) -> Result<()> {
    let id = format!("00000000-0000-4000-8000-00000000000{number}");
    let key = json!({ "id": id }).to_string();
    let written = records::all(kafka.broker(), &kafka.topic("items")).await?;
    let of_row = written.iter().find(|record| record.key.as_deref() == Some(key.as_bytes()));
    let partition = of_row.context("the row is not in the topic")?.partition;
    records::write_into(kafka.broker(), (&kafka.topic("items"), partition), Some(key.as_bytes()), None).await?;
    context.execute(&format!("DELETE FROM items WHERE id = '{id}'")).await
}

async fn shows(
    context: &TestContext,
    kafka: &Kafka,
    server: &TestServer,
    index: &mut Walvec,
    rows: usize,
) -> Result<()> {
    kafka.read("index", &mut [index]).await?;
    let image = Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned());
    let compared = image::compare_on_server(context, &image, &server.url()).await?;
    assert_eq!(compared, rows);
    Ok(())
}

async fn a_row_that_another_program_takes_out_is_gone_however_soon_the_worker_reads_it(
    context: TestContext,
) -> Result<()> {
    if !can_test("nulls of another program") {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    let settings = items(&kafka, &server);
    context.execute(TABLE).await?;
    let mut capture = context.start_stage(&settings, "capture", "a").await?;
    capture.caught_up(&context).await?;
    capture.stop().await?;

    // The null is in one batch with the row.
    take_out(&context, &kafka, 1).await?;
    let mut index = context.start_stage(&settings, "index", "a").await?;
    shows(&context, &kafka, &server, &mut index, 4).await?;
    // The null comes after the row was written.
    take_out(&context, &kafka, 2).await?;
    shows(&context, &kafka, &server, &mut index, 3).await?;
    // The null is the first record that a worker reads: it has seen no row of the table that would show the type of its
    // key.
    index.stop().await?;
    take_out(&context, &kafka, 3).await?;
    let mut index = context.start_stage(&settings, "index", "a").await?;
    shows(&context, &kafka, &server, &mut index, 2).await?;
    index.stop().await
}
