//! Lost changes are made up for by reading the tables again: visibly, and embedding only changed texts.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use walvec_e2e::{Collection, Expected, Kafka, Settings, Test, TestContext, Walvec, image, test, wait};
use walvec_pipeline::Status;
use walvec_pipeline::observe::status::Phase;
use walvec_test_kafka::can_test;
use walvec_test_qdrant::TestServer;

use crate::faults::{self, new_seed, stop_writing, writer};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_slot_that_was_dropped_is_made_up_for_and_only_changed_texts_are_paid_for),
        test!(a_slot_that_is_dropped_while_walvec_runs_is_made_up_for),
        test!(a_slot_that_capture_lost_is_made_up_for_by_the_workers),
        test!(a_lost_slot_is_made_up_for).on_own_server(&[("max_slot_wal_keep_size", "1MB"), ("max_wal_size", "32MB")]),
        test!(a_slot_that_is_about_to_be_lost_is_shown)
            .on_own_server(&[("max_slot_wal_keep_size", "16MB"), ("wal_keep_size", "0")])
            .once(),
        test!(a_slot_that_was_idle_for_longer_than_the_server_allows_is_made_up_for)
            .on_own_server(&[("idle_replication_slot_timeout", "1s")])
            .since(18),
        test!(a_publication_that_was_dropped_or_altered_is_put_back_and_made_up_for),
        test!(a_publication_that_is_dropped_while_walvec_runs_is_made_up_for),
        test!(a_publication_that_is_made_anew_under_load_leaves_no_gap),
        test!(a_slot_that_another_program_has_read_is_made_up_for),
        test!(more_than_half_of_a_collection_is_removed_only_if_a_person_says_so),
        test!(points_are_never_swept_because_of_another_database),
        test!(a_server_that_was_put_back_to_an_older_state_is_noticed).on_own_server(&[]),
        test!(the_tables_are_read_again_when_a_person_asks_for_it).once(),
    ]
}

fn items() -> Settings {
    Settings::new([Collection::new("items", "public.items", "{{ name }}")])
}

fn image_of_items() -> Expected {
    Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned())
}

const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, name text);
    INSERT INTO items SELECT g, 'name ' || g FROM generate_series(1, 20) g";

/// Changes that the stream no longer brings: one new text, one changed text, one row less.
const UNSEEN: &str = "INSERT INTO items VALUES (21, 'unseen'); UPDATE items SET name = 'changed' WHERE id = 1;
    DELETE FROM items WHERE id = 2";

const DROP_SLOT: &str = "SELECT pg_drop_replication_slot($1)";

/// Starts walvec and waits until it has reached the end of the stream.
async fn running(context: &TestContext) -> Result<Walvec> {
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(context).await?;
    Ok(walvec)
}

async fn stopped(context: &TestContext) -> Result<()> {
    running(context).await?.stop().await
}

/// Returns the code of the gap that the present generation closed.
fn gap(status: &Status) -> Option<&str> {
    status.resync.as_ref().map(|resync| resync.code.as_str())
}

async fn start_again(context: &TestContext, code: &str) -> Result<(Walvec, Status)> {
    let mut walvec = context.start(&items()).await?;
    let status = walvec.caught_up(context).await?;
    ensure!(gap(&status) == Some(code), "{:?}", status.resync);
    Ok((walvec, status))
}

/// Stops walvec and compares the collection with its table.
async fn ends_as_the_table(context: &TestContext, walvec: Walvec) -> Result<()> {
    walvec.stop().await?;
    let count: i64 = context.sql.query_one("SELECT count(*) FROM items", &[]).await?.get(0);
    assert_eq!(image::compare(context, &image_of_items()).await?, usize::try_from(count)?);
    Ok(())
}

async fn a_slot_that_was_dropped_is_made_up_for_and_only_changed_texts_are_paid_for(
    context: TestContext,
) -> Result<()> {
    stopped(&context).await?;
    context.sql.query_one(DROP_SLOT, &[&context.slot()]).await?;
    context.execute(UNSEEN).await?;
    let checked = String::from_utf8(context.walvec(&["check"]).await?.stdout)?;
    ensure!(checked.contains("will read 1 table again, because slot"), "{checked}");
    let (walvec, status) = start_again(&context, "E_SLOT_MISSING").await?;
    assert_eq!((status.generation.0, status.collections[0].embeddings_computed), (2, 2));
    let told = String::from_utf8(context.walvec(&["status"]).await?.stdout)?;
    ensure!(told.contains("Tables read again since ") && told.contains("does not exist any more"), "{told}");
    let metrics = walvec.get("/metrics", &[]).await?.text().await?;
    ensure!(metrics.contains("walvec_resyncs_total{code=\"E_SLOT_MISSING\"} 1"), "{metrics}");
    ends_as_the_table(&context, walvec).await
}

