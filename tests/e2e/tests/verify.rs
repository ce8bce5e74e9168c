//! `walvec verify` finds every sort of mismatch, finds none where there is none, and repairs what it finds.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use walvec_e2e::settings::MODEL;
use walvec_e2e::{Collection, Settings, Test, TestContext, Walvec, image, test, wait};
use walvec_model::{Lsn, Point, PointId, Position, RawPoint, StoredPoint, TableName};
use walvec_sink::{Search, Sink, Write};
use walvec_test_providers::TestProvider;
use walvec_test_qdrant::TestServer;

use crate::backfill::intruder;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(equal_sides_are_equal_while_rows_change),
        test!(equal_sides_are_equal_on_a_server_while_rows_change),
        test!(every_type_and_sort_of_key_compares_equal),
        test!(filters_computed_fields_and_quoted_names_compare_equal).since(15),
        test!(every_corruption_on_a_server_is_found_and_mended),
        test!(every_corruption_of_the_embedded_engine_is_found_and_mended),
        test!(a_collection_that_lost_nearly_every_point_is_filled_again_by_a_repair),
        test!(a_row_that_a_repair_can_only_park_is_not_called_mended).once(),
        test!(parked_rows_are_reported_and_are_no_mismatch),
        test!(without_a_running_walvec_nothing_is_compared),
        test!(another_text_template_is_told_instead_of_a_stale_point_for_every_row),
    ]
}

const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, name text, n float8);
    INSERT INTO items SELECT g, 'item number ' || g, sqrt(g) FROM generate_series(1, 2000) g";

fn items() -> Settings {
    Settings::new([Collection::new("items", "public.items", "{{ name }}")])
}

fn items_on(server: &TestServer) -> Settings {
    items().with("sink", json!({ "qdrant": { "url": server.url() } }))
}

async fn followed(context: &TestContext, settings: &Settings) -> Result<Walvec> {
    let mut walvec = context.start(settings).await?;
    walvec.caught_up(context).await?;
    Ok(walvec)
}

