//! Memory stays within the configured bounds, for rows of every size.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, Walvec, image, is_full, test};
use walvec_test_qdrant::TestServer;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(rows_of_a_megabyte_are_changed_and_deleted_in_bounded_memory).once(),
        test!(a_server_that_is_away_for_minutes_costs_no_memory_and_no_session)
            .on_own_server(&[("wal_sender_timeout", "2s")])
            .once(),
        test!(a_hundred_thousand_parked_rows_take_bounded_memory).once(),
        test!(one_transaction_over_a_whole_table_takes_memory_for_what_is_under_way_and_no_more).once(),
    ]
}

const BOUND: u64 = 300 << 20;

/// The bound for short rows. They take about 20 MB, including the program itself, and took 52 MB when only their values
/// counted.
const SHORT_ROWS_BOUND: u64 = 40 << 20;

/// Waits until everything is applied, and returns the most memory that the program had meanwhile.
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
    let rows = if is_full() { 2_000 } else { 400 };
    let insert = format!(
        "INSERT INTO items SELECT g, 'title ' || g, 0, repeat(md5(g::text), 32768), repeat(md5(g::text), 32768)
         FROM generate_series(1, {rows}) g"
    );
    for (what, statement) in
        [("insert", insert.as_str()), ("update", "UPDATE items SET n = n + 1"), ("delete", "DELETE FROM items")]
    {
        context.execute(statement).await?;
        let peak = peak_until_caught_up(&context, &mut walvec).await?;
        ensure!(peak < BOUND, "{what}: {} MiB", peak >> 20);
    }
    walvec.stop().await
}

async fn a_server_that_is_away_for_minutes_costs_no_memory_and_no_session(context: TestContext) -> Result<()> {
    // Several times as long as PostgreSQL waits for feedback, and ten minutes for `make prove`.
    let outage = Duration::from_secs(if is_full() { 600 } else { 7 });
    let server = TestServer::start()?;
    context.execute("CREATE TABLE items (id int PRIMARY KEY, name text, body text)").await?;
    let settings = Settings::new([Collection::new("items", "public.items", "{{ name }}")])
        .with("sink", json!({ "qdrant": { "url": server.url() } }));
    let mut walvec = context.start(&settings).await?;
    context
        .execute("INSERT INTO items SELECT g, 'name ' || g, repeat('x', 3000) FROM generate_series(1, 100) g")
        .await?;
    walvec.caught_up(&context).await?;
    let stands = "SELECT active_pid, confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1";
    let slot = async || -> Result<(Option<i32>, String)> {
        let row = context.sql.query_one(stands, &[&context.slot()]).await?;
        Ok((row.get(0), row.get(1)))
    };
    server.stop().await;
    context.execute("UPDATE items SET name = 'first ' || id").await?;
    walvec.wait_for("the server is missed", |status| status.problem.is_some()).await?;
    let before = slot().await?;
    let (began, mut peak, mut id) = (Instant::now(), 0, 1000);
    while began.elapsed() < outage {
        let rows = format!("generate_series({id}, {id} + 199) g");
        context.execute(&format!("INSERT INTO items SELECT g, 'name ' || g, repeat('y', 3000) FROM {rows}")).await?;
        id += 200;
        walvec.is_alive()?;
        peak = peak.max(walvec.anonymous_memory()?);
        // The pause of an application between two statements; the test does not wait for an event here.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(slot().await?, before, "what is not stored was confirmed, or the session was lost");
    server.resume().await?;
    peak = peak.max(peak_until_caught_up(&context, &mut walvec).await?);
    ensure!(peak < BOUND, "{} MiB", peak >> 20);
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let expected = Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned());
    let rows: i64 = context.sql.query_one("SELECT count(*) FROM items", &[]).await?.get(0);
    assert_eq!(image::compare_on_server(&context, &expected, &server.url()).await?, usize::try_from(rows)?);
    Ok(())
}

async fn a_hundred_thousand_parked_rows_take_bounded_memory(context: TestContext) -> Result<()> {
    let rows: u64 = if is_full() { 1_000_000 } else { 100_000 };
    context.execute("CREATE TABLE items (id int PRIMARY KEY, title text)").await?;
    let settings = Settings::new([Collection::new("items", "public.items", "{{ title + id }}")]);
    let mut walvec = context.start(&settings).await?;
    context.execute(&format!("INSERT INTO items SELECT g, 'title ' || g FROM generate_series(1, {rows}) g")).await?;
    let peak = peak_until_caught_up(&context, &mut walvec).await?;
    ensure!(peak < BOUND, "{} MiB", peak >> 20);
    ensure!(walvec.status().await?.collections[0].dead_letters == rows);
    walvec.stop().await?;
    // A restart reads the parked rows, and the next version of each row clears it.
    let mut walvec = context.start(&settings).await?;
    ensure!(walvec.caught_up(&context).await?.collections[0].dead_letters == rows);
    context.execute("TRUNCATE items").await?;
    let peak = peak_until_caught_up(&context, &mut walvec).await?;
    ensure!(peak < BOUND, "{} MiB", peak >> 20);
    ensure!(walvec.caught_up(&context).await?.collections[0].dead_letters == 0);
    walvec.stop().await
}

/// The rows go to a server in the test's process, so in the program they take memory only while they are in flight.
async fn one_transaction_over_a_whole_table_takes_memory_for_what_is_under_way_and_no_more(
    context: TestContext,
) -> Result<()> {
    let rows = if is_full() { 1_000_000 } else { 60_000 };
    let server = TestServer::start()?;
    context.execute("CREATE TABLE items (id int PRIMARY KEY, title text, n int)").await?;
    let settings = Settings::new([Collection::new("items", "public.items", "{{ title }}")])
        .with("sink", json!({ "qdrant": { "url": server.url() } }));
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    for (what, statement) in [
        ("insert", format!("INSERT INTO items SELECT g, 'title ' || g, 0 FROM generate_series(1, {rows}) g")),
        ("update", "UPDATE items SET n = n + 1".to_owned()),
        ("delete", "DELETE FROM items".to_owned()),
    ] {
        context.execute(&statement).await?;
        let peak = peak_until_caught_up(&context, &mut walvec).await?;
        ensure!(peak < SHORT_ROWS_BOUND, "{what}: {} MiB", peak >> 20);
    }
    walvec.stop().await
}
