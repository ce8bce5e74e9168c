//! The commands, with a broker between PostgreSQL and the collections.

use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use walvec_e2e::settings::MODEL;
use walvec_e2e::{Collection, Expected, Kafka, Settings, Test, TestContext, image, test, wait};
use walvec_model::PointId;
use walvec_sink::{Sink as _, Write};
use walvec_test_kafka::can_test;
use walvec_test_qdrant::TestServer;

use crate::broker::{TABLE, captured, image_of_items, indexed_by_one, items_on};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(verify_finds_behind_a_broker_what_differs_and_nothing_else).once(),
        test!(dead_letters_behind_a_broker_are_listed_tried_again_and_forgotten).once(),
        test!(another_payload_behind_a_broker_is_asked_for_and_shown_by_every_point).once(),
        test!(rows_are_written_to_the_topics_again_when_asked_for).once(),
        test!(a_group_begins_again_when_nobody_is_in_it).once(),
        test!(the_status_of_every_stage_on_the_machine_is_shown).once(),
    ]
}

fn answer(output: &Output) -> Result<Value> {
    let told = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).with_context(|| format!("no JSON; {told}"))
}

/// Removes points without the workers' knowledge.
async fn lose(server: &TestServer, ids: &[u64]) -> Result<()> {
    let deletions: Vec<Write> = ids.iter().map(|id| Write::Delete(PointId::Num(*id))).collect();
    Ok(image::on_server("items", MODEL, &server.url())?.write(&deletions).await?)
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn verify_finds_behind_a_broker_what_differs_and_nothing_else(context: TestContext) -> Result<()> {
    if !can_test("walvec verify behind a broker") {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    let settings = kafka.carries(items_on(&server));
    context.execute(TABLE).await?;
    let (capture, worker) = indexed_by_one(&context, &kafka, &settings).await?;

    let writer = context.connect().await?;
    let load = tokio::spawn(async move {
        for round in 0..200 {
            let update = format!("UPDATE items SET name = 'round {round}' WHERE id % 50 = {round} % 50");
            writer.batch_execute(&update).await?;
        }
        anyhow::Ok(())
    });
    let verified = context.walvec(&["verify", "--json"]).await?;
    load.await??;
    let report = answer(&verified)?;
    ensure!(verified.status.code() == Some(0), "{report}");
    assert_eq!((&report["rows"], &report["missing"], &report["stale"]), (&1000.into(), &0.into(), &0.into()));

    // The workers do not know that these points are gone, so `verify` has something to find.
    lose(&server, &[3, 4]).await?;
    let verified = context.walvec(&["verify", "--json"]).await?;
    assert_eq!((verified.status.code(), &answer(&verified)?["missing"]), (Some(1), &2.into()));
    let refused = context.walvec(&["verify", "--repair"]).await?;
    assert_eq!(refused.status.code(), Some(3));
    assert!(told(&refused).contains("walvec backfill"), "{}", told(&refused));
    worker.stop().await?;
    capture.stop().await?;
    Ok(())
}

async fn dead_letters_behind_a_broker_are_listed_tried_again_and_forgotten(context: TestContext) -> Result<()> {
    if !can_test("walvec dead-letters behind a broker") {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    // Division by a column: a row with 0 cannot be rendered.
    let items = Settings::new([Collection::new("items", "public.items", "{{ name }} {{ 10 // n }}")]);
    let settings = kafka.carries(items.with("sink", json!({ "qdrant": { "url": server.url() } })));
    context.execute(TABLE).await?;
    context.execute("UPDATE items SET n = 1; UPDATE items SET n = 0 WHERE id IN (5, 6)").await?;
    let mut capture = captured(&context, &settings).await?;
    let mut worker = context.start_stage(&settings, "index", "1").await?;
    worker
        .wait_for("both rows are parked", |status| {
            status.collections.first().is_some_and(|found| found.dead_letters == 2)
        })
        .await?;
    let list = async || answer(&context.walvec(&["dead-letters", "list", "--json"]).await?);
    let letters = list().await?;
    let letters = letters["dead_letters"].as_array().context("no list")?;
    assert_eq!(letters.len(), 2);
    assert!(letters[0]["place"]["topic"].as_str().is_some_and(|topic| topic.ends_with("public.items")), "{letters:?}");

    // A newer version clears one row; a row that is tried again unchanged fails again; a dropped one is gone from the
    // list.
    context.execute("UPDATE items SET n = 2 WHERE id = 5").await?;
    capture.caught_up(&context).await?;
    wait::until("the newer version has cleared its letter", async || {
        Ok((list().await?["dead_letters"].as_array().map(Vec::len) == Some(1)).then_some(()))
    })
    .await?;
    let retried = context.walvec(&["dead-letters", "retry", "--key", "6"]).await?;
    ensure!(retried.status.success(), "{}", told(&retried));
    wait::until("it is parked again, with the place of its new record", async || {
        let now = list().await?;
        let offset = |letter: &Value| letter["place"]["offset"].as_i64();
        let before = letters.iter().find(|letter| letter["key"][0] == 6).and_then(offset);
        let again = now["dead_letters"].as_array().is_some_and(|now| now.len() == 1 && offset(&now[0]) > before);
        Ok(again.then_some(()))
    })
    .await?;
    ensure!(context.walvec(&["dead-letters", "drop"]).await?.status.success());
    assert_eq!(list().await?["dead_letters"], Value::Array(Vec::new()));
    worker.stop().await?;
    capture.stop().await?;
    Ok(())
}

async fn rows_are_written_to_the_topics_again_when_asked_for(context: TestContext) -> Result<()> {
    if !can_test("walvec backfill behind a broker") {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    let settings = kafka.carries(items_on(&server));
    context.execute(TABLE).await?;
    let (mut capture, mut worker) = indexed_by_one(&context, &kafka, &settings).await?;
    lose(&server, &[3, 4]).await?;
    let done = context.walvec(&["backfill", "--table", "public.items", "--where", "id < 10", "--json"]).await?;
    ensure!(done.status.success(), "{}", told(&done));
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    worker.stop().await?;
    capture.stop().await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 1000);
    Ok(())
}

async fn a_group_begins_again_when_nobody_is_in_it(context: TestContext) -> Result<()> {
    if !can_test("walvec reset --offsets") {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    let settings = kafka.carries(items_on(&server));
    context.execute(TABLE).await?;
    let (mut capture, worker) = indexed_by_one(&context, &kafka, &settings).await?;
    let refused = context.walvec(&["reset", "--offsets", "--force"]).await?;
    assert!(told(&refused).contains("stop them first") && told(&refused).ends_with("E_LOCKED\n"), "{}", told(&refused));
    worker.stop().await?;
    lose(&server, &[3, 4]).await?;
    // A member that may come back stays in the group for as long as its session lasts.
    wait::until("nobody is in the group", async || {
        Ok(context.walvec(&["reset", "--offsets", "--force"]).await?.status.success().then_some(()))
    })
    .await?;
    let mut worker = context.start_stage(&settings, "index", "1").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    worker.stop().await?;
    capture.stop().await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 1000);
    Ok(())
}

async fn the_status_of_every_stage_on_the_machine_is_shown(context: TestContext) -> Result<()> {
    if !can_test("walvec status behind a broker") {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    let settings = kafka.carries(items_on(&server));
    context.execute(TABLE).await?;
    let mut capture = captured(&context, &settings).await?;
    let mut worker = context.start_stage(&settings, "index", "a").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    worker
        .wait_for("the points were counted", |status| {
            status.collections.first().is_some_and(|found| found.points == Some(1000))
        })
        .await?;
    let status = answer(&context.walvec(&["status", "--json"]).await?)?;
    assert_eq!(status["capture"]["broker"]["produced"].as_u64(), Some(1001), "{status}");
    assert_eq!(status["index-a"]["collections"][0]["points"], 1000, "{status}");
    let text = String::from_utf8(context.walvec(&["status"]).await?.stdout)?;
    assert!(text.contains("index-a: Running") && text.contains("0 records wait"), "{text}");
    let hits = answer(&context.walvec(&["search", "name 7", "--json"]).await?)?;
    assert_eq!(hits["hits"].as_array().map(Vec::len), Some(5));
    worker.stop().await?;
    capture.stop().await?;
    Ok(())
}

async fn another_payload_behind_a_broker_is_asked_for_and_shown_by_every_point(context: TestContext) -> Result<()> {
    if !can_test("another payload behind a broker") {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    context.execute("CREATE TABLE items (id int PRIMARY KEY, name text, n int DEFAULT 5)").await?;
    context.execute("INSERT INTO items SELECT g, 'name ' || g FROM generate_series(1, 200) g").await?;
    let with = |payload: Value| {
        let items = Collection::new("items", "public.items", "{{ name }}").with("payload", payload);
        kafka.carries(Settings::new([items]).with("sink", json!({ "qdrant": { "url": server.url() } })))
    };
    let (before, after) = (with(json!(["id"])), with(json!(["id", "n"])));
    let (capture, worker) = indexed_by_one(&context, &kafka, &before).await?;
    worker.stop().await?;
    capture.stop().await?;
    let mut capture = captured(&context, &after).await?;
    let refused = context.walvec(&["run", "--stage", "index", "--instance", "1"]).await?;
    let told = String::from_utf8(refused.stderr)?;
    ensure!(refused.status.code() == Some(3) && told.ends_with("E_COLLECTION\n"), "{told}");
    wait::until("nobody is in the group any more", async || {
        Ok(context.walvec(&["reset", "--offsets", "--force"]).await?.status.success().then_some(()))
    })
    .await?;
    let mut worker = context.start_stage(&after, "index", "1").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    assert_eq!(worker.status().await?.collections[0].embeddings_computed, 0);
    worker.stop().await?;
    capture.stop().await?;
    let expected = Expected { payload: Some(&["id", "n"]), ..image_of_items() };
    assert_eq!(image::compare_on_server(&context, &expected, &server.url()).await?, 200);
    Ok(())
}
