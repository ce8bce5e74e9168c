//! Topics and collections that lose something, and brokers that go away: walvec notices a loss and waits for a broker.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio_postgres::SimpleQueryMessage;
use walvec_e2e::{Kafka, Test, TestContext, image, records, test};
use walvec_model::Lsn;
use walvec_pipeline::observe::status::Phase;
use walvec_test_kafka::can_test;
use walvec_test_qdrant::TestServer;

use crate::broker::{TABLE, both_work, captured, image_of_items, indexed_by_one, items_on};
use crate::faults::{new_seed, stop_writing, writer};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_broker_that_is_killed_under_load_is_waited_for_and_nothing_is_lost).once(),
        test!(nothing_is_confirmed_that_the_broker_does_not_have).once(),
        test!(a_stop_is_obeyed_while_the_broker_is_away_and_the_queue_is_full).once(),
        test!(a_second_snapshot_sweeps_what_was_deleted_unseen_and_embeds_nothing_again).once(),
        test!(records_that_were_removed_before_a_worker_read_them_stop_it).once(),
        test!(a_topic_that_was_deleted_is_made_anew_and_written_again).once(),
        test!(collections_that_were_removed_stop_the_workers).once(),
        test!(records_that_are_too_large_are_parked_and_later_versions_take_them_back).once(),
        test!(compacted_topics_fill_a_collection_from_the_beginning).once(),
        test!(a_topic_that_gets_more_partitions_is_written_again_in_their_order).once(),
    ]
}

const CONFIRMED: &str = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1";

async fn confirmed(context: &TestContext) -> Result<Lsn> {
    let slot: String = context.sql.query_one(CONFIRMED, &[&context.slot()]).await?.get(0);
    Ok(slot.parse()?)
}

/// Changes rows, and returns the WAL position right before the commit: up to there, what other tests write in other databases
/// may be confirmed.
async fn changed(context: &TestContext, change: &str) -> Result<Lsn> {
    let statements = format!("BEGIN; {change}; SELECT pg_current_wal_insert_lsn()::text; COMMIT");
    let messages = context.sql.simple_query(&statements).await?;
    let position = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(position.context("no position")?.parse()?)
}

async fn a_broker_that_is_killed_under_load_is_waited_for_and_nothing_is_lost(context: TestContext) -> Result<()> {
    if !can_test("a broker that goes away") {
        return Ok(());
    }
    let seed = new_seed();
    let kafka = Kafka::own(&context, Kafka::options()).await?;
    let server = TestServer::start()?;
    let settings = kafka.carries(items_on(&server)).with("pipeline", json!({ "batch_rows": 16 }));
    context.execute(TABLE).await?;
    let mut capture = captured(&context, &settings).await?;
    let mut one = context.start_stage(&settings, "index", "one").await?;
    let mut two = context.start_stage(&settings, "index", "two").await?;
    both_work(&mut one, &mut two).await?;
    let writing = writer(context.connect().await?, seed, 300);
    kafka.broker().kill().await?;
    stop_writing(writing).await?;
    context.execute("UPDATE items SET name = 'while it was down' WHERE id % 7 = 0").await?;
    let position = context.wal_position().await?;
    for stage in [&mut capture, &mut one, &mut two] {
        let status = stage.wait_for("the broker's absence is reported", |status| status.problem.is_some()).await?;
        let problem = status.problem.expect("waited for");
        assert_eq!(problem.part, "broker");
        assert!(problem.remedy.is_some(), "{problem:?}");
    }
    assert!(confirmed(&context).await? < position, "what no broker has was confirmed");
    kafka.broker().start_again().await?;
    kafka.indexed(&context, &mut capture, &mut [&mut one, &mut two]).await?;
    let compared = image::compare_on_server(&context, &image_of_items(), &server.url()).await;
    compared.map_err(|error| error.context(format!("seed {seed}")))?;
    for stage in [&mut capture, &mut one, &mut two] {
        stage.wait_for("the problem is over", |status| status.problem.is_none()).await?;
    }
    for stage in [capture, one, two] {
        stage.stop().await?;
    }
    Ok(())
}

