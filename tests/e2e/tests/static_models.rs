//! Static models: a table of vectors instead of a network.

use anyhow::Result;
use serde_json::{Value, json};
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, image, test};
use walvec_test_providers::write_static_model;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_static_model_makes_an_exact_image_and_parks_only_rows_that_it_has_no_words_for),
        test!(another_static_model_or_a_broken_one_is_refused_with_what_to_do),
    ]
}

const WORDS: [&str; 6] = ["whale", "sea", "captain", "ship", "harbour", "storm"];

const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, body text);
    INSERT INTO items SELECT g, (ARRAY['whale', 'sea', 'captain', 'ship', 'harbour', 'storm'])[1 + g % 6] || ' of the sea'
    FROM generate_series(1, 300) g";

/// Writes a model that knows `words`, and configures it.
async fn items(context: &TestContext, words: &[&str]) -> Result<Settings> {
    let model = context.directory().join("model");
    write_static_model(&model, words).await?;
    let settings = Settings::new([Collection::new("items", "public.items", "{{ body }}")]);
    Ok(settings.with("embedding", json!({ "model": model })))
}

/// Returns the expected image. For the words that the model knows, its vectors are those of the comparison's embedder.
fn image_of_items() -> Expected {
    Expected::of("items", |row| row["body"].as_str().unwrap_or_default().to_owned())
}

async fn a_static_model_makes_an_exact_image_and_parks_only_rows_that_it_has_no_words_for(
    context: TestContext,
) -> Result<()> {
    let settings = items(&context, &[&WORDS[..], &["of", "the"]].concat()).await?;
    context.execute(TABLE).await?;
    context.execute("UPDATE items SET body = 'kraken' WHERE id = 77; UPDATE items SET body = '' WHERE id = 78").await?;
    let mut walvec = context.start(&settings).await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.collections[0].dead_letters, 2);
    for letter in &status.collections[0].latest_dead_letters {
        assert_eq!(letter.code, "E_EMBED_TEXT");
        assert!(!letter.reason.contains("kraken"), "{}", letter.reason);
    }
    context
        .execute("UPDATE items SET body = 'the ship in the harbour' WHERE id = 77; DELETE FROM items WHERE id = 78")
        .await?;
    context.execute("UPDATE items SET body = 'the captain of the storm' WHERE id = 5").await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.collections[0].dead_letters, 0);
    assert_eq!(walvec.search("Captain, storm!", 1).await?[0]["payload"]["id"], 5);
    let output = context.walvec(&["verify", "--json"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    context.execute("UPDATE items SET body = 'the ship of the harbour' WHERE id = 77").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 299);
    Ok(())
}

async fn another_static_model_or_a_broken_one_is_refused_with_what_to_do(context: TestContext) -> Result<()> {
    let settings = items(&context, &WORDS).await?;
    context.execute(TABLE).await?;
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let output = context.walvec(&["check", "--json"]).await?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(report["checks"][1]["detail"], "model, 64 dimensions", "{report}");
    let refused = async |code: &str| -> Result<String> {
        let output = context.walvec(&["run"]).await?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), stderr.lines().last()), (Some(3), Some(code)), "{stderr}");
        Ok(stderr)
    };
    // A model in the same directory with other vectors.
    items(&context, &["sea", "whale"]).await?;
    assert!(refused("E_FINGERPRINT").await?.contains("walvec reindex"));
    std::fs::write(context.directory().join("model/model.safetensors"), "cut off")?;
    let stderr = refused("E_MODEL").await?;
    assert!(stderr.contains("model.safetensors") && stderr.contains("model2vec"), "{stderr}");
    Ok(())
}
