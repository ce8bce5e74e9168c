//! Asks where a partition begins and ends.

use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::topics::ANSWER;

/// How long a partition may have no leader.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait before asking the broker again.
const PAUSE: Duration = Duration::from_millis(100);

/// Returns the offset of the first record of a partition, and the offset after its last one.
///
/// A partition that was created a moment ago may have no leader yet, or may not be known to every broker. The request
/// is therefore repeated for half a minute.
///
/// # Errors
/// Fails if the broker cannot be asked.
pub(crate) fn watermarks<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    partition: i32,
) -> Result<(i64, i64), KafkaError> {
    let begun = Instant::now();
    loop {
        match client.fetch_watermarks(topic, partition, ANSWER) {
            Err(error) if begun.elapsed() < PATIENCE && error.rdkafka_error_code().is_some_and(is_new) => {
                std::thread::sleep(PAUSE);
            }
            answer => return answer,
        }
    }
}

/// Returns whether an error may come from a partition that has no leader yet, or that a broker does not know yet.
const fn is_new(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::NotLeaderForPartition
            | RDKafkaErrorCode::LeaderNotAvailable
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
    )
}
