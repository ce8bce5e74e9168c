//! A PostgreSQL server that has reached a limit: a command that needs more reports at once which setting is exhausted, and the stream
//! goes on.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio_postgres::Client;
use walvec_e2e::settings::MODEL;
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, Walvec, image, test};
use walvec_model::PointId;
use walvec_pipeline::observe::status::Phase;
use walvec_sink::{Sink as _, Write};
use walvec_test_qdrant::TestServer;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(without_a_free_slot_backfill_repair_and_reindex_are_refused_at_once)
            .on_own_server(&[("max_replication_slots", "2")]),
        test!(without_a_free_replication_connection_backfill_repair_and_reindex_are_refused_at_once)
            .on_own_server(&[("max_wal_senders", "1")]),
        test!(without_a_free_connection_backfill_and_repair_are_refused_at_once)
            .on_own_server(&[("max_connections", "25")]),
        test!(a_table_that_was_altered_waits_for_a_slot_in_sight_and_is_read_again_once_there_is_one)
            .on_own_server(&[("max_replication_slots", "2")]),
    ]
}

const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, name text);
    INSERT INTO items SELECT g, 'name ' || g FROM generate_series(1, 20) g";

/// A statement that takes the slot that a backfill, a repair or a reindex would need.
const TAKE_SLOT: &str = "SELECT pg_create_physical_replication_slot('somebodys')";
const GIVE_SLOT: &str = "SELECT pg_drop_replication_slot('somebodys')";

fn settings(server: &TestServer) -> Settings {
    Settings::new([Collection::new("items", "public.items", "{{ name }}")])
        .with("sink", json!({ "qdrant": { "url": server.url() } }))
}

fn image_of_items() -> Expected {
    Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned())
}

/// Starts walvec, waits until it has caught up, and removes the point of a row.
async fn with_a_missing_row(context: &TestContext, server: &TestServer) -> Result<Walvec> {
    context.execute(TABLE).await?;
    let mut walvec = context.start(&settings(server)).await?;
    walvec.caught_up(context).await?;
    image::on_server("items", MODEL, &server.url())?.write(&[Write::Delete(PointId::Num(7))]).await?;
    Ok(walvec)
}

/// Checks that a command is refused because of this setting.
async fn is_refused(context: &TestContext, arguments: &[&str], setting: &str) -> Result<()> {
    let output = context.walvec(arguments).await?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(3), "walvec {arguments:?}: {}: {words}", output.status);
    ensure!(words.lines().last() == Some("E_LIMIT") && words.contains(setting), "walvec {arguments:?}: {words}");
    Ok(())
}

/// Checks that the refused commands work now, and that the collection is complete.
async fn all_is_well(context: &TestContext, server: &TestServer, mut walvec: Walvec) -> Result<()> {
    context.execute("UPDATE items SET name = 'later ' || id WHERE id < 5").await?;
    walvec.caught_up(context).await?;
    let output = context.walvec(&["verify", "--repair", "--json"]).await?;
    let report: Value =
        serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    ensure!(output.status.success() && report["missing"] == 1, "{report:#}");
    let output = context.walvec(&["backfill", "--table", "public.items"]).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    walvec.wait_for("nothing is tried again", |status| status.problem.is_none()).await?;
    walvec.stop().await?;
    assert_eq!(image::compare_on_server(context, &image_of_items(), &server.url()).await?, 20);
    Ok(())
}

async fn without_a_free_slot_backfill_repair_and_reindex_are_refused_at_once(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    let walvec = with_a_missing_row(&context, &server).await?;
    context.execute(TAKE_SLOT).await?;
    for arguments in [&["backfill", "--table", "public.items"][..], &["verify", "--repair"], &["reindex"]] {
        is_refused(&context, arguments, "max_replication_slots").await?;
    }
    assert_eq!(walvec.status().await?.phase, Phase::Streaming, "the stream goes on");
    context.execute(GIVE_SLOT).await?;
    all_is_well(&context, &server, walvec).await
}

async fn without_a_free_replication_connection_backfill_repair_and_reindex_are_refused_at_once(
    context: TestContext,
) -> Result<()> {
    let server = TestServer::start()?;
    let mut walvec = with_a_missing_row(&context, &server).await?;
    for arguments in [&["backfill", "--table", "public.items"][..], &["verify", "--repair"], &["reindex"]] {
        is_refused(&context, arguments, "max_wal_senders").await?;
    }
    context.execute("UPDATE items SET name = 'later ' || id").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await
}

/// Opens connections until the server accepts no more.
async fn fill(context: &TestContext) -> Result<Vec<Client>> {
    let mut sessions = Vec::new();
    loop {
        match context.connect().await {
            Ok(session) => sessions.push(session),
            Err(error) if format!("{error:#}").contains("too many clients") => return Ok(sessions),
            Err(error) => return Err(error),
        }
    }
}

async fn without_a_free_connection_backfill_and_repair_are_refused_at_once(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    let walvec = with_a_missing_row(&context, &server).await?;
    let sessions = fill(&context).await?;
    for arguments in [&["backfill", "--table", "public.items"][..], &["verify", "--repair"]] {
        is_refused(&context, arguments, "max_connections").await?;
    }
    assert_eq!(walvec.status().await?.phase, Phase::Streaming, "the stream goes on");
    drop(sessions);
    all_is_well(&context, &server, walvec).await
}

/// No command waits for this reading of the table, so walvec keeps trying.
async fn a_table_that_was_altered_waits_for_a_slot_in_sight_and_is_read_again_once_there_is_one(
    context: TestContext,
) -> Result<()> {
    let server = TestServer::start()?;
    context
        .execute("CREATE TYPE mood AS ENUM ('calm', 'wild'); CREATE TABLE items (id int PRIMARY KEY, name mood)")
        .await?;
    context.execute("INSERT INTO items SELECT g, 'calm' FROM generate_series(1, 20) g").await?;
    let mut walvec = context.start(&settings(&server)).await?;
    walvec.caught_up(&context).await?;
    context.execute(TAKE_SLOT).await?;
    // The stream brings no row for this statement.
    context.execute("ALTER TYPE mood RENAME VALUE 'calm' TO 'serene'").await?;
    let waits = walvec.wait_for("the lack of a slot is shown", |status| {
        status.problem.as_ref().is_some_and(|problem| problem.message.contains("no replication slot left"))
    });
    let problem = waits.await?.problem.context("no problem")?;
    assert!(problem.message.contains("items"), "{problem:?}");
    assert!(problem.remedy.is_some_and(|remedy| remedy.contains("max_replication_slots")));
    context.execute(GIVE_SLOT).await?;
    walvec.wait_for("the problem is over", |status| status.problem.is_none()).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 20);
    Ok(())
}
