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
use walvec_pipeline::state::dead_letters::DeadLetterStore;
use walvec_pipeline::state::dead_letters_topic::DeadLettersTopic;
use walvec_verify::{Applied, BoxFuture, ParkedPage, ParkedRow, RepairPortion, RepairState, VerifyError};

use crate::assembly::broker::Broker;
use crate::assembly::source::source_config;
use crate::config::{Config, KafkaSettings, Stage};
use crate::failure::Failure;

/// The most positions that are remembered while the groups have not passed them.
const MAX_PENDING: usize = 64;

/// The workers that fill the collections.
pub(super) struct Workers {
    source: Source,
    connection: BrokerConnection,
    /// The groups that a change passes, in order.
    groups: Vec<Group>,
    letters: Arc<DeadLettersTopic>,
    pending: Mutex<VecDeque<PendingPosition>>,
    reached: Mutex<Lsn>,
}

/// The workers of a stage, and the topics that they read.
struct Group {
    name: String,
    topics: Vec<(String, i32)>,
}

/// The progress of a group: its next offset in each partition, and the partition's end.
struct GroupProgress {
    partitions: Vec<(i64, i64)>,
}

impl Group {
    async fn progress(&self, connection: &BrokerConnection) -> Result<GroupProgress, PipelineError> {
        let committed = lookup::committed(connection, &self.name, &self.topics).await?;
        Ok(GroupProgress { partitions: committed.into_iter().map(|(_, next, end)| (next, end)).collect() })
    }
}

impl GroupProgress {
    fn has_begun(&self) -> bool {
        self.records_passed() > 0
    }

    /// Returns the sum of the committed offsets: about how many records the group has passed.
    fn records_passed(&self) -> i64 {
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
struct PendingPosition {
    confirmed: Lsn,
    group: usize,
    ends: Vec<i64>,
}

impl Workers {
    pub(super) async fn find(config: &Config, kafka: &KafkaSettings) -> Result<Self, Failure> {
        let broker = Broker::connect(config, kafka).await?;
        let source = Source::connect(source_config(config)).await.map_err(PipelineError::from)?;
        let connection = crate::assembly::broker::connection(kafka);
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
                let records_passed =
                    async |group: &Group| Ok::<_, PipelineError>(group.progress(&connection).await?.records_passed());
                // The broker keeps the offsets of a group that is not used any more.
                let is_split = records_passed(&sink).await? > 0
                    && (index.name == embed.name || records_passed(&embed).await? > records_passed(&index).await?);
                if is_split { vec![embed, sink] } else { vec![index] }
            }
        };
        Ok(Self {
            source,
            connection,
            groups,
            letters: broker.letters(),
            pending: Mutex::default(),
            reached: Mutex::new(Lsn::ZERO),
        })
    }

    async fn observe(&self) -> Result<Applied, PipelineError> {
        let confirmed = match self.source.slot().await? {
            SlotState::Ready { confirmed, .. } => confirmed,
            SlotState::Missing | SlotState::Lost { .. } => Lsn::ZERO,
        };
        // One group after the other: what a group has passed is in the topics of the next one when those are asked for their
        // ends.
        let mut groups_progress = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            groups_progress.push(group.progress(&self.connection).await?);
        }
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        // Older positions are passed first, so they are kept, however long that takes.
        if pending.len() < MAX_PENDING
            && let Some(first) = groups_progress.first()
        {
            pending.push_back(PendingPosition { confirmed, group: 0, ends: first.ends() });
        }
        pending.retain_mut(|position| {
            while groups_progress.get(position.group).is_some_and(|progress| progress.has_passed(&position.ends)) {
                position.group += 1;
                position.ends = groups_progress.get(position.group).map(GroupProgress::ends).unwrap_or_default();
            }
            let is_through = position.group == groups_progress.len();
            if is_through {
                *reached = (*reached).max(position.confirmed);
            }
            !is_through
        });
        let waiting = self
            .groups
            .iter()
            .zip(&groups_progress)
            .find(|(_, progress)| !progress.has_begun() && !progress.has_passed(&progress.ends()));
        let problem = waiting.map(|(group, _)| format!("no worker of group \"{}\" has read anything yet", group.name));
        Ok(Applied { lsn: *reached, streaming: true, problem })
    }
}

impl walvec_verify::Running for Workers {
    fn applied(&self) -> BoxFuture<'_, Result<Applied, VerifyError>> {
        Box::pin(async { self.observe().await.map_err(|error| Failure::from(error).into()) })
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
