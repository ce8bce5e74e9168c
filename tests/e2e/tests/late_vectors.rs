//! Late vectors: other rows go on meanwhile, and nothing is lost if walvec ends before the vectors arrive.

use anyhow::{Result, ensure};
use serde_json::json;
use walvec_e2e::{Collection, Expected, Kafka, Settings, Test, TestContext, Walvec, image, test, wait};
use walvec_pipeline::Status;
use walvec_pipeline::observe::status::Phase;
use walvec_test_kafka::can_test;
use walvec_test_providers::TestProvider;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(late_vectors_hold_no_other_rows_up_and_a_crash_meanwhile_loses_nothing),
        test!(late_vectors_hold_no_other_records_up_and_a_crash_of_the_worker_loses_nothing).once(),
        test!(a_single_row_goes_through_beside_several_whose_vectors_are_late),
        test!(a_row_whose_vectors_are_late_gets_its_changes_in_their_order),
        test!(late_vectors_of_a_snapshot_hold_no_other_rows_up_and_it_ends_behind_them),
    ]
}

const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, name text);
    INSERT INTO items SELECT g, 'name ' || g FROM generate_series(1, 200) g";

/// Inserts as many texts as a few requests hold, so that there is other work while one request is held up.
const MORE: &str = "INSERT INTO items SELECT g, 'quick ' || g FROM generate_series(2001, 2100) g";

fn items(provider: &TestProvider) -> Settings {
    let embedding = json!({ "model": "openai/m", "url": provider.openai_url(), "api_key": "key", "batch_items": 20 });
    Settings::new([Collection::new("items", "public.items", "{{ name }}")]).with("embedding", embedding)
}

fn image_of_items() -> Expected {
    Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned())
}

/// Starts walvec and a provider, waits until walvec has caught up, and lets the provider hold up late texts from then
/// on.
async fn running(context: &TestContext) -> Result<(TestProvider, Walvec)> {
    let provider = TestProvider::start().await?;
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items(&provider)).await?;
    walvec.caught_up(context).await?;
    provider.hold(Some("late"));
    Ok((provider, walvec))
}

/// Waits until this many requests are held up.
async fn are_held(provider: &TestProvider, requests: usize) -> Result<()> {
    wait::until("the late vectors were asked for", async || Ok((provider.holds() >= requests).then_some(()))).await
}

/// Waits until a search finds the row with this id and text.
async fn finds(walvec: &Walvec, id: u64, text: &str) -> Result<()> {
    let what = format!("{text:?} was found");
    wait::until(&what, async || {
        let hits = walvec.search(text, 3).await?;
        let is_it = |hit: &serde_json::Value| hit["payload"]["id"] == id && hit["payload"]["name"] == text;
        Ok(hits.iter().any(is_it).then_some(()))
    })
    .await
}

/// Waits until the collection has every row that is not held up.
async fn all_but_the_late_one(walvec: &mut Walvec) -> Result<Status> {
    let status =
        walvec.wait_for("all other rows were there", |status| status.collections[0].points == Some(300)).await?;
    finds(walvec, 2050, "quick 2050").await?;
    Ok(status)
}

/// Checks that since the first `before` requests only the late text was requested, and the text that tests a provider's
/// health.
fn only_the_late_one_was_asked_for(provider: &TestProvider, before: usize) -> Result<()> {
    let asked = provider.asked().split_off(before);
    let texts: Vec<String> = asked.into_iter().flat_map(|asked| asked.texts).collect();
    ensure!(texts.iter().any(|text| text == "late"), "{texts:?}");
    let others: Vec<&String> = texts.iter().filter(|text| *text != "late" && *text != "walvec").collect();
    ensure!(others.is_empty(), "these were there already: {others:?}");
    Ok(())
}

async fn late_vectors_hold_no_other_rows_up_and_a_crash_meanwhile_loses_nothing(context: TestContext) -> Result<()> {
    let (provider, mut walvec) = running(&context).await?;
    context.execute("INSERT INTO items VALUES (1000, 'late')").await?;
    let late = context.wal_position().await?;
    are_held(&provider, 1).await?;
    context.execute(MORE).await?;
    let status = all_but_the_late_one(&mut walvec).await?;
    assert!(status.applied_lsn < late && status.confirmed_lsn < late, "one row of before is not there: {status:?}");
    assert!(status.lag_ms.is_some_and(|lag| lag > 0), "{status:?}");
    walvec.kill().await?;
    provider.hold(None);
    let before = provider.asked().len();
    let mut walvec = context.start(&items(&provider)).await?;
    walvec.caught_up(&context).await?;
    only_the_late_one_was_asked_for(&provider, before)?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 301);
    Ok(())
}

