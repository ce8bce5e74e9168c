//! The engine inside the program: it builds its index concurrently with everything else.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::json;
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, image, test, wait};
use walvec_pipeline::observe::status::CollectionStatus;

pub(crate) fn tests() -> Vec<Test> {
    vec![test!(a_stop_does_not_wait_for_an_index_that_is_being_built_and_loses_nothing).once()]
}

/// The number of rows that each attempt adds: more than the engine leaves without an index.
const ROWS: u64 = 30_000;

/// The number of attempts. On a busy machine an index may be complete before the stop takes effect.
const ATTEMPTS: u64 = 5;

/// Returns the path of the file that exists while an index is being built, if it exists.
fn mark(context: &TestContext) -> Result<Option<PathBuf>> {
    let collections = context.data_directory().join("collections");
    if !collections.exists() {
        return Ok(None);
    }
    for entry in std::fs::read_dir(collections)? {
        let mark = entry?.path().join("building");
        if mark.exists() {
            return Ok(Some(mark));
        }
    }
    Ok(None)
}

async fn a_stop_does_not_wait_for_an_index_that_is_being_built_and_loses_nothing(context: TestContext) -> Result<()> {
    let settings = Settings::new([Collection::new("items", "public.items", "{{ name }}")]);
    let settings = settings.with("embedding", json!({ "model": "hash/256" }));
    context.execute("CREATE TABLE items (id int PRIMARY KEY, name text)").await?;
    let mut was_cut_short = false;
    for attempt in 1..=ATTEMPTS {
        was_cut_short = is_cut_short(&context, &settings, attempt).await?;
        if was_cut_short {
            break;
        }
    }
    ensure!(was_cut_short, "the index was waited for");

    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    // How soon the other points are indexed depends on the load of the machine; how many are indexed is known.
    let is_told = |collection: &CollectionStatus| collection.points.is_some() && collection.points_indexed.is_some();
    walvec.wait_for("what has an index is told", |status| status.collections.iter().all(is_told)).await?;
    walvec.stop().await?;
    let of_items = Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned());
    image::compare(&context, &Expected { model: "hash/256", ..of_items }).await?;
    Ok(())
}

/// Adds rows, changes some, and stops in the middle of the index build. Returns whether the build was cut short.
async fn is_cut_short(context: &TestContext, settings: &Settings, attempt: u64) -> Result<bool> {
    let (first, last) = ((attempt - 1) * ROWS + 1, attempt * ROWS);
    context
        .execute(&format!(
            "INSERT INTO items SELECT n, 'item ' || md5(n::text) || ' ' || n FROM generate_series({first}, {last}) n"
        ))
        .await?;
    let mut walvec = context.start(settings).await?;
    let mark = wait::until("an index is being built", async || {
        walvec.is_alive()?;
        mark(context)
    })
    .await?;
    context
        .execute("UPDATE items SET name = 'another ' || name WHERE id % 100 = 0; DELETE FROM items WHERE id % 100 = 1")
        .await?;
    walvec.stop().await?;
    Ok(mark.exists())
}
