//! Long texts in chunks: all of a row's chunks follow it, also through crashes and restarts.

use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::Duration;
use walvec_e2e::settings::MODEL;
use walvec_e2e::{Collection, Expected, Kafka, Settings, Test, TestContext, Walvec, image, test, wait};
use walvec_model::{Payload, PointId};
use walvec_sink::{Search as _, Sink as _, Write};
use walvec_test_kafka::can_test;
use walvec_test_providers::TestProvider;
use walvec_test_qdrant::{Call, Code, Fault, RateLimits, TestServer};

use crate::broker::indexed_though_one_is_killed;
use crate::faults::new_seed;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(every_chunk_follows_its_row),
        test!(every_chunk_follows_its_row_on_a_server),
        test!(rows_of_more_chunks_than_a_server_takes_at_once_arrive_whole),
        test!(rows_that_shrink_and_grow_keep_no_chunk_too_many_whenever_walvec_is_killed),
        test!(rows_that_shrink_and_grow_keep_no_chunk_too_many_on_a_server).once(),
        test!(a_crash_between_any_two_writes_of_a_row_leaves_no_chunk_behind).once(),
        test!(unchanged_chunks_of_a_changed_row_are_not_embedded_again),
        test!(a_row_is_found_once_however_many_of_its_chunks_are_near),
        test!(a_row_that_is_parked_between_others_leaves_every_chunk_its_own_vector).once(),
        test!(a_parked_row_that_is_tried_again_keeps_no_chunk_of_before).once(),
        test!(verify_finds_lost_and_left_over_chunks_and_has_them_mended),
        test!(workers_behind_a_broker_share_the_rows_and_keep_the_chunks_together).once(),
        test!(chunks_of_another_length_take_a_reindex),
        test!(a_text_of_ten_megabytes_without_a_sentence_is_cut_while_walvec_answers_and_stops).once(),
    ]
}

/// The number of words in a chunk.
const WORDS: usize = 8;

/// A table, and a function `words` that returns the first words of an endless text that differs for each row.
const SCHEMA: &str = "CREATE TABLE items (id int PRIMARY KEY, body text, note text);
    CREATE FUNCTION words(of int, number int) RETURNS text LANGUAGE sql IMMUTABLE AS
        $$ SELECT coalesce(string_agg('w' || of || 'x' || i, ' ' ORDER BY i), '') FROM generate_series(1, number) i $$";

fn items() -> Settings {
    let collection = Collection::new("items", "public.items", "{{ body }}").with("chunk", json!({ "tokens": WORDS }));
    Settings::new([collection])
}

fn items_on(server: &TestServer) -> Settings {
    items().with("sink", json!({ "qdrant": { "url": server.url() } }))
}

fn image_of_items() -> Expected {
    let body = |row: &Payload| row["body"].as_str().unwrap_or_default().to_owned();
    Expected { words: Some(WORDS), ..Expected::of("items", body) }
}

async fn followed(context: &TestContext, settings: &Settings) -> Result<Walvec> {
    let mut walvec = context.start(settings).await?;
    walvec.caught_up(context).await?;
    Ok(walvec)
}

async fn rows_of_more_chunks_than_a_server_takes_at_once_arrive_whole(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    create(&context, 10).await?;
    let mut walvec = followed(&context, &items_on(&server)).await?;
    let limits = RateLimits { writes: Some(80), reads: Some(150), per: Duration::from_secs(1) };
    server.limit_rates("items", limits)?;
    // About 100 chunks each, of which 40 are removed again.
    context.execute("UPDATE items SET body = words(id, 800) WHERE id <= 2").await?;
    walvec.caught_up(&context).await?;
    context.execute("UPDATE items SET body = words(id, 480) WHERE id <= 2").await?;
    walvec.caught_up(&context).await?;
    server.limit_rates("items", RateLimits::default())?;
    walvec.stop().await?;
    assert!(image::compare_on_server(&context, &image_of_items(), &server.url()).await? > 100);
    Ok(())
}

