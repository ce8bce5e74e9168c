//! Topics that other programs write: compacted ones that forget deletes, and truncates of a cluster that took another one's place.

use anyhow::{Context, Result};
use serde_json::json;
use walvec_e2e::{Collection, Expected, Kafka, Settings, Test, TestContext, image, records, test, wait};
use walvec_test_kafka::can_test;
use walvec_test_providers::TestProvider;
use walvec_test_qdrant::TestServer;

use crate::broker::both_work;
use crate::workers::start_again;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_truncate_from_another_cluster_removes_what_was_written_before_it_and_nothing_else).once(),
        test!(a_truncate_waits_until_every_worker_has_written_what_is_older_and_a_crash_meanwhile_brings_nothing_back)
            .once(),
        test!(a_topic_that_forgets_deletes_at_once_is_refused).once(),
        test!(a_worker_that_was_away_for_longer_than_deletes_are_kept_does_not_go_on).once(),
        test!(a_value_whose_record_was_compacted_away_is_read_from_the_table).once(),
    ]
}

fn items(kafka: &Kafka, server: &TestServer) -> Settings {
    let collection = Collection::new("items", "public.items", "{{ name }}");
    kafka.carries(Settings::new([collection]).with("sink", json!({ "qdrant": { "url": server.url() } })))
}

fn image_of_items() -> Expected {
    Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned())
}

/// Returns the key and the value that Debezium writes for `op` at this position of its server's log.
fn record(op: &str, lsn: u64, id: Option<u32>) -> (Option<String>, String) {
    let source = json!({"schema": "public", "table": "items", "lsn": lsn, "txId": 1});
    let after = id.map(|id| json!({"id": id, "name": format!("name {id}")}));
    let value = json!({"op": op, "before": null, "after": after, "source": source}).to_string();
    (id.map(|id| json!({ "id": id }).to_string()), value)
}

async fn write(kafka: &Kafka, op: &str, lsn: u64, id: Option<u32>) -> Result<()> {
    let (key, value) = record(op, lsn, id);
    let key = key.as_deref().map(str::as_bytes);
    records::write(kafka.broker(), &kafka.topic("items"), key, Some(value.as_bytes())).await.map(drop)
}

async fn write_into(kafka: &Kafka, partition: i32, op: &str, lsn: u64, id: Option<u32>) -> Result<()> {
    let (key, value) = record(op, lsn, id);
    let (topic, key) = (kafka.topic("items"), key.as_deref().map(str::as_bytes));
    records::write_into(kafka.broker(), (&topic, partition), key, Some(value.as_bytes())).await
}

/// Waits until the collection is the table's image.
async fn becomes(context: &TestContext, server: &TestServer, rows: usize) -> Result<()> {
    let mut last = None;
    let waited = wait::until("the collection is the table's image", async || {
        match image::compare_on_server(context, &image_of_items(), &server.url()).await {
            Ok(found) => Ok((found == rows).then_some(())),
            Err(difference) => {
                last = Some(format!("{difference:#}"));
                Ok(None)
            }
        }
    });
    let waited = waited.await;
    waited.with_context(|| last.unwrap_or_default())
}

