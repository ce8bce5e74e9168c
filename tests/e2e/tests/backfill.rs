//! Rows read again while the stream goes on.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, Walvec, image, test, wait};
use walvec_model::{Fingerprint, MadeWith, PointId};
use walvec_sink::qdrant::{Remote, Server};
use walvec_sink::{CollectionSpec, Sink, Write};
use walvec_test_qdrant::TestServer;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(the_rows_that_were_asked_for_are_read_again_and_no_others),
        test!(a_stale_read_never_beats_a_newer_change_and_nothing_deleted_comes_back),
        test!(a_backfill_waits_for_a_commit_that_the_stream_has_and_a_query_does_not_see_yet).on_own_server(&[]),
        test!(a_backfill_that_cannot_be_done_says_why),
    ]
}

fn items() -> Settings {
    Settings::new([Collection::new("items", "public.items", "{{ name }}")])
}

fn image_of_items() -> Expected {
    Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned())
}

async fn create(context: &TestContext, rows: u32) -> Result<()> {
    let table = "CREATE TABLE items (id int PRIMARY KEY, name text)";
    let rows = format!("INSERT INTO items SELECT g, 'name ' || g FROM generate_series(1, {rows}) g");
    context.execute(&format!("{table}; {rows}")).await
}

async fn the_rows_that_were_asked_for_are_read_again_and_no_others(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    create(&context, 100).await?;
    let settings = items().with("sink", json!({ "qdrant": { "url": server.url() } }));
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    // Another program deletes points without walvec's knowledge.
    let intruder = intruder(&server)?;
    intruder.write(&(1..=50).map(|id| Write::Delete(PointId::Num(id))).collect::<Vec<_>>()).await?;
    let output = context.walvec(&["backfill", "--table", "public.items", "--where", "id <= 30 -- some"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout)?, "30 rows of public.items were read again.\n");
    assert_eq!(intruder.count().await?, 80);
    let output = context.walvec(&["backfill", "--table", "public.items", "--json"]).await?;
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout)?, json!({"rows": 100}));
    let computed = walvec.caught_up(&context).await?.collections[0].embeddings_computed;
    assert_eq!(computed, 150, "unchanged texts keep their vectors");
    walvec.stop().await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 100);
    Ok(())
}

/// Returns the collection `items` as another program opens it, to write to it.
pub(crate) fn intruder(server: &TestServer) -> Result<Remote> {
    let spec = CollectionSpec {
        name: "items".to_owned(),
        dimension: 64,
        fingerprint: Fingerprint(String::new()),
        made_with: MadeWith::default(),
        indexes: Vec::new(),
        vector: None,
        keywords: None,
        nesting: None,
    };
    Ok(Remote::new(Server::at(server.url()), spec)?)
}

async fn a_stale_read_never_beats_a_newer_change_and_nothing_deleted_comes_back(context: TestContext) -> Result<()> {
    create(&context, 500).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    let is_over = AtomicBool::new(false);
    let backfills = async {
        for _ in 0..5 {
            let output = context.walvec(&["backfill", "--table", "public.items"]).await?;
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        is_over.store(true, Ordering::Relaxed);
        Ok(())
    };
    tokio::try_join!(backfills, write_until(&is_over, &context, &mut walvec))?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    image::compare(&context, &image_of_items()).await?;
    Ok(())
}

/// Changes a few keys again and again: deletes them, inserts them again, renames and moves them, and sometimes changes
/// all rows.
async fn write_until(is_over: &AtomicBool, context: &TestContext, walvec: &mut Walvec) -> Result<()> {
    let mut round = 0;
    while !is_over.load(Ordering::Relaxed) {
        let key = round % 50 + 1;
        context
            .execute(&format!(
                "DELETE FROM items WHERE id = {key};
                 INSERT INTO items VALUES ({key}, 'again {round}');
                 UPDATE items SET name = 'later {round}' WHERE id % 50 = {key} % 50;
                 DELETE FROM items WHERE id = {key} + 100;
                 UPDATE items SET id = id + 10000 WHERE id = {key} + 200 AND {round} % 2 = 0"
            ))
            .await?;
        if round % 200 == 199 {
            let again =
                "BEGIN; TRUNCATE items; INSERT INTO items SELECT g, 'new ' || g FROM generate_series(1, 500) g; COMMIT";
            context.execute(again).await?;
        }
        if round % 20 == 0 {
            // The writer must not get far ahead of the program, which gets less of the processor than the server.
            walvec.caught_up(context).await?;
        }
        round += 1;
    }
    Ok(())
}

async fn a_backfill_waits_for_a_commit_that_the_stream_has_and_a_query_does_not_see_yet(
    mut context: TestContext,
) -> Result<()> {
    create(&context, 10).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    let update = "UPDATE items SET name = 'committed and waiting' WHERE id = 1";
    let update = hung(&context, update, "UPDATE items SET name = 'name 1' WHERE id = 1").await?;
    walvec
        .wait_for("the stream has brought it", |status| {
            status.lag_ms == Some(0) && status.applied_lsn > status.confirmed_lsn
        })
        .await
        .ok();
    wait::until("the update can be found", async || {
        let hits = walvec.search("committed and waiting", 1).await?;
        Ok((hits[0]["payload"]["name"] == "committed and waiting").then_some(()))
    })
    .await?;
    let seen: String = context.sql.query_one("SELECT name FROM items WHERE id = 1", &[]).await?.get(0);
    assert_eq!(seen, "name 1", "a query does not see what the stream has brought");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE_REPLICATION_SLOT%TEMPORARY%'";
    let backfill = context.walvec(&["backfill", "--table", "public.items"]);
    let (output, released) = tokio::join!(backfill, async {
        wait::until("the backfill waits for the commit", async || {
            let count: i64 = context.sql.query_one(waiting, &[]).await?.get(0);
            Ok((count > 0).then_some(()))
        })
        .await?;
        let_go(&context).await
    });
    released?;
    assert!(output?.status.success());
    update.await??;
    context.reconnect().await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 10);
    Ok(())
}

