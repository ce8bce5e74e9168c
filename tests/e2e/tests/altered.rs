//! Changes that only the catalogue shows and the stream does not: altered types, partitions that come and go, tables that
//! change places. The collection is the image of the table again within seconds, whether walvec was running or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use walvec_e2e::{Collection, Expected, Kafka, Settings, Test, TestContext, Walvec, image, test, wait};
use walvec_pipeline::observe::status::{Phase, Status};
use walvec_test_kafka::can_test;

use crate::broker::{captured, indexed_by_one};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(what_altered_types_did_to_rows_is_shown_though_no_stream_tells),
        test!(what_altered_types_did_to_rows_while_nothing_ran_is_shown),
        test!(partitions_that_come_and_go_take_their_rows_along),
        test!(partitions_that_came_and_went_while_nothing_ran_took_their_rows_along),
        test!(an_altered_table_is_read_again_alone),
        test!(rows_that_change_while_their_altered_table_is_read_again_keep_nothing_of_before).once(),
        test!(rows_that_change_while_capture_reads_their_altered_table_again_keep_nothing_of_before).once(),
        test!(what_changes_no_row_means_reading_no_table_again),
        test!(a_table_emptied_as_a_whole_is_not_read_again),
        test!(what_altered_types_and_partitions_did_is_shown_through_a_broker).once(),
        test!(a_label_renamed_in_a_looked_up_table_reaches_the_documents),
        test!(an_alteration_that_was_undone_leaves_nothing_of_a_reading_that_a_kill_interrupted).once(),
        test!(a_table_that_takes_over_the_name_is_shown),
        test!(a_table_that_took_over_the_name_while_nothing_ran_is_shown),
        test!(a_looked_up_table_that_another_one_replaces_reaches_the_documents),
        test!(a_worker_reads_values_of_the_partitioned_table_that_has_taken_over_the_name).once(),
        test!(a_table_that_is_gone_is_named),
        test!(columns_that_change_between_changes_of_one_transaction_are_followed),
        test!(an_identity_that_lacks_the_key_is_named_while_running),
        test!(a_collection_added_under_load_takes_one_start),
        test!(another_owner_of_the_publication_changes_nothing_and_another_name_is_told),
        test!(a_renamed_key_column_is_followed_by_itself),
        test!(a_dropped_column_that_nothing_uses_stops_no_refetch),
        test!(a_partition_dropped_or_detached_during_the_snapshot_leaves_nothing_behind),
        test!(many_idle_tables_cost_two_statements_a_second).on_own_server(&[("log_statement", "all")]).once(),
        test!(an_identity_that_a_row_filter_no_longer_fits_stops_its_table_alone).since(15),
        test!(a_partition_that_was_away_between_two_looks_is_read_again),
        test!(a_partition_with_row_level_security_is_read_through_its_table).once(),
        test!(a_key_whose_label_was_renamed_while_nothing_ran_is_followed),
    ]
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

const PARTITIONED: [&str; 5] = ["attached", "detached", "dropped", "truncated", "created"];

/// Creates partitioned tables, each with two partitions of one row, and a table that could be attached.
pub(crate) async fn partitioned(context: &TestContext) -> Result<()> {
    for table in PARTITIONED {
        let sql = format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);
             CREATE TABLE {table}_1 PARTITION OF {table} FOR VALUES FROM (0) TO (10);
             CREATE TABLE {table}_2 PARTITION OF {table} FOR VALUES FROM (10) TO (20);
             CREATE TABLE {table}_3 (id int PRIMARY KEY, name text);
             INSERT INTO {table} VALUES (1, 'one'), (11, 'eleven');
             INSERT INTO {table}_3 VALUES (21, 'twenty-one'), (22, 'twenty-two')"
        );
        context.execute(&sql).await?;
    }
    Ok(())
}

