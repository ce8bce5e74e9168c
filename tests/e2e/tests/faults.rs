//! Kills, crashes and cut connections lose nothing, and show nothing that was not committed.

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, image, repeats, test, wait};
use walvec_pipeline::observe::status::Phase;
use walvec_test_qdrant::TestServer;
use walvec_throwaway::Volume;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(kills_at_random_moments_lose_nothing),
        test!(a_crash_at_any_step_that_makes_something_durable_loses_nothing),
        test!(a_crash_at_any_step_that_makes_something_durable_loses_nothing_on_a_server).once(),
        test!(a_replay_that_is_cut_short_is_repeated),
        test!(rows_that_change_during_the_snapshot_end_as_they_are),
        test!(a_snapshot_that_was_killed_starts_again_and_sweeps_what_is_gone),
        test!(a_snapshot_that_is_killed_at_its_beginning_middle_or_end_is_taken_whole).once(),
        test!(a_large_transaction_that_is_cut_halfway_arrives_whole)
            .on_own_server(&[("logical_decoding_work_mem", "64kB")]),
        test!(a_connection_that_is_cut_again_and_again_loses_nothing),
        test!(nothing_is_confirmed_that_is_not_durable),
        test!(a_full_disk_holds_everything_up_and_loses_nothing).on_a_volume(),
    ]
}

pub(crate) const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, name text, body text, n int DEFAULT 0);
    ALTER TABLE items ALTER COLUMN body SET STORAGE EXTERNAL";

fn items() -> Settings {
    Settings::new([Collection::new("items", "public.items", "{{ name }}")])
        .with("pipeline", serde_json::json!({ "batch_rows": 16 }))
}

fn image_of_items() -> Expected {
    Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned())
}

/// Returns a random statement on `items`: any operation, or a transaction that is rolled back.
fn statement(random: &mut StdRng) -> String {
    let id = random.random_range(1..400);
    let other = random.random_range(1..400);
    let number = random.random_range(0..1_000_000);
    match random.random_range(0..20) {
        0..6 => format!(
            "INSERT INTO items VALUES ({id}, 'name {number}', repeat('{number} ', 1000)) \
             ON CONFLICT (id) DO UPDATE SET name = excluded.name"
        ),
        6..10 => format!("UPDATE items SET n = {number} WHERE id = {id}"),
        10..12 => format!("UPDATE items SET name = 'name {number}' WHERE id BETWEEN {id} AND {id} + 10"),
        12..14 => format!("UPDATE items SET id = id + 1000 WHERE id = {id}; DELETE FROM items WHERE id > 1000"),
        14..16 => format!("DELETE FROM items WHERE id = {id}"),
        16 => format!(
            "BEGIN; DELETE FROM items WHERE id = 0; UPDATE items SET id = 0 WHERE id = {id};
             UPDATE items SET id = {id} WHERE id = {other} AND {id} <> {other};
             UPDATE items SET id = {other} WHERE id = 0 AND NOT EXISTS (SELECT FROM items WHERE id = {other}); COMMIT"
        ),
        17 => format!("BEGIN; UPDATE items SET name = 'never' WHERE id <= {id}; ROLLBACK"),
        18 => format!(
            "BEGIN; SAVEPOINT s; DELETE FROM items; ROLLBACK TO s; UPDATE items SET n = n + 1 WHERE id < {id}; COMMIT"
        ),
        _ => "BEGIN; TRUNCATE items; INSERT INTO items SELECT g, 'fresh ' || g, repeat('x', 3000) \
              FROM generate_series(1, 100) g; COMMIT"
            .to_owned(),
    }
}

/// A session that runs random statements.
pub(crate) struct Writer {
    task: JoinHandle<Result<()>>,
    stop: Arc<AtomicBool>,
}

