//! Codes of the broker.

use super::{Code, CodeSubject, UNTOUCHED};

pub(super) static SUBJECT: CodeSubject = CodeSubject {
    title: "Broker",
    intro: Some(
        "Behind a broker each process is a stage: `capture` writes changes to topics, and workers read them. A \
         parked row or record is in the topic `<prefix>.dead-letters`, which all workers read.",
    ),
    codes: &[
        Code {
            name: "E_BROKER",
            meaning: "The broker does not answer, the connection to it broke, or a request to it failed. At the \
                      first start walvec ends; later it waits.",
            risk: "Nothing is lost. Capture confirms nothing to PostgreSQL before the broker has acknowledged it, \
                   and workers continue at their offsets.",
            remedy: "Check that the broker runs, and that `broker.kafka.bootstrap` names an address at which it can \
                     be reached and which it advertises. walvec then continues automatically.",
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
            meaning: "A right is missing on the broker. The message names the topic or the group.",
            risk: "Nothing is lost. The stage stops.",
            remedy: "Let the broker's administrator grant it. Capture needs Describe, DescribeConfigs, Create and \
                     Write on its topics. An index worker needs Read and DescribeConfigs on its topics, Read on its \
                     group, and Describe and Write on the topic of parked rows.",
            see: Some("broker.md#when-something-stops"),
        },
        Code {
            name: "E_TOPIC",
            meaning: "A topic cannot be used as it is. It does not exist, cannot be created, is compacted and \
                      forgets deletes too soon, or has another number of partitions than before.",
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
                     `compact: true`, or a longer `delete.retention.ms` of a compacted topic, prevents this.",
            see: Some("broker.md#when-something-stops"),
        },
        Code {
            name: "E_COLLECTION",
            meaning: "The consumer group's offsets belong to other collections. One was removed, created again or \
                      added, or its payload has changed.",
            risk: "Nothing yet: the worker stops. If it continued, older rows would be missing, or would have the \
                   former payload.",
            remedy: "`walvec reset --offsets` for this stage, so that it reads the topics again from the oldest \
                     record there is. If they no longer have all rows, or the payload has changed: stop all workers, \
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
                      again automatically.",
            risk: "Nothing is lost. Other workers continue with its partitions.",
            remedy: "Nothing.",
            see: Some("broker.md#what-is-guaranteed"),
        },
        Code {
            name: "E_INSTANCE",
            meaning: "The group still has a member of this name. One that was killed counts until its session is \
                      over. The worker tries again automatically.",
            risk: "Nothing is lost. The worker does not read until then.",
            remedy: "Wait a moment. Or give each worker of this machine an `--instance` of its own.",
            see: Some("broker.md#workers"),
        },
        Code {
            name: "E_STALLED",
            meaning: "No record has come for a while, although a partition holds more. The worker joins again \
                      automatically.",
            risk: "Nothing is lost. The rows of the partition are late.",
            remedy: "Nothing.",
            see: Some("broker.md#workers"),
        },
        Code {
            name: "E_RECORD",
            meaning: "A record cannot be read, and is parked.",
            risk: "What the record says about its row is missing in the collection, until it is read or the row \
                   changes.",
            remedy: "Fix the program that writes the topic, then `walvec dead-letters retry`.",
            see: Some("kafka.md"),
        },
        Code {
            name: "E_OP",
            meaning: "A record has an operation that walvec does not know, and is parked.",
            risk: "What the record says about its row is missing in the collection, until it is read or the row \
                   changes.",
            remedy: "Fix the program that writes the topic, then `walvec dead-letters retry`.",
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
            meaning: "An update left out a value that walvec cannot find, and the row is parked. The stored point \
                      does not have the value, or may have an old one. And the worker has no `source.url`, or the \
                      table does not have the column.",
            risk: "The row's point is missing, or shows its former version. The other rows go on.",
            remedy: "Give the worker `source.url`. Or let the table send old values: `ALTER TABLE ... REPLICA \
                     IDENTITY FULL;`.",
            see: Some("kafka.md#a-program-in-between"),
        },
        Code {
            name: "E_STAGE",
            meaning: "This stage cannot do that. It does not read PostgreSQL; or the command repairs or reindexes \
                      collections, which is not possible behind a broker.",
            risk: UNTOUCHED,
            remedy: "Type the command where `walvec run --stage capture` runs. Instead of a repair: `walvec backfill \
                     --table ... --where ...` there. Instead of a reindex: give the collection another `name` and \
                     the workers another `broker.kafka.group`; the topics have to hold every row.",
            see: Some("broker.md#commands"),
        },
    ],
};