const COME_AND_GONE: [&str; 5] = [
    "ALTER TABLE attached ATTACH PARTITION attached_3 FOR VALUES FROM (20) TO (30)",
    "INSERT INTO detached VALUES (12, 'comes and goes'); ALTER TABLE detached DETACH PARTITION detached_2",
    "INSERT INTO dropped VALUES (2, 'comes and goes'); DROP TABLE dropped_1",
    "INSERT INTO truncated VALUES (12, 'comes and goes'); TRUNCATE truncated_2",
    "CREATE TABLE created_4 PARTITION OF created FOR VALUES FROM (20) TO (30); INSERT INTO created VALUES (25, 'new')",
];

async fn partitions_that_come_and_go_take_their_rows_along(context: TestContext) -> Result<()> {
    partitioned(&context).await?;
    let mut walvec = context.start(&named(&PARTITIONED)).await?;
    walvec.caught_up(&context).await?;
    for statement in COME_AND_GONE {
        context.execute(statement).await?;
    }
    shown(&context, &mut walvec, &PARTITIONED).await?;
    compared(&context, walvec, &PARTITIONED).await
}

async fn partitions_that_came_and_went_while_nothing_ran_took_their_rows_along(context: TestContext) -> Result<()> {
    partitioned(&context).await?;
    let mut walvec = context.start(&named(&PARTITIONED)).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    for statement in COME_AND_GONE {
        context.execute(statement).await?;
    }
    let mut walvec = context.start(&named(&PARTITIONED)).await?;
    shown(&context, &mut walvec, &PARTITIONED).await?;
    compared(&context, walvec, &PARTITIONED).await
}

async fn a_partition_that_was_away_between_two_looks_is_read_again(context: TestContext) -> Result<()> {
    partitioned(&context).await?;
    let settings = named(&["attached", "detached"]);
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    // While a partition is detached, its changes are not streamed.
    let away = |table: &str, name: &str| {
        format!(
            "BEGIN; ALTER TABLE {table} DETACH PARTITION {table}_2; UPDATE {table}_2 SET name = '{name}';
             INSERT INTO {table}_2 SELECT max(id) + 1, '{name} too' FROM {table}_2;
             ALTER TABLE {table} ATTACH PARTITION {table}_2 FOR VALUES FROM (10) TO (20); COMMIT"
        )
    };
    context.execute(&away("attached", "away")).await?;
    shown(&context, &mut walvec, &["attached", "detached"]).await?;
    walvec.stop().await?;
    context.execute(&away("detached", "away while nothing ran")).await?;
    let mut walvec = context.start(&settings).await?;
    shown(&context, &mut walvec, &["attached", "detached"]).await?;
    compared(&context, walvec, &["attached", "detached"]).await
}

