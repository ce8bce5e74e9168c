//! What `walvec check` says is missing can be pasted, and what it says of `walvec run` is what that does.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use walvec_e2e::{Collection, Settings, Test, TestContext, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(all_that_a_role_lacks_is_told_at_once_in_statements_that_succeed),
        test!(check_says_whether_run_will_read_the_tables_and_why),
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

/// What `walvec check` answers, and its exit code.
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
    let again = json!({"action": "read_again", "tables": 1, "why": "the columns of a table have changed"});
    assert_eq!((exit, &answer["next"]), (0, &again));
    let mut walvec = context.start(&items()).await?;
    assert_eq!(walvec.caught_up(&context).await?.generation.0, 2, "run did what check had said");
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
        // Once more without it.
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
