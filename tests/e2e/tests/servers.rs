//! A Qdrant server instead of the engine inside the process: collections stay exact through the server's faults.

#![allow(clippy::print_stderr)]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use walvec_e2e::settings::MODEL;
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, Walvec, image, test, wait};
use walvec_model::PointId;
use walvec_pipeline::observe::status::Phase;
use walvec_sink::qdrant::{Remote, Server};
use walvec_sink::{Sink as _, Write};
use walvec_test_qdrant::{Call, Code, Detour, Fault, RateLimits, TestServer, UpdateStatus};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(every_operation_reaches_the_server),
        test!(a_server_that_fails_in_every_way_holds_up_and_loses_nothing),
        test!(a_write_rate_limit_slows_walvec_down_and_loses_nothing),
        test!(a_server_that_comes_back_empty_is_filled_again),
        test!(a_truncate_and_a_resync_remove_points_by_their_ids).once(),
        test!(a_server_that_refuses_filters_without_an_index_is_kept_in_step_and_a_search_is_told_what_to_do).once(),
        test!(a_request_that_arrives_after_newer_ones_is_made_up_for).once(),
        test!(another_collection_than_the_one_that_was_filled_is_filled_too),
        test!(a_point_that_the_server_refuses_is_parked_and_its_neighbours_are_stored),
        test!(a_point_that_goes_before_its_payload_is_changed_is_written_whole),
        test!(points_that_outlived_the_state_directory_are_told_from_new_ones),
        test!(points_that_a_new_data_directory_finds_no_rows_for_wait_for_a_person).once(),
        test!(a_real_server_is_kept_in_step_and_reindexed_like_the_one_for_tests),
    ]
}

const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, name text, body text);
    ALTER TABLE items ALTER COLUMN body SET STORAGE EXTERNAL;
    INSERT INTO items SELECT g, 'name ' || g, repeat('x', 3000) FROM generate_series(1, 1000) g";

/// One change of every sort; 991 rows are left.
const CHANGES: &str = "INSERT INTO items VALUES (2000, 'new', 'b');
    UPDATE items SET name = 'changed' WHERE id <= 10;
    UPDATE items SET body = 'only the payload' WHERE id BETWEEN 11 AND 20;
    UPDATE items SET id = id + 5000 WHERE id BETWEEN 21 AND 30;
    DELETE FROM items WHERE id BETWEEN 31 AND 40";

fn items(server: &TestServer) -> Settings {
    Settings::new([Collection::new("items", "public.items", "{{ name }}")])
        .with("sink", json!({ "qdrant": { "url": server.url() } }))
}

fn image_of_items() -> Expected {
    Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned())
}

/// Starts walvec and waits until it has caught up.
async fn followed(context: &TestContext, settings: &Settings) -> Result<Walvec> {
    let mut walvec = context.start(settings).await?;
    walvec.caught_up(context).await?;
    Ok(walvec)
}

/// Lets walvec catch up and stop, then compares the server's collection with the table.
async fn same(context: &TestContext, mut walvec: Walvec, server: &TestServer) -> Result<usize> {
    walvec.caught_up(context).await?;
    walvec.stop().await?;
    image::compare_on_server(context, &image_of_items(), &server.url()).await
}

async fn every_operation_reaches_the_server(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    context.execute(TABLE).await?;
    let mut walvec = followed(&context, &items(&server)).await?;
    context.execute(CHANGES).await?;
    walvec.caught_up(&context).await?;
    assert_eq!(walvec.search("changed", 3).await?[0]["payload"]["name"], "changed");
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 991);
    context.execute("BEGIN; TRUNCATE items; INSERT INTO items VALUES (7, 'after', 'b'); COMMIT").await?;
    assert_eq!(same(&context, walvec, &server).await?, 1);
    assert_eq!(server.calls().overlaps(), [""; 0]);
    Ok(())
}

