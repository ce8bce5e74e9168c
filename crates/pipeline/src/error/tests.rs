use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use walvec_model::PointId;
use walvec_sink::{Limited, RateLimit};

use super::policy::{During, Policy};
use super::*;

fn text() -> String {
    "words".to_owned()
}

fn table() -> TableName {
    TableName::new("public", "books")
}

fn in_books(source: SinkError) -> PipelineError {
    PipelineError::Sink { collection: "books".to_owned(), source }
}

fn limited(is_too_large: bool, retry_after: Option<Duration>) -> SinkError {
    let (url, collection, reason) = (text(), text(), text());
    let limit = RateLimit::Writes;
    SinkError::Limited(Box::new(Limited {
        url,
        collection,
        limit,
        reason,
        is_too_large,
        retry_after,
        written: Vec::new(),
    }))
}

fn file_error(kind: io::ErrorKind) -> SinkError {
    SinkError::Io { path: PathBuf::from("/data/books"), source: kind.into() }
}

fn store_error(disk_full: bool) -> PipelineError {
    StoreError { path: "/data/state.redb".to_owned(), reason: text(), disk_full }.into()
}

/// Every kind of error of the sink, with its code and what follows from it.
fn sink_errors() -> Vec<(SinkError, &'static str, Policy)> {
    use Policy::{Restart, Retry, Stop};
    let (collection, url, path) = (text, text, || PathBuf::from("/data"));
    vec![
        (SinkError::Locked { path: path(), pid: None }, "E_LOCKED", Stop),
        (
            SinkError::Fingerprint { collection: collection(), stored: text(), configured: text() },
            "E_FINGERPRINT",
            Stop,
        ),
        (SinkError::Foreign { collection: collection(), url: url(), holds: text() }, "E_FOREIGN", Stop),
        (
            SinkError::OtherDatabase { collection: collection(), url: url(), stored: text(), found: text() },
            "E_OWNED",
            Stop,
        ),
        (SinkError::Sharding { collection: collection(), stored: "a", configured: "b" }, "E_SINK", Stop),
        (SinkError::NotBuilt, "E_FEATURE", Stop),
        (SinkError::Corrupt { collection: collection(), path: path(), reason: text() }, "E_SINK", Stop),
        (SinkError::BadPoint { id: PointId::Num(1), reason: text() }, "E_SINK", Stop),
        (SinkError::BadRequest(text()), "E_SINK", Stop),
        (file_error(io::ErrorKind::StorageFull), "E_SINK", Retry),
        (file_error(io::ErrorKind::PermissionDenied), "E_SINK", Retry),
        (file_error(io::ErrorKind::InvalidInput), "E_SINK", Stop),
        (SinkError::Engine(text()), "E_SINK", Retry),
        (SinkError::Unavailable { url: url(), reason: text() }, "E_SINK", Retry),
        (limited(false, None), "E_SINK", Retry),
        (limited(true, None), "E_SINK", Stop),
        (SinkError::Server { url: url(), reason: text() }, "E_SINK", Stop),
        (SinkError::Topic { reason: text(), passes: true }, "E_SINK", Retry),
        (SinkError::Topic { reason: text(), passes: false }, "E_SINK", Stop),
        (SinkError::Missing { url: url(), collection: collection() }, "E_SINK", Restart),
        (SinkError::Closed, "E_SINK", Stop),
    ]
}

#[test]
fn every_error_of_the_sink_has_its_code_and_a_decision_that_does_not_depend_on_the_activity() {
    for (source, code, policy) in sink_errors() {
        let error = in_books(source);
        assert_eq!(error.code(), code, "{error}");
        assert_eq!(During::ALL.map(|during| error.policy(during)), [policy; 3], "{error}");
        assert_eq!(error.part(), "sink");
    }
}

