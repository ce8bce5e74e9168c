//! A provider that has another model under the same name: walvec stops, and vectors of the two are never mixed unnoticed.

use anyhow::Result;
use serde_json::json;
use walvec_e2e::{Collection, Kafka, Settings, Test, TestContext, Walvec, image, test, wait};
use walvec_test_kafka::can_test;
use walvec_test_providers::{Fault, TestProvider};
use walvec_test_qdrant::TestServer;

use super::{KEY, TABLE, image_of_items, items};
use crate::broker::captured;
use crate::faults::has_failpoints;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(another_model_behind_the_same_name_is_refused_until_the_former_one_is_back).once(),
        test!(a_model_that_changes_under_its_name_while_walvec_runs_stops_it).once(),
        test!(a_model_that_changes_while_its_provider_is_away_stops_walvec_and_what_it_wrote_can_be_mended).once(),
        test!(a_model_that_changed_is_found_although_its_provider_did_not_answer_at_the_start).once(),
        test!(a_model_that_changes_under_its_name_stops_the_workers_behind_a_broker).once(),
        test!(a_model_that_is_replaced_while_a_reindex_fills_with_it_is_found).once(),
        test!(a_provider_that_keeps_the_check_of_its_model_waiting_holds_up_neither_rows_nor_a_stop).once(),
    ]
}

async fn another_model_behind_the_same_name_is_refused_until_the_former_one_is_back(
    context: TestContext,
) -> Result<()> {
    let provider = TestProvider::start().await?;
    context.execute(TABLE).await?;
    // If the dimension is configured, walvec has no other reason to call the provider at the start.
    for settings in [
        items("openai/m", &provider.openai_url()),
        items("openai/m", &provider.openai_url()).with("embedding", json!({ "dimensions": 64 })),
    ] {
        let mut walvec = context.start(&settings).await?;
        walvec.caught_up(&context).await?;
        walvec.stop().await?;
        provider.swap_model();
        context.configure(&settings)?;
        let refused = context.walvec(&["run"]).await?;
        let words = String::from_utf8(refused.stderr)?;
        assert_eq!(refused.status.code(), Some(3), "{words}");
        assert!(words.contains("E_MODEL_CHANGED") && words.contains("openai/m"), "{words}");
        provider.swap_model();
    }
    let mut walvec = context.start(&items("openai/m", &provider.openai_url())).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 500);
    // To use the other model, everything is embedded again.
    provider.swap_model();
    let purged = context.walvec(&["reset", "--purge", "--force"]).await?;
    assert!(purged.status.success(), "{}", String::from_utf8_lossy(&purged.stderr));
    let mut walvec = context.start(&items("openai/m", &provider.openai_url())).await?;
    walvec.caught_up(&context).await?;
    let hits = walvec.search("name 7", 5).await?;
    assert!(hits.iter().any(|hit| hit["payload"]["name"] == "name 7"), "{hits:?}");
    walvec.stop().await
}

/// A failpoint that has the model compared every 100 ms.
const CHECKED_ALL_THE_TIME: &str = "model-check-pause=return(100)";

/// Waits until a walvec ends that has found another model, and checks its message.
async fn stops_because_of_the_model(walvec: Walvec) -> Result<()> {
    let words = walvec.fails_with(3).await?;
    for part in ["E_MODEL_CHANGED", "openai/m", "What was written since 20", "walvec reset --purge"] {
        assert!(words.contains(part), "\"{part}\" is missing in:\n{words}");
    }
    Ok(())
}

async fn a_model_that_changes_under_its_name_while_walvec_runs_stops_it(context: TestContext) -> Result<()> {
    if !has_failpoints(&context, "a check in short intervals").await? {
        return Ok(());
    }
    let provider = TestProvider::start().await?;
    context.execute(TABLE).await?;
    let collections = ["items", "others"].map(|name| Collection::new(name, "public.items", "{{ name }}"));
    let settings = Settings::new(collections)
        .with("embedding", json!({ "model": "openai/m", "url": provider.openai_url(), "api_key": KEY }));
    let mut walvec = context.start_with_failpoints(&settings, CHECKED_ALL_THE_TIME).await?;
    walvec.caught_up(&context).await?;
    let asked = provider.asked().len();
    wait::until("the model was asked for again", async || Ok((provider.asked().len() > asked + 2).then_some(())))
        .await?;
    let again = provider.asked().split_off(asked);
    assert!(again.iter().all(|asked| asked.texts == ["walvec"]), "one text each time: {again:?}");
    walvec.is_alive()?;
    provider.swap_model();
    stops_because_of_the_model(walvec).await?;
    // The status reports it too, and so does the next start.
    let status = String::from_utf8(context.walvec(&["status"]).await?.stdout)?;
    assert!(status.contains("E_MODEL_CHANGED"), "{status}");
    let refused = String::from_utf8(context.walvec(&["run"]).await?.stderr)?;
    assert!(refused.contains("E_MODEL_CHANGED") && refused.contains("What was written since 20"), "{refused}");
    provider.swap_model();
    let mut walvec = context.start(&settings).await?;
    context.execute("UPDATE items SET name = 'new ' || id WHERE id <= 30").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 500);
    Ok(())
}

