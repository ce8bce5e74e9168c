//! Many tables in one process: what a start, an idle second and a change cost does not grow with their number.

use std::ops::Range;

use anyhow::{Result, ensure};
use serde_json::json;
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, Walvec, image, test, wait};
use walvec_test_qdrant::{Call, TestServer};

const LOGGED: &[(&str, &str)] = &[("log_statement", "all"), ("autovacuum", "off")];

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_start_with_many_tables_takes_as_many_statements_as_one_with_few).on_own_server(LOGGED).once(),
        test!(changes_of_many_tables_take_no_statement_for_each).on_own_server(LOGGED).once(),
        test!(a_value_that_was_not_sent_is_read_without_a_look_at_the_other_tables).on_own_server(LOGGED).once(),
        test!(many_idle_tables_cost_two_statements_a_second).on_own_server(LOGGED).once(),
        test!(many_idle_collections_cost_a_server_no_more_than_a_few_dozen).once(),
        test!(many_collections_of_a_server_are_an_exact_image_of_their_tables).once(),
    ]
}

const FEW: usize = 3;
const MANY: usize = 60;

async fn create(context: &TestContext, tables: Range<usize>) -> Result<()> {
    for n in tables {
        context
            .execute(&format!(
                "CREATE TABLE t{n} (id int PRIMARY KEY, name text, n int, body text);
                 ALTER TABLE t{n} ALTER body SET STORAGE EXTERNAL; INSERT INTO t{n} VALUES (1, 'name {n}', 0, repeat('x', 3000))"
            ))
            .await?;
    }
    Ok(())
}

fn settings(tables: usize) -> Settings {
    let collection = |n| Collection::new(&format!("t{n}"), &format!("public.t{n}"), "{{ name }} {{ body }}");
    Settings::new((0..tables).map(collection))
}

async fn running(context: &TestContext, settings: &Settings) -> Result<Walvec> {
    let mut walvec = context.start(settings).await?;
    walvec.caught_up(context).await?;
    Ok(walvec)
}

/// Returns the number of statements sent to the server, without those that change or analyse tables, which are the application's; and
/// how many of them asked for the server's position. Each check of the catalogue asks for it once.
fn statements(context: &TestContext) -> Result<(usize, usize)> {
    let log = std::fs::read_to_string(context.cluster().log())?;
    let sent = log.lines().filter(|line| line.contains("execute ") || line.contains("statement: "));
    let sent = sent.filter(|line| !["INSERT", "UPDATE", "ANALYZE"].iter().any(|verb| line.contains(verb)));
    let (all, looks) = sent.fold((0, 0), |(all, looks), line| {
        (all + 1, looks + usize::from(line.contains("SELECT pg_current_wal_flush_lsn()")))
    });
    Ok((all, looks))
}

/// Returns how many statements were sent since `before`, without those that each check takes.
fn besides_looks(context: &TestContext, before: (usize, usize)) -> Result<usize> {
    let now = statements(context)?;
    Ok((now.0 - before.0).saturating_sub(2 * (now.1 - before.1)))
}

/// Returns how many statements a start takes if slot, publication and collections already exist.
async fn statements_of_a_start(context: &TestContext, tables: usize) -> Result<usize> {
    running(context, &settings(tables)).await?.stop().await?;
    let before = statements(context)?;
    let walvec = running(context, &settings(tables)).await?;
    let taken = besides_looks(context, before)?;
    walvec.stop().await?;
    Ok(taken)
}

async fn a_start_with_many_tables_takes_as_many_statements_as_one_with_few(context: TestContext) -> Result<()> {
    create(&context, 0..MANY).await?;
    let few = statements_of_a_start(&context, FEW).await?;
    let many = statements_of_a_start(&context, MANY).await?;
    // The number of checks varies by chance.
    ensure!(many <= few + 5, "{few} statements for {FEW} tables, {many} for {MANY}");
    Ok(())
}

async fn changes_of_many_tables_take_no_statement_for_each(context: TestContext) -> Result<()> {
    create(&context, 0..MANY).await?;
    let mut walvec = running(&context, &settings(MANY)).await?;
    let before = statements(&context)?;
    // The server describes a table in the stream before its first change, and again after each ANALYZE.
    for id in 2..4 {
        for n in 0..MANY {
            context.execute(&format!("INSERT INTO t{n} VALUES ({id}, 'name {id} of {n}')")).await?;
        }
        context.execute("ANALYZE").await?;
    }
    walvec.caught_up(&context).await?;
    let besides = besides_looks(&context, before)?;
    ensure!(besides < MANY / 4, "{besides} statements besides the looks");
    walvec.stop().await
}

