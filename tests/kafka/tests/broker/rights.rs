//! Logins and access rights, tested with Kafka's own client.

use std::fs;

use anyhow::Result;
use walvec_test_kafka::{Operation, Options, Resource, Sasl, Security, TestBroker, User, can_test};

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";

/// Returns the client's properties for `user`.
fn client(broker: &TestBroker, security: Security, user: &User) -> String {
    let mut properties =
        format!("security.protocol={}\ndefault.api.timeout.ms=20000\nrequest.timeout.ms=10000\n", security.protocol());
    if let Some(authority) = broker.ca_path() {
        properties += &format!("ssl.truststore.type=PEM\nssl.truststore.location={}\n", authority.display());
    }
    if let Some(sasl) = security.sasl {
        let module = if sasl == Sasl::Plain { "plain.PlainLoginModule" } else { "scram.ScramLoginModule" };
        let User { name, password } = user;
        properties += &format!(
            "sasl.mechanism={}\nsasl.jaas.config=org.apache.kafka.common.security.{module} required \
             username=\"{name}\" password=\"{password}\";\n",
            sasl.mechanism()
        );
    }
    let path = broker.directory().join(format!("{}.properties", user.name));
    fs::write(&path, properties).unwrap();
    path.display().to_string()
}

/// Returns the names of the topics that `user` sees.
async fn topics(broker: &TestBroker, security: Security, user: &User) -> Result<String> {
    let properties = client(broker, security, user);
    let arguments = ["--bootstrap-server", &broker.bootstrap(), "--command-config", &properties, "--list"];
    Ok(broker.tool(TOPICS, &arguments).await?.trim().to_owned())
}

async fn asks_for_a_login(security: Security) -> Result<()> {
    if !can_test("a broker that asks for a login") {
        return Ok(());
    }
    let reader = User::new("reader", "reader-secret");
    let options = Options { security, users: vec![reader.clone()], access_rights: true, ..Options::default() };
    let broker = TestBroker::start(options).await?;
    broker.tool(TOPICS, &["--create", "--topic", "books"]).await?;
    assert_eq!(topics(&broker, security, &User::admin()).await?, "books");

    assert_eq!(topics(&broker, security, &reader).await?, "");
    let books = Resource::Topic("books".to_owned());
    broker.allow("reader", &books, &[Operation::Read]).await?;
    assert_eq!(topics(&broker, security, &reader).await?, "books");
    broker.forbid("reader", &books, &[Operation::Read]).await?;
    assert_eq!(topics(&broker, security, &reader).await?, "");

    let impostor = User::new("reader", "guessed");
    let error = topics(&broker, security, &impostor).await.unwrap_err().to_string();
    assert!(error.contains("uthentication"), "{error}");
    Ok(())
}

#[tokio::test]
async fn plain_logins_and_rights_count() -> Result<()> {
    asks_for_a_login(Security { sasl: Some(Sasl::Plain), ..Security::default() }).await
}

#[tokio::test]
async fn scram_logins_over_tls_and_rights_count() -> Result<()> {
    asks_for_a_login(Security { tls: true, sasl: Some(Sasl::ScramSha256), ..Security::default() }).await
}

#[tokio::test]
async fn tls_alone_is_trusted_only_with_the_broker_s_authority() -> Result<()> {
    if !can_test("a broker with TLS") {
        return Ok(());
    }
    let security = Security { tls: true, ..Security::default() };
    let broker = TestBroker::start(Options { security, ..Options::default() }).await?;
    assert_eq!(topics(&broker, security, &User::admin()).await?, "");
    let nobody = broker.directory().join("nobody.properties");
    fs::write(&nobody, "security.protocol=SSL\n")?;
    let (bootstrap, nobody) = (broker.bootstrap(), nobody.display().to_string());
    let arguments = ["--bootstrap-server", &bootstrap, "--command-config", &nobody, "--list"];
    let error = broker.tool(TOPICS, &arguments).await.unwrap_err().to_string();
    assert!(error.contains("SSL handshake failed") || error.contains("certification path"), "{error}");
    Ok(())
}