async fn a_slot_that_is_dropped_while_walvec_runs_is_made_up_for(context: TestContext) -> Result<()> {
    let mut walvec = running(&context).await?;
    drop_busy_slot(&context).await?;
    context.execute(UNSEEN).await?;
    walvec.wait_for("the gap is closed", |status| gap(status) == Some("E_SLOT_MISSING")).await?;
    let status = walvec.caught_up(&context).await?;
    ensure!(status.generation.0 == 2, "{status:?}");
    ends_as_the_table(&context, walvec).await
}

/// Drops a slot that is in use. PostgreSQL refuses that while a session reads the slot, so the session is ended first;
/// walvec reconnects at once.
async fn drop_busy_slot(context: &TestContext) -> Result<()> {
    let drop = "SELECT pg_terminate_backend(active_pid), pg_drop_replication_slot(slot_name)
                FROM pg_replication_slots WHERE slot_name = $1";
    wait::until("the slot is dropped", async || {
        let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1";
        context.sql.query(end, &[&context.slot()]).await?;
        Ok(context.sql.query(drop, &[&context.slot()]).await.ok())
    })
    .await?;
    Ok(())
}

/// The slot is lost while capture is stopped, and again while it runs: capture has its state, but its stream has a gap.
async fn a_slot_that_capture_lost_is_made_up_for_by_the_workers(context: TestContext) -> Result<()> {
    if !can_test("a lost slot behind a broker") {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    let settings = kafka.carries(items().with("sink", json!({ "qdrant": { "url": server.url() } })));
    context.execute(TABLE).await?;
    let mut capture = context.start_stage(&settings, "capture", "a").await?;
    capture.caught_up(&context).await?;
    let mut worker = context.start_stage(&settings, "index", "a").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;

    capture.stop().await?;
    context.sql.query_one(DROP_SLOT, &[&context.slot()]).await?;
    context.execute(UNSEEN).await?;
    let mut capture = context.start_stage(&settings, "capture", "a").await?;
    let first = capture.wait_for("the gap is closed", |status| gap(status) == Some("E_SLOT_MISSING")).await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 20);

    drop_busy_slot(&context).await?;
    context.execute("INSERT INTO items VALUES (22, 'unseen too'); DELETE FROM items WHERE id IN (3, 4)").await?;
    capture.wait_for("the next gap is closed", |status| status.generation > first.generation).await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 19);
    worker.stop().await?;
    capture.stop().await
}

async fn a_lost_slot_is_made_up_for(context: TestContext) -> Result<()> {
    stopped(&context).await?;
    let lost = "SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = $1";
    wait::until("the server gives the slot up", async || {
        let filler = "CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 5000); DROP TABLE filler";
        context.execute(filler).await?;
        context.execute("SELECT pg_switch_wal()").await?;
        context.execute("CHECKPOINT").await?;
        let is_lost: Option<bool> = context.sql.query_one(lost, &[&context.slot()]).await?.get(0);
        Ok(is_lost.filter(|is_lost| *is_lost))
    })
    .await?;
    context.execute(UNSEEN).await?;
    let (walvec, _) = start_again(&context, "E_SLOT_LOST").await?;
    ends_as_the_table(&context, walvec).await
}

async fn a_slot_that_is_about_to_be_lost_is_shown(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let settings = items().with("embedding", json!({ "model": "hash/64/wait/3000" }));
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    context.execute("UPDATE items SET name = 'is being embedded' WHERE id = 1").await?;
    context
        .execute(
            "SELECT count(pg_logical_emit_message(false, 'fill', repeat('x', 1000000))) FROM generate_series(1, 80)",
        )
        .await?;
    let at_risk = |status: &Status| {
        status.problem.as_ref().is_some_and(|problem| problem.message.contains("max_slot_wal_keep_size"))
    };
    walvec.wait_for("the risk is shown", at_risk).await?;
    walvec.caught_up(&context).await?;
    walvec.wait_for("the risk is over", |status| status.problem.is_none()).await?;
    walvec.stop().await
}

