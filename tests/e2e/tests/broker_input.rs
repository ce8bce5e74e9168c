//! Bad input ends well: brokers that refuse, topics that are missing, records that cannot be read or written.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::{Value, json};
use walvec_e2e::others::can_test_kafka_tls;
use walvec_e2e::records;
use walvec_e2e::{Collection, Expected, Kafka, Settings, Test, TestContext, image, test, wait};
use walvec_pipeline::observe::status::Status;
use walvec_test_kafka::{Operation, Options, Resource, Sasl, Security, TestBroker, User, can_test};
use walvec_test_qdrant::TestServer;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_broker_that_nobody_reaches_is_named_within_seconds).once(),
        test!(a_login_that_is_refused_is_told_from_an_absent_broker).once(),
        test!(an_authority_that_is_not_trusted_is_told_from_an_absent_broker).once(),
        test!(missing_rights_are_named_with_their_topic_or_group).once(),
        test!(a_topic_that_does_not_exist_is_named).once(),
        test!(records_that_cannot_be_read_are_parked_by_their_place_and_the_others_arrive).once(),
        test!(a_worker_takes_back_no_row_that_capture_has_parked_once_more).once(),
        test!(a_row_that_no_record_holds_is_parked_until_it_is_smaller).once(),
    ]
}

/// The longest time until a stage refuses: shorter than a person would wait.
const PATIENCE: Duration = Duration::from_secs(15);

fn items() -> Settings {
    Settings::new([Collection::new("items", "public.items", "{{ name }}")])
}

fn items_on(server: &TestServer) -> Settings {
    items().with("sink", json!({ "qdrant": { "url": server.url() } }))
}

fn image_of_items() -> Expected {
    Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned())
}

const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, name text, body text);
    ALTER TABLE items ALTER COLUMN body SET STORAGE EXTERNAL;
    INSERT INTO items SELECT g, 'name ' || g FROM generate_series(1, 20) g";

fn kafka(settings: Settings, bootstrap: &str, section: Value) -> Settings {
    let settings = settings.with("broker", json!({ "kafka": { "bootstrap": bootstrap } }));
    settings.with("broker", json!({ "kafka": section }))
}

/// Starts a stage that cannot work, checks that it ends soon, and returns everything that it printed.
async fn refused(context: &TestContext, settings: &Settings, stage: &str) -> Result<String> {
    context.configure(settings)?;
    let begin = Instant::now();
    let output = context.walvec(&["run", "--stage", stage]).await?;
    let took = begin.elapsed();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{stage}: {words}");
    assert!(took < PATIENCE, "{stage}: it took {took:?} to say {words}");
    Ok(words)
}

/// Checks that the last line has the code, and that the text before it contains the cause and the remedy.
fn ends_with(words: &str, code: &str, parts: &[&str]) {
    assert_eq!(words.trim_end().lines().last(), Some(code), "{words}");
    assert!(parts.iter().all(|part| words.contains(part)), "{parts:?} in: {words}");
    assert!(words.contains("help: "), "{words}");
}

async fn a_broker_that_nobody_reaches_is_named_within_seconds(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    // No program listens on the first address; the second accepts connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    for bootstrap in ["127.0.0.1:1".to_owned(), silent.local_addr()?.to_string()] {
        let settings = kafka(items(), &bootstrap, json!({}));
        for stage in ["capture", "index"] {
            let words = refused(&context, &settings, stage).await?;
            ends_with(&words, "E_BROKER", &[&bootstrap, "broker.kafka.bootstrap"]);
        }
    }
    Ok(())
}

/// Starts a broker with TLS and logins, and returns it with the settings of the user who may log in.
async fn guarded(access_rights: bool) -> Result<(TestBroker, Value)> {
    let security = Security { tls: true, sasl: Some(Sasl::ScramSha256), ..Security::default() };
    let users = vec![User::new("walvec", "walvec-secret")];
    let broker = TestBroker::start(Options { security, users, access_rights, ..Kafka::options() }).await?;
    let section = json!({
        "tls": { "ca": broker.ca_path() },
        "sasl": { "mechanism": "scram-sha-256", "username": "walvec", "password": "walvec-secret" },
        "session_timeout_ms": 6000,
    });
    Ok((broker, section))
}

