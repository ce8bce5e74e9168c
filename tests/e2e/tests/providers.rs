//! Models behind an HTTP interface: collections stay exact through the faults of a provider.
//!
//! - [`replaced`]: another model under the same name
//! - this file: faults, keys, rows that are refused

mod replaced;

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, image, test, wait};
use walvec_test_providers::{Fault, TestProvider};

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = vec![
        test!(a_provider_that_fails_in_every_way_holds_up_and_loses_nothing),
        test!(a_row_that_the_provider_refuses_is_parked_alone_until_it_changes),
        test!(a_row_that_the_provider_fails_over_is_parked_alone_and_holds_nothing_up).once(),
        test!(collections_that_are_written_at_the_same_time_share_requests_and_nothing_else),
        test!(a_stop_does_not_wait_for_a_provider_that_is_away).once(),
        test!(a_fast_stop_of_postgresql_does_not_wait_for_a_provider_that_is_away).on_own_server(&[]),
        test!(a_truncate_leaves_no_row_parked).once(),
        test!(a_wrong_key_ends_the_start_with_what_to_change_and_is_never_shown),
        test!(a_collection_moves_to_a_provider_by_a_reindex_and_its_key_is_kept_in_no_file),
        test!(a_reindex_that_goes_on_after_a_restart_waits_for_a_provider_that_is_away).once(),
        test!(another_document_prefix_is_refused_and_another_query_prefix_is_not),
    ];
    tests.extend(replaced::tests());
    tests
}

const KEY: &str = "sk-e2e-secret-key";

const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, name text);
    INSERT INTO items SELECT g, 'name ' || g FROM generate_series(1, 500) g";

fn items(model: &str, url: &str) -> Settings {
    let settings = Settings::new([Collection::new("items", "public.items", "{{ name }}")]);
    settings.with("embedding", json!({ "model": model, "url": url, "api_key": KEY }))
}

/// Returns the expected image. The provider's vectors are those of the embedder that the comparison uses.
fn image_of_items() -> Expected {
    Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned())
}

async fn a_provider_that_fails_in_every_way_holds_up_and_loses_nothing(context: TestContext) -> Result<()> {
    let provider = TestProvider::start().await?;
    provider.require_key(KEY);
    context.execute(TABLE).await?;
    provider.every_second(Some(Fault::TooManyRequests("0".to_owned())));
    let settings =
        items("openai/m", &provider.openai_url()).with("embedding", json!({ "batch_items": 20, "timeout_ms": 1000 }));
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    provider.every_second(None);
    for (round, fault) in [
        Fault::Status(500),
        Fault::MissingVector,
        Fault::Shuffled,
        Fault::Dimension(3),
        Fault::NotANumber,
        Fault::Zeros,
        Fault::Base64,
        Fault::Page,
        Fault::Endless,
        Fault::BreakOff,
        Fault::Slow(Duration::from_secs(5)),
    ]
    .into_iter()
    .enumerate()
    {
        provider.next(fault);
        context.execute(&format!("UPDATE items SET name = 'round {round} ' || id WHERE id <= 30")).await?;
        walvec.caught_up(&context).await?;
    }
    provider.always(Some(Fault::Status(503)));
    context.execute("UPDATE items SET name = 'while it was down ' || id WHERE id > 400").await?;
    let position = context.wal_position().await?;
    let down = walvec.wait_for("the provider's absence is reported", |status| status.problem.is_some()).await?;
    assert_eq!(down.problem.as_ref().map(|problem| problem.part.as_str()), Some("embedder"));
    assert!(down.applied_lsn < position && down.confirmed_lsn < position);
    provider.always(None);
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.collections[0].dead_letters, 0);
    assert!(walvec.search("down 450", 3).await?.iter().any(|hit| hit["payload"]["id"] == 450));
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 500);
    Ok(())
}

