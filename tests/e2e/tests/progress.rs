//! Long work reports its progress: rows so far and in total, the rate, the time left, and what holds it up.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use walvec_e2e::{Collection, Settings, Test, TestContext, test, wait};
use walvec_test_providers::{Fault, TestProvider};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(long_work_says_every_ten_seconds_how_far_it_is).once(),
        test!(a_backfill_says_that_it_waits_for_postgresql).on_own_server(&[]).once(),
        test!(a_json_log_ends_in_json).once(),
        test!(a_terminal_that_goes_away_stops_walvec_in_order).once(),
    ]
}

const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, name text);
    INSERT INTO items SELECT g, 'name ' || g FROM generate_series(1, 600) g;
    ANALYZE items";

fn items(text: &str) -> Settings {
    Settings::new([Collection::new("items", "public.items", text)])
}

async fn long_work_says_every_ten_seconds_how_far_it_is(context: TestContext) -> Result<()> {
    let provider = TestProvider::start().await?;
    let slow = |text| {
        let embedding = json!({
            "model": "openai/m", "url": provider.openai_url(), "api_key": "k", "batch_items": 10, "concurrency": 2,
        });
        items(text).with("embedding", embedding)
    };
    context.execute(TABLE).await?;
    // Sixty requests, two at a time, take a quarter of a minute.
    provider.always(Some(Fault::Slow(Duration::from_millis(500))));
    let mut walvec = context.start(&slow("{{ name }}")).await?;
    wait::until("the log said how far the snapshot was", async || {
        let log = fs::read_to_string(walvec.log())?;
        let told = log.lines().any(|line| {
            line.contains("snapshot rows=") && line.contains("estimated=600") && line.contains("seconds_left=")
        });
        Ok(told.then_some(()))
    })
    .await?;
    walvec.caught_up(&context).await?;

    context.configure(&slow("{{ name }}!"))?;
    let output = context.walvec(&["reindex"]).await?;
    let told = String::from_utf8(output.stderr)?;
    ensure!(output.status.success(), "{told}");
    let line = told.lines().find(|line| line.starts_with("==> copying: ")).context(told.clone())?;
    ensure!(line.contains(" of about 600 rows, ") && line.contains(" rows/s, about "), "{line}");
    walvec.stop().await
}

async fn a_backfill_says_that_it_waits_for_postgresql(mut context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items("{{ name }}")).await?;
    walvec.caught_up(&context).await?;
    context.cluster().stop_immediate().await?;
    walvec.wait_for("PostgreSQL's absence is reported", |status| status.problem.is_some()).await?;
    let backfill = async { context.walvec(&["backfill", "--table", "public.items"]).await };
    let back = async {
        wait::until("the backfill says what it waits for", async || {
            let task: Value = walvec.get("/api/v1/tasks/1", &[]).await?.json().await?;
            Ok(task["step"].as_str().is_some_and(|step| step.starts_with("waiting: ")).then_some(()))
        })
        .await?;
        Ok(context.cluster().start_again().await?)
    };
    let (output, ()) = tokio::try_join!(backfill, back)?;
    let told = String::from_utf8(output.stderr)?;
    ensure!(output.status.success() && told.contains("==> waiting: "), "{told}");
    assert_eq!(String::from_utf8(output.stdout)?, "600 rows of public.items were read again.\n");
    context.reconnect().await?;
    walvec.stop().await
}

async fn a_json_log_ends_in_json(context: TestContext) -> Result<()> {
    context.configure(&items("{{ name }}"))?;
    let output = context.walvec(&["run", "--log-format", "json"]).await?;
    assert_eq!(output.status.code(), Some(3));
    let log = String::from_utf8(output.stderr)?;
    let lines: Vec<Value> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>().context(log.clone())?;
    let last = &lines.last().context("nothing was logged")?;
    assert_eq!((&last["level"], &last["fields"]["code"]), (&json!("ERROR"), &json!("E_TABLE")), "{last}");
    Ok(())
}

/// Prints a clear notice where this cannot be tested.
#[allow(clippy::print_stderr)]
async fn a_terminal_that_goes_away_stops_walvec_in_order(context: TestContext) -> Result<()> {
    if is_hangup_ignored()? {
        eprintln!("NOT TRIED: these tests run under nohup, and walvec with them");
        return Ok(());
    }
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items("{{ name }}")).await?;
    walvec.caught_up(&context).await?;
    walvec.signal(Signal::HUP)?;
    ensure!(walvec.end().await?.success());
    let status = String::from_utf8(context.walvec(&["status"]).await?.stdout)?;
    ensure!(status.contains("it was asked to stop"), "{status}");
    Ok(())
}

/// Returns whether this process ignores SIGHUP. The programs that it starts inherit that.
fn is_hangup_ignored() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let Some(ignored) = status.lines().find_map(|line| line.strip_prefix("SigIgn:")) else { return Ok(false) };
    let bit = 1 << (Signal::HUP.as_raw() - 1);
    Ok(u64::from_str_radix(ignored.trim(), 16)? & bit != 0)
}