async fn a_slot_that_was_idle_for_longer_than_the_server_allows_is_made_up_for(context: TestContext) -> Result<()> {
    stopped(&context).await?;
    let lost = "SELECT invalidation_reason = 'idle_timeout' FROM pg_replication_slots WHERE slot_name = $1";
    wait::until("the server gives the slot up", async || {
        context.execute("CHECKPOINT").await?;
        let is_lost: Option<bool> = context.sql.query_one(lost, &[&context.slot()]).await?.get(0);
        Ok(is_lost.filter(|is_lost| *is_lost))
    })
    .await?;
    context.execute(UNSEEN).await?;
    let (walvec, _) = start_again(&context, "E_SLOT_LOST").await?;
    ends_as_the_table(&context, walvec).await
}

async fn a_publication_that_was_dropped_or_altered_is_put_back_and_made_up_for(context: TestContext) -> Result<()> {
    stopped(&context).await?;
    context.execute("DROP PUBLICATION walvec").await?;
    context.execute(UNSEEN).await?;
    let (walvec, _) = start_again(&context, "E_PUBLICATION").await?;
    walvec.stop().await?;
    context.execute("ALTER PUBLICATION walvec SET (publish = 'insert'); DELETE FROM items WHERE id = 3").await?;
    let (mut walvec, status) = start_again(&context, "E_PUBLICATION").await?;
    assert_eq!(status.generation.0, 3);
    context.execute("DELETE FROM items WHERE id = 4").await?;
    walvec.caught_up(&context).await?;
    ends_as_the_table(&context, walvec).await
}

async fn a_publication_that_is_dropped_while_walvec_runs_is_made_up_for(context: TestContext) -> Result<()> {
    let mut walvec = running(&context).await?;
    context.execute("DROP PUBLICATION walvec").await?;
    context.execute(UNSEEN).await?;
    walvec.wait_for("the gap is closed", |status| gap(status) == Some("E_PUBLICATION")).await?;
    walvec.caught_up(&context).await?;
    context.execute("ALTER PUBLICATION walvec DROP TABLE items").await?;
    context.execute("DELETE FROM items WHERE id = 5").await?;
    walvec.wait_for("the second gap is closed", |status| status.generation.0 >= 3).await?;
    walvec.caught_up(&context).await?;
    context.execute("DELETE FROM items WHERE id = 6").await?;
    walvec.caught_up(&context).await?;
    ends_as_the_table(&context, walvec).await
}

async fn a_publication_that_is_made_anew_under_load_leaves_no_gap(context: TestContext) -> Result<()> {
    let seed = new_seed();
    context.execute(faults::TABLE).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    let writing = writer(context.connect().await?, seed, 20_000);
    // The publication is created again at once, or it is missing for a while.
    for (round, anew) in
        ["DROP PUBLICATION walvec; CREATE PUBLICATION walvec FOR TABLE items", "DROP PUBLICATION walvec"]
            .into_iter()
            .enumerate()
    {
        context.execute(anew).await?;
        let generation = round as u64 + 2;
        walvec.wait_for("the tables were read again", |status| status.generation.0 >= generation).await?;
        walvec.caught_up(&context).await?;
    }
    stop_writing(writing).await?;
    walvec.caught_up(&context).await?;
    ends_as_the_table(&context, walvec).await
}

async fn a_slot_that_another_program_has_read_is_made_up_for(context: TestContext) -> Result<()> {
    stopped(&context).await?;
    context.execute(UNSEEN).await?;
    let advance = "SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())";
    context.sql.query_one(advance, &[&context.slot()]).await?;
    let (walvec, _) = start_again(&context, "E_POSITION").await?;
    ends_as_the_table(&context, walvec).await
}

