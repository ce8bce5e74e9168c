//! Full disks: that of PostgreSQL, and that of the data directory when walvec starts. [`faults`](crate::faults) tests disks that fill
//! up while walvec writes.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tokio::process::Command;
use walvec_e2e::{Collection, Expected, Settings, Test, TestContext, Walvec, image, test, wait};
use walvec_throwaway::Volume;

pub(crate) fn tests() -> Vec<Test> {
    // The server decodes little in memory, and WAL takes little of the volume.
    const SMALL: &[(&str, &str)] = &[
        ("logical_decoding_work_mem", "64kB"),
        ("min_wal_size", "32MB"),
        ("max_wal_size", "64MB"),
        ("autovacuum", "off"),
        ("checkpoint_timeout", "1h"),
    ];
    vec![
        test!(a_first_start_on_a_server_whose_disk_is_full_says_so_and_goes_on_when_there_is_room)
            .on_own_server(SMALL)
            .on_a_volume(),
        test!(a_server_whose_disk_is_full_is_named_and_nothing_is_lost_when_there_is_room_again)
            .on_own_server(SMALL)
            .on_a_volume(),
        test!(a_server_that_breaks_down_because_its_log_has_no_room_is_waited_for).on_own_server(SMALL).on_a_volume(),
        test!(a_start_on_a_full_disk_says_so_and_works_when_there_is_room_again).on_a_volume(),
    ]
}

const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, name text, note text);
    INSERT INTO items SELECT g, 'name ' || g, 'x' FROM generate_series(1, 100) g";

fn items() -> Settings {
    Settings::new([
        Collection::new("items", "public.items", "{{ name }}").with("payload", serde_json::json!(["id", "name"]))
    ])
}

fn image_of_items() -> Expected {
    let image = Expected::of("items", |row| row["name"].as_str().unwrap_or_default().to_owned());
    Expected { payload: Some(&["id", "name"]), ..image }
}

/// Moves the files of the test's server onto a volume.
async fn move_server(context: &mut TestContext, volume: &Arc<Volume>) -> Result<()> {
    context.cluster().lies_on(volume);
    let data = context.cluster().directory().join("data");
    context.cluster().stop_fast().await?;
    let moved = volume.path().join("data");
    let copied = Command::new("cp").args(["-a"]).arg(&data).arg(&moved).status().await?;
    ensure!(copied.success(), "cp: {copied}");
    std::fs::remove_dir_all(&data)?;
    symlink(&moved, &data)?;
    context.cluster().start_again().await?;
    context.reconnect().await
}

fn is_about_the_disk(walvec_says: &str) -> bool {
    let is_full = ["No space left on device", "MiB are free"].iter().any(|words| walvec_says.contains(words));
    is_full && walvec_says.contains("disk")
}

/// Waits until the status names the full disk, with a remedy.
async fn is_named(walvec: &mut Walvec) -> Result<()> {
    let status = walvec
        .wait_for("the full disk is named", |status| {
            status.problem.as_ref().is_some_and(|problem| is_about_the_disk(&format!("{problem:?}")))
        })
        .await?;
    let problem = status.problem.context("waited for")?;
    ensure!(problem.part == "source" && problem.remedy.is_some(), "{problem:?}");
    Ok(())
}

async fn a_first_start_on_a_server_whose_disk_is_full_says_so_and_goes_on_when_there_is_room(
    mut context: TestContext,
) -> Result<()> {
    let volume = Arc::new(Volume::mount(500)?);
    move_server(&mut context, &volume).await?;
    context.execute(TABLE).await?;
    let ballast = volume.fill()?;
    let mut walvec = context.start(&items()).await?;
    is_named(&mut walvec).await?;
    std::fs::remove_file(ballast)?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 100);
    Ok(())
}

async fn a_server_whose_disk_is_full_is_named_and_nothing_is_lost_when_there_is_room_again(
    mut context: TestContext,
) -> Result<()> {
    let volume = Arc::new(Volume::mount(500)?);
    move_server(&mut context, &volume).await?;
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    // Decoding the changes takes room on the server's disk, which is full by then. They come once nothing decodes any
    // more: what a session has written to the disk is removed when the next one begins, and that would be room enough.
    walvec.signal(Signal::STOP)?;
    context.sql.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active", &[]).await?;
    wait::until("nobody reads the slot", async || {
        let count: i64 =
            context.sql.query_one("SELECT count(*) FROM pg_replication_slots WHERE active", &[]).await?.get(0);
        Ok((count == 0).then_some(()))
    })
    .await?;
    context
        .execute("INSERT INTO items SELECT g, 'late ' || g, repeat('x', 500) FROM generate_series(101, 20000) g")
        .await?;
    let ballast = volume.fill()?;
    walvec.signal(Signal::CONT)?;
    is_named(&mut walvec).await?;
    assert_eq!(walvec.search("name 7", 1).await?[0]["payload"]["name"], "name 7", "searches are answered");
    std::fs::remove_file(ballast)?;
    let recovered = walvec.caught_up(&context).await?;
    assert_eq!(recovered.problem, None);
    let verified = context.walvec(&["verify"]).await?;
    ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 20_000);
    Ok(())
}

async fn a_server_that_breaks_down_because_its_log_has_no_room_is_waited_for(mut context: TestContext) -> Result<()> {
    let volume = Arc::new(Volume::mount(500)?);
    move_server(&mut context, &volume).await?;
    context.execute(TABLE).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    let ballast = volume.fill()?;
    // These messages fill the log until it needs another segment.
    let message = "SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000000))";
    while context.sql.execute(message, &[]).await.is_ok() {}
    walvec.wait_for("the server is missed", |status| status.problem.is_some()).await?;
    std::fs::remove_file(ballast)?;
    // The server's recovery needs room too, so the server may have ended altogether.
    context.cluster().kill().await.ok();
    context.cluster().start_again().await?;
    context.reconnect().await?;
    context.execute("UPDATE items SET name = 'later ' || id").await?;
    let recovered = walvec.caught_up(&context).await?;
    assert_eq!(recovered.problem, None);
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 100);
    Ok(())
}

async fn a_start_on_a_full_disk_says_so_and_works_when_there_is_room_again(context: TestContext) -> Result<()> {
    let volume = Volume::mount(300)?;
    symlink(volume.path(), context.data_directory())?;
    context.execute(TABLE).await?;
    context.configure(&items())?;
    is_refused(&context, &volume).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    context.execute("UPDATE items SET name = 'later ' || id").await?;
    is_refused(&context, &volume).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    walvec.stop().await?;
    assert_eq!(image::compare(&context, &image_of_items()).await?, 100);
    Ok(())
}

/// Starts walvec while its disk is full, and checks that it refuses.
async fn is_refused(context: &TestContext, volume: &Volume) -> Result<()> {
    let ballast = volume.fill()?;
    let output = context.walvec(&["run"]).await?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(3), "{}: {words}", output.status);
    ensure!(is_about_the_disk(&words) && words.contains(&*context_path(context)), "{words}");
    Ok(std::fs::remove_file(ballast)?)
}

/// Returns the data directory as the configuration names it.
fn context_path(context: &TestContext) -> String {
    Path::new(&context.data_directory()).file_name().unwrap_or_default().to_string_lossy().into_owned()
}
