//! A broker starts, stops and starts again.

use anyhow::Result;
use tokio::net::TcpStream;
use walvec_test_kafka::{Options, Protocols, Sasl, Security, TestBroker, can_test};

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";

#[tokio::test]
async fn a_broker_is_reachable_and_keeps_its_topics_over_a_kill_a_stop_and_a_pause() -> Result<()> {
    if !can_test("a broker that is killed, stopped and paused") {
        return Ok(());
    }
    let broker = TestBroker::start(Options::default()).await?;
    TcpStream::connect(broker.bootstrap()).await?;
    broker.tool(TOPICS, &["--create", "--topic", "books"]).await?;

    broker.kill().await?;
    TcpStream::connect(broker.bootstrap()).await.unwrap_err();
    broker.start_again().await?;
    assert_eq!(broker.tool(TOPICS, &["--list"]).await?.trim(), "books");

    broker.pause()?;
    // The kernel still accepts the connection, but the broker does not answer.
    TcpStream::connect(broker.bootstrap()).await?;
    broker.resume()?;
    broker.stop().await?;
    broker.stop().await?;
    TcpStream::connect(broker.bootstrap()).await.unwrap_err();
    broker.start_again().await?;
    assert_eq!(broker.tool(TOPICS, &["--list"]).await?.trim(), "books");
    assert!(broker.log_tail().contains("INFO"), "{}", broker.log_tail());
    Ok(())
}

#[tokio::test]
async fn a_broker_starts_with_every_option_at_once() -> Result<()> {
    if !can_test("the options of a broker") {
        return Ok(());
    }
    let options = Options {
        auto_create_topics: true,
        protocols: Protocols::Classic,
        group_session_timeout_ms: Some(3_000),
        max_message_bytes: Some(10_000),
        retention_check_ms: Some(500),
        security: Security { tls: true, client_certificates: true, sasl: Some(Sasl::ScramSha512) },
        access_rights: true,
        settings: vec![("num.partitions".to_owned(), "2".to_owned())],
        ..Options::default()
    };
    let broker = TestBroker::start(options).await?;
    let client = broker.client_certificate("reader").await?;
    assert!(client.certificate.is_file() && client.key.is_file() && broker.ca_path().unwrap().is_file());
    broker.tool(TOPICS, &["--create", "--topic", "books"]).await?;
    assert!(broker.tool(TOPICS, &["--describe", "--topic", "books"]).await?.contains("PartitionCount: 2"));
    Ok(())
}

#[tokio::test]
async fn a_broker_that_does_not_start_says_why() -> Result<()> {
    if !can_test("the error of a broker that does not start") {
        return Ok(());
    }
    let options = Options { settings: vec![("num.io.threads".to_owned(), "none".to_owned())], ..Options::default() };
    let error = format!("{:#}", TestBroker::start(options).await.unwrap_err());
    assert!(error.contains("num.io.threads"), "{error}");
    Ok(())
}
