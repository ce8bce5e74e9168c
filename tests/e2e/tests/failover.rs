//! A primary dies under load, its standby is promoted, and walvec goes on without a command.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::Client;
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, image, is_full, test, wait};
use walvec_pipeline::Status;
use walvec_pipeline::observe::status::Phase;
use walvec_throwaway::Cluster;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_promoted_standby_is_followed_and_unchanged_rows_are_not_paid_for).on_own_server(&[]),
        test!(a_promoted_standby_is_followed_though_it_never_had_some_of_the_changes).on_own_server(&[]),
        test!(a_slot_that_survives_a_failover_leaves_no_gap)
            .on_own_server(&[("synchronized_standby_slots", "standby")])
            .since(17),
        test!(what_only_the_former_primary_had_leaves_no_trace_though_the_slot_survived).on_own_server(&[]).since(17),
        test!(what_only_the_former_primary_had_leaves_no_trace_though_walvec_was_killed_too)
            .on_own_server(&[])
            .since(17),
        test!(a_value_of_a_change_that_the_standby_never_had_leaves_no_trace)
            .on_own_server(&[("synchronized_standby_slots", "standby")])
            .since(17),
        test!(a_server_that_is_a_standby_for_a_moment_is_waited_for).on_own_server(&[]).once(),
    ]
}

/// How long walvec may take to follow a promoted standby.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const ROWS: u64 = 500;

/// A statement that changes a random row, but not its text.
const UPDATES: &str = "UPDATE items SET n = n + 1 WHERE id = 1 + (random() * 499)::int";

/// Statements that change, insert and delete random rows.
pub(crate) const ALL: &str = "UPDATE items SET n = n + 1 WHERE id = 1 + (random() * 499)::int;
    INSERT INTO items VALUES (1000 + (random() * 50)::int, 'passing') ON CONFLICT (id) DO NOTHING;
    DELETE FROM items WHERE id = 1000 + (random() * 50)::int";

pub(crate) fn image_of_items() -> Expected {
    Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned())
}

pub(crate) fn items(context: &TestContext, standby: &Cluster) -> Settings {
    on_both(context, standby, Collection::new("items", "public.items", "{{ name }}"))
}

fn on_both(context: &TestContext, standby: &Cluster, collection: Collection) -> Settings {
    let (primary, standby) = (context.url(), standby.url(context.database()));
    let hosts = [&primary, &standby].map(|url| url.split(['@', '/']).nth(3).unwrap_or_default().to_owned());
    let url = primary.replace(&hosts[0], &hosts.join(","));
    let url = format!("{url}?target_session_attrs=read-write");
    Settings::new([collection]).with("source", json!({ "url": url }))
}

/// Starts a standby that follows the test's cluster.
pub(crate) async fn standby_of(context: &mut TestContext, keeps_slots: bool) -> Result<Cluster> {
    let url = context.url();
    let mut settings = vec![("primary_conninfo", url.as_str()), ("hot_standby_feedback", "on")];
    if keeps_slots {
        context.execute("SELECT pg_create_physical_replication_slot('standby')").await?;
        settings.push(("primary_slot_name", "standby"));
    }
    let standby = context.copy_cluster(true, &settings).await?;
    context.reconnect().await?;
    wait::until("the standby follows", async || {
        let query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        let count: i64 = context.sql.query_one(query, &[]).await?.get(0);
        Ok((count > 0).then_some(()))
    })
    .await?;
    Ok(standby)
}

/// Runs `change` again and again, until the flag is set or the server dies.
pub(crate) fn load(client: Client, change: &'static str) -> (JoinHandle<()>, Arc<AtomicBool>) {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let work = async move { while !told.load(Ordering::Relaxed) && client.batch_execute(change).await.is_ok() {} };
    (tokio::spawn(work), stop)
}

pub(crate) async fn has_slot(standby: &Cluster, context: &TestContext) -> Result<()> {
    let client = standby.connect(context.database()).await?;
    wait::until("the standby has the slot", async || {
        // The standby's own worker does this now and then until the slot is ready to be kept.
        let _ = client.batch_execute("SELECT pg_sync_replication_slots()").await;
        let query = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1 AND synced AND NOT temporary";
        let count: i64 = client.query_one(query, &[&context.slot()]).await?.get(0);
        Ok((count > 0).then_some(()))
    })
    .await
}

pub(crate) async fn promote(standby: &Cluster, database: &str) -> Result<()> {
    let client = standby.connect(database).await?;
    ensure!(client.query_one("SELECT pg_promote()", &[]).await?.get::<_, bool>(0));
    Ok(())
}

