//! Attempts that cannot work end in a clear message with a remedy, a code on the last line and the documented exit
//! code, and leave everything as it was.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, image, test};

use crate::reviewed::{assert_run_reviewed, transcript};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a_wrong_host_a_wrong_password_and_a_missing_database_are_told_apart).on_own_server(&[]),
        test!(a_server_without_logical_wal_is_refused).on_own_server(&[("wal_level", "replica")]),
        test!(a_role_without_rights_is_told_what_to_grant),
        test!(a_missing_table_and_a_missing_column_are_named),
        test!(a_table_without_a_key_is_refused_with_the_remedy),
        test!(a_missing_model_says_what_to_type),
        test!(another_model_is_refused_and_the_old_vectors_stay),
        test!(a_port_that_is_taken_stops_before_anything_is_created),
        test!(a_second_process_is_refused),
        test!(a_slot_that_was_dropped_stops_by_name_where_a_person_wants_to_look),
        test!(a_lost_slot_stops_by_name_where_a_person_wants_to_look)
            .on_own_server(&[("max_slot_wal_keep_size", "1MB"), ("max_wal_size", "32MB")]),
        test!(a_publication_that_was_made_anew_stops_the_pipeline_where_a_person_wants_to_look),
        test!(a_slot_that_another_program_advanced_is_refused_where_a_person_wants_to_look),
        test!(a_reset_reads_the_table_again_without_embedding_again),
        test!(a_reset_leaves_a_publication_that_somebody_else_made).once(),
        test!(a_slot_under_another_name_is_refused_and_a_reset_leaves_none_behind),
        test!(what_walvec_stores_is_for_its_owner_alone).once(),
        test!(a_publication_that_was_altered_and_put_back_leaves_no_gap),
        test!(a_collection_that_was_deleted_is_filled_again),
        test!(a_column_added_while_nothing_ran_is_read_again),
        test!(a_typo_in_the_configuration_is_shown_where_it_is),
        test!(without_a_configuration_the_way_to_one_is_told).once(),
    ]
}

fn items() -> Settings {
    Settings::new([Collection::new("items", "public.items", "{{ name }}")])
}

fn image_of_items() -> Expected {
    Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned())
}

const TABLE: &str =
    "CREATE TABLE items (id int PRIMARY KEY, name text); INSERT INTO items VALUES (1, 'one'), (2, 'two')";

/// Runs `walvec run` to its end, and compares its error with `snapshots/refused_NAME.snap`.
async fn refused(context: &TestContext, settings: &Settings, name: &str) -> Result<()> {
    context.configure(settings)?;
    shows(context, &["run"], name).await
}

/// Runs a command to its end, and compares its error with `snapshots/refused_NAME.snap`.
async fn shows(context: &TestContext, arguments: &[&str], name: &str) -> Result<()> {
    let mut output = context.walvec(arguments).await?;
    // What the log says before depends on how far the command came.
    let begin = output.stderr.windows(7).position(|words| words == b"error: ").context("no error")?;
    output.stderr.drain(..begin);
    let printed = transcript(arguments, &output);
    assert!(!printed.contains("secret"), "{printed}");
    assert_run_reviewed(context, &format!("refused_{name}"), &printed);
    Ok(())
}

async fn slots(context: &TestContext) -> Result<i64> {
    let count = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1";
    Ok(context.sql.query_one(count, &[&context.slot()]).await?.get(0))
}

async fn synced(context: &TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(context).await?;
    walvec.stop().await
}

fn source(url: &str) -> Settings {
    items().with("source", json!({ "url": url }))
}

async fn a_wrong_host_a_wrong_password_and_a_missing_database_are_told_apart(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    context.execute("CREATE ROLE reader LOGIN REPLICATION PASSWORD 'right'").await?;
    let url = context.url();
    let (_, place) = url.rsplit_once('@').context("no host in the URL")?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let closed = taken.local_addr()?;
    drop(taken);
    refused(&context, &source(&format!("postgres://u:secret@{closed}/d")), "wrong_host").await?;
    let wrong = source(&format!("postgres://reader:wrongsecret@{place}"));
    refused(&context, &wrong, "wrong_password").await?;
    let host = place.split('/').next().unwrap_or_default();
    let (start, _) = url.rsplit_once('@').context("no host in the URL")?;
    refused(&context, &source(&format!("{start}@{host}/nowhere")), "missing_database").await?;
    assert_eq!(slots(&context).await?, 0);
    Ok(())
}

async fn a_server_without_logical_wal_is_refused(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    refused(&context, &items(), "wal_level").await
}

