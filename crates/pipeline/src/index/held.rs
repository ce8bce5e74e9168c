//! Holds records that concern all partitions of their topic, but are in only one: they wait until the group has read
//! the others so far.

use walvec_broker::kafka::connection::BrokerConnection;
use walvec_broker::kafka::consumer::Member;
use walvec_broker::kafka::lookup;
use walvec_broker::kafka::topics::Topics;
use walvec_broker::wire::SnapshotEnd;
use walvec_broker::{Partition, Record};
use walvec_model::{Position, TableName};

use crate::error::PipelineError;
use crate::state::dead_letters::Place;

/// A record that has to wait.
#[derive(Clone)]
pub(super) enum Waiting {
    /// The end of a table's snapshot. The record contains the offsets up to which each partition must have been read.
    SnapshotEnd(SnapshotEnd),
    /// The truncate of a table, written by another program.
    Truncate(Truncate),
}

/// An emptied table.
#[derive(Clone)]
pub(super) struct Truncate {
    pub(super) table: TableName,
    /// The position before which rows are removed.
    pub(super) position: Position,
    pub(super) place: Place,
}

/// A partition whose next record has to wait for the other partitions.
pub(super) struct HeldPartition {
    pub(super) waiting: Waiting,
    /// The offset of that record.
    pub(super) offset: i64,
    /// How many partitions the topic had at the first check. Partitions that were added later hold nothing older.
    partitions: Option<i32>,
    /// The number of a partition that was behind, and the offset up to which the group had read it.
    behind: Option<(usize, i64)>,
}

/// What a member asks about its group, and the broker about its topics.
#[derive(Clone, Copy)]
pub(super) struct GroupView<'a> {
    pub(super) member: &'a Member,
    pub(super) connection: &'a BrokerConnection,
}

impl HeldPartition {
    pub(super) const fn new(waiting: Waiting, offset: i64) -> Self {
        Self { waiting, offset, partitions: None, behind: None }
    }

    /// Returns whether the group has written what the record waits for. `is_older`: whether a record is from before a
    /// position.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub(super) async fn is_over(
        &mut self,
        of: &Partition,
        group: GroupView<'_>,
        is_older: impl FnMut(&Record, Position) -> bool,
    ) -> Result<bool, PipelineError> {
        match &self.waiting {
            Waiting::SnapshotEnd(end) => {
                let committed = group.member.committed(&of.topic, end.barrier.len()).await?;
                Ok(committed.iter().zip(&end.barrier).all(|(committed, barrier)| committed >= barrier))
            }
            Waiting::Truncate(truncate) => {
                let position = truncate.position;
                self.find_behind(of, position, group, is_older).await?;
                Ok(self.behind.is_none())
            }
        }
    }

    /// Looks for a partition in which the group has not reached `position` yet: the next record there is older.
    async fn find_behind(
        &mut self,
        of: &Partition,
        position: Position,
        GroupView { member, connection }: GroupView<'_>,
        mut is_older: impl FnMut(&Record, Position) -> bool,
    ) -> Result<(), PipelineError> {
        let partitions = match self.partitions {
            Some(partitions) => partitions,
            None => Topics::new(connection)?.partitions().await?.get(&*of.topic).copied().unwrap_or_default(),
        };
        self.partitions = Some(partitions);
        let committed = member.committed(&of.topic, usize::try_from(partitions).unwrap_or_default()).await?;
        if self.behind.is_some_and(|(number, offset)| committed.get(number) == Some(&offset)) {
            return Ok(());
        }
        let last = self.behind.take();
        let was_behind = last.is_some();
        let mut others: Vec<_> = (0..partitions).zip(committed).filter(|(number, _)| *number != of.number).collect();
        // Ask about the last one first: it is probably still behind.
        others.sort_by_key(|(number, _)| last.is_none_or(|(last, _)| usize::try_from(*number) != Ok(last)));
        for (number, offset) in others {
            let partition = Partition { topic: of.topic.clone(), number };
            let next = lookup::next(connection, partition.clone(), offset).await?;
            if next.is_some_and(|next| is_older(&next, position)) {
                if !was_behind {
                    tracing::info!(truncate = %of, %partition, offset, "a truncate waits until the group has read what was written before it");
                }
                self.behind = Some((usize::try_from(number).unwrap_or_default(), offset));
                return Ok(());
            }
        }
        Ok(())
    }
}
