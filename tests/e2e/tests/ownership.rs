//! A collection is written by one process, is the image of one table, and walvec notices if it was put back to an older state.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::json;
use walvec_e2e::files::copy_directory;
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, image, test};
use walvec_model::{Point, RawPoint, StoredPoint};
use walvec_pipeline::Status;
use walvec_sink::{Search, Sink, Write};
use walvec_test_qdrant::TestServer;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_second_walvec_with_a_slot_of_its_own_is_refused).once(),
        test!(a_collection_that_is_filled_from_another_database_is_refused_until_this_one_takes_its_place).once(),
        test!(a_walvec_that_was_stopped_inside_a_batch_never_overwrites_what_another_one_wrote).once(),
        test!(a_collection_that_was_put_back_to_an_older_state_is_filled_again),
        test!(a_collection_that_was_put_back_is_filled_again_though_the_row_that_changed_last_changes_first).once(),
        test!(a_collection_that_was_put_back_is_filled_again_though_every_row_that_could_tell_changes_first).once(),
        test!(a_collection_that_was_put_back_is_filled_again_though_a_row_came_and_went_last).once(),
        test!(a_collection_that_is_put_back_while_a_row_changes_all_the_time_is_filled_again).once(),
        test!(a_write_that_disappears_from_a_server_is_made_up_for).once(),
        test!(a_collection_shows_one_table_after_it_was_renamed_too),
        test!(a_collection_that_was_put_back_to_before_it_was_emptied_or_read_again_is_noticed).once(),
        test!(a_collection_shows_one_table_though_the_state_was_lost_before_it_was_renamed).once(),
        test!(rows_of_a_schema_with_a_dot_in_its_name_are_not_taken_for_those_of_another_table).once(),
    ]
}

const TABLE: &str = "CREATE TABLE items (id text PRIMARY KEY, name text);
    INSERT INTO items SELECT g, 'name ' || g FROM generate_series(1, 20) g";

fn items(table: &str) -> Settings {
    Settings::new([Collection::new("items", table, "{{ name }}")])
}

fn on(server: &TestServer) -> Settings {
    items("public.items").with("sink", json!({ "qdrant": { "url": server.url() } }))
}

/// Returns settings of a second walvec on the same collection.
fn second(context: &TestContext, server: &TestServer) -> Settings {
    on(server)
        .with("source", json!({ "slot": format!("{}_second", context.slot()), "publication": "second" }))
        .with("sink", json!({ "qdrant": { "state": "second" } }))
}

fn image_of_items() -> Expected {
    Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned())
}

/// A server with a collection of the test's table, which a walvec has filled that does not run any more.
async fn filled_server(context: &TestContext) -> Result<TestServer> {
    let server = TestServer::start()?;
    context.execute(TABLE).await?;
    let mut walvec = context.start(&on(&server)).await?;
    walvec.caught_up(context).await?;
    walvec.stop().await?;
    Ok(server)
}

fn gap(status: &Status) -> Option<&str> {
    status.resync.as_ref().map(|resync| resync.code.as_str())
}

async fn a_second_walvec_with_a_slot_of_its_own_is_refused(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    context.execute(TABLE).await?;
    let mut walvec = context.start(&on(&server)).await?;
    walvec.caught_up(&context).await?;
    context.configure(&second(&context, &server))?;
    let output = context.walvec(&["run"]).await?;
    let told = String::from_utf8(output.stderr)?;
    assert_eq!((output.status.code(), told.lines().last()), (Some(3), Some("E_OWNED")), "{told}");
    ensure!(told.contains("is written by the walvec at 127.0.0.1") && told.contains("help: stop the other"), "{told}");
    context.execute("UPDATE items SET name = 'changed' WHERE id = '1'; DELETE FROM items WHERE id = '2'").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 19);
    Ok(())
}