async fn a_truncate_from_another_cluster_removes_what_was_written_before_it_and_nothing_else(
    context: TestContext,
) -> Result<()> {
    if !can_test("truncates of other programs") {
        return Ok(());
    }
    context.execute("CREATE TABLE items (id int PRIMARY KEY, name text)").await?;
    context.execute("INSERT INTO items SELECT g, 'name ' || g FROM generate_series(21, 30) g").await?;
    // The log positions of the earlier rows, the truncate and the later rows, each on its own server.
    for [before, truncate, after] in [[9_000_000, 500, 600], [300, 10_000_000, 400]] {
        let (kafka, server) = (Kafka::own(&context, Kafka::options()).await?, TestServer::start()?);
        records::make_topic(kafka.broker(), &kafka.topic("items"), 3, &[]).await?;
        wait::until("the new broker serves the topic", async || {
            Ok(records::all(kafka.broker(), &kafka.topic("items")).await.ok())
        })
        .await?;
        let settings = items(&kafka, &server);
        for id in 1..=10 {
            write(&kafka, "r", before, Some(id)).await?;
        }
        write(&kafka, "t", truncate, None).await?;
        for id in 21..=30 {
            write(&kafka, "c", after + u64::from(id), Some(id)).await?;
        }
        let mut index = context.start_stage(&settings, "index", "a").await?;
        kafka.read("index", &mut [&mut index]).await?;
        becomes(&context, &server, 10).await?;
        // The worker reads these while they are written.
        for id in 41..=50 {
            write(&kafka, "c", before, Some(id)).await?;
        }
        write(&kafka, "t", truncate, None).await?;
        for id in 21..=30 {
            write(&kafka, "c", after, Some(id)).await?;
        }
        kafka.read("index", &mut [&mut index]).await?;
        becomes(&context, &server, 10).await?;
        index.stop().await?;
    }
    Ok(())
}

/// One worker reads the truncate while another has not written the older rows of its partition, because its provider is
/// slow.
async fn a_truncate_waits_until_every_worker_has_written_what_is_older_and_a_crash_meanwhile_brings_nothing_back(
    context: TestContext,
) -> Result<()> {
    if !can_test("truncates of other programs") {
        return Ok(());
    }
    let (kafka, server) = (Kafka::own(&context, Kafka::options()).await?, TestServer::start()?);
    let provider = TestProvider::start().await?;
    let embedding = json!({ "model": "openai/m", "url": provider.openai_url(), "api_key": "key" });
    let settings = items(&kafka, &server).with("embedding", embedding);
    context.execute("CREATE TABLE items (id int PRIMARY KEY, name text)").await?;
    context.execute("INSERT INTO items VALUES (21, 'name 21'), (22, 'name 22')").await?;
    records::make_topic(kafka.broker(), &kafka.topic("items"), 2, &[]).await?;
    let mut workers =
        [context.start_stage(&settings, "index", "one").await?, context.start_stage(&settings, "index", "two").await?];
    let [one, two] = &mut workers;
    both_work(one, two).await?;

    // The worker that reads the truncate reads none of the records that are held up.
    provider.hold(Some("name"));
    for id in 1..=5 {
        write_into(&kafka, 1, "c", 100 + u64::from(id), Some(id)).await?;
    }
    wait::until("the older rows are being embedded", async || Ok((provider.holds() >= 1).then_some(()))).await?;
    write_into(&kafka, 0, "t", 200, None).await?;
    write_into(&kafka, 0, "c", 300, Some(21)).await?;
    write_into(&kafka, 1, "c", 301, Some(22)).await?;
    wait::until("the truncate waits", async || {
        let mut told = String::new();
        for worker in &workers {
            told += &tokio::fs::read_to_string(worker.log()).await?;
        }
        Ok(told.contains("a truncate waits until the group has read what was written before it").then_some(()))
    })
    .await?;
    for worker in workers {
        worker.kill().await?;
    }
    provider.hold(None);
    let mut one = start_again(&context, &settings, "index", "one").await?;
    let mut two = start_again(&context, &settings, "index", "two").await?;
    kafka.read("index", &mut [&mut one, &mut two]).await?;
    becomes(&context, &server, 2).await?;
    for worker in [one, two] {
        worker.stop().await?;
    }
    Ok(())
}

async fn a_topic_that_forgets_deletes_at_once_is_refused(context: TestContext) -> Result<()> {
    if !can_test("compacted topics") {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    let settings = [("cleanup.policy", "compact"), ("delete.retention.ms", "100")];
    records::make_topic(kafka.broker(), &kafka.topic("items"), 1, &settings).await?;
    context.configure(&items(&kafka, &server))?;
    let output = context.walvec(&["run", "--stage", "index"]).await?;
    let told = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(3), "{told}");
    for words in ["keeps deletes for 100 ms only", "--add-config delete.retention.ms=", &kafka.topic("items")] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(told.ends_with("E_TOPIC\n"), "{told}");
    Ok(())
}

