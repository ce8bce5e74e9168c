//! A table that cannot be followed any more stops alone: the others go on, and its points stay until it can be followed again.
//!
//! - [`workers`]: with a broker between the stages
//! - this file: in one process

mod workers;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, Walvec, image, test};
use walvec_pipeline::Status;
use walvec_pipeline::observe::status::SetAside;

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = vec![
        test!(a_table_that_is_taken_out_of_a_publication_stops_alone),
        test!(a_table_that_loses_its_key_stops_alone_and_its_updates_do_not_fail),
        test!(a_table_that_is_dropped_stops_alone_also_after_a_restart),
        test!(a_table_that_may_not_be_read_any_more_stops_alone_after_a_restart),
        test!(a_table_whose_rows_a_policy_hides_stops_alone_after_a_restart).once(),
        test!(a_table_that_loses_a_column_that_a_template_needs_stops_alone),
        test!(a_template_that_names_no_column_is_a_mistake_also_if_the_table_was_followed).once(),
        test!(a_table_that_was_followed_stops_everything_where_a_person_wants_to_look).once(),
        test!(a_table_whose_rows_look_something_up_stops_with_the_table_that_they_look_in).once(),
        test!(a_looked_up_table_that_loses_a_column_stops_what_uses_the_column_and_nothing_else).once(),
        test!(a_table_that_is_dropped_out_of_a_publication_of_all_tables_stops_alone).once(),
        test!(a_reindex_is_refused_while_a_table_is_set_aside_and_no_name_changes).once(),
        test!(a_last_table_that_is_dropped_and_a_name_that_never_was_stop_everything).once(),
    ];
    tests.extend(workers::tests());
    tests
}

const TABLES: &str = "CREATE TABLE items (id int PRIMARY KEY, name text);
    INSERT INTO items SELECT g, 'item ' || g FROM generate_series(1, 20) g;
    CREATE TABLE others (id int PRIMARY KEY, name text);
    INSERT INTO others SELECT g, 'other ' || g FROM generate_series(1, 30) g";

/// Changes of both tables while one of them is not followed: 20 and 31 rows are left.
const CHANGES: &str = "UPDATE items SET name = 'changed' WHERE id = 1; DELETE FROM items WHERE id = 2;
    INSERT INTO items VALUES (21, 'new'); INSERT INTO others VALUES (31, 'unseen')";

fn both() -> Settings {
    Settings::new(["items", "others"].map(|name| Collection::new(name, &format!("public.{name}"), "{{ name }}")))
}

fn image_of(table: &'static str) -> Expected {
    Expected::of(table, |row| row["name"].as_str().unwrap_or_default().to_owned())
}

/// Creates a publication of both tables that walvec did not make, and returns settings that use it.
async fn theirs(context: &TestContext) -> Result<Settings> {
    context.execute(TABLES).await?;
    context.execute("CREATE PUBLICATION theirs FOR TABLE items, others").await?;
    Ok(both().with("source", json!({ "publication": "theirs" })))
}

async fn running(context: &TestContext, settings: &Settings) -> Result<Walvec> {
    let mut walvec = context.start(settings).await?;
    walvec.caught_up(context).await?;
    Ok(walvec)
}

/// Returns why the second table is set aside, if it is.
fn why(status: &Status) -> Option<&SetAside> {
    status.collections[1].set_aside.as_ref()
}

fn is_aside(status: &Status) -> bool {
    why(status).is_some()
}

/// Waits until the second table is set aside, changes both, and waits until the changes of the first can be found.
async fn goes_on_without(context: &TestContext, walvec: &mut Walvec, changes: &str) -> Result<Status> {
    walvec.wait_for("the table is set aside", is_aside).await?;
    walvec.caught_up(context).await?;
    context.execute(changes).await?;
    let status = walvec.caught_up(context).await?;
    ensure!(is_aside(&status) && status.collections[0].set_aside.is_none(), "{:?}", status.collections);
    let found: Value = walvec.get_json("/api/v1/search", &[("q", "changed"), ("collection", "items")]).await?;
    ensure!(found["hits"][0]["payload"]["name"] == "changed", "{found}");
    let points = |status: &Status| status.collections.iter().map(|found| found.points).collect::<Vec<_>>();
    walvec.wait_for("the points were counted", |status| points(status) == [Some(20), Some(30)]).await
}

/// Waits until both are followed, and compares them.
async fn ends_as_the_tables(context: &TestContext, mut walvec: Walvec, others: usize) -> Result<()> {
    walvec.wait_for("all tables are followed", |status| !is_aside(status)).await?;
    walvec.caught_up(context).await?;
    context.execute("INSERT INTO others VALUES (40, 'forty')").await?;
    walvec.caught_up(context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(context, &image_of("items")).await?, 20);
    assert_eq!(image::compare(context, &image_of("others")).await?, others + 1);
    Ok(())
}

