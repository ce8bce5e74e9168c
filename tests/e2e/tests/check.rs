//! The statements that `walvec check` prints can be pasted, and `walvec run` does what `walvec check` predicts.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use walvec_e2e::{Collection, Settings, Test, TestContext, test};
use walvec_pipeline::Status;
use walvec_pipeline::observe::status::Phase;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(all_that_a_role_lacks_is_told_at_once_in_statements_that_succeed),
        test!(a_role_that_cannot_see_what_a_filter_uses_is_told_the_grant_before_anything_is_published).since(15),
        test!(check_says_whether_run_will_read_the_tables_and_why),
        test!(a_filter_that_postgresql_refuses_stops_check_and_run_with_its_key).since(15),
        test!(a_template_with_a_generated_column_works_on_18_and_is_explained_before),
        test!(a_column_that_the_owner_hides_is_nowhere).since(15),
        test!(a_forgotten_prepared_transaction_is_in_log_and_status_with_what_ends_it)
            .on_own_server(&[("max_prepared_transactions", "5")]),
        test!(check_says_that_a_reindex_is_needed_while_walvec_runs_and_when_it_does_not),
    ]
}

fn items() -> Settings {
    Settings::new([Collection::new("items", "public.items", "{{ name }}")])
}

async fn create(context: &TestContext) -> Result<()> {
    context
        .execute("CREATE TABLE items (id int PRIMARY KEY, name text); INSERT INTO items VALUES (1, 'one'), (2, 'two')")
        .await
}

/// Returns the answer of `walvec check`, and its exit code.
async fn check(context: &TestContext, settings: &Settings) -> Result<(Value, i32)> {
    context.configure(settings)?;
    let output = context.walvec(&["check", "--json"]).await?;
    let answer =
        serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((answer, output.status.code().unwrap_or(-1)))
}

async fn all_that_a_role_lacks_is_told_at_once_in_statements_that_succeed(context: TestContext) -> Result<()> {
    create(&context).await?;
    let role = format!("newcomer_{}", context.slot());
    context.execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'p'")).await?;
    let url = context.url();
    let (_, place) = url.rsplit_once('@').context("no host in the URL")?;
    let settings = items().with("source", json!({ "url": format!("postgres://{role}:p@{place}") }));
    let (answer, exit) = check(&context, &settings).await?;
    assert_eq!(exit, 1, "{answer:#}");
    let statements: Vec<&str> =
        answer["statements"].as_array().into_iter().flatten().filter_map(|step| step["sql"].as_str()).collect();
    assert_eq!(statements.len(), 3, "{answer:#}");

    let refused = context.walvec(&["run"]).await?;
    let told = String::from_utf8(refused.stderr)?;
    assert_eq!((refused.status.code(), told.lines().last()), (Some(3), Some("E_RIGHTS")), "{told}");
    for statement in statements {
        assert!(told.lines().any(|line| line == statement), "{statement} is not in:\n{told}");
        context.execute(statement).await?;
    }
    let (answer, exit) = check(&context, &settings).await?;
    assert_eq!((exit, &answer["next"]["action"]), (0, &json!("read")), "{answer:#}");
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    context.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await
}

