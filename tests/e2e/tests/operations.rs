//! Every operation on a row, and on a table, ends in the same image.

use anyhow::Result;
use serde_json::json;
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, Walvec, image, is_full, test};
use walvec_pipeline::observe::status::{Phase, Status};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(an_update_that_leaves_the_text_alone_computes_no_embedding),
        test!(a_truncate_empties_the_collection_and_what_follows_in_its_transaction_stays),
        test!(a_changed_key_moves_the_point),
        test!(two_rows_that_swap_their_keys_keep_their_own_large_values),
        test!(a_large_value_that_an_update_leaves_alone_is_kept_across_a_restart),
        test!(a_large_value_that_is_only_in_the_text_is_read_again_when_it_is_needed),
        test!(what_was_rolled_back_never_appears),
        test!(names_that_need_quotes_and_composite_keys_are_followed),
        test!(a_partitioned_table_is_one_collection),
        test!(a_column_added_in_the_middle_of_a_transaction_appears),
        test!(what_an_altered_table_did_to_its_rows_is_shown_though_no_stream_tells),
        test!(a_transaction_of_very_many_rows_arrives_whole).once(),
        test!(a_row_that_cannot_be_rendered_is_parked_and_its_next_version_clears_it),
        test!(two_collections_of_one_table_are_both_kept),
    ]
}

fn items() -> Settings {
    Settings::new([Collection::new("items", "public.items", "{{ name }}")])
}

fn image_of_items() -> Expected {
    Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned())
}

async fn followed(context: &TestContext, settings: &Settings, table: &str) -> Result<Walvec> {
    context.execute(table).await?;
    let mut walvec = context.start(settings).await?;
    walvec.caught_up(context).await?;
    Ok(walvec)
}

async fn same(context: &TestContext, mut walvec: Walvec, expected: &Expected) -> Result<usize> {
    walvec.caught_up(context).await?;
    walvec.stop().await?;
    image::compare(context, expected).await
}

async fn an_update_that_leaves_the_text_alone_computes_no_embedding(context: TestContext) -> Result<()> {
    let table = "CREATE TABLE items (id int PRIMARY KEY, name text, stock int);
                 INSERT INTO items SELECT n, 'item ' || n, 0 FROM generate_series(1, 300) n";
    let mut walvec = followed(&context, &items(), table).await?;
    let before = walvec.status().await?.collections[0].clone();
    context.execute("UPDATE items SET stock = id").await?;
    let after = walvec.caught_up(&context).await?.collections[0].clone();
    assert_eq!(after.embeddings_computed, before.embeddings_computed);
    assert_eq!(after.embeddings_reused, before.embeddings_reused + 300);
    assert_eq!(same(&context, walvec, &image_of_items()).await?, 300);
    Ok(())
}

async fn a_truncate_empties_the_collection_and_what_follows_in_its_transaction_stays(
    context: TestContext,
) -> Result<()> {
    let table = "CREATE TABLE items (id int PRIMARY KEY, name text);
                 INSERT INTO items SELECT n, 'item ' || n FROM generate_series(1, 300) n";
    let walvec = followed(&context, &items(), table).await?;
    context
        .execute(
            "BEGIN;
             INSERT INTO items VALUES (1000, 'before');
             TRUNCATE items;
             INSERT INTO items VALUES (7, 'after'), (2000, 'after, too');
             COMMIT",
        )
        .await?;
    assert_eq!(same(&context, walvec, &image_of_items()).await?, 2);
    Ok(())
}

async fn a_changed_key_moves_the_point(context: TestContext) -> Result<()> {
    let table = "CREATE TABLE items (id int PRIMARY KEY, name text);
                 INSERT INTO items SELECT n, 'item ' || n FROM generate_series(1, 20) n";
    let walvec = followed(&context, &items(), table).await?;
    context.execute("UPDATE items SET id = id + 1000 WHERE id % 2 = 0").await?;
    context.execute("UPDATE items SET id = -id WHERE id < 1000").await?;
    assert_eq!(same(&context, walvec, &image_of_items()).await?, 20);
    Ok(())
}

const LARGE: &str = "CREATE TABLE items (id int PRIMARY KEY, name text, body text, n int DEFAULT 0);
    ALTER TABLE items ALTER COLUMN body SET STORAGE EXTERNAL;
    INSERT INTO items SELECT n, 'item ' || n, repeat('body of ' || n || '. ', 2000) FROM generate_series(1, 4) n";

async fn two_rows_that_swap_their_keys_keep_their_own_large_values(context: TestContext) -> Result<()> {
    let walvec = followed(&context, &items(), LARGE).await?;
    context
        .execute(
            "BEGIN;
             UPDATE items SET id = 99 WHERE id = 1;
             UPDATE items SET id = 1 WHERE id = 2;
             UPDATE items SET id = 2 WHERE id = 99;
             COMMIT",
        )
        .await?;
    assert_eq!(same(&context, walvec, &image_of_items()).await?, 4);
    Ok(())
}