async fn a_row_that_the_provider_refuses_is_parked_alone_until_it_changes(context: TestContext) -> Result<()> {
    let provider = TestProvider::start().await?;
    provider.refuse("poison");
    context.execute(TABLE).await?;
    context.execute("UPDATE items SET name = 'this is poison' WHERE id = 77").await?;
    let mut walvec = context.start(&items("tei/m", &provider.url())).await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.collections[0].dead_letters, 1);
    let letter = &status.collections[0].latest_dead_letters[0];
    assert_eq!((letter.key.as_slice(), letter.code.as_str()), ([json!(77)].as_slice(), "E_EMBED_TEXT"));
    assert!(!letter.reason.contains("poison"), "{}", letter.reason);
    context.execute("UPDATE items SET name = 'harmless' WHERE id = 77").await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.collections[0].dead_letters, 0);
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 500);
    Ok(())
}

async fn a_row_that_the_provider_fails_over_is_parked_alone_and_holds_nothing_up(context: TestContext) -> Result<()> {
    let provider = TestProvider::start().await?;
    provider.fail_over("poison");
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items("openai/m", &provider.openai_url())).await?;
    walvec.caught_up(&context).await?;
    context.execute("UPDATE items SET name = 'this is poison' WHERE id = 77").await?;
    context.execute("UPDATE items SET name = 'new ' || id WHERE id < 20").await?;
    let status = walvec.caught_up(&context).await?;
    let letters = &status.collections[0].latest_dead_letters;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!((letters[0].key.as_slice(), letters[0].code.as_str()), ([json!(77)].as_slice(), "E_EMBED_TEXT"));
    assert!(letters[0].reason.contains("500") && !letters[0].reason.contains("poison"), "{}", letters[0].reason);
    // walvec waits for a provider that fails for every text.
    provider.always(Some(Fault::Status(500)));
    context.execute("UPDATE items SET name = 'newer ' || id WHERE id < 20").await?;
    walvec.wait_for("the provider's absence is reported", |status| status.problem.is_some()).await?;
    provider.always(None);
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.collections[0].dead_letters, 1);
    context.execute("UPDATE items SET name = 'harmless' WHERE id = 77").await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.collections[0].dead_letters, 0);
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 500);
    Ok(())
}

async fn collections_that_are_written_at_the_same_time_share_requests_and_nothing_else(
    context: TestContext,
) -> Result<()> {
    const COLLECTIONS: usize = 8;
    let name = |at: usize| if at == 0 { "items".to_owned() } else { format!("items_{at}") };
    let text = |at: usize| if at == 0 { "{{ name }}".to_owned() } else { format!("{{{{ name }}}} {at}") };
    let provider = TestProvider::start().await?;
    provider.refuse("new 3");
    context.execute(TABLE).await?;
    let collections = (0..COLLECTIONS).map(|at| Collection::new(&name(at), "public.items", &text(at)));
    let settings = Settings::new(collections)
        .with("embedding", json!({ "model": "openai/m", "url": provider.openai_url(), "api_key": KEY }));
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    let before = provider.asked().len();
    // While the first two answers are delayed, the texts of the other collections gather in shared requests.
    for _ in 0..2 {
        provider.next(Fault::Slow(Duration::from_secs(2)));
    }
    context.execute("INSERT INTO items VALUES (1000, 'new')").await?;
    let status = walvec.caught_up(&context).await?;
    let letters: Vec<u64> = status.collections.iter().map(|collection| collection.dead_letters).collect();
    assert_eq!(letters, [0, 0, 0, 1, 0, 0, 0, 0], "the one that was refused, and no other");
    let asked = provider.asked().split_off(before);
    // After the refused text is requested alone, walvec also requests a text that no provider refuses.
    let is_ours = |text: &String| text.starts_with("new");
    let answered = asked.iter().filter(|asked| asked.status == 200 && asked.texts.iter().any(is_ours));
    let texts: usize = answered.clone().map(|asked| asked.texts.len()).sum();
    assert_eq!(texts, COLLECTIONS - 1, "each once: {asked:?}");
    assert!(
        answered.map(|asked| asked.texts.len()).any(|texts| texts > 1),
        "every text was asked for alone: {asked:?}"
    );
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 501);
    Ok(())
}

