//! A broker between PostgreSQL and the collections: the image is the same, however many workers make it.

use anyhow::Result;
use serde_json::json;
use walvec_e2e::{Collection, Expected, Kafka, Settings, Test, TestContext, Walvec, image, test, wait};
use walvec_model::Lsn;
use walvec_test_kafka::{Options, Protocols, can_test};
use walvec_test_qdrant::TestServer;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(through_a_broker_the_collection_is_the_exact_image_of_the_table),
        test!(tables_of_every_sort_are_followed_through_a_broker),
        test!(one_process_does_it_all_through_the_broker).once(),
        test!(two_workers_share_a_qdrant_server_in_the_protocol_consumer).once(),
        test!(two_workers_share_a_qdrant_server_in_the_protocol_classic).once(),
        test!(two_workers_fall_back_by_themselves_where_the_broker_is_old).once(),
        test!(vectors_through_a_topic_of_their_own_make_the_same_image).once(),
        test!(a_table_that_takes_the_place_of_another_leaves_none_of_its_points_behind_a_broker).once(),
        test!(a_second_capture_is_refused).once(),
        test!(every_stage_stops_in_order_and_a_restart_embeds_nothing_again).once(),
    ]
}

pub(crate) const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, name text, body text, n int DEFAULT 0);
    ALTER TABLE items ALTER COLUMN body SET STORAGE EXTERNAL;
    INSERT INTO items SELECT g, 'name ' || g, repeat('x', 3000) FROM generate_series(1, 1000) g";

/// One change of every sort; 991 rows are left.
const CHANGES: &str = "INSERT INTO items VALUES (2000, 'new', 'b');
    UPDATE items SET name = 'changed' WHERE id <= 10;
    UPDATE items SET n = 5 WHERE id BETWEEN 11 AND 20;
    UPDATE items SET id = id + 5000 WHERE id BETWEEN 21 AND 30;
    DELETE FROM items WHERE id BETWEEN 31 AND 40;
    BEGIN;
    UPDATE items SET id = 0 WHERE id = 41; UPDATE items SET id = 41 WHERE id = 42; UPDATE items SET id = 42 WHERE id = 0;
    COMMIT";

pub(crate) fn items() -> Settings {
    Settings::new([Collection::new("items", "public.items", "{{ name }}")])
}

pub(crate) fn items_on(server: &TestServer) -> Settings {
    items().with("sink", json!({ "qdrant": { "url": server.url() } }))
}

pub(crate) fn image_of_items() -> Expected {
    Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned())
}

/// Starts a capture and waits until it has caught up: its topics exist from here on.
pub(crate) async fn captured(context: &TestContext, settings: &Settings) -> Result<Walvec> {
    let mut capture = context.start_stage(settings, "capture", "1").await?;
    capture.caught_up(context).await?;
    Ok(capture)
}

/// Starts a capture and one worker, and waits until they have brought everything into the collection.
pub(crate) async fn indexed_by_one(
    context: &TestContext,
    kafka: &Kafka,
    settings: &Settings,
) -> Result<(Walvec, Walvec)> {
    let mut capture = captured(context, settings).await?;
    let mut worker = context.start_stage(settings, "index", "1").await?;
    kafka.indexed(context, &mut capture, &mut [&mut worker]).await?;
    Ok((capture, worker))
}

/// Starts a capture and two workers, kills one worker right after `changes`, and waits until the others have brought them into
/// the collection.
pub(crate) async fn indexed_though_one_is_killed(
    context: &TestContext,
    kafka: &Kafka,
    settings: &Settings,
    changes: impl Future<Output = Result<()>>,
) -> Result<(Walvec, Walvec)> {
    let mut capture = captured(context, settings).await?;
    let mut one = context.start_stage(settings, "index", "one").await?;
    let two = context.start_stage(settings, "index", "two").await?;
    changes.await?;
    two.kill().await?;
    kafka.indexed(context, &mut capture, &mut [&mut one]).await?;
    Ok((capture, one))
}