/// Starts a session that runs `statements` random statements, or fewer if it is stopped. The number is bounded so that
/// walvec can catch up on a slow machine.
pub(crate) fn writer(client: Client, seed: u64, statements: usize) -> Writer {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let task = tokio::spawn(async move {
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..statements {
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            client.batch_execute(&statement(&mut random)).await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    });
    Writer { task, stop }
}

/// Ends a writer after its present statement. In the middle of a statement, the server would go on with it and commit
/// later. A statement that failed is an error of the test.
pub(crate) async fn stop_writing(writer: Writer) -> Result<()> {
    writer.stop.store(true, Ordering::Relaxed);
    writer.task.await?
}

#[allow(clippy::print_stderr)]
pub(crate) fn new_seed() -> u64 {
    let given = std::env::var("WALVEC_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    eprintln!("seed {seed}; the same again: WALVEC_TEST_SEED={seed}");
    seed
}

async fn three_hundred_items(context: &TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    context.execute("INSERT INTO items SELECT g, 'name ' || g, repeat('x', 3000) FROM generate_series(1, 300) g").await
}

async fn kills_at_random_moments_lose_nothing(context: TestContext) -> Result<()> {
    let seed = new_seed();
    let mut random = StdRng::seed_from_u64(seed);
    three_hundred_items(&context).await?;
    for round in 0..repeats(100) {
        let writing = writer(context.connect().await?, seed.wrapping_add(round), 200);
        let walvec = context.start(&items()).await?;
        // The moment is random on purpose: the kill has to meet every step.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..600))).await;
        walvec.kill().await?;
        stop_writing(writing).await?;
    }
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    image::compare(&context, &image_of_items()).await.map_err(|error| error.context(format!("seed {seed}")))?;
    Ok(())
}

/// Returns whether the program has failpoints, which `what` needs. If not, it prints a notice, and fails where every test has to
/// run.
#[allow(clippy::print_stderr)]
pub(crate) async fn has_failpoints(context: &TestContext, what: &str) -> Result<bool> {
    let version = context.walvec(&["--version"]).await?;
    if String::from_utf8_lossy(&version.stdout).contains("failpoints") {
        return Ok(true);
    }
    let missing = "the program was built without --features walvec/failpoints, which `make test` builds it with";
    assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "{what} cannot be tested: {missing}");
    eprintln!("SKIPPED: {what}: {missing}");
    Ok(false)
}

/// The steps of a snapshot, in their order.
const SNAPSHOT_STEPS: [&str; 5] = ["slot-created", "embedded", "written", "snapshot-copied", "snapshot-swept"];

/// The steps of the stream.
const STREAM_STEPS: [&str; 5] = ["embedded", "written", "checkpoint-due", "checkpoint-stored", "confirmed"];

/// The steps of the engine inside the program.
const ENGINE_STEPS: [&str; 2] = ["change-recorded", "change-made"];

async fn a_crash_at_any_step_that_makes_something_durable_loses_nothing(context: TestContext) -> Result<()> {
    if !has_failpoints(&context, "crashes at steps").await? {
        return Ok(());
    }
    let seed = crashed_everywhere(&context, &items(), &[&STREAM_STEPS[..], &ENGINE_STEPS].concat()).await?;
    image::compare(&context, &image_of_items()).await.map_err(|error| error.context(format!("seed {seed}")))?;
    Ok(())
}

async fn a_crash_at_any_step_that_makes_something_durable_loses_nothing_on_a_server(
    context: TestContext,
) -> Result<()> {
    if !has_failpoints(&context, "crashes at steps").await? {
        return Ok(());
    }
    let server = TestServer::start()?;
    let settings = items().with("sink", serde_json::json!({ "qdrant": { "url": server.url() } }));
    let seed = crashed_everywhere(&context, &settings, &STREAM_STEPS).await?;
    let compared = image::compare_on_server(&context, &image_of_items(), &server.url()).await;
    compared.map_err(|error| error.context(format!("seed {seed}")))?;
    Ok(())
}

/// The pause between two statements: walvec has to catch up in the end with all changes made while it crashes again and
/// again.
const PACE: Duration = Duration::from_millis(5);

/// Crashes walvec at each step, in the snapshot and in the stream, while the table changes. Then lets it catch up, stops it, and
/// returns the seed.
async fn crashed_everywhere(context: &TestContext, settings: &Settings, stream_steps: &[&str]) -> Result<u64> {
    let seed = new_seed();
    let mut random = StdRng::seed_from_u64(seed);
    three_hundred_items(context).await?;
    let mut steps: Vec<(&str, u64)> = SNAPSHOT_STEPS.iter().map(|step| (*step, 0)).collect();
    for _ in 0..repeats(10) {
        steps.extend(stream_steps.iter().map(|step| (*step, random.random_range(0..4))));
    }
    for (step, passed) in steps {
        let failpoint = format!("{step}={passed}*off->return");
        let mut crash = std::pin::pin!(context.crash(settings, &failpoint));
        loop {
            tokio::select! {
                crashed = &mut crash => break crashed?,
                () = tokio::time::sleep(PACE) => context.execute(&statement(&mut random)).await?,
            }
        }
    }
    let mut walvec = context.start(settings).await?;
    walvec.caught_up(context).await?;
    walvec.stop().await?;
    Ok(seed)
}

async fn a_replay_that_is_cut_short_is_repeated(context: TestContext) -> Result<()> {
    let seed = new_seed();
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    for round in 0..repeats(30) {
        // A backlog in which keys are inserted, changed and deleted. Each round gets a new one, because a fast machine may
        // have written all of the last one before the stop.
        writer(context.connect().await?, seed.wrapping_add(round), 400).task.await??;
        let mut walvec = context.start(&items()).await?;
        let begun = |status: &walvec_pipeline::Status| status.collections[0].embeddings_computed > 20;
        walvec.wait_for("a part of the backlog is written", begun).await?;
        walvec.kill().await?;
        // Changes after the last checkpoint are repeated, and the test does not wait for the end of that replay.
        let mut walvec = context.start(&items()).await?;
        walvec.wait_for("the stream is followed", |status| status.phase == Phase::Streaming).await?;
        walvec.stop().await?;
    }
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    image::compare(&context, &image_of_items()).await.map_err(|error| error.context(format!("seed {seed}")))?;
    Ok(())
}

async fn rows_that_change_during_the_snapshot_end_as_they_are(context: TestContext) -> Result<()> {
    let seed = new_seed();
    context.execute(TABLE).await?;
    context.execute("INSERT INTO items SELECT g, 'name ' || g, 'x' FROM generate_series(1, 20000) g").await?;
    let writing = [writer(context.connect().await?, seed, 1000), writer(context.connect().await?, !seed, 1000)];
    let mut walvec = context.start(&items()).await?;
    walvec.wait_for("the stream is followed", |status| status.phase == Phase::Streaming).await?;
    for writer in writing {
        // Two writers may deadlock with each other. PostgreSQL then ends one of them, which does not affect walvec.
        let _ = stop_writing(writer).await;
    }
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    image::compare(&context, &image_of_items()).await.map_err(|error| error.context(format!("seed {seed}")))?;
    Ok(())
}

async fn a_snapshot_that_was_killed_starts_again_and_sweeps_what_is_gone(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    context.execute("INSERT INTO items SELECT g, 'name ' || g, 'x' FROM generate_series(1, 20000) g").await?;
    let mut walvec = context.start(&items()).await?;
    let halfway = |status: &walvec_pipeline::Status| status.collections[0].snapshot_rows_copied > 5_000;
    let seen = walvec.wait_for("a part of the snapshot is copied", halfway).await?;
    assert_eq!(seen.phase, Phase::Snapshot, "the snapshot was over before it could be killed");
    walvec.kill().await?;

    context.execute("DELETE FROM items WHERE id % 3 = 0; UPDATE items SET name = 'other' WHERE id % 3 = 1").await?;
    let mut walvec = context.start(&items()).await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.generation.0, 2);
    assert!(status.collections[0].embeddings_reused > 0, "unchanged texts were embedded again");
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 13_334);
    Ok(())
}