async fn late_vectors_hold_no_other_records_up_and_a_crash_of_the_worker_loses_nothing(
    context: TestContext,
) -> Result<()> {
    if !can_test("late vectors behind a broker") {
        return Ok(());
    }
    let provider = TestProvider::start().await?;
    let kafka = Kafka::shared(&context).await?;
    let settings = kafka.carries(items(&provider));
    context.execute(TABLE).await?;
    let mut capture = crate::broker::captured(&context, &settings).await?;
    let mut worker = context.start_stage(&settings, "index", "1").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    provider.hold(Some("late"));
    context.execute("INSERT INTO items VALUES (1000, 'late')").await?;
    are_held(&provider, 1).await?;
    context.execute(MORE).await?;
    all_but_the_late_one(&mut worker).await?;
    let log = std::fs::read_to_string(worker.log())?;
    assert!(!log.contains("E_FENCED"), "it had all partitions from the start: {log}");
    let behind = kafka.offsets("index").await?.iter().filter(|at| at.committed < at.end).count();
    assert!(behind > 0, "the late record was committed");
    worker.kill().await?;
    provider.hold(None);
    let before = provider.asked().len();
    let mut worker = crate::workers::start_again(&context, &settings, "index", "1").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    only_the_late_one_was_asked_for(&provider, before)?;
    capture.stop().await?;
    worker.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 301);
    Ok(())
}

async fn a_single_row_goes_through_beside_several_whose_vectors_are_late(context: TestContext) -> Result<()> {
    let (provider, mut walvec) = running(&context).await?;
    // Three of four requests are held up. They count as in flight, because the provider did not tell them to wait, so
    // one more fits.
    for number in 1..=3 {
        context.execute(&format!("INSERT INTO items VALUES (1000 + {number}, 'late {number}')")).await?;
        are_held(&provider, number).await?;
    }
    context.execute("INSERT INTO items VALUES (2000, 'alone')").await?;
    finds(&walvec, 2000, "alone").await?;
    assert_eq!(provider.holds(), 3, "they are late no longer");
    provider.hold(None);
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 204);
    Ok(())
}

async fn a_row_whose_vectors_are_late_gets_its_changes_in_their_order(context: TestContext) -> Result<()> {
    let (provider, mut walvec) = running(&context).await?;
    context.execute("UPDATE items SET name = 'late' WHERE id IN (7, 8, 9)").await?;
    are_held(&provider, 1).await?;
    context
        .execute("BEGIN; UPDATE items SET name = 'newer' WHERE id = 7; DELETE FROM items WHERE id = 8; COMMIT")
        .await?;
    context.execute(MORE).await?;
    // Later changes wait together with the newer version: the rows still have their former values.
    assert!(!walvec.search("newer", 1).await?.iter().any(|hit| hit["payload"]["name"] == "newer"));
    provider.hold(None);
    walvec.caught_up(&context).await?;
    finds(&walvec, 7, "newer").await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 299);
    Ok(())
}

async fn late_vectors_of_a_snapshot_hold_no_other_rows_up_and_it_ends_behind_them(context: TestContext) -> Result<()> {
    const FIRST: &str = "INSERT INTO items SELECT g, 'name ' || g FROM generate_series(201, 2000) g";
    let provider = TestProvider::start().await?;
    context.execute(TABLE).await?;
    context.execute(FIRST).await?;
    context.execute("UPDATE items SET name = 'late' WHERE id = 1999").await?;
    provider.hold(Some("late"));
    let mut walvec = context.start(&items(&provider)).await?;
    let status = walvec
        .wait_for("the rows of all other calls were there", |status| status.collections[0].embeddings_computed >= 1980)
        .await?;
    assert_ne!(status.phase, Phase::Streaming, "a row is missing");
    provider.hold(None);
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.collections[0].snapshot_rows_copied, 2000);
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 2000);
    Ok(())
}
