//! Partitions that no check of the catalogue has seen in the state in which rows were written to them.

use anyhow::Result;
use serde_json::json;
use walvec_e2e::{Expected, Kafka, Test, TestContext, image, test, wait};
use walvec_pipeline::observe::status::{Phase, Status};
use walvec_test_kafka::can_test;

use crate::altered::partitions::partitioned;
use crate::altered::{compared, image_of, named, shown};
use crate::broker::indexed_by_one;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_partition_that_came_and_went_between_two_looks_leaves_nothing),
        test!(a_partition_that_came_and_went_while_nothing_ran_leaves_nothing),
        test!(a_partition_that_came_and_went_during_the_snapshot_leaves_nothing),
        test!(a_partition_that_came_and_went_leaves_nothing_behind_a_broker).once(),
        test!(a_partition_that_is_seen_before_it_is_filled_is_read_alone),
        test!(a_partition_truncated_behind_its_whole_table_leaves_nothing),
    ]
}

const TABLES: [&str; 4] = ["attached", "detached", "dropped", "truncated"];

/// Returns statements that create and fill a partition for keys of a table that had none, and leave a row in another
/// partition.
fn filled(table: &str) -> String {
    format!(
        "CREATE TABLE {table}_4 PARTITION OF {table} FOR VALUES FROM (30) TO (40);
         INSERT INTO {table} VALUES (31, 'comes and goes'), (32, 'comes and goes'), (2, 'stays')"
    )
}

/// Returns a list of statements for each table. They run as one transaction, or each as a transaction of its own.
fn come_and_gone() -> [Vec<String>; 4] {
    [
        vec![
            "ALTER TABLE attached ATTACH PARTITION attached_3 FOR VALUES FROM (20) TO (30)".to_owned(),
            "INSERT INTO attached VALUES (23, 'comes and goes')".to_owned(),
            "TRUNCATE attached_3".to_owned(),
            "INSERT INTO attached VALUES (24, 'stays')".to_owned(),
        ],
        vec![filled("detached"), "ALTER TABLE detached DETACH PARTITION detached_4".to_owned()],
        vec![filled("dropped"), "DROP TABLE dropped_4".to_owned()],
        vec![
            filled("truncated"),
            "TRUNCATE truncated_4".to_owned(),
            "INSERT INTO truncated VALUES (33, 'stays too')".to_owned(),
        ],
    ]
}

/// Creates, fills and removes partitions of `tables`. Within one transaction, the storage of a partition does not
/// change.
async fn let_come_and_go(context: &TestContext, tables: &[&str], is_one_transaction: bool) -> Result<()> {
    for (table, statements) in TABLES.iter().zip(come_and_gone()) {
        if !tables.contains(table) {
            continue;
        }
        if is_one_transaction {
            context.execute(&statements.join("; ")).await?;
            continue;
        }
        for statement in statements {
            context.execute(&statement).await?;
        }
    }
    Ok(())
}

async fn a_partition_that_came_and_went_between_two_looks_leaves_nothing(context: TestContext) -> Result<()> {
    partitioned(&context).await?;
    let mut walvec = context.start(&named(&TABLES)).await?;
    walvec.caught_up(&context).await?;
    let_come_and_go(&context, &TABLES, true).await?;
    shown(&context, &mut walvec, &TABLES).await?;
    compared(&context, walvec, &TABLES).await
}

async fn a_partition_that_came_and_went_while_nothing_ran_leaves_nothing(context: TestContext) -> Result<()> {
    partitioned(&context).await?;
    let mut walvec = context.start(&named(&TABLES)).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let_come_and_go(&context, &TABLES, false).await?;
    let mut walvec = context.start(&named(&TABLES)).await?;
    shown(&context, &mut walvec, &TABLES).await?;
    compared(&context, walvec, &TABLES).await
}

async fn a_partition_that_came_and_went_during_the_snapshot_leaves_nothing(context: TestContext) -> Result<()> {
    partitioned(&context).await?;
    context
        .execute(
            "CREATE TABLE long (id int PRIMARY KEY, name text);
             INSERT INTO long SELECT n, 'row ' || n FROM generate_series(1, 3000) n",
        )
        .await?;
    let tables = ["long", "attached", "detached", "dropped", "truncated"];
    let settings = named(&tables).with("embedding", json!({ "model": "hash/64/wait/100" }));
    let mut walvec = context.start(&settings).await?;
    let has_begun = |now: &Status| now.phase == Phase::Snapshot && now.collections[0].snapshot_rows_copied > 0;
    walvec.wait_for("rows are being copied", has_begun).await?;
    let_come_and_go(&context, &TABLES, false).await?;
    shown(&context, &mut walvec, &tables).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    for table in tables {
        let expected = Expected { model: "hash/64/wait/100", ..image_of(table) };
        image::compare(&context, &expected).await?;
    }
    Ok(())
}