async fn a_server_that_fails_in_every_way_holds_up_and_loses_nothing(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    context.execute(TABLE).await?;
    let mut walvec = followed(&context, &items(&server)).await?;
    for (round, fault) in [
        Fault::Status(Code::Internal, "a broken shard".to_owned()),
        Fault::Status(Code::ResourceExhausted, "too many requests".to_owned()),
        Fault::Update { status: UpdateStatus::Acknowledged, applied: false },
        Fault::Update { status: UpdateStatus::WaitTimeout, applied: true },
        Fault::DropConnection,
        Fault::LoseAnswer,
    ]
    .into_iter()
    .enumerate()
    {
        // The fault happens twice, because the client repeats a read once by itself.
        server.faults().next(fault.clone());
        server.faults().next(fault);
        context.execute(&format!("UPDATE items SET name = 'round {round} ' || id WHERE id <= 300")).await?;
        context.execute(&format!("DELETE FROM items WHERE id = {}", 900 + round)).await?;
        walvec.caught_up(&context).await?;
    }
    server.stop().await;
    context.execute("UPDATE items SET name = 'while it was down' WHERE id > 500").await?;
    let position = context.wal_position().await?;
    let down = walvec.wait_for("the server's absence is reported", |status| status.problem.is_some()).await?;
    assert!(down.applied_lsn < position && down.confirmed_lsn < position);
    server.resume().await?;
    assert_eq!(same(&context, walvec, &server).await?, 994);
    assert_eq!(server.calls().overlaps(), [""; 0]);
    Ok(())
}

async fn a_write_rate_limit_slows_walvec_down_and_loses_nothing(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    context.execute(TABLE).await?;
    context.execute("DELETE FROM items WHERE id > 300").await?;
    let mut walvec = followed(&context, &items(&server)).await?;
    let second = Duration::from_secs(1);
    server.limit_rates("items", RateLimits { writes: Some(60), reads: Some(200), per: second })?;
    // New vectors, payloads alone, and deletions: of each, more than the limit allows at once.
    let changes = "UPDATE items SET name = 'changed ' || id WHERE id <= 80;
        UPDATE items SET body = 'only the payload' WHERE id BETWEEN 81 AND 160;
        DELETE FROM items WHERE id > 230";
    context.execute(&format!("BEGIN; {changes}; COMMIT")).await?;
    let status = walvec.wait_for("the limit is named", |status| {
        status.problem.as_ref().is_some_and(|problem| problem.message.contains("`write_rate_limit` of collection"))
    });
    let told = status.await?.problem.context("a problem")?;
    assert!(told.remedy.is_some_and(|remedy| remedy.contains("PATCH collections/items__1")), "{}", told.message);
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.collections[0].dead_letters, 0);
    server.limit_rates("items", RateLimits::default())?;
    assert_eq!(same(&context, walvec, &server).await?, 230);
    assert_eq!(server.calls().overlaps(), [""; 0]);
    Ok(())
}

async fn a_server_that_comes_back_empty_is_filled_again(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    context.execute(TABLE).await?;
    let mut walvec = followed(&context, &items(&server)).await?;
    // walvec notices it although no row changes.
    server.restart_empty().await?;
    walvec.wait_for("a new snapshot", |now| now.generation.0 == 2 && now.phase == Phase::Streaming).await?;
    assert_eq!(same(&context, walvec, &server).await?, 1000);
    // The collection is also lost while walvec does not run.
    server.restart_empty().await?;
    let walvec = followed(&context, &items(&server)).await?;
    assert_eq!(same(&context, walvec, &server).await?, 1000);
    Ok(())
}