async fn a_login_that_is_refused_is_told_from_an_absent_broker(context: TestContext) -> Result<()> {
    if !can_test("a broker that asks for a login") || !can_test_kafka_tls() {
        return Ok(());
    }
    let ((broker, section), server) = (guarded(false).await?, TestServer::start()?);
    context.execute(TABLE).await?;
    let settings = kafka(items_on(&server), &broker.bootstrap(), section);
    for wrong in [json!({ "password": "guessed" }), json!({ "mechanism": "scram-sha-512" })] {
        let wrong = settings.clone().with("broker", json!({ "kafka": { "sasl": wrong } }));
        for stage in ["capture", "index"] {
            let words = refused(&context, &wrong, stage).await?;
            ends_with(&words, "E_BROKER_LOGIN", &[&broker.bootstrap(), "broker.kafka.sasl"]);
            assert!(!words.contains("guessed"), "{words}");
        }
    }
    let mut capture = context.start_stage(&settings, "capture", "a").await?;
    capture.caught_up(&context).await?;
    let mut index = context.start_stage(&settings, "index", "a").await?;
    arrive(&context, &server, &mut index, 20).await
}

/// Waits until a worker has made the image.
async fn arrive(context: &TestContext, server: &TestServer, index: &mut walvec_e2e::Walvec, rows: usize) -> Result<()> {
    let mut last = None;
    let waited = wait::until("the collection is the table's image", async || {
        index.is_alive()?;
        match image::compare_on_server(context, &image_of_items(), &server.url()).await {
            Ok(found) => Ok(Some(found)),
            Err(difference) => {
                last = Some(format!("{difference:#}"));
                Ok(None)
            }
        }
    });
    let found = waited.await;
    assert_eq!(found.with_context(|| last.unwrap_or_default())?, rows);
    Ok(())
}

async fn an_authority_that_is_not_trusted_is_told_from_an_absent_broker(context: TestContext) -> Result<()> {
    if !can_test("a broker with TLS") || !can_test_kafka_tls() {
        return Ok(());
    }
    let (broker, section) = guarded(false).await?;
    let other =
        TestBroker::start(Options { security: Security { tls: true, ..Security::default() }, ..Options::default() });
    let other = other.await?;
    context.execute(TABLE).await?;
    let wrong = json!({ "tls": { "ca": other.ca_path() } });
    let settings = kafka(items(), &broker.bootstrap(), section).with("broker", json!({ "kafka": wrong }));
    for stage in ["capture", "index"] {
        let words = refused(&context, &settings, stage).await?;
        ends_with(&words, "E_BROKER_LOGIN", &[&broker.bootstrap(), "broker.kafka.tls", "certificate"]);
    }
    Ok(())
}

async fn missing_rights_are_named_with_their_topic_or_group(context: TestContext) -> Result<()> {
    use Operation::{Create, Describe, Read, Write};
    if !can_test("a broker with rights") || !can_test_kafka_tls() {
        return Ok(());
    }
    let ((broker, section), server) = (guarded(true).await?, TestServer::start()?);
    context.execute(TABLE).await?;
    let settings = kafka(items_on(&server), &broker.bootstrap(), section);
    let topic = |name: &str| Resource::Topic(name.to_owned());
    let (letters, changes) = (topic("walvec.dead-letters"), topic("walvec.public.items"));

    let words = refused(&context, &settings, "capture").await?;
    ends_with(&words, "E_BROKER_RIGHTS", &["walvec.dead-letters"]);
    broker.allow("walvec", &letters, &[Create, Describe, Read, Write]).await?;
    let words = refused(&context, &settings, "capture").await?;
    ends_with(&words, "E_BROKER_RIGHTS", &["walvec.public.items"]);
    broker.allow("walvec", &changes, &[Create, Describe]).await?;
    let words = refused(&context, &settings, "capture").await?;
    ends_with(&words, "E_BROKER_RIGHTS", &["walvec.public.items"]);
    broker.allow("walvec", &changes, &[Write]).await?;
    let mut capture = context.start_stage(&settings, "capture", "a").await?;
    capture.caught_up(&context).await?;

    // The user may see the topic but not read it, and may not join any group.
    let words = refused(&context, &settings, "index").await?;
    ends_with(&words, "E_BROKER_RIGHTS", &["walvec-index"]);
    broker.allow("walvec", &Resource::Group("walvec-index".to_owned()), &[Read]).await?;
    let words = refused(&context, &settings, "index").await?;
    ends_with(&words, "E_BROKER_RIGHTS", &["walvec.public.items"]);
    broker.allow("walvec", &changes, &[Read]).await?;
    let mut index = context.start_stage(&settings, "index", "a").await?;
    arrive(&context, &server, &mut index, 20).await
}