async fn nothing_is_confirmed_that_the_broker_does_not_have(context: TestContext) -> Result<()> {
    if !can_test("a broker that is frozen") {
        return Ok(());
    }
    let kafka = Kafka::own(&context, Kafka::options()).await?;
    let server = TestServer::start()?;
    let settings = kafka.carries(items_on(&server));
    context.execute(TABLE).await?;
    let mut capture = captured(&context, &settings).await?;
    for round in 0..3 {
        kafka.broker().pause()?;
        let before = changed(&context, &format!("UPDATE items SET n = {round} + 1 WHERE id <= 100")).await?;
        let position = context.wal_position().await?;
        // Capture has read the changes, so only the broker holds them up.
        let sent = "SELECT sent_lsn::text FROM pg_stat_replication JOIN pg_replication_slots ON pid = active_pid
                    WHERE slot_name = $1";
        walvec_e2e::wait::until("the changes were sent to walvec", async || {
            let sent: String = context.sql.query_one(sent, &[&context.slot()]).await?.get(0);
            Ok((sent.parse::<Lsn>()? >= position).then_some(()))
        })
        .await?;
        let status = capture.status().await?;
        assert!(status.applied_lsn <= before, "{} is taken for written", status.applied_lsn);
        assert!(confirmed(&context).await? <= before, "what no broker has was confirmed");
        if round == 1 {
            // When capture is asked to stop it gives up waiting, and loses nothing.
            capture.stop().await?;
            assert!(confirmed(&context).await? <= before, "what no broker has was confirmed");
            kafka.broker().resume()?;
            capture = context.start_stage(&settings, "capture", "1").await?;
        } else {
            kafka.broker().resume()?;
        }
        capture.caught_up(&context).await?;
    }
    let mut worker = context.start_stage(&settings, "index", "1").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 1000);
    worker.stop().await?;
    capture.stop().await
}

async fn a_stop_is_obeyed_while_the_broker_is_away_and_the_queue_is_full(context: TestContext) -> Result<()> {
    if !can_test("a broker that is frozen") {
        return Ok(());
    }
    let kafka = Kafka::own(&context, Kafka::options()).await?;
    let server = TestServer::start()?;
    let settings = kafka.carries(items_on(&server));
    context.execute(TABLE).await?;
    let capture = captured(&context, &settings).await?;
    kafka.broker().pause()?;
    // These records are more than the queue holds.
    context.execute("UPDATE items SET body = repeat(md5(id::text), 15000) WHERE id <= 250").await?;
    let stuck =
        "SELECT wait_event = 'WalSenderWriteData' FROM pg_stat_activity JOIN pg_replication_slots ON pid = active_pid
                 WHERE slot_name = $1";
    let mut since = None;
    walvec_e2e::wait::until("walvec takes no more for two seconds", async || {
        let is_stuck = context.sql.query_one(stuck, &[&context.slot()]).await?.get::<_, Option<bool>>(0);
        since = since.or(Some(Instant::now())).filter(|_| is_stuck == Some(true));
        Ok(since.filter(|since| since.elapsed() > Duration::from_secs(2)).map(drop))
    })
    .await?;
    capture.stop().await?;
    kafka.broker().resume()?;
    let mut capture = context.start_stage(&settings, "capture", "1").await?;
    capture.caught_up(&context).await?;
    let mut worker = context.start_stage(&settings, "index", "1").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    image::compare_on_server(&context, &image_of_items(), &server.url()).await?;
    capture.stop().await?;
    worker.stop().await
}

async fn a_second_snapshot_sweeps_what_was_deleted_unseen_and_embeds_nothing_again(context: TestContext) -> Result<()> {
    if !can_test("a second snapshot") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let server = TestServer::start()?;
    let settings = kafka.carries(items_on(&server));
    context.execute(TABLE).await?;
    let mut capture = captured(&context, &settings).await?;
    let mut one = context.start_stage(&settings, "index", "one").await?;
    let mut two = context.start_stage(&settings, "index", "two").await?;
    both_work(&mut one, &mut two).await?;
    kafka.indexed(&context, &mut capture, &mut [&mut one, &mut two]).await?;
    let computed =
        one.status().await?.collections[0].embeddings_computed + two.status().await?.collections[0].embeddings_computed;
    assert_eq!(computed, 1000);

    capture.stop().await?;
    context.execute("SELECT pg_drop_replication_slot(current_database())").await?;
    std::fs::remove_dir_all(context.stage_directory(&settings, "capture", "1"))?;
    context
        .execute(
            "DELETE FROM items WHERE id % 3 = 0; UPDATE items SET n = 7 WHERE id % 3 = 1;
             INSERT INTO items VALUES (5000, 'unseen', 'b')",
        )
        .await?;
    let mut capture = captured(&context, &settings).await?;
    context.execute("UPDATE items SET n = 8 WHERE id < 10").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut one, &mut two]).await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 668);
    let computed =
        one.status().await?.collections[0].embeddings_computed + two.status().await?.collections[0].embeddings_computed;
    assert_eq!(computed, 1001, "texts that have not changed were embedded again");
    for stage in [capture, one, two] {
        stage.stop().await?;
    }
    Ok(())
}

