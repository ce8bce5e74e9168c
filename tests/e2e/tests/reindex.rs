//! Another model, text or payload: built while the old collections answer searches, then switched to in one step.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, Walvec, image, repeats, test, wait};
use walvec_model::Payload;
use walvec_pipeline::Store;
use walvec_pipeline::observe::status::Phase;
use walvec_test_qdrant::{Call, Code, Fault, TestServer};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(searches_are_answered_and_no_change_is_lost_while_the_model_changes),
        test!(the_same_on_a_server_whose_alias_is_switched_in_one_step),
        test!(a_reindex_can_be_taken_back_to_the_exact_image_of_before),
        test!(reindex_and_rollback_never_fail_by_chance_whether_the_database_is_idle_or_busy).once(),
        test!(a_kill_at_any_moment_leaves_the_old_collection_serving_and_the_reindex_goes_on),
        test!(a_kill_while_only_the_payload_changes_does_the_same),
        test!(connections_that_are_cut_again_and_again_during_a_reindex_lose_nothing),
        test!(a_table_that_is_altered_during_a_reindex_is_read_again_by_both),
        test!(two_reindexes_without_a_running_walvec_follow_each_other),
        test!(a_crash_right_after_the_switch_ends_in_the_exact_image),
        test!(a_reindex_without_a_running_walvec_does_the_same_by_itself),
        test!(what_a_reindex_cannot_change_is_refused_and_everything_goes_on),
    ]
}

const ROWS: i64 = 2000;

fn name(row: &Payload) -> String {
    row["name"].as_str().unwrap_or_default().to_owned()
}

fn name_and_body(row: &Payload) -> String {
    format!("{}: {}", name(row), row["body"].as_str().unwrap_or_default())
}

/// Returns the settings before the reindex.
fn before() -> Settings {
    Settings::new([Collection::new("items", "public.items", "{{ name }}")])
}

/// Returns the settings after the reindex: another text, another model, another payload.
fn after() -> Settings {
    let collection = Collection::new("items", "public.items", "{{ name }}: {{ body }}");
    Settings::new([collection.with("payload", json!(["id", "name"]))]).with("embedding", json!({"model": "hash/32"}))
}

fn image_before() -> Expected {
    Expected::of("items", name)
}

fn image_after() -> Expected {
    Expected { payload: Some(&["id", "name"]), model: "hash/32", ..Expected::of("items", name_and_body) }
}

async fn create(context: &TestContext) -> Result<()> {
    let table = "CREATE TABLE items (id int PRIMARY KEY, name text, body text)";
    let rows = format!("INSERT INTO items SELECT g, 'name ' || g, 'body ' || g % 7 FROM generate_series(1, {ROWS}) g");
    context.execute(&format!("{table}; {rows}")).await
}