/// Writes texts of 0 to 70 words, and makes one change of every sort.
async fn change_everything(context: &TestContext) -> Result<()> {
    context
        .execute(
            "UPDATE items SET body = words(id, 3) WHERE id % 7 = 0;
             UPDATE items SET body = words(id, 100) WHERE id % 7 = 1;
             UPDATE items SET body = 'another beginning ' || body WHERE id % 7 = 2 AND body <> '';
             UPDATE items SET note = 'changed' WHERE id % 7 = 3;
             UPDATE items SET id = id + 1000 WHERE id % 7 = 4;
             DELETE FROM items WHERE id % 7 = 5",
        )
        .await
}

async fn create(context: &TestContext, rows: u32) -> Result<()> {
    context.execute(SCHEMA).await?;
    context
        .execute(&format!("INSERT INTO items SELECT g, words(g, g % 71), 'note' FROM generate_series(1, {rows}) g"))
        .await
}

async fn every_chunk_follows_its_row(context: TestContext) -> Result<()> {
    create(&context, 300).await?;
    let mut walvec = followed(&context, &items()).await?;
    change_everything(&context).await?;
    walvec.caught_up(&context).await?;
    let output = context.walvec(&["verify", "--json"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    walvec.stop().await?;
    let points = image::compare(&context, &image_of_items()).await?;
    assert!(points > 1000, "{points} points");
    // A new snapshot finds every chunk where it was.
    context.execute("SELECT pg_drop_replication_slot(current_database())").await?;
    context.execute("DELETE FROM items WHERE id % 2 = 0").await?;
    std::fs::remove_file(context.data_directory().join("state.redb"))?;
    let mut walvec = context.start(&items()).await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.collections[0].embeddings_computed, 0, "unchanged chunks were embedded again");
    walvec.stop().await?;
    image::compare(&context, &image_of_items()).await?;
    Ok(())
}

async fn every_chunk_follows_its_row_on_a_server(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    create(&context, 300).await?;
    let mut walvec = followed(&context, &items_on(&server)).await?;
    change_everything(&context).await?;
    walvec.caught_up(&context).await?;
    image::compare_on_server(&context, &image_of_items(), &server.url()).await?;
    context.execute("BEGIN; TRUNCATE items; INSERT INTO items VALUES (7, words(7, 20), 'after'); COMMIT").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare_on_server(&context, &image_of_items(), &server.url()).await?, 3);
    Ok(())
}

