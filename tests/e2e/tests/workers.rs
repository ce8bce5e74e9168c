//! Workers that share partitions: killed, stopped, frozen, added and removed while rows change.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::Signal;
use serde_json::json;
use walvec_e2e::kafka::PARTITIONS;
use walvec_e2e::{Kafka, Settings, Test, TestContext, Walvec, image, repeats, test, wait};
use walvec_test_kafka::can_test;
use walvec_test_qdrant::{Call, TestServer};

use crate::broker::{both_work, captured, image_of_items, items_on, partitions};
use crate::faults::{TABLE, new_seed, stop_writing, writer};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(kills_of_capture_and_of_workers_at_random_moments_lose_nothing).once(),
        test!(the_partitions_of_a_killed_worker_go_to_the_others_in_the_protocol_consumer).once(),
        test!(the_partitions_of_a_killed_worker_go_to_the_others_in_the_protocol_classic).once(),
        test!(a_worker_that_froze_in_the_middle_of_a_batch_drops_it_in_the_protocol_consumer).once(),
        test!(a_worker_that_froze_in_the_middle_of_a_batch_drops_it_in_the_protocol_classic).once(),
        test!(workers_come_and_go_while_rows_change).once(),
        test!(workers_that_begin_at_the_same_time_fill_one_collection).once(),
    ]
}

fn in_protocol(settings: Settings, protocol: &str) -> Settings {
    settings.with("broker", json!({ "kafka": { "group_protocol": protocol } }))
}

/// Waits until a worker has all partitions.
async fn works_alone(worker: &mut Walvec) -> Result<()> {
    worker.wait_for("the worker has all partitions", |status| partitions(status) == PARTITIONS).await?;
    Ok(())
}

async fn kills_of_capture_and_of_workers_at_random_moments_lose_nothing(context: TestContext) -> Result<()> {
    if !can_test("kills of stages") {
        return Ok(());
    }
    let seed = new_seed();
    let mut random = StdRng::seed_from_u64(seed);
    let kafka = Kafka::shared(&context).await?;
    let server = TestServer::start()?;
    let settings = kafka.carries(items_on(&server)).with("pipeline", json!({ "batch_rows": 64 }));
    context.execute(TABLE).await?;
    context
        .execute("INSERT INTO items SELECT g, 'name ' || g, repeat('x', 3000) FROM generate_series(1, 300) g")
        .await?;
    let mut capture = context.start_stage(&settings, "capture", "1").await?;
    capture
        .wait_for("the topics exist", |status| status.phase != walvec_pipeline::observe::status::Phase::Starting)
        .await?;
    let mut one = context.start_stage(&settings, "index", "one").await?;
    let mut two = context.start_stage(&settings, "index", "two").await?;
    for round in 0..repeats(90) {
        let writing = writer(context.connect().await?, seed.wrapping_add(round), 150);
        // The moment is random on purpose: the kill has to meet every step.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..600))).await;
        let (killed, stage, instance) = match round % 3 {
            0 => (&mut capture, "capture", "1"),
            1 => (&mut one, "index", "one"),
            _ => (&mut two, "index", "two"),
        };
        killed.is_alive()?;
        killed.signal(Signal::KILL)?;
        let again = start_again(&context, &settings, stage, instance).await?;
        std::mem::replace(killed, again).end().await?;
        stop_writing(writing).await?;
    }
    kafka.indexed(&context, &mut capture, &mut [&mut one, &mut two]).await?;
    let compared = image::compare_on_server(&context, &image_of_items(), &server.url()).await;
    compared.map_err(|error| error.context(format!("seed {seed}")))?;
    for stage in [capture, one, two] {
        stage.stop().await?;
    }
    Ok(())
}

/// Starts a stage whose process has just been killed. The kernel may still hold its lock for a moment.
pub(crate) async fn start_again(
    context: &TestContext,
    settings: &Settings,
    stage: &str,
    instance: &str,
) -> Result<Walvec> {
    wait::until("the killed process had let go", async || match context.start_stage(settings, stage, instance).await {
        Ok(walvec) => Ok(Some(walvec)),
        Err(error) if format!("{error:#}").contains("E_LOCKED") => Ok(None),
        Err(error) => Err(error),
    })
    .await
}

async fn the_partitions_of_a_killed_worker_go_to_the_others_in_the_protocol_consumer(
    context: TestContext,
) -> Result<()> {
    others_take_over(&context, "consumer").await
}

async fn the_partitions_of_a_killed_worker_go_to_the_others_in_the_protocol_classic(
    context: TestContext,
) -> Result<()> {
    others_take_over(&context, "classic").await
}

async fn others_take_over(context: &TestContext, protocol: &str) -> Result<()> {
    if !can_test("a killed worker") {
        return Ok(());
    }
    let kafka = Kafka::shared(context).await?;
    let server = TestServer::start()?;
    let settings = in_protocol(kafka.carries(items_on(&server)), protocol);
    context.execute(crate::broker::TABLE).await?;
    let mut capture = captured(context, &settings).await?;
    let mut one = context.start_stage(&settings, "index", "one").await?;
    let mut two = context.start_stage(&settings, "index", "two").await?;
    both_work(&mut one, &mut two).await?;
    // The worker is stopped in the middle of its work.
    context.execute("UPDATE items SET name = 'changed ' || id").await?;
    one.kill().await?;
    kafka.indexed(context, &mut capture, &mut [&mut two]).await?;
    works_alone(&mut two).await?;
    assert_eq!(image::compare_on_server(context, &image_of_items(), &server.url()).await?, 1000);
    // The worker is started again and gets its share again.
    let mut one = context.start_stage(&settings, "index", "one").await?;
    both_work(&mut one, &mut two).await?;
    context.execute("UPDATE items SET name = 'once more ' || id; DELETE FROM items WHERE id > 500").await?;
    // A worker that stops in order writes and commits first, so the other does not wait for a session to end.
    two.stop().await?;
    kafka.indexed(context, &mut capture, &mut [&mut one]).await?;
    assert_eq!(image::compare_on_server(context, &image_of_items(), &server.url()).await?, 500);
    one.stop().await?;
    capture.stop().await
}

