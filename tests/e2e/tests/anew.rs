//! Tables that are read again while the others go on: altered, replaced, added or configured differently. No row of the others is read
//! again.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, Walvec, image, test, wait};
use walvec_pipeline::Status;
use walvec_pipeline::observe::status::{CollectionStatus, Phase};

use crate::altered::{compared, image_of, named, shown};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_table_that_gets_columns_is_read_again_alone),
        test!(a_collection_that_is_added_is_filled_while_the_others_go_on),
        test!(a_collection_that_is_removed_costs_the_others_nothing).once(),
        test!(a_collection_that_is_configured_otherwise_is_written_again_alone).once(),
        test!(changes_of_before_an_alteration_that_happened_while_nothing_ran_are_passed_over),
        test!(a_table_that_is_altered_again_and_again_under_load_and_kills_ends_as_it_is),
        test!(a_reading_that_a_kill_interrupts_goes_on_with_the_next_start).once(),
        test!(rows_of_most_points_that_a_table_lacks_once_it_is_published_again_wait_for_a_person).once(),
        test!(a_collection_that_was_deleted_is_filled_while_the_others_go_on).once(),
        test!(a_looked_up_table_that_gets_a_column_is_read_into_its_documents_alone).once(),
        test!(a_table_that_was_published_anew_is_read_again_alone),
    ]
}

const TABLES: &str = "
    CREATE TABLE items (id int PRIMARY KEY, name text);
    CREATE TABLE others (id int PRIMARY KEY, name text);
    INSERT INTO items SELECT n, 'item ' || n FROM generate_series(1, 50) n;
    INSERT INTO others SELECT n, 'other ' || n FROM generate_series(1, 50) n";

const BOTH: [&str; 2] = ["items", "others"];

async fn running(context: &TestContext, settings: &Settings) -> Result<Walvec> {
    let mut walvec = context.start(settings).await?;
    walvec.caught_up(context).await?;
    Ok(walvec)
}

/// Returns for each collection the number of rows that were made points, or whose points were already right.
fn processed(status: &Status) -> Vec<u64> {
    let of = |collection: &CollectionStatus| collection.embeddings_computed + collection.embeddings_reused;
    status.collections.iter().map(of).collect()
}

/// Returns for each collection the number of texts that were embedded.
fn embedded(status: &Status) -> Vec<u64> {
    status.collections.iter().map(|collection| collection.embeddings_computed).collect()
}

async fn a_table_that_gets_columns_is_read_again_alone(context: TestContext) -> Result<()> {
    context.execute(TABLES).await?;
    let mut walvec = running(&context, &named(&BOTH)).await?;
    context
        .execute(
            "BEGIN; UPDATE others SET name = 'before' WHERE id = 1; ALTER TABLE others ADD COLUMN stars int DEFAULT 5;
             UPDATE others SET name = 'after' WHERE id = 2; DELETE FROM others WHERE id = 3; COMMIT",
        )
        .await?;
    wait::until("the new column is shown", async || {
        let page: Value = walvec.get_json("/api/v1/points", &[("collection", "others"), ("limit", "100")]).await?;
        let points = page["points"].as_array().context("points")?;
        Ok((points.len() == 49 && points.iter().all(|point| point["payload"]["stars"] == 5)).then_some(()))
    })
    .await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!((status.generation.0, status.phase), (1, Phase::Streaming));
    ensure!(processed(&status)[0] == 50, "the other table was read again: {:?}", status.collections);
    ensure!(embedded(&status) == [50, 52], "unchanged texts were embedded again: {:?}", status.collections);
    compared(&context, walvec, &BOTH).await
}

async fn a_collection_that_is_added_is_filled_while_the_others_go_on(context: TestContext) -> Result<()> {
    context.execute(TABLES).await?;
    running(&context, &named(&["items"])).await?.stop().await?;
    context.execute("UPDATE items SET name = 'meanwhile' WHERE id = 1; DELETE FROM others WHERE id = 1").await?;
    context.execute("ALTER PUBLICATION walvec ADD TABLE ONLY others").await?;
    let checked = check(&context, &named(&BOTH)).await?;
    assert_eq!(
        (&checked["next"]["action"], &checked["next"]["read_again"]),
        (&json!("resume"), &json!(["public.others"]))
    );
    let walvec = running(&context, &named(&BOTH)).await?;
    let status = walvec.status().await?;
    assert_eq!((status.generation.0, processed(&status)), (1, vec![1, 49]));
    context.execute("UPDATE others SET name = 'and then' WHERE id = 2").await?;
    compared(&context, walvec, &BOTH).await
}

