//! The workers behind a broker, as the comparison sees them.
//!
//! No single process knows how far the collections are. But what capture has confirmed to PostgreSQL is in the topics, and
//! what the group of the workers has committed is in the collections: a position that was confirmed before the topics ended
//! where the group is now, is in the collections.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use walvec_broker::kafka::connection::Connection;
use walvec_broker::kafka::lookup;
use walvec_capture::{SlotState, Source};
use walvec_model::{Lsn, RowKey};
use walvec_pipeline::PipelineError;
use walvec_pipeline::letters::Letters;
use walvec_pipeline::letters_topic::LettersTopic;
use walvec_verify::{Applied, BoxFuture, Parked, ParkedPage, RepairPortion, RepairState, VerifyError};

use crate::app;
use crate::broker::Broker;
use crate::cli::Failure;
use crate::config::{Config, KafkaSettings};

/// How many moments are remembered at most: the group comes to one of them.
const MOMENTS: usize = 64;

/// The workers of a group.
pub(super) struct Workers {
    source: Source,
    connection: Connection,
    group: String,
    topics: Vec<(String, i32)>,
    letters: Arc<LettersTopic>,
    moments: Mutex<VecDeque<Moment>>,
    reached: Mutex<Lsn>,
}

/// What was confirmed, and where the topics ended after that.
struct Moment {
    confirmed: Lsn,
    ends: Vec<i64>,
}

impl Workers {
    pub(super) async fn find(config: &Config, kafka: &KafkaSettings) -> Result<Self, Failure> {
        let broker = Broker::connect(config, kafka).await?;
        let source = Source::connect(app::source_config(config)).await.map_err(PipelineError::from)?;
        let connection = crate::broker::connection(kafka);
        let topics = broker.known_topics().await?;
        Ok(Self {
            source,
            connection,
            group: kafka.group(config.stage),
            topics,
            letters: broker.letters(),
            moments: Mutex::default(),
            reached: Mutex::new(Lsn::ZERO),
        })
    }

    async fn look(&self) -> Result<Applied, PipelineError> {
        let confirmed = match self.source.slot().await? {
            SlotState::Ready { confirmed, .. } => confirmed,
            SlotState::Missing | SlotState::Lost { .. } => Lsn::ZERO,
        };
        let positions = lookup::committed(&self.connection, &self.group, &self.topics).await?;
        let ends = positions.iter().map(|(_, _, end)| *end).collect();
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        moments.push_back(Moment { confirmed, ends });
        let passed = |moment: &Moment| positions.iter().zip(&moment.ends).all(|((_, next, _), end)| next >= end);
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(moment) = moments.front() {
            if passed(moment) {
                *reached = (*reached).max(moment.confirmed);
            } else if moments.len() <= MOMENTS {
                break;
            }
            moments.pop_front();
        }
        Ok(Applied { lsn: *reached, streaming: true, problem: None })
    }
}

impl walvec_verify::Running for Workers {
    fn applied(&self) -> BoxFuture<'_, Result<Applied, VerifyError>> {
        Box::pin(async { self.look().await.map_err(|error| Failure::from(error).into()) })
    }

    fn parked(&self, collection: &str, after: Option<Vec<Value>>) -> BoxFuture<'_, Result<ParkedPage, VerifyError>> {
        let collection = collection.to_owned();
        Box::pin(async move {
            self.letters.refresh().await.map_err(Failure::from)?;
            let mut letters = self.letters.of(&collection).map_err(Failure::from)?;
            let canonical = |key: &[Value]| RowKey::new(key.to_vec()).canonical().to_vec();
            letters.sort_by_key(|letter| canonical(&letter.key));
            let after = after.map(|key| canonical(&key));
            let rest =
                letters.into_iter().filter(|letter| after.as_ref().is_none_or(|after| canonical(&letter.key) > *after));
            let rows = rest.map(|letter| Parked { key: letter.key, code: letter.code, reason: letter.reason });
            Ok(ParkedPage { rows: rows.collect(), next: None })
        })
    }

    fn repair<'a>(
        &'a self,
        _portion: &'a RepairPortion,
        _watch: &'a (dyn Fn(RepairState) + Send + Sync),
    ) -> BoxFuture<'a, Result<u64, VerifyError>> {
        Box::pin(async {
            let failure = Failure::definite(
                "E_STAGE",
                "collections that workers fill through a broker are not repaired in place",
            )
            .with_remedy(
                "`walvec backfill --table ... --where ...` where capture runs writes rows to the topics again",
            );
            Err(failure.into())
        })
    }
}