/// The row-level security of a partition does not apply to a query of the partitioned table.
async fn a_partition_with_row_level_security_is_read_through_its_table(context: TestContext) -> Result<()> {
    partitioned(&context).await?;
    let role = format!("{}_reader", context.database());
    context
        .execute(&format!(
            "CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'reader'; CREATE PUBLICATION theirs FOR TABLE attached
                 WITH (publish_via_partition_root = true);
             GRANT SELECT ON attached, attached_1, attached_2 TO {role}; ALTER TABLE attached_2 ENABLE ROW LEVEL SECURITY"
        ))
        .await?;
    let server = context.url();
    let (_, server) = server.split_once('@').context("the URL names a user")?;
    let source = json!({ "url": format!("postgres://{role}:reader@{server}"), "publication": "theirs" });
    let settings = named(&["attached"]).with("source", source);
    let mut walvec = context.start(&settings).await?;
    shown(&context, &mut walvec, &["attached"]).await?;
    compared(&context, walvec, &["attached"]).await?;
    context.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await
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

async fn a_table_emptied_as_a_whole_is_not_read_again(context: TestContext) -> Result<()> {
    partitioned(&context).await?;
    context
        .execute(
            "CREATE TABLE last (id int PRIMARY KEY, name text); INSERT INTO last VALUES (1, 'one');
             CREATE TABLE made_anew (id int PRIMARY KEY, name text); INSERT INTO made_anew VALUES (1, 'one')",
        )
        .await?;
    let settings = named(&["truncated", "made_anew", "last"]);
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    // With a partitioned table, rows in the same transaction would leave open whether a partition was truncated after
    // them.
    context.execute("TRUNCATE truncated").await?;
    context.execute("INSERT INTO truncated VALUES (2, 'two')").await?;
    context.execute("BEGIN; TRUNCATE made_anew; INSERT INTO made_anew VALUES (2, 'two'); COMMIT").await?;
    walvec.caught_up(&context).await?;
    // Two alterations, one after the other: when they are shown, walvec has checked the emptied tables.
    for suffix in ["!", "?"] {
        context.execute(&format!("ALTER TABLE last ALTER COLUMN name TYPE text USING name || '{suffix}'")).await?;
        shown(&context, &mut walvec, &["last"]).await?;
    }
    let log = std::fs::read_to_string(walvec.log())?;
    let read = |table: &str| log.lines().filter(|line| line.contains("read again") && line.contains(table)).count();
    assert_eq!((read("truncated"), read("made_anew"), read("public.last")), (0, 0, 2), "{log}");
    compared(&context, walvec, &["truncated", "made_anew", "last"]).await
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

async fn a_renamed_key_column_is_followed_by_itself(context: TestContext) -> Result<()> {
    context
        .execute("CREATE TABLE items (id int PRIMARY KEY, name text); INSERT INTO items VALUES (1, 'one'), (2, 'two')")
        .await?;
    let mut walvec = context.start(&named(&["items"])).await?;
    walvec.caught_up(&context).await?;
    let in_one = "BEGIN; INSERT INTO items VALUES (3, 'three'); ALTER TABLE items RENAME id TO number; COMMIT";
    context.execute(in_one).await?;
    let is_read_again = |now: &Status, generation| now.generation.0 >= generation && now.phase == Phase::Streaming;
    walvec.wait_for("the table is read again", |now| is_read_again(now, 2)).await?;
    shown(&context, &mut walvec, &["items"]).await?;
    context
        .execute("BEGIN; ALTER TABLE items RENAME number TO key; INSERT INTO items VALUES (4, 'four'); COMMIT")
        .await?;
    walvec.wait_for("the table is read once more", |now| is_read_again(now, 3)).await?;
    shown(&context, &mut walvec, &["items"]).await?;
    compared(&context, walvec, &["items"]).await
}

async fn a_dropped_column_that_nothing_uses_stops_no_refetch(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TABLE items (id int PRIMARY KEY, name text, body text, unused int);
             ALTER TABLE items ALTER COLUMN body SET STORAGE EXTERNAL;
             INSERT INTO items SELECT n, 'item ' || n, repeat('x', 5000) FROM generate_series(1, 3) n",
        )
        .await?;
    let collection = Collection::new("items", "public.items", "{{ name }}: {{ body }}");
    let settings = Settings::new([collection.with("payload", json!(["name"]))]);
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    let in_one = "BEGIN; UPDATE items SET name = 'new ' || id; ALTER TABLE items DROP COLUMN unused; COMMIT";
    context.execute(in_one).await?;
    shown(&context, &mut walvec, &["items"]).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let text = |row: &walvec_model::Payload| {
        format!("{}: {}", row["name"].as_str().unwrap_or_default(), row["body"].as_str().unwrap_or_default())
    };
    let expected = Expected { payload: Some(&["name"]), ..Expected::of("items", text) };
    assert_eq!(image::compare(&context, &expected).await?, 3);
    Ok(())
}

async fn a_partition_dropped_or_detached_during_the_snapshot_leaves_nothing_behind(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TABLE items (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);
             CREATE TABLE items_1 PARTITION OF items FOR VALUES FROM (0) TO (100000);
             CREATE TABLE items_2 PARTITION OF items FOR VALUES FROM (100000) TO (200000);
             CREATE TABLE items_3 PARTITION OF items FOR VALUES FROM (200000) TO (300000);
             INSERT INTO items SELECT n, 'item ' || n FROM generate_series(1, 6000) n;
             INSERT INTO items SELECT n, 'item ' || n FROM generate_series(100001, 100100) n;
             INSERT INTO items SELECT n, 'item ' || n FROM generate_series(200001, 200100) n",
        )
        .await?;
    let settings = named(&["items"]).with("embedding", json!({ "model": "hash/64/wait/100" }));
    let settings = settings.with("source", json!({ "copy_workers": 1 }));
    let mut walvec = context.start(&settings).await?;
    let begun = |now: &Status| now.phase == Phase::Snapshot && now.collections[0].snapshot_rows_copied > 0;
    walvec.wait_for("rows are being copied", begun).await?;
    context.execute("DROP TABLE items_3").await?;
    context.execute("ALTER TABLE items DETACH PARTITION items_2").await?;
    // In the middle of the copy there may be as many points by chance, so the phase counts too.
    let is_over = |now: &Status| now.phase == Phase::Streaming && now.collections[0].points == Some(6000);
    walvec.wait_for("what is gone is removed", is_over).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let expected = Expected { model: "hash/64/wait/100", ..image_of("items") };
    assert_eq!(image::compare(&context, &expected).await?, 6000);
    Ok(())
}

