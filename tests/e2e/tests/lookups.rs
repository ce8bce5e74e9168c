//! Documents with rows of other tables: they follow every change of those rows, and finally equal the result of a join.
//!
//! - [`random`]: random changes, through kills and workers
//! - this file: one change after the other

mod random;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, Walvec, image, test, wait};
use walvec_model::{Payload, PointId};
use walvec_sink::{Sink as _, Write};
use walvec_test_qdrant::TestServer;

use crate::backfill::{hung, let_go};

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = vec![
        test!(a_document_follows_every_change_of_what_it_looks_up),
        test!(a_document_follows_every_change_of_what_it_looks_up_on_a_server).once(),
        test!(a_batch_of_changes_takes_one_statement_for_each_lookup).on_own_server(&[("log_statement", "all")]).once(),
        test!(an_emptied_looked_up_table_empties_its_part_of_every_document),
        test!(a_row_that_very_many_documents_look_up_is_followed_by_all_of_them).once(),
        test!(a_partition_that_is_added_without_an_identity_is_followed_all_the_same),
        test!(documents_wait_for_commits_that_wait_and_the_status_says_so).on_own_server(&[]).once(),
        test!(a_stop_waits_for_no_lock_that_holds_up_documents).once(),
        test!(verify_sees_looked_up_rows_and_has_wrong_documents_mended).once(),
        test!(documents_that_have_not_changed_are_not_embedded_again).once(),
        test!(an_altered_looked_up_table_is_read_anew),
        test!(another_lookup_takes_a_reindex).once(),
        test!(a_lookup_in_a_table_that_is_not_published_says_how_to_begin).once(),
    ];
    tests.extend(random::tests());
    tests
}

pub(crate) const SCHEMA: &str = "
    CREATE TABLE authors (id int PRIMARY KEY, name text NOT NULL);
    CREATE TABLE books (id int PRIMARY KEY, name text, author_id bigint, description text);
    CREATE TABLE reviews (id int PRIMARY KEY, book_id bigint, text text NOT NULL, created_at int);
    ALTER TABLE reviews REPLICA IDENTITY FULL;
    CREATE INDEX ON books (author_id);
    CREATE INDEX ON reviews (book_id)";

const ROWS: &str = "
    INSERT INTO authors SELECT g, 'author ' || g FROM generate_series(1, 10) g;
    INSERT INTO books SELECT g, 'book ' || g, g % 12, 'about ' || g FROM generate_series(1, 60) g;
    INSERT INTO reviews SELECT g, g % 70, 'review ' || g, g % 7 FROM generate_series(1, 200) g";

pub(crate) const TEXT: &str =
    "{{ name }} by {{ author.name }}. {{ description }} {% for r in reviews %}{{ r.text }} {% endfor %}";

/// The text of each document, computed by PostgreSQL with a join.
const JOIN: &str = "
    format('%s by %s. %s %s', name, (SELECT a.name FROM authors a WHERE a.id = author_id), description,
           (SELECT string_agg(r.text || ' ', '' ORDER BY r.created_at DESC, r.id)
            FROM (SELECT * FROM reviews r WHERE r.book_id = books.id ORDER BY r.created_at DESC, r.id LIMIT 3) r))";

pub(crate) fn lookups() -> Value {
    json!({
        "author": { "table": "public.authors", "on": { "id": "author_id" } },
        "reviews": {
            "table": "public.reviews", "on": { "book_id": "id" }, "many": true, "order": "created_at desc", "limit": 3
        },
    })
}

pub(crate) fn books_with(lookups: Value) -> Settings {
    Settings::new([Collection::new("books", "public.books", TEXT).with("lookup", lookups)])
}

pub(crate) fn books() -> Settings {
    books_with(lookups())
}

fn books_on(server: &TestServer) -> Settings {
    books().with("sink", json!({ "qdrant": { "url": server.url() } }))
}

pub(crate) fn image_of_books() -> Expected {
    let nothing = |_: &Payload| String::new();
    Expected { sql: Some(JOIN), ..Expected::of("books", nothing) }
}

pub(crate) async fn followed(context: &TestContext, settings: &Settings) -> Result<Walvec> {
    let mut walvec = context.start(settings).await?;
    walvec.caught_up(context).await?;
    Ok(walvec)
}

/// Starts walvec and waits until it has filled the collection from all three tables.
async fn filled(context: &TestContext, settings: &Settings) -> Result<Walvec> {
    context.execute(SCHEMA).await?;
    context.execute(ROWS).await?;
    followed(context, settings).await
}

