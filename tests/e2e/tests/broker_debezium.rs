//! Collections that follow what Debezium's own engine writes, without walvec's capture.

use anyhow::{Context, Result};
use serde_json::json;
use walvec_e2e::others::{Other, can_test_debezium};
use walvec_e2e::records::Found;
use walvec_e2e::{Collection, Expected, Kafka, Settings, Test, TestContext, Walvec, image, records, test, wait};
use walvec_test_kafka::can_test;
use walvec_test_qdrant::TestServer;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(with_schemas_the_collection_is_what_capture_would_make_of_the_table).once(),
        test!(without_schemas_some_settings_of_debezium_make_the_same_image).once(),
        // Its open transactions would hold up the slots of other tests.
        test!(a_transaction_that_spans_debeziums_snapshot_is_not_lost).once().on_own_server(&[]),
    ]
}

const TABLE: &str = "
    CREATE TABLE books (
        id int PRIMARY KEY, name text NOT NULL, description text, price numeric(10, 2), any_price numeric, born date,
        at timestamptz, seen timestamp, opens time, uid uuid, doc jsonb, plain json, raw bytea, tags text[], numbers int[],
        ratio float8, part real, yes boolean, small smallint, large bigint, code char(4));
    ALTER TABLE books ALTER COLUMN description SET STORAGE EXTERNAL;
    INSERT INTO books VALUES
        (1, 'Die Wolken', repeat('What the sky does. ', 500), 12.50, 1.23, '1950-02-28', '2026-11-01 09:30:00.123456+02',
         '2026-11-01 09:30:00.5', '13:33:43.25', '6f9619ff-8b86-d011-b42d-00c04fc964ff',
         '{\"pages\": 210, \"languages\": [\"de\", 0.1]}', '{\"b\": [1, null]}', '\\x00ff10', '{sky,\"two words\",NULL}',
         '{1,NULL,3}', 0.1, 0.1, true, -7, 9007199254740993, 'de'),
        (2, 'Nichts', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
         NULL, NULL),
        (3, 'Alt', 'short', -0.01, -12345678901234567890.5, '1844-03-15', '1969-12-31 23:59:59.999999+00',
         '1969-07-20 20:17:40', '00:00', '00000000-0000-0000-0000-000000000000', '[1, 2.5, null, \"ü\"]', '3', '\\x', '{}',
         '{}', 1e300, -1.5, false, 32767, -1, '')";

/// A table with types that need no schema if Debezium is configured to write texts.
const SIMPLE_TABLE: &str = "
    CREATE TABLE books (
        id bigint PRIMARY KEY, name text NOT NULL, description text, price numeric(10, 2), uid uuid, tags text[],
        ratio float8, yes boolean);
    ALTER TABLE books ALTER COLUMN description SET STORAGE EXTERNAL;
    INSERT INTO books VALUES
        (1, 'Die Wolken', repeat('What the sky does. ', 500), 12.50, '6f9619ff-8b86-d011-b42d-00c04fc964ff', '{sky}', 0.1, true),
        (2, 'Nichts', NULL, NULL, NULL, NULL, NULL, NULL), (3, 'Alt', 'short', -0.01, NULL, '{}', 1e300, false)";

/// One change of every sort; four rows are left.
const CHANGES: &str = "
    INSERT INTO books (id, name, description, price) VALUES (4, 'Neu', repeat('new ', 1000), 99999999.99), (5, 'Kurz', '', 0);
    UPDATE books SET name = 'Die Wolken \"II\" – ☁' WHERE id = 1;
    UPDATE books SET price = 3.00 WHERE id = 4;
    UPDATE books SET id = 40 WHERE id = 4;
    UPDATE books SET description = 'shorter' WHERE id = 3;
    DELETE FROM books WHERE id = 2;
    BEGIN; DELETE FROM books WHERE id = 5; INSERT INTO books (id, name) VALUES (5, 'Wieder'); COMMIT";

fn image_of_books() -> Expected {
    Expected::of("books", |row| row["name"].as_str().unwrap_or_default().to_owned())
}

/// Debezium's engine, a worker, and the server that the worker fills.
struct Following {
    kafka: Kafka,
    server: TestServer,
    settings: Settings,
    debezium: Other,
}

impl Following {
    async fn start(context: &TestContext, options: &[&str]) -> Result<Self> {
        let (kafka, server) = (Kafka::shared(context).await?, TestServer::start()?);
        // This broker does not create topics automatically, and many others do not either.
        records::make_topic(kafka.broker(), &kafka.topic("books"), 3, &[]).await?;
        let url = context.url().replace("postgresql://", "postgres://");
        let bootstrap = kafka.broker().bootstrap();
        let state = context.directory().join("debezium-state").display().to_string();
        let fixed = [
            "--url",
            &url,
            "--state",
            &state,
            "--slot",
            context.slot(),
            "--topic-prefix",
            context.slot(),
            "--tables",
            "public.books",
            "--bootstrap",
            &bootstrap,
        ];
        let debezium = Other::debezium(context.directory(), &[&fixed, options].concat())?;
        let sink = json!({ "qdrant": { "url": server.url() } });
        let settings = Settings::new([Collection::new("books", "public.books", "{{ name }}")]).with("sink", sink);
        // The worker reads values there that Debezium leaves out.
        let settings = kafka.carries(settings).with("source", json!({ "publication": "dbz_publication" }));
        Ok(Self { kafka, server, settings, debezium })
    }