async fn many_idle_tables_cost_two_statements_a_second(context: TestContext) -> Result<()> {
    const COUNT: usize = 60;
    let mut collections = Vec::new();
    for n in 0..COUNT {
        context.execute(&format!("CREATE TABLE t{n} (id int PRIMARY KEY, name text)")).await?;
        collections.push(Collection::new(&format!("t{n}"), &format!("public.t{n}"), "{{ name }}"));
    }
    let mut walvec = context.start(&Settings::new(collections)).await?;
    walvec.caught_up(&context).await?;
    // Each check asks for the server's position once.
    let statements = || -> Result<(usize, usize)> {
        let log = std::fs::read_to_string(context.cluster().log())?;
        let all = log.lines().filter(|line| line.contains("execute ") || line.contains("statement: "));
        let looks = log.lines().filter(|line| line.contains("SELECT pg_current_wal_flush_lsn()"));
        Ok((all.count(), looks.count()))
    };
    let before = statements()?;
    let after = wait::until("ten looks were taken", async || {
        let now = statements()?;
        Ok((now.1 >= before.1 + 10).then_some(now))
    })
    .await?;
    let (all, looks) = (after.0 - before.0, after.1 - before.1);
    assert!(all <= 2 * looks + 2, "{all} statements at {looks} looks");
    walvec.stop().await
}

async fn an_identity_that_a_row_filter_no_longer_fits_stops_its_table_alone(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TABLE items (id int PRIMARY KEY, name text, year int);
             ALTER TABLE items REPLICA IDENTITY FULL;
             INSERT INTO items VALUES (1, 'one', 1900);
             CREATE TABLE others (id int PRIMARY KEY, name text)",
        )
        .await?;
    let items = Collection::new("items", "public.items", "{{ name }}").with("where", json!("year > 1800"));
    let others = Collection::new("others", "public.others", "{{ name }}");
    let settings = Settings::new([items, others]);
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    context.execute("ALTER TABLE items REPLICA IDENTITY DEFAULT").await?;
    let aside = |now: &Status| now.collections[0].set_aside.clone();
    let status = walvec.wait_for("it is set aside", |now| aside(now).is_some()).await?;
    let why = aside(&status).context("it was")?;
    assert!(why.message.contains("replica identity") && why.remedy.contains("FULL"), "{why:?}");
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    assert!(aside(&walvec.status().await?).is_some(), "the others go on after a restart too");
    // As long as walvec published the table, PostgreSQL refused such updates.
    context.execute("UPDATE items SET name = 'two'; ALTER TABLE items REPLICA IDENTITY FULL").await?;
    walvec.wait_for("it is followed again", |now| aside(now).is_none()).await?;
    walvec.caught_up(&context).await?;
    compared(&context, walvec, &["items", "others"]).await
}