async fn through_a_broker_the_collection_is_the_exact_image_of_the_table(context: TestContext) -> Result<()> {
    if !can_test("the path through a broker") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let settings = kafka.carries(items());
    context.execute(TABLE).await?;
    let (mut capture, worker) = indexed_by_one(&context, &kafka, &settings).await?;
    assert_eq!(worker.search("name 7", 3).await?.len(), 3, "the worker answers searches");
    worker.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 1000);

    let mut worker = context.start_stage(&settings, "index", "1").await?;
    context.execute(CHANGES).await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    worker.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 991);

    let mut worker = context.start_stage(&settings, "index", "1").await?;
    context
        .execute("BEGIN; TRUNCATE items; INSERT INTO items VALUES (7, 'after', 'b'), (8, 'too', 'b'); COMMIT")
        .await?;
    context.execute("DELETE FROM items WHERE id = 8; INSERT INTO items VALUES (9, 'late', 'b')").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    worker.stop().await?;
    capture.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 2);
    Ok(())
}

const SORTS: &str = r#"
    CREATE DOMAIN amount AS numeric(12, 4);
    CREATE TYPE mood AS ENUM ('calm', 'wild');
    CREATE TABLE kinds (id uuid PRIMARY KEY, name text, small int2, big int8, real4 float4, real8 float8, yes bool,
        price amount, note char(5), day date, at timestamptz, local timestamp, span interval, data jsonb, raw bytea,
        tags text[], numbers int[], feeling mood, address inet);
    CREATE SCHEMA "Größen & Maße";
    CREATE TABLE "Größen & Maße"."Table ""1""" (
        "Schlüssel" text, "no." int, "the name" text, PRIMARY KEY ("no.", "Schlüssel"));
    CREATE TABLE parts (id int, year int, name text, PRIMARY KEY (id, year)) PARTITION BY RANGE (year);
    CREATE TABLE parts_old PARTITION OF parts FOR VALUES FROM (0) TO (2000);
    CREATE TABLE parts_new PARTITION OF parts FOR VALUES FROM (2000) TO (3000);
    CREATE TABLE large (id int PRIMARY KEY, name text, body text, n int DEFAULT 0);
    ALTER TABLE large ALTER COLUMN body SET STORAGE EXTERNAL;
    INSERT INTO kinds SELECT ('00000000-0000-0000-0000-' || lpad(g::text, 12, '0'))::uuid, 'kind ' || g, g, g * 10000000000,
        g + 0.25, g + 1 / 7.0, g % 2 = 0, g / 8.0, 'ab', '2024-02-29', '2024-02-29 12:00:00.123456+02', '1999-12-31 23:59:59',
        '1 year 2 days 03:04:05', '{"a": [1, 2.50, null]}', '\xdeadbeef', '{a,"b c",NULL}', '{1,2}', 'wild', '10.0.0.1/8'
        FROM generate_series(1, 50) g;
    INSERT INTO kinds (id, name) VALUES ('ffffffff-0000-0000-0000-000000000000', NULL);
    INSERT INTO "Größen & Maße"."Table ""1""" VALUES ('a', 1, 'one'), ('b', 1, 'two'), ('a', -2, 'three');
    INSERT INTO parts SELECT n, 1900 + n, 'part ' || n FROM generate_series(1, 150) n;
    INSERT INTO large SELECT n, 'item ' || n, repeat('body of ' || n || '. ', 2000) FROM generate_series(1, 20) n"#;

const SORTS_CHANGED: &str = r#"
    UPDATE kinds SET price = price * 2, at = 'infinity', real8 = 'NaN', data = 'null', tags = '{}' WHERE small % 3 = 0;
    UPDATE kinds SET name = 'nothing', small = NULL, raw = NULL, numbers = '{{1,2},{3,NULL}}' WHERE small % 3 = 1;
    DELETE FROM kinds WHERE small % 3 = 2;
    UPDATE "Größen & Maße"."Table ""1""" SET "Schlüssel" = 'c' WHERE "no." = -2;
    DELETE FROM "Größen & Maße"."Table ""1""" WHERE "Schlüssel" = 'a' AND "no." = 1;
    INSERT INTO "Größen & Maße"."Table ""1""" VALUES ('ab', 1, 'four');
    UPDATE parts SET year = 2100, name = 'moved to another partition' WHERE id = 3;
    DELETE FROM parts WHERE id BETWEEN 95 AND 105;
    BEGIN; UPDATE large SET id = 99 WHERE id = 1; UPDATE large SET id = 1 WHERE id = 2; UPDATE large SET id = 2 WHERE id = 99;
    COMMIT;
    UPDATE large SET n = 7 WHERE id <= 5; UPDATE large SET name = 'new name' WHERE id = 6;
    BEGIN; INSERT INTO large VALUES (500, 'never', 'x'); ROLLBACK"#;

