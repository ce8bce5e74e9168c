//! Guarantees to users of the HTTP surface.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use walvec_model::{Fingerprint, Generation, InputHash, Payload, PointId, Position, Provenance, RowKey};
use walvec_pipeline::observe::metrics::UNKNOWN;
use walvec_pipeline::observe::status::{Phase, Problem, Status};
use walvec_pipeline::state::dead_letters::DeadLetter;
use walvec_sink::{Hit, Search, SinkError};

use super::tasks::Operations;
use super::{App, AppState, Limits, dead_letters, points};
use crate::api::announcement::KEY_HEADER;
use crate::api::search::AnswerHit;
use crate::search::request::{self, SearchQuery};
use crate::search::serving::Searchable;
use crate::testkit::{
    Answer, BagOfWords, BookFields, Failing, KEY, Memory, books, get, loopback, post, router, router_with, searchable,
    send, state, state_with, streaming, with_collections, with_embedder,
};

mod access;
mod health;
mod searches;
mod stored;

const SEARCH: &str = "/api/v1/search";