/// After a crash, a server before 1.19 may bring back points that were removed by a filter.
async fn a_truncate_and_a_resync_remove_points_by_their_ids(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    context.execute(TABLE).await?;
    let mut walvec = followed(&context, &items(&server)).await?;
    context
        .execute("BEGIN; TRUNCATE items; INSERT INTO items VALUES (1, 'after'), (2, 'too'), (3, 'and'); COMMIT")
        .await?;
    walvec.caught_up(&context).await?;
    walvec.kill().await?;
    // The server notices at the next write that the connection is gone.
    wait::until("the slot is dropped", async || {
        let dropped = context.sql.query_one("SELECT pg_drop_replication_slot($1)", &[&context.slot()]).await;
        Ok(dropped.ok().map(drop))
    })
    .await?;
    context.execute("DELETE FROM items WHERE id = 1").await?;
    let walvec = followed(&context, &items(&server)).await?;
    assert_eq!(same(&context, walvec, &server).await?, 2);
    assert_eq!(server.calls().by_filter(), 0);
    Ok(())
}

async fn a_server_that_refuses_filters_without_an_index_is_kept_in_step_and_a_search_is_told_what_to_do(
    context: TestContext,
) -> Result<()> {
    // The first of these removes by filters, the others find what to remove by filters.
    for version in ["1.19.0", "1.18.0"] {
        let server = TestServer::start()?;
        server.faults().set_version(version);
        server.faults().refuse_unindexed_filters(true);
        context.execute(TABLE).await?;
        context.execute("ALTER TABLE items ADD year int, ADD place text").await?;
        let collection = Collection::new("items", "public.items", "{{ name }}");
        let settings = Settings::new([collection.with("index", json!({ "year": "integer" }))])
            .with("sink", json!({ "qdrant": { "url": server.url() } }));
        let mut walvec = followed(&context, &settings).await?;
        context.execute(CHANGES).await?;
        context.execute("UPDATE items SET year = 1800, place = 'here' WHERE id <= 10").await?;
        walvec.caught_up(&context).await?;
        let search = async |filter: &str| walvec.get("/api/v1/search", &[("q", "changed"), ("filter", filter)]).await;
        ensure!(search("year>=1800").await?.status().is_success(), "an indexed field");
        let refused = search("place=here").await?;
        let (status, words) = (refused.status(), refused.text().await?);
        ensure!(status.as_u16() == 400 && words.contains("`index:`") && words.contains("place"), "{status}: {words}");
        // The table is read again as a whole, emptied, and swept.
        context.execute("ALTER TABLE items ALTER name TYPE varchar(100), ALTER place TYPE varchar(90)").await?;
        walvec.caught_up(&context).await?;
        context.execute("BEGIN; TRUNCATE items; INSERT INTO items VALUES (1, 'after'), (2, 'too'); COMMIT").await?;
        walvec.caught_up(&context).await?;
        let resynced = context.walvec(&["resync", "--force"]).await?;
        ensure!(resynced.status.success(), "{}", String::from_utf8_lossy(&resynced.stderr));
        walvec.caught_up(&context).await?;
        let verified = context.walvec(&["verify"]).await?;
        ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
        ensure!(same(&context, walvec, &server).await? == 2);
        context.execute("DROP TABLE items; DROP PUBLICATION walvec").await?;
        context.sql.query("SELECT pg_drop_replication_slot($1)", &[&context.slot()]).await?;
        std::fs::remove_dir_all(context.data_directory())?;
    }
    Ok(())
}

/// Returns the name in the payload of a point on the server; `None` if there is no such point.
async fn shown(server: &TestServer, id: u64) -> Result<Option<String>> {
    let points = image::points(&image::on_server("items", MODEL, &server.url())?).await?;
    let point = points.into_iter().find(|point| point.payload["id"] == id);
    Ok(point.and_then(|point| point.payload["name"].as_str().map(str::to_owned)))
}

async fn is_shown(server: &TestServer, id: u64, name: Option<&str>) -> Result<()> {
    let look = async || Ok((shown(server, id).await?.as_deref() == name).then_some(()));
    wait::until(&format!("the point of row {id} shows {name:?}"), look).await
}