async fn a_text_of_ten_megabytes_without_a_sentence_is_cut_while_walvec_answers_and_stops(
    context: TestContext,
) -> Result<()> {
    let chunk = json!({ "tokens": 1000 });
    let collection = Collection::new("items", "public.items", "{{ body }}").with("chunk", chunk);
    let settings = Settings::new([collection.with("payload", json!(["id", "note"]))]);
    create(&context, 1).await?;
    let mut walvec = followed(&context, &settings).await?;
    let insert = |id: i32| format!("INSERT INTO items VALUES ({id}, repeat('lorem ipsum ', 800000), 'long')");
    context.execute(&insert(1000)).await?;
    let alive = async {
        loop {
            let answer = tokio::time::timeout(Duration::from_secs(5), walvec.get("/livez", &[])).await;
            assert!(answer.context("/livez was silent for five seconds")??.status().is_success());
            if walvec.status().await?.collections[0].embeddings_computed >= 1600 {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(wait::LIMIT, alive).await.context("the text was not cut")??;
    walvec.caught_up(&context).await?;
    // walvec is stopped in the middle of the next row, and begins that row again.
    context.execute(&insert(2000)).await?;
    walvec.stop().await?;
    let walvec = followed(&context, &settings).await?;
    let output = context.walvec(&["verify", "--json"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    walvec.stop().await
}

/// Changes rows of 1 to 9 chunks, deletes them and inserts them again, while walvec is killed at random moments.
async fn kill_while_rows_shrink_and_grow(context: &TestContext, settings: &Settings, seed: u64) -> Result<Walvec> {
    let mut random = StdRng::seed_from_u64(seed);
    create(context, 70).await?;
    // A batch is a few rows and takes a while, so that kills meet its middle.
    let settings = settings.clone().with("embedding", json!({ "model": format!("{MODEL}/wait/20") }));
    let settings = settings.with("pipeline", json!({ "batch_rows": 8 }));
    let mut walvec = followed(context, &settings).await?;
    for _ in 0..8 {
        let (some, count) = (random.random_range(2..5), random.random_range(0..73));
        context
            .execute(&format!(
                "UPDATE items SET body = words(id, ({count} + id * 17) % 73) WHERE id % {some} = 0;
                 DELETE FROM items WHERE id % 11 = {some};
                 UPDATE items SET body = words(id + 500, 9) WHERE id % 13 = {some};
                 INSERT INTO items SELECT g, words(g, {count}), 'again' FROM generate_series(1, 70) g ON CONFLICT DO NOTHING"
            ))
            .await?;
        // The moment is random on purpose: the kill has to meet every step.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..250))).await;
        walvec.signal(Signal::KILL)?;
        walvec.end().await?;
        walvec = context.start(&settings).await?;
    }
    walvec.caught_up(context).await?;
    Ok(walvec)
}

async fn rows_that_shrink_and_grow_keep_no_chunk_too_many_whenever_walvec_is_killed(
    context: TestContext,
) -> Result<()> {
    let seed = new_seed();
    kill_while_rows_shrink_and_grow(&context, &items(), seed).await?.stop().await?;
    let compared = image::compare(&context, &image_of_items()).await;
    compared.map_err(|error| error.context(format!("seed {seed}")))?;
    Ok(())
}

async fn rows_that_shrink_and_grow_keep_no_chunk_too_many_on_a_server(context: TestContext) -> Result<()> {
    let (seed, server) = (new_seed(), TestServer::start()?);
    kill_while_rows_shrink_and_grow(&context, &items_on(&server), seed).await?.stop().await?;
    let compared = image::compare_on_server(&context, &image_of_items(), &server.url()).await;
    compared.map_err(|error| error.context(format!("seed {seed}")))?;
    Ok(())
}

async fn a_crash_between_any_two_writes_of_a_row_leaves_no_chunk_behind(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    context.execute(SCHEMA).await?;
    let mut walvec = followed(&context, &items_on(&server)).await?;
    let refused = || Fault::Status(Code::Unavailable, "not now".to_owned());
    for (before, change) in [(0, 40), (16, 40), (40, 16)] {
        // The last statement changes the row again before walvec has seen the result of the first change.
        for last in ["DELETE FROM items", "UPDATE items SET body = words(7, 20)"] {
            for allowed in 0..3 {
                context.execute("DELETE FROM items").await?;
                if before > 0 {
                    context.execute(&format!("INSERT INTO items VALUES (1, words(1, {before}), '')")).await?;
                }
                walvec.caught_up(&context).await?;
                (0..allowed).for_each(|_| server.faults().next_on(Call::UpdateBatch, Fault::Delay(Duration::ZERO)));
                (0..1000).for_each(|_| server.faults().next_on(Call::UpdateBatch, refused()));
                context
                    .execute(&format!(
                        "INSERT INTO items VALUES (1, words(2, {change}), '') ON CONFLICT (id) DO UPDATE SET body = excluded.body"
                    ))
                    .await?;
                let ended = walvec.status().await?.applied_lsn;
                wait::until("a write is refused, or there are no more", async || {
                    let is_over = walvec.status().await?.applied_lsn > ended;
                    Ok((server.faults().pending() < 1000 || is_over).then_some(()))
                })
                .await?;
                walvec.signal(Signal::KILL)?;
                walvec.end().await?;
                server.faults().clear();
                context.execute(last).await?;
                walvec = context.start(&items_on(&server)).await?;
                walvec.caught_up(&context).await?;
                let compared = image::compare_on_server(&context, &image_of_items(), &server.url()).await;
                compared.with_context(|| format!("{before} to {change} words, {allowed} writes, then {last}"))?;
            }
        }
    }
    walvec.stop().await
}

async fn unchanged_chunks_of_a_changed_row_are_not_embedded_again(context: TestContext) -> Result<()> {
    context.execute(SCHEMA).await?;
    context.execute("INSERT INTO items VALUES (1, words(1, 80), 'ten chunks')").await?;
    let mut walvec = context.start(&items()).await?;
    let mut computed =
        async || Ok::<_, anyhow::Error>(walvec.caught_up(&context).await?.collections[0].embeddings_computed);
    assert_eq!(computed().await?, 10);
    for (change, more, why) in [
        ("note = 'only the payload'", 0, "the text is the same"),
        ("body = words(1, 88)", 1, "a chunk was added"),
        ("body = words(2, 8) || ' ' || body", 1, "the others have moved by one"),
        ("body = words(1, 40)", 0, "the text has become shorter"),
        ("body = replace(body, 'w1x20', 'changed')", 1, "a word in the middle has changed"),
    ] {
        let before = computed().await?;
        context.execute(&format!("UPDATE items SET {change}")).await?;
        assert_eq!(computed().await? - before, more, "{change}: {why}");
    }
    walvec.stop().await?;
    image::compare(&context, &image_of_items()).await?;
    Ok(())
}

async fn a_row_is_found_once_however_many_of_its_chunks_are_near(context: TestContext) -> Result<()> {
    context.execute(SCHEMA).await?;
    // Every chunk of the first row is nearer than any of the second.
    context
        .execute("INSERT INTO items VALUES (1, repeat('whale whale whale whale whale whale whale whale ', 30), ''), (2, 'a whale at sea', '')")
        .await?;
    let walvec = followed(&context, &items()).await?;
    let rows = async |arguments: &[&str]| {
        let output = context.walvec(&[&["search", "whale", "--limit", "2", "--json"], arguments].concat()).await?;
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        let hits = answer["hits"].as_array().cloned().unwrap_or_default();
        Ok::<_, anyhow::Error>(hits.iter().map(|hit| hit["payload"]["id"].as_i64().unwrap()).collect::<Vec<_>>())
    };
    assert_eq!(rows(&[]).await?, [1, 1]);
    assert_eq!(rows(&["--group-by-row"]).await?, [1, 2]);
    walvec.stop().await?;
    assert_eq!(rows(&["--group-by-row"]).await?, [1, 2], "while nothing runs");
    Ok(())
}

async fn a_row_that_is_parked_between_others_leaves_every_chunk_its_own_vector(context: TestContext) -> Result<()> {
    let provider = TestProvider::start().await?;
    provider.refuse("poison");
    let sentences =
        "(SELECT string_agg('Row ' || g || ' says ' || s || '.', ' ' ORDER BY s) FROM generate_series(1, 5) s)";
    context
        .execute(&format!(
            "CREATE TABLE items (id int PRIMARY KEY, body text);
             INSERT INTO items SELECT g, {sentences} FROM generate_series(1, 20) g;
             UPDATE items SET body = replace(body, '7 says 2', 'poison') WHERE id = 7"
        ))
        .await?;
    let collection = Collection::new("items", "public.items", "{{ body }}").with("chunk", json!({ "sentences": 1 }));
    // The chunks of a row come in several calls, so that it is parked between them.
    let embedding = json!({ "model": "openai/m", "url": provider.openai_url(), "api_key": "key", "batch_items": 1, "concurrency": 1 });
    let walvec = followed(&context, &Settings::new([collection]).with("embedding", embedding)).await?;
    assert_eq!(walvec.status().await?.collections[0].dead_letters, 1);
    let output = context.walvec(&["verify", "--json", "--sample", "all"]).await?;
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{report}{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&report)?;
    assert_eq!((&report["points"], &report["sampled"]), (&json!(19 * 5), &json!(19 * 5)), "{report:#}");
    walvec.stop().await
}

async fn a_parked_row_that_is_tried_again_keeps_no_chunk_of_before(context: TestContext) -> Result<()> {
    let provider = TestProvider::start().await?;
    context
        .execute(
            "CREATE TABLE items (id int PRIMARY KEY, body text);
             INSERT INTO items SELECT g, 'One. Two. Three. Four. Row ' || g || '.' FROM generate_series(1, 3) g",
        )
        .await?;
    let collection = Collection::new("items", "public.items", "{{ body }}").with("chunk", json!({ "sentences": 1 }));
    let embedding = json!({ "model": "openai/m", "url": provider.openai_url(), "api_key": "key" });
    let mut walvec = followed(&context, &Settings::new([collection]).with("embedding", embedding)).await?;
    provider.refuse("poison");
    context.execute("UPDATE items SET body = 'Shorter, and poison.' WHERE id = 2").await?;
    assert_eq!(walvec.caught_up(&context).await?.collections[0].dead_letters, 1);
    provider.refuse("nothing like that");
    let output = context.walvec(&["dead-letters", "retry"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    walvec.wait_for("the row is stored", |status| status.collections[0].dead_letters == 0).await?;
    let output = context.walvec(&["verify", "--json"]).await?;
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{report}{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&report)?;
    assert_eq!(report["points"], json!(5 + 1 + 5), "{report:#}");
    walvec.stop().await
}

async fn verify_finds_lost_and_left_over_chunks_and_has_them_mended(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    create(&context, 100).await?;
    let walvec = followed(&context, &items_on(&server)).await?;
    let collection = image::on_server("items", MODEL, &server.url())?;
    let page = collection.scroll(None, 10_000).await?;
    let of_row = |row: i64, chunk: u32| {
        let found = page.points.iter().find(|point| {
            let own = point.provenance.as_ref();
            own.is_some_and(|own| own.key == [json!(row)] && own.chunk == chunk)
        });
        found.map(|point| point.id).expect("the chunk is stored")
    };
    let lost = [of_row(50, 0), of_row(60, 3), of_row(60, 4)];
    collection.write(&lost.iter().copied().map(Write::Delete).collect::<Vec<_>>()).await?;
    // A copy of a chunk under a strange id.
    let left_over = collection.get(vec![of_row(40, 4)], true).await?.remove(0);
    let stranger = walvec_model::Point {
        id: PointId::Uuid(uuid::Uuid::from_u128(7)),
        vector: left_over.vector.clone().unwrap(),
        keywords: None,
        payload: Payload::new(),
        provenance: page.points.iter().find(|point| point.id == left_over.id).unwrap().provenance.clone().unwrap(),
    };
    collection.write(&[Write::Upsert(stranger)]).await?;
    let output = context.walvec(&["verify", "--json"]).await?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!((report["missing"].as_u64(), report["extra"].as_u64()), (Some(3), Some(1)), "{report:#}");
    let output = context.walvec(&["verify", "--repair"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    walvec.stop().await?;
    image::compare_on_server(&context, &image_of_items(), &server.url()).await?;
    Ok(())
}

async fn workers_behind_a_broker_share_the_rows_and_keep_the_chunks_together(context: TestContext) -> Result<()> {
    if !can_test("chunks behind a broker") {
        return Ok(());
    }
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    let settings = kafka.carries(items_on(&server)).with("pipeline", json!({ "batch_rows": 16 }));
    create(&context, 300).await?;
    let (capture, one) = indexed_though_one_is_killed(&context, &kafka, &settings, change_everything(&context)).await?;
    image::compare_on_server(&context, &image_of_items(), &server.url()).await?;
    one.stop().await?;
    capture.stop().await
}

async fn chunks_of_another_length_take_a_reindex(context: TestContext) -> Result<()> {
    create(&context, 50).await?;
    followed(&context, &items()).await?.stop().await?;
    let collection = Collection::new("items", "public.items", "{{ body }}").with("chunk", json!({ "tokens": 16 }));
    let longer = Settings::new([collection]);
    context.configure(&longer)?;
    let output = context.walvec(&["run"]).await?;
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(told.lines().last(), Some("E_FINGERPRINT"), "{told}");
    let output = context.walvec(&["reindex"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    followed(&context, &longer).await?.stop().await?;
    image::compare(&context, &Expected { words: Some(16), ..image_of_items() }).await?;
    Ok(())
}