async fn a_worker_that_froze_in_the_middle_of_a_batch_drops_it_in_the_protocol_consumer(
    context: TestContext,
) -> Result<()> {
    frozen_worker(&context, "consumer").await
}

async fn a_worker_that_froze_in_the_middle_of_a_batch_drops_it_in_the_protocol_classic(
    context: TestContext,
) -> Result<()> {
    frozen_worker(&context, "classic").await
}

async fn frozen_worker(context: &TestContext, protocol: &str) -> Result<()> {
    if !can_test("a frozen worker") {
        return Ok(());
    }
    let kafka = Kafka::shared(context).await?;
    let server = TestServer::start()?;
    let settings = in_protocol(kafka.carries(items_on(&server)), protocol);
    let settings = settings.with("embedding", json!({ "model": "hash/64/wait/1000" }));
    context.execute(TABLE).await?;
    context.execute("INSERT INTO items SELECT g, 'name ' || g, 'x' FROM generate_series(1, 60) g").await?;
    let mut capture = captured(context, &settings).await?;
    let mut one = context.start_stage(&settings, "index", "one").await?;
    kafka.indexed(context, &mut capture, &mut [&mut one]).await?;
    works_alone(&mut one).await?;

    freeze_in_a_batch(context, &server, &one).await?;
    let mut two = context.start_stage(&settings, "index", "two").await?;
    context.execute("UPDATE items SET name = 'new ' || id; DELETE FROM items WHERE id = 100").await?;
    kafka.indexed(context, &mut capture, &mut [&mut two]).await?;
    assert_eq!(image::compare_on_server(context, &image_of_items(), &server.url()).await?, 60);

    one.signal(Signal::CONT)?;
    both_work(&mut one, &mut two).await?;
    assert_eq!(
        image::compare_on_server(context, &image_of_items(), &server.url()).await?,
        60,
        "its late batch was written"
    );
    wait::until("the worker said that it had lost its partitions", async || {
        Ok(fs::read_to_string(one.log())?.contains("E_FENCED").then_some(()))
    })
    .await?;
    context.execute("UPDATE items SET name = 'newest ' || id WHERE id % 2 = 0").await?;
    kafka.indexed(context, &mut capture, &mut [&mut one, &mut two]).await?;
    assert_eq!(image::compare_on_server(context, &image_of_items(), &server.url()).await?, 60);
    for stage in [capture, one, two] {
        stage.stop().await?;
    }
    Ok(())
}

/// Freezes a worker that has read what the server holds, and is embedding. On a busy machine it may have written before it
/// freezes; then the test tries again.
async fn freeze_in_a_batch(context: &TestContext, server: &TestServer, worker: &Walvec) -> Result<()> {
    context.execute("INSERT INTO items VALUES (100, 'soon gone', 'x')").await?;
    wait::until("the worker was in the middle of a batch", async || {
        let before = server.calls();
        context.execute("UPDATE items SET name = 'old ' || name").await?;
        wait::until("the worker had begun a batch", async || {
            Ok((server.calls().of(Call::Get) > before.of(Call::Get)).then_some(()))
        })
        .await?;
        worker.signal(Signal::STOP)?;
        if server.calls().writes() == before.writes() {
            return Ok(Some(()));
        }
        worker.signal(Signal::CONT)?;
        Ok(None)
    })
    .await
}

async fn workers_come_and_go_while_rows_change(context: TestContext) -> Result<()> {
    if !can_test("workers that come and go") {
        return Ok(());
    }
    let seed = new_seed();
    let kafka = Kafka::shared(&context).await?;
    let server = TestServer::start()?;
    let settings = kafka.carries(items_on(&server)).with("pipeline", json!({ "batch_rows": 16 }));
    context.execute(TABLE).await?;
    context.execute("INSERT INTO items SELECT g, 'name ' || g, 'x' FROM generate_series(1, 300) g").await?;
    let mut capture = captured(&context, &settings).await?;
    let writing = writer(context.connect().await?, seed, 600);
    let mut first = context.start_stage(&settings, "index", "0").await?;
    for round in 1..3 {
        let mut next = context.start_stage(&settings, "index", &round.to_string()).await?;
        both_work(&mut first, &mut next).await?;
        std::mem::replace(&mut first, next).stop().await?;
    }
    stop_writing(writing).await?;
    kafka.indexed(&context, &mut capture, &mut [&mut first]).await?;
    let compared = image::compare_on_server(&context, &image_of_items(), &server.url()).await;
    compared.map_err(|error| error.context(format!("seed {seed}")))?;
    first.stop().await?;
    capture.stop().await
}

async fn workers_that_begin_at_the_same_time_fill_one_collection(context: TestContext) -> Result<()> {
    if !can_test("workers that begin together") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    context.execute(crate::broker::TABLE).await?;
    let server = TestServer::start()?;
    let settings = kafka.carries(items_on(&server));
    let mut capture = captured(&context, &settings).await?;
    let start = |instance| context.start_stage(&settings, "index", instance);
    let (one, two, three) = futures::try_join!(start("one"), start("two"), start("three"))?;
    let mut workers = [one, two, three];
    let [one, two, three] = &mut workers;
    kafka.indexed(&context, &mut capture, &mut [one, two, three]).await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 1000);
    for worker in workers {
        worker.stop().await?;
    }
    capture.stop().await
}
