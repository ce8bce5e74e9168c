//! Points that an index build left twice.
//!
//! A build ends by putting the new segment in place and then removing the segments that it was made from. If it is cut
//! short between the two, both are loaded at the next start. Searches and deletions handle that correctly, but counts
//! include every copy.

use std::collections::HashSet;

use qdrant_edge::{Condition, EdgeShard, Filter, HasIdCondition, ScrollRequest, WithPayloadInterface, WithVector};

use super::convert::{EdgeId, read_error};
use super::journal::JournalMember;
use super::paths::io_error;
use super::read::{self, VectorNames};
use super::steps::{self, EngineStep};
use crate::SinkError;

const PAGE: usize = 1000;

/// Leaves one copy of every point. A crash in the middle loses none: the journal keeps them until all is durable.
pub(super) fn remove(shard: &EdgeShard, names: &VectorNames, journal: &JournalMember) -> Result<(), SinkError> {
    let mut from = None;
    loop {
        let (ids, next) = page_of_ids(shard, from)?;
        let copies = read::count(shard, Some(among(&ids)))?;
        if copies > ids.len() as u64 {
            let mut change = rewriting(shard, names, &ids)?;
            let failed = io_error(shard.path());
            journal.record(&mut change).map_err(&failed)?;
            steps::apply_all(shard, names, change)?;
        }
        match next {
            Some(id) => from = Some(id),
            None => return Ok(()),
        }
    }
}

fn page_of_ids(shard: &EdgeShard, from: Option<EdgeId>) -> Result<(Vec<EdgeId>, Option<EdgeId>), SinkError> {
    let request = ScrollRequest {
        offset: from,
        limit: Some(PAGE),
        filter: None,
        with_payload: Some(WithPayloadInterface::Bool(false)),
        with_vector: WithVector::Bool(false),
        order_by: None,
    };
    let (records, next) = shard.scroll(request).map_err(read_error)?;
    Ok((records.into_iter().map(|record| record.id).collect(), next))
}

fn among(ids: &[EdgeId]) -> Filter {
    let ids: HasIdCondition = ids.iter().copied().collect::<HashSet<_>>().into_iter().collect();
    Filter::new_must(Condition::HasId(ids))
}

/// Returns steps that delete all copies and store one. Overwriting would not help, because the engine overwrites every
/// copy.
fn rewriting(shard: &EdgeShard, names: &VectorNames, ids: &[EdgeId]) -> Result<Vec<EngineStep>, SinkError> {
    let points = steps::stored_points(shard, names, ids, true)?;
    let delete = points.iter().map(|point| point.id).collect();
    Ok(vec![EngineStep::Delete(delete), EngineStep::Upsert(points)])
}
