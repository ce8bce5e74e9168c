//! Partitions that come and go: their rows do too, whether walvec was running or not.

use anyhow::{Context as _, Result};
use serde_json::json;
use walvec_e2e::{Expected, Test, TestContext, image, test};
use walvec_pipeline::observe::status::{Phase, Status};

use super::{compared, image_of, named, shown};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(partitions_that_come_and_go_take_their_rows_along),
        test!(partitions_that_came_and_went_while_nothing_ran_took_their_rows_along),
        test!(a_partition_that_was_away_between_two_looks_is_read_again),
        test!(a_partition_with_row_level_security_is_read_through_its_table).once(),
        test!(a_partition_dropped_or_detached_during_the_snapshot_leaves_nothing_behind),
        test!(a_table_emptied_as_a_whole_is_not_read_again),
    ]
}

const PARTITIONED: [&str; 5] = ["attached", "detached", "dropped", "truncated", "created"];

/// Creates partitioned tables, each with two partitions of one row, and a table that could be attached.
pub(crate) async fn partitioned(context: &TestContext) -> Result<()> {
    for table in PARTITIONED {
        let sql = format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);
             CREATE TABLE {table}_1 PARTITION OF {table} FOR VALUES FROM (0) TO (10);
             CREATE TABLE {table}_2 PARTITION OF {table} FOR VALUES FROM (10) TO (20);
             CREATE TABLE {table}_3 (id int PRIMARY KEY, name text);
             INSERT INTO {table} VALUES (1, 'one'), (11, 'eleven');
             INSERT INTO {table}_3 VALUES (21, 'twenty-one'), (22, 'twenty-two')"
        );
        context.execute(&sql).await?;
    }
    Ok(())
}

pub(super) const COME_AND_GONE: [&str; 5] = [
    "ALTER TABLE attached ATTACH PARTITION attached_3 FOR VALUES FROM (20) TO (30)",
    "INSERT INTO detached VALUES (12, 'comes and goes'); ALTER TABLE detached DETACH PARTITION detached_2",
    "INSERT INTO dropped VALUES (2, 'comes and goes'); DROP TABLE dropped_1",
    "INSERT INTO truncated VALUES (12, 'comes and goes'); TRUNCATE truncated_2",
    "CREATE TABLE created_4 PARTITION OF created FOR VALUES FROM (20) TO (30); INSERT INTO created VALUES (25, 'new')",
];

async fn partitions_that_come_and_go_take_their_rows_along(context: TestContext) -> Result<()> {
    partitioned(&context).await?;
    let mut walvec = context.start(&named(&PARTITIONED)).await?;
    walvec.caught_up(&context).await?;
    for statement in COME_AND_GONE {
        context.execute(statement).await?;
    }
    shown(&context, &mut walvec, &PARTITIONED).await?;
    compared(&context, walvec, &PARTITIONED).await
}

async fn partitions_that_came_and_went_while_nothing_ran_took_their_rows_along(context: TestContext) -> Result<()> {
    partitioned(&context).await?;
    let mut walvec = context.start(&named(&PARTITIONED)).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    for statement in COME_AND_GONE {
        context.execute(statement).await?;
    }
    let mut walvec = context.start(&named(&PARTITIONED)).await?;
    shown(&context, &mut walvec, &PARTITIONED).await?;
    compared(&context, walvec, &PARTITIONED).await
}

async fn a_partition_that_was_away_between_two_looks_is_read_again(context: TestContext) -> Result<()> {
    partitioned(&context).await?;
    let settings = named(&["attached", "detached"]);
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    // While a partition is detached, its changes are not streamed.
    let away = |table: &str, name: &str| {
        format!(
            "BEGIN; ALTER TABLE {table} DETACH PARTITION {table}_2; UPDATE {table}_2 SET name = '{name}';
             INSERT INTO {table}_2 SELECT max(id) + 1, '{name} too' FROM {table}_2;
             ALTER TABLE {table} ATTACH PARTITION {table}_2 FOR VALUES FROM (10) TO (20); COMMIT"
        )
    };
    context.execute(&away("attached", "away")).await?;
    shown(&context, &mut walvec, &["attached", "detached"]).await?;
    walvec.stop().await?;
    context.execute(&away("detached", "away while nothing ran")).await?;
    let mut walvec = context.start(&settings).await?;
    shown(&context, &mut walvec, &["attached", "detached"]).await?;
    compared(&context, walvec, &["attached", "detached"]).await
}

