//! Columns, keys and identities that change: walvec follows them, or names what it can no longer follow.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, image, test, wait};
use walvec_pipeline::observe::status::{Phase, Status};

use super::{compared, named, shown};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(columns_that_change_between_changes_of_one_transaction_are_followed),
        test!(an_identity_that_lacks_the_key_is_named_while_running),
        test!(a_renamed_key_column_is_followed_by_itself),
        test!(a_dropped_column_that_nothing_uses_stops_no_refetch),
        test!(an_identity_that_a_row_filter_no_longer_fits_stops_its_table_alone).since(15),
        test!(a_key_whose_label_was_renamed_while_nothing_ran_is_followed),
    ]
}

async fn columns_that_change_between_changes_of_one_transaction_are_followed(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TABLE items (id int PRIMARY KEY, name text, a int, b int);
             INSERT INTO items SELECT n, 'item ' || n, n, n FROM generate_series(1, 4) n",
        )
        .await?;
    let mut walvec = context.start(&named(&["items"])).await?;
    walvec.caught_up(&context).await?;
    context
        .execute(
            "BEGIN;
             UPDATE items SET name = 'first' WHERE id = 1;
             ALTER TABLE items ADD COLUMN c int DEFAULT 7;
             UPDATE items SET name = 'second' WHERE id = 2;
             ALTER TABLE items DROP COLUMN a;
             INSERT INTO items VALUES (5, 'third', 1, 1);
             ALTER TABLE items RENAME COLUMN b TO d;
             DELETE FROM items WHERE id = 4;
             ALTER TABLE items ALTER COLUMN d TYPE text USING 'd' || d;
             UPDATE items SET name = 'fourth' WHERE id = 3;
             COMMIT",
        )
        .await?;
    shown(&context, &mut walvec, &["items"]).await?;
    let again = |now: &Status| now.generation.0 > 1 && now.phase == Phase::Streaming;
    walvec.wait_for("the rows are read again", again).await?;
    compared(&context, walvec, &["items"]).await
}

async fn an_identity_that_lacks_the_key_is_named_while_running(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL UNIQUE);
             INSERT INTO items VALUES (1, 'one')",
        )
        .await?;
    let mut walvec = context.start(&named(&["items"])).await?;
    walvec.caught_up(&context).await?;
    context.execute("ALTER TABLE items REPLICA IDENTITY USING INDEX items_name_key").await?;
    let is_named = |now: &Status| {
        now.problem.as_ref().is_some_and(|problem| problem.message.contains("does not hold the key column \"id\""))
    };
    walvec.wait_for("the identity is named", is_named).await?;
    context.execute("ALTER TABLE items REPLICA IDENTITY DEFAULT; UPDATE items SET name = 'two'").await?;
    walvec.wait_for("nothing is wrong any more", |now| now.problem.is_none()).await?;
    compared(&context, walvec, &["items"]).await
}

async fn a_renamed_key_column_is_followed_by_itself(context: TestContext) -> Result<()> {
    context
        .execute("CREATE TABLE items (id int PRIMARY KEY, name text); INSERT INTO items VALUES (1, 'one'), (2, 'two')")
        .await?;
    let mut walvec = context.start(&named(&["items"])).await?;
    walvec.caught_up(&context).await?;
    let in_one = "BEGIN; INSERT INTO items VALUES (3, 'three'); ALTER TABLE items RENAME id TO number; COMMIT";
    context.execute(in_one).await?;
    let is_read_again = |now: &Status, generation| now.generation.0 >= generation && now.phase == Phase::Streaming;
    walvec.wait_for("the table is read again", |now| is_read_again(now, 2)).await?;
    shown(&context, &mut walvec, &["items"]).await?;
    context
        .execute("BEGIN; ALTER TABLE items RENAME number TO key; INSERT INTO items VALUES (4, 'four'); COMMIT")
        .await?;
    walvec.wait_for("the table is read once more", |now| is_read_again(now, 3)).await?;
    shown(&context, &mut walvec, &["items"]).await?;
    compared(&context, walvec, &["items"]).await
}

