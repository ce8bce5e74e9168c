//! Errors of the broker and the connection to it, and whether trying again helps.

use std::time::Duration;

/// An error of the broker, or of the connection to it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    /// The program was built without the client of Kafka's protocol.
    #[error("a broker needs a client of Kafka's protocol, and this walvec was built without the feature \"kafka\"")]
    NotBuilt,
    /// The broker does not answer, or the connection breaks.
    #[error("the broker at {bootstrap} cannot be reached: {reason}")]
    Unreachable {
        /// The broker's address.
        bootstrap: String,
        /// The client library's message.
        reason: String,
    },
    /// The broker answers and refuses the login.
    #[error("the broker at {bootstrap} refuses the login: {reason}")]
    Login {
        /// The broker's address.
        bootstrap: String,
        /// The client library's message.
        reason: String,
    },
    /// The user lacks a right.
    #[error("the broker does not allow {what}: {reason}")]
    Rights {
        /// What was tried, and on which topic or group.
        what: String,
        /// The broker's message.
        reason: String,
    },
    /// A topic is missing or cannot be created.
    #[error("topic \"{topic}\": {reason}")]
    Topic {
        /// The topic.
        topic: String,
        /// What is wrong with the topic.
        reason: String,
    },
    /// Records that had to be read no longer exist.
    #[error(
        "topic \"{topic}\", partition {partition}: records from offset {expected} on were to be read, but {found}; \
         the changes in between are gone"
    )]
    Gap {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset that was to be read next.
        expected: i64,
        /// What is there instead.
        found: String,
    },
    /// A compacted topic may have removed deletes that the group has not read yet.
    #[error(
        "of topic \"{topic}\", partition {partition}, what was written in the last {} s has not been read, and the topic keeps deletes for {} s \
         only (`delete.retention.ms`): rows that were deleted meanwhile may stay in the collection",
        .behind.as_secs(), .kept.as_secs()
    )]
    DeletesGone {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The age of the oldest records that may not have been read.
        behind: Duration,
        /// How long the topic keeps deletes.
        kept: Duration,
    },
    /// A compacted topic forgets deletes sooner than a worker is sure to have read them.
    #[error(
        "topic \"{topic}\" is compacted and keeps deletes for {} ms only (`delete.retention.ms`): a worker that starts again in \
         between would miss them, and the rows would stay in the collection",
        .kept.as_millis()
    )]
    DeletesShort {
        /// The topic.
        topic: String,
        /// How long the topic keeps deletes.
        kept: Duration,
    },
    /// The group's offsets belong to other collections than the configured ones.
    #[error(
        "the consumer group has come to its place in {partition} for other collections than those of now (one was removed, \
         created again or added, or its payload has changed): older rows would be missing, or would have the former payload"
    )]
    OtherTarget {
        /// The partition, as `topic/number`.
        partition: String,
    },
    /// The broker does not support the newer group protocol.
    #[error("the broker does not know the group protocol of Kafka 4 (KIP-848): {reason}")]
    OldProtocol {
        /// The client library's message.
        reason: String,
    },
    /// A record is larger than the broker accepts.
    #[error("a record of {bytes} bytes is larger than topic \"{topic}\" takes ({limit} bytes, `max.message.bytes`)")]
    TooLarge {
        /// The topic.
        topic: String,
        /// The size of the record's key and value.
        bytes: usize,
        /// The limit that the producer was given.
        limit: usize,
    },
    /// The client library does not accept the settings.
    #[error("settings of the broker: {reason}")]
    Settings {
        /// Which setting, and why.
        reason: String,
    },
    /// Other workers took over while this one did not respond.
    #[error("the consumer group went on without this worker: {reason}")]
    Fenced {
        /// The broker's message.
        reason: String,
    },
    /// The group already has a member of this name, or has not yet noticed that the former one was killed.
    #[error(
        "the group still has a member called \"{instance}\": one that was killed counts until its session is over, and another \
         one that runs has to have a name of its own"
    )]
    InstanceTaken {
        /// The member's name.
        instance: String,
    },
    /// A topic has a different number of partitions than when its first record was written.
    #[error(
        "topic \"{topic}\" has {now} partitions instead of {before}: records of one row are in two of them now, and may be read in the \
         wrong order"
    )]
    Repartitioned {
        /// The topic.
        topic: String,
        /// The number of partitions before.
        before: i32,
        /// The number of partitions now.
        now: i32,
    },
    /// The consumer receives no records although there are more to read.
    #[error("no record has come for {seconds} s although topic \"{topic}\", partition {partition} holds more")]
    Stalled {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// For how long.
        seconds: u64,
    },
    /// Anything else.
    #[error("{doing}: {reason}")]
    Failed {
        /// What was being done.
        doing: String,
        /// The client library's message.
        reason: String,
    },
    /// The client has ended. The error that ended it was reported before.
    #[error("the connection to the broker has been closed")]
    Closed,
}