/// Every sort of change, each in a transaction of its own.
const CHANGES: [&str; 15] = [
    "INSERT INTO reviews VALUES (1001, 1, 'a new one', 99)",
    "UPDATE reviews SET text = 'changed ' || text WHERE id % 5 = 0",
    "UPDATE reviews SET created_at = 50 - created_at WHERE id % 3 = 0",
    "UPDATE reviews SET book_id = book_id + 1 WHERE id % 4 = 0",
    "UPDATE reviews SET book_id = NULL WHERE id % 19 = 0",
    "UPDATE reviews SET id = id + 5000 WHERE id % 11 = 0",
    "DELETE FROM reviews WHERE id % 7 = 0",
    "UPDATE authors SET name = 'another ' || name WHERE id % 2 = 0",
    "DELETE FROM authors WHERE id = 3",
    "INSERT INTO authors VALUES (11, 'came late')",
    "UPDATE authors SET id = 12 WHERE id = 4",
    "UPDATE books SET author_id = author_id + 1 WHERE id % 6 = 0",
    "UPDATE books SET id = id + 100 WHERE id % 10 = 0",
    "BEGIN; INSERT INTO books VALUES (500, 'new', 500, ''); INSERT INTO authors VALUES (500, 'newer');
        INSERT INTO reviews VALUES (2000, 500, 'newest', 1); UPDATE reviews SET text = 'last' WHERE id = 2000; COMMIT",
    "BEGIN; DELETE FROM books WHERE id = 5; DELETE FROM reviews WHERE book_id = 5; UPDATE authors SET name = name || '!';
        INSERT INTO books VALUES (5, 'again', 1, ''); COMMIT",
];

async fn a_document_follows_every_change_of_what_it_looks_up(context: TestContext) -> Result<()> {
    let mut walvec = filled(&context, &books()).await?;
    for change in CHANGES {
        context.execute(change).await?;
        walvec.caught_up(&context).await?;
        assert_equal(&context, &["verify", "--json"]).await.with_context(|| change.to_owned())?;
    }
    let hits = walvec.search("newest last newer", 1).await?;
    assert_eq!(hits[0]["payload"]["id"], 500, "{hits:?}");
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_books()).await?, 61);
    Ok(())
}

async fn a_document_follows_every_change_of_what_it_looks_up_on_a_server(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    let mut walvec = filled(&context, &books_on(&server)).await?;
    for change in CHANGES {
        context.execute(change).await?;
        walvec.caught_up(&context).await?;
        image::compare_on_server(&context, &image_of_books(), &server.url())
            .await
            .with_context(|| change.to_owned())?;
    }
    walvec.stop().await
}

/// Returns how many statements in the server's log contain these words.
fn statements(context: &TestContext, words: &str) -> Result<usize> {
    Ok(std::fs::read_to_string(context.cluster().log())?.matches(words).count())
}

async fn a_batch_of_changes_takes_one_statement_for_each_lookup(context: TestContext) -> Result<()> {
    const RENDERED: &str = ") AS w (number, ";
    const AFFECTED: &str = "WITH found AS MATERIALIZED";
    let mut walvec = filled(&context, &books()).await?;
    let before = (statements(&context, RENDERED)?, statements(&context, AFFECTED)?);
    assert_eq!(before, (2, 0), "60 rows were copied in one batch, which looks up in two tables");
    // One transaction changes 200 rows of one table, which affect 60 rows of the main table.
    context.execute("UPDATE reviews SET text = 'changed ' || text").await?;
    walvec.caught_up(&context).await?;
    let after = (statements(&context, RENDERED)?, statements(&context, AFFECTED)?);
    assert_eq!(after, (4, 1), "one batch");
    walvec.stop().await?;
    image::compare(&context, &image_of_books()).await?;
    Ok(())
}

async fn an_emptied_looked_up_table_empties_its_part_of_every_document(context: TestContext) -> Result<()> {
    let mut walvec = filled(&context, &books()).await?;
    let generation = walvec.status().await?.generation;
    context.execute("TRUNCATE reviews; UPDATE books SET name = 'after' WHERE id = 7").await?;
    context.execute("BEGIN; TRUNCATE authors; INSERT INTO authors VALUES (2, 'the only one'); COMMIT").await?;
    walvec.caught_up(&context).await?;
    assert_eq!(walvec.status().await?.generation, generation, "no new snapshot is needed");
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_books()).await?, 60);
    Ok(())
}

