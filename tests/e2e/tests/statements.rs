//! The application's own statements work as if walvec were not there, even after a mistake in the configuration or the
//! schema.

use anyhow::{Result, ensure};
use serde_json::json;
use walvec_e2e::{Collection, Settings, Test, TestContext, Walvec, test, wait};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_filter_that_is_added_later_is_refused_before_it_breaks_the_applications_statements).since(15),
        test!(the_only_table_that_loses_its_key_is_no_longer_published_when_walvec_ends),
        test!(a_table_that_loses_its_key_while_walvec_is_stopped_is_no_longer_published_after_its_start).once(),
        test!(a_partition_without_an_identity_of_its_own_is_refused),
        test!(a_partition_that_loses_the_index_of_its_identity_stops_its_table_alone).once(),
        test!(a_generated_column_that_would_break_updates_stops_its_table_alone).since(18),
        test!(a_partition_that_is_unlogged_is_named_and_stops_its_table_alone).once(),
    ]
}

const BOOKS: &str = "CREATE TABLE books (id int PRIMARY KEY, name text, year int);
    INSERT INTO books SELECT g, 'book ' || g, 1800 + g FROM generate_series(1, 20) g;
    CREATE TABLE others (id int PRIMARY KEY, name text); INSERT INTO others VALUES (1, 'other')";

fn collection(name: &str) -> Collection {
    Collection::new(name, &format!("public.{name}"), "{{ name }}")
}

fn both() -> Settings {
    Settings::new([collection("books"), collection("others")])
}

async fn running(context: &TestContext, settings: &Settings) -> Result<Walvec> {
    let mut walvec = context.start(settings).await?;
    walvec.caught_up(context).await?;
    Ok(walvec)
}

/// Checks that `walvec run` ends with this code, and returns what it printed.
async fn refused(context: &TestContext, code: &str) -> Result<String> {
    let output = context.walvec(&["run"]).await?;
    let words = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(3) && words.contains(code), "{words}");
    Ok(words)
}

/// Checks that PostgreSQL accepts statements of the application that it would refuse on a table that is published
/// wrongly.
async fn can_write(context: &TestContext, table: &str) -> Result<()> {
    context.execute(&format!("UPDATE {table} SET name = name || '!'; DELETE FROM {table} WHERE id = 1")).await
}

async fn a_filter_that_is_added_later_is_refused_before_it_breaks_the_applications_statements(
    context: TestContext,
) -> Result<()> {
    context.execute(BOOKS).await?;
    running(&context, &both()).await?.stop().await?;
    let filtered = Settings::new([collection("books").with("where", json!("year >= 1810")), collection("others")]);
    context.configure(&filtered)?;
    let words = refused(&context, "E_REPLICA_IDENTITY").await?;
    ensure!(words.contains(r#"ALTER TABLE "public"."books" REPLICA IDENTITY FULL;"#), "{words}");
    can_write(&context, "books").await?;
    // With the remedy the filter works as configured.
    context.execute("ALTER TABLE books REPLICA IDENTITY FULL").await?;
    let mut walvec = running(&context, &filtered).await?;
    can_write(&context, "books").await?;
    walvec.caught_up(&context).await?;
    walvec.wait_for("only the rows of the filter", |status| status.collections[0].points == Some(11)).await?;
    walvec.stop().await
}

async fn the_only_table_that_loses_its_key_is_no_longer_published_when_walvec_ends(context: TestContext) -> Result<()> {
    context.execute(BOOKS).await?;
    let settings = Settings::new([collection("books")]);
    let walvec = running(&context, &settings).await?;
    context.execute("ALTER TABLE books DROP CONSTRAINT books_pkey").await?;
    let words = walvec.fails_with(3).await?;
    ensure!(words.contains("E_NO_KEY"), "{words}");
    can_write(&context, "books").await?;
    context.execute("ALTER TABLE books ADD PRIMARY KEY (id)").await?;
    let mut walvec = running(&context, &settings).await?;
    walvec.wait_for("what happened meanwhile", |status| status.collections[0].points == Some(19)).await?;
    walvec.stop().await
}

async fn a_table_that_loses_its_key_while_walvec_is_stopped_is_no_longer_published_after_its_start(
    context: TestContext,
) -> Result<()> {
    context.execute(BOOKS).await?;
    let settings = both().with("source", json!({ "on_gap": "stop" }));
    running(&context, &settings).await?.stop().await?;
    context.execute("ALTER TABLE books DROP CONSTRAINT books_pkey").await?;
    ensure!(can_write(&context, "books").await.is_err(), "PostgreSQL refuses it as long as the table is published");
    refused(&context, "E_NO_KEY").await?;
    can_write(&context, "books").await
}

async fn a_partition_without_an_identity_of_its_own_is_refused(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TABLE events (tenant int NOT NULL, id int NOT NULL, name text) PARTITION BY LIST (tenant);
             CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
             CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2);
             CREATE UNIQUE INDEX events_key ON events (tenant, id);
             ALTER TABLE events REPLICA IDENTITY USING INDEX events_key; INSERT INTO events VALUES (1, 1, 'one'), (2, 2, 'two')",
        )
        .await?;
    let settings = Settings::new([collection("events")]);
    context.configure(&settings)?;
    let words = refused(&context, "E_NO_KEY").await?;
    for leaf in ["events_1", "events_2"] {
        let remedy = format!(r#"ALTER TABLE "public"."{leaf}" REPLICA IDENTITY FULL;"#);
        ensure!(words.contains(&remedy), "{words}");
        context.execute(&remedy).await?;
    }
    let mut walvec = running(&context, &settings).await?;
    can_write(&context, "events").await?;
    walvec.caught_up(&context).await?;
    ensure!(walvec.search("two", 5).await?.len() == 1);
    walvec.stop().await
}

async fn a_partition_that_loses_the_index_of_its_identity_stops_its_table_alone(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TABLE events (tenant int, id int, name text, PRIMARY KEY (tenant, id)) PARTITION BY LIST (tenant);
             CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
             CREATE UNIQUE INDEX events_1_own ON events_1 (tenant, id);
             ALTER TABLE events_1 REPLICA IDENTITY USING INDEX events_1_own;
             CREATE TABLE others (id int PRIMARY KEY, name text); INSERT INTO events VALUES (1, 1, 'one'), (1, 2, 'two')",
        )
        .await?;
    let settings = Settings::new([collection("events"), collection("others")]);
    let mut walvec = running(&context, &settings).await?;
    context.execute("DROP INDEX events_1_own").await?;
    walvec.wait_for("it is set aside", |status| status.collections[0].set_aside.is_some()).await?;
    let works = async || Ok(can_write(&context, "events").await.is_ok().then_some(()));
    wait::until("the application's statements work again", works).await?;
    context.execute("INSERT INTO others VALUES (7, 'seven'); ALTER TABLE events_1 REPLICA IDENTITY DEFAULT").await?;
    walvec.wait_for("it is followed again", |status| status.collections[0].set_aside.is_none()).await?;
    walvec.caught_up(&context).await?;
    walvec.wait_for("what happened meanwhile", |status| status.collections[0].points == Some(1)).await?;
    walvec.stop().await
}