async fn a_collection_that_is_filled_from_another_database_is_refused_until_this_one_takes_its_place(
    context: TestContext,
) -> Result<()> {
    let server = filled_server(&context).await?;
    let (url, client) = context.create_another_database().await?;
    client.batch_execute(&TABLE.replace("'name '", "'other name '")).await?;
    let slot = format!("{}_other", context.slot());

    // A lock in one database is not seen in the other, and a walvec with its own data directory knows nothing about the
    // first.
    let source = json!({ "url": url, "slot": slot, "publication": "other" });
    let stranger =
        on(&server).with("source", source.clone()).with("sink", json!({ "qdrant": { "state": "stranger" } }));
    context.configure(&stranger)?;
    let output = context.walvec(&["run"]).await?;
    let told = String::from_utf8(output.stderr)?;
    assert_eq!((output.status.code(), told.lines().last()), (Some(3), Some("E_OWNED")), "{told}");
    ensure!(told.contains("is filled from another database") && told.contains("another `name`"), "{told}");
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 20);

    // The move to another database is accepted: this data directory filled the collection, and a person has reset it.
    context.configure(&on(&server).with("source", source))?;
    ensure!(context.walvec(&["reset", "--force"]).await?.status.success());
    let mut moved = context.start_as(&["run"], &context.data_directory()).await?;
    moved.caught_up(&context).await?;
    moved.stop().await?;
    context.sql.query_one("SELECT pg_drop_replication_slot($1)", &[&context.slot()]).await?;
    context.configure(&on(&server).with("sink", json!({ "qdrant": { "state": "former" } })))?;
    let output = context.walvec(&["run"]).await?;
    let told = String::from_utf8(output.stderr)?;
    ensure!(told.lines().last() == Some("E_OWNED"), "{told}");
    client.query_one("SELECT pg_drop_replication_slot($1)", &[&slot]).await?;
    drop(client);
    context.drop_another_database().await
}

async fn a_walvec_that_was_stopped_inside_a_batch_never_overwrites_what_another_one_wrote(
    context: TestContext,
) -> Result<()> {
    let server = TestServer::start()?;
    context.execute(TABLE).await?;
    let slow = on(&server).with("embedding", json!({ "model": "hash/64/wait/3000" }));
    let mut first = context.start(&slow).await?;
    first.caught_up(&context).await?;
    context.execute("UPDATE items SET name = 'older' WHERE id = '1'").await?;
    let position = context.wal_position().await?;
    first
        .wait_for("the change is in flight", |status| status.server_lsn >= position && status.lag_ms > Some(0))
        .await?;
    first.signal(Signal::STOP)?;
    // To the server it looks as if the first walvec's machine were gone.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'walvec owner'";
    ensure!(context.sql.query(end, &[]).await?.len() == 1);

    let quick = second(&context, &server).with("embedding", json!({ "model": "hash/64/wait/0" }));
    context.configure(&quick)?;
    let mut other = context.start_as(&["run"], &context.directory().join("second")).await?;
    context.execute("UPDATE items SET name = 'newest' WHERE id = '1'").await?;
    other.caught_up(&context).await?;
    first.signal(Signal::CONT)?;
    let told = first.fails_with(3).await?;
    ensure!(told.contains("E_OWNED"), "{told}");
    other.caught_up(&context).await?;
    other.stop().await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 20);
    Ok(())
}

async fn a_collection_that_was_put_back_to_an_older_state_is_filled_again(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let settings = items("public.items");
    follow_for_a_moment(&context, &settings).await?;
    // Changes that are lost, and changes that follow before the loss can be noticed.
    let changes = [
        ("UPDATE items SET name = 'changed' WHERE id = '1'", ""),
        ("DELETE FROM items WHERE id = '2'", ""),
        ("UPDATE items SET name = 'changed too' WHERE id = '3'", "UPDATE items SET name = 'meanwhile' WHERE id = '4'"),
    ];
    for ((change, meanwhile), generation) in changes.into_iter().zip(2..) {
        put_back(&context, &settings, &[change], meanwhile, generation).await?;
    }
    Ok(())
}

async fn follow_for_a_moment(context: &TestContext, settings: &Settings) -> Result<()> {
    let mut walvec = context.start(settings).await?;
    walvec.caught_up(context).await?;
    walvec.stop().await
}

/// Puts the collection back to its state before changes that walvec has followed one after the other, and makes further changes. The
/// next start has to notice it, and to fill the collection as `generation`.
async fn put_back(
    context: &TestContext,
    settings: &Settings,
    lost: &[&str],
    meanwhile: &str,
    generation: u64,
) -> Result<()> {
    let (collections, kept) = (context.data_directory().join("collections"), context.directory().join("kept"));
    keep(&collections, &kept)?;
    let mut walvec = context.start(settings).await?;
    for change in lost {
        context.execute(change).await?;
        walvec.caught_up(context).await?;
    }
    walvec.stop().await?;
    fs::remove_dir_all(&collections)?;
    copy_directory(&kept, &collections)?;
    context.execute(meanwhile).await?;
    let mut walvec = context.start(settings).await?;
    let is_noticed = |status: &Status| gap(status) == Some("E_SINK_BEHIND") && status.generation.0 == generation;
    walvec.wait_for("it is noticed", is_noticed).await?;
    walvec.caught_up(context).await?;
    walvec.stop().await?;
    image::compare(context, &image_of_items()).await?;
    Ok(())
}

