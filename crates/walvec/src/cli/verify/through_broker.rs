//! The workers behind a broker, for the comparison.
//!
//! No single process knows how far the collections are. But what capture has confirmed to PostgreSQL is in the topics, and
//! what the group of workers has committed is in the collections. So a confirmed position is in the collections once the
//! group has passed the ends that the topics had after the confirmation. Where embedding and writing are separate stages,
//! each position must pass the groups of both, one after the other, each in its own topics.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use walvec_broker::kafka::connection::BrokerConnection;
use walvec_broker::kafka::lookup;
use walvec_capture::{SlotState, Source};
use walvec_model::{Lsn, RowKey};
use walvec_pipeline::PipelineError;
use walvec_pipeline::letters::Letters;
use walvec_pipeline::letters_topic::LettersTopic;
use walvec_verify::{Applied, BoxFuture, ParkedPage, ParkedRow, RepairPortion, RepairState, VerifyError};

use crate::app;
use crate::broker::Broker;
use crate::cli::Failure;
use crate::config::{Config, KafkaSettings, Stage};

/// The most positions that are remembered while the groups have not passed them.
const MOMENTS: usize = 64;

/// The workers that fill the collections.
pub(super) struct Workers {
    source: Source,
    connection: BrokerConnection,
    /// The groups that a change passes, in order.
    groups: Vec<Group>,
    letters: Arc<LettersTopic>,
    moments: Mutex<VecDeque<Moment>>,
    reached: Mutex<Lsn>,
}

/// The workers of a stage, and the topics that they read.
struct Group {
    name: String,
    topics: Vec<(String, i32)>,
}

/// The progress of a group: its next offset in each partition, and the partition's end.
struct Position {
    partitions: Vec<(i64, i64)>,
}

impl Group {
    async fn position(&self, connection: &BrokerConnection) -> Result<Position, PipelineError> {
        let committed = lookup::committed(connection, &self.name, &self.topics).await?;
        Ok(Position { partitions: committed.into_iter().map(|(_, next, end)| (next, end)).collect() })
    }
}

impl Position {
    fn has_begun(&self) -> bool {
        self.come_to() > 0
    }

    /// Returns the sum of the committed offsets: about how many records the group has passed.
    fn come_to(&self) -> i64 {
        self.partitions.iter().map(|(next, _)| *next).sum()
    }

    fn ends(&self) -> Vec<i64> {
        self.partitions.iter().map(|(_, end)| *end).collect()
    }

    fn has_passed(&self, ends: &[i64]) -> bool {
        self.partitions.iter().zip(ends).all(|((next, _), end)| next >= end)
    }
}

/// A confirmed position, the group that has to pass it next, and the ends of that group's topics after the confirmation.
struct Moment {
    confirmed: Lsn,
    group: usize,
    ends: Vec<i64>,
}

impl Workers {
    pub(super) async fn find(config: &Config, kafka: &KafkaSettings) -> Result<Self, Failure> {
        let broker = Broker::connect(config, kafka).await?;
        let source = Source::connect(app::source_config(config)).await.map_err(PipelineError::from)?;
        let connection = crate::broker::connection(kafka);
        let group = async |stage| {
            let of_stage = Config { stage, ..config.clone() };
            let topics = Broker::connect(&of_stage, kafka).await?.known_topics().await?;
            Ok::<_, Failure>(Group { name: kafka.group(stage), topics })
        };
        let groups = match config.stage {
            Stage::Embed | Stage::Sink => vec![group(Stage::Embed).await?, group(Stage::Sink).await?],
            _ => {
                let (index, sink) = (group(Stage::Index).await?, group(Stage::Sink).await?);
                let embed = group(Stage::Embed).await?;
                let come_to =
                    async |group: &Group| Ok::<_, PipelineError>(group.position(&connection).await?.come_to());
                // The broker keeps the offsets of a group that is not used any more.
                let is_split = come_to(&sink).await? > 0
                    && (index.name == embed.name || come_to(&embed).await? > come_to(&index).await?);
                if is_split { vec![embed, sink] } else { vec![index] }
            }
        };
        Ok(Self {
            source,
            connection,
            groups,
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
        // One group after the other: what a group has passed is in the topics of the next one when those are asked for their
        // ends.
        let mut positions = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            positions.push(group.position(&self.connection).await?);
        }
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        // Older positions are passed first, so they are kept, however long that takes.
        if moments.len() < MOMENTS
            && let Some(first) = positions.first()
        {
            moments.push_back(Moment { confirmed, group: 0, ends: first.ends() });
        }
        moments.retain_mut(|moment| {
            while positions.get(moment.group).is_some_and(|position| position.has_passed(&moment.ends)) {
                moment.group += 1;
                moment.ends = positions.get(moment.group).map(Position::ends).unwrap_or_default();
            }
            let is_through = moment.group == positions.len();
            if is_through {
                *reached = (*reached).max(moment.confirmed);
            }
            !is_through
        });
        let waiting = self
            .groups
            .iter()
            .zip(&positions)
            .find(|(_, position)| !position.has_begun() && !position.has_passed(&position.ends()));
        let problem = waiting.map(|(group, _)| format!("no worker of group \"{}\" has read anything yet", group.name));
        Ok(Applied { lsn: *reached, streaming: true, problem })
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
            let rows = rest.map(|letter| ParkedRow { key: letter.key, code: letter.code, reason: letter.reason });
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