async fn a_role_without_rights_is_told_what_to_grant(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let role = format!("reader_{}", context.slot());
    context.execute(&format!("CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'p'")).await?;
    let url = context.url();
    let (_, place) = url.rsplit_once('@').context("no host in the URL")?;
    let settings = source(&format!("postgres://{role}:p@{place}"));
    refused(&context, &settings, "missing_right").await?;
    assert_eq!(slots(&context).await?, 0);
    context.execute(&format!("DROP ROLE {role}")).await?;
    Ok(())
}

async fn a_missing_table_and_a_missing_column_are_named(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let nowhere = Settings::new([Collection::new("items", "public.itmes", "{{ name }}")]);
    refused(&context, &nowhere, "missing_table").await?;
    let typo = Settings::new([Collection::new("items", "public.items", "{{ nmae }}")]);
    refused(&context, &typo, "missing_column").await?;
    assert_eq!(slots(&context).await?, 0);
    Ok(())
}

async fn a_table_without_a_key_is_refused_with_the_remedy(context: TestContext) -> Result<()> {
    context.execute("CREATE TABLE items (id int, name text)").await?;
    refused(&context, &items(), "missing_key").await?;
    assert_eq!(slots(&context).await?, 0);
    // The user's own statements still work: nothing was published.
    context.execute("INSERT INTO items VALUES (1, 'x'); UPDATE items SET name = 'y'").await?;
    Ok(())
}

async fn a_missing_model_says_what_to_type(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let settings = items().with("embedding", json!({ "model": "no-one/has-this" }));
    refused(&context, &settings, "missing_model").await
}

async fn another_model_is_refused_and_the_old_vectors_stay(context: TestContext) -> Result<()> {
    synced(&context).await?;
    let settings = items().with("embedding", json!({ "model": "hash/128" }));
    refused(&context, &settings, "another_model").await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 2);
    Ok(())
}

async fn a_port_that_is_taken_stops_before_anything_is_created(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let settings = items().with("server", json!({ "listen": address }));
    refused(&context, &settings, "taken_port").await?;
    assert_eq!(slots(&context).await?, 0);
    Ok(())
}

async fn a_second_process_is_refused(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    // The second walvec gets the port of the first, and is refused because the first runs, not because the port is
    // taken.
    let listen = walvec.address().to_string();
    shows(&context, &["run", "--listen", &listen], "second_process").await?;
    // The first walvec goes on, and commands get their answers from it.
    let found = context.walvec(&["search", "one", "--json"]).await?;
    let answer: Value = serde_json::from_slice(&found.stdout)?;
    assert_eq!(answer["hits"][0]["id"], 1);
    walvec.stop().await?;
    Ok(())
}

/// Returns settings with `on_gap: stop`, which leaves gaps to a person.
fn strict() -> Settings {
    items().with("source", json!({ "on_gap": "stop" }))
}

async fn a_slot_that_was_dropped_stops_by_name_where_a_person_wants_to_look(context: TestContext) -> Result<()> {
    synced(&context).await?;
    context.sql.query_one("SELECT pg_drop_replication_slot($1)", &[&context.slot()]).await?;
    context.execute("INSERT INTO items VALUES (3, 'unseen')").await?;
    refused(&context, &strict(), "missing_slot").await?;
    assert_eq!(slots(&context).await?, 0);
    let checked = context.walvec(&["check", "--json"]).await?;
    assert_eq!(checked.status.code(), Some(1));
    let found = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(found.contains("E_SLOT_MISSING"), "{found}");
    Ok(())
}

async fn a_lost_slot_stops_by_name_where_a_person_wants_to_look(context: TestContext) -> Result<()> {
    synced(&context).await?;
    let lost = "SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = $1";
    for _ in 0..40 {
        context
            .execute("CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 5000); DROP TABLE filler")
            .await?;
        context.sql.batch_execute("SELECT pg_switch_wal()").await?;
        context.sql.batch_execute("CHECKPOINT").await?;
        let is_lost: Option<bool> = context.sql.query_one(lost, &[&context.slot()]).await?.get(0);
        if is_lost == Some(true) {
            return refused(&context, &strict(), "lost_slot").await;
        }
    }
    anyhow::bail!("the server never gave the slot up")
}

async fn a_publication_that_was_made_anew_stops_the_pipeline_where_a_person_wants_to_look(
    context: TestContext,
) -> Result<()> {
    synced(&context).await?;
    context.execute("DROP PUBLICATION walvec; INSERT INTO items VALUES (3, 'unseen')").await?;
    refused(&context, &strict(), "another_publication").await?;
    context.execute("CREATE PUBLICATION walvec FOR TABLE items WITH (publish_via_partition_root = true)").await?;
    refused(&context, &strict(), "another_publication").await?;
    let reset = context.walvec(&["reset", "--force"]).await?;
    assert!(reset.status.success(), "{}", String::from_utf8_lossy(&reset.stderr));
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 3);
    Ok(())
}

