//! Whether the publication has what is configured, and the role may make it so.

use walvec_model::TableName;

use super::Finding;
use super::remedy::Remedy;
use super::rights::Rights;
use crate::CaptureError;
use crate::catalog::TableFacts;
use crate::config::SourceConfig;
use crate::connect::Session;
use crate::publication::{self, PublicationState};

/// Returns the problem of the publication, if there is one.
pub(super) async fn finding(
    session: &Session,
    config: &SourceConfig,
    aside: &[TableName],
    rights: &Rights<'_>,
    tables: &[TableFacts],
) -> Result<Option<Finding>, CaptureError> {
    let can = rights.server.capabilities;
    match publication::state(session, config, aside, can).await? {
        PublicationState::Matches { .. } => Ok(None),
        PublicationState::Differs { difference, sql } => {
            let publication = config.publication.clone();
            let statement = match &sql {
                Some(sql) => Some(rights.altering(session, &publication, tables, sql.clone()).await?),
                None => None,
            };
            let finding = Finding::of(&publication::differs(publication, difference, sql));
            Ok(Some(match statement {
                Some(_) if !have_keys(tables) => Finding { remedy: KEYS_FIRST.into(), ..finding },
                Some(statement) => Finding { remedy: Remedy::Statements(vec![statement]), ..finding },
                None => finding,
            }))
        }
        PublicationState::Missing => {
            let sql = publication::create_sql(session, config, can).await?;
            let finding = rights.creating(session, &config.publication, tables, sql).await?;
            Ok(finding.map(|finding| match have_keys(tables) {
                true => finding,
                false => Finding { remedy: KEYS_FIRST.into(), ..finding },
            }))
        }
    }
}

/// Returns the problem of a publication that is missing, as far as it is known while its row filters are not correct.
pub(super) async fn finding_without_filters(
    session: &Session,
    config: &SourceConfig,
    rights: &Rights<'_>,
    tables: &[TableFacts],
) -> Result<Option<Finding>, CaptureError> {
    // The contents of the publication are not known before the filters are corrected.
    let finding = rights.creating(session, &config.publication, tables, String::new()).await?;
    let finding = match publication::identity(session, &config.publication, rights.server.capabilities).await? {
        None => finding,
        Some(_) => None,
    };
    let remedy = "first correct `where`, then `walvec check` again";
    Ok(finding.map(|finding| Finding { remedy: remedy.into(), ..finding }))
}

const KEYS_FIRST: &str = "first give each table a key, then `walvec check` again";

/// Returns whether all tables have keys. Once a table without a key is published, PostgreSQL refuses its updates and deletes.
fn have_keys(tables: &[TableFacts]) -> bool {
    tables.iter().all(|facts| facts.key().is_ok())
}