async fn a_topic_that_does_not_exist_is_named(context: TestContext) -> Result<()> {
    if !can_test("a topic that does not exist") {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    context.execute(TABLE).await?;
    let settings = kafka.carries(items_on(&server));
    let words = refused(&context, &settings, "index").await?;
    ends_with(&words, "E_TOPIC", &[&kafka.topic("items")]);
    let words = refused(&context, &settings, "sink").await?;
    ends_with(&words, "E_TOPIC", &[&format!("{}.vectors", context.slot())]);
    Ok(())
}

async fn records_that_cannot_be_read_are_parked_by_their_place_and_the_others_arrive(
    context: TestContext,
) -> Result<()> {
    if !can_test("records that cannot be read") {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    context.execute(TABLE).await?;
    let settings = kafka.carries(items_on(&server));
    let mut capture = context.start_stage(&settings, "capture", "a").await?;
    capture.caught_up(&context).await?;
    let mut index = context.start_stage(&settings, "index", "a").await?;
    arrive(&context, &server, &mut index, 20).await?;

    let (topic, broker) = (kafka.topic("items"), kafka.broker());
    let good = records::all(broker, &topic).await?.into_iter().find_map(|record| record.value).context("no record")?;
    let unknown = String::from_utf8(good.clone())?.replace("\"op\":\"r\"", "\"op\":\"x\"");
    let newer = String::from_utf8(good.clone())?.replace("\"walvec\":{\"v\":1", "\"walvec\":{\"v\":99");
    let cases: [(&[u8], &[u8], &str); 7] = [
        (br#"{"id":1}"#, b"no JSON", "E_RECORD"),
        (br#"{"id":2}"#, unknown.as_bytes(), "E_OP"),
        (br#"{"id":3}"#, &good[..good.len() / 2], "E_RECORD"),
        (br#"{"id":4}"#, b"{}", "E_RECORD"),
        (br#"{"id":5}"#, b"\x00\x00\x00\x00\x01\x02", "E_RECORD"),
        (br#"{"id":6}"#, newer.as_bytes(), "E_RECORD"),
        (b"no JSON", &good, "E_RECORD"),
    ];
    let mut places = Vec::new();
    for (key, value, code) in cases {
        let (partition, offset) = records::write(broker, &topic, Some(key), Some(value)).await?;
        places.push((partition, offset, code));
    }
    context
        .execute("INSERT INTO items VALUES (100, 'after'); UPDATE items SET name = 'changed' WHERE id <= 10")
        .await?;
    capture.caught_up(&context).await?;
    arrive(&context, &server, &mut index, 21).await?;

    let status = index.wait_for("all are parked", has_parked(7)).await?;
    let shown = &status.collections[0].latest_dead_letters;
    assert!(shown.iter().all(|letter| letter.place.as_ref().is_some_and(|place| place.topic == topic)), "{shown:?}");
    let page: Value = serde_json::from_str(&index.get("/api/v1/dead-letters", &[]).await?.text().await?)?;
    let letters = page["dead_letters"].as_array().context("no letters")?;
    let parked = records::all(broker, &format!("{}.dead-letters", context.slot())).await?;
    assert_eq!((letters.len(), parked.len()), (7, 7), "{page}");
    for (partition, offset, code) in places {
        let place = json!({ "topic": topic, "partition": partition, "offset": offset });
        let listed = letters.iter().find(|letter| letter["place"] == place);
        assert_eq!(listed.map(|letter| &letter["code"]), Some(&json!(code)), "{place} in {page}");
        let written = parked.iter().map(records::Found::json).find(|letter| letter["source"] == place);
        let written = written.with_context(|| format!("{place} is not in the topic of dead letters"))?;
        assert_eq!((&written["code"], &written["collection"]), (&json!(code), &json!("items")));
        assert!(written["reason"].as_str().is_some_and(|reason| reason.len() > 10), "{written}");
    }
    // The dead letters are stored, and the records are not read again.
    index.stop().await?;
    let mut index = context.start_stage(&settings, "index", "a").await?;
    index.wait_for("what was parked is known", has_parked(7)).await?;
    context.execute("DELETE FROM items WHERE id > 10").await?;
    capture.caught_up(&context).await?;
    arrive(&context, &server, &mut index, 10).await
}

async fn a_row_that_no_record_holds_is_parked_until_it_is_smaller(context: TestContext) -> Result<()> {
    if !can_test("a record over the size limit") {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    context.execute(TABLE).await?;
    records::make_topic(kafka.broker(), &kafka.topic("items"), 3, &[("max.message.bytes", "20000")]).await?;
    let settings = kafka.carries(items_on(&server));
    // One row is too large before the snapshot, another after it.
    let random = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 1000) n)";
    context.execute(&format!("INSERT INTO items VALUES (50, 'large', {random})")).await?;
    let mut capture = context.start_stage(&settings, "capture", "a").await?;
    capture.caught_up(&context).await?;
    let mut index = context.start_stage(&settings, "index", "a").await?;
    context.execute(&format!("INSERT INTO items VALUES (51, 'large too', {random}), (52, 'small', 'b')")).await?;
    context.execute(&format!("UPDATE items SET body = {random} WHERE id = 3")).await?;
    capture.caught_up(&context).await?;
    kafka.read("index", &mut [&mut index]).await?;
    let missing = image::compare_on_server(&context, &image_of_items(), &server.url()).await.expect_err("they fit");
    let missing = missing.to_string();
    assert!(missing.contains("2 missing") && missing.contains("1 stale"), "{missing}");
    let letters = dead_letters(&kafka, &context).await?;
    let keys: Vec<&Value> = letters.iter().map(|letter| &letter["key"]).collect();
    assert_eq!(keys, [&json!([3]), &json!([50]), &json!([51])], "{letters:?}");
    for letter in &letters {
        assert_eq!(letter["code"], "E_RECORD_SIZE");
        let reason = letter["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(&kafka.topic("items")) && reason.contains("max.message.bytes"), "{reason}");
    }

    let status = capture.wait_for("capture shows what it has parked", has_parked(3)).await?;
    assert_eq!(status.collections[0].latest_dead_letters.len(), 3);
    // The record of this update is small, because the large value is not sent; a worker that applied it would keep the
    // former body.
    context.execute("UPDATE items SET name = 'renamed' WHERE id = 3; UPDATE items SET id = 510 WHERE id = 51").await?;
    capture.caught_up(&context).await?;
    let letters = dead_letters(&kafka, &context).await?;
    let keys: Vec<&Value> = letters.iter().map(|letter| &letter["key"]).collect();
    assert_eq!(keys, [&json!([3]), &json!([50]), &json!([510])], "{letters:?}");
    context.execute("UPDATE items SET body = 'smaller' WHERE id IN (3, 50); DELETE FROM items WHERE id = 510").await?;
    capture.caught_up(&context).await?;
    arrive(&context, &server, &mut index, 22).await?;
    wait::until("nothing is parked any more", async || {
        Ok(dead_letters(&kafka, &context).await?.is_empty().then_some(()))
    })
    .await?;
    index.wait_for("the status says so", has_parked(0)).await?;
    capture.wait_for("capture's status says so", has_parked(0)).await?;
    Ok(())
}

/// When the worker reads the second version, it knows that the first was too large, but not that the third is.
async fn a_worker_takes_back_no_row_that_capture_has_parked_once_more(context: TestContext) -> Result<()> {
    if !can_test("a record over the size limit") {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    context.execute(TABLE).await?;
    records::make_topic(kafka.broker(), &kafka.topic("items"), 3, &[("max.message.bytes", "20000")]).await?;
    let settings = kafka.carries(items_on(&server));
    let random = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 1000) n)";
    let mut capture = context.start_stage(&settings, "capture", "a").await?;
    context.execute(&format!("UPDATE items SET body = {random} WHERE id = 3")).await?;
    capture.caught_up(&context).await?;
    let mut index = context.start_stage(&settings, "index", "a").await?;
    index.wait_for("it knows of the first", has_parked(1)).await?;
    kafka.read("index", &mut [&mut index]).await?;
    index.signal(Signal::STOP)?;
    context.execute("UPDATE items SET body = 'second' WHERE id = 3").await?;
    context.execute(&format!("UPDATE items SET name = 'third', body = {random} WHERE id = 3")).await?;
    capture.caught_up(&context).await?;
    index.signal(Signal::CONT)?;
    kafka.read("index", &mut [&mut index]).await?;
    index.wait_for("the second came through", has_parked(0)).await?;
    let letters = dead_letters(&kafka, &context).await?;
    let keys: Vec<&Value> = letters.iter().map(|letter| &letter["key"]).collect();
    assert_eq!(keys, [&json!([3])], "the third is missing: {letters:?}");
    capture.wait_for("capture says so", has_parked(1)).await?;
    index.stop().await?;
    capture.stop().await
}

fn has_parked(letters: u64) -> impl Fn(&Status) -> bool {
    move |status| status.collections.first().is_some_and(|collection| collection.dead_letters == letters)
}

/// Returns the dead letters that have not been taken back, by key.
async fn dead_letters(kafka: &Kafka, context: &TestContext) -> Result<Vec<Value>> {
    let mut letters: Vec<(Option<Vec<u8>>, Value)> = Vec::new();
    for record in records::all(kafka.broker(), &format!("{}.dead-letters", context.slot())).await? {
        letters.retain(|(key, _)| *key != record.key);
        if record.value.is_some() {
            letters.push((record.key.clone(), record.json()));
        }
    }
    letters.sort_by_key(|(_, letter)| letter["key"].to_string());
    Ok(letters.into_iter().map(|(_, letter)| letter).collect())
}
