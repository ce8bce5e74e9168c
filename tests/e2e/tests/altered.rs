//! Changes that only the catalogue shows and the stream does not: altered types, partitions that come and go, tables that
//! change places. The collection is the image of the table again within seconds, whether walvec was running or not.
//!
//! - [`columns`]: columns, keys and identities
//! - [`names`]: tables and publications whose names change
//! - [`partitions`]: partitions that come and go
//! - this file: types, and how little is read again

mod columns;
mod names;
pub(crate) mod partitions;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use walvec_e2e::{Collection, Expected, Kafka, Settings, Test, TestContext, Walvec, image, test, wait};
use walvec_pipeline::observe::status::{Phase, Status};
use walvec_test_kafka::can_test;

use self::partitions::{COME_AND_GONE, partitioned};
use crate::broker::{captured, indexed_by_one};

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = vec![
        test!(what_altered_types_did_to_rows_is_shown_though_no_stream_tells),
        test!(what_altered_types_did_to_rows_while_nothing_ran_is_shown),
        test!(an_altered_table_is_read_again_alone),
        test!(rows_that_change_while_their_altered_table_is_read_again_keep_nothing_of_before).once(),
        test!(rows_that_change_while_capture_reads_their_altered_table_again_keep_nothing_of_before).once(),
        test!(what_changes_no_row_means_reading_no_table_again),
        test!(what_altered_types_and_partitions_did_is_shown_through_a_broker).once(),
        test!(a_label_renamed_in_a_looked_up_table_reaches_the_documents),
        test!(an_alteration_that_was_undone_leaves_nothing_of_a_reading_that_a_kill_interrupted).once(),
    ];
    tests.extend(columns::tests());
    tests.extend(names::tests());
    tests.extend(partitions::tests());
    tests
}

pub(crate) fn named(collections: &[&str]) -> Settings {
    let collection = |name: &&str| Collection::new(name, &format!("public.{name}"), "{{ name }}");
    Settings::new(collections.iter().map(collection))
}

pub(crate) fn image_of(collection: &'static str) -> Expected {
    Expected::of(collection, |row| row["name"].as_str().unwrap_or_default().to_owned())
}

/// The names that the points of a collection have, sorted.
async fn names_shown(walvec: &Walvec, collection: &str) -> Result<Vec<String>> {
    let page: Value = walvec.get_json("/api/v1/points", &[("collection", collection), ("limit", "10000")]).await?;
    let points = page["points"].as_array().context("points")?;
    let mut names: Vec<String> = points.iter().map(|point| point["payload"]["name"].to_string()).collect();
    names.sort();
    Ok(names)
}

async fn names_in(context: &TestContext, table: &str) -> Result<Vec<String>> {
    let rows = context.sql.query(&format!("SELECT name::text FROM {table}"), &[]).await?;
    let mut names: Vec<String> = rows.iter().map(|row| json!(row.get::<_, Option<String>>(0)).to_string()).collect();
    names.sort();
    Ok(names)
}

