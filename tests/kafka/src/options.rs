//! What a broker can be asked to be.

/// A broker to start. The default asks nothing of its clients and makes no topic by itself.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether a topic comes into being when somebody asks for it, with one partition.
    pub auto_create_topics: bool,
    /// Which protocols of consumer groups the broker knows.
    pub protocols: Protocols,
    /// After how long without a heartbeat a group's member is taken for dead, in milliseconds; heartbeats come at a third
    /// of it. Where clients choose (the classic protocol), the shortest that they may choose. Kafka's default is 45 seconds.
    pub group_session_timeout_ms: Option<u32>,
    /// The largest batch of records that the broker takes, in bytes. Kafka's default is 1 MiB and a bit.
    pub max_message_bytes: Option<u32>,
    /// How often the broker looks for records that are past their retention, in milliseconds. Kafka's default is 5 minutes.
    pub retention_check_ms: Option<u32>,
    /// What it asks of its clients.
    pub security: Security,
    /// Who may log in, besides [`User::admin`]. Counts with SASL only.
    pub users: Vec<User>,
    /// Whether a user may do only what [`TestBroker::allow`](crate::TestBroker::allow) allows. Counts with SASL only.
    pub access_rights: bool,
    /// More of the broker's properties, by their names in `server.properties`. They go first.
    pub settings: Vec<(String, String)>,
}

/// The protocols of consumer groups that a broker knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocols {
    /// All that this version of Kafka has, the consumer protocol (KIP-848) among them.
    #[default]
    All,
    /// The classic protocol only, as brokers before Kafka 4 and other programs than Kafka have it.
    Classic,
}

/// What a broker asks of its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// TLS, with a certificate from an authority of the test's own: [`TestBroker::ca_path`](crate::TestBroker::ca_path).
    pub tls: bool,
    /// Whether clients must show a certificate from that authority too.
    pub client_certificates: bool,
    /// How clients log in, if they have to.
    pub sasl: Option<Sasl>,
}

impl Security {
    /// The name that clients know the combination by: their `security.protocol`.
    #[must_use]
    pub const fn protocol(self) -> &'static str {
        match (self.tls, self.sasl) {
            (false, None) => "PLAINTEXT",
            (true, None) => "SSL",
            (false, Some(_)) => "SASL_PLAINTEXT",
            (true, Some(_)) => "SASL_SSL",
        }
    }
}

/// A way to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sasl {
    /// The password as it is.
    Plain,
    /// A proof of the password.
    ScramSha256,
    /// The same with a longer hash.
    ScramSha512,
}

impl Sasl {
    /// The mechanism's name: clients know it as `sasl.mechanism`.
    #[must_use]
    pub const fn mechanism(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// Somebody who may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Letters and digits.
    pub name: String,
    /// Anything but double quotes, backslashes and square brackets.
    pub password: String,
}

impl User {
    /// A user.
    #[must_use]
    pub fn new(name: impl Into<String>, password: impl Into<String>) -> Self {
        Self { name: name.into(), password: password.into() }
    }

    /// The user whom every broker with SASL knows, and who may do everything.
    #[must_use]
    pub fn admin() -> Self {
        Self::new("admin", "admin-secret")
    }
}