async fn a_partition_that_is_added_without_an_identity_is_followed_all_the_same(context: TestContext) -> Result<()> {
    let partitioned = SCHEMA.replace(
        "created_at int);",
        "created_at int) PARTITION BY RANGE (id);
            CREATE TABLE reviews_1 PARTITION OF reviews FOR VALUES FROM (0) TO (1000);
            ALTER TABLE reviews_1 REPLICA IDENTITY FULL;",
    );
    context.execute(&partitioned).await?;
    context.execute(ROWS).await?;
    let mut walvec = followed(&context, &books()).await?;
    context.execute("CREATE TABLE reviews_2 PARTITION OF reviews FOR VALUES FROM (1000) TO (2000)").await?;
    for change in [
        "INSERT INTO reviews SELECT g + 1000, g, 'late ' || g, 99 FROM generate_series(1, 5) g",
        "UPDATE reviews SET book_id = book_id + 10 WHERE id = 1001",
        "UPDATE reviews SET id = 1900 WHERE id = 1002",
        "UPDATE reviews SET id = 900, book_id = 20 WHERE id = 1003",
        "DELETE FROM reviews WHERE id > 1000",
    ] {
        context.execute(change).await?;
        walvec.caught_up(&context).await?;
        assert_equal(&context, &["verify", "--json"]).await.with_context(|| change.to_owned())?;
    }
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_books()).await?, 60);
    Ok(())
}

async fn a_row_that_very_many_documents_look_up_is_followed_by_all_of_them(context: TestContext) -> Result<()> {
    context.execute(SCHEMA).await?;
    context.execute("INSERT INTO authors VALUES (1, 'prolific'), (2, 'other')").await?;
    // More rows than one query asks for.
    context.execute("INSERT INTO books SELECT g, 'b' || g, 1, '' FROM generate_series(1, 10300) g").await?;
    let settings = books().with("pipeline", json!({ "batch_rows": 1000 }));
    let mut walvec = followed(&context, &settings).await?;
    context.execute("UPDATE authors SET name = 'still more'").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_books()).await?, 10300);
    Ok(())
}

async fn a_stop_waits_for_no_lock_that_holds_up_documents(context: TestContext) -> Result<()> {
    let settings = books();
    let walvec = filled(&context, &settings).await?;
    let session = context.connect().await?;
    session.batch_execute("BEGIN; LOCK TABLE books IN ACCESS EXCLUSIVE MODE").await?;
    context.execute("UPDATE authors SET name = 'renamed ' || name").await?;
    let waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'books'::regclass AND NOT granted";
    wait::until("the documents are held up", async || {
        Ok((session.query_one(waiting, &[]).await?.get::<_, i64>(0) > 0).then_some(()))
    })
    .await?;
    walvec.stop().await?;
    session.batch_execute("COMMIT").await?;
    followed(&context, &settings).await?.stop().await?;
    assert_eq!(image::compare(&context, &image_of_books()).await?, 60);
    Ok(())
}

async fn documents_wait_for_commits_that_wait_and_the_status_says_so(mut context: TestContext) -> Result<()> {
    let mut walvec = filled(&context, &books()).await?;
    let change = "INSERT INTO reviews VALUES (1001, 1, 'unseen', 99)";
    let commit = hung(&context, change, "DELETE FROM reviews WHERE id = 1001").await?;
    let waiting = walvec.wait_for("the wait is shown", |status| status.problem.is_some()).await?;
    let problem = waiting.problem.context("no problem")?;
    assert!(problem.part == "source" && problem.message.contains("commits wait"), "{problem:?}");
    assert!(problem.remedy.is_some_and(|remedy| remedy.contains("synchronous_standby_names")));
    let_go(&context).await?;
    commit.await??;
    context.reconnect().await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.problem, None);
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_books()).await?, 60);
    Ok(())
}

/// Runs `walvec verify --json`, or another command that prints JSON, and returns its output. It must have found no
/// mismatch.
async fn assert_equal(context: &TestContext, arguments: &[&str]) -> Result<Value> {
    let output = context.walvec(arguments).await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_str(&text)?)
}

