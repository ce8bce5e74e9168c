//! Random changes of all tables, through kills, workers and `walvec verify`: documents end as the join.

use std::time::Duration;

use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::Signal;
use serde_json::{Value, json};
use walvec_e2e::{Kafka, Test, TestContext, image, test, wait};
use walvec_test_kafka::can_test;
use walvec_test_qdrant::TestServer;

use super::{CHANGES, ROWS, SCHEMA, assert_equal, books, books_on, filled, image_of_books};
use crate::broker::captured;
use crate::faults::new_seed;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(documents_end_as_the_join_whenever_walvec_is_killed),
        test!(documents_end_as_the_join_through_a_broker_with_two_workers).once(),
        test!(verify_finds_no_difference_while_looked_up_rows_change).once(),
    ]
}

/// Returns a random change of one of the tables.
fn random_change(random: &mut StdRng) -> String {
    let (book, author, review) = (random.random_range(1..40), random.random_range(1..12), random.random_range(1..120));
    let number: u32 = random.random_range(0..1000);
    match random.random_range(0..12) {
        0 => format!("INSERT INTO reviews VALUES ({review}, {book}, 'r{number}', {number} % 5) ON CONFLICT DO NOTHING"),
        1 => format!("UPDATE reviews SET text = 't{number}' WHERE id % 9 = {number} % 9"),
        2 => format!("UPDATE reviews SET book_id = {book} WHERE id = {review}"),
        3 => format!("DELETE FROM reviews WHERE id = {review}"),
        4 => format!("UPDATE authors SET name = 'n{number}' WHERE id = {author}"),
        5 => format!("DELETE FROM authors WHERE id = {author}"),
        6 => format!("INSERT INTO authors VALUES ({author}, 'a{number}') ON CONFLICT DO NOTHING"),
        7 => format!("UPDATE books SET author_id = {author} WHERE id % 5 = {number} % 5"),
        8 => format!("DELETE FROM books WHERE id = {book}"),
        9 => format!("INSERT INTO books VALUES ({book}, 'b{number}', {author}, 'd') ON CONFLICT DO NOTHING"),
        10 => format!("UPDATE books SET id = {book} + 50 WHERE id = {book} AND NOT EXISTS (SELECT FROM books WHERE id = {book} + 50)"),
        _ => format!(
            "BEGIN; DELETE FROM books WHERE id = {book}; INSERT INTO books VALUES ({book}, 'again', {author}, '');
             UPDATE reviews SET book_id = {book} WHERE id % 13 = {number} % 13; UPDATE authors SET name = name || 'x' WHERE id = {author}; COMMIT"
        ),
    }
}

/// The pause of a session between two changes: three sessions together must not be faster than a busy machine can
/// follow.
const REST: Duration = Duration::from_millis(40);

/// Sessions that change the tables at random until they are stopped.
struct Writers {
    stop: tokio::sync::watch::Sender<bool>,
    tasks: Vec<tokio::task::JoinHandle<Result<()>>>,
}

impl Writers {
    async fn start(context: &TestContext, seed: u64) -> Result<Self> {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut tasks = Vec::new();
        for number in 0..3 {
            let (session, stopped) = (context.connect().await?, stopped.clone());
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(number));
            tasks.push(tokio::spawn(async move {
                while !*stopped.borrow() {
                    let changed = session.batch_execute(&random_change(&mut random)).await;
                    // Two sessions may deadlock or insert the same key: then one of them goes on with another change.
                    if changed.is_err_and(|error| error.as_db_error().is_none()) {
                        anyhow::bail!("the session broke");
                    }
                    session.batch_execute("ROLLBACK").await?;
                    tokio::time::sleep(REST).await;
                }
                Ok(())
            }));
        }
        Ok(Self { stop, tasks })
    }

    async fn stop(self) -> Result<()> {
        self.stop.send_replace(true);
        for task in self.tasks {
            task.await??;
        }
        Ok(())
    }
}

async fn documents_end_as_the_join_whenever_walvec_is_killed(context: TestContext) -> Result<()> {
    let seed = new_seed();
    let mut random = StdRng::seed_from_u64(seed);
    let settings = books().with("pipeline", json!({ "batch_rows": 16 }));
    let mut walvec = filled(&context, &settings).await?;
    for round in 0..5 {
        let writers = Writers::start(&context, seed.wrapping_add(100 * round)).await?;
        // The moment is random on purpose: the kill has to meet every step.
        tokio::time::sleep(Duration::from_millis(random.random_range(100..700))).await;
        walvec.signal(Signal::KILL)?;
        walvec.end().await?;
        walvec = context.start(&settings).await?;
        writers.stop().await?;
    }
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    image::compare(&context, &image_of_books()).await.with_context(|| format!("seed {seed}"))?;
    Ok(())
}

async fn documents_end_as_the_join_through_a_broker_with_two_workers(context: TestContext) -> Result<()> {
    if !can_test("lookups behind a broker") {
        return Ok(());
    }
    let seed = new_seed();
    let (kafka, server) = (Kafka::shared(&context).await?, TestServer::start()?);
    let settings = kafka.carries(books_on(&server));
    context.execute(SCHEMA).await?;
    context.execute(ROWS).await?;
    let mut capture = captured(&context, &settings).await?;
    let mut one = context.start_stage(&settings, "index", "one").await?;
    let mut two = context.start_stage(&settings, "index", "two").await?;
    for change in CHANGES {
        context.execute(change).await?;
    }
    kafka.indexed(&context, &mut capture, &mut [&mut one, &mut two]).await?;
    image::compare_on_server(&context, &image_of_books(), &server.url()).await?;
    let writers = Writers::start(&context, seed).await?;
    for killed in [&mut one, &mut two] {
        tokio::time::sleep(Duration::from_millis(700)).await;
        killed.is_alive()?;
    }
    capture.signal(Signal::KILL)?;
    capture.end().await?;
    let mut capture = wait::until("the killed capture had let go", async || {
        match context.start_stage(&settings, "capture", "1").await {
            Ok(walvec) => Ok(Some(walvec)),
            Err(error) if format!("{error:#}").contains("E_LOCKED") => Ok(None),
            Err(error) => Err(error),
        }
    })
    .await?;
    writers.stop().await?;
    context.execute("TRUNCATE reviews").await?;
    context.execute("INSERT INTO reviews SELECT g, g, 'once more', 0 FROM generate_series(1, 30) g").await?;
    kafka.indexed(&context, &mut capture, &mut [&mut one, &mut two]).await?;
    let compared = image::compare_on_server(&context, &image_of_books(), &server.url()).await;
    compared.with_context(|| format!("seed {seed}"))?;
    for stage in [capture, one, two] {
        stage.stop().await?;
    }
    Ok(())
}

async fn verify_finds_no_difference_while_looked_up_rows_change(context: TestContext) -> Result<()> {
    let seed = new_seed();
    let mut walvec = filled(&context, &books()).await?;
    let writers = Writers::start(&context, seed).await?;
    for _ in 0..3 {
        let report = context.walvec(&["verify", "--json"]).await?;
        let report: Value = serde_json::from_slice(&report.stdout)?;
        let found = ["missing", "extra", "stale", "chunks", "bad_vectors"].map(|sort| report[sort].as_u64());
        assert_eq!(found, [Some(0); 5], "seed {seed}: {report:#}");
    }
    writers.stop().await?;
    walvec.caught_up(&context).await?;
    let report = assert_equal(&context, &["verify", "--json", "--sample", "all"]).await?;
    assert_eq!(report["unsettled"], 0);
    walvec.stop().await
}
