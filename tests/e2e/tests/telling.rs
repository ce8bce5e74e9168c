//! What the commands print for people and programs: hits, the status of a walvec that runs or has stopped, and errors.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walvec_e2e::{Collection, Settings, Test, TestContext, test, wait};
use walvec_pipeline::observe::status::Phase;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(hits_are_tab_separated_values_for_other_programs).once(),
        test!(the_points_of_a_snapshot_are_counted_when_it_ends).once(),
        test!(a_walvec_that_has_stopped_tells_why).once(),
        test!(what_a_reindex_did_stays_in_the_status).once(),
        test!(the_owner_of_the_data_directory_needs_no_token).once(),
        test!(an_error_is_json_where_json_was_asked_for).once(),
        test!(a_reader_that_has_seen_enough_is_no_error).once(),
    ]
}

fn items() -> Settings {
    Settings::new([Collection::new("items", "public.items", "{{ name }}")])
}

const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, name text, note text);
    INSERT INTO items VALUES (1, 'one', E'a\\tb\\nc'), (2, 'two', NULL), (3, 'three', ''), (4, 'four', 'x'), (5, 'five', 'y')";

async fn told(context: &TestContext, arguments: &[&str]) -> Result<String> {
    let output = context.walvec(arguments).await?;
    ensure!(output.status.success(), "walvec {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

async fn told_as_json(context: &TestContext, arguments: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&told(context, arguments).await?)?)
}

async fn hits_are_tab_separated_values_for_other_programs(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    let running = told(&context, &["search", "one", "two", "--limit", "2"]).await?;
    let lines: Vec<&str> = running.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, "score\tpoint\tid\tname\tnote"), "{running}");
    assert!(lines[1..].iter().any(|line| line.ends_with("\t1\t1\tone\ta\\tb\\nc")), "{running}");
    assert!(lines[1..].iter().any(|line| line.ends_with("\t2\t2\ttwo\t\\N")), "{running}");
    let as_json = told_as_json(&context, &["search", "one", "two", "--limit", "2", "--json"]).await?;
    walvec.stop().await?;
    // While walvec does not run, the hits and their scores are as before.
    assert_eq!(told(&context, &["search", "one", "two", "--limit", "2"]).await?, running);
    let stopped = told_as_json(&context, &["search", "one two", "--limit", "2", "--json"]).await?;
    assert_eq!((&stopped["query"], &stopped["hits"]), (&json!("one two"), &as_json["hits"]));
    Ok(())
}

async fn the_points_of_a_snapshot_are_counted_when_it_ends(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items()).await?;
    let status = walvec.wait_for("the stream is followed", |status| status.phase == Phase::Streaming).await?;
    assert_eq!(status.collections[0].points, Some(5));
    assert!(status.counted_since.is_some());
    walvec.stop().await
}

async fn a_walvec_that_has_stopped_tells_why(context: TestContext) -> Result<()> {
    context.configure(&items())?;
    assert!(told(&context, &["status"]).await?.contains("nothing has been synced to data yet"));
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    let running = told_as_json(&context, &["status", "--json"]).await?;
    assert_eq!((&running["running"], &running["last_stop"]), (&json!(true), &Value::Null), "{running}");
    walvec.kill().await?;
    assert!(told(&context, &["status"]).await?.contains("ended without a word"));
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert!(told(&context, &["status"]).await?.contains("it was asked to stop"));

    context.sql.query_one("SELECT pg_drop_replication_slot($1)", &[&context.slot()]).await?;
    context.configure(&items().with("source", json!({ "on_gap": "stop" })))?;
    assert_eq!(context.walvec(&["run"]).await?.status.code(), Some(3));
    let text = told(&context, &["status"]).await?;
    assert!(text.contains("it stopped with E_SLOT_MISSING") && text.contains("help: "), "{text}");
    let stopped = told_as_json(&context, &["status", "--json"]).await?;
    assert_eq!((&stopped["running"], &stopped["last_stop"]["code"]), (&json!(false), &json!("E_SLOT_MISSING")));
    assert!(stopped["last_stop"]["at"].is_string() && stopped["applied_lsn"].is_string(), "{stopped}");
    assert!(
        stopped["last_stop"]["remedy"].as_str().is_some_and(|remedy| remedy.contains("walvec resync")),
        "{stopped}"
    );
    let keys = |value: &Value| value.as_object().map(|fields| fields.keys().cloned().collect::<Vec<_>>());
    assert_eq!(keys(&running), keys(&stopped));
    assert_eq!(keys(&running["collections"][0]), keys(&stopped["collections"][0]));

    told(&context, &["reset", "--force"]).await?;
    let reset = told_as_json(&context, &["status", "--json"]).await?;
    assert_eq!((&reset["applied_lsn"], &reset["last_stop"]), (&Value::Null, &Value::Null), "{reset}");
    let text = told(&context, &["status"]).await?;
    assert_eq!(text, "Not running.\nThe next run reads every table again.\n");
    Ok(())
}

