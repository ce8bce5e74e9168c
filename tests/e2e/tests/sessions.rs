//! Sessions on PostgreSQL: limits that are reached, logins that fail, and streams that hang.

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, image, test, wait};
use walvec_pipeline::observe::status::{Phase, Status};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_replication_connection_that_the_server_still_counts_is_waited_for)
            .on_own_server(&[("max_wal_senders", "1"), ("wal_sender_timeout", "3s")]),
        test!(a_backfill_without_a_free_slot_is_refused_at_once_with_the_setting)
            .on_own_server(&[("max_replication_slots", "1")]),
        test!(a_first_start_without_a_free_replication_connection_stops_with_the_setting)
            .on_own_server(&[("max_wal_senders", "0")]),
        test!(a_large_transaction_that_was_rolled_back_in_part_is_passed_over)
            .on_own_server(&[("logical_decoding_work_mem", "64kB")]),
        test!(a_password_that_was_changed_stops_walvec_by_name).on_own_server(&[]),
    ]
}

fn items() -> Settings {
    Settings::new([Collection::new("items", "public.items", "{{ name }}")])
}

fn image_of_items() -> Expected {
    Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned())
}

async fn create(context: &TestContext) -> Result<()> {
    let table = "CREATE TABLE items (id int PRIMARY KEY, name text)";
    context.execute(&format!("{table}; INSERT INTO items SELECT g, 'name ' || g FROM generate_series(1, 20) g")).await
}

async fn walsender(context: &TestContext) -> Result<Pid> {
    let query = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1";
    let pid: i32 = context.sql.query_one(query, &[&context.slot()]).await?.get(0);
    Pid::from_raw(pid).context("no walsender")
}

/// Suspends a process of the server while it is idle: a process that is suspended in the middle of its work looks busy.
async fn freeze_idle(context: &TestContext, pid: Pid) -> Result<()> {
    let query =
        "SELECT coalesce(wait_event_type IN ('Activity', 'Client'), false) FROM pg_stat_activity WHERE pid = $1";
    wait::until("the process is stopped while it is idle", async || {
        kill_process(pid, Signal::STOP)?;
        let row = context.sql.query_one(query, &[&pid.as_raw_nonzero().get()]).await?;
        let is_idle: bool = row.get(0);
        if !is_idle {
            kill_process(pid, Signal::CONT)?;
        }
        Ok(is_idle.then_some(()))
    })
    .await
}

fn is_waiting_for_a_connection(status: &Status) -> bool {
    status.problem.as_ref().is_some_and(|problem| problem.message.contains("no replication connection left"))
}

async fn a_replication_connection_that_the_server_still_counts_is_waited_for(context: TestContext) -> Result<()> {
    create(&context).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    // To walvec the connection is dead, but the server still counts it.
    let pid = walsender(&context).await?;
    freeze_idle(&context, pid).await?;
    let waiting = walvec.wait_for("the lack of a connection is shown", is_waiting_for_a_connection).await;
    kill_process(pid, Signal::CONT)?;
    let problem = waiting?.problem.context("no problem")?;
    assert!(problem.remedy.is_some_and(|remedy| remedy.contains("max_wal_senders")));
    context.execute("UPDATE items SET name = 'later ' || id").await?;
    walvec.caught_up(&context).await?;
    walvec.wait_for("the problem is over", |status| status.problem.is_none()).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 20);
    Ok(())
}

async fn a_backfill_without_a_free_slot_is_refused_at_once_with_the_setting(context: TestContext) -> Result<()> {
    create(&context).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    let output = context.walvec(&["backfill", "--table", "public.items"]).await?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{words}");
    assert_eq!(words.lines().last(), Some("E_LIMIT"), "{words}");
    assert!(words.contains("max_replication_slots") && words.contains("no replication slot left"), "{words}");
    assert_eq!(walvec.status().await?.phase, Phase::Streaming, "the stream goes on");
    walvec.stop().await
}

async fn a_first_start_without_a_free_replication_connection_stops_with_the_setting(
    context: TestContext,
) -> Result<()> {
    create(&context).await?;
    context.configure(&items())?;
    for command in ["check", "run"] {
        let output = context.walvec(&[command]).await?;
        let words = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success() && words.contains("E_LIMIT"), "{command}: {words}");
        assert!(words.contains("max_wal_senders"), "{command}: {words}");
    }
    Ok(())
}

async fn a_large_transaction_that_was_rolled_back_in_part_is_passed_over(context: TestContext) -> Result<()> {
    create(&context).await?;
    let walvec = context.start(&items()).await?;
    walvec.stop().await?;
    context
        .execute(
            "BEGIN; SAVEPOINT s; INSERT INTO items SELECT g, 'a ' || g FROM generate_series(100, 110) g; RELEASE s;
             INSERT INTO items SELECT g, repeat('b', 200) FROM generate_series(1000, 6000) g; ROLLBACK;
             BEGIN; SAVEPOINT s; INSERT INTO items SELECT g, repeat('c', 200) FROM generate_series(1000, 6000) g;
             ROLLBACK TO s; INSERT INTO items VALUES (200, 'kept'); COMMIT;
             INSERT INTO items VALUES (300, 'behind')",
        )
        .await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 22);
    Ok(())
}

async fn a_password_that_was_changed_stops_walvec_by_name(context: TestContext) -> Result<()> {
    create(&context).await?;
    context.execute("CREATE ROLE reader LOGIN REPLICATION SUPERUSER PASSWORD 'first-secret'").await?;
    let (_, place) =
        context.url().rsplit_once('@').map(|(login, place)| (login.to_owned(), place.to_owned())).context("a URL")?;
    let url = format!("postgres://reader:first-secret@{place}");
    let walvec =
        context.start(&items().with("source", serde_json::json!({ "url": url, "slot": context.slot() }))).await?;
    wait::until("it streams", async || {
        Ok((walvec.status().await.is_ok_and(|status| status.phase == Phase::Streaming)).then_some(()))
    })
    .await?;
    context.execute("ALTER ROLE reader PASSWORD 'second-secret'").await?;
    context.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'reader'").await?;
    let words = walvec.fails_with(3).await?;
    assert!(words.ends_with("E_AUTH"), "{words}");
    assert!(words.contains("refused the login") && !words.contains("secret"), "{words}");
    Ok(())
}