async fn a_snapshot_that_is_killed_at_its_beginning_middle_or_end_is_taken_whole(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    context.execute("INSERT INTO items SELECT g, 'name ' || g, 'x' FROM generate_series(1, 10000) g").await?;
    for (share, rows) in [(10, 10_000), (50, 9000), (90, 8000)] {
        let mut walvec = context.start(&items()).await?;
        let far = |status: &walvec_pipeline::Status| status.collections[0].snapshot_rows_copied > share * rows / 100;
        let seen = walvec.wait_for("a part of the snapshot is copied", far).await?;
        assert_eq!(seen.phase, Phase::Snapshot, "the snapshot was over before it could be killed");
        walvec.kill().await?;
        context.execute(&format!("DELETE FROM items WHERE id % 10 = {}", share / 10)).await?;
    }
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 7000);
    Ok(())
}

async fn a_large_transaction_that_is_cut_halfway_arrives_whole(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.wait_for("the stream is followed", |status| status.phase == Phase::Streaming).await?;
    context
        .execute(
            "BEGIN; INSERT INTO items SELECT g, 'name ' || g, 'x' FROM generate_series(1, 20000) g;
             SAVEPOINT s; UPDATE items SET name = 'never ' || id WHERE id % 2 = 0; ROLLBACK TO SAVEPOINT s;
             SAVEPOINT t; DELETE FROM items WHERE id % 10 = 0; RELEASE SAVEPOINT t; COMMIT",
        )
        .await?;
    let halfway = |status: &walvec_pipeline::Status| status.collections[0].embeddings_computed > 5000;
    walvec.wait_for("a part of the transaction is written", halfway).await?;
    walvec.kill().await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 18_000);
    Ok(())
}