async fn what_a_reindex_did_stays_in_the_status(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    context.configure(&Settings::new([Collection::new("items", "public.items", "{{ name }}: {{ note }}")]))?;
    told(&context, &["reindex"]).await?;
    context.execute("INSERT INTO items VALUES (6, 'six', NULL)").await?;
    walvec.caught_up(&context).await?;
    let status = walvec.wait_for("the points are counted", |status| status.collections[0].points == Some(6)).await?;
    let collection = &status.collections[0];
    assert_eq!((collection.embeddings_computed, collection.snapshot_rows_copied), (6, 5), "{collection:?}");
    walvec.stop().await
}

async fn the_owner_of_the_data_directory_needs_no_token(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let walvec = context.start(&items().with("server", json!({"token": "a-token"}))).await?;
    assert_eq!(walvec.get("/api/v1/status", &[]).await?.status(), 401);
    // A shell that lacks the variables of the service.
    let without =
        items().with("server", json!({"token": "${WALVEC_TOKEN}"})).with("source", json!({"url": "${NOT_SET}"}));
    context.configure(&without)?;
    wait::until("the rows are found", async || {
        let found = told_as_json(&context, &["search", "one", "--json"]).await?;
        Ok((found["hits"][0]["id"] == 1).then_some(()))
    })
    .await?;
    assert_eq!(told_as_json(&context, &["status", "--json"]).await?["running"], true);
    assert!(told(&context, &["dead-letters", "list"]).await?.contains("No row is parked"));

    let announced = context.data_directory().join("server.json");
    let text = fs::read_to_string(&announced)?;
    let key = serde_json::from_str::<Value>(&text)?["key"].as_str().context("no key")?.to_owned();
    fs::write(&announced, text.replace(&key, "another"))?;
    let refused = context.walvec(&["status"]).await?;
    let stderr = String::from_utf8(refused.stderr)?;
    assert_eq!((refused.status.code(), stderr.lines().last()), (Some(2), Some("E_TOKEN")), "{stderr}");
    assert!(stderr.contains("set WALVEC_TOKEN"), "{stderr}");
    walvec.stop().await
}

async fn an_error_is_json_where_json_was_asked_for(context: TestContext) -> Result<()> {
    context.configure(&items())?;
    for (arguments, exit, code) in [
        (&["search", "", "--json"][..], 2, "E_USAGE"),
        (&["search", "one", "--collection", "none", "--json"], 2, "E_USAGE"),
        (&["search", "one", "--json"], 3, "E_SINK"),
        (&["status", "--json", "-c", "nowhere.yaml"], 2, "E_CONFIG"),
        (&["backfill", "--table", "public.items", "--json"], 3, "E_NOT_RUNNING"),
        (&["status", "--json", "--jsonn"], 2, "E_USAGE"),
        (&["explain", "E_NO_CODE", "--json"], 2, "E_USAGE"),
    ] {
        let output = context.walvec(arguments).await?;
        let (stdout, stderr) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
        let told: Value = serde_json::from_str(&stdout).with_context(|| format!("{arguments:?}: {stdout}"))?;
        assert_eq!((output.status.code(), &told["error"]["code"]), (Some(exit), &json!(code)), "{arguments:?}");
        assert!(told["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{told}");
        // A command line that cannot be read is explained by its parser.
        assert!(stderr.contains("Usage:") || stderr.lines().last() == Some(code), "{arguments:?}: {stderr}");
        let silent: Vec<&str> = arguments.iter().copied().filter(|argument| *argument != "--json").collect();
        assert!(context.walvec(&silent).await?.stdout.is_empty(), "{silent:?}");
    }
    Ok(())
}

async fn a_reader_that_has_seen_enough_is_no_error(context: TestContext) -> Result<()> {
    context.configure(&items())?;
    for arguments in
        [&["completions", "bash"][..], &["man"], &["schema"], &["explain"], &["model", "list"], &["status", "--json"]]
    {
        let output = context.walvec_unread(arguments).await?;
        let stderr = String::from_utf8(output.stderr)?;
        ensure!(output.status.success() && stderr.is_empty(), "{arguments:?}: {}: {stderr}", output.status);
    }
    Ok(())
}