async fn a_key_whose_label_was_renamed_while_nothing_ran_is_followed(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TYPE kind AS ENUM ('a', 'b');
             CREATE TABLE items (kind kind PRIMARY KEY, name text, body text);
             ALTER TABLE items ALTER COLUMN body SET STORAGE EXTERNAL;
             INSERT INTO items VALUES ('a', 'one', repeat('x', 5000)), ('b', 'two', repeat('y', 5000))",
        )
        .await?;
    let collection = Collection::new("items", "public.items", "{{ name }}: {{ body }}");
    let settings = Settings::new([collection.with("payload", json!(["kind", "name"]))]);
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    context.execute("UPDATE items SET name = 'changed ' || kind").await?;
    context.execute("ALTER TYPE kind RENAME VALUE 'a' TO 'z'").await?;
    let mut walvec = context.start(&settings).await?;
    shown(&context, &mut walvec, &["items"]).await?;
    walvec.caught_up(&context).await?;
    let text = |row: &walvec_model::Payload| {
        format!("{}: {}", row["name"].as_str().unwrap_or_default(), row["body"].as_str().unwrap_or_default())
    };
    let expected = Expected { payload: Some(&["kind", "name"]), ..Expected::of("items", text) };
    walvec.wait_for("the row under its former label is gone", |now| now.collections[0].points == Some(2)).await?;
    // The points of both labels exist for a moment; the sweep is the last step.
    wait::until("the row has its new label", async || {
        let page: Value = walvec.get_json("/api/v1/points", &[("collection", "items")]).await?;
        let points = page["points"].as_array().context("points")?;
        let kinds: Vec<&Value> = points.iter().map(|point| &point["payload"]["kind"]).collect();
        Ok((kinds.len() == 2 && kinds.contains(&&json!("z"))).then_some(()))
    })
    .await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &expected).await?, 2);
    Ok(())
}

const BLUE_AND_GREEN: &str = "
    CREATE TABLE items (id int PRIMARY KEY, name text);
    CREATE TABLE items_new (id int PRIMARY KEY, name text);
    CREATE TABLE other (id int PRIMARY KEY, name text);
    INSERT INTO items VALUES (1, 'blue one'), (2, 'blue two');
    INSERT INTO items_new VALUES (2, 'green two'), (3, 'green three');
    INSERT INTO other VALUES (1, 'one')";

async fn a_table_that_takes_over_the_name_is_shown(context: TestContext) -> Result<()> {
    context.execute(BLUE_AND_GREEN).await?;
    let mut walvec = context.start(&named(&["items", "other"])).await?;
    walvec.caught_up(&context).await?;
    context.execute("ALTER TABLE items RENAME TO items_old; ALTER TABLE items_new RENAME TO items").await?;
    shown(&context, &mut walvec, &["items"]).await?;
    context
        .execute("UPDATE items SET name = 'green 2' WHERE id = 2; UPDATE items_old SET name = 'nobody sees it'")
        .await?;
    compared(&context, walvec, &["items", "other"]).await
}

async fn a_table_that_took_over_the_name_while_nothing_ran_is_shown(context: TestContext) -> Result<()> {
    context.execute(BLUE_AND_GREEN).await?;
    let settings = named(&["items", "other"]);
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    context
        .execute(
            "CREATE SCHEMA old; ALTER TABLE items SET SCHEMA old; ALTER TABLE items_new RENAME TO items;
             UPDATE items SET name = 'green 2' WHERE id = 2",
        )
        .await?;
    let mut walvec = context.start(&settings).await?;
    shown(&context, &mut walvec, &["items"]).await?;
    compared(&context, walvec, &["items", "other"]).await
}