async fn records_that_were_removed_before_a_worker_read_them_stop_it(context: TestContext) -> Result<()> {
    if !can_test("records that are gone") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let server = TestServer::start()?;
    let settings = kafka.carries(items_on(&server));
    context.execute(TABLE).await?;
    let (mut capture, worker) = indexed_by_one(&context, &kafka, &settings).await?;
    worker.stop().await?;

    context.execute("DELETE FROM items WHERE id % 2 = 0; UPDATE items SET name = 'gone' WHERE id % 5 = 0").await?;
    capture.caught_up(&context).await?;
    remove_records(&context, &kafka).await?;
    context.execute("UPDATE items SET name = 'later' WHERE id % 7 = 0").await?;
    capture.caught_up(&context).await?;
    for _ in 0..2 {
        // A second attempt fails in the same way.
        let worker = context.start_stage(&settings, "index", "1").await?;
        let words = worker.fails_with(3).await?;
        assert!(words.contains("E_GAP"), "{words}");
        assert!(words.contains("walvec reset"), "{words}");
    }
    // A group that has never read needs all records as well.
    let others = settings.clone().with("broker", json!({ "kafka": { "group": format!("{}-other", context.slot()) } }));
    let words = context.start_stage(&others, "index", "1").await?.fails_with(3).await?;
    assert!(words.contains("E_GAP"), "{words}");
    capture.stop().await
}

/// Removes every record of the topic of items, as its retention would.
async fn remove_records(context: &TestContext, kafka: &Kafka) -> Result<()> {
    let partitions: Vec<_> = kafka
        .offsets("index")
        .await?
        .into_iter()
        .map(|found| json!({ "topic": found.topic, "partition": found.partition, "offset": found.end }))
        .collect();
    let file = context.directory().join("offsets.json");
    std::fs::write(&file, json!({ "partitions": partitions, "version": 1 }).to_string())?;
    let file = file.to_string_lossy();
    kafka.broker().tool("org.apache.kafka.tools.DeleteRecordsCommand", &["--offset-json-file", &file]).await.map(drop)
}

/// The Java class of Kafka's own command for topics.
const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";

async fn a_topic_that_was_deleted_is_made_anew_and_written_again(context: TestContext) -> Result<()> {
    if !can_test("a topic that was deleted") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let server = TestServer::start()?;
    let settings = kafka.carries(items_on(&server));
    context.execute(TABLE).await?;
    let (mut capture, worker) = indexed_by_one(&context, &kafka, &settings).await?;
    worker.stop().await?;
    // While capture runs, then while it is stopped.
    for (is_stopped, changes, rows) in [
        (false, "DELETE FROM items WHERE id > 900; UPDATE items SET name = 'other' WHERE id < 10", 900),
        (true, "DELETE FROM items WHERE id > 800; UPDATE items SET name = 'another' WHERE id < 10", 800),
    ] {
        let topic = kafka.topic("items");
        let delete = ["--delete", "--topic", topic.as_str()];
        if is_stopped {
            capture.stop().await?;
            kafka.broker().tool(TOPICS, &delete).await?;
            context.execute(changes).await?;
            capture = context.start_stage(&settings, "capture", "1").await?;
        } else {
            kafka.broker().tool(TOPICS, &delete).await?;
            context.execute(changes).await?;
        }
        capture.caught_up(&context).await?;
        let mut worker = context.start_stage(&settings, "index", "1").await?;
        kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
        worker.stop().await?;
        assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, rows);
    }
    capture.stop().await
}

async fn collections_that_were_removed_stop_the_workers(context: TestContext) -> Result<()> {
    if !can_test("collections that are gone") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let server = TestServer::start()?;
    let settings = kafka.carries(items_on(&server));
    context.execute(TABLE).await?;
    let mut capture = captured(&context, &settings).await?;
    let mut one = context.start_stage(&settings, "index", "one").await?;
    let mut two = context.start_stage(&settings, "index", "two").await?;
    both_work(&mut one, &mut two).await?;
    kafka.indexed(&context, &mut capture, &mut [&mut one, &mut two]).await?;
    // The worker notices it although no row changes.
    server.restart_empty().await?;
    for worker in [one, two] {
        let words = worker.fails_with(3).await?;
        assert!(words.contains("E_COLLECTION"), "{words}");
        assert!(words.contains("walvec reset"), "{words}");
    }
    // A worker that is started again stops for the same reason.
    let words = context.start_stage(&settings, "index", "one").await?.fails_with(3).await?;
    assert!(words.contains("E_COLLECTION"), "{words}");
    // The collection is also lost while no worker runs.
    server.restart_empty().await?;
    let words = context.start_stage(&settings, "index", "two").await?.fails_with(3).await?;
    assert!(words.contains("E_COLLECTION"), "{words}");
    capture.stop().await
}