/// A statement whose commit waits.
pub(crate) type Hung = JoinHandle<Result<(), tokio_postgres::Error>>;

/// Lets the commit of `change` wait for a standby that does not exist. Needs a server of its own.
pub(crate) async fn hung(context: &TestContext, change: &'static str, undo: &str) -> Result<Hung> {
    context.execute("ALTER SYSTEM SET synchronous_standby_names = 'ghost'").await?;
    context.execute("SELECT pg_reload_conf()").await?;
    wait::until("a commit waited for the standby", async || tried(context, change, undo).await).await
}

/// Lets all commits go on.
pub(crate) async fn let_go(context: &TestContext) -> Result<()> {
    context.execute("ALTER SYSTEM RESET synchronous_standby_names").await?;
    context.execute("SELECT pg_reload_conf()").await
}

/// Runs `change` and returns it if its commit waits. `None`: the commit did not wait, and `undo` took the change back. The server
/// does not report when it has read its settings again, so the first attempts may be too early.
async fn tried(context: &TestContext, change: &'static str, undo: &str) -> Result<Option<Hung>> {
    let hung = context.connect().await?;
    hung.batch_execute("SET synchronous_commit = on").await?;
    let update = tokio::spawn(async move { hung.batch_execute(change).await });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    wait::until("the update was done or waited", async || {
        let count: i64 = context.sql.query_one(waiting, &[]).await?.get(0);
        Ok((count > 0 || update.is_finished()).then_some(()))
    })
    .await?;
    if !update.is_finished() {
        return Ok(Some(update));
    }
    update.await??;
    context.execute(&format!("SET synchronous_commit = local; {undo}")).await?;
    Ok(None)
}

async fn a_backfill_that_cannot_be_done_says_why(context: TestContext) -> Result<()> {
    create(&context, 10).await?;
    context.configure(&items())?;
    let refused = async |arguments: &[&str], exit: i32, code: &str, words: &str| -> Result<()> {
        let output = context.walvec(&[&["backfill"], arguments].concat()).await?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(exit), "{told}");
        assert!(told.ends_with(&format!("{code}\n")) && told.contains(words), "{told}");
        Ok(())
    };
    refused(&["--table", "public.items"], 3, "E_NOT_RUNNING", "walvec run").await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    refused(&["--table", "public.others"], 2, "E_USAGE", "public.items").await?;
    for condition in [
        "no_such_column > 1",
        "id >",
        "true) TO PROGRAM 'touch /tmp/x' --",
        "true; DROP TABLE items",
        "id = 1) OR (id = 2",
        "true) UNION SELECT 1, ('x'",
    ] {
        refused(&["--table", "public.items", "--where", condition], 2, "E_CONFIG", "condition").await?;
    }
    assert!(context.walvec(&["backfill", "--table", "public.items"]).await?.status.success());
    walvec.stop().await
}