/// Otherwise a filter outside the replica identity would be published, and the application's updates would fail.
async fn a_role_that_cannot_see_what_a_filter_uses_is_told_the_grant_before_anything_is_published(
    context: TestContext,
) -> Result<()> {
    create(&context).await?;
    let role = format!("hardened_{}", context.slot());
    context
        .execute(&format!(
            "CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'p'; GRANT SELECT ON items TO {role};
             DO $$ BEGIN
                 EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
                 EXECUTE format('GRANT CREATE ON DATABASE %I TO {role}', current_database());
             END $$;
             ALTER TABLE items OWNER TO {role}"
        ))
        .await?;
    let url = context.url();
    let (_, place) = url.rsplit_once('@').context("no host in the URL")?;
    let filtered = Collection::new("items", "public.items", "{{ name }}").with("where", json!("name <> 'hidden'"));
    let source = json!({ "url": format!("postgres://{role}:p@{place}") });
    let settings = Settings::new([filtered]).with("source", source);
    let (answer, exit) = check(&context, &settings).await?;
    let statements: Vec<&str> =
        answer["statements"].as_array().into_iter().flatten().filter_map(|step| step["sql"].as_str()).collect();
    assert!(exit == 1 && statements.len() == 1 && statements[0].starts_with("GRANT TEMPORARY"), "{answer:#}");
    assert_eq!(context.walvec(&["run"]).await?.status.code(), Some(3));
    context.execute("UPDATE items SET name = name || '!'").await?;
    context.execute(statements[0]).await?;
    let (answer, exit) = check(&context, &settings).await?;
    assert!(exit == 1 && answer.to_string().contains("E_REPLICA_IDENTITY"), "{answer:#}");
    context.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await
}

async fn check_says_whether_run_will_read_the_tables_and_why(context: TestContext) -> Result<()> {
    create(&context).await?;
    let (answer, exit) = check(&context, &items()).await?;
    assert_eq!((exit, &answer["next"]), (0, &json!({"action": "read", "tables": 1})));
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    let (answer, exit) = check(&context, &items()).await?;
    assert_eq!((exit, &answer["next"]), (0, &json!({"action": "runs"})), "{answer:#}");
    let with_payload =
        Settings::new([Collection::new("items", "public.items", "{{ name }}").with("payload", json!(["id"]))]);
    let (answer, exit) = check(&context, &with_payload).await?;
    let again = json!({"action": "read_again", "tables": 1, "why": "payload of items changed", "running": true});
    assert_eq!((exit, &answer["next"]), (0, &again));
    walvec.stop().await?;

    let (answer, _) = check(&context, &items()).await?;
    assert_eq!(answer["next"]["action"], "resume", "{answer:#}");
    let (answer, exit) = check(&context, &with_payload).await?;
    let again = json!({"action": "read_again", "tables": 1, "why": "payload of items changed"});
    assert_eq!((exit, &answer["next"]), (0, &again));
    let shown = String::from_utf8(context.walvec(&["check"]).await?.stdout)?;
    assert!(shown.contains("will read 1 table again, because payload of items changed"), "{shown}");

    context.execute("ALTER TABLE items ADD COLUMN colour text DEFAULT 'red'").await?;
    let (answer, exit) = check(&context, &items()).await?;
    let again = json!({"action": "read_again", "tables": 1, "why": "the columns of a table, or the form in which values are stored, have changed"});
    assert_eq!((exit, &answer["next"]), (0, &again));
    let mut walvec = context.start(&items()).await?;
    assert_eq!(walvec.caught_up(&context).await?.generation.0, 2, "run did what check had said");
    walvec.stop().await
}

/// Returns the details of everything that the check reports as an error.
fn errors(answer: &Value) -> String {
    let checks = answer["checks"].as_array().cloned().unwrap_or_default();
    let errors = checks.iter().filter(|check| check["result"] == "error");
    errors.map(|check| check["detail"].to_string()).collect::<Vec<_>>().join("\n")
}

/// Returns what `walvec run` prints before it ends with this exit code.
async fn refused(context: &TestContext, exit: i32) -> Result<String> {
    let output = context.walvec(&["run"]).await?;
    let told = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(exit), "{told}");
    Ok(told)
}