async fn a_partition_that_came_and_went_leaves_nothing_behind_a_broker(context: TestContext) -> Result<()> {
    if !can_test("partitions that come and go, through a broker") {
        return Ok(());
    }
    let kafka = Kafka::shared(&context).await?;
    partitioned(&context).await?;
    let tables = ["dropped", "truncated"];
    let settings = kafka.carries(named(&tables));
    let (mut capture, mut worker) = indexed_by_one(&context, &kafka, &settings).await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    let_come_and_go(&context, &tables, true).await?;
    // A worker reads the partitions of a topic in any order, so rows that are to be removed may come last.
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    shown(&context, &mut worker, &tables).await?;
    let in_one =
        "BEGIN; TRUNCATE dropped; INSERT INTO dropped VALUES (3, 'goes'), (12, 'stays as well'); TRUNCATE dropped_1;
                  INSERT INTO dropped VALUES (4, 'stays'); COMMIT";
    context.execute(in_one).await?;
    kafka.indexed(&context, &mut capture, &mut [&mut worker]).await?;
    shown(&context, &mut worker, &tables).await?;
    capture.stop().await?;
    worker.stop().await?;
    for table in tables {
        image::compare(&context, &image_of(table)).await?;
    }
    Ok(())
}

async fn a_partition_that_is_seen_before_it_is_filled_is_read_alone(context: TestContext) -> Result<()> {
    partitioned(&context).await?;
    context.execute("CREATE TABLE last (id int PRIMARY KEY, name text); INSERT INTO last VALUES (1, 'one')").await?;
    let tables = ["created", "last"];
    let mut walvec = context.start(&named(&tables)).await?;
    walvec.caught_up(&context).await?;
    context.execute("CREATE TABLE created_4 PARTITION OF created FOR VALUES FROM (20) TO (30)").await?;
    let log = walvec.log().to_owned();
    let read = |table: &str| -> Result<Vec<String>> {
        let log = std::fs::read_to_string(&log)?;
        let is_wanted = |line: &&str| line.contains("read again") && line.contains(table);
        Ok(log.lines().filter(is_wanted).map(str::to_owned).collect())
    };
    wait::until("the partition is read", async || {
        walvec.is_alive()?;
        Ok((!read("public.created")?.is_empty()).then_some(()))
    })
    .await?;
    context.execute("INSERT INTO created VALUES (25, 'new')").await?;
    shown(&context, &mut walvec, &["created"]).await?;
    // Two alterations, one after the other: when they are shown, walvec has checked the partition.
    for suffix in ["!", "?"] {
        context.execute(&format!("ALTER TABLE last ALTER COLUMN name TYPE text USING name || '{suffix}'")).await?;
        shown(&context, &mut walvec, &["last"]).await?;
    }
    let read = read("public.created")?;
    assert!(read.len() == 1 && read[0].contains("partitions were attached or created"), "{read:?}");
    compared(&context, walvec, &tables).await
}

async fn a_partition_truncated_behind_its_whole_table_leaves_nothing(context: TestContext) -> Result<()> {
    partitioned(&context).await?;
    let tables = ["truncated", "created"];
    let settings = named(&tables);
    let mut walvec = context.start(&settings).await?;
    walvec.caught_up(&context).await?;
    // The second TRUNCATE empties storage that the first one created: the catalogue shows one transaction for both.
    let emptied_twice = |table: &str| {
        format!(
            "BEGIN; TRUNCATE {table}; INSERT INTO {table} VALUES (3, 'goes'), (12, 'stays'); TRUNCATE {table}_1;
             INSERT INTO {table} VALUES (4, 'stays too'); COMMIT"
        )
    };
    context.execute(&emptied_twice("truncated")).await?;
    shown(&context, &mut walvec, &tables).await?;
    walvec.stop().await?;
    context.execute(&emptied_twice("created")).await?;
    let mut walvec = context.start(&settings).await?;
    shown(&context, &mut walvec, &tables).await?;
    compared(&context, walvec, &tables).await
}
