//! The topics are open to other programs: those that users of Quix Streams write, and those of the tutorial.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use walvec_e2e::others::{Other, can_test_quix};
use walvec_e2e::records::{self, Found};
use walvec_e2e::settings::MODEL;
use walvec_e2e::{Collection, Expected, Kafka, Settings, Test, TestContext, image, test, wait};
use walvec_test_kafka::{Options, TestBroker, can_test};
use walvec_test_qdrant::TestServer;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_program_between_capture_and_index_may_filter_and_enrich).once(),
        test!(a_program_that_passes_records_on_changes_nothing_about_them).once(),
        test!(the_tutorials_programs_work_on_what_capture_writes).once(),
        test!(embed_and_sink_take_the_places_of_the_tutorials_programs).once(),
        test!(index_takes_the_place_of_both_and_reads_what_the_tutorials_capture_wrote).once(),
    ]
}

const BOOKS: &str = "
    CREATE TABLE books (id serial PRIMARY KEY, name varchar(255), description text, author varchar(255), year int);
    ALTER TABLE books ALTER COLUMN description SET STORAGE EXTERNAL;
    INSERT INTO books (name, description, author, year) VALUES
        ('The Time Machine', 'A man travels through time', 'H. G. Wells', 1895),
        ('Brave New World', 'A dystopian society', 'Aldous Huxley', 1932),
        ('Dune', repeat('A desert planet ', 500), 'Frank Herbert', 1965),
        ('Neuromancer', 'A hacker in cyberspace', 'William Gibson', 1984),
        ('Beowulf', 'A hero and a dragon', NULL, 1000)";

fn name(row: &walvec_model::Payload) -> String {
    row["name"].as_str().unwrap_or_default().to_owned()
}

/// A table's rows in the collection `books` of a server, all columns in the payload.
fn books(server: &TestServer) -> Settings {
    Settings::new([Collection::new("books", "public.books", "{{ name }}")])
        .with("sink", json!({ "qdrant": { "url": server.url() } }))
}

/// Waits until the collection is the image of the table after `preparation`, which is then rolled back.
async fn becomes(context: &TestContext, expected: &Expected, server: &TestServer, preparation: &str) -> Result<usize> {
    let mut last = None;
    let same = wait::until("the collection is the table's image", async || {
        context.execute(&format!("BEGIN; {preparation}")).await?;
        let compared = image::compare_on_server(context, expected, &server.url()).await;
        context.execute("ROLLBACK").await?;
        match compared {
            Ok(rows) => Ok(Some(rows)),
            Err(difference) => {
                last = Some(format!("{difference:#}"));
                Ok(None)
            }
        }
    });
    let waited = same.await;
    waited.with_context(|| last.unwrap_or_default())
}

