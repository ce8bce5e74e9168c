//! The metrics of the process.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use walvec_pipeline::observe::metrics::{COMMIT_TO_PUBLISHED, COMMIT_TO_SEARCHABLE, STAGE_SECONDS};

use crate::failure::Failure;
use crate::search::searcher::SEARCH_SECONDS;

/// Bucket bounds for the time from commit to searchable, in seconds: fine around the target, wide for backlogs.
const LATENCY_BUCKETS: [f64; 14] = [0.005, 0.01, 0.015, 0.02, 0.025, 0.04, 0.06, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];
/// Bucket bounds for one stage of one batch, in seconds.
const STAGE_BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 10.0];

/// Installs the recorder of the process, and returns what renders it.
pub(super) fn install() -> Result<PrometheusHandle, Failure> {
    let failed = |error: BuildError| Failure::definite("E_METRICS", error);
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(COMMIT_TO_SEARCHABLE.to_owned()), &LATENCY_BUCKETS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Full(COMMIT_TO_PUBLISHED.to_owned()), &LATENCY_BUCKETS)
        })
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Full(STAGE_SECONDS.to_owned()), &STAGE_BUCKETS))
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Full(SEARCH_SECONDS.to_owned()), &STAGE_BUCKETS))
        .map_err(failed)?
        .install_recorder()
        .map_err(failed)?;
    walvec_pipeline::observe::metrics::describe();
    Ok(handle)
}