/// Returns the report of `walvec verify --json`, and its exit code.
async fn verify(context: &TestContext, arguments: &[&str]) -> Result<(Value, i32)> {
    let output = context.walvec(&[&["verify", "--json"], arguments].concat()).await?;
    let code = output.status.code().context("it was killed")?;
    let report = serde_json::from_slice(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    Ok((report.with_context(|| format!("exit code {code}: {errors}"))?, code))
}

/// Returns the numbers of mismatches: missing, extra, stale, chunks, bad vectors.
fn mismatches(report: &Value) -> [u64; 5] {
    ["missing", "extra", "stale", "chunks", "bad_vectors"].map(|sort| report[sort].as_u64().unwrap_or(u64::MAX))
}

/// Checks that everything is equal and that there are as many rows as points, and returns the report.
async fn assert_equal(context: &TestContext, arguments: &[&str]) -> Result<Value> {
    let (report, code) = verify(context, arguments).await?;
    assert_eq!((mismatches(&report), code), ([0; 5], 0), "{report:#}");
    Ok(report)
}

/// Runs `change(0)`, `change(1)` and so on, each as soon as walvec has applied the one before, so walvec can always follow.
async fn keep_writing(context: &TestContext, walvec: &Walvec, change: impl Fn(u64) -> String) -> Result<()> {
    let session = context.connect().await?;
    for round in 0.. {
        session.batch_execute(&change(round)).await?;
        let position = context.wal_position().await?;
        wait::until("the change is applied", async || {
            Ok((walvec.status().await?.applied_lsn >= position).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// Runs `verify` three times while two sessions write, and once when they have stopped.
async fn equal_while_rows_change(context: &TestContext, walvec: &mut Walvec) -> Result<()> {
    let rows = keep_writing(context, walvec, |round| {
        format!(
            "UPDATE items SET name = 'changed {round}' WHERE id BETWEEN 1 AND 400 AND id % 10 = {}; \
             DELETE FROM items WHERE id = 9997 + {round}; INSERT INTO items VALUES (10000 + {round}, 'new', 0)",
            round % 10
        )
    });
    let keys = keep_writing(context, walvec, |round| {
        format!("UPDATE items SET id = -id, n = {round} WHERE abs(id) = {}", 401 + round % 200)
    });
    let compared = async {
        for _ in 0..3 {
            let report = assert_equal(context, &["--sample", "200", "--seed", "1"]).await?;
            assert_eq!(report["dead_letters"], 0);
            assert!(report["sampled"].as_u64() > Some(50), "{report:#}");
        }
        anyhow::Ok(())
    };
    tokio::select! {
        ended = async { tokio::try_join!(rows, keys) } => ended.map(drop)?,
        compared = compared => compared?,
    }
    walvec.caught_up(context).await?;
    let report = assert_equal(context, &["--sample", "all"]).await?;
    assert_eq!(report["rows"], report["points"]);
    assert_eq!((&report["unsettled"], &report["sampled"]), (&json!(0), &report["rows"]));
    Ok(())
}

async fn equal_sides_are_equal_while_rows_change(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let mut walvec = followed(&context, &items()).await?;
    equal_while_rows_change(&context, &mut walvec).await
}

async fn equal_sides_are_equal_on_a_server_while_rows_change(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    context.execute(TABLE).await?;
    let mut walvec = followed(&context, &items_on(&server)).await?;
    equal_while_rows_change(&context, &mut walvec).await
}

async fn every_type_and_sort_of_key_compares_equal(context: TestContext) -> Result<()> {
    context
        .execute(
            r#"CREATE TYPE mood AS ENUM ('calm', 'wild');
               CREATE DOMAIN even AS int CHECK (VALUE % 2 = 0);
               CREATE DOMAIN numbers AS int[];
               CREATE TYPE pair AS (a int, b text);
               CREATE TABLE types (
                   language char(4), number int, PRIMARY KEY (number, language),
                   b bool, i2 smallint, i8 bigint, f4 real, f8 double precision, amount numeric, e even, m mood,
                   ts timestamptz, t timestamp, d date, ti time, iv interval, bytes bytea, j json, jb jsonb, ints int[],
                   texts text[], moods mood[], amounts numeric[], span int4range, u uuid, o oid, os oid[], bools bool[],
                   floats float8[], jsons jsonb[], chars char(3)[], bounds int[], vc varchar(10), ip inet, c "char", na name,
                   mo money, po point, bo box[], bi bit(3), ev numbers, pa pair, ts2 tsvector, g int GENERATED ALWAYS AS (1) STORED);
               INSERT INTO types VALUES
                   ('de', 1, true, -1, 9007199254740993, 0.1, 1e300, 10.500, 42, 'wild', '2026-02-03 04:05:06.789+01',
                    '2026-02-03 04:05:06', '0044-03-15 BC', '01:02:03.4', '1 mon 2 days 03:04:05', '\xdeadbeef',
                    '{"b": [1, null], "b": 2, "long": 123456789012345678901}', '{"z": 1.5, "a": {"n": 1e2}}', '{1,NULL,3}',
                    '{"a b",NULL,"\"q\"","NULL",""}', '{calm,wild}', '{1.10,NaN}', '[1,5)',
                    'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 4000000000, '{1,4000000000}', '{t,f,NULL}', '{0.1,NaN,1e300}',
                    ARRAY['{"a": [1]}', 'null']::jsonb[], '{a,ab}', '[0:1]={1,2}', 'ü"\', '10.0.0.1', 'x', 'a name', 12.34,
                    '(1,2.5)', '{(1,2),(3,4);(5,6),(7,8)}', '101', '{{1,2},{3,4}}', '(1,"x y")', 'a fat cat'),
                   ('en', -2, NULL, NULL, NULL, 'NaN', '-Infinity', 'NaN', NULL, NULL, 'infinity', NULL, NULL, NULL, NULL, '',
                    '3', 'null', '{}', '{}', '{{calm},{wild}}', NULL, 'empty', NULL, NULL, '{}', NULL, NULL, NULL, NULL, NULL,
                    '', '::1/64', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
               INSERT INTO types (language, number, f8, jb, j, floats) SELECT 'r', n, random() * 10 ^ (random() * 40 - 20),
                   to_jsonb(random() * 10 ^ (random() * 40 - 20)), to_json(random()), ARRAY[random()]
                   FROM generate_series(100, 1100) n;
               CREATE TABLE uuids (id uuid PRIMARY KEY, name text);
               INSERT INTO uuids SELECT gen_random_uuid(), 'name ' || n FROM generate_series(1, 500) n;
               CREATE TABLE texts (id text PRIMARY KEY, name text);
               INSERT INTO texts VALUES ('42', 'a'), ('', 'b'), ('ü', 'c'), ('"{}\', 'd'), (E'tab\tline\n', 'e');
               CREATE TABLE mixed (id int PRIMARY KEY, name text);
               INSERT INTO mixed SELECT n, 'number ' || n FROM generate_series(-300, 300) n;
               CREATE TABLE arrays (id int[] PRIMARY KEY, name text);
               INSERT INTO arrays VALUES ('{1,2}', 'a'), ('{}', 'b'), ('{NULL}', 'c');
               CREATE TABLE evens (id even PRIMARY KEY, name text); INSERT INTO evens VALUES (2, 'a'), (4, NULL);
               CREATE TABLE parts (id int, year int, name text, PRIMARY KEY (id, year)) PARTITION BY RANGE (year);
               CREATE TABLE parts_old PARTITION OF parts FOR VALUES FROM (0) TO (2000);
               CREATE TABLE parts_new PARTITION OF parts FOR VALUES FROM (2000) TO (3000);
               INSERT INTO parts SELECT n, 1900 + n, 'part ' || n FROM generate_series(1, 150) n"#,
        )
        .await?;
    let names = ["uuids", "texts", "mixed", "arrays", "evens", "parts"];
    let named = names.map(|table| Collection::new(table, &format!("public.{table}"), "{{ name }}"));
    let everything = "{{ number }} {{ row }}";
    let types = Collection::new("types", "public.types", everything);
    let settings = Settings::new(named.into_iter().chain([types]));
    for settings in [settings.clone(), settings.with("pipeline", json!({"batch_rows": 7}))] {
        let walvec = followed(&context, &settings).await?;
        let report = assert_equal(&context, &["--sample", "all"]).await?;
        assert_eq!(report["collections"].as_array().map(Vec::len), Some(7));
        assert_eq!(report["rows"], report["sampled"], "{report:#}");
        walvec.stop().await?;
        // The same values arrive through the stream.
        context.execute("UPDATE types SET number = number + 5000; UPDATE texts SET id = id || 'x'").await?;
    }
    Ok(())
}

async fn filters_computed_fields_and_quoted_names_compare_equal(context: TestContext) -> Result<()> {
    context
        .execute(
            r#"CREATE SCHEMA "Größen & Maße";
               CREATE TABLE "Größen & Maße"."Table ""1""" (
                   "Schlüssel" text, "no." int, "the name" text, value numeric, year int, meta jsonb, key text,
                   PRIMARY KEY ("no.", "Schlüssel"));
               ALTER TABLE "Größen & Maße"."Table ""1""" REPLICA IDENTITY FULL;
               INSERT INTO "Größen & Maße"."Table ""1""" SELECT chr(97 + n % 5), n, 'name ' || n, n * 1.5,
                   CASE WHEN n % 3 > 0 THEN 1800 + n END, jsonb_build_object('n', n, 'x', NULL), 'k'
               FROM generate_series(1, 400) n"#,
        )
        .await?;
    let collection =
        Collection::new("quoted", r#""Größen & Maße"."Table ""1""""#, r#"{{ row["the name"] }}, {{ meta.n }}"#)
            .with("where", json!("year IS NULL OR (year < 2100 AND value < 500)"))
            .with("payload", json!(["the name", "year", "meta"]))
            .with(
                "computed",
                json!({"decade": "{{ year // 10 * 10 }}", "price": "{{ value|float * 2 }}", "label": "in {{ year }}",
                   "year": "{{ year|default(0) }}", "all": "{{ [row[\"no.\"], meta.x, meta] }}"}),
            );
    let mut walvec = followed(&context, &Settings::new([collection])).await?;
    context
        .execute(
            r#"UPDATE "Größen & Maße"."Table ""1""" SET year = 2200 WHERE "no." BETWEEN 20 AND 30;
               UPDATE "Größen & Maße"."Table ""1""" SET year = NULL WHERE "no." BETWEEN 40 AND 50;
               DELETE FROM "Größen & Maße"."Table ""1""" WHERE "no." > 390"#,
        )
        .await?;
    walvec.caught_up(&context).await?;
    let report = assert_equal(&context, &["--sample", "all"]).await?;
    assert!(report["rows"].as_u64() < Some(390) && report["rows"] == report["points"], "{report:#}");
    Ok(())
}

/// Corrupts points of a collection of `items` in every way that `verify` should find.
///
/// | Point | |
/// |---|---|
/// | 10, 11 | deleted |
/// | 9001, 9002 | points without rows |
/// | 20 to 26 | another payload, text, key, table, model, version; an older image of the row |
/// | 30, 31 | another number of chunks |
/// | 40, 41 | each with the other's vector |
fn corrupted(points: &mut [StoredPoint]) -> Result<()> {
    for point in points {
        let own = point.provenance.as_mut().context("a point of walvec's own")?;
        match point.id {
            PointId::Num(20) => drop(point.payload.insert("name".to_owned(), json!("flipped"))),
            PointId::Num(21) => own.input_hash.0 = "0".repeat(32),
            PointId::Num(22) => own.key = vec![json!(23)],
            PointId::Num(23) => "public.others".clone_into(&mut own.table),
            PointId::Num(24) => own.fingerprint.0 = "1".repeat(32),
            PointId::Num(25) => own.position = Position { commit_lsn: Lsn(u64::MAX - 1), ordinal: 1 },
            PointId::Num(26) => drop(point.payload.insert("n".to_owned(), json!(5.5))),
            PointId::Num(30) => own.chunks = 2,
            PointId::Num(31) => own.chunk = 1,
            _ => {}
        }
    }
    Ok(())
}

const TOUCHED: [u64; 11] = [20, 21, 22, 23, 24, 25, 26, 30, 31, 40, 41];

async fn corrupt(collection: &(impl Sink + Search)) -> Result<Vec<Point>> {
    let ids: Vec<PointId> = TOUCHED.into_iter().map(PointId::Num).collect();
    let mut raw = collection.get(ids, true).await?;
    raw.sort_by_key(|point| point.id);
    let mut vectors: Vec<_> = raw.iter().map(|point| point.vector.clone().unwrap()).collect();
    let last = vectors.len() - 1;
    vectors.swap(last - 1, last);
    let mut points: Vec<StoredPoint> =
        raw.into_iter().map(|RawPoint { id, payload, .. }| StoredPoint::from_raw(id, payload)).collect();
    corrupted(&mut points)?;
    let point = |(StoredPoint { id, payload, provenance }, vector): (StoredPoint, Vec<f32>)| Point {
        id,
        vector,
        keywords: None,
        payload,
        provenance: provenance.unwrap(),
    };
    let mut points: Vec<Point> = points.into_iter().zip(vectors).map(point).collect();
    let orphan = Point { id: PointId::Num(9001), ..points[7].clone() };
    points.push(orphan);
    let deleted = [10, 11].map(|id| Write::Delete(PointId::Num(id)));
    collection.write(&points.iter().cloned().map(Write::Upsert).chain(deleted).collect::<Vec<_>>()).await?;
    Ok(points)
}

/// Returns the fields in which the example with this id differs.
fn fields(report: &Value, id: u64) -> Vec<String> {
    let examples = report["collections"][0]["examples"].as_array().cloned().unwrap_or_default();
    let example = examples.into_iter().find(|example| example["id"] == id).unwrap_or_default();
    let differences = example["differences"].as_array().cloned().unwrap_or_default();
    differences.iter().map(|difference| difference["field"].as_str().unwrap().to_owned()).collect()
}

/// Checks that `verify` finds every corruption, repairs it, and then finds nothing more.
async fn found_and_mended(context: &TestContext, walvec: &mut Walvec, extra: u64) -> Result<()> {
    let expected = [2, extra, 7, 2, 2];
    let (report, code) = verify(context, &["--sample", "all"]).await?;
    assert_eq!((mismatches(&report), code), (expected, 1), "{report:#}");
    for (id, field) in [
        (20, "name"),
        (21, "_walvec.h"),
        (22, "_walvec.k"),
        (23, "_walvec.t"),
        (24, "_walvec.m"),
        (25, "_walvec.v"),
        (26, "n"),
        (30, "_walvec.n"),
        (31, "_walvec.c"),
        (40, "vector"),
    ] {
        assert_eq!(fields(&report, id), [field], "{id}: {report:#}");
    }
    let shown = context.walvec(&["verify", "--sample", "all"]).await?;
    let shown = String::from_utf8(shown.stdout)?;
    for words in
        ["missing: row 10, point 10", "extra: point 9001", "\"flipped\" instead of \"item number 20\"", "--repair"]
    {
        assert!(shown.contains(words), "{words} is missing in\n{shown}");
    }

    let (report, code) = verify(context, &["--sample", "all", "--repair"]).await?;
    assert_eq!((mismatches(&report), code), (expected, 0), "{report:#}");
    assert_eq!((&report["mended"], &report["left"]), (&json!(expected.iter().sum::<u64>()), &json!(0)), "{report:#}");
    let report = assert_equal(context, &["--sample", "all"]).await?;
    assert_eq!(report["points"], 2000);
    walvec.caught_up(context).await?;
    Ok(())
}

async fn every_corruption_on_a_server_is_found_and_mended(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    context.execute(TABLE).await?;
    let mut walvec = followed(&context, &items_on(&server)).await?;
    let points = corrupt(&image::on_server("items", MODEL, &server.url())?).await?;
    let foreign = json!({"id": 9002, "vector": points[0].vector, "payload": {"name": "nobody's"}});
    let foreign_uuid = json!({"id": uuid::Uuid::from_u128(7), "vector": points[0].vector, "payload": {}});
    server.put("items", vec![foreign, foreign_uuid]).await?;
    found_and_mended(&context, &mut walvec, 3).await
}

async fn every_corruption_of_the_embedded_engine_is_found_and_mended(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let walvec = followed(&context, &items()).await?;
    walvec.stop().await?;
    let collection = image::open_stored(&context, "items")?;
    corrupt(&collection).await?;
    collection.close().await?;
    let mut walvec = followed(&context, &items()).await?;
    found_and_mended(&context, &mut walvec, 1).await
}

async fn a_collection_that_lost_nearly_every_point_is_filled_again_by_a_repair(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    // More rows than `verify` checks, and sends, in one step.
    context
        .execute(
            "CREATE TABLE items (id text PRIMARY KEY, name text);
             INSERT INTO items SELECT 'key ' || n, 'item ' || n FROM generate_series(1, 10500) n",
        )
        .await?;
    let mut walvec = followed(&context, &items_on(&server)).await?;
    // The last write stays in the collection: without it, walvec would read the table again automatically.
    context.execute("INSERT INTO items VALUES ('last', 'item')").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let walvec = followed(&context, &items_on(&server)).await?;
    let found: Value = walvec.get_json("/api/v1/search", &[("q", "item"), ("filter", "id=last")]).await?;
    let last = serde_json::from_value(found["hits"][0]["id"].clone())?;
    let collection = image::on_server("items", MODEL, &server.url())?;
    let kept = collection.get(vec![last], true).await?.pop().context("the last point")?;
    let StoredPoint { id, payload, provenance } = StoredPoint::from_raw(kept.id, kept.payload);
    let (vector, provenance) = (kept.vector.context("a vector")?, provenance.context("walvec's own")?);
    collection.delete_table(&TableName::new("public", "items")).await?;
    collection.write(&[Write::Upsert(Point { id, vector, keywords: None, payload, provenance })]).await?;
    let (report, code) = verify(&context, &[]).await?;
    assert_eq!((mismatches(&report), code), ([10_500, 0, 0, 0, 0], 1), "{report:#}");
    let (report, code) = verify(&context, &["--repair"]).await?;
    assert_eq!((&report["mended"], &report["left"], code), (&json!(10_500), &json!(0), 0), "{report:#}");
    assert_equal(&context, &[]).await?;
    Ok(())
}

async fn a_row_that_a_repair_can_only_park_is_not_called_mended(context: TestContext) -> Result<()> {
    let (server, provider) = (TestServer::start()?, TestProvider::start().await?);
    let embedding = json!({ "model": "openai/m", "url": provider.openai_url(), "api_key": "k" });
    context.execute("CREATE TABLE items (id int PRIMARY KEY, name text); INSERT INTO items VALUES (1, 'harmless'), (2, 'poison'), (3, 'last')").await?;
    let mut walvec = followed(&context, &items_on(&server).with("embedding", embedding)).await?;
    intruder(&server)?.write(&[1, 2].map(|id| Write::Delete(PointId::Num(id)))).await?;
    provider.refuse("poison");
    let (report, code) = verify(&context, &["--repair"]).await?;
    assert_eq!(
        (&report["mended"], &report["parked_by_repair"], &report["left"]),
        (&json!(1), &json!(1), &json!(0)),
        "{report:#}"
    );
    assert_eq!(code, 1);
    assert_eq!(walvec.caught_up(&context).await?.collections[0].dead_letters, 1);
    walvec.stop().await
}

async fn parked_rows_are_reported_and_are_no_mismatch(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TABLE items (id int PRIMARY KEY, name text, parts int);
             INSERT INTO items SELECT n, 'item ' || n, n % 100 FROM generate_series(1, 300) n",
        )
        .await?;
    let settings = Settings::new([Collection::new("items", "public.items", "{{ name }} {{ 100 // parts }}")]);
    let mut walvec = followed(&context, &settings).await?;
    walvec.wait_for("rows are parked", |status| status.collections[0].dead_letters == 3).await?;
    context.execute("UPDATE items SET parts = 0 WHERE id = 7").await?;
    walvec.caught_up(&context).await?;
    let report = assert_equal(&context, &[]).await?;
    assert_eq!((&report["rows"], &report["dead_letters"]), (&json!(300), &json!(4)), "{report:#}");
    let parked = &report["collections"][0]["dead_letter_examples"][0];
    assert_eq!((&parked["key"], &parked["code"]), (&json!([7]), &json!("E_RENDER")), "{report:#}");
    Ok(())
}

async fn without_a_running_walvec_nothing_is_compared(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    context.configure(&items())?;
    let output = context.walvec(&["verify"]).await?;
    let errors = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(errors.contains("walvec run") && errors.trim_end().ends_with("E_NOT_RUNNING"), "{errors}");
    let output = context.walvec(&["verify", "--collection", "books"]).await?;
    assert_eq!(output.status.code(), Some(2));
    Ok(())
}

async fn another_text_template_is_told_instead_of_a_stale_point_for_every_row(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let _walvec = followed(&context, &items()).await?;
    context.configure(&Settings::new([Collection::new("items", "public.items", "{{ name }}, {{ n }}")]))?;
    let output = context.walvec(&["verify"]).await?;
    let errors = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(errors.trim_end().ends_with("E_FINGERPRINT"), "{errors}");
    Ok(())
}
