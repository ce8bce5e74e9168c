//! Nothing that walvec does keeps the application's statements waiting, however slow the model is.

use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio_postgres::Client;
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, Walvec, image, test, wait};
use walvec_pipeline::Status;
use walvec_pipeline::observe::status::Phase;
use walvec_test_providers::TestProvider;
use walvec_throwaway::Volume;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(no_statement_waits_for_a_snapshot_whose_model_is_slow),
        test!(no_statement_waits_for_a_backfill_whose_model_is_slow),
        test!(no_statement_on_a_looked_up_table_waits_for_a_snapshot),
        test!(a_lock_on_one_partition_keeps_no_other_table_waiting),
        test!(a_lock_that_holds_the_start_up_is_named).once(),
        test!(a_lock_that_holds_the_snapshot_up_is_named_and_a_stop_waits_for_nothing),
        test!(a_table_that_was_emptied_in_part_while_it_was_copied_shows_nothing_of_before).on_a_volume(),
        test!(settings_of_the_role_do_not_end_a_slow_snapshot),
        test!(two_collections_of_one_table_copy_it_once).once(),
    ]
}

const TABLES: &str = "
    CREATE TABLE parts (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (1000);
    CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (1000) TO (2000);
    INSERT INTO parts SELECT g, 'late part ' || g FROM generate_series(1, 1999) g;
    CREATE TABLE items (id int PRIMARY KEY, name text, other int);
    INSERT INTO items SELECT g, 'late ' || g, g FROM generate_series(1, 20000) g";

fn embedding(provider: &TestProvider) -> Value {
    json!({ "model": "openai/m", "url": provider.openai_url(), "api_key": "key", "batch_items": 100 })
}

fn collections(provider: &TestProvider) -> Settings {
    let collections = ["parts", "items"].map(|name| Collection::new(name, &format!("public.{name}"), "{{ name }}"));
    Settings::new(collections).with("embedding", embedding(provider))
}

fn image_of(table: &'static str) -> Expected {
    Expected::of(table, |row| row["name"].as_str().unwrap_or_default().to_owned())
}

/// Opens a session of the application, which waits at most a second for any lock.
async fn application(context: &TestContext) -> Result<Client> {
    let client = context.connect().await?;
    client.batch_execute("SET lock_timeout = '1s'").await?;
    Ok(client)
}

async fn is_held(provider: &TestProvider) -> Result<()> {
    wait::until("vectors are asked for", async || Ok((provider.holds() > 0).then_some(()))).await
}

async fn all_at_once(client: &Client, statements: &[&str]) -> Result<()> {
    for statement in statements {
        client.batch_execute(statement).await.with_context(|| (*statement).to_owned())?;
        client.batch_execute("SELECT count(*) FROM items").await?;
    }
    Ok(())
}

async fn same(context: &TestContext, mut walvec: Walvec) -> Result<()> {
    walvec.caught_up(context).await?;
    walvec.stop().await?;
    for table in ["items", "parts"] {
        image::compare(context, &image_of(table)).await?;
    }
    Ok(())
}

async fn no_statement_waits_for_a_snapshot_whose_model_is_slow(context: TestContext) -> Result<()> {
    let provider = TestProvider::start().await?;
    provider.hold(Some("late"));
    context.execute(TABLES).await?;
    let walvec = context.start(&collections(&provider)).await?;
    is_held(&provider).await?;
    let statements = [
        "CREATE INDEX ON items (other)",
        "VACUUM FULL items",
        "TRUNCATE parts_2",
        "INSERT INTO parts VALUES (1500, 'late again')",
        "ALTER TABLE items DROP COLUMN other",
        "ALTER TABLE items ADD extra int DEFAULT 7",
        "DELETE FROM items WHERE id % 3 = 0",
    ];
    all_at_once(&application(&context).await?, &statements).await?;
    provider.hold(None);
    same(&context, walvec).await
}

/// A query for whether walvec is reading `items`, or has read it a second time.
const READ: &str = "
    SELECT EXISTS (SELECT FROM pg_stat_activity
                   WHERE application_name = 'walvec' AND datname = current_database() AND query LIKE 'COPY%\"items\"%')
        OR (SELECT seq_tup_read > 30000 FROM pg_stat_user_tables WHERE relname = 'items')";

async fn no_statement_waits_for_a_backfill_whose_model_is_slow(context: TestContext) -> Result<()> {
    let provider = TestProvider::start().await?;
    context.execute(TABLES).await?;
    let mut walvec = context.start(&collections(&provider)).await?;
    walvec.caught_up(&context).await?;
    provider.hold(Some("late"));
    let added = "INSERT INTO items SELECT g, 'late ' || g, g FROM generate_series(20001, 20100) g";
    context.execute(added).await?;
    is_held(&provider).await?;
    let backfill = context.walvec(&["backfill", "--table", "public.items"]);
    let application = async {
        wait::until("the backfill reads the table, or has read it", async || {
            let is_read = context.sql.query_one(READ, &[]).await?.get(0);
            Ok(Some(()).filter(|()| is_read))
        })
        .await?;
        let statements = ["CREATE INDEX ON items (other)", "VACUUM FULL items", "TRUNCATE parts_2"];
        all_at_once(&application(&context).await?, &statements).await?;
        provider.hold(None);
        Ok(())
    };
    let (output, ()) = tokio::try_join!(backfill, application)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of("items")).await?, 20_100);
    Ok(())
}