/// Kills the primary under load and promotes the standby; returns how many texts were embedded, and whether there was a gap.
async fn fail_over(mut context: TestContext, keeps_slots: bool, change: &'static str) -> Result<(u64, bool)> {
    context.execute("CREATE TABLE items (id int PRIMARY KEY, name text, n int DEFAULT 0)").await?;
    context.execute(&format!("INSERT INTO items SELECT g, 'name ' || g FROM generate_series(1, {ROWS}) g")).await?;
    let standby = standby_of(&mut context, keeps_slots).await?;
    let mut walvec = context.start(&items(&context, &standby)).await?;
    walvec.caught_up(&context).await?;
    if keeps_slots {
        has_slot(&standby, &context).await?;
    }
    let (writer, _) = load(context.connect().await?, change);
    let moved = context.wal_position().await?.0 + 200_000;
    walvec.wait_for("the load is followed", |status| status.applied_lsn.0 > moved).await?;
    context.cluster().kill().await?;
    writer.await?;
    promote(&standby, context.database()).await?;
    let promoted = Instant::now();
    context.turn_to(&standby).await?;
    context.execute("INSERT INTO items VALUES (5000, 'after the promotion')").await?;
    walvec.caught_up(&context).await?;
    let taken = promoted.elapsed();
    // Only on an otherwise idle machine can the test expect a time.
    ensure!(!is_full() || taken < PATIENCE, "it took {taken:?}");

    let (writer, stop) = load(standby.connect(context.database()).await?, change);
    let moved = context.wal_position().await?.0 + 100_000;
    walvec
        .wait_for("it flows again", |status| status.phase == Phase::Streaming && status.applied_lsn.0 > moved)
        .await?;
    stop.store(true, Ordering::Relaxed);
    writer.await?;
    let status = walvec.caught_up(&context).await?;
    let verified = context.walvec(&["verify"]).await?;
    ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let computed = status.collections[0].embeddings_computed;
    walvec.stop().await?;
    image::compare(&context, &image_of_items()).await?;
    standby.close().await?;
    Ok((computed, status.resync.is_some()))
}

async fn a_promoted_standby_is_followed_and_unchanged_rows_are_not_paid_for(context: TestContext) -> Result<()> {
    let (computed, had_gap) = fail_over(context, false, UPDATES).await?;
    ensure!(had_gap, "its slot was on the primary");
    assert_eq!(computed, ROWS + 1, "each text once");
    Ok(())
}

async fn a_promoted_standby_is_followed_though_it_never_had_some_of_the_changes(context: TestContext) -> Result<()> {
    let (_, had_gap) = fail_over(context, false, ALL).await?;
    ensure!(had_gap, "its slot was on the primary");
    Ok(())
}

async fn a_slot_that_survives_a_failover_leaves_no_gap(context: TestContext) -> Result<()> {
    let (_, had_gap) = fail_over(context, true, ALL).await?;
    ensure!(!had_gap, "the slot was on the standby");
    Ok(())
}

/// Cuts a standby off, so that it receives nothing more.
pub(crate) async fn cut_off(standby: &Cluster, database: &str) -> Result<()> {
    let client = standby.connect(database).await?;
    client.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await?;
    client.batch_execute("SELECT pg_reload_conf()").await?;
    wait::until("the standby receives nothing any more", async || {
        let count: i64 = client.query_one("SELECT count(*) FROM pg_stat_wal_receiver", &[]).await?.get(0);
        Ok((count == 0).then_some(()))
    })
    .await
}

/// Promotes a standby that has the slot and does not have the last changes, which walvec had from the former primary.
async fn fail_over_with_loss(mut context: TestContext, kills_walvec: bool) -> Result<()> {
    context.execute("CREATE TABLE items (id int PRIMARY KEY, name text, n int DEFAULT 0)").await?;
    context.execute("INSERT INTO items SELECT g, 'name ' || g FROM generate_series(1, 20) g").await?;
    let standby = standby_of(&mut context, true).await?;
    let settings = items(&context, &standby);
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    has_slot(&standby, &context).await?;
    cut_off(&standby, context.database()).await?;
    context.execute("UPDATE items SET name = 'lost' WHERE id = 1; INSERT INTO items VALUES (900, 'lost'); DELETE FROM items WHERE id = 2").await?;
    walvec.caught_up(&context).await?;
    let walvec = if kills_walvec {
        walvec.kill().await?;
        None
    } else {
        Some(walvec)
    };
    context.cluster().kill().await?;
    promote(&standby, context.database()).await?;
    context.turn_to(&standby).await?;
    let mut walvec = match walvec {
        Some(walvec) => walvec,
        None => context.start(&settings).await?,
    };
    context.execute("INSERT INTO items VALUES (5000, 'after the promotion')").await?;
    let status = walvec
        .wait_for("the gap is closed", |status| status.resync.is_some() && status.phase == Phase::Streaming)
        .await?;
    assert_eq!(status.resync.as_ref().map(|resync| resync.code.as_str()), Some("E_TIMELINE"));
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 21);
    Ok(standby.close().await?)
}