async fn a_filter_that_postgresql_refuses_stops_check_and_run_with_its_key(context: TestContext) -> Result<()> {
    create(&context).await?;
    context.execute("CREATE TYPE mood AS ENUM ('ok'); ALTER TABLE items ADD mood mood, ADD at timestamptz").await?;
    for filter in ["mood = 'ok'", "at > now()", "nosuch = 1", "id::text = '5'"] {
        let settings =
            Settings::new([Collection::new("items", "public.items", "{{ name }}").with("where", json!(filter))]);
        let (answer, exit) = check(&context, &settings).await?;
        let errors = errors(&answer);
        assert_eq!((exit, &answer["next"]), (1, &Value::Null), "{filter}: {answer:#}");
        assert!(errors.contains("`collections[0].where`") && errors.contains("E_CONFIG"), "{filter}: {errors}");
        let told = refused(&context, 2).await?;
        assert!(told.contains("`collections[0].where`") && told.ends_with("E_CONFIG\n"), "{filter}: {told}");
        assert!(context.sql.query("SELECT FROM pg_publication", &[]).await?.is_empty(), "{filter}");
    }
    Ok(())
}

async fn a_template_with_a_generated_column_works_on_18_and_is_explained_before(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TABLE items (id int PRIMARY KEY, name text, loud text GENERATED ALWAYS AS (upper(name)) STORED);
             INSERT INTO items (id, name) VALUES (1, 'one'), (2, 'two')",
        )
        .await?;
    let settings = Settings::new([Collection::new("items", "public.items", "{{ loud }}")]);
    let (answer, exit) = check(&context, &settings).await?;
    if context.server.version().major < 18 {
        let errors = errors(&answer);
        assert!(exit == 1 && errors.contains("generated as upper(name)") && errors.contains("E_SCHEMA"), "{errors}");
        let told = refused(&context, 3).await?;
        assert!(told.contains("generated as upper(name)") && told.ends_with("E_SCHEMA\n"), "{told}");
        return Ok(());
    }
    assert_eq!((exit, &answer["next"]["action"]), (0, &json!("read")), "{answer:#}");
    let mut walvec = context.start(&settings).await?;
    context.execute("UPDATE items SET name = 'three' WHERE id = 2").await?;
    walvec.caught_up(&context).await?;
    let output = context.walvec(&["verify"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let points = walvec.get("/api/v1/points", &[("limit", "10")]).await?.text().await?;
    assert!(points.contains("\"ONE\"") && points.contains("\"THREE\"") && !points.contains("\"TWO\""), "{points}");
    walvec.stop().await
}

async fn a_column_that_the_owner_hides_is_nowhere(context: TestContext) -> Result<()> {
    let role = format!("hidden_{}", context.slot());
    context
        .execute(&format!(
            "CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'p';
             CREATE TABLE items (id int PRIMARY KEY, name text, password_hash text);
             INSERT INTO items SELECT g, 'name ' || g, 'hidden-secret-' || g FROM generate_series(1, 50) g;
             GRANT SELECT (id, name) ON items TO {role};
             CREATE PUBLICATION {slot} FOR TABLE items (id, name) WITH (publish_via_partition_root = true)",
            slot = context.slot()
        ))
        .await?;
    let url = context.url();
    let (_, place) = url.rsplit_once('@').context("no host in the URL")?;
    let source = json!({ "url": format!("postgres://{role}:p@{place}"), "publication": context.slot() });
    let settings = items().with("source", source);
    let (answer, exit) = check(&context, &settings).await?;
    assert_eq!(exit, 0, "{answer:#}");
    let mut walvec = context.start(&settings).await?;
    context.execute("UPDATE items SET password_hash = 'hidden-secret-new', name = 'changed' WHERE id < 10").await?;
    walvec.caught_up(&context).await?;
    let output = context.walvec(&["backfill", "--table", "public.items"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let points = walvec.get("/api/v1/points", &[("limit", "100")]).await?.text().await?;
    assert!(points.contains("changed") && !points.contains("hidden-secret") && !points.contains("password_hash"));
    walvec.stop().await?;
    let found = files_with(&context.data_directory(), b"hidden-secret")?;
    assert!(found.is_empty(), "the secret is in {found:?}");
    context.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await
}

/// Returns the files under a directory that contain `bytes`.
fn files_with(directory: &Path, bytes: &[u8]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_with(&path, bytes)?);
        } else if std::fs::read(&path)?.windows(bytes.len()).any(|window| window == bytes) {
            found.push(path);
        }
    }
    Ok(found)
}

