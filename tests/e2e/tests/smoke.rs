//! A row from its commit to a search, and through a restart and a kill.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, image, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(rows_from_before_the_start_and_after_it_can_be_found),
        test!(a_restart_goes_on_where_it_stopped),
        test!(a_kill_loses_nothing),
        test!(a_filter_that_would_break_the_applications_own_statements_is_refused).since(15),
        test!(a_row_that_leaves_the_filter_is_gone).since(15),
        test!(rows_are_found_by_dates_and_times),
        test!(a_crash_of_the_server_loses_nothing).on_own_server(&[]),
    ]
}

const BOOKS: &str = "
    CREATE TABLE books (id bigint PRIMARY KEY, name text NOT NULL, author text, year int);
    INSERT INTO books VALUES
        (1, 'The War of the Worlds', 'H. G. Wells', 1898),
        (2, 'Middlemarch', 'George Eliot', 1871),
        (3, 'Beowulf', NULL, NULL)";

fn settings() -> Settings {
    Settings::new([Collection::new("books", "public.books", "{{ name }} by {{ author }}")])
}

fn books() -> Expected {
    Expected::of("books", |row| {
        let text = |column: &str| row[column].as_str().unwrap_or_default().to_owned();
        format!("{} by {}", text("name"), text("author"))
    })
}

async fn rows_from_before_the_start_and_after_it_can_be_found(context: TestContext) -> Result<()> {
    context.execute(BOOKS).await?;
    let mut walvec = context.start(&settings()).await?;
    walvec.caught_up(&context).await?;
    assert_eq!(best(&walvec.search("war of the worlds", 1).await?), Some(1));

    context.execute("INSERT INTO books VALUES (4, 'Moby Dick', 'Herman Melville', 1851)").await?;
    context.execute("UPDATE books SET name = 'Daniel Deronda', year = 1876 WHERE id = 2").await?;
    context.execute("DELETE FROM books WHERE id = 1").await?;
    walvec.caught_up(&context).await?;
    assert_eq!(best(&walvec.search("Moby Dick", 1).await?), Some(4));
    assert_eq!(best(&walvec.search("Daniel Deronda", 1).await?), Some(2));

    walvec.stop().await?;
    assert_eq!(image::compare(&context, &books()).await?, 3);
    Ok(())
}

async fn a_restart_goes_on_where_it_stopped(context: TestContext) -> Result<()> {
    context.execute(BOOKS).await?;
    let mut walvec = context.start(&settings()).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;

    context.execute("DELETE FROM books WHERE id = 1; UPDATE books SET id = 30 WHERE id = 3").await?;
    let mut walvec = context.start(&settings()).await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.generation.0, 1, "the rows were read again");
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &books()).await?, 2);
    Ok(())
}

async fn a_kill_loses_nothing(context: TestContext) -> Result<()> {
    context.execute(BOOKS).await?;
    let mut walvec = context.start(&settings()).await?;
    walvec.caught_up(&context).await?;
    context.execute("INSERT INTO books SELECT n, 'Volume ' || n FROM generate_series(100, 1099) n").await?;
    walvec.kill().await?;

    context.execute("DELETE FROM books WHERE id % 10 = 0; UPDATE books SET year = 1900 WHERE id % 10 = 1").await?;
    let mut walvec = context.start(&settings()).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &books()).await?, 903);
    Ok(())
}

async fn rows_are_found_by_dates_and_times(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TABLE sales (id int PRIMARY KEY, name text, day date, at timestamptz, local timestamp);
             INSERT INTO sales VALUES (1, 'a sale', '2024-01-31', '2024-01-31 23:30:00+00', '2024-01-31 12:00'),
                                      (2, 'a sale', NULL, 'infinity', NULL)",
        )
        .await?;
    let sales = Collection::new("sales", "public.sales", "{{ name }}").with("index", json!({ "at": "datetime" }));
    let mut walvec = context.start(&Settings::new([sales])).await?;
    walvec.caught_up(&context).await?;
    let streamed = "(3, 'a sale', '2024-02-01', '2024-02-01 00:30:00.5+05:30', '2024-02-01 00:00:00.25')";
    context.execute(&format!("SET TimeZone = 'Asia/Tokyo'; INSERT INTO sales VALUES {streamed}")).await?;
    walvec.caught_up(&context).await?;
    for (filter, found) in [
        ("day>=2024-01-31", &[1, 3][..]),
        ("day>2024-01-31", &[3]),
        ("at<2024-01-31T19:00:00.5Z", &[]),
        ("at<=2024-01-31T19:00:00.5Z", &[3]),
        ("at>=2024-02-01T08:30:00+09:00", &[1]),
        ("local<=2024-02-01 00:00:00.25", &[1, 3]),
        ("local<2024-02-01", &[1]),
    ] {
        let output = context.walvec(&["search", "sale", "--limit", "10", "--filter", filter, "--json"]).await?;
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        let hits = answer["hits"].as_array().context("no hits")?;
        let mut ids: Vec<i64> = hits.iter().filter_map(|hit| hit["id"].as_i64()).collect();
        ids.sort_unstable();
        assert_eq!(ids, found, "{filter}: {answer}");
    }
    let output = context.walvec(&["search", "sale", "--filter", "day>=someday"]).await?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && told.contains("2024-01-31T18:00:00Z"), "{told}");
    walvec.stop().await
}