async fn a_request_that_arrives_after_newer_ones_is_made_up_for(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    let detour = Detour::to(&server.url()).await?;
    context.execute(TABLE).await?;
    let settings = items(&server).with("sink", json!({ "qdrant": { "url": detour.url() } }));
    let mut walvec = followed(&context, &settings).await?;
    let newer =
        [("UPDATE items SET name = 'newer' WHERE id = 1", Some("newer")), ("DELETE FROM items WHERE id = 2", None)];
    for (id, (change, end)) in (1..).zip(newer) {
        let kept = format!("kept on its way {id}");
        detour.keep(&kept);
        context.execute(&format!("UPDATE items SET name = '{kept}' WHERE id = {id}")).await?;
        detour.is_keeping().await;
        walvec.caught_up(&context).await?;
        context.execute(change).await?;
        walvec.caught_up(&context).await?;
        assert_eq!(shown(&server, id).await?.as_deref(), end);
        detour.let_go();
        let counted = format!("walvec_points_overtaken_total {id}");
        wait::until("it was noticed", async || {
            Ok(walvec.get("/metrics", &[]).await?.text().await?.contains(&counted).then_some(()))
        })
        .await?;
        is_shown(&server, id, end).await?;
    }
    assert_eq!(walvec.status().await?.generation.0, 1, "nothing else is read again");
    assert_eq!(same(&context, walvec, &server).await?, 999);
    Ok(())
}

async fn another_collection_than_the_one_that_was_filled_is_filled_too(context: TestContext) -> Result<()> {
    let (first, second) = (TestServer::start()?, TestServer::start()?);
    context.execute(TABLE).await?;
    let embedded = Settings::new([Collection::new("items", "public.items", "{{ name }}")]);
    for settings in [&items(&first), &items(&second), &embedded, &items(&first)] {
        let mut walvec = context.start(settings).await?;
        walvec.caught_up(&context).await?;
        walvec.stop().await?;
        context.execute("DELETE FROM items WHERE id = (SELECT max(id) FROM items)").await?;
    }
    let mut walvec = context.start(&embedded).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 996);
    let walvec = context.start(&items(&first)).await?;
    assert_eq!(same(&context, walvec, &first).await?, 996);
    Ok(())
}

async fn a_point_that_the_server_refuses_is_parked_and_its_neighbours_are_stored(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    server.faults().refuse_points([500]);
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items(&server)).await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.collections[0].dead_letters, 1);
    assert_eq!(status.collections[0].latest_dead_letters[0].key, [json!(500)]);
    server.faults().clear();
    context.execute("UPDATE items SET name = 'mended' WHERE id = 500").await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.collections[0].dead_letters, 0);
    assert_eq!(same(&context, walvec, &server).await?, 1000);
    Ok(())
}

async fn a_point_that_goes_before_its_payload_is_changed_is_written_whole(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    // The vector of a new name takes a second, and the payload of the other rows waits for it.
    let model = "hash/64/wait/1000";
    let settings = items(&server).with("embedding", json!({ "model": model }));
    context.execute(TABLE).await?;
    context.execute("DELETE FROM items WHERE id > 100").await?;
    let mut walvec = followed(&context, &settings).await?;
    let looked_up = server.calls().of(Call::Get);
    let changes = "UPDATE items SET body = 'only the payload' WHERE id BETWEEN 11 AND 20";
    context.execute(&format!("BEGIN; UPDATE items SET name = 'changed' WHERE id = 1; {changes}; COMMIT")).await?;
    wait::until("walvec was in the middle of a batch", async || {
        Ok((server.calls().of(Call::Get) > looked_up).then_some(()))
    })
    .await?;
    let deletions: Vec<Write> = (11..=15).map(|id| Write::Delete(PointId::Num(id))).collect();
    image::on_server("items", model, &server.url())?.write(&deletions).await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.collections[0].dead_letters, 0, "{:?}", status.collections[0].latest_dead_letters);
    assert_eq!(same(&context, walvec, &server).await?, 100);
    Ok(())
}