/// Runs a command that has to succeed, and returns what it printed.
async fn succeed(context: &TestContext, arguments: &[&str]) -> Result<String> {
    let output = context.walvec(arguments).await?;
    if !output.status.success() {
        bail!("walvec {arguments:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Returns the collections of the data directory, and the one that is served.
fn collections(data: &Path) -> Result<(Vec<String>, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(data.join("collections"))? {
        let entry = entry?;
        if entry.path().is_dir() {
            found.push(entry.file_name().into_string().unwrap_or_default());
        }
    }
    found.sort();
    let names: Value = serde_json::from_slice(&std::fs::read(data.join("collections/aliases.json"))?)?;
    Ok((found, names["items"].as_str().context("no alias")?.to_owned()))
}

async fn slots(context: &TestContext) -> Result<Vec<String>> {
    let query = "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database() ORDER BY 1";
    Ok(context.sql.query(query, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// A task that searches and writes until it is stopped.
struct Load {
    stop: Arc<AtomicBool>,
    searches: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Load {
    async fn start(context: &TestContext, walvec: &Walvec) -> Result<Self> {
        let (stop, searches) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let sql = context.connect().await?;
        let url = format!("http://{}/api/v1/search?q=name+7&limit=3", walvec.address());
        let client = reqwest::Client::builder().no_proxy().build()?;
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&searches));
        let task = tokio::spawn(async move {
            for round in 1.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let id = round % ROWS + 1;
                sql.batch_execute(&format!(
                    "UPDATE items SET name = 'round {round}' WHERE id = {id};
                     DELETE FROM items WHERE id = {ROWS} - {id} AND {round} % 3 = 0;
                     INSERT INTO items VALUES ({ROWS} + {round}, 'new {round}', 'body')
                       ON CONFLICT (id) DO UPDATE SET body = 'again'"
                ))
                .await?;
                let answer = client.get(&url).send().await?;
                let status = answer.status();
                let body: Value = answer.json().await?;
                let hits = body["hits"].as_array().map_or(0, Vec::len);
                if !status.is_success() || hits != 3 {
                    bail!("a search was answered {status} with {hits} hits: {body}");
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        Ok(Self { stop, searches, task })
    }

    /// Stops the load and returns the number of searches; fails if any search has failed.
    async fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await??;
        Ok(self.searches.load(Ordering::Relaxed))
    }
}

async fn searches_are_answered_and_no_change_is_lost_while_the_model_changes(context: TestContext) -> Result<()> {
    create(&context).await?;
    let mut walvec = context.start(&before()).await?;
    walvec.caught_up(&context).await?;
    context.configure(&after())?;
    let load = Load::start(&context, &walvec).await?;
    let told = succeed(&context, &["reindex"]).await?;
    assert!(told.contains("The new collections are served"), "{told}");
    assert!(load.end().await? > 0);
    walvec.caught_up(&context).await?;
    assert_eq!(slots(&context).await?, [context.slot()], "the reindex left its slot");
    assert!(!context.data_directory().join("reindex").exists());
    walvec.stop().await?;
    assert!(image::compare(&context, &image_after()).await? > 1000);
    let (found, served) = collections(&context.data_directory())?;
    assert_eq!((found, served.as_str()), (vec!["items__1".to_owned(), "items__2".to_owned()], "items__2"));

    // The next start goes on with the new collection, and the next reindex removes the one that was kept.
    let mut walvec = context.start(&after()).await?;
    assert_eq!(walvec.caught_up(&context).await?.generation.0, 2, "no new snapshot");
    context.configure(&before())?;
    succeed(&context, &["reindex"]).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    image::compare(&context, &image_before()).await?;
    assert_eq!(collections(&context.data_directory())?.0, ["items__2", "items__3"]);
    Ok(())
}

async fn the_same_on_a_server_whose_alias_is_switched_in_one_step(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    let sink = json!({ "qdrant": { "url": server.url() } });
    create(&context).await?;
    let mut walvec = context.start(&before().with("sink", sink.clone())).await?;
    walvec.caught_up(&context).await?;
    context.configure(&after().with("sink", sink))?;
    // The server fails at the switch of the aliases.
    server.faults().next_on(Call::UpdateAliases, Fault::Status(Code::Unavailable, "electing a leader".to_owned()));
    let load = Load::start(&context, &walvec).await?;
    succeed(&context, &["reindex"]).await?;
    assert!(load.end().await? > 0);
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    image::compare_on_server(&context, &image_after(), &server.url()).await?;
    assert_eq!(server.calls().overlaps(), [""; 0]);
    Ok(())
}

async fn a_reindex_can_be_taken_back_to_the_exact_image_of_before(context: TestContext) -> Result<()> {
    create(&context).await?;
    let mut walvec = context.start(&before()).await?;
    walvec.caught_up(&context).await?;
    context.configure(&after())?;
    succeed(&context, &["reindex"]).await?;
    let changes = "UPDATE items SET body = 'changed after it' WHERE id <= 5; DELETE FROM items WHERE id = 6;
                   UPDATE items SET name = 'renamed after it' WHERE id = 7";
    context.execute(changes).await?;
    let output = context.walvec(&["reindex", "--rollback"]).await?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(3) && told.contains("E_FINGERPRINT"), "{told}");
    assert!(told.contains("put the former model and text back"), "{told}");
    context.configure(&before())?;
    let load = Load::start(&context, &walvec).await?;
    let told = succeed(&context, &["reindex", "--rollback"]).await?;
    assert!(told.contains("former"), "{told}");
    load.end().await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    image::compare(&context, &image_before()).await?;
    assert_eq!(collections(&context.data_directory())?.1, "items__1");
    Ok(())
}

async fn reindex_and_rollback_never_fail_by_chance_whether_the_database_is_idle_or_busy(
    context: TestContext,
) -> Result<()> {
    create(&context).await?;
    let mut walvec = context.start(&before()).await?;
    walvec.caught_up(&context).await?;
    let settings = [after(), before()];
    for round in 0..repeats(100) {
        let load = if round % 2 == 0 { None } else { Some(Load::start(&context, &walvec).await?) };
        context.configure(&settings[usize::from(round % 2 == 1)])?;
        let rollback: &[&str] = if round == 0 { &[] } else { &["--rollback"] };
        succeed(&context, &[&["reindex"], rollback].concat()).await?;
        if let Some(load) = load {
            load.end().await?;
        }
    }
    walvec.stop().await
}

async fn a_kill_at_any_moment_leaves_the_old_collection_serving_and_the_reindex_goes_on(
    context: TestContext,
) -> Result<()> {
    kill_again_and_again(&context, &after(), &image_after()).await
}

async fn a_kill_while_only_the_payload_changes_does_the_same(context: TestContext) -> Result<()> {
    let collection = Collection::new("items", "public.items", "{{ name }}").with("payload", json!(["id"]));
    let expected = Expected { payload: Some(&["id"]), ..image_before() };
    kill_again_and_again(&context, &Settings::new([collection]), &expected).await
}

/// Kills walvec during a reindex to `after`, later each time, until the reindex ends before the kill.
async fn kill_again_and_again(context: &TestContext, after: &Settings, expected: &Expected) -> Result<()> {
    create(context).await?;
    let mut walvec = context.start(&before()).await?;
    walvec.caught_up(context).await?;
    context.configure(after)?;
    let under_way = context.data_directory().join("reindex/under-way.json");
    let mut rounds = 0;
    loop {
        if rounds == 0 {
            tokio::select! {
                done = succeed(context, &["reindex"]) => drop(done?),
                noted = wait::until("the reindex has begun", async || Ok(under_way.exists().then_some(()))) => noted?,
            }
        }
        for _ in 0..rounds * 20 {
            walvec.search("name 7", 1).await?;
        }
        walvec.kill().await?;
        let was_under_way = under_way.exists();
        rounds += 1;
        context.execute(&format!("UPDATE items SET name = 'killed {rounds}' WHERE id <= 10 * {rounds}")).await?;
        walvec = context.start(after).await?;
        walvec.wait_for("it follows the stream", |status| status.phase == Phase::Streaming).await?;
        assert_eq!(walvec.search("name 700", 3).await?.len(), 3, "searches are answered");
        if !was_under_way {
            break;
        }
    }
    assert!(rounds > 1, "it was never killed in between");
    wait::until("the reindex has ended", async || Ok((!under_way.exists()).then_some(()))).await?;
    walvec.caught_up(context).await?;
    assert_eq!(slots(context).await?, [context.slot()]);
    walvec.stop().await?;
    assert_eq!(image::compare(context, expected).await?, usize::try_from(ROWS)?);
    Ok(())
}

async fn connections_that_are_cut_again_and_again_during_a_reindex_lose_nothing(context: TestContext) -> Result<()> {
    create(&context).await?;
    let mut walvec = context.start(&before()).await?;
    walvec.caught_up(&context).await?;
    context.configure(&after())?;
    let load = Load::start(&context, &walvec).await?;
    let cutter = context.connect().await?;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND backend_type = 'walsender'";
    let mut reindex = std::pin::pin!(context.walvec(&["reindex"]));
    let mut cuts = 0;
    let output = loop {
        tokio::select! {
            output = &mut reindex => break output?,
            // Cuts the connections after every 20th search, but not after 200 searches, so that the reindex can end.
            hits = walvec.search("name 7", 1) => {
                hits?;
                cuts += 1;
                if cuts % 20 == 0 && cuts < 200 {
                    cutter.batch_execute(cut).await?;
                }
            }
        }
    };
    load.end().await?;
    // If the reindex was cut at the last moment it is given up, and everything is as before; otherwise its collection
    // is served.
    let expected = if output.status.success() { image_after() } else { image_before() };
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() || told.contains("E_REINDEX"), "{told}");
    assert!(cuts >= 20, "only {cuts}");
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    image::compare(&context, &expected).await?;
    Ok(())
}

async fn a_table_that_is_altered_during_a_reindex_is_read_again_by_both(context: TestContext) -> Result<()> {
    create(&context).await?;
    let mut walvec = context.start(&before()).await?;
    walvec.caught_up(&context).await?;
    context.configure(&after())?;
    let under_way = context.data_directory().join("reindex/under-way.json");
    let alter = async {
        wait::until("the reindex has begun", async || Ok(under_way.exists().then_some(()))).await?;
        context.execute("ALTER TABLE items ADD COLUMN colour text DEFAULT 'red'").await
    };
    let (output, altered) = tokio::join!(context.walvec(&["reindex"]), alter);
    altered?;
    let output = output?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() || told.contains("E_REINDEX"), "{told}");
    if !output.status.success() {
        walvec.caught_up(&context).await?;
        succeed(&context, &["reindex"]).await?;
    }
    walvec.caught_up(&context).await?;
    assert_eq!(slots(&context).await?, [context.slot()]);
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_after()).await?, usize::try_from(ROWS)?);
    Ok(())
}

async fn two_reindexes_without_a_running_walvec_follow_each_other(context: TestContext) -> Result<()> {
    create(&context).await?;
    let mut walvec = context.start(&before()).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    context.configure(&after())?;
    succeed(&context, &["reindex"]).await?;
    context.execute("DELETE FROM items WHERE id <= 10").await?;
    context.configure(&before())?;
    succeed(&context, &["reindex", "--rollback"]).await?;
    let mut walvec = context.start(&before()).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_before()).await?, usize::try_from(ROWS - 10)?);
    Ok(())
}