async fn a_collection_that_was_put_back_is_filled_again_though_the_row_that_changed_last_changes_first(
    context: TestContext,
) -> Result<()> {
    context.execute(TABLE).await?;
    let settings = items("public.items");
    follow_for_a_moment(&context, &settings).await?;
    let lost = ["UPDATE items SET name = 'lost' WHERE id = '1'", "UPDATE items SET name = 'often' WHERE id = '2'"];
    put_back(&context, &settings, &lost, "UPDATE items SET name = 'again' WHERE id = '2'", 2).await
}

async fn a_collection_that_was_put_back_is_filled_again_though_every_row_that_could_tell_changes_first(
    context: TestContext,
) -> Result<()> {
    context.execute(TABLE).await?;
    let settings = items("public.items");
    follow_for_a_moment(&context, &settings).await?;
    // All rows are written together, and the last one is checked for all of them.
    let lost = ["UPDATE items SET name = name || ' lost'"];
    put_back(&context, &settings, &lost, "UPDATE items SET name = name || ' again' WHERE id <> '1'", 2).await
}

async fn a_collection_that_was_put_back_is_filled_again_though_a_row_came_and_went_last(
    context: TestContext,
) -> Result<()> {
    context.execute(TABLE).await?;
    let settings = items("public.items");
    follow_for_a_moment(&context, &settings).await?;
    let lost = [
        "UPDATE items SET name = 'lost' WHERE id = '1'",
        "INSERT INTO items VALUES ('21', 'not for long')",
        "DELETE FROM items WHERE id = '21'",
    ];
    put_back(&context, &settings, &lost, "", 2).await
}

async fn a_collection_that_is_put_back_while_a_row_changes_all_the_time_is_filled_again(
    context: TestContext,
) -> Result<()> {
    let server = TestServer::start()?;
    context.execute(TABLE).await?;
    let mut walvec = context.start(&on(&server)).await?;
    walvec.caught_up(&context).await?;
    let remote = image::on_server("items", "hash/64", &server.url())?;
    let before = whole_points(&remote).await?;
    for lost in ["UPDATE items SET name = 'lost' WHERE id = '1'", "UPDATE items SET name = 'often' WHERE id = '2'"] {
        context.execute(lost).await?;
        walvec.caught_up(&context).await?;
    }
    walvec.stop().await?;
    let mut walvec = context.start(&on(&server)).await?;
    walvec.caught_up(&context).await?;
    remote.write(&before).await?;
    let changes = async || -> Result<()> {
        loop {
            context.execute("UPDATE items SET name = 'number ' || random() WHERE id = '2'").await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        failed = changes() => return failed,
        noticed = walvec.wait_for("it is noticed", |status| gap(status) == Some("E_SINK_BEHIND")) => drop(noticed?),
    }
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 20);
    Ok(())
}

/// Returns writes that restore every point of a collection to its present state.
async fn whole_points(collection: &(impl Sink + Search)) -> Result<Vec<Write>> {
    let page = collection.page(None, 1000, true).await?;
    let write = |raw: RawPoint| {
        let (stored, vector) = (StoredPoint::from_raw(raw.id, raw.payload), raw.vector.context("a vector")?);
        let StoredPoint { id, payload, provenance } = stored;
        let provenance = provenance.context("not written by walvec")?;
        Ok(Write::Upsert(Point { id, vector, keywords: None, payload, provenance }))
    };
    page.points.into_iter().map(write).collect()
}

/// Copies a directory to `kept`, and replaces what was there.
fn keep(from: &Path, kept: &Path) -> Result<()> {
    if kept.exists() {
        fs::remove_dir_all(kept)?;
    }
    copy_directory(from, kept)
}