async fn more_than_half_of_a_collection_is_removed_only_if_a_person_says_so(context: TestContext) -> Result<()> {
    stopped(&context).await?;
    context.sql.query_one(DROP_SLOT, &[&context.slot()]).await?;
    context.execute("DELETE FROM items WHERE id > 9").await?;
    let (mut walvec, status) = start_again(&context, "E_SLOT_MISSING").await?;
    let waits = |status: &Status| status.problem.clone().filter(|problem| problem.message.contains("11 of 20 points"));
    let remedy = waits(&status).context("no problem")?.remedy.unwrap_or_default();
    ensure!(remedy.contains("walvec resync --force"), "{remedy}");
    // The stream goes on, also after a restart.
    context.execute("INSERT INTO items SELECT g, 'more' FROM generate_series(30, 49) g").await?;
    walvec.caught_up(&context).await?;
    walvec.wait_for("they are counted", |status| status.collections[0].points == Some(40)).await?;
    walvec.stop().await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    // The points still wait, although they are no longer most of the collection.
    let waiting =
        |status: &Status| status.problem.as_ref().is_some_and(|problem| problem.message.contains("11 of 40 points"));
    walvec.wait_for("they wait", waiting).await?;
    // Reading all tables again, or only this one, does not remove the points either.
    let generation = walvec.status().await?.generation;
    context.execute("ALTER TABLE items ADD COLUMN n int").await?;
    let is_read = |status: &Status| status.generation > generation && status.phase == Phase::Streaming;
    walvec.wait_for("all tables are read again", is_read).await?;
    let before = walvec.status().await?.collections[0].embeddings_computed;
    context.execute("ALTER TABLE items ALTER COLUMN name TYPE text USING upper(name)").await?;
    walvec
        .wait_for("the table is read again", |status| status.collections[0].embeddings_computed >= before + 29)
        .await?;
    walvec.caught_up(&context).await?;
    walvec
        .wait_for("they wait all the same", |status| waiting(status) && status.collections[0].points == Some(40))
        .await?;

    let removed = context.walvec(&["resync", "--force", "--json"]).await?;
    let removed: Value = serde_json::from_slice(&removed.stdout)?;
    assert_eq!(removed, json!({"action": "removed", "points_removed": 11}));
    walvec.wait_for("nothing waits any more", |status| status.problem.is_none()).await?;
    ends_as_the_table(&context, walvec).await
}

async fn points_are_never_swept_because_of_another_database(context: TestContext) -> Result<()> {
    stopped(&context).await?;
    context.sql.query_one(DROP_SLOT, &[&context.slot()]).await?;
    let (url, client) = context.create_another_database().await?;
    client.batch_execute("CREATE TABLE items (id int PRIMARY KEY, name text)").await?;
    let elsewhere = items().with("source", json!({ "url": url }));
    for asks in [false, true] {
        if asks {
            context.configure(&items())?;
            ensure!(context.walvec(&["resync"]).await?.status.success());
        }
        context.configure(&elsewhere)?;
        let output = context.walvec(&["run"]).await?;
        let told = String::from_utf8(output.stderr)?;
        ensure!(told.lines().last() == Some("E_SOURCE"), "{told}");
    }
    drop(client);
    context.drop_another_database().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 20);
    Ok(())
}

async fn a_server_that_was_put_back_to_an_older_state_is_noticed(mut context: TestContext) -> Result<()> {
    let mut walvec = running(&context).await?;
    context.execute("INSERT INTO items VALUES (21, 'before the copy')").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let copy = context.copy_cluster(false, &[]).await?;
    context.reconnect().await?;
    let mut walvec = context.start(&items()).await?;
    context.execute(UNSEEN.replace("21", "22").as_str()).await?;
    walvec.caught_up(&context).await?;
    let position = context.wal_position().await?;
    walvec.stop().await?;

    // The copy goes on from an earlier state, and writes past the position that walvec has reached.
    context.turn_to(&copy).await?;
    context.execute("INSERT INTO items VALUES (31, 'another history')").await?;
    wait::until("the copy has come as far", async || {
        context.execute("CREATE TABLE filler AS SELECT generate_series(1, 5000); DROP TABLE filler").await?;
        Ok((context.wal_position().await? > position).then_some(()))
    })
    .await?;
    let settings = items().with("source", json!({ "url": copy.url(context.database()) }));
    let mut walvec = context.start(&settings).await?;
    walvec.wait_for("it is noticed", |status| gap(status) == Some("E_POSITION")).await?;
    walvec.caught_up(&context).await?;
    ends_as_the_table(&context, walvec).await?;
    copy.close().await?;
    Ok(())
}

async fn the_tables_are_read_again_when_a_person_asks_for_it(context: TestContext) -> Result<()> {
    let mut walvec = running(&context).await?;
    let told = String::from_utf8(context.walvec(&["resync"]).await?.stdout)?;
    ensure!(told.contains("are being read again"), "{told}");
    let status = walvec.wait_for("they are", |status| status.generation.0 == 2).await?;
    assert_eq!(gap(&status), Some("asked"));
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    ensure!(context.walvec(&["resync"]).await?.status.success());
    let (walvec, status) = start_again(&context, "asked").await?;
    assert_eq!((status.generation.0, status.collections[0].embeddings_computed), (3, 0));
    ends_as_the_table(&context, walvec).await
}