async fn a_model_that_changes_while_its_provider_is_away_stops_walvec_and_what_it_wrote_can_be_mended(
    context: TestContext,
) -> Result<()> {
    let provider = TestProvider::start().await?;
    context.execute(TABLE).await?;
    let settings = items("openai/m", &provider.openai_url());
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    provider.always(Some(Fault::Status(503)));
    context.execute("UPDATE items SET name = 'while it was away ' || id WHERE id <= 30").await?;
    walvec.wait_for("the provider's absence is reported", |status| status.problem.is_some()).await?;
    provider.swap_model();
    provider.always(None);
    stops_because_of_the_model(walvec).await?;
    // Points written in between have vectors of the other model, until they are repaired.
    provider.swap_model();
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    let mended = context.walvec(&["verify", "--sample", "all", "--repair"]).await?;
    assert!(mended.status.success(), "{}", String::from_utf8_lossy(&mended.stdout));
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 500);
    Ok(())
}

async fn a_model_that_changed_is_found_although_its_provider_did_not_answer_at_the_start(
    context: TestContext,
) -> Result<()> {
    let provider = TestProvider::start().await?;
    context.execute(TABLE).await?;
    // If the dimension is configured, a start does not need the provider.
    let settings = items("openai/m", &provider.openai_url()).with("embedding", json!({ "dimensions": 64 }));
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    provider.swap_model();
    provider.always(Some(Fault::Status(503)));
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    provider.always(None);
    stops_because_of_the_model(walvec).await
}

async fn a_model_that_changes_under_its_name_stops_the_workers_behind_a_broker(context: TestContext) -> Result<()> {
    if !can_test("workers whose model changes") || !has_failpoints(&context, "a check in short intervals").await? {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    let server = TestServer::start()?;
    let provider = TestProvider::start().await?;
    context.execute(TABLE).await?;
    let settings = items("openai/m", &provider.openai_url());
    let settings = kafka.carries(settings.with("sink", json!({ "qdrant": { "url": server.url() } })));
    let mut capture = captured(&context, &settings).await?;
    for stage in ["index", "embed"] {
        let mut worker = context.start_stage_with_failpoints(&settings, stage, "1", CHECKED_ALL_THE_TIME).await?;
        kafka.read(stage, &mut [&mut worker]).await?;
        provider.swap_model();
        stops_because_of_the_model(worker).await?;
        provider.swap_model();
    }
    // Capture has no model.
    capture.is_alive()?;
    capture.stop().await
}

async fn a_model_that_is_replaced_while_a_reindex_fills_with_it_is_found(context: TestContext) -> Result<()> {
    let provider = TestProvider::start().await?;
    context.execute(TABLE).await?;
    let local = Settings::new([Collection::new("items", "public.items", "{{ name }}")]);
    let mut walvec = context.start(&local).await?;
    walvec.caught_up(&context).await?;
    context.configure(&items("openai/m", &provider.openai_url()))?;
    provider.hold(Some("name 500"));
    let swapped = async {
        wait::until("the reindex fills", async || Ok((provider.holds() > 0).then_some(()))).await?;
        provider.swap_model();
        provider.hold(None);
        anyhow::Ok(())
    };
    let (reindexed, swapped) = tokio::join!(context.walvec(&["reindex"]), swapped);
    swapped?;
    let words = String::from_utf8(reindexed?.stderr)?;
    stops_because_of_the_model(walvec).await.map_err(|error| error.context(words))
}

async fn a_provider_that_keeps_the_check_of_its_model_waiting_holds_up_neither_rows_nor_a_stop(
    context: TestContext,
) -> Result<()> {
    if !has_failpoints(&context, "a check in short intervals").await? {
        return Ok(());
    }
    let provider = TestProvider::start().await?;
    context.execute(TABLE).await?;
    let settings = items("openai/m", &provider.openai_url()).with("embedding", json!({ "concurrency": 1 }));
    let mut walvec = context.start_with_failpoints(&settings, CHECKED_ALL_THE_TIME).await?;
    walvec.caught_up(&context).await?;
    provider.hold(Some("walvec"));
    let waits = async || Ok((provider.holds() > 0).then_some(()));
    wait::until("the check waits", waits).await?;
    context.execute("UPDATE items SET name = 'meanwhile ' || id WHERE id <= 30").await?;
    walvec.caught_up(&context).await?;
    assert_eq!(provider.holds(), 1, "it waits, once");
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 500);
    Ok(())
}
