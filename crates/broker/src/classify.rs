//! Sorts errors of the client library by their meaning.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::BrokerError;

/// Converts an error of the client library to a [`BrokerError`] by its meaning. `heard` is the last error that belonged
/// to no request: the library reports a refused login as a time-out of the request that waited for it.
pub(crate) fn classify(bootstrap: &str, doing: &str, error: &KafkaError, heard: Option<BrokerError>) -> BrokerError {
    let reason = match error {
        // The library's own message shows the value, which may be a secret.
        KafkaError::ClientConfig(_, description, key, _) => format!("{key}: {description}"),
        other => other.to_string(),
    };
    let bootstrap = || bootstrap.to_owned();
    match error.rdkafka_error_code() {
        _ if matches!(error, KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_)) => {
            BrokerError::Settings { reason }
        }
        Some(code) if is_login(code) => BrokerError::Login { bootstrap: bootstrap(), reason },
        Some(code) if is_rights(code) => BrokerError::Rights { what: doing.to_owned(), reason },
        Some(code) if is_fenced(code) => BrokerError::Fenced { reason },
        Some(code) if is_out_of_reach(code) => {
            heard.unwrap_or(BrokerError::Unreachable { bootstrap: bootstrap(), reason })
        }
        _ => BrokerError::Failed { doing: doing.to_owned(), reason },
    }
}

pub(crate) const fn is_login(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::UnsupportedSASLMechanism
            | RDKafkaErrorCode::SSL
    )
}

const fn is_rights(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
    )
}

/// Returns whether the group has given up this member.
pub(crate) const fn is_fenced(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::UnknownMemberId
            | RDKafkaErrorCode::IllegalGeneration
            | RDKafkaErrorCode::FencedInstanceId
            | RDKafkaErrorCode::FencedMemberEpoch
            | RDKafkaErrorCode::StaleMemberEpoch
            | RDKafkaErrorCode::PollExceeded
    )
}

pub(crate) const fn is_out_of_reach(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::TimedOutQueue
            | RDKafkaErrorCode::MessageTimedOut
    )
}