async fn a_forgotten_prepared_transaction_is_in_log_and_status_with_what_ends_it(context: TestContext) -> Result<()> {
    create(&context).await?;
    context.execute("CREATE TABLE other (id int)").await?;
    let forget = |gid: &str| format!("BEGIN; INSERT INTO other VALUES (1); PREPARE TRANSACTION '{gid}'");
    let told = |status: &Status, gid: &str| {
        let end = format!("ROLLBACK PREPARED '{gid}';");
        status
            .problem
            .as_ref()
            .is_some_and(|problem| problem.remedy.as_ref().is_some_and(|remedy| remedy.contains(&end)))
    };
    context.execute(&forget("first")).await?;
    let mut walvec = context.start(&items()).await?;
    let began = Instant::now();
    let waiting = walvec.wait_for("the first copy says what it waits for", |status| told(status, "first")).await?;
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    assert_eq!((waiting.phase, waiting.lag_ms, waiting.lag_bytes), (Phase::Snapshot, None, None), "{waiting:?}");
    let shown = String::from_utf8(context.walvec(&["status"]).await?.stdout)?;
    assert!(shown.contains("ROLLBACK PREPARED 'first';") && shown.contains("lag unknown"), "{shown}");
    assert!(std::fs::read_to_string(walvec.log())?.contains("ROLLBACK PREPARED 'first';"));
    context.execute("ROLLBACK PREPARED 'first'").await?;
    walvec.caught_up(&context).await?;
    walvec.wait_for("the problem is over", |status| status.problem.is_none()).await?;

    context.execute(&forget("second")).await?;
    let (backfilled, released) = tokio::join!(context.walvec(&["backfill", "--table", "public.items"]), async {
        walvec.wait_for("the backfill says what it waits for", |status| told(status, "second")).await?;
        context.execute("ROLLBACK PREPARED 'second'").await
    });
    released?;
    assert!(backfilled?.status.success());
    walvec.wait_for("the problem is over", |status| status.problem.is_none()).await?;
    walvec.stop().await
}

async fn check_says_that_a_reindex_is_needed_while_walvec_runs_and_when_it_does_not(
    context: TestContext,
) -> Result<()> {
    create(&context).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    let other = Settings::new([Collection::new("items", "public.items", "about {{ name }}")]);
    let told = |answer: &Value| -> String {
        let checks = answer["checks"].as_array().cloned().unwrap_or_default();
        let stale = checks.iter().find(|check| check["detail"]["code"] == "E_FINGERPRINT");
        stale.map(|check| check["detail"]["message"].to_string()).unwrap_or_default()
    };
    let mut running = Some(walvec);
    for _ in 0..2 {
        let (answer, exit) = check(&context, &other).await?;
        assert_eq!((exit, &answer["next"]), (1, &Value::Null), "{answer:#}");
        let told = told(&answer);
        assert!(told.contains("about {{ name }}") && told.contains("was built with text"), "{told}");
        let shown = String::from_utf8(context.walvec(&["check"]).await?.stdout)?;
        assert!(shown.contains("Needs `walvec reindex`") && !shown.contains("Ready"), "{shown}");
        // Check again while walvec does not run.
        if let Some(walvec) = running.take() {
            walvec.stop().await?;
        }
    }
    let refused = context.walvec(&["run"]).await?;
    assert!(String::from_utf8(refused.stderr)?.ends_with("E_FINGERPRINT\n"));
    let output = context.walvec(&["reindex"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (answer, exit) = check(&context, &other).await?;
    assert_eq!((exit, &answer["next"]["action"]), (0, &json!("resume")), "{answer:#}");
    Ok(())
}