    /// Starts a worker once the snapshot is in the topic.
    async fn index(&mut self, context: &TestContext, rows: usize) -> Result<Walvec> {
        wait::until("Debezium has written its snapshot", async || {
            self.debezium.is_alive()?;
            let found = records::all(self.kafka.broker(), &self.kafka.topic("books")).await?;
            Ok((found.len() >= rows).then_some(()))
        })
        .await?;
        context.start_stage(&self.settings, "index", "a").await
    }

    async fn becomes(&mut self, context: &TestContext, index: &mut Walvec) -> Result<usize> {
        let mut last = None;
        let waited = wait::until("the collection is the table's image", async || {
            self.debezium.is_alive()?;
            index.is_alive()?;
            match image::compare_on_server(context, &image_of_books(), &self.server.url()).await {
                Ok(rows) => Ok(Some(rows)),
                Err(difference) => {
                    last = Some(format!("{difference:#}"));
                    Ok(None)
                }
            }
        });
        let waited = waited.await;
        let status = index.status().await?;
        waited.with_context(|| format!("{}\n{:?}", last.unwrap_or_default(), status.collections))
    }

    /// Follows every sort of change.
    async fn follows(mut self, context: &TestContext) -> Result<()> {
        let mut index = self.index(context, 3).await?;
        assert_eq!(self.becomes(context, &mut index).await?, 3);
        context.execute(CHANGES).await?;
        assert_eq!(self.becomes(context, &mut index).await?, 4);
        let status = index.status().await?;
        assert_eq!(status.collections[0].dead_letters, 0, "{status:?}");
        Ok(())
    }
}

async fn with_schemas_the_collection_is_what_capture_would_make_of_the_table(context: TestContext) -> Result<()> {
    if !can_test("what Debezium writes") || !can_test_debezium() {
        return Ok(());
    }
    context.execute(TABLE).await?;
    Following::start(&context, &["--schemas"]).await?.follows(&context).await
}

async fn without_schemas_some_settings_of_debezium_make_the_same_image(context: TestContext) -> Result<()> {
    if !can_test("what Debezium writes") || !can_test_debezium() {
        return Ok(());
    }
    context.execute(SIMPLE_TABLE).await?;
    let options = ["-P", "decimal.handling.mode=string", "-P", "skipped.operations=none"];
    let mut following = Following::start(&context, &options).await?;
    let mut index = following.index(&context, 3).await?;
    assert_eq!(following.becomes(&context, &mut index).await?, 3);
    context.execute(CHANGES).await?;
    assert_eq!(following.becomes(&context, &mut index).await?, 4);
    context.execute("TRUNCATE books; INSERT INTO books (id, name) VALUES (9, 'Nachher')").await?;
    assert_eq!(following.becomes(&context, &mut index).await?, 1);
    assert_eq!(index.status().await?.collections[0].dead_letters, 0);
    Ok(())
}

/// The transaction's changes have lower LSNs than the rows of the snapshot, but come after them.
async fn a_transaction_that_spans_debeziums_snapshot_is_not_lost(context: TestContext) -> Result<()> {
    if !can_test("what Debezium writes") || !can_test_debezium() {
        return Ok(());
    }
    context.execute(SIMPLE_TABLE).await?;
    let open = async || {
        let session = context.connect().await?;
        session.batch_execute("BEGIN; SELECT pg_current_xact_id()").await?;
        anyhow::Ok(session)
    };
    let slot_waits = async |lines: i64| {
        wait::until("the slot waits for a transaction", async || {
            let query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'";
            Ok((context.sql.query_one(query, &[]).await?.get::<_, i64>(0) >= lines).then_some(()))
        })
        .await
    };
    // PostgreSQL first waits for the transactions that run when the slot is created, then for those that run at that
    // moment. A transaction that began in between is streamed whole.
    let first = open().await?;
    let mut following = Following::start(&context, &["-P", "decimal.handling.mode=string"]).await?;
    slot_waits(1).await?;
    let second = open().await?;
    first.batch_execute("COMMIT").await?;
    drop(first);
    wait::until("the slot waits for the second transaction", async || {
        let query = "SELECT EXISTS (SELECT FROM pg_locks w JOIN pg_locks h USING (transactionid) WHERE NOT w.granted AND h.granted
                     AND h.pid = $1)";
        let pid: i32 = second.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        Ok(context.sql.query_one(query, &[&pid]).await?.get::<_, bool>(0).then_some(()))
    })
    .await?;
    let third = open().await?;
    third.batch_execute("UPDATE books SET name = 'spanning' WHERE id = 3").await?;
    second.batch_execute("COMMIT").await?;
    let mut index = following.index(&context, 3).await?;
    assert_eq!(following.becomes(&context, &mut index).await?, 3);
    third.batch_execute("COMMIT").await?;
    assert_eq!(following.becomes(&context, &mut index).await?, 3);
    let written = records::all(following.kafka.broker(), &following.kafka.topic("books")).await?;
    let lsn = |op: &str| {
        let record = written.iter().map(Found::json).find(|record| record["op"] == op && record["after"]["id"] == 3);
        record.and_then(|record| record["source"]["lsn"].as_u64())
    };
    assert!(lsn("u").is_some() && lsn("u") < lsn("r"), "{:?} was to be before {:?}", lsn("u"), lsn("r"));
    Ok(())
}
