//! Rows that do not fit into a message of PostgreSQL, which holds at most 1 GB: as text, a `bytea` of 600 MB takes 1.2
//! GB.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use walvec_e2e::{Collection, Settings, Test, TestContext, Walvec, test};
use walvec_pipeline::Status;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_value_that_fits_into_no_message_does_not_stop_walvec_where_nothing_uses_it).once(),
        test!(a_row_that_fits_into_no_message_is_parked_and_the_others_go_on).once(),
        test!(with_a_list_of_the_used_columns_the_others_do_not_leave_postgresql).once(),
        test!(a_list_of_columns_goes_as_soon_as_the_applications_statements_would_fail_because_of_it).once(),
    ]
}

const LARGE: &str = "repeat('x', 600 * 1024 * 1024)::bytea";

async fn docs(context: &TestContext, settings: &Settings) -> Result<Walvec> {
    context
        .execute(
            "CREATE TABLE docs (id int PRIMARY KEY, name text, body bytea); INSERT INTO docs VALUES (1, 'one', 'x')",
        )
        .await?;
    let mut walvec = context.start(settings).await?;
    walvec.caught_up(context).await?;
    Ok(walvec)
}

fn names_alone() -> Settings {
    Settings::new([Collection::new("docs", "public.docs", "{{ name }}").with("payload", json!(["name"]))])
}

/// Returns the names that a search finds, in the order of their rows.
async fn names(walvec: &Walvec) -> Result<Vec<String>> {
    let mut hits = walvec.search("one two three four", 10).await?;
    hits.sort_by_key(|hit| hit["id"].as_i64());
    Ok(hits.iter().map(|hit| hit["payload"]["name"].as_str().unwrap_or_default().to_owned()).collect())
}

/// Waits until the tables have been read again because of a change that PostgreSQL cannot send.
async fn read_again(walvec: &mut Walvec, context: &TestContext) -> Result<Status> {
    let is_read_again = |status: &Status| {
        status.resync.as_ref().is_some_and(|resync| resync.code == "E_TOO_LARGE") && status.generation.0 == 2
    };
    walvec.wait_for("the tables are read again", is_read_again).await?;
    walvec.caught_up(context).await
}

async fn a_value_that_fits_into_no_message_does_not_stop_walvec_where_nothing_uses_it(
    context: TestContext,
) -> Result<()> {
    let mut walvec = docs(&context, &names_alone()).await?;
    context.execute(&format!("INSERT INTO docs VALUES (2, 'two', {LARGE}), (3, 'three', 'x')")).await?;
    let status = read_again(&mut walvec, &context).await?;
    ensure!(status.collections[0].dead_letters == 0 && status.collections[0].embeddings_computed == 3, "{status:?}");
    ensure!(names(&walvec).await? == ["one", "two", "three"]);
    // Changes that do not touch the value come through the stream.
    context.execute("UPDATE docs SET name = 'four' WHERE id = 2; DELETE FROM docs WHERE id = 3").await?;
    let status = walvec.caught_up(&context).await?;
    ensure!(status.generation.0 == 2 && names(&walvec).await? == ["one", "four"]);
    let verified = context.walvec(&["verify"]).await?;
    ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    walvec.stop().await
}

async fn a_row_that_fits_into_no_message_is_parked_and_the_others_go_on(context: TestContext) -> Result<()> {
    let settings = Settings::new([Collection::new("docs", "public.docs", "{{ name }}")]);
    let mut walvec = docs(&context, &settings).await?;
    context.execute(&format!("INSERT INTO docs VALUES (2, 'two', {LARGE}), (3, 'three', 'x')")).await?;
    let status = read_again(&mut walvec, &context).await?;
    let letters = &status.collections[0].latest_dead_letters;
    ensure!(letters.len() == 1 && letters[0].code == "E_TOO_LARGE" && letters[0].key == [json!(2)], "{letters:?}");
    ensure!(names(&walvec).await? == ["one", "three"]);
    let verified = context.walvec(&["verify", "--json"]).await?;
    let told = String::from_utf8(verified.stdout)?;
    let report: Value = serde_json::from_str(&told).with_context(|| format!("{told}{:?}", verified.stderr))?;
    ensure!(report["collections"][0]["dead_letters"] == 1 && report["collections"][0]["rows"] == 2, "{told}");
    // After an update that does not touch the value, the row is read again, and still cannot be sent.
    context.execute("UPDATE docs SET name = 'four'").await?;
    let status = walvec.caught_up(&context).await?;
    ensure!(status.generation.0 == 2 && status.collections[0].dead_letters == 1, "{status:?}");
    ensure!(names(&walvec).await? == ["four", "four"]);
    // A version that can be sent clears the parked row.
    context.execute("UPDATE docs SET name = 'two', body = 'x' WHERE id = 2").await?;
    let status = walvec.caught_up(&context).await?;
    ensure!(status.collections[0].dead_letters == 0, "{status:?}");
    ensure!(names(&walvec).await? == ["four", "two", "four"]);
    walvec.stop().await
}

async fn with_a_list_of_the_used_columns_the_others_do_not_leave_postgresql(context: TestContext) -> Result<()> {
    if context.server.version().major < 15 {
        return Ok(());
    }
    let settings = names_alone().with("source", json!({ "columns": "used" }));
    let mut walvec = docs(&context, &settings).await?;
    context.execute(&format!("INSERT INTO docs VALUES (2, 'two', {LARGE}), (3, 'three', 'x')")).await?;
    let status = walvec.caught_up(&context).await?;
    ensure!(status.generation.0 == 1 && names(&walvec).await? == ["one", "two", "three"], "{status:?}");
    walvec.stop().await?;
    context.execute("DELETE FROM docs WHERE id = 2").await?;

    // If another column is used, the publication's list follows, and the rows are read again.
    let settings =
        Settings::new([Collection::new("docs", "public.docs", "{{ name }}").with("payload", json!(["name", "body"]))])
            .with("source", json!({ "columns": "used" }));
    let mut walvec = context.start(&settings).await?;
    context.execute("INSERT INTO docs VALUES (4, 'four', 'y')").await?;
    walvec.caught_up(&context).await?;
    let mut hits = walvec.search("one three four", 10).await?;
    hits.sort_by_key(|hit| hit["id"].as_i64());
    let bodies: Vec<_> = hits.iter().map(|hit| hit["payload"]["body"].clone()).collect();
    ensure!(bodies.len() == 3 && bodies.iter().all(|body| body.is_string()), "{hits:?}");
    walvec.stop().await
}

async fn a_list_of_columns_goes_as_soon_as_the_applications_statements_would_fail_because_of_it(
    context: TestContext,
) -> Result<()> {
    if context.server.version().major < 15 {
        return Ok(());
    }
    let settings = names_alone().with("source", json!({ "columns": "used" }));
    let mut walvec = docs(&context, &settings).await?;
    let listed = "SELECT prattrs IS NOT NULL FROM pg_publication_rel";
    ensure!(context.sql.query_one(listed, &[]).await?.get::<_, bool>(0));
    context.execute("ALTER TABLE docs REPLICA IDENTITY FULL").await?;
    walvec.wait_for("the tables are read again", |status| status.generation.0 == 2).await?;
    ensure!(!context.sql.query_one(listed, &[]).await?.get::<_, bool>(0));
    context.execute("UPDATE docs SET name = 'two'").await.context("PostgreSQL takes the application's statement")?;
    walvec.caught_up(&context).await?;
    ensure!(names(&walvec).await? == ["two"]);
    walvec.stop().await
}