#[test]
fn every_error_of_the_sink_says_what_helps_and_names_the_collection_once() {
    for (source, ..) in sink_errors() {
        let names_it = matches!(
            source,
            SinkError::Fingerprint { .. }
                | SinkError::Foreign { .. }
                | SinkError::OtherDatabase { .. }
                | SinkError::Sharding { .. }
                | SinkError::Corrupt { .. }
                | SinkError::Limited(_)
                | SinkError::Locked { .. }
        );
        let (own, error) = (source.to_string(), in_books(source));
        assert!(error.remedy().is_some_and(|remedy| !remedy.is_empty()), "{error}");
        let expected = if names_it { own } else { format!("collection \"books\": {own}") };
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn every_other_error_has_a_part_a_code_and_a_decision() {
    use Policy::{Restart, Retry, Stop};
    let template = || {
        let (table, field) = (table(), text());
        Box::new(TransformError::UnknownColumn { table, field, column: text(), hint: String::new() })
    };
    let (provider, file) = (text, Arc::new(io::Error::from(io::ErrorKind::NotFound)));
    let cases: Vec<(PipelineError, &str, &str, Policy)> = vec![
        (PipelineError::Transform { collection: text(), source: template() }, "transform", "E_SCHEMA", Stop),
        (Refusal { code: "E_SLOT_EXISTS", what: text(), remedy: text() }.into(), "source", "E_SLOT_EXISTS", Stop),
        (PipelineError::Resync(Resync::asked(false)), "source", "E_RESYNC", Restart),
        (PipelineError::Behind { collection: text() }, "sink", "E_SINK_BEHIND", Restart),
        (PipelineError::Altered { table: table() }, "source", "E_ALTERED", Restart),
        (PipelineError::Disowned, "source", "E_OWNED", Retry),
        (PipelineError::TooFast { table: table() }, "source", "E_TOO_FAST", Stop),
        (PipelineError::Stopped, "pipeline", "E_STOPPED", Stop),
        (store_error(true), "state", "E_STATE", Retry),
        (store_error(false), "state", "E_STATE", Stop),
        (BrokerError::Closed.into(), "broker", "E_BROKER", Retry),
        (BrokerError::Stalled { topic: text(), partition: 1, seconds: 60 }.into(), "broker", "E_STALLED", Retry),
        (BrokerError::Rights { what: text(), reason: text() }.into(), "broker", "E_BROKER_RIGHTS", Stop),
        (BrokerError::Settings { reason: text() }.into(), "broker", "E_CONFIG", Stop),
        (EmbedError::Failed(text()).into(), "embedder", "E_EMBED", Retry),
        (EmbedError::Io { path: PathBuf::from("/m"), source: file }.into(), "embedder", "E_IO", Retry),
        (
            EmbedError::ProviderUnavailable { at: provider(), reason: text(), after: None }.into(),
            "embedder",
            "E_EMBED_UNAVAILABLE",
            Retry,
        ),
        (
            EmbedError::ProviderRefused { at: provider(), reason: text(), remedy: text() }.into(),
            "embedder",
            "E_EMBED_REFUSED",
            Stop,
        ),
    ];
    for (error, part, code, policy) in cases {
        assert_eq!((error.part(), error.code()), (part, code), "{error}");
        assert_eq!(During::ALL.map(|during| error.policy(during)), [policy; 3], "{error}");
    }
}

#[test]
fn what_stops_walvec_says_what_to_type() {
    let refusal = Refusal { code: "E_SLOT_EXISTS", what: text(), remedy: "drop it".to_owned() };
    assert_eq!(PipelineError::from(refusal).remedy().as_deref(), Some("drop it"));
    for error in [store_error(false), PipelineError::TooFast { table: table() }, EmbedError::Failed(text()).into()] {
        assert!(error.remedy().is_some_and(|remedy| !remedy.is_empty()), "{error}");
    }
    for passes in [PipelineError::Disowned, PipelineError::Altered { table: table() }, PipelineError::Stopped] {
        assert_eq!(passes.remedy(), None, "walvec does by itself what helps");
    }
}

#[test]
fn a_broken_connection_is_told_from_a_server_that_answers() {
    let unreachable: [CaptureError; 3] = [
        CaptureError::Connect { server: text(), reason: text() },
        CaptureError::OtherTarget { server: text(), wanted: "primary", found: "it is a standby" },
        CaptureError::Standby { server: text() },
    ];
    for error in unreachable {
        assert!(PipelineError::from(error).is_unreachable_source());
    }
    let answers = [CaptureError::Auth { server: text(), reason: text() }, CaptureError::Closed];
    for error in answers {
        assert!(!PipelineError::from(error).is_unreachable_source());
    }
    assert!(!in_books(SinkError::Unavailable { url: text(), reason: text() }).is_unreachable_source());
}

#[test]
fn a_worker_that_lost_its_right_to_write_joins_its_group_again() {
    let fenced = BrokerError::Fenced { reason: text() };
    for error in [PipelineError::Disowned, fenced.into(), BrokerError::Closed.into()] {
        assert!(error.ends_membership(), "{error}");
    }
    let unreachable = BrokerError::Unreachable { bootstrap: text(), reason: text() };
    for error in [PipelineError::from(unreachable), PipelineError::Stopped, in_books(SinkError::Closed)] {
        assert!(!error.ends_membership(), "{error}");
    }
}

#[test]
fn only_a_rate_limit_says_how_long_to_wait() {
    let minute = Duration::from_secs(60);
    assert_eq!(in_books(limited(false, Some(minute))).retry_after(), minute);
    assert_eq!(in_books(limited(false, None)).retry_after(), Duration::ZERO);
    assert_eq!(in_books(SinkError::Engine(text())).retry_after(), Duration::ZERO);
}

#[test]
fn a_resync_tells_whether_it_may_remove_most_of_a_collection() {
    assert!(Resync::asked(true).may_sweep_most);
    for cautious in [Resync::asked(false), Resync::because_of("E_X", "why"), Resync::of_lost_state()] {
        assert!(!cautious.may_sweep_most, "{}", cautious.code);
    }
    let mut earlier = serde_json::to_value(Resync::asked(true)).unwrap();
    earlier.as_object_mut().unwrap().remove("may_sweep_most");
    let read: Resync = serde_json::from_value(earlier).unwrap();
    assert!(!read.may_sweep_most, "of a release that did not ask");
}