async fn a_connection_that_is_cut_again_and_again_loses_nothing(context: TestContext) -> Result<()> {
    let seed = new_seed();
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    let writing = writer(context.connect().await?, seed, 400);
    for _ in 0..repeats(50) {
        let cut = "SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots \
                   WHERE slot_name = $1 AND active_pid IS NOT NULL";
        wait::until("the stream was there to be cut", async || {
            let cut: i64 = context.sql.query_one(cut, &[&context.slot()]).await?.get(0);
            Ok((cut > 0).then_some(()))
        })
        .await?;
    }
    stop_writing(writing).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    image::compare(&context, &image_of_items()).await.map_err(|error| error.context(format!("seed {seed}")))?;
    Ok(())
}

async fn nothing_is_confirmed_that_is_not_durable(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    let writing = writer(context.connect().await?, 1, 400);
    let confirmed = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1";
    for _ in 0..50 {
        let slot: String = context.sql.query_one(confirmed, &[&context.slot()]).await?.get(0);
        // The status is read after the slot, because walvec's durable position only grows.
        let applied = walvec.status().await?.applied_lsn;
        let slot: walvec_model::Lsn = slot.parse()?;
        assert!(slot <= applied, "the slot was told {slot}, but only {applied} is durable");
    }
    stop_writing(writing).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let slot: String = context.sql.query_one(confirmed, &[&context.slot()]).await?.get(0);
    assert!(slot.parse::<walvec_model::Lsn>()? > walvec_model::Lsn::ZERO);
    Ok(())
}

async fn a_full_disk_holds_everything_up_and_loses_nothing(context: TestContext) -> Result<()> {
    let volume = Volume::mount(300)?;
    symlink(volume.path(), context.data_directory())?;
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items()).await?;
    context.execute("INSERT INTO items SELECT g, 'name ' || g, 'x' FROM generate_series(1, 100) g").await?;
    walvec.caught_up(&context).await?;

    let ballast = volume.fill()?;
    context.execute("INSERT INTO items SELECT g, 'late ' || g, 'x' FROM generate_series(101, 200) g").await?;
    let position = context.wal_position().await?;
    let held_up = walvec.wait_for("the full disk is reported", |status| status.problem.is_some()).await?;
    let problem = held_up.problem.expect("waited for");
    assert!(problem.remedy.as_deref().is_some_and(|remedy| remedy.contains("disk space")), "{problem:?}");
    assert!(held_up.applied_lsn < position, "what cannot be stored was taken for stored");
    assert_eq!(walvec.search("name 7", 1).await?[0]["payload"]["name"], "name 7", "searches are answered");

    std::fs::remove_file(ballast)?;
    let recovered = walvec.caught_up(&context).await?;
    assert_eq!(recovered.problem, None);
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 200);
    Ok(())
}