/// Waits until each collection shows the names of its table.
pub(crate) async fn shown(context: &TestContext, walvec: &mut Walvec, tables: &[&str]) -> Result<()> {
    for table in tables {
        let wanted = names_in(context, table).await?;
        wait::until(&format!("the collection {table} shows its table"), async || {
            walvec.is_alive()?;
            Ok(names_shown(walvec, table).await.is_ok_and(|shown| shown == wanted).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// Stops walvec and compares each collection with its table.
pub(crate) async fn compared(context: &TestContext, mut walvec: Walvec, tables: &[&'static str]) -> Result<()> {
    walvec.caught_up(context).await?;
    walvec.stop().await?;
    for table in tables {
        image::compare(context, &image_of(table)).await.with_context(|| format!("collection {table}"))?;
    }
    Ok(())
}

const TYPES: [&str; 6] = ["moods", "feelings", "parts", "replaced", "rewritten", "nested"];

const TABLES_OF_TYPES: &str = "
    CREATE TYPE mood AS ENUM ('low', 'high');
    CREATE DOMAIN feeling AS mood;
    CREATE TYPE pair AS (a int, b feeling[]);
    CREATE TYPE place AS (x int, y int);
    CREATE TABLE moods (id int PRIMARY KEY, name mood);
    CREATE TABLE feelings (id int PRIMARY KEY, name feeling);
    CREATE TABLE nested (id int PRIMARY KEY, name pair);
    CREATE TABLE parts (id int PRIMARY KEY, name place);
    CREATE TABLE replaced (id int PRIMARY KEY, name text);
    CREATE TABLE rewritten (id int PRIMARY KEY, name text);
    INSERT INTO moods VALUES (1, 'low'), (2, 'high');
    INSERT INTO feelings VALUES (1, 'low'), (2, 'high');
    INSERT INTO nested VALUES (1, (1, '{low,high}')), (2, (2, '{high}'));
    INSERT INTO parts VALUES (1, (1, 2)), (2, (3, 4));
    INSERT INTO replaced VALUES (1, 'one'), (2, 'two');
    INSERT INTO rewritten VALUES (1, 'one'), (2, 'two')";

/// One message is one transaction.
const ALTERED_TYPES: &str = "
    ALTER TYPE mood RENAME VALUE 'low' TO 'lowest';
    ALTER TYPE place DROP ATTRIBUTE y;
    ALTER TABLE replaced DROP COLUMN name;
    ALTER TABLE replaced ADD COLUMN name text DEFAULT 'another';
    ALTER TABLE rewritten ALTER COLUMN name TYPE text USING upper(name)";

async fn what_altered_types_did_to_rows_is_shown_though_no_stream_tells(context: TestContext) -> Result<()> {
    context.execute(TABLES_OF_TYPES).await?;
    let mut walvec = context.start(&named(&TYPES)).await?;
    walvec.caught_up(&context).await?;
    context.execute(ALTERED_TYPES).await?;
    shown(&context, &mut walvec, &TYPES).await?;
    compared(&context, walvec, &TYPES).await
}

async fn what_altered_types_did_to_rows_while_nothing_ran_is_shown(context: TestContext) -> Result<()> {
    context.execute(TABLES_OF_TYPES).await?;
    let mut walvec = context.start(&named(&TYPES)).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    context.execute(ALTERED_TYPES).await?;
    let mut walvec = context.start(&named(&TYPES)).await?;
    shown(&context, &mut walvec, &TYPES).await?;
    compared(&context, walvec, &TYPES).await
}

async fn an_altered_table_is_read_again_alone(context: TestContext) -> Result<()> {
    context.execute(TABLES_OF_TYPES).await?;
    let mut walvec = context.start(&named(&TYPES)).await?;
    walvec.caught_up(&context).await?;
    context.execute("ALTER TABLE rewritten ALTER COLUMN name TYPE text USING upper(name)").await?;
    shown(&context, &mut walvec, &["rewritten"]).await?;
    let status = walvec.status().await?;
    assert_eq!((status.generation.0, status.phase), (1, Phase::Streaming), "{status:?}");
    for collection in &status.collections {
        let wanted = if collection.collection == "rewritten" { 4 } else { 2 };
        let processed = collection.embeddings_computed + collection.embeddings_reused;
        assert_eq!(processed, wanted, "{collection:?}");
    }
    compared(&context, walvec, &TYPES).await
}

async fn what_changes_no_row_means_reading_no_table_again(context: TestContext) -> Result<()> {
    context.execute(TABLES_OF_TYPES).await?;
    let mut walvec = context.start(&named(&TYPES)).await?;
    walvec.caught_up(&context).await?;
    // Each of them is seen by a check of its own: storage and columns that change between two checks may mean a
    // rewrite.
    for statements in [
        &["VACUUM FULL rewritten", "CLUSTER rewritten USING rewritten_pkey"][..],
        &[
            "ALTER TYPE mood ADD VALUE 'middle' BEFORE 'high'",
            "ALTER TABLE rewritten ALTER COLUMN name SET STATISTICS 10",
        ],
        &["TRUNCATE rewritten", "INSERT INTO rewritten VALUES (7, 'seven')"],
    ] {
        for statement in statements {
            context.execute(statement).await?;
        }
        // Two alterations, one after the other: when the second one is shown, a check that began after the statements
        // has ended.
        for suffix in ["!", "?"] {
            let alteration = format!("ALTER TABLE replaced ALTER COLUMN name TYPE text USING name || '{suffix}'");
            context.execute(&alteration).await?;
            shown(&context, &mut walvec, &["replaced", "rewritten"]).await?;
        }
    }
    let status = walvec.status().await?;
    let processed = |name: &str| {
        let collection = status.collections.iter().find(|collection| collection.collection == name).unwrap();
        collection.embeddings_computed + collection.embeddings_reused
    };
    assert_eq!((processed("moods"), processed("rewritten"), processed("replaced")), (2, 3, 14), "{status:?}");
    compared(&context, walvec, &TYPES).await
}

/// A table with values that an UPDATE leaves out, because they are large.
const LARGE: &str = "CREATE TABLE large (id int PRIMARY KEY, n int, name text);
    ALTER TABLE large ALTER name SET STORAGE EXTERNAL;
    INSERT INTO large SELECT g, 0, repeat(md5(g::text), 80) FROM generate_series(1, 1500) g";

/// Rewrites the values, and changes rows until `walvec` shows what they are now.
async fn rewritten_under_load(context: &TestContext, walvec: &Walvec) -> Result<()> {
    context.execute("ALTER TABLE large ALTER name TYPE text USING upper(name)").await?;
    let wanted = names_in(context, "large").await?;
    let mut round = 0;
    wait::until("the collection shows its table", async || {
        round += 1;
        context.execute(&format!("UPDATE large SET n = n + 1 WHERE id % 50 = {round} % 50")).await?;
        Ok(names_shown(walvec, "large").await.is_ok_and(|shown| shown == wanted).then_some(()))
    })
    .await
}

async fn rows_that_change_while_their_altered_table_is_read_again_keep_nothing_of_before(
    context: TestContext,
) -> Result<()> {
    context.execute(LARGE).await?;
    // The model is so slow that reading the table takes seconds.
    let settings = named(&["large"]).with("embedding", json!({ "model": "hash/64/wait/100" }));
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    rewritten_under_load(&context, &walvec).await?;
    compared(&context, walvec, &["large"]).await
}

async fn rows_that_change_while_capture_reads_their_altered_table_again_keep_nothing_of_before(
    context: TestContext,
) -> Result<()> {
    if !can_test("alterations under load through a broker") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    context.execute(LARGE).await?;
    let settings = kafka.carries(named(&["large"]));
    let (mut capture, mut worker) = indexed_by_one(&context, &kafka, &settings).await?;
    rewritten_under_load(&context, &worker).await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    capture.stop().await?;
    worker.stop().await?;
    image::compare(&context, &image_of("large")).await?;
    Ok(())
}

async fn what_altered_types_and_partitions_did_is_shown_through_a_broker(context: TestContext) -> Result<()> {
    if !can_test("alterations through a broker") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    partitioned(&context).await?;
    context.execute(TABLES_OF_TYPES).await?;
    let tables = ["moods", "rewritten", "attached", "detached", "truncated"];
    let settings = kafka.carries(named(&tables));
    let mut capture = captured(&context, &settings).await?;
    let mut worker = context.start_stage(&settings, "index", "1").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    context.execute(ALTERED_TYPES).await?;
    for statement in COME_AND_GONE {
        context.execute(statement).await?;
    }
    shown(&context, &mut worker, &tables).await?;
    assert_eq!(capture.status().await?.phase, Phase::Streaming);
    capture.stop().await?;
    worker.stop().await?;
    for table in tables {
        image::compare(&context, &image_of(table)).await.with_context(|| format!("collection {table}"))?;
    }
    Ok(())
}

async fn a_label_renamed_in_a_looked_up_table_reaches_the_documents(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TYPE genre AS ENUM ('novel', 'essay');
             CREATE TABLE authors (id int PRIMARY KEY, genre genre);
             CREATE TABLE books (id int PRIMARY KEY, name text, author int);
             INSERT INTO authors VALUES (1, 'novel'), (2, 'essay');
             INSERT INTO books VALUES (1, 'one', 1), (2, 'two', 2), (3, 'three', 1)",
        )
        .await?;
    let lookup = json!({ "writer": { "table": "public.authors", "on": { "id": "author" } } });
    let books = Collection::new("books", "public.books", "{{ name }}, {{ writer.genre }}").with("lookup", lookup);
    let mut walvec = context.start(&Settings::new([books])).await?;
    walvec.caught_up(&context).await?;
    let before = walvec.status().await?.collections[0].embeddings_computed;
    context.execute("ALTER TYPE genre RENAME VALUE 'novel' TO 'story'").await?;
    walvec
        .wait_for("the two documents with that label are made again", |now| {
            now.collections[0].embeddings_computed == before + 2 && now.phase == Phase::Streaming
        })
        .await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let sql = "format('%s, %s', name, (SELECT a.genre FROM authors a WHERE a.id = author))";
    let expected = Expected { sql: Some(sql), ..image_of("books") };
    assert_eq!(image::compare(&context, &expected).await?, 3);
    Ok(())
}

async fn an_alteration_that_was_undone_leaves_nothing_of_a_reading_that_a_kill_interrupted(
    context: TestContext,
) -> Result<()> {
    context
        .execute(
            "CREATE TYPE mood AS ENUM ('low', 'high');
             CREATE TABLE items (id int PRIMARY KEY, mood mood);
             INSERT INTO items SELECT g, 'low' FROM generate_series(1, 3000) g",
        )
        .await?;
    let items = Collection::new("items", "public.items", "{{ id }} {{ mood }}");
    let settings = Settings::new([items]).with("embedding", json!({ "model": "hash/64/wait/50" }));
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    let before = walvec.status().await?.collections[0].embeddings_computed;
    context.execute("ALTER TYPE mood RENAME VALUE 'low' TO 'sad'").await?;
    let has_begun = |now: &Status| now.collections[0].embeddings_computed > before + 500;
    let now = walvec.wait_for("rows are read again", has_begun).await?;
    walvec.kill().await?;
    assert!(now.collections[0].embeddings_computed < before + 3000, "the reading was interrupted");
    context.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'low'").await?;

    let walvec = context.start(&settings).await?;
    wait::until("no row shows the label of before", async || {
        let found: Value = walvec.get_json("/api/v1/points", &[("collection", "items"), ("limit", "10000")]).await?;
        let points = found["points"].as_array().context("points")?;
        Ok((points.len() == 3000 && points.iter().all(|point| point["payload"]["mood"] == "low")).then_some(()))
    })
    .await?;
    walvec.stop().await?;
    let expected = Expected::of("items", |row| format!("{} {}", row["id"], row["mood"].as_str().unwrap_or_default()));
    assert_eq!(image::compare(&context, &expected).await?, 3000);
    Ok(())
}