async fn a_large_value_that_an_update_leaves_alone_is_kept_across_a_restart(context: TestContext) -> Result<()> {
    let mut walvec = followed(&context, &items(), LARGE).await?;
    context.execute("UPDATE items SET n = 1 WHERE id = 1").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    context.execute("UPDATE items SET n = 2 WHERE id <= 2; UPDATE items SET name = 'new name' WHERE id = 3").await?;
    let walvec = context.start(&items()).await?;
    assert_eq!(same(&context, walvec, &image_of_items()).await?, 4);
    Ok(())
}

async fn a_large_value_that_is_only_in_the_text_is_read_again_when_it_is_needed(context: TestContext) -> Result<()> {
    let collection = Collection::new("items", "public.items", "{{ name }}: {{ body }}");
    let settings = Settings::new([collection.with("payload", json!(["name", "n"]))]);
    let walvec = followed(&context, &settings, LARGE).await?;
    context.execute("UPDATE items SET name = 'new name' WHERE id = 1; UPDATE items SET n = 5 WHERE id = 2").await?;
    context.execute("UPDATE items SET name = 'soon gone' WHERE id = 3; DELETE FROM items WHERE id = 3").await?;
    let expected = Expected {
        payload: Some(&["name", "n"]),
        ..Expected::of("items", |row| {
            let text = |column: &str| row[column].as_str().unwrap_or_default().to_owned();
            format!("{}: {}", text("name"), text("body"))
        })
    };
    assert_eq!(same(&context, walvec, &expected).await?, 3);
    Ok(())
}

async fn what_was_rolled_back_never_appears(context: TestContext) -> Result<()> {
    let walvec = followed(&context, &items(), "CREATE TABLE items (id int PRIMARY KEY, name text)").await?;
    context
        .execute(
            "BEGIN; INSERT INTO items VALUES (1, 'never'); ROLLBACK;
             BEGIN;
             INSERT INTO items VALUES (2, 'kept');
             SAVEPOINT s; INSERT INTO items VALUES (3, 'never'); UPDATE items SET name = 'never' WHERE id = 2;
             ROLLBACK TO s; INSERT INTO items VALUES (4, 'kept');
             COMMIT",
        )
        .await?;
    assert_eq!(same(&context, walvec, &image_of_items()).await?, 2);
    Ok(())
}

