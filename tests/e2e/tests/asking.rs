//! Requests of programs, proxies and probes to walvec: pages of hits, fields, host names, health.

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use walvec_e2e::{Collection, Settings, Test, TestContext, Walvec, test};
use walvec_pipeline::observe::status::Phase;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(hits_come_page_by_page_and_say_which_row_they_are_of).once(),
        test!(the_fields_of_the_collections_are_listed_with_their_types_and_filters).once(),
        test!(a_proxy_that_passes_its_own_name_on_is_answered_if_the_name_is_configured).once(),
        test!(a_token_that_can_be_guessed_is_refused_where_others_can_reach_walvec).once(),
        test!(health_tells_a_probe_by_its_exit_code_whether_walvec_is_ready).once(),
    ]
}

const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, name text, price numeric(10,2), tags text[], meta jsonb, at timestamptz);
    INSERT INTO items SELECT g, 'item ' || g || CASE WHEN g % 3 = 0 THEN ' blue' ELSE ' red' END FROM generate_series(1, 30) g";

fn items() -> Settings {
    Settings::new([Collection::new("items", "public.items", "{{ name }}")
        .with("index", json!({"name": "keyword"}))
        .with("computed", json!({"even": "{{ id % 2 == 0 }}"}))
        .with("hybrid", json!(true))])
}

/// Runs a command, and returns its exit code and output.
async fn exit(context: &TestContext, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let output = context.walvec(arguments).await?;
    Ok((output.status.code(), String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?))
}

async fn as_json(context: &TestContext, arguments: &[&str]) -> Result<Value> {
    let output = context.walvec(arguments).await?;
    ensure!(output.status.success(), "walvec {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Returns all hits that `walvec search` with these arguments finds, page by page.
async fn all_pages(context: &TestContext, search: &[&str]) -> Result<Vec<Value>> {
    let (mut hits, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut arguments = [&["search"], search, &["--json"]].concat();
        arguments.extend(cursor.as_deref().map(|cursor| ["--cursor", cursor]).into_iter().flatten());
        let mut page = as_json(context, &arguments).await?;
        hits.append(page["hits"].as_array_mut().context("no hits")?);
        match page["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return Ok(hits),
        }
    }
}

async fn hits_come_page_by_page_and_say_which_row_they_are_of(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    let modes = ["dense", "keyword", "hybrid"];
    let search = |mode| ["blue item", "--limit", "7", "--mode", mode];
    let mut running = Vec::new();
    for mode in modes {
        let hits = all_pages(&context, &search(mode)).await?;
        let mut keys: Vec<i64> = hits.iter().filter_map(|hit| hit["key"][0].as_i64()).collect();
        keys.sort_unstable();
        assert_eq!(keys, (1..=30).collect::<Vec<_>>(), "{mode}");
        assert!(hits.iter().all(|hit| hit["table"] == "public.items" && hit["key"][0] == hit["payload"]["id"]));
        assert!(hits.iter().all(|hit| hit["chunk"] == 0 && hit["chunks"] == 1), "{hits:?}");
        running.push(hits);
    }
    // A row that is inserted between two pages moves the other hits, but the pages still work.
    let first = as_json(&context, &["search", "blue item", "--limit", "7", "--json"]).await?;
    let cursor = first["next"].as_str().context("no next page")?;
    context.execute("INSERT INTO items VALUES (31, 'blue item')").await?;
    walvec.caught_up(&context).await?;
    as_json(&context, &["search", "blue item", "--limit", "7", "--cursor", cursor, "--json"]).await?;
    let (code, told) = exit(&context, &["search", "red item", "--limit", "7", "--cursor", cursor]).await?;
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("the cursor is of another search"), "{told}");
    context.execute("DELETE FROM items WHERE id = 31").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    // While walvec does not run, the command finds the same hits.
    for (mode, hits) in modes.into_iter().zip(running) {
        assert_eq!(all_pages(&context, &search(mode)).await?, hits, "{mode}");
    }
    let (code, told) = exit(&context, &["search", "red item", "--limit", "7", "--cursor", cursor]).await?;
    assert!(code == Some(2) && told.contains("the cursor is of another search"), "{told}");
    Ok(())
}

async fn the_fields_of_the_collections_are_listed_with_their_types_and_filters(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    context.configure(&items())?;
    let all = json!(["=", "!=", "<", "<=", ">", ">="]);
    let equal = json!(["=", "!="]);
    let field = |name: &str, ty: Value, from: &str, index: Value, filters: &Value| json!({"name": name, "type": ty, "from": from, "index": index, "filters": filters, "sorted": false});
    let fields = json!([
        field("id", json!("integer"), "column", Value::Null, &all),
        field("name", json!("text"), "column", json!("keyword"), &equal),
        field("price", json!("numeric(10,2)"), "column", Value::Null, &equal),
        field("tags", json!("text[]"), "column", Value::Null, &equal),
        field("meta", json!("jsonb"), "column", Value::Null, &all),
        field("at", json!("timestamp with time zone"), "column", Value::Null, &all),
        field("even", Value::Null, "computed", Value::Null, &all),
    ]);
    let before = as_json(&context, &["collections", "--json"]).await?;
    assert_eq!(before["collections"][0]["fields"], fields, "before anything runs");
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    let listed = as_json(&context, &["collections", "--json"]).await?;
    assert_eq!(listed["collections"][0]["fields"], fields);
    let modes = json!(["hybrid", "dense", "keyword"]);
    assert_eq!((&listed["collections"][0]["modes"], &listed["collections"][0]["points"]), (&modes, &json!(30)));
    let answered: Value = walvec.get_json("/api/v1/collections", &[]).await?;
    assert_eq!(answered, listed);
    walvec.stop().await?;
    // No row changes after the restart, so no row shows the types.
    let mut walvec = context.start(&items()).await?;
    walvec.wait_for("the stream is followed", |status| status.phase == Phase::Streaming).await?;
    assert_eq!(as_json(&context, &["collections", "--json"]).await?["collections"][0]["fields"], fields);
    context.execute("ALTER TABLE items ALTER COLUMN id TYPE bigint; INSERT INTO items VALUES (40, 'forty')").await?;
    walvec.caught_up(&context).await?;
    let altered = as_json(&context, &["collections", "--json"]).await?;
    assert_eq!(altered["collections"][0]["fields"][0]["type"], "bigint");
    let (_, text) = exit(&context, &["collections"]).await?;
    assert!(text.starts_with("items: public.items, 31 points") && text.contains("numeric(10,2)"), "{text}");
    walvec.stop().await
}

/// Returns the status of the answer to a request with another host name.
async fn status_for(walvec: &Walvec, host: &str) -> Result<u16> {
    let url = format!("http://{}/api/v1/search?q=x", walvec.address());
    let answer = reqwest::Client::builder().no_proxy().build()?.get(url).header("host", host).send().await?;
    Ok(answer.status().as_u16())
}

async fn a_proxy_that_passes_its_own_name_on_is_answered_if_the_name_is_configured(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    assert_eq!(status_for(&walvec, "search.example.com").await?, 403);
    walvec.stop().await?;
    let named = items().with("server", json!({"allowed_hosts": ["search.example.com"]}));
    let mut walvec = context.start(&named).await?;
    walvec.caught_up(&context).await?;
    assert_eq!(status_for(&walvec, "search.example.com").await?, 200);
    assert_eq!(status_for(&walvec, "Search.Example.com:8443").await?, 200);
    assert_eq!(status_for(&walvec, "localhost").await?, 200);
    assert_eq!(status_for(&walvec, "evil.example").await?, 403);
    walvec.stop().await
}

async fn a_token_that_can_be_guessed_is_refused_where_others_can_reach_walvec(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let with = |listen: &str, token: &str| items().with("server", json!({"listen": listen, "token": token}));
    context.configure(&with("0.0.0.0:0", "sesame"))?;
    let (code, told) = exit(&context, &["run"]).await?;
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("server.token") && told.contains("openssl rand -hex 32"), "{told}");
    assert!(!told.contains("sesame"), "{told}");
    context.configure(&with("127.0.0.1:0", "sesame"))?;
    let (_, told) = exit(&context, &["check"]).await?;
    assert!(told.contains("the token has 6 characters") && told.contains("openssl rand -hex 32"), "{told}");
    let walvec = context.start(&with("127.0.0.1:0", "sesame")).await?;
    assert!(std::fs::read_to_string(walvec.log())?.contains("the token has 6 characters"));
    walvec.stop().await
}