async fn a_slot_that_another_program_advanced_is_refused_where_a_person_wants_to_look(
    context: TestContext,
) -> Result<()> {
    synced(&context).await?;
    context.execute("INSERT INTO items VALUES (3, 'unseen')").await?;
    let advance = "SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())";
    context.sql.query_one(advance, &[&context.slot()]).await?;
    refused(&context, &strict(), "advanced_slot").await
}

async fn a_reset_reads_the_table_again_without_embedding_again(context: TestContext) -> Result<()> {
    synced(&context).await?;
    shows(&context, &["reset"], "reset_without_consent").await?;
    assert_eq!(slots(&context).await?, 1, "nobody had agreed");
    let output = context.walvec(&["reset", "--force"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(slots(&context).await?, 0);
    context.execute("DELETE FROM items WHERE id = 1; INSERT INTO items VALUES (3, 'three')").await?;

    let mut walvec = context.start(&items()).await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.generation.0, 2);
    assert_eq!(status.collections[0].embeddings_computed, 1);
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 2);
    Ok(())
}

async fn a_reset_leaves_a_publication_that_somebody_else_made(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    context.execute("CREATE PUBLICATION walvec FOR TABLE items WITH (publish_via_partition_root = true)").await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    let output = context.walvec(&["reset", "--force"]).await?;
    let told = String::from_utf8(output.stderr)?;
    assert!(output.status.success() && told.contains("publication \"walvec\" stays: walvec did not make it"), "{told}");
    let count: i64 = context.sql.query_one("SELECT count(*) FROM pg_publication", &[]).await?.get(0);
    assert_eq!(count, 1);
    Ok(())
}

async fn a_slot_under_another_name_is_refused_and_a_reset_leaves_none_behind(context: TestContext) -> Result<()> {
    synced(&context).await?;
    let renamed = format!("{}_renamed", context.slot());
    let settings = items().with("source", json!({ "slot": renamed }));
    refused(&context, &settings, "another_slot").await?;
    assert_eq!(slots(&context).await?, 1, "it has the changes since");
    let output = context.walvec(&["reset", "--force"]).await?;
    let told = String::from_utf8(output.stderr)?;
    assert!(output.status.success() && told.contains(&format!("slot \"{}\"", context.slot())), "{told}");
    assert_eq!(slots(&context).await?, 0, "it would keep WAL for ever");
    let publications = context.sql.query_one("SELECT count(*) FROM pg_publication", &[]).await?;
    assert_eq!(publications.get::<_, i64>(0), 0, "walvec made it, under the former slot's name");

    let mut walvec = context.start(&settings).await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!(status.collections[0].embeddings_computed, 0);
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 2);
    Ok(())
}

async fn what_walvec_stores_is_for_its_owner_alone(context: TestContext) -> Result<()> {
    synced(&context).await?;
    let mode = |path: &Path| -> Result<u32> { Ok(fs::metadata(path)?.permissions().mode() & 0o777) };
    let directory = context.data_directory();
    assert_eq!(mode(&directory)?, 0o700);
    for file in ["state.redb", "last-run.json", "served.json"] {
        assert_eq!(mode(&directory.join(file))?, 0o600, "{file}");
    }
    Ok(())
}

async fn a_typo_in_the_configuration_is_shown_where_it_is(context: TestContext) -> Result<()> {
    let settings = items().with("server", json!({ "lisen": "127.0.0.1:0" }));
    refused(&context, &settings, "unknown_key").await
}

async fn without_a_configuration_the_way_to_one_is_told(context: TestContext) -> Result<()> {
    shows(&context, &["run"], "missing_configuration").await
}

async fn a_publication_that_was_altered_and_put_back_leaves_no_gap(context: TestContext) -> Result<()> {
    synced(&context).await?;
    context.execute("ALTER PUBLICATION walvec SET (publish = 'insert')").await?;
    context.execute("DELETE FROM items WHERE id = 1").await?;
    context.execute("ALTER PUBLICATION walvec SET (publish = 'insert, update, delete, truncate')").await?;
    refused(&context, &strict(), "another_publication").await
}

async fn a_collection_that_was_deleted_is_filled_again(context: TestContext) -> Result<()> {
    synced(&context).await?;
    fs::remove_dir_all(context.data_directory().join("collections/items__1"))?;
    let mut walvec = context.start(&items()).await?;
    assert_eq!(walvec.caught_up(&context).await?.generation.0, 2);
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 2);
    Ok(())
}

async fn a_column_added_while_nothing_ran_is_read_again(context: TestContext) -> Result<()> {
    synced(&context).await?;
    context.execute("ALTER TABLE items ADD COLUMN colour text DEFAULT 'red'").await?;
    let mut walvec = context.start(&items()).await?;
    let status = walvec.caught_up(&context).await?;
    assert_eq!((status.generation.0, status.collections[0].embeddings_computed), (2, 0));
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 2);
    Ok(())
}
