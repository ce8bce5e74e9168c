//! Calls about many points that continue where a limit of the server has stopped them.
//!
//! A server may allow less in a minute than a call needs. So the part of a call that it has done is kept: a call that
//! started over each time would use up its allowance again and never finish.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use walvec_model::{PointId, StoredPoint, TableName};
use walvec_sink::{BoxFuture, Sink, SinkError, Write};

use super::Writer;
use crate::error::PipelineError;
use crate::retry::retrying;
use crate::shared::Fence;
use crate::writer::collection::Collection;

impl Writer {
    /// Calls the sink until it answers or fails for good.
    pub(super) async fn on_sink<'a, T, F, Fut>(&'a self, call: F) -> Result<T, PipelineError>
    where
        F: FnMut(&'a dyn Sink, &'a TableName) -> Fut,
        Fut: Future<Output = Result<T, SinkError>>,
    {
        self.guarded(None, call).await
    }

    /// Calls the sink for a change of what is stored, until it answers or fails for good. Before each attempt, which
    /// may come long after the first one, it checks that no other process writes in place of this one.
    pub(super) async fn as_owner<'a, T, F, Fut>(&'a self, call: F) -> Result<T, PipelineError>
    where
        F: FnMut(&'a dyn Sink, &'a TableName) -> Fut,
        Fut: Future<Output = Result<T, SinkError>>,
    {
        self.guarded(self.shared.guard.as_deref(), call).await
    }

    async fn guarded<'a, T, F, Fut>(&'a self, guard: Option<&'a dyn Fence>, mut call: F) -> Result<T, PipelineError>
    where
        F: FnMut(&'a dyn Sink, &'a TableName) -> Fut,
        Fut: Future<Output = Result<T, SinkError>>,
    {
        let Collection { name, table, sink, .. } = &self.collection;
        retrying(&self.shared.telemetry, &self.shared.stop, || {
            let answer = call(sink.as_ref(), table);
            async move {
                if let Some(guard) = guard {
                    guard.check().await?;
                }
                answer.await.map_err(|source| PipelineError::Sink { collection: name.clone(), source })
            }
        })
        .await
    }

    /// Returns the points with these ids that exist, with walvec's own field and no other.
    pub(super) async fn retrieve(&self, ids: &[PointId]) -> Result<Vec<StoredPoint>, PipelineError> {
        self.read(ids, |sink, ids| sink.retrieve(ids)).await
    }

    /// Returns what `read` finds about points, as many at a time as the server answers in one request.
    pub(super) async fn read<T, F>(&self, ids: &[PointId], read: F) -> Result<Vec<T>, PipelineError>
    where
        F: for<'s> Fn(&'s dyn Sink, &'s [PointId]) -> BoxFuture<'s, Result<Vec<T>, SinkError>>,
    {
        let (mut found, mut rest) = (Vec::with_capacity(ids.len()), ids);
        while !rest.is_empty() {
            let (count, some) = self
                .on_sink(|sink, _| {
                    let count = sink.ids_per_read().min(rest.len());
                    let answer = read(sink, &rest[..count]);
                    async move { Ok((count, answer.await?)) }
                })
                .await?;
            found.extend(some);
            rest = &rest[count..];
        }
        Ok(found)
    }

    /// Writes durably. Sets `is_doubtful` if a copy of a write may still be in flight, because a request was sent again
    /// without having been answered.
    pub(super) async fn write_all(&self, writes: &[Write], is_doubtful: &AtomicBool) -> Result<(), PipelineError> {
        let written = &Mutex::new(HashSet::new());
        self.as_owner(|sink, _| {
            let done: HashSet<PointId> = written.lock().unwrap_or_else(PoisonError::into_inner).clone();
            async move {
                let answer = match done.is_empty() {
                    true => sink.write(writes).await,
                    // A limit has let a part through.
                    false => {
                        let rest = writes.iter().filter(|write| !done.contains(&write.id()));
                        sink.write(&rest.cloned().collect::<Vec<_>>()).await
                    }
                };
                match &answer {
                    Ok(()) => {}
                    Err(SinkError::Limited(limited)) => {
                        written.lock().unwrap_or_else(PoisonError::into_inner).extend(&limited.written);
                    }
                    Err(_) => is_doubtful.store(true, Ordering::Relaxed),
                }
                answer
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests;