async fn verify_sees_looked_up_rows_and_has_wrong_documents_mended(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    let mut walvec = filled(&context, &books_on(&server)).await?;
    // `verify` finds a missing point by its row, and a point with another text by its hash.
    let collection = image::on_server("books", walvec_e2e::settings::MODEL, &server.url())?;
    collection.write(&[Write::Delete(PointId::Num(7))]).await?;
    let stored = image::points(&collection).await?;
    let stale = stored.into_iter().find(|point| point.id == PointId::Num(8)).context("no point 8")?;
    let mut provenance = stale.provenance.context("not written by walvec")?;
    provenance.input_hash = walvec_model::InputHash::of("book 8 by somebody else. about 8 ");
    collection.write(&[Write::Payload { id: stale.id, payload: stale.payload, provenance }]).await?;
    let output = context.walvec(&["verify", "--json"]).await?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!((&report["missing"], &report["stale"]), (&json!(1), &json!(1)), "{report:#}");
    let output = context.walvec(&["verify", "--json", "--repair"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    image::compare_on_server(&context, &image_of_books(), &server.url()).await?;
    // Rows that are read again are rendered with the present looked-up rows.
    let output = context.walvec(&["backfill", "--table", "public.books"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    walvec.caught_up(&context).await?;
    image::compare_on_server(&context, &image_of_books(), &server.url()).await?;
    walvec.stop().await
}

async fn documents_that_have_not_changed_are_not_embedded_again(context: TestContext) -> Result<()> {
    let mut walvec = filled(&context, &books()).await?;
    let computed = async |walvec: &Walvec| anyhow::Ok(walvec.status().await?.collections[0].embeddings_computed);
    let before = computed(&walvec).await?;
    // These changes are beyond the limit of three rows, or in columns that the template does not use.
    context
        .execute("INSERT INTO reviews VALUES (900, 1, 'the oldest', -1), (901, 1, 'older', -2), (902, 1, 'old', -3)")
        .await?;
    context.execute("INSERT INTO authors VALUES (900, 'without a book')").await?;
    walvec.caught_up(&context).await?;
    assert_eq!(computed(&walvec).await?, before);
    context.execute("UPDATE authors SET name = 'changed' WHERE id = 1").await?;
    walvec.caught_up(&context).await?;
    assert_eq!(computed(&walvec).await?, before + 5, "the books of one author");
    walvec.stop().await?;
    image::compare(&context, &image_of_books()).await?;
    Ok(())
}

async fn an_altered_looked_up_table_is_read_anew(context: TestContext) -> Result<()> {
    let mut walvec = filled(&context, &books()).await?;
    let generation = walvec.status().await?.generation;
    context.execute("ALTER TABLE authors ALTER name TYPE varchar USING upper(name)").await?;
    walvec.wait_for("a new generation", |status| status.generation > generation).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_books()).await?, 60);
    Ok(())
}

async fn another_lookup_takes_a_reindex(context: TestContext) -> Result<()> {
    let mut walvec = filled(&context, &books()).await?;
    let mut fewer = lookups();
    fewer["reviews"]["limit"] = json!(1);
    context.configure(&books_with(fewer.clone()))?;
    let output = context.walvec(&["reindex"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    context.execute("UPDATE reviews SET text = 'after ' || text").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let join = "format('%s by %s. %s %s', name, (SELECT a.name FROM authors a WHERE a.id = author_id), description,
        (SELECT r.text || ' ' FROM reviews r WHERE r.book_id = books.id ORDER BY r.created_at DESC, r.id LIMIT 1))";
    image::compare(&context, &Expected { sql: Some(join), ..image_of_books() }).await?;
    context.configure(&books())?;
    let output = context.walvec(&["run"]).await?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.trim_end().ends_with("E_FINGERPRINT"), "{errors}");
    Ok(())
}

async fn a_lookup_in_a_table_that_is_not_published_says_how_to_begin(context: TestContext) -> Result<()> {
    let alone = Settings::new([Collection::new("books", "public.books", "{{ name }}")]);
    let mut walvec = filled(&context, &alone).await?;
    context.configure(&books())?;
    let output = context.walvec(&["reindex"]).await?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("public.authors") && errors.contains("walvec reset --purge"), "{errors}");
    context.execute("INSERT INTO books VALUES (900, 'goes on', 1, '')").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    context.execute("ALTER PUBLICATION walvec ADD TABLE ONLY authors, ONLY reviews").await?;
    let output = context.walvec(&["reset", "--purge", "--force"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    followed(&context, &books()).await?.stop().await?;
    assert_eq!(image::compare(&context, &image_of_books()).await?, 61);
    Ok(())
}