async fn a_crash_right_after_the_switch_ends_in_the_exact_image(context: TestContext) -> Result<()> {
    create(&context).await?;
    let mut walvec = context.start(&before()).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let data = context.data_directory();
    context.configure(&after())?;
    succeed(&context, &["reindex"]).await?;
    // This makes the state as if the aliases had been switched but the state file not written.
    let state = Store::open(&data)?;
    let mut checkpoint = state.checkpoint()?.context("no checkpoint")?;
    checkpoint.collections.insert("items".to_owned(), "the former one".to_owned());
    state.save_checkpoint(&checkpoint)?;
    drop(state);
    std::fs::create_dir(data.join("reindex"))?;
    std::fs::write(
        data.join("reindex/under-way.json"),
        r#"{"rollback": false, "names": ["items__2"], "is_over": false}"#,
    )?;
    context.execute("DELETE FROM items WHERE id <= 10; UPDATE items SET body = 'x' WHERE id = 11").await?;
    let mut walvec = context.start(&after()).await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.collections[0].embeddings_computed, 1, "unchanged texts keep their vectors");
    assert!(!data.join("reindex").exists());
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_after()).await?, usize::try_from(ROWS - 10)?);
    Ok(())
}

async fn a_reindex_without_a_running_walvec_does_the_same_by_itself(context: TestContext) -> Result<()> {
    create(&context).await?;
    let mut walvec = context.start(&before()).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    context.execute("DELETE FROM items WHERE id <= 10").await?;
    context.configure(&after())?;
    let refused = context.walvec(&["run"]).await?;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(3) && told.ends_with("E_FINGERPRINT\n"), "{told}");
    assert!(told.contains("walvec reindex"), "{told}");
    let told = succeed(&context, &["reindex", "--json"]).await?;
    assert_eq!(serde_json::from_str::<Value>(&told)?, json!({"rows": ROWS - 10}));
    context.execute("UPDATE items SET body = 'later' WHERE id <= 20").await?;
    let mut walvec = context.start(&after()).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_after()).await?, usize::try_from(ROWS - 10)?);
    Ok(())
}