async fn a_table_that_is_taken_out_of_a_publication_stops_alone(context: TestContext) -> Result<()> {
    let settings = theirs(&context).await?;
    let mut walvec = running(&context, &settings).await?;
    context.execute("ALTER PUBLICATION theirs DROP TABLE others").await?;
    let status = goes_on_without(&context, &mut walvec, CHANGES).await?;
    let remedy = why(&status).map(|why| why.remedy.as_str());
    assert_eq!(remedy, Some(r#"ALTER PUBLICATION "theirs" ADD TABLE "public"."others";"#));
    let told = String::from_utf8(context.walvec(&["status"]).await?.stdout)?;
    ensure!(told.contains("Not followed: public.others"), "{told}");
    let verified = context.walvec(&["verify"]).await?;
    let words = String::from_utf8(verified.stderr)?;
    ensure!(verified.status.code() == Some(1) && words.contains("\"others\" is not compared"), "{words}");
    ensure!(String::from_utf8(verified.stdout)?.contains("items"));
    let backfill = context.walvec(&["backfill", "--table", "public.others"]).await?;
    let words = String::from_utf8(backfill.stderr)?;
    ensure!(!backfill.status.success() && words.contains("is not followed at present"), "{words}");
    ensure!(walvec.get("/metrics", &[]).await?.text().await?.contains(r#"walvec_followed{table="public.others"} 0"#));
    walvec.stop().await?;
    let mut walvec = context.start(&settings).await?;
    walvec.wait_for("it is still set aside", is_aside).await?;
    walvec.caught_up(&context).await?;
    let published = "SELECT count(*) FROM pg_publication_tables WHERE pubname = 'theirs'";
    assert_eq!(context.sql.query_one(published, &[]).await?.get::<_, i64>(0), 1, "it is not walvec's publication");
    context.execute("ALTER PUBLICATION theirs ADD TABLE others").await?;
    ends_as_the_tables(&context, walvec, 31).await
}

async fn a_table_that_loses_its_key_stops_alone_and_its_updates_do_not_fail(context: TestContext) -> Result<()> {
    context.execute(TABLES).await?;
    let mut walvec = running(&context, &both()).await?;
    context.execute("ALTER TABLE others DROP CONSTRAINT others_pkey").await?;
    goes_on_without(&context, &mut walvec, CHANGES).await?;
    // As long as walvec published the table, PostgreSQL refused these statements.
    context.execute("UPDATE others SET name = 'changed too' WHERE id < 4; DELETE FROM others WHERE id = 4").await?;
    context.execute("ALTER TABLE others ADD PRIMARY KEY (id)").await?;
    ends_as_the_tables(&context, walvec, 30).await
}

async fn a_table_that_is_dropped_stops_alone_also_after_a_restart(context: TestContext) -> Result<()> {
    context.execute(TABLES).await?;
    let mut walvec = running(&context, &both()).await?;
    context.execute("DROP TABLE others").await?;
    let changes = CHANGES.replace("; INSERT INTO others VALUES (31, 'unseen')", "");
    goes_on_without(&context, &mut walvec, &changes).await?;
    walvec.stop().await?;
    let mut walvec = context.start(&both()).await?;
    walvec.wait_for("it is still set aside", is_aside).await?;
    walvec.caught_up(&context).await?;
    context.execute("CREATE TABLE others (id int PRIMARY KEY, name text)").await?;
    context.execute("INSERT INTO others SELECT g, 'another ' || g FROM generate_series(10, 30) g").await?;
    ends_as_the_tables(&context, walvec, 21).await
}

/// Creates a role that may read both tables, and returns its name and settings that use it.
async fn as_reader(context: &TestContext) -> Result<(String, Settings)> {
    context.execute(TABLES).await?;
    let role = format!("{}_reader", context.database());
    context
        .execute(&format!(
            "CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'reader'; GRANT SELECT ON items, others TO {role};
             CREATE PUBLICATION theirs FOR TABLE items, others"
        ))
        .await?;
    let server = context.url();
    let (_, server) = server.split_once('@').context("the URL names a user")?;
    let url = format!("postgres://{role}:reader@{server}");
    Ok((role, both().with("source", json!({ "url": url, "publication": "theirs" }))))
}

async fn a_table_whose_rows_a_policy_hides_stops_alone_after_a_restart(context: TestContext) -> Result<()> {
    let (role, settings) = as_reader(&context).await?;
    let mut walvec = running(&context, &settings).await?;
    context.execute("ALTER TABLE others ENABLE ROW LEVEL SECURITY").await?;
    // Policies do not apply to the stream.
    context.execute("UPDATE others SET name = 'seen' WHERE id = 1").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of("others")).await?, 30);
    context.execute(CHANGES).await?;
    let mut walvec = context.start(&settings).await?;
    let status = goes_on_without(&context, &mut walvec, "UPDATE items SET name = 'changed' WHERE id = 3").await?;
    let why = why(&status).context("why")?;
    ensure!(why.code == "E_RIGHTS" && why.remedy.contains("BYPASSRLS"), "{why:?}");
    context.execute("ALTER TABLE others DISABLE ROW LEVEL SECURITY").await?;
    ends_as_the_tables(&context, walvec, 31).await?;
    context.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await
}

async fn a_table_that_may_not_be_read_any_more_stops_alone_after_a_restart(context: TestContext) -> Result<()> {
    let (role, settings) = as_reader(&context).await?;
    running(&context, &settings).await?.stop().await?;
    context.execute(&format!("REVOKE SELECT ON others FROM {role}")).await?;
    context.execute(CHANGES).await?;
    let mut walvec = context.start(&settings).await?;
    goes_on_without(&context, &mut walvec, "UPDATE items SET name = 'changed' WHERE id = 3").await?;
    context.execute(&format!("GRANT SELECT ON others TO {role}")).await?;
    ends_as_the_tables(&context, walvec, 31).await?;
    context.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await
}

async fn a_table_that_loses_a_column_that_a_template_needs_stops_alone(context: TestContext) -> Result<()> {
    context.execute(TABLES).await?;
    let mut walvec = running(&context, &both()).await?;
    context.execute("ALTER TABLE others RENAME name TO title").await?;
    let changes = CHANGES.replace("'unseen'", "'unseen' || 1");
    let status = goes_on_without(&context, &mut walvec, &changes).await?;
    ensure!(
        why(&status).is_some_and(|why| why.code == "E_SCHEMA" && why.message.contains("name")),
        "{:?}",
        why(&status)
    );
    walvec.stop().await?;
    let mut walvec = context.start(&both()).await?;
    walvec.wait_for("it is still set aside", is_aside).await?;
    context.execute("ALTER TABLE others RENAME title TO name").await?;
    ends_as_the_tables(&context, walvec, 31).await
}

async fn a_template_that_names_no_column_is_a_mistake_also_if_the_table_was_followed(
    context: TestContext,
) -> Result<()> {
    context.execute(TABLES).await?;
    running(&context, &both()).await?.stop().await?;
    let settings = Settings::new([
        Collection::new("items", "public.items", "{{ name }}"),
        Collection::new("others", "public.others", "{{ name }}").with("payload", json!(["id", "nmae"])),
    ]);
    let words = context.start(&settings).await?.fails_with(3).await?;
    ensure!(words.contains("E_SCHEMA") && words.contains("nmae"), "{words}");
    Ok(())
}

async fn a_table_that_was_followed_stops_everything_where_a_person_wants_to_look(context: TestContext) -> Result<()> {
    let settings = theirs(&context).await?.with("source", json!({ "publication": "theirs", "on_gap": "stop" }));
    let walvec = running(&context, &settings).await?;
    context.execute("ALTER PUBLICATION theirs DROP TABLE others").await?;
    let words = walvec.fails_with(3).await?;
    ensure!(words.contains("E_PUBLICATION"), "{words}");
    Ok(())
}

async fn a_table_whose_rows_look_something_up_stops_with_the_table_that_they_look_in(
    context: TestContext,
) -> Result<()> {
    context.execute(TABLES).await?;
    context.execute("CREATE TABLE makers (id int PRIMARY KEY, title text); INSERT INTO makers VALUES (1, 'm')").await?;
    let lookup = json!({ "maker": { "table": "public.makers", "on": { "id": "id" } } });
    let others = Collection::new("others", "public.others", "{{ name }} {{ maker.title }}").with("lookup", lookup);
    let settings = Settings::new([Collection::new("items", "public.items", "{{ name }}"), others]);
    let mut walvec = running(&context, &settings).await?;
    context.execute("DROP TABLE makers").await?;
    let status = goes_on_without(&context, &mut walvec, CHANGES).await?;
    ensure!(why(&status).is_some_and(|why| why.message.contains("public.makers")), "{:?}", why(&status));
    context.execute("CREATE TABLE makers (id int PRIMARY KEY, title text)").await?;
    walvec.wait_for("all tables are followed", |status| !is_aside(status)).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let expected = Expected::of("others", |row| format!("{} ", row["name"].as_str().unwrap_or_default()));
    assert_eq!(image::compare(&context, &expected).await?, 31);
    Ok(())
}

/// `items` looks up the title of `makers`, `makers` has a collection of its own that needs its motto, and `others` is not affected.
async fn a_looked_up_table_that_loses_a_column_stops_what_uses_the_column_and_nothing_else(
    context: TestContext,
) -> Result<()> {
    context.execute(TABLES).await?;
    let makers = "CREATE TABLE makers (id int PRIMARY KEY, title text, motto text);
        ALTER TABLE makers REPLICA IDENTITY FULL; INSERT INTO makers VALUES (1, 'm', 'try'), (2, 'n', 'again');
        CREATE PUBLICATION theirs FOR TABLE items, others, makers";
    context.execute(makers).await?;
    let lookup = json!({ "maker": { "table": "public.makers", "on": { "id": "id" } } });
    let settings = Settings::new([
        Collection::new("items", "public.items", "{{ name }} {{ maker.title }}").with("lookup", lookup),
        Collection::new("makers", "public.makers", "{{ motto }}"),
        Collection::new("others", "public.others", "{{ name }}"),
    ])
    .with("source", json!({ "publication": "theirs" }));
    let mut walvec = running(&context, &settings).await?;
    let aside = |status: &Status| status.collections.iter().map(|found| found.set_aside.is_some()).collect::<Vec<_>>();
    for (statement, expected) in [
        ("ALTER TABLE makers RENAME motto TO saying", [false, true, false]),
        ("ALTER TABLE makers RENAME saying TO motto", [false, false, false]),
        ("ALTER TABLE makers RENAME title TO heading", [true, false, false]),
    ] {
        context.execute(statement).await?;
        walvec.wait_for(&format!("{statement}: {expected:?}"), |status| aside(status) == expected).await?;
        walvec.caught_up(&context).await?;
        context.execute("UPDATE others SET name = name || '.'; UPDATE makers SET motto = motto || '.'").await.ok();
        walvec.caught_up(&context).await?;
    }
    // It stays that way although the catalogue is checked again and again.
    let generation = walvec.status().await?.generation;
    walvec.stop().await?;
    let mut walvec = running(&context, &settings).await?;
    walvec.wait_for("it is still set aside", |status| aside(status) == [true, false, false]).await?;
    ensure!(walvec.status().await?.generation == generation, "nothing had to be read again");
    context.execute("ALTER TABLE makers RENAME heading TO title").await?;
    walvec.wait_for("all are followed", |status| aside(status) == [false; 3]).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of("others")).await?, 30);
    let makers = Expected::of("makers", |row| row["motto"].as_str().unwrap_or_default().to_owned());
    assert_eq!(image::compare(&context, &makers).await?, 2);
    Ok(())
}