async fn a_stop_does_not_wait_for_a_provider_that_is_away(context: TestContext) -> Result<()> {
    let provider = TestProvider::start().await?;
    context.execute(TABLE).await?;
    let name = |at: usize| if at == 0 { "items".to_owned() } else { format!("items_{at}") };
    let collections = (0..8).map(|at| Collection::new(&name(at), "public.items", "{{ name }}"));
    let settings = Settings::new(collections)
        .with("embedding", json!({ "model": "openai/m", "url": provider.openai_url(), "api_key": KEY }));
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    provider.always(Some(Fault::TooManyRequests("16".to_owned())));
    context.execute("UPDATE items SET name = 'while it was away ' || id").await?;
    walvec.wait_for("the provider's absence is reported", |status| status.problem.is_some()).await?;
    // Each request waits for the provider, which asks for a pause of 16 s each time.
    walvec.stop().await?;
    provider.always(None);
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 500);
    Ok(())
}

async fn a_fast_stop_of_postgresql_does_not_wait_for_a_provider_that_is_away(mut context: TestContext) -> Result<()> {
    let provider = TestProvider::start().await?;
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items("openai/m", &provider.openai_url())).await?;
    walvec.caught_up(&context).await?;
    provider.always(Some(Fault::Status(503)));
    context.execute("UPDATE items SET name = 'while it was away ' || id").await?;
    walvec.wait_for("the provider's absence is reported", |status| status.problem.is_some()).await?;
    context.cluster().stop_fast().await?;
    let log = std::fs::read_to_string(context.cluster().log())?;
    assert!(!log.contains("immediate shutdown request"), "it had to be stopped by force: {log}");
    context.cluster().start_again().await?;
    context.reconnect().await?;
    provider.always(None);
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 500);
    Ok(())
}

async fn a_truncate_leaves_no_row_parked(context: TestContext) -> Result<()> {
    let provider = TestProvider::start().await?;
    provider.refuse("poison");
    context.execute(TABLE).await?;
    context.execute("UPDATE items SET name = 'this is poison' WHERE id = 77").await?;
    let mut walvec = context.start(&items("tei/m", &provider.url())).await?;
    assert_eq!(walvec.caught_up(&context).await?.collections[0].dead_letters, 1);
    context.execute("TRUNCATE items").await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!((status.collections[0].dead_letters, status.collections[0].latest_dead_letters.len()), (0, 0));
    walvec.stop().await
}

async fn a_wrong_key_ends_the_start_with_what_to_change_and_is_never_shown(context: TestContext) -> Result<()> {
    let provider = TestProvider::start().await?;
    provider.require_key("another key");
    context.execute(TABLE).await?;
    context.configure(&items("ollama/m", &provider.url()))?;
    let output = context.walvec(&["run"]).await?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), stderr.lines().last()), (Some(3), Some("E_EMBED_REFUSED")), "{stderr}");
    for part in ["401", &provider.url(), "embedding.api_key"] {
        assert!(stderr.contains(part), "\"{part}\" is missing in:\n{stderr}");
    }
    assert!(!stderr.contains(KEY), "{stderr}");
    // `check` reports the same error; with the right key it reports the model.
    let model = |output: &std::process::Output| -> Result<Value> {
        let report: Value = serde_json::from_slice(&output.stdout)?;
        Ok(report["checks"].as_array().into_iter().flatten().find(|check| check["subject"] == "model").cloned().into())
    };
    let refused = model(&context.walvec(&["check", "--json"]).await?)?;
    assert_eq!(refused["detail"]["code"], "E_EMBED_REFUSED", "{refused}");
    provider.require_key(KEY);
    let found = model(&context.walvec(&["check", "--json"]).await?)?;
    let detail = found["detail"].as_str().unwrap_or_default();
    assert!(detail.starts_with("ollama/m, 64 dimensions, ") && detail.contains("answers in"), "{found}");
    Ok(())
}