async fn a_value_that_was_not_sent_is_read_without_a_look_at_the_other_tables(context: TestContext) -> Result<()> {
    create(&context, 0..MANY).await?;
    let mut walvec = running(&context, &settings(MANY)).await?;
    let refetched = async |walvec: &mut Walvec| -> Result<usize> {
        let before = statements(&context)?;
        // The body is a part of the text, but is not sent.
        context.execute("UPDATE t7 SET name = name || '!'").await?;
        walvec.caught_up(&context).await?;
        besides_looks(&context, before)
    };
    let (first, second) = (refetched(&mut walvec).await?, refetched(&mut walvec).await?);
    ensure!(first < 20, "{first} statements for the first value");
    ensure!(second < 6, "{second} statements for a further one");
    walvec.stop().await?;
    let expected = Expected::of("t7", |row| {
        format!("{} {}", row["name"].as_str().unwrap_or_default(), row["body"].as_str().unwrap_or_default())
    });
    ensure!(image::compare(&context, &expected).await? == 1);
    Ok(())
}

async fn many_idle_tables_cost_two_statements_a_second(context: TestContext) -> Result<()> {
    create(&context, 0..MANY).await?;
    let walvec = running(&context, &settings(MANY)).await?;
    let before = statements(&context)?;
    wait::until("ten looks were taken", async || Ok((statements(&context)?.1 >= before.1 + 10).then_some(()))).await?;
    let more = besides_looks(&context, before)?;
    ensure!(more <= 2, "{more} statements besides two a look");
    walvec.stop().await
}

fn on(server: &TestServer) -> Settings {
    settings(MANY).with("sink", json!({ "qdrant": { "url": server.url() } }))
}

async fn many_idle_collections_cost_a_server_no_more_than_a_few_dozen(context: TestContext) -> Result<()> {
    const LOOKS: usize = 4;
    let server = TestServer::start()?;
    create(&context, 0..MANY).await?;
    let mut walvec = running(&context, &on(&server)).await?;
    // Every collection has its turn.
    walvec.wait_for("all are counted", |status| status.collections.iter().all(|one| one.points == Some(1))).await?;
    server.reset_calls();
    let counted = wait::until("some looks were taken", async || {
        let calls = server.calls();
        Ok((calls.of(Call::Count) > LOOKS * MANY / 2).then_some(calls))
    })
    .await?;
    // Each second walvec counts half of the collections, and checks the last writes of some of them.
    let (counts, others) = (counted.of(Call::Count), counted.total() - counted.of(Call::Count));
    ensure!(others <= counts + MANY, "{counts} counts, {others} other calls");
    ensure!(counted.writes() == 0, "{counted:?}");
    walvec.stop().await
}

async fn many_collections_of_a_server_are_an_exact_image_of_their_tables(context: TestContext) -> Result<()> {
    let server = TestServer::start()?;
    create(&context, 0..MANY).await?;
    let mut walvec = running(&context, &on(&server)).await?;
    for n in 0..MANY {
        let changes = format!(
            "INSERT INTO t{n} SELECT g, 'name ' || g, g, 'body' FROM generate_series(2, 5) g; DELETE FROM t{n} WHERE id = 1 + {n} % 5;
             UPDATE t{n} SET name = 'changed' WHERE id = 1 + ({n} + 1) % 5"
        );
        context.execute(&changes).await?;
    }
    walvec.caught_up(&context).await?;
    let verified = context.walvec(&["verify"]).await?;
    let words = [&verified.stdout, &verified.stderr].map(|words| String::from_utf8_lossy(words).into_owned());
    ensure!(verified.status.success(), "{}", words.concat());
    walvec.stop().await?;
    let mut walvec = running(&context, &on(&server)).await?;
    let all =
        walvec.wait_for("all are counted again", |status| status.collections.iter().all(|one| one.points.is_some()));
    let all = all.await?;
    ensure!(all.collections.iter().all(|one| one.points == Some(4)), "{all:?}");
    walvec.stop().await
}