async fn what_a_reindex_cannot_change_is_refused_and_everything_goes_on(context: TestContext) -> Result<()> {
    create(&context).await?;
    context.execute("CREATE TABLE others (id int PRIMARY KEY, name text, body text)").await?;
    let mut walvec = context.start(&before()).await?;
    walvec.caught_up(&context).await?;
    let another_table = Settings::new([Collection::new("items", "public.others", "{{ name }}")]);
    for (settings, arguments, code) in [
        (another_table, ["reindex", "--json"], "E_CONFIG"),
        (after().with("embedding", json!({"model": "no-such-model"})), ["reindex", "--json"], "E_MODEL_MISSING"),
        (before(), ["reindex", "--rollback"], "E_REINDEX"),
    ] {
        context.configure(&settings)?;
        let output = context.walvec(&arguments).await?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.ends_with(&format!("{code}\n")), "{code}: {told}");
    }
    context.execute("UPDATE items SET name = 'still followed' WHERE id = 1").await?;
    walvec.caught_up(&context).await?;
    assert_eq!(walvec.search("still followed", 1).await?[0]["id"], 1);
    assert!(!context.data_directory().join("reindex").exists());
    assert_eq!(slots(&context).await?, [context.slot()]);
    walvec.stop().await?;
    image::compare(&context, &image_before()).await?;
    Ok(())
}