const BOOKS: &str = "
    CREATE TABLE authors (id int PRIMARY KEY, name text);
    INSERT INTO authors SELECT g, 'author ' || g FROM generate_series(1, 100) g;
    CREATE TABLE books (id int PRIMARY KEY, name text, author_id int);
    INSERT INTO books SELECT g, 'late ' || g, g % 100 + 1 FROM generate_series(1, 20000) g";

fn books() -> Settings {
    let lookup = json!({ "author": { "table": "public.authors", "on": { "id": "author_id" } } });
    Settings::new([
        Collection::new("authors", "public.authors", "{{ name }}"),
        Collection::new("books", "public.books", "{{ name }} by {{ author.name }}").with("lookup", lookup),
    ])
    .with("source", json!({ "copy_workers": 1 }))
}

async fn no_statement_on_a_looked_up_table_waits_for_a_snapshot(context: TestContext) -> Result<()> {
    let provider = TestProvider::start().await?;
    provider.hold(Some("late"));
    context.execute(BOOKS).await?;
    let mut walvec = context.start(&books().with("embedding", embedding(&provider))).await?;
    is_held(&provider).await?;
    let client = application(&context).await?;
    client.batch_execute("ALTER TABLE authors ADD born int").await?;
    client.batch_execute("SELECT count(*) FROM authors").await?;
    provider.hold(None);
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let sql = "format('%s by %s', name, (SELECT a.name FROM authors a WHERE a.id = author_id))";
    let expected = Expected { sql: Some(sql), ..Expected::of("books", |_| String::new()) };
    assert_eq!(image::compare(&context, &expected).await?, 20_000);
    Ok(())
}

/// The time limit of a stop that waits only for the parts of walvec.
const SOON: Duration = Duration::from_secs(30);

async fn a_lock_that_holds_the_snapshot_up_is_named_and_a_stop_waits_for_nothing(context: TestContext) -> Result<()> {
    context.execute(BOOKS).await?;
    let slow = books().with("embedding", json!({ "model": "hash/64/wait/50" }));
    let mut walvec = context.start(&slow).await?;
    let copying = |status: &Status| status.phase == Phase::Snapshot && status.collections[1].snapshot_rows_copied > 0;
    walvec.wait_for("books are copied", copying).await?;
    let application = context.connect().await?;
    application.batch_execute("BEGIN; LOCK TABLE authors IN ACCESS EXCLUSIVE MODE").await?;
    let pid: i32 = application.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    let named = |status: &Status| {
        let problem = status.problem.as_ref().filter(|problem| problem.message.contains(&format!("process {pid} ")));
        problem.is_some_and(|problem| problem.message.contains("authors") && problem.remedy.is_some())
    };
    walvec.wait_for("the session is named that has locked the table", named).await?;
    tokio::time::timeout(SOON, walvec.stop()).await.context("the lock held the stop up")??;
    application.batch_execute("COMMIT").await?;

    let mut walvec = context.start(&slow).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await
}

/// A table is to be read again, and one of its partitions is locked.
async fn a_lock_on_one_partition_keeps_no_other_table_waiting(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TABLE parts (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);
             CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
             CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20);
             INSERT INTO parts SELECT g, 'part ' || g FROM generate_series(1, 19) g;
             CREATE TABLE items (id int PRIMARY KEY, name text); INSERT INTO items VALUES (1, 'one')",
        )
        .await?;
    let tables = ["parts", "items"];
    let settings = Settings::new(tables.map(|name| Collection::new(name, &format!("public.{name}"), "{{ name }}")));
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    let application = context.connect().await?;
    application.batch_execute("BEGIN; LOCK TABLE parts_2 IN ACCESS EXCLUSIVE MODE").await?;
    context.execute("TRUNCATE parts_1").await?;
    let observer = context.connect().await?;
    wait::until("walvec waits for the lock", async || {
        let query = "SELECT count(*) > 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                     WHERE NOT l.granted AND a.application_name = 'walvec' AND a.datname = current_database()";
        Ok(observer.query_one(query, &[]).await?.get::<_, bool>(0).then_some(()))
    })
    .await?;
    // With this row, the stream describes the table before the lock is taken.
    context.execute("INSERT INTO items VALUES (2, 'two')").await?;
    walvec.wait_for("the other table is followed", |status| status.collections[1].points == Some(2)).await?;
    application.batch_execute("COMMIT").await?;
    walvec.wait_for("the partition is empty", |status| status.collections[0].points == Some(10)).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    for table in tables {
        image::compare(&context, &image_of(table)).await?;
    }
    Ok(())
}