/// The row-level security of a partition does not apply to a query of the partitioned table.
async fn a_partition_with_row_level_security_is_read_through_its_table(context: TestContext) -> Result<()> {
    partitioned(&context).await?;
    let role = format!("{}_reader", context.database());
    context
        .execute(&format!(
            "CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'reader'; CREATE PUBLICATION theirs FOR TABLE attached
                 WITH (publish_via_partition_root = true);
             GRANT SELECT ON attached, attached_1, attached_2 TO {role}; ALTER TABLE attached_2 ENABLE ROW LEVEL SECURITY"
        ))
        .await?;
    let server = context.url();
    let (_, server) = server.split_once('@').context("the URL names a user")?;
    let source = json!({ "url": format!("postgres://{role}:reader@{server}"), "publication": "theirs" });
    let settings = named(&["attached"]).with("source", source);
    let mut walvec = context.start(&settings).await?;
    shown(&context, &mut walvec, &["attached"]).await?;
    compared(&context, walvec, &["attached"]).await?;
    context.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await
}

async fn a_partition_dropped_or_detached_during_the_snapshot_leaves_nothing_behind(context: TestContext) -> Result<()> {
    context
        .execute(
            "CREATE TABLE items (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);
             CREATE TABLE items_1 PARTITION OF items FOR VALUES FROM (0) TO (100000);
             CREATE TABLE items_2 PARTITION OF items FOR VALUES FROM (100000) TO (200000);
             CREATE TABLE items_3 PARTITION OF items FOR VALUES FROM (200000) TO (300000);
             INSERT INTO items SELECT n, 'item ' || n FROM generate_series(1, 6000) n;
             INSERT INTO items SELECT n, 'item ' || n FROM generate_series(100001, 100100) n;
             INSERT INTO items SELECT n, 'item ' || n FROM generate_series(200001, 200100) n",
        )
        .await?;
    let settings = named(&["items"]).with("embedding", json!({ "model": "hash/64/wait/100" }));
    let settings = settings.with("source", json!({ "copy_workers": 1 }));
    let mut walvec = context.start(&settings).await?;
    let begun = |now: &Status| now.phase == Phase::Snapshot && now.collections[0].snapshot_rows_copied > 0;
    walvec.wait_for("rows are being copied", begun).await?;
    context.execute("DROP TABLE items_3").await?;
    context.execute("ALTER TABLE items DETACH PARTITION items_2").await?;
    // In the middle of the copy there may be as many points by chance, so the phase counts too.
    let is_over = |now: &Status| now.phase == Phase::Streaming && now.collections[0].points == Some(6000);
    walvec.wait_for("what is gone is removed", is_over).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let expected = Expected { model: "hash/64/wait/100", ..image_of("items") };
    assert_eq!(image::compare(&context, &expected).await?, 6000);
    Ok(())
}

async fn a_table_emptied_as_a_whole_is_not_read_again(context: TestContext) -> Result<()> {
    partitioned(&context).await?;
    context
        .execute(
            "CREATE TABLE last (id int PRIMARY KEY, name text); INSERT INTO last VALUES (1, 'one');
             CREATE TABLE made_anew (id int PRIMARY KEY, name text); INSERT INTO made_anew VALUES (1, 'one')",
        )
        .await?;
    let settings = named(&["truncated", "made_anew", "last"]);
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    // With a partitioned table, rows in the same transaction would leave open whether a partition was truncated after
    // them.
    context.execute("TRUNCATE truncated").await?;
    context.execute("INSERT INTO truncated VALUES (2, 'two')").await?;
    context.execute("BEGIN; TRUNCATE made_anew; INSERT INTO made_anew VALUES (2, 'two'); COMMIT").await?;
    walvec.caught_up(&context).await?;
    // Two alterations, one after the other: when they are shown, walvec has checked the emptied tables.
    for suffix in ["!", "?"] {
        context.execute(&format!("ALTER TABLE last ALTER COLUMN name TYPE text USING name || '{suffix}'")).await?;
        shown(&context, &mut walvec, &["last"]).await?;
    }
    let log = std::fs::read_to_string(walvec.log())?;
    let read = |table: &str| log.lines().filter(|line| line.contains("read again") && line.contains(table)).count();
    assert_eq!((read("truncated"), read("made_anew"), read("public.last")), (0, 0, 2), "{log}");
    compared(&context, walvec, &["truncated", "made_anew", "last"]).await
}