async fn tables_of_every_sort_are_followed_through_a_broker(context: TestContext) -> Result<()> {
    if !can_test("the path through a broker") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let settings = kafka.carries(Settings::new([
        Collection::new("kinds", "public.kinds", "{{ name }}"),
        Collection::new("quoted", r#""Größen & Maße"."Table ""1""""#, "{{ row[\"the name\"] }}"),
        Collection::new("parts", "public.parts", "{{ name }}"),
        Collection::new("large", "public.large", "{{ name }}"),
        Collection::new("bodies", "public.large", "{{ name }}: {{ body }}").with("payload", json!(["name", "n"])),
    ]));
    let name = |row: &walvec_model::Payload| row["name"].as_str().unwrap_or_default().to_owned();
    let quoted = Expected {
        collection: "quoted",
        schema: "Größen & Maße",
        ..Expected::of("Table \"1\"", |row| row["the name"].as_str().unwrap_or_default().to_owned())
    };
    let bodies = Expected {
        collection: "bodies",
        payload: Some(&["name", "n"]),
        ..Expected::of("large", |row| {
            let text = |column: &str| row[column].as_str().unwrap_or_default().to_owned();
            format!("{}: {}", text("name"), text("body"))
        })
    };
    let all = [Expected::of("kinds", name), quoted, Expected::of("parts", name), Expected::of("large", name), bodies];
    context.execute(SORTS).await?;
    let mut capture = captured(&context, &settings).await?;
    for (changes, rows) in [("", [51, 3, 150, 20, 20]), (SORTS_CHANGED, [34, 3, 139, 20, 20])] {
        let mut worker = context.start_stage(&settings, "index", "1").await?;
        kafka.read("index", &mut [&mut worker]).await?;
        context.execute(changes).await?;
        kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
        worker.stop().await?;
        for (expected, rows) in all.iter().zip(rows) {
            let compared = image::compare(&context, expected).await;
            assert_eq!(compared.map_err(|error| error.context(expected.collection))?, rows, "{}", expected.collection);
        }
    }
    capture.stop().await
}

async fn one_process_does_it_all_through_the_broker(context: TestContext) -> Result<()> {
    if !can_test("one process through a broker") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let settings = kafka.carries(items());
    context.execute(TABLE).await?;
    for (changes, rows) in [("", 1000), (CHANGES, 991), ("TRUNCATE items; INSERT INTO items VALUES (1, 'a', 'b')", 1)] {
        let mut walvec = context.start(&settings).await?;
        confirmed(&context, &mut walvec).await?;
        context.execute(changes).await?;
        confirmed(&context, &mut walvec).await?;
        // A new slot counts as confirmed for everything before it, and a topic without records counts as read to its end.
        walvec.wait_for("all rows were there", |status| status.collections[0].points == Some(rows)).await?;
        kafka.read("index", &mut [&mut walvec]).await?;
        walvec.stop().await?;
        assert_eq!(u64::try_from(image::compare(&context, &image_of_items()).await?)?, rows);
    }
    Ok(())
}

/// Waits until walvec has confirmed to PostgreSQL everything that is committed now.
async fn confirmed(context: &TestContext, walvec: &mut Walvec) -> Result<()> {
    let position = context.wal_position().await?;
    let query = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1";
    wait::until(&format!("{position} was confirmed"), async || {
        walvec.is_alive()?;
        let slot = context.sql.query_opt(query, &[&context.slot()]).await?;
        let confirmed =
            slot.and_then(|row| row.get::<_, Option<String>>(0)).map(|lsn| lsn.parse::<Lsn>()).transpose()?;
        Ok((confirmed >= Some(position)).then_some(()))
    })
    .await
}

async fn two_workers_share_a_qdrant_server_in_the_protocol_consumer(context: TestContext) -> Result<()> {
    if !can_test("two workers") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    two_workers(&context, &kafka, "consumer").await
}

async fn two_workers_share_a_qdrant_server_in_the_protocol_classic(context: TestContext) -> Result<()> {
    if !can_test("two workers") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    two_workers(&context, &kafka, "classic").await
}

async fn two_workers_fall_back_by_themselves_where_the_broker_is_old(context: TestContext) -> Result<()> {
    if !can_test("an older broker") {
        return Ok(());
    }
    let options = Options { protocols: Protocols::Classic, ..Kafka::options() };
    let kafka = Kafka::own(&context, options).await?;
    two_workers(&context, &kafka, "auto").await
}

/// Checks that two workers both have partitions, and that every operation reaches the server.
async fn two_workers(context: &TestContext, kafka: &Kafka, protocol: &str) -> Result<()> {
    let server = TestServer::start()?;
    let settings = kafka.carries(items_on(&server)).with("broker", json!({ "kafka": { "group_protocol": protocol } }));
    context.execute(TABLE).await?;
    let mut capture = captured(context, &settings).await?;
    let mut one = context.start_stage(&settings, "index", "one").await?;
    let mut two = context.start_stage(&settings, "index", "two").await?;
    both_work(&mut one, &mut two).await?;
    kafka.indexed(context, &mut capture, &mut [&mut one, &mut two]).await?;
    assert_eq!(image::compare_on_server(context, &image_of_items(), &server.url()).await?, 1000);
    context.execute(CHANGES).await?;
    kafka.indexed(context, &mut capture, &mut [&mut one, &mut two]).await?;
    assert_eq!(image::compare_on_server(context, &image_of_items(), &server.url()).await?, 991);
    context
        .execute("BEGIN; TRUNCATE items; INSERT INTO items VALUES (7, 'after', 'b'), (8, 'too', 'b'); COMMIT")
        .await?;
    kafka.indexed(context, &mut capture, &mut [&mut one, &mut two]).await?;
    assert_eq!(image::compare_on_server(context, &image_of_items(), &server.url()).await?, 2);
    one.stop().await?;
    two.stop().await?;
    capture.stop().await
}

/// Waits until each of two workers has partitions.
pub(crate) async fn both_work(one: &mut Walvec, two: &mut Walvec) -> Result<()> {
    for worker in [one, two] {
        worker.wait_for("the worker has partitions", |status| partitions(status) > 0).await?;
    }
    Ok(())
}

/// Returns how many partitions a worker has.
pub(crate) fn partitions(status: &walvec_pipeline::Status) -> usize {
    status.broker.as_ref().map_or(0, |broker| broker.partitions.len())
}

async fn vectors_through_a_topic_of_their_own_make_the_same_image(context: TestContext) -> Result<()> {
    if !can_test("a topic of vectors") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let server = TestServer::start()?;
    let settings = kafka.carries(items_on(&server));
    context.execute(TABLE).await?;
    let mut capture = captured(&context, &settings).await?;
    let mut embed = context.start_stage(&settings, "embed", "1").await?;
    kafka.read("embed", &mut [&mut embed]).await?;
    let mut sink = context.start_stage(&settings, "sink", "1").await?;
    let truncate = "BEGIN; TRUNCATE items; INSERT INTO items VALUES (7, 'after', 'b'), (8, 'too', 'b'); COMMIT";
    for (changes, rows) in [("", 1000), (CHANGES, 991), (truncate, 2)] {
        context.execute(changes).await?;
        capture.caught_up(&context).await?;
        kafka.read("embed", &mut [&mut embed]).await?;
        kafka.read("sink", &mut [&mut sink]).await?;
        assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, rows);
    }

    // `verify` itself waits for the last change, through both topics.
    context.execute("UPDATE items SET name = 'as of now' WHERE id = 8").await?;
    let verified = context.walvec(&["verify"]).await?;
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));

    // No stage sees the deletion of row 7: the sweep after a second snapshot finds it.
    capture.stop().await?;
    context.execute("SELECT pg_drop_replication_slot(current_database())").await?;
    std::fs::remove_dir_all(context.stage_directory(&settings, "capture", "1"))?;
    context.execute("DELETE FROM items WHERE id = 7; INSERT INTO items VALUES (9, 'unseen', 'b')").await?;
    let capture = captured(&context, &settings).await?;
    kafka.read("embed", &mut [&mut embed]).await?;
    kafka.read("sink", &mut [&mut sink]).await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 2);
    for stage in [capture, embed, sink] {
        stage.stop().await?;
    }
    Ok(())
}