/// A compacted topic keeps the last record of a row. If that leaves a large value out, the record that brought it may be gone.
async fn a_value_whose_record_was_compacted_away_is_read_from_the_table(context: TestContext) -> Result<()> {
    if !can_test("compacted topics") {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    let compacted = [("cleanup.policy", "compact"), ("delete.retention.ms", "3600000")];
    records::make_topic(kafka.broker(), &kafka.topic("items"), 1, &compacted).await?;
    context.execute("CREATE TABLE items (id int PRIMARY KEY, name text, body text)").await?;
    context.execute("INSERT INTO items VALUES (1, 'third', 'body of the second version')").await?;
    let write = async |lsn: u64, name: &str, body: &str| {
        let source = json!({"schema": "public", "table": "items", "lsn": lsn, "txId": 1});
        let after = json!({"id": 1, "name": name, "body": body});
        let value = json!({"op": "u", "before": null, "after": after, "source": source}).to_string();
        let key = json!({ "id": 1 }).to_string();
        records::write(kafka.broker(), &kafka.topic("items"), Some(key.as_bytes()), Some(value.as_bytes())).await
    };
    write(100, "first", "body of the first version").await?;
    let mut index = context.start_stage(&items(&kafka, &server), "index", "a").await?;
    kafka.read("index", &mut [&mut index]).await?;
    write(300, "third", "__debezium_unavailable_value").await?;
    kafka.read("index", &mut [&mut index]).await?;
    becomes(&context, &server, 1).await?;
    index.stop().await
}

async fn a_worker_that_was_away_for_longer_than_deletes_are_kept_does_not_go_on(context: TestContext) -> Result<()> {
    if !can_test("compacted topics") {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    let (topic, group) = (kafka.topic("items"), kafka.group("index"));
    let compacted = [("cleanup.policy", "compact"), ("delete.retention.ms", "3600000")];
    records::make_topic(kafka.broker(), &topic, 1, &compacted).await?;
    context.execute("CREATE TABLE items (id int PRIMARY KEY, name text)").await?;
    context.execute("INSERT INTO items SELECT g, 'name ' || g FROM generate_series(1, 2) g").await?;
    let settings = items(&kafka, &server);
    write(&kafka, "c", 100, Some(1)).await?;
    write(&kafka, "c", 200, Some(2)).await?;
    let mut index = context.start_stage(&settings, "index", "a").await?;
    becomes(&context, &server, 2).await?;
    kafka.read("index", &mut [&mut index]).await?;
    index.stop().await?;

    // The group's stored time is set back, as if it had read nothing for two hours.
    let (offset, mark) = records::committed(kafka.broker(), &group, &topic).await?;
    let (about, at) = mark.split_once(' ').context("the group does not know when it was there")?;
    let before = at.parse::<u64>()? - 2 * 3_600_000;
    wait::until("the worker has left the group", async || {
        Ok(records::commit(kafka.broker(), &group, &topic, offset, &format!("{about} {before}")).await.ok())
    })
    .await?;
    let mut index = context.start_stage(&settings, "index", "a").await?;
    index
        .wait_for("it reads: nothing was written meanwhile", |status| {
            status.broker.as_ref().is_some_and(|broker| !broker.partitions.is_empty())
        })
        .await?;
    index.stop().await?;

    write(&kafka, "c", 300, Some(3)).await?;
    wait::until("the worker has left the group", async || {
        Ok(records::commit(kafka.broker(), &group, &topic, offset, &format!("{about} {before}")).await.ok())
    })
    .await?;
    let output = context.walvec(&["run", "--stage", "index", "--instance", "a"]).await?;
    let told = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains("keeps deletes for 3600 s only") && told.ends_with("E_GAP\n"), "{told}");
    assert!(told.contains("walvec reset --offsets"), "{told}");
    Ok(())
}