async fn a_lock_that_holds_the_start_up_is_named(context: TestContext) -> Result<()> {
    context.execute(BOOKS).await?;
    let application = context.connect().await?;
    application.batch_execute("BEGIN; LOCK TABLE authors IN ACCESS EXCLUSIVE MODE").await?;
    let pid: i32 = application.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    let mut walvec = context.start(&books()).await?;
    let named = |status: &Status| {
        let problem = status.problem.as_ref().filter(|problem| problem.message.contains(&format!("process {pid} ")));
        status.phase == Phase::Starting && problem.is_some_and(|problem| problem.message.contains("authors"))
    };
    walvec.wait_for("the session is named that has locked the table", named).await?;
    application.batch_execute("COMMIT").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await
}

async fn a_table_that_was_emptied_in_part_while_it_was_copied_shows_nothing_of_before(
    context: TestContext,
) -> Result<()> {
    // The volume is too small for rows to wait there, so most of the second partition is still unread while vectors are
    // late.
    let volume = Volume::mount(300)?;
    symlink(volume.path(), context.data_directory())?;
    let provider = TestProvider::start().await?;
    provider.hold(Some("late"));
    let table = "
        CREATE TABLE parts (id int PRIMARY KEY, name text, body text) PARTITION BY RANGE (id);
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (1000);
        CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (1000) TO (50000);
        INSERT INTO parts SELECT g, 'part ' || g FROM generate_series(1, 999) g;
        INSERT INTO parts SELECT g, 'late part ' || g, repeat('x', 1900) FROM generate_series(1000, 20999) g";
    context.execute(table).await?;
    let collection =
        Collection::new("parts", "public.parts", "{{ name }}").with("payload", json!(["id", "name", "body"]));
    let settings = Settings::new([collection])
        .with("embedding", embedding(&provider))
        // The partitions are read one after the other: otherwise the texts that are held up would occupy all requests.
        .with("source", json!({ "copy_workers": 1 }));
    let mut walvec = context.start(&settings).await?;
    // The last texts of the first partition may share a request with a text that is held up.
    let first = |status: &Status| status.collections[0].points.is_some_and(|points| points >= 800);
    walvec.wait_for("most of the first partition is copied", first).await?;
    is_held(&provider).await?;
    let client = application(&context).await?;
    let statements = [
        // The stream does not show these.
        "TRUNCATE parts_1",
        "DELETE FROM parts WHERE id % 100 > 0",
        "VACUUM FULL parts_2",
        "INSERT INTO parts VALUES (5, 'new')",
    ];
    for statement in statements {
        client.batch_execute(statement).await.with_context(|| statement.to_owned())?;
    }
    provider.hold(None);
    walvec.caught_up(&context).await?;
    assert_eq!(walvec.status().await?.generation.0, 1, "only this table was read again");
    walvec.stop().await?;
    let expected = Expected { payload: Some(&["id", "name", "body"]), ..image_of("parts") };
    assert_eq!(image::compare(&context, &expected).await?, 201);
    Ok(())
}

async fn settings_of_the_role_do_not_end_a_slow_snapshot(context: TestContext) -> Result<()> {
    context.execute(BOOKS).await?;
    let database: String = context.sql.query_one("SELECT quote_ident(current_database())", &[]).await?.get(0);
    let mut settings = vec!["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"];
    let version = context.server.version().major;
    settings.extend((version >= 14).then_some("idle_session_timeout"));
    settings.extend((version >= 17).then_some("transaction_timeout"));
    for setting in settings {
        context.execute(&format!("ALTER DATABASE {database} SET {setting} = '100ms'")).await?;
    }
    let slow = books().with("embedding", json!({ "model": "hash/64/wait/5" }));
    let mut walvec = context.start(&slow).await?;
    let status = walvec.wait_for("the stream is followed", |status| status.phase == Phase::Streaming).await?;
    assert_eq!(status.generation.0, 1, "the snapshot was ended and begun again");
    walvec.stop().await
}

async fn two_collections_of_one_table_copy_it_once(context: TestContext) -> Result<()> {
    context.execute(TABLES).await?;
    let settings = Settings::new(["one", "two"].map(|name| Collection::new(name, "public.items", "{{ name }}")));
    let mut walvec = context.start(&settings).await?;
    let status = walvec.caught_up(&context).await?;
    let copied: Vec<u64> = status.collections.iter().map(|collection| collection.snapshot_rows_copied).collect();
    assert_eq!(copied, [20_000, 20_000]);
    walvec.stop().await?;
    for collection in ["one", "two"] {
        assert_eq!(image::compare(&context, &Expected { collection, ..image_of("items") }).await?, 20_000);
    }
    Ok(())
}