async fn a_looked_up_table_that_another_one_replaces_reaches_the_documents(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TABLE authors (id int PRIMARY KEY, name text);
             CREATE TABLE authors_new (id int PRIMARY KEY, name text);
             CREATE TABLE books (id int PRIMARY KEY, name text, author int);
             INSERT INTO authors VALUES (1, 'blue'), (2, 'blue too');
             INSERT INTO authors_new VALUES (1, 'green'), (2, 'green too');
             INSERT INTO books VALUES (1, 'one', 1), (2, 'two', 2), (3, 'three', 1)",
        )
        .await?;
    let lookup = json!({ "writer": { "table": "public.authors", "on": { "id": "author" } } });
    let books = Collection::new("books", "public.books", "{{ name }}, {{ writer.name }}").with("lookup", lookup);
    let mut walvec = context.start(&Settings::new([books])).await?;
    walvec.caught_up(&context).await?;
    context.execute("ALTER TABLE authors RENAME TO authors_old; ALTER TABLE authors_new RENAME TO authors").await?;
    let again = |now: &Status| now.generation.0 > 1 && now.phase == Phase::Streaming;
    walvec.wait_for("the documents are made again", again).await?;
    context.execute("UPDATE authors SET name = 'greener' WHERE id = 2").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let sql = "format('%s, %s', name, (SELECT a.name FROM authors a WHERE a.id = author))";
    let expected = Expected { sql: Some(sql), ..image_of("books") };
    assert_eq!(image::compare(&context, &expected).await?, 3);
    Ok(())
}

async fn a_worker_reads_values_of_the_partitioned_table_that_has_taken_over_the_name(
    context: TestContext,
) -> Result<()> {
    if !can_test("a table that takes over a name, through a broker") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    context.execute(LARGE).await?;
    // The embedded column is not stored, so a worker has to read it again when an update leaves it out.
    let collection = Collection::new("large", "public.large", "{{ name }}").with("payload", json!(["id", "n"]));
    let settings = kafka.carries(Settings::new([collection]));
    let (mut capture, mut worker) = indexed_by_one(&context, &kafka, &settings).await?;
    context.execute("UPDATE large SET n = 1 WHERE id <= 10").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    let before = capture.status().await?.generation;
    context
        .execute(
            "ALTER TABLE large RENAME TO former;
             CREATE TABLE large (id int PRIMARY KEY, n int, name text) PARTITION BY RANGE (id);
             CREATE TABLE large_1 PARTITION OF large FOR VALUES FROM (0) TO (10000);
             ALTER TABLE large_1 ALTER name SET STORAGE EXTERNAL;
             INSERT INTO large SELECT id, n, name FROM former",
        )
        .await?;
    let again = |now: &Status| now.generation > before && now.phase == Phase::Streaming;
    capture.wait_for("it is read again", again).await?;
    context.execute("UPDATE large SET n = 2 WHERE id <= 20").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    capture.stop().await?;
    worker.stop().await?;
    let expected = Expected { payload: Some(&["id", "n"]), ..image_of("large") };
    assert_eq!(image::compare(&context, &expected).await?, 1500);
    Ok(())
}

async fn a_table_that_is_gone_is_named(context: TestContext) -> Result<()> {
    context.execute(BLUE_AND_GREEN).await?;
    let mut walvec = context.start(&named(&["items", "other"])).await?;
    walvec.caught_up(&context).await?;
    context.execute("ALTER TABLE items RENAME TO items_old").await?;
    let is_named = |now: &Status| now.problem.as_ref().is_some_and(|problem| problem.message.contains("public.items"));
    walvec.wait_for("the table is named", is_named).await?;
    context.execute("UPDATE other SET name = 'goes on'").await?;
    shown(&context, &mut walvec, &["other"]).await?;
    compared(&context, walvec, &["other"]).await
}

async fn columns_that_change_between_changes_of_one_transaction_are_followed(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TABLE items (id int PRIMARY KEY, name text, a int, b int);
             INSERT INTO items SELECT n, 'item ' || n, n, n FROM generate_series(1, 4) n",
        )
        .await?;
    let mut walvec = context.start(&named(&["items"])).await?;
    walvec.caught_up(&context).await?;
    context
        .execute(
            "BEGIN;
             UPDATE items SET name = 'first' WHERE id = 1;
             ALTER TABLE items ADD COLUMN c int DEFAULT 7;
             UPDATE items SET name = 'second' WHERE id = 2;
             ALTER TABLE items DROP COLUMN a;
             INSERT INTO items VALUES (5, 'third', 1, 1);
             ALTER TABLE items RENAME COLUMN b TO d;
             DELETE FROM items WHERE id = 4;
             ALTER TABLE items ALTER COLUMN d TYPE text USING 'd' || d;
             UPDATE items SET name = 'fourth' WHERE id = 3;
             COMMIT",
        )
        .await?;
    shown(&context, &mut walvec, &["items"]).await?;
    let again = |now: &Status| now.generation.0 > 1 && now.phase == Phase::Streaming;
    walvec.wait_for("the rows are read again", again).await?;
    compared(&context, walvec, &["items"]).await
}