async fn what_only_the_former_primary_had_leaves_no_trace_though_the_slot_survived(context: TestContext) -> Result<()> {
    fail_over_with_loss(context, false).await
}

async fn what_only_the_former_primary_had_leaves_no_trace_though_walvec_was_killed_too(
    context: TestContext,
) -> Result<()> {
    fail_over_with_loss(context, true).await
}

/// The stream waits for the standby, but a value that is read for a row does not: it may belong to a change that is
/// held back.
async fn a_value_of_a_change_that_the_standby_never_had_leaves_no_trace(mut context: TestContext) -> Result<()> {
    context
        .execute("CREATE TABLE authors (id int PRIMARY KEY, name text); INSERT INTO authors VALUES (1, 'former')")
        .await?;
    context.execute("CREATE TABLE items (id int PRIMARY KEY, name text, author int)").await?;
    context.execute("INSERT INTO items SELECT g, 'name ' || g, 1 FROM generate_series(1, 20) g").await?;
    let standby = standby_of(&mut context, true).await?;
    let lookup = json!({ "writer": { "table": "public.authors", "on": { "id": "author" } } });
    let collection = Collection::new("items", "public.items", "{{ name }} by {{ writer.name }}").with("lookup", lookup);
    let mut walvec = context.start(&on_both(&context, &standby, collection)).await?;
    let before = walvec.caught_up(&context).await?.collections[0].embeddings_computed;
    has_slot(&standby, &context).await?;
    let application = context.connect().await?;
    application.batch_execute("BEGIN; LOCK TABLE authors IN ACCESS EXCLUSIVE MODE").await?;
    context.execute("UPDATE items SET name = 'streamed' WHERE id = 1").await?;
    wait::until("the row's author is looked up", async || {
        let query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'authors'::regclass";
        let count: i64 = context.sql.query_one(query, &[]).await?.get(0);
        Ok((count > 0).then_some(()))
    })
    .await?;
    cut_off(&standby, context.database()).await?;
    application.batch_execute("UPDATE authors SET name = 'lost' WHERE id = 1; COMMIT").await?;
    walvec.wait_for("the row is written", |status| status.collections[0].embeddings_computed > before).await?;
    context.cluster().kill().await?;
    promote(&standby, context.database()).await?;
    context.turn_to(&standby).await?;
    let is_closed = |status: &Status| status.resync.is_some() && status.phase == Phase::Streaming;
    walvec.wait_for("the gap is closed", is_closed).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let sql = Some("format('%s by %s', name, (SELECT a.name FROM authors a WHERE a.id = author))");
    assert_eq!(image::compare(&context, &Expected { sql, ..image_of_items() }).await?, 20);
    Ok(standby.close().await?)
}

/// The single address that a managed service gives for the primary leads to a standby for a while.
async fn a_server_that_is_a_standby_for_a_moment_is_waited_for(mut context: TestContext) -> Result<()> {
    context.execute("CREATE TABLE items (id int PRIMARY KEY, name text, n int DEFAULT 0)").await?;
    context.execute("INSERT INTO items SELECT g, 'name ' || g FROM generate_series(1, 20) g").await?;
    let settings = Settings::new([Collection::new("items", "public.items", "{{ name }}")]);
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    context.cluster().stop_fast().await?;
    std::fs::write(context.cluster().directory().join("data/standby.signal"), "")?;
    context.cluster().start_again().await?;
    let is_told = |status: &Status| status.problem.as_ref().is_some_and(|problem| problem.message.contains("standby"));
    walvec.wait_for("the standby is named", is_told).await?;
    context.reconnect().await?;
    promote(context.cluster(), context.database()).await?;
    context.execute("INSERT INTO items VALUES (21, 'after the promotion')").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 21);
    Ok(())
}