async fn a_table_that_takes_the_place_of_another_leaves_none_of_its_points_behind_a_broker(
    context: TestContext,
) -> Result<()> {
    if !can_test("another table behind a broker") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let server = TestServer::start()?;
    context
        .execute("CREATE TABLE items (id text PRIMARY KEY, name text); INSERT INTO items SELECT g, 'name ' || g FROM generate_series(1, 9) g")
        .await?;
    let (capture, worker) = indexed_by_one(&context, &kafka, &kafka.carries(items_on(&server))).await?;
    capture.stop().await?;
    worker.stop().await?;
    context.execute("ALTER TABLE items RENAME TO volumes; DELETE FROM volumes WHERE id > '4'").await?;
    let volumes = Settings::new([Collection::new("items", "public.volumes", "{{ name }}")]);
    let volumes = kafka.carries(volumes.with("sink", json!({ "qdrant": { "url": server.url() } })));
    let (capture, worker) = indexed_by_one(&context, &kafka, &volumes).await?;
    let expected = Expected { table: "volumes", ..image_of_items() };
    wait::until("the points of the former table are gone", async || {
        Ok(image::compare_on_server(&context, &expected, &server.url()).await.ok())
    })
    .await?;
    capture.stop().await?;
    worker.stop().await
}

async fn a_second_capture_is_refused(context: TestContext) -> Result<()> {
    if !can_test("a second capture") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let settings = kafka.carries(items());
    context.execute(TABLE).await?;
    let capture = captured(&context, &settings).await?;
    let output = context.walvec(&["run", "--stage", "capture"]).await?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{words}");
    assert!(words.contains("E_LOCKED"), "{words}");
    // With another directory, as on another machine, the second capture fails because the slot is in use.
    let elsewhere = settings.clone().with("sink", json!({ "embedded": { "path": "elsewhere" } }));
    context.configure(&elsewhere)?;
    let output = context.walvec(&["run", "--stage", "capture"]).await?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{words}");
    assert!(words.contains("E_SLOT"), "{words}");
    capture.stop().await
}

