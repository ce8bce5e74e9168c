//! How a broker is configured.

/// The configuration of a broker. By default it needs no login and creates no topic automatically.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether a topic is created, with one partition, when a client asks for it.
    pub auto_create_topics: bool,
    /// Which protocols of consumer groups the broker knows.
    pub protocols: Protocols,
    /// The time without a heartbeat after which a group's member counts as dead, in milliseconds; heartbeats come at a third
    /// of it. With the classic protocol, where clients choose, this is the shortest time that they may choose. Kafka's
    /// default is 45 seconds.
    pub group_session_timeout_ms: Option<u32>,
    /// The largest batch of records that the broker accepts, in bytes. Kafka's default is slightly more than 1 MiB.
    pub max_message_bytes: Option<u32>,
    /// How often the broker checks for records that are past their retention, in milliseconds. Kafka's default is 5
    /// minutes.
    pub retention_check_ms: Option<u32>,
    /// The security that the broker requires of its clients.
    pub security: Security,
    /// The users who may log in, in addition to [`User::admin`]. Applies only with SASL.
    pub users: Vec<User>,
    /// Whether a user may do only what [`TestBroker::allow`](crate::TestBroker::allow) allows. Applies only with SASL.
    pub access_rights: bool,
    /// More of the broker's properties, by their names in `server.properties`. They take precedence.
    pub settings: Vec<(String, String)>,
}

/// The protocols of consumer groups that a broker knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocols {
    /// All protocols of this version of Kafka, including the consumer protocol (KIP-848).
    #[default]
    All,
    /// The classic protocol only, as in brokers before Kafka 4 and in other programs with Kafka's protocol.
    Classic,
}

/// The security that a broker requires of its clients.
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
    /// Returns the name of the combination in a client's `security.protocol`.
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
    /// Sends the password itself.
    Plain,
    /// Sends a proof of the password, with SHA-256.
    ScramSha256,
    /// Sends a proof of the password, with SHA-512.
    ScramSha512,
}

impl Sasl {
    /// Returns the mechanism's name in a client's `sasl.mechanism`.
    #[must_use]
    pub const fn mechanism(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// A user who may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Letters and digits.
    pub name: String,
    /// Anything but double quotes, backslashes and square brackets.
    pub password: String,
}

impl User {
    /// Returns a user with this name and password.
    #[must_use]
    pub fn new(name: impl Into<String>, password: impl Into<String>) -> Self {
        Self { name: name.into(), password: password.into() }
    }

    /// Returns the administrator, whom every broker with SASL knows, and who may do everything.
    #[must_use]
    pub fn admin() -> Self {
        Self::new("admin", "admin-secret")
    }
}
