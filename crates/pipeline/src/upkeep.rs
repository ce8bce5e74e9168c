//! Counts the points of collections, and builds their indexes, concurrently with everything else.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use tokio::sync::watch;
use walvec_model::Moment;
use walvec_sink::{Sink, SinkError};

use crate::error::PipelineError;
use crate::observe::status::{Phase, Status};
use crate::observe::telemetry::Telemetry;
use crate::rounds::answers;

/// How long a collection may take to answer how many points it has.
const COUNT_LIMIT: Duration = Duration::from_secs(1);

/// How often the collections may build indexes over added points. A collection with few new points does nothing then.
const OPTIMIZE_INTERVAL: Duration = Duration::from_secs(2);

/// How long to wait after an index could not be built.
const OPTIMIZE_AGAIN: Duration = Duration::from_secs(60);

/// Counts the points of the collections at these `places` in the status. Fails only if a collection is missing.
pub(crate) async fn count_points(
    sinks: &[Arc<dyn Sink>],
    places: Range<usize>,
    telemetry: &Telemetry,
) -> Result<(), PipelineError> {
    let sinks = sinks.iter().skip(places.start);
    let counted = places.zip(sinks);
    let counted = counted.map(|(index, sink)| count_points_of(index, sink.as_ref(), telemetry).boxed());
    answers(counted.collect()).await.map(drop)
}

async fn count_points_of(index: usize, sink: &dyn Sink, telemetry: &Telemetry) -> Result<(), PipelineError> {
    let counted = async {
        let points = sink.count().await?;
        Ok((points, sink.indexed().await?))
    };
    // A server that does not answer must not delay the other collections. The next write reports it.
    match tokio::time::timeout(COUNT_LIMIT, counted).await {
        Ok(Ok((points, indexed))) => telemetry.collection(index, |status| {
            status.points = Some(points);
            status.points_counted = Some(Moment::from(SystemTime::now()));
            status.points_indexed = indexed;
        }),
        Ok(Err(source @ SinkError::Missing { .. })) => {
            return Err(PipelineError::Sink { collection: telemetry.name_of(index), source });
        }
        Ok(Err(_)) | Err(_) => {}
    }
    Ok(())
}

/// Builds indexes of the collections periodically, during the snapshot and while the stream is followed.
pub(crate) async fn maintain(sinks: &[Arc<dyn Sink>], mut status: watch::Receiver<Status>) {
    loop {
        let Ok(phase) = status
            .wait_for(|status| matches!(status.phase, Phase::Snapshot | Phase::Streaming))
            .await
            .map(|now| now.phase)
        else {
            return std::future::pending().await;
        };
        let mut pause = OPTIMIZE_INTERVAL;
        for sink in sinks {
            let optimized = match phase {
                Phase::Snapshot => sink.optimize_while_filling().await,
                Phase::Starting | Phase::Streaming | Phase::Stopping => sink.optimize().await,
            };
            if let Err(error) = optimized {
                tracing::warn!("an index could not be built, searches stay exact but slower: {error}");
                pause = OPTIMIZE_AGAIN;
            }
        }
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests;
