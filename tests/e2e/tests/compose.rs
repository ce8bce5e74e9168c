//! The database role that compose.yaml sets up.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use walvec_e2e::{Collection, Settings, Test, TestContext, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![test!(the_role_of_compose_is_enough_for_every_command_and_can_change_nothing).since(15)]
}

const ROLE: &str = include_str!("../../../compose/role.sql");

async fn the_role_of_compose_is_enough_for_every_command_and_can_change_nothing(context: TestContext) -> Result<()> {
    let books = "CREATE TABLE books (id int PRIMARY KEY, name text, author text, year int, description text);
        INSERT INTO books VALUES (1, 'Dune', 'Frank Herbert', 1965, 'worms'), (2, 'Emma', 'Jane Austen', 1815, 'matches')";
    context.execute(books).await?;
    // This does what psql would do, on a server that other tests use too.
    let role = format!("compose_{}", context.slot());
    let statements: String =
        ROLE.lines().filter(|line| !line.starts_with('\\')).map(|line| format!("{line}\n")).collect();
    ensure!(statements.contains("CREATE ROLE walvec "), "{statements}");
    let statements =
        statements.replace("ROLE walvec", &format!("ROLE {role}")).replace("TO walvec", &format!("TO {role}"));
    context.execute(&statements.replace(":'password'", "'p'")).await?;
    let url = context.url();
    let (_, place) = url.rsplit_once('@').context("no host in the URL")?;
    let collection = Collection::new("books", "public.books", "{{ name }} by {{ author }}. {{ description }}")
        .with("payload", json!(["name", "author", "year", "description"]))
        .with("index", json!({ "year": "integer", "author": "keyword" }));
    let url = format!("postgres://{role}:p@{place}");
    let settings = Settings::new([collection]).with("source", json!({ "url": url }));
    context.configure(&settings)?;
    succeeds(&context, &["check"]).await?;
    let mut walvec = context.start(&settings).await?;
    context.execute("INSERT INTO books VALUES (3, 'Moby-Dick', 'Herman Melville', 1851, 'a whale')").await?;
    walvec.caught_up(&context).await?;
    assert_eq!(walvec.search("whale", 5).await?.len(), 3);
    succeeds(&context, &["verify"]).await?;
    succeeds(&context, &["backfill", "--table", "public.books"]).await?;
    succeeds(&context, &["resync"]).await?;
    walvec.wait_for("the tables were read again", |status| status.generation.0 > 1).await?;
    walvec.caught_up(&context).await?;
    let (session, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    for statement in
        ["INSERT INTO books VALUES (4)", "DROP PUBLICATION walvec", "CREATE TABLE mine ()", "CREATE ROLE other"]
    {
        let refused = session.batch_execute(statement).await;
        let code = refused.as_ref().err().and_then(tokio_postgres::Error::code);
        assert_eq!(code, Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE), "{statement}: {refused:?}");
    }
    drop(session);
    connection.await??;
    walvec.stop().await?;
    succeeds(&context, &["reset", "--force", "--purge"]).await?;
    context.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await
}

async fn succeeds(context: &TestContext, arguments: &[&str]) -> Result<()> {
    let output = context.walvec(arguments).await?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "walvec {arguments:?}: {}: {told}", output.status);
    Ok(())
}