async fn health_tells_a_probe_by_its_exit_code_whether_walvec_is_ready(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let settings = items().with("server", json!({"token": "5f2a9c0d7b1e4836"}));
    context.configure(&settings)?;
    let (code, told) = exit(&context, &["health"]).await?;
    assert!(code == Some(1) && told.contains("no walvec runs on data"), "{code:?}: {told}");
    // walvec serves, but cannot start following yet.
    let application = context.connect().await?;
    application.batch_execute("BEGIN; LOCK TABLE items IN ACCESS EXCLUSIVE MODE").await?;
    let mut walvec = context.start(&settings).await?;
    walvec
        .wait_for_answer("the lock is waited for", "/readyz", |body| body.contains("the source does not work"))
        .await?;
    let (code, told) = exit(&context, &["health"]).await?;
    assert!(code == Some(1) && told.contains("the source does not work"), "{code:?}: {told}");
    assert_eq!(exit(&context, &["health", "--live"]).await?, (Some(0), "alive\n".to_owned()));
    application.batch_execute("COMMIT").await?;
    walvec.wait_for_answer("it is ready", "/readyz", |body| body.contains("\"ready\"")).await?;
    assert_eq!(exit(&context, &["health"]).await?, (Some(0), "ready\n".to_owned()));
    let told = as_json(&context, &["health", "--json"]).await?;
    let process = json!({"name": "all", "address": walvec.address(), "ok": true, "said": "ready", "problem": null});
    assert_eq!(told, json!({"ok": true, "reason": null, "processes": [process]}));
    // A probe in a container has no configuration, and knows no token.
    std::fs::remove_file(context.directory().join("walvec.yaml"))?;
    let address = walvec.address().to_string();
    assert_eq!(exit(&context, &["health", "--at", &address]).await?, (Some(0), "ready\n".to_owned()));
    context.configure(&settings)?;
    walvec.signal(Signal::STOP)?;
    let (code, told) = exit(&context, &["health", "--live", "--timeout", "1"]).await?;
    assert!(code == Some(1) && told.contains("does not answer within 1 s"), "{code:?}: {told}");
    walvec.signal(Signal::CONT)?;
    assert_eq!(exit(&context, &["health", "--live"]).await?.0, Some(0));
    walvec.stop().await?;
    assert_eq!(exit(&context, &["health"]).await?.0, Some(1));
    Ok(())
}