async fn a_collection_moves_to_a_provider_by_a_reindex_and_its_key_is_kept_in_no_file(
    context: TestContext,
) -> Result<()> {
    let provider = TestProvider::start().await?;
    provider.require_key(KEY);
    context.execute(TABLE).await?;
    let local = Settings::new([Collection::new("items", "public.items", "{{ name }}")]);
    let mut walvec = context.start(&local).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let settings = items("openai/m", &provider.openai_url());
    context.configure(&settings)?;
    let output = context.walvec(&["reindex"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let rows: usize =
        provider.asked().iter().map(|asked| asked.texts.iter().filter(|t| t.starts_with("name ")).count()).sum();
    assert_eq!(rows, 500, "each row is embedded once");
    assert_eq!(image::compare(&context, &image_of_items()).await?, 500);
    for entry in std::fs::read_dir(context.data_directory())? {
        let path = entry?.path();
        if path.is_file() {
            let content = std::fs::read(&path)?;
            let shows = content.windows(KEY.len()).any(|window| window == KEY.as_bytes());
            assert!(!shows, "{} holds the key", path.display());
        }
    }
    Ok(())
}

async fn a_reindex_that_goes_on_after_a_restart_waits_for_a_provider_that_is_away(context: TestContext) -> Result<()> {
    let provider = TestProvider::start().await?;
    context.execute(TABLE).await?;
    let local = Settings::new([Collection::new("items", "public.items", "{{ name }}")]);
    let mut walvec = context.start(&local).await?;
    walvec.caught_up(&context).await?;
    let settings = items("openai/m", &provider.openai_url());
    context.configure(&settings)?;
    let under_way = context.data_directory().join("reindex/under-way.json");
    let begun = async {
        wait::until("the reindex has begun", async || Ok(under_way.exists().then_some(()))).await?;
        provider.always(Some(Fault::Status(503)));
        anyhow::Ok(())
    };
    // So slow that the reindex is still running when the test goes on.
    provider.always(Some(Fault::Slow(Duration::from_secs(1))));
    tokio::select! {
        output = context.walvec(&["reindex"]) => anyhow::bail!("{}", String::from_utf8_lossy(&output?.stderr)),
        begun = begun => begun?,
    }
    walvec.kill().await?;

    let mut walvec = context.start(&settings).await?;
    let log = walvec.log().to_owned();
    let waits = async || Ok(std::fs::read_to_string(&log)?.contains("the reindex waits: ").then_some(()));
    wait::until("the reindex waits", waits).await?;
    context.execute("UPDATE items SET name = 'meanwhile ' || id WHERE id <= 30").await?;
    walvec.caught_up(&context).await?;
    assert_eq!(walvec.search("meanwhile 7", 3).await?.len(), 3);
    provider.always(None);
    wait::until("the reindex has ended", async || Ok((!under_way.exists()).then_some(()))).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 500);
    Ok(())
}

async fn another_document_prefix_is_refused_and_another_query_prefix_is_not(context: TestContext) -> Result<()> {
    let provider = TestProvider::start().await?;
    context.execute(TABLE).await?;
    let settings = |query: &str, document: &str| {
        let prefixes = json!({ "query_prefix": query, "document_prefix": document });
        items("ollama/m", &provider.url()).with("embedding", prefixes)
    };
    for (query, document) in [("query ", "passage "), ("question ", "passage ")] {
        let mut walvec = context.start(&settings(query, document)).await?;
        walvec.caught_up(&context).await?;
        walvec.search("7", 1).await?;
        walvec.stop().await?;
        let asked = provider.asked();
        assert_eq!(asked.last().map(|asked| asked.texts.clone()), Some(vec![format!("{query}7")]));
    }
    let texts: Vec<_> = provider.asked().into_iter().flat_map(|asked| asked.texts).collect();
    assert_eq!(texts.iter().filter(|text| text.starts_with("passage name ")).count(), 500, "nothing is embedded twice");
    context.configure(&settings("query ", "text "))?;
    let output = context.walvec(&["run"]).await?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), stderr.lines().last()), (Some(3), Some("E_FINGERPRINT")), "{stderr}");
    Ok(())
}
