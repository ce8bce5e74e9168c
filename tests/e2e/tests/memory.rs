//! Memory is bounded by what is configured, whatever the rows are like.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use walvec_e2e::{Collection, Settings, Test, TestContext, Walvec, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(rows_of_a_megabyte_are_changed_and_deleted_in_bounded_memory).once(),
        test!(a_hundred_thousand_parked_rows_take_bounded_memory).once(),
    ]
}

const BOUND: u64 = 300 << 20;

/// Waits until everything is applied, and says how much memory the program had at most meanwhile.
async fn peak_until_caught_up(context: &TestContext, walvec: &mut Walvec) -> Result<u64> {
    let position = context.wal_position().await?;
    let mut peak = 0;
    while walvec.status().await?.applied_lsn < position {
        walvec.is_alive()?;
        peak = peak.max(walvec.anonymous_memory()?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(peak.max(walvec.anonymous_memory()?))
}

async fn rows_of_a_megabyte_are_changed_and_deleted_in_bounded_memory(context: TestContext) -> Result<()> {
    context.execute("CREATE TABLE items (id int PRIMARY KEY, title text, n int, body text, unused text)").await?;
    let collection = Collection::new("items", "public.items", "{{ title }}");
    let settings = Settings::new([collection.with("payload", json!(["title", "n", "body"]))]);
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    for (what, statement) in [
        (
            "insert",
            "INSERT INTO items SELECT g, 'title ' || g, 0, repeat(md5(g::text), 32768), repeat(md5(g::text), 32768)
             FROM generate_series(1, 600) g",
        ),
        ("update", "UPDATE items SET n = n + 1"),
        ("delete", "DELETE FROM items"),
    ] {
        context.execute(statement).await?;
        let peak = peak_until_caught_up(&context, &mut walvec).await?;
        ensure!(peak < BOUND, "{what}: {} MiB", peak >> 20);
    }
    walvec.stop().await
}

async fn a_hundred_thousand_parked_rows_take_bounded_memory(context: TestContext) -> Result<()> {
    const ROWS: u64 = 100_000;
    context.execute("CREATE TABLE items (id int PRIMARY KEY, title text)").await?;
    let settings = Settings::new([Collection::new("items", "public.items", "{{ title + id }}")]);
    let mut walvec = context.start(&settings).await?;
    context.execute(&format!("INSERT INTO items SELECT g, 'title ' || g FROM generate_series(1, {ROWS}) g")).await?;
    let peak = peak_until_caught_up(&context, &mut walvec).await?;
    ensure!(peak < BOUND, "{} MiB", peak >> 20);
    ensure!(walvec.status().await?.collections[0].dead_letters == ROWS);
    walvec.stop().await?;
    // A restart reads them, and the next version of each takes it back.
    let mut walvec = context.start(&settings).await?;
    ensure!(walvec.caught_up(&context).await?.collections[0].dead_letters == ROWS);
    context.execute("TRUNCATE items").await?;
    let peak = peak_until_caught_up(&context, &mut walvec).await?;
    ensure!(peak < BOUND, "{} MiB", peak >> 20);
    ensure!(walvec.caught_up(&context).await?.collections[0].dead_letters == 0);
    walvec.stop().await
}
