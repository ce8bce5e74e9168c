//! Where a partition begins and ends.

use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::topics::ANSWER;

/// How long a partition may be without a leader.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait before the broker is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// The offset of the first record of a partition, and the one behind its last.
///
/// A partition that was created a moment ago may have no leader yet, or not be known to every broker: it is asked for
/// again for half a minute.
///
/// # Errors
/// If the broker cannot be asked.
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

/// What brokers and the library answer about a partition that has no leader, or that they do not know yet.
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
