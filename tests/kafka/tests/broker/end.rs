//! A broker ends with its test.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::net::TcpStream;
use walvec_test_kafka::{Options, TestBroker, can_test};

/// Set in the process that is killed.
const CHILD: &str = "WALVEC_KAFKA_TEST_CHILD";

#[tokio::test]
async fn a_dropped_broker_is_gone_and_so_are_its_files() -> Result<()> {
    if !can_test("the end of a broker") {
        return Ok(());
    }
    let broker = TestBroker::start(Options::default()).await?;
    let (bootstrap, directory) = (broker.bootstrap(), broker.directory().to_owned());
    assert!(directory.is_dir());
    drop(broker);
    assert!(!directory.exists());
    TcpStream::connect(bootstrap).await.unwrap_err();
    Ok(())
}

#[tokio::test]
async fn a_broker_does_not_outlive_a_test_that_is_killed() -> Result<()> {
    if std::env::var_os(CHILD).is_some() {
        let broker = TestBroker::start(Options::default()).await?;
        println!("\n{CHILD} {} {}", broker.bootstrap(), broker.directory().display());
        return std::future::pending().await;
    }
    if !can_test("the end of a broker whose test is killed") {
        return Ok(());
    }
    let this = "end::a_broker_does_not_outlive_a_test_that_is_killed";
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", this, "--nocapture"]).env(CHILD, "1").stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.find(|line| line.starts_with(CHILD)).expect("the child says where its broker is");
    let words: Vec<&str> = line.split(' ').collect();
    TcpStream::connect(words[1]).await?;
    child.kill()?;
    child.wait()?;
    // The end of a process that is not a child is not reported, so this polls.
    let deadline = Instant::now() + Duration::from_secs(30);
    while Path::new(words[2]).exists() || TcpStream::connect(words[1]).await.is_ok() {
        assert!(Instant::now() < deadline, "the broker outlives its test");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