async fn points_that_outlived_the_state_directory_are_told_from_new_ones(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    context.execute(TABLE).await?;
    let walvec = followed(&context, &items(&server)).await?;
    walvec.stop().await?;
    std::fs::remove_dir_all(context.data_directory())?;
    context.execute("SELECT pg_drop_replication_slot(current_database())").await?;
    context.execute("DELETE FROM items WHERE id % 2 = 0; UPDATE items SET name = 'other' WHERE id % 5 = 0").await?;
    let mut walvec = context.start(&items(&server)).await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.generation.0, 2);
    assert!(status.collections[0].embeddings_reused > 0, "unchanged texts were embedded again");
    assert_eq!(same(&context, walvec, &server).await?, 500);
    Ok(())
}

async fn points_that_a_new_data_directory_finds_no_rows_for_wait_for_a_person(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    context.execute(TABLE).await?;
    followed(&context, &items(&server)).await?.stop().await?;
    // This makes the state as if another machine were configured with the address of another database.
    std::fs::remove_dir_all(context.data_directory())?;
    context.execute("SELECT pg_drop_replication_slot(current_database())").await?;
    context.execute("DELETE FROM items WHERE id > 10").await?;
    let mut walvec = context.start(&items(&server)).await?;
    let status = walvec.caught_up(&context).await?;
    let told = status.problem.context("a problem")?;
    assert!(told.message.contains("990 of 1000 points"), "{}", told.message);
    assert!(told.remedy.is_some_and(|remedy| remedy.contains("resync --force")));
    walvec.wait_for("the points are counted", |status| status.collections[0].points == Some(1000)).await?;
    let output = context.walvec(&["resync", "--force"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(same(&context, walvec, &server).await?, 10);
    Ok(())
}

/// Runs where `WALVEC_TEST_QDRANT_URL` names a server; prints a clear notice where it does not.
async fn a_real_server_is_kept_in_step_and_reindexed_like_the_one_for_tests(context: TestContext) -> Result<()> {
    let Ok(url) = std::env::var("WALVEC_TEST_QDRANT_URL") else {
        eprintln!("NOT TRIED on a real Qdrant server: set WALVEC_TEST_QDRANT_URL=http://localhost:6334");
        return Ok(());
    };
    let server = Server::at(&url);
    // Tests run concurrently on one server, so each has a collection of its own.
    let name: &'static str = Box::leak(format!("walvec_e2e_{}", context.slot()).into_boxed_str());
    Remote::purge(server.clone(), name).await?;
    let settings = |text: &str| {
        Settings::new([Collection::new(name, "public.items", text)]).with("sink", json!({ "qdrant": { "url": url } }))
    };
    let expected = Expected { collection: name, ..image_of_items() };
    context.execute(TABLE).await?;
    let mut walvec = followed(&context, &settings("{{ name }}")).await?;
    context.execute(CHANGES).await?;
    walvec.caught_up(&context).await?;
    assert_eq!(image::compare_on_server(&context, &expected, &url).await?, 991);
    context.execute("BEGIN; TRUNCATE items; INSERT INTO items VALUES (7, 'after', 'b'); COMMIT").await?;
    walvec.caught_up(&context).await?;
    assert_eq!(image::compare_on_server(&context, &expected, &url).await?, 1);

    context.configure(&settings("an item: {{ name }}"))?;
    let output = context.walvec(&["reindex"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    context.execute("INSERT INTO items VALUES (8, 'later', 'b')").await?;
    walvec.caught_up(&context).await?;
    let renamed = Expected { text: |row| format!("an item: {}", row["name"].as_str().unwrap_or_default()), ..expected };
    assert_eq!(image::compare_on_server(&context, &renamed, &url).await?, 2);
    walvec.stop().await?;
    Remote::purge(server, name).await?;
    Ok(())
}
