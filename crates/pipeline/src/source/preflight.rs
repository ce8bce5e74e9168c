//! What must hold before a session follows the tables.

use std::sync::Arc;

use walvec_capture::{CaptureError, Finding, Remedy, Severity, Source, Subject, Withheld};
use walvec_model::Table;
use walvec_transform::{Transform, TransformError};

use crate::error::policy::{self, During, Policy};
use crate::error::{PipelineError, Refusal};
use crate::source::gap::OnGap;
use crate::source::watch::{follow_replaced, is_any_replaced};
use crate::state::records::Checkpoint;
use crate::state::store::Store;

/// Restores walvec's own publication to its configured state, if gaps are closed by a resync. Otherwise changes the
/// publication only if another table has taken over a name: it then publishes that table.
pub(crate) async fn follow_publication(source: &Source, store: &Store, on_gap: OnGap) -> Result<(), PipelineError> {
    if on_gap == OnGap::Resync {
        source.mend_publication().await?;
        return Ok(());
    }
    let known = store.baseline()?.unwrap_or_default().shapes;
    if is_any_replaced(&known, &source.shapes_now().await?) {
        follow_replaced(source).await?;
    }
    Ok(())
}

/// Fails with a retryable error if the server is a standby: an address that leads to the primary may lead to a standby
/// until that one is promoted. At a first start with nothing stored it returns `Ok`, because preflight reports the
/// problem.
pub(crate) fn refuse_standby(source: &Source, during: During, store: &Store) -> Result<(), PipelineError> {
    if !source.server().in_recovery || is_very_first(during, store.checkpoint()?.as_ref()) {
        return Ok(());
    }
    Err(CaptureError::Standby { server: source.address() }.into())
}

/// Returns whether nothing has ever been followed.
fn is_very_first(during: During, stored: Option<&Checkpoint>) -> bool {
    during == During::FirstStart && stored.is_none()
}

/// Fails if preflight finds an error that retrying cannot fix.
///
/// It does not judge the slot: [`decide`](crate::source::start::decide) knows more about it, and a slot that is in use
/// may become free a moment after a kill. After the first start it does not judge a limit of the server either: our own
/// dying session may count towards it, and the attempt itself reports that error and is retried.
pub(crate) async fn refuse_what_cannot_work(source: &Source, during: During) -> Result<(), PipelineError> {
    let findings = match during {
        During::FirstStart => source.preflight().await?,
        During::Running | During::Job => source.preflight_again().await?,
    };
    let mut errors = Vec::new();
    for finding in findings {
        match finding.severity {
            Severity::Error => errors.extend(is_definite(finding.subject, during).then_some(finding)),
            Severity::Warning => {
                tracing::warn!(code = finding.code, remedy = %finding.remedy, "{}", finding.message)
            }
        }
    }
    match refusal(&errors, || source.script(&errors).map(|script| script.to_string())) {
        Some(refusal) => Err(refusal.into()),
        None => Ok(()),
    }
}

/// Returns whether retrying cannot fix an error about `subject`.
fn is_definite(subject: Subject, during: During) -> bool {
    match subject {
        Subject::Slot => false,
        Subject::Limit(resource) => policy::of_resource(resource, during) == Policy::Stop,
        Subject::Published | Subject::Other => true,
    }
}

/// Returns the refusal for these errors, `None` if there are none. `script`: the statements that fix them.
fn refusal(errors: &[Finding], script: impl FnOnce() -> Option<String>) -> Option<Refusal> {
    let code = errors.first()?.code;
    let what = errors.iter().map(|finding| finding.message.clone()).collect::<Vec<_>>().join("; ");
    let words = errors.iter().filter_map(|finding| match &finding.remedy {
        Remedy::Words(words) => Some(words.clone()),
        Remedy::Statements(_) => None,
    });
    let script = script().map(|script| format!("paste this:\n{script}"));
    let remedy = words.chain(script).collect::<Vec<_>>().join("; ");
    Some(Refusal { code, what, remedy })
}

/// Checks that a collection's templates name only columns that are read. If the table has the column, the error says
/// why it is not read.
///
/// # Errors
/// The first column that is missing.
pub async fn check_columns(
    source: &Source,
    collection: &str,
    transform: &Transform,
    table: &Table,
    tables: &[Arc<Table>],
) -> Result<(), PipelineError> {
    let Err(error) = transform.check_among(table, tables) else { return Ok(()) };
    if let TransformError::UnknownColumn { table, field, column, .. } = &error
        && let Some(Withheld { reason, remedy }) = source.withheld(table, column).await?
    {
        let what = format!("collection \"{collection}\": {table}: {field} uses column \"{column}\", {reason}");
        return Err(Refusal { code: error.code(), what, remedy }.into());
    }
    Err(PipelineError::Transform { collection: collection.to_owned(), source: error.into() })
}

#[cfg(test)]
mod tests;