async fn names_that_need_quotes_and_composite_keys_are_followed(context: TestContext) -> Result<()> {
    let table = r#"CREATE SCHEMA "Größen & Maße";
        CREATE TABLE "Größen & Maße"."Table ""1""" (
            "Schlüssel" text, "no." int, "the name" text, PRIMARY KEY ("no.", "Schlüssel"));
        INSERT INTO "Größen & Maße"."Table ""1""" VALUES ('a', 1, 'one'), ('b', 1, 'two'), ('a', -2, 'three')"#;
    let text = "{{ row[\"the name\"] }}";
    let collection = Collection::new("quoted", r#""Größen & Maße"."Table ""1""""#, text);
    let walvec = followed(&context, &Settings::new([collection]), table).await?;
    context
        .execute(
            r#"INSERT INTO "Größen & Maße"."Table ""1""" VALUES ('ab', 1, 'four');
               UPDATE "Größen & Maße"."Table ""1""" SET "the name" = 'zwei' WHERE "Schlüssel" = 'b';
               UPDATE "Größen & Maße"."Table ""1""" SET "Schlüssel" = 'c' WHERE "no." = -2;
               DELETE FROM "Größen & Maße"."Table ""1""" WHERE "Schlüssel" = 'a' AND "no." = 1"#,
        )
        .await?;
    let expected = Expected {
        collection: "quoted",
        schema: "Größen & Maße",
        ..Expected::of("Table \"1\"", |row| row["the name"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(same(&context, walvec, &expected).await?, 3);
    Ok(())
}

async fn a_partitioned_table_is_one_collection(context: TestContext) -> Result<()> {
    let table = "CREATE TABLE items (id int, year int, name text, PRIMARY KEY (id, year)) PARTITION BY RANGE (year);
        CREATE TABLE items_old PARTITION OF items FOR VALUES FROM (0) TO (2000);
        CREATE TABLE items_new PARTITION OF items FOR VALUES FROM (2000) TO (3000);
        INSERT INTO items SELECT n, 1900 + n, 'item ' || n FROM generate_series(1, 150) n";
    let walvec = followed(&context, &items(), table).await?;
    context
        .execute(
            "INSERT INTO items VALUES (1000, 1950, 'old'), (1001, 2050, 'new');
             UPDATE items SET year = 2100, name = 'moved to another partition' WHERE id = 3;
             DELETE FROM items WHERE id BETWEEN 95 AND 105",
        )
        .await?;
    assert_eq!(same(&context, walvec, &image_of_items()).await?, 141);
    Ok(())
}

async fn a_column_added_in_the_middle_of_a_transaction_appears(context: TestContext) -> Result<()> {
    let walvec = followed(&context, &items(), "CREATE TABLE items (id int PRIMARY KEY, name text)").await?;
    context
        .execute(
            "BEGIN;
             INSERT INTO items VALUES (1, 'before');
             ALTER TABLE items ADD COLUMN colour text;
             INSERT INTO items VALUES (2, 'after', 'red');
             UPDATE items SET name = 'before, changed after', colour = 'blue' WHERE id = 1;
             COMMIT",
        )
        .await?;
    assert_eq!(same(&context, walvec, &image_of_items()).await?, 2);
    Ok(())
}

async fn what_an_altered_table_did_to_its_rows_is_shown_though_no_stream_tells(context: TestContext) -> Result<()> {
    let table = "CREATE TABLE items (id int PRIMARY KEY, name text, price numeric(6, 2));
                 INSERT INTO items VALUES (1, 'one', 1.25), (2, 'two', 2.5)";
    let mut walvec = followed(&context, &items(), table).await?;
    context.execute("ALTER TABLE items ADD COLUMN colour text DEFAULT 'red'").await?;
    walvec.wait_for("the rows are read again", |now| now.generation.0 == 2 && now.phase == Phase::Streaming).await?;
    context
        .execute("ALTER TABLE items ALTER price TYPE numeric(6, 0); UPDATE items SET name = 'zwei' WHERE id = 2")
        .await?;
    let again = |now: &Status| now.generation.0 > 2 && now.phase == Phase::Streaming;
    let status = walvec.wait_for("they are read once more", again).await?;
    assert!(status.collections[0].embeddings_reused > 0, "unchanged texts were embedded again");
    assert_eq!(same(&context, walvec, &image_of_items()).await?, 2);
    Ok(())
}

async fn a_transaction_of_very_many_rows_arrives_whole(context: TestContext) -> Result<()> {
    let walvec = followed(&context, &items(), "CREATE TABLE items (id int PRIMARY KEY, name text)").await?;
    let rows = if is_full() { 100_000 } else { 20_000 };
    context.execute(&format!("INSERT INTO items SELECT n, 'item ' || n FROM generate_series(1, {rows}) n")).await?;
    assert_eq!(same(&context, walvec, &image_of_items()).await?, rows);
    Ok(())
}

async fn a_row_that_cannot_be_rendered_is_parked_and_its_next_version_clears_it(context: TestContext) -> Result<()> {
    let collection = Collection::new("items", "public.items", "{{ name }} {{ 100 // parts }}");
    let table = "CREATE TABLE items (id int PRIMARY KEY, name text, parts int);
                 INSERT INTO items VALUES (1, 'half', 2), (2, 'nothing', 0), (3, 'whole', 1)";
    let mut walvec = followed(&context, &Settings::new([collection]), table).await?;
    let parked = walvec.wait_for("a row is parked", |status| status.collections[0].dead_letters == 1).await?;
    assert_eq!(parked.collections[0].snapshot_rows_copied, 3);

    context.execute("UPDATE items SET parts = 4 WHERE id = 2").await?;
    walvec.caught_up(&context).await?;
    assert_eq!(walvec.status().await?.collections[0].dead_letters, 0);
    let expected = Expected::of("items", |row| {
        format!("{} {}", row["name"].as_str().unwrap_or_default(), 100 / row["parts"].as_i64().unwrap_or(1))
    });
    assert_eq!(same(&context, walvec, &expected).await?, 3);
    Ok(())
}

async fn two_collections_of_one_table_are_both_kept(context: TestContext) -> Result<()> {
    let table = "CREATE TABLE items (id int PRIMARY KEY, name text, body text);
                 INSERT INTO items VALUES (1, 'a', 'one'), (2, 'b', 'two')";
    let settings = Settings::new([
        Collection::new("names", "public.items", "{{ name }}"),
        Collection::new("bodies", "public.items", "{{ body }}"),
    ]);
    let mut walvec = followed(&context, &settings, table).await?;
    context.execute("UPDATE items SET body = 'zwei' WHERE id = 2; INSERT INTO items VALUES (3, 'c', 'three')").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let names = Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned());
    let bodies = Expected::of("items", |row| row["body"].as_str().unwrap_or_default().to_owned());
    assert_eq!(image::compare(&context, &Expected { collection: "names", ..names }).await?, 3);
    assert_eq!(image::compare(&context, &Expected { collection: "bodies", ..bodies }).await?, 3);
    Ok(())
}