async fn a_table_that_is_dropped_out_of_a_publication_of_all_tables_stops_alone(context: TestContext) -> Result<()> {
    context.execute(TABLES).await?;
    context.execute("CREATE PUBLICATION theirs FOR ALL TABLES WITH (publish_via_partition_root = true)").await?;
    let mut walvec = running(&context, &both().with("source", json!({ "publication": "theirs" }))).await?;
    context.execute("DROP TABLE others").await?;
    let changes = CHANGES.replace("; INSERT INTO others VALUES (31, 'unseen')", "");
    goes_on_without(&context, &mut walvec, &changes).await?;
    walvec.stop().await
}

async fn a_reindex_is_refused_while_a_table_is_set_aside_and_no_name_changes(context: TestContext) -> Result<()> {
    let settings = theirs(&context).await?;
    let mut walvec = running(&context, &settings).await?;
    context.execute("ALTER PUBLICATION theirs DROP TABLE others").await?;
    goes_on_without(&context, &mut walvec, CHANGES).await?;
    context.configure(&settings.clone().with("embedding", json!({ "model": "hash/32" })))?;
    let reindexed = context.walvec(&["reindex"]).await?;
    let words = String::from_utf8(reindexed.stderr)?;
    ensure!(!reindexed.status.success() && words.contains("E_PUBLICATION"), "{words}");
    walvec.wait_for("the points are those of before", |status| status.collections[1].points == Some(30)).await?;
    walvec.stop().await
}

async fn a_last_table_that_is_dropped_and_a_name_that_never_was_stop_everything(context: TestContext) -> Result<()> {
    context.execute(TABLES).await?;
    let [items, others] =
        ["items", "others"].map(|name| Collection::new(name, &format!("public.{name}"), "{{ name }}"));
    let walvec = running(&context, &Settings::new([items.clone()])).await?;
    walvec.stop().await?;
    let typo = Settings::new([items.clone(), Collection::new("more", "public.otters", "{{ name }}")]);
    let words = context.start(&typo).await?.fails_with(3).await?;
    ensure!(words.contains("public.otters") && words.contains("E_TABLE"), "{words}");
    let walvec = running(&context, &Settings::new([items, others])).await?;
    context.execute("DROP TABLE items, others").await?;
    let words = walvec.fails_with(3).await?;
    ensure!(words.contains("E_TABLE"), "{words}");
    Ok(())
}
