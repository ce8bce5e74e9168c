//! Large values that PostgreSQL does not send because an update has not touched them: they are read again, and the value that is
//! read is never older than the change.

use anyhow::{Context as _, Result, ensure};
use walvec_e2e::{Collection, Expected, Kafka, Settings, Test, TestContext, Walvec, image, repeats, test};
use walvec_model::Payload;
use walvec_pipeline::Status;
use walvec_test_kafka::can_test;

use crate::backfill::{hung, let_go};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_value_of_a_version_that_was_dropped_unread_is_not_taken_from_the_one_before).once(),
        test!(a_row_waits_until_its_change_can_be_seen_and_is_neither_lost_nor_stale).on_own_server(&[]),
        test!(changes_in_sessions_of_their_own_lose_no_row),
        test!(a_row_waits_behind_a_broker_until_its_change_can_be_seen).on_own_server(&[]).once(),
        test!(changes_in_sessions_of_their_own_lose_no_row_behind_a_broker).once(),
    ]
}

/// Returns settings with the body in the text but not in the payload, so walvec has to read it again after every update
/// without it.
fn items() -> Settings {
    let collection = Collection::new("items", "public.items", "{{ name }}: {{ body }}");
    Settings::new([collection.with("payload", serde_json::json!(["name"]))])
}

fn text(row: &Payload) -> String {
    let value = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
    format!("{}: {}", value("name"), value("body"))
}

fn image_of_items() -> Expected {
    Expected { payload: Some(&["name"]), ..Expected::of("items", text) }
}

async fn create(context: &TestContext, rows: u32) -> Result<()> {
    let table = "CREATE TABLE items (id int PRIMARY KEY, name text, body text);
                 ALTER TABLE items ALTER COLUMN body SET STORAGE EXTERNAL";
    let rows = format!(
        "INSERT INTO items SELECT g, 'name ' || g, repeat('body ' || g || ' ', 600) FROM generate_series(1, {rows}) g"
    );
    context.execute(&format!("{table}; {rows}")).await
}

async fn a_row_waits_until_its_change_can_be_seen_and_is_neither_lost_nor_stale(
    mut context: TestContext,
) -> Result<()> {
    create(&context, 10).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    let moved = "UPDATE items SET id = 101 WHERE id = 1";
    let moved = hung(&context, moved, "UPDATE items SET id = 1 WHERE id = 101").await?;
    let renamed = "UPDATE items SET name = 'new' WHERE id = 2";
    let renamed = hung(&context, renamed, "UPDATE items SET name = 'name 2' WHERE id = 2").await?;
    let status = walvec.wait_for("the rows wait", |status| status.problem.is_some()).await?;
    let problem = status.problem.context("no problem")?;
    ensure!(problem.message.contains("cannot be seen by others yet"), "{problem:?}");
    ensure!(problem.remedy.is_some_and(|remedy| remedy.contains("synchronous_standby_names")));
    let_go(&context).await?;
    moved.await??;
    renamed.await??;
    context.reconnect().await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 10);
    Ok(())
}

async fn a_row_waits_behind_a_broker_until_its_change_can_be_seen(mut context: TestContext) -> Result<()> {
    if !can_test("the path through a broker") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    create(&context, 10).await?;
    // Before row 1 takes this number, another row with another body has it.
    context.execute("INSERT INTO items VALUES (101, 'before', repeat('another body ', 300))").await?;
    let settings = kafka.carries(items());
    let mut capture = crate::broker::captured(&context, &settings).await?;
    let mut worker = context.start_stage(&settings, "index", "1").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    let moved = "BEGIN; DELETE FROM items WHERE id = 101; UPDATE items SET id = 101 WHERE id = 1; COMMIT";
    let back = "UPDATE items SET id = 1 WHERE id = 101; INSERT INTO items VALUES (101, 'before', 'another body')";
    let moved = hung(&context, moved, back).await?;
    capture.wait_for("the row waits", |status| status.problem.is_some()).await?;
    let_go(&context).await?;
    moved.await??;
    context.reconnect().await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    worker.stop().await?;
    capture.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 10);
    Ok(())
}

/// Changes keys and another column, each in a session of its own.
async fn change(context: &TestContext, rows: u32, changes: u64) -> Result<()> {
    for change in 0..changes {
        let id = change % u64::from(rows) + 1;
        let statement = match change % 2 {
            0 => format!("UPDATE items SET id = id + {rows} WHERE id % {rows} = {id} % {rows}"),
            _ => format!("UPDATE items SET name = 'change {change}' WHERE id % {rows} = {id} % {rows}"),
        };
        context.connect().await?.batch_execute(&statement).await?;
    }
    Ok(())
}

async fn changes_in_sessions_of_their_own_lose_no_row(context: TestContext) -> Result<()> {
    const ROWS: u32 = 50;
    create(&context, ROWS).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    change(&context, ROWS, repeats(2_000)).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, ROWS as usize);
    Ok(())
}

async fn changes_in_sessions_of_their_own_lose_no_row_behind_a_broker(context: TestContext) -> Result<()> {
    const ROWS: u32 = 50;
    if !can_test("the path through a broker") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    create(&context, ROWS).await?;
    let settings = kafka.carries(items());
    let mut capture: Walvec = crate::broker::captured(&context, &settings).await?;
    let mut worker = context.start_stage(&settings, "index", "1").await?;
    change(&context, ROWS, repeats(2_000)).await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    worker.stop().await?;
    capture.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, ROWS as usize);
    Ok(())
}

/// The version between the stored one and the one that lacks the value could not be rendered, and its dead letter was
/// dropped.
async fn a_value_of_a_version_that_was_dropped_unread_is_not_taken_from_the_one_before(
    context: TestContext,
) -> Result<()> {
    context
        .execute(
            "CREATE TABLE items (id int PRIMARY KEY, n int, body text); ALTER TABLE items ALTER body SET STORAGE EXTERNAL;
             INSERT INTO items VALUES (1, 1, repeat('first', 1000)), (2, 1, 'other')",
        )
        .await?;
    let items = Settings::new([Collection::new("items", "public.items", "{{ 10 // n }} {{ body }}")]);
    let mut walvec = context.start(&items).await?;
    walvec.caught_up(&context).await?;
    context.execute("UPDATE items SET n = 0, body = repeat('second', 1000) WHERE id = 1").await?;
    let parked = |status: &Status| status.collections[0].dead_letters;
    walvec.wait_for("the row is parked", |status| parked(status) == 1).await?;
    walvec.stop().await?;
    assert!(context.walvec(&["dead-letters", "drop"]).await?.status.success());
    let listed = String::from_utf8(context.walvec(&["dead-letters", "list"]).await?.stdout)?;
    assert!(listed.contains("No row is parked."), "{listed}");

    let mut walvec = context.start(&items).await?;
    assert_eq!(parked(&walvec.caught_up(&context).await?), 0);
    context.execute("UPDATE items SET n = 2 WHERE id = 1").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let sql = Some("format('%s %s', 10 / n, body)");
    assert_eq!(image::compare(&context, &Expected { sql, ..Expected::of("items", |_| String::new()) }).await?, 2);
    Ok(())
}