async fn a_dropped_column_that_nothing_uses_stops_no_refetch(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TABLE items (id int PRIMARY KEY, name text, body text, unused int);
             ALTER TABLE items ALTER COLUMN body SET STORAGE EXTERNAL;
             INSERT INTO items SELECT n, 'item ' || n, repeat('x', 5000) FROM generate_series(1, 3) n",
        )
        .await?;
    let collection = Collection::new("items", "public.items", "{{ name }}: {{ body }}");
    let settings = Settings::new([collection.with("payload", json!(["name"]))]);
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    let in_one = "BEGIN; UPDATE items SET name = 'new ' || id; ALTER TABLE items DROP COLUMN unused; COMMIT";
    context.execute(in_one).await?;
    shown(&context, &mut walvec, &["items"]).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let text = |row: &walvec_model::Payload| {
        format!("{}: {}", row["name"].as_str().unwrap_or_default(), row["body"].as_str().unwrap_or_default())
    };
    let expected = Expected { payload: Some(&["name"]), ..Expected::of("items", text) };
    assert_eq!(image::compare(&context, &expected).await?, 3);
    Ok(())
}

async fn an_identity_that_a_row_filter_no_longer_fits_stops_its_table_alone(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TABLE items (id int PRIMARY KEY, name text, year int);
             ALTER TABLE items REPLICA IDENTITY FULL;
             INSERT INTO items VALUES (1, 'one', 1900);
             CREATE TABLE others (id int PRIMARY KEY, name text)",
        )
        .await?;
    let items = Collection::new("items", "public.items", "{{ name }}").with("where", json!("year > 1800"));
    let others = Collection::new("others", "public.others", "{{ name }}");
    let settings = Settings::new([items, others]);
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    context.execute("ALTER TABLE items REPLICA IDENTITY DEFAULT").await?;
    let aside = |now: &Status| now.collections[0].set_aside.clone();
    let status = walvec.wait_for("it is set aside", |now| aside(now).is_some()).await?;
    let why = aside(&status).context("it was")?;
    assert!(why.message.contains("replica identity") && why.remedy.contains("FULL"), "{why:?}");
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    assert!(aside(&walvec.status().await?).is_some(), "the others go on after a restart too");
    // As long as walvec published the table, PostgreSQL refused such updates.
    context.execute("UPDATE items SET name = 'two'; ALTER TABLE items REPLICA IDENTITY FULL").await?;
    walvec.wait_for("it is followed again", |now| aside(now).is_none()).await?;
    walvec.caught_up(&context).await?;
    compared(&context, walvec, &["items", "others"]).await
}

async fn a_key_whose_label_was_renamed_while_nothing_ran_is_followed(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TYPE kind AS ENUM ('a', 'b');
             CREATE TABLE items (kind kind PRIMARY KEY, name text, body text);
             ALTER TABLE items ALTER COLUMN body SET STORAGE EXTERNAL;
             INSERT INTO items VALUES ('a', 'one', repeat('x', 5000)), ('b', 'two', repeat('y', 5000))",
        )
        .await?;
    let collection = Collection::new("items", "public.items", "{{ name }}: {{ body }}");
    let settings = Settings::new([collection.with("payload", json!(["kind", "name"]))]);
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    context.execute("UPDATE items SET name = 'changed ' || kind").await?;
    context.execute("ALTER TYPE kind RENAME VALUE 'a' TO 'z'").await?;
    let mut walvec = context.start(&settings).await?;
    shown(&context, &mut walvec, &["items"]).await?;
    walvec.caught_up(&context).await?;
    let text = |row: &walvec_model::Payload| {
        format!("{}: {}", row["name"].as_str().unwrap_or_default(), row["body"].as_str().unwrap_or_default())
    };
    let expected = Expected { payload: Some(&["kind", "name"]), ..Expected::of("items", text) };
    walvec.wait_for("the row under its former label is gone", |now| now.collections[0].points == Some(2)).await?;
    // The points of both labels exist for a moment; the sweep is the last step.
    wait::until("the row has its new label", async || {
        let page: Value = walvec.get_json("/api/v1/points", &[("collection", "items")]).await?;
        let points = page["points"].as_array().context("points")?;
        let kinds: Vec<&Value> = points.iter().map(|point| &point["payload"]["kind"]).collect();
        Ok((kinds.len() == 2 && kinds.contains(&&json!("z"))).then_some(()))
    })
    .await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &expected).await?, 2);
    Ok(())
}