async fn a_collection_that_was_put_back_to_before_it_was_emptied_or_read_again_is_noticed(
    context: TestContext,
) -> Result<()> {
    context.execute(TABLE).await?;
    let settings = items("public.items");
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    let (collections, kept) = (context.data_directory().join("collections"), context.directory().join("kept"));
    let is_noticed = |status: &Status| gap(status) == Some("E_SINK_BEHIND");

    walvec.stop().await?;
    keep(&collections, &kept)?;
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    let output = context.walvec(&["resync"]).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    walvec.wait_for("it is read again", |status| status.generation.0 == 2).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    fs::remove_dir_all(&collections)?;
    copy_directory(&kept, &collections)?;
    let mut walvec = context.start(&settings).await?;
    walvec.wait_for("it is noticed", is_noticed).await?;
    walvec.caught_up(&context).await?;

    walvec.stop().await?;
    keep(&collections, &kept)?;
    let mut walvec = context.start(&settings).await?;
    context.execute("TRUNCATE items").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    fs::remove_dir_all(&collections)?;
    copy_directory(&kept, &collections)?;
    let mut walvec = context.start(&settings).await?;
    let is_read_again = |status: &Status| is_noticed(status) && status.generation.0 == 4;
    walvec.wait_for("it is noticed once more", is_read_again).await?;
    // All points of the collection would be removed.
    walvec.wait_for("a person is asked", |status| status.problem.is_some()).await?;
    let output = context.walvec(&["resync", "--force"]).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 0);
    Ok(())
}

async fn a_write_that_disappears_from_a_server_is_made_up_for(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    context.execute(TABLE).await?;
    let mut walvec = context.start(&on(&server)).await?;
    walvec.caught_up(&context).await?;
    context.execute("INSERT INTO items VALUES ('21', 'the last')").await?;
    walvec.caught_up(&context).await?;
    let hits = walvec.search("the last", 1).await?;
    let id = serde_json::from_value(hits[0]["id"].clone())?;
    let remote = image::on_server("items", "hash/64", &server.url())?;
    remote.write(&[Write::Delete(id)]).await?;
    walvec.wait_for("it is noticed", |status| gap(status) == Some("E_SINK_BEHIND")).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 21);
    Ok(())
}

async fn a_collection_shows_one_table_after_it_was_renamed_too(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items("public.items")).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    context.execute("ALTER TABLE items RENAME TO volumes; DELETE FROM volumes WHERE id > '3'").await?;
    let mut walvec = context.start(&items("public.volumes")).await?;
    walvec.caught_up(&context).await?;
    walvec.wait_for("the points are counted", |status| status.collections[0].points == Some(14)).await?;
    walvec.stop().await?;
    let expected = Expected { collection: "items", ..Expected::of("volumes", image_of_items().text) };
    assert_eq!(image::compare(&context, &expected).await?, 14);
    Ok(())
}

async fn a_collection_shows_one_table_though_the_state_was_lost_before_it_was_renamed(
    context: TestContext,
) -> Result<()> {
    let server = filled_server(&context).await?;
    fs::remove_dir_all(context.data_directory())?;
    context.execute("SELECT pg_drop_replication_slot(current_database())").await?;
    context.execute("ALTER TABLE items RENAME TO volumes").await?;
    let settings = items("public.volumes").with("sink", json!({ "qdrant": { "url": server.url() } }));
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let expected = Expected { collection: "items", ..Expected::of("volumes", image_of_items().text) };
    assert_eq!(image::compare_on_server(&context, &expected, &server.url()).await?, 20);
    Ok(())
}

async fn rows_of_a_schema_with_a_dot_in_its_name_are_not_taken_for_those_of_another_table(
    context: TestContext,
) -> Result<()> {
    context.execute(&format!("{TABLE}; CREATE SCHEMA \"my.shop\"; ALTER TABLE items SET SCHEMA \"my.shop\"")).await?;
    let mut walvec = context.start(&items("\"my.shop\".items")).await?;
    walvec.caught_up(&context).await?;
    let output = context.walvec(&["resync"]).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    walvec.wait_for("it is read again", |status| status.generation.0 == 2).await?;
    let status = walvec.caught_up(&context).await?;
    assert!(status.problem.is_none(), "nothing waits to be removed: {:?}", status.problem);
    let output = context.walvec(&["verify", "--json"]).await?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!((&report["rows"], &report["points"]), (&json!(20), &json!(20)), "{report:#}");
    walvec.stop().await
}
