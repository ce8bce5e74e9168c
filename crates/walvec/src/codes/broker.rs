//! Codes of the broker.

use super::{Code, CodeSubject, UNTOUCHED};

pub(super) static SUBJECT: CodeSubject = CodeSubject {
    title: "Broker",
    intro: Some(
        "Behind a broker a walvec is a stage: `capture` writes changes to topics, workers read them. A parked row or \
         record is in the topic `<prefix>.dead-letters`, which all workers read.",
    ),
    codes: &[
        Code {
            name: "E_BROKER",
            meaning: "The broker does not answer, the connection to it broke, or a request to it failed. At the \
                      first start walvec ends; later it waits.",
            risk: "Nothing is lost. Capture confirms nothing to PostgreSQL before the broker has acknowledged it, \
                   and workers go on at their offsets.",
            remedy: "See that the broker runs, and that `broker.kafka.bootstrap` names an address at which it can be \
                     reached and which it advertises. walvec goes on by itself then.",
            see: Some("broker.md#when-something-stops"),
        },
        Code {
            name: "E_BROKER_LOGIN",
            meaning: "The broker refuses the login. The password or the certificate is wrong.",
            risk: "Nothing is lost. The stage stops.",
            remedy: "Look at `broker.kafka.sasl` and `broker.kafka.tls`, then start again.",
            see: Some("broker.md#when-something-stops"),
        },
        Code {
            name: "E_BROKER_RIGHTS",
            meaning: "The broker does not allow something. The message names the topic or the group.",
            risk: "Nothing is lost. The stage stops.",
            remedy: "Let the broker's administrator grant it. Capture needs Describe, DescribeConfigs, Create and \
                     Write on its topics. An index worker needs Read and DescribeConfigs on its topics, Read on its \
                     group, and Describe and Write on the topic of parked rows.",
            see: Some("broker.md#when-something-stops"),
        },
        Code {
            name: "E_TOPIC",
            meaning: "A topic cannot be used as it is. It does not exist, cannot be made, is compacted and forgets \
                      deletes too soon, or has another number of partitions than before.",
            risk: "With another number of partitions, records of one row may be read in the wrong order until \
                   capture has written all rows again. A compacted topic that forgets deletes too soon would leave \
                   points of deleted rows. Otherwise nothing: the stage stops.",
            remedy: "Create the topic, or start the stage that writes it: it creates what is missing. Then start \
                     again. Keep deletes for a week: `kafka-configs.sh --bootstrap-server ... --alter --topic ... \
                     --add-config delete.retention.ms=604800000`. With other partitions wait: capture writes all \
                     rows again.",
            see: Some("broker.md#when-something-stops"),
        },
        Code {
            name: "E_GAP",
            meaning: "Records that a worker had to read are gone. Or a compacted topic may have forgotten deletes \
                      that it has not read.",
            risk: "Rows may be missing or out of date in the collection, and rows that were deleted meanwhile may \
                   stay.",
            remedy: "Have everything written again: `walvec reset` where capture runs, then start capture; and \
                     `walvec reset --offsets` for this stage. For forgotten deletes: `walvec reset --purge`, then \
                     `walvec reset --offsets` for this stage, and start it. A longer `broker.kafka.retention_hours`, \
                     `compact: true`, or a longer `delete.retention.ms` of a compacted topic, keeps it from \
                     happening.",
            see: Some("broker.md#when-something-stops"),
        },
        Code {
            name: "E_COLLECTION",
            meaning: "The consumer group's place is about other collections than those of now. One was removed, made \
                      anew or added, or its payload is another.",
            risk: "Nothing yet: the worker stops. Rows from before would be missing, or show what they did then.",
            remedy: "`walvec reset --offsets` for this stage, so that it reads the topics again from the oldest \
                     record there is. If they no longer have all rows, or the payload is another: stop all workers, \
                     `walvec reset` where capture runs and start capture, which writes all rows again, then `walvec \
                     reset --offsets`, and start the workers.",
            see: Some("broker.md#when-something-stops"),
        },
        Code {
            name: "E_GROUP_PROTOCOL",
            meaning: "The broker does not know the group protocol of Kafka 4 (KIP-848), which the configuration asks \
                      for.",
            risk: "Nothing is lost. The worker does not start.",
            remedy: "Set `broker.kafka.group_protocol: classic`, or leave it out.",
            see: Some("broker.md#workers"),
        },
        Code {
            name: "E_FENCED",
            meaning: "The consumer group went on without this worker, which did not answer in time. The worker joins \
                      again by itself.",
            risk: "Nothing is lost. Other workers go on with its partitions.",
            remedy: "Nothing.",
            see: Some("broker.md#what-is-guaranteed"),
        },
        Code {
            name: "E_INSTANCE",
            meaning: "The group still has a member of this name. One that was killed counts until its session is \
                      over. The worker tries again by itself.",
            risk: "Nothing is lost. The worker does not read until then.",
            remedy: "Wait a moment. Or give each worker of this machine an `--instance` of its own.",
            see: Some("broker.md#workers"),
        },
        Code {
            name: "E_STALLED",
            meaning: "No record has come for a while, although a partition holds more. The worker joins again by \
                      itself.",
            risk: "Nothing is lost. The rows of the partition are late.",
            remedy: "Nothing.",
            see: Some("broker.md#workers"),
        },
        Code {
            name: "E_RECORD",
            meaning: "A record cannot be read, and is parked.",
            risk: "What the record says about its row is missing in the collection, until it is read or the row \
                   changes.",
            remedy: "Mend the program that writes the topic, then `walvec dead-letters retry`.",
            see: Some("kafka.md"),
        },
        Code {
            name: "E_OP",
            meaning: "The operation of a record is none that walvec knows, and the record is parked.",
            risk: "What the record says about its row is missing in the collection, until it is read or the row \
                   changes.",
            remedy: "Mend the program that writes the topic, then `walvec dead-letters retry`.",
            see: Some("kafka.md#reading-the-topics"),
        },
        Code {
            name: "E_RECORD_SIZE",
            meaning: "A row is larger than the topic takes, and is parked.",
            risk: "The row's point is missing, or shows its former version. The other rows go on.",
            remedy: "Raise `max.message.bytes` of the topic, or leave the large column out of the publication. The \
                     next version of the row that fits clears it.",
            see: Some("broker.md#when-something-stops"),
        },
        Code {
            name: "E_NOT_SENT",
            meaning: "An update left a value out that walvec cannot find, and the row is parked. It is not stored, \
                      or may be out of date there, and the worker has no `source.url`, or the table does not have \
                      the column.",
            risk: "The row's point is missing, or shows its former version. The other rows go on.",
            remedy: "Give the worker `source.url`. Or let the table send old values: `ALTER TABLE ... REPLICA \
                     IDENTITY FULL;`.",
            see: Some("kafka.md#a-program-in-between"),
        },
        Code {
            name: "E_STAGE",
            meaning: "The stage that was asked cannot do that. It does not read PostgreSQL, or collections behind a \
                      broker are neither repaired nor reindexed in place.",
            risk: UNTOUCHED,
            remedy: "Type the command where `walvec run --stage capture` runs. Instead of a repair: `walvec backfill \
                     --table ... --where ...` there. Instead of a reindex: give the collection another `name` and \
                     the workers another `broker.kafka.group`; the topics have to hold every row.",
            see: Some("broker.md#commands"),
        },
    ],
};