async fn every_stage_stops_in_order_and_a_restart_embeds_nothing_again(context: TestContext) -> Result<()> {
    if !can_test("an ordered stop") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let server = TestServer::start()?;
    let settings = kafka.carries(items_on(&server));
    context.execute(TABLE).await?;
    let (mut capture, mut worker) = indexed_by_one(&context, &kafka, &settings).await?;
    let written = server.calls().writes();
    for round in 0..3 {
        capture.stop().await?;
        worker.stop().await?;
        context.execute(&format!("UPDATE items SET n = {round} + 1 WHERE id <= 300")).await?;
        capture = context.start_stage(&settings, "capture", "1").await?;
        worker = context.start_stage(&settings, "index", "1").await?;
        kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
        let status = worker.status().await?;
        assert_eq!(status.collections[0].embeddings_computed, 0, "texts that have not changed were embedded again");
        assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 1000);
    }
    assert!(server.calls().writes() > written, "the updates were written");
    // Capture is stopped under load, while records are in flight.
    context.execute("UPDATE items SET name = 'late ' || id").await?;
    capture.stop().await?;
    worker.stop().await?;
    capture = context.start_stage(&settings, "capture", "1").await?;
    worker = context.start_stage(&settings, "index", "1").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 1000);
    capture.stop().await?;
    worker.stop().await
}