async fn records_that_are_too_large_are_parked_and_later_versions_take_them_back(context: TestContext) -> Result<()> {
    if !can_test("records that are too large") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let server = TestServer::start()?;
    let settings = kafka.carries(items_on(&server));
    context.execute(TABLE).await?;
    let (mut capture, mut worker) = indexed_by_one(&context, &kafka, &settings).await?;

    let large = "SET body = (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 40000) g)";
    context
        .execute(&format!("UPDATE items {large} WHERE id <= 4; UPDATE items SET name = 'beside it' WHERE id = 5"))
        .await?;
    // These updates are small, but leave out the large value, which no topic and no point has.
    context.execute("UPDATE items SET n = 7 WHERE id = 1").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    assert_eq!(parked(&context).await?, 4);
    let difference = image::compare_on_server(&context, &image_of_items(), &server.url()).await;
    let difference = difference.expect_err("four rows are behind").to_string();
    assert!(difference.contains("4 stale") && !difference.contains("missing"), "{difference}");
    // The difference has the new value once, as expected and not as stored: the point never mixes two versions of the
    // row.
    assert_eq!(difference.matches("Number(7)").count(), 1, "{difference}");

    // The same holds for a capture that is started again and has to read which rows are parked.
    capture.stop().await?;
    capture = context.start_stage(&settings, "capture", "1").await?;
    context
        .execute(
            "UPDATE items SET n = 8 WHERE id = 1; UPDATE items SET body = 'short' WHERE id <= 2;
             DELETE FROM items WHERE id = 3; UPDATE items SET id = 9000, body = 'short' WHERE id = 4",
        )
        .await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 999);
    assert_eq!(parked(&context).await?, 0);
    worker.stop().await?;
    capture.stop().await
}

/// Returns the number of dead letters.
async fn parked(context: &TestContext) -> Result<usize> {
    let output = context.walvec(&["dead-letters", "list", "--json"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.matches("E_RECORD_SIZE").count())
}

async fn compacted_topics_fill_a_collection_from_the_beginning(context: TestContext) -> Result<()> {
    if !can_test("compacted topics") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let server = TestServer::start()?;
    let compact = json!({ "kafka": { "compact": true } });
    let settings = kafka.carries(items_on(&server)).with("broker", compact);
    context.execute(TABLE).await?;
    let mut capture = captured(&context, &settings).await?;
    context
        .execute(
            "BEGIN; TRUNCATE items; INSERT INTO items SELECT g, 'after ' || g, repeat('y', 3000) FROM generate_series(1, 200) g;
             COMMIT;
             UPDATE items SET n = 5 WHERE id <= 100; UPDATE items SET id = id + 1000 WHERE id > 150; DELETE FROM items WHERE id < 10",
        )
        .await?;
    capture.caught_up(&context).await?;
    // A worker that starts late, and the path through the topic of vectors, end in the same image.
    let mut worker = context.start_stage(&settings, "index", "1").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    worker.stop().await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 191);

    let other = TestServer::start()?;
    let settings = settings.with("sink", json!({ "qdrant": { "url": other.url() } }));
    let mut embed = context.start_stage(&settings, "embed", "1").await?;
    kafka.read("embed", &mut [&mut embed]).await?;
    let mut sink = context.start_stage(&settings, "sink", "1").await?;
    kafka.read("sink", &mut [&mut sink]).await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &other.url()).await?, 191);
    for stage in [capture, embed, sink] {
        stage.stop().await?;
    }
    Ok(())
}

/// When a topic gets more partitions, the records of a row may be in two partitions, and the later record may be read
/// first.
async fn a_topic_that_gets_more_partitions_is_written_again_in_their_order(context: TestContext) -> Result<()> {
    if !can_test("more partitions") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let server = TestServer::start()?;
    let settings = kafka.carries(items_on(&server));
    context.execute(TABLE).await?;
    let (mut capture, worker) = indexed_by_one(&context, &kafka, &settings).await?;
    worker.stop().await?;
    context.execute("UPDATE items SET name = 'in the former order' WHERE id <= 500").await?;
    let before = capture.caught_up(&context).await?.generation;
    records::add_partitions(kafka.broker(), &kafka.topic("items"), 7).await?;
    capture
        .wait_for("all rows are written again", |status| status.generation > before && status.phase == Phase::Streaming)
        .await?;
    context
        .execute("DELETE FROM items WHERE id <= 400; UPDATE items SET name = 'in the new order' WHERE id <= 450")
        .await?;
    let mut worker = context.start_stage(&settings, "index", "1").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 600);
    capture.stop().await?;
    worker.stop().await
}
