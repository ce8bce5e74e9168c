//! Lists topics and creates missing ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::{Metadata, MetadataTopic};

use super::connection::{BrokerConnection, LastClientError, Listener};
pub use super::settings::TopicSpec;
use crate::error::BrokerError;

/// The time limit of a request to the broker.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);

/// How long to wait for the library to report why it got no answer.
const WORDS: Duration = Duration::from_millis(100);

/// The time limits of the first request to a broker: that of the last attempt, then those of the attempts before. Their
/// sum is [`ANSWER`].
const PATIENCE: (Duration, [Duration; 2]) = (Duration::from_secs(7), [Duration::from_secs(1), Duration::from_secs(2)]);

/// How often to ask the broker whether a new topic is ready.
const READY_POLL: Duration = Duration::from_millis(50);

/// How long to wait until a topic that was created becomes visible.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// How long a compacted topic without a configured retention keeps deletes.
const DELETES_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Asks the broker about topics and creates them.
pub struct Topics {
    client: Arc<AdminClient<Listener>>,
    /// A second client for requests: an admin client never reports why the broker refuses its login.
    asker: Arc<BaseConsumer<Listener>>,
    trouble: LastClientError,
}

impl Topics {
    /// Creates the clients. They do not connect yet.
    ///
    /// # Errors
    /// Returns [`BrokerError::Settings`] if the library does not accept the settings.
    pub fn new(connection: &BrokerConnection) -> Result<Self, BrokerError> {
        let trouble = LastClientError::new(connection);
        let failed = |error| trouble.classify("making a client", &error);
        let client = connection.client().create_with_context(Listener(trouble.clone())).map_err(failed)?;
        let asker = connection.client().create_with_context(Listener(trouble.clone())).map_err(failed)?;
        Ok(Self { client: Arc::new(client), asker: Arc::new(asker), trouble })
    }