async fn an_identity_that_lacks_the_key_is_named_while_running(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL UNIQUE);
             INSERT INTO items VALUES (1, 'one')",
        )
        .await?;
    let mut walvec = context.start(&named(&["items"])).await?;
    walvec.caught_up(&context).await?;
    context.execute("ALTER TABLE items REPLICA IDENTITY USING INDEX items_name_key").await?;
    let is_named = |now: &Status| {
        now.problem.as_ref().is_some_and(|problem| problem.message.contains("does not hold the key column \"id\""))
    };
    walvec.wait_for("the identity is named", is_named).await?;
    context.execute("ALTER TABLE items REPLICA IDENTITY DEFAULT; UPDATE items SET name = 'two'").await?;
    walvec.wait_for("nothing is wrong any more", |now| now.problem.is_none()).await?;
    compared(&context, walvec, &["items"]).await
}

async fn a_collection_added_under_load_takes_one_start(context: TestContext) -> Result<()> {
    context.execute(BLUE_AND_GREEN).await?;
    let mut walvec = context.start(&named(&["items"])).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let writer = context.connect().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let writing = tokio::spawn(async move {
        for id in 10.. {
            let sql = format!(
                "INSERT INTO other VALUES ({id}, 'new {id}'); UPDATE other SET name = name || '.' WHERE id = {id} - 3;
                 DELETE FROM other WHERE id = {id} - 9; INSERT INTO items VALUES ({id}, 'new {id}')"
            );
            writer.batch_execute(&sql).await?;
            if stopped.load(Ordering::Relaxed) {
                break;
            }
        }
        anyhow::Ok(())
    });
    context.execute("ALTER PUBLICATION walvec ADD TABLE ONLY other").await?;
    let mut walvec = context.start(&named(&["items", "other"])).await?;
    walvec.wait_for("the stream is followed", |now| now.phase == Phase::Streaming).await?;
    stop.store(true, Ordering::Relaxed);
    writing.await??;
    compared(&context, walvec, &["items", "other"]).await
}

async fn another_owner_of_the_publication_changes_nothing_and_another_name_is_told(context: TestContext) -> Result<()> {
    context.execute(BLUE_AND_GREEN).await?;
    let mut walvec = context.start(&named(&["items"])).await?;
    let asked = walvec.caught_up(&context).await?.server_asked;
    walvec.wait_for("another look was taken", |now| now.server_asked > asked).await?;
    let role = format!("owner_of_{}", context.slot());
    context.execute(&format!("CREATE ROLE {role} SUPERUSER; ALTER PUBLICATION walvec OWNER TO {role}")).await?;
    let log = walvec.log().to_owned();
    wait::until("the other owner is noticed", async || {
        walvec.is_alive()?;
        Ok(std::fs::read_to_string(&log)?.contains("the publication has another owner").then_some(()))
    })
    .await?;
    context.execute("INSERT INTO items VALUES (7, 'seven')").await?;
    shown(&context, &mut walvec, &["items"]).await?;
    walvec.stop().await?;
    let mut walvec = context.start(&named(&["items"])).await?;
    assert_eq!(walvec.caught_up(&context).await?.generation.0, 1, "and nothing after a restart");
    context.execute("ALTER PUBLICATION walvec RENAME TO \"my own\"").await?;
    let is_told =
        |now: &Status| now.resync.as_ref().is_some_and(|resync| resync.why.contains("is called \"my own\" now"));
    walvec.wait_for("the other name is told", is_told).await?;
    context.execute("DELETE FROM items WHERE id = 7").await?;
    shown(&context, &mut walvec, &["items"]).await?;
    walvec.stop().await?;
    context.execute(&format!("ALTER PUBLICATION \"my own\" OWNER TO CURRENT_USER; DROP ROLE {role}")).await
}
