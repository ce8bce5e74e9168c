//! Measures walvec with a provider that answers a limited number of requests per second, and refuses every second
//! request.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;
use walvec_test_providers::{Fault, TestProvider};

use crate::Plan;
use crate::program::{Settings, Walvec};
use crate::workbench::Workbench;

/// The number of rows. It is so large that the last requests count for little: when they have to wait, no others take
/// their place.
const ROWS: u32 = 40_000;
/// How many requests are answered a second.
const LIMIT: f64 = 20.0;
/// How many texts go into a request.
const ITEMS: u32 = 32;
const POLL: Duration = Duration::from_millis(20);

/// Where the rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// The rows were there before walvec started.
    Snapshot,
    /// The rows are inserted at once.
    Stream,
}

/// The results.
struct AtALimit {
    from: From,
    /// Texts per second that the limit allows.
    allowed: f64,
    /// Texts per second that walvec embedded.
    measured: f64,
    /// The share of requests that were answered 429.
    refused: f64,
    /// Rows without a point in the end.
    lost: u64,
}

pub(crate) async fn measure(plan: &Plan, workbench: &Workbench) -> anyhow::Result<String> {
    Ok(section(&[of(plan, workbench, From::Snapshot).await?, of(plan, workbench, From::Stream).await?])?)
}

async fn of(plan: &Plan, workbench: &Workbench, from: From) -> anyhow::Result<AtALimit> {
    const NAME: &str = "provider";
    let provider = TestProvider::start().await?;
    let url = workbench.cluster.create_database(NAME).await?;
    let client = workbench.cluster.connect(NAME).await?;
    client.batch_execute("CREATE TABLE books (id integer PRIMARY KEY, body text NOT NULL)").await?;
    let insert =
        format!("INSERT INTO books SELECT i, 'a book about ' || md5(i::text) FROM generate_series(1, {ROWS}) i");
    let directory = tempfile::tempdir()?;
    let embedding = json!({"url": provider.openai_url(), "api_key": "key", "batch_items": ITEMS});
    let settings = Settings { embedding: Some(embedding), ..Settings::new(&url, "{{ body }}", "openai/m") };
    let limit = || {
        provider.allow(LIMIT);
        provider.every_second(Some(Fault::TooManyRequests("1".to_owned())));
        (provider.asked().len(), Instant::now())
    };
    let (walvec, (before, began)) = match from {
        From::Snapshot => {
            client.batch_execute(&insert).await?;
            let began = limit();
            (Walvec::start(plan, &settings, directory.path()).await?, began)
        }
        From::Stream => {
            let walvec = Walvec::start(plan, &settings, directory.path()).await?;
            let began = limit();
            client.batch_execute(&insert).await?;
            (walvec, began)
        }
    };
    walvec.reached(&client, POLL).await?;
    let seconds = began.elapsed().as_secs_f64();
    let asked = provider.asked().split_off(before);
    let refused = asked.iter().filter(|asked| asked.status == 429).count();
    let points = walvec.points().await?.len();
    walvec.stop().await?;
    client.execute("SELECT pg_drop_replication_slot('walvec')", &[]).await?;
    drop(client);
    workbench.cluster.drop_database(NAME).await?;
    ensure!(!asked.is_empty(), "the provider was never asked");
    #[expect(clippy::cast_precision_loss, reason = "a share of some thousand requests")]
    let refused = refused as f64 / asked.len() as f64;
    Ok(AtALimit {
        from,
        allowed: LIMIT * f64::from(ITEMS),
        measured: f64::from(ROWS) / seconds,
        refused,
        lost: u64::from(ROWS).saturating_sub(points as u64),
    })
}

/// Returns the section for BENCHMARKS.md.
fn section(measured: &[AtALimit]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(
        text,
        "## A provider at its limit\n\n{ROWS} rows, embedded over HTTP by a provider that answers 20 requests of 32 texts a second, and \
         answers 429 (retry after\na second) to requests above this rate, and to every second request of the others.\n\n\
         | rows come from | texts/s allowed | rows/s | of what is allowed | target | answered 429 | rows without a point |\n\
         |---|---|---|---|---|---|---|"
    )?;
    for AtALimit { from, allowed, measured, refused, lost } in measured {
        let from = match from {
            From::Snapshot => "the table, as it was",
            From::Stream => "one transaction",
        };
        let (share, refused) = (measured / allowed, refused * 100.0);
        writeln!(text, "| {from} | {allowed:.0} | {measured:.0} | {share:.2} | ≥ 0.80 | {refused:.0} % | {lost} |")?;
    }
    writeln!(text)?;
    Ok(text)
}