/// Returns the answer of `walvec check`.
async fn check(context: &TestContext, settings: &Settings) -> Result<Value> {
    context.configure(settings)?;
    let output = context.walvec(&["check", "--json"]).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

async fn a_collection_that_is_removed_costs_the_others_nothing(context: TestContext) -> Result<()> {
    context.execute(TABLES).await?;
    running(&context, &named(&BOTH)).await?.stop().await?;
    let walvec = running(&context, &named(&["items"])).await?;
    let status = walvec.status().await?;
    assert_eq!((status.generation.0, processed(&status)), (1, vec![0]));
    let log = std::fs::read_to_string(walvec.log())?;
    ensure!(log.contains("the collection is not configured any more; its points stay as they were"), "{log}");
    walvec.stop().await?;
    context.execute("DELETE FROM others WHERE id > 40; UPDATE others SET name = 'unseen' WHERE id = 1").await?;
    // Its points are from an earlier time, and walvec does not know how they were made.
    let walvec = running(&context, &named(&BOTH)).await?;
    assert_eq!(walvec.status().await?.generation.0, 2);
    compared(&context, walvec, &BOTH).await
}

async fn a_collection_that_is_configured_otherwise_is_written_again_alone(context: TestContext) -> Result<()> {
    context.execute(TABLES).await?;
    context.execute("ALTER TABLE others ADD COLUMN stars int DEFAULT 5").await?;
    running(&context, &named(&BOTH)).await?.stop().await?;
    let others = Collection::new("others", "public.others", "{{ name }}").with("payload", json!(["stars"]));
    let settings = Settings::new([Collection::new("items", "public.items", "{{ name }}"), others]);
    let walvec = running(&context, &settings).await?;
    let status = walvec.status().await?;
    assert_eq!((status.generation.0, processed(&status), embedded(&status)), (1, vec![0, 50], vec![0, 0]));
    walvec.stop().await?;
    let expected = Expected { payload: Some(&["stars"]), ..image_of("others") };
    assert_eq!(image::compare(&context, &expected).await?, 50);
    Ok(())
}

async fn changes_of_before_an_alteration_that_happened_while_nothing_ran_are_passed_over(
    context: TestContext,
) -> Result<()> {
    context.execute(TABLES).await?;
    running(&context, &named(&BOTH)).await?.stop().await?;
    // In the stream, the first changes have a key column that no longer exists, and belong to a table of another name.
    context
        .execute(
            "UPDATE others SET name = 'before' WHERE id < 10; DELETE FROM others WHERE id = 11;
             ALTER TABLE others RENAME COLUMN id TO number;
             UPDATE others SET name = 'between' WHERE number > 40;
             ALTER TABLE others ADD COLUMN id int; UPDATE others SET id = number; DELETE FROM others WHERE number = 12;
             ALTER TABLE others DROP CONSTRAINT others_pkey; ALTER TABLE others ADD PRIMARY KEY (id);
             UPDATE others SET name = 'after' WHERE id = 13; UPDATE items SET name = 'meanwhile' WHERE id = 1;
             TRUNCATE items; INSERT INTO items VALUES (7, 'seven')",
        )
        .await?;
    let mut walvec = running(&context, &named(&BOTH)).await?;
    assert_eq!(walvec.status().await?.generation.0, 1);
    context.execute("UPDATE others SET name = 'and now' WHERE id = 14").await?;
    shown(&context, &mut walvec, &BOTH).await?;
    compared(&context, walvec, &BOTH).await
}

async fn a_table_that_is_altered_again_and_again_under_load_and_kills_ends_as_it_is(
    context: TestContext,
) -> Result<()> {
    context.execute(TABLES).await?;
    let settings = named(&BOTH);
    for round in 0..4 {
        let mut walvec = running(&context, &settings).await?;
        context
            .execute(&format!(
                "UPDATE others SET name = 'a {round} ' || id WHERE id % 3 = 0;
                 ALTER TABLE others ADD COLUMN c{round} int DEFAULT {round};
                 UPDATE others SET name = 'b {round} ' || id WHERE id % 4 = 0; DELETE FROM others WHERE id = 40 + {round};
                 UPDATE items SET name = 'c {round}' WHERE id = {round}"
            ))
            .await?;
        if round % 2 == 0 {
            walvec.wait_for("the alteration is noticed", |now| now.phase != Phase::Streaming || is_read(now)).await?;
        }
        walvec.kill().await?;
        context
            .execute(&format!(
                "ALTER TABLE others DROP COLUMN c{round}; INSERT INTO items VALUES (100 + {round}, 'new')"
            ))
            .await?;
    }
    let walvec = running(&context, &settings).await?;
    assert_eq!(walvec.status().await?.generation.0, 1);
    compared(&context, walvec, &BOTH).await
}

/// Returns whether a table is being read again.
fn is_read(status: &Status) -> bool {
    status.collections.iter().any(|collection| collection.read_again.is_some())
}

async fn a_reading_that_a_kill_interrupts_goes_on_with_the_next_start(context: TestContext) -> Result<()> {
    context.execute(TABLES).await?;
    context.execute("INSERT INTO others SELECT n, 'other ' || n FROM generate_series(51, 500) n").await?;
    // Half a second for each call.
    let slow = json!({ "model": "hash/64/wait/500" });
    running(&context, &named(&["items"]).with("embedding", slow.clone())).await?.stop().await?;
    let settings = named(&BOTH).with("embedding", slow);
    let mut walvec = context.start(&settings).await?;
    let is_begun = |now: &Status| {
        let reading = now.collections.get(1).and_then(|others| others.read_again.as_ref());
        reading.is_some_and(|reading| reading.rows > 0)
    };
    walvec.wait_for("rows are being read", is_begun).await?;
    let text = context.walvec(&["status"]).await?;
    let text = String::from_utf8(text.stdout)?;
    ensure!(text.contains("others: public.others is read again, "), "{text}");
    // Searches are answered meanwhile, and changes arrive in both collections.
    context.execute("DELETE FROM others WHERE id = 1; UPDATE items SET name = 'meanwhile' WHERE id = 1").await?;
    wait::until("the change of the other table can be found", async || {
        let hits: Value = walvec.get_json("/api/v1/search", &[("q", "meanwhile"), ("collection", "items")]).await?;
        Ok((hits["hits"][0]["payload"]["name"] == "meanwhile").then_some(()))
    })
    .await?;
    walvec.kill().await?;
    context.execute("DELETE FROM others WHERE id = 2").await?;
    let mut walvec = context.start(&settings).await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.generation.0, 1);
    walvec.stop().await?;
    for (table, rows) in [("items", 50), ("others", 498)] {
        let expected = Expected { model: "hash/64/wait/500", ..image_of(table) };
        assert_eq!(image::compare(&context, &expected).await?, rows);
    }
    Ok(())
}