async fn a_filter_that_would_break_the_applications_own_statements_is_refused(context: TestContext) -> Result<()> {
    let parted =
        "CREATE TABLE parted (id int, part int, year int, name text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
        CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1); INSERT INTO parted VALUES (1, 1, 1800, 'one')";
    context.execute(&format!("{BOOKS}; {parted}")).await?;
    for (table, identity) in [("books", "\"books\""), ("parted", "\"parted_1\"")] {
        let collection = Collection::new(table, &format!("public.{table}"), "{{ name }}");
        context.configure(&Settings::new([collection.with("where", "year < 1900 -- old ones".into())]))?;
        let remedy = format!("ALTER TABLE \"public\".{identity} REPLICA IDENTITY FULL;");
        for command in ["run", "check"] {
            let output = context.walvec(&[command]).await?;
            let told = [output.stdout, output.stderr].concat();
            let told = String::from_utf8_lossy(&told);
            assert!(
                !output.status.success() && told.contains("E_REPLICA_IDENTITY") && told.contains(&remedy),
                "{told}"
            );
        }
        let published: i64 = context.sql.query_one("SELECT count(*) FROM pg_publication", &[]).await?.get(0);
        assert_eq!(published, 0);
        context.execute(&remedy).await?;
        let check = context.walvec(&["check"]).await?;
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    }
    // A filter on the key needs nothing more.
    let collection = Collection::new("books", "public.books", "{{ name }}").with("where", "id % 2 = 1".into());
    context.execute("ALTER TABLE books REPLICA IDENTITY DEFAULT").await?;
    let mut walvec = context.start(&Settings::new([collection])).await?;
    walvec.caught_up(&context).await?;
    context.execute("UPDATE books SET year = 1999 WHERE id = 1").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await
}

async fn a_row_that_leaves_the_filter_is_gone(context: TestContext) -> Result<()> {
    assert!(context.server.supports_row_filters());
    // A filter on a column outside the key needs the whole old row.
    context.execute(&format!("{BOOKS}; ALTER TABLE books REPLICA IDENTITY FULL")).await?;
    let collection = Collection::new("books", "public.books", "{{ name }} by {{ author }}");
    let settings = Settings::new([collection.with("where", "year < 1900".into())]);
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;

    context.execute("UPDATE books SET year = 1999 WHERE id = 1; UPDATE books SET year = 1000 WHERE id = 3").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let filtered = Expected { filter: Some("year < 1900"), ..books() };
    assert_eq!(image::compare(&context, &filtered).await?, 2);
    Ok(())
}

async fn a_crash_of_the_server_loses_nothing(mut context: TestContext) -> Result<()> {
    context.execute(BOOKS).await?;
    let mut walvec = context.start(&settings()).await?;
    walvec.caught_up(&context).await?;
    context.execute("INSERT INTO books SELECT n, 'Volume ' || n FROM generate_series(100, 599) n").await?;
    context.cluster().stop_immediate().await?;
    context.cluster().start_again().await?;
    context.reconnect().await?;
    context.execute("INSERT INTO books SELECT n, 'Volume ' || n FROM generate_series(600, 619) n").await?;
    walvec.caught_up(&context).await?;
    // An orderly shutdown of the server ends the stream differently than a crash.
    context.cluster().stop_fast().await?;
    context.cluster().start_again().await?;

    context.reconnect().await?;
    context.execute("DELETE FROM books WHERE id > 550").await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &books()).await?, 454);
    Ok(())
}

fn best(hits: &[Value]) -> Option<u64> {
    hits.first()?["id"].as_u64()
}
