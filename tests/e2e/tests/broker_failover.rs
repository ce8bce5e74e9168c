//! A primary that dies while a broker lies between capture and the workers, and its standby.

use anyhow::{Result, ensure};
use serde_json::json;
use walvec_e2e::{Kafka, Test, TestContext, image, test};
use walvec_pipeline::observe::status::Phase;
use walvec_test_kafka::can_test;
use walvec_test_qdrant::TestServer;

use crate::broker::captured;
use crate::failover::{ALL, ROWS, cut_off, has_slot, image_of_items, items, load, promote, standby_of};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_promoted_standby_is_followed_behind_a_broker_and_nothing_is_lost).on_own_server(&[]),
        test!(a_slot_that_survives_a_failover_leaves_no_gap_behind_a_broker)
            .on_own_server(&[("synchronized_standby_slots", "standby")])
            .since(17),
        test!(what_only_the_former_primary_had_leaves_no_trace_behind_a_broker).on_own_server(&[]),
    ]
}

/// Kills the primary under load, promotes the standby, goes on under load, and returns whether the tables were read
/// again.
async fn fail_over(mut context: TestContext, keeps_slots: bool) -> Result<bool> {
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    context.execute("CREATE TABLE items (id int PRIMARY KEY, name text, n int DEFAULT 0)").await?;
    context.execute(&format!("INSERT INTO items SELECT g, 'name ' || g FROM generate_series(1, {ROWS}) g")).await?;
    let standby = standby_of(&mut context, keeps_slots).await?;
    let on_server = items(&context, &standby).with("sink", json!({ "qdrant": { "url": server.url() } }));
    let settings = kafka.carries(on_server);
    let mut capture = captured(&context, &settings).await?;
    let mut one = context.start_stage(&settings, "index", "one").await?;
    let mut two = context.start_stage(&settings, "index", "two").await?;
    if keeps_slots {
        has_slot(&standby, &context).await?;
    }
    let (writer, _) = load(context.connect().await?, ALL);
    let moved = context.wal_position().await?.0 + 200_000;
    capture.wait_for("the load is published", |status| status.applied_lsn.0 > moved).await?;
    context.cluster().kill().await?;
    writer.await?;
    promote(&standby, context.database()).await?;
    context.turn_to(&standby).await?;
    context.execute("INSERT INTO items VALUES (5000, 'after the promotion')").await?;
    capture.caught_up(&context).await?;
    let (writer, stop) = load(standby.connect(context.database()).await?, ALL);
    let moved = context.wal_position().await?.0 + 100_000;
    capture
        .wait_for("it flows again", |status| status.phase == Phase::Streaming && status.applied_lsn.0 > moved)
        .await?;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.await?;
    kafka.indexed(&context, &mut capture, &mut [&mut one, &mut two]).await?;
    let had_gap = capture.status().await?.resync.is_some();
    let verified = context.walvec(&["verify"]).await?;
    ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    image::compare_on_server(&context, &image_of_items(), &server.url()).await?;
    for stage in [capture, one, two] {
        stage.stop().await?;
    }
    standby.close().await?;
    Ok(had_gap)
}

async fn a_promoted_standby_is_followed_behind_a_broker_and_nothing_is_lost(context: TestContext) -> Result<()> {
    if !can_test("a promotion behind a broker") {
        return Ok(());
    }
    ensure!(fail_over(context, false).await?, "its slot was on the primary");
    Ok(())
}

async fn a_slot_that_survives_a_failover_leaves_no_gap_behind_a_broker(context: TestContext) -> Result<()> {
    if !can_test("a promotion that the slot survives behind a broker") {
        return Ok(());
    }
    ensure!(!fail_over(context, true).await?, "the slot was on the standby");
    Ok(())
}

/// The topics have changes that the standby never had, and the workers have written them.
async fn what_only_the_former_primary_had_leaves_no_trace_behind_a_broker(mut context: TestContext) -> Result<()> {
    if !can_test("a promotion that loses changes behind a broker") {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    context.execute("CREATE TABLE items (id int PRIMARY KEY, name text, n int DEFAULT 0)").await?;
    context.execute("INSERT INTO items SELECT g, 'name ' || g FROM generate_series(1, 20) g").await?;
    let standby = standby_of(&mut context, false).await?;
    let on_server = items(&context, &standby).with("sink", json!({ "qdrant": { "url": server.url() } }));
    let settings = kafka.carries(on_server);
    let mut capture = captured(&context, &settings).await?;
    let mut worker = context.start_stage(&settings, "index", "1").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    cut_off(&standby, context.database()).await?;
    context
        .execute(
            "UPDATE items SET name = 'lost' WHERE id = 1; INSERT INTO items VALUES (900, 'lost');
             DELETE FROM items WHERE id = 2; UPDATE items SET id = 901 WHERE id = 3",
        )
        .await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    context.cluster().kill().await?;
    promote(&standby, context.database()).await?;
    context.turn_to(&standby).await?;
    context.execute("INSERT INTO items VALUES (5000, 'after the promotion')").await?;
    capture.wait_for("the gap is closed", |status| status.resync.is_some() && status.phase == Phase::Streaming).await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    let verified = context.walvec(&["verify"]).await?;
    ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 21);
    worker.stop().await?;
    capture.stop().await?;
    Ok(standby.close().await?)
}