async fn rows_of_most_points_that_a_table_lacks_once_it_is_published_again_wait_for_a_person(
    context: TestContext,
) -> Result<()> {
    context.execute(TABLES).await?;
    running(&context, &named(&BOTH)).await?.stop().await?;
    context
        .execute(
            "ALTER PUBLICATION walvec DROP TABLE others; DELETE FROM others WHERE id > 10;
             ALTER PUBLICATION walvec ADD TABLE ONLY others",
        )
        .await?;
    let mut walvec = context.start(&named(&BOTH)).await?;
    let waits = |now: &Status| now.problem.as_ref().is_some_and(|problem| problem.message.contains("40 of 50 points"));
    let status = walvec.wait_for("most of a collection waits for a person", waits).await?;
    assert_eq!(status.resync.map(|resync| resync.code).as_deref(), Some("E_SWEEP"));
    let forced = context.walvec(&["resync", "--force"]).await?;
    ensure!(forced.status.success(), "{}", String::from_utf8_lossy(&forced.stderr));
    shown(&context, &mut walvec, &BOTH).await?;
    compared(&context, walvec, &BOTH).await
}

async fn a_collection_that_was_deleted_is_filled_while_the_others_go_on(context: TestContext) -> Result<()> {
    context.execute(TABLES).await?;
    running(&context, &named(&BOTH)).await?.stop().await?;
    std::fs::remove_dir_all(context.data_directory().join("collections/others__1"))?;
    context.execute("UPDATE others SET name = 'changed' WHERE id = 1").await?;
    let walvec = running(&context, &named(&BOTH)).await?;
    let status = walvec.status().await?;
    assert_eq!((status.generation.0, processed(&status)), (1, vec![0, 50]));
    compared(&context, walvec, &BOTH).await
}