    /// Returns the number of partitions of each topic that this user can see. Creates no topics.
    ///
    /// # Errors
    /// Fails if the broker cannot be asked.
    pub async fn partitions(&self) -> Result<BTreeMap<String, i32>, BrokerError> {
        let (asker, trouble) = (Arc::clone(&self.asker), self.trouble.clone());
        let metadata = blocking(move || ask(&asker, &trouble)).await?;
        let metadata = metadata.map_err(|error| self.trouble.classify("asking which topics there are", &error))?;
        self.trouble.over();
        let counted = |topic: &MetadataTopic| {
            (topic.name().to_owned(), i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX))
        };
        Ok(metadata.topics().iter().map(counted).collect())
    }

    /// Creates the missing topics, and returns the number of partitions of each topic.
    ///
    /// # Errors
    /// Returns [`BrokerError::Rights`] if a missing topic may not be created, [`BrokerError::Topic`] if the broker
    /// refuses its settings, and an error if the broker cannot be asked.
    pub async fn ensure(&self, specs: &[TopicSpec]) -> Result<BTreeMap<String, i32>, BrokerError> {
        let mut there = self.partitions().await?;
        let missing: Vec<&TopicSpec> = specs.iter().filter(|spec| !there.contains_key(&spec.name)).collect();
        if !missing.is_empty() {
            self.make(&missing).await?;
            let begun = Instant::now();
            while let Some(spec) = missing.iter().find(|spec| !there.contains_key(&spec.name)) {
                if begun.elapsed() > READY_LIMIT {
                    let what = format!("seeing topic \"{}\", which has been made (Describe)", spec.name);
                    return Err(BrokerError::Rights { what, reason: "the broker does not show it".to_owned() });
                }
                tokio::time::sleep(READY_POLL).await;
                there = self.partitions().await?;
            }
        }
        there.retain(|name, _| specs.iter().any(|spec| spec.name == *name));
        Ok(there)
    }

    async fn make(&self, specs: &[&TopicSpec]) -> Result<(), BrokerError> {
        let settings: Vec<[(&str, String); 3]> = specs.iter().map(|spec| configuration(spec)).collect();
        let topics = specs.iter().zip(&settings).map(|(spec, settings)| {
            let replication = TopicReplication::Fixed(spec.replication.unwrap_or(-1));
            let topic = NewTopic::new(&spec.name, spec.partitions, replication);
            settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
        });
        let topics: Vec<NewTopic<'_>> = topics.collect();
        let options = AdminOptions::new().request_timeout(Some(ANSWER));
        let made = self.client.create_topics(&topics, &options).await;
        for answer in made.map_err(|error| self.trouble.classify("making topics", &error))? {
            match answer {
                Ok(topic) => tracing::info!(topic, "topic made"),
                // Another process has created the topic in the meantime.
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((
                    topic,
                    code @ (RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed),
                )) => {
                    let what = format!("making topic \"{topic}\", which does not exist or may not be seen");
                    return Err(BrokerError::Rights { what, reason: code.to_string() });
                }
                Err((topic, code)) => {
                    return Err(BrokerError::Topic { topic, reason: format!("the broker does not make it: {code}") });
                }
            }
        }
        Ok(())
    }

    /// Returns how long topics keep deletes, for those that are compacted and whose settings the broker reveals.
    pub async fn deletes_kept(&self, topics: &[String]) -> BTreeMap<String, Duration> {
        let specifiers: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let options = AdminOptions::new().request_timeout(Some(ANSWER));
        let answers = self.client.describe_configs(&specifiers, &options).await.unwrap_or_default();
        let kept = |resource: rdkafka::admin::ConfigResource| {
            let setting = |name: &str| resource.get(name).and_then(|entry| entry.value.clone());
            let is_compacted = setting("cleanup.policy").is_some_and(|policy| policy.contains("compact"));
            let millis = setting("delete.retention.ms")?.parse().ok().filter(|_| is_compacted)?;
            match &resource.specifier {
                OwnedResourceSpecifier::Topic(topic) => Some((topic.clone(), Duration::from_millis(millis))),
                _ => None,
            }
        };
        let told = answers.into_iter().filter_map(|answer| {
            let refused = |code| {
                tracing::warn!(
                    %code,
                    "the broker does not tell the settings of a topic (DescribeConfigs): if it is compacted, deletes that it has \
                     forgotten are not noticed"
                );
            };
            answer.inspect_err(|code| refused(*code)).ok()
        });
        told.filter_map(kept).collect()
    }

    /// Returns the size in bytes of the largest record that all of these topics accept; `None` if the broker does not
    /// reveal it.
    pub async fn largest_record(&self, topics: &[String]) -> Option<usize> {
        let specifiers: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let options = AdminOptions::new().request_timeout(Some(ANSWER));
        let answers = self.client.describe_configs(&specifiers, &options).await.ok()?;
        let limit = |resource: rdkafka::admin::ConfigResource| {
            resource.get("max.message.bytes").and_then(|entry| entry.value.as_ref()?.parse::<usize>().ok())
        };
        answers.into_iter().map(|answer| answer.ok().and_then(limit)).min().flatten()
    }
}

/// Requests the list of topics. Returns early if the login is refused; any other error may pass, so the request is repeated.
fn ask(asker: &BaseConsumer<Listener>, trouble: &LastClientError) -> KafkaResult<Metadata> {
    let (last, sooner) = PATIENCE;
    for patience in sooner {
        match asker.fetch_metadata(None, patience) {
            Ok(metadata) => return Ok(metadata),
            Err(error) => {
                hear(asker);
                if matches!(trouble.current(), Some(BrokerError::Login { .. })) {
                    return Err(error);
                }
            }
        }
    }
    asker.fetch_metadata(None, last).inspect_err(|_| hear(asker))
}

/// Polls the client, since the library reports the reason for a missing answer where it delivers records.
fn hear(asker: &BaseConsumer<Listener>) {
    let begun = Instant::now();
    while begun.elapsed() < WORDS {
        asker.poll(WORDS);
    }
}

fn configuration(spec: &TopicSpec) -> [(&'static str, String); 3] {
    let policy = if spec.compact { "compact" } else { "delete" };
    let retention = spec.retention.map_or_else(|| "-1".to_owned(), |kept| kept.as_millis().to_string());
    // In a compacted topic, only deletes are forgotten. The retention applies to them, so a worker may be away as long
    // as in a topic that is not compacted.
    let deletes = spec.retention.unwrap_or(DELETES_KEPT).as_millis().to_string();
    [("cleanup.policy", policy.to_owned()), ("retention.ms", retention), ("delete.retention.ms", deletes)]
}

/// Runs a blocking call of the library on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Result<T, BrokerError> {
    tokio::task::spawn_blocking(call)
        .await
        .map_err(|panic| BrokerError::Failed { doing: "asking the broker".to_owned(), reason: panic.to_string() })
}