async fn a_generated_column_that_would_break_updates_stops_its_table_alone(context: TestContext) -> Result<()> {
    context.execute(BOOKS).await?;
    context.execute("ALTER TABLE books REPLICA IDENTITY FULL").await?;
    let mut walvec = running(&context, &both()).await?;
    context.execute("ALTER TABLE books ADD COLUMN double int GENERATED ALWAYS AS (year * 2) VIRTUAL").await?;
    walvec.wait_for("it is set aside", |status| status.collections[0].set_aside.is_some()).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let mut walvec = running(&context, &both()).await?;
    ensure!(walvec.status().await?.collections[0].set_aside.is_some(), "the others go on after a restart too");
    can_write(&context, "books").await?;
    context.execute("ALTER TABLE books DROP COLUMN double").await?;
    walvec.wait_for("it is followed again", |status| status.collections[0].set_aside.is_none()).await?;
    walvec.caught_up(&context).await?;
    walvec.wait_for("what happened meanwhile", |status| status.collections[0].points == Some(19)).await?;
    walvec.stop().await
}

async fn a_partition_that_is_unlogged_is_named_and_stops_its_table_alone(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TABLE events (tenant int, id int, name text, PRIMARY KEY (tenant, id)) PARTITION BY LIST (tenant);
             CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
             CREATE TABLE others (id int PRIMARY KEY, name text); INSERT INTO events VALUES (1, 1, 'one'), (1, 2, 'two')",
        )
        .await?;
    let settings = Settings::new([collection("events"), collection("others")]);
    let mut walvec = running(&context, &settings).await?;
    context.execute("ALTER TABLE events_1 SET UNLOGGED; INSERT INTO events VALUES (1, 3, 'three')").await?;
    let aside = |status: &walvec_pipeline::Status| status.collections[0].set_aside.is_some();
    let status = walvec.wait_for("it is set aside", aside).await?;
    let why = status.collections[0].set_aside.as_ref().map(|why| (why.code.as_str(), why.remedy.clone()));
    ensure!(why == Some(("E_TABLE", r#"ALTER TABLE "public"."events_1" SET LOGGED;"#.to_owned())), "{why:?}");
    context.execute("INSERT INTO events VALUES (1, 4, 'four'); ALTER TABLE events_1 SET LOGGED").await?;
    walvec.wait_for("it is followed again", |status| !aside(status)).await?;
    walvec.caught_up(&context).await?;
    walvec.wait_for("what happened meanwhile", |status| status.collections[0].points == Some(4)).await?;
    walvec.stop().await
}
