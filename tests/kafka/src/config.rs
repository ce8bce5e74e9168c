//! The broker's properties.

use std::fmt::Write;
use std::path::Path;

use crate::options::{Options, Protocols, Sasl, User};
use crate::tls;

/// The broker's ports: for the test's clients, for the broker itself and for a test as administrator, and for its
/// controller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) clients: u16,
    pub(crate) internal: u16,
    pub(crate) controller: u16,
}

/// Returns the properties, in order: if a name occurs twice, the later value counts.
pub(crate) fn properties(options: &Options, ports: Ports, directory: &Path) -> String {
    let mut all = listeners(options, ports);
    // A single broker can keep only one copy of everything.
    for topic in ["offsets.topic", "transaction.state.log", "share.coordinator.state.topic"] {
        all.push((format!("{topic}.replication.factor"), "1".to_owned()));
        all.push((format!("{topic}.num.partitions"), "1".to_owned()));
    }
    let fixed = [
        ("process.roles", "broker,controller"),
        ("node.id", "1"),
        ("log.dirs", "data"),
        ("transaction.state.log.min.isr", "1"),
        ("share.coordinator.state.topic.min.isr", "1"),
        // A group's first member need not wait for others.
        ("group.initial.rebalance.delay.ms", "0"),
        // A killed broker can start again only when its session has ended, by default after 9 seconds. The session must
        // not be much shorter than this, because a busy machine may miss a heartbeat.
        ("broker.session.timeout.ms", "3000"),
        ("broker.heartbeat.interval.ms", "500"),
        // The default takes 128 MiB of the heap.
        ("log.cleaner.dedupe.buffer.size", "4194304"),
        ("auto.create.topics.enable", if options.auto_create_topics { "true" } else { "false" }),
    ];
    all.extend(fixed.map(|(name, value)| (name.to_owned(), value.to_owned())));
    if options.protocols == Protocols::Classic {
        all.push(("group.coordinator.rebalance.protocols".to_owned(), "classic".to_owned()));
    }
    all.extend(limits(options));
    all.extend(security(options, directory));
    all.extend(options.settings.iter().cloned());
    all.iter().fold(String::new(), |mut text, (name, value)| {
        // In a property file a backslash escapes.
        let _ = writeln!(text, "{name}={}", value.replace('\\', "\\\\"));
        text
    })
}

fn listeners(options: &Options, ports: Ports) -> Vec<(String, String)> {
    let Ports { clients, internal, controller } = ports;
    let advertised = format!("CLIENTS://127.0.0.1:{clients},INTERNAL://127.0.0.1:{internal}");
    let protocol = options.security.protocol();
    [
        ("listeners", format!("{advertised},CONTROLLER://127.0.0.1:{controller}")),
        ("advertised.listeners", advertised),
        ("listener.security.protocol.map", format!("CLIENTS:{protocol},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT")),
        ("inter.broker.listener.name", "INTERNAL".to_owned()),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("controller.quorum.bootstrap.servers", format!("127.0.0.1:{controller}")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn limits(options: &Options) -> Vec<(String, String)> {
    let mut limits = Vec::new();
    if let Some(session) = options.group_session_timeout_ms {
        let heartbeat = (session / 3).max(1);
        // The minimum is set together with the default: otherwise the broker refuses to start.
        limits.extend([
            ("group.consumer.session.timeout.ms", session),
            ("group.consumer.min.session.timeout.ms", session),
            ("group.consumer.heartbeat.interval.ms", heartbeat),
            ("group.consumer.min.heartbeat.interval.ms", heartbeat),
            ("group.min.session.timeout.ms", session),
        ]);
    }
    if let Some(bytes) = options.max_message_bytes {
        limits.extend([("message.max.bytes", bytes), ("replica.fetch.max.bytes", bytes)]);
    }
    if let Some(interval) = options.retention_check_ms {
        limits.extend([("log.retention.check.interval.ms", interval), ("log.segment.delete.delay.ms", interval)]);
    }
    limits.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect()
}

fn security(options: &Options, directory: &Path) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut clients = |name: &str, value: String| all.push((format!("listener.name.clients.{name}"), value));
    if options.security.tls {
        let file = |name: &str| directory.join(name).display().to_string();
        clients("ssl.keystore.type", "PEM".to_owned());
        clients("ssl.keystore.location", file(tls::SERVER));
        clients("ssl.truststore.type", "PEM".to_owned());
        clients("ssl.truststore.location", file(tls::AUTHORITY));
        let wanted = if options.security.client_certificates { "required" } else { "none" };
        clients("ssl.client.auth", wanted.to_owned());
    }
    if let Some(sasl) = options.security.sasl {
        let mechanism = sasl.mechanism();
        clients("sasl.enabled.mechanisms", mechanism.to_owned());
        clients(&format!("{}.sasl.jaas.config", mechanism.to_lowercase()), login_module(sasl, options));
    }
    if options.access_rights {
        let authorizer = "org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned();
        all.push(("authorizer.class.name".to_owned(), authorizer));
        // The broker itself, and the test as administrator, are anonymous on the inner listener.
        all.push(("super.users".to_owned(), format!("User:{};User:ANONYMOUS", User::admin().name)));
    }
    all
}

/// Returns the login module with the users who may log in. For SCRAM the broker's storage is formatted with the users
/// instead.
fn login_module(sasl: Sasl, options: &Options) -> String {
    let module = "org.apache.kafka.common.security";
    match sasl {
        Sasl::Plain => {
            let users = users(options).fold(String::new(), |mut text, User { name, password }| {
                let _ = write!(text, " user_{name}=\"{password}\"");
                text
            });
            format!("{module}.plain.PlainLoginModule required{users};")
        }
        Sasl::ScramSha256 | Sasl::ScramSha512 => format!("{module}.scram.ScramLoginModule required;"),
    }
}

/// Returns all users who may log in.
fn users(options: &Options) -> impl Iterator<Item = User> {
    options.users.iter().cloned().chain([User::admin()])
}

/// Returns the arguments of the command that formats the broker's storage.
pub(crate) fn format_arguments(options: &Options) -> Vec<String> {
    // Any id will do: one broker is a cluster of its own.
    let fixed = ["format", "--standalone", "-c", "server.properties", "-t", "d2FsdmVjLXRlc3Qta2Fma2"];
    let mut arguments: Vec<String> = fixed.map(str::to_owned).into();
    if options.protocols == Protocols::Classic {
        arguments.extend(["--feature", "group.version=0"].map(str::to_owned));
    }
    if let Some(sasl @ (Sasl::ScramSha256 | Sasl::ScramSha512)) = options.security.sasl {
        for User { name, password } in users(options) {
            arguments.push("--add-scram".to_owned());
            arguments.push(format!("{}=[name={name},password={password}]", sasl.mechanism()));
        }
    }
    arguments
}