impl BrokerError {
    /// Returns whether the same attempt may succeed later without a change by the operator.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Fenced { .. }
            | Self::InstanceTaken { .. }
            | Self::Stalled { .. }
            | Self::Repartitioned { .. }
            | Self::Failed { .. }
            | Self::Closed => true,
            Self::Login { .. }
            | Self::Rights { .. }
            | Self::Topic { .. }
            | Self::Gap { .. }
            | Self::DeletesGone { .. }
            | Self::DeletesShort { .. }
            | Self::OtherTarget { .. }
            | Self::OldProtocol { .. }
            | Self::TooLarge { .. }
            | Self::NotBuilt
            | Self::Settings { .. } => false,
        }
    }

    /// Returns the code that is printed on the last line of stderr.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } | Self::Failed { .. } | Self::Closed => "E_BROKER",
            Self::Login { .. } => "E_BROKER_LOGIN",
            Self::Rights { .. } => "E_BROKER_RIGHTS",
            Self::Topic { .. } | Self::DeletesShort { .. } | Self::Repartitioned { .. } => "E_TOPIC",
            Self::Gap { .. } | Self::DeletesGone { .. } => "E_GAP",
            Self::OtherTarget { .. } => "E_COLLECTION",
            Self::OldProtocol { .. } => "E_GROUP_PROTOCOL",
            Self::TooLarge { .. } => "E_RECORD_SIZE",
            Self::Settings { .. } => "E_CONFIG",
            Self::NotBuilt => "E_FEATURE",
            Self::Fenced { .. } => "E_FENCED",
            Self::InstanceTaken { .. } => "E_INSTANCE",
            Self::Stalled { .. } => "E_STALLED",
        }
    }

    /// Returns a text with what to do or type, if anything helps.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        let remedy = match self {
            Self::DeletesShort { topic, .. } => {
                return Some(format!(
                    "keep deletes for a week, where Kafka's tools are: kafka-configs.sh --bootstrap-server ... --alter --topic {topic} \
                     --add-config delete.retention.ms=604800000"
                ));
            }
            Self::DeletesGone { .. } => {
                "fill the collection anew from all records: `walvec reset --purge`, then `walvec reset --offsets` for this stage, and \
                 start it; a longer `delete.retention.ms` of the topic keeps this from happening"
            }
            Self::Unreachable { .. } => {
                "see that the broker runs, and that `broker.kafka.bootstrap` names an address at which it can be reached and \
                 which it advertises; walvec then continues automatically"
            }
            Self::Login { .. } => "look at `broker.kafka.sasl` and `broker.kafka.tls`, then start again",
            Self::Rights { .. } => {
                "let the broker's administrator grant it: capture needs Describe, DescribeConfigs, Create and Write on its \
                 topics, an index worker Read and DescribeConfigs on its topics and Read on its group, Describe and Write on the topic \
                 of parked rows"
            }
            Self::Topic { .. } => {
                "create the topic, or start the stage that writes it (it creates what is missing); then start again"
            }
            Self::Gap { .. } => {
                "have everything written again: `walvec reset` where capture runs, then start capture; and \
                 `walvec reset --offsets` for this stage, so that it goes on at the oldest record there is. A longer \
                 `broker.kafka.retention_hours`, or `compact: true`, keeps this from happening"
            }
            Self::OtherTarget { .. } => {
                "`walvec reset --offsets` for this stage, so that it reads the topics again from the oldest record there is; if \
                 they no longer have all rows, or the payload is another: stop all workers, `walvec reset` where capture runs and start \
                 capture, which writes all rows again, then `walvec reset --offsets`, and start the workers"
            }
            Self::OldProtocol { .. } => "set `broker.kafka.group_protocol: classic`, or leave it out",
            Self::TooLarge { .. } => {
                "raise `max.message.bytes` of the topic, or leave the large column out of the publication"
            }
            Self::NotBuilt => "install walvec from a package, or build it with `--features kafka`; or remove `broker`",
            Self::Settings { .. } => "correct `broker.kafka` in the configuration, then start again",
            Self::InstanceTaken { .. } => "wait a moment; or give each worker of this machine an --instance of its own",
            Self::Repartitioned { .. } => "wait: capture writes all rows again, in the order of the new partitions",
            Self::Fenced { .. } | Self::Stalled { .. } | Self::Failed { .. } | Self::Closed => return None,
        };
        Some(remedy.to_owned())
    }
}