async fn a_looked_up_table_that_gets_a_column_is_read_into_its_documents_alone(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TABLE authors (id int PRIMARY KEY, name text);
             CREATE TABLE books (id int PRIMARY KEY, name text, author int);
             CREATE TABLE films (id int PRIMARY KEY, name text);
             INSERT INTO authors VALUES (1, 'one'), (2, 'two');
             INSERT INTO books SELECT n, 'book ' || n, 1 + n % 2 FROM generate_series(1, 20) n;
             INSERT INTO films SELECT n, 'film ' || n FROM generate_series(1, 20) n",
        )
        .await?;
    let lookup = json!({ "writer": { "table": "public.authors", "on": { "id": "author" } } });
    let books = Collection::new("books", "public.books", "{{ name }}, {{ writer.name }}").with("lookup", lookup);
    let films = Collection::new("films", "public.films", "{{ name }}");
    let mut walvec = running(&context, &Settings::new([books, films])).await?;
    context
        .execute(
            "BEGIN; UPDATE authors SET name = 'uno' WHERE id = 1; ALTER TABLE authors ADD COLUMN born int;
             UPDATE authors SET name = 'dos' WHERE id = 2; COMMIT",
        )
        .await?;
    let again = |now: &Status| processed(now)[0] >= 40 && !is_read(now);
    let status = walvec.wait_for("the documents are made again", again).await?;
    assert_eq!((status.generation.0, processed(&status)[1]), (1, 20));
    context.execute("UPDATE authors SET name = 'due' WHERE id = 2").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let sql = "format('%s, %s', name, (SELECT a.name FROM authors a WHERE a.id = author))";
    let expected = Expected { sql: Some(sql), ..image_of("books") };
    assert_eq!(image::compare(&context, &expected).await?, 20);
    assert_eq!(image::compare(&context, &image_of("films")).await?, 20);
    Ok(())
}

async fn a_table_that_was_published_anew_is_read_again_alone(context: TestContext) -> Result<()> {
    context.execute(TABLES).await?;
    let walvec = running(&context, &named(&BOTH)).await?;
    walvec.stop().await?;
    context
        .execute(
            "ALTER PUBLICATION walvec DROP TABLE others; UPDATE others SET name = 'not published' WHERE id = 1;
             DELETE FROM others WHERE id = 2; ALTER PUBLICATION walvec ADD TABLE ONLY others;
             UPDATE items SET name = 'published' WHERE id = 1",
        )
        .await?;
    let mut walvec = running(&context, &named(&BOTH)).await?;
    let status = walvec.status().await?;
    assert_eq!((status.generation.0, processed(&status)), (1, vec![1, 49]));
    assert_eq!(status.resync.map(|resync| resync.code).as_deref(), Some("E_PUBLICATION"), "it is told");
    // The publication is changed while walvec runs, too.
    context
        .execute(
            "BEGIN; ALTER PUBLICATION walvec DROP TABLE others; UPDATE others SET name = 'not published' WHERE id = 3;
             ALTER PUBLICATION walvec ADD TABLE ONLY others; COMMIT",
        )
        .await?;
    shown(&context, &mut walvec, &BOTH).await?;
    assert_eq!(walvec.caught_up(&context).await?.generation.0, 1);
    compared(&context, walvec, &BOTH).await
}
