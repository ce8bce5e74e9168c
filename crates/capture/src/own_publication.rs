//! The publication that this configuration makes: creates it, and corrects it after it or its tables were altered.

use walvec_model::TableName;

use crate::CaptureError;
use crate::connect::statement_error;
use crate::preflight::{self, Breaks};
use crate::publication::{self, PublicationState};
use crate::published::published_tables;
use crate::server::Source;

/// Compares the publication with the configuration.
pub(crate) async fn state(source: &Source) -> Result<PublicationState, CaptureError> {
    let session = source.catalog.patient_session().await?;
    publication::state(&session, &source.config, &source.unpublished(), source.server.capabilities).await
}

/// Creates the publication for exactly the configured tables, for [`Source::ensure_publication`].
pub(crate) async fn ensure(source: &Source) -> Result<(), CaptureError> {
    let config = &source.config;
    match state(source).await? {
        PublicationState::Matches { .. } => Ok(()),
        PublicationState::Differs { difference, sql } => {
            Err(publication::differs(config.publication.clone(), difference, sql))
        }
        PublicationState::Missing => {
            let session = source.session().await?;
            let sql = publication::create_sql(&session, config, source.server.capabilities).await?;
            let mark = publication::mark_sql(config);
            // One message is one transaction, so no publication is left without its mark.
            session
                .batch_execute(&format!("{sql} {mark}"))
                .await
                .map_err(|error| statement_error("creating the publication", &error))
        }
    }
}

/// Returns the tables whose updates and deletes by the application PostgreSQL refuses, for [`Source::breaking`].
pub(crate) async fn breaking(source: &Source) -> Result<Vec<TableName>, CaptureError> {
    preflight::breaking(&*source.catalog.patient_session().await?, &source.config, &source.server, Breaks::Now).await
}

/// Removes tables that break the application's statements, for [`Source::unpublish_what_breaks`].
pub(crate) async fn unpublish_what_breaks(source: &Source) -> Result<Vec<TableName>, CaptureError> {
    let tables = breaking(source).await?;
    Ok(if unpublish(source, &tables).await? { tables } else { Vec::new() })
}

/// Sends all columns of a table again if the column list breaks the application's statements, for
/// [`Source::widen_publication`].
pub(crate) async fn widen(source: &Source) -> Result<bool, CaptureError> {
    let is_needed = source.config.lists_columns() && !breaking(source).await?.is_empty();
    if is_needed { mend(source).await } else { Ok(false) }
}

/// Makes the publication match the configuration again, for [`Source::mend_publication`].
pub(crate) async fn mend(source: &Source) -> Result<bool, CaptureError> {
    let config = &source.config;
    let state = match state(source).await {
        // Preflight reports the table.
        Err(CaptureError::Table { .. }) => return Ok(false),
        state => state?,
    };
    let PublicationState::Differs { difference, sql: Some(sql) } = state else { return Ok(false) };
    // Preflight reports what has to come first. A mistake in the configuration must not make the application's
    // statements fail.
    let session = source.catalog.patient_session().await?;
    if !preflight::breaking(&session, config, &source.server, Breaks::AsConfigured).await?.is_empty() {
        // Neither must a table that was set aside, so remove such tables from the publication.
        let mut published = published_tables(&session, &config.publication, source.server.capabilities).await?;
        config.published().iter().for_each(|spec| drop(published.remove(&spec.name)));
        return unpublish(source, &published.into_keys().collect::<Vec<_>>()).await;
    }
    let is_mended = publication::alter(&*source.catalog.patient_session().await?, config, &sql).await?;
    if is_mended {
        tracing::warn!(publication = config.publication, "walvec's publication is put right: {difference}");
    }
    Ok(is_mended)
}

/// Removes tables from a publication that this configuration has made. Returns whether it did.
async fn unpublish(source: &Source, tables: &[TableName]) -> Result<bool, CaptureError> {
    match publication::drop_tables_sql(&source.config, tables) {
        Some(sql) => publication::alter(&*source.catalog.patient_session().await?, &source.config, &sql).await,
        None => Ok(false),
    }
}