async fn a_program_between_capture_and_index_may_filter_and_enrich(context: TestContext) -> Result<()> {
    if !can_test("a program between capture and index") || !can_test_quix() {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    context.execute(BOOKS).await?;
    let enriched = kafka.topic("enriched");
    let collection = Collection::new("books", "public.books", "{{ name }}").with("topic", json!(enriched));
    let settings =
        kafka.carries(Settings::new([collection]).with("sink", json!({ "qdrant": { "url": server.url() } })));
    let mut capture = context.start_stage(&settings, "capture", "a").await?;
    capture.caught_up(&context).await?;
    let (bootstrap, source) = (kafka.broker().bootstrap(), kafka.topic("books"));
    let variables = [("Quix__Broker__Address", &*bootstrap), ("input", &*source), ("output", &*enriched)];
    records::make_topic(kafka.broker(), &enriched, 3, &[]).await?;
    let mut program = Other::quix(context.directory(), "enrich.py", &[&kafka.group("enrich")], &variables)?;
    let mut index = context.start_stage(&settings, "index", "a").await?;
    // These statements change the rows as the program does.
    let decade = "ALTER TABLE books ADD COLUMN decade int; UPDATE books SET decade = year / 10 * 10";
    let expected = Expected { filter: Some("year > 1900"), ..Expected::of("books", name) };
    assert_eq!(becomes(&context, &expected, &server, decade).await?, 3);

    context
        .execute(
            "INSERT INTO books (name, description, year) VALUES ('Foundation', 'An empire falls', 1951), ('Emma', '', 1815);
             UPDATE books SET year = 1832 WHERE name = 'Brave New World';
             UPDATE books SET year = 1995 WHERE name = 'The Time Machine';
             DELETE FROM books WHERE name = 'Neuromancer';
             UPDATE books SET id = 70 WHERE name = 'Foundation'",
        )
        .await?;
    assert_eq!(becomes(&context, &expected, &server, decade).await?, 3);
    // The description is not sent. For the first update it is in the collection, for the second only in the table.
    context.execute("UPDATE books SET author = 'F. Herbert' WHERE name = 'Dune'").await?;
    assert_eq!(becomes(&context, &expected, &server, decade).await?, 3);
    context.execute("UPDATE books SET year = 1065 WHERE name = 'Dune'").await?;
    assert_eq!(becomes(&context, &expected, &server, decade).await?, 2);
    context.execute("UPDATE books SET year = 1965 WHERE name = 'Dune'").await?;
    assert_eq!(becomes(&context, &expected, &server, decade).await?, 3);
    let status = index.status().await?;
    assert_eq!(status.collections[0].dead_letters, 0, "{status:?}");
    program.is_alive()?;
    index.is_alive()?;
    capture.is_alive()?;
    Ok(())
}

/// Keys, headers and partitions survive; a null value becomes the JSON text null, which walvec treats as a tombstone.
async fn a_program_that_passes_records_on_changes_nothing_about_them(context: TestContext) -> Result<()> {
    if !can_test("a program between capture and index") || !can_test_quix() {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    context.execute(BOOKS).await?;
    let copied = kafka.topic("copied");
    let collection = Collection::new("books", "public.books", "{{ name }}").with("topic", json!(copied));
    let settings =
        kafka.carries(Settings::new([collection]).with("sink", json!({ "qdrant": { "url": server.url() } })));
    let mut capture = context.start_stage(&settings, "capture", "a").await?;
    capture.caught_up(&context).await?;
    context
        .execute(
            "DELETE FROM books WHERE name = 'Beowulf'; UPDATE books SET id = 70 WHERE name = 'Dune'; DELETE FROM books",
        )
        .await?;
    context.execute("INSERT INTO books (id, name, year) VALUES (8, 'Solaris', 1961), (9, 'Fiasco', 1986)").await?;
    capture.caught_up(&context).await?;
    records::make_topic(kafka.broker(), &copied, 3, &[]).await?;
    let (bootstrap, source) = (kafka.broker().bootstrap(), kafka.topic("books"));
    let variables = [("Quix__Broker__Address", &*bootstrap), ("input", &*source), ("output", &*copied)];
    let arguments = [&*kafka.group("copy"), "--pass-on"];
    let _program = Other::quix(context.directory(), "enrich.py", &arguments, &variables)?;
    let original: Vec<Found> = records::all(kafka.broker(), &source).await?;
    let is_kept = |record: &Found| record.json()["op"] != "r" || record.json()["after"]["id"] != 1;
    let original: Vec<Found> = original.into_iter().filter(is_kept).collect();
    let copy = wait::until("everything is copied", async || {
        let copy = records::all(kafka.broker(), &copied).await?;
        Ok((copy.len() == original.len()).then_some(copy))
    })
    .await?;
    let essence = |records: &[Found]| {
        let mut keyed: Vec<_> = records.iter().filter(|record| record.key.is_some()).cloned().collect();
        keyed.sort_by_key(|record| (record.partition, record.offset));
        keyed
            .into_iter()
            .map(|record| (record.partition, record.key.clone(), record.json(), record.headers))
            .collect::<Vec<_>>()
    };
    assert_eq!(essence(&copy), essence(&original));
    assert!(original.iter().any(|record| record.value.is_none()) && copy.iter().all(|record| record.value.is_some()));

    // The mark at the end of a snapshot counts records of the first topic: a worker must not wait for them in the
    // second.
    let mut index = context.start_stage(&settings, "index", "a").await?;
    assert_eq!(becomes(&context, &Expected::of("books", name), &server, "").await?, 2);
    wait::until("the group has read everything", async || {
        index.is_alive()?;
        Ok(kafka
            .offsets("index")
            .await?
            .iter()
            .filter(|p| p.topic == copied)
            .all(|p| p.committed == p.end)
            .then_some(()))
    })
    .await?;
    context.execute("INSERT INTO books (id, name) VALUES (10, 'Eden')").await?;
    assert_eq!(becomes(&context, &Expected::of("books", name), &server, "").await?, 3);
    Ok(())
}

/// Starts a broker for one test alone, because the tutorial's names of topics and groups are fixed.
async fn tutorial() -> Result<Option<TestBroker>> {
    if !can_test("the tutorial's topics") || !can_test_quix() {
        return Ok(None);
    }
    Ok(Some(TestBroker::start(Options { auto_create_topics: true, ..Options::default() }).await?))
}

fn reference(settings: Settings, broker: &TestBroker) -> Settings {
    settings.with("broker", json!({ "kafka": { "bootstrap": broker.bootstrap(), "format": "reference" } }))
}

const CHANGES: &str = "postgres-cdc-data";
const VECTORS: &str = "embeddings-fastembed-V1";

fn embedding_program(context: &TestContext, broker: &TestBroker) -> Result<Other> {
    let bootstrap = broker.bootstrap();
    let variables =
        [("Quix__Broker__Address", &*bootstrap), ("input", CHANGES), ("output", VECTORS), ("PG_TABLE", "books")];
    Other::quix(context.directory(), "embed.py", &[], &variables)
}

fn ingesting_program(context: &TestContext, broker: &TestBroker) -> Result<Other> {
    let variables =
        [("Quix__Broker__Address", &*broker.bootstrap()), ("input", VECTORS)].map(|(n, v)| (n, v.to_owned()));
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Other::quix(context.directory(), "ingest.py", &[], &variables)
}

/// Returns the rows as the tutorial's ingesting program stores them, by id.
async fn tutorial_rows(context: &TestContext) -> Result<BTreeMap<u64, Value>> {
    let query = "SELECT id::bigint, jsonb_build_object('name', name, 'description', description, 'author', author,
                     'year', coalesce(year::text, 'None'))::text FROM books";
    let rows = context.sql.query(query, &[]).await?;
    rows.iter().map(|row| Ok((u64::try_from(row.get::<_, i64>(0))?, serde_json::from_str(row.get(1))?))).collect()
}

/// Returns the points that the ingesting program has stored, by id, with the lengths of their vectors.
fn ingested(program: &Other) -> Result<BTreeMap<u64, Value>> {
    let mut points = BTreeMap::new();
    for line in program.printed()?.lines() {
        // The last line may be incomplete.
        let Ok(point) = serde_json::from_str::<Value>(line) else { continue };
        assert_eq!(point["vector"].as_array().map(Vec::len), Some(64), "{point}");
        points.insert(point["id"].as_u64().context("an id")?, point["payload"].clone());
    }
    Ok(points)
}

async fn ingests(context: &TestContext, program: &mut Other) -> Result<usize> {
    let rows = tutorial_rows(context).await?;
    let mut last = BTreeMap::new();
    let waited = wait::until("every row is ingested as it is", async || {
        program.is_alive()?;
        last = ingested(program)?;
        Ok((last == rows).then_some(rows.len()))
    });
    let waited = waited.await;
    waited.with_context(|| format!("{last:?}"))
}

async fn the_tutorials_programs_work_on_what_capture_writes(context: TestContext) -> Result<()> {
    let Some(broker) = tutorial().await? else { return Ok(()) };
    context.execute(BOOKS).await?;
    let server = TestServer::start()?;
    let mut capture = context.start_stage(&reference(books(&server), &broker), "capture", "a").await?;
    capture.caught_up(&context).await?;
    let mut embed = embedding_program(&context, &broker)?;
    wait::until("the embedding program has made its topic", async || {
        embed.is_alive()?;
        Ok((!records::all(&broker, VECTORS).await?.is_empty()).then_some(()))
    })
    .await?;
    let mut ingest = ingesting_program(&context, &broker)?;
    assert_eq!(ingests(&context, &mut ingest).await?, 5);
    context
        .execute("INSERT INTO books (name, description, author, year) VALUES ('Emma', 'A match', 'J. Austen', 1815)")
        .await?;
    assert_eq!(ingests(&context, &mut ingest).await?, 6);

    // walvec replaces the ingesting program, and uses the vectors that the other program makes.
    ingest.stop().await?;
    let mut sink = context.start_stage(&reference(books(&server), &broker), "sink", "a").await?;
    context
        .execute("INSERT INTO books (name, description, author, year) VALUES ('Ulysses', 'A day', 'J. Joyce', 1922)")
        .await?;
    let mut rows = tutorial_rows(&context).await?;
    // Both use the same group and its offsets, so records that the other program has ingested are not read again.
    rows.retain(|_, row| row["name"] == "Ulysses");
    wait::until("the sink has the new row", async || {
        sink.is_alive()?;
        Ok((payloads(&server, &["name", "description", "author", "year"]).await? == rows).then_some(()))
    })
    .await?;
    embed.is_alive()
}

/// Returns these fields of the payloads of a server's points, by id.
async fn payloads(server: &TestServer, fields: &[&str]) -> Result<BTreeMap<u64, Value>> {
    let collection = image::on_server("books", MODEL, &server.url())?;
    let Ok(points) = image::points(&collection).await else { return Ok(BTreeMap::new()) };
    let field = |point: &walvec_model::StoredPoint, name: &&str| {
        ((*name).to_owned(), point.payload.get(*name).cloned().unwrap_or_default())
    };
    let shown = points.iter().map(|point| {
        let payload: Value = fields.iter().map(|name| field(point, name)).collect();
        Ok((point.id.to_string().parse()?, payload))
    });
    shown.collect()
}

async fn embed_and_sink_take_the_places_of_the_tutorials_programs(context: TestContext) -> Result<()> {
    let Some(broker) = tutorial().await? else { return Ok(()) };
    context.execute(BOOKS).await?;
    let server = TestServer::start()?;
    let settings = reference(books(&server), &broker);
    let mut capture = context.start_stage(&settings, "capture", "a").await?;
    let mut embed = {
        capture.caught_up(&context).await?;
        context.start_stage(&settings, "embed", "a").await?
    };
    let mut ingest = ingesting_program(&context, &broker)?;
    assert_eq!(ingests(&context, &mut ingest).await?, 5);
    context
        .execute(
            "INSERT INTO books (name, description, author, year) VALUES ('Emma', 'A match', 'J. Austen', 1815);
             UPDATE books SET year = 1816, description = 'A matchmaker' WHERE name = 'Emma'",
        )
        .await?;
    assert_eq!(ingests(&context, &mut ingest).await?, 6);
    // An update that leaves a large value out reaches the other program whole.
    context.execute("UPDATE books SET author = 'F. Herbert' WHERE name = 'Dune'").await?;
    assert_eq!(ingests(&context, &mut ingest).await?, 6);
    capture.is_alive()?;
    embed.is_alive()
}

async fn index_takes_the_place_of_both_and_reads_what_the_tutorials_capture_wrote(context: TestContext) -> Result<()> {
    if !can_test("the tutorial's topics") {
        return Ok(());
    }
    let broker = TestBroker::start(Options::default()).await?;
    context.execute(BOOKS).await?;
    let server = TestServer::start()?;
    let settings = reference(books(&server), &broker);
    // The tutorial's capture has written before: plain wal2json without headers, with rows that no longer exist.
    records::make_topic(&broker, CHANGES, 1, &[]).await?;
    let row = |kind: &str, id: u64, name: &str| {
        let types = ["integer", "character varying(255)", "text", "character varying(255)", "integer"];
        json!({"kind": kind, "schema": "public", "table": "books",
            "columnnames": ["id", "name", "description", "author", "year"], "columntypes": types,
            "columnvalues": [id, name, null, null, 1900]})
    };
    let keyed = |mut change: Value, id: u64| {
        change["oldkeys"] = json!({"keynames": ["id"], "keytypes": ["integer"], "keyvalues": [id]});
        change
    };
    let gone = json!({"kind": "delete", "schema": "public", "table": "books"});
    for change in [
        row("insert", 101, "Old"),
        row("insert", 102, "Older"),
        keyed(row("update", 101, "Old, revised"), 101),
        keyed(gone, 102),
        keyed(row("update", 103, "Moved"), 101),
    ] {
        records::write(&broker, CHANGES, Some(b"public.books"), Some(change.to_string().as_bytes())).await?;
    }
    let mut index = context.start_stage(&settings, "index", "a").await?;
    let moved = BTreeMap::from([(103, json!({"name": "Moved", "year": 1900}))]);
    wait::until("what the tutorial's capture wrote is indexed", async || {
        index.is_alive()?;
        Ok((payloads(&server, &["name", "year"]).await? == moved).then_some(()))
    })
    .await?;

    // walvec's capture writes the table again, and points whose rows it does not find are removed.
    let mut capture = context.start_stage(&settings, "capture", "a").await?;
    capture.caught_up(&context).await?;
    let expected = Expected::of("books", name);
    assert_eq!(becomes(&context, &expected, &server, "").await?, 5);
    context
        .execute(
            "INSERT INTO books (name, year) VALUES ('Emma', 1815); UPDATE books SET year = 1816 WHERE name = 'Emma';
             UPDATE books SET author = 'F. Herbert' WHERE name = 'Dune'; DELETE FROM books WHERE name = 'Beowulf';
             UPDATE books SET id = 70 WHERE name = 'Neuromancer'",
        )
        .await?;
    assert_eq!(becomes(&context, &expected, &server, "").await?, 5);
    context.execute("TRUNCATE books; INSERT INTO books (id, name) VALUES (200, 'After')").await?;
    assert_eq!(becomes(&context, &expected, &server, "").await?, 1);
    assert_eq!(index.status().await?.collections[0].dead_letters, 0);
    Ok(())
}
